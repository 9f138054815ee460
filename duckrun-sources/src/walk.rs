//! Listing on the local file system, once per run. The only module that looks at the disk; it blocks.
//!
//! Three invariants: every file is listed once (links that lead back into the folder are refused), table folders are never
//! entered, and an empty answer is an error that says what is there instead.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use duckrun_core::{Error, ErrorKind, Result};

use crate::listing::{count, examples};
use crate::location::{has_glob_characters, outside, path_text};
use crate::{ListedFile, Listing, Location, Shape, TableFolder};

/// What a listing needs besides its location.
pub(crate) struct Walk<'a> {
    /// Markers of table folders, as (format, pattern).
    pub(crate) markers: &'a [(String, String)],
    /// No file may lie outside of it, links resolved.
    pub(crate) root: Option<&'a Path>,
    /// Asked again and again; its error ends the listing.
    pub(crate) check: &'a dyn Fn() -> Result<()>,
}

impl Walk<'_> {
    /// Lists a resolved location.
    pub(crate) fn list(&self, location: &Location) -> Result<Listing> {
        let listing = match location {
            Location::At(path) => match fs::metadata(path) {
                Ok(m) if m.is_dir() => self.folder(path)?,
                Ok(_) => one_file(path)?,
                Err(e) if e.kind() == io::ErrorKind::NotFound && has_glob_characters(path_text(path)?) => {
                    self.glob(path)?
                }
                Err(e) => return Err(unreadable(path, e)),
            },
            Location::File(path) => one_file(path)?,
            Location::Folder(path) => match fs::metadata(path) {
                Ok(m) if m.is_dir() => self.folder(path)?,
                Ok(_) => {
                    return Err(Error::invalid(format!(
                        "{} is a file, not a folder: name it as a file",
                        path.display()
                    )));
                }
                Err(e) => return Err(unreadable(path, e)),
            },
            Location::Glob(pattern) => self.glob(pattern)?,
            Location::List(paths) => self.files(paths)?,
        };
        self.confined(&listing)?;
        Ok(listing)
    }

    fn files(&self, paths: &[PathBuf]) -> Result<Listing> {
        let mut listing = Listing::new(Shape::List, Location::List(paths.to_vec()).to_string());
        if paths.is_empty() {
            return Err(Error::invalid("the list of files is empty: name at least one file"));
        }
        let mut seen = BTreeSet::new();
        for path in paths {
            (self.check)()?;
            let file = listed(path)?;
            if !seen.insert(file.path.clone()) {
                return Err(Error::invalid(format!("{} is in the list twice: its rows would come twice", file.path)));
            }
            listing.files.push(file);
        }
        listing.files.sort();
        Ok(listing)
    }

    fn glob(&self, pattern: &Path) -> Result<Listing> {
        let text = path_text(pattern)?;
        let options = glob::MatchOptions {
            case_sensitive: true,
            require_literal_separator: true,
            require_literal_leading_dot: true,
        };
        let matches = glob::glob_with(text, options)
            .map_err(|e| Error::invalid(format!("{text:?} is not a glob: {}, at character {}", e.msg, e.pos)))?;
        let base = fixed_prefix(pattern);
        let mut listing = Listing::new(Shape::Glob, text);
        let mut folders = 0_usize;
        for path in matches {
            (self.check)()?;
            let path = path.map_err(|e| {
                let at = e.path().to_owned();
                unreadable(&at, e.into())
            })?;
            if hidden_match(&path, &base, pattern) {
                continue;
            }
            match fs::metadata(&path) {
                Ok(m) if m.is_file() => listing.files.push(file_of(&path, &m)?),
                Ok(m) if m.is_dir() => folders += 1,
                // Neither, or gone since the folder was read.
                Ok(_) => {}
                Err(e) if e.kind() == io::ErrorKind::NotFound && fs::symlink_metadata(&path).is_err() => {}
                Err(e) => return Err(unreadable(&path, e)),
            }
        }
        if listing.files.is_empty() {
            let only =
                if folders > 0 { format!("{}, but no file", count(folders, "folder")) } else { "no file".to_owned() };
            return Err(Error::new(
                ErrorKind::NotFound,
                format!("the glob {text:?} matches {only}: {}", whats_there(&base)),
            ));
        }
        if let Some(table) = self.table_at(&base)? {
            listing.tables.push(table);
        }
        listing.files.sort();
        Ok(listing)
    }

    fn folder(&self, root: &Path) -> Result<Listing> {
        let mut listing = Listing::new(Shape::Folder, path_text(root)?);
        // Where links have led so far, the folder itself first.
        let mut entered = vec![canonical(root)?];
        let mut waiting = vec![root.to_owned()];
        while let Some(dir) = waiting.pop() {
            (self.check)()?;
            if let Some(table) = self.table_at(&dir)? {
                listing.tables.push(table);
                continue;
            }
            for entry in fs::read_dir(&dir).map_err(|e| unreadable(&dir, e))? {
                let entry = entry.map_err(|e| unreadable(&dir, e))?;
                if is_hidden(&entry.file_name().to_string_lossy()) {
                    continue;
                }
                let path = entry.path();
                let kind = entry.file_type().map_err(|e| unreadable(&path, e))?;
                let metadata = match fs::metadata(&path) {
                    Ok(m) => m,
                    Err(e) if e.kind() == io::ErrorKind::NotFound && !kind.is_symlink() => continue,
                    Err(e) => return Err(unreadable(&path, e)),
                };
                if metadata.is_dir() {
                    if kind.is_symlink() {
                        let target = canonical(&path)?;
                        if let Some(known) = entered.iter().find(|k| target.starts_with(k) || k.starts_with(&target)) {
                            return Err(Error::invalid(format!(
                                "the link {} leads to {}, whose files are listed already below {}: remove the link, or use a \
                                 glob that leaves it out",
                                path.display(),
                                target.display(),
                                known.display()
                            )));
                        }
                        entered.push(target);
                    }
                    waiting.push(path);
                } else if metadata.is_file() {
                    listing.files.push(file_of(&path, &metadata)?);
                }
            }
        }
        if listing.files.is_empty() && listing.tables.is_empty() {
            return Err(Error::new(
                ErrorKind::NotFound,
                format!("the folder {} holds no files to read: {}", root.display(), whats_there(root)),
            ));
        }
        listing.files.sort();
        listing.tables.sort();
        Ok(listing)
    }

    /// Whether a folder is a table of some format.
    fn table_at(&self, dir: &Path) -> Result<Option<TableFolder>> {
        for (format, marker) in self.markers {
            let found = match marker.split_once('/') {
                None => dir.join(marker).exists(),
                Some((folder, pattern)) => match (fs::read_dir(dir.join(folder)), glob::Pattern::new(pattern)) {
                    (Ok(mut entries), Ok(pattern)) => {
                        entries.any(|e| e.is_ok_and(|e| pattern.matches(&e.file_name().to_string_lossy())))
                    }
                    _ => false,
                },
            };
            if found {
                return Ok(Some(TableFolder::new(path_text(dir)?, format, marker)));
            }
        }
        Ok(None)
    }

    /// Refuses files that a link leads out of the root.
    fn confined(&self, listing: &Listing) -> Result<()> {
        let Some(root) = self.root else { return Ok(()) };
        let base = canonical(root)?;
        let tables = listing.tables.iter().map(|t| &t.path);
        for path in listing.files.iter().map(|f| &f.path).chain(tables) {
            (self.check)()?;
            if !canonical(Path::new(path))?.starts_with(&base) {
                return Err(outside(Path::new(path), root));
            }
        }
        Ok(())
    }
}

fn one_file(path: &Path) -> Result<Listing> {
    Ok(Listing::new(Shape::File, path_text(path)?).with_listed([listed(path)?]))
}

fn listed(path: &Path) -> Result<ListedFile> {
    let metadata = fs::metadata(path).map_err(|e| unreadable(path, e))?;
    if metadata.is_dir() {
        return Err(Error::invalid(format!("{} is a folder, not a file: name it as a folder", path.display())));
    }
    if !metadata.is_file() {
        return Err(Error::invalid(format!("{} is not a regular file and cannot be read twice", path.display())));
    }
    file_of(path, &metadata)
}

fn file_of(path: &Path, metadata: &fs::Metadata) -> Result<ListedFile> {
    let text = path_text(path)?;
    // DuckDB expands a leading `~`, reads `-` as the standard input and takes `x:` for a scheme.
    let first = text.split('/').next().unwrap_or_default();
    let special = first.starts_with(['~', '-']) || (cfg!(not(windows)) && first.contains(':'));
    let path = if special { format!("./{text}") } else { text.to_owned() };
    Ok(ListedFile { path, size: metadata.len(), modified: metadata.modified().ok() })
}

fn is_hidden(name: &str) -> bool {
    name.starts_with(['.', '_'])
}

/// Whether a match is hidden below the glob's fixed part, and the pattern does not spell a name like it.
fn hidden_match(path: &Path, base: &Path, pattern: &Path) -> bool {
    let below = path.strip_prefix(base).unwrap_or(path);
    let spelled = |c: char| pattern.components().any(|p| p.as_os_str().to_string_lossy().starts_with(c));
    below.components().any(|part| {
        let part = part.as_os_str().to_string_lossy();
        part.chars().next().is_some_and(|c| matches!(c, '.' | '_') && !spelled(c))
    })
}

/// The folders of a glob before the first one with glob characters.
fn fixed_prefix(pattern: &Path) -> PathBuf {
    let mut base: PathBuf =
        pattern.components().take_while(|c| !has_glob_characters(&c.as_os_str().to_string_lossy())).collect();
    if base == pattern {
        base.pop();
    }
    if base.as_os_str().is_empty() { PathBuf::from(".") } else { base }
}

/// "landing has 2 files (a, b) and 1 folder (c)", about the nearest folder that exists.
fn whats_there(path: &Path) -> String {
    let mut path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    let missing = path;
    while !path.is_dir() {
        path = match path.parent() {
            Some(parent) if parent.as_os_str().is_empty() => Path::new("."),
            Some(parent) => parent,
            None => return format!("{} does not exist", missing.display()),
        };
    }
    let not_there = if path == missing { String::new() } else { format!("{} does not exist; ", missing.display()) };
    let Ok(entries) = fs::read_dir(path) else { return format!("{not_there}{} cannot be read", path.display()) };
    let (mut files, mut folders) = (Vec::new(), Vec::new());
    // A folder of millions is not read to its end for a message.
    for entry in entries.flatten().take(10_000) {
        let name = entry.file_name().to_string_lossy().into_owned();
        if entry.path().is_dir() { folders.push(name + "/") } else { files.push(name) }
    }
    files.sort();
    folders.sort();
    let shown = path.display();
    match (files.is_empty(), folders.is_empty()) {
        (true, true) => format!("{not_there}{shown} is empty"),
        (false, true) => format!("{not_there}{shown} has {}", named(&files)),
        (true, false) => format!(
            "{not_there}{shown} has only folders: {}",
            folders.iter().take(5).cloned().collect::<Vec<_>>().join(", ")
        ),
        (false, false) => format!("{not_there}{shown} has {} and {}", named(&files), count(folders.len(), "folder")),
    }
}

fn named(files: &[String]) -> String {
    examples(files.len(), files.iter().map(String::as_str))
}

fn canonical(path: &Path) -> Result<PathBuf> {
    fs::canonicalize(path).map_err(|e| unreadable(path, e))
}

fn unreadable(path: &Path, e: io::Error) -> Error {
    let shown = path.display();
    let (kind, message) = match e.kind() {
        io::ErrorKind::NotFound if fs::symlink_metadata(path).is_ok() => {
            (ErrorKind::NotFound, format!("{shown} is a link to something that does not exist"))
        }
        io::ErrorKind::NotFound => {
            (ErrorKind::NotFound, format!("{shown} does not exist: {}", whats_there(path.parent().unwrap_or(path))))
        }
        io::ErrorKind::PermissionDenied => {
            (ErrorKind::PermissionDenied, format!("{shown} may not be read: give this process the permission"))
        }
        io::ErrorKind::NotADirectory => (ErrorKind::NotFound, format!("a part of {shown} is a file, not a folder")),
        _ => (ErrorKind::Unavailable, format!("{shown} cannot be listed: {e}")),
    };
    Error::new(kind, message).with_source(e)
}

#[cfg(test)]
#[path = "walk_tests.rs"]
mod tests;
