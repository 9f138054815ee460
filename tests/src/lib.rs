//! A harness that holds engines, stores and strategies to the promises of duckrun.
//!
//! It grows with the project; so far it has what the integration tests share and an embedder can use for the same purpose:
//! a store that misbehaves on demand ([`FaultyStore`]), and small helpers to read tables back ([`rows`]).

mod faulty;
mod read;

pub use faulty::{Fault, FaultyStore, Operation};
pub use read::{column_i64, data_files, log_versions, rows};
