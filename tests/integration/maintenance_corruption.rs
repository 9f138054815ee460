//! Maintenance beside writers, for seconds on end. delta-rs's own OPTIMIZE retries past any commit, because its conflict check
//! ignores removes with `dataChange=false` (delta-rs 1.1.3, `operations/optimize.rs:967-988`, `kernel/transaction/conflict_checker.rs`;
//! two releases of its Python package were yanked for it): two of them from one snapshot duplicate every row, and a stale overwrite
//! after one leaves the old rows in the table. The first test shows that with plain delta-rs; the others show that ours cannot do it,
//! on the local file system and on a store with conditional puts, beside writers of ours and beside plain delta-rs.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use deltalake::DeltaTable;
use deltalake::arrow::array::{ArrayRef, Int64Array, RecordBatch};
use deltalake::protocol::SaveMode;
use duckrun::core::maintenance::Action;
use duckrun::{Append, At, CommitOutcome, MaintenanceOptions, Merge, Model, Overwrite, SafeAppend};
use duckrun_testkit::Emulated;
use url::Url;

use crate::emulators;
use crate::maintained::{World, clean, once, wait};

/// How long the writers write at least; the ignored tests write for a minute.
const SECONDS: u64 = 4;

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

/// What a commit did to the rows, which are pairs of the number of the write that brought them and of the one that changed them last.
#[derive(Debug, Clone, Copy)]
enum Did {
    Append(i64),
    Overwrite(i64),
    /// Rows of a number are changed, or one comes in where there are none.
    Merge {
        key: i64,
        by: i64,
    },
}

/// What was acknowledged, by version.
type Log = BTreeMap<u64, Did>;

/// The rows that a version must have.
fn expected(log: &Log, version: u64) -> Vec<[i64; 2]> {
    let mut rows: Vec<[i64; 2]> = Vec::new();
    let new = |number: i64| std::iter::repeat_n([number, number], ROWS as usize);
    for did in log.range(..=version).map(|(_, did)| *did) {
        match did {
            Did::Append(number) => rows.extend(new(number)),
            Did::Overwrite(number) => rows = new(number).collect(),
            Did::Merge { key, by } if rows.iter().any(|row| row[0] == key) => {
                rows.iter_mut().filter(|row| row[0] == key).for_each(|row| row[1] = by);
            }
            Did::Merge { key, by } => rows.push([key, by]),
        }
    }
    rows.sort_unstable();
    rows
}

/// The writers, by what they do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Writer {
    Append,
    SafeAppend,
    Overwrite,
    Merge,
}

impl Writer {
    /// The model of a write, and what it does if it is acknowledged.
    fn model(self, session: &duckrun::Session, number: u64) -> (Model, Did) {
        let number = number as i64;
        let new = format!("select {number}::bigint as n, {number}::bigint as v from range({ROWS})");
        let model = session.model("a.t");
        match self {
            Self::Append => (model.sql(new).strategy(Append::default()), Did::Append(number)),
            Self::SafeAppend => (model.sql(new).strategy(SafeAppend), Did::Append(number)),
            // By turns with and without a look at what was read.
            Self::Overwrite if number % 2 == 0 => {
                (model.sql(new).strategy(Overwrite::default().blind()), Did::Overwrite(number))
            }
            Self::Overwrite => (model.sql(new).strategy(Overwrite::default()).retries(3), Did::Overwrite(number)),
            Self::Merge => {
                // A key of long ago, or of a moment ago, or one that nobody has.
                let key = [number / 2, (number - 3).max(0), number][number as usize % 3];
                let changed = format!("select {key}::bigint as n, {number}::bigint as v");
                (model.sql(changed).strategy(Merge::on(["n"])).retries(10), Did::Merge { key, by: number })
            }
        }
    }

    /// How long it waits between two writes.
    fn pause(self) -> Duration {
        Duration::from_millis(if self == Self::Overwrite { 700 } else { 0 })
    }
}

/// Two compaction loops, two appenders, a merger, an overwriter, a fenced appender, a reader. What every reader saw and what is
/// there in the end is exactly what was acknowledged.
///
/// With `bursts` the appenders rest for two of every four seconds: on a slow store an overwrite or a merge, which has to read the
/// table between its rivals' commits, would otherwise hardly ever get through.
async fn everybody_at_once(world: World, seconds: u64, bursts: bool) {
    let start = world.session().maintenance(false).await.unwrap();
    let (first, did) = Writer::Append.model(&start, 0);
    assert_eq!(first.property("delta.checkpointInterval", "10").run().await.unwrap().version(), Some(0));
    let stop = Arc::new(AtomicBool::new(false));
    let numbers = Arc::new(AtomicU64::new(1));
    let tally = Arc::new(Mutex::new(BTreeMap::<String, u64>::new()));
    let count = |what: &str| {
        let (tally, what) = (tally.clone(), what.to_owned());
        move || *tally.lock().unwrap().entry(what.clone()).or_default() += 1
    };
    let began = Instant::now();
    let mut writers = Vec::new();
    for writer in [Writer::Append, Writer::Append, Writer::Overwrite, Writer::Merge, Writer::SafeAppend] {
        // One of them has the maintenance that every run has by default.
        let session = world.session().maintenance(writer == Writer::SafeAppend).await.unwrap();
        let (stop, numbers) = (stop.clone(), numbers.clone());
        let done = count(&format!("{writer:?}"));
        let refused = count("refused");
        writers.push(tokio::spawn(async move {
            let mut log = Log::new();
            while !stop.load(Ordering::SeqCst) {
                let (model, did) = writer.model(&session, numbers.fetch_add(1, Ordering::SeqCst));
                match model.run().await.unwrap().outcome {
                    CommitOutcome::Committed(commit) => {
                        assert!(log.insert(commit.version, did).is_none());
                        done();
                    }
                    CommitOutcome::Conflict { .. } => refused(),
                    other => panic!("{other:?}"),
                }
                tokio::time::sleep(writer.pause()).await;
                let appends = matches!(writer, Writer::Append | Writer::SafeAppend);
                while bursts && appends && began.elapsed().as_secs() % 4 >= 2 && !stop.load(Ordering::SeqCst) {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
            log
        }));
    }
    let compactors: Vec<_> = (0..2)
        .map(|n| {
            let (world, stop, done) = (world.clone(), stop.clone(), count("compaction"));
            tokio::spawn(async move {
                let options = MaintenanceOptions { guard_foreign_writers: n == 0, ..MaintenanceOptions::default() };
                let session = world.session().maintenance(false).maintenance_options(options).await.unwrap();
                while !stop.load(Ordering::SeqCst) {
                    let maintain = session.maintain("a.t").compact().checkpoint();
                    // Vacuums delete nothing here, but their markers stand among the commits.
                    let maintain = if n == 1 { maintain.vacuum(Duration::ZERO) } else { maintain };
                    let report = clean(maintain).await;
                    let applied = report.tables[0].1.applied();
                    applied
                        .filter(|a| matches!(a.action, Action::Compact { .. }) && a.version.is_some())
                        .for_each(|_| done());
                }
            })
        })
        .collect();
    let reader = {
        let (world, stop, done) = (world.clone(), stop.clone(), count("read"));
        tokio::spawn(async move {
            let session = world.session().await.unwrap();
            let mut seen: Vec<(u64, Vec<[i64; 2]>)> = Vec::new();
            while !stop.load(Ordering::SeqCst) {
                let snapshot = session.snapshot("a.t", At::Latest).await.unwrap();
                seen.push((snapshot.version(), world.columns(&snapshot, "a.t", ["n", "v"]).await.unwrap()));
                done();
            }
            seen
        })
    };
    // So long, and until everybody has met somebody.
    let busy = |what: &str| tally.lock().unwrap().get(what).is_some_and(|n| *n > 1);
    let all = ["Append", "Overwrite", "Merge", "SafeAppend", "compaction", "read"];
    while began.elapsed() < Duration::from_secs(seconds) || !all.into_iter().all(busy) {
        let so_far = format!("{:?}", tally.lock().unwrap());
        assert!(began.elapsed() < Duration::from_secs(seconds + 120), "somebody starves: {so_far}");
        assert!(!reader.is_finished() && !compactors.iter().any(tokio::task::JoinHandle::is_finished), "one has died");
        assert!(!writers.iter().any(tokio::task::JoinHandle::is_finished), "a writer has died");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    stop.store(true, Ordering::SeqCst);
    let elapsed = began.elapsed().as_secs_f64();
    let mut log = Log::from([(0, did)]);
    for writer in writers {
        for (version, did) in writer.await.unwrap() {
            assert!(log.insert(version, did).is_none(), "version {version} was acknowledged twice");
        }
    }
    for compactor in compactors {
        compactor.await.unwrap();
    }
    for (version, rows) in reader.await.unwrap() {
        assert_eq!(rows, expected(&log, version), "version {version} was not read as a whole");
    }
    let session = world.session().await.unwrap();
    let snapshot = session.snapshot("a.t", At::Latest).await.unwrap();
    let (version, rows) = (snapshot.version(), world.columns(&snapshot, "a.t", ["n", "v"]).await.unwrap());
    assert_eq!(rows, expected(&log, version), "version {version}, the last");
    println!("{elapsed:.0} s: v{version}, {} rows, {:?}", rows.len(), tally.lock().unwrap());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 8)]
async fn everybody_at_once_on_the_local_file_system() {
    everybody_at_once(World::local(), SECONDS, false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 8)]
async fn everybody_at_once_on_a_store_with_conditional_puts() {
    everybody_at_once(World::memory(), SECONDS, false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 8)]
async fn everybody_at_once_on_s3() {
    if let Some(emulator) = emulators::start(Emulated::S3).await {
        everybody_at_once(World::emulated(emulator), SECONDS, true).await;
    }
}

/// `cargo test -p duckrun-testkit --test integration for_a_minute -- --ignored --nocapture`
#[tokio::test(flavor = "multi_thread", worker_threads = 8)]
#[ignore = "takes a minute"]
async fn everybody_at_once_for_a_minute() {
    everybody_at_once(World::local(), 60, false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 8)]
#[ignore = "takes a minute"]
async fn everybody_at_once_on_s3_for_a_minute() {
    let emulator = emulators::start(Emulated::S3).await.expect("an emulator of S3");
    everybody_at_once(World::emulated(emulator), 60, true).await;
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
    beside_plain_delta_rs(SECONDS).await;
}

/// `cargo test -p duckrun-testkit --test integration for_a_minute -- --ignored --nocapture`
#[tokio::test(flavor = "multi_thread", worker_threads = 8)]
#[ignore = "takes a minute"]
async fn beside_plain_delta_rs_for_a_minute() {
    beside_plain_delta_rs(60).await;
}
