//! Suite `maintain`: what maintenance costs and what it is worth.
//!
//! The cases and their subjects:
//!
//! - `compact`: a table of `lineitem` in 200 files becomes one of full files. `ours`: `Session::maintain(..).compact()` with default
//!   options, synced; `limit`: DuckDB's `COPY` of the same files into one, not ordered, not synced, no log; `limit_ordered`: the same
//!   in the files' order, which ours keeps; `delta_rs`: delta-rs's own OPTIMIZE with the same target, codec and row groups, not synced.
//! - `z_order`: the same table ordered by `l_partkey, l_suppkey`; `ours` and `delta_rs`.
//! - `append_inline`: 100 appends of one row each to a new table; `ours` with maintenance after each, as by default, `without` it.
//! - `merge_inline`: 100 merges of two rows each into `lineitem`, one of them new, one to be updated; the same subjects.
//! - `scan`: five scans of all columns of `lineitem` after 1,000 such merges, every hundredth of which also updates an old row;
//!   `maintained` with maintenance by default, `fragments` without, and `limit`: the same rows freshly written. Fails where
//!   `maintained` has more than the policy's 100 small files and those of the ten commits by which it may be late.
//! - `stats`: `TableMaintenance::stats` ten times on a table of 100,000 files in 100 partitions, whose log is made by hand; `ours`
//!   from a checkpoint, `json` from one entry of the log.
//!
//! Tables are made beforehand and kept; every run that changes one starts from a fresh copy.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use deltalake::operations::optimize::OptimizeType;
use duckdb::Connection;
use duckrun::core::maintenance::TableMaintenance;
use duckrun::memory::{EffectiveLimit, Job as Work, MemoryProbe, SystemProbe, plan};
use duckrun::{
    Append, DeltaMaintenance, DeltaStore, FileOptions, Location, MaintenanceOptions, MemorySettings, Merge, Model,
    RunContext, Session,
};

use super::lineitem::{self, Table};
use super::shared::{
    copy, datafusion, delta_table, files, quoted, runtime, session, session_builder, writer_properties,
};
use super::{Case, Suite};
use crate::args::Args;
use crate::child::{self, Done, Figures, Job, TableFiles};
use crate::stats::Summary;
use crate::written::{self, Written};
use crate::{Result, control, runner};

pub(super) const SUITE: Suite =
    Suite { name: "maintain", about: "compaction, z-order, inline maintenance, statistics", run, child };

/// Files of the table that is compacted.
const FRAGMENTS: u64 = 200;
/// Merges into the table that is scanned, and each how many of them update an old row.
const TINY: u64 = 1_000;
const OLD: u64 = 100;
/// Small files that the table may have afterwards.
const SMALL_FILES: u64 = 110;
/// Appends of `append_inline`, merges of `merge_inline`.
const INLINE: u64 = 100;
/// Order keys from here on are of merges.
const NEW_KEYS: u64 = 1_000_000_000;
/// Scans in a run of `scan`.
const SCANS: u64 = 5;
/// Files and partitions of the table of `stats`, and how often they are read.
const MANY_FILES: u64 = 100_000;
const MANY_PARTITIONS: u64 = 100;
const READS: u64 = 10;

fn cases(args: &Args) -> Vec<Case> {
    let case =
        |name, about, subjects, rows, operations| Case { name, about, subjects, codec: args.codec, rows, operations };
    vec![
        case(
            "compact",
            "200 files merged into full ones",
            &["ours", "limit", "limit_ordered", "delta_rs"],
            args.rows,
            1,
        ),
        case("z_order", "the same ordered by l_partkey, l_suppkey", &["ours", "delta_rs"], args.rows, 1),
        case("append_inline", "100 appends of one row", &["ours", "without"], INLINE, INLINE),
        case("merge_inline", "100 merges of two rows", &["ours", "without"], args.rows + INLINE, INLINE),
        case(
            "scan",
            "five scans after 1,000 tiny merges",
            &["maintained", "fragments", "limit"],
            args.rows + TINY,
            SCANS,
        ),
        case("stats", "statistics of a table of 100,000 files, ten times", &["ours", "json"], 0, READS),
    ]
}

fn run(args: &Args) -> Result<()> {
    let cases = cases(args);
    let chosen = cases.iter().filter(|case| args.case.as_deref().is_none_or(|name| name == case.name));
    let chosen: Vec<&Case> = chosen.collect();
    if chosen.is_empty() {
        let names = cases.iter().map(|case| case.name).collect::<Vec<_>>().join(", ");
        return Err(format!("suite maintain has the cases {names}").into());
    }
    for case in chosen {
        let subjects = runner::chosen(case.subjects, args);
        let speedup = control::two_thread_speedup();
        let runs = runner::rounds(&subjects, args, |subject, last| one(case, subject, args, last))?;
        let summaries = subjects.iter().zip(&runs);
        let summaries: Vec<Summary> =
            summaries.filter_map(|(name, runs)| Summary::new(SUITE.name, case, name, runs, speedup)).collect();
        runner::print(case, &summaries, args.json)?;
    }
    Ok(())
}

/// One child, on a fresh copy where it changes its table.
fn one(case: &Case, subject: &'static str, args: &Args, last: bool) -> Result<(Figures, Written)> {
    let dir = std::path::absolute(&args.data)?;
    let output = dir.join(format!("out-{}-{}-{subject}", std::process::id(), case.name));
    let mut sources = TableFiles::default();
    let mut input = PathBuf::new();
    match case.name {
        "compact" | "z_order" => {
            let table = Table::open(&dir, args.rows, FRAGMENTS, args.codec)?;
            sources.scanned = table.files().to_vec();
            table.copy_to(&output)?;
        }
        "scan" => {
            input = scanned(&dir, args, subject)?;
            fs::create_dir_all(&output)?;
        }
        "merge_inline" => {
            fresh(&dir, args)?.copy_to(&output)?;
            input = template(&dir, args)?;
        }
        "stats" => {
            input = many_files(&dir, subject == "ours")?;
            fs::create_dir_all(&output)?;
        }
        _ => fs::create_dir_all(&output)?,
    }
    let job = Job {
        suite: SUITE.name.to_owned(),
        case: case.name.to_owned(),
        subject: subject.to_owned(),
        input: input.clone(),
        output: output.clone(),
        codec: args.codec,
        threads: args.threads,
        files: sources,
        limit: None,
        no_floors: false,
        watched: false,
    };
    let figures = child::spawn(&job);
    let written = match case.name {
        "stats" => Ok(Written::default()),
        // What the log names counts: replaced files are still there.
        "scan" => live(&input),
        _ if subject.starts_with("limit") => written::count(&output.join("copy")),
        "append_inline" => live(&output.join("bench/small")),
        _ => live(&lineitem::folder(&output)),
    };
    runner::done_with(&output, args.keep && last && figures.is_ok())?;
    let (figures, written) = (figures?, written?);
    if written.rows != case.rows {
        return Err(format!("{} / {subject} left {} rows instead of {}", case.name, written.rows, case.rows).into());
    }
    Ok((figures, written))
}

/// The live files of the table in a folder.
fn live(folder: &Path) -> Result<Written> {
    let files = written::live_files(folder)?;
    let mut found = Written { files: files.len() as u64, ..Written::default() };
    let db = Connection::open_in_memory()?;
    let count = format!("select count(*) from read_parquet({}, union_by_name = true)", lineitem::list(&files)?);
    found.rows = db.query_row(&count, [], |row| row.get(0))?;
    for file in files {
        found.bytes += fs::metadata(file)?.len();
    }
    Ok(found)
}

/// `lineitem` in one file, as one run writes it.
fn fresh(dir: &Path, args: &Args) -> Result<Table> {
    Table::open(dir, args.rows, 1, args.codec)
}

/// A row to make others of, as a file.
fn template(dir: &Path, args: &Args) -> Result<PathBuf> {
    fresh(dir, args)?.source("row", "select * from lineitem limit 1")
}

/// The n-th merge: a new order and a change of one of the last hundred; now and then a change of an old one as well.
fn tiny_merge(session: &Session, n: u64, row: &Path, old: Option<(i64, i64)>) -> Result<Model> {
    let mut keys = vec![(NEW_KEYS + n, 1)];
    if n > 0 {
        keys.push((NEW_KEYS + n - 1 - n * 7 % n.min(100), 1));
    }
    let mut keys: Vec<String> = keys.iter().map(|(order, line)| format!("({order}, {line})")).collect();
    keys.extend(old.map(|(order, line)| format!("({order}, {line})")));
    let sql = format!(
        "select r.* replace (k.o as l_orderkey, k.l as l_linenumber, 'merge {n}' as l_comment) \
         from read_parquet({}) r, (values {}) k(o, l)",
        quoted(row)?,
        keys.join(", ")
    );
    Ok(session.model(lineitem::TABLE).sql(sql).strategy(Merge::on(["l_orderkey", "l_linenumber"])))
}

/// The table that is scanned, by what became of its tiny merges.
fn scanned(dir: &Path, args: &Args, subject: &str) -> Result<PathBuf> {
    let root = dir.join(format!("merged-{}-{subject}-{}", args.rows, args.codec.name()));
    let folder = lineitem::folder(&root);
    if root.is_dir() {
        return Ok(folder);
    }
    let merged = if subject == "limit" { Some(scanned(dir, args, "maintained")?) } else { None };
    eprintln!("making {} (once)", root.display());
    let partial = dir.join(format!("merged-{subject}.{}.partial", std::process::id()));
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let options = FileOptions { compression: args.codec.compression(), sync: false, ..FileOptions::default() };
    if let Some(merged) = merged {
        let all = format!("select * from read_parquet({})", lineitem::list(&written::live_files(&merged)?)?);
        runtime.block_on(async {
            let session = Session::open(&partial).writable().await?;
            let model = session.model(lineitem::TABLE).sql(all).strategy(duckrun::Overwrite::default()).files(options);
            model.run().await?.committed().map(drop)?;
            Ok::<(), crate::Error>(())
        })?;
    } else {
        let (table, row) = (fresh(dir, args)?, template(dir, args)?);
        table.copy_to(&partial)?;
        let nth = format!(
            "select l_orderkey::bigint, l_linenumber::bigint from lineitem limit 1 offset ? * {}",
            args.rows / 16
        );
        let old = table.sql(None)?;
        runtime.block_on(async {
            let session = Session::open(&partial).writable().maintenance(subject == "maintained").await?;
            let (mut phases, mut rewritten) = (BTreeMap::<String, Duration>::new(), 0);
            for n in 0..TINY {
                let old = match n % OLD {
                    0 => Some(old.query_row(&nth, [n / OLD + 1], |row| Ok((row.get(0)?, row.get(1)?)))?),
                    _ => None,
                };
                let report = tiny_merge(&session, n, &row, old)?.files(options.clone()).run().await?.committed()?;
                rewritten += report.metrics().map_or(0, |m| m.bytes_added);
                for phase in &report.phases {
                    *phases.entry(format!("{:?}", phase.phase)).or_default() += phase.time;
                }
            }
            let phases: Vec<String> =
                phases.iter().map(|(name, time)| format!("{name} {:.1} s", time.as_secs_f64())).collect();
            eprintln!("  {TINY} merges: {}; {} MB written", phases.join(", "), rewritten >> 20);
            Ok::<(), crate::Error>(())
        })?;
    }
    let files = written::live_files(&lineitem::folder(&partial))?;
    let half = FileOptions::default().target_file_size / 2;
    let small = files.iter().filter(|f| fs::metadata(f).is_ok_and(|m| m.len() < half)).count() as u64;
    eprintln!("  {} files, {small} of them small", files.len());
    if subject == "maintained" && small > SMALL_FILES {
        return Err(format!("{small} small files are left after {TINY} merges").into());
    }
    fs::rename(&partial, &root)?;
    Ok(folder)
}

/// A table of many files that nobody reads: only its log is there, as one entry or as a checkpoint.
fn many_files(dir: &Path, checkpoint: bool) -> Result<PathBuf> {
    let root = dir.join(format!("many-files-{}", if checkpoint { "checkpoint" } else { "json" }));
    if root.is_dir() {
        return Ok(root);
    }
    eprintln!("making {} (once)", root.display());
    let partial = dir.join(format!("many-files.{}.partial", std::process::id()));
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let session = Session::open(&partial).writable().maintenance(false).await?;
        let model = session.model("bench.many").sql("select 0::bigint as n, 0::integer as p").partition_by(["p"]);
        model.run().await?.committed().map(drop)?;
        let path = partial.join("bench/many/_delta_log/00000000000000000001.json");
        let mut log = std::io::BufWriter::new(fs::File::create(path)?);
        for i in 0..MANY_FILES {
            let p = i % MANY_PARTITIONS;
            writeln!(
                log,
                r#"{{"add":{{"path":"p={p}/part-{i:08}-0b8d5c2e-7a41-4c56-9c0e-3d1f2a6b7c8d-c000.zstd.parquet","partitionValues":{{"p":"{p}"}},"size":{},"modificationTime":1700000000000,"dataChange":true,"stats":"{{\"numRecords\":1000,\"minValues\":{{\"n\":{i}}},\"maxValues\":{{\"n\":{i}}},\"nullCount\":{{\"n\":0}}}}"}}}}"#,
                100_000 + i
            )?;
        }
        log.flush()?;
        if checkpoint {
            let report = session.maintain("bench.many").checkpoint().run().await?;
            if !report.is_clean() {
                return Err(report.to_string().into());
            }
        }
        Ok::<(), crate::Error>(())
    })?;
    fs::rename(&partial, &root)?;
    Ok(root)
}

fn child(job: &Job) -> Result<Done> {
    match (job.case.as_str(), job.subject.as_str()) {
        ("compact" | "z_order", "ours") => ours(job),
        ("compact" | "z_order", "delta_rs") => delta_rs(job),
        ("compact", limit) => copied(job, limit == "limit_ordered"),
        ("append_inline", subject) => appends(job, subject == "ours"),
        ("merge_inline", subject) => merges(job, subject == "ours"),
        ("scan", _) => scans(job),
        ("stats", _) => statistics(job),
        (case, subject) => Err(format!("case {case} has no subject {subject}").into()),
    }?;
    Ok(Done::default())
}

fn ours(job: &Job) -> Result<()> {
    runtime(job)?.block_on(async {
        let options = MaintenanceOptions { files: files(job), ..MaintenanceOptions::default() };
        let maintain = session(job).await?.maintain(lineitem::TABLE).options(options);
        let maintain = match job.case.as_str() {
            "compact" => maintain.compact(),
            _ => maintain.z_order(["l_partkey", "l_suppkey"]),
        };
        let report = maintain.run().await?;
        match report.tables.first().and_then(|(_, report)| report.committed()) {
            Some(_) => Ok(()),
            None => Err(report.to_string().into()),
        }
    })
}

fn delta_rs(job: &Job) -> Result<()> {
    runtime(job)?.block_on(async {
        let mut table = delta_table(&lineitem::folder(&job.output)).await?;
        table.load().await?;
        let kind = match job.case.as_str() {
            "compact" => OptimizeType::Compact,
            _ => OptimizeType::ZOrder(vec!["l_partkey".to_owned(), "l_suppkey".to_owned()]),
        };
        let target = std::num::NonZeroU64::new(files(job).target_file_size).ok_or("a target of nothing")?;
        table
            .optimize()
            .with_type(kind)
            .with_target_size(target)
            .with_max_concurrent_tasks(job.threads)
            .with_writer_properties(writer_properties(job)?)
            .with_session_state(Arc::new(datafusion(job).state()))
            .await?;
        Ok(())
    })
}

fn copied(job: &Job, ordered: bool) -> Result<()> {
    let db = Connection::open_in_memory()?;
    db.execute_batch(&format!("set threads = {}; set preserve_insertion_order = {ordered}", job.threads))?;
    let folder = job.output.join("copy");
    fs::create_dir_all(&folder)?;
    let query = format!("select * from read_parquet({})", lineitem::list(&job.files.scanned)?);
    db.execute_batch(&copy(job, &query, &folder.join("data.parquet"), "")?)?;
    Ok(())
}

fn appends(job: &Job, maintained: bool) -> Result<()> {
    runtime(job)?.block_on(async {
        let session = session_builder(job).maintenance(maintained).await?;
        for n in 0..INLINE {
            let model = session.model("bench.small").sql(format!("select {n}::bigint as id, 'one' as name"));
            model.strategy(Append::default()).files(files(job)).run().await?.committed().map(drop)?;
        }
        Ok(())
    })
}

fn merges(job: &Job, maintained: bool) -> Result<()> {
    runtime(job)?.block_on(async {
        let session = session_builder(job).maintenance(maintained).await?;
        for n in 0..INLINE {
            tiny_merge(&session, n, &job.input, None)?.files(files(job)).run().await?.committed().map(drop)?;
        }
        Ok(())
    })
}

fn scans(job: &Job) -> Result<()> {
    runtime(job)?.block_on(async {
        let root = job.input.parent().and_then(Path::parent).ok_or("a table without a root")?;
        let memory = MemorySettings { threads: Some(job.threads), ..MemorySettings::default() };
        let session = Session::open(root).memory(memory).await?;
        for _ in 0..SCANS {
            let sql = format!("select bit_xor(hash(columns(*))) from {}", lineitem::TABLE);
            session.sql(sql).collect().await?;
        }
        Ok(())
    })
}

fn statistics(job: &Job) -> Result<()> {
    runtime(job)?.block_on(async {
        let table = DeltaStore::new(Location::local(job.input.join("bench/many"))?);
        let maintenance = DeltaMaintenance::new(table, MaintenanceOptions::default());
        let settings = MemorySettings::default();
        let limit = EffectiveLimit::detect(&SystemProbe::new().sample(), &settings);
        let cx = RunContext::new(plan(&limit, &settings, Work::Compact)?);
        for _ in 0..READS {
            let stats = maintenance.stats(&cx).await?;
            let files: usize = stats.partitions.iter().map(|p| p.file_sizes.len()).sum();
            if files as u64 != MANY_FILES + 1 {
                return Err(format!("{files} files").into());
            }
        }
        Ok(())
    })
}
