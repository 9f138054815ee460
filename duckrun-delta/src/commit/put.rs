//! Putting a commit into the log, and settling what became of it.

use std::io::Write as _;
use std::path::{Path as FsPath, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use deltalake::kernel::transaction::TransactionError;
use deltalake::logstore::CommitOrBytes;
use duckrun_core::{Error, ErrorKind, Result, RunContext};
use object_store::{Error as StoreError, ObjectStoreExt};

use super::render::Rendered;
use super::{Holder, holder};
use crate::error::{io_error, store_error};
use crate::history::{LOG, commit_path};
use crate::location::Location;
use crate::stores::WriterLock;

/// How often identical bytes are offered again while the answer is unknown, and the first pause between.
const REPEATS: u32 = 6;
const FIRST_PAUSE: Duration = Duration::from_millis(50);

/// What became of a commit at a version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    /// It is in the log.
    Committed,
    /// Somebody else has the version.
    Taken,
    /// Nobody can tell.
    Unknown,
}

/// The same, and what the commit says that has the version, where it was read.
pub(super) struct Settled {
    pub(super) fate: Fate,
    pub(super) taken: Option<Bytes>,
}

impl From<Fate> for Settled {
    fn from(fate: Fate) -> Self {
        Self { fate, taken: None }
    }
}

/// The answer to one put.
enum Answer {
    Created,
    Exists,
    /// Certainly not written, and never will be.
    Refused(Error),
    /// Perhaps written, perhaps still on its way.
    Lost(Error),
}

/// Puts the bytes at the version and finds out what became of them.
///
/// # Errors
/// Only for failures that are certain to have written nothing.
pub(super) async fn settle(
    cx: &RunContext,
    location: &Location,
    version: u64,
    rendered: &Rendered,
    sync: bool,
) -> Result<Settled> {
    let mut pause = FIRST_PAUSE;
    let mut lost = false;
    for attempt in 0..=REPEATS {
        if attempt > 0 {
            cx.clock().sleep(pause).await;
            pause *= 2;
        }
        match put(location, version, rendered.0.clone(), sync).await {
            Answer::Created => return Ok(Fate::Committed.into()),
            // Either somebody else was first, or it is our own put whose answer was lost, here or inside the store's client,
            // which repeats requests by itself. The id tells.
            Answer::Exists => match holder(location, version, cx.id()).await {
                Ok((Holder::Other, taken)) => return Ok(Settled { fate: Fate::Taken, taken }),
                // Some stores say so while another put of the object is under way (S3 answers 409), which can be one of ours that
                // was given up: nobody has the version yet, and it may still become ours.
                Ok((Holder::Nobody, _)) => {
                    tracing::warn!(
                        version,
                        attempt,
                        "the store says that a commit exists which is not there; offering it again"
                    );
                    lost = true;
                }
                // Ours. Its name may have been made by a put whose folder sync failed: it counts once that has been made good.
                Ok((Holder::Us, _)) => match resync(location, sync).await {
                    Ok(()) => return Ok(Fate::Committed.into()),
                    Err(e) => {
                        tracing::warn!(version, error = %e, "a commit is there, but not yet known to be on disk");
                        lost = true;
                    }
                },
                Err(e) => {
                    tracing::warn!(version, error = %e, "a commit that exists cannot be read yet");
                    lost = true;
                }
            },
            Answer::Refused(e) if !lost => return Err(e.with_operation("commit").with_version(version)),
            Answer::Refused(e) | Answer::Lost(e) => {
                tracing::warn!(version, attempt, error = %e, "the answer to a commit was lost; offering the same bytes again");
                lost = true;
            }
        }
    }
    // The put may still arrive later, so absence now proves nothing.
    Ok(match holder(location, version, cx.id()).await {
        Ok((Holder::Us, _)) if resync(location, sync).await.is_ok() => Fate::Committed.into(),
        Ok((Holder::Other, taken)) => Settled { fate: Fate::Taken, taken },
        _ => Fate::Unknown.into(),
    })
}

/// Syncs the folders of a local log once more.
async fn resync(location: &Location, sync: bool) -> Result<()> {
    let Some(folder) = location.local_path().filter(|_| sync) else { return Ok(()) };
    let folder = folder.to_owned();
    let synced = tokio::task::spawn_blocking(move || {
        let log = folder.join(LOG);
        [Some(log.as_path()), Some(folder.as_path()), folder.parent()].into_iter().flatten().try_for_each(sync_folder)
    });
    synced.await.map_err(|e| Error::internal("the commit's thread failed").with_source(e))?
}

fn sync_folder(folder: &FsPath) -> Result<()> {
    std::fs::File::open(folder)
        .and_then(|f| f.sync_all())
        .map_err(|e| io_error(e, format_args!("sync {}", folder.display())))
}

async fn put(location: &Location, version: u64, bytes: Bytes, sync: bool) -> Answer {
    match location.local_path() {
        Some(folder) => {
            let folder = folder.to_owned();
            match tokio::task::spawn_blocking(move || put_local(&folder, version, &bytes, sync)).await {
                Ok(answer) => answer,
                Err(e) => Answer::Lost(Error::internal("the commit's thread failed").with_source(e)),
            }
        }
        None => match location.guard().and_then(|guard| guard.lock()) {
            Some(lock) => put_locked(location, lock.as_ref(), version, bytes).await,
            None => match location.check_writable().await {
                Ok(()) => put_remote(location, version, bytes).await,
                Err(e) => Answer::Refused(e),
            },
        },
    }
}

/// Puts a commit under a lock, into a store that cannot refuse a second put by itself.
async fn put_locked(location: &Location, lock: &dyn WriterLock, version: u64, bytes: Bytes) -> Answer {
    let held = match lock.acquire(&location.to_string()).await {
        Ok(held) => held,
        Err(e) => return Answer::Refused(e),
    };
    let path = commit_path(version);
    let answer = match location.store().head(&path).await {
        Ok(_) => Answer::Exists,
        Err(StoreError::NotFound { .. }) if !held.is_held() => {
            Answer::Refused(Error::new(ErrorKind::Unavailable, format!("the writer lock of {location} was lost")))
        }
        Err(StoreError::NotFound { .. }) => match location.store().put(&path, bytes.into()).await {
            Ok(_) => Answer::Created,
            Err(e) => Answer::Lost(store_error(e, format_args!("write version {version} of {location}"))),
        },
        Err(e) => Answer::Refused(store_error(e, format_args!("look for version {version} of {location}"))),
    };
    held.release().await;
    answer
}

async fn put_remote(location: &Location, version: u64, bytes: Bytes) -> Answer {
    let entry = CommitOrBytes::LogBytes(bytes);
    match location.log().write_commit_entry(version, entry, uuid::Uuid::nil()).await {
        Ok(()) => Answer::Created,
        Err(TransactionError::VersionAlreadyExists(_)) => Answer::Exists,
        Err(TransactionError::ObjectStore { source }) => {
            let certain = matches!(
                source,
                StoreError::PermissionDenied { .. }
                    | StoreError::Unauthenticated { .. }
                    | StoreError::NotImplemented { .. }
                    | StoreError::NotSupported { .. }
                    | StoreError::InvalidPath { .. }
            );
            if matches!(source, StoreError::AlreadyExists { .. } | StoreError::Precondition { .. }) {
                return Answer::Exists;
            }
            let e = store_error(source, format_args!("write version {version} of {location}"));
            if certain { Answer::Refused(e) } else { Answer::Lost(e) }
        }
        Err(other) => Answer::Lost(
            Error::new(ErrorKind::Unavailable, format!("cannot write version {version} of {location}"))
                .with_source(other),
        ),
    }
}

/// A local commit: the bytes are complete and on disk before their name appears, by a hard link, which fails if it exists.
///
/// delta-rs does the same without the syncs (UPSTREAM: local commits are not fsynced).
fn put_local(table: &FsPath, version: u64, bytes: &[u8], sync: bool) -> Answer {
    let log = table.join(LOG);
    let target = log.join(commit_path(version).filename().unwrap_or_default());
    let refused =
        |e, what: &str, path: &FsPath| Answer::Refused(io_error(e, format_args!("{what} {}", path.display())));
    let fresh = !log.exists();
    if let Err(e) = std::fs::create_dir_all(&log) {
        return refused(e, "create the log folder", &log);
    }
    let temporary = Temporary(log.join(unfinished(version)));
    let written = std::fs::File::options().write(true).create_new(true).open(&temporary.0).and_then(|mut file| {
        file.write_all(bytes)?;
        if sync { file.sync_all() } else { Ok(()) }
    });
    if let Err(e) = written {
        return refused(e, "write", &target);
    }
    match std::fs::hard_link(&temporary.0, &target) {
        Ok(()) => {}
        Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => return Answer::Exists,
        Err(e) => return refused(e, "link", &target),
    }
    drop(temporary);
    if sync {
        let folders = [Some(log.as_path()), fresh.then_some(table), if fresh { table.parent() } else { None }];
        for folder in folders.into_iter().flatten() {
            if let Err(e) = sync_folder(folder) {
                return Answer::Lost(e);
            }
        }
    }
    Answer::Created
}

/// A fresh name for a commit that is being written: hidden, so that no reader lists it.
pub(crate) fn unfinished(version: u64) -> String {
    format!(".{version:020}.{}.tmp", uuid::Uuid::new_v4())
}

/// The version of an unfinished commit, by its name; `None` for every other name.
pub(crate) fn unfinished_version(name: &str) -> Option<u64> {
    let (version, id) = name.strip_prefix('.')?.strip_suffix(".tmp")?.split_once('.')?;
    let whole = version.len() == 20 && version.bytes().all(|b| b.is_ascii_digit()) && uuid::Uuid::parse_str(id).is_ok();
    whole.then(|| version.parse().ok())?
}

struct Temporary(PathBuf);

impl Drop for Temporary {
    fn drop(&mut self) {
        // What cannot be removed now has a hidden name that no reader lists, and is a full vacuum's.
        let _ = std::fs::remove_file(&self.0);
    }
}
