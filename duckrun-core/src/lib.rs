//! The contracts of duckrun, and DuckDB behind them.
//!
//! A run pins the target's snapshot, lets an [`Engine`] execute SQL over [`Relation`]s, pulls the result as a
//! [`BatchStream`] of Arrow batches, and hands it to a [`TableStore`], which commits it as a [`Strategy`] planned. This
//! crate has the traits and values that these parts share, and one implementation: DuckDB, in the module `duckdb` (cargo
//! feature of the same name). The Arrow version of every signature is re-exported as [`arrow`], that of stores as [`object_store`].
//!
//! Invariants that hold across the crates:
//! - a plan is a value; only an executor drives the engine, only a store touches files and log;
//! - batches are pulled, a stream ends only when every row has passed;
//! - an expected outcome is an enum ([`CommitOutcome`]), `Err` is for what the caller did not plan for.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

pub use arrow;
pub use duckrun_memory as memory;
pub use object_store;

mod batch;
mod change;
mod context;
#[cfg(feature = "duckdb")]
pub mod duckdb;
mod engine;
mod error;
pub mod maintenance;
mod name;
mod plan;
mod relation;
mod secret;
mod source;
mod store;
pub mod types;

pub use batch::BatchStream;
pub use change::{
    Assignment, Bound, Check, Clause, ColumnRange, Comparison, Duplicates, MergePlan, NullKeys, ReadSet, ReplacePlan,
    Replaced, RowExpr, Then, When,
};
pub use context::{Clock, Phase, Progress, ProgressFn, RunContext, RunId, SystemClock};
pub use engine::{Capabilities, Engine, EngineSession, EngineSettings, Query, TimestampMode, Value};
pub use error::{Error, ErrorKind, Result};
pub use name::{RelationName, TableName, TableReference, quote_ident, quote_literal};
pub use plan::{
    AppTransaction, Commit, CommitOutcome, Compression, ConflictPolicy, Contract, ContractColumn, FileOptions,
    MetadataChange, Nothing, SchemaChange, TableFacts, TableOptions, TableState, WriteAction, WriteMetrics, WritePlan,
};
pub use relation::{ColumnSource, DataFile, FileColumn, FileSet, Relation, StoreFile, StoreFiles};
pub use secret::StorageOptions;
pub use source::{OpenedStore, Resolved, Source, SourceContext, TableOpener, Target};
pub use store::{
    At, CHANGE_DELETE, CHANGE_TYPE, CHANGE_UPDATE, CommitRecord, Executor, FILE_INDEX, Intent, Operation, ROW_CHANGE,
    ROW_NUMBER, RewriteSpec, Rewritten, RowCounts, Snapshot, Staged, StagedFile, Strategy, StrategyRun, TableStore,
    WriteJob, WriteSpec,
};
