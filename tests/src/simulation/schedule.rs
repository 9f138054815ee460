//! The schedule: who goes on next, at what time by the virtual clock, who is killed, and what each does.

use std::sync::Arc;

use chrono::{DateTime, TimeDelta, Utc};
use duckrun::memory::{EffectiveLimit, Job as MemoryJob};
use duckrun::{Action, DeltaStore, Location, MemoryPlan, MemorySettings, Snapshot};
use object_store::path::Path;
use tokio::runtime::Runtime;
use tokio::task::AbortHandle;
use url::Url;

use super::dice::{Dice, mix};
use super::gate::{Rules, World};
use super::history::minutes;
use super::operation::{End, Job, Operation, What};
use super::store::{ProcessClock, ProcessStore};
use super::{LOG_RETENTION, Mutation, RETENTION, Simulation};
use crate::Tally;

/// Operations on one table, before the next one is begun.
const OPERATIONS_OF_A_TABLE: u64 = 600;

/// What came out, beside the tally.
pub(super) struct Outcome {
    pub(super) tally: Tally,
    pub(super) trace: u64,
    pub(super) simulated: TimeDelta,
}

/// A writer, reader or maintainer, through all the lives of its process.
struct Actor {
    process: u64,
    store: DeltaStore,
    clock: ProcessClock,
    pinned: Option<(Arc<dyn Snapshot>, DateTime<Utc>)>,
    /// When it goes on; `None` while the table is about to change and it is done with it.
    ready: Option<DateTime<Utc>>,
    task: Option<Task>,
    /// The transaction that it is at, and the operation whose rows it brings.
    transaction: i64,
    rows_of: Option<u64>,
}

/// An operation under way.
struct Task {
    abort: AbortHandle,
    end: Arc<std::sync::Mutex<Option<End>>>,
    number: u64,
    transaction: bool,
    /// Whether it pauses for so long that it may be refused for its age.
    slow: bool,
    label: u64,
    began: DateTime<Utc>,
}

struct Play<'a> {
    settings: &'a Simulation,
    world: Arc<World>,
    runtime: &'a Runtime,
    memory: MemoryPlan,
    dice: Dice,
    actors: Vec<Actor>,
    processes: u64,
    table: u64,
    of_table: u64,
    tally: Tally,
}

/// Plays a simulation on a runtime whose worker tells the world when it parks.
pub(super) fn play(settings: &Simulation, world: Arc<World>, runtime: &Runtime) -> Outcome {
    let limit = EffectiveLimit::explicit(1 << 30, 2);
    let plan = duckrun::memory::plan(&limit, &MemorySettings::with_limit(1 << 30), MemoryJob::Compact);
    let mut tally = Tally::default();
    let memory = match plan {
        Ok(memory) => memory,
        Err(e) => {
            tally.violations.push(format!("no memory plan: {e}"));
            return Outcome { tally, trace: 0, simulated: TimeDelta::zero() };
        }
    };
    let began = world.lock().now;
    let mut play = Play {
        settings,
        world: world.clone(),
        runtime,
        memory,
        dice: Dice::new(mix(&[settings.seed, 1])),
        actors: Vec::new(),
        processes: 0,
        table: 0,
        of_table: 0,
        tally,
    };
    play.all();
    let mut tally = play.tally;
    let mut state = world.lock();
    let found = std::mem::take(&mut state.history.found);
    tally.faults = state.faults;
    tally.absorb(found);
    Outcome { tally, trace: state.trace, simulated: state.now - began }
}

impl Play<'_> {
    fn all(&mut self) {
        let mut begun = 0;
        while begun < self.settings.operations && self.tally.violations.is_empty() {
            self.new_table();
            let budget = OPERATIONS_OF_A_TABLE.min(self.settings.operations - begun);
            while let Some(next) = self.next() {
                let ready = self.ready(next);
                self.world.late_effects(ready);
                if !self.stopped() {
                    if self.actors[next].task.is_some() {
                        self.go_on(next);
                    } else if self.of_table < budget {
                        self.of_table += 1;
                        begun += 1;
                        self.start(next, begun);
                    } else {
                        self.actors[next].ready = None;
                    }
                }
                if self.stopped() {
                    return;
                }
            }
            self.last_look(begun);
            if self.stopped() {
                return;
            }
            // Where two plays of one seed part, if they ever do.
            let state = self.world.lock();
            tracing::debug!(table = self.table, begun, trace = state.trace, "a simulated table is done");
        }
    }

    /// Whether a promise was broken. Each violation gets what shows it again.
    fn stopped(&mut self) -> bool {
        let mut state = self.world.lock();
        let mut found = std::mem::take(&mut state.history.found);
        drop(state);
        let step = self.tally.operations + self.actors.iter().filter(|a| a.task.is_some()).count() as u64;
        for violation in &mut found.violations {
            *violation = format!(
                "simulation, seed {}, table {}, by operation {step}: {violation} (again: --seed {} --simulate {step})",
                self.settings.seed, self.table, self.settings.seed
            );
        }
        self.tally.absorb(found);
        !self.tally.violations.is_empty()
    }

    fn next(&self) -> Option<usize> {
        let ready = self.actors.iter().enumerate().filter_map(|(i, actor)| Some((actor.ready?, i)));
        ready.min().map(|(_, i)| i)
    }

    fn ready(&self, actor: usize) -> DateTime<Utc> {
        self.actors[actor].ready.unwrap_or(DateTime::<Utc>::MAX_UTC)
    }

    fn new_table(&mut self) {
        self.table += 1;
        self.of_table = 0;
        let now = {
            let mut state = self.world.lock();
            state.bucket.clear();
            state.history.begin(&format!("t{}", self.table));
            state.now
        };
        for actor in &self.actors {
            self.world.bury(actor.process);
        }
        self.actors.clear();
        for _ in 0..self.settings.actors.max(1) {
            let ready = now + TimeDelta::milliseconds(self.dice.below(2_000) as i64);
            if let Some((process, store, clock)) = self.born() {
                self.actors.push(Actor {
                    process,
                    store,
                    clock,
                    pinned: None,
                    ready: Some(ready),
                    task: None,
                    transaction: 1,
                    rows_of: None,
                });
            }
        }
    }

    /// A process with a store, a clock and a table of its own.
    fn born(&mut self) -> Option<(u64, DeltaStore, ProcessClock)> {
        self.processes += 1;
        let process = self.processes;
        self.world.born(process);
        let store = Arc::new(ProcessStore { world: self.world.clone(), process });
        let skew = TimeDelta::milliseconds(self.dice.below(240_000) as i64 - 120_000);
        let clock = ProcessClock { world: self.world.clone(), process, skew };
        let prefix = format!("t{}", self.table);
        let url = Url::parse(&format!("sim://lake/{prefix}/")).ok()?;
        let location = Location::in_store(&url, store, &Path::from(prefix)).ok()?;
        Some((process, DeltaStore::new(location.with_clock(Arc::new(clock.clone()))), clock))
    }

    /// Something for an actor to do.
    fn job(&mut self, actor: usize) -> (Job, bool) {
        let name = |play: &Self| (format!("actor {actor}"), play.actors[actor].transaction);
        if self.actors[actor].rows_of.is_some() && self.dice.chance(700) {
            return (Job::Append { fenced: false, transaction: Some(name(self)) }, true);
        }
        // Appends are cheap and everything else meets them; what reads whole logs is rarer than it would be, so that there can be
        // many operations.
        let job = match self.dice.below(1000) {
            0..=369 => Job::Append { fenced: false, transaction: None },
            370..=529 => Job::Append { fenced: true, transaction: None },
            530..=629 => return (Job::Append { fenced: self.dice.chance(300), transaction: Some(name(self)) }, true),
            630..=689 => Job::Overwrite { blind: self.dice.chance(300) },
            690..=769 => Job::Upsert,
            770..=819 => Job::Delete,
            820..=831 => Job::Maintain(Action::Compact { partitions: Vec::new() }),
            832..=841 => {
                let retention = match self.world.lock().rules.mutation {
                    Some(Mutation::VacuumsAtOnce) => std::time::Duration::ZERO,
                    _ => RETENTION.to_std().unwrap_or_default(),
                };
                Job::Maintain(Action::Vacuum { retention, full: self.dice.chance(800) })
            }
            842 => Job::Maintain(Action::Checkpoint),
            843..=852 => Job::Maintain(Action::CleanLog { retention: LOG_RETENTION.to_std().unwrap_or_default() }),
            853..=909 => Job::ReadNewest,
            910..=939 => Job::ReadBack(self.dice.below(12)),
            _ => Job::ReadPinned,
        };
        (job, false)
    }

    fn start(&mut self, actor: usize, number: u64) {
        let (job, transaction) = self.job(actor);
        let now = self.world.lock().now;
        let (pauses, slow) = self.pauses();
        let pins = self.actors[actor].pinned.is_none() || self.dice.chance(200);
        // Who has read long ago may be refused for it.
        let age = self.actors[actor].pinned.as_ref().map_or(TimeDelta::zero(), |(_, since)| now - *since);
        let slow = slow || age > LOG_RETENTION / 4;
        let a = &mut self.actors[actor];
        if pins {
            a.pinned = None;
        }
        let rows_of = if transaction { *a.rows_of.get_or_insert(number) } else { number };
        let (process, clock) = (a.process, a.clock.clone());
        let operation = Operation {
            world: self.world.clone(),
            number,
            job: job.clone(),
            store: a.store.clone(),
            clock,
            memory: self.memory.clone(),
            pinned: a.pinned.as_ref().map(|(snapshot, _)| snapshot.clone()),
            pins,
            pauses,
            rows_of,
        };
        let (swift, cut_off) = (self.dice.chance(600), self.dice.chance(15));
        self.world.begin(process, |p| {
            p.operation = number;
            p.swift = swift;
            p.cut_off = cut_off;
            p.quiet = matches!(job, Job::Maintain(Action::Compact { .. }));
            p.vacuums = matches!(job, Job::Maintain(Action::Vacuum { .. }));
        });
        let end = Arc::new(std::sync::Mutex::new(None));
        let over = Over { world: self.world.clone(), process, end: end.clone(), what: None };
        let spawned = self.runtime.spawn(async move {
            over.see(operation.perform()).await;
        });
        let label = super::dice::text(&format!("{job:?}"));
        self.actors[actor].task =
            Some(Task { abort: spawned.abort_handle(), end, number, transaction, slow, label, began: now });
        self.wait_for(actor);
    }

    /// Pauses after the pin and before the commit. Neither ends just before the retention does: a request has a few minutes to
    /// have its effect, in a world in which retentions are days.
    fn pauses(&mut self) -> ((u64, u64), bool) {
        let minute = 60_000;
        let pause = |play: &mut Dice| match play.below(100) {
            0..=4 => play.time(1_000, 95 * minute),
            5 => play.time(125 * minute, 150 * minute),
            6..=20 => play.time(100, 5 * minute),
            _ => 0,
        };
        let mut pauses = (pause(&mut self.dice), pause(&mut self.dice));
        if self.dice.chance(10) {
            pauses.0 = self.dice.time(200 * minute, 500 * minute);
        }
        (pauses, pauses.0 + pauses.1 > 30 * minute)
    }

    /// Lets an actor go on that waits, or kills it.
    fn go_on(&mut self, actor: usize) {
        let process = self.actors[actor].process;
        let (_, commits) = self.world.lock().wait_of(process);
        let deadly = if commits { 20 } else { 4 };
        if self.settings.kills && self.dice.chance(deadly) {
            self.kill(actor);
        } else {
            self.world.release(process);
            self.wait_for(actor);
        }
    }

    fn kill(&mut self, actor: usize) {
        let process = self.actors[actor].process;
        self.world.kill(process, &mut self.dice);
        if let Some(task) = self.actors[actor].task.take() {
            task.abort.abort();
        }
        self.tally.operations += 1;
        self.tally.kills += 1;
        if let Err(stuck) = self.world.settle() {
            self.world.lock().history.violation(stuck);
        }
        self.world.bury(process);
        let pause = self.dice.time(1_000, 600_000);
        if let Some((process, store, clock)) = self.born() {
            let now = self.world.lock().now;
            let a = &mut self.actors[actor];
            (a.process, a.store, a.clock, a.pinned) = (process, store, clock, None);
            a.ready = Some(now + TimeDelta::milliseconds(pause as i64));
        }
    }

    /// Waits until an actor is at the gate or done, and says when it goes on.
    fn wait_for(&mut self, actor: usize) {
        let done = match self.world.settle() {
            Ok(done) => done,
            Err(stuck) => return self.world.lock().history.violation(stuck),
        };
        let process = self.actors[actor].process;
        let (now, (wait, _)) = {
            let state = self.world.lock();
            (state.now, state.wait_of(process))
        };
        let pause = if done {
            self.ended(actor);
            self.dice.time(2_000, 3_600_000)
        } else if wait > 0 {
            wait
        } else {
            // Most requests are quick, some take their time.
            match self.dice.below(50) {
                0 => self.dice.time(1_000, 30_000),
                _ => 5 + self.dice.below(60),
            }
        };
        self.actors[actor].ready = Some(now + TimeDelta::milliseconds(pause as i64));
    }

    fn ended(&mut self, actor: usize) {
        let Some(task) = self.actors[actor].task.take() else { return };
        self.tally.operations += 1;
        let end = task.end.lock().ok().and_then(|mut end| end.take());
        let process = self.actors[actor].process;
        let Some(End { pinned, what }) = end else {
            return self.world.lock().history.violation(format!("operation {} panicked", task.number));
        };
        let a = &mut self.actors[actor];
        a.pinned = match (pinned, a.pinned.take()) {
            (Some(new), Some((old, since))) if new.version() == old.version() => Some((new, since)),
            (new, _) => new.map(|snapshot| (snapshot, task.began)),
        };
        if task.transaction && matches!(what, What::Committed | What::Replayed) {
            a.transaction += 1;
            a.rows_of = None;
        }
        let mut state = self.world.lock();
        state.trace = mix(&[state.trace, task.label, super::dice::text(&word(&what))]);
        match &what {
            What::Conflict => self.tally.conflicts += 1,
            What::Failed(kind, why) if state.process(process).is_some_and(|p| p.faults == 0) && !task.slow => {
                let number = task.number;
                state
                    .history
                    .violation(format!("operation {number} met no fault and failed all the same: {kind:?} {why}"));
            }
            _ => {}
        }
    }

    /// After everybody is done: a reader that never was there sees what the log says.
    fn last_look(&mut self, number: u64) {
        let minute = minutes(1);
        let until = self.world.lock().now + minute;
        self.world.late_effects(until);
        let Some((process, store, clock)) = self.born() else { return };
        let end = Arc::new(std::sync::Mutex::new(None));
        let operation = Operation {
            world: self.world.clone(),
            number: number + 1,
            job: Job::ReadNewest,
            store,
            clock,
            memory: self.memory.clone(),
            pinned: None,
            pins: true,
            pauses: (0, 0),
            rows_of: 0,
        };
        self.world.begin(process, |p| {
            p.swift = true;
            p.operation = 0;
        });
        let over = Over { world: self.world.clone(), process, end: end.clone(), what: None };
        self.runtime.spawn(async move {
            over.see(operation.perform()).await;
        });
        loop {
            match self.world.settle() {
                Ok(true) => break,
                Ok(false) => self.world.release(process),
                Err(stuck) => return self.world.lock().history.violation(stuck),
            }
        }
        let failed = end.lock().ok().and_then(|mut end| end.take()).map(|end| end.what);
        let mut state = self.world.lock();
        if let Some(What::Failed(kind, why)) = failed
            && state.process(process).is_some_and(|p| p.faults == 0)
        {
            state.history.violation(format!("the table cannot be read at the end: {kind:?} {why}"));
        }
        drop(state);
        self.world.bury(process);
    }
}

fn word(what: &What) -> String {
    match what {
        What::Failed(kind, _) => format!("{kind:?}"),
        other => format!("{other:?}"),
    }
}

/// Tells the world when a task is over, also when it is dropped.
struct Over {
    world: Arc<World>,
    process: u64,
    end: Arc<std::sync::Mutex<Option<End>>>,
    what: Option<End>,
}

impl Over {
    async fn see(mut self, operation: impl Future<Output = End>) {
        self.what = Some(operation.await);
    }
}

impl Drop for Over {
    fn drop(&mut self) {
        if let Ok(mut end) = self.end.lock() {
            *end = self.what.take();
        }
        self.world.finish(self.process);
    }
}

/// The rules of the world that settings ask for.
pub(super) fn rules(settings: &Simulation) -> Rules {
    Rules { seed: settings.seed, faults: settings.faults, mutation: settings.mutation }
}
