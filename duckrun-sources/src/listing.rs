//! What was found at a location: a value, so that inference is a pure function of it.

use std::time::SystemTime;

/// How a location turned out.
#[non_exhaustive]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// One file, named.
    File,
    /// Everything below a folder: what is in it may be a mixture.
    Folder,
    /// The matches of a glob: each was meant.
    Glob,
    /// A list of files: each was meant.
    List,
}

/// A file as it was when it was listed.
#[non_exhaustive]
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ListedFile {
    /// The path as it is read, and as the `filename` column shows it.
    pub path: String,
    /// The size in bytes.
    pub size: u64,
    /// When it was last changed, where the file system says so.
    pub modified: Option<SystemTime>,
}

impl ListedFile {
    /// A file of a path and a size.
    pub fn new(path: impl Into<String>, size: u64) -> Self {
        Self { path: path.into(), size, modified: None }
    }
}

/// A folder that a format recognised as one of its tables, by a marker in it.
#[non_exhaustive]
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct TableFolder {
    /// The folder.
    pub path: String,
    /// The format's name.
    pub format: String,
    /// What marked it, for example `_delta_log`.
    pub marker: String,
}

impl TableFolder {
    /// A folder that a format's marker was found in.
    pub fn new(path: impl Into<String>, format: impl Into<String>, marker: impl Into<String>) -> Self {
        Self { path: path.into(), format: format.into(), marker: marker.into() }
    }
}

/// The files found at a location, sorted by path, and the table folders met on the way.
///
/// ```
/// use duckrun_sources::{Listing, Registry, Shape, infer};
/// let listing = Listing::new(Shape::Glob, "in/*.csv.gz").with_files(["in/b.csv.gz", "in/a.csv.gz"]);
/// let inferred = infer(&Registry::default(), &listing)?;
/// assert_eq!(inferred.format, "csv");
/// assert_eq!(inferred.why, "2 files end in .csv.gz");
/// # Ok::<(), duckrun_core::Error>(())
/// ```
#[non_exhaustive]
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listing {
    /// The location, as it was resolved.
    pub location: String,
    /// How it turned out.
    pub shape: Shape,
    /// The files, sorted by path.
    pub files: Vec<ListedFile>,
    /// Folders that are tables of some format. Their files are not among `files`.
    pub tables: Vec<TableFolder>,
}

impl Listing {
    /// A listing without files.
    pub fn new(shape: Shape, location: impl Into<String>) -> Self {
        Self { location: location.into(), shape, files: Vec::new(), tables: Vec::new() }
    }

    /// The same with these files more, of unknown size, for tests and for listings made elsewhere.
    #[must_use]
    pub fn with_files<P: Into<String>>(self, paths: impl IntoIterator<Item = P>) -> Self {
        self.with_listed(paths.into_iter().map(|p| ListedFile::new(p, 0)))
    }

    /// The same with these files more.
    #[must_use]
    pub fn with_listed(mut self, files: impl IntoIterator<Item = ListedFile>) -> Self {
        self.files.extend(files);
        self.files.sort();
        self
    }

    /// The same with a table folder more.
    #[must_use]
    pub fn with_table(mut self, table: TableFolder) -> Self {
        self.tables.push(table);
        self.tables.sort();
        self
    }

    /// A few of the files, for messages.
    pub(crate) fn found(&self) -> String {
        match self.files.as_slice() {
            [] => "no files".to_owned(),
            files => examples(files.len(), files.iter().map(|f| f.path.as_str())),
        }
    }
}

/// "3 files (a, b, c)", with at most five names.
pub(crate) fn examples<'a>(n: usize, names: impl Iterator<Item = &'a str>) -> String {
    let mut shown: Vec<&str> = names.take(6).collect();
    let more = if shown.len() > 5 { ", ..." } else { "" };
    shown.truncate(5);
    format!("{} ({}{more})", count(n, "file"), shown.join(", "))
}

/// "1 file", "2 files".
pub(crate) fn count(n: usize, what: &str) -> String {
    if n == 1 { format!("1 {what}") } else { format!("{n} {what}s") }
}
