//! Our executor: the engine computes rows, the store stages them in parallel, one commit makes them visible.
//!
//! Plans that change rows go on in [`crate::change`].

use std::sync::Arc;

use async_trait::async_trait;
use duckrun_core::{
    BatchStream, CommitOutcome, Error, Executor, Intent, Nothing, Phase, Progress, Query, RelationName, Result,
    RunContext, Snapshot, Staged, TableStore, WriteAction, WriteJob, WritePlan, WriteSpec,
};

use crate::change;

/// Carries out every plan: new rows are computed by the engine in one pass, files that change are patched.
///
/// On a table with a change feed (`delta.enableChangeDataFeed`), a commit that rewrites files also writes what it did to each row:
/// see [`DeltaStore::changes`](crate::DeltaStore::changes). That takes one more pass over the rewritten files, and a copy of the
/// new rows in the engine, which spills.
#[derive(Debug, Clone, Copy, Default)]
pub struct SqlExecutor;

#[async_trait]
impl Executor for SqlExecutor {
    fn name(&self) -> &str {
        "sql"
    }

    fn accepts(&self, _at: Option<&dyn Snapshot>, plan: &WritePlan) -> Result<()> {
        match &plan.action {
            WriteAction::Append | WriteAction::Overwrite | WriteAction::Merge(_) | WriteAction::Replace(_) => Ok(()),
            _ => Err(Error::unsupported(format!("the sql executor cannot carry out {:?}", plan.action))),
        }
    }

    async fn run(&self, cx: &RunContext, job: WriteJob<'_>) -> Result<CommitOutcome> {
        self.accepts(job.at.as_deref(), &job.plan)?;
        // The commit would refuse it too, when everything is written.
        change::feed::check(job.at.as_deref(), &job.plan)?;
        if matches!(job.plan.action, WriteAction::Merge(_) | WriteAction::Replace(_)) {
            return change::run(cx, job).await;
        }
        let WriteJob { engine, store, at, plan, mut query, files, transaction, info } = job;
        if !plan.checks.is_empty() {
            // Computed once, so that the very rows that were checked are written.
            let name = RelationName::bare(change::CHECKED)?;
            engine.materialize(&name, &query.with_output(change::incoming::nullable(&plan.schema))).await?;
            change::check_relation(engine, &plan, change::CHECKED).await?;
            query = Query::new(format!("SELECT * FROM {}", change::CHECKED));
        }
        let sync = files.sync;
        let mut properties = at.as_ref().map(|s| s.properties()).unwrap_or_default();
        properties.extend(plan.metadata.properties.clone());
        let spec = WriteSpec::new(plan.schema.clone(), plan.partition_columns.clone(), files, properties);
        cx.report(&Progress::start(Phase::Writing));
        let query: Query = query.with_output(change::incoming::nullable(&plan.schema));
        let rows: BatchStream = engine.query(&query).await?;
        let staged = store.stage(cx, at.as_ref(), &spec, rows).await?;
        if staged.rows() == 0 && plan.action == WriteAction::Append && at.is_some() && plan.metadata.is_empty() {
            return Ok(CommitOutcome::NothingToDo(Nothing::NoRows));
        }
        cx.report(&Progress::start(Phase::Committing).at(staged.rows(), staged.bytes()));
        let mut intent = Intent::new(plan, staged);
        intent.transaction = transaction;
        intent.sync = sync;
        intent.info = info;
        finish(cx, store, at.as_ref(), &intent).await
    }
}

/// Commits, and removes the staged files where the outcome proves that no commit names them.
pub(crate) async fn finish(
    cx: &RunContext,
    store: &dyn TableStore,
    at: Option<&Arc<dyn Snapshot>>,
    intent: &Intent,
) -> Result<CommitOutcome> {
    let outcome = store.commit(cx, at, intent).await;
    let refused = match &outcome {
        Ok(CommitOutcome::Committed(_) | CommitOutcome::Unknown { .. }) => false,
        Ok(_) | Err(_) => true,
    };
    if refused {
        discard(cx, store, &intent.staged).await;
    }
    outcome
}

/// Removing what a refused run left is a courtesy: vacuum removes what this cannot.
pub(crate) async fn discard(cx: &RunContext, store: &dyn TableStore, staged: &Staged) {
    if let Err(e) = store.discard(cx, staged).await {
        tracing::warn!(table = store.location(), error = %e, "staged files of a refused run are left for vacuum");
    }
}
