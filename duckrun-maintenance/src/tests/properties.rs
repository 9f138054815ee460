//! What holds for every table: determinism, rest, retention, healthy tables, a bound on small files.

use std::time::Duration;

use chrono::{DateTime, Utc};
use duckrun_core::maintenance::{Action, PartitionStats, TableStats};
use proptest::collection::vec;
use proptest::prelude::*;

use super::model::{Model, Packing};
use super::{DAY, HOUR, Key, TARGET, flat, key, noon};
use crate::{DefaultPolicy, MaintenancePolicy, PolicySettings, SAFE_RETENTION};

fn duration() -> impl Strategy<Value = Duration> {
    prop_oneof![
        Just(Duration::ZERO),
        (0u64..90 * 24).prop_map(|hours| hours as u32 * HOUR),
        Just(Duration::MAX),
        any::<u64>().prop_map(Duration::from_secs),
    ]
}

fn days(range: std::ops::Range<u32>) -> impl Strategy<Value = Duration> {
    range.prop_map(|days| days * DAY)
}

fn settings() -> impl Strategy<Value = PolicySettings> {
    let numbers = (0usize..150, 2usize..20, 0u8..=100);
    let retention = (prop::option::of(days(0..60)), prop::option::of(days(0..60)));
    let zorder = prop_oneof![Just(vec![]), Just(vec!["a".to_owned(), "b".to_owned()])];
    (numbers, retention, zorder, any::<[bool; 6]>()).prop_map(|(numbers, retention, zorder, switches)| {
        let [compact, vacuum, reclaim_orphans, unsafe_retention, checkpoint, clean_log] = switches;
        let vacuum_retention = retention.0.filter(|asked| unsafe_retention || *asked >= SAFE_RETENTION);
        PolicySettings {
            compact,
            max_small_files: numbers.0,
            min_bin_files: numbers.1,
            zorder,
            zorder_min_percent: numbers.2,
            vacuum,
            vacuum_retention,
            vacuum_cadence: retention.1,
            reclaim_orphans,
            unsafe_retention,
            checkpoint,
            clean_log,
        }
    })
}

fn file_size() -> impl Strategy<Value = u64> {
    prop_oneof![
        4 => 0..10_000u64,
        4 => 0..TARGET / 2,
        1 => TARGET / 2..TARGET,
        1 => TARGET..3 * TARGET,
        1 => prop::sample::select(vec![TARGET / 2 - 1, TARGET / 2, TARGET / 8, TARGET]),
    ]
}

fn files() -> impl Strategy<Value = Vec<Vec<u64>>> {
    prop_oneof![vec(vec(file_size(), 0..300), 1..2), vec(vec(file_size(), 0..40), 2..20)]
}

fn keyed(files: Vec<Vec<u64>>) -> impl Iterator<Item = (Key, Vec<u64>)> {
    let flat = files.len() == 1;
    files.into_iter().enumerate().map(move |(n, sizes)| (if flat { Key::new() } else { key(n) }, sizes))
}

fn packing() -> impl Strategy<Value = Packing> {
    prop_oneof![Just(Packing::Rolled), Just(Packing::Bins), (5u64..100).prop_map(Packing::Shrunk)]
}

/// A table with a past: files, commits and removals up to 100 days old, checkpoints, perhaps a vacuum.
fn model() -> impl Strategy<Value = Model> {
    let past = (vec(0u32..2400, 1..60), vec(any::<prop::sample::Index>(), 0..6), vec(0u32..2400, 0..20));
    let cadence = (prop::option::of(0u32..2400), 0u64..20, days(0..60), days(0..60));
    (files(), packing(), past, cadence).prop_map(|(files, packing, (commits, checkpoints, removals), cadence)| {
        let mut commits = commits;
        commits.sort_unstable_by(|a, b| b.cmp(a));
        let mut model = Model::new(noon());
        model.files = keyed(files).collect();
        model.packing = packing;
        model.log = (0..).zip(commits.iter().map(|hours| noon() - *hours * HOUR)).collect();
        model.checkpoints = checkpoints.iter().map(|at| at.index(commits.len()) as u64).collect();
        model.tombstones = removals.iter().map(|hours| noon() - *hours * HOUR).collect();
        let (vacuum, interval, file_retention, log_retention) = cadence;
        model.last_vacuum = vacuum.map(|hours| noon() - hours * HOUR);
        (model.interval, model.file_retention, model.log_retention) = (interval, file_retention, log_retention);
        model
    })
}

/// Statistics that no sane table has.
fn any_stats() -> impl Strategy<Value = TableStats> {
    let time = prop::option::of((-8_000_000_000_000i64..8_000_000_000_000).prop_map(at));
    let size = prop_oneof![file_size(), any::<u64>()];
    let partitions = vec((0usize..4, vec(size, 0..30)), 0..8);
    let durations = (duration(), duration());
    (partitions, any::<[u64; 8]>(), time.clone(), time, durations).prop_map(|(partitions, n, oldest, vacuum, d)| {
        let mut stats = TableStats::default();
        stats.partitions = partitions.into_iter().map(|(n, sizes)| PartitionStats::new(key(n), sizes)).collect();
        [
            stats.version,
            stats.target_file_size,
            stats.tombstones,
            stats.expired_tombstones,
            stats.commits_since_checkpoint,
            stats.log_entries,
            stats.expired_log_entries,
            stats.checkpoint_interval,
        ] = n;
        (stats.oldest_log_entry, stats.last_vacuum) = (oldest, vacuum);
        (stats.deleted_file_retention, stats.log_retention) = d;
        stats
    })
}

fn at(seconds: i64) -> DateTime<Utc> {
    DateTime::from_timestamp(seconds, 0).unwrap()
}

proptest! {
    #[test]
    fn the_same_facts_give_the_same_actions(
        settings in settings(), stats in any_stats(), seconds in 0i64..8_000_000_000, shuffle in any::<prop::sample::Index>(),
    ) {
        let policy = DefaultPolicy::new(settings.clone()).unwrap();
        let actions = policy.decide(&stats, at(seconds));
        prop_assert_eq!(&actions, &policy.decide(&stats.clone(), at(seconds)));
        let mut turned = stats.clone();
        for partition in turned.partitions.iter_mut().filter(|p| !p.file_sizes.is_empty()) {
            let middle = shuffle.index(partition.file_sizes.len());
            partition.file_sizes.rotate_left(middle);
        }
        prop_assert_eq!(actions, DefaultPolicy::new(settings).unwrap().decide(&turned, at(seconds)));
    }

    #[test]
    fn once_applied_it_asks_for_nothing(settings in settings(), mut model in model()) {
        let policy = DefaultPolicy::new(settings).unwrap();
        let shrinks = matches!(model.packing, Packing::Shrunk(_));
        let mut rounds = 0;
        loop {
            let actions = policy.decide(&model.stats(), model.now);
            if actions.is_empty() {
                break;
            }
            rounds += 1;
            // What comes out smaller than its input may be worth merging with its like, but not without end.
            prop_assert!(rounds <= if shrinks { 6 } else { 1 }, "round {rounds}: {actions:?}");
            let before: usize = model.files.values().map(Vec::len).sum();
            actions.iter().for_each(|action| model.apply(action));
            let after: usize = model.files.values().map(Vec::len).sum();
            let compacts = actions.iter().any(|action| matches!(action, Action::Compact { .. }));
            prop_assert!(!compacts || after < before);
        }
    }

    #[test]
    fn no_vacuum_undercuts_the_retention(settings in settings(), stats in any_stats(), seconds in 0i64..8_000_000_000) {
        let safe = PolicySettings { unsafe_retention: false, vacuum_retention: None, ..settings.clone() };
        for settings in [settings, safe] {
            let unsafe_retention = settings.unsafe_retention;
            let asked = settings.vacuum_retention;
            for action in DefaultPolicy::new(settings).unwrap().decide(&stats, at(seconds)) {
                if let Action::Vacuum { retention, .. } = action {
                    let floor = if unsafe_retention {
                        asked.unwrap_or(stats.deleted_file_retention)
                    } else {
                        stats.deleted_file_retention.max(SAFE_RETENTION)
                    };
                    prop_assert!(retention >= floor, "{retention:?} < {floor:?}");
                }
            }
        }
    }

    #[test]
    fn what_is_merged_is_named_once_and_has_something_to_merge(settings in settings(), model in model()) {
        let stats = model.stats();
        let mut due = 0;
        for action in DefaultPolicy::new(settings).unwrap().decide(&stats, noon()) {
            let (Action::Compact { partitions } | Action::ZOrder { partitions, .. }) = action else { continue };
            let unpartitioned = stats.partitions.len() == 1;
            prop_assert_eq!(partitions.is_empty(), unpartitioned);
            for partition in &stats.partitions {
                let named = partitions.iter().filter(|key| **key == partition.values).count();
                due += named;
                prop_assert!(named <= 1);
                if named == 1 || unpartitioned {
                    prop_assert!(partition.file_sizes.iter().filter(|size| **size < TARGET / 2).count() >= 2);
                }
            }
        }
        prop_assert!(due <= stats.partitions.len());
    }

    #[test]
    fn files_of_the_target_size_are_left_alone(
        settings in settings(), sizes in vec(vec(TARGET / 2..3 * TARGET, 0..400), 1..4), remainders in vec(0..TARGET / 2, 4),
    ) {
        let mut model = Model::new(noon());
        model.files = keyed(sizes).collect();
        for (sizes, remainder) in model.files.values_mut().zip(remainders) {
            sizes.push(remainder);
        }
        let actions = DefaultPolicy::new(settings).unwrap().decide(&model.stats(), noon());
        prop_assert!(!actions.iter().any(|a| matches!(a, Action::Compact { .. } | Action::ZOrder { .. })), "{actions:?}");
    }

    #[test]
    fn appends_of_one_row_leave_few_small_files(
        partitions in 1usize..12, start in file_size(), appends in vec(any::<prop::sample::Index>(), 1..600),
    ) {
        let policy = DefaultPolicy::default();
        let mut model = Model::new(noon());
        model.files.insert(key(0), vec![start]);
        for partition in appends {
            model.append(key(partition.index(partitions)), 700);
            for action in policy.decide(&model.stats(), model.now) {
                model.apply(&action);
            }
            // A hundred that are worth merging, and in each partition fewer than make it worth it.
            prop_assert!(model.small() <= 100 + 7 * partitions);
            prop_assert!(partitions > 1 || model.small() <= 100);
        }
    }
}

/// A year of one append an hour: each cadence is kept, and the log and the small files stay bounded.
#[test]
fn a_year_of_hourly_appends() {
    let policy = DefaultPolicy::default();
    let mut model = Model::new(noon());
    let mut vacuums: Vec<DateTime<Utc>> = Vec::new();
    let (mut cleanups, mut checkpoints, mut compactions, mut rewritten) = (0, 0, 0, 0);
    for _ in 0..365 * 24 {
        model.now += HOUR;
        model.append(Key::new(), 200_000);
        for action in policy.decide(&model.stats(), model.now) {
            match &action {
                Action::Vacuum { .. } => vacuums.push(model.now),
                Action::CleanLog { .. } => cleanups += 1,
                Action::Checkpoint => checkpoints += 1,
                _ => {
                    compactions += 1;
                    rewritten += model.files.values().flatten().filter(|size| **size < TARGET / 2).sum::<u64>();
                }
            }
            model.apply(&action);
        }
        assert_eq!(policy.decide(&model.stats(), model.now), []);
        assert!(model.small() <= 100);
        assert!(model.garbage.iter().all(|removed| model.now - removed <= chrono::TimeDelta::days(22)));
        assert!(model.log.len() <= 33 * 24, "{} log entries", model.log.len());
    }
    assert!(vacuums.windows(2).all(|pair| pair[1] - pair[0] >= chrono::TimeDelta::days(7)), "{vacuums:?}");
    assert!((26..=52).contains(&vacuums.len()), "{} vacuums", vacuums.len());
    // Once a day or so: a clean-up stops at a checkpoint, up to ten hours short of the horizon.
    assert!((300..=450).contains(&cleanups), "{cleanups} clean-ups");
    assert!((800..=900).contains(&checkpoints), "{checkpoints} checkpoints");
    assert!((80..=95).contains(&compactions), "{compactions} compactions");
    // Each byte was written again about twice, not once per compaction.
    assert!(rewritten < 4 * model.bytes(), "{rewritten} of {} bytes", model.bytes());
}

/// The goal of issue 5: a 6-million-row table stays fast after 1,000 tiny merges.
#[test]
fn a_thousand_tiny_merges_leave_at_most_a_hundred_small_files() {
    let policy = DefaultPolicy::default();
    let mut model = Model::new(noon());
    model.files.insert(Key::new(), vec![TARGET, TARGET, TARGET / 3]);
    for n in 0..1_000 {
        model.append(Key::new(), 1_000 + n);
        for action in policy.decide(&model.stats(), model.now) {
            model.apply(&action);
        }
    }
    assert!(model.small() <= 100);
    assert!(model.files[&Key::new()].len() <= 103);
}

/// Called after every write: on a table of 100,000 files a decision takes microseconds, not a second.
#[test]
fn a_decision_over_a_hundred_thousand_files_is_cheap() {
    let stats = flat(vec![TARGET / 2 - 1; 100_000]);
    let started = std::time::Instant::now();
    for _ in 0..10 {
        assert_eq!(DefaultPolicy::default().decide(&stats, noon()).len(), 1);
    }
    assert!(started.elapsed() < Duration::from_secs(1), "{:?}", started.elapsed());
}
