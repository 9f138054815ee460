//! What actors do: each operation as a process carries it out, with the library's own code from the pin to the report.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use duckrun::arrow::array::{ArrayRef, Int64Array, RecordBatch};
use duckrun::arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use duckrun::core::maintenance::TableMaintenance;
use duckrun::core::{
    AppTransaction, Clock, ColumnRange, ConflictPolicy, Intent, ReadSet, ReplacePlan, Replaced, Staged, StagedFile,
    WriteAction, WritePlan,
};
use duckrun::{
    Action, At, CommitOutcome, DeltaMaintenance, DeltaStore, Error, ErrorKind, FileOptions, MaintenanceOptions,
    MemoryPlan, NullKeys, Result, RunContext, RunId, Snapshot, TableStore,
};
use object_store::ObjectStoreExt;
use object_store::path::Path;
use parquet::arrow::ArrowWriter;
use parquet::basic::Compression;
use parquet::file::properties::{EnabledStatistics, WriterProperties};

use super::dice::{Dice, mix};
use super::gate::World;
use super::history::{Change, Row, Run};
use super::store::ProcessClock;
use super::{LOG_RETENTION, Mutation, RETENTION};

/// Keys are below this, so that operations meet.
const KEYS: u64 = 40;

/// What is to be done.
#[derive(Debug, Clone)]
pub(super) enum Job {
    /// Appends, blindly or only if the table is as it was read; under a transaction of the actor's.
    Append { fenced: bool, transaction: Option<(String, i64)> },
    /// Replaces all rows; blindly, whatever was committed since the pin.
    Overwrite { blind: bool },
    /// Updates rows by key and inserts the others.
    Upsert,
    /// Deletes a range of keys.
    Delete,
    /// Maintenance.
    Maintain(Action),
    /// Reads the newest version.
    ReadNewest,
    /// Reads a version so many behind the newest.
    ReadBack(u64),
    /// Reads what is pinned once more.
    ReadPinned,
}

/// An operation of one process.
pub(super) struct Operation {
    pub(super) world: Arc<World>,
    pub(super) number: u64,
    pub(super) job: Job,
    pub(super) store: DeltaStore,
    pub(super) clock: ProcessClock,
    pub(super) memory: MemoryPlan,
    pub(super) pinned: Option<Arc<dyn Snapshot>>,
    /// Whether what is pinned is let go first.
    pub(super) pins: bool,
    /// Pauses after the pin and before the commit, in milliseconds.
    pub(super) pauses: (u64, u64),
    /// What rows a transaction brings, however often it is tried.
    pub(super) rows_of: u64,
}

/// How an operation ended.
pub(super) struct End {
    pub(super) pinned: Option<Arc<dyn Snapshot>>,
    pub(super) what: What,
}

/// The end in a word.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum What {
    Committed,
    Conflict,
    /// Its transaction was applied before.
    Replayed,
    Unknown,
    Done,
    Failed(ErrorKind, String),
}

impl Operation {
    pub(super) async fn perform(mut self) -> End {
        let what = match self.job.clone() {
            Job::Maintain(action) => self.maintain(&action).await,
            Job::ReadNewest => self.read(At::Latest).await,
            Job::ReadBack(behind) => {
                let newest = self.world.lock().history.newest().unwrap_or_default();
                self.read(At::Version(newest.saturating_sub(behind))).await
            }
            Job::ReadPinned => self.read_pinned().await,
            _ => self.write().await,
        };
        let what = what.unwrap_or_else(|e| What::Failed(e.kind(), e.to_string()));
        End { pinned: self.pinned, what }
    }

    async fn pin(&mut self) -> Result<()> {
        if self.pins || self.pinned.is_none() {
            let known = self.world.lock().history.newest();
            self.pinned = self.store.snapshot(At::Latest).await?;
            let version = self.pinned.as_ref().map(|s| s.version());
            self.world.lock().history.read_newest(version, known);
        }
        self.pause(self.pauses.0).await;
        Ok(())
    }

    async fn pause(&self, milliseconds: u64) {
        if milliseconds > 0 {
            self.clock.sleep(Duration::from_millis(milliseconds)).await;
        }
    }

    async fn read(&mut self, at: At) -> Result<What> {
        let known = self.world.lock().history.newest();
        let snapshot = match self.store.snapshot(at).await {
            Err(e) if matches!(at, At::Version(_)) && e.kind() == ErrorKind::NotFound => {
                let At::Version(version) = at else { return Err(e) };
                let mut state = self.world.lock();
                let now = state.now;
                if known.is_some() && state.history.is_young(version, now) {
                    state.history.violation(format!("version {version} is gone within the retention: {e}"));
                }
                return Ok(What::Done);
            }
            other => other?,
        };
        let version = snapshot.as_ref().map(|s| s.version());
        if at == At::Latest {
            self.world.lock().history.read_newest(version, known);
        }
        self.pinned = snapshot;
        self.pause(self.pauses.0).await;
        self.read_pinned().await
    }

    async fn read_pinned(&mut self) -> Result<What> {
        let Some(snapshot) = self.pinned.clone() else { return Ok(What::Done) };
        let files = match snapshot.files().await {
            Ok(files) => files.files,
            Err(e) => {
                let state = self.world.lock();
                let young = state.history.is_young(snapshot.version(), state.now);
                drop(state);
                // The log entries of an old version may be cleaned up under it.
                return if young { Err(e) } else { Ok(What::Done) };
            }
        };
        let seen = files.iter().map(|f| (f.path.as_str(), f.rows));
        self.world.lock().history.read(snapshot.version(), seen);
        Ok(What::Done)
    }

    async fn maintain(&mut self, action: &Action) -> Result<What> {
        let options = MaintenanceOptions {
            files: FileOptions { sync: false, ..FileOptions::default() },
            unsafe_retention: true,
            ..MaintenanceOptions::default()
        };
        let maintenance = DeltaMaintenance::new(self.store.clone(), options);
        match maintenance.apply(&self.context(0), action).await {
            Ok(_) => Ok(What::Done),
            Err(e) if e.kind() == ErrorKind::CommitUnknown => Ok(What::Unknown),
            Err(e) if e.kind() == ErrorKind::NotFound && self.world.lock().history.newest().is_none() => Ok(What::Done),
            Err(e) => Err(e),
        }
    }

    fn context(&self, attempt: u64) -> RunContext {
        let id = (u128::from(mix(&[self.number, attempt])) << 64) | u128::from(self.number);
        RunContext::new(self.memory.clone())
            .with_id(RunId::from_uuid(uuid::Uuid::from_u128(id)))
            .with_clock(Arc::new(self.clock.clone()))
    }

    fn fresh_rows(&mut self, most: u64) -> Vec<Row> {
        let mut dice = Dice::new(mix(&[self.rows_of, 7]));
        let base = i64::try_from(self.rows_of).unwrap_or_default() * 16;
        let first = dice.below(KEYS);
        let keys = 1 + dice.below(most);
        (0..keys).map(|n| (((first + n * (1 + dice.below(3))) % KEYS) as i64, base + n as i64)).collect()
    }

    async fn write(&mut self) -> Result<What> {
        self.pin().await?;
        let at = self.pinned.clone();
        let mut rows = self.fresh_rows(4);
        let mut plan = WritePlan::new("simulated", WriteAction::Append, schema(), Vec::new(), ConflictPolicy::Blind);
        let (mut removed, mut reads, mut staged_rows) = (Vec::new(), ReadSet::default(), rows.clone());
        let mut fenced = false;
        let mut transaction = None;
        let change = match &self.job {
            Job::Append { fenced: fence, transaction: under } => {
                fenced = *fence;
                transaction = under.clone();
                Change::Append(rows)
            }
            Job::Overwrite { blind } => {
                plan.action = WriteAction::Overwrite;
                fenced = !blind;
                Change::Overwrite(rows)
            }
            _ if at.is_none() => {
                plan.action = WriteAction::Overwrite;
                fenced = true;
                Change::Overwrite(rows)
            }
            job => {
                // A key is upserted once.
                rows.sort_unstable();
                rows.dedup_by_key(|row| row.0);
                let low = rows.first().map_or(0, |row| row.0);
                let high = rows.last().map_or(0, |row| row.0);
                let change = match job {
                    Job::Delete => Change::Delete(low, high),
                    _ => Change::Upsert(rows),
                };
                let change_rows = ReplacePlan::new(
                    Replaced::Keys { keys: vec!["k".to_owned()], null_keys: NullKeys::Refuse, predicates: Vec::new() },
                    schema(),
                );
                plan.action = WriteAction::Replace(Box::new(change_rows));
                plan.conflict = ConflictPolicy::Serializable;
                (removed, reads, staged_rows) = self.touched(&change, low, high).await?;
                if removed.is_empty() && staged_rows.is_empty() {
                    return Ok(What::Done);
                }
                change
            }
        };
        if fenced {
            plan.conflict = ConflictPolicy::CompareAndSwap;
        }
        if at.is_none() {
            plan.metadata.schema = Some(schema());
            plan.metadata.properties = properties();
        }
        let staged = self.stage(&staged_rows).await?;
        self.pause(self.pauses.1).await;
        let cx = self.context(1);
        let mut run = Run::new(self.number, at.as_ref().map(|s| s.version()), change);
        (run.fenced, run.transaction) = (fenced, transaction.clone());
        run.joins &= !fenced;
        self.world.lock().history.intend(cx.id().to_string(), run);
        let mut intent = Intent::new(plan, staged);
        (intent.removed, intent.reads, intent.sync) = (removed, reads, false);
        intent.transaction = transaction.clone().map(|(app, number)| AppTransaction::new(app, number));
        self.settle(&cx, at.as_ref(), &intent, transaction).await
    }

    /// Commits, and holds the history to what the outcome says.
    async fn settle(
        &mut self,
        cx: &RunContext,
        at: Option<&Arc<dyn Snapshot>>,
        intent: &Intent,
        transaction: Option<(String, i64)>,
    ) -> Result<What> {
        let id = cx.id().to_string();
        let outcome = self.store.commit(cx, at, intent).await;
        let mutates = self.world.lock().rules.mutation;
        match outcome {
            Ok(CommitOutcome::Committed(commit)) => {
                self.world.lock().history.acknowledged(&id, commit.version);
                let _ = self.store.after_commit(cx, at, commit.version).await;
                Ok(What::Committed)
            }
            Ok(CommitOutcome::Unknown { .. }) => Ok(What::Unknown),
            refused => {
                let what = match refused {
                    Ok(CommitOutcome::Conflict { .. }) => Ok(What::Conflict),
                    Ok(_) => Ok(What::Replayed),
                    Err(e) => Err(e),
                };
                {
                    let history = &mut self.world.lock().history;
                    history.refused(&id);
                    if let (Ok(What::Replayed), Some((app, number))) = (&what, transaction) {
                        history.replayed(&app, number);
                    }
                }
                // A library that loses track of its own commits would remove their files, too.
                if mutates != Some(Mutation::ForgetsRuns) {
                    let _ = self.store.discard(cx, &intent.staged).await;
                }
                what
            }
        }
    }

    /// The files that a change replaces, what was read to know them, and the rows that come in their place.
    async fn touched(&self, change: &Change, low: i64, high: i64) -> Result<(Vec<String>, ReadSet, Vec<Row>)> {
        let one = |n: i64| Some(Arc::new(Int64Array::from(vec![n])) as ArrayRef);
        let mut reads = ReadSet::default();
        reads.ranges = vec![ColumnRange::new("k", one(low), one(high))];
        let files = match &self.pinned {
            Some(snapshot) => snapshot.files_within(&reads.ranges).await?.files,
            None => Vec::new(),
        };
        let (mut removed, mut after, mut found) = (Vec::new(), Vec::new(), Vec::new());
        let state = self.world.lock();
        for file in files {
            let rows = state
                .history
                .content(&file.path)
                .ok_or_else(|| Error::internal(format!("nobody wrote the file {}", file.path)))?;
            let hit = |key: i64| match change {
                Change::Upsert(new) => new.iter().find(|row| row.0 == key).copied(),
                _ => (low..=high).contains(&key).then_some((key, 0)),
            };
            reads.files.insert(file.path.clone());
            if rows.iter().any(|row| hit(row.0).is_some()) {
                removed.push(file.path.clone());
                for row in rows.iter() {
                    match (hit(row.0), change) {
                        (None, _) => after.push(*row),
                        (Some(new), Change::Upsert(_)) => {
                            found.push(new.0);
                            after.push(new);
                        }
                        _ => {}
                    }
                }
            }
        }
        if let Change::Upsert(new) = change {
            after.extend(new.iter().filter(|row| !found.contains(&row.0)));
        }
        Ok((removed, reads, after))
    }

    /// Writes rows to a data file under a name of its own.
    async fn stage(&mut self, rows: &[Row]) -> Result<Staged> {
        if rows.is_empty() {
            return Ok(Staged::default());
        }
        let name = format!("f{:08}.parquet", self.number);
        let bytes = encode(rows)?;
        let size = bytes.len() as u64;
        let path = Path::from(name.as_str());
        self.world.lock().history.announce(&name, rows);
        let put = self.store.table_location().store().put(&path, bytes.into()).await;
        if let Err(e) = put {
            return Err(Error::new(ErrorKind::Unavailable, "a data file was not written").with_source(e));
        }
        let wrong = self.world.lock().rules.mutation == Some(Mutation::WrongStatistics);
        let stats = statistics(rows, wrong);
        let modified = self.clock.now().timestamp_millis();
        let file = StagedFile::new(name, size, rows.len() as u64, BTreeMap::new(), Some(stats), modified);
        Ok(Staged::new(vec![file]))
    }
}

fn schema() -> SchemaRef {
    let column = |name: &str| Field::new(name, DataType::Int64, true);
    Arc::new(Schema::new(vec![column("k"), column("v")]))
}

fn properties() -> BTreeMap<String, String> {
    let hours = |t: chrono::TimeDelta| format!("interval {} minutes", t.num_minutes());
    BTreeMap::from([
        ("delta.checkpointInterval".to_owned(), "10".to_owned()),
        ("delta.deletedFileRetentionDuration".to_owned(), hours(RETENTION)),
        ("delta.logRetentionDuration".to_owned(), hours(LOG_RETENTION)),
    ])
}

/// The statistics of a file as the log has them; wrong ones say that the largest key is the smallest.
fn statistics(rows: &[Row], wrong: bool) -> String {
    let range = |column: fn(&Row) -> i64| {
        (rows.iter().map(column).min().unwrap_or_default(), rows.iter().map(column).max().unwrap_or_default())
    };
    let ((k_min, mut k_max), (v_min, v_max)) = (range(|row| row.0), range(|row| row.1));
    if wrong {
        k_max = k_min;
    }
    serde_json::json!({
        "numRecords": rows.len(),
        "minValues": { "k": k_min, "v": v_min },
        "maxValues": { "k": k_max, "v": v_max },
        "nullCount": { "k": 0, "v": 0 },
    })
    .to_string()
}

fn encode(rows: &[Row]) -> Result<Bytes> {
    let failed = |e: &dyn std::fmt::Display| Error::internal(format!("a data file cannot be made: {e}"));
    let column = |of: fn(&Row) -> i64| Arc::new(Int64Array::from_iter_values(rows.iter().map(of))) as ArrayRef;
    let batch = RecordBatch::try_new(schema(), vec![column(|r| r.0), column(|r| r.1)]).map_err(|e| failed(&e))?;
    let settings = WriterProperties::builder()
        .set_compression(Compression::UNCOMPRESSED)
        .set_dictionary_enabled(false)
        .set_statistics_enabled(EnabledStatistics::None)
        .build();
    let mut bytes = Vec::new();
    let mut writer = ArrowWriter::try_new(&mut bytes, schema(), Some(settings)).map_err(|e| failed(&e))?;
    writer.write(&batch).map_err(|e| failed(&e))?;
    writer.close().map_err(|e| failed(&e))?;
    Ok(Bytes::from(bytes))
}
