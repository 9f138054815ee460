//! Delta tables for duckrun: pinned snapshots, strategies, parallel parquet writing, conditional commits.
//!
//! delta-rs replays the log, writes commits to remote logs conditionally and makes checkpoints; what a commit contains, when
//! it may follow somebody else's, and how its files are laid out is decided here. Invariants:
//! - data files get names that nobody else uses and are complete and synced before a commit names them;
//! - [`commit`](duckrun_core::TableStore::commit) is the only place that changes what readers see;
//! - files are removed only when the log proves that no commit names them.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod change;
mod changes;
mod checkpoint;
mod commit;
mod deletion_vector;
mod delta_rs;
mod error;
mod executor;
mod fallback;
mod history;
mod location;
mod maintenance;
mod protocol;
mod prune;
mod read;
mod rewrite;
mod scan;
mod schema;
mod snapshot;
mod store;
mod stores;
mod strategy;
mod write;

pub use delta_rs::{DeltaRsExecutor, DeltaRsOptions};
pub use executor::SqlExecutor;
pub use fallback::FirstThatAccepts;
pub use location::Location;
pub use maintenance::{DeltaMaintenance, VacuumPlan};
pub use snapshot::DeltaSnapshot;
pub use store::DeltaStore;
pub use stores::{HeldLock, LeaseLock, StoreRoot, Token, TokenProvider, WriterLock};
pub use strategy::{
    Append, BatchSize, CheckColumns, ClauseAction, ClauseConfig, Delete, DeleteInsert, FullSync, Insert,
    InsertOverwrite, Merge, MergeClause, Microbatch, MicrobatchWindow, Overwrite, ReplaceWhere, SafeAppend, Scd2,
    StrategyConfig, Update, strategy_by_name,
};
