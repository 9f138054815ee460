//! Suite `sources`: what resolving a source costs, against plain DuckDB on the same files.
//!
//! The files are made from the generated `lineitem` by whoever needs them first, which is a warm-up round; they are kept. The
//! cases that only read aggregate all rows, so that nothing is written and what is measured is the listing, the inference, the
//! binding and the scan. What each subject is:
//!
//! - `ours`: a `Session` and a query over the source (`Reader::source`), or an `Overwrite` for the case `csv_load`. Of the case
//!   `infer` the pure function alone.
//! - `ours_stated`: the same with `Csv::rfc4180`, so that no dialect has to be guessed.
//! - `limit`: DuckDB with the same number of threads and its own glob in `read_csv` or `read_parquet`; for `csv_load` its `COPY`
//!   to one parquet file with the same codec and row groups; for `list` its function `glob`.

use std::fs;
use std::path::{Path, PathBuf};

use duckdb::Connection;
use duckrun::Overwrite;
use duckrun::arrow::array::{AsArray, RecordBatch};
use duckrun::arrow::datatypes::Int64Type;
use duckrun::sources::{Csv, Files, Listing, Parquet, Registry, Shape, infer};

use super::shared::{copy, files, quoted, runtime, session};
use super::write_subjects::committed;
use super::{Case, Suite};
use crate::args::Args;
use crate::child::{Done, Job};
use crate::{Result, runner};

pub(super) const SUITE: Suite =
    Suite { name: "sources", about: "listing, inference and reading of files, against plain DuckDB", run, child };

/// Files in the folders of the cases `csv_many`, `csv_load` and `parquet_many`.
const MANY: u64 = 200;
/// Files in the listing of the cases `infer` and `list`.
const LISTED: usize = 100_000;
/// Inferences in a run of the case `infer`.
const INFERENCES: u64 = 10;

fn run(args: &Args) -> Result<()> {
    runner::run(SUITE.name, cases(args), args)
}

fn cases(args: &Args) -> Vec<Case> {
    let both: &[_] = &["ours", "limit"];
    let csv: &[_] = &["ours", "ours_stated", "limit"];
    let case = |name, about, subjects, rows| Case { name, about, subjects, codec: args.codec, rows, operations: 1 };
    vec![
        Case { operations: INFERENCES, ..case("infer", "10 inferences over 100,000 listed files", &["ours"], 0) },
        case("list", "listing of 100,000 files in 1,000 folders, and inference", both, 0),
        case("csv_one", "aggregates over one CSV file", csv, 0),
        case("csv_many", "aggregates over 200 CSV files", csv, 0),
        case("parquet_many", "aggregates over 200 parquet files", both, 0),
        case("csv_load", "200 CSV files into a new table", csv, args.rows),
    ]
}

fn child(job: &Job) -> Result<Done> {
    let ours = job.subject != "limit";
    match job.case.as_str() {
        "infer" => inferences(),
        "list" => list(job, ours),
        "csv_one" => aggregate(job, ours, "csv", 1),
        "csv_many" => aggregate(job, ours, "csv", MANY),
        "parquet_many" => aggregate(job, ours, "parquet", MANY),
        "csv_load" => load(job, ours),
        case => Err(format!("no case {case}").into()),
    }
    .map(|()| Done::default())
}

fn inferences() -> Result<()> {
    let names = (0..LISTED).map(|n| format!("landing/day={:03}/part-{n:06}.csv.gz", n % 1_000));
    let listing = Listing::new(Shape::Folder, "landing").with_files(names);
    let registry = Registry::default();
    for _ in 0..INFERENCES {
        let inferred = infer(&registry, &listing)?;
        if inferred.files.len() != LISTED || inferred.partitions != ["day"] {
            return Err("the inference is wrong".into());
        }
    }
    Ok(())
}

fn list(job: &Job, ours: bool) -> Result<()> {
    let folder = job.input.with_file_name("listed-100000");
    prepare(&folder, |folder| {
        for day in 0..1_000 {
            let day = folder.join(format!("day={day:03}"));
            fs::create_dir_all(&day)?;
            for n in 0..LISTED / 1_000 {
                fs::write(day.join(format!("{n}.csv")), "x\n")?;
            }
        }
        Ok(())
    })?;
    let found = if ours {
        runtime(job)?.block_on(Files::at(&folder).inspect())?.inferred.files.len() as i64
    } else {
        let db = plain(job)?;
        let sql = format!("select count(*) from glob({})", quoted(&folder.join("**/*.csv"))?);
        db.query_row(&sql, [], |row| row.get(0))?
    };
    expect(found, LISTED as u64)
}

fn aggregate(job: &Job, ours: bool, format: &str, n: u64) -> Result<()> {
    let (folder, rows) = split(job, format, n)?;
    let sums = |from: &str| {
        format!("select count(*), sum(l_extendedprice)::double, max(l_shipdate), max(l_comment) from {from}")
    };
    if !ours {
        let from = format!("read_{format}({})", quoted(&folder.join(format!("*.{format}")))?);
        return expect(plain(job)?.query_row(&sums(&from), [], |row| row.get(0))?, rows);
    }
    let found = runtime(job)?.block_on(async {
        let reader = session(job).await?.sql(sums("files"));
        let reader = match format {
            "csv" => reader.source("files", csv(job, &folder)),
            _ => reader.source("files", Parquet::folder(&folder)),
        };
        Ok::<i64, crate::Error>(first_count(&reader.collect().await?))
    })?;
    expect(found, rows)
}

/// The sum of the first column, which is a count.
pub(super) fn first_count(batches: &[RecordBatch]) -> i64 {
    batches.iter().flat_map(|b| b.column(0).as_primitive::<Int64Type>().values().to_vec()).sum()
}

fn load(job: &Job, ours: bool) -> Result<()> {
    let (folder, _) = split(job, "csv", MANY)?;
    if !ours {
        let query = format!("select * from read_csv({}, filename = true)", quoted(&folder.join("*.csv"))?);
        let target = job.output.join("data.parquet");
        let db = plain(job)?;
        return Ok(db.execute_batch(&copy(job, &query, &target, "")?)?);
    }
    runtime(job)?.block_on(async {
        let model =
            session(job).await?.model("bench.lineitem").source("files", csv(job, &folder)).sql("select * from files");
        committed(&model.strategy(Overwrite::default()).files(files(job)).run().await?)
    })
}

fn csv(job: &Job, folder: &Path) -> Csv {
    let files = Csv::folder(folder);
    if job.subject == "ours_stated" { files.rfc4180() } else { files }
}

/// DuckDB as the limit has it.
pub(super) fn plain(job: &Job) -> Result<Connection> {
    let db = Connection::open_in_memory()?;
    db.execute_batch(&format!("set threads = {}; set preserve_insertion_order = false", job.threads))?;
    Ok(db)
}

/// The input in `n` files of a format, and its rows.
pub(super) fn split(job: &Job, format: &str, n: u64) -> Result<(PathBuf, u64)> {
    let stem = job.input.file_stem().unwrap_or_default().to_string_lossy();
    let folder = job.input.with_file_name(format!("{stem}-{format}-{n}"));
    let input = quoted(&job.input)?;
    let db = plain(job)?;
    let rows: i64 = db.query_row(&format!("select count(*) from read_parquet({input})"), [], |row| row.get(0))?;
    prepare(&folder, |folder| {
        for part in 0..n {
            let numbered = format!("read_parquet({input}, file_row_number = true)");
            let slice =
                format!("select * exclude file_row_number from {numbered} where file_row_number % {n} = {part}");
            let target = quoted(&folder.join(format!("{part:04}.{format}")))?;
            db.execute_batch(&format!("copy ({slice}) to {target} (format {format})"))?;
        }
        Ok(())
    })?;
    Ok((folder, u64::try_from(rows)?))
}

/// Makes a folder that is complete once it has its name.
fn prepare(folder: &Path, fill: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    if folder.is_dir() {
        return Ok(());
    }
    let partial = folder.with_extension(format!("{}.partial", std::process::id()));
    fs::create_dir_all(&partial)?;
    eprintln!("making {} (once)", folder.display());
    fill(&partial)?;
    Ok(fs::rename(&partial, folder)?)
}

pub(super) fn expect(found: i64, rows: u64) -> Result<()> {
    if u64::try_from(found)? == rows { Ok(()) } else { Err(format!("{found} rows or files instead of {rows}").into()) }
}
