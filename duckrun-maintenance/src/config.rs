//! The settings of [`DefaultPolicy`](crate::DefaultPolicy): what it may ask for, and from which numbers on.
//!
//! Plain values. A contradiction is refused when the policy is built, never resolved silently while it runs.

use std::collections::BTreeSet;
use std::time::Duration;

use duckrun_core::{Error, Result};
use serde::{Deserialize, Serialize};

/// The shortest retention of a vacuum that needs no [`unsafe_retention`](PolicySettings::unsafe_retention): 7 days.
///
/// A file that no snapshot names may belong to a run in flight, and a vacuum cannot tell; only its age is evidence. Runs of ours
/// refuse to commit past the retention, those of other writers do not.
pub const SAFE_RETENTION: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// What [`DefaultPolicy`](crate::DefaultPolicy) may ask for, and from which numbers on.
///
/// ```
/// let mut settings = duckrun_maintenance::PolicySettings::default();
/// settings.max_small_files = 20;
/// settings.zorder = vec!["station".to_owned(), "hour".to_owned()];
/// assert!(settings.validate().is_ok());
/// ```
#[non_exhaustive]
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PolicySettings {
    /// Whether small files are merged (or z-ordered) at all.
    pub compact: bool,
    /// How many small files that are worth merging a table may have, over all its partitions: one more, and all of them are
    /// merged. After a run that is noticed up to ten commits late, because not every commit is an occasion to look.
    pub max_small_files: usize,
    /// From how many small files on a partition is worth merging whatever their sizes, and is merged at once if together they
    /// fill a target file. At least 2.
    pub min_bin_files: usize,
    /// The columns of a z-order. Where there are some, a partition that is due for compaction is rewritten as a whole in that
    /// order, as long as its small files are at least [`zorder_min_percent`](Self::zorder_min_percent) of its bytes.
    pub zorder: Vec<String>,
    /// How much of a partition's bytes its small files must be before the whole is ordered anew. Below that they are only
    /// merged: a large partition is not rewritten for a few rows.
    pub zorder_min_percent: u8,
    /// Whether files that no snapshot within the retention needs are deleted.
    pub vacuum: bool,
    /// The retention of a vacuum, instead of the table's. Never shorter than the table's or [`SAFE_RETENTION`], unless
    /// [`unsafe_retention`](Self::unsafe_retention) is set.
    pub vacuum_retention: Option<Duration>,
    /// The least time between two vacuums, instead of the retention. A shorter one than the retention has no effect.
    pub vacuum_cadence: Option<Duration>,
    /// Whether a vacuum also deletes files that no log entry names, once they are older than the retention: what crashed runs
    /// left behind, but also foreign files that somebody keeps in the table's folder. A table that was vacuumed before is then
    /// searched again after twice the time, because a checkpoint makes the log forget removed files.
    pub reclaim_orphans: bool,
    /// Whether a vacuum may have a retention shorter than the table's or [`SAFE_RETENTION`]. Readers of older snapshots fail
    /// then, and a run in flight can lose files that it is about to commit.
    pub unsafe_retention: bool,
    /// Whether checkpoints are written when the table's interval is over.
    pub checkpoint: bool,
    /// Whether log entries are deleted once they are a day older than the table's log retention.
    pub clean_log: bool,
}

impl Default for PolicySettings {
    fn default() -> Self {
        Self {
            compact: true,
            max_small_files: 100,
            min_bin_files: 8,
            zorder: Vec::new(),
            zorder_min_percent: 25,
            vacuum: true,
            vacuum_retention: None,
            vacuum_cadence: None,
            reclaim_orphans: true,
            unsafe_retention: false,
            checkpoint: true,
            clean_log: true,
        }
    }
}

impl PolicySettings {
    /// Refuses settings that cannot be meant, with all problems in one error.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidInput`](duckrun_core::ErrorKind::InvalidInput).
    pub fn validate(&self) -> Result<()> {
        let mut problems = Vec::new();
        if self.min_bin_files < 2 {
            problems.push(format!("`min_bin_files` is {}; merging takes at least 2 files", self.min_bin_files));
        }
        if self.zorder_min_percent > 100 {
            problems.push(format!("`zorder_min_percent` is {}; the whole is 100", self.zorder_min_percent));
        }
        let mut seen = BTreeSet::new();
        for column in &self.zorder {
            if column.is_empty() {
                problems.push("`zorder` has an empty column name".to_owned());
            } else if !seen.insert(column) {
                problems.push(format!("`zorder` names the column {column:?} twice"));
            }
        }
        if let Some(retention) = self.vacuum_retention
            && retention < SAFE_RETENTION
            && !self.unsafe_retention
        {
            problems.push(format!(
                "`vacuum_retention` is {} s, below the safe {} s (7 days); `unsafe_retention` allows it",
                retention.as_secs(),
                SAFE_RETENTION.as_secs()
            ));
        }
        Error::problems(problems).map_or(Ok(()), Err)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_valid_and_what_was_left_out_takes_them() {
        PolicySettings::default().validate().unwrap();
        let parsed: PolicySettings = serde_json::from_str(r#"{"max_small_files": 20, "vacuum": false}"#).unwrap();
        assert_eq!(parsed, PolicySettings { max_small_files: 20, vacuum: false, ..PolicySettings::default() });
        let text = serde_json::to_string(&parsed).unwrap();
        assert_eq!(serde_json::from_str::<PolicySettings>(&text).unwrap(), parsed);
        assert!(serde_json::from_str::<PolicySettings>(r#"{"max_smal_files": 20}"#).is_err());
    }

    #[test]
    fn every_contradiction_is_named_at_once() {
        let settings = PolicySettings {
            min_bin_files: 1,
            zorder: vec!["a".into(), "a".into(), String::new()],
            zorder_min_percent: 101,
            vacuum_retention: Some(Duration::from_secs(3600)),
            ..PolicySettings::default()
        };
        let message = settings.validate().unwrap_err().to_string();
        assert!(message.contains("5 problems"), "{message}");
        let allowed = PolicySettings {
            vacuum_retention: Some(Duration::ZERO),
            unsafe_retention: true,
            ..PolicySettings::default()
        };
        allowed.validate().unwrap();
    }
}
