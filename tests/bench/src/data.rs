//! The generated input: TPC-H `lineitem` as one parquet file, made once per number of rows and kept.
//!
//! A file under its final name is complete: it is written under another name and renamed.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::Instant;

use arrow::array::RecordBatchReader;
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_writer::ArrowWriterOptions;
use parquet::basic::Compression;
use parquet::file::properties::WriterProperties;
use tpchgen::generators::LineItemGenerator;
use tpchgen_arrow::LineItemArrow;

use crate::Result;

/// TPC-H `lineitem` at scale factor 1.
pub(crate) const DEFAULT_ROWS: u64 = 6_001_215;

/// A folder below cargo's target directory, which cargo marks with a `CACHEDIR.TAG`; without one, below the system's
/// temporary directory.
pub(crate) fn default_dir() -> PathBuf {
    let exe = std::env::current_exe().unwrap_or_default();
    let target = exe.ancestors().skip(1).find(|dir| dir.join("CACHEDIR.TAG").is_file());
    target.map_or_else(std::env::temp_dir, Path::to_path_buf).join("duckrun-bench")
}

/// The `lineitem` file with exactly this many rows; generated if it is not there yet.
pub(crate) fn lineitem(dir: &Path, rows: u64) -> Result<PathBuf> {
    let path = dir.join(format!("lineitem-{rows}.parquet"));
    if path.is_file() {
        return Ok(path);
    }
    fs::create_dir_all(dir)?;
    eprintln!("generating {} (once)", path.display());
    let start = Instant::now();
    let partial = dir.join(format!("lineitem-{rows}.{}.partial", std::process::id()));
    let written = generate(&partial, rows).and_then(|()| Ok(fs::rename(&partial, &path)?));
    if written.is_err() {
        // Best effort: the error that matters is the first one.
        let _ = fs::remove_file(&partial);
    }
    written?;
    eprintln!("generated {} MB in {:.0} s", fs::metadata(&path)?.len() / 1_000_000, start.elapsed().as_secs_f64());
    Ok(path)
}

fn generate(path: &Path, rows: u64) -> Result<()> {
    // Orders have one to seven lines, so a scale factor gives a number of rows only roughly: one per cent and a thousand
    // rows more, cut at the number asked for. The default is exact.
    let wanted = if rows == DEFAULT_ROWS { 1.0 } else { (rows as f64 * 1.01 + 1_000.0) / DEFAULT_ROWS as f64 };
    let batches = LineItemArrow::new(LineItemGenerator::new(wanted, 1, 1));
    let properties = WriterProperties::builder()
        .set_compression(Compression::SNAPPY)
        .set_max_row_group_row_count(Some(122_880))
        .build();
    // Without the Arrow schema in the footer every reader picks its own string type.
    let options = ArrowWriterOptions::new().with_properties(properties).with_skip_arrow_metadata(true);
    let mut writer = ArrowWriter::try_new_with_options(File::create(path)?, batches.schema(), options)?;
    let mut left = usize::try_from(rows)?;
    for batch in batches {
        let batch = batch?;
        let take = left.min(batch.num_rows());
        writer.write(&batch.slice(0, take))?;
        left -= take;
        if left == 0 {
            break;
        }
    }
    if left > 0 {
        return Err(format!("the generator ended {left} rows short of {rows}").into());
    }
    writer.close()?;
    Ok(())
}
