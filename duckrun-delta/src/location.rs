//! Where a table is, and the store that serves it: one object for reading, writing and the log.

use std::fmt;
use std::path::{Path as FsPath, PathBuf};
use std::sync::Arc;

use deltalake::logstore::{LogStoreRef, StorageConfig, default_logstore};
use duckrun_core::{Clock, Error, Result, StorageOptions, SystemClock};
use object_store::ObjectStore;
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::prefix::PrefixStore;
use url::Url;

use crate::stores::guard::Guard;
use crate::stores::{Steady, StoreRoot, WriterLock};

/// A table's folder in a store.
#[derive(Clone)]
pub struct Location {
    url: Url,
    display: String,
    store: Arc<dyn ObjectStore>,
    local: Option<PathBuf>,
    log: LogStoreRef,
    /// What must hold before the log is written; nothing where it is local.
    guard: Option<Guard>,
    /// By which pauses are made, and by which the age of snapshots is told.
    clock: Arc<dyn Clock>,
}

impl Location {
    /// A folder of the local file system. It need not exist yet; nothing is created here.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidInput`](duckrun_core::ErrorKind::InvalidInput) for a path that cannot be made absolute or is not UTF-8.
    pub fn local(path: impl AsRef<FsPath>) -> Result<Self> {
        let path = std::path::absolute(path.as_ref())
            .map_err(|e| Error::invalid(format!("{} is not a usable path", path.as_ref().display())).with_source(e))?;
        // Links are resolved as far as the path exists, so that one table has one name.
        let path = resolve(&path);
        let bad = || Error::invalid(format!("{} cannot be the folder of a table", path.display()));
        if path.to_str().is_none() {
            return Err(bad());
        }
        let url = Url::from_directory_path(&path).map_err(|()| bad())?;
        let prefix = Path::from_absolute_path(&path).map_err(|e| bad().with_source(e))?;
        let root: Arc<dyn ObjectStore> = Arc::new(LocalFileSystem::new());
        Ok(Self::build(url, path.display().to_string(), root, prefix, Some(path)))
    }

    /// A folder of a store that the caller made: `url` is the table's, `root` serves the whole store, `prefix` is the table's
    /// path in it.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidInput`](duckrun_core::ErrorKind::InvalidInput) where the URL cannot be that of a folder.
    pub fn in_store(url: &Url, root: Arc<dyn ObjectStore>, prefix: &Path) -> Result<Self> {
        if url.cannot_be_a_base() {
            return Err(Error::invalid("the URL of a table must have a path"));
        }
        let mut url = url.clone();
        // Credentials in a URL would travel with it into every message. The user of an Azure URL is the container.
        let _ = url.set_password(None);
        if !matches!(url.scheme(), "abfs" | "abfss" | "az") {
            let _ = url.set_username("");
        }
        url.set_query(None);
        if !url.path().ends_with('/') {
            url.set_path(&format!("{}/", url.path()));
        }
        let display = url.to_string();
        Ok(Self::build(url, display, root, prefix.clone(), None))
    }

    /// A folder named by a URL: `file://`, or `s3://`, `az://`, `abfss://`, `gs://` with the cargo feature of the store.
    /// Nothing is read here; wrong credentials show when the table is opened.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidInput`](duckrun_core::ErrorKind::InvalidInput) for a URL or options that no store can be made of. The
    /// options' values are never part of the message.
    pub fn from_url(url: &str, options: &StorageOptions) -> Result<Self> {
        let parsed = Url::parse(url).map_err(|_| Error::invalid("the location is not a URL"))?;
        if parsed.scheme() == "file" {
            let path = parsed.to_file_path().map_err(|()| Error::invalid("the file:// URL is not a local path"))?;
            return Self::local(path);
        }
        Self::in_root(&StoreRoot::open(url, options)?)
    }

    /// The folder that a store was opened at.
    ///
    /// # Errors
    /// As [`in_store`](Self::in_store).
    pub fn in_root(root: &StoreRoot) -> Result<Self> {
        Self::in_store(root.url(), root.store().clone(), root.prefix())
    }

    /// Puts commits under a lock, for a store without conditional puts. See [`WriterLock`] for what that cannot promise.
    #[must_use]
    pub fn with_lock(mut self, lock: Arc<dyn WriterLock>) -> Self {
        self.guard = self.guard.map(|guard| guard.with_lock(lock));
        self
    }

    /// Another clock than the machine's: for the pauses between two tries of a request, where the store is not local, and for
    /// how long ago a snapshot was pinned.
    #[must_use]
    pub fn with_clock(self, clock: Arc<dyn Clock>) -> Self {
        match self.guard {
            Some(guard) => {
                let (root, prefix) = guard.place();
                Self { guard: Some(guard), ..Self::build_with(self.url, self.display, root, prefix, None, clock) }
            }
            None => Self { clock, ..self },
        }
    }

    pub(crate) fn clock(&self) -> &Arc<dyn Clock> {
        &self.clock
    }

    fn build(url: Url, display: String, root: Arc<dyn ObjectStore>, prefix: Path, local: Option<PathBuf>) -> Self {
        Self::build_with(url, display, root, prefix, local, Arc::new(SystemClock))
    }

    fn build_with(
        url: Url,
        display: String,
        root: Arc<dyn ObjectStore>,
        prefix: Path,
        local: Option<PathBuf>,
        clock: Arc<dyn Clock>,
    ) -> Self {
        // delta-rs looks for the log in the root store by the path of the URL it is given, which need not be the prefix: the URL of a
        // OneLake item or of a caller's own store may say more or less.
        let mut log_url = url.clone();
        if local.is_none()
            && let Ok(mut segments) = log_url.path_segments_mut()
        {
            let parts: Vec<String> = prefix.parts().map(|part| part.as_ref().to_owned()).collect();
            segments.clear().extend(parts).push("");
        }
        let guard = local.is_none().then(|| Guard::new(root.clone(), prefix.clone()));
        let root: Arc<dyn ObjectStore> =
            if local.is_some() { root } else { Arc::new(Steady::new(root).with_clock(clock.clone())) };
        let store: Arc<dyn ObjectStore> = Arc::new(PrefixStore::new(root.clone(), prefix));
        let log = default_logstore(store.clone(), root, &log_url, &StorageConfig::default());
        Self { url, display, store, local, log, guard, clock }
    }

    /// The table's URL, ending with a slash, without credentials.
    pub fn url(&self) -> &Url {
        &self.url
    }

    /// The store, rooted at the table.
    pub fn store(&self) -> &Arc<dyn ObjectStore> {
        &self.store
    }

    /// The table's folder, where it is local.
    pub fn local_path(&self) -> Option<&FsPath> {
        self.local.as_deref()
    }

    pub(crate) fn guard(&self) -> Option<&Guard> {
        self.guard.as_ref()
    }

    /// Refuses a store on which commits could overwrite each other; asked once per store.
    pub(crate) async fn check_writable(&self) -> Result<()> {
        match &self.guard {
            Some(guard) => guard.check().await,
            None => Ok(()),
        }
    }

    pub(crate) fn log(&self) -> &LogStoreRef {
        &self.log
    }

    pub(crate) fn display(&self) -> &str {
        &self.display
    }
}

/// The longest existing ancestor canonicalised, the rest appended.
fn resolve(path: &FsPath) -> PathBuf {
    for ancestor in path.ancestors() {
        if let (Ok(real), Ok(rest)) = (ancestor.canonicalize(), path.strip_prefix(ancestor)) {
            return if rest.as_os_str().is_empty() { real } else { real.join(rest) };
        }
    }
    path.to_owned()
}

impl fmt::Debug for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Location").field(&self.display).finish()
    }
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.display)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_become_locations_without_their_secrets() {
        let options = StorageOptions::default().with("aws_secret_access_key", "canary").with("aws_region", "x");
        for url in ["nope", "ftp://host/x", "s3://", "s3://bucket/t?sig=canary"] {
            match Location::from_url(url, &options) {
                Ok(location) => assert!(!format!("{location:?} {location}").contains("canary"), "{url}"),
                Err(e) => assert!(!format!("{e:?} {e}").contains("canary"), "{url}"),
            }
        }
        let folder = std::env::temp_dir();
        let url = Url::from_directory_path(&folder).unwrap();
        let local = Location::from_url(url.as_str(), &options).unwrap();
        assert!(local.local_path().is_some());
    }

    #[test]
    fn a_local_folder_has_one_name() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("x")).unwrap();
        let plain = Location::local(dir.path().join("a b")).unwrap();
        let odd = Location::local(dir.path().join("x/../a b")).unwrap();
        assert!(plain.url().as_str().ends_with("/a%20b/"), "{}", plain.url());
        assert_eq!(odd.local_path(), plain.local_path());
        let lost = Location::local(dir.path().join("missing/../a b"));
        assert!(lost.is_err(), "{lost:?}");
    }
}
