//! Formats as trait objects, and the registry that inference looks them up in.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use duckrun_core::object_store::ObjectStore;
use duckrun_core::{Error, Relation, Resolved, Result, SourceContext, StoreFile};
use serde::{Deserialize, Serialize};

use crate::sql::{file_list, select_list};
use crate::stores::Objects;
use crate::{CallOptions, ListedFile, ScanOptions, formats};

/// How a file is compressed as a whole.
#[non_exhaustive]
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Compression {
    /// Not at all (parquet's compression of its pages does not count).
    None,
    /// gzip, the suffix `.gz`.
    Gzip,
    /// Zstandard, the suffix `.zst`.
    Zstd,
}

impl Compression {
    /// What DuckDB calls it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Gzip => "gzip",
            Self::Zstd => "zstd",
        }
    }
}

impl fmt::Display for Compression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A format of files. Implemented here for what DuckDB reads and by embedders for the rest; called by inference and by
/// [`FileSource`](crate::FileSource).
///
/// # Contract
/// - [`name`](Format::name) is unique in a [`Registry`]; registering a second one of the same name replaces the first.
/// - [`relation`](Format::relation) must cover exactly [`Scan::files`], and leave reading them to the engine, later and
///   lazily, where the engine can. A format that the engine cannot read looks into the files no further than it must before
///   it returns, and blocks no async thread.
/// - The other methods are cheap. All may be called from any thread.
///
/// A format that DuckDB has a table function for needs a few lines:
/// ```
/// use std::sync::Arc;
/// use duckrun_core::{Relation, Resolved, Result};
/// use duckrun_sources::{Files, Format, Registry, Scan};
///
/// /// Files of text with one row each.
/// #[derive(Debug)]
/// struct Notes;
///
/// #[async_trait::async_trait]
/// impl Format for Notes {
///     fn name(&self) -> &str { "notes" }
///     fn extensions(&self) -> Vec<&str> { vec!["note"] }
///     async fn relation(&self, scan: &Scan<'_>) -> Result<Resolved> {
///         let files = scan.file_list();
///         Ok(Relation::Sql(format!("SELECT filename, content FROM read_text({files})")).into())
///     }
/// }
///
/// let source = Files::glob("inbox/*.note").registry(Registry::default().with(Arc::new(Notes)));
/// # let _ = source;
/// ```
#[async_trait]
pub trait Format: Send + Sync + fmt::Debug {
    /// A short name, for example `csv`.
    fn name(&self) -> &str;

    /// The extensions of its files, in lower case and without the dot.
    fn extensions(&self) -> Vec<&str> {
        Vec::new()
    }

    /// Compressions of whole files that its reader undoes by itself.
    fn decompresses(&self) -> &[Compression] {
        &[]
    }

    /// Patterns (`_delta_log`, `metadata/*.metadata.json`) of which one below a folder makes the folder a table of this
    /// format. At most two components.
    fn folder_markers(&self) -> Vec<&str> {
        Vec::new()
    }

    /// Whether it decodes the files itself instead of naming them to the engine, which then need not open those of an object
    /// store.
    fn decodes_itself(&self) -> bool {
        false
    }

    /// The relation of these files.
    ///
    /// # Errors
    /// When an option is wrong or the format cannot be read here, with the way out.
    async fn relation(&self, scan: &Scan<'_>) -> Result<Resolved>;
}

#[async_trait]
impl Format for Arc<dyn Format> {
    fn name(&self) -> &str {
        (**self).name()
    }

    fn extensions(&self) -> Vec<&str> {
        (**self).extensions()
    }

    fn decompresses(&self) -> &[Compression] {
        (**self).decompresses()
    }

    fn folder_markers(&self) -> Vec<&str> {
        (**self).folder_markers()
    }

    fn decodes_itself(&self) -> bool {
        (**self).decodes_itself()
    }

    async fn relation(&self, scan: &Scan<'_>) -> Result<Resolved> {
        (**self).relation(scan).await
    }
}

/// What a format is asked to read: a pinned list of files and what holds for all formats.
#[non_exhaustive]
#[derive(Debug, Clone)]
pub struct Scan<'a> {
    /// The location, for messages; the folder, for a format that marks folders.
    pub location: &'a str,
    /// The files, sorted. Empty only for a table folder.
    pub files: &'a [ListedFile],
    /// The options that are the same for every format.
    pub options: &'a ScanOptions,
    /// Whether folders named `key=value` are columns.
    pub hive: bool,
    /// The name of the column with each row's file, where there is one.
    pub filename: Option<String>,
    /// How many characters of the listed path that column leaves out.
    pub filename_prefix: usize,
    /// Whether only the schema is wanted: the relation has no rows.
    pub no_rows: bool,
    /// The run.
    pub cx: &'a SourceContext<'a>,
    /// The objects, where the files are not local: their paths are what the engine calls them.
    pub(crate) remote: Option<Remote<'a>>,
}

/// The objects of a scan.
#[derive(Debug, Clone)]
pub(crate) struct Remote<'a> {
    pub(crate) objects: &'a Objects,
    /// What stands before the listed name in the engine's path.
    pub(crate) opened: String,
}

impl Scan<'_> {
    /// A file's path as it was listed, for messages: the engine may have its own name for a file of an object store.
    pub fn called<'p>(&self, path: &'p str) -> &'p str {
        self.remote.as_ref().and_then(|r| path.strip_prefix(r.opened.as_str())).unwrap_or(path)
    }

    /// Whether the paths are of files of the local file system. Others are for the engine's readers only.
    pub fn is_local(&self) -> bool {
        self.remote.is_none()
    }

    /// The object behind a path.
    pub(crate) fn object(&self, path: &str) -> Option<(&Arc<dyn ObjectStore>, &StoreFile)> {
        let remote = self.remote.as_ref()?;
        Some((remote.objects.store(), remote.objects.get(self.called(path))?))
    }

    /// The files as a SQL list that DuckDB's readers take exactly, never as globs.
    pub fn file_list(&self) -> String {
        file_list(self.files)
    }

    /// A SELECT over one of DuckDB's multi-file readers (`read_csv`, `read_parquet`, ...) with everything that this scan
    /// says and the format's own options.
    pub fn select(&self, function: &str, options: CallOptions) -> Resolved {
        let hive_types: &[_] = if self.hive { &self.options.hive_types } else { &[] };
        let common = CallOptions::new()
            .text("filename", self.filename.as_deref())
            .flag("hive_partitioning", Some(self.hive))
            .map("hive_types", hive_types)
            .flag("union_by_name", self.options.union_by_name.then_some(true))
            .and(options);
        let columns = select_list(self.filename.as_deref().map(|name| (name, self.filename_prefix)));
        let no_rows = if self.no_rows { " WHERE false" } else { "" };
        Relation::Sql(format!("SELECT {columns} FROM {function}({}, {common}){no_rows}", self.file_list())).into()
    }
}

/// The formats that inference knows. The default has every format of [`formats`](crate::formats).
#[derive(Clone)]
pub struct Registry {
    formats: BTreeMap<String, Arc<dyn Format>>,
    by_extension: BTreeMap<String, String>,
    forced: Option<String>,
}

impl Registry {
    /// No formats.
    pub fn empty() -> Self {
        Self { formats: BTreeMap::new(), by_extension: BTreeMap::new(), forced: None }
    }

    /// The same with a format more. It takes the place of one of the same name, and its extensions away from others.
    #[must_use]
    pub fn with(mut self, format: Arc<dyn Format>) -> Self {
        let name = format.name().to_owned();
        self.by_extension.retain(|_, owner| *owner != name);
        for extension in format.extensions() {
            self.by_extension.insert(extension.to_ascii_lowercase(), name.clone());
        }
        self.formats.insert(name, format);
        self
    }

    /// The same, but every file is taken to be of the format of this name.
    #[must_use]
    pub fn forced(mut self, name: impl Into<String>) -> Self {
        self.forced = Some(name.into());
        self
    }

    /// The format of a name.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidInput`](duckrun_core::ErrorKind::InvalidInput) with the names that exist.
    pub fn get(&self, name: &str) -> Result<&Arc<dyn Format>> {
        self.formats.get(name).ok_or_else(|| {
            let known: Vec<&str> = self.formats.keys().map(String::as_str).collect();
            Error::invalid(format!("no format is called {name:?}: use one of {}, or register it", known.join(", ")))
        })
    }

    pub(crate) fn forced_name(&self) -> Option<&str> {
        self.forced.as_deref()
    }

    pub(crate) fn of_extension(&self, extension: &str) -> Option<&Arc<dyn Format>> {
        self.formats.get(self.by_extension.get(extension)?)
    }

    /// The known extensions, for messages.
    pub(crate) fn extensions(&self) -> String {
        self.by_extension.keys().map(|e| format!(".{e}")).collect::<Vec<_>>().join(", ")
    }

    /// The markers of table folders, as (format, pattern).
    pub(crate) fn markers(&self) -> Vec<(String, String)> {
        let of = |f: &Arc<dyn Format>| {
            f.folder_markers().into_iter().map(|m| (f.name().to_owned(), m.to_owned())).collect::<Vec<_>>()
        };
        self.formats.values().flat_map(of).collect()
    }
}

impl Default for Registry {
    fn default() -> Self {
        formats::all().into_iter().fold(Self::empty(), Self::with)
    }
}

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registry")
            .field("formats", &self.formats.keys().collect::<Vec<_>>())
            .field("forced", &self.forced)
            .finish_non_exhaustive()
    }
}
