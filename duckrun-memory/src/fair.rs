//! The default governor: first come, first served, over one number of bytes.
//!
//! Three invariants. The bytes on lease never grow beyond the capacity. Whoever is first in the queue is served before
//! anyone behind it, so a large run is not starved by small ones. A queue is never left standing: whatever changes the
//! state (a lease ends, a waiter leaves, the capacity moves) serves the queue, and a head that could not be served even by an
//! idle process is answered with an error.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use async_trait::async_trait;
use futures::channel::oneshot;

use crate::{Bytes, Error, Governor, Lease, LeaseRequest, Result};

/// Grants leases in the order of asking. Cheap to clone; clones share one queue.
///
/// The capacity is the latest that a run measured ([`LeaseRequest::capacity`]), never more than the ceiling given at
/// construction. Where neither is given there is no limit to keep, and every lease is granted at once. A capacity that
/// sinks takes nothing back: no lease is granted until enough of them have ended.
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
    /// The latest capacity that a run brought along.
    measured: Option<u64>,
    on_lease: u64,
    queue: VecDeque<Waiter>,
    next_id: u64,
}

#[derive(Debug)]
struct Waiter {
    id: u64,
    run: String,
    bytes: u64,
    answer: oneshot::Sender<Result<Lease>>,
}

/// An answer that is due. It is sent without holding the lock, because a receiver that is gone drops the lease, which takes
/// the lock.
type Due = (oneshot::Sender<Result<Lease>>, Result<Lease>);

impl FairGovernor {
    /// A governor that keeps to the capacity that the runs measure.
    pub fn new() -> Self {
        Self::default()
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

    /// What all leases together may hold; `None` is no limit.
    pub fn capacity(&self) -> Option<u64> {
        self.shared.capacity(&self.shared.state())
    }
}

#[async_trait]
impl Governor for FairGovernor {
    async fn lease(&self, ask: LeaseRequest) -> Result<Lease> {
        let asked = Instant::now();
        let run = ask.run.clone();
        let (mut place, waits) = self.shared.enqueue(ask)?;
        if let Some(ahead) = waits {
            tracing::info!(run, ahead, on_lease = %Bytes(self.on_lease()), "waiting for memory");
        }
        let answer = (&mut place.receiver).await;
        // Only leaving the queue drops an answer unsent, and this place is still in it.
        let answer = answer.map_err(|gone| Error::Governor { run: run.clone(), source: gone.into() })?;
        let lease = answer?.after_waiting(asked.elapsed());
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

    fn capacity(&self, state: &State) -> Option<u64> {
        self.ceiling.into_iter().chain(state.measured).min()
    }

    /// Takes a place in the queue. Also says how many are ahead, or `None` if the lease was granted at once.
    fn enqueue(self: &Arc<Self>, ask: LeaseRequest) -> Result<(Place, Option<usize>)> {
        let (answer, receiver) = oneshot::channel();
        let mut state = self.state();
        state.measured = ask.capacity.or(state.measured);
        let capacity = self.capacity(&state).unwrap_or(u64::MAX);
        let id = state.next_id;
        state.next_id += 1;
        let ahead = state.queue.len();
        // A request that can never be granted does not queue: it would only hold up the others.
        let refused = (ask.bytes > capacity).then(|| too_large(ask.run.clone(), ask.bytes, capacity));
        if refused.is_none() {
            state.queue.push_back(Waiter { id, run: ask.run, bytes: ask.bytes, answer });
        }
        let due = self.due(&mut state);
        let waits = state.queue.iter().any(|waiter| waiter.id == id).then_some(ahead);
        drop(state);
        send(due);
        match refused {
            Some(error) => Err(error),
            None => Ok((Place { shared: Arc::clone(self), id, receiver }, waits)),
        }
    }

    /// Takes from the head of the queue whoever can be answered now.
    fn due(self: &Arc<Self>, state: &mut State) -> Vec<Due> {
        let capacity = self.capacity(state).unwrap_or(u64::MAX);
        let mut due = Vec::new();
        while let Some(head) = state.queue.front() {
            let fits = state.on_lease.checked_add(head.bytes).is_some_and(|sum| sum <= capacity);
            let hopeless = state.on_lease == 0 && !fits;
            if !fits && !hopeless {
                break;
            }
            let Some(head) = state.queue.pop_front() else { break };
            let answer = match fits {
                true => {
                    state.on_lease += head.bytes;
                    let shared = Arc::clone(self);
                    Ok(Lease::new(head.bytes, move || shared.give_back(head.bytes)))
                }
                false => Err(too_large(head.run, head.bytes, capacity)),
            };
            due.push((head.answer, answer));
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
    receiver: oneshot::Receiver<Result<Lease>>,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.shared.leave(self.id);
    }
}

fn too_large(run: String, needed: u64, capacity: u64) -> Error {
    Error::LeaseTooLarge { run, needed, capacity }
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
            .field("capacity", &self.shared.capacity(&state))
            .field("on_lease", &state.on_lease)
            .field("waiting", &state.queue.len())
            .finish_non_exhaustive()
    }
}
