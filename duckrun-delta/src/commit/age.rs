//! How old a commit's files, and the snapshot that it was planned on, may be.
//!
//! A vacuum cannot tell the files of a run in flight from those of a crashed one; only their age is evidence. So a run that has
//! become old looks whether its files are still there, and one that is older than the retention does not commit at all. The
//! same holds for the log's entries after the version that it has read.

use std::time::Duration;

use chrono::{DateTime, Utc};
use duckrun_core::{Error, ErrorKind, Result, RunContext, Snapshot as _, StagedFile};
use futures::{StreamExt, TryStreamExt};
use object_store::ObjectStoreExt;

use crate::error::store_error;
use crate::history;
use crate::location::Location;
use crate::maintenance::{Properties, object_path};
use crate::snapshot::DeltaSnapshot;

/// Files looked for at a time.
const CONCURRENT_HEADS: usize = 16;

/// Tables with a retention of nothing exist (in tests of other writers); a run must be given the time to commit all the same.
const SHORTEST: Duration = Duration::from_secs(60 * 60);

/// Fails where files that are to be committed may have been vacuumed, or the log been cleaned up under the run's snapshot.
///
/// Costs nothing until the oldest file is older than half the retention of files, or the snapshot was pinned longer ago than half
/// the retention of the log.
///
/// # Errors
/// [`ErrorKind::Unavailable`]: running again reads again and writes new files.
pub(crate) async fn check(
    cx: &RunContext,
    location: &Location,
    at: Option<&DeltaSnapshot>,
    files: &[&StagedFile],
) -> Result<()> {
    // A property that cannot be understood keeps vacuums of ours from running, not writes.
    let properties = at.and_then(|at| Properties::of(at.metadata()).ok()).unwrap_or_default();
    if let Some(at) = at {
        check_snapshot(location, at, properties.log_retention.max(SHORTEST)).await?;
    }
    let Some(oldest) = files.iter().map(|f| f.modified).min().and_then(DateTime::<Utc>::from_timestamp_millis) else {
        return Ok(());
    };
    let age = (cx.now() - oldest).to_std().unwrap_or_default();
    let retention = properties.deleted_file_retention.max(SHORTEST);
    if age <= retention / 2 {
        return Ok(());
    }
    if age >= retention {
        return refused(format!(
            "the run's files are {} hours old, past the retention of {} hours, so a vacuum may have taken them",
            age.as_secs() / 3600,
            retention.as_secs() / 3600
        ));
    }
    let paths: Vec<String> = files.iter().map(|f| f.path.clone()).collect();
    let missing = futures::stream::iter(paths)
        .map(|path| absent(location.clone(), path))
        .buffer_unordered(CONCURRENT_HEADS)
        .try_filter_map(|missing| async move { Ok(missing) })
        .try_collect::<Vec<String>>()
        .await?;
    match missing.first() {
        Some(first) => refused(format!("{} of the run's files are gone, {first} among them", missing.len())),
        None => Ok(()),
    }
}

/// Fails where the log after the snapshot may be gone. Were it gone, the version after the snapshot's would look free, and a commit
/// would take it that no reader ever sees. The age of the files does not tell: they may have been written long after the pin, or
/// there are none.
async fn check_snapshot(location: &Location, at: &DeltaSnapshot, retention: Duration) -> Result<()> {
    let age = at.age();
    if age <= retention / 2 {
        return Ok(());
    }
    if age >= retention {
        return refused(format!(
            "version {} was read {} hours ago, past the retention of {} hours that the log has, so the entries after it may be gone",
            at.version(),
            age.as_secs() / 3600,
            retention.as_secs() / 3600
        ));
    }
    let log = history::list(location, Some(at.version())).await?;
    match log.commits.contains_key(&at.version()) {
        true => Ok(()),
        false => refused(format!("version {}, which the run has read, is no longer in the log", at.version())),
    }
}

fn refused(why: String) -> Result<()> {
    Err(Error::new(ErrorKind::Unavailable, format!("{why}; run again")).with_operation("commit"))
}

/// The path, if there is no such file.
async fn absent(location: Location, logged: String) -> Result<Option<String>> {
    let Some(path) = object_path(&logged)? else { return Ok(None) };
    match location.store().head(&path).await {
        Ok(_) => Ok(None),
        Err(object_store::Error::NotFound { .. }) => Ok(Some(logged)),
        Err(e) => Err(store_error(e, format_args!("look for {path}"))),
    }
}
