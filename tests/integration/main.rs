//! The integration tests: one binary, because each more would link DuckDB and DataFusion again.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod bad_input;
mod concurrency;
mod conflicts;
mod conformance;
mod dbt_cases;
mod delta_rs_differences;
mod delta_rs_executor;
mod emulators;
mod exactly_once;
mod jobs;
mod machine;
mod maintained;
mod maintenance;
mod maintenance_corruption;
mod maintenance_crash;
mod maintenance_vacuum;
mod memory;
mod merge_errors;
mod merge_history;
mod merge_properties;
mod merges;
mod oracle;
mod readers;
mod reading;
mod retries;
mod runs;
mod scd2_properties;
mod sources;
mod spark_cases;
mod statistics_properties;
mod store_faults;
mod stores;
mod support;
