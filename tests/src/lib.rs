//! A harness that holds engines, stores and strategies to the promises of duckrun.
//!
//! For those who write an engine, a store, a strategy, a policy, a source or a probe of their own, and for our own tests:
//! - suites of checks for every trait ([`conformance`]);
//! - a plain table in memory that says what every strategy must do ([`model`]), generators of tables and merges for it
//!   ([`generate`]), and sequences of operations on real tables that are compared with it ([`machine`]);
//! - a store that misbehaves on demand ([`FaultyStore`]), one that counts ([`CountingStore`]), one that lets another writer in at a
//!   chosen moment ([`Interleaved`]), emulators of S3 and Azure ([`Emulator`]);
//! - a control group with a real memory limit (`MemoryGroup`, on Linux), and small helpers to read tables back ([`rows`]).
//!
//! Campaigns run for as long as one likes and count what they see in a [`Tally`]: the commit protocol under a scheduler with a
//! seed ([`simulation`]), processes killed at every effect ([`crash`]), many processes on one table ([`chaos`]), stores and disks
//! that fail ([`faults`], [`broken_disk`]), runs dropped wherever they wait ([`cancel`]). What their writers do, and how it is
//! judged, is [`work`].

pub mod broken_disk;
pub mod cancel;
pub mod chaos;
pub mod conformance;
mod counting;
pub mod crash;
mod emulator;
pub mod faults;
mod faulty;
pub mod generate;
mod governor;
#[cfg(target_os = "linux")]
mod group;
mod interleave;
pub mod machine;
pub mod model;
mod read;
pub mod simulation;
mod tally;
pub mod work;

pub use counting::{CountingStore, Requests};
pub use emulator::{BearerProxy, Emulated, Emulator};
pub use faulty::{Fault, FaultyStore, Operation};
pub use governor::own_governor;
#[cfg(target_os = "linux")]
pub use group::MemoryGroup;
pub use interleave::{Interleaved, Moment};
pub use read::{column_i64, data_files, log_versions, rows};
pub use tally::Tally;
