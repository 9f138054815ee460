//! The built-in formats: what DuckDB reads by itself, Arrow IPC, and the tables of Delta and Iceberg.

mod arrow;
mod csv;
mod delta;
mod iceberg;
mod json;
mod parquet;

use std::borrow::Cow;
use std::sync::Arc;

use duckrun_core::{Error, ErrorKind, Result};

pub use arrow::ArrowFormat;
pub use csv::CsvFormat;
pub use delta::{Delta, DeltaFormat};
pub use iceberg::{Iceberg, IcebergFormat};
pub use json::{JsonFormat, JsonLayout};
pub use parquet::ParquetFormat;

use crate::{Format, ListedFile, Scan};

/// Every built-in format with its defaults.
pub(crate) fn all() -> Vec<Arc<dyn Format>> {
    vec![
        Arc::new(CsvFormat::default()),
        Arc::new(CsvFormat::tsv()),
        Arc::new(ParquetFormat::default()),
        Arc::new(JsonFormat::default()),
        Arc::new(ArrowFormat::default()),
        Arc::new(DeltaFormat),
        Arc::new(IcebergFormat::default()),
    ]
}

/// The files that hold something: DuckDB 2.0 sniffs a schema from the first file, and one of zero bytes (an upload that has
/// just begun, a day without data) breaks that for all others.
fn nonempty<'a>(scan: &Scan<'a>, schema_is_stated: bool) -> Result<Cow<'a, [ListedFile]>> {
    let empty = scan.files.iter().filter(|f| f.size == 0).count();
    match scan.files {
        [only] if empty == 1 && !schema_is_stated => Err(Error::new(
            ErrorKind::InvalidData,
            format!(
                "{} is empty (0 bytes), so that it has no schema: state its columns, or leave it out",
                scan.called(&only.path)
            ),
        )),
        [first, ..] if empty == scan.files.len() && !schema_is_stated => Err(Error::new(
            ErrorKind::InvalidData,
            format!(
                "all {empty} files of {} are empty, such as {}: state the columns",
                scan.location,
                scan.called(&first.path)
            ),
        )),
        files if empty == 0 || empty == files.len() => Ok(Cow::Borrowed(files)),
        files => Ok(files.iter().filter(|f| f.size > 0).cloned().collect()),
    }
}
