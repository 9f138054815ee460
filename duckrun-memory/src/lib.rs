//! The memory limit of a machine or container, split into shares and leased to concurrent runs.
//!
//! A run of duckrun holds memory in several places at once: DuckDB's buffers, parquet row groups, upload parts, at
//! times delta-rs's own operators. Each of them can be told how much it may take; nobody tells them together. This crate
//! does, in four steps that know nothing of DuckDB or Arrow:
//!
//! 1. **Detect.** A [`MemoryProbe`] takes a [`MemorySample`] of the machine, of the process and of its control groups.
//!    [`EffectiveLimit::detect`] turns the sample into one number and says which fact bound it. A sample is taken for
//!    every run, because neighbours come and go.
//! 2. **Plan.** [`plan`] splits the limit for one [`Job`] into a [`MemoryPlan`]. It is a pure function with stated laws
//!    (see [`MemoryPlan`]), or it refuses with the number of bytes that would do.
//! 3. **Lease.** A [`Governor`] lets concurrent runs of one process start as their shares become free;
//!    [`FairGovernor`] is the one that ships. A run waits rather than overcommits.
//! 4. **Measure.** A [`PeakMeter`] takes the peak that was really reached, to be reported next to the plan, and a
//!    [`SpillDir`] gives what does not fit a place on disk that disappears with the run.
//!
//! ```
//! use duckrun_memory::{plan, EffectiveLimit, Job, MemoryProbe, MemorySettings, SystemProbe};
//!
//! let settings = MemorySettings::default();
//! let limit = EffectiveLimit::detect(&SystemProbe::new().sample(), &settings);
//! println!("{}", limit.picture());
//! match plan(&limit, &settings, Job::Write) {
//!     Ok(plan) => println!("{plan}"),
//!     Err(error) => println!("this machine is too small: {error}"),
//! }
//! ```
//!
//! The numbers behind the split are in one place, [`Floors`] and [`constants`], with where they come from.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod bytes;
mod cgroup;
mod config;
mod error;
mod fair;
mod governor;
mod limit;
mod meter;
mod plan;
mod probe;
mod spill;

pub use bytes::{Bytes, GIB, MIB};
pub use cgroup::{CgroupLevel, CgroupReader, CgroupSample, CgroupVersion};
pub use config::{Floors, MemorySettings, SpillSettings};
pub use error::{Error, ErrorKind, Result};
pub use fair::FairGovernor;
pub use governor::{Governor, Lease, LeaseRequest};
pub use limit::{Bound, Candidate, EffectiveLimit};
pub use meter::{Peak, PeakMeter, Relief, peak_resident_bytes, resident_bytes};
pub use plan::{Job, MemoryPlan, SpillPlan, Workload, constants, plan};
pub use probe::{MemoryProbe, MemorySample, SystemProbe};
pub use spill::SpillDir;
