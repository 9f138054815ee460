//! Suite `rewrite`: changing rows of one data file, against the least that writing the file takes.
//!
//! What each subject is:
//!
//! - `ours`: `TableStore::rewrite` of a table of one file, row groups of 122,880 rows, with changes that were prepared before
//!   (the key join of a merge is not part of it), synced, no commit.
//! - `limit`: DuckDB's `COPY (select * from the file)` with the same codec, level and row groups, insertion order not kept; not
//!   synced. It changes nothing.
//!
//! The table and the changes are made by the first run and kept beside the generated input: count at least one warm-up.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{ArrayRef, Int8Array, Int64Array, RecordBatch, UInt32Array};
use arrow::compute::{concat_batches, take};
use arrow::datatypes::{DataType, Field, Schema};
use duckrun::core::{CHANGE_DELETE, CHANGE_UPDATE, FILE_INDEX, ROW_CHANGE, ROW_NUMBER, RewriteSpec, WriteSpec};
use duckrun::memory::{EffectiveLimit, Job as MemoryJob, plan};
use duckrun::{
    At, BatchStream, DeltaStore, FileOptions, Location, MemorySettings, Overwrite, RunContext, Session, TableStore,
};
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

use super::shared::runtime;
use super::write_subjects::limit_overwrite;
use super::{Case, Suite};
use crate::args::Args;
use crate::child::{Done, Job};
use crate::{Result, runner};

pub(super) const SUITE: Suite =
    Suite { name: "rewrite", about: "changing rows of one file, against COPY of the file", run, child };

/// Every so many rows change in the scattered cases.
const STEP: u64 = 100;

fn run(args: &Args) -> Result<()> {
    runner::run(SUITE.name, cases(args), args)
}

fn cases(args: &Args) -> Vec<Case> {
    let case =
        |name, about, rows| Case { name, about, subjects: &["ours", "limit"], codec: args.codec, rows, operations: 1 };
    let scattered = args.rows.div_ceil(STEP);
    vec![
        case("upsert", "1 % scattered rows get other values in all columns", args.rows),
        Case { subjects: &["ours"], ..case("upsert_compared", "the same, values compared first", args.rows) },
        Case { subjects: &["ours"], ..case("two_columns", "1 % scattered rows, two columns", args.rows) },
        Case { subjects: &["ours"], ..case("narrow", "1 % of the rows in one range, all columns", args.rows) },
        Case { subjects: &["ours"], ..case("idempotent", "1 % scattered rows get the values that they have", 0) },
        Case { subjects: &["ours"], ..case("delete", "1 % scattered rows go", args.rows - scattered) },
    ]
}

fn child(job: &Job) -> Result<Done> {
    match job.subject.as_str() {
        "limit" => limit_overwrite(job, None, false),
        "ours" => runtime(job)?.block_on(ours(job)),
        subject => Err(format!("there is no subject {subject}").into()),
    }
    .map(|()| Done::default())
}

async fn ours(job: &Job) -> Result<()> {
    let table = table(job).await?;
    let changes = changes(job, &table)?;
    // The table is the same for all runs: this one gets it as links.
    let (log, data) = (job.output.join("_delta_log"), table.join("_delta_log"));
    fs::create_dir_all(&log)?;
    for entry in fs::read_dir(&data)? {
        let entry = entry?;
        fs::hard_link(entry.path(), log.join(entry.file_name()))?;
    }
    let old = data_file(&table)?;
    let linked = job.output.join(old.file_name().ok_or("a data file without a name")?);
    fs::hard_link(&old, &linked)?;

    let store = DeltaStore::new(Location::local(&job.output)?);
    let at = store.snapshot(At::Latest).await?.ok_or("no table")?;
    let settings = MemorySettings { threads: Some(job.threads), ..MemorySettings::default() };
    let limit = EffectiveLimit::explicit(1 << 30, job.threads);
    let cx = RunContext::new(plan(&limit, &settings, MemoryJob::Write)?);
    let files = FileOptions { compression: job.codec.compression(), ..FileOptions::default() };
    let write = WriteSpec::new(at.schema(), vec![], files, at.properties());
    let skip_unchanged = matches!(job.case.as_str(), "idempotent" | "upsert_compared");
    let spec = RewriteSpec::new(write, at.files().await?.files, skip_unchanged);
    let batches = ParquetRecordBatchReaderBuilder::try_new(File::open(changes)?)?.with_batch_size(2_048).build()?;
    let schema = arrow::array::RecordBatchReader::schema(&batches);
    let stream = futures::stream::iter(
        batches.map(|batch| batch.map_err(|e| duckrun::Error::internal(e.to_string()))).collect::<Vec<_>>(),
    );
    let done = store.rewrite(&cx, &at, &spec, BatchStream::new(schema, stream)).await?;
    if job.case == "idempotent" && done.removed.len() + done.staged.files.len() > 0 {
        return Err("rows that did not change were written".into());
    }
    fs::remove_file(linked)?;
    fs::remove_dir_all(log)?;
    Ok(())
}

/// The only data file of a table.
fn data_file(table: &Path) -> Result<PathBuf> {
    let files = fs::read_dir(table)?.map(|e| Ok(e?.path())).collect::<Result<Vec<_>>>()?;
    let mut files = files.into_iter().filter(|p| p.extension().is_some_and(|e| e == "parquet"));
    Ok(files.next().ok_or("no data file")?)
}

/// The table that is rewritten.
async fn table(job: &Job) -> Result<PathBuf> {
    let name = format!("{}-table-{}", job.input.file_stem().and_then(|s| s.to_str()).unwrap_or("t"), job.codec.name());
    let root = job.input.with_file_name(name);
    let table = root.join("bench/lineitem");
    if !table.exists() {
        let lake = Session::open(&root).writable().await?;
        let files =
            FileOptions { compression: job.codec.compression(), target_file_size: u64::MAX, ..FileOptions::default() };
        let sql = format!("select * from read_parquet('{}')", job.input.display());
        let report = lake.model("bench.lineitem").sql(sql).strategy(Overwrite::default()).files(files).run().await?;
        report.version().ok_or_else(|| report.to_string())?;
    }
    Ok(table)
}

/// The changes of a case, as a parquet file.
fn changes(job: &Job, table: &Path) -> Result<PathBuf> {
    let path = table.join(format!("../changes-{}.parquet", job.case));
    if path.is_file() {
        return Ok(path);
    }
    let reader = ParquetRecordBatchReaderBuilder::try_new(File::open(data_file(table)?)?)?;
    let rows = u64::try_from(reader.metadata().file_metadata().num_rows())?;
    let source = reader.schema().clone();
    let chosen = |row: u64| match job.case.as_str() {
        "narrow" => (rows / 2..rows / 2 + rows / STEP).contains(&row),
        _ => row.is_multiple_of(STEP),
    };
    // New values are those of the row after, or of the same row where nothing is to change.
    let shift = u64::from(job.case != "idempotent");
    let (mut picked, mut numbers, mut first) = (Vec::new(), Vec::new(), 0);
    for batch in reader.build()? {
        let batch = batch?;
        let count = batch.num_rows() as u64;
        let here: Vec<u64> = (first..first + count).filter(|row| chosen(*row)).collect();
        let take_rows: UInt32Array = here.iter().map(|r| ((r - first + shift).min(count - 1)) as u32).collect();
        let columns =
            batch.columns().iter().map(|c| take(c, &take_rows, None)).collect::<std::result::Result<_, _>>()?;
        picked.push(RecordBatch::try_new(Arc::clone(&source), columns)?);
        numbers.extend(here.into_iter().map(|r| r as i64));
        first += count;
    }
    let values = concat_batches(&source, &picked)?;
    let kind = if job.case == "delete" { CHANGE_DELETE } else { CHANGE_UPDATE };
    let set: Vec<usize> = match job.case.as_str() {
        "delete" => vec![],
        "two_columns" => vec![source.index_of("l_quantity")?, source.index_of("l_shipmode")?],
        _ => (0..source.fields().len()).collect(),
    };
    let mut fields = vec![
        Arc::new(Field::new(FILE_INDEX, DataType::Int64, false)),
        Arc::new(Field::new(ROW_NUMBER, DataType::Int64, false)),
        Arc::new(Field::new(ROW_CHANGE, DataType::Int8, false)),
    ];
    let mut columns: Vec<ArrayRef> =
        vec![Arc::new(Int64Array::from(vec![0; numbers.len()])), Arc::new(Int8Array::from(vec![kind; numbers.len()]))];
    columns.insert(1, Arc::new(Int64Array::from(numbers)));
    fields.extend(set.iter().map(|c| Arc::clone(&source.fields()[*c])));
    columns.extend(set.iter().map(|c| Arc::clone(values.column(*c))));
    let batch = RecordBatch::try_new(Arc::new(Schema::new(fields)), columns)?;
    let mut writer = ArrowWriter::try_new(File::create(&path)?, batch.schema(), None)?;
    writer.write(&batch)?;
    writer.close()?;
    Ok(path)
}
