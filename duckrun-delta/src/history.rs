//! The log folder as a listing: which versions are there, when they were committed, what a commit says.

use std::collections::BTreeMap;

use bytes::Bytes;
use chrono::{DateTime, SubsecRound, Utc};
use duckrun_core::{CommitRecord, Error, ErrorKind, Result};
use futures::{Stream, StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{GetOptions, GetRange, ObjectStore, ObjectStoreExt};
use serde_json::{Map, Value as Json};

use crate::commit::APPLIED;
use crate::error::store_error;
use crate::location::Location;

/// The log folder's name.
pub(crate) const LOG: &str = "_delta_log";

/// What a log folder holds.
#[derive(Debug, Default)]
pub(crate) struct LogListing {
    /// Commit time by version.
    pub(crate) commits: BTreeMap<u64, DateTime<Utc>>,
    /// Versions that have a checkpoint.
    pub(crate) checkpoints: Vec<u64>,
}

impl LogListing {
    pub(crate) fn is_empty(&self) -> bool {
        self.commits.is_empty() && self.checkpoints.is_empty()
    }

    pub(crate) fn newest(&self) -> Option<u64> {
        self.commits.keys().next_back().copied().max(self.checkpoints.iter().max().copied())
    }

    /// The newest version of a table whose version 0 was cleaned up: nothing keeps a run that saw no table from putting that
    /// version once more, where no reader would find it.
    pub(crate) fn cleaned_up(&self) -> Option<u64> {
        self.newest().filter(|_| !self.commits.contains_key(&0))
    }

    /// The commit times in milliseconds, made monotonic as the protocol asks ("Commit Timestamps"): a file system's clock may
    /// go back.
    pub(crate) fn times(&self) -> BTreeMap<u64, DateTime<Utc>> {
        let mut latest: Option<DateTime<Utc>> = None;
        let monotonic = |(version, committed): (&u64, &DateTime<Utc>)| {
            let committed = committed.trunc_subsecs(3);
            let committed = match latest {
                Some(previous) if committed <= previous => previous + chrono::Duration::milliseconds(1),
                _ => committed,
            };
            latest = Some(committed);
            (*version, committed)
        };
        self.commits.iter().map(monotonic).collect()
    }

    /// Whether a version can no longer be reconstructed.
    pub(crate) fn is_before_oldest(&self, version: u64) -> bool {
        let oldest = self.commits.keys().next().copied();
        let from_checkpoint = self.checkpoints.iter().any(|c| *c <= version);
        oldest.is_none_or(|oldest| oldest > 0 && !from_checkpoint)
    }
}

/// The path of a commit, relative to the table.
pub(crate) fn commit_path(version: u64) -> Path {
    Path::from_iter([LOG, &format!("{version:020}.json")])
}

/// Lists the log, from a version on where one is given.
pub(crate) async fn list(location: &Location, from: Option<u64>) -> Result<LogListing> {
    let store = location.store();
    let folder = Path::from(LOG);
    let doing = || format!("list the log of {location}");
    let objects = match from {
        // The offset is exclusive, and `0…4.` sorts before every file of version 4.
        Some(from) => store.list_with_offset(Some(&folder), &folder.clone().join(format!("{from:020}"))),
        None => store.list(Some(&folder)),
    };
    let mut listing = LogListing::default();
    let mut objects = std::pin::pin!(objects);
    while let Some(object) = match objects.try_next().await {
        Ok(object) => object,
        Err(object_store::Error::NotFound { .. }) => None,
        Err(e) => return Err(store_error(e, doing())),
    } {
        if object.location.prefix_match(&folder).is_none_or(|mut rest| rest.nth(1).is_some()) {
            continue;
        }
        let name = object.location.filename().unwrap_or_default();
        let Some((digits, rest)) = name.split_at_checked(20) else { continue };
        let Ok(version) = digits.parse::<u64>() else { continue };
        if rest == ".json" {
            listing.commits.insert(version, object.last_modified);
        } else if rest.starts_with(".checkpoint.") {
            listing.checkpoints.push(version);
        }
    }
    Ok(listing)
}

/// The bytes of a commit; `None` if it is not there.
pub(crate) async fn read_commit(location: &Location, version: u64) -> Result<Option<Bytes>> {
    let path = commit_path(version);
    let doing = || format!("read version {version} of {location}");
    match location.store().get(&path).await {
        Ok(object) => object.bytes().await.map(Some).map_err(|e| store_error(e, doing())),
        Err(object_store::Error::NotFound { .. }) => Ok(None),
        Err(e) => Err(store_error(e, doing())),
    }
}

/// Commits read at a time.
const CONCURRENT_READS: usize = 16;

/// The commits of some versions, in order, a few read ahead; `None` for one that is not there.
pub(crate) fn commits(
    location: &Location,
    versions: std::ops::RangeInclusive<u64>,
) -> impl Stream<Item = Result<(u64, Option<Bytes>)>> {
    let location = location.clone();
    let read = move |version| {
        let location = location.clone();
        async move { Ok((version, read_commit(&location, version).await?)) }
    };
    futures::stream::iter(versions).map(read).buffered(CONCURRENT_READS)
}

/// What the commits say about themselves, oldest first, up to a version. A commit that vanishes meanwhile is left out.
pub(crate) async fn records(location: &Location, until: u64) -> Result<Vec<CommitRecord>> {
    let times = list(location, None).await?.times();
    let records: Vec<Option<CommitRecord>> =
        futures::stream::iter(times.into_iter().filter(|(version, _)| *version <= until))
            .map(|(version, time)| async move {
                let Some(bytes) = read_commit(location, version).await? else { return Ok(None) };
                let info = commit_info(&bytes).map_err(|e| {
                    Error::corrupt(format!("version {version} of the log is not JSON"))
                        .with_version(version)
                        .with_source(e)
                })?;
                Ok::<_, Error>(Some(CommitRecord::new(version, time, info)))
            })
            .buffered(CONCURRENT_READS)
            .try_collect()
            .await?;
    Ok(records.into_iter().flatten().collect())
}

/// The commit info of a commit. Only lines that may be it are parsed: the others can be many.
fn commit_info(bytes: &[u8]) -> serde_json::Result<Map<String, Json>> {
    let key = br#""commitInfo""#;
    for line in bytes.split(|b| *b == b'\n').filter(|line| line.windows(key.len()).any(|w| w == key)) {
        if let Json::Object(mut action) = serde_json::from_slice(line)?
            && let Some(Json::Object(info)) = action.remove("commitInfo")
        {
            return Ok(info);
        }
    }
    Ok(Map::new())
}

/// How many commits are looked at for [`last_applied`], and how much of each: its first line is its commit info, if it is ours.
const LOOKED_AT: usize = 8;
const FIRST_LINE: u64 = 16 << 10;

/// What the last commit up to a version applied, our own maintenance passed over.
pub(crate) async fn last_applied(location: &Location, version: u64) -> Result<Option<String>> {
    for version in (0..=version).rev().take(LOOKED_AT) {
        let Some(info) = first_line(location, version).await? else { return Ok(None) };
        let text = |key: &str| info.get(key).and_then(Json::as_str);
        let ours = text("engineInfo").is_some_and(|engine| engine.starts_with("duckrun/"));
        match text("operation") {
            _ if !ours => return Ok(None),
            Some("OPTIMIZE" | "VACUUM START" | "VACUUM END") => {}
            _ => return Ok(text(APPLIED).map(str::to_owned)),
        }
    }
    Ok(None)
}

/// The commit info of a version, if it stands in a first line of usual length.
async fn first_line(location: &Location, version: u64) -> Result<Option<Map<String, Json>>> {
    let path = commit_path(version);
    let options = GetOptions { range: Some(GetRange::Bounded(0..FIRST_LINE)), ..GetOptions::default() };
    let doing = || format!("read version {version} of {location}");
    let bytes = match location.store().get_opts(&path, options).await {
        Ok(object) => object.bytes().await.map_err(|e| store_error(e, doing()))?,
        Err(object_store::Error::NotFound { .. }) => return Ok(None),
        Err(e) => return Err(store_error(e, doing())),
    };
    let line = bytes.iter().position(|b| *b == b'\n').map(|end| &bytes[..end]);
    Ok(line.and_then(|line| commit_info(line).ok()))
}

/// The newest version committed at or before a time; `None` where there is no table.
pub(crate) async fn version_at(location: &Location, time: DateTime<Utc>) -> Result<Option<u64>> {
    let listing = list(location, None).await?;
    if listing.is_empty() {
        return Ok(None);
    }
    let times = listing.times();
    let first = times.values().next().copied();
    let found =
        times.iter().filter(|(v, t)| **t <= time && !listing.is_before_oldest(**v)).map(|(v, _)| *v).next_back();
    found.map(Some).ok_or_else(|| {
        let since = first.map_or_else(String::new, |t| format!("; the oldest is of {t}"));
        Error::new(ErrorKind::NotFound, format!("{location} has no version of {time} or before{since}"))
    })
}
