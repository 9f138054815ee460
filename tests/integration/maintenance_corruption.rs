//! Maintenance beside writers, for seconds on end. delta-rs's own OPTIMIZE retries past any commit, because its conflict check
//! ignores removes with `dataChange=false` (delta-rs 1.1.3, `operations/optimize.rs:967-988`, `kernel/transaction/conflict_checker.rs`;
//! two releases of its Python package were yanked for it): two of them from one snapshot duplicate every row, and a stale overwrite
//! after one leaves the old rows in the table. The first test shows that with plain delta-rs; the others show that ours cannot do it,
//! on the local file system and on a store with conditional puts, beside writers of ours and beside plain delta-rs.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use deltalake::DeltaTable;
use deltalake::arrow::array::{ArrayRef, Int64Array, RecordBatch};
use deltalake::protocol::SaveMode;
use duckrun::core::maintenance::Action;
use duckrun::{Append, At, CommitOutcome, MaintenanceOptions, Overwrite, SafeAppend};
use url::Url;

use crate::maintained::{World, clean, once, wait};

/// How long the writers write; the ignored tests write for a minute.
const SECONDS: u64 = 10;

/// Rows of one append: they all carry its number, so a reader sees whether it has an append as a whole.
const ROWS: i64 = 10;

async fn delta_rs(folder: &Path) -> DeltaTable {
    let mut table = DeltaTable::try_from_url(Url::from_directory_path(folder).unwrap()).await.unwrap();
    table.load().await.unwrap();
    table
}

fn batch(numbers: &[i64]) -> RecordBatch {
    let n: ArrayRef = Arc::new(Int64Array::from(numbers.to_vec()));
    RecordBatch::try_from_iter_with_nullable(vec![("n", n, true)]).unwrap()
}

/// A table of so many files of a row each.
async fn fragments(files: i64) -> World {
    let world = World::local();
    let session = world.session().maintenance(false).await.unwrap();
    for n in 0..files {
        let model = session.model("a.t").sql(format!("select {n}::bigint as n"));
        model.run().await.unwrap().committed().map(drop).unwrap();
    }
    world
}

/// Should this test fail, delta-rs has mended its conflict check, and the guard against it may be reconsidered.
#[tokio::test(flavor = "multi_thread")]
async fn plain_delta_rs_corrupts_and_this_is_how() {
    // Two compactions from one snapshot: every row is there twice.
    let world = fragments(4).await;
    let folder = world.folder("a.t");
    let (first, second) = (delta_rs(&folder).await, delta_rs(&folder).await);
    first.optimize().await.unwrap();
    second.optimize().await.unwrap();
    assert_eq!(world.read("a.t").await.1, [0, 0, 1, 1, 2, 2, 3, 3]);
    // A compaction, then a stale overwrite: the old rows survive.
    let world = fragments(4).await;
    let folder = world.folder("a.t");
    let (compactor, writer) = (delta_rs(&folder).await, delta_rs(&folder).await);
    compactor.optimize().await.unwrap();
    writer.write(vec![batch(&[100])]).with_save_mode(SaveMode::Overwrite).await.unwrap();
    assert_eq!(world.read("a.t").await.1, [0, 1, 2, 3, 100]);
}

/// The same interleavings with our compaction in the place of one of them, and the guard against foreign ones.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn ours_gives_way_to_foreign_writers_and_the_guard_stops_them() {
    for foreign in ["optimize", "overwrite"] {
        // The foreign one commits first: ours plans again.
        let world = fragments(4).await;
        let session = world.session().maintenance(false).await.unwrap();
        let table = delta_rs(&world.folder("a.t")).await;
        let overtake = async move {
            match foreign {
                "optimize" => drop(table.optimize().await.unwrap()),
                _ => drop(table.write(vec![batch(&[100])]).with_save_mode(SaveMode::Overwrite).await.unwrap()),
            }
        };
        let maintain = session.maintain("a.t").compact().on_progress(once(|| wait(overtake)));
        drop(clean(maintain).await);
        let expected: &[i64] = if foreign == "optimize" { &[0, 1, 2, 3] } else { &[100] };
        assert_eq!(world.read("a.t").await.1, expected, "{foreign} first");

        // Ours commits first, with the guard: the stale foreign one fails, and the table is right.
        let world = fragments(4).await;
        let session = world.session().maintenance(false).await.unwrap();
        let table = delta_rs(&world.folder("a.t")).await;
        let options = MaintenanceOptions { guard_foreign_writers: true, ..MaintenanceOptions::default() };
        let report = clean(session.maintain("a.t").options(options).compact()).await;
        assert_eq!(report.tables[0].1.committed(), Some(4), "{report}");
        let stale = match foreign {
            "optimize" => table.optimize().await.map(drop),
            _ => table.write(vec![batch(&[100])]).with_save_mode(SaveMode::Overwrite).await.map(drop),
        };
        assert!(stale.is_err(), "a stale foreign {foreign} committed past the guard");
        assert_eq!(world.read("a.t").await.1, [0, 1, 2, 3], "{foreign} second");
        // Runs of ours that were in flight pass: the metadata is the same.
        let model = session.model("a.t").sql("select 4::bigint as n").strategy(SafeAppend);
        model.run().await.unwrap().committed().map(drop).unwrap();
    }
}

/// A run in flight while a guarded compaction commits is not refused: the metadata that it repeats is the same.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_guard_does_not_refuse_our_own_runs() {
    for strategy in ["append", "safeappend", "overwrite"] {
        let world = fragments(4).await;
        let session = world.session().maintenance(false).await.unwrap();
        let other = world.session().maintenance(false).await.unwrap();
        let model = session.model("a.t").sql("select 100 + nothing as n from c").source("c", Guarded(other));
        let report = model.strategy_named(strategy).run().await.unwrap();
        assert_eq!(report.version(), Some(5), "{report}");
        let expected: &[i64] = if strategy == "overwrite" { &[100] } else { &[0, 1, 2, 3, 100] };
        assert_eq!(world.read("a.t").await.1, expected, "{strategy}");
    }
}

/// Compacts with the guard when it is resolved: after the pin, before the commit.
#[derive(Debug)]
struct Guarded(duckrun::Session);

#[async_trait::async_trait]
impl duckrun::Source for Guarded {
    fn describe(&self) -> String {
        "a guarded compaction".into()
    }

    async fn resolve(&self, _: &duckrun::SourceContext<'_>) -> duckrun::Result<duckrun::Resolved> {
        let options = MaintenanceOptions { guard_foreign_writers: true, ..MaintenanceOptions::default() };
        let report = self.0.maintain("a.t").options(options).compact().run().await?;
        assert_eq!(report.tables[0].1.committed(), Some(4), "{report}");
        Ok(duckrun::Relation::Sql("select 0::bigint as nothing".into()).into())
    }
}

/// What was acknowledged: by version, the number of the rows, and whether they replaced everything.
type Log = BTreeMap<u64, (i64, bool)>;

/// The rows that a version must have.
fn expected(log: &Log, version: u64) -> Vec<i64> {
    let mut rows = Vec::new();
    for (number, replaces) in log.range(..=version).map(|(_, entry)| *entry) {
        if replaces {
            rows.clear();
        }
        rows.extend(std::iter::repeat_n(number, ROWS as usize));
    }
    rows.sort_unstable();
    rows
}

/// Two compaction loops, two appenders, an overwriter, one more writer, a reader. What every reader saw and what is there in the
/// end is exactly what was acknowledged.
async fn everybody_at_once(world: World, seconds: u64) {
    let start = world.session().maintenance(false).await.unwrap();
    let sql = |number: u64| format!("select {number}::bigint as n from range({ROWS})");
    let first = start.model("a.t").sql(sql(0)).property("delta.checkpointInterval", "10").run().await.unwrap();
    assert_eq!(first.version(), Some(0));
    let stop = Arc::new(AtomicBool::new(false));
    let numbers = Arc::new(AtomicU64::new(1));
    let mut writers = Vec::new();
    for writer in ["append", "append", "overwrite", "safeappend"] {
        let session = world.session().maintenance(writer == "safeappend").await.unwrap();
        let (stop, numbers) = (stop.clone(), numbers.clone());
        writers.push(tokio::spawn(async move {
            let (mut log, mut refused) = (Log::new(), 0);
            while !stop.load(Ordering::SeqCst) {
                let number = numbers.fetch_add(1, Ordering::SeqCst);
                let model = session.model("a.t").sql(sql(number));
                let model = match writer {
                    "append" => model.strategy(Append::default()),
                    "safeappend" => model.strategy(SafeAppend),
                    // By turns with and without a look at what was read.
                    _ if number.is_multiple_of(2) => model.strategy(Overwrite::default().blind()),
                    _ => model.strategy(Overwrite::default()).retries(3),
                };
                let report = model.run().await.unwrap();
                match report.outcome {
                    CommitOutcome::Committed(commit) => {
                        assert!(log.insert(commit.version, (number as i64, writer == "overwrite")).is_none());
                    }
                    CommitOutcome::Conflict { .. } => refused += 1,
                    other => panic!("{other:?}"),
                }
                if writer == "overwrite" {
                    tokio::time::sleep(Duration::from_millis(700)).await;
                }
            }
            (log, refused)
        }));
    }
    let compactors: Vec<_> = (0..2)
        .map(|n| {
            let (world, stop) = (world.clone(), stop.clone());
            tokio::spawn(async move {
                let options = MaintenanceOptions { guard_foreign_writers: n == 0, ..MaintenanceOptions::default() };
                let session = world.session().maintenance(false).maintenance_options(options).await.unwrap();
                let mut committed = 0;
                while !stop.load(Ordering::SeqCst) {
                    let maintain = session.maintain("a.t").compact().checkpoint();
                    // Vacuums delete nothing here, but their markers stand among the commits.
                    let maintain = if n == 1 { maintain.vacuum(Duration::ZERO) } else { maintain };
                    let report = clean(maintain).await;
                    let applied = report.tables[0].1.applied();
                    committed +=
                        applied.filter(|a| matches!(a.action, Action::Compact { .. }) && a.version.is_some()).count();
                }
                committed
            })
        })
        .collect();
    let reader = {
        let (world, stop) = (world.clone(), stop.clone());
        tokio::spawn(async move {
            let session = world.session().await.unwrap();
            let mut seen: Vec<(u64, Vec<i64>)> = Vec::new();
            while !stop.load(Ordering::SeqCst) {
                let snapshot = session.snapshot("a.t", At::Latest).await.unwrap();
                seen.push((snapshot.version(), world.numbers(&snapshot, "a.t").await.unwrap()));
            }
            seen
        })
    };
    let began = Instant::now();
    tokio::time::sleep(Duration::from_secs(seconds)).await;
    stop.store(true, Ordering::SeqCst);
    let mut log = Log::from([(0, (0, true))]);
    let (mut acknowledged, mut refused) = (0, 0);
    for writer in writers {
        let (mine, no) = writer.await.unwrap();
        (acknowledged, refused) = (acknowledged + mine.len(), refused + no);
        for (version, entry) in mine {
            assert!(log.insert(version, entry).is_none(), "version {version} was acknowledged twice");
        }
    }
    let mut compactions = 0;
    for compactor in compactors {
        compactions += compactor.await.unwrap();
    }
    let seen = reader.await.unwrap();
    let reads = seen.len();
    for (version, rows) in seen {
        assert_eq!(rows, expected(&log, version), "version {version} was not read as a whole");
    }
    let (version, rows) = world.read("a.t").await;
    assert_eq!(rows, expected(&log, version), "version {version}, the last");
    println!(
        "{:.0} s: {acknowledged} writes acknowledged, {refused} refused, {compactions} compactions, {reads} reads, v{version}",
        began.elapsed().as_secs_f64()
    );
    assert!(compactions > 2 && acknowledged > 10 && reads > 2, "{compactions} {acknowledged} {reads}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 8)]
async fn everybody_at_once_on_the_local_file_system() {
    everybody_at_once(World::local(), SECONDS).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 8)]
async fn everybody_at_once_on_a_store_with_conditional_puts() {
    everybody_at_once(World::memory(), SECONDS).await;
}

/// `cargo test -p duckrun-testkit --test integration for_a_minute -- --ignored --nocapture`
#[tokio::test(flavor = "multi_thread", worker_threads = 8)]
#[ignore = "takes a minute"]
async fn everybody_at_once_for_a_minute() {
    everybody_at_once(World::local(), 60).await;
}

/// Plain delta-rs appenders, compactor and overwriter beside ours with the guard. What delta-rs does to itself ours cannot
/// help; here its compactor and overwriter always start from a snapshot that is stale, so the guard must make them fail.
async fn beside_plain_delta_rs(seconds: u64) {
    let world = fragments(4).await;
    let folder = world.folder("a.t");
    let stop = Arc::new(AtomicBool::new(false));
    let options = MaintenanceOptions { guard_foreign_writers: true, ..MaintenanceOptions::default() };
    let appenders: Vec<_> = (1..=2)
        .map(|writer: i64| {
            let (folder, stop) = (folder.clone(), stop.clone());
            tokio::spawn(async move {
                let (mut acknowledged, mut failed) = (BTreeSet::new(), 0);
                for n in 0.. {
                    if stop.load(Ordering::SeqCst) {
                        break;
                    }
                    let number = writer * 1_000_000 + n;
                    let append = delta_rs(&folder).await.write(vec![batch(&[number])]).with_save_mode(SaveMode::Append);
                    // The guard also stops foreign appends that are in flight; that they say so is what counts.
                    match append.await {
                        Ok(_) => drop(acknowledged.insert(number)),
                        Err(_) => failed += 1,
                    }
                }
                (acknowledged, failed)
            })
        })
        .collect();
    let ours = {
        let (world, stop, folder) = (world.clone(), stop.clone(), folder.clone());
        tokio::spawn(async move {
            let session = world.session().maintenance(false).maintenance_options(options).await.unwrap();
            let (mut compactions, mut stopped) = (0, 0);
            while !stop.load(Ordering::SeqCst) {
                // Two that stand for all that is stale: opened before our compaction, committing after it.
                let (compactor, overwriter) = (delta_rs(&folder).await, delta_rs(&folder).await);
                let report = clean(session.maintain("a.t").compact().checkpoint()).await;
                if report.tables[0].1.committed().is_none() {
                    continue;
                }
                compactions += 1;
                stopped += usize::from(compactor.optimize().await.is_err());
                let overwrite = overwriter.write(vec![batch(&[-1])]).with_save_mode(SaveMode::Overwrite);
                stopped += usize::from(overwrite.await.is_err());
            }
            (compactions, stopped)
        })
    };
    let reader = {
        let (world, stop) = (world.clone(), stop.clone());
        tokio::spawn(async move {
            let session = world.session().await.unwrap();
            let mut before = Vec::new();
            while !stop.load(Ordering::SeqCst) {
                let snapshot = session.snapshot("a.t", At::Latest).await.unwrap();
                let rows = world.numbers(&snapshot, "a.t").await.unwrap();
                let distinct: BTreeSet<i64> = rows.iter().copied().collect();
                assert_eq!(distinct.len(), rows.len(), "duplicates at version {}", snapshot.version());
                assert!(
                    before.iter().all(|n| distinct.contains(n)),
                    "rows were lost at version {}",
                    snapshot.version()
                );
                before = rows;
            }
        })
    };
    tokio::time::sleep(Duration::from_secs(seconds)).await;
    stop.store(true, Ordering::SeqCst);
    let mut rows: BTreeSet<i64> = (0..4).collect();
    let mut failed = 0;
    for appender in appenders {
        let (acknowledged, no) = appender.await.unwrap();
        rows.extend(acknowledged);
        failed += no;
    }
    let (compactions, stopped) = ours.await.unwrap();
    reader.await.unwrap();
    let expected: Vec<i64> = rows.into_iter().collect();
    println!(
        "{} foreign rows, {failed} foreign appends stopped, {compactions} compactions, {stopped} stale writers stopped",
        expected.len()
    );
    assert_eq!(world.read("a.t").await.1, expected);
    assert!(compactions > 2, "{compactions}");
    assert_eq!(stopped, 2 * compactions, "a stale foreign writer passed the guard");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 8)]
async fn beside_plain_delta_rs_writers() {
    beside_plain_delta_rs(SECONDS / 2).await;
}

/// `cargo test -p duckrun-testkit --test integration for_a_minute -- --ignored --nocapture`
#[tokio::test(flavor = "multi_thread", worker_threads = 8)]
#[ignore = "takes a minute"]
async fn beside_plain_delta_rs_for_a_minute() {
    beside_plain_delta_rs(60).await;
}
