//! Statistics of a table from its log alone.

use std::collections::BTreeMap;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use duckrun_core::maintenance::{MaintenanceOptions, PartitionStats, TableStats};
use duckrun_core::{Result, Snapshot as _};

use super::log::LogFolder;
use super::properties::Properties;
use super::replay::{Live, LogState, replay};
use crate::snapshot::DeltaSnapshot;

/// Reads them: one listing of the log folder, one replay without file statistics.
pub(super) async fn read(
    snapshot: &DeltaSnapshot,
    options: &MaintenanceOptions,
    now: DateTime<Utc>,
) -> Result<TableStats> {
    let properties = Properties::of(snapshot.metadata())?;
    let (state, log) = futures::try_join!(replay(snapshot), LogFolder::list(snapshot.location()))?;
    let mut stats = of(snapshot.version(), &state, &log, &properties, now);
    stats.target_file_size = properties.target_file_size.unwrap_or(options.files.target_file_size);
    stats.partitions = partitions(state.live, |physical| super::logical_name(snapshot, physical));
    Ok(stats)
}

/// All but the live files.
fn of(version: u64, state: &LogState, log: &LogFolder, properties: &Properties, now: DateTime<Utc>) -> TableStats {
    let mut stats = TableStats::default();
    stats.version = version;
    stats.tombstones = state.tombstones.len() as u64;
    let horizon = horizon(now, properties.deleted_file_retention).timestamp_millis();
    stats.expired_tombstones = state.tombstones.iter().filter(|t| t.removed_at <= horizon).count() as u64;
    // The creation does not count, so that checkpoints come at multiples of the interval, as other writers have them.
    stats.commits_since_checkpoint = version - state.checkpoint.unwrap_or(0).min(version);
    stats.log_entries = log.commits.len() as u64;
    stats.oldest_log_entry = log.commits.values().next().copied();
    if properties.clean_log
        && let Some(needed) = log.first_needed(self::horizon(now, properties.log_retention))
    {
        stats.expired_log_entries = log.entries_before(needed);
    }
    if !properties.clean_log {
        // A log that is kept for ever is never too old.
        stats.oldest_log_entry = None;
    }
    stats.last_vacuum = state.last_vacuum.and_then(DateTime::from_timestamp_millis);
    stats.checkpoint_interval = properties.checkpoint_interval;
    stats.deleted_file_retention = properties.deleted_file_retention;
    stats.log_retention = properties.log_retention;
    stats
}

fn partitions(live: Vec<Live>, logical: impl Fn(&str) -> String) -> Vec<PartitionStats> {
    let mut by_key: BTreeMap<BTreeMap<String, Option<String>>, PartitionStats> = BTreeMap::new();
    for file in live {
        let partition = by_key.entry(file.partition_values).or_default();
        partition.file_sizes.push(file.size);
        if let Some(vector) = &file.vector {
            partition.files_with_deletion_vectors += 1;
            partition.deleted_rows += vector.cardinality.unsigned_abs();
        }
    }
    by_key
        .into_iter()
        .map(|(values, found)| {
            let values = values.into_iter().map(|(column, value)| (logical(&column), value)).collect();
            let mut partition = PartitionStats::new(values, found.file_sizes);
            partition.files_with_deletion_vectors = found.files_with_deletion_vectors;
            partition.deleted_rows = found.deleted_rows;
            partition
        })
        .collect()
}

/// The beginning of a retention; the beginning of time for one that reaches further back.
pub(super) fn horizon(now: DateTime<Utc>, retention: Duration) -> DateTime<Utc> {
    TimeDelta::from_std(retention).ok().and_then(|r| now.checked_sub_signed(r)).unwrap_or(DateTime::<Utc>::MIN_UTC)
}
