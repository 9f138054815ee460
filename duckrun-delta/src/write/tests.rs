//! What the writer promises, against parquet's own reader and brute force.

mod failures;
mod layout;
mod statistics;

use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, RecordBatch};
use arrow::datatypes::{DataType, Field, Schema};
use duckrun_core::{BatchStream, FileOptions, Result, RunContext, Staged, WriteSpec};
use duckrun_memory::{EffectiveLimit, Job, MemoryPlan, MemorySample, MemorySettings, plan};
use object_store::local::LocalFileSystem;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

use super::{Target, write_files};

/// A plan that knows nothing of this machine.
fn memory(limit: u64, writers: usize) -> MemoryPlan {
    let settings = MemorySettings { writers: Some(writers), ..MemorySettings::with_limit(limit) };
    plan(&EffectiveLimit::detect(&MemorySample::default(), &settings), &settings, Job::Write).unwrap()
}

fn context() -> RunContext {
    RunContext::new(memory(2 << 30, 3))
}

fn local(folder: &Path) -> Target {
    // The store is rooted at a folder that the table may not have made yet.
    let store = Arc::new(LocalFileSystem::new());
    Target { store, local: Some(folder.to_owned()), columns: vec![] }
}

fn spec(schema: &Arc<Schema>, by: &[&str], files: FileOptions) -> WriteSpec {
    WriteSpec::new(Arc::clone(schema), by.iter().map(|s| (*s).to_owned()).collect(), files, BTreeMap::new())
}

fn options(rows: usize) -> FileOptions {
    FileOptions { row_group_rows: rows, sync: false, ..FileOptions::default() }
}

async fn write(target: &Target, spec: &WriteSpec, batches: Vec<RecordBatch>) -> Result<Staged> {
    let rows = BatchStream::from_batches(Arc::clone(&spec.schema), batches);
    write_files(&context(), target, spec, rows).await
}

/// The path on disk of a path in the log.
fn on_disk(folder: &Path, log: &str) -> std::path::PathBuf {
    folder.join(percent_encoding::percent_decode_str(log).decode_utf8().unwrap().as_ref())
}

fn read(path: &Path) -> Vec<RecordBatch> {
    let reader = ParquetRecordBatchReaderBuilder::try_new(File::open(path).unwrap()).unwrap();
    reader.with_batch_size(1 << 20).build().unwrap().map(|b| b.unwrap()).collect()
}

/// Every file below a folder, temporary ones included.
fn files_below(folder: &Path) -> Vec<std::path::PathBuf> {
    let Ok(entries) = std::fs::read_dir(folder) else { return vec![] };
    let paths = entries.map(|e| e.unwrap().path());
    paths.flat_map(|p| if p.is_dir() { files_below(&p) } else { vec![p] }).collect()
}

fn numbers(from: i64, to: i64) -> (Arc<Schema>, RecordBatch) {
    let schema = Arc::new(Schema::new(vec![Field::new("n", DataType::Int64, true)]));
    let column: ArrayRef = Arc::new((from..to).collect::<Int64Array>());
    (Arc::clone(&schema), RecordBatch::try_new(schema, vec![column]).unwrap())
}
