//! The subjects of suite `write`; see there for what each stands for. All of this runs in child processes.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::sync::Arc;

use deltalake::DeltaTable;
use deltalake::datafusion::prelude::{ParquetReadOptions, SessionContext};
use deltalake::operations::write::WriteBuilder;
use deltalake::protocol::SaveMode;
use duckdb::Connection;
use duckrun::{Append, FileOptions, Overwrite, Report};

use super::shared::{copy, datafusion, delta_table, files, quoted, runtime, session, utf8, writer_properties};
use super::write::APPENDS;
use crate::Result;
use crate::child::Job;

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
        delta_rs_write(
            delta_table(&job.output).await?,
            job,
            &context,
            input.into_unoptimized_plan(),
            SaveMode::Overwrite,
        )?
        .with_partition_columns(partition_by)
        .await?;
        Ok(())
    })
}

pub(super) fn delta_rs_append(job: &Job) -> Result<()> {
    runtime(job)?.block_on(async {
        let context = datafusion(job);
        let mut table = delta_table(&job.output).await?;
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
    let snapshot = table.snapshot().ok().map(|state| state.snapshot().clone());
    Ok(WriteBuilder::new(table.log_store(), snapshot)
        .with_input_plan(input)
        .with_session_state(Arc::new(context.state()))
        .with_save_mode(mode)
        .with_writer_properties(writer_properties(job)?))
}

/// Nothing but a commit will do: there is nobody to be in conflict with.
pub(super) fn committed(report: &Report) -> Result<()> {
    report.version().map(|_| ()).ok_or_else(|| report.to_string().into())
}

/// The query of the overwrites.
fn query(job: &Job) -> Result<String> {
    Ok(format!("select * from read_parquet({})", quoted(&job.input)?))
}
