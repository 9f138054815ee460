//! What a run did, in one readable line or in every detail.

use std::fmt;
use std::time::Duration;

use duckrun_core::{CommitOutcome, EngineSettings, Error, ErrorKind, Phase, Result, RunId, WriteMetrics};
use duckrun_memory::MemoryPlan;

/// Time spent in a phase.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PhaseTime {
    /// The phase.
    pub phase: Phase,
    /// Wall-clock time.
    pub time: Duration,
}

/// What a run did. `Display` prints one line.
#[must_use = "the outcome may be a conflict"]
#[non_exhaustive]
#[derive(Debug)]
pub struct Report {
    /// The table, as `schema.table`.
    pub table: String,
    /// The strategy.
    pub strategy: String,
    /// The executor that carried the plan out.
    pub executor: String,
    /// The version that was read; `None` where the table did not exist.
    pub read_version: Option<u64>,
    /// How the commit ended.
    pub outcome: CommitOutcome,
    /// What the caller should know (columns that were dropped or kept).
    pub warnings: Vec<String>,
    /// Time per phase, of the last attempt.
    pub phases: Vec<PhaseTime>,
    /// How often the SQL ran.
    pub attempts: u32,
    /// Time spent waiting for memory.
    pub waited: Duration,
    /// Wall-clock time of the whole run.
    pub elapsed: Duration,
    /// The highest resident memory of the process during the run, in bytes.
    pub peak_memory: u64,
    /// The memory plan.
    pub memory: MemoryPlan,
    /// The engine's settings that were in force.
    pub engine: EngineSettings,
    /// The failure of a statement that was to run after the commit.
    pub after_error: Option<Error>,
    /// What maintenance did, or why it failed, a line each; empty where there was nothing to do.
    pub maintenance: Vec<String>,
    /// The same in every detail; `None` where it was off, or is not ours.
    pub maintained: Option<duckrun_maintenance::Report>,
    /// The id by which the commit can be recognised in the log; of several windows, the last one's.
    pub run_id: RunId,
    /// The windows that ran, of a strategy that is several runs; the report's own outcome and figures are those of all together.
    pub windows: Vec<Window>,
    /// The window that failed; those before it are done, those after it did not run.
    pub failed: Option<FailedWindow>,
}

/// One window of a run that is several.
#[non_exhaustive]
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Window {
    /// What the strategy calls it, for example `2024-03`.
    pub label: String,
    /// The version that was read; `None` where the table did not exist.
    pub read_version: Option<u64>,
    /// How its commit ended.
    pub outcome: CommitOutcome,
    /// How often its SQL ran.
    pub attempts: u32,
    /// Wall-clock time.
    pub elapsed: Duration,
    /// The id by which its commit can be recognised in the log.
    pub run_id: RunId,
}

/// A window that failed after others were done.
///
/// Windows that did not run are not caught up by the next run, which starts at its lookback: run it once with a begin and an end.
#[non_exhaustive]
#[derive(Debug)]
pub struct FailedWindow {
    /// The window.
    pub label: String,
    /// Why. The table is as the window before it left it.
    pub error: Error,
}

impl Report {
    /// The version that the run created; `None` where it committed nothing.
    pub fn version(&self) -> Option<u64> {
        match &self.outcome {
            CommitOutcome::Committed(commit) => Some(commit.version),
            _ => None,
        }
    }

    /// The commit's figures; `None` where the run committed nothing.
    pub fn metrics(&self) -> Option<&WriteMetrics> {
        match &self.outcome {
            CommitOutcome::Committed(commit) => Some(&commit.metrics),
            _ => None,
        }
    }

    /// The report of one window as the beginning of the report of all.
    pub(crate) fn into_windows(mut self, label: String) -> Self {
        self.windows.push(self.window(label));
        self
    }

    fn window(&self, label: String) -> Window {
        Window {
            label,
            read_version: self.read_version,
            outcome: self.outcome.clone(),
            attempts: self.attempts,
            elapsed: self.elapsed,
            run_id: self.run_id,
        }
    }

    /// Adds the report of the next window.
    pub(crate) fn add(&mut self, label: String, next: Self) {
        self.windows.push(next.window(label));
        let before = std::mem::replace(&mut self.outcome, next.outcome);
        match (&before, &mut self.outcome) {
            (CommitOutcome::Committed(all), CommitOutcome::Committed(last)) => {
                let mut sum = all.metrics.clone();
                add(&mut sum, &last.metrics);
                last.metrics = sum;
            }
            (CommitOutcome::Committed(_), CommitOutcome::NothingToDo(_)) => self.outcome = before,
            _ => {}
        }
        for warning in next.warnings {
            if !self.warnings.contains(&warning) {
                self.warnings.push(warning);
            }
        }
        self.attempts += next.attempts;
        self.peak_memory = self.peak_memory.max(next.peak_memory);
        self.phases.extend(next.phases);
        self.after_error = self.after_error.take().or(next.after_error);
        self.maintenance.extend(next.maintenance);
        self.maintained = next.maintained.or(self.maintained.take());
        self.run_id = next.run_id;
    }

    /// Whether the commit was refused, or its fate is unknown.
    pub(crate) fn is_refused(&self) -> bool {
        !matches!(self.outcome, CommitOutcome::Committed(_) | CommitOutcome::NothingToDo(_))
    }

    /// Rows that changed.
    pub fn rows_updated(&self) -> u64 {
        self.metrics().map_or(0, |m| m.rows_updated)
    }

    /// Rows that went; `None` where the log does not know.
    pub fn rows_deleted(&self) -> Option<u64> {
        self.metrics().map_or(Some(0), |m| m.rows_deleted)
    }

    /// Rows that are new in the table.
    pub fn rows_inserted(&self) -> u64 {
        self.metrics().map_or(0, |m| m.rows_inserted)
    }

    /// Whether somebody else's commit refused the run.
    pub fn is_conflict(&self) -> bool {
        matches!(self.outcome, CommitOutcome::Conflict { .. })
    }

    /// Turns a conflict, a lost answer and a failed window into errors; "nothing to do" stays a success.
    ///
    /// # Errors
    /// [`ErrorKind::Unavailable`] for a conflict (running again may succeed), [`ErrorKind::CommitUnknown`] for a lost answer; a
    /// window's own for a failed window.
    pub fn committed(mut self) -> Result<Self> {
        if let Some(FailedWindow { label, error }) = self.failed.take() {
            let done = self.windows.len();
            let message =
                format!("the window {label} failed after {} done: {}", plural(done as u64, "window"), error.message());
            return Err(Error::new(error.kind(), message).with_table(self.table).with_source(error));
        }
        let error = match &self.outcome {
            CommitOutcome::Conflict { found, .. } => {
                Error::new(ErrorKind::Unavailable, self.to_string()).with_version(*found)
            }
            CommitOutcome::Unknown { version, id } => Error::new(
                ErrorKind::CommitUnknown,
                format!("version {version} may or may not hold the commit {id}; look there before running again"),
            )
            .with_version(*version),
            _ => return Ok(self),
        };
        Err(error.with_table(self.table))
    }
}

/// Adds the figures of a later commit.
fn add(all: &mut WriteMetrics, last: &WriteMetrics) {
    all.rows_inserted += last.rows_inserted;
    all.rows_updated += last.rows_updated;
    all.rows_deleted = all.rows_deleted.zip(last.rows_deleted).map(|(a, b)| a + b);
    all.rows_copied += last.rows_copied;
    all.files_added += last.files_added;
    all.files_removed += last.files_removed;
    all.bytes_added += last.bytes_added;
    all.bytes_removed += last.bytes_removed;
    all.commit_time += last.commit_time;
}

/// `2711` as `2 711`.
fn grouped(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (i, c) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(' ');
        }
        out.push(c);
    }
    out
}

fn plural(n: u64, one: &str) -> String {
    if n == 1 { format!("1 {one}") } else { format!("{} {one}s", grouped(n)) }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let before = self.read_version.map_or_else(|| "new".to_owned(), |v| format!("v{v}"));
        write!(f, "{} {before}", self.table)?;
        match &self.outcome {
            CommitOutcome::Committed(commit) => {
                let m = &commit.metrics;
                write!(f, "→v{} {}: ", commit.version, self.strategy)?;
                let mut parts = Vec::new();
                if self.windows.len() > 1 {
                    parts.push(plural(self.windows.len() as u64, "window"));
                }
                if m.rows_inserted > 0 || (m.rows_updated == 0 && m.rows_deleted == Some(0)) {
                    parts.push(format!("+{}", plural(m.rows_inserted, "row")));
                }
                if m.rows_updated > 0 {
                    parts.push(format!("~{}", plural(m.rows_updated, "row")));
                }
                match m.rows_deleted {
                    Some(0) => {}
                    Some(rows) => parts.push(format!("-{}", plural(rows, "row"))),
                    None => parts.push("- unknown rows".to_owned()),
                }
                parts.push(plural(m.files_added, "file"));
                if m.files_removed > 0 {
                    parts.push(format!("-{}", plural(m.files_removed, "file")));
                }
                write!(f, "{}", parts.join(", "))?;
            }
            CommitOutcome::Conflict { found, reason, .. } => {
                write!(f, " {}: refused, v{found} is in the way ({reason})", self.strategy)?;
            }
            CommitOutcome::NothingToDo(why) => write!(f, " {}: nothing to do, {why}", self.strategy)?,
            CommitOutcome::Unknown { version, .. } => {
                write!(f, " {}: unknown whether v{version} is ours", self.strategy)?
            }
            _ => write!(f, " {}: {:?}", self.strategy, self.outcome)?,
        }
        write!(f, ", {:.2} s, peak {} MB", self.elapsed.as_secs_f64(), self.peak_memory / 1_000_000)?;
        if self.attempts > 1 {
            write!(f, ", {} attempts", self.attempts)?;
        }
        if let Some(window) = &self.failed {
            write!(f, ", but the window {} failed: {}", window.label, window.error)?;
        }
        if let Some(e) = &self.after_error {
            write!(f, ", but a statement after the commit failed: {e}")?;
        }
        if let Some(fault) = self.maintained.as_ref().and_then(|m| m.faults().next()) {
            write!(f, ", but maintenance failed: {fault}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_grouped() {
        assert_eq!([0, 12, 2_711, 1_234_567].map(grouped), ["0", "12", "2 711", "1 234 567"]);
        assert_eq!((plural(1, "file"), plural(0, "file")), ("1 file".into(), "0 files".into()));
    }
}
