//! The type table: one place decides for every DuckDB type what its Delta type is, or why it is refused.
//!
//! | DuckDB | Delta | how |
//! |---|---|---|
//! | `BOOLEAN`, `TINYINT`, `SMALLINT`, `INTEGER`, `BIGINT`, `FLOAT`, `DOUBLE`, `VARCHAR`, `BLOB`, `DATE` | the same | untouched |
//! | `DECIMAL(p,s)` | `decimal(p,s)` | untouched |
//! | `UTINYINT`, `USMALLINT`, `UINTEGER`, `UBIGINT` | `short`, `integer`, `long`, `decimal(20,0)` | widened |
//! | `HUGEINT`, `UHUGEINT` | `decimal(38,0)` | a value beyond 38 digits is refused while the query runs |
//! | `ENUM`, `UUID`, `JSON` | `string` | cast |
//! | `TIMESTAMP` | `timestamp_ntz`, or `timestamp` with [`TimestampMode::Utc`](crate::TimestampMode::Utc) | untouched, or cast |
//! | `TIMESTAMP_S`, `TIMESTAMP_MS` | as `TIMESTAMP` | cast |
//! | `TIMESTAMP_NS` | as `TIMESTAMP` | refused while the query runs if nanoseconds would be lost |
//! | `TIMESTAMP WITH TIME ZONE` | `timestamp` | untouched |
//! | `TIMESTAMPTZ_NS` | `timestamp` | as `TIMESTAMP_NS` |
//! | `STRUCT`, `LIST`, `MAP` | `struct`, `array`, `map` | the rules above, inside |
//! | `ARRAY` | `array` | its fixed length is not kept |
//! | `TIME`, `TIME WITH TIME ZONE`, `TIME_NS`, `INTERVAL`, `BIT`, `BIGNUM`, `VARIANT`, `UNION`, `TUPLE`, `GEOMETRY`, `TYPE`, `NULL`, a `STRUCT` without fields | none | refused, with the cast to use |
//!
//! The parts, in the order of a query's life: [`DuckType::parse`] reads what `DESCRIBE` prints; [`decide`] gives the
//! Delta type and the SQL that yields it; [`cast_expr`] the SQL that yields the type of a table that exists already,
//! where [`widens`] says that nothing can be lost; [`conform`] relabels the batches that DuckDB exports; [`BatchCheck`]
//! refuses infinite dates and timestamps in them, which no Delta type can hold.
//!
//! Invariant: a value either arrives exactly, or an error names its column. A check that needs the value is SQL
//! (`error(...)`, its text begins with [`LOSS`]) or, for infinities, a scan of the batch. The SQL expects a session whose
//! time zone is UTC, and needs no extension.

mod cast;
mod check;
mod conform;
mod decide;
mod delta;
mod duck;
mod names;
mod parse;
#[cfg(test)]
mod tests;
mod widen;

pub use cast::{LOSS, cast_expr};
pub use check::{BatchCheck, check_batch};
pub use conform::conform;
pub use decide::{Decision, decide};
pub use delta::{is_delta_type, list_of, map_of, sql_type};
pub use duck::DuckType;
pub use names::check_names;
pub use widen::{common_type, widens};
