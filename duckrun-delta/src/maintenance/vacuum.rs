//! Vacuum: deleting files that no version within the retention needs.
//!
//! A file stays if any of these holds; everything else that is old enough goes:
//! - it is live, or holds the deletion vector of a live file;
//! - it was removed within the retention: by the time in its tombstone, or by the store's time of the commit that removed it, so
//!   that a writer whose clock was slow cannot make it look old;
//! - the store wrote it within the retention: a run in flight may be about to commit it (such runs refuse to commit files older
//!   than that);
//! - it is hidden: the log, and every folder or file whose name begins with `_` or `.` and is no partition's; but for change files,
//!   and for what a local commit was writing when its process died.
//!
//! Change files are in no snapshot and have no tombstones: they stay while a commit within the retention names them.
//!
//! What is listed is listed before the log is read, and what was committed while the start was marked is looked at once more, so
//! a file that is committed meanwhile is seen as live.

use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use chrono::{DateTime, Utc};
use duckrun_core::maintenance::{Action, Applied, MaintenanceOptions};
use duckrun_core::{At, Error, ErrorKind, Result, RunContext, Snapshot as _};
use futures::{StreamExt, TryStreamExt};
use object_store::ObjectStore;
use object_store::path::Path;

use super::properties::Properties;
use super::replay::{object_path, replay};
use super::stats::horizon;
use super::{clock, delete};
use crate::changes::CHANGE_DATA;
use crate::commit::{Kept, Since, Upkeep, unfinished_version, upkeep};
use crate::deletion_vector::Descriptor;
use crate::error::store_error;
use crate::history;
use crate::location::Location;
use crate::protocol::CHANGE_FEED;
use crate::snapshot::DeltaSnapshot;

/// The shortest retention without the unsafe switch.
const SAFE_RETENTION: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// Commits read at a time.
const CONCURRENT_READS: usize = 16;

/// What a vacuum would delete, or is about to.
#[non_exhaustive]
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct VacuumPlan {
    /// The version whose files were spared.
    pub version: u64,
    /// The files, by their paths below the table, with their sizes in bytes (0 where neither log nor store tells).
    pub files: Vec<(String, u64)>,
}

impl VacuumPlan {
    /// Bytes of all files.
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|(_, size)| size).sum()
    }
}

/// Refuses a retention that is too short.
pub(super) fn check_retention(properties: &Properties, asked: Duration, options: &MaintenanceOptions) -> Result<()> {
    let least = properties.deleted_file_retention.max(SAFE_RETENTION);
    if asked < least && !options.unsafe_retention {
        return Err(Error::invalid(format!(
            "a retention of {} hours is below the {} hours that are safe for this table; MaintenanceOptions::unsafe_retention \
             allows it, at the risk of runs in flight and readers of older versions",
            asked.as_secs() / 3600,
            least.as_secs() / 3600
        )));
    }
    Ok(())
}

/// What is to be deleted. Writes nothing.
pub(super) async fn plan(
    cx: &RunContext,
    location: &Location,
    options: &MaintenanceOptions,
    asked: Duration,
    full: bool,
) -> Result<(VacuumPlan, DeltaSnapshot)> {
    let open = || DeltaSnapshot::open(location, At::Latest);
    let missing = || Error::new(ErrorKind::NotFound, format!("there is no table at {location}"));
    let first = open().await?.ok_or_else(missing)?;
    check_retention(&Properties::of(first.metadata())?, asked, options)?;
    clock::newest_commit(cx, location, &first).await?;
    let horizon = horizon(cx.now(), asked);
    let below = match (full, first.metadata().flag(CHANGE_FEED)) {
        (true, _) => Some(None),
        // No tombstone says which change files there were.
        (false, true) => Some(Some(Path::from(CHANGE_DATA))),
        (false, false) => None,
    };
    let listed = match below {
        Some(folder) => old_files(cx, location, &first, horizon, folder.as_ref()).await?,
        None => BTreeMap::new(),
    };

    // Only now the log, so that whatever was committed while the listing went on is known.
    let snapshot = open().await?.ok_or_else(missing)?;
    snapshot.protocol().check_rewritable()?;
    let state = replay(&snapshot).await?;
    let live = snapshot.live_files().await?;
    let bytes = (live.iter().map(|f| f.size).sum::<u64>(), state.live.iter().map(|f| f.size).sum::<u64>());
    if live.len() != state.live.len() || bytes.0 != bytes.1 {
        return Err(Error::internal("two readings of the log differ about the live files; nothing is deleted"));
    }
    let mut spared = Spared::default();
    for file in &live {
        if !spared.file(&file.path)? {
            return Err(Error::unsupported(format!(
                "the log names the file {:?} outside the table (a shallow clone?); such tables are not vacuumed",
                file.path
            )));
        }
        spared.vector(file.deletion_vector.as_ref())?;
    }
    let since = horizon.timestamp_millis();
    for tombstone in state.tombstones.iter().filter(|t| t.removed_at > since) {
        spared.file(&tombstone.path)?;
        spared.vector(tombstone.vector.as_ref())?;
    }
    for commit in recent_commits(location, snapshot.version(), horizon).await? {
        for path in commit.removed.iter().chain(&commit.added) {
            spared.file(path)?;
        }
        for vector in &commit.vectors {
            spared.vector(serde_json::from_value(vector.clone()).ok().as_ref())?;
        }
    }

    // A listing knows which files are there; without one the log's tombstones say which there were.
    let mut doomed = listed;
    for tombstone in state.tombstones.iter().filter(|t| !full && t.removed_at <= since) {
        // Those of a shallow clone are somebody else's.
        if let Some(path) = object_path(&tombstone.path)? {
            doomed.insert(path, tombstone.size);
        }
        if let Some(path) = tombstone.vector.as_ref().map(Descriptor::file).transpose()?.flatten() {
            doomed.insert(path, 0);
        }
    }
    doomed.retain(|path, _| !spared.0.contains(path));
    let files = doomed.into_iter().map(|(path, size)| (path.to_string(), size)).collect();
    Ok((VacuumPlan { version: snapshot.version(), files }, snapshot))
}

/// Files that stay.
#[derive(Debug, Default)]
struct Spared(HashSet<Path>);

impl Spared {
    /// Whether it is below the table.
    fn file(&mut self, logged: &str) -> Result<bool> {
        let path = object_path(logged)?;
        let inside = path.is_some();
        self.0.extend(path);
        Ok(inside)
    }

    fn vector(&mut self, vector: Option<&Descriptor>) -> Result<()> {
        self.0.extend(vector.map(Descriptor::file).transpose()?.flatten());
        Ok(())
    }
}

/// Files that are not hidden, and unfinished commits, that the store wrote before the horizon; all, or those of one folder.
async fn old_files(
    cx: &RunContext,
    location: &Location,
    snapshot: &DeltaSnapshot,
    horizon: DateTime<Utc>,
    folder: Option<&Path>,
) -> Result<BTreeMap<Path, u64>> {
    let mapped = snapshot.metadata().column_mapping();
    let partitions: Vec<&str> = snapshot
        .delta_schema()
        .fields
        .iter()
        .filter(|f| snapshot.partition_columns().contains(&f.name))
        .map(|f| f.physical_name(mapped))
        .collect();
    let mut old = BTreeMap::new();
    let mut objects = location.store().list(folder);
    let doing = || format!("list the files of {location}");
    while let Some(object) = objects.try_next().await.map_err(|e| store_error(e, doing()))? {
        cx.check()?;
        let ours = is_unfinished_commit(&object.location) || !is_hidden(&object.location, &partitions);
        if object.last_modified <= horizon && ours {
            old.insert(object.location, object.size);
        }
    }
    Ok(old)
}

/// Whether a file is none of the table's data: by the protocol names that begin with `_` or `.` are ignored, but a partition
/// column may begin so too, and change files are the table's.
fn is_hidden(path: &Path, partitions: &[&str]) -> bool {
    let change_data = path.parts().nth(1).is_some() && path.parts().next().is_some_and(|p| p.as_ref() == CHANGE_DATA);
    path.parts().skip(usize::from(change_data)).any(|part| {
        let name = part.as_ref();
        let of_partition = || {
            name.split_once('=').is_some_and(|(column, _)| {
                let decoded = percent_encoding::percent_decode_str(column).decode_utf8_lossy();
                partitions.iter().any(|p| *p == decoded || *p == column)
            })
        };
        name.starts_with(['_', '.']) && !of_partition()
    })
}

/// Whether a file is what a local commit writes before it gets its name; a process that lives removes its own within moments.
fn is_unfinished_commit(path: &Path) -> bool {
    let parts: Vec<_> = path.parts().collect();
    let [folder, name] = parts.as_slice() else { return false };
    folder.as_ref() == history::LOG && unfinished_version(name.as_ref()).is_some()
}

/// Every commit that the store dates within the retention, as far as the log still has them.
async fn recent_commits(location: &Location, until: u64, horizon: DateTime<Utc>) -> Result<Vec<Since>> {
    let log = history::list(location, None).await?;
    // The first one of the retention and everything after it, whatever its date: a copied log has dates in any order.
    let Some(first) = log.commits.iter().find(|(_, time)| **time > horizon).map(|(version, _)| *version) else {
        return Ok(Vec::new());
    };
    futures::stream::iter(first..=until)
        .map(|version| read_commit(location.clone(), version))
        .buffered(CONCURRENT_READS)
        .try_collect()
        .await
}

async fn read_commit(location: Location, version: u64) -> Result<Since> {
    match history::read_commit(&location, version).await? {
        Some(bytes) => Since::parse(version, &bytes),
        None => Err(Error::corrupt(format!("version {version} is missing from the log; nothing is deleted"))),
    }
}

/// Deletes.
pub(super) async fn run(
    cx: &RunContext,
    location: &Location,
    options: &MaintenanceOptions,
    action: &Action,
    asked: Duration,
    full: bool,
) -> Result<Applied> {
    let (plan, snapshot) = plan(cx, location, options, asked, full).await?;
    clock::check(cx, location, &snapshot).await?;
    let mut applied = Applied::done(action.clone());
    let retention = Properties::of(snapshot.metadata())?.deleted_file_retention;
    let mut doomed: Vec<Path> = Vec::with_capacity(plan.files.len());
    if !plan.files.is_empty() {
        let parameters = BTreeMap::from([
            ("retentionCheckEnabled".to_owned(), (!options.unsafe_retention).to_string()),
            ("specifiedRetentionMillis".to_owned(), asked.as_millis().to_string()),
            ("defaultRetentionMillis".to_owned(), retention.as_millis().to_string()),
        ]);
        let metrics = BTreeMap::from([
            ("numFilesToDelete".to_owned(), plan.files.len().to_string()),
            ("sizeOfDataToDelete".to_owned(), plan.bytes().to_string()),
        ]);
        let started = mark(cx, &snapshot, options, "VACUUM START", parameters, metrics, None).await?;
        let mut committed = HashSet::new();
        for version in plan.version + 1..started {
            if let Some(bytes) = history::read_commit(location, version).await? {
                for path in Since::parse(version, &bytes)?.added {
                    committed.extend(object_path(&path)?);
                }
            }
        }
        for (path, _) in &plan.files {
            let path = Path::parse(path).map_err(|e| Error::internal("a listed file has no path").with_source(e))?;
            if !committed.contains(&path) {
                doomed.push(path);
            }
        }
    }
    let (gone, done) = delete::all(cx, location, &doomed).await;
    if doomed.len() == plan.files.len() {
        applied.bytes_removed = plan.bytes();
    }
    applied.files_removed = gone;
    let status = if done.is_ok() { "COMPLETED" } else { "FAILED" };
    let parameters = BTreeMap::from([("status".to_owned(), status.to_owned())]);
    let metrics = BTreeMap::from([
        ("numDeletedFiles".to_owned(), gone.to_string()),
        ("numVacuumedDirectories".to_owned(), "0".to_owned()),
    ]);
    let ended = done.is_ok().then(|| cx.now().timestamp_millis());
    let marked = mark(cx, &snapshot, options, "VACUUM END", parameters, metrics, ended).await;
    done?;
    applied.version = Some(marked?);
    Ok(applied)
}

/// Commits a marker.
async fn mark(
    cx: &RunContext,
    snapshot: &DeltaSnapshot,
    options: &MaintenanceOptions,
    operation: &'static str,
    parameters: BTreeMap<String, String>,
    metrics: BTreeMap<String, String>,
    vacuumed: Option<i64>,
) -> Result<u64> {
    let marker = Upkeep { operation, parameters, metrics, vacuumed, sync: options.files.sync, ..Upkeep::default() };
    // Each commit has an id of its own: a lost answer is settled by it.
    match upkeep(&cx.next_attempt(), snapshot.location(), snapshot, &marker).await? {
        Kept::Committed(version) => Ok(version),
        Kept::GivenUp(why) => Err(Error::new(ErrorKind::Unavailable, format!("the vacuum was not marked: {why}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unfinished_commits_are_known_by_their_names() {
        let of = |path: &str| is_unfinished_commit(&Path::parse(path).unwrap());
        let name = crate::commit::unfinished(7);
        assert!(of(&format!("_delta_log/{name}")), "{name}");
        for other in [format!("x/{name}"), format!("_delta_log/x/{name}"), "_delta_log/.7.tmp".into(), name] {
            assert!(!of(&other), "{other}");
        }
        for other in ["00000000000000000007.json", "_last_checkpoint", ".00000000000000000007.json.tmp"] {
            assert!(!of(&format!("_delta_log/{other}")), "{other}");
        }
    }

    #[test]
    fn hidden_names_stay_and_partitions_are_not_hidden() {
        let hidden = |path: &str| is_hidden(&Path::parse(path).unwrap(), &["_p", "a b"]);
        for path in [
            "_delta_log/x.json",
            "_change_data",
            "_change_data/.x",
            "p=1/_change_data/f",
            ".x",
            "p=1/.tmp",
            "a/_b/c",
            "_q=1/f",
        ] {
            assert!(hidden(path), "{path}");
        }
        for path in ["f.parquet", "_change_data/f", "_change_data/_p=1/f", "_p=1/f.parquet", "a%20b=1/f", "x/y_z"] {
            assert!(!hidden(path), "{path}");
        }
    }
}
