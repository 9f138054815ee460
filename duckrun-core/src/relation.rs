//! What a run's SQL can read: a SQL text, a pinned set of data files, or a stream. Lazy until the engine reads it.

use std::fmt;
use std::sync::Arc;

use arrow::array::ArrayRef;
use arrow::datatypes::{DataType, SchemaRef};
use object_store::ObjectStore;
use object_store::path::Path;
use url::Url;

use crate::BatchStream;

/// A named input of a run, as an engine registers it.
#[non_exhaustive]
#[derive(Debug)]
pub enum Relation {
    /// A SELECT in the engine's own dialect, for example over `read_csv(...)`.
    Sql(String),
    /// A pinned set of parquet files with everything that a table format says about them.
    Files(FileSet),
    /// A stream, consumed once, materialised by the engine (with its spill) on registration.
    Stream(BatchStream),
}

/// Where a column's values are found in the data files.
#[non_exhaustive]
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ColumnSource {
    /// In the parquet files, under this physical name. A file without it yields NULL.
    File {
        /// The column's name in the files.
        physical_name: String,
    },
    /// In the parquet files, in the column with this field id. A file without it yields NULL. In one [`FileSet`] the columns
    /// in the files are found either all by name or all by field id.
    FieldId(i32),
    /// Constant per file: index into [`FileSet::partition_values`].
    Partition(usize),
    /// In the files that have it, under this physical name; a constant per file (index into
    /// [`FileSet::partition_values`]) in those that do not, or hold NULL.
    FileOrConstant {
        /// The column's name in the files.
        physical_name: String,
        /// The index of the constants.
        constant: usize,
    },
}

/// One column of a [`FileSet`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileColumn {
    /// The logical name, as SQL sees it.
    pub name: String,
    /// The logical type, nested names included. The engine casts what the files hold to it.
    pub data_type: DataType,
    /// The type with the physical names of nested fields, where they differ (column mapping); same shape as `data_type`.
    pub physical_type: Option<DataType>,
    /// Where its values are.
    pub source: ColumnSource,
}

/// One immutable data file.
#[derive(Clone)]
pub struct DataFile {
    /// The path by which the table format knows it, to the letter.
    pub path: String,
    /// The absolute location: `file://` for local files, otherwise the store's URL.
    pub url: Url,
    /// Size in bytes.
    pub size: u64,
    /// Rows in the file before deletion vectors, where the log says so.
    pub rows: Option<u64>,
    /// Row numbers (from 0) that a deletion vector removed, ascending.
    pub deleted: Option<Arc<Vec<u64>>>,
}

impl fmt::Debug for DataFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DataFile")
            .field("url", &self.url.as_str())
            .field("size", &self.size)
            .field("rows", &self.rows)
            .field("deleted", &self.deleted.as_ref().map(|d| d.len()))
            .finish()
    }
}

/// A pinned snapshot's files, read exactly as the table format means them.
///
/// Partition values come from the log, never from paths; deleted rows never appear; a column that a file lacks is NULL.
#[derive(Clone)]
pub struct FileSet {
    /// The logical schema.
    pub schema: SchemaRef,
    /// The columns, in the schema's order.
    pub columns: Vec<FileColumn>,
    /// The files. May be empty: the relation then has the schema and no rows.
    pub files: Vec<DataFile>,
    /// One array per partition column, typed, with one value per file.
    pub partition_values: Vec<ArrayRef>,
    /// Whether the relation has two more columns, [`FILE_INDEX`](crate::FILE_INDEX) and [`ROW_NUMBER`](crate::ROW_NUMBER),
    /// which say where each row is.
    pub positions: bool,
    /// The store that serves the files, for files that are not local. It is rooted where the files' paths begin.
    pub store: Option<Arc<dyn ObjectStore>>,
}

impl fmt::Debug for FileSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FileSet")
            .field("columns", &self.columns)
            .field("files", &self.files.len())
            .finish_non_exhaustive()
    }
}

/// Files of a store that an engine's own readers are to open: exactly these, as they were when they were listed.
#[derive(Clone)]
pub struct StoreFiles {
    /// The store.
    pub store: Arc<dyn ObjectStore>,
    /// The files.
    pub files: Vec<StoreFile>,
}

/// One of [`StoreFiles`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoreFile {
    /// What the engine and messages call it: a relative path or a URL, without `.` and `..`. It ends as the file does, and folders
    /// named `key=value` are partitions. Each name occurs once.
    pub name: String,
    /// Where it is in the store.
    pub path: Path,
    /// Its size in bytes.
    pub size: u64,
    /// The tag of its content, where the store has one: a file that was replaced is not read.
    pub e_tag: Option<String>,
}

impl fmt::Debug for StoreFiles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A store's own `Debug` may show its credentials.
        f.debug_struct("StoreFiles").field("files", &self.files).finish_non_exhaustive()
    }
}
