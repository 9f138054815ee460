//! How the scattered upsert grows with the table, under one limit of memory.

use duckrun_testkit::MemoryGroup;
use serde::Serialize;

use super::cases::Case;
use super::{SUITE, Start};
use crate::args::Args;
use crate::child::Limit;
use crate::stats::median;
use crate::{Result, control, runner};

/// The table is in as many files at either size.
const FILES: u64 = 10;

/// One size of the table; the larger one says how much more it took.
#[derive(Debug, Serialize)]
struct Size {
    suite: &'static str,
    case: &'static str,
    subject: &'static str,
    rows: u64,
    limit_mb: u64,
    /// Whether the kernel held the limit.
    in_group: bool,
    cpu_s: f64,
    wall_s: f64,
    /// The highest of all runs.
    peak_mb: f64,
    runs: usize,
    two_thread_speedup: f64,
    /// Ten times the rows took this many times the CPU seconds.
    cpu_growth: Option<f64>,
    /// And this many times the wall seconds.
    wall_growth: Option<f64>,
}

/// Measures a tenth of the rows and all of them; `limit` is in bytes.
pub(super) fn run(args: &Args, limit: u64) -> Result<()> {
    let name = args.case.as_deref().unwrap_or("upsert_scattered");
    let case = Case::by_name(name).ok_or_else(|| format!("there is no case {name}"))?;
    let group = MemoryGroup::create("bench", limit);
    if let Err(why) = &group {
        eprintln!("the kernel does not hold the limit here ({why}); it is a setting instead");
    }
    let group = group.as_ref().ok();
    let with = if group.is_some() { Limit::Group(limit) } else { Limit::Setting(limit) };
    let mut smaller: Option<Size> = None;
    for rows in [args.rows / 10, args.rows] {
        let start = Start::new(case, args, args.files.unwrap_or(FILES), rows)?;
        let speedup = control::two_thread_speedup();
        let runs = runner::rounds(&["ours"], args, |subject, last| {
            start.run(subject, args, Some((with, group)), args.keep && last)
        })?;
        let runs = runs.concat();
        let of = |f: fn(&crate::child::Figures) -> f64| median(runs.iter().map(f)).ok_or("nothing was run");
        let mut size = Size {
            suite: SUITE.name,
            case: case.name,
            subject: "ours",
            rows,
            limit_mb: limit >> 20,
            in_group: group.is_some(),
            cpu_s: of(|r| r.cpu_s)?,
            wall_s: of(|r| r.wall_s)?,
            peak_mb: runs.iter().map(|r| r.peak_mb).fold(0.0, f64::max),
            runs: runs.len(),
            two_thread_speedup: speedup,
            cpu_growth: None,
            wall_growth: None,
        };
        if let Some(smaller) = &smaller {
            size.cpu_growth = Some(size.cpu_s / smaller.cpu_s);
            size.wall_growth = Some(size.wall_s / smaller.wall_s);
        }
        print(&size, args.json)?;
        smaller = Some(size);
    }
    Ok(())
}

fn print(size: &Size, json: bool) -> Result<()> {
    if json {
        println!("{}", serde_json::to_string(size)?);
        return Ok(());
    }
    println!(
        "{} of {} rows under {} MiB{}: {:.1} CPU s, {:.1} s, peak {:.0} MB (medians of {}; two busy threads are {:.2} times \
         as fast as one)",
        size.case,
        size.rows,
        size.limit_mb,
        if size.in_group { ", held by the kernel" } else { "" },
        size.cpu_s,
        size.wall_s,
        size.peak_mb,
        size.runs,
        size.two_thread_speedup,
    );
    if let (Some(cpu), Some(wall)) = (size.cpu_growth, size.wall_growth) {
        println!("ten times the rows: {cpu:.2} times the CPU seconds, {wall:.2} times the time");
    }
    Ok(())
}
