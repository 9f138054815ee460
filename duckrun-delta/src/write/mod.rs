//! Rows to parquet files: encoded in parallel within the memory share, laid out by partition, with statistics that hold.
//!
//! Rows are gathered into row groups; each row group is encoded whole on a blocking thread ([`encode`]), and appended
//! in the order of its rows to the open file of its partition ([`sink`]). So files are few, rows keep their order, and
//! all cores encode. Three invariants:
//!
//! - memory: rows gathered, row groups being encoded and uploads in flight stay within the run's memory plan;
//! - no litter: a write that fails or is dropped removes every file that it created ([`litter`]);
//! - nothing is visible: files get fresh names, and only a commit makes readers see them.

pub(crate) mod conform;
mod dictionary;
mod drive;
pub(crate) mod encode;
pub(crate) mod gather;
pub(crate) mod layout;
pub(crate) mod litter;
pub(crate) mod partition;
pub(crate) mod sink;
pub(crate) mod stats;
#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::sync::Arc;

use duckrun_core::{BatchStream, Result, RunContext, Staged, WriteSpec};
use object_store::ObjectStore;

use drive::Drive;
pub(crate) use encode::parquet_properties;

/// Everything the writer must know beyond the [`WriteSpec`].
#[derive(Debug, Clone)]
pub(crate) struct Target {
    /// The store, rooted at the table's folder.
    pub(crate) store: Arc<dyn ObjectStore>,
    /// The table's folder, where it is on this machine. Its files are then written in place and synced.
    pub(crate) local: Option<PathBuf>,
    /// What the columns are called in files and log. A column that is not listed is called there as it is here.
    pub(crate) columns: Vec<PhysicalColumn>,
}

/// What a column is called in files and log (column mapping).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PhysicalColumn {
    /// The name in the table's schema.
    pub(crate) logical: String,
    /// The name in files, partition values and statistics.
    pub(crate) physical: String,
    /// The parquet field id, where the table maps columns.
    pub(crate) field_id: Option<i32>,
}

/// Writes rows to new data files and waits until they are durable. No rows, no files.
///
/// Columns of `rows` are matched by name with the spec's; their types must be the spec's. Progress is
/// reported to the context after every batch and every row group.
///
/// Dropping the future gives the write up: encoders stop at their next column, files are removed (local ones at once,
/// objects by a task on the current runtime).
///
/// # Errors
/// The stream's, the store's, or [`ErrorKind::InvalidData`](duckrun_core::ErrorKind::InvalidData) for rows that the table
/// cannot hold. Every file of the call has been removed by then.
pub(crate) async fn write_files(
    cx: &RunContext,
    target: &Target,
    spec: &WriteSpec,
    rows: BatchStream,
) -> Result<Staged> {
    Drive::new(cx, target, spec, rows.schema())?.run(rows).await
}
