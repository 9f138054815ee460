//! Listing on object stores: the same rules as on the local file system (`walk`), over keys instead of folders.
//!
//! Three invariants: what is listed is pinned with its size and its tag, so that a file that is replaced before it is read
//! is an error; a location with a root never leaves it; and a URL is a bucket and a key, to the letter (nothing in it is
//! percent-decoded), without credentials.

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::path::Path as FsPath;
use std::sync::Arc;

use duckrun_core::object_store::path::Path;
use duckrun_core::object_store::{Error as StoreError, ObjectMeta, ObjectStore, ObjectStoreExt};
use duckrun_core::{Error, ErrorKind, OpenedStore, Result, StoreFile, StoreFiles, TableOpener};
use futures::{StreamExt, TryStreamExt};

use crate::listing::examples;
use crate::location::has_glob_characters;
use crate::place::{Place, StoreChoice};
use crate::{ListedFile, Listing, Location, Shape, TableFolder};

/// Single objects that are asked for at a time.
pub(crate) const AT_ONCE: usize = 16;

/// The objects behind a listing.
pub(crate) struct Objects {
    store: Arc<dyn ObjectStore>,
    by_name: HashMap<String, StoreFile>,
    /// How the store was come by, and the root that is not left, for formats that open tables.
    pub(crate) choice: StoreChoice,
    pub(crate) root: Option<Place>,
}

impl Objects {
    pub(crate) fn store(&self) -> &Arc<dyn ObjectStore> {
        &self.store
    }

    pub(crate) fn get(&self, name: &str) -> Option<&StoreFile> {
        self.by_name.get(name)
    }

    /// Some of them, for an engine.
    pub(crate) fn files<'a>(&self, names: impl Iterator<Item = &'a str>) -> Result<StoreFiles> {
        let one = |name| self.get(name).cloned().ok_or_else(|| Error::internal("a listed file has no object"));
        Ok(StoreFiles { store: self.store.clone(), files: names.map(one).collect::<Result<_>>()? })
    }
}

impl fmt::Debug for Objects {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Objects").field("files", &self.by_name.len()).finish_non_exhaustive()
    }
}

/// What a listing needs besides its location.
pub(crate) struct StoreWalk<'a> {
    /// Opens stores by their URL; nothing outside of a run.
    pub(crate) tables: Option<&'a dyn TableOpener>,
    pub(crate) choice: &'a StoreChoice,
    pub(crate) root: Option<&'a Place>,
    /// Markers of table folders, as (format, pattern).
    pub(crate) markers: &'a [(String, String)],
    /// Asked again and again; its error ends the listing.
    pub(crate) check: &'a (dyn Fn() -> Result<()> + Send + Sync),
}

/// What is found, before it is a listing.
struct Found {
    store: Arc<dyn ObjectStore>,
    shape: Shape,
    location: String,
    files: Vec<StoreFile>,
    modified: Vec<Option<std::time::SystemTime>>,
    tables: Vec<TableFolder>,
}

impl Found {
    fn new(opened: &OpenedStore, shape: Shape, location: String) -> Self {
        let store = opened.store.clone();
        Self { store, shape, location, files: Vec::new(), modified: Vec::new(), tables: Vec::new() }
    }

    fn push(&mut self, name: String, meta: ObjectMeta) {
        self.modified.push(Some(meta.last_modified.into()));
        self.files.push(StoreFile { name, path: meta.location, size: meta.size, e_tag: meta.e_tag });
    }

    fn finish(self, choice: &StoreChoice, root: Option<&Place>) -> (Listing, Objects) {
        let listed = self.files.iter().zip(self.modified).map(|(file, modified)| {
            let mut listed = ListedFile::new(&file.name, file.size);
            listed.modified = modified;
            listed
        });
        let mut listing = Listing::new(self.shape, self.location).with_listed(listed);
        listing.tables = self.tables;
        listing.tables.sort();
        let by_name = self.files.iter().map(|f| (f.name.clone(), f.clone())).collect();
        (listing, Objects { store: self.store, by_name, choice: choice.clone(), root: root.cloned() })
    }
}

impl StoreWalk<'_> {
    /// Lists a location.
    pub(crate) async fn list(&self, location: &Location) -> Result<(Listing, Objects)> {
        let place = |path: &FsPath| Place::parse(path, self.root);
        let found = match location {
            Location::At(path) => self.at(&place(path)?).await?,
            Location::File(path) => self.file(&place(path)?).await?,
            Location::Folder(path) => {
                let place = place(path)?;
                let opened = self.open(&place)?;
                let folder = self.folder(&place, &opened).await?;
                folder.ok_or_else(|| {
                    Error::new(ErrorKind::NotFound, format!("the folder {place} holds no files to read"))
                })?
            }
            Location::Glob(path) => self.glob(&place(path)?).await?,
            Location::List(paths) => self.files(&paths.iter().map(|p| place(p)).collect::<Result<Vec<_>>>()?).await?,
        };
        Ok(found.finish(self.choice, self.root))
    }

    fn open(&self, place: &Place) -> Result<OpenedStore> {
        self.choice.open(self.tables, place)
    }

    async fn head(&self, opened: &OpenedStore, name: &str) -> Result<ObjectMeta> {
        (self.check)()?;
        opened.store.head(&opened.path).await.map_err(|e| unreadable(name, e))
    }

    async fn file(&self, place: &Place) -> Result<Found> {
        let opened = self.open(place)?;
        let meta = self.head(&opened, &place.to_string()).await?;
        let mut found = Found::new(&opened, Shape::File, place.to_string());
        found.push(place.to_string(), meta);
        Ok(found)
    }

    async fn at(&self, place: &Place) -> Result<Found> {
        let name = place.to_string();
        let opened = self.open(place)?;
        let head = match opened.path.parts().next() {
            Some(_) => self.head(&opened, &name).await,
            None => Err(Error::new(ErrorKind::NotFound, "the store itself is no file")),
        };
        match head {
            // A folder of a store with real folders answers too.
            Ok(meta) if meta.size > 0 => {
                let mut found = Found::new(&opened, Shape::File, name.clone());
                found.push(name, meta);
                return Ok(found);
            }
            Err(e) if e.kind() != ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        if let Some(folder) = self.folder(place, &opened).await? {
            return Ok(folder);
        }
        match head {
            Ok(meta) => {
                let mut found = Found::new(&opened, Shape::File, name.clone());
                found.push(name, meta);
                Ok(found)
            }
            Err(_) if has_glob_characters(&name) => self.glob(place).await,
            Err(_) => Err(Error::new(
                ErrorKind::NotFound,
                format!("{name} does not exist: there is neither a file nor a folder"),
            )),
        }
    }

    async fn files(&self, places: &[Place]) -> Result<Found> {
        let Some(first) = places.first() else {
            return Err(Error::invalid("the list of files is empty: name at least one file"));
        };
        if let Some(other) = places.iter().find(|p| p.base() != first.base()) {
            return Err(Error::invalid(format!(
                "{first} and {other} are in different stores: use a source for each, and a union in the SQL"
            )));
        }
        let mut seen = BTreeSet::new();
        if let Some(twice) = places.iter().find(|p| !seen.insert(p.to_string())) {
            return Err(Error::invalid(format!("{twice} is in the list twice: its rows would come twice")));
        }
        let mut common = first.parts().to_vec();
        for place in places {
            let same = common.iter().zip(place.parts()).take_while(|(a, b)| a == b).count();
            common.truncate(same.min(place.parts().len().saturating_sub(1)));
        }
        let folder = first.above(first.parts().len() - common.len());
        let opened = self.open(&folder)?;
        let (depth, opened_ref) = (folder.parts().len(), &opened);
        let heads = futures::stream::iter(places.to_vec()).map(move |place| async move {
            let path = place.parts()[depth..].iter().fold(opened_ref.path.as_ref().to_owned(), |path, part| {
                if path.is_empty() { part.clone() } else { format!("{path}/{part}") }
            });
            let path = Path::parse(path)
                .map_err(|e| Error::invalid(format!("{place} is no path of a store")).with_source(e))?;
            let one = OpenedStore { store: opened_ref.store.clone(), path };
            Ok::<_, Error>((place.to_string(), self.head(&one, &place.to_string()).await?))
        });
        let heads: Vec<_> = heads.buffered(AT_ONCE).try_collect().await?;
        let name = if places.len() == 1 { first.to_string() } else { format!("{first} and {} more", places.len() - 1) };
        let mut found = Found::new(&opened, Shape::List, name);
        heads.into_iter().for_each(|(name, meta)| found.push(name, meta));
        Ok(found)
    }

    async fn glob(&self, place: &Place) -> Result<Found> {
        let text = place.to_string();
        let (folder, pattern) = place.split_glob();
        let parsed = glob::Pattern::new(&pattern)
            .map_err(|e| Error::invalid(format!("{text:?} is not a glob: {}, at character {}", e.msg, e.pos)))?;
        let options = glob::MatchOptions {
            case_sensitive: true,
            require_literal_separator: true,
            require_literal_leading_dot: true,
        };
        let opened = self.open(&folder)?;
        let mut found = Found::new(&opened, Shape::Glob, text.clone());
        let top = self.top(&opened, &folder).await?;
        found.tables.extend(self.table_at(&folder, &opened, &top).await?);
        let all = if pattern.contains('/') { self.below(&opened, &folder).await? } else { top.objects };
        let seen: Vec<String> = all.iter().filter_map(|meta| relative(&opened.path, meta)).collect();
        let spelled = |c: char| pattern.split('/').any(|part| part.starts_with(c));
        let hidden = |name: &str| {
            name.split('/').any(|part| part.chars().next().is_some_and(|c| matches!(c, '.' | '_') && !spelled(c)))
        };
        for meta in all {
            let Some(name) = relative(&opened.path, &meta) else { continue };
            if parsed.matches_with(&name, options) && !hidden(&name) {
                found.push(folder.name(&name), meta);
            }
        }
        if found.files.is_empty() {
            let there = match (seen.is_empty(), top.folders.is_empty()) {
                (true, true) => "is empty, or does not exist".to_owned(),
                (true, false) => {
                    format!("has only folders: {}", top.folders.iter().take(5).cloned().collect::<Vec<_>>().join(", "))
                }
                (false, _) => format!("has {}", examples(seen.len(), seen.iter().map(String::as_str))),
            };
            return Err(Error::new(
                ErrorKind::NotFound,
                format!("the glob {text:?} matches no file: {folder} {there}"),
            ));
        }
        Ok(found)
    }

    /// Everything below a folder; `None` where there is nothing.
    async fn folder(&self, folder: &Place, opened: &OpenedStore) -> Result<Option<Found>> {
        let mut found = Found::new(opened, Shape::Folder, folder.to_string());
        let top = self.top(opened, folder).await?;
        if let Some(table) = self.table_at(folder, opened, &top).await? {
            found.tables.push(table);
            return Ok(Some(found));
        }
        let visible = top.folders.iter().any(|name| !is_hidden(name));
        let all = if visible { self.below(opened, folder).await? } else { top.objects };
        let names: Vec<Option<String>> = all.iter().map(|meta| relative(&opened.path, meta)).collect();
        let mut tables: BTreeSet<TableFolder> = BTreeSet::new();
        for name in names.iter().flatten() {
            if let Some((table, format, marker)) = self.table_of(name) {
                tables.insert(TableFolder::new(folder.name(&table), format, marker));
            }
        }
        let inside: Vec<String> = tables.iter().map(|t| format!("{}/", t.path)).collect();
        for (meta, name) in all.into_iter().zip(names) {
            let Some(name) = name.filter(|name| !name.split('/').any(is_hidden)) else { continue };
            let shown = folder.name(&name);
            if !inside.iter().any(|table| shown.starts_with(table.as_str())) {
                found.push(shown, meta);
            }
        }
        found.tables.extend(tables);
        Ok((!found.files.is_empty() || !found.tables.is_empty()).then_some(found))
    }

    async fn top(&self, opened: &OpenedStore, folder: &Place) -> Result<Top> {
        (self.check)()?;
        let prefix = Some(&opened.path).filter(|p| p.parts().next().is_some());
        let listed = opened.store.list_with_delimiter(prefix).await.map_err(|e| unreadable(&folder.to_string(), e))?;
        let folders: BTreeSet<String> =
            listed.common_prefixes.iter().filter_map(|p| p.filename().map(str::to_owned)).collect();
        let objects = listed
            .objects
            .into_iter()
            .filter(|o| o.size > 0 || !o.location.filename().is_some_and(|n| folders.contains(n)));
        Ok(Top { objects: objects.collect(), folders })
    }

    async fn below(&self, opened: &OpenedStore, folder: &Place) -> Result<Vec<ObjectMeta>> {
        let prefix = Some(&opened.path).filter(|p| p.parts().next().is_some());
        let mut listing = opened.store.list(prefix);
        let mut all = Vec::new();
        while let Some(meta) = listing.next().await {
            (self.check)()?;
            all.push(meta.map_err(|e| unreadable(&folder.to_string(), e))?);
        }
        // What a console makes of an empty folder: an object without bytes that is the folder of others.
        let folders: BTreeSet<&str> =
            all.iter().filter_map(|m| m.location.as_ref().rsplit_once('/').map(|(f, _)| f)).collect();
        let marker = |m: &ObjectMeta| m.size == 0 && folders.contains(m.location.as_ref());
        let markers: Vec<bool> = all.iter().map(marker).collect();
        Ok(all.into_iter().zip(markers).filter_map(|(meta, marker)| (!marker).then_some(meta)).collect())
    }

    /// Whether a folder is a table of some format.
    async fn table_at(&self, folder: &Place, opened: &OpenedStore, top: &Top) -> Result<Option<TableFolder>> {
        for (format, marker) in self.markers {
            let found = match marker.split_once('/') {
                None => top.folders.contains(marker),
                Some((inside, _)) if !top.folders.contains(inside) => false,
                Some((inside, pattern)) => {
                    let below = OpenedStore { store: opened.store.clone(), path: opened.path.clone().join(inside) };
                    let names = self.top(&below, folder).await?.objects;
                    let pattern = glob::Pattern::new(pattern).ok();
                    names
                        .iter()
                        .any(|o| o.location.filename().is_some_and(|n| pattern.as_ref().is_some_and(|p| p.matches(n))))
                }
            };
            if found {
                return Ok(Some(TableFolder::new(folder.to_string(), format, marker)));
            }
        }
        Ok(None)
    }

    /// The table folder that a file of this name marks, with its format and marker.
    fn table_of(&self, name: &str) -> Option<(String, &str, &str)> {
        let parts: Vec<&str> = name.split('/').collect();
        self.markers.iter().find_map(|(format, marker)| {
            let at = match marker.split_once('/') {
                None => parts[..parts.len() - 1].iter().position(|part| part == marker)?,
                Some((folder, pattern)) => {
                    let at = parts.len().checked_sub(2).filter(|at| parts[*at] == folder)?;
                    glob::Pattern::new(pattern).ok()?.matches(parts[at + 1]).then_some(at)?
                }
            };
            Some((parts[..at].join("/"), format.as_str(), marker.as_str()))
        })
    }
}

/// One level of a folder.
struct Top {
    objects: Vec<ObjectMeta>,
    folders: BTreeSet<String>,
}

/// The key below a folder; `None` for the folder's own marker.
fn relative(folder: &Path, meta: &ObjectMeta) -> Option<String> {
    let below = match folder.as_ref() {
        "" => meta.location.as_ref(),
        folder => meta.location.as_ref().strip_prefix(folder)?.strip_prefix('/')?,
    };
    (!below.is_empty()).then(|| below.to_owned())
}

fn is_hidden(name: &str) -> bool {
    name.starts_with(['.', '_'])
}

/// "s3://... may not be read", for the errors of stores.
pub(crate) fn unreadable(name: &str, e: StoreError) -> Error {
    let (kind, what) = match &e {
        StoreError::NotFound { .. } => (ErrorKind::NotFound, "does not exist"),
        StoreError::PermissionDenied { .. } | StoreError::Unauthenticated { .. } => {
            (ErrorKind::PermissionDenied, "may not be read: check the storage options")
        }
        StoreError::Precondition { .. } => (ErrorKind::Unavailable, "was replaced since it was listed"),
        StoreError::NotSupported { .. } | StoreError::NotImplemented { .. } => {
            (ErrorKind::Unsupported, "cannot be read: the store does not do that")
        }
        _ => (ErrorKind::Unavailable, "cannot be read"),
    };
    Error::new(kind, format!("{name} {what}")).with_source(e)
}

#[cfg(test)]
#[path = "stores_tests.rs"]
mod tests;
