//! Tests of the policies and of the runner, and what they share.

mod model;
mod occasion;
mod properties;
mod rules;
mod runner;

use std::collections::BTreeMap;
use std::time::Duration;

use chrono::{DateTime, TimeZone, Utc};
use duckrun_core::maintenance::{PartitionStats, TableStats};

pub(crate) const TARGET: u64 = 128 << 20;
pub(crate) const HOUR: Duration = Duration::from_secs(3600);
pub(crate) const DAY: Duration = Duration::from_secs(24 * 3600);

/// Partition values by column.
pub(crate) type Key = BTreeMap<String, Option<String>>;

pub(crate) fn noon() -> DateTime<Utc> {
    Utc.with_ymd_and_hms(2030, 6, 1, 12, 0, 0).unwrap()
}

/// The key of the n-th partition, the first of them NULL.
pub(crate) fn key(n: usize) -> Key {
    BTreeMap::from([("day".to_owned(), n.checked_sub(1).map(|n| n.to_string()))])
}

/// A table with usual settings and no files.
pub(crate) fn empty() -> TableStats {
    let mut stats = TableStats::default();
    stats.target_file_size = TARGET;
    stats.checkpoint_interval = 10;
    stats.deleted_file_retention = 7 * DAY;
    stats.log_retention = 30 * DAY;
    stats
}

/// An unpartitioned table with these files.
pub(crate) fn flat(sizes: Vec<u64>) -> TableStats {
    let mut stats = empty();
    stats.partitions = vec![PartitionStats::new(Key::new(), sizes)];
    stats
}

/// A table with these files in its partitions.
pub(crate) fn partitioned(partitions: Vec<Vec<u64>>) -> TableStats {
    let mut stats = empty();
    stats.partitions =
        partitions.into_iter().enumerate().map(|(n, sizes)| PartitionStats::new(key(n), sizes)).collect();
    stats
}
