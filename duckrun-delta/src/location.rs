//! Where a table is, and the store that serves it: one object for reading, writing and the log.

use std::fmt;
use std::path::{Path as FsPath, PathBuf};
use std::sync::Arc;

use deltalake::logstore::{LogStoreRef, StorageConfig, default_logstore};
use duckrun_core::{Error, Result};
use object_store::ObjectStore;
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::prefix::PrefixStore;
use url::Url;

/// A table's folder in a store.
#[derive(Clone)]
pub struct Location {
    url: Url,
    display: String,
    store: Arc<dyn ObjectStore>,
    local: Option<PathBuf>,
    log: LogStoreRef,
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
        // Credentials in a URL would travel with it into every message.
        let _ = url.set_password(None);
        let _ = url.set_username("");
        url.set_query(None);
        if !url.path().ends_with('/') {
            url.set_path(&format!("{}/", url.path()));
        }
        let display = url.to_string();
        Ok(Self::build(url, display, root, prefix.clone(), None))
    }

    fn build(url: Url, display: String, root: Arc<dyn ObjectStore>, prefix: Path, local: Option<PathBuf>) -> Self {
        let store: Arc<dyn ObjectStore> = Arc::new(PrefixStore::new(root.clone(), prefix));
        let log = default_logstore(store.clone(), root, &url, &StorageConfig::default());
        Self { url, display, store, local, log }
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
