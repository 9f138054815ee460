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
    /// The id by which the commit can be recognised in the log.
    pub run_id: RunId,
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

    /// Rows that are new in the table.
    pub fn rows_inserted(&self) -> u64 {
        self.metrics().map_or(0, |m| m.rows_inserted)
    }

    /// Whether somebody else's commit refused the run.
    pub fn is_conflict(&self) -> bool {
        matches!(self.outcome, CommitOutcome::Conflict { .. })
    }

    /// Turns a conflict and a lost answer into errors; "nothing to do" stays a success.
    ///
    /// # Errors
    /// [`ErrorKind::Unavailable`] for a conflict (running again may succeed), [`ErrorKind::CommitUnknown`] for a lost answer.
    pub fn committed(self) -> Result<Self> {
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
                let mut parts = vec![format!("+{}", plural(m.rows_inserted, "row"))];
                if m.rows_updated > 0 {
                    parts.push(format!("~{} updated", grouped(m.rows_updated)));
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
