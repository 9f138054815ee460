//! Several executors as one: the first that accepts a plan carries it out.

use std::sync::Arc;

use async_trait::async_trait;
use duckrun_core::{CommitOutcome, Error, ErrorKind, Executor, Result, RunContext, Snapshot, WriteJob, WritePlan};
use duckrun_memory::Job;

/// Asks executors in order; the first that accepts a plan carries it out.
///
/// ```
/// use std::sync::Arc;
/// use duckrun_delta::{DeltaRsExecutor, FirstThatAccepts, SqlExecutor};
/// let executor = FirstThatAccepts::new(vec![Arc::new(SqlExecutor), Arc::new(DeltaRsExecutor::default())]);
/// ```
#[derive(Debug, Clone)]
pub struct FirstThatAccepts {
    executors: Vec<Arc<dyn Executor>>,
}

impl FirstThatAccepts {
    /// Executors in the order in which they are asked.
    pub fn new(executors: Vec<Arc<dyn Executor>>) -> Self {
        Self { executors }
    }

    fn choose(&self, at: Option<&dyn Snapshot>, plan: &WritePlan) -> Result<&Arc<dyn Executor>> {
        let mut refusals: Vec<(&str, Error)> = Vec::new();
        for executor in &self.executors {
            match executor.accepts(at, plan) {
                Ok(()) => return Ok(executor),
                Err(e) => refusals.push((executor.name(), e)),
            }
        }
        // The first refusal names the reason, and what the others lack beside it.
        let mut refusals = refusals.into_iter();
        let Some((_, first)) = refusals.next() else {
            return Err(Error::invalid("there is no executor"));
        };
        let others: Vec<String> = refusals
            .filter(|(_, e)| e.kind() == ErrorKind::Unsupported)
            .map(|(name, e)| format!("; {name}: {}", e.message()))
            .collect();
        Err(Error::new(first.kind(), format!("{}{}", first.message(), others.concat())).with_source(first))
    }
}

#[async_trait]
impl Executor for FirstThatAccepts {
    fn name(&self) -> &str {
        "first-that-accepts"
    }

    /// That of the first, which carries out most plans.
    fn job(&self, job: Job) -> Job {
        self.executors.first().map_or(job, |first| first.job(job))
    }

    fn accepts(&self, at: Option<&dyn Snapshot>, plan: &WritePlan) -> Result<()> {
        self.choose(at, plan).map(drop)
    }

    fn chosen(&self, at: Option<&dyn Snapshot>, plan: &WritePlan) -> String {
        self.choose(at, plan).map_or_else(|_| self.name().to_owned(), |e| e.chosen(at, plan))
    }

    async fn run(&self, cx: &RunContext, job: WriteJob<'_>) -> Result<CommitOutcome> {
        let executor = self.choose(job.at.as_deref(), &job.plan)?;
        tracing::debug!(executor = executor.name(), "chosen");
        executor.run(cx, job).await
    }
}
