//! When a Delta table needs compaction, z-order, vacuum, a checkpoint or a log clean-up: pure policies over its statistics.
//!
//! A [`MaintenancePolicy`] looks at [`TableStats`], which come from the log alone, and at the time, and answers with the
//! [`Action`]s it wants, in the order in which they should happen. It touches nothing. [`run`] asks a policy and lets a
//! [`TableMaintenance`] (duckrun-delta has it) carry the actions out, one after the other; whatever goes wrong ends in the
//! [`Report`], never in the caller's run.
//!
//! [`DefaultPolicy`] follows [`PolicySettings`]. A small file is one under half the target size, and then:
//!
//! - **compaction** of the partitions whose small files would fill a target file, and of every partition with files that are
//!   worth merging where the table has more than a hundred of these. Files of about the target size are left alone, however
//!   many there are;
//! - **z-order** instead of compaction, where columns were named;
//! - **vacuum** once removed files have outlived the retention, and not more often than the retention; where that has happened
//!   before, also after twice that time, for what the log has forgotten;
//! - a **checkpoint** every `delta.checkpointInterval` commits, a **log clean-up** about once a day.
//!
//! After a commit [`after_commit`] first asks the policy whether it is worth reading the statistics, from what the run knows anyway
//! ([`Glance`]): [`DefaultPolicy`] looks when a checkpoint is due, after commits of many files, after every eleventh version, and when
//! the table had rested for an hour. So maintenance costs most small appends nothing, and what became due is noticed at most about
//! ten commits late.
//!
//! Three invariants, all property-tested: the same facts give the same actions; once they were applied it asks for nothing; it
//! never asks to vacuum below the table's retention or below [`SAFE_RETENTION`], unless
//! [`PolicySettings::unsafe_retention`] says so.
//!
//! ```
//! use std::collections::BTreeMap;
//!
//! use chrono::{TimeZone, Utc};
//! use duckrun_core::RunContext;
//! use duckrun_core::maintenance::{Action, PartitionStats, TableMaintenance, TableStats};
//! use duckrun_maintenance::{DefaultPolicy, MaintenancePolicy, PolicySettings, run};
//!
//! // A hot little table: 150 appends of one row each.
//! let mut stats = TableStats::default();
//! stats.target_file_size = 128 << 20;
//! stats.partitions = vec![PartitionStats::new(BTreeMap::new(), vec![2_000; 150])];
//!
//! let mut settings = PolicySettings::default();
//! settings.vacuum = false;
//! let policy = DefaultPolicy::new(settings)?;
//! let now = Utc.timestamp_opt(1_800_000_000, 0).single().ok_or("no such time")?;
//! assert_eq!(policy.decide(&stats, now), [Action::Compact { partitions: vec![] }]);
//!
//! // One file is left, and nothing more to do.
//! stats.partitions = vec![PartitionStats::new(BTreeMap::new(), vec![300_000])];
//! assert_eq!(policy.decide(&stats, now), []);
//!
//! // How it is carried out after a write. It cannot fail.
//! async fn after_the_commit(cx: &RunContext, table: &dyn TableMaintenance) {
//!     let report = run(cx, table, &DefaultPolicy::default()).await;
//!     println!("{report}"); // maintenance of v151: compact → v152 (-150 +1 files); checkpoint; 0.31 s
//! }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! What is deliberately absent: clocks, stores, threads. A scheduler that runs maintenance away from the writes is a loop around
//! [`run`].
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod cadence;
mod compact;
mod config;
mod occasion;
mod policy;
mod report;
mod runner;

#[cfg(test)]
mod tests;

pub use config::{PolicySettings, SAFE_RETENTION};
pub use policy::{DefaultPolicy, Disabled, MaintenancePolicy, OnRequest};
pub use report::{Fault, Outcome, Report, Step};
pub use runner::{after_commit, run};

#[cfg(doc)]
use duckrun_core::maintenance::{Action, Glance, TableMaintenance, TableStats};
