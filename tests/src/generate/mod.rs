//! Generators for property tests: values that break things, tables in several files, and merges with all their options.
//!
//! Everything generated is of the [`model`](crate::model); [`sql`] and [`arrow`] turn it into what an engine or a Delta writer
//! takes, and back.

pub mod arrow;
mod deleted;
mod merges;
pub mod sql;
mod tables;
mod values;

pub use deleted::delete_rows;
pub use merges::{MergeCase, expression, merge_case};
pub use tables::{TableCase, columns, table_case};
pub use values::{edges, key_type, partition_type, value, value_type};
