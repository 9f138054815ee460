//! `TableStats` against an independent count: whatever happened to a table, its statistics are what its commits, read one by one as
//! JSON, and its newest checkpoint, read by DuckDB, say.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use duckdb::Connection;
use duckrun::core::maintenance::{Action, PartitionStats, TableMaintenance as _, TableStats};
use duckrun::{Append, Delete, DeltaMaintenance, Maintain, MaintenanceOptions, Merge, Overwrite, RunContext};
use duckrun_testkit::generate::delete_rows;
use duckrun_testkit::log_versions;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::TestCaseError;
use serde_json::Value as Json;

use crate::maintained::{Shifted, clean};
use crate::maintenance::context;
use crate::merge_properties::check;
use crate::oracle::runtime;
use crate::support::Lake;

/// What happens to the table.
#[derive(Debug, Clone)]
enum Step {
    /// Rows with these numbers; the partition is their remainder, 2 being NULL.
    Append(std::ops::Range<u8>),
    Overwrite(std::ops::Range<u8>),
    Merge(std::ops::Range<u8>),
    Delete(u8),
    /// Deletion vectors in the files whose turn it is.
    Vectors(u8),
    Compact,
    CompactNull,
    ZOrder,
    Vacuum,
    Checkpoint,
    CleanLog,
}

fn step() -> impl Strategy<Value = Step> {
    let range = || (0u8..12, 1u8..6).prop_map(|(from, rows)| from..from + rows);
    prop_oneof![
        4 => range().prop_map(Step::Append),
        1 => range().prop_map(Step::Overwrite),
        2 => range().prop_map(Step::Merge),
        1 => (0u8..12).prop_map(Step::Delete),
        2 => (1u8..4).prop_map(Step::Vectors),
        1 => Just(Step::Compact),
        1 => Just(Step::CompactNull),
        1 => Just(Step::ZOrder),
        1 => Just(Step::Vacuum),
        2 => Just(Step::Checkpoint),
        1 => Just(Step::CleanLog),
    ]
}

/// The table's commits, kept also when a clean-up deletes them.
type History = BTreeMap<u64, Vec<Json>>;

fn remember(folder: &Path, history: &mut History) {
    for version in log_versions(folder) {
        let text = || std::fs::read_to_string(folder.join(format!("_delta_log/{version:020}.json"))).unwrap();
        history.entry(version).or_insert_with(|| text().lines().map(|l| serde_json::from_str(l).unwrap()).collect());
    }
}

/// Path and unique id of the deletion vector.
fn id(file: &Json) -> (String, String) {
    let vector = &file["deletionVector"];
    let vector = match vector.is_null() {
        true => String::new(),
        false => format!("{}{}@{}", vector["storageType"], vector["pathOrInlineDv"], vector["offset"]),
    };
    (file["path"].as_str().unwrap().to_owned(), vector)
}

/// Removed files by their ids, with the time.
type Removed = BTreeMap<(String, String), i64>;

/// The newest checkpoint, and the files that it says were removed.
fn checkpoint(folder: &Path) -> Option<(u64, Removed)> {
    let hint = std::fs::read_to_string(folder.join("_delta_log/_last_checkpoint")).ok()?;
    let version = serde_json::from_str::<Json>(&hint).unwrap()["version"].as_u64().unwrap();
    let file = folder.join(format!("_delta_log/{version:020}.checkpoint.parquet"));
    let db = Connection::open_in_memory().unwrap();
    let sql = format!(
        "select to_json(remove)::varchar from read_parquet('{}') where remove.path is not null",
        file.display()
    );
    let mut statement = db.prepare(&sql).unwrap();
    let removed = statement.query_map([], |row| row.get::<_, String>(0)).unwrap();
    let removed = removed.map(|text| serde_json::from_str::<Json>(&text.unwrap()).unwrap());
    Some((version, removed.map(|r| (id(&r), r["deletionTimestamp"].as_i64().unwrap_or_default())).collect()))
}

/// The statistics by counting.
fn counted(folder: &Path, history: &History, now: DateTime<Utc>) -> TableStats {
    let mut live: BTreeMap<(String, String), Json> = BTreeMap::new();
    let (mut vacuum, mut configuration) = (None, Json::Null);
    let read = checkpoint(folder);
    let from = read.as_ref().map(|(version, _)| *version);
    let mut tombstones = read.map(|(_, removed)| removed).unwrap_or_default();
    for (version, actions) in history {
        let is_after = from.is_none_or(|from| *version > from);
        for action in actions {
            if let Some(removed) = action.get("remove") {
                live.remove(&id(removed));
                if is_after {
                    tombstones.insert(id(removed), removed["deletionTimestamp"].as_i64().unwrap_or_default());
                }
            }
            if action["txn"]["appId"] == "duckrun.vacuum" {
                vacuum = vacuum.max(action["txn"]["version"].as_i64());
            }
            if is_after && action["commitInfo"]["operation"] == "VACUUM END" {
                vacuum = vacuum.max(action["commitInfo"]["timestamp"].as_i64());
            }
            if let Some(metadata) = action.get("metaData") {
                configuration = metadata["configuration"].clone();
            }
        }
        for added in actions.iter().filter_map(|a| a.get("add")) {
            if is_after {
                tombstones.remove(&id(added));
            }
            live.insert(id(added), added.clone());
        }
    }
    let mut partitions: BTreeMap<BTreeMap<String, Option<String>>, PartitionStats> = BTreeMap::new();
    for file in live.values() {
        let values = file["partitionValues"].as_object().unwrap();
        let values: BTreeMap<String, Option<String>> =
            values.iter().map(|(k, v)| (k.clone(), v.as_str().map(str::to_owned))).collect();
        let partition = partitions.entry(values.clone()).or_insert_with(|| PartitionStats::new(values, Vec::new()));
        partition.file_sizes.push(file["size"].as_u64().unwrap());
        partition.file_sizes.sort_unstable();
        if let Some(rows) = file["deletionVector"]["cardinality"].as_u64() {
            partition.files_with_deletion_vectors += 1;
            partition.deleted_rows += rows;
        }
    }
    let kept = log_versions(folder);
    let oldest = folder.join(format!("_delta_log/{:020}.json", kept.iter().min().unwrap()));
    let horizon = (now - TimeDelta::hours(1)).timestamp_millis();
    let mut stats = TableStats::default();
    stats.version = *history.keys().next_back().unwrap();
    stats.partitions = partitions.into_values().collect();
    stats.target_file_size = 3 << 20;
    stats.tombstones = tombstones.len() as u64;
    stats.expired_tombstones = tombstones.values().filter(|removed| **removed <= horizon).count() as u64;
    stats.commits_since_checkpoint = stats.version - from.unwrap_or(0);
    stats.log_entries = kept.len() as u64;
    stats.oldest_log_entry = Some(std::fs::metadata(oldest).unwrap().modified().unwrap().into());
    // The retention is nothing: all that lies before the newest checkpoint can go.
    stats.expired_log_entries = kept.iter().filter(|version| from.is_some_and(|from| **version < from)).count() as u64;
    stats.last_vacuum = vacuum.and_then(DateTime::from_timestamp_millis);
    stats.checkpoint_interval = configuration["delta.checkpointInterval"].as_str().unwrap().parse().unwrap();
    stats.deleted_file_retention = Duration::from_secs(3600);
    stats
}

fn rows(numbers: &std::ops::Range<u8>) -> String {
    format!(
        "select range::bigint as n, case range % 3 when 2 then null else (range % 3)::varchar end as \"p q\" from range({}, {})",
        numbers.start, numbers.end
    )
}

async fn maintained(maintain: Maintain) -> Option<()> {
    drop(clean(maintain).await);
    Some(())
}

async fn carry_out(lake: &Lake, step: &Step, vectors: usize) -> Option<()> {
    let model = || lake.session.model("a.t");
    let (folder, maintain) = (lake.folder("a.t"), || lake.session.maintain("a.t").unsafe_retention());
    let model = match step {
        Step::Append(numbers) => model().sql(rows(numbers)).strategy(Append::default()),
        Step::Overwrite(numbers) => model().sql(rows(numbers)).strategy(Overwrite::default()),
        Step::Merge(numbers) => model().sql(rows(numbers)).strategy(Merge::on(["n"])),
        Step::Delete(n) => model().strategy(Delete::rows_where(format!("n = {n}"))),
        Step::Vectors(every) => {
            // Its author reads the log from its beginning.
            if !log_versions(&folder).contains(&0) {
                return None;
            }
            let mut turn = 0;
            let gone = vectors as u64;
            // A vector that a file has already would be removed and added by one commit, which the protocol forbids.
            let choose = |rows: u64| {
                turn += 1;
                if turn % every == 0 && gone <= rows { (0..gone).collect() } else { Vec::new() }
            };
            return delete_rows(&folder, choose).unwrap().then_some(());
        }
        Step::Compact => return maintained(maintain().compact()).await,
        Step::CompactNull => {
            let partition = BTreeMap::from([("p q".to_owned(), None)]);
            return maintained(maintain().action(Action::Compact { partitions: vec![partition] })).await;
        }
        Step::ZOrder => return maintained(maintain().z_order(["n"])).await,
        Step::Vacuum => return maintained(maintain().vacuum(Duration::ZERO)).await,
        Step::Checkpoint => return maintained(maintain().checkpoint()).await,
        Step::CleanLog => {
            let action = Action::CleanLog { retention: Duration::ZERO };
            return maintained(maintain().action(action)).await;
        }
    };
    let report = model.run().await.unwrap();
    assert!(!matches!(report.outcome, duckrun::CommitOutcome::Conflict { .. }), "{report}");
    Some(())
}

/// Everything but the time of the oldest entry to the millisecond, and the order of the partitions.
fn comparable(mut stats: TableStats) -> (TableStats, BTreeSet<String>) {
    stats.oldest_log_entry = stats.oldest_log_entry.and_then(|t| DateTime::from_timestamp_millis(t.timestamp_millis()));
    let partitions = stats.partitions.drain(..).map(|p| format!("{p:?}")).collect();
    (stats, partitions)
}

async fn history(steps: Vec<Step>) -> Result<(), TestCaseError> {
    let lake = Lake::new().await;
    let session = duckrun::Session::open(lake.root())
        .governor(duckrun_testkit::own_governor())
        .writable()
        .maintenance(false)
        .await
        .unwrap();
    let lake = lake.with_session(session);
    let model = lake.session.model("a.t").sql(rows(&(0..5))).partition_by(["p q"]);
    let model =
        model.property("delta.targetFileSize", "3mb").property("delta.logRetentionDuration", "interval 0 hours");
    let model = model.property("delta.deletedFileRetentionDuration", "interval 1 hour");
    model.run().await.unwrap().committed().map(drop).unwrap();
    let folder = lake.folder("a.t");
    let mut known = History::new();
    remember(&folder, &mut known);
    let store = lake.session.table("a.t").unwrap().store().clone();
    let mut vectors = 0;
    for step in steps {
        vectors += usize::from(matches!(step, Step::Vectors(_)));
        if carry_out(&lake, &step, vectors).await.is_none() {
            continue;
        }
        remember(&folder, &mut known);
        for hours in [0, 30] {
            let cx: RunContext = context().with_clock(Shifted::by(TimeDelta::hours(hours)));
            let maintenance = DeltaMaintenance::new(store.clone(), MaintenanceOptions::default());
            let got = maintenance.stats(&cx).await.unwrap();
            let expected = counted(&folder, &known, cx.now());
            prop_assert_eq!(comparable(got), comparable(expected), "after {:?}, {} hours later", step, hours);
        }
    }
    Ok(())
}

#[test]
fn statistics_are_what_the_log_says() {
    let runtime = runtime();
    check(16, &vec(step(), 4..16), |steps| runtime.block_on(history(steps)));
}
