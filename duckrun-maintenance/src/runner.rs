//! Asks a policy and has its actions carried out. Nothing that happens here can fail the run that called it.

use std::future::{Future, poll_fn};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;

use duckrun_core::maintenance::{Action, Applied, Glance, TableMaintenance};
use duckrun_core::{ErrorKind, Phase, Progress, Result, RunContext};

use crate::{Fault, MaintenancePolicy, Outcome, Report, Step};

/// Reads a table's statistics, asks the policy, and carries its actions out one after the other.
///
/// It never fails: an error of the table and a panic of the table or the policy end in the report and in `tracing` (target
/// `duckrun_maintenance`). A fault does not keep the other actions from being tried, except that nothing is deleted any more
/// (vacuum, log clean-up) once something spoke of a corrupt table, an unknown commit or a state believed impossible.
///
/// It stops between two actions once `cx` is cancelled; within one, the [`TableMaintenance`] does. Progress is reported as
/// [`Phase::Maintenance`], its fraction the share of the actions that are done. Dropping the future is safe: the table then
/// reads as it did.
pub async fn run(cx: &RunContext, table: &dyn TableMaintenance, policy: &dyn MaintenancePolicy) -> Report {
    let started = cx.now();
    let mut report = Report::default();
    if let Err(fault) = maintain(cx, table, policy, &mut report).await {
        match fault.kind {
            ErrorKind::Cancelled => report.cancelled = true,
            _ => {
                tracing::warn!(%fault, "maintenance did not start");
                report.fault = Some(fault);
            }
        }
    }
    report.elapsed = (cx.now() - started).to_std().unwrap_or_default();
    tracing::debug!(%report, "maintenance ended");
    report
}

/// After a data commit: as [`run`], where the policy says that the commit is an occasion
/// ([`MaintenancePolicy::is_occasion`]); otherwise the table is not looked at.
pub async fn after_commit(
    cx: &RunContext,
    table: &dyn TableMaintenance,
    policy: &dyn MaintenancePolicy,
    glance: &Glance,
) -> Report {
    match catch_unwind(AssertUnwindSafe(|| policy.is_occasion(glance, cx.now()))) {
        Ok(true) => run(cx, table, policy).await,
        Ok(false) => Report { passed: true, ..Report::default() },
        Err(payload) => {
            let fault = Fault::panicked("the policy", &*payload);
            tracing::warn!(%fault, "maintenance did not start");
            Report { fault: Some(fault), ..Report::default() }
        }
    }
}

/// `Err` is what kept it from starting.
async fn maintain(
    cx: &RunContext,
    table: &dyn TableMaintenance,
    policy: &dyn MaintenancePolicy,
    report: &mut Report,
) -> Result<(), Fault> {
    let progress = Progress::start(Phase::Maintenance);
    cx.check().map_err(|e| Fault::from(&e))?;
    cx.report(&progress);
    let stats = caught("reading statistics", async { table.stats(cx).await }).await?;
    report.version = Some(stats.version);
    let actions = catch_unwind(AssertUnwindSafe(|| policy.decide(&stats, cx.now())))
        .map_err(|payload| Fault::panicked("the policy", &*payload))?;

    let total = actions.len();
    let mut trusted = true;
    for (done, action) in actions.into_iter().enumerate() {
        report.cancelled |= cx.check().is_err();
        let outcome = if report.cancelled {
            Outcome::Stopped("cancelled".to_owned())
        } else if !trusted && deletes(&action) {
            Outcome::Stopped("nothing is deleted after such a fault".to_owned())
        } else {
            apply(&within(cx, done, total), table, &action).await
        };
        match &outcome {
            Outcome::Fault(fault) => trusted &= !is_alarming(fault.kind),
            Outcome::Stopped(_) => report.cancelled |= cx.check().is_err(),
            Outcome::Applied(_) => {}
        }
        report.steps.push(Step { action, outcome });
        cx.report(&progress.with_fraction(Some((done + 1) as f64 / total as f64)));
    }
    Ok(())
}

/// The context of one action: the fraction that it reports becomes its part of the whole.
fn within(cx: &RunContext, done: usize, total: usize) -> RunContext {
    let outer = cx.clone();
    cx.clone().with_progress(Some(Arc::new(move |p: &Progress| {
        let fraction = p.fraction.map(|f| (done as f64 + f.clamp(0.0, 1.0)) / total as f64);
        outer.report(&p.with_fraction(fraction));
    })))
}

async fn apply(cx: &RunContext, table: &dyn TableMaintenance, action: &Action) -> Outcome {
    let result: Result<Applied, Fault> = caught("the table", async { table.apply(cx, action).await }).await;
    match result {
        Ok(applied) => {
            let Applied { version, files_removed, files_added, skipped, .. } = &applied;
            tracing::debug!(%action, version, files_removed, files_added, skipped, "maintenance action applied");
            Outcome::Applied(applied)
        }
        Err(fault) if fault.kind == ErrorKind::Cancelled => Outcome::Stopped("cancelled".to_owned()),
        Err(fault) => {
            tracing::warn!(%action, %fault, "maintenance action failed");
            Outcome::Fault(fault)
        }
    }
}

/// The future's result, with its errors and its panics as faults.
async fn caught<T>(what: &str, future: impl Future<Output = Result<T>> + Send) -> Result<T, Fault> {
    let mut future = pin!(future);
    // A future that panicked is not polled again, so nothing sees the state that the panic may have broken.
    poll_fn(|cx| match catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(cx))) {
        Ok(poll) => poll.map(|result| result.map_err(|error| Fault::from(&error))),
        Err(payload) => Poll::Ready(Err(Fault::panicked(what, &*payload))),
    })
    .await
}

fn deletes(action: &Action) -> bool {
    matches!(action, Action::Vacuum { .. } | Action::CleanLog { .. })
}

/// Whether a fault says that the log may not be what it seems.
fn is_alarming(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::Corrupt | ErrorKind::CommitUnknown | ErrorKind::Internal)
}
