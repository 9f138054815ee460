//! The arithmetic of the split. Each share is a monotone function of the budget, and so is the sum.

use super::{Job, constants};
use crate::Floors;

/// A share as a function of what is free above the floors.
#[derive(Clone, Copy, Debug, Default)]
struct Share {
    floor: u64,
    /// Its part of what is free, in thousandths.
    weight: u64,
    /// The most beyond the floor; `None` takes its part without end.
    most_extra: Option<u64>,
}

/// The shares of one job.
#[derive(Clone, Copy, Debug)]
pub(super) struct Split {
    engine: Share,
    writer: Share,
    delta_rs: Share,
    reserve: Share,
}

/// The shares in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Shares {
    pub(super) engine: u64,
    pub(super) writer: u64,
    pub(super) delta_rs: u64,
    pub(super) reserve: u64,
}

impl Split {
    /// Who gets how much of what is free.
    ///
    /// The writer's part is one that its ceiling cuts off soon, for encoding is bound by processors once each has a
    /// writer. It feeds two writers in 512 MiB, in DuckDB's merge too: that merge rewrites files as a write does, and what
    /// its join lacks it spills. In a merge by delta-rs DuckDB only produces the source, so most goes to delta-rs, as in the Python
    /// duckrun (30 % DuckDB, 60 % pool). In a compaction DuckDB may be the reader as well as delta-rs, so both get a part.
    pub(super) fn of(job: Job, floors: &Floors, writer_ceiling: u64) -> Self {
        let [engine, writer, delta_rs, reserve] = match job {
            Job::Write | Job::MergeDuckDb => [680, 260, 0, 60],
            Job::MergeDeltaRs => [250, 140, 550, 60],
            Job::Compact => [320, 300, 320, 60],
        };
        let delta_rs_floor = match job {
            Job::Write | Job::MergeDuckDb => 0,
            Job::MergeDeltaRs => floors.delta_rs_merge,
            Job::Compact => floors.delta_rs,
        };
        let up_to = |ceiling: u64, floor: u64| Some(ceiling.saturating_sub(floor));
        Self {
            engine: Share { floor: floors.engine, weight: engine, most_extra: None },
            writer: Share { floor: floors.writer, weight: writer, most_extra: up_to(writer_ceiling, floors.writer) },
            delta_rs: Share { floor: delta_rs_floor, weight: delta_rs, most_extra: None },
            reserve: Share {
                floor: floors.reserve,
                weight: reserve,
                most_extra: up_to(constants::RESERVE_CEILING, floors.reserve),
            },
        }
    }

    /// The least that the job needs beside the process.
    pub(super) fn floors(&self) -> u64 {
        let shares = [self.engine, self.writer, self.delta_rs, self.reserve];
        shares.iter().fold(0, |sum, share| sum.saturating_add(share.floor))
    }

    /// The shares of a budget that holds the floors.
    pub(super) fn shares(&self, budget: u64) -> Shares {
        let free = budget.saturating_sub(self.floors());
        let cut_off = [self.writer, self.delta_rs, self.reserve].map(|share| share.cut_off(free));
        Shares {
            engine: self.engine.bytes(free) + cut_off.iter().sum::<u64>(),
            writer: self.writer.bytes(free),
            delta_rs: self.delta_rs.bytes(free),
            reserve: self.reserve.bytes(free),
        }
    }
}

impl Share {
    fn bytes(&self, free: u64) -> u64 {
        self.floor + self.wanted(free).min(self.most_extra.unwrap_or(u64::MAX))
    }

    /// What the ceiling leaves to others.
    fn cut_off(&self, free: u64) -> u64 {
        self.most_extra.map_or(0, |most| self.wanted(free).saturating_sub(most))
    }

    fn wanted(&self, free: u64) -> u64 {
        // Split before multiplying: exact, and no limit is large enough to overflow.
        free / 1000 * self.weight + free % 1000 * self.weight / 1000
    }
}
