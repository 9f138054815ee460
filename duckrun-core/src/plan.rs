//! Plans and outcomes of a write, as plain values: a strategy returns one, an executor carries it out, a store commits it.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use arrow::datatypes::SchemaRef;
use serde::{Deserialize, Serialize};

use crate::{Check, MergePlan, ReplacePlan, RunId, Then};

/// What a strategy is told about the target, at the snapshot that the run pinned.
#[non_exhaustive]
#[derive(Debug, Clone)]
pub struct TableState {
    /// The table at the pinned version; `None` on a first run.
    pub existing: Option<TableFacts>,
    /// Whether anything bound to the run reads the target.
    pub reads_target: bool,
    /// What the caller asked for about the table as a whole.
    pub options: TableOptions,
}

impl TableState {
    /// The facts for a strategy.
    pub fn new(existing: Option<TableFacts>, reads_target: bool, options: TableOptions) -> Self {
        Self { existing, reads_target, options }
    }
}

/// Facts about a table at a version.
#[non_exhaustive]
#[derive(Debug, Clone)]
pub struct TableFacts {
    /// The version.
    pub version: u64,
    /// The logical schema.
    pub schema: SchemaRef,
    /// The partition columns, in order.
    pub partition_columns: Vec<String>,
    /// The table properties.
    pub properties: BTreeMap<String, String>,
    /// The table's comment.
    pub comment: Option<String>,
    /// Comments of columns by name.
    pub column_comments: BTreeMap<String, String>,
}

impl TableFacts {
    /// The facts of a table without comments.
    pub fn new(
        version: u64,
        schema: SchemaRef,
        partition_columns: Vec<String>,
        properties: BTreeMap<String, String>,
    ) -> Self {
        Self { version, schema, partition_columns, properties, comment: None, column_comments: BTreeMap::new() }
    }
}

/// What happens when the incoming columns differ from the table's.
#[non_exhaustive]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SchemaChange {
    /// Extra columns are dropped with a warning, missing ones are NULL.
    #[default]
    Ignore,
    /// Extra columns are added to the table.
    AppendNewColumns,
    /// Extra columns are added; columns missing in the source are kept (never dropped), with a warning that says so.
    SyncAllColumns,
    /// Any difference is an error that lists added, missing and retyped columns.
    Fail,
}

/// What the caller asks for about the table as a whole. Plain settings.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct TableOptions {
    /// Partition columns; `None` keeps the table's own (none for a new table).
    pub partition_by: Option<Vec<String>>,
    /// What happens when the incoming columns differ.
    pub on_schema_change: SchemaChange,
    /// Rebuild the table, whatever the strategy: schema and partitioning are replaced.
    pub full_refresh: bool,
    /// Table properties, set when the table is created.
    pub properties: BTreeMap<String, String>,
    /// The table's comment; `None` keeps the present one.
    pub comment: Option<String>,
    /// Column comments by column name.
    pub column_comments: BTreeMap<String, String>,
    /// What every run's columns and rows must be.
    pub contract: Option<Contract>,
}

/// What the SQL's columns and the written rows must be. Plain settings.
///
/// Names and types are checked before anything is written; `not_null` and `unique` on the very rows that are written. A table that
/// is created or rebuilt gets `not_null` as its own; an existing table's columns stay as they are.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Contract {
    /// The columns. The SQL must yield all of them; and no others, once one of them has a type.
    pub columns: Vec<ContractColumn>,
    /// Groups of columns in which no two written rows have the same values.
    pub unique: Vec<Vec<String>>,
}

/// One column of a [`Contract`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ContractColumn {
    /// The name.
    pub name: String,
    /// The type as SQL (`BIGINT`, `DECIMAL(18,2)`, `STRUCT(a INTEGER)`; `TIMESTAMP` has no zone, `TIMESTAMPTZ` is UTC), or one of
    /// Delta's own names for a type that SQL calls otherwise (`string`, `long`, `short`, `byte`, `binary`, `timestamp_ntz`).
    /// None accepts any.
    #[serde(default, rename = "type")]
    pub data_type: Option<String>,
    /// Whether NULL is refused.
    #[serde(default)]
    pub not_null: bool,
    /// Whether a value may occur only once among the written rows.
    #[serde(default)]
    pub unique: bool,
}

impl Contract {
    /// The same with a column of a type.
    ///
    /// ```
    /// use duckrun_core::Contract;
    /// let contract = Contract::default().column("id", "BIGINT").not_null("id").unique(["id"]);
    /// assert!(contract.columns[0].not_null);
    /// ```
    #[must_use]
    pub fn column(mut self, name: impl Into<String>, data_type: impl Into<String>) -> Self {
        let (name, data_type) = (name.into(), Some(data_type.into()));
        match self.columns.iter_mut().find(|c| c.name == name) {
            Some(column) => column.data_type = data_type,
            None => self.columns.push(ContractColumn { name, data_type, ..ContractColumn::default() }),
        }
        self
    }

    /// The same with a column in which NULL is refused.
    #[must_use]
    pub fn not_null(mut self, name: impl Into<String>) -> Self {
        let name = name.into();
        match self.columns.iter_mut().find(|c| c.name == name) {
            Some(column) => column.not_null = true,
            None => self.columns.push(ContractColumn { name, not_null: true, ..ContractColumn::default() }),
        }
        self
    }

    /// The same with columns in which no two written rows have the same values.
    #[must_use]
    pub fn unique<S: Into<String>>(mut self, columns: impl IntoIterator<Item = S>) -> Self {
        self.unique.push(columns.into_iter().map(Into::into).collect());
        self
    }
}

/// How data files are written. Plain settings with measured defaults.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct FileOptions {
    /// The compression codec.
    pub compression: Compression,
    /// The size at which a file is closed and the next one begun, in bytes.
    pub target_file_size: u64,
    /// Rows in a row group; the memory plan may lower it.
    pub row_group_rows: usize,
    /// How many leading columns get statistics (`delta.dataSkippingNumIndexedCols`); `None` follows the table, else 32.
    pub stats_columns: Option<usize>,
    /// Whether local files and log entries are synced to disk before a commit is acknowledged.
    pub sync: bool,
}

impl Default for FileOptions {
    fn default() -> Self {
        Self {
            compression: Compression::Zstd(1),
            target_file_size: 128 * 1024 * 1024,
            row_group_rows: 122_880,
            stats_columns: None,
            sync: true,
        }
    }
}

/// Parquet compression.
#[non_exhaustive]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Compression {
    /// ZSTD at a level from 1 to 22. Small files at a fair price; read by Spark, Direct Lake and DuckDB.
    Zstd(i32),
    /// SNAPPY: faster to write, larger files.
    Snappy,
    /// None.
    Uncompressed,
}

/// What a write does to the rows that are there.
#[non_exhaustive]
#[derive(Debug, Clone, PartialEq)]
pub enum WriteAction {
    /// Adds rows.
    Append,
    /// Replaces every row.
    Overwrite,
    /// Changes some of the rows, by a join with the incoming rows or by a condition.
    Merge(Box<MergePlan>),
    /// Deletes some of the rows and adds all incoming ones.
    Replace(Box<ReplacePlan>),
}

impl WriteAction {
    /// Whether files that are there may go.
    pub fn removes(&self) -> bool {
        match self {
            Self::Append => false,
            Self::Overwrite | Self::Replace(_) => true,
            Self::Merge(plan) => {
                plan.fresh || plan.clauses.iter().any(|c| matches!(c.then, Then::Update(_) | Then::Delete))
            }
        }
    }
}

/// What may have been committed since the pinned version without the write being refused.
///
/// Harmless maintenance (adds and removes that all carry `dataChange=false`, vacuum markers, neither metadata nor protocol)
/// passes under every policy.
#[non_exhaustive]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConflictPolicy {
    /// Anything that leaves schema and protocol as they were planned for: concurrent appends all succeed.
    Blind,
    /// Nothing: compare-and-swap on the table as it was read.
    CompareAndSwap,
    /// What does not touch the rows that were read ([`ReadSet`](crate::ReadSet)): the result is that of running after it.
    Serializable,
}

/// A change of the table's metadata that goes into the same commit as the data.
#[non_exhaustive]
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MetadataChange {
    /// The new logical schema, where it changes (new table, overwrite, added columns).
    pub schema: Option<SchemaRef>,
    /// The new partition columns, where they change.
    pub partition_columns: Option<Vec<String>>,
    /// Properties to set.
    pub properties: BTreeMap<String, String>,
    /// The table's comment, where it changes.
    pub comment: Option<String>,
    /// Comments of columns by name, where they change.
    pub column_comments: BTreeMap<String, String>,
}

impl MetadataChange {
    /// Whether nothing changes.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// The logical plan of a write: what to write and what must still hold. A value; nothing in it touches a table.
#[non_exhaustive]
#[derive(Debug, Clone)]
pub struct WritePlan {
    /// The strategy's name, for commit info and reports.
    pub strategy: String,
    /// What happens to the rows that are there.
    pub action: WriteAction,
    /// The columns and types of the rows to write: the table's, as it will be after the commit.
    pub schema: SchemaRef,
    /// The partition columns.
    pub partition_columns: Vec<String>,
    /// Metadata that changes with the commit. Creation of a table always carries a schema.
    pub metadata: MetadataChange,
    /// What may have been committed since the pinned version.
    pub conflict: ConflictPolicy,
    /// What the written rows must fulfil beside their types and NOT NULL.
    pub checks: Vec<Check>,
    /// What the caller should know (a column that was dropped, one that was kept).
    pub warnings: Vec<String>,
}

impl WritePlan {
    /// A plan without metadata change and warnings.
    pub fn new(
        strategy: impl Into<String>,
        action: WriteAction,
        schema: SchemaRef,
        partition_columns: Vec<String>,
        conflict: ConflictPolicy,
    ) -> Self {
        Self {
            strategy: strategy.into(),
            action,
            schema,
            partition_columns,
            metadata: MetadataChange::default(),
            conflict,
            checks: Vec::new(),
            warnings: Vec::new(),
        }
    }
}

/// An application's own version of a write, stored as the protocol's `txn` action: a replay is refused as already applied.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct AppTransaction {
    /// The application.
    pub app_id: String,
    /// The application's version; a commit is a replay if the table has this or a later one.
    pub version: i64,
}

impl AppTransaction {
    /// An application and its version.
    pub fn new(app_id: impl Into<String>, version: i64) -> Self {
        Self { app_id: app_id.into(), version }
    }
}

/// What a commit did.
#[non_exhaustive]
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Commit {
    /// The version that the commit created.
    pub version: u64,
    /// The commit's own figures.
    pub metrics: WriteMetrics,
}

impl Commit {
    /// A commit and its figures.
    pub fn new(version: u64, metrics: WriteMetrics) -> Self {
        Self { version, metrics }
    }
}

/// Figures of a write.
#[non_exhaustive]
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WriteMetrics {
    /// Rows that are new in the table.
    pub rows_inserted: u64,
    /// Rows that changed.
    pub rows_updated: u64,
    /// Rows that went; `None` where the log does not know (a replaced file without a row count).
    pub rows_deleted: Option<u64>,
    /// Rows that were rewritten unchanged.
    pub rows_copied: u64,
    /// Data files added.
    pub files_added: u64,
    /// Data files removed.
    pub files_removed: u64,
    /// Bytes of the added files.
    pub bytes_added: u64,
    /// Bytes of the removed files.
    pub bytes_removed: u64,
    /// Time spent in the commit itself, conflict checks included.
    #[serde(skip)]
    pub commit_time: Duration,
}

/// How a commit ended. An expected outcome is never hidden in an error.
#[must_use = "a commit that was refused has written nothing"]
#[non_exhaustive]
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CommitOutcome {
    /// The commit is in the log, once.
    Committed(Commit),
    /// Somebody else's commit since the pinned version contradicts this one; nothing was written.
    Conflict {
        /// The pinned version; `None` where the table did not exist when the run began.
        read: Option<u64>,
        /// The version that is in the way.
        found: u64,
        /// What it did that contradicts.
        reason: String,
    },
    /// There was nothing to commit.
    NothingToDo(Nothing),
    /// The store's answer was lost and could not be settled.
    Unknown {
        /// The version that the commit may have created.
        version: u64,
        /// The id by which the commit can be recognised there.
        id: RunId,
    },
}

/// Why there was nothing to commit.
#[non_exhaustive]
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Nothing {
    /// The source had no rows, and the strategy adds.
    NoRows,
    /// Every row was already as the write would make it.
    Unchanged,
    /// The application transaction was applied by an earlier commit.
    AlreadyApplied {
        /// The application's version that the table has.
        version: i64,
    },
}

impl fmt::Display for Nothing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoRows => f.write_str("no rows"),
            Self::Unchanged => f.write_str("nothing changed"),
            Self::AlreadyApplied { version } => write!(f, "already applied (application version {version})"),
        }
    }
}
