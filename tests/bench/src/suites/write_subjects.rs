//! The subjects of suite `write`; see there for what each stands for. All of this runs in child processes.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::Path;
use std::sync::Arc;

use deltalake::DeltaTable;
use deltalake::datafusion::prelude::{ParquetReadOptions, SessionContext};
use deltalake::delta_datafusion::create_session;
use deltalake::operations::write::WriteBuilder;
use deltalake::protocol::SaveMode;
use duckdb::Connection;
use duckrun::{Append, FileOptions, MemorySettings, Overwrite, Report, Session};
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::WriterProperties;
use tokio::runtime::Runtime;
use url::Url;

use super::write::APPENDS;
use crate::Result;
use crate::child::{Codec, Job};

/// The one row of the small appends, in words that DuckDB and DataFusion share.
const ONE_ROW: &str = "select cast(1 as bigint) as id, 'one' as name, date '2026-01-01' as day";

pub(super) fn ours_overwrite(job: &Job, partition_by: Option<&str>) -> Result<()> {
    runtime(job)?.block_on(async {
        let mut model = session(job)
            .await?
            .model("bench.lineitem")
            .sql(query(job)?)
            .strategy(Overwrite::default())
            .files(files(job));
        if let Some(column) = partition_by {
            model = model.partition_by([column]);
        }
        committed(&model.run().await?)
    })
}

pub(super) fn ours_append(job: &Job, synced: bool) -> Result<()> {
    runtime(job)?.block_on(async {
        let session = session(job).await?;
        for _ in 0..APPENDS {
            let files = FileOptions { sync: synced, ..files(job) };
            let model = session.model("bench.small").sql(ONE_ROW).strategy(Append::default()).files(files);
            committed(&model.run().await?)?;
        }
        Ok(())
    })
}

pub(super) fn limit_overwrite(job: &Job, partition_by: Option<&str>, ordered: bool) -> Result<()> {
    let db = Connection::open_in_memory()?;
    db.execute_batch(&format!("set threads = {}; set preserve_insertion_order = {ordered}", job.threads))?;
    let (target, partition) = match partition_by {
        // PARTITION_BY wants a folder of its own.
        Some(column) => (job.output.join("data"), format!(", partition_by ({column})")),
        None => (job.output.join("data.parquet"), String::new()),
    };
    db.execute_batch(&copy(job, &query(job)?, &target, &partition)?)?;
    Ok(())
}

/// What a commit of one row costs without a table format: a parquet file, and a log entry that only one writer can create.
pub(super) fn limit_append(job: &Job, synced: bool) -> Result<()> {
    let db = Connection::open_in_memory()?;
    db.execute_batch(&format!("set threads = {}", job.threads))?;
    let log = job.output.join("log");
    fs::create_dir_all(&log)?;
    for i in 0..APPENDS {
        let target = job.output.join(format!("{i}.parquet"));
        db.execute_batch(&copy(job, ONE_ROW, &target, "")?)?;
        let mut entry = OpenOptions::new().write(true).create_new(true).open(log.join(format!("{i:020}.json")))?;
        writeln!(entry, "{{\"add\":{{\"path\":\"{i}.parquet\",\"size\":{}}}}}", fs::metadata(&target)?.len())?;
        if synced {
            File::open(&target)?.sync_all()?;
            File::open(&job.output)?.sync_all()?;
            entry.sync_all()?;
            File::open(&log)?.sync_all()?;
        }
    }
    Ok(())
}

pub(super) fn delta_rs_overwrite(job: &Job, partition_by: Option<&str>) -> Result<()> {
    runtime(job)?.block_on(async {
        let context = datafusion(job);
        let input = context.read_parquet(utf8(&job.input)?, ParquetReadOptions::default()).await?;
        delta_rs_write(delta_table(job).await?, job, &context, input.into_unoptimized_plan(), SaveMode::Overwrite)?
            .with_partition_columns(partition_by)
            .await?;
        Ok(())
    })
}

pub(super) fn delta_rs_append(job: &Job) -> Result<()> {
    runtime(job)?.block_on(async {
        let context = datafusion(job);
        let mut table = delta_table(job).await?;
        for _ in 0..APPENDS {
            let input = context.sql(ONE_ROW).await?.into_unoptimized_plan();
            table = delta_rs_write(table, job, &context, input, SaveMode::Append)?.await?;
        }
        Ok(())
    })
}

fn delta_rs_write(
    table: DeltaTable,
    job: &Job,
    context: &SessionContext,
    input: deltalake::datafusion::logical_expr::LogicalPlan,
    mode: SaveMode,
) -> Result<WriteBuilder> {
    let codec = match job.codec {
        Codec::Zstd => Compression::ZSTD(ZstdLevel::try_new(Codec::ZSTD_LEVEL)?),
        Codec::Snappy => Compression::SNAPPY,
    };
    let properties = WriterProperties::builder()
        .set_compression(codec)
        .set_max_row_group_row_count(Some(FileOptions::default().row_group_rows))
        .build();
    let snapshot = table.snapshot().ok().map(|state| state.snapshot().clone());
    Ok(WriteBuilder::new(table.log_store(), snapshot)
        .with_input_plan(input)
        .with_session_state(Arc::new(context.state()))
        .with_save_mode(mode)
        .with_writer_properties(properties))
}

async fn delta_table(job: &Job) -> Result<DeltaTable> {
    let url = Url::from_directory_path(&job.output).map_err(|()| "the output folder must be absolute")?;
    Ok(DeltaTable::try_from_url(url).await?)
}

fn datafusion(job: &Job) -> SessionContext {
    let context: SessionContext = create_session().into();
    context.state_ref().write().config_mut().options_mut().execution.target_partitions = job.threads;
    context
}

/// Nothing but a commit will do: there is nobody to be in conflict with.
pub(super) fn committed(report: &Report) -> Result<()> {
    report.version().map(|_| ()).ok_or_else(|| report.to_string().into())
}

pub(super) async fn session(job: &Job) -> Result<Session> {
    let memory = MemorySettings { threads: Some(job.threads), ..MemorySettings::default() };
    Ok(Session::open(&job.output).writable().memory(memory).await?)
}

pub(super) fn files(job: &Job) -> FileOptions {
    FileOptions { compression: job.codec.compression(), ..FileOptions::default() }
}

pub(super) fn runtime(job: &Job) -> Result<Runtime> {
    Ok(tokio::runtime::Builder::new_multi_thread().worker_threads(job.threads).enable_all().build()?)
}

/// The query of the overwrites.
fn query(job: &Job) -> Result<String> {
    Ok(format!("select * from read_parquet({})", quoted(&job.input)?))
}

/// DuckDB's COPY with the codec, level and row groups that duckrun's defaults have.
pub(super) fn copy(job: &Job, query: &str, target: &Path, more: &str) -> Result<String> {
    let level = match job.codec {
        Codec::Zstd => format!(", compression_level {}", Codec::ZSTD_LEVEL),
        Codec::Snappy => String::new(),
    };
    Ok(format!(
        "copy ({query}) to {} (format parquet, compression {}{level}, row_group_size {}{more})",
        quoted(target)?,
        job.codec.name(),
        FileOptions::default().row_group_rows,
    ))
}

pub(super) fn quoted(path: &Path) -> Result<String> {
    Ok(format!("'{}'", utf8(path)?.replace('\'', "''")))
}

fn utf8(path: &Path) -> Result<&str> {
    path.to_str().ok_or_else(|| format!("{} is not UTF-8", path.display()).into())
}
