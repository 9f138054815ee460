//! The local disk is full or broken at the nth effect of an operation: the table is as before or whole, the error says what to do.
//!
//! The long one: `cargo run -p duckrun-testkit --bin campaign -- --faults 10000`, of which an eighth is the disk's.

use std::process::Command;

use duckrun_testkit::broken_disk::{Breakage, BrokenDisk};
use duckrun_testkit::faults::FaultCampaign;
use duckrun_testkit::work::{Kind, Mix, Playground, Stand};

use crate::readers::skipped;

fn disk() -> Option<BrokenDisk> {
    BrokenDisk::compile().map_err(|why| skipped("a broken disk", &why)).ok()
}

#[tokio::test(flavor = "multi_thread")]
async fn operations_on_a_broken_disk_are_true_to_their_word() {
    let Some(disk) = disk() else { return };
    let playground = Playground::local().unwrap();
    let tally = FaultCampaign::new(crate::crashes::program(), 4).disk(&playground, &disk, 24).await.unwrap();
    assert!(tally.is_clean(), "{tally:#?}");
    assert!(tally.faults >= 24, "{tally:?}");
}

/// A full disk at every effect of an append, until one is not met: as before, or whole.
#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_at_every_effect_of_an_append() {
    let Some(disk) = disk() else { return };
    let playground = Playground::local().unwrap();
    let mut stand = Stand::new(&playground, "every", 6, 6).await.unwrap();
    let folder = stand.root.folder().unwrap();
    let mut orders = stand.orders.clone();
    (orders.operations, orders.mix) = (1, Mix::Only(Kind::Append));
    let mut refused = 0;
    for nth in 1.. {
        let mut command = crate::crashes::program().command(&orders).unwrap();
        disk.breaks(command.as_std_mut(), &folder, nth, Breakage::Full { lasting: true });
        stand.ended(&mut command, None).await.unwrap();
        let met = disk.met(&folder);
        let replay = stand.settle(&format!("effect {nth} ({met:?})")).await.unwrap();
        if replay.refused.len() > refused {
            refused += 1;
            assert_eq!(replay.refused.last().unwrap().1, "ResourceExhausted", "{met:?}: {:?}", replay.refused.last());
        }
        if met.is_none() {
            assert!(nth > 5, "an append has more effects than {nth}");
            break;
        }
    }
    stand.append("afterwards").await.unwrap();
    stand.vacuum("afterwards").await;
    let tally = stand.finish().unwrap();
    assert!(tally.is_clean() && refused > 3, "{refused}: {tally:#?}");
}

/// The disk itself: the nth effect below the folder fails with the error that was asked for, nothing else does.
#[test]
fn the_disk_breaks_where_it_is_told_to() {
    let Some(disk) = disk() else { return };
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path().canonicalize().unwrap();
    std::fs::create_dir(folder.join("t")).unwrap();
    let script = "mkdir t/x; echo a > t/a; echo b > b; echo c > t/c; mv t/c t/d; rm t/d";
    let run = |nth, how| {
        let mut sh = Command::new("sh");
        sh.current_dir(&folder).args(["-c", script]);
        disk.breaks(&mut sh, &folder.join("t"), nth, how);
        let output = sh.output().unwrap();
        (disk.met(&folder.join("t")), output)
    };
    // A shell starts a process for each command but `echo`, and each counts for itself: the first effect of each is met.
    let (met, output) = run(1, Breakage::Full { lasting: false });
    assert!(met.unwrap().ends_with("/t/x"));
    assert!(String::from_utf8_lossy(&output.stderr).contains("No space left"), "{output:?}");
    assert!(folder.join("b").exists());
    let (met, _) = run(1_000, Breakage::Failing { lasting: true });
    assert_eq!(met, None);
}
