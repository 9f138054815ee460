//! Who may write a store: one that honours conditional puts, or whoever holds a lock.
//!
//! Invariant: no commit is put into the log of a store that is not local before [`Guard::check`] has said that it may.

use std::sync::{Arc, Mutex, PoisonError, Weak};

use duckrun_core::{Error, ErrorKind, Result};
use object_store::path::Path;
use object_store::{Error as StoreError, ObjectStore, ObjectStoreExt, PutMode, PutOptions};

use super::lock::WriterLock;

/// How often a store is asked whose answers contradict each other.
const PROBES: usize = 3;

/// Stores that were found to honour conditional puts. A weak reference keeps an address from being used again for another store,
/// and an entry goes with its store.
static HONOURING: Mutex<Vec<Weak<dyn ObjectStore>>> = Mutex::new(Vec::new());

/// What must hold before a table's log is written.
#[derive(Debug, Clone)]
pub(crate) struct Guard {
    /// The store as the caller made it: what is found out holds for all its tables.
    root: Arc<dyn ObjectStore>,
    prefix: Path,
    lock: Option<Arc<dyn WriterLock>>,
}

impl Guard {
    pub(crate) fn new(root: Arc<dyn ObjectStore>, prefix: Path) -> Self {
        Self { root, prefix, lock: None }
    }

    pub(crate) fn with_lock(mut self, lock: Arc<dyn WriterLock>) -> Self {
        self.lock = Some(lock);
        self
    }

    /// The store, and the table's path in it.
    pub(crate) fn place(&self) -> (Arc<dyn ObjectStore>, Path) {
        (self.root.clone(), self.prefix.clone())
    }

    /// The lock under which commits are put, where there is one.
    pub(crate) fn lock(&self) -> Option<&Arc<dyn WriterLock>> {
        self.lock.as_ref()
    }

    /// Finds out once per store whether a put that must create is refused where the object exists.
    ///
    /// Costs four requests for a small object beside the table's files, the first time.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`] for a store that does not honour it.
    pub(crate) async fn check(&self) -> Result<()> {
        if self.lock.is_some() || self.is_known() {
            return Ok(());
        }
        let mut honoured = None;
        for _ in 0..PROBES {
            let path = self.prefix.clone().join(format!("_duckrun_probe_{}", uuid::Uuid::new_v4().simple()));
            let answer = self.probe(&path).await;
            // What is left of a probe that failed half-way has a name that no reader and no vacuum takes for a data file.
            if let Err(e) = self.root.delete(&path).await {
                tracing::debug!(error = %e, "a probe's object stays");
            }
            honoured = answer?;
            if honoured.is_some() {
                break;
            }
        }
        if honoured.is_none() {
            let message = "the store contradicts itself about an object that nobody else knows, so it cannot be found out \
                           whether it honours conditional puts";
            return Err(Error::new(ErrorKind::Unavailable, message));
        }
        if honoured == Some(false) {
            return Err(Error::unsupported(
                "the store does not honour conditional puts (a second put that must create was accepted, or the store \
                 cannot make one), so two writers could overwrite each other's commits; supply a WriterLock, or turn \
                 conditional puts on (aws_conditional_put = etag)",
            ));
        }
        let mut known = HONOURING.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|store| store.strong_count() > 0);
        known.push(Arc::downgrade(&self.root));
        Ok(())
    }

    fn is_known(&self) -> bool {
        let known = HONOURING.lock().unwrap_or_else(PoisonError::into_inner);
        let here = Arc::as_ptr(&self.root).cast::<()>();
        known.iter().any(|store| store.as_ptr().cast::<()>() == here)
    }

    /// Puts an object that must not exist yet, twice. `None` where the answers contradict each other: a refusal that has no cause, or
    /// a body that is cut short, says nothing about what the store does as a rule.
    async fn probe(&self, path: &Path) -> Result<Option<bool>> {
        let create = |bytes: &'static str| {
            let options = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
            self.root.put_opts(path, bytes.into(), options)
        };
        let cannot = |e: StoreError| {
            let kind = match &e {
                StoreError::PermissionDenied { .. } | StoreError::Unauthenticated { .. } => ErrorKind::PermissionDenied,
                _ => ErrorKind::Unavailable,
            };
            Error::new(kind, "cannot find out whether the store honours conditional puts").with_source(e)
        };
        let created = match create("first").await {
            Ok(_) => true,
            // Exists: our own put, whose answer was lost on the way to the client, which repeated it.
            Err(StoreError::AlreadyExists { .. } | StoreError::Precondition { .. }) => false,
            Err(StoreError::NotImplemented { .. } | StoreError::NotSupported { .. }) => return Ok(Some(false)),
            Err(e) => return Err(cannot(e)),
        };
        match create("second").await {
            Err(StoreError::AlreadyExists { .. } | StoreError::Precondition { .. }) => {}
            Ok(_) => return Ok(created.then_some(false)),
            Err(StoreError::NotImplemented { .. } | StoreError::NotSupported { .. }) => return Ok(Some(false)),
            Err(e) => return Err(cannot(e)),
        }
        let held = self.root.get(path).await.map_err(cannot)?.bytes().await.map_err(cannot)?;
        Ok(match held.as_ref() {
            b"first" => Some(true),
            b"second" => Some(false),
            _ => None,
        })
    }
}
