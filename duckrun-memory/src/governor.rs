//! The contract between runs that share a process: who holds how much of the limit.

use std::fmt;
use std::time::Duration;

use async_trait::async_trait;

use crate::Result;

/// Lets concurrent runs of one process start as memory becomes free.
///
/// Implemented by [`FairGovernor`](crate::FairGovernor), and by embedders who have a scheduler of their own; called once by
/// every run, after its plan and before it touches its data, from any task or thread.
///
/// * **Waiting.** `lease` returns when the bytes are the caller's. It may wait as long as it takes, without blocking the
///   thread; a request that can never be granted must be an error and must not wait.
/// * **Cancellation.** Dropping the future gives up the place in the queue and, if the lease had just been granted, the
///   lease; nothing is leaked either way.
/// * **Release.** The bytes are the caller's until the [`Lease`] is dropped, in whatever order and on whatever thread.
/// * **No second lease.** A run asks once. One that held a lease and asked for more could wait for a run that waits for
///   it; an implementation need not detect this.
#[async_trait]
pub trait Governor: Send + Sync + fmt::Debug {
    /// Waits for the bytes that `ask` names.
    async fn lease(&self, ask: LeaseRequest) -> Result<Lease>;
}

/// What a run asks for; see [`MemoryPlan::lease_request`](crate::MemoryPlan::lease_request).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LeaseRequest {
    /// The run's name, for logs and errors.
    pub run: String,
    /// The bytes that it needs, all of them or nothing.
    pub bytes: u64,
    /// What all runs together may hold, by the sample that this run's plan is made on. The limit of a machine changes with
    /// its neighbours, and the run that starts knows it best.
    pub capacity: Option<u64>,
}

/// Memory that one run may use; dropping it gives it back.
pub struct Lease {
    bytes: u64,
    waited: Duration,
    release: Option<Box<dyn FnOnce() + Send + Sync>>,
}

impl LeaseRequest {
    /// A request of `bytes` for the run that people know as `run`.
    pub fn new(run: impl Into<String>, bytes: u64) -> Self {
        Self { run: run.into(), bytes, capacity: None }
    }

    /// With what all runs together may hold now.
    pub fn with_capacity(self, bytes: u64) -> Self {
        Self { capacity: Some(bytes), ..self }
    }
}

impl Lease {
    /// A lease for implementers of [`Governor`]: `release` is called once, when the lease is dropped, and must not block.
    pub fn new(bytes: u64, release: impl FnOnce() + Send + Sync + 'static) -> Self {
        Self { bytes, waited: Duration::ZERO, release: Some(Box::new(release)) }
    }

    /// With the time that was spent waiting for it, which a run's report shows.
    pub fn after_waiting(mut self, waited: Duration) -> Self {
        self.waited = waited;
        self
    }

    /// The bytes of the lease.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// How long the run waited for it.
    pub fn waited(&self) -> Duration {
        self.waited
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let Some(release) = self.release.take() {
            release();
        }
    }
}

impl fmt::Debug for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lease").field("bytes", &self.bytes).field("waited", &self.waited).finish_non_exhaustive()
    }
}
