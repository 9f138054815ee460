//! The tests of the type table. Those that need DuckDB ask DuckDB itself for the expected values, so that a new release
//! that changes a type, or adds one, fails here.

mod batches;
#[cfg(feature = "duckdb")]
mod bridge;
#[cfg(feature = "duckdb")]
mod casts;
#[cfg(feature = "duckdb")]
mod exactness;
#[cfg(feature = "duckdb")]
mod nesting;
mod parser;
#[cfg(feature = "duckdb")]
mod rows;
#[cfg(feature = "duckdb")]
mod table;
