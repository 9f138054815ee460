//! What the subjects of all suites share: how each library is set up for a job, with the same threads, codec and row groups.

use std::path::Path;

use deltalake::DeltaTable;
use deltalake::datafusion::prelude::SessionContext;
use deltalake::delta_datafusion::create_session;
use duckrun::memory::{Floors, MIB};
use duckrun::{FileOptions, MemorySettings, Session, SessionBuilder};
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::WriterProperties;
use tokio::runtime::Runtime;
use url::Url;

use crate::Result;
use crate::child::{Codec, Job, Limit};

/// A session over the job's output folder.
pub(super) async fn session(job: &Job) -> Result<Session> {
    Ok(session_builder(job).await?)
}

/// The same before it is opened.
pub(super) fn session_builder(job: &Job) -> SessionBuilder {
    Session::open(&job.output).writable().memory(memory_settings(job))
}

/// The job's threads and limit; everything else is detected.
fn memory_settings(job: &Job) -> MemorySettings {
    let limit = match job.limit {
        Some(Limit::Setting(bytes)) => Some(bytes),
        Some(Limit::Group(_)) | None => None,
    };
    let mut settings = MemorySettings { threads: Some(job.threads), limit, ..MemorySettings::default() };
    if job.no_floors {
        // The least that settings may say, or that is not plainly absurd.
        settings.floors = Floors {
            process: 40 * MIB,
            engine: 32 * MIB,
            reserve: 16 * MIB,
            writer: 16 * MIB,
            delta_rs: 0,
            delta_rs_merge: 0,
        };
    }
    settings
}

pub(super) fn files(job: &Job) -> FileOptions {
    FileOptions { compression: job.codec.compression(), ..FileOptions::default() }
}

pub(super) fn runtime(job: &Job) -> Result<Runtime> {
    Ok(tokio::runtime::Builder::new_multi_thread().worker_threads(job.threads).enable_all().build()?)
}

pub(super) async fn delta_table(folder: &Path) -> Result<DeltaTable> {
    let url = Url::from_directory_path(folder).map_err(|()| "the table folder must be absolute")?;
    Ok(DeltaTable::try_from_url(url).await?)
}

pub(super) fn datafusion(job: &Job) -> SessionContext {
    let context: SessionContext = create_session().into();
    context.state_ref().write().config_mut().options_mut().execution.target_partitions = job.threads;
    context
}

pub(super) fn writer_properties(job: &Job) -> Result<WriterProperties> {
    let codec = match job.codec {
        Codec::Zstd => Compression::ZSTD(ZstdLevel::try_new(Codec::ZSTD_LEVEL)?),
        Codec::Snappy => Compression::SNAPPY,
    };
    let rows = FileOptions::default().row_group_rows;
    Ok(WriterProperties::builder().set_compression(codec).set_max_row_group_row_count(Some(rows)).build())
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

pub(super) fn utf8(path: &Path) -> Result<&str> {
    path.to_str().ok_or_else(|| format!("{} is not UTF-8", path.display()).into())
}
