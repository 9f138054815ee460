//! What every stage of one run shares: its identity, its memory plan, its clock, its progress, its cancellation.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use duckrun_memory::{MemoryPlan, SpillDir};
use futures::future::BoxFuture;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::{Error, Result};

/// The identity of one attempt to commit: written into the commit, and compared when a store's answer was lost.
///
/// A retry that re-reads and re-plans is a new attempt with a new id; repeating the same bytes keeps it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RunId(Uuid);

impl RunId {
    /// A fresh id (UUID version 7: sortable by time).
    pub fn fresh() -> Self {
        Self(Uuid::now_v7())
    }

    /// An id that a caller made, for example for deterministic tests.
    pub fn from_uuid(id: Uuid) -> Self {
        Self(id)
    }

    /// The id as a UUID.
    pub fn as_uuid(self) -> Uuid {
        self.0
    }
}

impl fmt::Display for RunId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0.hyphenated(), f)
    }
}

/// Where time comes from. Injected, so that tests and simulations own it.
pub trait Clock: Send + Sync + fmt::Debug {
    /// The current time in UTC.
    fn now(&self) -> DateTime<Utc>;

    /// Waits, between two tries of a request for example. A clock of a simulation lets its own time pass instead.
    fn sleep(&self, time: Duration) -> BoxFuture<'static, ()> {
        Box::pin(tokio::time::sleep(time))
    }
}

/// The machine's clock.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> DateTime<Utc> {
        Utc::now()
    }
}

/// The phase of a run that a [`Progress`] event belongs to.
#[non_exhaustive]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Phase {
    /// Waiting for a memory lease.
    Waiting,
    /// Pinning snapshots and binding relations.
    Pinning,
    /// Statements that run before the SQL.
    Before,
    /// Incoming rows are laid by and matched with the table's.
    Matching,
    /// The SQL runs and data files are written.
    Writing,
    /// The commit.
    Committing,
    /// Statements that run after the commit.
    After,
    /// Maintenance of the table.
    Maintenance,
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Waiting => "waiting",
            Self::Pinning => "pinning",
            Self::Before => "before",
            Self::Matching => "matching",
            Self::Writing => "writing",
            Self::Committing => "committing",
            Self::After => "after",
            Self::Maintenance => "maintenance",
        })
    }
}

/// A progress event: totals since the start of the phase.
#[non_exhaustive]
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Progress {
    /// The phase.
    pub phase: Phase,
    /// Rows that passed so far.
    pub rows: u64,
    /// Bytes written so far, as encoded in data files.
    pub bytes: u64,
    /// The engine's own estimate of how much of the query is done, 0 to 1, where it has one.
    pub fraction: Option<f64>,
}

impl Progress {
    /// The start of a phase.
    pub fn start(phase: Phase) -> Self {
        Self { phase, rows: 0, bytes: 0, fraction: None }
    }

    /// The same event with other totals.
    #[must_use]
    pub fn at(mut self, rows: u64, bytes: u64) -> Self {
        (self.rows, self.bytes) = (rows, bytes);
        self
    }

    /// The same event with the engine's estimate.
    #[must_use]
    pub fn with_fraction(mut self, fraction: Option<f64>) -> Self {
        self.fraction = fraction;
        self
    }
}

/// A callback for progress. It is called from any thread, often, and must not block.
pub type ProgressFn = Arc<dyn Fn(&Progress) + Send + Sync>;

/// What every stage of one run shares. Cheap to clone.
#[derive(Clone)]
pub struct RunContext {
    id: RunId,
    memory: Arc<MemoryPlan>,
    clock: Arc<dyn Clock>,
    cancel: CancellationToken,
    progress: Option<ProgressFn>,
    spill: Option<Arc<SpillDir>>,
}

impl RunContext {
    /// A context with a fresh id, the system's clock, no progress callback.
    pub fn new(memory: MemoryPlan) -> Self {
        Self {
            id: RunId::fresh(),
            memory: Arc::new(memory),
            clock: Arc::new(SystemClock),
            cancel: CancellationToken::new(),
            progress: None,
            spill: None,
        }
    }

    /// The same context for another attempt: a new id, everything else shared.
    #[must_use]
    pub fn next_attempt(&self) -> Self {
        Self { id: RunId::fresh(), ..self.clone() }
    }

    /// Sets the id.
    #[must_use]
    pub fn with_id(mut self, id: RunId) -> Self {
        self.id = id;
        self
    }

    /// Sets the clock.
    #[must_use]
    pub fn with_clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// Sets the progress callback.
    #[must_use]
    pub fn with_progress(mut self, progress: Option<ProgressFn>) -> Self {
        self.progress = progress;
        self
    }

    /// Sets the folder that the run may spill to. It lives as long as a clone of the context does.
    #[must_use]
    pub fn with_spill(mut self, spill: Option<Arc<SpillDir>>) -> Self {
        self.spill = spill;
        self
    }

    /// Uses a token of the caller's: cancelling it cancels the run.
    #[must_use]
    pub fn with_cancellation(mut self, cancel: CancellationToken) -> Self {
        self.cancel = cancel;
        self
    }

    /// The id of this attempt.
    pub fn id(&self) -> RunId {
        self.id
    }

    /// The memory plan.
    pub fn memory(&self) -> &MemoryPlan {
        &self.memory
    }

    /// The folder that the run may spill to.
    pub fn spill(&self) -> Option<&SpillDir> {
        self.spill.as_deref()
    }

    /// The clock.
    pub fn clock(&self) -> &Arc<dyn Clock> {
        &self.clock
    }

    /// The current time by the run's clock.
    pub fn now(&self) -> DateTime<Utc> {
        self.clock.now()
    }

    /// The cancellation token.
    pub fn cancellation(&self) -> &CancellationToken {
        &self.cancel
    }

    /// Fails with [`ErrorKind::Cancelled`](crate::ErrorKind::Cancelled) once the run was cancelled.
    ///
    /// # Errors
    /// Only that one.
    pub fn check(&self) -> Result<()> {
        if self.cancel.is_cancelled() { Err(Error::cancelled()) } else { Ok(()) }
    }

    /// Whether somebody listens to progress.
    pub fn reports_progress(&self) -> bool {
        self.progress.is_some()
    }

    /// Reports progress.
    pub fn report(&self, progress: &Progress) {
        if let Some(f) = &self.progress {
            f(progress);
        }
    }
}

impl fmt::Debug for RunContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RunContext")
            .field("id", &self.id)
            .field("memory", &self.memory)
            .field("cancelled", &self.cancel.is_cancelled())
            .finish_non_exhaustive()
    }
}
