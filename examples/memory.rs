//! What memory was found, where, and how a run would split it. Nothing is read or written beside the system's own figures.
//!
//! ```text
//! cargo run -p duckrun-examples --example memory [-- JOB [LIMIT [THREADS]]]
//! ```
//!
//! JOB is `write`, `merge`, `merge-delta-rs` or `compact`; LIMIT is in MiB, and only lowers what was found; THREADS is the most
//! that DuckDB may have.

use duckrun::memory::{Bytes, EffectiveLimit, Job, MIB, MemoryProbe, MemorySample, SystemProbe, plan};
use duckrun::{Error, MemorySettings, Result};

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let job = job(arguments.next().as_deref().unwrap_or("write"))?;
    let mut number = |what: &str| arguments.next().map(|text| positive(what, &text)).transpose();
    let limit = number("LIMIT")?.map(|mib| mib.saturating_mul(MIB));
    let threads = number("THREADS")?.map(|n| usize::try_from(n).unwrap_or(usize::MAX));
    let settings = MemorySettings { limit, threads, ..MemorySettings::default() };

    let sample = SystemProbe::new().sample();
    print(&sample);
    let limit = EffectiveLimit::detect(&sample, &settings);
    println!("\n{}", limit.picture());
    match plan(&limit, &settings, job) {
        Ok(plan) => println!("{}\nAs the log has it:\n{plan}", plan.picture()),
        // As a run would say it, before it reads anything.
        Err(refused) => println!("refused: {refused}"),
    }
    Ok(())
}

/// The facts, each with its place.
fn print(sample: &MemorySample) {
    let bytes = |n: Option<u64>| n.map_or("not to be had".to_owned(), |n| Bytes(n).to_string());
    println!("the system says");
    println!("  {:>14}  physical memory", bytes(sample.physical));
    println!("  {:>14}  available without swapping", bytes(sample.available));
    println!(
        "  {:>14}  held by this process, {} of it not files",
        bytes(sample.own_resident),
        bytes(sample.own_anonymous)
    );
    match sample.cpus {
        Some(cpus) => println!("  {cpus:>14}  processors for this process"),
        None => println!("  {:>14}  processors for this process", "not to be had"),
    }
    let Some(groups) = &sample.cgroup else {
        println!("no control groups limit this process");
        return;
    };
    println!("control groups, {:?}, from ours up", groups.version);
    for level in &groups.levels {
        println!("  {:>14}  {} ({} used)", limit_of(level.limit), level.path.display(), bytes(level.usage));
    }
}

fn limit_of(limit: Option<u64>) -> String {
    limit.map_or("no limit".to_owned(), |n| Bytes(n).to_string())
}

fn job(name: &str) -> Result<Job> {
    match name {
        "write" => Ok(Job::Write),
        "merge" => Ok(Job::MergeDuckDb),
        "merge-delta-rs" => Ok(Job::MergeDeltaRs),
        "compact" => Ok(Job::Compact),
        _ => Err(Error::invalid(format!("unknown job {name:?}: write, merge, merge-delta-rs or compact"))),
    }
}

fn positive(what: &str, text: &str) -> Result<u64> {
    match text.parse() {
        Ok(n) if n > 0 => Ok(n),
        _ => Err(Error::invalid(format!("{what} must be a positive number, not {text:?}"))),
    }
}
