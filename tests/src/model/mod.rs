//! A table in memory that says what every strategy must do: the oracle of differential tests.
//!
//! It is written to be read, not to be fast: rows are vectors of [`Value`]s, a join is two nested loops, and nothing in it
//! knows SQL, Delta, files or statistics. Where it and an executor differ, one of them is wrong.
//!
//! ```
//! use duckrun_testkit::model::{Column, Merge, Rows, Table, Type, Value};
//! let columns = vec![Column::new("id", Type::Long), Column::new("v", Type::Text)];
//! let rows = |pairs: &[(i64, &str)]| {
//!     let rows = pairs.iter().map(|(id, v)| vec![Value::Int(*id), Value::Text((*v).into())]).collect();
//!     Rows::new(columns.clone(), rows)
//! };
//! let mut table = Table::new(rows(&[(1, "old"), (2, "kept")]));
//! let done = table.merge(&Merge::upsert(["id"], &columns), &rows(&[(1, "new"), (3, "more")])).unwrap();
//! assert_eq!((done.inserted, done.updated, done.deleted), (1, 1, 0));
//! assert_eq!(table.rows(), &rows(&[(1, "new"), (2, "kept"), (3, "more")]));
//! assert_eq!(table.version(), 1);
//! ```

mod expr;
mod merge;
mod options;
mod replace;
mod rows;
mod scd2;
mod table;
mod value;

pub use expr::{Compare, Expr};
pub use merge::{Clause, Duplicates, Merge, Order, Then};
pub use options::{BySource, MergeOptions};
pub use replace::{Unit, windows};
pub use rows::{Column, Rows};
pub use scd2::{Changed, Scd2};
pub use table::{Counts, Refusal, Table};
pub use value::{Type, Value};
