//! Which partitions are due for merging, and whether they are merged or ordered.
//!
//! The invariant is the fixpoint: a partition with fewer than two small files is never due, and merging leaves at most one
//! (the remainder; two files under half the target always fit into one). So applied actions are not asked for again.
//!
//! A partition is *worth* merging only where the rewrite pays. An executor merges all its small files, so a remainder of 60 MB
//! and one new row would cost 60 MB. It pays when every byte ends in a file at least twice as large as before (each byte
//! is then rewritten at most log2(target / append) times), or when enough files have come together anyway.

use std::collections::BTreeMap;

use duckrun_core::maintenance::{Action, PartitionStats, TableStats};

use crate::PolicySettings;

/// The small files of one partition: those under half the target size.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Small {
    files: usize,
    bytes: u128,
    largest: u128,
}

impl Small {
    fn of(partition: &PartitionStats, target: u64) -> Self {
        let half = target.div_ceil(2);
        partition.file_sizes.iter().filter(|size| **size < half).fold(Self::default(), |small, size| Self {
            files: small.files + 1,
            bytes: small.bytes + u128::from(*size),
            largest: small.largest.max(u128::from(*size)),
        })
    }

    fn is_worth_merging(self, settings: &PolicySettings) -> bool {
        self.files >= 2 && (self.files >= settings.min_bin_files || self.bytes - self.largest >= self.largest)
    }

    fn fills_a_file(self, settings: &PolicySettings, target: u64) -> bool {
        self.files >= settings.min_bin_files && self.bytes >= u128::from(target)
    }

    fn is_a_share_of(self, partition: &PartitionStats, percent: u8) -> bool {
        let all: u128 = partition.file_sizes.iter().map(|size| u128::from(*size)).sum();
        self.bytes.saturating_mul(100) >= all.saturating_mul(u128::from(percent))
    }
}

/// At most one compaction and one z-order, over disjoint partitions.
pub(crate) fn actions(settings: &PolicySettings, stats: &TableStats) -> Vec<Action> {
    if !settings.compact {
        return Vec::new();
    }
    let target = stats.target_file_size;
    let worth: Vec<(&PartitionStats, Small)> = stats
        .partitions
        .iter()
        .map(|partition| (partition, Small::of(partition, target)))
        .filter(|(_, small)| small.is_worth_merging(settings))
        .collect();
    let too_many = worth.iter().map(|(_, small)| small.files).sum::<usize>() > settings.max_small_files;
    let (order, merge): (Vec<_>, Vec<_>) = worth
        .into_iter()
        .filter(|(_, small)| too_many || small.fills_a_file(settings, target))
        .partition(|(partition, small)| {
            !settings.zorder.is_empty() && small.is_a_share_of(partition, settings.zorder_min_percent)
        });

    let mut actions = Vec::new();
    if !merge.is_empty() {
        actions.push(Action::Compact { partitions: keys(stats, &merge) });
    }
    if !order.is_empty() {
        actions.push(Action::ZOrder { columns: settings.zorder.clone(), partitions: keys(stats, &order) });
    }
    actions
}

/// The partitions' keys; none for an unpartitioned table, where an action means all of it.
fn keys(stats: &TableStats, due: &[(&PartitionStats, Small)]) -> Vec<BTreeMap<String, Option<String>>> {
    match stats.partitions.as_slice() {
        [only] if only.values.is_empty() => Vec::new(),
        _ => due.iter().map(|(partition, _)| partition.values.clone()).collect(),
    }
}
