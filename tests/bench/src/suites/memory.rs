//! Suite `memory`: jobs on data of many times the memory limit, each in a memory group of the kernel with exactly that limit.
//!
//! Nothing tells the subject how much it may take: it detects the limit of its group, plans, and must stay below it, or the
//! kernel kills it. Data are rows of `lineitem`, counted at [`ROW_BYTES`] each in Arrow: `--times` limits of them.
//!
//! - `overwrite`: from a parquet file into a new table.
//! - `append`: the same rows once more, to a table of as many.
//! - `merge`: one row in five comes in, a tenth of those new, scattered over a table of ten files.
//! - `microbatch`: the rows of one year (of seven) are replaced, in every one of ten files.
//! - `compaction`: a table of a hundred files is compacted.
//!
//! What is left behind is compared row for row (by count and a sum of hashes) with what it must be. Outcomes: `completed`;
//! `refused: needs X MiB`, said before anything is read; `killed` by the kernel; `failed`, with the reason.

use std::path::{Path, PathBuf};

use duckrun::memory::{self, MIB};
use duckrun::{Append, Error, MaintenanceOptions, Merge, MicrobatchWindow, Model, Overwrite, Session};
use duckrun_testkit::MemoryGroup;
use serde::Serialize;

use super::Suite;
use super::lineitem::{self, Rows, TABLE, Table};
use super::shared::{files, quoted, runtime, session};
use crate::args::Args;
use crate::child::{self, Changes, Done, Ended, Figures, Job, Limit, TableFiles};
use crate::stats::median;
use crate::{Result, data, runner};

pub(super) const SUITE: Suite = Suite {
    name: "memory",
    about: "jobs on many times the memory limit, under a limit that the kernel holds",
    run,
    child,
};

/// What a row of `lineitem` takes in Arrow, in bytes: 117 of numbers, dates and offsets, the rest text.
const ROW_BYTES: u64 = 165;

const JOBS: &[Task] = &[
    Task { name: "overwrite", files: 0, source: None, expected: "select * from lineitem" },
    Task {
        name: "append",
        files: 10,
        source: None,
        expected: "select * from lineitem union all select * from lineitem",
    },
    Task {
        name: "merge",
        files: 10,
        source: Some(
            "select * replace ( \
               case when hash(l_orderkey, l_linenumber) % 50 < 1 then l_orderkey + 8 else l_orderkey end as l_orderkey, \
               reverse(l_comment) as l_comment) from lineitem where hash(l_orderkey, l_linenumber) % 50 < 10",
        ),
        // As the merge without a merge, so that a table of any size needs no join to be checked.
        expected: "select * replace (case when hash(l_orderkey, l_linenumber) % 50 between 1 and 9 \
                   then reverse(l_comment) else l_comment end as l_comment) from lineitem \
                   union all select * replace (l_orderkey + 8 as l_orderkey, reverse(l_comment) as l_comment) \
                   from lineitem where hash(l_orderkey, l_linenumber) % 50 < 1",
    },
    Task {
        name: "microbatch",
        files: 10,
        source: Some(
            "select * replace (reverse(l_comment) as l_comment) from lineitem \
             where l_shipdate >= date '1995-01-01' and l_shipdate < date '1996-01-01'",
        ),
        expected: "select * replace (case when l_shipdate >= date '1995-01-01' and l_shipdate < date '1996-01-01' \
                   then reverse(l_comment) else l_comment end as l_comment) from lineitem",
    },
    Task { name: "compaction", files: 100, source: None, expected: "select * from lineitem" },
];

/// A job of the suite.
struct Task {
    name: &'static str,
    /// The files of the table that is there before; 0 where there is none.
    files: u64,
    /// The rows that come in, where they are not all of `lineitem`.
    source: Option<&'static str>,
    /// The table afterwards.
    expected: &'static str,
}

/// What became of a job over all its runs.
#[derive(Debug, Default, Serialize)]
struct Summary {
    suite: &'static str,
    job: &'static str,
    limit_mb: u64,
    /// The data, in multiples of the limit.
    times: u64,
    rows: u64,
    runs: usize,
    completed: usize,
    killed: usize,
    refused: usize,
    failed: usize,
    /// The highest anonymous memory of any run, in MiB like the limit: what the kernel cannot take back.
    peak_mb: Option<f64>,
    /// The highest resident memory of any run, in MiB: with the pages of the program itself, which count elsewhere.
    resident_mb: Option<f64>,
    cpu_s: Option<f64>,
    wall_s: Option<f64>,
    outcome: String,
}

fn run(args: &Args) -> Result<()> {
    let limit = args.limit().ok_or("suite memory needs a limit: --limit-mb 512")?;
    let jobs: Vec<&Task> = JOBS.iter().filter(|t| args.case.as_deref().is_none_or(|name| name == t.name)).collect();
    if jobs.is_empty() {
        return Err(format!(
            "suite memory has the jobs {}",
            JOBS.iter().map(|t| t.name).collect::<Vec<_>>().join(", ")
        )
        .into());
    }
    let group = match MemoryGroup::create("bench", limit) {
        Ok(group) => group,
        Err(why) => {
            eprintln!("skipped: this system does not let us make a memory group ({why})");
            return Ok(());
        }
    };
    // Whole thousands, so that a file of so many rows serves limits that are nearly the same.
    let rows = (limit * args.times / ROW_BYTES / 1000).max(1) * 1000;
    for task in jobs {
        let start = Start::new(task, args, rows)?;
        let mut summary = Summary {
            suite: SUITE.name,
            job: task.name,
            limit_mb: limit / MIB,
            times: args.times,
            rows,
            runs: args.runs,
            outcome: "completed".to_owned(),
            ..Summary::default()
        };
        let mut all = Vec::new();
        for i in 0..args.runs {
            let (ended, fault) = start.run(args, limit, &group, args.keep && i + 1 == args.runs)?;
            match (ended, fault) {
                (Ended::Killed, _) => {
                    summary.killed += 1;
                    summary.outcome = "killed".to_owned();
                }
                (Ended::Badly(why), _) => {
                    summary.failed += 1;
                    summary.outcome = format!("failed: {why}");
                }
                (Ended::Well(figures), fault) => {
                    match (&figures.done.refused, fault) {
                        (Some(why), _) => {
                            summary.refused += 1;
                            summary.outcome = format!("refused: {why}");
                        }
                        (None, Some(fault)) => {
                            summary.failed += 1;
                            summary.outcome = format!("failed: {fault}");
                        }
                        (None, None) => summary.completed += 1,
                    }
                    all.push(figures);
                }
            }
            // What is refused once is refused always: it is a matter of numbers.
            if summary.refused > 0 {
                break;
            }
        }
        let of = |f: fn(&Figures) -> f64| median(all.iter().map(f));
        summary.peak_mb = all.iter().filter_map(|f| f.anonymous).max().map(|bytes| bytes as f64 / MIB as f64);
        summary.resident_mb = all.iter().map(|f| f.peak_mb * 1e6 / MIB as f64).reduce(f64::max);
        (summary.cpu_s, summary.wall_s) = (of(|f| f.cpu_s), of(|f| f.wall_s));
        print(&summary, args.json)?;
    }
    Ok(())
}

fn print(s: &Summary, json: bool) -> Result<()> {
    if json {
        println!("{}", serde_json::to_string(s)?);
        return Ok(());
    }
    let number = |n: Option<f64>| n.map_or("-".to_owned(), |n| format!("{n:.1}"));
    println!(
        "{:<10} limit {} MiB, data {} times that ({} rows): {} of {} completed, {} killed, peak {} MiB (resident {}), {} CPU s, {} s; {}",
        s.job,
        s.limit_mb,
        s.times,
        s.rows,
        s.completed,
        s.runs,
        s.killed,
        number(s.peak_mb),
        number(s.resident_mb),
        number(s.cpu_s),
        number(s.wall_s),
        s.outcome
    );
    Ok(())
}

/// Everything that a run of a job begins with.
struct Start<'a> {
    task: &'a Task,
    input: PathBuf,
    table: Option<Table>,
    expected: Rows,
    output: PathBuf,
}

impl<'a> Start<'a> {
    fn new(task: &'a Task, args: &Args, rows: u64) -> Result<Self> {
        let dir = std::path::absolute(&args.data)?;
        let table = match task.files {
            // Its rows are those of the input, whatever files they are in.
            0 => None,
            files => Some(Table::open(&dir, rows, files, args.codec)?),
        };
        let input = match (&table, task.source) {
            (Some(table), Some(sql)) => table.source(task.name, sql)?,
            _ => data::lineitem(&dir, rows)?,
        };
        let expected = match &table {
            Some(table) => table.rows(None, task.expected)?,
            None => lineitem::of_file(&input)?,
        };
        let output = dir.join(format!("out-{}-{}", std::process::id(), task.name));
        Ok(Self { task, input, table, expected, output })
    }

    /// One child in the group, on a fresh copy; and what is wrong with what it left, if anything.
    fn run(&self, args: &Args, limit: u64, group: &MemoryGroup, keep: bool) -> Result<(Ended, Option<String>)> {
        match &self.table {
            Some(table) => table.copy_to(&self.output)?,
            None => std::fs::create_dir_all(&self.output)?,
        }
        let job = Job {
            suite: SUITE.name.to_owned(),
            case: self.task.name.to_owned(),
            subject: "ours".to_owned(),
            input: self.input.clone(),
            output: self.output.clone(),
            codec: args.codec,
            threads: args.threads,
            files: TableFiles::default(),
            limit: Some(Limit::Group(limit)),
            no_floors: args.no_floors,
            watched: true,
        };
        let ended = child::launch(&job, Some(group));
        let fault = match &ended {
            Ok(Ended::Well(figures)) if figures.done.refused.is_none() => self.fault(&self.output)?,
            _ => None,
        };
        runner::done_with(&self.output, keep)?;
        Ok((ended?, fault))
    }

    fn fault(&self, output: &Path) -> Result<Option<String>> {
        let found = lineitem::found(output)?;
        Ok((found != self.expected).then(|| format!("left {found:?} instead of {:?}", self.expected)))
    }
}

fn child(job: &Job) -> Result<Done> {
    runtime(job)?.block_on(async {
        let session = session(job).await?;
        let sql = format!("select * from read_parquet({})", quoted(&job.input)?);
        let model = session.model(TABLE).sql(sql).files(files(job));
        let done = match job.case.as_str() {
            "overwrite" => report(model.strategy(Overwrite::default())).await,
            "append" => report(model.strategy(Append::default())).await,
            "merge" => report(model.strategy(Merge::on(["l_orderkey", "l_linenumber"]))).await,
            "microbatch" => {
                let (start, end) = ("1995-01-01T00:00:00Z".parse()?, "1996-01-01T00:00:00Z".parse()?);
                report(model.strategy(MicrobatchWindow::new("l_shipdate", start, end))).await
            }
            "compaction" => compact(&session, job).await,
            other => Err(Error::internal(format!("there is no job {other}"))),
        };
        match done {
            Err(e) => match needed(&e) {
                Some(bytes) => {
                    let refused = Some(format!("needs {} MiB", bytes.div_ceil(MIB)));
                    Ok(Done { refused, ..Done::default() })
                }
                None => Err(e.into()),
            },
            Ok(changes) => Ok(Done { changes, ..Done::default() }),
        }
    })
}

async fn report(model: Model) -> duckrun::Result<Option<Changes>> {
    let report = model.run().await?.committed()?;
    Ok(report.metrics().map(Changes::from))
}

async fn compact(session: &Session, job: &Job) -> duckrun::Result<Option<Changes>> {
    let options = MaintenanceOptions { files: files(job), ..MaintenanceOptions::default() };
    let report = session.maintain(TABLE).options(options).compact().run().await?;
    if !report.is_clean() {
        return Err(Error::internal(report.to_string()));
    }
    let mut changes = Changes::default();
    for applied in report.tables.iter().flat_map(|(_, table)| table.applied()) {
        changes.files_added += applied.files_added;
        changes.files_removed += applied.files_removed;
    }
    Ok(Some(changes))
}

/// The bytes that would do, where a plan was refused.
fn needed(e: &Error) -> Option<u64> {
    let source = std::error::Error::source(e)?;
    source.downcast_ref::<memory::Error>().and_then(memory::Error::needed)
}
