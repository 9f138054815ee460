//! The protocol in a deterministic simulation: many short schedules, each from a seed of its own; and what it has found.

use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use chrono::{DateTime, TimeDelta, Utc};
use duckrun::core::{Clock, ConflictPolicy, Intent, Staged, StagedFile, WriteAction, WritePlan};
use duckrun::memory::{EffectiveLimit, Job, plan};
use duckrun::{At, CommitOutcome, DeltaStore, ErrorKind, Location, MemorySettings, RunContext, TableStore};
use duckrun_testkit::simulation::Simulation;
use duckrun_testkit::{Fault, FaultyStore, Operation, Tally};
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use url::Url;

/// A number from the environment.
fn ask(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|v| v.parse().ok()).unwrap_or(default)
}

/// Seeds from `first` on, until there were so many operations; a line for each.
fn campaign(first: u64, operations: u64, of_each: u64) -> Tally {
    let mut all = Tally::default();
    for seed in first.. {
        let started = Instant::now();
        let (tally, _, simulated) = Simulation::new(seed).operations(of_each.min(operations - all.operations)).trace();
        println!(
            "seed {seed}: {} operations, {} commits, {} conflicts, {} faults, {} kills, {} hours in {:.1} s",
            tally.operations,
            tally.commits,
            tally.conflicts,
            tally.faults,
            tally.kills,
            simulated.num_hours(),
            started.elapsed().as_secs_f64()
        );
        all.absorb(tally);
        if all.operations >= operations || !all.is_clean() {
            break;
        }
    }
    all
}

#[test]
fn ten_thousand_operations_keep_every_promise() {
    let all = campaign(ask("SIMULATION_SEED", 1), ask("SIMULATION_OPERATIONS", 10_000), 2_000);
    println!("{all:?}");
    assert!(all.is_clean(), "{:#?}", all.violations);
    assert!(all.commits * 3 > all.operations && all.conflicts > 0 && all.faults > 0 && all.kills > 0, "{all:?}");
}

#[test]
fn the_same_seed_is_the_same_schedule() {
    for seed in [1, 2] {
        let simulation = Simulation::new(seed).operations(600);
        let once = simulation.trace();
        // However busy the machine is.
        let again = std::thread::scope(|scope| {
            let all: Vec<_> = (0..4).map(|_| scope.spawn(|| simulation.trace())).collect();
            all.into_iter().map(|one| one.join().unwrap()).collect::<Vec<_>>()
        });
        assert!(again.iter().all(|one| *one == once), "seed {seed}: {once:?}, {again:?}");
        assert_ne!(once.1, Simulation::new(seed + 10).operations(300).trace().1);
    }
    // Fewer operations are the beginning of the same schedule, and every setting has its effect.
    let plain = Simulation::new(3).operations(200).actors(3).faults(false).kills(false).run();
    assert_eq!((plain.operations, plain.faults, plain.kills), (200, 0, 0));
    assert!(plain.is_clean(), "{:#?}", plain.violations);
}

/// As many operations as time allows; a line for each seed. Ask with `SIMULATION_SECONDS` and `SIMULATION_SEED`.
#[test]
#[ignore = "as long as it is asked to be"]
fn for_as_long_as_it_is_asked() {
    let (started, seconds) = (Instant::now(), ask("SIMULATION_SECONDS", 3_600));
    let mut all = Tally::default();
    for seed in ask("SIMULATION_SEED", 1_000).. {
        all.absorb(campaign(seed, 5_000, 5_000));
        println!("so far, to seed {seed}, in {} s: {all:?}", started.elapsed().as_secs());
        if started.elapsed().as_secs() >= seconds || !all.is_clean() {
            break;
        }
    }
    assert!(all.is_clean(), "{:#?}", all.violations);
}

/// A clock that is moved by hand.
#[derive(Debug, Default)]
struct Hand(AtomicI64);

impl Clock for Hand {
    fn now(&self) -> DateTime<Utc> {
        Utc::now() + TimeDelta::minutes(self.0.load(Ordering::SeqCst))
    }
}

fn table(store: Arc<dyn ObjectStore>, clock: Arc<Hand>) -> DeltaStore {
    let url = Url::parse("mem://lake/t/").unwrap();
    DeltaStore::new(Location::in_store(&url, store, &Path::from("t")).unwrap().with_clock(clock))
}

/// Appends a file that nobody reads, which was written just now.
async fn append(
    table: &DeltaStore,
    at: Option<&Arc<dyn duckrun::Snapshot>>,
    name: &str,
) -> duckrun::Result<CommitOutcome> {
    use duckrun::arrow::datatypes::{DataType, Field, Schema};
    let schema = Arc::new(Schema::new(vec![Field::new("n", DataType::Int64, true)]));
    let mut write = WritePlan::new("append", WriteAction::Append, schema.clone(), Vec::new(), ConflictPolicy::Blind);
    if at.is_none() {
        write.metadata.schema = Some(schema);
        write.metadata.properties = [("delta.logRetentionDuration".to_owned(), "interval 2 hours".to_owned())].into();
    }
    let limit = EffectiveLimit::explicit(1 << 30, 2);
    let cx = RunContext::new(plan(&limit, &MemorySettings::default(), Job::Write).unwrap());
    let modified = Utc::now().timestamp_millis();
    let file = StagedFile::new(name.to_owned(), 1, 1, Default::default(), None, modified);
    table.commit(&cx, at, &Intent::new(write, Staged::new(vec![file]))).await
}

/// A run that has read its snapshot longer ago than the log is kept, and whose files are young, took the next version where the
/// log had been cleaned up after it: the commit was acknowledged, and no reader ever saw it (simulation, seeds 100 and 120).
#[tokio::test]
async fn a_run_does_not_commit_into_a_log_that_was_cleaned_up_after_its_snapshot() {
    let (store, clock) = (Arc::new(InMemory::new()), Arc::new(Hand::default()));
    let table = table(store.clone(), clock.clone());
    assert!(matches!(append(&table, None, "a").await, Ok(CommitOutcome::Committed(_))));
    let old = table.snapshot(At::Latest).await.unwrap();
    clock.0.store(90, Ordering::SeqCst);
    // Half the retention has passed, and the log is still there.
    assert!(matches!(append(&table, old.as_ref(), "b").await, Ok(CommitOutcome::Committed(_))));
    let entry = Path::from("t/_delta_log/00000000000000000000.json");
    let bytes = store.get(&entry).await.unwrap().bytes().await.unwrap();
    store.delete(&entry).await.unwrap();
    let e = append(&table, old.as_ref(), "c").await.unwrap_err();
    assert!(e.kind() == ErrorKind::Unavailable && e.message().contains("no longer in the log"), "{e}");
    store.put(&entry, bytes.into()).await.unwrap();
    clock.0.store(130, Ordering::SeqCst);
    let e = append(&table, old.as_ref(), "d").await.unwrap_err();
    assert!(e.kind() == ErrorKind::Unavailable && e.message().contains("run again"), "{e}");
    let fresh = table.snapshot(At::Latest).await.unwrap();
    assert!(matches!(append(&table, fresh.as_ref(), "e").await, Ok(CommitOutcome::Committed(_))));
}

/// A first run that took longer than others needed to create the table, fill it and clean its log up put version 0 once more: it was
/// acknowledged, and no reader ever saw it (simulation, seed 1 after 21,705 operations).
#[tokio::test]
async fn a_first_run_does_not_commit_into_a_log_that_was_cleaned_up() {
    let store = Arc::new(InMemory::new());
    let table = table(store.clone(), Arc::default());
    assert!(table.snapshot(At::Latest).await.unwrap().is_none());
    assert!(matches!(append(&table, None, "a").await, Ok(CommitOutcome::Committed(_))));
    let at = table.snapshot(At::Latest).await.unwrap();
    assert!(matches!(append(&table, at.as_ref(), "b").await, Ok(CommitOutcome::Committed(_))));
    store.delete(&Path::from("t/_delta_log/00000000000000000000.json")).await.unwrap();
    let outcome = append(&table, None, "c").await.unwrap();
    assert!(matches!(&outcome, CommitOutcome::Conflict { read: None, found: 1, .. }), "{outcome:?}");
}

/// A version that somebody committed between two looks at the log was called corrupt (simulation, seed 4; one that was met in a
/// conflict, seed 2008; one that was asked for by its number, seed 2136).
#[tokio::test]
async fn a_version_that_is_committed_while_it_is_opened_is_there_or_not() {
    for version in [0, 1] {
        for at in [At::Latest, At::Version(version)] {
            let mut opened = 0;
            for nth in 0..8 {
                let inner = Arc::new(InMemory::new());
                let other = table(inner.clone(), Arc::default());
                for _ in 0..=version {
                    let at = other.snapshot(At::Latest).await.unwrap();
                    assert!(matches!(append(&other, at.as_ref(), "a").await, Ok(CommitOutcome::Committed(_))));
                }
                let entry = Path::from(format!("t/_delta_log/{version:020}.json"));
                let bytes = Mutex::new(Some(inner.get(&entry).await.unwrap().bytes().await.unwrap()));
                inner.delete(&entry).await.unwrap();
                let faulty = FaultyStore::new(inner.clone());
                let requests = AtomicUsize::new(0);
                faulty.set_rule(move |_, _| {
                    if requests.fetch_add(1, Ordering::SeqCst) == nth
                        && let Some(bytes) = bytes.lock().unwrap().take()
                    {
                        futures::executor::block_on(inner.put(&entry, bytes.into())).unwrap();
                    }
                    None
                });
                match table(Arc::new(faulty), Arc::default()).snapshot(at).await {
                    Ok(Some(snapshot)) if snapshot.version() == version => opened += 1,
                    Ok(Some(snapshot)) => assert_eq!((at, snapshot.version()), (At::Latest, 0)),
                    Ok(None) => assert_eq!((at, version), (At::Latest, 0)),
                    Err(e) => {
                        assert!(at != At::Latest && e.kind() == ErrorKind::NotFound, "{at:?}, request {nth}: {e}")
                    }
                }
            }
            assert!(opened > 0, "{at:?}");
        }
    }
}

/// A store that says "exists" where nothing is (S3's 409 while another put is under way, perhaps our own that timed out) was taken
/// for another writer's commit: the run was refused and its files removed, and then its first put arrived (simulation, seed 120).
#[tokio::test]
async fn exists_is_not_believed_where_nothing_is() {
    let faulty = FaultyStore::new(InMemory::new());
    let table = table(Arc::new(faulty.clone()), Arc::default());
    assert!(matches!(append(&table, None, "a").await, Ok(CommitOutcome::Committed(_))));
    let at = table.snapshot(At::Latest).await.unwrap();
    let puts = AtomicUsize::new(0);
    faulty.set_rule(move |operation, path| {
        let commits = operation == Operation::Put && path.as_ref().ends_with("1.json");
        commits.then(|| [Fault::LostRequest, Fault::Conflict].get(puts.fetch_add(1, Ordering::SeqCst)).copied())?
    });
    let outcome = append(&table, at.as_ref(), "b").await.unwrap();
    assert!(matches!(&outcome, CommitOutcome::Committed(commit) if commit.version == 1), "{outcome:?}");
}
