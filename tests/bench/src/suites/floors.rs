//! Suite `floors`: what the floors of a memory plan have to be, measured on the machine at hand.
//!
//! Every probe is a process of its own that looks at its anonymous memory (what no kernel can take back) while it works:
//!
//! - `process`: a session that answers `select 1`: what is there before any job.
//! - `sort`: DuckDB sorts 20 million rows of 16 bytes into a table, spilling, with one thread and with two, at a rising
//!   `memory_limit`: the first that is enough, and what was held beyond it.
//! - `stream`: the sorted rows are pulled as Arrow batches under a `memory_limit` of 200 MiB: what is held beyond it.
//! - `writer`: six million rows of `lineitem` are overwritten with one writer and with two.
//! - `delta_rs`: delta-rs's own merge of 1 % of `--rows` rows.

use std::path::PathBuf;
use std::sync::Arc;

use duckdb::Connection;
use duckrun::memory::MIB;
use duckrun::{DeltaRsExecutor, MemorySettings, Merge, Overwrite, Session};
use serde::Serialize;

use super::Suite;
use super::shared::{files, quoted, runtime, session};
use crate::args::Args;
use crate::child::{self, Done, Ended, Job, Limit, TableFiles};
use crate::{Result, data, runner};

pub(super) const SUITE: Suite =
    Suite { name: "floors", about: "the least memory that each part of a job needs", run, child };

/// Values of DuckDB's `memory_limit` that are tried, in MiB.
const LIMITS: &[u64] = &[40, 60, 80, 100, 125, 150, 200, 250, 300, 400];
/// The `memory_limit` of the probe `stream`, in MiB.
const STREAM_LIMIT: u64 = 200;
const SORTED: &str = "select hash(range) as h, range as r from range(20000000)";

/// What a probe found.
#[derive(Debug, Serialize)]
struct Found {
    suite: &'static str,
    probe: String,
    subject: String,
    /// The limit that DuckDB was given, in MiB, where the probe is about it.
    limit_mb: Option<u64>,
    /// Whether it was enough.
    completed: bool,
    /// The highest anonymous memory, in MiB.
    anonymous_mb: Option<f64>,
}

fn run(args: &Args) -> Result<()> {
    let wanted = |probe: &str| args.case.as_deref().is_none_or(|case| case == probe);
    if wanted("process") {
        print(&probe(args, "process", "session", 2, None)?, args.json)?;
    }
    for threads in [1, 2].into_iter().filter(|_| wanted("sort")) {
        for limit in LIMITS {
            let found = probe(args, "sort", &format!("{threads} threads"), threads, Some(*limit))?;
            print(&found, args.json)?;
            if found.completed {
                break;
            }
        }
    }
    if wanted("stream") {
        print(&probe(args, "stream", "2 threads", 2, Some(STREAM_LIMIT))?, args.json)?;
    }
    for writers in [1, 2].into_iter().filter(|_| wanted("writer")) {
        print(&probe(args, "writer", &format!("{writers} writers"), writers, None)?, args.json)?;
    }
    if wanted("delta_rs") {
        print(&probe(args, "delta_rs", "merge of 1 %", 2, None)?, args.json)?;
    }
    Ok(())
}

/// Runs one probe in a child; `number` is its threads, or its writers.
fn probe(args: &Args, probe: &str, subject: &str, number: usize, limit_mb: Option<u64>) -> Result<Found> {
    let dir = std::path::absolute(&args.data)?;
    let input = match probe {
        "writer" | "delta_rs" => data::lineitem(&dir, args.rows)?,
        _ => PathBuf::new(),
    };
    let output = dir.join(format!("out-{}-{probe}", std::process::id()));
    std::fs::create_dir_all(&output)?;
    let job = Job {
        suite: SUITE.name.to_owned(),
        case: probe.to_owned(),
        subject: subject.to_owned(),
        input,
        output: output.clone(),
        codec: args.codec,
        threads: number,
        files: TableFiles::default(),
        limit: limit_mb.map(|mib| Limit::Setting(mib * MIB)),
        no_floors: false,
        watched: true,
    };
    let ended = child::launch(&job, None);
    runner::done_with(&output, args.keep)?;
    let (completed, anonymous) = match ended? {
        Ended::Well(figures) => (figures.done.refused.is_none(), figures.anonymous),
        Ended::Killed => (false, None),
        Ended::Badly(why) => return Err(format!("{probe}, {subject}: {why}").into()),
    };
    Ok(Found {
        suite: SUITE.name,
        probe: probe.to_owned(),
        subject: subject.to_owned(),
        limit_mb,
        completed,
        anonymous_mb: anonymous.map(|bytes| bytes as f64 / MIB as f64),
    })
}

fn print(found: &Found, json: bool) -> Result<()> {
    if json {
        println!("{}", serde_json::to_string(found)?);
        return Ok(());
    }
    let limit = found.limit_mb.map_or(String::new(), |mib| format!(" memory_limit {mib} MiB:"));
    let held = found.anonymous_mb.map_or("-".to_owned(), |mib| format!("{mib:.0}"));
    let outcome = if found.completed { "completed" } else { "not enough" };
    println!("{:<9} {:<14}{limit} {outcome}, {held} MiB held", found.probe, found.subject);
    Ok(())
}

fn child(job: &Job) -> Result<Done> {
    match job.case.as_str() {
        "process" => runtime(job)?.block_on(async {
            session(job).await?.sql("select 1").to_table().await?;
            Ok(Done::default())
        }),
        "sort" => sort(job),
        "stream" => stream(job),
        "writer" => runtime(job)?.block_on(async {
            let memory = MemorySettings { writers: Some(job.threads), ..MemorySettings::with_limit(1024 * MIB) };
            let session = Session::open(&job.output).writable().memory(memory).await?;
            overwrite(job, &session, "a.t").await
        }),
        "delta_rs" => runtime(job)?.block_on(async {
            let executor = Arc::new(DeltaRsExecutor::default());
            let session = Session::open(&job.output).writable().executor(executor).await?;
            overwrite(job, &super::shared::session(job).await?, "a.t").await?;
            let sql = format!(
                "select * replace (reverse(l_comment) as l_comment) from read_parquet({}) \
                 where hash(l_orderkey, l_linenumber) % 100 = 0",
                quoted(&job.input)?
            );
            let merge = Merge::on(["l_orderkey", "l_linenumber"]);
            let model = session.model("a.t").sql(sql).strategy(merge);
            model.run().await?.committed().map(drop)?;
            Ok(Done::default())
        }),
        other => Err(format!("there is no probe {other}").into()),
    }
}

async fn overwrite(job: &Job, session: &Session, table: &str) -> Result<Done> {
    let sql = format!("select * from read_parquet({})", quoted(&job.input)?);
    session
        .model(table)
        .sql(sql)
        .strategy(Overwrite::default())
        .files(files(job))
        .run()
        .await?
        .committed()
        .map(drop)?;
    Ok(Done::default())
}

/// A DuckDB with the job's threads and limit, which spills into its folder.
fn engine(job: &Job) -> Result<Connection> {
    let Some(Limit::Setting(limit)) = job.limit else { return Err("this probe needs a limit".into()) };
    let conn = Connection::open_in_memory()?;
    conn.execute_batch(&format!(
        "set memory_limit = '{} MiB'; set threads = {}; set temp_directory = {}; set preserve_insertion_order = false",
        limit / MIB,
        job.threads,
        quoted(&job.output)?
    ))?;
    Ok(conn)
}

/// `refused` where DuckDB says that its memory is too little.
fn enough<T>(done: duckdb::Result<T>) -> Result<Done> {
    match done {
        Ok(_) => Ok(Done::default()),
        Err(e) if e.to_string().contains("Out of Memory") => {
            Ok(Done { refused: Some(e.to_string()), ..Done::default() })
        }
        Err(e) => Err(e.into()),
    }
}

fn sort(job: &Job) -> Result<Done> {
    enough(engine(job)?.execute_batch(&format!("create table sorted as {SORTED} order by h")))
}

fn stream(job: &Job) -> Result<Done> {
    let conn = engine(job)?;
    let mut statement = conn.prepare(&format!("{SORTED} order by h"))?;
    let mut rows = 0;
    for batch in statement.stream_arrow([])? {
        rows += batch?.num_rows();
    }
    match rows {
        20_000_000 => Ok(Done::default()),
        _ => Err(format!("{rows} rows came").into()),
    }
}
