//! What an implementation of one of duckrun's traits must do, as checks that anybody can run against their own.
//!
//! Each suite takes a factory, never panics whatever it is given, and returns a [`Conformance`]: every check by its name, with the
//! sentence of the trait's contract that it is about and how it ended. [`Conformance::assert`] turns it into a test.
//!
//! ```
//! # #[tokio::main(flavor = "multi_thread")]
//! # async fn main() {
//! use std::sync::Arc;
//! use duckrun::duckdb::DuckDb;
//! use duckrun_testkit::conformance;
//!
//! conformance::probe(|| Arc::new(duckrun::memory::SystemProbe::new())).assert();
//! conformance::engine(|| Arc::new(DuckDb::in_memory())).await.assert();
//! # }
//! ```
//!
//! The checks of a store and of a strategy need rows to be read: they use the built-in engine. A suite shows that a contract is
//! broken, never that it is kept at every moment: races and lost answers are the business of the campaigns.

mod engine;
mod policy;
mod probe;
mod source;
mod strategy;
mod table_store;

use std::fmt;
use std::panic::AssertUnwindSafe;

use duckrun::memory::{EffectiveLimit, GIB, Job, MemorySettings};
use duckrun::{Error, Result, RunContext};
use futures::FutureExt;

pub use engine::engine;
pub use policy::{PolicySubject, policy};
pub use probe::probe;
pub use source::{SourceSubject, source};
pub use strategy::{StrategySubject, strategy};
pub use table_store::table_store;

/// How a check ended.
#[non_exhaustive]
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// The contract was kept.
    Passed,
    /// The contract was broken, and how.
    Failed(String),
    /// The implementation says that it lacks what the check needs, as the contract allows.
    Skipped(String),
}

/// One check.
#[non_exhaustive]
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Check {
    /// Its name.
    pub name: &'static str,
    /// The sentence of the contract.
    pub contract: &'static str,
    /// How it ended.
    pub verdict: Verdict,
}

/// The checks of one implementation. `Display` prints a line for each.
#[must_use = "a suite says what it found in its report: assert it"]
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conformance {
    subject: String,
    checks: Vec<Check>,
}

impl Conformance {
    fn of(subject: impl Into<String>) -> Self {
        Self { subject: subject.into(), checks: Vec::new() }
    }

    /// What was checked.
    pub fn subject(&self) -> &str {
        &self.subject
    }

    /// All checks, in the order in which they ran.
    pub fn checks(&self) -> &[Check] {
        &self.checks
    }

    /// The checks that failed.
    pub fn failures(&self) -> impl Iterator<Item = &Check> {
        self.checks.iter().filter(|c| matches!(c.verdict, Verdict::Failed(_)))
    }

    /// Whether no check failed.
    pub fn is_clean(&self) -> bool {
        self.failures().next().is_none()
    }

    /// Whether the check of this name failed: for those who test a suite.
    pub fn failed(&self, name: &str) -> bool {
        self.failures().any(|c| c.name == name)
    }

    /// Panics with the report if a check failed.
    ///
    /// # Panics
    /// That is what it is for.
    pub fn assert(&self) {
        assert!(self.is_clean(), "{self}");
    }

    fn push(&mut self, name: &'static str, contract: &'static str, found: Found) {
        let verdict = match found {
            Ok(()) => Verdict::Passed,
            Err(Trouble::Broken(why)) => Verdict::Failed(why),
            Err(Trouble::Lacking(why)) => Verdict::Skipped(why),
        };
        self.checks.push(Check { name, contract, verdict });
    }

    /// Runs a check; a panic is a failure of it, and so is taking longer than half a minute.
    async fn check(&mut self, name: &'static str, contract: &'static str, run: impl Future<Output = Found>) {
        let guarded = AssertUnwindSafe(run).catch_unwind();
        let found = match tokio::time::timeout(std::time::Duration::from_secs(60), guarded).await {
            Ok(Ok(found)) => found,
            Ok(Err(panic)) => Err(panicked(panic.as_ref())),
            Err(_) => Err(Trouble::Broken("it does not end within a minute".to_owned())),
        };
        self.push(name, contract, found);
    }

    /// The same for a check that waits for nothing.
    fn check_now(&mut self, name: &'static str, contract: &'static str, run: impl FnOnce() -> Found) {
        let found = std::panic::catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|p| Err(panicked(p.as_ref())));
        self.push(name, contract, found);
    }
}

impl fmt::Display for Conformance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let failed = self.failures().count();
        write!(f, "{}: {} checks, {failed} failed", self.subject, self.checks.len())?;
        for check in &self.checks {
            match &check.verdict {
                Verdict::Passed => write!(f, "\n  ok      {}", check.name)?,
                Verdict::Skipped(why) => write!(f, "\n  skipped {}: {why}", check.name)?,
                Verdict::Failed(why) => {
                    write!(f, "\n  FAILED  {}: {why}\n          the contract: {}", check.name, check.contract)?;
                }
            }
        }
        Ok(())
    }
}

fn panicked(panic: &(dyn std::any::Any + Send)) -> Trouble {
    let text = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
    Trouble::Broken(format!("it panicked: {}", text.unwrap_or("no message")))
}

/// What a check found.
type Found = std::result::Result<(), Trouble>;

/// Why a check did not pass.
#[derive(Debug)]
enum Trouble {
    Broken(String),
    Lacking(String),
}

/// An error that the contract does not allow for here.
impl From<Error> for Trouble {
    fn from(e: Error) -> Self {
        Self::Broken(format!("an error: {e}"))
    }
}

/// The contract is broken.
fn broken<T>(why: impl fmt::Display) -> std::result::Result<T, Trouble> {
    Err(Trouble::Broken(why.to_string()))
}

/// Fails where something does not hold.
fn holds(what: bool, why: impl fmt::Display) -> Found {
    if what { Ok(()) } else { broken(why) }
}

/// Fails where two things differ.
fn same<T: PartialEq + fmt::Debug>(what: &str, got: T, wanted: T) -> Found {
    if got == wanted { Ok(()) } else { broken(format_args!("{what}: {got:?}, not {wanted:?}")) }
}

/// A context of a run: 1 GiB, two processors.
fn context() -> Result<RunContext> {
    let plan = duckrun::memory::plan(&EffectiveLimit::explicit(GIB, 2), &MemorySettings::default(), Job::Write)?;
    Ok(RunContext::new(plan))
}
