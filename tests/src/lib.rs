//! A harness that holds engines, stores and strategies to the promises of duckrun.
//!
//! It grows with the project; so far it has what the integration tests share and an embedder can use for the same purpose:
//! a store that misbehaves on demand ([`FaultyStore`]), one that counts ([`CountingStore`]), emulators of S3 and Azure ([`Emulator`]), a control group with a real memory limit (`MemoryGroup`, on Linux),
//! a plain table in memory that says what every strategy must do ([`model`]), generators of tables and merges for it
//! ([`generate`]), a store that lets another writer in at a chosen moment ([`Interleaved`]), and small helpers to read tables
//! back ([`rows`]).

mod counting;
mod emulator;
mod faulty;
pub mod generate;
#[cfg(target_os = "linux")]
mod group;
mod interleave;
pub mod model;
mod read;
mod tally;

pub use counting::{CountingStore, Requests};
pub use emulator::{BearerProxy, Emulated, Emulator};
pub use faulty::{Fault, FaultyStore, Operation};
#[cfg(target_os = "linux")]
pub use group::MemoryGroup;
pub use interleave::{Interleaved, Moment};
pub use read::{column_i64, data_files, log_versions, rows};
pub use tally::Tally;
