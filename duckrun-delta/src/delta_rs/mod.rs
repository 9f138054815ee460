//! delta-rs's own merge, delete and update behind our plans: as a choice, and as an oracle.
//!
//! What delta-rs gets wrong stays outside: expressions are computed by DuckDB as far as possible ([`expr`]), the commit goes
//! the way of ours, against exactly the pinned version ([`log`]), files are not ruled out by statistics that are not exact, and
//! duplicate and NULL keys are refused before. What is left of it (UPSTREAM, delta-rs 1.1.3): the join is held in memory, and the
//! rows of every scanned file that nothing has touched yet too, outside the memory pool; hence the limit on a table's size. With
//! a bounded pool and several partitions it can stop for ever (delta-rs #4614); hence one partition, and the watchdog.

mod clauses;
mod expr;
mod log;
mod meter;
mod source;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::datatypes::{DataType, Schema};
use arrow::error::ArrowError;
use async_trait::async_trait;
use deltalake::datafusion::catalog::streaming::StreamingTable;
use deltalake::datafusion::common::{Column, DataFusionError};
use deltalake::datafusion::execution::disk_manager::{DiskManagerBuilder, DiskManagerMode};
use deltalake::datafusion::execution::runtime_env::RuntimeEnvBuilder;
use deltalake::datafusion::execution::{SessionState, SessionStateBuilder};
use deltalake::datafusion::prelude::{DataFrame, SessionConfig, SessionContext};
use deltalake::delta_datafusion::DeltaSessionConfig;
use deltalake::delta_datafusion::planner::DeltaPlanner;
use deltalake::kernel::Transaction;
use deltalake::kernel::transaction::CommitProperties;
use deltalake::{DeltaTable, DeltaTableError};
use duckrun_core::{
    Assignment, Check, Commit, CommitOutcome, Duplicates, Error, ErrorKind, Executor, MergePlan, Nothing, Phase,
    Progress, Result, RunContext, Snapshot, Staged, StagedFile, TableStore, Then, Value, When, WriteAction, WriteJob,
    WriteMetrics, WritePlan,
};
use duckrun_memory::Job;
use serde_json::{Value as Json, json};

use self::clauses::{Clauses, Work};
use self::log::{Figures, GuardedLog, Sent};
use self::meter::{Meter, MeteredPool};
use self::source::OneShot;
use crate::change::SOURCE;
use crate::change::incoming::{self, Rules};
use crate::commit::{Fate, conflict_after};
use crate::error::delta_error;
use crate::protocol::CHANGE_FEED;
use crate::snapshot::DeltaSnapshot;
use crate::write::parquet_properties;

/// How far delta-rs is trusted. Plain settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeltaRsOptions {
    /// The most memory, in bytes, that a merge, update or delete may be expected to take; see [`estimate`](Self::estimate).
    /// `None` is the share that delta-rs has in the run's memory plan; where it has none, because a plan was made for another
    /// executor that then refused, the writers' and half of what the engine does not need for the incoming rows.
    pub max_memory: Option<u64>,
    /// How long nothing may happen (no batch read, no request to the store, no memory reserved or given back) before the
    /// run is given up with an error.
    pub stall: Duration,
    /// DataFusion's partitions. More than one may be faster, and can stop for ever where memory is short (delta-rs #4614).
    pub partitions: usize,
}

impl DeltaRsOptions {
    /// The memory that delta-rs may take for a table, in bytes: it holds every file that it has read and not changed yet,
    /// decoded, outside its memory pool (upstream; delta-rs 1.1.3, `merge/barrier.rs`).
    ///
    /// Six times the bytes of the files and twice the fixed part of all rows. Measured for files none of whose rows a merge by a
    /// text key matched, above what the process held before: 86 MB with 4 million rows of 8 columns took 709 MB (expected: 1,220),
    /// 173 MB with 8 million 1,343 MB; with two partitions 887 MB instead of 709.
    pub fn estimate(schema: &Schema, bytes: u64, rows: u64) -> u64 {
        bytes.saturating_mul(6).saturating_add(rows.saturating_mul(2).saturating_mul(row_width(schema)))
    }
}

impl Default for DeltaRsOptions {
    fn default() -> Self {
        Self { max_memory: None, stall: Duration::from_secs(300), partitions: 1 }
    }
}

/// Carries out merges, updates and deletes with delta-rs's own operations.
///
/// It writes the change files of a table with a change feed. It refuses, by name: tables that do not exist yet, changes of
/// metadata in the same commit, [`also_insert`](duckrun_core::Clause::also_insert), incoming rows with duplicate keys where a
/// row of the table could change, updates of nested columns that are to skip unchanged rows (it cannot compare such values), and expressions over the table's columns that the two engines do not compute alike. Any
/// commit since the pinned version is a conflict, maintenance too.
///
/// Differences to [`SqlExecutor`](crate::SqlExecutor), beside speed and memory: all files of the table are read, for files are
/// not ruled out by statistics except by keys that are integers, dates or booleans; and the files are laid out by delta-rs.
#[derive(Debug, Clone, Default)]
pub struct DeltaRsExecutor {
    options: DeltaRsOptions,
}

impl DeltaRsExecutor {
    /// An executor with these options.
    pub fn new(options: DeltaRsOptions) -> Self {
        Self { options }
    }
}

#[async_trait]
impl Executor for DeltaRsExecutor {
    fn name(&self) -> &str {
        "delta-rs"
    }

    fn job(&self, job: Job) -> Job {
        match job {
            Job::MergeDuckDb => Job::MergeDeltaRs,
            other => other,
        }
    }

    fn accepts(&self, at: Option<&dyn Snapshot>, plan: &WritePlan) -> Result<()> {
        let refused = |what: &str| Err(Error::unsupported(format!("the executor delta-rs does not carry out {what}")));
        let WriteAction::Merge(merge) = &plan.action else {
            return refused("plans other than merges, updates and deletes");
        };
        let Some(at) = at else { return refused("a first run") };
        if at.as_any().downcast_ref::<DeltaSnapshot>().is_none() {
            return refused("plans on tables of another kind");
        }
        if merge.fresh || !plan.metadata.is_empty() {
            return refused("changes of a table's schema or metadata");
        }
        if merge.clauses.iter().any(|c| c.also_insert) {
            return refused("clauses that insert the row of a match as well");
        }
        let changes = merge.clauses.iter().any(|c| c.when != When::NotMatched && c.then != Then::Nothing);
        if merge.source && merge.duplicates == Duplicates::Allow && !merge.keys.is_empty() && changes {
            return refused("merges of several incoming rows with one key");
        }
        let nested = |a: &Assignment| plan.schema.field_with_name(&a.column).is_ok_and(|f| f.data_type().is_nested());
        let compared = merge.clauses.iter().any(|c| matches!(&c.then, Then::Update(list) if list.iter().any(nested)));
        if merge.skip_unchanged && compared {
            return refused("updates of nested columns that skip what they leave as it is (skip_unchanged)");
        }
        if plan.checks.iter().any(|c| matches!(c, Check::Unique(_))) {
            return refused("the check that columns are unique");
        }
        let table = at.schema();
        let tighter = plan.schema.fields().iter().find(|f| {
            !f.is_nullable() && table.field_with_name(f.name()).is_ok_and(arrow::datatypes::Field::is_nullable)
        });
        if let Some(field) = tighter {
            return refused(&format!(
                "the check that {:?} is not NULL, which the table does not ask for",
                field.name()
            ));
        }
        Ok(())
    }

    async fn run(&self, cx: &RunContext, job: WriteJob<'_>) -> Result<CommitOutcome> {
        self.accepts(job.at.as_deref(), &job.plan)?;
        let at = job.at.clone();
        let (Some(at), WriteAction::Merge(merge)) =
            (at.as_ref().and_then(|s| s.as_any().downcast_ref()), &job.plan.action)
        else {
            return Err(Error::internal("a plan was accepted that cannot be carried out"));
        };
        let at: &DeltaSnapshot = at;
        if let Some(transaction) = &job.transaction
            && let Some(version) = at.app_version(&transaction.app_id).await?
            && version >= transaction.version
        {
            return Ok(CommitOutcome::NothingToDo(Nothing::AlreadyApplied { version }));
        }
        at.protocol().check_readable()?;
        let mut rows = 0;
        if merge.source {
            cx.report(&Progress::start(Phase::Matching));
            let rules = Rules { keys: &merge.keys, null_keys: merge.null_keys, duplicates: &merge.duplicates };
            rows = incoming::stage(job.engine, &job.query, &merge.incoming, &rules).await?;
            if rows == 0 {
                return Ok(CommitOutcome::NothingToDo(Nothing::NoRows));
            }
        }
        let share = share(cx, &merge.incoming, rows);
        self.check_size(cx, at, share).await?;
        self.change(cx, &job, at, merge, share).await
    }
}

impl DeltaRsExecutor {
    /// Refuses a table that delta-rs may not get through with the memory that there is.
    async fn check_size(&self, cx: &RunContext, at: &DeltaSnapshot, share: u64) -> Result<()> {
        let files = at.live_files().await?;
        let bytes: u64 = files.iter().map(|f| f.size).sum();
        // A file without a row count is taken for one of short rows.
        let rows: u64 = files.iter().map(|f| f.rows().unwrap_or(f.size / 8)).sum();
        let expected = DeltaRsOptions::estimate(&at.schema(), bytes, rows);
        let most = self.options.max_memory.unwrap_or(share);
        if expected <= most {
            return Ok(());
        }
        let way_out = match self.options.max_memory {
            Some(_) => "raise max_memory".to_owned(),
            None => {
                let limit = u128::from(cx.memory().limit) * u128::from(expected) / u128::from(share.max(1));
                format!("a memory limit of {limit} bytes would do, or set max_memory to what you have seen it take")
            }
        };
        Err(Error::new(
            ErrorKind::ResourceExhausted,
            format!(
                "delta-rs may need {expected} bytes of memory for this table ({bytes} bytes of files, {rows} rows), because it \
                 holds what it reads; it has {most}. {way_out}"
            ),
        ))
    }

    async fn change(
        &self,
        cx: &RunContext,
        job: &WriteJob<'_>,
        at: &DeltaSnapshot,
        merge: &MergePlan,
        share: u64,
    ) -> Result<CommitOutcome> {
        let now = "duckrun_now";
        let texts = merge.clauses.iter().flat_map(Clauses::texts);
        if texts.into_iter().any(|sql| sql.contains(now)) {
            let text = cx.now().format("%Y-%m-%d %H:%M:%S%.6f").to_string();
            job.engine.set_variable(now, &Value::Text(text)).await?;
        }
        let meter = Arc::new(Meter::default());
        let state = self.session(cx, &meter, share)?;
        let clauses = Clauses::prepare(merge, at, &job.plan.schema)?;
        let constants = clauses.computed.values(job.engine).await?;
        let rows = match merge.source {
            true => {
                let query = clauses.computed.query(job.engine, SOURCE, &merge.incoming).await?;
                Some(job.engine.query(&query).await?)
            }
            false => None,
        };
        let source = rows.as_ref().map_or_else(|| Arc::new(Schema::empty()), |r| r.schema().clone());
        let work = clauses.finish(merge, &state, &at.schema(), &source, &constants)?;

        let change_feed = at.metadata().flag(CHANGE_FEED);
        let log = GuardedLog::new(cx, at.location(), &meter, at.version(), job.files.sync, change_feed);
        let mut table = DeltaTable::new(log.clone());
        table
            .load_version(at.version())
            .await
            .map_err(|e| delta_error(e, format_args!("open version {} for delta-rs", at.version())))?;
        let properties = properties(cx, job);
        let writer = parquet_properties(&job.files)?;

        let guard = StopOnDrop { log: &log, meter: &meter, store: at.location().store(), armed: true };
        cx.report(&Progress::start(Phase::Writing));
        let session = Arc::new(state.clone());
        let done = match work {
            Work::Delete(predicate) => {
                let mut builder = table.delete().with_session_state(session).with_commit_properties(properties);
                if let Some(predicate) = predicate {
                    builder = builder.with_predicate(predicate);
                }
                let operation = async move {
                    let (_, m) = builder.with_writer_properties(writer).await?;
                    let deleted = m.num_deleted_rows.map(|n| n as u64);
                    Ok(Counts { deleted, copied: m.num_copied_rows as u64, ..Counts::default() })
                };
                self.watched(cx, &meter, &log, operation).await
            }
            Work::Update { predicate, set } => {
                let mut builder = table.update().with_session_state(session).with_commit_properties(properties);
                if let Some(predicate) = predicate {
                    builder = builder.with_predicate(predicate);
                }
                for (column, value) in set {
                    builder = builder.with_update(Column::new_unqualified(column), value);
                }
                let operation = async move {
                    let (_, m) = builder.with_writer_properties(writer).await?;
                    Ok(Counts {
                        updated: m.num_updated_rows as u64,
                        copied: m.num_copied_rows as u64,
                        deleted: Some(0),
                        ..Counts::default()
                    })
                };
                self.watched(cx, &meter, &log, operation).await
            }
            Work::Merge(merged) => {
                let source = self.incoming(&state, rows, &meter)?;
                let builder = merged
                    .build(table, source)
                    .map_err(|e| delta_error(e, "prepare a merge"))?
                    .with_session_state(session)
                    .with_streaming(true)
                    .with_commit_properties(properties)
                    .with_writer_properties(writer);
                let operation = async move {
                    let (_, m) = builder.await?;
                    Ok(Counts {
                        inserted: m.num_target_rows_inserted as u64,
                        updated: m.num_target_rows_updated as u64,
                        deleted: Some(m.num_target_rows_deleted as u64),
                        copied: m.num_target_rows_copied as u64,
                    })
                };
                self.watched(cx, &meter, &log, operation).await
            }
        };
        tracing::debug!(pool_peak = meter.peak(), ticks = meter.ticks(), "delta-rs is done");
        let outcome = settle(at, &log, &meter, done, job).await;
        guard.finish(&outcome, job.store, cx).await;
        outcome
    }

    /// A DataFusion session with a pool, a place to spill, and as many partitions as allowed.
    fn session(&self, cx: &RunContext, meter: &Arc<Meter>, share: u64) -> Result<SessionState> {
        let pool = match cx.memory().delta_rs_pool {
            0 => share / 2,
            pool => pool,
        };
        let mut disk = DiskManagerBuilder::default();
        match cx.spill() {
            Some(spill) => {
                disk.set_mode(DiskManagerMode::Directories(vec![spill.subdirectory("datafusion")?]));
                if let Some(cap) = spill.cap() {
                    disk.set_max_temp_directory_size(cap);
                }
            }
            None => disk.set_mode(DiskManagerMode::Disabled),
        }
        let pool = usize::try_from(pool).unwrap_or(usize::MAX);
        let environment = RuntimeEnvBuilder::new()
            .with_memory_pool(Arc::new(MeteredPool::new(pool, meter.clone())))
            .with_disk_manager_builder(disk)
            .build_arc()
            .map_err(|e| Error::internal("DataFusion's session cannot be made").with_source(e))?;
        let config = SessionConfig::from(DeltaSessionConfig::default())
            .with_target_partitions(self.options.partitions.clamp(1, cx.memory().threads.max(1)));
        Ok(SessionStateBuilder::new()
            .with_default_features()
            .with_config(config)
            .with_runtime_env(environment)
            .with_query_planner(DeltaPlanner::new())
            .build())
    }

    fn incoming(
        &self,
        state: &SessionState,
        rows: Option<duckrun_core::BatchStream>,
        meter: &Arc<Meter>,
    ) -> Result<DataFrame> {
        let rows = rows.unwrap_or_else(|| {
            let schema = Schema::new(vec![arrow::datatypes::Field::new("none", DataType::Boolean, true)]);
            duckrun_core::BatchStream::from_batches(Arc::new(schema), Vec::new())
        });
        let schema = rows.schema().clone();
        let partition = Arc::new(OneShot::new(rows, meter.clone()));
        let failed = |e| Error::internal("the incoming rows cannot be given to delta-rs").with_source(e);
        let table = StreamingTable::try_new(schema, vec![partition]).map_err(failed)?;
        SessionContext::new_with_state(state.clone()).read_table(Arc::new(table)).map_err(failed)
    }

    /// Runs an operation until it ends, is cancelled, or nothing happens for too long.
    async fn watched(
        &self,
        cx: &RunContext,
        meter: &Arc<Meter>,
        log: &Arc<GuardedLog>,
        operation: impl Future<Output = Result<Counts, DeltaTableError>> + Send,
    ) -> Done {
        tokio::pin!(operation);
        let pause = (self.options.stall / 8).clamp(Duration::from_millis(5), Duration::from_millis(500));
        let (mut seen, mut since) = (meter.ticks(), Instant::now());
        loop {
            tokio::select! {
                done = &mut operation => return Done::Ended(done),
                () = cx.cancellation().cancelled(), if !cx.cancellation().is_cancelled() => {}
                () = tokio::time::sleep(pause) => {}
            }
            let (rows, bytes) = meter.totals();
            cx.report(&Progress::start(Phase::Writing).at(rows, bytes));
            if cx.cancellation().is_cancelled() && log.stop() {
                return Done::Cancelled;
            }
            let ticks = meter.ticks();
            if ticks != seen || log.is_sending() {
                (seen, since) = (ticks, Instant::now());
            } else if since.elapsed() >= self.options.stall && log.stop() {
                return Done::Stalled(since.elapsed());
            }
        }
    }
}

/// How an operation of delta-rs ended.
enum Done {
    Ended(Result<Counts, DeltaTableError>),
    Cancelled,
    Stalled(Duration),
}

/// Rows, as delta-rs counts them.
#[derive(Debug, Clone, Copy, Default)]
struct Counts {
    inserted: u64,
    updated: u64,
    deleted: Option<u64>,
    copied: u64,
}

/// The memory that delta-rs may take: its share, where the plan has one. Otherwise what the writers have, who do nothing meanwhile,
/// and half of what the engine does not need for the incoming rows, which is all that it holds by now.
fn share(cx: &RunContext, incoming: &Schema, rows: u64) -> u64 {
    let plan = cx.memory();
    if plan.delta_rs > 0 {
        return plan.delta_rs;
    }
    let held = row_width(incoming).saturating_mul(rows).saturating_mul(2);
    plan.writer + plan.engine.saturating_sub(held) / 2
}

/// The fixed part of a row in Arrow, in bytes.
fn row_width(schema: &Schema) -> u64 {
    let width = |ty: &DataType| ty.primitive_width().unwrap_or(16) as u64;
    schema.fields().iter().map(|f| width(f.data_type())).sum()
}

fn properties(cx: &RunContext, job: &WriteJob<'_>) -> CommitProperties {
    let mut info: BTreeMap<String, Json> = BTreeMap::new();
    info.insert(crate::commit::RUN_ID.to_owned(), json!(cx.id().to_string()));
    info.insert("duckrunStrategy".to_owned(), json!(job.plan.strategy));
    if !job.info.is_empty() {
        info.insert("userMetadata".to_owned(), json!(json!(job.info).to_string()));
    }
    let mut properties = CommitProperties::default()
        .with_metadata(info)
        .with_max_retries(0)
        .with_create_checkpoint(false)
        .with_cleanup_expired_logs(Some(false));
    if let Some(transaction) = &job.transaction {
        let now = cx.now().timestamp_millis();
        properties = properties.with_application_transaction(Transaction::new_with_last_update(
            &transaction.app_id,
            transaction.version,
            Some(now),
        ));
    }
    properties
}

/// What the run has come to. What the log knows of the commit goes before what delta-rs says.
async fn settle(
    at: &DeltaSnapshot,
    log: &GuardedLog,
    meter: &Meter,
    done: Done,
    job: &WriteJob<'_>,
) -> Result<CommitOutcome> {
    let read = at.version();
    let counts = match &done {
        Done::Ended(Ok(counts)) => *counts,
        _ => Counts::default(),
    };
    match log.sent() {
        Some(Sent::Settled(Fate::Committed, figures)) => {
            if let Done::Ended(Err(e)) = &done {
                tracing::warn!(version = read + 1, error = %e, "delta-rs failed after its commit; the commit stands");
            }
            return Ok(CommitOutcome::Committed(Commit::new(read + 1, metrics(counts, figures))));
        }
        Some(Sent::Settled(Fate::Taken, _)) => {
            return conflict_after(at.location(), read, job.transaction.as_ref()).await;
        }
        Some(Sent::Settled(Fate::Unknown, _)) => {
            return Ok(CommitOutcome::Unknown { version: read + 1, id: log.run_id() });
        }
        Some(Sent::Refused(e)) => return Err(e),
        None => {}
    }
    match done {
        Done::Ended(Ok(_)) => Ok(CommitOutcome::NothingToDo(Nothing::Unchanged)),
        Done::Ended(Err(e)) => Err(meter.failure().unwrap_or_else(|| merge_error(e))),
        Done::Cancelled => Err(Error::cancelled()),
        Done::Stalled(time) => Err(Error::new(
            ErrorKind::ResourceExhausted,
            format!(
                "delta-rs made no progress for {:.1} s and was stopped; the table is as it was. This is known to happen where \
                 a merge is short of memory (upstream: delta-rs #4614): raise the memory limit, or use one partition",
                time.as_secs_f64()
            ),
        )),
    }
}

fn metrics(counts: Counts, figures: Figures) -> WriteMetrics {
    let mut metrics = WriteMetrics::default();
    metrics.rows_inserted = counts.inserted;
    metrics.rows_updated = counts.updated;
    metrics.rows_deleted = counts.deleted;
    metrics.rows_copied = counts.copied;
    metrics.files_added = figures.files_added;
    metrics.files_removed = figures.files_removed;
    metrics.bytes_added = figures.bytes_added;
    metrics.bytes_removed = figures.bytes_removed;
    metrics
}

/// A failure inside an operation. Much of it arrives as text only (delta-rs 1.1.3, `write/execution.rs`).
fn merge_error(e: DeltaTableError) -> Error {
    let text = e.to_string();
    if text.contains("Resources exhausted") {
        return Error::new(
            ErrorKind::ResourceExhausted,
            format!(
                "delta-rs needs more memory than its pool has, and its hash join does not spill; raise the memory limit, or \
                 give it fewer incoming rows at a time: {text}"
            ),
        )
        .with_source(e);
    }
    let mut next: Option<&(dyn std::error::Error + 'static)> = Some(&e);
    while let Some(e) = next {
        next = match (e.downcast_ref::<DataFusionError>(), e.downcast_ref::<ArrowError>()) {
            (Some(DataFusionError::External(inner)), _) => Some(inner.as_ref()),
            (Some(DataFusionError::Shared(inner)), _) => Some(inner.as_ref()),
            (Some(DataFusionError::Context(_, inner)), _) => Some(inner.as_ref()),
            (Some(DataFusionError::ArrowError(inner, _)), _) => Some(inner.as_ref()),
            (_, Some(ArrowError::ExternalError(inner))) => Some(inner.as_ref()),
            (_, Some(inner)) => {
                let message = format!("delta-rs cannot compute the new rows: {inner}");
                return Error::new(ErrorKind::InvalidData, message).with_source(text);
            }
            _ => e.source(),
        };
    }
    let data = ["Check or Invariant", "violated", "Cast error", "Overflow"];
    match data.iter().any(|mark| text.contains(mark)) {
        true => {
            Error::new(ErrorKind::InvalidData, format!("delta-rs cannot write the new rows: {text}")).with_source(e)
        }
        false => delta_error(e, "change the table with delta-rs"),
    }
}

/// Stops what delta-rs still does when the run is dropped, and removes what it wrote.
struct StopOnDrop<'a> {
    log: &'a Arc<GuardedLog>,
    meter: &'a Arc<Meter>,
    store: &'a Arc<dyn object_store::ObjectStore>,
    armed: bool,
}

impl StopOnDrop<'_> {
    /// Removes the files of a run that has committed nothing for certain.
    async fn finish(mut self, outcome: &Result<CommitOutcome>, store: &dyn TableStore, cx: &RunContext) {
        self.armed = false;
        if let Ok(CommitOutcome::Committed(_) | CommitOutcome::Unknown { .. }) = outcome {
            return;
        }
        self.meter.stop();
        let files = self.meter.written().iter().map(staged).collect();
        crate::executor::discard(cx, store, &Staged::new(files)).await;
    }
}

fn staged(path: &object_store::path::Path) -> StagedFile {
    let logged = percent_encoding::utf8_percent_encode(path.as_ref(), percent_encoding::NON_ALPHANUMERIC).to_string();
    StagedFile::new(logged, 0, 0, BTreeMap::new(), None, 0)
}

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        if !self.armed || !self.log.stop() {
            return;
        }
        let (meter, store) = (self.meter.clone(), self.store.clone());
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move {
                use object_store::ObjectStoreExt;
                for path in meter.written() {
                    if let Err(error) = store.delete(&path).await {
                        tracing::debug!(%path, %error, "a file of a run that was given up is left for vacuum");
                    }
                }
            });
        }
    }
}
