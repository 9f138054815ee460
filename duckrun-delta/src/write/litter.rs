//! What a write has created so far, and how it disappears when the write does not succeed.
//!
//! The invariant: a file is created only while the lock of its [`Litter`] is held and the write has not been given up, so
//! that a blocking task that outlives a dropped future cannot leave one behind.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use object_store::path::Path as ObjectPath;
use object_store::{ObjectStore, ObjectStoreExt};

/// The files of one write. Cloned into the tasks that create them; swept by [`Sweep`].
#[derive(Debug, Clone)]
pub(crate) struct Litter(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    /// Set once the write is given up or failed: nothing is encoded or created any more.
    stopped: AtomicBool,
    made: Mutex<Made>,
}

#[derive(Debug, Default)]
struct Made {
    files: Vec<PathBuf>,
    /// Folders that were created, parents first.
    folders: Vec<PathBuf>,
    objects: Vec<ObjectPath>,
}

impl Litter {
    pub(crate) fn new() -> Self {
        Self(Arc::new(Inner { stopped: AtomicBool::new(false), made: Mutex::default() }))
    }

    pub(crate) fn stopped(&self) -> bool {
        self.0.stopped.load(Ordering::Relaxed)
    }

    fn made(&self) -> MutexGuard<'_, Made> {
        self.0.made.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Creates a new file below `root`, with the folders that it needs.
    pub(crate) fn create(&self, root: &Path, relative: &str) -> io::Result<File> {
        let path = root.join(relative);
        let mut made = self.made();
        if self.stopped() {
            return Err(io::Error::new(io::ErrorKind::Interrupted, "the write was given up"));
        }
        let open = || File::options().write(true).create_new(true).open(&path);
        let file = match open() {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                create_folders(path.parent().unwrap_or(root), &mut made.folders)?;
                open()?
            }
            other => other?,
        };
        made.files.push(path);
        Ok(file)
    }

    /// Registers an object before its upload begins.
    pub(crate) fn register(&self, object: ObjectPath) {
        self.made().objects.push(object);
    }

    /// Every folder whose entries changed: those of the files, and the parents of those that were created.
    pub(crate) fn changed_folders(&self) -> Vec<PathBuf> {
        let made = self.made();
        let mut folders: Vec<PathBuf> =
            made.files.iter().chain(&made.folders).filter_map(|p| p.parent()).map(Path::to_owned).collect();
        folders.sort();
        folders.dedup();
        folders
    }

    /// Removes everything local at once and returns the objects that are to be removed.
    fn sweep(&self) -> Vec<ObjectPath> {
        self.0.stopped.store(true, Ordering::Relaxed);
        let mut made = self.made();
        for file in made.files.drain(..) {
            let _ = fs::remove_file(file);
        }
        // Only empty folders go: another writer may have put a file into one of ours.
        for folder in made.folders.drain(..).rev() {
            let _ = fs::remove_dir(folder);
        }
        std::mem::take(&mut made.objects)
    }
}

fn create_folders(folder: &Path, created: &mut Vec<PathBuf>) -> io::Result<()> {
    let mut missing: Vec<&Path> = folder.ancestors().take_while(|p| !p.as_os_str().is_empty() && !p.exists()).collect();
    missing.reverse();
    for path in missing {
        match fs::create_dir(path) {
            Ok(()) => created.push(path.to_owned()),
            // Somebody else was faster.
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

/// Sweeps on drop, unless the write succeeded.
#[derive(Debug)]
pub(crate) struct Sweep {
    litter: Litter,
    store: Arc<dyn ObjectStore>,
    armed: bool,
}

impl Sweep {
    pub(crate) fn new(litter: Litter, store: Arc<dyn ObjectStore>) -> Self {
        Self { litter, store, armed: true }
    }

    /// Keeps everything: the write succeeded.
    pub(crate) fn keep(mut self) {
        self.armed = false;
    }

    /// Removes everything and waits for it: the write failed.
    pub(crate) async fn now(mut self) {
        self.armed = false;
        remove(&self.store, self.litter.sweep()).await;
    }
}

impl Drop for Sweep {
    fn drop(&mut self) {
        if !self.armed {
            return;
        }
        let objects = self.litter.sweep();
        if objects.is_empty() {
            return;
        }
        let store = Arc::clone(&self.store);
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn(async move { remove(&store, objects).await })),
            Err(_) => tracing::warn!(files = objects.len(), "no runtime to remove unfinished files with; vacuum will"),
        }
    }
}

async fn remove(store: &Arc<dyn ObjectStore>, objects: Vec<ObjectPath>) {
    for object in objects {
        match store.delete(&object).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => {}
            Err(error) => tracing::warn!(%object, %error, "an unfinished file could not be removed; vacuum will"),
        }
    }
}
