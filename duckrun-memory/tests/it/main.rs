//! The crate from outside: recorded systems, the laws of plans and leases, and a control group of our own.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod governor_laws;
#[cfg(target_os = "linux")]
mod live_cgroup;
mod plan_laws;
mod recorded_systems;
mod spill_crash;
mod trees;
