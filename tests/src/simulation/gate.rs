//! The gate: every request and every wait of every process stops here until the schedule lets it through.
//!
//! Four invariants make the order of effects a function of the seed:
//! - at most one process runs at a time; all others wait at the gate or between two operations;
//! - its turn is over when no thread of the runtime does anything any more, so what it asks for does not depend on how fast a thread is;
//! - requests that one process makes at once are carried out together, ordered by what they are and not by when they came;
//! - whether a request meets a fault depends on what it is, on its process and on its operation, not on when it came.

use std::collections::{BTreeMap, HashMap};
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use bytes::Bytes;
use chrono::{DateTime, TimeDelta, Utc};
use object_store::{Error, Result};

use super::Mutation;
use super::bucket::{Bucket, Reply, Request, version};
use super::dice::{Dice, mix, text};
use super::history::History;
use super::threads::Threads;

/// How long an operation may do something else than to ask and to end, in real time.
const PATIENCE: Duration = Duration::from_secs(600);

/// What becomes of a body on its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cut {
    Whole,
    /// It ends half-way as if it were whole.
    Short,
    /// It breaks off half-way with an error.
    Broken,
}

/// What happens to a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    LostRequest,
    LostAnswer,
    /// The caller sees a transport error, and the effect comes so many milliseconds later.
    Late(u64),
    /// It has its effect, and the answer says that the object exists.
    ConflictAfter,
    /// The store says that the object exists, and does nothing.
    FalseConflict,
    Throttled,
    Denied,
    Cut(Cut),
}

/// What the simulation is played with.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rules {
    pub(super) seed: u64,
    pub(super) faults: bool,
    pub(super) mutation: Option<Mutation>,
}

/// One life of an actor's process.
#[derive(Debug, Default)]
pub(super) struct Process {
    alive: bool,
    /// The number of its operation.
    pub(super) operation: u64,
    /// Reads of this operation do not stop at the gate.
    pub(super) swift: bool,
    /// Data files are read and written without a stop: library code does that on threads of its own.
    pub(super) quiet: bool,
    /// The operation deletes what others may need.
    pub(super) vacuums: bool,
    /// Most puts of commits fail.
    pub(super) cut_off: bool,
    /// Faults that the operation met.
    pub(super) faults: u64,
    read_failed: bool,
    occurrences: HashMap<u64, u64>,
    /// Requests that wait, and answers that were given and not yet taken.
    waiting: usize,
    answered: usize,
    /// Its operation is over, one way or another.
    finished: bool,
}

struct Waiting {
    process: u64,
    request: Request,
    answer: Option<Result<(Reply, Cut)>>,
    waker: Option<Waker>,
}

/// All that is shared.
pub(super) struct State {
    pub(super) rules: Rules,
    pub(super) now: DateTime<Utc>,
    pub(super) history: History,
    pub(super) bucket: Bucket,
    /// Effects whose caller has given them up.
    late: BTreeMap<(DateTime<Utc>, u64), Request>,
    processes: BTreeMap<u64, Process>,
    waiting: BTreeMap<u64, Waiting>,
    tickets: u64,
    running: Option<u64>,
    parked: bool,
    turn: u64,
    pub(super) trace: u64,
    pub(super) faults: u64,
}

pub(super) struct World {
    state: Mutex<State>,
    settled: Condvar,
    pub(super) threads: Threads,
}

impl World {
    pub(super) fn new(rules: Rules, now: DateTime<Utc>) -> Arc<Self> {
        let state = State {
            rules,
            now,
            history: History::default(),
            bucket: Bucket::default(),
            late: BTreeMap::new(),
            processes: BTreeMap::new(),
            waiting: BTreeMap::new(),
            tickets: 0,
            running: None,
            parked: false,
            turn: 0,
            trace: 0,
            faults: 0,
        };
        Arc::new(Self { state: Mutex::new(state), settled: Condvar::new(), threads: Threads::default() })
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The runtime's only worker has nothing to do, or has something to do again.
    pub(super) fn worker_parks(&self, parks: bool) {
        let mut state = self.lock();
        state.parked = parks;
        self.tell(&state);
    }

    fn tell(&self, state: &State) {
        if state.is_settled() {
            self.settled.notify_all();
        }
    }

    /// Makes a request of a process: it has its effect, or an answer, when the schedule says so.
    ///
    /// # Errors
    /// The store's, and those of faults.
    pub(super) async fn request(self: &Arc<Self>, process: u64, request: Request) -> Result<(Reply, Cut)> {
        let ticket = {
            let mut state = self.lock();
            if !state.processes.get(&process).is_some_and(|p| p.alive) {
                return Err(transport("the process was killed"));
            }
            if state.passes(process, &request) {
                return state.carry_out(process, &request);
            }
            state.tickets += 1;
            let ticket = state.tickets;
            state.waiting.insert(ticket, Waiting { process, request, answer: None, waker: None });
            if let Some(p) = state.processes.get_mut(&process) {
                p.waiting += 1;
            }
            self.tell(&state);
            Ticket { world: self.clone(), number: ticket }
        };
        ticket.await
    }

    /// A process is born.
    pub(super) fn born(&self, process: u64) {
        self.lock().processes.insert(process, Process { alive: true, finished: true, ..Process::default() });
    }

    /// An operation begins, and is what runs.
    pub(super) fn begin(&self, process: u64, set: impl FnOnce(&mut Process)) {
        let mut state = self.lock();
        state.running = Some(process);
        if let Some(p) = state.processes.get_mut(&process) {
            *p = Process { alive: true, waiting: p.waiting, answered: p.answered, ..Process::default() };
            set(p);
        }
    }

    /// An operation is over.
    pub(super) fn finish(&self, process: u64) {
        let mut state = self.lock();
        if let Some(p) = state.processes.get_mut(&process) {
            p.finished = true;
        }
        self.tell(&state);
    }

    /// Waits until the running process is at the gate or done. `Ok(true)` means done.
    ///
    /// # Errors
    /// Where it does neither for ten minutes of real time.
    pub(super) fn settle(&self) -> std::result::Result<bool, String> {
        let (begun, mut tries) = (Instant::now(), 0);
        let mut state = self.lock();
        loop {
            if begun.elapsed() > PATIENCE {
                return Err("an operation neither asked the store for anything nor ended for ten minutes".to_owned());
            }
            if !state.is_settled() {
                let waited = self.settled.wait_timeout(state, PATIENCE).unwrap_or_else(PoisonError::into_inner);
                state = waited.0;
                continue;
            }
            // Not under the lock: who waits for it looks as if he slept.
            drop(state);
            let sleep = self.threads.sleep();
            match sleep {
                true => {}
                // A thread that parks is about to sleep.
                false if tries < 10 => std::thread::yield_now(),
                false => std::thread::sleep(Duration::from_micros(20)),
            }
            tries += 1;
            state = self.lock();
            if sleep && state.is_settled() {
                break;
            }
        }
        let turn = std::mem::take(&mut state.turn);
        state.trace = mix(&[state.trace, turn, state.now.timestamp_millis().unsigned_abs()]);
        let running = state.running.take();
        Ok(running.and_then(|p| state.processes.get(&p)).is_none_or(|p| p.finished))
    }

    /// Lets everything through that a process waits for, in an order that does not depend on when it came.
    pub(super) fn release(&self, process: u64) {
        let mut wakers = Vec::new();
        {
            let mut state = self.lock();
            state.running = Some(process);
            for ticket in state.batch(process) {
                let Some(request) = state.waiting.get(&ticket).map(|w| w.request.clone()) else { continue };
                let answer = state.carry_out(process, &request);
                state.answer(ticket, answer, &mut wakers);
            }
        }
        wakers.into_iter().for_each(Waker::wake);
    }

    /// Kills a process: what it waits for fails, after some of it has had its effect, now or later.
    pub(super) fn kill(&self, process: u64, dice: &mut Dice) {
        let mut wakers = Vec::new();
        {
            let mut state = self.lock();
            state.running = Some(process);
            for ticket in state.batch(process) {
                let Some(request) = state.waiting.get(&ticket).map(|w| w.request.clone()) else { continue };
                let mutates = matches!(request, Request::Put { .. } | Request::Delete { .. });
                match dice.below(4) {
                    0 if mutates => {
                        let _ = state.effect(process, &request);
                    }
                    1 if request.commits().is_some() => {
                        let after = dice.time(10, 30_000);
                        state.later(after, request);
                    }
                    _ => {}
                }
                state.answer(ticket, Err(transport("the process was killed")), &mut wakers);
            }
            if let Some(p) = state.processes.get_mut(&process) {
                p.alive = false;
            }
        }
        wakers.into_iter().for_each(Waker::wake);
    }

    /// Forgets a process that was killed and is over.
    pub(super) fn bury(&self, process: u64) {
        let mut state = self.lock();
        state.processes.remove(&process);
    }

    /// Effects that were given up and come now, up to a time.
    pub(super) fn late_effects(&self, until: DateTime<Utc>) {
        let mut state = self.lock();
        while let Some(entry) = state.late.first_entry().filter(|e| e.key().0 <= until) {
            let ((time, _), request) = entry.remove_entry();
            state.now = state.now.max(time);
            let _ = state.effect(u64::MAX, &request);
        }
        state.now = state.now.max(until);
    }
}

impl State {
    pub(super) fn process(&self, process: u64) -> Option<&Process> {
        self.processes.get(&process)
    }

    /// How long a process waits at least for what it is waiting for, in milliseconds, and whether a commit is among it.
    pub(super) fn wait_of(&self, process: u64) -> (u64, bool) {
        let of = self.waiting.values().filter(|w| w.process == process && w.answer.is_none());
        of.fold((0, false), |(longest, commits), w| match &w.request {
            Request::Sleep { milliseconds } => (longest.max(*milliseconds), commits),
            other => (longest, commits || other.commits().is_some()),
        })
    }

    fn is_settled(&self) -> bool {
        let Some(p) = self.running.and_then(|p| self.processes.get(&p)) else { return self.running.is_none() };
        p.finished || (p.waiting > 0 && p.answered == 0 && self.parked)
    }

    /// Whether a request does not stop at the gate.
    fn passes(&self, process: u64, request: &Request) -> bool {
        let Some(p) = self.processes.get(&process) else { return false };
        if request.is_probe() {
            return true;
        }
        match request {
            Request::Sleep { .. } => false,
            Request::Get { .. } | Request::List { .. } if p.swift && self.running == Some(process) => true,
            Request::Delete { .. } if !request.is_in_log() => {
                let stops = mix(&[self.rules.seed, process, p.operation, text(request.alias())]).is_multiple_of(4);
                p.quiet || self.running != Some(process) || !stops
            }
            _ => p.quiet && !request.is_in_log(),
        }
    }

    fn batch(&self, process: u64) -> Vec<u64> {
        let mut batch: Vec<(u64, &str, u64)> = self
            .waiting
            .iter()
            .filter(|(_, w)| w.process == process && w.answer.is_none())
            .map(|(ticket, w)| (w.request.kind(), w.request.alias(), *ticket))
            .collect();
        batch.sort_unstable();
        batch.into_iter().map(|(_, _, ticket)| ticket).collect()
    }

    fn answer(&mut self, ticket: u64, answer: Result<(Reply, Cut)>, wakers: &mut Vec<Waker>) {
        let Some(waiting) = self.waiting.get_mut(&ticket) else { return };
        waiting.answer = Some(answer);
        wakers.extend(waiting.waker.take());
        if let Some(p) = self.processes.get_mut(&waiting.process) {
            p.waiting -= 1;
            p.answered += 1;
        }
    }

    fn later(&mut self, milliseconds: u64, request: Request) {
        self.tickets += 1;
        let time = self.now + TimeDelta::milliseconds(i64::try_from(milliseconds).unwrap_or(i64::MAX / 2));
        self.late.insert((time, self.tickets), request);
    }

    fn carry_out(&mut self, process: u64, request: &Request) -> Result<(Reply, Cut)> {
        let key = mix(&[request.kind(), text(request.alias())]);
        let fault = self.fault(process, request, key);
        // A sum, because requests that do not stop at the gate may come in any order.
        self.turn = self.turn.wrapping_add(mix(&[key, process, fault.map_or(0, |f| text(&format!("{f:?}")))]));
        if fault.is_some() {
            self.faults += 1;
            if let Some(p) = self.processes.get_mut(&process) {
                p.faults += 1;
                p.read_failed |= request.is_read();
            }
        }
        let path = || request.path().to_owned();
        let exists = || Error::AlreadyExists { path: path(), source: "412".into() };
        match fault {
            Some(Fault::LostRequest) => return Err(transport("connection reset")),
            Some(Fault::Throttled) => return Err(transport("429 Too Many Requests")),
            Some(Fault::Denied) => return Err(Error::PermissionDenied { path: path(), source: "403".into() }),
            Some(Fault::FalseConflict) => return Err(exists()),
            Some(Fault::Late(after)) => {
                self.later(after, request.clone());
                return Err(transport("timed out"));
            }
            _ => {}
        }
        let done = self.effect(process, request);
        match fault {
            Some(Fault::LostAnswer) => Err(transport("connection reset after the request")),
            Some(Fault::ConflictAfter) => done.and(Err(exists())),
            Some(Fault::Cut(cut)) => Ok((done?, cut)),
            _ => Ok((done?, Cut::Whole)),
        }
    }

    /// What a request does.
    fn effect(&mut self, process: u64, request: &Request) -> Result<Reply> {
        if let Request::Delete { path } = request
            && !request.is_in_log()
        {
            let vacuums = self.processes.get(&process).is_some_and(|p| p.vacuums);
            self.history.deleting(path.as_ref(), self.now, vacuums);
        }
        let honours_create = self.rules.mutation != Some(Mutation::PutsOverwrite) || !request.is_in_log();
        let mut done = self.bucket.carry_out(request, self.now, honours_create)?;
        if let (Request::Put { bytes, .. }, Some(version)) = (request, request.commits()) {
            self.history.committed(version, bytes, self.now, &self.bucket);
        }
        if let Request::Put { path, .. } = request
            && !request.is_in_log()
            && !request.is_probe()
        {
            self.history.written(path.as_ref(), self.now);
        }
        if self.rules.mutation == Some(Mutation::ForgetsRuns)
            && let (Request::Get { path, .. }, Reply::Got { bytes, .. }) = (request, &mut done)
            && version(path).is_some()
        {
            *bytes = without_run(bytes);
        }
        Ok(done)
    }

    fn fault(&mut self, process: u64, request: &Request, key: u64) -> Option<Fault> {
        let rules = self.rules;
        let p = self.processes.get_mut(&process)?;
        if !rules.faults || request.is_probe() {
            return None;
        }
        let occurrence = p.occurrences.entry(key).or_default();
        *occurrence += 1;
        let mut dice = Dice::new(mix(&[rules.seed, process, p.operation, key, *occurrence]));
        match request {
            Request::Sleep { .. } => None,
            Request::Put { .. } if request.commits().is_some() => {
                dice.chance(if p.cut_off { 750 } else { 50 }).then(|| match dice.below(12) {
                    0..=2 => Fault::LostRequest,
                    3..=5 => Fault::LostAnswer,
                    6..=7 => Fault::ConflictAfter,
                    8 => Fault::Throttled,
                    9..=10 => Fault::Late(dice.time(10, 60_000)),
                    _ if dice.chance(500) => Fault::FalseConflict,
                    _ => Fault::Denied,
                })
            }
            Request::Put { .. } | Request::Delete { .. } => dice.chance(10).then(|| match dice.below(3) {
                0 => Fault::LostRequest,
                1 => Fault::LostAnswer,
                _ => Fault::Denied,
            }),
            // One at most in an operation: two reads that wait for their next try would wake in an order of their own.
            Request::Get { options, .. } => (!p.read_failed && dice.chance(4)).then(|| match dice.below(4) {
                0 => Fault::Denied,
                1 if !options.head => Fault::Cut(Cut::Broken),
                2 if !options.head => Fault::Cut(Cut::Short),
                _ => Fault::LostAnswer,
            }),
            Request::List { .. } => (!p.read_failed && dice.chance(4)).then(|| match dice.below(2) {
                0 => Fault::Denied,
                _ => Fault::LostAnswer,
            }),
        }
    }
}

fn transport(text: &'static str) -> Error {
    Error::Generic { store: "simulated", source: text.into() }
}

/// A commit as it would be if runs left no id in it; as long as before.
fn without_run(bytes: &Bytes) -> Bytes {
    let text = String::from_utf8_lossy(bytes);
    let Some(at) = text.find("\"txnId\":\"").map(|at| at + 9) else { return bytes.clone() };
    let mut text = text.into_owned();
    let end = (at + 36).min(text.len());
    text.replace_range(at..end, &"0".repeat(end - at));
    Bytes::from(text)
}

/// A request at the gate.
struct Ticket {
    world: Arc<World>,
    number: u64,
}

impl Future for Ticket {
    type Output = Result<(Reply, Cut)>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut state = self.world.lock();
        let Some(waiting) = state.waiting.get_mut(&self.number) else {
            return Poll::Ready(Err(transport("polled after its end")));
        };
        let Some(answer) = waiting.answer.take() else {
            waiting.waker = Some(cx.waker().clone());
            return Poll::Pending;
        };
        let process = waiting.process;
        state.waiting.remove(&self.number);
        if let Some(p) = state.processes.get_mut(&process) {
            p.answered -= 1;
        }
        self.world.tell(&state);
        Poll::Ready(answer)
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let mut state = self.world.lock();
        let Some(waiting) = state.waiting.remove(&self.number) else { return };
        if let Some(p) = state.processes.get_mut(&waiting.process) {
            match waiting.answer {
                Some(_) => p.answered -= 1,
                None => p.waiting -= 1,
            }
        }
        self.world.tell(&state);
    }
}
