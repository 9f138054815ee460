//! The contracts of maintenance: statistics of a table from its log, actions as values, and who carries them out.
//!
//! A policy (duckrun-maintenance) is a pure function from [`TableStats`] to [`Action`]s; only a [`TableMaintenance`] touches
//! files and log. Maintenance can never change the data and never fail a run.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::{Commit, FileOptions, Result, RunContext, Snapshot};

/// Statistics of a table, read from its log alone.
#[non_exhaustive]
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct TableStats {
    /// The version they describe.
    pub version: u64,
    /// Live data files by partition; one entry with an empty key for an unpartitioned table.
    pub partitions: Vec<PartitionStats>,
    /// The size at which a file counts as full, in bytes (`delta.targetFileSize` or the default).
    pub target_file_size: u64,
    /// Removed files that the log still names (tombstones).
    pub tombstones: u64,
    /// Of those, the ones whose retention has passed.
    pub expired_tombstones: u64,
    /// Commits since the last checkpoint.
    pub commits_since_checkpoint: u64,
    /// Log entries (JSON commits) that are present.
    pub log_entries: u64,
    /// The time of the oldest log entry that is present.
    pub oldest_log_entry: Option<DateTime<Utc>>,
    /// Of the log entries, the ones that a clean-up may delete: older than the log retention, and older than a checkpoint from
    /// which every version younger than the retention can still be read.
    pub expired_log_entries: u64,
    /// When a vacuum last ended, as far as the log tells. One that found nothing to delete counts, or it would be asked for again
    /// at once.
    pub last_vacuum: Option<DateTime<Utc>>,
    /// `delta.checkpointInterval`.
    pub checkpoint_interval: u64,
    /// `delta.deletedFileRetentionDuration`.
    pub deleted_file_retention: Duration,
    /// `delta.logRetentionDuration`.
    pub log_retention: Duration,
}

/// Live files of one partition.
#[non_exhaustive]
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PartitionStats {
    /// The partition's values by column, as the log serialises them; empty for an unpartitioned table.
    pub values: BTreeMap<String, Option<String>>,
    /// Size in bytes of each live file, ascending.
    pub file_sizes: Vec<u64>,
    /// Files that carry a deletion vector.
    pub files_with_deletion_vectors: u64,
    /// Rows that deletion vectors remove.
    pub deleted_rows: u64,
}

impl PartitionStats {
    /// Statistics of a partition's files.
    pub fn new(values: BTreeMap<String, Option<String>>, mut file_sizes: Vec<u64>) -> Self {
        file_sizes.sort_unstable();
        Self { values, file_sizes, ..Self::default() }
    }
}

/// What a run knows about its table right after its commit without asking the store for anything: from the snapshot that it
/// pinned and from the commit itself. Enough to tell whether statistics are worth reading.
#[non_exhaustive]
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Glance {
    /// The version that was committed.
    pub version: u64,
    /// The version that the run had pinned; `None` where it has created the table.
    pub read: Option<u64>,
    /// The checkpoint from which the pinned version was read; `None` where there was none.
    pub checkpoint: Option<u64>,
    /// `delta.checkpointInterval`; 0 where nobody knows.
    pub checkpoint_interval: u64,
    /// When the pinned version was committed, by the store's clock; `None` where nobody knows.
    pub last_commit: Option<DateTime<Utc>>,
    /// Data files that the commit added.
    pub files_added: u64,
    /// Data files that it removed.
    pub files_removed: u64,
}

impl Glance {
    /// What a snapshot and a commit say by themselves.
    pub fn new(at: Option<&dyn Snapshot>, commit: &Commit) -> Self {
        Self {
            version: commit.version,
            read: at.map(Snapshot::version),
            files_added: commit.metrics.files_added,
            files_removed: commit.metrics.files_removed,
            ..Self::default()
        }
    }
}

/// How maintenance is carried out. Plain settings.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MaintenanceOptions {
    /// How rewritten files are laid out. `delta.targetFileSize` of the table goes before the target size here.
    pub files: FileOptions,
    /// Whether a compaction repeats the table's unchanged metadata, which makes writers fail that started before it and do not
    /// look at what it removed: plain delta-rs would leave replaced rows in the table twice. It also makes foreign appends
    /// fail that are in flight.
    pub guard_foreign_writers: bool,
    /// Whether a vacuum may have a retention below the table's or 7 days. Readers of older versions fail then, and a run in
    /// flight can lose files that it is about to commit.
    pub unsafe_retention: bool,
}

/// Something that can be done to a table without changing its data.
#[non_exhaustive]
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// Rewrite the small files of these partitions into target-sized ones; all partitions where empty.
    Compact {
        /// Partition values by column.
        partitions: Vec<BTreeMap<String, Option<String>>>,
    },
    /// Rewrite these partitions ordered along a space-filling curve over the columns.
    ZOrder {
        /// The columns.
        columns: Vec<String>,
        /// Partition values by column; all partitions where empty.
        partitions: Vec<BTreeMap<String, Option<String>>>,
    },
    /// Delete files that no snapshot younger than the retention needs.
    Vacuum {
        /// The retention.
        retention: Duration,
        /// Whether files that no log entry ever named are deleted too, once old enough (orphans of crashed runs).
        full: bool,
    },
    /// Write a checkpoint of the newest version.
    Checkpoint,
    /// Delete log entries older than the retention that a checkpoint covers.
    CleanLog {
        /// The retention.
        retention: Duration,
    },
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Compact { partitions } if partitions.is_empty() => f.write_str("compact"),
            Self::Compact { partitions } => write!(f, "compact {} partitions", partitions.len()),
            Self::ZOrder { columns, .. } => write!(f, "z-order by {}", columns.join(", ")),
            Self::Vacuum { full: true, .. } => f.write_str("full vacuum"),
            Self::Vacuum { .. } => f.write_str("vacuum"),
            Self::Checkpoint => f.write_str("checkpoint"),
            Self::CleanLog { .. } => f.write_str("log clean-up"),
        }
    }
}

/// What an action did.
#[non_exhaustive]
#[derive(Debug, Clone, PartialEq)]
pub struct Applied {
    /// The action.
    pub action: Action,
    /// The version it committed, if it committed one.
    pub version: Option<u64>,
    /// Files removed from the table or deleted from the store.
    pub files_removed: u64,
    /// Files added.
    pub files_added: u64,
    /// Bytes of the files that were removed or deleted, as far as the log or the store tells.
    pub bytes_removed: u64,
    /// Bytes of the files that were added.
    pub bytes_added: u64,
    /// Why nothing was done, where nothing was.
    pub skipped: Option<String>,
}

impl Applied {
    /// An action that did nothing, and why.
    pub fn skipped(action: Action, why: impl Into<String>) -> Self {
        Self { skipped: Some(why.into()), ..Self::done(action) }
    }

    /// An action that was carried out.
    pub fn done(action: Action) -> Self {
        Self {
            action,
            version: None,
            files_removed: 0,
            files_added: 0,
            bytes_removed: 0,
            bytes_added: 0,
            skipped: None,
        }
    }
}

/// Reads statistics and carries actions out, for one table. Implemented by duckrun-delta.
///
/// # Contract
/// An action commits only if its input files are still live with the same deletion vectors and protocol and metadata are
/// unchanged; concurrent appends neither refuse nor starve it. After a crash at any point the table reads the same.
#[async_trait]
pub trait TableMaintenance: Send + Sync + fmt::Debug {
    /// What is known after a commit of a run that had pinned `at`. Asks the store for nothing.
    fn glance(&self, at: Option<&dyn Snapshot>, commit: &Commit) -> Glance {
        Glance::new(at, commit)
    }

    /// Statistics from the log alone.
    ///
    /// # Errors
    /// When the log cannot be read.
    async fn stats(&self, cx: &RunContext) -> Result<TableStats>;

    /// Carries one action out.
    ///
    /// # Errors
    /// The store's or the engine's. The table reads as before.
    async fn apply(&self, cx: &RunContext, action: &Action) -> Result<Applied>;
}
