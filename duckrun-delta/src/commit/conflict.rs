//! What a commit of somebody else did, and whether a write planned before it may still be committed after it.
//!
//! delta-rs's own conflict checker is not relied on: it ignores removes with `dataChange=false` and trusts statistics that
//! are not exact (delta-rs 1.1.3, `conflict_checker.rs`).

use std::collections::{BTreeMap, BTreeSet, HashSet};

use duckrun_core::{ConflictPolicy, Error, Result, RunId};
use serde_json::Value as Json;

use super::render::RUN_ID;
use crate::protocol::Metadata;
use crate::prune::Prune;

/// The facts of a commit that conflicts are decided on.
#[derive(Debug, Default)]
pub(crate) struct CommitSummary {
    version: u64,
    run_id: Option<String>,
    operation: Option<String>,
    protocol: bool,
    metadata: Option<Metadata>,
    data_changes: usize,
    added: Vec<Added>,
    removed: Vec<Removed>,
    transactions: Vec<(String, i64)>,
    other: Vec<String>,
}

/// A file that a commit added with rows that were not in the table.
#[derive(Debug)]
struct Added {
    partition_values: BTreeMap<String, Option<String>>,
    stats: Option<String>,
}

/// A file that a commit removed, or gave another deletion vector.
#[derive(Debug)]
struct Removed {
    path: String,
    data_change: bool,
}

/// What a write that is to follow has read and removes.
#[derive(Debug, Default)]
pub(super) struct Stakes<'a> {
    /// Files that it removes.
    pub(super) removes: HashSet<&'a str>,
    /// Files that it read.
    pub(super) reads: Option<&'a BTreeSet<String>>,
    /// Rows that would have mattered.
    pub(super) ranges: Prune,
}

/// What a commit means for a write that did not know of it.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The write may follow it.
    Pass,
    /// It created the table.
    CreatesTable,
    /// The write may not follow it, and why.
    Conflict(String),
}

impl CommitSummary {
    /// Reads a commit.
    ///
    /// # Errors
    /// A commit that is not JSON lines of actions is corrupt; it is never skipped.
    pub(crate) fn parse(version: u64, bytes: &[u8]) -> Result<Self> {
        let corrupt = |why: &str| Error::corrupt(format!("version {version} of the log {why}")).with_version(version);
        let mut summary = Self { version, ..Self::default() };
        for line in bytes.split(|b| *b == b'\n').filter(|l| !l.iter().all(u8::is_ascii_whitespace)) {
            let action: Json = serde_json::from_slice(line).map_err(|e| corrupt("is not JSON").with_source(e))?;
            let Some((name, body)) = action.as_object().and_then(|o| o.iter().find(|(_, v)| !v.is_null())) else {
                return Err(corrupt("has a line that is no action"));
            };
            match name.as_str() {
                "commitInfo" => {
                    summary.run_id = body[RUN_ID].as_str().map(str::to_owned);
                    summary.operation = body["operation"].as_str().map(str::to_owned);
                }
                "protocol" => summary.protocol = true,
                "metaData" => {
                    let metadata = serde_json::from_value(body.clone())
                        .map_err(|e| corrupt("has metadata that cannot be understood").with_source(e))?;
                    summary.metadata = Some(metadata);
                }
                "add" | "remove" => {
                    // A missing flag counts as a change: the protocol requires it, so nothing may be concluded from its absence.
                    let data_change = body["dataChange"].as_bool() != Some(false);
                    summary.data_changes += usize::from(data_change);
                    if name == "remove" {
                        let path = body["path"].as_str().ok_or_else(|| corrupt("removes a file without a path"))?;
                        summary.removed.push(Removed { path: path.to_owned(), data_change });
                    } else if data_change {
                        let values = body.get("partitionValues").cloned().unwrap_or_default();
                        summary.added.push(Added {
                            partition_values: serde_json::from_value(values).unwrap_or_default(),
                            stats: body["stats"].as_str().map(str::to_owned),
                        });
                    }
                }
                "cdc" => {}
                "txn" => {
                    // The end of a vacuum is recorded as a transaction, so that checkpoints keep it; it is nobody's data.
                    if let (Some(app), Some(version)) = (body["appId"].as_str(), body["version"].as_i64())
                        && app != super::VACUUM_APP
                    {
                        summary.transactions.push((app.to_owned(), version));
                    }
                }
                other => summary.other.push(other.to_owned()),
            }
        }
        Ok(summary)
    }

    /// Whether a run wrote this commit.
    pub(crate) fn is_of(&self, id: RunId) -> bool {
        self.run_id.as_deref() == Some(id.to_string().as_str())
    }

    /// The version that an application recorded in this commit.
    pub(super) fn app_version(&self, app_id: &str) -> Option<i64> {
        self.transactions.iter().filter(|(app, _)| app == app_id).map(|(_, version)| *version).max()
    }

    /// Judges the commit. `known` is the metadata that the write was planned with.
    pub(super) fn judge(&self, policy: ConflictPolicy, known: Option<&Metadata>, stakes: &Stakes<'_>) -> Verdict {
        let Self { version, .. } = self;
        if *version == 0 {
            return Verdict::CreatesTable;
        }
        if self.protocol {
            return Verdict::Conflict(format!("version {version} changed the protocol"));
        }
        // Our own compaction may repeat the metadata unchanged, to stop writers that do not look (guard_foreign_writers).
        if let Some(metadata) = &self.metadata
            && known != Some(metadata)
        {
            return Verdict::Conflict(format!("version {version} changed the metadata"));
        }
        let operation = self.operation.as_deref().unwrap_or("an unnamed operation");
        // Under every policy: a file that the write replaces must be there to be replaced, or its rows would be there twice.
        if let Some(gone) = self.removed.iter().find(|r| stakes.removes.contains(r.path.as_str())) {
            return Verdict::Conflict(format!("version {version} ({operation}) replaced the file {}", gone.path));
        }
        match policy {
            ConflictPolicy::Serializable if !self.other.is_empty() => {
                Verdict::Conflict(format!("version {version} ({operation}) is not maintenance"))
            }
            ConflictPolicy::Serializable
                if self
                    .removed
                    .iter()
                    .any(|r| r.data_change && stakes.reads.is_none_or(|files| files.contains(&r.path))) =>
            {
                Verdict::Conflict(format!("version {version} ({operation}) changed rows that were read"))
            }
            ConflictPolicy::Serializable
                if self.added.iter().any(|a| stakes.ranges.may_hold(&a.partition_values, a.stats.as_deref())) =>
            {
                Verdict::Conflict(format!(
                    "version {version} ({operation}) may have added rows that would have mattered"
                ))
            }
            ConflictPolicy::CompareAndSwap if self.data_changes > 0 => {
                Verdict::Conflict(format!("version {version} ({operation}) changed the data"))
            }
            ConflictPolicy::CompareAndSwap if !self.transactions.is_empty() || !self.other.is_empty() => {
                Verdict::Conflict(format!("version {version} ({operation}) is not maintenance"))
            }
            _ => Verdict::Pass,
        }
    }
}
