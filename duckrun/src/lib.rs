//! duckrun: SQL in DuckDB, pinned to a snapshot and streamed into a Delta table.
//!
//! Every write is pinned to the snapshot that was read, and either lands whole, once, or fails loudly with the table
//! untouched. A [`Session`] opens a root of Delta tables; a [`Model`] is one table's SQL with its sources and strategy; running
//! it yields a [`Report`].
//!
//! ```
//! # #[tokio::main(flavor = "multi_thread")]
//! # async fn main() -> duckrun::Result<()> {
//! # let root = tempfile::tempdir().map_err(|e| duckrun::Error::internal(e.to_string()))?;
//! use duckrun::{SafeAppend, Session};
//!
//! let lake = Session::open(root.path()).writable().await?;
//! let report = lake
//!     .model("mart.numbers")
//!     .first_sql("select range as n from range(10)")
//!     .sql("select max(n) + 1 as n from this")
//!     .strategy(SafeAppend)
//!     .run()
//!     .await?;
//! println!("{report}");
//! assert_eq!(report.rows_inserted(), 10);
//! # Ok(()) }
//! ```
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod attempt;
mod changes;
mod maintain;
mod model;
mod pins;
mod report;
mod session;
mod table;
mod tables;

pub use duckrun_core as core;
pub use duckrun_core::duckdb;
pub use duckrun_core::maintenance::{Action, MaintenanceOptions};
pub use duckrun_core::{
    AppTransaction, At, BatchStream, Commit, CommitOutcome, Compression, Contract, ContractColumn, Engine,
    EngineSession, EngineSettings, Error, ErrorKind, Executor, FileOptions, Nothing, NullKeys, Phase, Progress, Query,
    Relation, Resolved, Result, RunContext, RunId, SchemaChange, Snapshot, Source, SourceContext, StorageOptions,
    Strategy, TableName, TableOptions, TableStore, TimestampMode, Value, WriteMetrics, arrow,
};
pub use duckrun_delta as delta;
pub use duckrun_delta::{
    Append, BatchSize, CheckColumns, ClauseAction, ClauseConfig, Delete, DeleteInsert, DeltaMaintenance,
    DeltaRsExecutor, DeltaRsOptions, DeltaStore, FirstThatAccepts, FullSync, HeldLock, Insert, InsertOverwrite,
    LeaseLock, Location, Merge, MergeClause, Microbatch, MicrobatchWindow, Overwrite, ReplaceWhere, SafeAppend, Scd2,
    SqlExecutor, StoreRoot, StrategyConfig, Token, TokenProvider, Update, WriterLock, strategy_by_name,
};
pub use duckrun_maintenance as maintenance;
pub use duckrun_maintenance::{DefaultPolicy, PolicySettings};
pub use duckrun_memory as memory;
pub use duckrun_memory::{FairGovernor, Governor, MemoryPlan, MemoryProbe, MemorySettings};
pub use duckrun_sources as sources;

pub use changes::Changes;
pub use maintain::{Maintain, MaintainReport};
pub use model::Model;
pub use report::{FailedWindow, PhaseTime, Report, Window};
pub use session::{Reader, Session, SessionBuilder};
pub use table::{RowChange, Table};
