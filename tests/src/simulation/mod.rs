//! Deterministic simulation of the protocol: actors, a virtual clock, a simulated store with faults; one seed is one schedule.
//!
//! ```no_run
//! use duckrun_testkit::simulation::Simulation;
//! let tally = Simulation::new(1).operations(10_000).run();
//! assert!(tally.is_clean(), "{:#?}", tally.violations);
//! ```
//!
//! Actors append (blindly, fenced, under an application's transaction), overwrite, upsert, delete, compact, vacuum, write
//! checkpoints, clean the log up, and read: the newest version, an old one, a pinned one again. They run the library's own
//! code: snapshots, pruning, commits with their settling, judging and retrying, maintenance, the wrappers of stores. Their
//! requests and waits stop at a gate, where the schedule lets one process through at a time, kills some in the middle, and where
//! requests get lost, lose their answers, have their effect later, are throttled, denied, cut short. Clocks are skewed by
//! minutes, runs pause for hours; retentions are hours instead of days, so that a table sees several of them.
//!
//! After every commit the log is replayed beside a model: each commit must do to the rows what its run does right after the
//! version before (so the versions are a serial order), nothing twice, nothing that was refused, no gaps, no version replaced, no
//! file missing. What is acknowledged must be there; readers must see exactly whole versions, the newest ones, and the same again;
//! deleted files must be needed by nothing within the retention; what meets no fault must not fail. A run whose outcome is unknown, or
//! whose process was killed, is there as a whole or not at all.
//!
//! What it does not cover: DuckDB and strategies (rows are changed by the simulation itself), writing and rewriting data files (but for
//! compactions), local disks and their syncs, real networks and their clients, stores that list stale objects, processes that share
//! memory. Requests that one operation makes at once have their effects at once: their interleavings with others are not tried,
//! nor are those of threads inside an operation; of a compaction only the requests to the log are scheduled. Elsewhere than on Linux
//! it is not known whether threads that block are at work, and one seed may become another schedule on a busy machine.

mod bucket;
mod dice;
mod gate;
mod history;
mod operation;
mod schedule;
mod store;
mod threads;

use chrono::{DateTime, TimeDelta, Utc};

use self::gate::World;
use self::history::minutes;
use crate::Tally;

/// How long files are kept that versions no longer name, and log entries; scaled from days to hours.
const RETENTION: TimeDelta = minutes(120);
const LOG_RETENTION: TimeDelta = minutes(180);
/// What clocks and slow requests may make of a retention.
const MARGIN: TimeDelta = minutes(10);
/// The beginning of time, in milliseconds since the epoch: 2040. The future, because delta-rs asks the machine's clock which
/// tombstones a checkpoint may forget.
const BEGINNING: i64 = 2_208_988_800_000;

/// Something that is broken on purpose, to see whether it is found. Nothing in the libraries knows of these.
#[non_exhaustive]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mutation {
    /// Compare-and-swap: a put that must create replaces what is there, in the log.
    PutsOverwrite,
    /// Idempotency: the ids of runs in commits cannot be read, so a writer does not recognise a commit of its own whose answer was lost.
    ForgetsRuns,
    /// Pruning: statistics of new files say that the largest key is the smallest.
    WrongStatistics,
    /// Vacuum: no retention.
    VacuumsAtOnce,
}

/// A simulation: how much, and of what. The same settings always give the same [`Tally`].
#[non_exhaustive]
#[derive(Debug, Clone)]
pub struct Simulation {
    /// How many operations are begun.
    pub operations: u64,
    /// The seed of the schedule.
    pub seed: u64,
    /// How many actors there are.
    pub actors: usize,
    /// Whether requests meet faults.
    pub faults: bool,
    /// Whether processes are killed in the middle of operations.
    pub kills: bool,
    /// What is broken on purpose.
    pub mutation: Option<Mutation>,
}

impl Simulation {
    /// A thousand operations of eight actors, with faults and kills.
    pub fn new(seed: u64) -> Self {
        Self { operations: 1_000, seed, actors: 8, faults: true, kills: true, mutation: None }
    }

    /// So many operations. Fewer of them are the beginning of the same schedule.
    #[must_use]
    pub fn operations(mut self, operations: u64) -> Self {
        self.operations = operations;
        self
    }

    /// So many actors.
    #[must_use]
    pub fn actors(mut self, actors: usize) -> Self {
        self.actors = actors;
        self
    }

    /// With faults of the store, or without.
    #[must_use]
    pub fn faults(mut self, faults: bool) -> Self {
        self.faults = faults;
        self
    }

    /// With processes that are killed, or without.
    #[must_use]
    pub fn kills(mut self, kills: bool) -> Self {
        self.kills = kills;
        self
    }

    /// With something broken on purpose.
    #[must_use]
    pub fn mutation(mut self, mutation: Mutation) -> Self {
        self.mutation = Some(mutation);
        self
    }

    /// Runs it, on a runtime of its own, up to the first violation.
    pub fn run(&self) -> Tally {
        self.trace().0
    }

    /// Runs it, and tells beside the tally a number that every effect and every outcome went into, in their order, and how much
    /// time passed by the virtual clock.
    pub fn trace(&self) -> (Tally, u64, TimeDelta) {
        let beginning = DateTime::<Utc>::from_timestamp_millis(BEGINNING).unwrap_or_default();
        let world = World::new(schedule::rules(self), beginning);
        let (parks, goes_on) = (world.clone(), world.clone());
        let (begins, ends) = (world.clone(), world.clone());
        // One worker: the library's futures run one after another, and it is known when none of them can go on.
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .on_thread_park(move || parks.worker_parks(true))
            .on_thread_unpark(move || goes_on.worker_parks(false))
            .on_thread_start(move || begins.threads.begin())
            .on_thread_stop(move || ends.threads.end())
            .build();
        match runtime {
            Ok(runtime) => {
                let outcome = schedule::play(self, world, &runtime);
                runtime.shutdown_background();
                (outcome.tally, outcome.trace, outcome.simulated)
            }
            Err(e) => {
                let violations = vec![format!("the simulation has no runtime: {e}")];
                (Tally { violations, ..Tally::default() }, 0, TimeDelta::zero())
            }
        }
    }
}
