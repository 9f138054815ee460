//! The log folder as files: which of them a clean-up may delete, and deleting them.
//!
//! Invariant: every version that is younger than the retention can still be read afterwards, and so can the one that was current
//! when the retention began. That takes a whole checkpoint at or before it, every entry from there on, and the checkpoint that
//! `_last_checkpoint` points readers to.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use chrono::{DateTime, Utc};
use duckrun_core::maintenance::{Action, Applied};
use duckrun_core::{At, Error, Result, RunContext};
use futures::TryStreamExt;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};

use super::delete;
use super::properties::Properties;
use crate::error::store_error;
use crate::history::LOG;
use crate::location::Location;
use crate::snapshot::DeltaSnapshot;

/// The log folder.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct LogFolder {
    /// Commit time by version: the store's, made monotonic as the protocol asks ("Commit Timestamps").
    pub(super) commits: BTreeMap<u64, DateTime<Utc>>,
    /// Versions with a checkpoint that is whole.
    pub(super) checkpoints: BTreeSet<u64>,
    /// Every file that belongs to versions, with the newest of them.
    files: Vec<(u64, Path)>,
}

impl LogFolder {
    /// Lists the folder.
    ///
    /// # Errors
    /// The store's.
    pub(super) async fn list(location: &Location) -> Result<Self> {
        let folder = Path::from(LOG);
        let objects = location.store().list(Some(&folder)).try_collect::<Vec<_>>().await;
        let objects = objects.map_err(|e| store_error(e, format_args!("list the log of {location}")))?;
        let mut log = Self::default();
        let mut parts: BTreeMap<(u64, u32), u32> = BTreeMap::new();
        for object in objects {
            // Folders inside (sidecars, staged commits) are not ours to judge.
            if object.location.prefix_match(&folder).is_none_or(|mut rest| rest.nth(1).is_some()) {
                continue;
            }
            let Some(file) = object.location.filename().and_then(LogFile::parse) else { continue };
            match file.kind {
                Kind::Commit => drop(log.commits.insert(file.version, object.last_modified)),
                Kind::Checkpoint { of: 1 } => drop(log.checkpoints.insert(file.version)),
                Kind::Checkpoint { of } => *parts.entry((file.version, of)).or_default() += 1,
                Kind::Other => {}
            }
            log.files.push((file.version, object.location));
        }
        log.checkpoints.extend(parts.iter().filter(|((_, of), have)| of == *have).map(|((version, _), _)| *version));
        let mut latest = DateTime::<Utc>::MIN_UTC;
        for time in log.commits.values_mut() {
            latest = latest.max(*time);
            *time = latest;
        }
        log.files.sort();
        Ok(log)
    }

    /// The first version that readers of the retention need: the newest whole checkpoint at or before the version that was current
    /// at `horizon`. `None` where nothing may go.
    pub(super) fn first_needed(&self, horizon: DateTime<Utc>) -> Option<u64> {
        let current = self.commits.iter().rev().find(|(_, time)| **time <= horizon).map(|(version, _)| *version)?;
        self.checkpoints.range(..=current).next_back().copied()
    }

    /// Entries before a version.
    pub(super) fn entries_before(&self, version: u64) -> u64 {
        self.commits.range(..version).count() as u64
    }
}

/// A file of the log by its name.
#[derive(Debug, PartialEq, Eq)]
struct LogFile {
    version: u64,
    kind: Kind,
}

#[derive(Debug, PartialEq, Eq)]
enum Kind {
    Commit,
    /// A classic checkpoint of so many parts. Those of the second version name files of their own; they are not counted as
    /// checkpoints here, so that nothing is deleted on their strength.
    Checkpoint {
        of: u32,
    },
    Other,
}

impl LogFile {
    fn parse(name: &str) -> Option<Self> {
        let number = |digits: &str, len: usize| {
            (digits.len() == len && digits.bytes().all(|b| b.is_ascii_digit())).then(|| digits.parse::<u64>().ok())?
        };
        let (digits, rest) = name.split_at_checked(20)?;
        let version = number(digits, 20)?;
        let parts: Vec<&str> = rest.strip_prefix('.')?.split('.').collect();
        Some(match parts.as_slice() {
            ["json"] => Self { version, kind: Kind::Commit },
            ["checkpoint", "parquet"] => Self { version, kind: Kind::Checkpoint { of: 1 } },
            ["checkpoint", part, of, "parquet"] if number(part, 10).is_some() => {
                Self { version, kind: Kind::Checkpoint { of: u32::try_from(number(of, 10)?).ok()? } }
            }
            // A compacted log is needed as long as its last version is.
            [last, "compacted", "json"] => Self { version: number(last, 20)?, kind: Kind::Other },
            ["checkpoint", .., "parquet" | "json"] | ["crc"] => Self { version, kind: Kind::Other },
            _ => return None,
        })
    }
}

/// Deletes what no version within the retention needs.
pub(super) async fn clean(
    cx: &RunContext,
    location: &Location,
    snapshot: &DeltaSnapshot,
    action: &Action,
    asked: Duration,
) -> Result<Applied> {
    let properties = Properties::of(snapshot.metadata())?;
    if !properties.clean_log {
        return Ok(Applied::skipped(action.clone(), "the table keeps its log (delta.enableExpiredLogCleanup)"));
    }
    let retention = asked.max(properties.log_retention);
    let Some(horizon) = chrono::TimeDelta::from_std(retention).ok().and_then(|r| cx.now().checked_sub_signed(r)) else {
        return Ok(Applied::skipped(action.clone(), "the retention reaches back beyond all time"));
    };
    super::clock::check(cx, location, snapshot).await?;
    let log = LogFolder::list(location).await?;
    let needed = match log.first_needed(horizon) {
        Some(version) => version.min(hinted(location).await?.unwrap_or(version)),
        None => return Ok(Applied::skipped(action.clone(), "no checkpoint covers entries older than the retention")),
    };
    let newest = log.commits.keys().next_back().copied().unwrap_or_default();
    if let Some(gap) = (needed + 1..=newest).find(|version| !log.commits.contains_key(version)) {
        return Err(Error::corrupt(format!("version {gap} is missing from the log; nothing is deleted")));
    }
    let doomed: Vec<Path> =
        log.files.iter().filter(|(version, _)| *version < needed).map(|(_, path)| path.clone()).collect();
    if doomed.is_empty() {
        return Ok(Applied::skipped(action.clone(), "every entry is needed"));
    }
    // The checkpoint that takes their place must really read before they go.
    match DeltaSnapshot::open(location, At::Version(needed)).await? {
        Some(kept) => drop(kept.live_files().await?),
        None => return Err(Error::corrupt(format!("version {needed} cannot be read; nothing is deleted"))),
    }
    // Oldest first, so that a clean-up that dies half-way leaves a log without gaps.
    let (deleted, done) = delete::all(cx, location, &doomed).await;
    done?;
    let mut applied = Applied::done(action.clone());
    applied.files_removed = deleted;
    Ok(applied)
}

/// The version that `_last_checkpoint` names. A hint that cannot be understood is no hint, for readers too.
async fn hinted(location: &Location) -> Result<Option<u64>> {
    let path = Path::from_iter([LOG, "_last_checkpoint"]);
    let failed = |e| store_error(e, format_args!("read {path}"));
    let bytes = match location.store().get(&path).await {
        Ok(object) => object.bytes().await.map_err(failed)?,
        Err(object_store::Error::NotFound { .. }) => return Ok(None),
        Err(e) => return Err(failed(e)),
    };
    let hint: Option<serde_json::Value> = serde_json::from_slice(&bytes).ok();
    Ok(hint.and_then(|h| h["version"].as_u64()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_known_by_their_names() {
        let v = |n: u64| format!("{n:020}");
        let kind = |name: String| LogFile::parse(&name).map(|f| (f.version, f.kind));
        assert_eq!(kind(format!("{}.json", v(7))), Some((7, Kind::Commit)));
        assert_eq!(kind(format!("{}.checkpoint.parquet", v(10))), Some((10, Kind::Checkpoint { of: 1 })));
        let part = format!("{}.checkpoint.{:010}.{:010}.parquet", v(10), 2, 3);
        assert_eq!(kind(part), Some((10, Kind::Checkpoint { of: 3 })));
        let second = format!("{}.checkpoint.80a083e8-7026-4e79-81be-64bd76c43a11.parquet", v(10));
        assert_eq!(kind(second), Some((10, Kind::Other)));
        assert_eq!(kind(format!("{}.{}.compacted.json", v(3), v(9))), Some((9, Kind::Other)));
        assert_eq!(kind(format!("{}.crc", v(3))), Some((3, Kind::Other)));
        for other in ["_last_checkpoint", "00000000000000000001.json.tmp", ".00000000000000000001.x.tmp", "x"] {
            assert_eq!(LogFile::parse(other), None, "{other}");
        }
    }

    proptest::proptest! {
        /// Whatever the log looks like: after a clean-up every version of the retention, and the one before it, still reads.
        #[test]
        fn what_the_retention_needs_stays(
            ages in proptest::collection::vec(0i64..100, 1..60),
            checkpoints in proptest::collection::btree_set(0u64..60, 0..8),
            horizon in 0i64..100,
        ) {
            let at = |days: i64| DateTime::<Utc>::from_timestamp(days * 86_400, 0).unwrap();
            let mut ages = ages;
            ages.sort_unstable();
            let commits: BTreeMap<u64, _> = (0..).zip(ages.iter().map(|d| at(*d))).collect();
            let newest = commits.len() as u64 - 1;
            let checkpoints: BTreeSet<u64> = checkpoints.into_iter().filter(|c| *c <= newest).collect();
            let log = LogFolder { commits, checkpoints, files: Vec::new() };
            if let Some(needed) = log.first_needed(at(horizon)) {
                proptest::prop_assert!(log.checkpoints.contains(&needed));
                let current = log.commits.iter().filter(|(_, t)| **t <= at(horizon)).map(|(v, _)| *v).max().unwrap();
                proptest::prop_assert!(needed <= current);
                // And no more is kept than one checkpoint asks for.
                proptest::prop_assert!(log.checkpoints.iter().all(|c| *c <= needed || *c > current));
                proptest::prop_assert_eq!(log.entries_before(needed), needed);
            }
        }
    }
}
