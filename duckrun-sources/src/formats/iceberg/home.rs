//! Where a table's files are: on the local disk or in a store, below the folder that was opened.
//!
//! The paths in the metadata are absolute and begin with the table's location, which may be another than the folder that was
//! opened (a copy, a link, an injected store), so they are taken relative to it. Metadata must not make us read whatever it
//! likes: on the disk nothing outside of the table's folder is read, in a store nothing outside of that store or the root.

use std::fs;
use std::path::{Component, Path as FsPath, PathBuf};
use std::sync::Arc;

use duckrun_core::object_store::path::Path;
use duckrun_core::object_store::{ObjectStore, ObjectStoreExt};
use duckrun_core::{Error, ErrorKind, Result, TableOpener};
use url::Url;

use crate::place::{Place, StoreChoice, is_url, split};
use crate::stores;

/// The end of the name of every metadata file.
pub(super) const METADATA: &str = ".metadata.json";

/// The folder of a table.
#[derive(Clone)]
pub(super) enum Folder {
    /// On the local disk.
    Disk(PathBuf),
    /// In a store.
    Store(Remote),
}

/// A folder in a store.
#[derive(Clone)]
pub(super) struct Remote {
    pub(super) store: Arc<dyn ObjectStore>,
    /// The folder's path in the store.
    path: Path,
    /// The folder as the user called it.
    place: Place,
    /// What may not be left, where the user said so.
    root: Option<Place>,
}

/// A file of a table.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum TableFile {
    /// On the local disk.
    Disk(PathBuf),
    /// In the table's store.
    Store(Path),
}

impl Folder {
    /// The folder at a location, and the metadata file if the location names one.
    pub(super) async fn open(
        location: &FsPath,
        choice: &StoreChoice,
        root: Option<&Place>,
        tables: Option<&dyn TableOpener>,
    ) -> Result<(Self, Option<TableFile>)> {
        if choice.store.is_none() && !is_url(location) {
            let location = location.to_owned();
            return blocking(move || on_disk(&location)).await;
        }
        let place = Place::parse(location, None)?;
        let named = place.to_string().ends_with(METADATA);
        if named && place.parts().len() < 2 {
            return Err(Error::invalid(format!("{place} is not in the folder metadata of a table")));
        }
        // The store is opened at the folder: a URL may name it in another way than its paths do.
        let folder = place.above(if named { 2 } else { 0 });
        let opened = choice.open(tables, &folder)?;
        let below = place.parts()[folder.parts().len()..].join("/");
        let file = named.then(|| child(&opened.path, &below)).transpose()?;
        let remote = Remote { store: opened.store, path: opened.path, place: folder, root: root.cloned() };
        Ok((Self::Store(remote), file.map(TableFile::Store)))
    }

    /// The whole of a file.
    pub(super) async fn read(&self, file: &TableFile) -> Result<Vec<u8>> {
        match (self, file) {
            (Self::Store(remote), TableFile::Store(path)) => {
                let read = async { remote.store.get(path).await?.bytes().await };
                read.await.map(Into::into).map_err(|e| stores::unreadable(&self.called(file), e))
            }
            (_, TableFile::Disk(path)) => {
                let path = path.clone();
                blocking(move || fs::read(&path).map_err(|e| unreadable(&path, e))).await
            }
            (Self::Disk(_), TableFile::Store(_)) => Err(Error::internal("a local table has no files in a store")),
        }
    }

    /// The names in the folder `metadata`.
    pub(super) async fn metadata_names(&self) -> Result<Vec<String>> {
        match self {
            Self::Disk(folder) => {
                let folder = folder.join("metadata");
                let names = move || -> Result<Vec<String>> {
                    let failed = |e| unreadable(&folder, e);
                    let entries = fs::read_dir(&folder).map_err(failed)?;
                    entries.map(|entry| Ok(entry.map_err(failed)?.file_name().to_string_lossy().into_owned())).collect()
                };
                blocking(names).await
            }
            Self::Store(remote) => {
                let folder = child(&remote.path, "metadata")?;
                let listed = remote.store.list_with_delimiter(Some(&folder)).await;
                let listed = listed.map_err(|e| stores::unreadable(&remote.place.name("metadata"), e))?;
                Ok(listed.objects.iter().filter_map(|o| o.location.filename().map(str::to_owned)).collect())
            }
        }
    }

    /// A file in the folder `metadata`.
    pub(super) fn metadata_file(&self, name: &str) -> Result<TableFile> {
        match self {
            Self::Disk(folder) => Ok(TableFile::Disk(folder.join("metadata").join(name))),
            Self::Store(remote) => child(&remote.path, &format!("metadata/{name}")).map(TableFile::Store),
        }
    }

    /// What messages call a file of it.
    pub(super) fn called(&self, file: &TableFile) -> String {
        match (self, file) {
            (_, TableFile::Disk(path)) => path.display().to_string(),
            (Self::Store(remote), TableFile::Store(path)) => match path.prefix_match(&remote.path) {
                Some(below) => {
                    remote.place.name(&below.map(|part| part.as_ref().to_owned()).collect::<Vec<_>>().join("/"))
                }
                None => path.to_string(),
            },
            (Self::Disk(_), TableFile::Store(path)) => path.to_string(),
        }
    }
}

impl std::fmt::Display for Folder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Disk(folder) => write!(f, "{}", folder.display()),
            Self::Store(remote) => write!(f, "{}", remote.place),
        }
    }
}

/// A table's folder, and the location with which the paths in its metadata begin.
#[derive(Clone)]
pub(super) struct Home {
    pub(super) folder: Folder,
    pub(super) location: String,
}

impl Home {
    /// A path of the metadata as a file of the table.
    ///
    /// # Errors
    /// For a path outside of the table's folder, and of its store and root.
    pub(super) fn resolve(&self, path: &str) -> Result<TableFile> {
        let outside = |what: &str| {
            Error::unsupported(format!(
                "the Iceberg metadata names {path}, which is not below the table's location {}{what}",
                self.location
            ))
        };
        let (location, named) = (plain(&self.location), plain(path));
        let below = named.strip_prefix(location.trim_end_matches('/')).and_then(|below| below.strip_prefix('/'));
        match &self.folder {
            Folder::Disk(folder) => {
                let below = below.filter(|b| FsPath::new(b).components().all(|c| matches!(c, Component::Normal(_))));
                let below =
                    below.ok_or_else(|| outside(": only tables whose files are in their own folder are read"))?;
                Ok(TableFile::Disk(folder.join(below)))
            }
            Folder::Store(remote) => {
                let (folder, place, below) = match below {
                    Some(below) => (remote.path.clone(), remote.place.clone(), below),
                    None => match split(&named) {
                        Some((base, key)) if remote.is_rooted_at_its_store() && base == plain(remote.place.base()) => {
                            (Path::default(), remote.place.above(usize::MAX), key.trim_start_matches('/'))
                        }
                        _ => return Err(outside(&format!(" and not in the store of {}", remote.place))),
                    },
                };
                // Refuses `.`, `..` and empty parts, which would name something else than they seem to.
                let path = child(&folder, below).map_err(|_| outside(", and no path of a store"))?;
                match &remote.root {
                    Some(root) if !place.below(below.split('/')).is_below(root) => {
                        Err(outside(&format!(", and outside of the root {root}")))
                    }
                    _ => Ok(TableFile::Store(path)),
                }
            }
        }
    }

    /// What the engine is told of a data file: its path, and a URL of it.
    pub(super) fn address(&self, named: &str, file: &TableFile) -> Result<(String, Url)> {
        match file {
            TableFile::Disk(path) => {
                let url = Url::from_file_path(path).map_err(|()| Error::internal("an absolute path that is no URL"))?;
                Ok((named.to_owned(), url))
            }
            TableFile::Store(path) => {
                // Engines decode what table formats have encoded; a key of Iceberg's is meant to the letter.
                let encoded = path.as_ref().replace('%', "%25");
                let called = self.folder.called(file).replace('%', "%25");
                let url = Url::parse(&called).or_else(|_| Url::parse(&format!("store:/{encoded}")));
                Ok((encoded, url.map_err(|e| Error::corrupt(format!("{named} is no path: {e}")))?))
            }
        }
    }
}

impl Remote {
    /// Whether the key of a URL of this store is its path, so that URLs of other folders can be understood.
    fn is_rooted_at_its_store(&self) -> bool {
        !self.place.base().is_empty() && self.path.as_ref() == self.place.parts().join("/")
    }
}

/// A key below a folder of a store, to the letter: nothing in it is encoded.
fn child(folder: &Path, below: &str) -> Result<Path> {
    let key = if folder.as_ref().is_empty() { below.to_owned() } else { format!("{folder}/{below}") };
    Path::parse(&key).map_err(|e| Error::corrupt(format!("{key:?} is no path of a store")).with_source(e))
}

/// `file:///a`, `file:/a` and `/a` are one path; `s3a://` and `s3n://` are other names of `s3://`.
fn plain(path: &str) -> String {
    if let Some(path) = path.strip_prefix("file://").or(path.strip_prefix("file:")) {
        return path.to_owned();
    }
    match path.strip_prefix("s3a://").or(path.strip_prefix("s3n://")) {
        Some(rest) => format!("s3://{rest}"),
        None => path.to_owned(),
    }
}

/// It blocks.
fn on_disk(location: &FsPath) -> Result<(Folder, Option<TableFile>)> {
    let location = fs::canonicalize(location).map_err(|e| unreadable(location, e))?;
    if location.is_dir() {
        return Ok((Folder::Disk(location), None));
    }
    let folder = location
        .parent()
        .and_then(FsPath::parent)
        .ok_or_else(|| Error::invalid(format!("{} is not in the folder metadata of a table", location.display())))?;
    Ok((Folder::Disk(folder.to_owned()), Some(TableFile::Disk(location))))
}

/// Runs what blocks, or computes for long, where that is allowed.
pub(super) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|e| Error::internal("reading Iceberg metadata panicked").with_source(e))?
}

/// A failure of the file system.
pub(super) fn unreadable(path: &FsPath, e: std::io::Error) -> Error {
    let kind = match e.kind() {
        std::io::ErrorKind::NotFound => ErrorKind::NotFound,
        std::io::ErrorKind::PermissionDenied => ErrorKind::PermissionDenied,
        _ => ErrorKind::Unavailable,
    };
    Error::new(kind, format!("{} of an Iceberg table cannot be read: {e}", path.display())).with_source(e)
}
