//! What comes round with time and commits: vacuum, checkpoints, log clean-up. And the floor under every retention.
//!
//! Invariant: no retention leaves this file below the table's and [`SAFE_RETENTION`] without the unsafe switch.

use std::time::Duration;

use chrono::{DateTime, Utc};
use duckrun_core::maintenance::{Action, TableStats};

use crate::{PolicySettings, SAFE_RETENTION};

const HOUR: Duration = Duration::from_secs(60 * 60);
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// Where the statistics do not say (the interval that tables of this library are created with).
const CHECKPOINT_INTERVAL: u64 = 10;

/// The retention lifted to what is safe for the table.
pub(crate) fn safe_retention(wanted: Duration, stats: &TableStats) -> Duration {
    wanted.max(stats.deleted_file_retention).max(SAFE_RETENTION)
}

/// A vacuum, once there is something to delete and the last one is long enough ago; or the last one is very long ago.
pub(crate) fn vacuum(
    settings: &PolicySettings,
    stats: &TableStats,
    now: DateTime<Utc>,
    before: &[Action],
) -> Option<Action> {
    if !settings.vacuum {
        return None;
    }
    let wanted = settings.vacuum_retention.unwrap_or(stats.deleted_file_retention);
    let retention = if settings.unsafe_retention { wanted } else { safe_retention(wanted, stats) };
    // `expired_tombstones` are counted by the table's retention, which only the unsafe switch undercuts. Then every removed
    // file counts, those of the actions before it too.
    let undercut = retention.is_zero() || retention < stats.deleted_file_retention;
    let removed = if undercut { stats.tombstones > 0 || !before.is_empty() } else { stats.expired_tombstones > 0 };
    // At most hourly even where an unsafe retention is zero: a vacuum leaves the tombstones in the log.
    let cadence = settings.vacuum_cadence.unwrap_or_default().max(retention).max(HOUR);
    let since = stats.last_vacuum.map(|last| age(last, now));
    let due = removed && since.is_none_or(|since| since >= cadence);
    // A checkpoint drops expired tombstones, so what expires between two vacuums may leave no trace in the log. Where files
    // were removed once, a full vacuum looks again after twice the time.
    let sweep =
        settings.reclaim_orphans && since.is_some_and(|since| since >= cadence.max(SAFE_RETENTION).saturating_mul(2));
    (due || sweep).then_some(Action::Vacuum { retention, full: settings.reclaim_orphans })
}

/// A checkpoint, when the interval is over, the commits of the actions before it included.
pub(crate) fn checkpoint(settings: &PolicySettings, stats: &TableStats, before: &[Action]) -> Option<Action> {
    let interval = checkpoint_interval(stats.checkpoint_interval);
    let commits = before.iter().map(commits).fold(stats.commits_since_checkpoint, u64::saturating_add);
    (settings.checkpoint && commits >= interval).then_some(Action::Checkpoint)
}

/// The interval, where it is known.
pub(crate) fn checkpoint_interval(known: u64) -> u64 {
    if known == 0 { CHECKPOINT_INTERVAL } else { known }
}

/// A log clean-up, when the oldest entry has outlived the retention by a day, so that one a day is enough.
///
/// `checkpoint` says that a checkpoint comes before it: then entries may become deletable that are not yet counted as such.
pub(crate) fn clean_log(
    settings: &PolicySettings,
    stats: &TableStats,
    now: DateTime<Utc>,
    checkpoint: bool,
) -> Option<Action> {
    let retention = stats.log_retention;
    let covered = stats.expired_log_entries > 0 || checkpoint;
    // Zero is a table whose retention nobody read; not a licence to delete its history.
    let old = !retention.is_zero()
        && stats.oldest_log_entry.is_some_and(|oldest| age(oldest, now) > retention.saturating_add(DAY));
    (settings.clean_log && covered && old).then_some(Action::CleanLog { retention })
}

/// How many commits an action makes.
fn commits(action: &Action) -> u64 {
    match action {
        Action::Compact { .. } | Action::ZOrder { .. } => 1,
        Action::Vacuum { .. } => 2,
        _ => 0,
    }
}

/// How long ago; zero for a time in the future, which a skewed clock can write: nothing is due because of that.
pub(crate) fn age(then: DateTime<Utc>, now: DateTime<Utc>) -> Duration {
    (now - then).to_std().unwrap_or_default()
}
