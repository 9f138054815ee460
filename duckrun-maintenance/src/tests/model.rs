//! A model of a table and of what an executor does to it: enough of the Delta log to see where a policy comes to rest.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use chrono::{DateTime, Utc};
use duckrun_core::maintenance::{Action, PartitionStats, TableStats};

use super::{DAY, Key, TARGET};

/// How an executor distributes small files over new ones.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Packing {
    /// One stream per partition, rolled at exactly the target.
    Rolled,
    /// Bins of whole files, each up to the target.
    Bins,
    /// Bins of whole files that come out at this percentage of their input's size: large row groups compress better.
    Shrunk(u64),
}

#[derive(Debug, Clone)]
pub(crate) struct Model {
    pub(crate) files: BTreeMap<Key, Vec<u64>>,
    pub(crate) packing: Packing,
    pub(crate) now: DateTime<Utc>,
    pub(crate) log_retention: Duration,
    pub(crate) file_retention: Duration,
    pub(crate) interval: u64,
    pub(crate) tombstones: Vec<DateTime<Utc>>,
    /// Removed files that are still in the store; a checkpoint makes the log forget tombstones, not the store its files.
    pub(crate) garbage: Vec<DateTime<Utc>>,
    pub(crate) last_vacuum: Option<DateTime<Utc>>,
    /// The present log entries: version and time.
    pub(crate) log: BTreeMap<u64, DateTime<Utc>>,
    pub(crate) checkpoints: BTreeSet<u64>,
}

impl Model {
    pub(crate) fn new(now: DateTime<Utc>) -> Self {
        Self {
            files: BTreeMap::new(),
            packing: Packing::Rolled,
            now,
            log_retention: 30 * DAY,
            file_retention: 7 * DAY,
            interval: 10,
            tombstones: Vec::new(),
            garbage: Vec::new(),
            last_vacuum: None,
            log: BTreeMap::from([(0, now)]),
            checkpoints: BTreeSet::new(),
        }
    }

    pub(crate) fn commit(&mut self) {
        self.log.insert(self.head() + 1, self.now);
    }

    pub(crate) fn append(&mut self, key: Key, size: u64) {
        self.files.entry(key).or_default().push(size);
        self.commit();
    }

    pub(crate) fn head(&self) -> u64 {
        self.log.last_key_value().map_or(0, |(version, _)| *version)
    }

    /// Files under half the target.
    pub(crate) fn small(&self) -> usize {
        self.files.values().flatten().filter(|size| **size < TARGET / 2).count()
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.files.values().flatten().sum()
    }

    /// The log entries before the newest checkpoint from which all versions within the retention can be read.
    fn deletable(&self, retention: Duration) -> Vec<u64> {
        let horizon = self.now - retention;
        let keep_from = self
            .log
            .iter()
            .rev()
            .find(|(_, time)| **time <= horizon)
            .and_then(|(version, _)| self.checkpoints.range(..=*version).next_back());
        keep_from.map_or_else(Vec::new, |first| self.log.range(..*first).map(|(version, _)| *version).collect())
    }

    pub(crate) fn stats(&self) -> TableStats {
        let horizon = self.now - self.file_retention;
        let mut stats = TableStats::default();
        stats.version = self.head();
        stats.partitions =
            self.files.iter().map(|(key, sizes)| PartitionStats::new(key.clone(), sizes.clone())).collect();
        stats.target_file_size = TARGET;
        stats.tombstones = self.tombstones.len() as u64;
        stats.expired_tombstones = self.tombstones.iter().filter(|time| **time <= horizon).count() as u64;
        stats.commits_since_checkpoint =
            self.checkpoints.last().map_or(self.head() + 1, |checkpoint| self.head() - checkpoint);
        stats.log_entries = self.log.len() as u64;
        stats.oldest_log_entry = self.log.first_key_value().map(|(_, time)| *time);
        stats.expired_log_entries = self.deletable(self.log_retention).len() as u64;
        stats.last_vacuum = self.last_vacuum;
        stats.checkpoint_interval = self.interval;
        stats.deleted_file_retention = self.file_retention;
        stats.log_retention = self.log_retention;
        stats
    }

    pub(crate) fn apply(&mut self, action: &Action) {
        match action {
            Action::Compact { partitions } => self.rewrite(partitions, self.packing, |size| size < TARGET / 2),
            // A sort mixes the files, so what comes out of it is rolled.
            Action::ZOrder { partitions, .. } => self.rewrite(partitions, Packing::Rolled, |_| true),
            Action::Vacuum { retention, full } => {
                let horizon = self.now - *retention;
                self.garbage.retain(|time| !full || *time > horizon);
                self.commit();
                self.commit();
                self.last_vacuum = Some(self.now);
            }
            Action::Checkpoint => {
                self.checkpoints.insert(self.head());
                let horizon = self.now - self.file_retention;
                self.tombstones.retain(|time| *time > horizon);
            }
            Action::CleanLog { retention } => {
                for version in self.deletable(*retention) {
                    self.log.remove(&version);
                }
            }
            other => panic!("unknown action {other:?}"),
        }
    }

    fn rewrite(&mut self, partitions: &[Key], packing: Packing, touched: impl Fn(u64) -> bool) {
        for (key, sizes) in &mut self.files {
            if !partitions.is_empty() && !partitions.contains(key) {
                continue;
            }
            let (old, mut kept): (Vec<u64>, Vec<u64>) = sizes.iter().partition(|size| touched(**size));
            if old.is_empty() {
                continue;
            }
            self.tombstones.extend(std::iter::repeat_n(self.now, old.len()));
            self.garbage.extend(std::iter::repeat_n(self.now, old.len()));
            kept.extend(pack(&old, packing));
            *sizes = kept;
        }
        self.commit();
    }
}

fn pack(sizes: &[u64], packing: Packing) -> Vec<u64> {
    match packing {
        Packing::Rolled => {
            let bytes: u64 = sizes.iter().sum();
            let full = (bytes / TARGET) as usize;
            let rest = (!bytes.is_multiple_of(TARGET) || full == 0).then_some(bytes % TARGET);
            std::iter::repeat_n(TARGET, full).chain(rest).collect()
        }
        Packing::Bins | Packing::Shrunk(_) => {
            let percent = if let Packing::Shrunk(percent) = packing { percent } else { 100 };
            let mut bins: Vec<(u64, usize)> = Vec::new();
            for size in sizes {
                match bins.last_mut() {
                    Some((bytes, files)) if *bytes + size <= TARGET => (*bytes, *files) = (*bytes + size, *files + 1),
                    _ => bins.push((*size, 1)),
                }
            }
            bins.iter().map(|(bytes, files)| if *files > 1 { bytes * percent / 100 } else { *bytes }).collect()
        }
    }
}
