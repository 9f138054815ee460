//! Random sequences of runs, changes, maintenance, time travel, schema changes and reads on real tables, by several actors,
//! compared with the [`model`](crate::model) after every step.
//!
//! A [`Machine`] cuts its operations into episodes: each has a table of its own and a sequence drawn by `proptest-state-machine`
//! from the machine's seed and the episode's number, so that one seed is one sequence. After every step the newest version, its
//! columns and rows, and one older version are compared; at the end of an episode every version and the history.
//!
//! In a race a run has pinned its version when others commit. Whether it is then refused is its own decision, as long as it keeps
//! to the rules: refused, it leaves nothing; committed, the table is as if it had run after the others; with nothing to do, that
//! was true of the version that it had read. A blind append is refused for new metadata alone.
//!
//! A failure is shrunk: steps are left out and made simpler as long as it stays. The violation names the seed, the episode and the
//! smallest sequence.
//!
//! ```no_run
//! let tally = duckrun_testkit::machine::Machine::new(7).operations(500).run();
//! assert!(tally.is_clean(), "{:#?}", tally.violations);
//! ```
//!
//! What it does not cover: faults of the store and kills (see the campaign), runs that overlap in more than one moment, windows of
//! a microbatch that lose a race (the conformance suite has one), writers other than duckrun beside deletion vectors, and values
//! beyond what the generators draw.

mod apply;
mod shape;
mod step;
mod violation;
mod world;

use std::fmt;
use std::num::NonZero;
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use futures::FutureExt;
use object_store::ObjectStore;
use object_store::path::Path;
use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use proptest_state_machine::ReferenceStateMachine;
use url::Url;

use self::shape::Shape;
use self::step::{Sequence, Step};
use self::violation::{Failure, Violation, cut};
use self::world::World;
use crate::Tally;

/// Steps of an episode.
const STEPS: usize = 24;

/// Where the tables are.
#[derive(Clone, Default)]
#[non_exhaustive]
pub enum MachineStore {
    /// A temporary folder for each episode.
    #[default]
    Local,
    /// A store of the caller's.
    Store {
        /// The root's name.
        url: Url,
        /// The store.
        store: Arc<dyn ObjectStore>,
        /// The root's place in it. Every episode has a folder of its own below.
        prefix: Path,
    },
}

impl fmt::Debug for MachineStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Local => f.write_str("Local"),
            Self::Store { prefix, .. } => f.debug_struct("Store").field("prefix", prefix).finish_non_exhaustive(),
        }
    }
}

/// Sequences of operations on real tables. Nothing happens before [`run`](Machine::run).
#[derive(Debug, Clone)]
#[must_use = "a machine does nothing until it is run"]
pub struct Machine {
    seed: u64,
    operations: u64,
    episode: Option<u64>,
    store: MachineStore,
    threads: Option<usize>,
}

impl Machine {
    /// The sequences of a seed: 500 operations on local tables, unless told otherwise.
    pub fn new(seed: u64) -> Self {
        Self { seed, operations: 500, episode: None, store: MachineStore::default(), threads: None }
    }

    /// At least so many operations: runs, changes, maintenance, reads. The last episode is finished.
    pub fn operations(mut self, operations: u64) -> Self {
        self.operations = operations;
        self
    }

    /// Only this episode: how a violation is seen again.
    pub fn episode(mut self, episode: u64) -> Self {
        self.episode = Some(episode);
        self
    }

    /// Where the tables are.
    pub fn store(mut self, store: MachineStore) -> Self {
        self.store = store;
        self
    }

    /// How many episodes run side by side; by default as many as there are processors, at most four. What an episode does is
    /// the same.
    pub fn threads(mut self, threads: usize) -> Self {
        self.threads = Some(threads.max(1));
        self
    }

    /// Runs, with a runtime of its own; not to be called from within one.
    #[must_use]
    pub fn run(&self) -> Tally {
        let total = Mutex::new(Tally::default());
        let next = AtomicU64::new(self.episode.unwrap_or_default());
        let threads = match self.episode {
            Some(_) => 1,
            None => self.threads.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, NonZero::get).min(4)),
        };
        std::thread::scope(|scope| {
            for _ in 0..threads {
                scope.spawn(|| {
                    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
                    let runtime = match runtime {
                        Ok(runtime) => runtime,
                        Err(e) => {
                            lock(&total).violations.push(format!("there is no runtime: {e}"));
                            return;
                        }
                    };
                    loop {
                        let episode = next.fetch_add(1, Ordering::Relaxed);
                        let tally = self.play(&runtime, episode);
                        let mut total = lock(&total);
                        total.absorb(tally);
                        if self.episode.is_some() || total.operations >= self.operations {
                            return;
                        }
                    }
                });
            }
        });
        total.into_inner().unwrap_or_else(PoisonError::into_inner)
    }

    /// One episode; one that fails is made smaller.
    fn play(&self, runtime: &tokio::runtime::Runtime, episode: u64) -> Tally {
        let mut seed = [0; 32];
        seed[..8].copy_from_slice(&self.seed.to_le_bytes());
        seed[8..16].copy_from_slice(&episode.to_le_bytes());
        let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &seed);
        let mut runner = TestRunner::new_with_rng(Config::default(), rng);
        let mut tree = match Sequence::sequential_strategy(STEPS..=STEPS).new_tree(&mut runner) {
            Ok(tree) => tree,
            Err(e) => {
                let violations = vec![format!("seed {}, episode {episode}: no sequence: {e}", self.seed)];
                return Tally { violations, ..Tally::default() };
            }
        };
        let place = |n: u32| format!("machine-{}-{episode}-{n}-{}", self.seed, std::process::id());
        type Drawn = (Shape, Vec<Step>, Option<Arc<AtomicUsize>>);
        let attempt = |(shape, steps, seen): Drawn, n| {
            let done = runtime.block_on(attempt(&shape, &steps, &self.store, &place(n), || {
                if let Some(seen) = &seen {
                    seen.fetch_add(1, Ordering::SeqCst);
                }
            }));
            (shape, steps, done)
        };
        let (mut shape, mut steps, (mut tally, failure)) = attempt(tree.current(), 0);
        let Some(mut failure) = failure else { return tally };
        tracing::warn!(seed = self.seed, episode, "a sequence fails; looking for a smaller one");
        let mut more = tree.simplify();
        for n in 1..SHRINKS {
            if !more {
                break;
            }
            let (smaller, fewer, (_, found)) = attempt(tree.current(), n);
            more = match found {
                Some(found) => {
                    (shape, steps, failure) = (smaller, fewer, found);
                    tree.simplify()
                }
                None => tree.complicate(),
            };
        }
        let listed: Vec<String> = steps.iter().map(|s| format!("  {}", cut(&format!("{s:?}"), 2_000))).collect();
        let again = format!(
            "again: Machine::new({}).episode({episode})\nsmallest sequence found, on {}:\n{}",
            self.seed,
            cut(&format!("{shape:?}"), 3_000),
            listed.join("\n")
        );
        failure.count(&mut tally, &again);
        tally
    }
}

/// How often a smaller sequence is tried.
const SHRINKS: u32 = 120;

fn lock(total: &Mutex<Tally>) -> std::sync::MutexGuard<'_, Tally> {
    total.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs a sequence until something is wrong. `seen` is told of every step.
async fn attempt(
    shape: &Shape,
    steps: &[Step],
    store: &MachineStore,
    place: &str,
    seen: impl Fn(),
) -> (Tally, Option<Failure>) {
    let mut world = match World::create(shape, store, place).await {
        Ok(world) => world,
        Err(failure) => return (Tally::default(), Some(failure)),
    };
    let mut failure = None;
    for step in steps {
        seen();
        let done = AssertUnwindSafe(world.take(step)).catch_unwind().await;
        failure = match done {
            Ok(done) => done.err(),
            Err(panic) => {
                let text = panic.downcast_ref::<String>().map(String::as_str);
                let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no message");
                Some(Violation::other(format!("a panic: {text}")).into())
            }
        };
        if failure.is_some() {
            break;
        }
    }
    if failure.is_none() {
        failure = world.finish().await.err();
    }
    (std::mem::take(&mut world.tally), failure)
}
