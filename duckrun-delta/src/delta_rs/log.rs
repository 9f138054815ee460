//! The log as delta-rs sees it: it ends at the pinned version, and the one commit that follows goes the way of our own.
//!
//! Two invariants:
//! - only the version after the pinned one can be taken, so that nothing delta-rs believes about later commits matters;
//! - what became of the commit is known here, whatever delta-rs makes of it: it reports failures that follow a commit as
//!   failures of the commit (UPSTREAM, delta-rs 1.1.3, `transaction/mod.rs`).

use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use deltalake::kernel::transaction::TransactionError;
use deltalake::logstore::{CommitOrBytes, LogStore, LogStoreConfig, LogStoreRef, StorageConfig, default_logstore};
use deltalake::{DeltaResult, ObjectStore};
use duckrun_core::{Error, Result, RunContext, RunId};
use serde_json::Value as Json;
use uuid::Uuid;

use super::meter::{Meter, MeteredStore};
use crate::commit::{Fate, settle_bytes};
use crate::location::Location;

/// What became of the commit.
#[derive(Debug)]
pub(super) enum Sent {
    /// Its fate, and its figures.
    Settled(Fate, Figures),
    /// It was refused before it was sent, or certainly not written.
    Refused(Error),
}

/// What a commit adds and removes.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Figures {
    pub(super) files_added: u64,
    pub(super) files_removed: u64,
    pub(super) bytes_added: u64,
    pub(super) bytes_removed: u64,
    change_files: u64,
}

/// The guarded log.
pub(super) struct GuardedLog {
    inner: LogStoreRef,
    cx: RunContext,
    location: Location,
    meter: Arc<Meter>,
    pinned: u64,
    sync: bool,
    change_feed: bool,
    sent: Mutex<Option<Sent>>,
    sending: Mutex<bool>,
}

impl GuardedLog {
    pub(super) fn new(
        cx: &RunContext,
        location: &Location,
        meter: &Arc<Meter>,
        pinned: u64,
        sync: bool,
        change_feed: bool,
    ) -> Arc<Self> {
        let metered = |store: Arc<dyn ObjectStore>, table| -> Arc<dyn ObjectStore> {
            Arc::new(MeteredStore::new(store, meter.clone(), table))
        };
        let log = location.log();
        let inner = default_logstore(
            metered(log.object_store(None), true),
            metered(log.root_object_store(None), false),
            location.url(),
            &StorageConfig::default(),
        );
        Arc::new(Self {
            inner,
            cx: cx.clone(),
            location: location.clone(),
            meter: meter.clone(),
            pinned,
            sync,
            change_feed,
            sent: Mutex::default(),
            sending: Mutex::default(),
        })
    }

    pub(super) fn run_id(&self) -> RunId {
        self.cx.id()
    }

    /// What became of the commit; `None` where none was tried. Asked once.
    pub(super) fn sent(&self) -> Option<Sent> {
        self.sent.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Whether the commit is on its way, so that stopping can no longer keep the table as it was.
    pub(super) fn is_sending(&self) -> bool {
        *self.sending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn send(&self, version: u64, bytes: Bytes) -> Result<(Fate, Figures)> {
        if version != self.pinned + 1 {
            return Err(Error::internal(format!("delta-rs offered version {version} after {}", self.pinned)));
        }
        let (figures, paths) = read_actions(&bytes)?;
        if self.change_feed && figures.files_added > 0 && figures.files_removed > 0 && figures.change_files == 0 {
            // delta-rs only logs it when an update's change files cannot be made (1.1.3, `operations/update.rs`).
            return Err(Error::internal(
                "delta-rs rewrote files of a table with a change feed without writing the changes",
            ));
        }
        if let Some(folder) = self.location.local_path().filter(|_| self.sync) {
            let folder = folder.to_owned();
            tokio::task::spawn_blocking(move || sync_files(&folder, &paths))
                .await
                .map_err(|e| Error::internal("syncing data files failed").with_source(e))??;
        }
        // The last point at which a stop keeps the table as it was.
        {
            let mut sending = self.sending.lock().unwrap_or_else(PoisonError::into_inner);
            if self.meter.is_stopped() {
                return Err(Error::cancelled());
            }
            *sending = true;
        }
        let fate = settle_bytes(&self.cx, &self.location, version, bytes, self.sync).await?;
        Ok((fate, figures))
    }

    /// Stops everything that delta-rs still does, unless the commit is on its way.
    pub(super) fn stop(&self) -> bool {
        let sending = self.sending.lock().unwrap_or_else(PoisonError::into_inner);
        if !*sending {
            self.meter.stop();
        }
        !*sending
    }
}

#[async_trait]
impl LogStore for GuardedLog {
    // This name makes delta-rs hand over the bytes of a commit instead of a temporary file.
    fn name(&self) -> String {
        self.inner.name()
    }

    async fn read_commit_entry(&self, version: u64) -> DeltaResult<Option<Bytes>> {
        self.inner.read_commit_entry(version).await
    }

    async fn write_commit_entry(
        &self,
        version: u64,
        entry: CommitOrBytes,
        _operation: Uuid,
    ) -> std::result::Result<(), TransactionError> {
        let done = match entry {
            CommitOrBytes::LogBytes(bytes) => self.send(version, bytes).await,
            CommitOrBytes::TmpCommit(_) => Err(Error::internal("delta-rs offered a temporary file as a commit")),
        };
        let (sent, answer) = match done {
            Ok((Fate::Committed, figures)) => (Sent::Settled(Fate::Committed, figures), Ok(())),
            Ok((fate, figures)) => (Sent::Settled(fate, figures), Err(TransactionError::VersionAlreadyExists(version))),
            Err(e) => {
                let source = e.to_string().into();
                let answer = TransactionError::LogStoreError { msg: "the commit was refused".to_owned(), source };
                (Sent::Refused(e), Err(answer))
            }
        };
        *self.sent.lock().unwrap_or_else(PoisonError::into_inner) = Some(sent);
        answer
    }

    async fn abort_commit_entry(
        &self,
        _version: u64,
        _entry: CommitOrBytes,
        _operation: Uuid,
    ) -> std::result::Result<(), TransactionError> {
        Ok(())
    }

    async fn get_latest_version(&self, start: u64) -> DeltaResult<u64> {
        // Whoever committed since is met when the commit is sent.
        Ok(start.max(self.pinned))
    }

    fn object_store(&self, operation: Option<Uuid>) -> Arc<dyn ObjectStore> {
        self.inner.object_store(operation)
    }

    fn root_object_store(&self, operation: Option<Uuid>) -> Arc<dyn ObjectStore> {
        self.inner.root_object_store(operation)
    }

    fn config(&self) -> &LogStoreConfig {
        self.inner.config()
    }
}

impl fmt::Debug for GuardedLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GuardedLog").field("location", &self.location).field("pinned", &self.pinned).finish()
    }
}

/// The figures of a commit, and the decoded paths of the files that it names as new.
fn read_actions(bytes: &[u8]) -> Result<(Figures, Vec<String>)> {
    let odd = || Error::internal("delta-rs made a commit that cannot be understood");
    let (mut figures, mut paths) = (Figures::default(), Vec::new());
    for line in bytes.split(|b| *b == b'\n').filter(|l| !l.is_empty()) {
        let action: Json = serde_json::from_slice(line).map_err(|e| odd().with_source(e))?;
        let size = |body: &Json| body["size"].as_u64().unwrap_or(0);
        if let Some(remove) = action.get("remove") {
            figures.files_removed += 1;
            figures.bytes_removed += size(remove);
        }
        for kind in ["add", "cdc"] {
            let Some(file) = action.get(kind) else { continue };
            if kind == "add" {
                figures.files_added += 1;
                figures.bytes_added += size(file);
            } else {
                figures.change_files += 1;
            }
            let path = file["path"].as_str().ok_or_else(odd)?;
            paths.push(percent_encoding::percent_decode_str(path).decode_utf8_lossy().into_owned());
        }
    }
    Ok((figures, paths))
}

/// delta-rs does not sync what it writes; a commit must not name a file that a power cut can take.
fn sync_files(table: &std::path::Path, paths: &[String]) -> Result<()> {
    let mut folders = std::collections::BTreeSet::<PathBuf>::new();
    let sync = |path: &std::path::Path| {
        std::fs::File::open(path)
            .and_then(|file| file.sync_all())
            .map_err(|e| crate::error::io_error(e, format_args!("sync {}", path.display())))
    };
    for path in paths {
        let path = table.join(path);
        sync(&path)?;
        folders.extend(path.ancestors().skip(1).take_while(|a| a.starts_with(table)).map(PathBuf::from));
    }
    folders.iter().try_for_each(|folder| sync(folder))
}
