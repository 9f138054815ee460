//! Suite `merge`: changes of a table of `lineitem`, as one file and as ten, against the least that the same engine needs to
//! rewrite the same files, and against delta-rs.
//!
//! What each subject is:
//!
//! - `ours`: `Session` with the strategy of the case (`Merge`, `Insert`, `FullSync`, `MicrobatchWindow`, `ReplaceWhere`) or the
//!   table's `delete` and `update`, with default options: synced to disk. The memory limit is the one that duckrun detects.
//! - `limit`: DuckDB reads the columns that decide (the keys, or the columns of the condition) of every file that may hold a
//!   row, then `COPY`s as many rows as the rewritten files have, with the same codec, level and row groups, not ordered, not
//!   synced. It does not join, does not know which rows change and writes no log. For `again` and `idempotent` it only reads the
//!   keys.
//! - `delta_rs`: delta-rs's own merge, delete, update or `replaceWhere`, with the same codec and row groups and otherwise its
//!   defaults; not synced.
//!
//! Tables and incoming rows are made beforehand. Every run starts from a fresh copy, and what `ours` and `delta_rs` leave is
//! compared row for row (by count and a sum of hashes) with what DuckDB computes from the same rows by plain SQL.
//!
//! With `--limit-mb` the suite asks another question: how `ours` grows. The scattered upsert runs on a tenth of the rows and
//! on all of them, in a memory group of the kernel with that limit (or with that limit as a setting, where no group can be
//! made, which is then said).

mod cases;
mod delta_rs;
mod growth;
mod subjects;
mod summary;

use std::path::{Path, PathBuf};

use duckrun_testkit::MemoryGroup;

use super::Suite;
use super::lineitem::{self, Rows, Table};
use crate::args::Args;
use crate::child::{self, Done, Ended, Figures, Job, Limit, TableFiles};
use crate::{Result, control, runner};
use cases::{CASES, Case};
use summary::Summary;

pub(super) const SUITE: Suite =
    Suite { name: "merge", about: "merges, deletes, updates, replacements, against COPY and delta-rs", run, child };

const SUBJECTS: &[&str] = &["ours", "limit", "delta_rs"];

/// The numbers of files that the table is in.
const FILES: [u64; 2] = [1, 10];

fn run(args: &Args) -> Result<()> {
    let cases: Vec<&Case> =
        CASES.iter().filter(|case| args.case.as_deref().is_none_or(|name| name == case.name)).collect();
    if cases.is_empty() {
        let names = CASES.iter().map(|case| case.name).collect::<Vec<_>>().join(", ");
        return Err(format!("suite merge has the cases {names}").into());
    }
    if let Some(limit) = args.limit() {
        return growth::run(args, limit);
    }
    let subjects = runner::chosen(SUBJECTS, args);
    if subjects.is_empty() {
        return Err(format!("suite merge has the subjects {}", SUBJECTS.join(", ")).into());
    }
    for files in FILES.into_iter().filter(|n| args.files.is_none_or(|only| only == *n)) {
        let mut upsert = None;
        for case in &cases {
            let mut summaries = measure(case, &subjects, args, files)?;
            let ours = summaries.iter_mut().find(|s| s.subject == "ours");
            match (case.name, ours) {
                ("upsert_scattered", Some(ours)) => upsert = Some(ours.cpu_s),
                ("idempotent" | "again", Some(ours)) => ours.cpu_to_upsert = upsert.map(|cpu_s| ours.cpu_s / cpu_s),
                _ => {}
            }
            summary::print(case, &summaries, args.json)?;
        }
    }
    Ok(())
}

fn measure(case: &Case, subjects: &[&'static str], args: &Args, files: u64) -> Result<Vec<Summary>> {
    let start = Start::new(case, args, files, args.rows)?;
    let speedup = control::two_thread_speedup();
    let runs = runner::rounds(subjects, args, |subject, last| start.run(subject, args, None, args.keep && last))?;
    Ok(Summary::of_all(case, files, args.rows, subjects, &runs, speedup))
}

/// Everything that a run of a case begins with.
struct Start<'a> {
    case: &'a Case,
    table: Table,
    source: Option<PathBuf>,
    files: TableFiles,
    expected: Rows,
    output: PathBuf,
}

impl<'a> Start<'a> {
    fn new(case: &'a Case, args: &Args, files: u64, rows: u64) -> Result<Self> {
        let dir = std::path::absolute(&args.data)?;
        let table = Table::open(&dir, rows, files, args.codec)?;
        let source = case.source.map(|sql| table.source(case.name, sql)).transpose()?;
        Ok(Self {
            files: facts(&table, case, source.as_deref())?,
            expected: table.rows(source.as_deref(), case.expected)?,
            output: dir.join(format!("out-{}-{}", std::process::id(), case.name)),
            case,
            table,
            source,
        })
    }

    /// One child on a fresh copy, and the check of what it left.
    fn run(
        &self,
        subject: &str,
        args: &Args,
        limit: Option<(Limit, Option<&MemoryGroup>)>,
        keep: bool,
    ) -> Result<Figures> {
        let output = self.output.with_extension(subject);
        self.table.copy_to(&output)?;
        if let Some(before) = self.case.after {
            match child::launch(&self.job(before, "ours", &output, args, None), None)? {
                Ended::Well(_) => {}
                Ended::Killed => return Err(format!("{before}, before {}: killed", self.case.name).into()),
                Ended::Badly(why) => return Err(format!("{before}, before {}: {why}", self.case.name).into()),
            }
        }
        let job = self.job(self.case.name, subject, &output, args, limit.as_ref().map(|(limit, _)| *limit));
        let ended = child::launch(&job, limit.and_then(|(_, group)| group));
        let checked = ended.and_then(|ended| match ended {
            Ended::Well(figures) => self.check(subject, &output).map(|()| figures),
            Ended::Killed => Err("the child was killed".into()),
            Ended::Badly(why) => Err(why.into()),
        });
        runner::done_with(&output, keep && checked.is_ok())?;
        checked.map_err(|e| format!("{} / {subject}: {e}", self.case.name).into())
    }

    fn job(&self, case: &str, subject: &str, output: &Path, args: &Args, limit: Option<Limit>) -> Job {
        Job {
            suite: SUITE.name.to_owned(),
            case: case.to_owned(),
            subject: subject.to_owned(),
            input: self.source.clone().unwrap_or_default(),
            output: output.to_owned(),
            codec: args.codec,
            threads: args.threads,
            files: self.files.clone(),
            limit,
            no_floors: false,
            watched: false,
        }
    }

    fn check(&self, subject: &str, output: &Path) -> Result<()> {
        // The limit writes no table.
        if subject == "limit" {
            return Ok(());
        }
        match lineitem::found(output)? {
            found if found == self.expected => Ok(()),
            found => Err(format!("left {found:?} instead of {:?}", self.expected).into()),
        }
    }
}

/// Which files a change looks at, and which it has to rewrite.
fn facts(table: &Table, case: &Case, source: Option<&Path>) -> Result<TableFiles> {
    let db = table.sql(source)?;
    let names = |sql: &str| -> Result<Vec<PathBuf>> {
        let mut statement = db.prepare(sql)?;
        let names = statement.query_map([], |row| row.get::<_, String>(0))?;
        names.map(|name| Ok(PathBuf::from(name?))).collect()
    };
    let by_key = "select filename from lineitem_files group by all having max(l_orderkey) >= \
                  (select min(l_orderkey) from source) and min(l_orderkey) <= (select max(l_orderkey) from source)";
    let scanned = if case.joins() { names(by_key)? } else { table.files().to_vec() };
    let touched = match case.touches() {
        Some(rows) => names(&format!("select distinct filename from lineitem_files where {rows}"))?,
        None => Vec::new(),
    };
    let new = "select count(*) from source anti join lineitem using (l_orderkey, l_linenumber)";
    let inserted = if case.joins() { db.query_row(new, [], |row| row.get(0))? } else { 0 };
    Ok(TableFiles { scanned, touched, inserted })
}

fn child(job: &Job) -> Result<Done> {
    let case = Case::by_name(&job.case).ok_or_else(|| format!("there is no case {}", job.case))?;
    match job.subject.as_str() {
        "ours" => subjects::ours(job, case),
        "limit" => subjects::limit(job, case),
        "delta_rs" => delta_rs::run(job, case),
        subject => Err(format!("case {} has no subject {subject}", job.case).into()),
    }
}
