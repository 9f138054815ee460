//! The split of one limit into shares: pure, deterministic, and monotone.
//!
//! A share is its floor, plus its part of what is free above all floors, up to a ceiling where more would not help; what the
//! ceilings leave goes to DuckDB, which turns memory into less spilling. Sums of such terms can only grow with the limit,
//! which is how the laws of [`MemoryPlan`] come about.

pub mod constants;
mod picture;
mod shares;
mod workload;
mod writers;

use serde::{Deserialize, Serialize};

use crate::{Bound, EffectiveLimit, Error, LeaseRequest, MemorySettings, Result};

use shares::Split;
pub use workload::{Job, SpillPlan, Workload};
use writers::Writers;

/// What each part of one run may take.
///
/// Laws, which property tests hold for every limit, setting and job:
///
/// 1. `process + engine + writer + delta_rs + reserve <= limit`, and with `concurrent_runs` runs at a time all of them
///    together with one `process` stay below the limit, unless the floors let fewer run (the governor sees to it).
/// 2. Every share that the job uses is at least its floor; the others are 0.
/// 3. The same arguments give the same plan.
/// 4. With a larger limit no share is smaller, nor is `threads` or `writers`.
/// 5. `writers` row groups and `uploads_in_flight` parts fit in the writer's share.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct MemoryPlan {
    /// The job that was planned.
    pub job: Job,
    /// The limit of the process that was split.
    pub limit: u64,
    /// Why the limit is no larger.
    pub bound_by: Bound,
    /// For the process itself, counted once however many runs there are.
    pub process: u64,
    /// DuckDB's `memory_limit`.
    pub engine: u64,
    /// The parquet writers, row groups and uploads together.
    pub writer: u64,
    /// delta-rs's own operators; 0 where they do not run.
    pub delta_rs: u64,
    /// The part of `delta_rs` to give to DataFusion's memory pool. For a merge it is half, because delta-rs buffers the
    /// files that it scans outside the pool (upstream: 725 MB with a pool of 64 MB); this limits, it does not bound.
    pub delta_rs_pool: u64,
    /// Given to nobody: what DuckDB takes beyond its limit.
    pub reserve: u64,
    /// DuckDB's threads.
    pub threads: usize,
    /// Parquet writers side by side.
    pub writers: usize,
    /// The rows of a row group, whole vectors of DuckDB.
    pub row_group_rows: usize,
    /// The memory of a row group while it is written, by which it is closed where rows turn out wider than the hint.
    pub row_group_bytes: u64,
    /// Upload parts of [`constants::UPLOAD_PART`] in flight at once, over all writers.
    pub uploads_in_flight: usize,
    /// How many runs the limit was cut for.
    pub concurrent_runs: usize,
    /// Where and how much may be spilled.
    pub spill: SpillPlan,
}

/// Splits a limit for one job, or refuses with the limit that would do. Pure: it reads neither the machine nor the clock.
///
/// `workload` is a [`Job`], or a [`Workload`] where more is known about it.
pub fn plan(limit: &EffectiveLimit, settings: &MemorySettings, workload: impl Into<Workload>) -> Result<MemoryPlan> {
    settings.validate()?;
    let workload = workload.into();
    let most_threads = workload.threads.into_iter().chain(settings.threads).min().unwrap_or(limit.cpus).max(1);
    let most_writers = settings.writers.unwrap_or(most_threads);
    let split = Split::of(workload.job, &settings.floors, Writers::ceiling(most_writers));

    let process = settings.floors.process;
    let needed = process.saturating_add(split.floors());
    let most = limit.bytes.saturating_add(limit.reclaimable);
    if most < needed {
        let (job, bound_by) = (workload.job, limit.bound_by.clone());
        return Err(Error::LimitTooSmall { job, needed, limit: most, bound_by });
    }

    // Pages of files in use are taken back for the floors, and for no more.
    let bytes = limit.bytes.max(needed);
    let budget = bytes - process;
    let runs = settings.concurrent_runs.max(1);
    // Never below the floors: where the limit does not hold so many runs, the governor lets fewer run at a time.
    let shares = split.shares((budget / runs as u64).max(split.floors()));
    let writers = Writers::within(shares.writer, settings.floors.writer, most_writers, workload.row_width());
    Ok(MemoryPlan {
        job: workload.job,
        limit: bytes,
        bound_by: limit.bound_by.clone(),
        process,
        engine: shares.engine,
        writer: shares.writer,
        delta_rs: shares.delta_rs,
        delta_rs_pool: match workload.job {
            Job::MergeDeltaRs => shares.delta_rs / 2,
            _ => shares.delta_rs,
        },
        reserve: shares.reserve,
        threads: threads(shares.engine, most_threads),
        writers: writers.count,
        row_group_rows: writers.row_group_rows,
        row_group_bytes: writers.row_group_bytes,
        uploads_in_flight: writers.uploads,
        concurrent_runs: runs,
        spill: SpillPlan::new(&settings.spill, runs),
    })
}

/// As many threads as DuckDB's share feeds: with too many, each one's buffers are too small to sort or join even by
/// spilling.
fn threads(engine: u64, most: usize) -> usize {
    let fed = usize::try_from(engine / constants::ENGINE_PER_THREAD).unwrap_or(usize::MAX);
    fed.clamp(1, most)
}

impl MemoryPlan {
    /// What this run takes beside the process itself: the size of its lease.
    pub fn lease_bytes(&self) -> u64 {
        self.engine + self.writer + self.delta_rs + self.reserve
    }

    /// What all runs of this process together may hold in leases, as of this plan's limit.
    pub fn capacity(&self) -> u64 {
        self.limit.saturating_sub(self.process)
    }

    /// How many runs with this plan fit side by side: `concurrent_runs`, or fewer where the floors do not let so many.
    pub fn runs_at_a_time(&self) -> usize {
        let fit = self.capacity() / self.lease_bytes().max(1);
        usize::try_from(fit).unwrap_or(usize::MAX).clamp(1, self.concurrent_runs.max(1))
    }

    /// What to ask a [`Governor`](crate::Governor) for before the plan is carried out; `run` names the run to people.
    pub fn lease_request(&self, run: impl Into<String>) -> LeaseRequest {
        LeaseRequest::new(run, self.lease_bytes()).with_capacity(self.capacity())
    }
}
