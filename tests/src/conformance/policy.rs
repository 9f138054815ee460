//! What every `MaintenancePolicy` must do.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use chrono::{DateTime, TimeDelta, Utc};
use duckrun::core::maintenance::{Action, PartitionStats, TableStats};
use duckrun::maintenance::{MaintenancePolicy, SAFE_RETENTION};

use super::{Conformance, Found, broken, holds, same};

/// What a policy promises beyond the trait.
#[derive(Debug, Clone, Copy, Default)]
#[non_exhaustive]
pub struct PolicySubject {
    /// Whether it may ask for vacuums below the safe retention.
    pub unsafe_retention: bool,
    /// Whether it asks for the same each time by design, as `OnRequest` does.
    pub insists: bool,
}

impl PolicySubject {
    /// A policy that may ask for vacuums below the safe retention.
    #[must_use]
    pub fn with_unsafe_retention(mut self) -> Self {
        self.unsafe_retention = true;
        self
    }

    /// A policy that asks for the same each time.
    #[must_use]
    pub fn insisting(mut self) -> Self {
        self.insists = true;
        self
    }
}

/// Checks a policy.
pub fn policy<F>(factory: F, subject: PolicySubject) -> Conformance
where
    F: Fn() -> Arc<dyn MaintenancePolicy>,
{
    let policy = factory();
    let now = DateTime::<Utc>::UNIX_EPOCH + TimeDelta::days(20_000);
    let mut report = Conformance::of(format!("policy {policy:?}"));
    report.check_now(
        "pure",
        "Pure: the same statistics and time give the same actions, in the order in which they should be carried out.",
        || {
            for stats in tables(now) {
                let first = policy.decide(&stats, now);
                for other in [policy.decide(&stats, now), factory().decide(&stats, now)] {
                    same("two answers about one table", &other, &first)?;
                }
            }
            Ok(())
        },
    );
    report.check_now("total", "A policy that panics does not fail the run; the fault is in the report.", || {
        for mut stats in tables(now) {
            policy.decide(&stats, DateTime::<Utc>::MIN_UTC);
            policy.decide(&stats, DateTime::<Utc>::MAX_UTC);
            (stats.deleted_file_retention, stats.log_retention) = (Duration::MAX, Duration::MAX);
            (stats.checkpoint_interval, stats.target_file_size) = (0, u64::MAX);
            policy.decide(&stats, now);
        }
        Ok(())
    });
    report.check_now(
        "cheap",
        "Cheap: called after every write, also of tables with 100,000 files; it does not block.",
        || {
            let stats = sized((0..100).map(|n| (n, vec![2_000; 1_000])).collect());
            let started = Instant::now();
            policy.decide(&stats, now);
            let took = started.elapsed();
            holds(took < Duration::from_millis(500), format_args!("it takes {took:?} for a table with 100,000 files"))
        },
    );
    report.check_now(
        "at_rest",
        "At rest: after its actions were carried out it should ask for nothing, or every write pays for them again.",
        || {
            if subject.insists {
                return Err(super::Trouble::Lacking("it asks for the same each time by design".to_owned()));
            }
            tables(now).into_iter().try_for_each(|stats| rests(policy.as_ref(), stats, now))
        },
    );
    report.check_now(
        "known_partitions",
        "What it asks for is a wish: the executor re-reads the table. It can only be carried out for partitions that there are.",
        || {
            for stats in tables(now) {
                for action in policy.decide(&stats, now) {
                    if let Action::Compact { partitions } | Action::ZOrder { partitions, .. } = &action {
                        let known = |p: &BTreeMap<_, _>| stats.partitions.iter().any(|s| s.values == *p);
                        holds(partitions.iter().all(known), format_args!("{action} of a partition that is not there"))?;
                    }
                }
            }
            Ok(())
        },
    );
    report.check_now(
        "young_files_stay",
        "It never asks to vacuum below the table's retention or below 7 days, unless a shorter one was asked for.",
        || {
            if subject.unsafe_retention {
                return Err(super::Trouble::Lacking("a shorter retention was asked for".to_owned()));
            }
            for stats in tables(now) {
                for action in policy.decide(&stats, now) {
                    if let Action::Vacuum { retention, .. } = &action {
                        let least = SAFE_RETENTION.max(stats.deleted_file_retention);
                        holds(
                            *retention >= least,
                            format_args!("a vacuum with {retention:?} where {least:?} is safe"),
                        )?;
                    }
                }
            }
            Ok(())
        },
    );
    report
}

fn sized(partitions: Vec<(u64, Vec<u64>)>) -> TableStats {
    let mut stats = TableStats::default();
    stats.version = 500;
    stats.target_file_size = 128 << 20;
    (stats.checkpoint_interval, stats.deleted_file_retention) = (10, SAFE_RETENTION);
    stats.log_retention = Duration::from_secs(30 * 86_400);
    let alone = partitions.len() == 1;
    let key = |n: u64| match alone {
        true => BTreeMap::new(),
        false => BTreeMap::from([("part".to_owned(), (n > 0).then(|| n.to_string()))]),
    };
    stats.partitions = partitions.into_iter().map(|(n, sizes)| PartitionStats::new(key(n), sizes)).collect();
    stats
}

/// Tables in every state that a policy may care about.
fn tables(now: DateTime<Utc>) -> Vec<TableStats> {
    let full = 128 << 20;
    let shapes: Vec<Vec<(u64, Vec<u64>)>> = vec![
        vec![],
        vec![(0, vec![])],
        vec![(0, vec![0])],
        vec![(0, vec![2_000; 150])],
        vec![(0, vec![full; 300])],
        vec![(0, vec![full / 3; 9])],
        vec![(0, [vec![full; 20], vec![1_000; 101]].concat())],
        (0..40).map(|n| (n, vec![5_000; 4])).collect(),
        vec![(0, vec![u64::MAX; 3])],
    ];
    let mut tables = Vec::new();
    for shape in shapes {
        for age in [None, Some(0), Some(8), Some(400)] {
            let mut stats = sized(shape.clone());
            let past = age.map(|days| now - TimeDelta::days(days));
            let old = age.is_some_and(|days| days > 7);
            (stats.tombstones, stats.expired_tombstones) = if old { (70, 60) } else { (70, 0) };
            stats.commits_since_checkpoint = age.unwrap_or_default() as u64;
            (stats.log_entries, stats.oldest_log_entry) = (400, past);
            stats.expired_log_entries = if age.is_some_and(|days| days > 30) { 300 } else { 0 };
            stats.last_vacuum = past;
            tables.push(stats);
        }
    }
    tables
}

/// Carries actions out on the statistics alone, as often as a policy asks, up to three times.
fn rests(policy: &dyn MaintenancePolicy, mut stats: TableStats, now: DateTime<Utc>) -> Found {
    for _ in 0..3 {
        let actions = policy.decide(&stats, now);
        if actions.is_empty() {
            return Ok(());
        }
        actions.iter().for_each(|action| carry_out(&mut stats, action, now));
    }
    match policy.decide(&stats, now) {
        actions if actions.is_empty() => Ok(()),
        actions => broken(format_args!("after three rounds it still asks for {actions:?} of {stats:?}")),
    }
}

fn carry_out(stats: &mut TableStats, action: &Action, now: DateTime<Utc>) {
    match action {
        Action::Compact { partitions } | Action::ZOrder { partitions, .. } => {
            let target = stats.target_file_size.max(1);
            for partition in &mut stats.partitions {
                if !partitions.is_empty() && !partitions.contains(&partition.values) {
                    continue;
                }
                let small: u64 = partition.file_sizes.iter().filter(|s| **s < target / 2).sum();
                partition.file_sizes.retain(|s| *s >= target / 2);
                let whole = usize::try_from(small / target).unwrap_or(usize::MAX).min(10_000);
                partition.file_sizes.extend(std::iter::repeat_n(target, whole));
                partition.file_sizes.extend((!small.is_multiple_of(target)).then_some(small % target));
                partition.file_sizes.sort_unstable();
                (partition.files_with_deletion_vectors, partition.deleted_rows) = (0, 0);
            }
            stats.version += 1;
            stats.commits_since_checkpoint += 1;
        }
        Action::Vacuum { .. } => {
            (stats.expired_tombstones, stats.last_vacuum) = (0, Some(now));
            stats.commits_since_checkpoint += 2;
        }
        Action::Checkpoint => stats.commits_since_checkpoint = 0,
        Action::CleanLog { .. } => {
            stats.log_entries -= stats.expired_log_entries.min(stats.log_entries);
            (stats.expired_log_entries, stats.oldest_log_entry) = (0, Some(now));
        }
        _ => {}
    }
}
