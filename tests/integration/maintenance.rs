//! Maintenance leaves the rows as they are: compaction, z-order, checkpoints, log clean-up, inline and on request.

use std::sync::Arc;
use std::time::Duration;

use duckrun::core::maintenance::{Action, TableMaintenance as _};
use duckrun::{
    Append, At, DefaultPolicy, DeltaMaintenance, ErrorKind, FileOptions, MaintenanceOptions, MemorySettings, Overwrite,
    PolicySettings, SchemaChange, Session,
};
use duckrun_testkit::own_governor;
use serde_json::json;

use crate::maintained::{Always, Shifted, World, actions, age, clean, once, sizes, wait};
use crate::support::{Lake, rows};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

fn options(target: u64) -> MaintenanceOptions {
    let files = FileOptions { target_file_size: target, ..FileOptions::default() };
    MaintenanceOptions { files, ..MaintenanceOptions::default() }
}

async fn quiet(lake: &Lake) -> Session {
    Session::open(lake.root()).governor(own_governor()).writable().maintenance(false).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn small_files_are_merged_and_rows_stay() {
    let lake = Lake::new().await;
    let session = quiet(&lake).await;
    let row = |n: i64| {
        format!(
            "select {n}::bigint as n, case {n} % 3 when 0 then null when 1 then 'a b/=%' else 'é' end as p, \
             {{'x': {n}, 'y': ['s{n}', null]}} as s, map {{'k': {n}.5::decimal(10,2)}} as m, \
             timestamp '2020-01-01' + interval ({n}) hour as t, 'b'::blob as b"
        )
    };
    for n in 0..12 {
        let model = session.model("a.t").sql(row(n)).partition_by(["p"]);
        model.run().await.unwrap().committed().map(drop).unwrap();
    }
    // Later rows have a column more, and the table a checkpoint in the middle.
    drop(clean(session.maintain("a.t").checkpoint()).await);
    for n in 12..15 {
        let sql = format!("select *, {n} as extra from ({})", row(n));
        let model = session.model("a.t").sql(sql).on_schema_change(SchemaChange::AppendNewColumns);
        model.run().await.unwrap().committed().map(drop).unwrap();
    }
    let sql = "select n, p, s, m, t, b, extra from a.t order by n";
    let before = lake.rows(sql).await;
    let report = session.maintain("a.t").compact().run().await.unwrap();
    assert!(report.is_clean(), "{report}");
    let applied = report.tables[0].1.applied().next().unwrap().clone();
    assert_eq!((applied.files_removed, applied.files_added, applied.version), (15, 3, Some(15)), "{report}");
    assert_eq!(lake.rows(sql).await, before);
    assert_eq!(sizes(&session, "a.t").await.len(), 3);
    let commit = actions(&lake.folder("a.t"), 15);
    assert_eq!(commit["commitInfo"][0]["operation"], "OPTIMIZE");
    assert_eq!(commit["commitInfo"][0]["operationMetrics"]["numRemovedFiles"], "15");
    for action in commit["add"].iter().chain(&commit["remove"]) {
        assert_eq!(action["dataChange"], json!(false));
    }
    for add in &commit["add"] {
        let stats: serde_json::Value = serde_json::from_str(add["stats"].as_str().unwrap()).unwrap();
        assert_eq!(stats["numRecords"], 5, "statistics are written");
    }
    let then = session.sql("select count(*), sum(n) from a.t").at("a.t", At::Version(14));
    assert_eq!(rows(then).await, ["15|105"], "older versions still read");
    // At rest: nothing is left to merge.
    let report = session.maintain("a.t").compact().run().await.unwrap();
    assert!(report.tables[0].1.applied().next().unwrap().skipped.is_some(), "{report}");
    // Another engine's reader agrees.
    let url = url::Url::from_directory_path(lake.folder("a.t")).unwrap();
    let mut table = deltalake::DeltaTable::try_from_url(url).await.unwrap();
    table.load().await.unwrap();
    assert_eq!(table.snapshot().unwrap().snapshot().log_data().num_files(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_partitions_that_were_named_and_only_small_files() {
    let lake = Lake::new().await;
    let session = quiet(&lake).await;
    for n in 0..8 {
        let sql = format!("select {n}::bigint as n, ({n} % 2)::integer as p");
        session.model("a.t").sql(sql).partition_by(["p"]).run().await.unwrap().committed().map(drop).unwrap();
    }
    let partition = [("p".to_owned(), Some("1".to_owned()))].into();
    let compact = Action::Compact { partitions: vec![partition] };
    let report = session.maintain("a.t").action(compact).run().await.unwrap();
    assert_eq!(report.tables[0].1.applied().next().unwrap().files_removed, 4, "{report}");
    assert_eq!(sizes(&session, "a.t").await.len(), 5);
    // Files of half the target and more stay as they are.
    let size = sizes(&session, "a.t").await.into_iter().min().unwrap();
    let report = session.maintain("a.t").options(options(2 * size - 1)).compact().run().await.unwrap();
    assert!(report.tables[0].1.applied().next().unwrap().skipped.is_some(), "{report}");
}

#[tokio::test(flavor = "multi_thread")]
async fn files_reach_their_target_and_at_most_one_small_one_is_left() {
    let lake = Lake::new().await;
    let session = quiet(&lake).await;
    let files = FileOptions { row_group_rows: 2_048, sync: false, ..FileOptions::default() };
    for n in 0..20 {
        let sql = format!("select range::bigint as n, hash(range) as h from range({}, {})", n * 5_000, (n + 1) * 5_000);
        session.model("a.t").sql(sql).files(files.clone()).run().await.unwrap().committed().map(drop).unwrap();
    }
    let target = 200_000;
    let mut asked = options(target);
    asked.files.row_group_rows = 2_048;
    let report = session.maintain("a.t").options(asked).compact().run().await.unwrap();
    assert!(report.is_clean(), "{report}");
    let after = sizes(&session, "a.t").await;
    assert!(after.len() > 3 && after.len() < 8, "{after:?}");
    assert!(after.iter().filter(|s| **s < target / 2).count() <= 1, "{after:?}");
    let sql = "select count(*), count(distinct n), sum(n) from a.t";
    assert_eq!(lake.rows(sql).await, ["100000|100000|4999950000"]);
}

/// Rewrites a commit of a table of ours, as a writer with other features would have left it.
fn edit_log(folder: &std::path::Path, version: u64, edit: impl Fn(&mut serde_json::Value)) {
    let path = folder.join(format!("_delta_log/{version:020}.json"));
    let text = std::fs::read_to_string(&path).unwrap();
    let lines: Vec<String> = text
        .lines()
        .map(|line| {
            let mut action: serde_json::Value = serde_json::from_str(line).unwrap();
            edit(&mut action);
            action.to_string()
        })
        .collect();
    std::fs::write(&path, lines.join("\n") + "\n").unwrap();
}

fn with_features(action: &mut serde_json::Value, features: &[&str]) {
    if action.get("protocol").is_some() {
        action["protocol"] = json!({ "minReaderVersion": 3, "minWriterVersion": 7, "readerFeatures": features, "writerFeatures": features });
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn deletion_vectors_are_resolved_and_mapped_columns_stay_mapped() {
    let lake = Lake::new().await;
    let session = quiet(&lake).await;
    for _ in 0..2 {
        let model = session.model("a.t").sql("select range::bigint as n from range(30)");
        model.run().await.unwrap().committed().map(drop).unwrap();
    }
    edit_log(&lake.folder("a.t"), 0, |action| {
        with_features(action, &["deletionVectors", "columnMapping"]);
        if action.get("metaData").is_some() {
            action["metaData"]["configuration"]["delta.columnMapping.mode"] = json!("name");
            action["metaData"]["configuration"]["delta.columnMapping.maxColumnId"] = json!("1");
            let field = json!({ "name": "my number", "type": "long", "nullable": true,
                "metadata": { "delta.columnMapping.id": 1, "delta.columnMapping.physicalName": "n" } });
            action["metaData"]["schemaString"] = json!(json!({ "type": "struct", "fields": [field] }).to_string());
        }
        if action.get("add").is_some() {
            // The inline example of the protocol's text: rows 3, 4, 7, 11, 18, 29.
            action["add"]["deletionVector"] = json!({
                "storageType": "i", "pathOrInlineDv": "wi5b=000010000siXQKl0rr91000f55c8Xg0@@D72lkbi5=-{L",
                "sizeInBytes": 40, "cardinality": 6,
            });
        }
    });
    let sql = "select count(*), sum(\"my number\") from a.t";
    let expected = [format!("54|{}", 2 * 435 - 3 - 4 - 7 - 11 - 18 - 29)];
    assert_eq!(lake.rows(sql).await, expected);
    let report = session.maintain("a.t").compact().run().await.unwrap();
    assert!(report.is_clean(), "{report}");
    assert_eq!(lake.rows(sql).await, expected);
    let commit = actions(&lake.folder("a.t"), 2);
    assert_eq!((commit["add"].len(), commit["remove"].len()), (1, 2));
    assert!(commit["add"][0].get("deletionVector").is_none());
    // Without its vector the remove would be of another file, and the old one stay.
    assert_eq!(commit["remove"].iter().filter(|r| r.get("deletionVector").is_some()).count(), 1);
    let stats: serde_json::Value = serde_json::from_str(commit["add"][0]["stats"].as_str().unwrap()).unwrap();
    assert_eq!(stats["maxValues"]["n"], 29, "statistics have physical names");
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_whose_features_are_not_kept_are_refused_by_name() {
    let lake = Lake::new().await;
    let session = quiet(&lake).await;
    for _ in 0..2 {
        session.model("a.t").sql("select 1::bigint as n").run().await.unwrap().committed().map(drop).unwrap();
    }
    edit_log(&lake.folder("a.t"), 0, |action| {
        if action.get("protocol").is_some() {
            action["protocol"] =
                json!({ "minReaderVersion": 1, "minWriterVersion": 7, "writerFeatures": ["rowTracking"] });
        }
    });
    let before = lake.state("a.t");
    let report = session.maintain("a.t").compact().run().await.unwrap();
    assert!(report.to_string().contains("rowTracking"), "{report}");
    assert_eq!(lake.state("a.t"), before);
    // What constrains rows does not keep files from being merged: the rows stay the same.
    edit_log(&lake.folder("a.t"), 0, |action| {
        if action.get("protocol").is_some() {
            action["protocol"] = json!({ "minReaderVersion": 1, "minWriterVersion": 3 });
        }
        if action.get("metaData").is_some() {
            action["metaData"]["configuration"]["delta.constraints.positive"] = json!("n > 0");
            action["metaData"]["configuration"]["delta.appendOnly"] = json!("true");
        }
    });
    let report = session.maintain("a.t").compact().run().await.unwrap();
    assert!(report.is_clean(), "{report}");
    assert_eq!(sizes(&session, "a.t").await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hot_table_is_kept_small_by_its_own_runs() {
    let lake = Lake::new().await;
    let mut settings = PolicySettings::default();
    settings.max_small_files = 20;
    let policy = DefaultPolicy::new(settings).unwrap();
    let session = Session::open(lake.root()).governor(own_governor()).writable().policy(policy).await.unwrap();
    let off = quiet(&lake).await;
    let (mut most, mut merged) = (0, 0);
    for n in 0..45 {
        let sql = format!("select {n}::bigint as n");
        let report = session.model("a.hot").sql(&sql).run().await.unwrap();
        assert!(report.maintained.as_ref().unwrap().is_clean(), "{report}");
        merged += report.maintenance.iter().filter(|line| line.contains("compact")).count();
        off.model("a.off").sql(&sql).run().await.unwrap().committed().map(drop).unwrap();
        most = most.max(sizes(&session, "a.hot").await.len());
    }
    assert_eq!((most, merged), (20, 2));
    assert_eq!(sizes(&session, "a.off").await.len(), 45);
    assert!(!lake.folder("a.off").join("_delta_log/_last_checkpoint").exists());
    assert_eq!(lake.rows("select count(*), count(distinct n) from a.hot").await, ["45|45"]);
}

#[derive(Debug)]
struct Panics;

impl duckrun::maintenance::MaintenancePolicy for Panics {
    fn decide(&self, _: &duckrun::core::maintenance::TableStats, _: chrono::DateTime<chrono::Utc>) -> Vec<Action> {
        panic!("no idea")
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fault_is_in_the_report_and_never_the_run_s_error() {
    let lake = Lake::new().await;
    let session = Session::open(lake.root()).governor(own_governor()).writable().policy(Panics).await.unwrap();
    let report = session.model("a.t").sql("select 1::bigint as n").run().await.unwrap();
    assert_eq!(report.version(), Some(0));
    assert!(report.to_string().contains("no idea"), "{report}");
    let policy = Always(vec![Action::Vacuum { retention: Duration::ZERO, full: true }, Action::Checkpoint]);
    let session = Session::open(lake.root()).governor(own_governor()).writable().policy(policy).await.unwrap();
    let report = session.model("a.t").sql("select 2::bigint as n").run().await.unwrap();
    assert_eq!(report.version(), Some(1));
    assert!(report.maintenance[0].contains("168 hours"), "{:?}", report.maintenance);
    assert_eq!(report.maintenance[1], "checkpoint");
    assert_eq!(lake.rows("select count(*) from a.t").await, ["2"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_whole_root_is_maintained_with_progress() {
    let lake = Lake::new().await;
    let session = quiet(&lake).await;
    for table in ["a.t", "a.u", "b.t"] {
        for n in 0..3 {
            let model = session.model(table).sql(format!("select {n}::bigint as n"));
            model.run().await.unwrap().committed().map(drop).unwrap();
        }
    }
    std::fs::create_dir_all(lake.root().join("b/no table")).unwrap();
    let seen = Arc::new(std::sync::Mutex::new(Vec::new()));
    let record = seen.clone();
    let all = session.maintain_all().compact().checkpoint();
    let report = all.on_progress(move |t, p| record.lock().unwrap().push((t.to_string(), p.fraction))).run().await;
    let report = report.unwrap();
    assert!(report.is_clean(), "{report}");
    assert_eq!(report.to_string().lines().count(), 3, "{report}");
    let seen = seen.lock().unwrap().clone();
    for table in ["a.t", "a.u", "b.t"] {
        assert_eq!(sizes(&session, table).await.len(), 1);
        let fractions: Vec<f64> = seen.iter().filter(|(t, _)| t == table).filter_map(|(_, f)| *f).collect();
        assert!(fractions.is_sorted() && fractions.last() == Some(&1.0), "{fractions:?}");
    }
    let read_only = Session::open(lake.root()).governor(own_governor()).await.unwrap();
    assert_eq!(read_only.maintain_all().run().await.unwrap_err().kind(), ErrorKind::InvalidInput);
    assert_eq!(session.maintain("a.x").run().await.unwrap_err().kind(), ErrorKind::NotFound);
}

/// Z-order: rows stay, files hold narrow ranges of both columns, also where the sort has to spill.
#[tokio::test(flavor = "multi_thread")]
async fn z_order_narrows_the_files_and_survives_compactions() {
    let lake = Lake::new().await;
    let session = quiet(&lake).await;
    let files = FileOptions { row_group_rows: 8_192, sync: false, ..FileOptions::default() };
    // A hash spreads both columns over all files; the text makes the rows large enough to spill.
    let sql = "select range::bigint as n, (hash(range) % 1000)::integer as x, (hash(range + 1000000) % 1000)::integer as y, \
               repeat(md5(range::varchar), 6) as pad from range(200000)";
    session.model("a.t").sql(sql).files(files.clone()).run().await.unwrap().committed().map(drop).unwrap();
    let fingerprint = "select count(*), count(distinct n), sum(n), sum(hash(n, x, y, pad)::hugeint) from a.t";
    let before = lake.rows(fingerprint).await;
    let mut asked = options(200_000);
    asked.files.row_group_rows = 8_192;
    let limit = MemorySettings { threads: Some(1), ..MemorySettings::with_limit(420 << 20) };
    let small =
        Session::open(lake.root()).governor(own_governor()).writable().maintenance(false).memory(limit).await.unwrap();
    for session in [&session, &small] {
        let report = session.maintain("a.t").options(asked.clone()).z_order(["x", "y"]).run().await.unwrap();
        assert!(report.is_clean(), "{report}");
        assert_eq!(lake.rows(fingerprint).await, before);
        let version = report.tables[0].1.committed().unwrap();
        let commit = actions(&lake.folder("a.t"), version);
        assert_eq!(commit["commitInfo"][0]["operationParameters"]["zOrderBy"], r#"["x","y"]"#);
        let boxes: Vec<(i64, i64)> = commit["add"].iter().map(spread).collect();
        assert!(boxes.len() >= 16, "{}", boxes.len());
        // Unordered, every file spans all of both columns: a file's box is the whole square.
        let area: i64 = boxes.iter().map(|(x, y)| x * y).sum::<i64>() / boxes.len() as i64;
        assert!(area < 1000 * 1000 / 4, "{area}");
    }
    // A later compaction with a larger target concatenates the files: each one's rows stay together.
    let report = session.maintain("a.t").options(options(8_000_000)).compact().run().await.unwrap();
    assert!(report.is_clean(), "{report}");
    assert_eq!(lake.rows(fingerprint).await, before);
    for (columns, what) in [(vec!["nope"], "nope"), (vec!["x", "x"], "twice"), (vec![], "1 to 8")] {
        let report = session.maintain("a.t").z_order(columns).run().await.unwrap();
        assert!(report.to_string().contains(what), "{report}");
    }
}

/// How far a file's statistics spread in both columns.
fn spread(add: &serde_json::Value) -> (i64, i64) {
    let stats: serde_json::Value = serde_json::from_str(add["stats"].as_str().unwrap()).unwrap();
    let of = |c: &str| stats["maxValues"][c].as_i64().unwrap() - stats["minValues"][c].as_i64().unwrap();
    (of("x"), of("y"))
}

/// Statistics come from the log alone and agree with what was written, with and without checkpoints.
#[tokio::test(flavor = "multi_thread")]
async fn statistics_come_from_the_log() {
    let lake = Lake::new().await;
    let session = quiet(&lake).await;
    let store = || session.table("a.t").unwrap().store().clone();
    let maintenance = DeltaMaintenance::new(store(), MaintenanceOptions::default());
    let cx = context();
    for n in 0..7 {
        let sql = format!("select {n}::bigint as n, ({n} % 2)::integer as p");
        let model = session.model("a.t").sql(sql).partition_by(["p"]);
        let model =
            model.property("delta.targetFileSize", "1mb").property("delta.logRetentionDuration", "interval 2 days");
        model.run().await.unwrap().committed().map(drop).unwrap();
    }
    drop(clean(session.maintain("a.t").compact()).await);
    for checkpoint in [false, true] {
        if checkpoint {
            drop(clean(session.maintain("a.t").checkpoint()).await);
        }
        let stats = maintenance.stats(&cx).await.unwrap();
        assert_eq!((stats.version, stats.target_file_size), (7, 1 << 20));
        assert_eq!((stats.tombstones, stats.expired_tombstones), (7, 0));
        assert_eq!(stats.commits_since_checkpoint, if checkpoint { 0 } else { 7 });
        assert_eq!((stats.log_entries, stats.expired_log_entries, stats.last_vacuum), (8, 0, None));
        assert_eq!((stats.deleted_file_retention, stats.log_retention), (7 * DAY, 2 * DAY));
        let files: Vec<u64> = stats.partitions.iter().flat_map(|p| p.file_sizes.clone()).collect();
        let mut expected = sizes(&session, "a.t").await;
        let mut sorted = files.clone();
        sorted.sort_unstable();
        expected.sort_unstable();
        assert_eq!(sorted, expected);
        let keys: Vec<_> = stats.partitions.iter().map(|p| p.values["p"].clone().unwrap()).collect();
        assert_eq!(keys, ["0", "1"]);
    }
    for file in lake.state("a.t").1 {
        std::fs::remove_file(file).unwrap();
    }
    assert_eq!(maintenance.stats(&cx).await.unwrap().partitions.len(), 2, "no data file is read");
}

pub(crate) fn context() -> duckrun::RunContext {
    let settings = MemorySettings::default();
    let sample = duckrun::memory::MemoryProbe::sample(&duckrun::memory::SystemProbe::new());
    let limit = duckrun::memory::EffectiveLimit::detect(&sample, &settings);
    duckrun::RunContext::new(duckrun::memory::plan(&limit, &settings, duckrun::memory::Job::Compact).unwrap())
}

/// A compaction that others overtake: appends pass, what took its inputs makes it plan again or give way.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_overtaken_compaction_gives_way() {
    for (overtaker, rows_after, versions) in
        [("append", (0..8).collect::<Vec<i64>>(), 6), ("compact", (0..5).collect(), 6), ("overwrite", vec![100], 6)]
    {
        let world = World::local();
        let session = world.session().maintenance(false).await.unwrap();
        for n in 0..5 {
            let model = session.model("a.t").sql(format!("select {n}::bigint as n"));
            model.run().await.unwrap().committed().map(drop).unwrap();
        }
        let other = world.session().maintenance(false).await.unwrap();
        let overtake = async move {
            match overtaker {
                "append" => {
                    for n in 5..8 {
                        let model =
                            other.model("a.t").sql(format!("select {n}::bigint as n")).strategy(Append::default());
                        model.run().await.unwrap().committed().map(drop).unwrap();
                    }
                }
                "compact" => drop(other.maintain("a.t").compact().run().await.unwrap()),
                _ => {
                    let model = other.model("a.t").sql("select 100::bigint as n").strategy(Overwrite::default());
                    model.run().await.unwrap().committed().map(drop).unwrap();
                }
            }
        };
        let report = session.maintain("a.t").compact().on_progress(once(|| wait(overtake))).run().await.unwrap();
        assert!(report.is_clean(), "{report}");
        let applied = report.tables[0].1.applied().next().unwrap();
        assert_eq!(applied.skipped.is_some(), overtaker != "append", "{overtaker}: {report}");
        let (version, numbers) = world.read("a.t").await;
        assert_eq!(numbers, rows_after, "{overtaker}");
        assert!(version < versions + 3, "{overtaker}: v{version}");
        // What was written for nothing is gone again.
        let live = sizes(&session, "a.t").await.len();
        let on_disk = duckrun_testkit::data_files(&world.folder("a.t")).len();
        let removed = if overtaker == "append" { 5 } else { 5 + usize::from(overtaker == "nothing") };
        assert_eq!(on_disk, live + removed, "{overtaker}");
    }
}

/// Log entries go only once a checkpoint covers them and they are older than the retention.
#[tokio::test(flavor = "multi_thread")]
async fn the_log_is_cleaned_behind_a_checkpoint_only() {
    let world = World::local();
    let session = world.session().maintenance(false).await.unwrap();
    let put = async |n: i64| {
        let model = session.model("a.t").sql(format!("select {n}::bigint as n"));
        model.run().await.unwrap().committed().map(drop).unwrap();
    };
    let log = world.folder("a.t").join("_delta_log");
    let clean_log = || session.maintain("a.t").action(Action::CleanLog { retention: Duration::ZERO }).run();
    for n in 0..4 {
        put(n).await;
    }
    age(&log, 40 * DAY);
    let report = clean_log().await.unwrap();
    assert!(report.to_string().contains("no checkpoint covers"), "{report}");
    drop(clean(session.maintain("a.t").checkpoint()).await);
    age(&log, 40 * DAY);
    for n in 4..6 {
        put(n).await;
    }
    // Younger than the retention: version 4 and 5, and 3, which was current when the retention began.
    let report = clean_log().await.unwrap();
    assert_eq!(report.tables[0].1.applied().next().unwrap().files_removed, 3, "{report}");
    assert_eq!(duckrun_testkit::log_versions(&world.folder("a.t")), [3, 4, 5]);
    for version in 3..6 {
        let snapshot = session.snapshot("a.t", At::Version(version)).await.unwrap();
        let numbers = world.numbers(&snapshot, "a.t").await.unwrap();
        assert_eq!(numbers, (0..=version as i64).collect::<Vec<_>>());
    }
    assert_eq!(session.snapshot("a.t", At::Version(2)).await.unwrap_err().kind(), ErrorKind::NotFound);
    // Where the checkpoint that would be needed cannot be read, nothing goes; nor where an entry is missing.
    drop(clean(session.maintain("a.t").checkpoint()).await);
    age(&log, 40 * DAY);
    put(6).await;
    drop(clean(session.maintain("a.t").checkpoint()).await);
    let checkpoint = log.join("00000000000000000005.checkpoint.parquet");
    let bytes = std::fs::read(&checkpoint).unwrap();
    std::fs::write(&checkpoint, &bytes[..bytes.len() / 2]).unwrap();
    let report = clean_log().await.unwrap();
    assert!(report.to_string().contains("corrupt"), "{report}");
    std::fs::write(&checkpoint, &bytes).unwrap();
    let entry = log.join("00000000000000000006.json");
    std::fs::rename(&entry, log.join("moved")).unwrap();
    put(7).await;
    let report = clean_log().await.unwrap();
    assert!(report.to_string().contains("version 6 is missing"), "{report}");
    assert_eq!(duckrun_testkit::log_versions(&world.folder("a.t")), [3, 4, 5, 7]);
    std::fs::rename(log.join("moved"), entry).unwrap();
    let report = clean_log().await.unwrap();
    assert_eq!(report.tables[0].1.applied().next().unwrap().files_removed, 3, "{report}");
    assert_eq!(duckrun_testkit::log_versions(&world.folder("a.t")), [5, 6, 7]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_keeps_its_log_keeps_it() {
    let world = World::local();
    let session = world.session().maintenance(false).await.unwrap();
    for n in 0..3 {
        let model = session.model("a.t").sql(format!("select {n}::bigint as n"));
        let model = model.property("delta.enableExpiredLogCleanup", "false");
        model.run().await.unwrap().committed().map(drop).unwrap();
    }
    drop(clean(session.maintain("a.t").checkpoint()).await);
    age(&world.folder("a.t"), 400 * DAY);
    let report = session.maintain("a.t").run().await.unwrap();
    assert!(!report.to_string().contains("log clean-up"), "{report}");
    let report = session.maintain("a.t").action(Action::CleanLog { retention: DAY }).run().await.unwrap();
    assert!(report.to_string().contains("enableExpiredLogCleanup"), "{report}");
    assert_eq!(duckrun_testkit::log_versions(&world.folder("a.t")).len(), 3);
}

/// A run that has become as old as a vacuum's retention may have lost its files: it looks, and at last refuses.
#[tokio::test(flavor = "multi_thread")]
async fn an_old_run_looks_for_its_files_and_refuses_past_the_retention() {
    let world = World::local();
    let clock = Shifted::by(chrono::Duration::zero());
    let session = world.session().maintenance(false).clock(clock.clone()).await.unwrap();
    session.model("a.t").sql("select 0::bigint as n").run().await.unwrap().committed().map(drop).unwrap();
    for (days, lose, expected) in
        [(3, true, Ok(())), (4, false, Ok(())), (4, true, Err("are gone")), (8, false, Err("past the retention"))]
    {
        clock.set(chrono::Duration::zero());
        let (jump, folder) = (clock.clone(), world.folder("a.t"));
        let live: Vec<_> = duckrun_testkit::data_files(&folder);
        let model = session.model("a.t").sql("select 1::bigint as n").on_progress(move |p| {
            if p.phase == duckrun::Phase::Committing {
                jump.set(chrono::Duration::days(days));
                if lose && days > 3 {
                    for file in duckrun_testkit::data_files(&folder).iter().filter(|f| !live.contains(f)) {
                        std::fs::remove_file(file).unwrap();
                    }
                }
            }
        });
        match (model.run().await, expected) {
            (Ok(report), Ok(())) => drop(report.committed().unwrap()),
            (Err(e), Err(text)) => {
                assert_eq!(e.kind(), ErrorKind::Unavailable, "{e}");
                assert!(e.to_string().contains(text), "{e}");
            }
            (have, want) => panic!("{days} days: {have:?} instead of {want:?}"),
        }
    }
    assert_eq!(world.read("a.t").await.1, [0, 1, 1]);
}
