//! Generators for property tests: values that break things, tables in several files, and merges with all their options.
//!
//! Everything generated is of the [`model`](crate::model); [`sql`] and [`arrow`] turn it into what an engine or a Delta writer
//! takes, and back.

pub mod arrow;
mod deleted;
mod merges;
pub mod sql;
mod strategies;
mod tables;
mod values;

pub use deleted::{delete_rows, delete_rows_of};
pub use merges::{MergeCase, expression, incoming, merge_case, merge_options, number, one_per_key, settle_duplicates};
pub use strategies::merge_strategy;
pub use tables::{TableCase, columns, partition_value, row, table_case};
pub use values::{edges, key_type, partition_type, value, value_type};
