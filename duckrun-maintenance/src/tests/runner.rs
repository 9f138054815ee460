//! The runner with a table that fails, panics and is cancelled: the report has it all, the caller never does.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use duckrun_core::maintenance::{Action, Applied, Glance, TableMaintenance, TableStats};
use duckrun_core::memory::{EffectiveLimit, Job, MemorySettings, plan};
use duckrun_core::{Clock, Error, ErrorKind, Phase, Result, RunContext};

use super::{DAY, empty, flat, noon};
use crate::{DefaultPolicy, Disabled, MaintenancePolicy, OnRequest, Outcome, Report, run};

const COMPACT: Action = Action::Compact { partitions: vec![] };
const VACUUM: Action = Action::Vacuum { retention: DAY, full: true };
const CLEAN: Action = Action::CleanLog { retention: DAY };

enum Answer {
    Done { version: Option<u64>, removed: u64, added: u64 },
    Skip(&'static str),
    Fail(ErrorKind, &'static str),
    Panic,
    CancelThenFail,
}

/// Answers from a list, then with plain success.
struct Fake {
    stats: Mutex<Option<Result<TableStats>>>,
    answers: Mutex<VecDeque<Answer>>,
    asked: Mutex<Vec<Action>>,
}

impl std::fmt::Debug for Fake {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Fake")
    }
}

impl Fake {
    fn new(stats: Result<TableStats>, answers: impl IntoIterator<Item = Answer>) -> Self {
        Self {
            stats: Mutex::new(Some(stats)),
            answers: Mutex::new(answers.into_iter().collect()),
            asked: Mutex::default(),
        }
    }

    fn asked(&self) -> Vec<Action> {
        self.asked.lock().unwrap().clone()
    }
}

#[async_trait]
impl TableMaintenance for Fake {
    async fn stats(&self, _cx: &RunContext) -> Result<TableStats> {
        self.stats.lock().unwrap().take().expect("statistics are read once")
    }

    async fn apply(&self, cx: &RunContext, action: &Action) -> Result<Applied> {
        self.asked.lock().unwrap().push(action.clone());
        let answer = self.answers.lock().unwrap().pop_front();
        let mut applied = Applied::done(action.clone());
        match answer {
            None => {}
            Some(Answer::Done { version, removed, added }) => {
                (applied.version, applied.files_removed, applied.files_added) = (version, removed, added);
            }
            Some(Answer::Skip(why)) => return Ok(Applied::skipped(action.clone(), why)),
            Some(Answer::Fail(kind, message)) => return Err(Error::new(kind, message).with_table("mart.flights")),
            Some(Answer::Panic) => panic!("index out of\nbounds"),
            Some(Answer::CancelThenFail) => {
                cx.cancellation().cancel();
                return Err(Error::cancelled());
            }
        }
        Ok(applied)
    }
}

#[derive(Debug)]
struct Fixed;

impl Clock for Fixed {
    fn now(&self) -> DateTime<Utc> {
        noon()
    }
}

#[derive(Debug)]
struct Panicking;

impl MaintenancePolicy for Panicking {
    fn decide(&self, _: &TableStats, _: DateTime<Utc>) -> Vec<Action> {
        panic!("no idea")
    }
}

fn context() -> RunContext {
    let limit = EffectiveLimit::explicit(8 << 30, 4);
    let memory = plan(&limit, &MemorySettings::default(), Job::Compact).unwrap();
    RunContext::new(memory).with_clock(Arc::new(Fixed))
}

/// The fakes are always ready.
fn now<T>(future: impl Future<Output = T>) -> T {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => value,
        Poll::Pending => panic!("pending"),
    }
}

fn maintain(answers: impl IntoIterator<Item = Answer>, actions: impl IntoIterator<Item = Action>) -> (Fake, Report) {
    let fake = Fake::new(Ok(empty()), answers);
    let report = now(run(&context(), &fake, &OnRequest::new(actions).allow_unsafe_retention()));
    (fake, report)
}

#[test]
fn what_the_policy_asks_for_is_carried_out_in_order() {
    let mut stats = flat(vec![700; 150]);
    (stats.version, stats.commits_since_checkpoint) = (150, 9);
    let fake = Fake::new(Ok(stats), [Answer::Done { version: Some(151), removed: 150, added: 1 }]);
    let report = now(run(&context(), &fake, &DefaultPolicy::default()));
    assert_eq!(fake.asked(), [COMPACT, Action::Checkpoint]);
    assert!(report.is_clean());
    assert_eq!(report.committed(), Some(151));
    assert_eq!(report.applied().count(), 2);
    assert_eq!(report.to_string(), "maintenance of v150: compact → v151 (-150 +1 files); checkpoint; 0.00 s");
}

#[test]
fn a_fault_is_reported_and_the_rest_is_tried() {
    let answers = [Answer::Fail(ErrorKind::Unavailable, "503\nslow down"), Answer::Skip("too young")];
    let (fake, report) = maintain(answers, [COMPACT, VACUUM, Action::Checkpoint]);
    assert_eq!(fake.asked().len(), 3);
    assert!(!report.is_clean() && !report.cancelled);
    assert_eq!(report.faults().map(|fault| fault.kind).collect::<Vec<_>>(), [ErrorKind::Unavailable]);
    assert_eq!(
        report.to_string(),
        "maintenance of v0: compact failed: mart.flights: unavailable: 503 slow down; full vacuum skipped: too young; \
         checkpoint; 0.00 s"
    );
}

/// After a contradiction in the log or a panic, deleting anything could be the step that cannot be taken back.
#[test]
fn nothing_is_deleted_after_an_alarming_fault() {
    for answer in [
        Answer::Fail(ErrorKind::Corrupt, "x"),
        Answer::Fail(ErrorKind::CommitUnknown, "x"),
        Answer::Fail(ErrorKind::Internal, "x"),
        Answer::Panic,
    ] {
        let (fake, report) = maintain([answer], [COMPACT, VACUUM, Action::Checkpoint, CLEAN]);
        assert_eq!(fake.asked(), [COMPACT, Action::Checkpoint]);
        assert!(matches!(report.steps[1].outcome, Outcome::Stopped(_)));
        assert!(matches!(report.steps[3].outcome, Outcome::Stopped(_)));
    }
}

#[test]
fn a_panic_is_a_fault() {
    let (_, report) = maintain([Answer::Panic], [COMPACT]);
    assert_eq!(
        report.to_string(),
        "maintenance of v0: compact failed: the table panicked: index out of bounds; 0.00 s"
    );
    let report = now(run(&context(), &Fake::new(Ok(empty()), []), &Panicking));
    assert_eq!(report.to_string(), "maintenance of v0 failed: the policy panicked: no idea; 0.00 s");
}

#[test]
fn unreadable_statistics_are_a_fault() {
    let fake = Fake::new(Err(Error::corrupt("two metadata actions in one commit")), []);
    let report = now(run(&context(), &fake, &DefaultPolicy::default()));
    assert_eq!(report.faults().next().unwrap().kind, ErrorKind::Corrupt);
    assert_eq!((report.version, report.steps.len()), (None, 0));
    assert_eq!(report.to_string(), "maintenance failed: corrupt table: two metadata actions in one commit; 0.00 s");
}

#[test]
fn a_cancelled_run_stops() {
    let cx = context();
    cx.cancellation().cancel();
    let report = now(run(&cx, &Fake::new(Ok(empty()), []), &OnRequest::new([COMPACT])));
    assert!(report.cancelled && report.is_clean());
    assert_eq!(report.to_string(), "maintenance: cancelled; 0.00 s");

    let (fake, report) = maintain([Answer::CancelThenFail], [COMPACT, Action::Checkpoint]);
    assert_eq!(fake.asked(), [COMPACT]);
    assert!(report.cancelled && report.is_clean());
    assert_eq!(
        report.to_string(),
        "maintenance of v0: compact not done: cancelled; checkpoint not done: cancelled; 0.00 s"
    );
}

#[test]
fn progress_is_the_share_of_actions_done() {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let sink = Arc::clone(&seen);
    let cx = context().with_progress(Some(Arc::new(move |progress| {
        assert_eq!(progress.phase, Phase::Maintenance);
        sink.lock().unwrap().push(progress.fraction);
    })));
    now(run(&cx, &Fake::new(Ok(empty()), []), &OnRequest::new([COMPACT, Action::Checkpoint])));
    assert_eq!(*seen.lock().unwrap(), [None, Some(0.5), Some(1.0)]);

    let report = now(run(&cx, &Fake::new(Ok(empty()), []), &Disabled));
    assert_eq!(report.to_string(), "maintenance of v0: nothing to do; 0.00 s");
}

#[test]
fn the_future_can_be_spawned() {
    fn spawnable(_: impl Future + Send) {}
    let (cx, fake) = (context(), Fake::new(Ok(empty()), []));
    spawnable(run(&cx, &fake, &Disabled));
}

/// Looks after no commit, or panics when it is asked.
#[derive(Debug)]
struct Passes(bool);

impl MaintenancePolicy for Passes {
    fn is_occasion(&self, _: &Glance, _: DateTime<Utc>) -> bool {
        assert!(!self.0, "no idea");
        false
    }

    fn decide(&self, _: &TableStats, _: DateTime<Utc>) -> Vec<Action> {
        vec![COMPACT]
    }
}

#[test]
fn a_commit_that_is_no_occasion_costs_nothing() {
    let after = |policy: &dyn MaintenancePolicy| {
        let table = Fake::new(Err(Error::internal("nobody should ask")), []);
        let report = now(crate::after_commit(&context(), &table, policy, &Glance::default()));
        assert_eq!(table.asked(), []);
        (table.stats.lock().unwrap().is_none(), report)
    };
    let (looked, report) = after(&Passes(false));
    assert!(!looked && report.passed && report.is_clean(), "{report}");
    assert_eq!(report.to_string(), "maintenance: not looked for; 0.00 s");
    let (looked, report) = after(&Passes(true));
    assert!(
        !looked && report.fault.is_some() && report.to_string().contains("the policy panicked: no idea"),
        "{report}"
    );
    // What is asked for by `run` is done whatever the occasion.
    let table = Fake::new(Ok(empty()), []);
    now(run(&context(), &table, &Passes(false)));
    assert_eq!(table.asked(), [COMPACT]);
}
