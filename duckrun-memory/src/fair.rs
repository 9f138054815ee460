//! The default governor: first come, first served, over one number of bytes.
//!
//! Three invariants. No lease is granted with which the bytes on lease would exceed the capacity that its run brought along, or
//! the ceiling. Whoever is first in the queue is served before anyone behind it, so a large run is not starved by small
//! ones. A queue is never left standing: whatever changes the state (a lease ends, a waiter comes or leaves) serves the
//! queue, and its head fits at the latest when no lease is left, for what never fits is refused at the door.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use async_trait::async_trait;
use futures::channel::oneshot;

use crate::{Bytes, Error, Governor, Lease, LeaseRequest, Result};

/// Grants leases in the order of asking. Cheap to clone; clones share one queue.
///
/// Each run is held to the capacity that it measured ([`LeaseRequest::capacity`]) and to the ceiling given at construction:
/// it starts when its bytes and all that is on lease fit in both. Where neither is given there is no limit to keep, and the
/// lease is granted at once. A run that measures little takes nothing back from others: it waits until enough leases have
/// ended. So sessions with limits of their own may share a governor, and none makes another's run impossible.
///
/// Waiting is visible: a log line when a run starts to wait and one when it ends, [`waiting`](Self::waiting) for a
/// dashboard, [`Lease::waited`] for the run's report. It needs no particular runtime.
#[derive(Clone, Default)]
pub struct FairGovernor {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    ceiling: Option<u64>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// The latest capacity that a run brought along, for those who look on.
    measured: Option<u64>,
    on_lease: u64,
    queue: VecDeque<Waiter>,
    next_id: u64,
}

#[derive(Debug)]
struct Waiter {
    id: u64,
    bytes: u64,
    /// What may be on lease with it.
    capacity: u64,
    answer: oneshot::Sender<Lease>,
}

/// A lease that is due. It is sent without holding the lock, because a receiver that is gone drops the lease, which takes
/// the lock.
type Due = (oneshot::Sender<Lease>, Lease);

impl FairGovernor {
    /// A governor that keeps to the capacity that the runs measure.
    pub fn new() -> Self {
        Self::default()
    }

    /// The governor of this process: every call returns the same queue. Memory belongs to a process, so this is whom runs ask
    /// that were not given another one; those that ask another are not counted here.
    pub fn of_process() -> Self {
        static OF_PROCESS: LazyLock<FairGovernor> = LazyLock::new(FairGovernor::new);
        OF_PROCESS.clone()
    }

    /// A governor that never gives out more than `bytes`, whatever the runs measure.
    pub fn with_ceiling(bytes: u64) -> Self {
        Self { shared: Arc::new(Shared { ceiling: Some(bytes), state: Mutex::default() }) }
    }

    /// How many runs wait for their lease.
    pub fn waiting(&self) -> usize {
        self.shared.state().queue.len()
    }

    /// The bytes that are on lease.
    pub fn on_lease(&self) -> u64 {
        self.shared.state().on_lease
    }

    /// What all leases together may hold by the latest measurement; `None` is no limit.
    pub fn capacity(&self) -> Option<u64> {
        self.shared.capacity(self.shared.state().measured)
    }
}

#[async_trait]
impl Governor for FairGovernor {
    async fn lease(&self, ask: LeaseRequest) -> Result<Lease> {
        let asked = Instant::now();
        let (run, bytes) = (ask.run.clone(), Bytes(ask.bytes));
        let (mut place, waits) = self.shared.enqueue(ask)?;
        if let Some(ahead) = waits {
            tracing::info!(run, bytes = %bytes, ahead, on_lease = %Bytes(self.on_lease()), "waiting for memory");
        }
        let answer = (&mut place.receiver).await;
        // Only leaving the queue drops an answer unsent, and this place is still in it.
        let lease = answer.map_err(|gone| Error::Governor { run: run.clone(), source: gone.into() })?;
        let lease = lease.after_waiting(asked.elapsed());
        if waits.is_some() {
            tracing::info!(run, lease = %Bytes(lease.bytes()), waited = ?lease.waited(), "got memory");
        }
        Ok(lease)
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        // No code that holds the lock can leave the state half-changed, so a poisoned one is as good.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The tighter of the ceiling and what a run measured.
    fn capacity(&self, measured: Option<u64>) -> Option<u64> {
        self.ceiling.into_iter().chain(measured).min()
    }

    /// Takes a place in the queue. Also says how many are ahead, or `None` if the lease was granted at once.
    fn enqueue(self: &Arc<Self>, ask: LeaseRequest) -> Result<(Place, Option<usize>)> {
        let LeaseRequest { run, bytes, capacity: measured } = ask;
        let capacity = self.capacity(measured).unwrap_or(u64::MAX);
        // A request that can never be granted does not queue: it would only hold up the others.
        if bytes > capacity {
            return Err(Error::LeaseTooLarge { run, needed: bytes, capacity });
        }
        let (answer, receiver) = oneshot::channel();
        let mut state = self.state();
        state.measured = measured.or(state.measured);
        let id = state.next_id;
        state.next_id += 1;
        let ahead = state.queue.len();
        state.queue.push_back(Waiter { id, bytes, capacity, answer });
        let due = self.due(&mut state);
        let waits = state.queue.iter().any(|waiter| waiter.id == id).then_some(ahead);
        drop(state);
        send(due);
        Ok((Place { shared: Arc::clone(self), id, receiver }, waits))
    }

    /// Takes from the head of the queue whoever can be served now.
    fn due(self: &Arc<Self>, state: &mut State) -> Vec<Due> {
        let mut due = Vec::new();
        while let Some(head) = state.queue.front() {
            let fits = state.on_lease.checked_add(head.bytes).is_some_and(|sum| sum <= head.capacity);
            if !fits {
                break;
            }
            let Some(head) = state.queue.pop_front() else { break };
            state.on_lease += head.bytes;
            let shared = Arc::clone(self);
            due.push((head.answer, Lease::new(head.bytes, move || shared.give_back(head.bytes))));
        }
        due
    }

    fn give_back(self: &Arc<Self>, bytes: u64) {
        let mut state = self.state();
        state.on_lease -= bytes;
        let due = self.due(&mut state);
        drop(state);
        send(due);
    }

    /// A waiter leaves. Whoever was behind it may now be at the head.
    fn leave(self: &Arc<Self>, id: u64) {
        let mut state = self.state();
        state.queue.retain(|waiter| waiter.id != id);
        let due = self.due(&mut state);
        drop(state);
        send(due);
    }
}

/// A place in the queue. Dropping it leaves the queue, or gives back what was granted and not yet taken.
struct Place {
    shared: Arc<Shared>,
    id: u64,
    receiver: oneshot::Receiver<Lease>,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.shared.leave(self.id);
    }
}

fn send(due: Vec<Due>) {
    for (waiter, answer) in due {
        // A waiter that is gone returns the lease, which is dropped here and so given back.
        drop(waiter.send(answer));
    }
}

impl fmt::Debug for FairGovernor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.shared.state();
        f.debug_struct("FairGovernor")
            .field("capacity", &self.shared.capacity(state.measured))
            .field("on_lease", &state.on_lease)
            .field("waiting", &state.queue.len())
            .finish_non_exhaustive()
    }
}
