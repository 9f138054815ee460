//! The rules one by one, on tables small enough to read.

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use duckrun_core::maintenance::{Action, TableStats};

use super::{DAY, HOUR, TARGET, empty, flat, key, noon, partitioned};
use crate::{DefaultPolicy, Disabled, MaintenancePolicy, OnRequest, PolicySettings};

const ALL: Action = Action::Compact { partitions: vec![] };

fn decide(stats: &TableStats) -> Vec<Action> {
    DefaultPolicy::default().decide(stats, noon())
}

fn with(change: impl FnOnce(&mut PolicySettings), stats: &TableStats) -> Vec<Action> {
    let mut settings = PolicySettings::default();
    change(&mut settings);
    DefaultPolicy::new(settings).unwrap().decide(stats, noon())
}

fn ago(age: Duration) -> Option<DateTime<Utc>> {
    Some(noon() - age)
}

#[test]
fn more_than_a_hundred_tiny_files_are_merged_and_a_hundred_are_not() {
    assert_eq!(decide(&flat(vec![700; 100])), []);
    assert_eq!(decide(&flat(vec![700; 101])), [ALL]);
    assert_eq!(with(|s| s.max_small_files = 10, &flat(vec![700; 11])), [ALL]);
    assert_eq!(with(|s| s.compact = false, &flat(vec![700; 101])), []);
}

#[test]
fn eight_small_files_that_fill_a_file_are_merged() {
    assert_eq!(decide(&flat(vec![TARGET / 8; 8])), [ALL]);
    assert_eq!(decide(&flat(vec![TARGET / 8 - 1; 8])), []);
    assert_eq!(decide(&flat(vec![TARGET / 3; 7])), []);
}

#[test]
fn a_healthy_big_table_is_left_alone() {
    assert_eq!(decide(&flat(vec![TARGET; 100_000])), []);
    assert_eq!(decide(&flat(vec![TARGET / 2; 1_000])), []);
    // A thousand partitions with a remainder each: nothing to merge it with.
    assert_eq!(decide(&partitioned(vec![vec![TARGET, 700]; 1_000])), []);
    assert_eq!(decide(&TableStats::default()), []);
}

#[test]
fn only_the_partitions_that_need_it_are_merged() {
    let stats = partitioned(vec![vec![TARGET; 50], vec![700; 90], vec![700], vec![900; 30], vec![]]);
    assert_eq!(decide(&stats), [Action::Compact { partitions: vec![key(1), key(3)] }]);
    // The bytes rule looks at one partition, whatever the others have.
    let stats = partitioned(vec![vec![TARGET / 4; 8], vec![700; 50]]);
    assert_eq!(decide(&stats), [Action::Compact { partitions: vec![key(0)] }]);
}

/// A table with many partitions gets a small file in each with every run. Merging whenever there are two would rewrite the
/// whole table with every run.
#[test]
fn a_large_remainder_is_not_rewritten_for_a_few_rows() {
    let day = |appends| partitioned(vec![[vec![TARGET / 3], vec![700; appends]].concat(); 200]);
    assert_eq!(decide(&day(1)), []);
    assert_eq!(decide(&day(6)), []);
    assert!(matches!(decide(&day(7)).as_slice(), [Action::Compact { partitions }] if partitions.len() == 200));
    // But where it doubles the files, two are enough.
    assert_eq!(decide(&partitioned(vec![vec![700; 2]; 50])), []);
    assert!(matches!(decide(&partitioned(vec![vec![700; 2]; 51])).as_slice(), [Action::Compact { .. }]));
}

#[test]
fn a_z_order_takes_the_place_of_compaction_where_it_is_worth_it() {
    let columns = vec!["station".to_owned(), "hour".to_owned()];
    let zorder = |settings: &mut PolicySettings| settings.zorder = columns.clone();
    let z = |partitions| Action::ZOrder { columns: columns.clone(), partitions };
    assert_eq!(with(zorder, &flat(vec![700; 101])), [z(vec![])]);
    // Not for the sake of order alone, and not a whole large partition for a few rows.
    assert_eq!(with(zorder, &flat(vec![TARGET; 100])), []);
    let stats = partitioned(vec![[vec![TARGET; 9], vec![700; 60]].concat(), vec![700; 60]]);
    assert_eq!(with(zorder, &stats), [Action::Compact { partitions: vec![key(0)] }, z(vec![key(1)])]);
}

#[test]
fn a_vacuum_waits_for_removed_files_to_outlive_the_retention_and_for_the_last_vacuum() {
    let mut stats = empty();
    stats.tombstones = 50;
    assert_eq!(decide(&stats), []);
    stats.expired_tombstones = 1;
    assert_eq!(decide(&stats), [Action::Vacuum { retention: 7 * DAY, full: true }]);
    assert_eq!(with(|s| s.vacuum = false, &stats), []);
    assert_eq!(with(|s| s.reclaim_orphans = false, &stats), [Action::Vacuum { retention: 7 * DAY, full: false }]);
    stats.last_vacuum = ago(7 * DAY - HOUR);
    assert_eq!(decide(&stats), []);
    // A shorter cadence than the retention has no effect, a longer one has.
    assert_eq!(with(|s| s.vacuum_cadence = Some(HOUR), &stats), []);
    stats.last_vacuum = ago(7 * DAY);
    assert_eq!(decide(&stats).len(), 1);
    assert_eq!(with(|s| s.vacuum_cadence = Some(8 * DAY), &stats), []);
    // A checkpoint made the log forget what was removed after the last vacuum.
    (stats.tombstones, stats.expired_tombstones) = (0, 0);
    assert_eq!(decide(&stats), []);
    stats.last_vacuum = ago(14 * DAY);
    assert_eq!(decide(&stats), [Action::Vacuum { retention: 7 * DAY, full: true }]);
    assert_eq!(with(|s| s.reclaim_orphans = false, &stats), []);
    stats.expired_tombstones = 1;
    // Another machine's clock is ahead of ours.
    stats.last_vacuum = Some(noon() + HOUR);
    assert_eq!(decide(&stats), []);
}

#[test]
fn a_retention_is_never_shorter_than_is_safe_without_the_switch() {
    let mut stats = empty();
    (stats.tombstones, stats.expired_tombstones, stats.deleted_file_retention) = (5, 5, HOUR);
    let vacuum = |retention| [Action::Vacuum { retention, full: true }];
    assert_eq!(decide(&stats), vacuum(7 * DAY));
    assert_eq!(with(|s| s.unsafe_retention = true, &stats), vacuum(HOUR));
    stats.deleted_file_retention = 30 * DAY;
    assert_eq!(decide(&stats), vacuum(30 * DAY));
    assert_eq!(with(|s| s.vacuum_retention = Some(10 * DAY), &stats), vacuum(30 * DAY));
    assert_eq!(with(|s| s.vacuum_retention = Some(40 * DAY), &stats), vacuum(40 * DAY));

    // Nothing has outlived the table's retention, but all of it the unsafe one.
    stats.expired_tombstones = 0;
    let unsafe_zero = |s: &mut PolicySettings| {
        (s.vacuum_retention, s.unsafe_retention) = (Some(Duration::ZERO), true);
    };
    assert_eq!(with(unsafe_zero, &stats), vacuum(Duration::ZERO));
    stats.last_vacuum = ago(HOUR / 2);
    assert_eq!(with(unsafe_zero, &stats), []);
}

#[test]
fn checkpoints_follow_the_interval_and_count_the_commits_of_maintenance() {
    let mut stats = empty();
    stats.commits_since_checkpoint = 9;
    assert_eq!(decide(&stats), []);
    let mut hot = flat(vec![700; 101]);
    hot.commits_since_checkpoint = 9;
    assert_eq!(decide(&hot), [ALL, Action::Checkpoint]);
    stats.commits_since_checkpoint = 10;
    assert_eq!(decide(&stats), [Action::Checkpoint]);
    assert_eq!(with(|s| s.checkpoint = false, &stats), []);
    stats.checkpoint_interval = 100;
    assert_eq!(decide(&stats), []);
    stats.checkpoint_interval = 0;
    assert_eq!(decide(&stats), [Action::Checkpoint]);
}

#[test]
fn the_log_is_cleaned_a_day_after_its_retention_where_a_checkpoint_covers_it() {
    let mut stats = empty();
    (stats.expired_log_entries, stats.oldest_log_entry) = (40, ago(30 * DAY + HOUR));
    assert_eq!(decide(&stats), []);
    stats.oldest_log_entry = ago(31 * DAY + HOUR);
    assert_eq!(decide(&stats), [Action::CleanLog { retention: 30 * DAY }]);
    assert_eq!(with(|s| s.clean_log = false, &stats), []);
    stats.expired_log_entries = 0;
    assert_eq!(decide(&stats), []);
    // The checkpoint before it is what covers it.
    stats.commits_since_checkpoint = 10;
    assert_eq!(decide(&stats), [Action::Checkpoint, Action::CleanLog { retention: 30 * DAY }]);
    // Nobody read the table's retention.
    (stats.commits_since_checkpoint, stats.expired_log_entries) = (0, 40);
    stats.log_retention = Duration::ZERO;
    assert_eq!(decide(&stats), []);
}

#[test]
fn the_other_policies_ask_for_nothing_and_for_what_was_requested() {
    let hot = flat(vec![700; 101]);
    assert_eq!(Disabled.decide(&hot, noon()), []);
    let wish = [Action::Vacuum { retention: HOUR, full: true }, Action::Checkpoint];
    let request = OnRequest::new(wish.clone());
    assert_eq!(
        request.decide(&empty(), noon()),
        [Action::Vacuum { retention: 7 * DAY, full: true }, Action::Checkpoint]
    );
    assert_eq!(request.allow_unsafe_retention().decide(&empty(), noon()), wish);
    let shared: Arc<dyn MaintenancePolicy> = Arc::new(DefaultPolicy::default());
    assert_eq!(shared.decide(&hot, noon()), [ALL]);
    assert!(DefaultPolicy::new(PolicySettings { min_bin_files: 0, ..PolicySettings::default() }).is_err());
}
