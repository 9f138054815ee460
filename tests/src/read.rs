//! Reading tables back, as rows of text and as the files on disk.

use std::path::{Path, PathBuf};

use duckrun::arrow::array::{Array, AsArray};
use duckrun::arrow::datatypes::Int64Type;
use duckrun::arrow::util::display::{ArrayFormatter, FormatOptions};
use duckrun::{Error, Reader, Result};

/// The rows of a query as text, one string a row, columns joined by `|`, in the query's order.
///
/// # Errors
/// The query's.
pub async fn rows(query: Reader) -> Result<Vec<String>> {
    let options = FormatOptions::new().with_null("NULL");
    let mut out = Vec::new();
    for batch in query.collect().await? {
        let formatters = batch
            .columns()
            .iter()
            .map(|c| ArrayFormatter::try_new(c.as_ref(), &options))
            .collect::<std::result::Result<Vec<_>, _>>()
            .map_err(|e| Error::internal(e.to_string()))?;
        for row in 0..batch.num_rows() {
            out.push(formatters.iter().map(|f| f.value(row).to_string()).collect::<Vec<_>>().join("|"));
        }
    }
    Ok(out)
}

/// The first column of a query, which must be a 64-bit integer without NULLs.
///
/// # Errors
/// The query's, or another type.
pub async fn column_i64(query: Reader) -> Result<Vec<i64>> {
    let mut out = Vec::new();
    for batch in query.collect().await? {
        let column = batch
            .column(0)
            .as_primitive_opt::<Int64Type>()
            .filter(|c| c.null_count() == 0)
            .ok_or_else(|| Error::invalid("the first column is not a BIGINT without NULLs"))?;
        out.extend(column.values().iter().copied());
    }
    Ok(out)
}

/// All files below a folder that are not part of a Delta log, whatever their names; hidden ones included.
pub fn data_files(table: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut open = vec![table.to_owned()];
    while let Some(folder) = open.pop() {
        for entry in std::fs::read_dir(&folder).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() {
                if path.file_name().is_none_or(|n| n != "_delta_log") {
                    open.push(path);
                }
            } else {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

/// The versions whose commits are in a local table's log, ascending.
pub fn log_versions(table: &Path) -> Vec<u64> {
    let mut versions: Vec<u64> = std::fs::read_dir(table.join("_delta_log"))
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|e| e.file_name().to_str()?.strip_suffix(".json")?.parse().ok())
        .collect();
    versions.sort_unstable();
    versions
}
