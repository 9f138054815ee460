//! The case `scan` of the suite `stores`: every column of all rows of parquet files, from the disk and through object stores.
//!
//! - `limit`: DuckDB alone on the local files, with the same threads.
//! - `local`: a query of ours over the same folder.
//! - `store`: through an `object_store`: the folder behind the trait, as fast as the disk.
//! - `network`: the same with 20 ms of latency a request and 100 MB/s a stream.
//! - `s3`: over HTTP from moto, which holds copies of the files. What moto itself uses is not counted: it is another process, and
//!   it shares the processors.

use std::fs;
use std::path::Path as FsPath;
use std::sync::Arc;
use std::time::Duration;

use duckrun::sources::Parquet;
use duckrun::{MemorySettings, Session, StorageOptions, StoreRoot};
use duckrun_testkit::{CountingStore, Emulated, Emulator};
use object_store::ObjectStoreExt;
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use url::Url;

use super::Case;
use super::shared::{quoted, runtime, session};
use super::sources::{expect, first_count, plain, split};
use crate::args::Args;
use crate::child::{self, Asked, Done, Job, TableFiles};
use crate::stats::Summary;
use crate::written::Written;
use crate::{Result, control, data, runner};

/// Files that the rows are in.
const FILES: u64 = 32;
/// Where the parent tells the child of the emulator, in the job's output folder.
const EMULATOR: &str = "emulator.json";
/// The folder of the files in the emulated bucket.
const FOLDER: &str = "scan";

/// Measures the subjects in turns, and prints what each asked of its store.
pub(super) fn run(suite: &'static str, args: &Args) -> Result<()> {
    let case = Case {
        name: "scan",
        about: "every column of all rows of parquet files",
        subjects: &["limit", "local", "store", "network", "s3"],
        codec: args.codec,
        rows: 0,
        operations: 1,
    };
    let mut subjects = runner::chosen(case.subjects, args);
    let folder = std::path::absolute(&args.data)?;
    let input = data::lineitem(&folder, args.rows)?;
    let mut job = Job {
        suite: suite.to_owned(),
        case: case.name.to_owned(),
        subject: String::new(),
        input,
        output: folder.join(format!("out-{}-scan", std::process::id())),
        codec: args.codec,
        threads: args.threads,
        files: TableFiles::default(),
        limit: None,
        no_floors: false,
        watched: false,
    };
    let files = split(&job, "parquet", FILES)?.0;
    let emulator = match subjects.contains(&"s3").then(|| Emulator::start(Emulated::S3, &folder.join("emulators"))) {
        Some(Ok(emulator)) => {
            upload(args, &emulator, &files)?;
            Some(emulator)
        }
        Some(Err(why)) => {
            println!("skipped: S3 cannot be emulated here: {why}");
            subjects.retain(|subject| *subject != "s3");
            None
        }
        None => None,
    };
    let speedup = control::two_thread_speedup();
    let runs = runner::rounds(&subjects, args, |subject, _| {
        job.subject = subject.to_owned();
        fs::create_dir_all(&job.output)?;
        if let Some(emulator) = &emulator {
            let told = [emulator.url(FOLDER), emulator.endpoint()];
            fs::write(job.output.join(EMULATOR), serde_json::to_string(&told)?)?;
        }
        let figures = child::spawn(&job);
        fs::remove_dir_all(&job.output)?;
        Ok((figures?, Written::default()))
    })?;
    let summaries: Vec<Summary> =
        subjects.iter().zip(&runs).filter_map(|(name, runs)| Summary::new(suite, &case, name, runs, speedup)).collect();
    runner::print(&case, &summaries, args.json)?;
    let size: u64 = fs::read_dir(&files)?.map(|f| Ok::<_, crate::Error>(f?.metadata()?.len())).sum::<Result<u64>>()?;
    for (subject, runs) in subjects.iter().zip(&runs) {
        if let Some(Asked { requests, bytes }) = runs.last().and_then(|(figures, _)| figures.done.asked) {
            println!("  {subject}: {requests} requests for {} of {} MB", bytes / 1_000_000, size / 1_000_000);
        }
    }
    Ok(())
}

fn upload(args: &Args, emulator: &Emulator, files: &FsPath) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(args.threads).enable_all().build()?;
    let root = StoreRoot::open(&emulator.url(FOLDER), &emulator.options("secret"))?;
    runtime.block_on(async {
        for file in fs::read_dir(files)? {
            let file = file?;
            let key = root.prefix().clone().join(file.file_name().to_string_lossy().as_ref());
            root.store().put(&key, fs::read(file.path())?.into()).await?;
        }
        Ok(())
    })
}

/// One subject's scan.
pub(super) fn child(job: &Job) -> Result<Done> {
    let (folder, rows) = split(job, "parquet", FILES)?;
    let sums = |from: &str| {
        format!(
            "select count(*), sum(l_orderkey), sum(l_extendedprice), max(l_comment), max(l_shipdate), sum(l_partkey), \
             max(l_shipinstruct), sum(l_quantity), max(l_shipmode), sum(l_suppkey), sum(l_discount), sum(l_tax), \
             max(l_returnflag), max(l_commitdate), max(l_receiptdate), sum(l_linenumber), max(l_linestatus) from {from}"
        )
    };
    if job.subject == "limit" {
        let from = format!("read_parquet({})", quoted(&folder.join("*.parquet"))?);
        expect(plain(job)?.query_row(&sums(&from), [], |row| row.get(0))?, rows)?;
        return Ok(Done::default());
    }
    runtime(job)?.block_on(async {
        if job.subject == "local" {
            let reader = session(job).await?.sql(sums("files")).source("files", Parquet::folder(&folder));
            expect(first_count(&reader.collect().await?), rows)?;
            return Ok(Done::default());
        }
        let (store, url, prefix) = match job.subject.as_str() {
            "s3" => {
                let told = fs::read_to_string(job.output.join(EMULATOR))?;
                let [url, endpoint]: [String; 2] = serde_json::from_str(&told)?;
                let options = StorageOptions::default()
                    .with("allow_http", "true")
                    .with("aws_endpoint", endpoint)
                    .with("aws_region", "us-east-1")
                    .with("aws_access_key_id", "somebody")
                    .with("aws_secret_access_key", "secret");
                let root = StoreRoot::open(&url, &options)?;
                (CountingStore::new(root.store().clone()), root.url().clone(), root.prefix().clone())
            }
            near_or_far => {
                let disk = CountingStore::new(LocalFileSystem::new_with_prefix(&folder)?);
                let store = match near_or_far {
                    "network" => disk.with_network(Duration::from_millis(20), 100_000_000),
                    _ => disk,
                };
                (store, Url::parse("mem://lake/")?, Path::default())
            }
        };
        let memory = MemorySettings { threads: Some(job.threads), ..MemorySettings::default() };
        let lake = Session::open_in(url.clone(), Arc::new(store.clone()), prefix).memory(memory).await?;
        store.take();
        let reader = lake.sql(sums("files")).source("files", Parquet::folder(url.as_str()));
        expect(first_count(&reader.collect().await?), rows)?;
        let asked = store.take();
        Ok(Done { asked: Some(Asked { requests: asked.total(), bytes: asked.bytes_read }), ..Done::default() })
    })
}
