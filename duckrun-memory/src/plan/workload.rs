//! What is planned: the kind of job, what is known about its rows, and what it may spill.

use std::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::constants;
use crate::SpillSettings;

/// The kinds of work that hold memory in different places.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Job {
    /// DuckDB runs the SQL, its rows stream into parquet writers (overwrite, append, insert, replace).
    Write,
    /// DuckDB joins source and target (and spills), the rewritten files stream into parquet writers.
    MergeDuckDb,
    /// DuckDB produces the source, delta-rs's own merge joins, in memory.
    MergeDeltaRs,
    /// Small files are read and written again as large ones, with or without sorting.
    Compact,
}

/// A job and what is known about it. `Job` converts into it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Workload {
    /// The kind of work.
    pub job: Job,
    /// The most threads for this job, where the settings do not allow fewer.
    pub threads: Option<usize>,
    /// The bytes of an average row in Arrow, for row groups of the right number of rows.
    pub row_width_hint: Option<u64>,
}

/// Where and how much a run may spill; [`SpillDir::create`](crate::SpillDir::create) carries it out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct SpillPlan {
    /// The directory in which the run creates its own; `None` is the system's.
    pub dir: Option<PathBuf>,
    /// The most bytes, whatever the disk has.
    pub max_bytes: Option<u64>,
    /// Free disk that is left to others.
    pub disk_reserve: u64,
    /// How many runs share the free disk.
    pub shared_by: usize,
}

impl Workload {
    /// A job of which nothing more is known.
    pub fn new(job: Job) -> Self {
        Self { job, threads: None, row_width_hint: None }
    }

    /// With at most this many threads; 0 is taken as 1.
    pub fn with_threads(self, threads: usize) -> Self {
        Self { threads: Some(threads.max(1)), ..self }
    }

    /// With rows of about this many bytes in Arrow.
    pub fn with_row_width(self, bytes: u64) -> Self {
        Self { row_width_hint: Some(bytes), ..self }
    }

    pub(super) fn row_width(&self) -> u64 {
        self.row_width_hint.unwrap_or(constants::ROW_WIDTH).max(1)
    }
}

impl From<Job> for Workload {
    fn from(job: Job) -> Self {
        Self::new(job)
    }
}

impl SpillPlan {
    /// The settings, for `shared_by` runs at a time.
    pub fn new(settings: &SpillSettings, shared_by: usize) -> Self {
        Self {
            dir: settings.dir.clone(),
            max_bytes: settings.max_bytes,
            disk_reserve: settings.disk_reserve,
            shared_by: shared_by.max(1),
        }
    }

    /// The cap for one run when this much disk is free; `None` where neither the disk nor the settings say.
    pub fn cap(&self, free_disk: Option<u64>) -> Option<u64> {
        let shared_by = self.shared_by.max(1) as u64;
        let by_disk = free_disk.map(|free| free.saturating_sub(self.disk_reserve) / shared_by);
        self.max_bytes.into_iter().chain(by_disk).min()
    }
}

impl fmt::Display for Job {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Write => "write",
            Self::MergeDuckDb => "merge (DuckDB)",
            Self::MergeDeltaRs => "merge (delta-rs)",
            Self::Compact => "compaction",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::GIB;

    #[test]
    fn the_spill_cap_is_the_tighter_of_disk_and_setting() {
        let settings = |max_bytes| SpillSettings { dir: None, max_bytes, disk_reserve: 2 * GIB };
        let cap = |max, runs, free| SpillPlan::new(&settings(max), runs).cap(free);
        assert_eq!(cap(None, 1, Some(10 * GIB)), Some(8 * GIB));
        assert_eq!(cap(None, 4, Some(10 * GIB)), Some(2 * GIB));
        assert_eq!(cap(Some(GIB), 1, Some(10 * GIB)), Some(GIB));
        assert_eq!(cap(Some(GIB), 1, None), Some(GIB));
        assert_eq!(cap(None, 1, None), None);
        assert_eq!(cap(None, 1, Some(GIB)), Some(0));
    }
}
