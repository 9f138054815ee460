//! What a vacuum deletes and what it never does.

use std::time::Duration;

use duckrun::core::maintenance::Action;
use duckrun::{At, CommitOutcome, ErrorKind, Overwrite, Session};
use duckrun_testkit::{data_files, log_versions};

use crate::maintained::{Shifted, World, actions, age, clean};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
const WEEK: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// A table whose version 0 was overwritten so many days ago, by the log and by the file system.
async fn overwritten(days: u32) -> (World, Session) {
    let world = World::local();
    let clock = Shifted::by(-chrono::Duration::days(days.into()));
    let then = world.session().maintenance(false).clock(clock).await.unwrap();
    for n in 0..2 {
        let model = then.model("a.t").sql(format!("select {n}::bigint as n")).strategy(Overwrite::default());
        model.run().await.unwrap().committed().map(drop).unwrap();
    }
    age(&world.folder("a.t"), DAY * days);
    let session = world.session().maintenance(false).await.unwrap();
    (world, session)
}

#[tokio::test(flavor = "multi_thread")]
async fn removed_files_go_after_the_retention_and_not_before() {
    for (days, gone) in [(6, 0), (8, 1)] {
        let (world, session) = overwritten(days).await;
        let plan = session.maintain("a.t").vacuum_plan(WEEK).await.unwrap();
        assert_eq!(plan.files.len(), gone, "{days} days");
        assert_eq!(plan.bytes() > 0, gone > 0);
        assert_eq!(
            (data_files(&world.folder("a.t")).len(), log_versions(&world.folder("a.t")).len()),
            (2, 2),
            "a plan only"
        );
        let report = clean(session.maintain("a.t").vacuum(WEEK)).await;
        assert_eq!(report.tables[0].1.applied().next().unwrap().files_removed, gone as u64, "{report}");
        assert_eq!(data_files(&world.folder("a.t")).len(), 2 - gone);
        assert_eq!(world.read("a.t").await.1, [1]);
        // The markers are as other writers write them, and the end is recorded even where nothing was deleted.
        let versions = log_versions(&world.folder("a.t"));
        let marker = |version| actions(&world.folder("a.t"), version)["commitInfo"][0].clone();
        if gone > 0 {
            assert_eq!(marker(2)["operation"], "VACUUM START");
            assert_eq!(marker(2)["operationParameters"]["specifiedRetentionMillis"], "604800000");
            assert_eq!(marker(2)["operationMetrics"]["numFilesToDelete"], "1");
        }
        let last = marker(*versions.last().unwrap());
        assert_eq!(
            (last["operation"].as_str(), last["operationParameters"]["status"].as_str()),
            (Some("VACUUM END"), Some("COMPLETED"))
        );
    }
}

/// A vacuum is remembered through checkpoints, so it is not asked for again at once; and its markers refuse nobody.
#[tokio::test(flavor = "multi_thread")]
async fn a_vacuum_is_remembered_and_refuses_nobody() {
    let (world, session) = overwritten(8).await;
    let slow = session
        .model("a.t")
        .sql("select n + 10 as n from this, vacuums")
        .source("vacuums", Vacuums(session.clone()))
        .strategy(duckrun::SafeAppend);
    let report = slow.run().await.unwrap();
    assert!(matches!(report.outcome, CommitOutcome::Committed(_)), "{report}");
    drop(clean(session.maintain("a.t").checkpoint()).await);
    let report = clean(session.maintain("a.t")).await;
    assert!(!report.to_string().contains("vacuum"), "{report}");
    // Even when the entries before the checkpoint are gone.
    for version in log_versions(&world.folder("a.t")).into_iter().rev().skip(1) {
        std::fs::remove_file(world.folder("a.t").join(format!("_delta_log/{version:020}.json"))).unwrap();
    }
    let report = clean(session.maintain("a.t")).await;
    assert!(!report.to_string().contains("vacuum"), "{report}");
    assert_eq!(world.read("a.t").await.1, [1, 11]);
}

/// Vacuums when it is resolved: after the pin, before the commit.
#[derive(Debug)]
struct Vacuums(Session);

#[async_trait::async_trait]
impl duckrun::Source for Vacuums {
    fn describe(&self) -> String {
        "a vacuum".into()
    }

    async fn resolve(&self, _: &duckrun::SourceContext<'_>) -> duckrun::Result<duckrun::Resolved> {
        let report = self.0.maintain("a.t").run().await?;
        assert!(report.to_string().contains("full vacuum → v3 (-1 files)"), "{report}");
        Ok(duckrun::Relation::Sql("select 0::bigint as nothing".into()).into())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn orphans_go_when_old_and_everything_else_stays() {
    let (world, session) = overwritten(8).await;
    let folder = world.folder("a.t");
    for (name, old) in [
        ("part-crashed.parquet", true),
        ("p=1/part-crashed.parquet", true),
        ("part-in-flight.parquet", false),
        (".hidden", true),
        ("_notes/readme.txt", true),
        ("_delta_log/_staged_commits/x.json", true),
    ] {
        let path = folder.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, "x").unwrap();
        if old {
            let file = std::fs::File::options().append(true).open(&path).unwrap();
            file.set_modified(std::time::SystemTime::now() - 8 * DAY).unwrap();
        }
    }
    // A lite vacuum knows the log only.
    let lite = Action::Vacuum { retention: WEEK, full: false };
    let report = clean(session.maintain("a.t").action(lite)).await;
    assert_eq!(report.tables[0].1.applied().next().unwrap().files_removed, 1, "{report}");
    let report = clean(session.maintain("a.t").vacuum(WEEK)).await;
    assert_eq!(report.tables[0].1.applied().next().unwrap().files_removed, 2, "{report}");
    for stays in ["part-in-flight.parquet", ".hidden", "_notes/readme.txt", "_delta_log/_staged_commits/x.json"] {
        assert!(folder.join(stays).exists(), "{stays}");
    }
    assert_eq!(world.read("a.t").await.1, [1]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_short_retention_takes_the_unsafe_switch() {
    let (world, session) = overwritten(1).await;
    let error = session.maintain("a.t").vacuum_plan(Duration::ZERO).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
    assert!(error.to_string().contains("168 hours"), "{error}");
    // On request it is lifted to what is safe.
    drop(clean(session.maintain("a.t").vacuum(Duration::ZERO)).await);
    assert_eq!(data_files(&world.folder("a.t")).len(), 2);
    drop(clean(session.maintain("a.t").unsafe_retention().vacuum(Duration::ZERO)).await);
    assert_eq!(data_files(&world.folder("a.t")).len(), 1);
    assert_eq!(world.read("a.t").await.1, [1]);
}

/// A local clock that runs ahead makes young files look old: nothing is deleted.
#[tokio::test(flavor = "multi_thread")]
async fn clocks_that_disagree_delete_nothing() {
    let (world, _) = overwritten(1).await;
    let before = data_files(&world.folder("a.t"));
    for (days, fresh) in [(8, false), (8, true), (-8, false)] {
        let clock = Shifted::by(chrono::Duration::days(days));
        let session = world.session().maintenance(false).clock(clock).await.unwrap();
        if fresh {
            let model = session.model("a.t").sql("select 2::bigint as n");
            model.run().await.unwrap().committed().map(drop).unwrap();
        }
        let versions = log_versions(&world.folder("a.t")).len();
        let report = session.maintain("a.t").vacuum(WEEK).run().await.unwrap();
        assert!(report.to_string().contains("the local clock says"), "{days}: {report}");
        assert_eq!(log_versions(&world.folder("a.t")).len(), versions);
        assert!(before.iter().all(|f| f.exists()));
    }
    let log = world.folder("a.t").join("_delta_log");
    let left =
        std::fs::read_dir(log).unwrap().filter(|e| e.as_ref().unwrap().file_name().to_string_lossy().contains("clock"));
    assert_eq!(left.count(), 0, "probes are removed");
}

/// A writer whose clock was slow wrote a tombstone that looks old. The store's time of its commit tells better.
#[tokio::test(flavor = "multi_thread")]
async fn a_slow_writer_s_tombstones_are_not_believed() {
    let world = World::local();
    let slow = world.session().maintenance(false).clock(Shifted::by(-chrono::Duration::days(30))).await.unwrap();
    slow.model("a.t").sql("select 0::bigint as n").run().await.unwrap().committed().map(drop).unwrap();
    age(&world.folder("a.t"), 30 * DAY);
    // Removed just now, though the tombstone says a month ago.
    let model = slow.model("a.t").sql("select 1::bigint as n").strategy(Overwrite::default());
    model.run().await.unwrap().committed().map(drop).unwrap();
    let session = world.session().maintenance(false).await.unwrap();
    for full in [false, true] {
        let vacuum = Action::Vacuum { retention: WEEK, full };
        drop(clean(session.maintain("a.t").action(vacuum)).await);
        let snapshot = session.snapshot("a.t", At::Version(0)).await.unwrap();
        assert_eq!(world.numbers(&snapshot, "a.t").await.unwrap(), [0]);
    }
}

/// Files are older than the retention, but versions younger than it need them: the tombstones are gone with a checkpoint (the
/// table's own retention is short), the commits that removed the files are not.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_young_version_needs_stays_though_the_tombstones_are_forgotten() {
    let world = World::local();
    let then = world.session().maintenance(false).clock(Shifted::by(-chrono::Duration::days(20))).await.unwrap();
    let model = then.model("a.t").sql("select 0::bigint as n");
    let model = model.property("delta.deletedFileRetentionDuration", "interval 1 day");
    model.run().await.unwrap().committed().map(drop).unwrap();
    age(&world.folder("a.t"), 20 * DAY);
    let lately = world.session().maintenance(false).clock(Shifted::by(-chrono::Duration::days(3))).await.unwrap();
    let model = lately.model("a.t").sql("select 1::bigint as n").strategy(Overwrite::default());
    model.run().await.unwrap().committed().map(drop).unwrap();
    let session = world.session().maintenance(false).await.unwrap();
    drop(clean(session.maintain("a.t").checkpoint()).await);
    drop(clean(session.maintain("a.t").vacuum(WEEK)).await);
    let snapshot = session.snapshot("a.t", At::Version(0)).await.unwrap();
    assert_eq!(world.numbers(&snapshot, "a.t").await.unwrap(), [0]);
}

/// Deletion vectors in files of their own stay as long as the files that they belong to.
#[tokio::test(flavor = "multi_thread")]
async fn live_deletion_vectors_stay() {
    let (world, session) = overwritten(8).await;
    let folder = world.folder("a.t");
    let name = "deletion_vector_d2c639aa-8816-431a-aaf6-d3fe2512ff61.bin";
    std::fs::create_dir_all(folder.join("ab")).unwrap();
    for path in [folder.join("ab").join(name), folder.join("cd.bin")] {
        std::fs::write(&path, "x").unwrap();
    }
    age(&folder, 8 * DAY);
    // The live file of version 1 gets a vector by hand; it is not read here.
    let path = folder.join("_delta_log/00000000000000000001.json");
    let text = std::fs::read_to_string(&path).unwrap();
    let lines: Vec<String> = text
        .lines()
        .map(|line| {
            let mut action: serde_json::Value = serde_json::from_str(line).unwrap();
            if action.get("add").is_some() {
                action["add"]["deletionVector"] = serde_json::json!({
                    "storageType": "u", "pathOrInlineDv": "ab^-aqEH.-t@S}K{vb[*k^", "offset": 1, "sizeInBytes": 36, "cardinality": 2,
                });
            }
            action.to_string()
        })
        .collect();
    std::fs::write(&path, lines.join("\n") + "\n").unwrap();
    let file = std::fs::File::options().append(true).open(&path).unwrap();
    file.set_modified(std::time::SystemTime::now() - 8 * DAY).unwrap();
    drop(clean(session.maintain("a.t").vacuum(WEEK)).await);
    assert!(folder.join("ab").join(name).exists());
    assert!(!folder.join("cd.bin").exists());
}

/// Two vacuums at once, beside a writer: both end well.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn vacuums_side_by_side_agree() {
    let (world, session) = overwritten(8).await;
    let others: Vec<_> = (0..3)
        .map(|_| {
            let world = world.clone();
            tokio::spawn(async move {
                let session = world.session().maintenance(false).await.unwrap();
                clean(session.maintain("a.t").vacuum(WEEK)).await
            })
        })
        .collect();
    for n in 2..6 {
        let model = session.model("a.t").sql(format!("select {n}::bigint as n"));
        model.run().await.unwrap().committed().map(drop).unwrap();
    }
    for other in others {
        drop(other.await.unwrap());
    }
    assert_eq!(world.read("a.t").await.1, [1, 2, 3, 4, 5]);
    assert_eq!(data_files(&world.folder("a.t")).len(), 5);
}

/// What a local commit was writing when its process was killed (between creating and linking it) has a hidden name, which no vacuum
/// touched: a crash campaign left one such file behind for every kill there, forever.
#[tokio::test(flavor = "multi_thread")]
async fn unfinished_commits_of_the_dead_are_reclaimed() {
    let (world, session) = overwritten(8).await;
    let log = world.folder("a.t").join("_delta_log");
    let unfinished = |version: u64| log.join(format!(".{version:020}.67e55044-10b1-426f-9247-bb680e5fe0c8.tmp"));
    let others = [log.join(".00000000000000000002.json.tmp"), log.join("_last_something")];
    for file in others.iter().chain([&unfinished(2)]) {
        std::fs::write(file, "{").unwrap();
    }
    age(&world.folder("a.t"), DAY * 8);
    std::fs::write(unfinished(3), "{").unwrap();
    drop(clean(session.maintain("a.t").vacuum(WEEK)).await);
    assert!(!unfinished(2).exists(), "older than the retention");
    assert!(unfinished(3).exists(), "its process may live");
    assert!(others.iter().all(|o| o.exists()), "not ours");
    assert_eq!(world.read("a.t").await.1, [1]);
}
