//! Medians of a case's subjects, set against each other.

use serde::Serialize;

use super::SUITE;
use super::cases::Case;
use crate::Result;
use crate::child::{Changes, Figures};
use crate::stats::median;

/// One subject of one case: medians over its runs.
#[derive(Debug, Serialize)]
pub(super) struct Summary {
    suite: &'static str,
    case: &'static str,
    /// The table's rows before the change.
    table_rows: u64,
    /// The files that the table is in.
    table_files: u64,
    pub(super) subject: &'static str,
    pub(super) cpu_s: f64,
    wall_s: f64,
    peak_mb: f64,
    cpu_min_s: f64,
    cpu_max_s: f64,
    /// What the subject says that it changed; the rows themselves were compared.
    #[serde(flatten)]
    changes: Option<Changes>,
    /// CPU seconds, as a multiple of the limit's.
    cpu_to_limit: Option<f64>,
    /// CPU seconds, as a multiple of delta-rs's.
    cpu_to_delta_rs: Option<f64>,
    /// Peak memory beyond the limit's.
    peak_above_limit_mb: Option<f64>,
    /// Peak memory, as a multiple of delta-rs's.
    peak_to_delta_rs: Option<f64>,
    /// CPU seconds, as a multiple of the scattered upsert's of the same invocation.
    pub(super) cpu_to_upsert: Option<f64>,
    runs: usize,
    /// The control, measured before the case: 2.0 is two whole processors.
    two_thread_speedup: f64,
}

impl Summary {
    /// The subjects of a case; `runs` are in the order of `subjects`.
    pub(super) fn of_all(
        case: &Case,
        files: u64,
        rows: u64,
        subjects: &[&'static str],
        runs: &[Vec<Figures>],
        two_thread_speedup: f64,
    ) -> Vec<Self> {
        let of = |i: usize, f: fn(&Figures) -> f64| median(runs[i].iter().map(f));
        let of_subject = |name: &str, f| subjects.iter().position(|s| *s == name).and_then(|i| of(i, f));
        let cpu = |r: &Figures| r.cpu_s;
        let peak = |r: &Figures| r.peak_mb;
        let one = |(i, subject): (usize, &&'static str)| {
            let (cpu_s, peak_mb) = (of(i, cpu)?, of(i, peak)?);
            let other = |name: &str, f| of_subject(name, f).filter(|_| *subject != name);
            Some(Self {
                suite: SUITE.name,
                case: case.name,
                table_rows: rows,
                table_files: files,
                subject,
                cpu_s,
                wall_s: of(i, |r| r.wall_s)?,
                peak_mb,
                cpu_min_s: runs[i].iter().map(cpu).fold(f64::INFINITY, f64::min),
                cpu_max_s: runs[i].iter().map(cpu).fold(0.0, f64::max),
                changes: runs[i].last().and_then(|r| r.done.changes),
                cpu_to_limit: other("limit", cpu).map(|limit| cpu_s / limit),
                cpu_to_delta_rs: other("delta_rs", cpu).map(|theirs| cpu_s / theirs),
                peak_above_limit_mb: other("limit", peak).map(|limit| peak_mb - limit),
                peak_to_delta_rs: other("delta_rs", peak).map(|theirs| peak_mb / theirs),
                cpu_to_upsert: None,
                runs: runs[i].len(),
                two_thread_speedup,
            })
        };
        subjects.iter().enumerate().filter_map(one).collect()
    }
}

/// A table for people, or a JSON line per subject.
pub(super) fn print(case: &Case, subjects: &[Summary], json: bool) -> Result<()> {
    if json {
        for subject in subjects {
            println!("{}", serde_json::to_string(subject)?);
        }
        return Ok(());
    }
    let Some(first) = subjects.first() else { return Ok(()) };
    println!("\n{}, {} rows in {} files: {}", case.name, first.table_rows, first.table_files, case.about);
    println!(
        "  medians of {} runs; two busy threads are {:.2} times as fast as one on this machine right now",
        first.runs, first.two_thread_speedup
    );
    println!(
        "  {:<9} {:>7} {:>15} {:>7} {:>8} {:>9} {:>11} {:>9} {:>9} {:>9} {:>9} {:>9} {:>6} {:>6}",
        "subject",
        "CPU s",
        "min to max",
        "wall s",
        "peak MB",
        "CPU/limit",
        "CPU/deltars",
        "inserted",
        "updated",
        "deleted",
        "copied",
        "peak-lim",
        "+files",
        "-files"
    );
    let ratio = |r: Option<f64>| r.map_or("-".to_owned(), |r| format!("{r:.2}"));
    for s in subjects {
        let changes = |f: fn(&Changes) -> u64| s.changes.as_ref().map_or("-".to_owned(), |c| f(c).to_string());
        println!(
            "  {:<9} {:>7.2} {:>15} {:>7.2} {:>8.0} {:>9} {:>11} {:>9} {:>9} {:>9} {:>9} {:>9} {:>6} {:>6}",
            s.subject,
            s.cpu_s,
            format!("{:.2} to {:.2}", s.cpu_min_s, s.cpu_max_s),
            s.wall_s,
            s.peak_mb,
            ratio(s.cpu_to_limit),
            ratio(s.cpu_to_delta_rs),
            changes(|c| c.rows_inserted),
            changes(|c| c.rows_updated),
            changes(|c| c.rows_deleted),
            changes(|c| c.rows_copied),
            s.peak_above_limit_mb.map_or("-".to_owned(), |mb| format!("{mb:+.0}")),
            changes(|c| c.files_added),
            changes(|c| c.files_removed),
        );
        if let Some(of_upsert) = s.cpu_to_upsert {
            println!("  {:<9} that is {of_upsert:.2} times the CPU of the scattered upsert", "");
        }
    }
    Ok(())
}
