//! What a subject left on disk, counted by the parent from parquet footers and the Delta log, not by the subject itself.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use deltalake::DeltaTableBuilder;
use parquet::file::reader::{FileReader, SerializedFileReader};
use url::Url;

use crate::Result;

const LOG: &str = "_delta_log";

/// What is in an output folder.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Written {
    /// Rows that a reader sees: of the live files of a Delta table, of all files elsewhere.
    pub(crate) rows: u64,
    /// Data files on disk, live or not.
    pub(crate) files: u64,
    /// Bytes of the data files on disk.
    pub(crate) bytes: u64,
}

/// Counts what is in a folder. At most one Delta table, anywhere below it.
pub(crate) fn count(folder: &Path) -> Result<Written> {
    let mut found = Found::default();
    walk(folder, &mut found)?;
    let mut written = Written { files: found.files.len() as u64, ..Written::default() };
    for file in &found.files {
        written.bytes += fs::metadata(file)?.len();
    }
    let readable = match &found.table {
        Some(table) => live_files(table)?,
        None => found.files,
    };
    for file in readable {
        let rows = SerializedFileReader::new(File::open(&file)?)?.metadata().file_metadata().num_rows();
        written.rows += u64::try_from(rows)?;
    }
    Ok(written)
}

#[derive(Default)]
struct Found {
    files: Vec<PathBuf>,
    table: Option<PathBuf>,
}

fn walk(folder: &Path, found: &mut Found) -> Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.file_name().is_some_and(|name| name == LOG) {
            found.table = Some(folder.to_owned());
        } else if path.is_dir() {
            walk(&path, found)?;
        } else if path.extension().is_some_and(|ext| ext == "parquet") {
            found.files.push(path);
        }
    }
    Ok(())
}

/// The files of a table's newest version, as delta-rs reads the log.
pub(crate) fn live_files(table: &Path) -> Result<Vec<PathBuf>> {
    let url = Url::from_directory_path(table).map_err(|()| format!("{} is not absolute", table.display()))?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let opened = runtime.block_on(DeltaTableBuilder::from_url(url)?.load())?;
    let adds = opened.snapshot()?.log_data();
    Ok(adds.into_iter().map(|add| table.join(add.object_store_path().as_ref())).collect())
}
