//! Interrupting exactly the statement that is meant.
//!
//! A DuckDB connection has one interrupt flag, and DuckDB clears it when a statement starts. So an interrupt can come too
//! early (lost) or too late (it hits the next statement). Invariant here: an interrupt is only ever sent while the operation it
//! is meant for is marked as running, under one lock, and is repeated until that operation has ended.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use duckdb::InterruptHandle;
use tokio_util::sync::CancellationToken;

/// What runs on a connection, shared between its blocking thread and whoever may cancel it.
pub(super) struct Running {
    state: Mutex<State>,
    handle: Arc<InterruptHandle>,
}

#[derive(Default)]
struct State {
    serial: u64,
    current: Option<u64>,
    interrupted: bool,
    closed: bool,
    /// Cancelled with the operation: what it waits for outside DuckDB must end too.
    token: CancellationToken,
}

impl Running {
    pub(super) fn new(handle: Arc<InterruptHandle>) -> Arc<Self> {
        Arc::new(Self { state: Mutex::default(), handle })
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Cancelled when the operation that runs now is interrupted.
    pub(super) fn token(&self) -> CancellationToken {
        self.state().token.clone()
    }

    /// Reserves the identity of an operation that will run.
    pub(super) fn reserve(self: &Arc<Self>) -> Ticket {
        let mut state = self.state();
        state.serial += 1;
        Ticket { running: self.clone(), serial: state.serial, cancelled: Arc::default() }
    }

    /// Interrupts whatever runs now, once, and everything that starts later.
    pub(super) fn close(self: &Arc<Self>) {
        let current = {
            let mut state = self.state();
            state.closed = true;
            state.current
        };
        if let Some(serial) = current {
            self.clone().chase(serial);
        }
    }

    /// Interrupts the operation `serial` until it has ended; detached, so that a dropping future does not wait.
    fn chase(self: Arc<Self>, serial: u64) {
        if self.interrupt_if(serial) {
            let chasing = self.clone();
            let thread = std::thread::Builder::new().name("duckrun-interrupt".to_owned()).spawn(move || {
                while chasing.interrupt_if(serial) {
                    std::thread::sleep(Duration::from_millis(2));
                }
            });
            if thread.is_err() {
                // A system without threads left: the one interrupt above must do, with a second in case it came too early.
                std::thread::yield_now();
                self.interrupt_if(serial);
            }
        }
    }

    fn interrupt_if(&self, serial: u64) -> bool {
        let mut state = self.state();
        let is_current = state.current == Some(serial);
        if is_current {
            state.interrupted = true;
            state.token.cancel();
            self.handle.interrupt();
        }
        is_current
    }
}

/// The right to run one operation, and to cancel it.
#[derive(Clone)]
pub(super) struct Ticket {
    running: Arc<Running>,
    serial: u64,
    cancelled: Arc<Mutex<bool>>,
}

impl Ticket {
    fn cancelled(&self) -> std::sync::MutexGuard<'_, bool> {
        self.cancelled.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Marks the operation as running; `None` if it was cancelled before it began. Called with the connection locked.
    pub(super) fn begin(&self) -> Option<Active<'_>> {
        // `cancel` raises its flag before it takes this lock, so either it finds the operation running or we find the flag.
        let mut state = self.running.state();
        if state.closed || *self.cancelled() {
            return None;
        }
        state.current = Some(self.serial);
        state.interrupted = false;
        state.token = CancellationToken::new();
        drop(state);
        Some(Active { ticket: self })
    }

    /// Cancels the operation, whether or not it has begun. Does not wait.
    pub(super) fn cancel(&self) {
        *self.cancelled() = true;
        self.running.clone().chase(self.serial);
    }
}

/// An operation that runs. Dropping it marks the end.
pub(super) struct Active<'a> {
    ticket: &'a Ticket,
}

impl Active<'_> {
    /// Whether an interrupt was sent to this operation: what it returned may then be cut short.
    pub(super) fn was_interrupted(&self) -> bool {
        *self.ticket.cancelled() || self.ticket.running.state().interrupted
    }
}

impl Drop for Active<'_> {
    fn drop(&mut self) {
        let mut state = self.ticket.running.state();
        if state.current == Some(self.ticket.serial) {
            state.current = None;
        }
    }
}

/// Cancels a ticket when dropped, unless the operation was heard of to its end.
pub(super) struct CancelOnDrop(Option<Ticket>);

impl CancelOnDrop {
    pub(super) fn new(ticket: Ticket) -> Self {
        Self(Some(ticket))
    }

    pub(super) fn disarm(&mut self) {
        self.0 = None;
    }
}

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        if let Some(ticket) = &self.0 {
            ticket.cancel();
        }
    }
}
