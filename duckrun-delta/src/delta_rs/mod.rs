//! delta-rs's own merge, delete and update behind our plans: for tables that ours refuses (a change feed), and as an oracle.
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
use async_trait::async_trait;
use deltalake::datafusion::catalog::streaming::StreamingTable;
use deltalake::datafusion::common::Column;
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
    Check, Commit, CommitOutcome, Duplicates, Error, ErrorKind, Executor, MergePlan, Nothing, Phase, Progress, Result,
    RunContext, Snapshot, Staged, StagedFile, TableStore, Then, Value, When, WriteAction, WriteJob, WriteMetrics,
    WritePlan,
};
use serde_json::{Value as Json, json};

use self::clauses::{Clauses, Work};
use self::log::{Figures, GuardedLog, Sent};
use self::meter::{Meter, MeteredPool};
use self::source::OneShot;
use crate::change::SOURCE;
use crate::change::incoming::{self, Rules};
use crate::commit::{Fate, conflict_after};
use crate::error::delta_error;
use crate::snapshot::DeltaSnapshot;
use crate::write::parquet_properties;

/// How far delta-rs is trusted. Plain settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeltaRsOptions {
    /// The largest table, in bytes of its data files, that a merge, update or delete is tried on. `None` derives it from the run's
    /// memory plan: the share that delta-rs has, divided by [`MEMORY_PER_BYTE`](Self::MEMORY_PER_BYTE).
    pub max_table_bytes: Option<u64>,
    /// How long nothing may happen (no batch read, no request to the store, no memory reserved or given back) before the
    /// run is given up with an error.
    pub stall: Duration,
    /// DataFusion's partitions. More than one may be faster, and can stop for ever where memory is short (delta-rs #4614).
    pub partitions: usize,
}

impl DeltaRsOptions {
    /// Bytes of memory that a merge took per byte of the table's data files, as measured (see the crate's README).
    pub const MEMORY_PER_BYTE: u64 = 12;
}

impl Default for DeltaRsOptions {
    fn default() -> Self {
        Self { max_table_bytes: None, stall: Duration::from_secs(300), partitions: 1 }
    }
}

/// Carries out merges, updates and deletes with delta-rs's own operations.
///
/// It writes the change files of a table with a change feed. It refuses, by name: tables that do not exist yet, changes of
/// metadata in the same commit, [`also_insert`](duckrun_core::Clause::also_insert), incoming rows with duplicate keys where a
/// row of the table could change, and expressions over the table's columns that the two engines do not compute alike. Any
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
        self.check_size(cx, at).await?;
        if merge.source {
            cx.report(&Progress::start(Phase::Matching));
            let rules = Rules { keys: &merge.keys, null_keys: merge.null_keys, duplicates: &merge.duplicates };
            if incoming::stage(job.engine, &job.query, &merge.incoming, &rules).await? == 0 {
                return Ok(CommitOutcome::NothingToDo(Nothing::NoRows));
            }
        }
        self.change(cx, &job, at, merge).await
    }
}

impl DeltaRsExecutor {
    /// Refuses a table that is larger than what delta-rs was measured to handle in the memory that there is.
    async fn check_size(&self, cx: &RunContext, at: &DeltaSnapshot) -> Result<()> {
        let bytes: u64 = at.live_files().await?.iter().map(|f| f.size).sum();
        let share = share(cx);
        let most = self.options.max_table_bytes.unwrap_or(share / DeltaRsOptions::MEMORY_PER_BYTE);
        if bytes <= most {
            return Ok(());
        }
        let limit = cx.memory().limit;
        let needed = limit.saturating_add((bytes - most).saturating_mul(DeltaRsOptions::MEMORY_PER_BYTE));
        let way_out = match self.options.max_table_bytes {
            Some(_) => "raise max_table_bytes".to_owned(),
            None => format!("a memory limit of about {needed} bytes would do"),
        };
        Err(Error::new(
            ErrorKind::ResourceExhausted,
            format!(
                "the table has {bytes} bytes of data, and delta-rs, which holds it in memory while it merges, is trusted with \
                 {most} bytes here; {way_out}"
            ),
        ))
    }

    async fn change(
        &self,
        cx: &RunContext,
        job: &WriteJob<'_>,
        at: &DeltaSnapshot,
        merge: &MergePlan,
    ) -> Result<CommitOutcome> {
        let now = "duckrun_now";
        let texts = merge.clauses.iter().flat_map(Clauses::texts);
        if texts.into_iter().any(|sql| sql.contains(now)) {
            let text = cx.now().format("%Y-%m-%d %H:%M:%S%.6f").to_string();
            job.engine.set_variable(now, &Value::Text(text)).await?;
        }
        let meter = Arc::new(Meter::default());
        let state = self.session(cx, &meter)?;
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

        let change_feed = at.metadata().flag("delta.enableChangeDataFeed");
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
        let outcome = settle(at, &log, done, job).await;
        guard.finish(&outcome, job.store, cx).await;
        outcome
    }

    /// A DataFusion session with a pool, a place to spill, and as many partitions as allowed.
    fn session(&self, cx: &RunContext, meter: &Arc<Meter>) -> Result<SessionState> {
        let share = share(cx);
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

/// The memory that delta-rs may take: its share, or the writers', who have nothing to do meanwhile.
fn share(cx: &RunContext) -> u64 {
    match cx.memory().delta_rs {
        0 => cx.memory().writer,
        share => share,
    }
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
async fn settle(at: &DeltaSnapshot, log: &GuardedLog, done: Done, job: &WriteJob<'_>) -> Result<CommitOutcome> {
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
        Done::Ended(Err(e)) => Err(merge_error(e)),
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

/// A failure inside an operation: an error of ours that travelled through it, memory that was not enough, or delta-rs's own.
fn merge_error(e: DeltaTableError) -> Error {
    use deltalake::datafusion::common::DataFusionError;
    let mut next: Option<&(dyn std::error::Error + 'static)> = Some(&e);
    let mut found = None;
    while let Some(e) = next {
        if let Some(ours) = e.downcast_ref::<Error>() {
            found = Some((ours.kind(), ours.message().to_owned()));
            break;
        }
        match e.downcast_ref::<DataFusionError>() {
            Some(DataFusionError::ResourcesExhausted(text)) => {
                let text = format!(
                    "delta-rs needs more memory than its pool has ({text}); its hash join does not spill, so a larger memory \
                     limit is the way out"
                );
                found = Some((ErrorKind::ResourceExhausted, text));
                break;
            }
            // Shared and wrapped errors are no sources of each other.
            Some(DataFusionError::External(inner)) => {
                next = Some(inner.as_ref());
                continue;
            }
            Some(DataFusionError::Shared(inner)) => {
                next = Some(inner.as_ref());
                continue;
            }
            Some(DataFusionError::Context(_, inner)) => {
                next = Some(inner.as_ref());
                continue;
            }
            Some(DataFusionError::ArrowError(inner, _)) => {
                found = Some((ErrorKind::InvalidData, format!("delta-rs cannot compute the new rows: {inner}")));
                break;
            }
            _ => next = e.source(),
        }
    }
    match found {
        Some((kind, message)) => Error::new(kind, message).with_source(e),
        None => match e.to_string() {
            text if text.contains("Check or Invariant") || text.contains("violated") => {
                Error::new(ErrorKind::InvalidData, text).with_source(e)
            }
            _ => delta_error(e, "merge with delta-rs"),
        },
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
