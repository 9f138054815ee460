//! Maintenance of a Delta table: statistics from its log, and actions that never change its rows.
//!
//! Invariants:
//! - an action commits through [`upkeep`](crate::commit) only: all its inputs are still live, protocol and metadata unchanged;
//! - files are deleted only by [`vacuum`] and [`log`], only once they are older than the retention by the store's own time, and only
//!   while the local clock and the store's agree ([`clock`]);
//! - an action that fails or is dropped leaves at most files that no version names, which a full vacuum reclaims.

mod clock;
mod delete;
mod log;
mod properties;
mod replay;
mod rewrite;
mod sort;
mod stats;
mod vacuum;
mod zorder;

use std::fmt;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use async_trait::async_trait;
use duckrun_core::maintenance::{Action, Applied, Glance, MaintenanceOptions, TableMaintenance, TableStats};
use duckrun_core::{At, Commit, Error, ErrorKind, Result, RunContext, Snapshot};

pub(crate) use self::properties::Properties;
pub(crate) use self::replay::object_path;
pub use self::vacuum::VacuumPlan;
use crate::checkpoint;
use crate::snapshot::DeltaSnapshot;
use crate::store::DeltaStore;

/// Maintenance of one Delta table, with its options.
///
/// ```no_run
/// # async fn doc(cx: duckrun_core::RunContext) -> duckrun_core::Result<()> {
/// use duckrun_core::maintenance::{Action, MaintenanceOptions, TableMaintenance};
/// use duckrun_delta::{DeltaMaintenance, DeltaStore, Location};
/// let table = DeltaStore::new(Location::local("./warehouse/mart/flights")?);
/// let maintenance = DeltaMaintenance::new(table, MaintenanceOptions::default());
/// let applied = maintenance.apply(&cx, &Action::Compact { partitions: vec![] }).await?;
/// println!("{} files became {}", applied.files_removed, applied.files_added);
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct DeltaMaintenance {
    store: DeltaStore,
    options: MaintenanceOptions,
    /// What the run had pinned: the statistics then need only what came after it.
    pinned: Arc<OnceLock<DeltaSnapshot>>,
}

impl DeltaMaintenance {
    /// The maintenance of a table. Nothing is read.
    pub fn new(store: DeltaStore, options: MaintenanceOptions) -> Self {
        Self { store, options, pinned: Arc::default() }
    }

    /// What a vacuum would delete now; nothing is written or deleted. The clocks are compared only as far as the log's newest
    /// commit tells.
    ///
    /// # Errors
    /// As the vacuum itself: [`ErrorKind::InvalidInput`] for a retention below the table's or 7 days without
    /// [`unsafe_retention`](MaintenanceOptions::unsafe_retention); the store's.
    pub async fn vacuum_plan(&self, cx: &RunContext, retention: Duration, full: bool) -> Result<VacuumPlan> {
        let location = self.store.table_location();
        Ok(vacuum::plan(cx, location, &self.options, retention, full).await?.0)
    }

    async fn open(&self) -> Result<DeltaSnapshot> {
        let missing =
            || Error::new(ErrorKind::NotFound, format!("there is no table at {}", self.store.table_location()));
        self.store.open(At::Latest).await?.ok_or_else(missing)
    }

    async fn checkpoint(&self, action: &Action) -> Result<Applied> {
        let snapshot = self.open().await?;
        snapshot.protocol().check_rewritable()?;
        checkpoint::write(&snapshot).await?;
        Ok(Applied::done(action.clone()))
    }
}

#[async_trait]
impl TableMaintenance for DeltaMaintenance {
    fn glance(&self, at: Option<&dyn Snapshot>, commit: &Commit) -> Glance {
        let mut glance = Glance::new(at, commit);
        if let Some(snapshot) = at.and_then(|at| at.as_any().downcast_ref::<DeltaSnapshot>()) {
            // Properties that cannot be understood are the fault of the look, not of the glance.
            glance.checkpoint_interval = Properties::of(snapshot.metadata()).map_or(1, |p| p.checkpoint_interval);
            (glance.checkpoint, glance.last_commit) = replay::log_files(snapshot);
            // A second glance keeps the first snapshot, which does as well.
            let _ = self.pinned.set(snapshot.clone());
        }
        glance
    }

    async fn stats(&self, cx: &RunContext) -> Result<TableStats> {
        let snapshot = match self.pinned.get() {
            Some(pinned) => pinned.newest().await?,
            None => self.open().await?,
        };
        stats::read(&snapshot, &self.options, cx.now()).await
    }

    async fn apply(&self, cx: &RunContext, action: &Action) -> Result<Applied> {
        let location = self.store.table_location();
        let done = match action {
            Action::Compact { partitions } => {
                rewrite::compact(cx, &self.store, &self.options, action, partitions).await
            }
            Action::ZOrder { columns, partitions } => {
                rewrite::order(cx, &self.store, &self.options, action, columns, partitions).await
            }
            Action::Vacuum { retention, full } => {
                vacuum::run(cx, location, &self.options, action, *retention, *full).await
            }
            Action::Checkpoint => self.checkpoint(action).await,
            Action::CleanLog { retention } => log::clean(cx, location, &self.open().await?, action, *retention).await,
            other => Err(Error::unsupported(format!("this library does not know how to {other}"))),
        };
        done.map_err(|e| e.with_operation("maintenance"))
    }
}

impl fmt::Debug for DeltaMaintenance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DeltaMaintenance").field("store", &self.store).field("options", &self.options).finish()
    }
}

/// The name of a column in the table's schema, by its name in files and log.
fn logical_name(snapshot: &DeltaSnapshot, physical: &str) -> String {
    let mapped = snapshot.metadata().column_mapping();
    let field = snapshot.delta_schema().fields.iter().find(|f| f.physical_name(mapped) == physical);
    field.map_or_else(|| physical.to_owned(), |f| f.name.clone())
}
