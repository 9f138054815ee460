//! Suite `write`: rows from SQL into a new table, against the least that the same engine needs to write the same files.
//!
//! What each subject is:
//!
//! - `ours`: `Session`, `model`, `Overwrite` or `Append`, with default options: synced to disk, statistics, parallel writers,
//!   files of about 128 MB. The memory limit is the one that duckrun detects.
//! - `limit`: DuckDB's own `COPY (the same query) TO '<folder>/data.parquet'` with `preserve_insertion_order = false`, the same
//!   number of threads, the same codec and level, the same rows per row group, DuckDB's default memory limit. One file, not
//!   synced, no Delta log.
//! - `limit_ordered`: the same `COPY` with DuckDB's default settings (insertion order kept).
//! - `delta_rs`: delta-rs's `WriteBuilder` over a DataFusion scan of the same parquet file as its input plan, so that nothing is
//!   collected; the same codec and row groups through `WriterProperties`, otherwise its defaults; not synced.
//!
//! All read the same generated file in the same folder. Every run starts with an empty output folder.

use super::write_subjects as subjects;
use super::{Case, Suite};
use crate::args::Args;
use crate::child::{Codec, Done, Job};
use crate::{Result, runner};

/// Appends in a run of the `append_small` cases.
pub(super) const APPENDS: u64 = 100;

pub(super) const SUITE: Suite =
    Suite { name: "write", about: "overwrite and append from SQL, against COPY and delta-rs", run, child };

const OVERWRITE: &[&str] = &["ours", "limit", "limit_ordered", "delta_rs"];

fn run(args: &Args) -> Result<()> {
    runner::run(SUITE.name, cases(args), args)
}

fn cases(args: &Args) -> Vec<Case> {
    let overwrite =
        |name, about, codec| Case { name, about, subjects: OVERWRITE, codec, rows: args.rows, operations: 1 };
    let append =
        |name, about, subjects| Case { name, about, subjects, codec: args.codec, rows: APPENDS, operations: APPENDS };
    let mut cases = vec![overwrite("overwrite", "select * from lineitem into a new table", args.codec)];
    if args.codec != Codec::Snappy {
        cases.push(overwrite("overwrite_snappy", "the same with SNAPPY", Codec::Snappy));
    }
    cases.push(Case {
        subjects: &["ours", "limit", "delta_rs"],
        ..overwrite("overwrite_partitioned", "the same, partitioned by the 7 values of l_shipmode", args.codec)
    });
    cases.push(append("append_small", "100 appends of one row, each synced to disk", &["ours", "limit"]));
    cases.push(append(
        "append_small_unsynced",
        "100 appends of one row, nothing synced",
        &["ours", "limit", "delta_rs"],
    ));
    cases
}

fn child(job: &Job) -> Result<Done> {
    let partition_by = (job.case == "overwrite_partitioned").then_some("l_shipmode");
    let synced = job.case != "append_small_unsynced";
    match (job.case.as_str(), job.subject.as_str()) {
        ("append_small" | "append_small_unsynced", "ours") => subjects::ours_append(job, synced),
        ("append_small" | "append_small_unsynced", "limit") => subjects::limit_append(job, synced),
        ("append_small_unsynced", "delta_rs") => subjects::delta_rs_append(job),
        (_, "ours") => subjects::ours_overwrite(job, partition_by),
        (_, "limit") => subjects::limit_overwrite(job, partition_by, false),
        (_, "limit_ordered") => subjects::limit_overwrite(job, partition_by, true),
        (_, "delta_rs") => subjects::delta_rs_overwrite(job, partition_by),
        (case, subject) => Err(format!("case {case} has no subject {subject}").into()),
    }
    .map(|()| Done::default())
}
