//! Every kind of maintenance against every kind of write, one of which happens while the other is on its way, at each of its
//! moments: the rows are those of the write alone, or the write is refused and leaves nothing; maintenance never fails, and no
//! version ever shows anything in between.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use chrono::{DateTime, Utc};
use duckrun::{
    Append, At, BatchSize, CommitOutcome, Delete, MaintainReport, Merge, Microbatch, Model, Overwrite, ReplaceWhere,
    SafeAppend, Session, TableStore, Update,
};
use duckrun_testkit::{Interleaved, Moment, Operation};
use futures::StreamExt;

use crate::maintained::{World, clean};

/// Six rows in three files, and a file of a crashed run that is old enough to go.
const ORPHAN: &str = "part-00000-of-a-crashed-run.parquet";
const BEFORE: [[i64; 2]; 6] = [[1, 0], [2, 0], [3, 0], [4, 0], [5, 0], [6, 0]];
const WEEK: Duration = Duration::from_secs(7 * 24 * 60 * 60);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Upkeep {
    Compaction,
    ZOrder,
    Vacuum,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Write {
    Append,
    SafeAppend,
    Merge,
    Delete,
    Update,
    Overwrite,
    ReplaceWhere,
    Microbatch,
}

const UPKEEPS: [Upkeep; 3] = [Upkeep::Compaction, Upkeep::ZOrder, Upkeep::Vacuum];
const WRITES: [Write; 8] = [
    Write::Append,
    Write::SafeAppend,
    Write::Merge,
    Write::Delete,
    Write::Update,
    Write::Overwrite,
    Write::ReplaceWhere,
    Write::Microbatch,
];

impl Upkeep {
    async fn run(self, session: &Session) -> MaintainReport {
        let maintain = session.maintain("a.t");
        clean(match self {
            Self::Compaction => maintain.compact(),
            Self::ZOrder => maintain.z_order(["id", "v"]),
            Self::Vacuum => maintain.vacuum(WEEK),
        })
        .await
    }
}

impl Write {
    fn model(self, session: &Session) -> Model {
        let rows = |rows: &str| {
            session.model("a.t").sql(format!(
                "select id::bigint as id, v::bigint as v, timestamp '2024-01-01' + interval (id - 1) day as t \
                 from (values {rows}) r(id, v)"
            ))
        };
        let day = |day: u32| -> DateTime<Utc> { format!("2024-01-{day:02}T00:00:00Z").parse().unwrap() };
        match self {
            Self::Append => rows("(7, 1)").strategy(Append::default()),
            Self::SafeAppend => rows("(7, 1)").strategy(SafeAppend),
            Self::Merge => rows("(1, 1), (7, 1)").strategy(Merge::on(["id"])),
            Self::Delete => session.model("a.t").strategy(Delete::rows_where("id = 3")),
            Self::Update => session.model("a.t").strategy(Update::new([("v", "1")]).rows_where("id = 5")),
            Self::Overwrite => rows("(1, 1)").strategy(Overwrite::default()),
            Self::ReplaceWhere => rows("(2, 1)").strategy(ReplaceWhere::new("id <= 2")),
            Self::Microbatch => {
                rows("(4, 1)").strategy(Microbatch::new("t", BatchSize::Day).begin(day(4)).end(day(5)).lookback(0))
            }
        }
    }

    fn after(self) -> Vec<[i64; 2]> {
        let mut rows = BEFORE.to_vec();
        match self {
            Self::Append | Self::SafeAppend => rows.push([7, 1]),
            Self::Merge => {
                rows[0][1] = 1;
                rows.push([7, 1]);
            }
            Self::Delete => drop(rows.remove(2)),
            Self::Update => rows[4][1] = 1,
            Self::Overwrite => rows = vec![[1, 1]],
            Self::ReplaceWhere => drop(rows.splice(..2, [[2, 1]])),
            Self::Microbatch => rows[3][1] = 1,
        }
        rows
    }
}

async fn quiet(world: &World) -> Session {
    world.session().maintenance(false).await.unwrap()
}

async fn world() -> World {
    static WRITTEN: tokio::sync::OnceCell<World> = tokio::sync::OnceCell::const_new();
    let written = async {
        let world = World::local();
        let session = quiet(&world).await;
        for n in [1, 3, 5] {
            let sql = format!(
                "select id::bigint as id, 0::bigint as v, timestamp '2024-01-01' + interval (id - 1) day as t \
                 from range({n}, {n} + 2) r(id)"
            );
            session.model("a.t").sql(sql).run().await.unwrap().committed().map(drop).unwrap();
        }
        world
    };
    let world = WRITTEN.get_or_init(|| written).await.copy();
    let orphan = world.folder("a.t").join(ORPHAN);
    std::fs::write(&orphan, "rows").unwrap();
    let old = std::time::SystemTime::now() - 2 * WEEK;
    std::fs::File::options().append(true).open(&orphan).unwrap().set_modified(old).unwrap();
    world
}

async fn rows(world: &World, session: &Session, at: At) -> Vec<[i64; 2]> {
    let snapshot = session.snapshot("a.t", at).await.unwrap();
    world.columns(&snapshot, "a.t", ["id", "v"]).await.unwrap()
}

/// Every version has the rows from before or those from after, in this order; the newest those that are wanted.
async fn check_versions(world: &World, want: &[[i64; 2]], after: &[[i64; 2]], what: &str) {
    let session = quiet(world).await;
    let newest = session.snapshot("a.t", At::Latest).await.unwrap().version();
    let mut changed = false;
    for version in 2..=newest {
        let rows = rows(world, &session, At::Version(version)).await;
        changed |= rows == after;
        assert_eq!(rows, if changed { after } else { &BEFORE[..] }, "{what}, at version {version}");
    }
    assert_eq!(rows(world, &session, At::Latest).await, want, "{what}");
}

/// Data files that no commit has ever named.
fn unnamed(folder: &Path) -> Vec<PathBuf> {
    let log: String = duckrun_testkit::log_versions(folder)
        .iter()
        .map(|v| std::fs::read_to_string(folder.join(format!("_delta_log/{v:020}.json"))).unwrap())
        .collect();
    let name = |p: &PathBuf| p.file_name().unwrap().to_string_lossy().into_owned();
    duckrun_testkit::data_files(folder).into_iter().filter(|p| !log.contains(&name(p))).collect()
}

/// A write in whose midst maintenance happens. `None` where the moment never comes, else whether it was refused.
async fn maintained_midway(upkeep: Upkeep, write: Write, moment: Moment, retries: u32) -> Option<bool> {
    let what = format!("{upkeep:?} at {moment:?} of {write:?}");
    let world = world().await;
    let (session, other) = (quiet(&world).await, quiet(&world).await);
    let inner: Arc<dyn TableStore> = Arc::new(session.table("a.t").unwrap().store().clone());
    let told = what.clone();
    let store = Interleaved::new(inner, moment, async move {
        let report = upkeep.run(&other).await;
        let committed = report.tables[0].1.committed();
        assert_eq!(committed, Some(if upkeep == Upkeep::Vacuum { 4 } else { 3 }), "{told}: {report}");
    });
    let report = write.model(&session).retries(retries).store(store.clone()).run().await;
    let report = report.unwrap_or_else(|e| panic!("{what}: {e}"));
    if !store.happened() {
        return None;
    }
    let after = write.after();
    let refused = match report.outcome {
        CommitOutcome::Conflict { .. } => true,
        CommitOutcome::Committed(_) => false,
        other => panic!("{what}: {other:?}"),
    };
    check_versions(&world, if refused { &BEFORE } else { &after }, &after, &what).await;
    let left = unnamed(&world.folder("a.t"));
    let orphan = upkeep != Upkeep::Vacuum;
    assert_eq!(left.len(), usize::from(orphan), "{what}: {left:?}");
    assert_eq!(world.folder("a.t").join(ORPHAN).exists(), orphan, "{what}");
    Some(refused)
}

/// Which writes a rewrite of their files refuses, if they may not read again. Whatever is not named here passes.
fn is_refused_by(write: Write, upkeep: Upkeep) -> bool {
    let reads_rows = !matches!(write, Write::Append | Write::SafeAppend | Write::Overwrite);
    reads_rows && upkeep != Upkeep::Vacuum
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn writes_in_whose_midst_maintenance_happens() {
    let moments = [Moment::Pinned, Moment::Stage, Moment::Rewrite, Moment::Commit];
    let pairs = UPKEEPS.into_iter().flat_map(|upkeep| WRITES.into_iter().map(move |write| (upkeep, write)));
    let pairs = pairs.map(|(upkeep, write)| {
        tokio::spawn(async move {
            let mut seen = Vec::new();
            for moment in moments {
                let Some(refused) = maintained_midway(upkeep, write, moment, 0).await else { continue };
                // A microbatch looks for its table before its window is pinned: that is before it begins.
                let early = write == Write::Microbatch && moment == Moment::Pinned;
                assert_eq!(refused, !early && is_refused_by(write, upkeep), "{upkeep:?} at {moment:?} of {write:?}");
                seen.push(moment);
                if refused {
                    let again = maintained_midway(upkeep, write, moment, 1).await;
                    assert_eq!(again, Some(false), "{write:?} was refused again after {upkeep:?} at {moment:?}");
                }
            }
            assert!(
                seen.contains(&Moment::Pinned) && seen.contains(&Moment::Commit),
                "{upkeep:?}, {write:?}: {seen:?}"
            );
        })
    });
    let mut done = futures::stream::iter(pairs).buffer_unordered(4);
    while let Some(pair) = done.next().await {
        pair.unwrap();
    }
}

/// The moments of maintenance, as its store sees them: what it is about to ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ask {
    /// A file of rows, for the first and for the last time.
    Read(usize),
    /// A new file of rows.
    Stage,
    /// The n-th entry of the log.
    Commit(usize),
    /// The removal of the first file.
    Delete,
}

impl Ask {
    fn is(self, operation: Operation, path: &str) -> bool {
        let log = path.contains("_delta_log/");
        match self {
            Self::Read(_) => operation == Operation::Get && !log,
            Self::Stage => operation == Operation::Put && !log,
            Self::Commit(_) => operation == Operation::Put && log && path.ends_with(".json"),
            Self::Delete => operation == Operation::Delete && path.ends_with(ORPHAN),
        }
    }

    fn nth(self) -> usize {
        match self {
            Self::Read(n) | Self::Commit(n) => n,
            Self::Stage | Self::Delete => 0,
        }
    }
}

/// Maintenance in whose midst a write happens. Whether the moment came.
async fn written_midway(upkeep: Upkeep, write: Write, ask: Ask) -> bool {
    let what = format!("{write:?} at {ask:?} of {upkeep:?}");
    let world = world().await;
    let (hooked, store) = world.hooked();
    let happened = Arc::new(AtomicBool::new(false));
    let (report, seen, place) = (Arc::new(Mutex::new(None)), happened.clone(), world.clone());
    let told = report.clone();
    let mut times = 0;
    store.set_rule(move |operation, path| {
        times += usize::from(ask.is(operation, path.as_ref()));
        if times == ask.nth() + 1 && !seen.swap(true, Ordering::SeqCst) {
            let place = place.clone();
            // On threads of its own: maintenance waits for the answer of its store meanwhile.
            let run = move || {
                let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
                runtime.unwrap().block_on(async move { write.model(&quiet(&place).await).run().await })
            };
            *told.lock().unwrap() = Some(std::thread::spawn(run).join().unwrap().unwrap());
        }
        None
    });
    let maintained = upkeep.run(&quiet(&hooked).await).await;
    if !happened.load(Ordering::SeqCst) {
        return false;
    }
    // The write is first, or what came before it is harmless; but a vacuum that has begun already had its start in the log.
    let report = report.lock().unwrap().take().unwrap();
    assert!(report.version().is_some(), "{what}: {report}");
    check_versions(&world, &write.after(), &write.after(), &what).await;
    let committed = maintained.tables[0].1.committed();
    match (upkeep, write) {
        // Nothing, or a single file, may be left to merge. Everything else ends in a commit, in spite of the other's.
        (Upkeep::Compaction, Write::Overwrite) => {}
        _ => assert!(committed.is_some(), "{what}: {maintained}"),
    }
    assert_eq!(world.folder("a.t").join(ORPHAN).exists(), upkeep != Upkeep::Vacuum, "{what}");
    let named = unnamed(&world.folder("a.t")).len();
    assert_eq!(named, usize::from(upkeep != Upkeep::Vacuum), "{what}: a plan that was given up left files");
    true
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn maintenance_in_whose_midst_writes_happen() {
    let moments = |upkeep| match upkeep {
        Upkeep::Vacuum => vec![Ask::Commit(0), Ask::Delete, Ask::Commit(1)],
        _ => vec![Ask::Read(0), Ask::Read(5), Ask::Stage, Ask::Commit(0)],
    };
    let all = UPKEEPS.into_iter().flat_map(|upkeep| {
        WRITES.into_iter().flat_map(move |write| moments(upkeep).into_iter().map(move |ask| (upkeep, write, ask)))
    });
    let all = all.map(|(upkeep, write, ask)| {
        tokio::spawn(
            async move { assert!(written_midway(upkeep, write, ask).await, "{ask:?} of {upkeep:?} never came") },
        )
    });
    let mut done = futures::stream::iter(all).buffer_unordered(4);
    while let Some(one) = done.next().await {
        one.unwrap();
    }
}
