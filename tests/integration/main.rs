//! The integration tests: one binary, because each more would link DuckDB and DataFusion again.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod bad_input;
mod concurrency;
mod emulators;
mod exactly_once;
mod jobs;
mod maintained;
mod maintenance;
mod maintenance_corruption;
mod maintenance_crash;
mod maintenance_vacuum;
mod memory;
mod merges;
mod readers;
mod reading;
mod runs;
mod sources;
mod store_faults;
mod stores;
mod support;
