//! Places in object stores: a URL or a key as the user wrote it, below a root where there is one, and how its store is come by.

use std::fmt;
use std::path::Path as FsPath;
use std::sync::Arc;

use duckrun_core::object_store::ObjectStore;
use duckrun_core::object_store::path::Path;
use duckrun_core::{Error, OpenedStore, Result, StorageOptions, TableOpener};
use url::Url;

use crate::location::{has_glob_characters, path_text};

/// The store that a source was given, and options for one that is opened by its URL.
#[derive(Clone, Default)]
pub(crate) struct StoreChoice {
    pub(crate) store: Option<Arc<dyn ObjectStore>>,
    pub(crate) options: StorageOptions,
}

impl StoreChoice {
    /// The store of a place: the one that was given, or the one that the run opens by the URL.
    pub(crate) fn open(&self, tables: Option<&dyn TableOpener>, place: &Place) -> Result<OpenedStore> {
        let given = self.store.as_ref().filter(|_| place.base.is_empty());
        if let Some(store) = given {
            let path = Path::parse(place.parts.join("/"))
                .map_err(|e| Error::invalid(format!("{place} is no path of a store")).with_source(e))?;
            return Ok(OpenedStore { store: store.clone(), path });
        }
        let Some(tables) = tables.filter(|_| self.store.is_none()) else {
            return Err(Error::unsupported(match self.store {
                Some(_) => format!("{place} is a URL, and the source has a store of its own: name paths in that store"),
                None => format!(
                    "{place} is on an object store, which a run opens: resolve it within a run, or give it its store"
                ),
            }));
        };
        let bad = || Error::invalid(format!("{place} is not the URL of an object store"));
        let mut url = Url::parse(&format!("{}/", place.base)).map_err(|_| bad())?;
        url.path_segments_mut().map_err(|()| bad())?.clear().extend(&place.parts);
        tables.open_store(&url, &self.options)
    }
}

impl fmt::Debug for StoreChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A store's own `Debug` may show its credentials.
        let given = self.store.is_some();
        f.debug_struct("StoreChoice").field("given", &given).field("options", &self.options).finish()
    }
}

/// `scheme://authority` and the rest, of a URL that is not `file://`.
pub(crate) fn split(text: &str) -> Option<(&str, &str)> {
    let (scheme, rest) = text.split_once("://")?;
    let plain = !scheme.is_empty() && scheme.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.'));
    if !plain || scheme.eq_ignore_ascii_case("file") {
        return None;
    }
    let authority = rest.find('/').unwrap_or(rest.len());
    Some(text.split_at(scheme.len() + 3 + authority))
}

/// Whether a path is a URL of an object store.
pub(crate) fn is_url(path: &FsPath) -> bool {
    path.to_str().is_some_and(|text| split(text).is_some())
}

/// A place in a store: where the store is, as the user wrote it (empty for one that was given), and the parts of the key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Place {
    base: String,
    parts: Vec<String>,
}

impl Place {
    /// A path of the user's, below `root` where there is one.
    pub(crate) fn parse(path: &FsPath, root: Option<&Self>) -> Result<Self> {
        let text = path_text(path)?;
        if text.is_empty() {
            return Err(Error::invalid("the location is empty: name a file, a folder or a glob"));
        }
        let (base, rest) = match (split(text), root) {
            (Some((base, rest)), _) => (base.to_owned(), rest),
            (None, Some(root)) => (root.base.clone(), text),
            (None, None) => (String::new(), text),
        };
        // Not repeated in the message.
        let signed =
            base.to_ascii_lowercase().starts_with("http") && rest.split_once('?').is_some_and(|(_, q)| q.contains('='));
        if signed
            || base
                .split_once("://")
                .is_some_and(|(_, a)| a.split_once('@').is_some_and(|(user, _)| user.contains(':')))
        {
            return Err(Error::invalid(
                "a location carries credentials in its URL: put them into the storage options, since names of files are stored and \
                 logged",
            ));
        }
        let relative = split(text).is_none() && !text.starts_with('/');
        let mut parts = root.filter(|_| relative).map(|r| r.parts.clone()).unwrap_or_default();
        for part in rest.split('/') {
            match part {
                "" | "." => {}
                ".." => drop(parts.pop()),
                part => parts.push(part.to_owned()),
            }
        }
        let place = Self { base, parts };
        match root {
            Some(root) if !place.is_below(root) => Err(Error::invalid(format!(
                "{text} is outside of the root {root}: name a path below the root, or open the source with another root"
            ))),
            _ => Ok(place),
        }
    }

    pub(crate) fn is_below(&self, folder: &Self) -> bool {
        self.base == folder.base && self.parts.starts_with(&folder.parts)
    }

    /// The folder `levels` above, which is at most the store itself.
    pub(crate) fn above(&self, levels: usize) -> Self {
        let depth = self.parts.len().saturating_sub(levels);
        Self { base: self.base.clone(), parts: self.parts[..depth].to_vec() }
    }

    /// Something below it.
    pub(crate) fn below<'a>(&self, parts: impl Iterator<Item = &'a str>) -> Self {
        let parts = self.parts.iter().cloned().chain(parts.map(str::to_owned));
        Self { base: self.base.clone(), parts: parts.collect() }
    }

    /// What stands before the key: `scheme://authority`, or nothing for a store that was given.
    pub(crate) fn base(&self) -> &str {
        &self.base
    }

    pub(crate) fn parts(&self) -> &[String] {
        &self.parts
    }

    /// The name of something below this place.
    pub(crate) fn name(&self, below: &str) -> String {
        match (self.to_string(), below) {
            (place, "") => place,
            (place, below) if place.is_empty() => below.to_owned(),
            (place, below) => format!("{}/{below}", place.trim_end_matches('/')),
        }
    }

    /// The folder before the first part with glob characters, and the pattern below it.
    pub(crate) fn split_glob(&self) -> (Self, String) {
        let fixed =
            self.parts.iter().position(|p| has_glob_characters(p)).unwrap_or(self.parts.len().saturating_sub(1));
        let (folder, pattern) = self.parts.split_at(fixed);
        (Self { base: self.base.clone(), parts: folder.to_vec() }, pattern.join("/"))
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let slash = if self.base.is_empty() { "" } else { "/" };
        write!(f, "{}{slash}{}", self.base, self.parts.join("/"))
    }
}
