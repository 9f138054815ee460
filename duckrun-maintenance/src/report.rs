//! What a maintenance did: a value that becomes part of the run's report. Faults are text here, never an `Err`.

use std::any::Any;
use std::fmt;
use std::time::Duration;

use duckrun_core::maintenance::{Action, Applied};
use duckrun_core::{Error, ErrorKind};

/// What [`run`](crate::run) did. Prints as one line.
#[non_exhaustive]
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Report {
    /// The version whose statistics the policy saw; `None` where they could not be read.
    pub version: Option<u64>,
    /// What the policy asked for and what became of it, in order.
    pub steps: Vec<Step>,
    /// What kept maintenance from starting: the statistics could not be read, or the policy panicked.
    pub fault: Option<Fault>,
    /// Whether the commit was no occasion to look at the table: nothing was read.
    pub passed: bool,
    /// Whether the run was cancelled before everything was done.
    pub cancelled: bool,
    /// How long it took, by the run's clock.
    pub elapsed: Duration,
}

/// One action and what became of it.
#[non_exhaustive]
#[derive(Debug, Clone, PartialEq)]
pub struct Step {
    /// The action, as the policy asked for it.
    pub action: Action,
    /// What became of it.
    pub outcome: Outcome,
}

/// What became of an action.
#[non_exhaustive]
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// It was carried out, or there turned out to be nothing to do.
    Applied(Applied),
    /// It failed. The table reads as before.
    Fault(Fault),
    /// It was not started or was given up, and why.
    Stopped(String),
}

/// An error as text, with the kind that says what to do about it.
#[non_exhaustive]
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// The kind.
    pub kind: ErrorKind,
    /// The error's text: kind, table and message. One line.
    pub message: String,
}

impl Report {
    /// Whether nothing went wrong. Being cancelled is not a fault.
    pub fn is_clean(&self) -> bool {
        self.faults().next().is_none()
    }

    /// Everything that went wrong.
    pub fn faults(&self) -> impl Iterator<Item = &Fault> {
        self.fault.iter().chain(self.steps.iter().filter_map(|step| match &step.outcome {
            Outcome::Fault(fault) => Some(fault),
            _ => None,
        }))
    }

    /// The actions that were carried out, or had nothing to do.
    pub fn applied(&self) -> impl Iterator<Item = &Applied> {
        self.steps.iter().filter_map(|step| match &step.outcome {
            Outcome::Applied(applied) => Some(applied),
            _ => None,
        })
    }

    /// The newest version that maintenance committed.
    pub fn committed(&self) -> Option<u64> {
        self.applied().filter_map(|applied| applied.version).max()
    }
}

impl Fault {
    pub(crate) fn panicked(what: &str, payload: &(dyn Any + Send)) -> Self {
        let text = payload.downcast_ref::<&str>().copied();
        let text = text.or_else(|| payload.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message");
        Self { kind: ErrorKind::Internal, message: one_line(&format!("{what} panicked: {text}")) }
    }
}

impl From<&Error> for Fault {
    // Only the error's own text: what upstream errors say further down the chain may hold a signed URL.
    fn from(error: &Error) -> Self {
        Self { kind: error.kind(), message: one_line(&error.to_string()) }
    }
}

fn one_line(text: &str) -> String {
    text.split(['\n', '\r']).map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join(" ")
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.action)?;
        match &self.outcome {
            Outcome::Fault(fault) => write!(f, " failed: {fault}"),
            Outcome::Stopped(why) => write!(f, " not done: {}", one_line(why)),
            Outcome::Applied(applied) => {
                if let Some(why) = &applied.skipped {
                    return write!(f, " skipped: {}", one_line(why));
                }
                if let Some(version) = applied.version {
                    write!(f, " → v{version}")?;
                }
                match (applied.files_removed, applied.files_added) {
                    (0, 0) => Ok(()),
                    (removed, 0) => write!(f, " (-{removed} files)"),
                    (removed, added) => write!(f, " (-{removed} +{added} files)"),
                }
            }
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("maintenance")?;
        if let Some(version) = self.version {
            write!(f, " of v{version}")?;
        }
        match (&self.fault, self.steps.as_slice()) {
            (Some(fault), _) => write!(f, " failed: {fault}")?,
            (None, []) if self.passed => f.write_str(": not looked for")?,
            (None, []) if self.cancelled => f.write_str(": cancelled")?,
            (None, []) => f.write_str(": nothing to do")?,
            (None, [first, rest @ ..]) => {
                write!(f, ": {first}")?;
                rest.iter().try_for_each(|step| write!(f, "; {step}"))?;
            }
        }
        write!(f, "; {:.2} s", self.elapsed.as_secs_f64())
    }
}
