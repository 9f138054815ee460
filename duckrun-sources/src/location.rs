//! Where files are: as the user wrote it, and resolved against a root that it cannot leave.
//!
//! Everything here is lexical; symbolic links are followed, and judged, when the files are listed.

use std::fmt;
use std::path::{Component, Path, PathBuf};

use duckrun_core::{Error, Result};
use serde::{Deserialize, Serialize};

use crate::place::is_url;

/// Where a source's files are.
///
/// Relative paths are relative to the process's working directory, or to [`FileSource::root`](crate::FileSource::root)
/// where one is set. `file://` URLs are taken as the path they mean. `~` and environment variables are not expanded.
///
/// URLs of object stores (`s3://bucket/landing/*.csv`, `az://`, `abfss://`, `gs://`, and whatever the session's own store is
/// called) are opened by the run, with the session's options and [those of the source](crate::FileSource::storage_options). What
/// follows the bucket is the key to the letter: nothing is percent-decoded. With
/// [`FileSource::store`](crate::FileSource::store) the paths are keys of that store.
#[non_exhaustive]
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Location {
    /// A path as it is if it exists, otherwise a glob if it has glob characters.
    At(PathBuf),
    /// Exactly this file; `*`, `?` and `[` are letters.
    File(PathBuf),
    /// All files below this folder, at any depth, except hidden ones (a name that starts with `.` or `_`).
    Folder(PathBuf),
    /// The files that match: `*` and `?` within a name, `[a-z]`, `**` for any folders.
    Glob(PathBuf),
    /// Exactly these files.
    List(Vec<PathBuf>),
}

impl Location {
    /// The same location, as paths of the local file system below `root`.
    pub(crate) fn resolve(&self, root: Option<&Path>) -> Result<Self> {
        self.map(|path| resolve_path(path, root))
    }

    /// The same location with absolute paths; `..` is resolved by text.
    pub(crate) fn absolute(&self) -> Result<Self> {
        self.map(|path| Ok(normalise(&absolute(path)?)))
    }

    /// Whether some path of it is on an object store.
    pub(crate) fn has_url(&self) -> bool {
        match self {
            Self::At(p) | Self::File(p) | Self::Folder(p) | Self::Glob(p) => is_url(p),
            Self::List(paths) => paths.iter().any(|p| is_url(p)),
        }
    }

    fn map(&self, one: impl Fn(&Path) -> Result<PathBuf>) -> Result<Self> {
        Ok(match self {
            Self::At(p) => Self::At(one(p)?),
            Self::File(p) => Self::File(one(p)?),
            Self::Folder(p) => Self::Folder(one(p)?),
            Self::Glob(p) => Self::Glob(one(p)?),
            Self::List(paths) => Self::List(paths.iter().map(|p| one(p)).collect::<Result<_>>()?),
        })
    }
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::At(p) | Self::File(p) | Self::Folder(p) | Self::Glob(p) => write!(f, "{}", p.display()),
            Self::List(paths) => match paths.as_slice() {
                [] => f.write_str("an empty list"),
                [one] => write!(f, "{}", one.display()),
                [first, rest @ ..] => write!(f, "{} and {} more", first.display(), rest.len()),
            },
        }
    }
}

/// Whether a path has characters that a glob gives a meaning to.
pub(crate) fn has_glob_characters(path: &str) -> bool {
    path.contains(['*', '?', '['])
}

/// A path's text; the one refusal of names that SQL cannot carry.
pub(crate) fn path_text(path: &Path) -> Result<&str> {
    match path.to_str() {
        Some(text) if text.contains('\0') => Err(Error::invalid(format!("the path {text:?} contains a NUL byte"))),
        Some(text) => Ok(text),
        None => Err(Error::invalid(format!(
            "the name of {} is not valid UTF-8, so that no SQL text can name it: rename the file",
            path.display()
        ))),
    }
}

fn resolve_path(path: &Path, root: Option<&Path>) -> Result<PathBuf> {
    let path = from_url(path_text(path)?)?;
    if path.as_os_str().is_empty() {
        return Err(Error::invalid("the location is empty: name a file, a folder or a glob"));
    }
    let Some(root) = root else { return Ok(path) };
    let joined = root.join(&path);
    // Absolute locations are compared with an absolute root, relative ones stay as the user wrote the root.
    let (inside, base) = (normalise(&absolute(&joined)?), normalise(&absolute(root)?));
    if !inside.starts_with(&base) {
        return Err(outside(&path, root));
    }
    Ok(normalise(&joined))
}

/// The refusal of a path that leaves its root.
pub(crate) fn outside(path: &Path, root: &Path) -> Error {
    Error::invalid(format!(
        "{} is outside of the root {}: name a path below the root, or open the source with another root",
        path.display(),
        root.display()
    ))
}

/// The absolute path, without a look at the file system's links.
pub(crate) fn absolute(path: &Path) -> Result<PathBuf> {
    std::path::absolute(path)
        .map_err(|e| Error::invalid(format!("{} cannot be made absolute", path.display())).with_source(e))
}

/// Removes `.` and resolves `..` by text alone; `..` above the beginning stays where the path is relative.
pub(crate) fn normalise(path: &Path) -> PathBuf {
    let mut out = PathBuf::new();
    for component in path.components() {
        match component {
            Component::CurDir => {}
            Component::ParentDir => match out.components().next_back() {
                Some(Component::Normal(_)) => {
                    out.pop();
                }
                Some(Component::RootDir | Component::Prefix(_)) => {}
                _ => out.push(".."),
            },
            other => out.push(other),
        }
    }
    if out.as_os_str().is_empty() { PathBuf::from(".") } else { out }
}

/// Takes `file://` URLs as paths and refuses other stores.
fn from_url(text: &str) -> Result<PathBuf> {
    let Some((scheme, _)) = text.split_once("://") else { return Ok(PathBuf::from(text)) };
    if scheme.is_empty() || !scheme.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.')) {
        return Ok(PathBuf::from(text));
    }
    if !scheme.eq_ignore_ascii_case("file") {
        return Err(Error::unsupported(format!(
            "{text:?} is on an object store, where a path of the local file system was expected: use one or the other"
        )));
    }
    url::Url::parse(text)
        .ok()
        .and_then(|u| u.to_file_path().ok())
        .ok_or_else(|| Error::invalid(format!("{text:?} is not the URL of a local file: write file:///folder/file")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use duckrun_core::ErrorKind;

    fn at(path: &str, root: Option<&str>) -> Result<PathBuf> {
        match Location::At(path.into()).resolve(root.map(Path::new))? {
            Location::At(p) => Ok(p),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_path_stays_as_written_without_a_root() {
        for path in ["landing/*.csv", "../x.csv", "/abs/x.csv", "./a/../b"] {
            assert_eq!(at(path, None).unwrap(), Path::new(path));
        }
        assert_eq!(at("file:///a%20b/x.csv", None).unwrap(), Path::new("/a b/x.csv"));
    }

    #[test]
    fn a_root_cannot_be_left() {
        assert_eq!(at("a/../b.csv", Some("in")).unwrap(), Path::new("in/b.csv"));
        assert_eq!(at("/in/x", Some("/in")).unwrap(), Path::new("/in/x"));
        assert_eq!(at(".", Some("in")).unwrap(), Path::new("in"));
        for bad in ["../x", "a/../../x", "/etc/passwd", "file:///etc/passwd", "a/**/../../../x"] {
            let e = at(bad, Some("in")).unwrap_err();
            assert_eq!(e.kind(), ErrorKind::InvalidInput, "{bad}");
            assert!(e.message().contains("outside of the root in"), "{e}");
        }
        assert!(at("/inner/x", Some("/in")).is_err());
    }

    #[test]
    fn stores_and_odd_urls_are_refused_by_name() {
        assert_eq!(at("s3://bucket/x.csv", None).unwrap_err().kind(), ErrorKind::Unsupported);
        assert_eq!(at("file://host/x.csv", None).unwrap_err().kind(), ErrorKind::InvalidInput);
        assert!(at("", None).is_err());
        assert!(at("a\0b", None).is_err());
    }
}
