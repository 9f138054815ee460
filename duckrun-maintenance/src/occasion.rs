//! After which commits statistics are read at all. A look costs more than a small append, and after most commits nothing is due.
//!
//! Invariant: no state but the table's own, so that many processes of one run each look as often as one process of many runs.
//! What is due is noticed at the latest [`EVERY`] commits late, or by the first commit after an hour of rest.

use std::time::Duration;

use chrono::{DateTime, Utc};
use duckrun_core::maintenance::Glance;

use crate::PolicySettings;
use crate::cadence::{age, checkpoint_interval};

/// Every so many versions one writer looks. A prime, so that a writer that gets, say, every second or fifth version, because
/// others that never look take those between, does not miss its turn for ever.
const EVERY: u64 = 11;

/// A table that rests so long between two commits can afford a look after each.
const REST: Duration = Duration::from_secs(60 * 60);

pub(crate) fn is_occasion(settings: &PolicySettings, glance: &Glance, now: DateTime<Utc>) -> bool {
    if !(settings.compact || settings.vacuum || settings.checkpoint || settings.clean_log) {
        return false;
    }
    let many = settings.min_bin_files as u64;
    let checkpoint_due = settings.checkpoint
        && glance.version.saturating_sub(glance.checkpoint.unwrap_or(0))
            >= checkpoint_interval(glance.checkpoint_interval);
    let rested = glance.last_commit.is_some_and(|then| age(then, now) >= REST);
    let turn = glance.version > 0 && glance.version.is_multiple_of(EVERY);
    glance.files_added >= many || glance.files_removed >= many || checkpoint_due || rested || turn
}
