//! The contracts around a table: its snapshots, its store, the strategies that plan writes and the executors that run them.

use std::any::Any;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use async_trait::async_trait;
use chrono::{DateTime, Utc};
use serde_json::{Map, Value as Json};

use crate::maintenance::{MaintenanceOptions, TableMaintenance};
use crate::{
    AppTransaction, BatchStream, ColumnRange, CommitOutcome, DataFile, EngineSession, Error, FileOptions, FileSet,
    Query, ReadSet, Result, RunContext, TableFacts, TableState, Value, WritePlan,
};

/// Which version of a table to pin.
#[non_exhaustive]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum At {
    /// The newest.
    #[default]
    Latest,
    /// This one.
    Version(u64),
    /// The newest that was committed at or before this time.
    Timestamp(DateTime<Utc>),
}

/// A table at one version, immutable: everything read through it is of that version.
#[async_trait]
pub trait Snapshot: Send + Sync + fmt::Debug {
    /// The version.
    fn version(&self) -> u64;
    /// The logical schema.
    fn schema(&self) -> SchemaRef;
    /// The partition columns, in order.
    fn partition_columns(&self) -> &[String];
    /// The table properties.
    fn properties(&self) -> BTreeMap<String, String>;
    /// The table's comment.
    fn comment(&self) -> Option<String>;
    /// Comments of columns by name.
    fn column_comments(&self) -> BTreeMap<String, String> {
        BTreeMap::new()
    }
    /// The files of this version as a relation.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported) with the table feature's name where rows could be misread.
    async fn files(&self) -> Result<FileSet>;
    /// The files that may hold rows within all of these ranges; every file that cannot be ruled out for certain.
    ///
    /// # Errors
    /// As [`files`](Snapshot::files).
    async fn files_within(&self, ranges: &[ColumnRange]) -> Result<FileSet> {
        let _ = ranges;
        self.files().await
    }
    /// The version that an application last committed, if any.
    ///
    /// # Errors
    /// When the log cannot be read.
    async fn app_version(&self, app_id: &str) -> Result<Option<i64>>;
    /// The commits that the log still has up to this version, oldest first. Whether it reaches back to the beginning is told
    /// by the first one: its version is then 0.
    ///
    /// # Errors
    /// When the log cannot be read; [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported) for a store without a history.
    async fn history(&self) -> Result<Vec<CommitRecord>> {
        Err(crate::Error::unsupported("this table has no history that could be read"))
    }
    /// What the last commit that may have changed rows or columns gave as [`Intent::applied`]; `None` where it gave nothing, and
    /// where that is not known. Commits that only arrange the same rows anew may be passed over, no others.
    ///
    /// # Errors
    /// When the log cannot be read.
    async fn last_applied(&self) -> Result<Option<String>> {
        Ok(None)
    }
    /// For the store that made it.
    fn as_any(&self) -> &dyn Any;

    /// The facts that a strategy plans with.
    fn facts(&self) -> TableFacts {
        let mut facts =
            TableFacts::new(self.version(), self.schema(), self.partition_columns().to_vec(), self.properties());
        facts.comment = self.comment();
        facts.column_comments = self.column_comments();
        facts
    }
}

/// What a commit says about itself.
#[non_exhaustive]
#[derive(Debug, Clone, PartialEq)]
pub struct CommitRecord {
    /// The version that it created.
    pub version: u64,
    /// When it was committed.
    pub timestamp: DateTime<Utc>,
    /// The commit info, as it stands in the log; empty where the commit has none.
    pub info: Map<String, Json>,
}

impl CommitRecord {
    /// A record.
    pub fn new(version: u64, timestamp: DateTime<Utc>, info: Map<String, Json>) -> Self {
        Self { version, timestamp, info }
    }

    /// The operation, for example `WRITE`.
    pub fn operation(&self) -> Option<&str> {
        self.info.get("operation").and_then(Json::as_str)
    }

    /// What a run of ours recorded under a key ([`Intent::info`]); `None` in the commits of others.
    pub fn recorded(&self, key: &str) -> Option<String> {
        let recorded: Json = serde_json::from_str(self.info.get("userMetadata")?.as_str()?).ok()?;
        recorded.get(key)?.as_str().map(str::to_owned)
    }
}

/// What the rows to stage are and how they are to be laid out.
#[non_exhaustive]
#[derive(Debug, Clone)]
pub struct WriteSpec {
    /// Columns and types, partition columns included.
    pub schema: SchemaRef,
    /// The partition columns, in order.
    pub partition_columns: Vec<String>,
    /// How files are written.
    pub files: FileOptions,
    /// The table's properties after the commit (statistics columns, column mapping).
    pub properties: BTreeMap<String, String>,
    /// Whether the rows are change data; see [`for_change_data`](Self::for_change_data).
    pub change_data: bool,
}

/// In rows of change data: what happened to the row, one of `insert`, `delete`, `update_preimage` and `update_postimage` (Utf8).
pub const CHANGE_TYPE: &str = "_change_type";

impl WriteSpec {
    /// A spec.
    pub fn new(
        schema: SchemaRef,
        partition_columns: Vec<String>,
        files: FileOptions,
        properties: BTreeMap<String, String>,
    ) -> Self {
        Self { schema, partition_columns, files, properties, change_data: false }
    }

    /// The spec of what a commit did to rows of this spec, for a table with a change data feed: one more column,
    /// [`CHANGE_TYPE`], and files that lie apart from the table's own. Nothing is required of the values, for the old rows may
    /// be older than what is required now, and there are no statistics, for which the log has no place.
    #[must_use]
    pub fn for_change_data(mut self) -> Self {
        let mut fields: Vec<Field> =
            self.schema.fields().iter().map(|f| f.as_ref().clone().with_nullable(true)).collect();
        fields.push(Field::new(CHANGE_TYPE, DataType::Utf8, true));
        self.schema = Arc::new(Schema::new(fields));
        self.files.stats_columns = Some(0);
        self.change_data = true;
        self
    }
}

/// One data file that exists in the store and is in no snapshot yet.
#[non_exhaustive]
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StagedFile {
    /// The path relative to the table, as it will stand in the log (URL-encoded where the protocol asks for it).
    pub path: String,
    /// Size in bytes.
    pub size: u64,
    /// Rows.
    pub rows: u64,
    /// Partition values as the protocol serialises them; `None` is NULL.
    pub partition_values: BTreeMap<String, Option<String>>,
    /// The statistics as the protocol's JSON text.
    pub stats: Option<String>,
    /// Modification time in milliseconds since the epoch.
    pub modified: i64,
}

impl StagedFile {
    /// A staged file.
    pub fn new(
        path: String,
        size: u64,
        rows: u64,
        partition_values: BTreeMap<String, Option<String>>,
        stats: Option<String>,
        modified: i64,
    ) -> Self {
        Self { path, size, rows, partition_values, stats, modified }
    }
}

/// Data files that were written and synced, waiting for a commit. Dropping it leaves them for vacuum; [`TableStore::discard`]
/// removes them.
#[must_use = "staged files belong in a commit, or must be discarded"]
#[non_exhaustive]
#[derive(Debug, Clone, Default)]
pub struct Staged {
    /// The files with rows of the table.
    pub files: Vec<StagedFile>,
    /// The files that say what the commit did to rows, for a table with a change data feed. They are no part of the table.
    pub change_files: Vec<StagedFile>,
}

impl Staged {
    /// Staged files of the table's rows.
    pub fn new(files: Vec<StagedFile>) -> Self {
        Self { files, change_files: Vec::new() }
    }

    /// Every file, of whatever kind.
    pub fn all(&self) -> impl Iterator<Item = &StagedFile> {
        self.files.iter().chain(&self.change_files)
    }

    /// Rows in all files of the table's rows.
    pub fn rows(&self) -> u64 {
        self.files.iter().map(|f| f.rows).sum()
    }

    /// Bytes in all files of the table's rows.
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|f| f.size).sum()
    }
}

/// In a stream of row changes: the index into [`RewriteSpec::files`] (Int64).
pub const FILE_INDEX: &str = "__duckrun_file";
/// In a stream of row changes: the row's number in its file, from 0, deleted rows counted (Int64).
pub const ROW_NUMBER: &str = "__duckrun_row";
/// In a stream of row changes: [`CHANGE_UPDATE`] or [`CHANGE_DELETE`] (Int8).
pub const ROW_CHANGE: &str = "__duckrun_change";
/// The row gets the values of the stream's other columns.
pub const CHANGE_UPDATE: i8 = 1;
/// The row goes; the stream's other columns are ignored.
pub const CHANGE_DELETE: i8 = 2;

/// How files are to be rewritten with some of their rows changed.
#[non_exhaustive]
#[derive(Debug, Clone)]
pub struct RewriteSpec {
    /// How the new files are laid out.
    pub write: WriteSpec,
    /// The files that the changes name.
    pub files: Vec<DataFile>,
    /// Whether an update that changes no value counts as none, and a file without other changes stays.
    pub skip_unchanged: bool,
}

impl RewriteSpec {
    /// A spec.
    pub fn new(write: WriteSpec, files: Vec<DataFile>, skip_unchanged: bool) -> Self {
        Self { write, files, skip_unchanged }
    }
}

/// What rewriting did.
#[must_use = "staged files belong in a commit, or must be discarded"]
#[non_exhaustive]
#[derive(Debug, Clone, Default)]
pub struct Rewritten {
    /// The new files.
    pub staged: Staged,
    /// The files that they replace (and those that have no row left), by their paths in the log.
    pub removed: Vec<String>,
    /// Rows that got other values.
    pub rows_updated: u64,
    /// Rows that went.
    pub rows_deleted: u64,
    /// Rows of the replaced files that are in the new ones as they were.
    pub rows_copied: u64,
}

/// How many rows a write touched, where the staged files do not tell.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RowCounts {
    /// Rows that are new.
    pub inserted: u64,
    /// Rows that changed.
    pub updated: u64,
    /// Rows that went; `None` where nobody knows.
    pub deleted: Option<u64>,
    /// Rows that were rewritten as they were.
    pub copied: u64,
    /// Rows that came in.
    pub source: u64,
}

/// How a commit describes itself in the table's history, in the words of the Delta protocol's other writers.
#[non_exhaustive]
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Operation {
    /// The operation, for example `MERGE`.
    pub name: String,
    /// Its parameters.
    pub parameters: BTreeMap<String, String>,
    /// Its figures.
    pub metrics: BTreeMap<String, String>,
}

impl Operation {
    /// An operation without parameters and figures.
    pub fn new(name: impl Into<String>) -> Self {
        Self { name: name.into(), ..Self::default() }
    }
}

/// What a commit is to do: the plan, its files, and the caller's transaction.
#[non_exhaustive]
#[derive(Debug, Clone)]
pub struct Intent {
    /// The plan.
    pub plan: WritePlan,
    /// The files to add.
    pub staged: Staged,
    /// The files to remove, by their paths in the log. An overwrite removes every live file without naming them.
    pub removed: Vec<String>,
    /// What was read, for [`ConflictPolicy::Serializable`](crate::ConflictPolicy::Serializable).
    pub reads: ReadSet,
    /// How many rows were touched; `None` where all staged rows are new.
    pub counts: Option<RowCounts>,
    /// How the commit describes itself; `None` for a plain write.
    pub operation: Option<Operation>,
    /// What the caller wants recorded with the commit, beside what the table format records.
    pub info: BTreeMap<String, String>,
    /// Tells this change from all others, where making it once more would change nothing; see [`Snapshot::last_applied`].
    pub applied: Option<String>,
    /// The caller's transaction, checked at the snapshot and in every commit since.
    pub transaction: Option<AppTransaction>,
    /// Whether local commits are synced to disk.
    pub sync: bool,
}

impl Intent {
    /// An intent, synced.
    pub fn new(plan: WritePlan, staged: Staged) -> Self {
        Self {
            plan,
            staged,
            removed: Vec::new(),
            reads: ReadSet::default(),
            counts: None,
            operation: None,
            info: BTreeMap::new(),
            applied: None,
            transaction: None,
            sync: true,
        }
    }
}

/// One table in one store. Implemented for Delta by duckrun-delta; called by executors.
///
/// # Contract
/// - [`stage`](TableStore::stage) only ever creates new objects, under names no other run uses; readers do not see them.
/// - [`commit`](TableStore::commit) is the only method that changes what readers see, atomically: put-if-absent on one version.
/// - Dropping a future cancels it. Before the commit was sent the table is as it was and staged files are removed as far as
///   that can be done; afterwards the commit is either there or not, and the files stay.
#[async_trait]
pub trait TableStore: Send + Sync + fmt::Debug {
    /// The location, without secrets.
    fn location(&self) -> &str;

    /// Pins a version.
    ///
    /// # Errors
    /// `Ok(None)` means that there is no table here, and only that; anything else that stands in the way is an error.
    async fn snapshot(&self, at: At) -> Result<Option<Arc<dyn Snapshot>>>;

    /// Pins the newest version, for a run that repeats itself after a conflict: `known` is what it had pinned of this table, and
    /// version `found` has been seen since. A store may read only what came after `known`; it must not take `known` for the
    /// newest without having looked.
    ///
    /// # Errors
    /// As [`snapshot`](TableStore::snapshot).
    async fn snapshot_after(&self, known: &Arc<dyn Snapshot>, found: u64) -> Result<Option<Arc<dyn Snapshot>>> {
        let _ = (known, found);
        self.snapshot(At::Latest).await
    }

    /// Writes rows to new data files, in parallel, within the run's memory plan. `at` is the pinned snapshot, for the names
    /// that columns have in its files. The files of a spec [for change data](WriteSpec::for_change_data) belong into
    /// [`Staged::change_files`] of the commit; they too are returned as [`Staged::files`].
    ///
    /// # Errors
    /// The stream's or the store's. What was written so far is removed.
    async fn stage(
        &self,
        cx: &RunContext,
        at: Option<&Arc<dyn Snapshot>>,
        spec: &WriteSpec,
        rows: BatchStream,
    ) -> Result<Staged>;

    /// Writes files anew with some of their rows changed. `changes` has the columns [`FILE_INDEX`], [`ROW_NUMBER`] and
    /// [`ROW_CHANGE`], sorted by file and row, each row at most once; its other columns are those that updates set, in the
    /// table's types, none of them a partition column.
    ///
    /// # Errors
    /// The stream's or the store's; [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported) where files cannot be rewritten.
    /// What was written so far is removed.
    async fn rewrite(
        &self,
        cx: &RunContext,
        at: &Arc<dyn Snapshot>,
        spec: &RewriteSpec,
        changes: BatchStream,
    ) -> Result<Rewritten> {
        let _ = (cx, at, spec, changes);
        Err(Error::unsupported("this store does not rewrite files"))
    }

    /// Commits an intent against the snapshot that was read; `None` where the table did not exist.
    ///
    /// # Errors
    /// For failures that are certain to have committed nothing. A conflict or a lost answer is an outcome, not an error.
    async fn commit(&self, cx: &RunContext, at: Option<&Arc<dyn Snapshot>>, intent: &Intent) -> Result<CommitOutcome>;

    /// The table's maintenance, where the store has one; [`after_commit`](TableStore::after_commit) is not called then.
    fn maintenance(&self, options: &MaintenanceOptions) -> Option<Arc<dyn TableMaintenance>> {
        let _ = options;
        None
    }

    /// What is due right after a commit (a checkpoint). Returns what was done or failed, for the report; it never fails a run.
    async fn after_commit(&self, cx: &RunContext, at: Option<&Arc<dyn Snapshot>>, version: u64) -> Vec<String> {
        let _ = (cx, at, version);
        Vec::new()
    }

    /// Removes staged files of a run that was refused. Files that are already gone are no error.
    ///
    /// # Errors
    /// The store's. What could not be removed is left for vacuum.
    async fn discard(&self, cx: &RunContext, staged: &Staged) -> Result<()>;
}

/// A way to change a table, as a pure function from facts to a plan. Implemented by duckrun-delta and by embedders.
pub trait Strategy: Send + Sync + fmt::Debug {
    /// The name, for reports and commit info.
    fn name(&self) -> &str;

    /// What a run of it will do, for its memory plan.
    fn job(&self) -> duckrun_memory::Job {
        duckrun_memory::Job::Write
    }

    /// Whether there are incoming rows. A strategy without them (a delete) needs a table that exists, and no SQL.
    fn has_source(&self) -> bool {
        true
    }

    /// The runs that it stands for, where it is more than one; they run one after another, each pinned after its predecessor.
    /// `fresh` says that the table does not exist yet or is rebuilt.
    ///
    /// # Errors
    /// When the runs cannot be told from the options.
    fn runs(&self, now: DateTime<Utc>, fresh: bool) -> Result<Option<Vec<StrategyRun>>> {
        let _ = (now, fresh);
        Ok(None)
    }

    /// Every problem with the options, before anything is read. Called for first runs and full refreshes as well.
    fn validate(&self, options: &crate::TableOptions) -> Vec<String> {
        let _ = options;
        Vec::new()
    }

    /// Plans the write of rows with the incoming schema.
    ///
    /// # Errors
    /// When the incoming schema does not fit the table. Nothing has been written.
    fn plan(&self, target: &TableState, incoming: &SchemaRef) -> Result<WritePlan>;
}

/// One run of a strategy that is several (a window of a microbatch).
#[non_exhaustive]
#[derive(Debug, Clone)]
pub struct StrategyRun {
    /// What to call it in reports.
    pub label: String,
    /// The strategy of this run.
    pub strategy: Arc<dyn Strategy>,
    /// Session variables for its SQL.
    pub variables: BTreeMap<String, Value>,
}

impl StrategyRun {
    /// A run without variables.
    pub fn new(label: impl Into<String>, strategy: Arc<dyn Strategy>) -> Self {
        Self { label: label.into(), strategy, variables: BTreeMap::new() }
    }
}

/// Carries a plan out: drives the engine and the store, step by step.
#[async_trait]
pub trait Executor: Send + Sync + fmt::Debug {
    /// The name, for reports.
    fn name(&self) -> &str;

    /// What a run by this executor will do, for its memory plan, which is made before anything is read: the strategy's job, or
    /// another one where its memory goes elsewhere.
    fn job(&self, job: duckrun_memory::Job) -> duckrun_memory::Job {
        job
    }

    /// Whether this executor can carry out a plan on this snapshot; otherwise the reason.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported) with the reason.
    fn accepts(&self, at: Option<&dyn Snapshot>, plan: &WritePlan) -> Result<()>;

    /// The name of the executor that will carry a plan out, where this one hands it on to others.
    fn chosen(&self, at: Option<&dyn Snapshot>, plan: &WritePlan) -> String {
        let _ = (at, plan);
        self.name().to_owned()
    }

    /// Runs the query, stages its rows, commits.
    ///
    /// # Errors
    /// As [`TableStore`] and [`EngineSession`]. After an error the table is as it was and staged files are removed.
    async fn run(&self, cx: &RunContext, job: WriteJob<'_>) -> Result<CommitOutcome>;
}

/// Everything an [`Executor`] needs for one run.
#[derive(Debug)]
pub struct WriteJob<'a> {
    /// The engine session with all relations registered.
    pub engine: &'a dyn EngineSession,
    /// The target.
    pub store: &'a dyn TableStore,
    /// The pinned snapshot; `None` on a first run.
    pub at: Option<Arc<dyn Snapshot>>,
    /// The plan.
    pub plan: WritePlan,
    /// The query whose rows are written.
    pub query: Query,
    /// How files are written.
    pub files: FileOptions,
    /// The caller's transaction.
    pub transaction: Option<AppTransaction>,
    /// What the caller wants recorded with the commit.
    pub info: BTreeMap<String, String>,
}
