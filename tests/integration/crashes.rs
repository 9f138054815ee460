//! The crash campaign in short: processes killed at effects on the disk, at requests of a store and at random times.
//!
//! The long one: `cargo run -p duckrun-testkit --bin campaign -- --kills 1000`.

use duckrun_testkit::crash::Crashes;
use duckrun_testkit::faults::FaultCampaign;
use duckrun_testkit::work::{Ledger, Playground, Program, Stand};

/// The campaign's program, of which children are processes.
pub(crate) fn program() -> Program {
    Program::new(env!("CARGO_BIN_EXE_campaign"), ["--child"])
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_writers_lose_and_invent_nothing() {
    let playground = Playground::local().unwrap();
    let tally = Crashes::new(program(), 3).kills(24).run(&playground).await.unwrap();
    assert!(tally.is_clean(), "{tally:#?}");
    assert!(tally.kills >= 24 && tally.commits > 0, "{tally:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn operations_over_a_store_that_fails_are_true_to_their_word() {
    let playground = Playground::local().unwrap();
    let tally = FaultCampaign::new(program(), 5).store(&playground, 80).await.unwrap();
    assert!(tally.is_clean(), "{tally:#?}");
    assert!(tally.faults >= 80 && tally.commits > 0, "{tally:?}");
}

/// The judge must see what it is there for: a commit that vanished, rows that came back, half an operation, an orphan.
#[tokio::test(flavor = "multi_thread")]
async fn the_judge_sees_what_is_broken() {
    let playground = Playground::local().unwrap();
    let append_and = async |name: &str, break_it: &dyn Fn(&std::path::Path)| {
        let mut stand = Stand::new(&playground, name, 8, 8).await.unwrap();
        for _ in 0..2 {
            stand.append("before").await.unwrap();
        }
        assert!(Ledger::read(&stand.orders.ledger).unwrap().violations.is_empty());
        break_it(&stand.root.folder().unwrap());
        stand.settle("broken").await.unwrap();
        stand.vacuum("broken").await;
        stand.finish().unwrap()
    };
    let entry = |table: &std::path::Path, version: u64| table.join(format!("_delta_log/{version:020}.json"));
    let lost = append_and("lost", &|table| std::fs::remove_file(entry(table, 2)).unwrap()).await;
    assert!(lost.lost > 0 && lost.phantom == 0, "{lost:?}");
    // The same files under other names, which a put that was applied twice would leave.
    let doubled = append_and("doubled", &|table| {
        let text = std::fs::read_to_string(entry(table, 2)).unwrap();
        let add: serde_json::Value = text
            .lines()
            .map(|l| serde_json::from_str(l).unwrap())
            .find(|a: &serde_json::Value| a.get("add").is_some())
            .unwrap();
        let path = add["add"]["path"].as_str().unwrap();
        let other = format!("{}again.parquet", path.strip_suffix("parquet").unwrap());
        std::fs::copy(table.join(path), table.join(&other)).unwrap();
        std::fs::write(entry(table, 3), text.replace(path, &other)).unwrap();
    })
    .await;
    assert!(doubled.duplicate > 0 && doubled.lost == 0, "{doubled:?}");
    let gap = append_and("gap", &|table| {
        std::fs::copy(entry(table, 0), entry(table, 3)).unwrap();
        std::fs::remove_file(entry(table, 1)).unwrap();
    })
    .await;
    assert!(!gap.is_clean(), "{gap:?}");
}

/// What the command line promises to scripts: one JSON object with these keys, and exit codes.
#[test]
fn the_campaign_speaks_to_scripts() {
    let campaign = |arguments: &[&str]| {
        std::process::Command::new(env!("CARGO_BIN_EXE_campaign")).args(arguments).output().unwrap()
    };
    let done = campaign(&["--kills", "1", "--seed", "7", "--json"]);
    assert_eq!(done.status.code(), Some(0), "{}", String::from_utf8_lossy(&done.stderr));
    let summary: serde_json::Value = serde_json::from_slice(&done.stdout).unwrap();
    let mut keys: Vec<&str> = summary.as_object().unwrap().keys().map(String::as_str).collect();
    keys.sort_unstable();
    let expected =
        "commits conflicts duplicate faults kills lost messages operations phantom seconds seed torn violations";
    assert_eq!(keys.join(" "), expected);
    assert_eq!((summary["violations"].as_u64(), summary["seed"].as_u64()), (Some(0), Some(7)));
    for wrong in [&["--kills"][..], &["--kills", "many"], &["--store", "gcs"], &["--frobnicate"]] {
        let refused = campaign(wrong);
        assert_eq!(refused.status.code(), Some(2), "{wrong:?}");
        assert!(refused.stdout.is_empty() && String::from_utf8_lossy(&refused.stderr).contains("usage:"));
    }
    assert_eq!(campaign(&["--help"]).status.code(), Some(0));
}
