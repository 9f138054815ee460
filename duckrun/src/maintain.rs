//! Maintenance as a session does it: after each run by its policy, or on request for a table or the whole root.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use duckrun_core::maintenance::{Action, MaintenanceOptions};
use duckrun_core::{Commit, Error, ErrorKind, Progress, Result, RunContext, Snapshot, TableName, TableStore};
use duckrun_delta::{DeltaMaintenance, VacuumPlan};
use duckrun_maintenance::{DefaultPolicy, MaintenancePolicy, OnRequest, Report};
use duckrun_memory::Job;
use futures::TryStreamExt;
use object_store::ObjectStore;
use object_store::path::Path;

use crate::session::Session;

/// How a session maintains its tables.
#[derive(Debug, Clone)]
pub(crate) struct Upkeep {
    /// Whether runs maintain their table after the commit.
    pub(crate) inline: bool,
    pub(crate) policy: Arc<dyn MaintenancePolicy>,
    pub(crate) options: MaintenanceOptions,
}

impl Default for Upkeep {
    fn default() -> Self {
        let policy = Arc::new(DefaultPolicy::default());
        Self { inline: true, policy, options: MaintenanceOptions::default() }
    }
}

impl Upkeep {
    /// After a run's commit, within its lease. It cannot fail the run; `None` is a store without maintenance of ours.
    pub(crate) async fn after_run(
        &self,
        cx: &RunContext,
        store: &dyn TableStore,
        at: Option<&dyn Snapshot>,
        commit: &Commit,
    ) -> Option<Report> {
        let table = store.maintenance(&self.options)?;
        let glance = table.glance(at, commit);
        Some(duckrun_maintenance::after_commit(cx, table.as_ref(), &self.policy, &glance).await)
    }
}

/// A callback for the progress of maintenance: the table and what is done of it.
type TableProgress = Arc<dyn Fn(&TableName, &Progress) + Send + Sync>;

/// Maintenance on request, of one table or of every table of the root. Nothing happens before [`run`](Maintain::run).
///
/// Without actions the session's policy decides; with actions exactly these are carried out, in their order.
///
/// ```no_run
/// # async fn doc(lake: duckrun::Session) -> duckrun::Result<()> {
/// println!("{}", lake.maintain("mart.flights").compact().run().await?);
/// println!("{}", lake.maintain_all().on_progress(|table, p| eprintln!("{table}: {:?}", p.fraction)).run().await?);
/// # Ok(()) }
/// ```
#[must_use = "maintenance does nothing until it is run"]
#[derive(Clone)]
pub struct Maintain {
    session: Session,
    /// `None` stands for every table.
    table: Option<String>,
    policy: Option<Arc<dyn MaintenancePolicy>>,
    actions: Vec<Action>,
    options: MaintenanceOptions,
    progress: Option<TableProgress>,
}

/// What maintenance did to each table. Prints one line a table.
#[must_use = "faults are in the report"]
#[derive(Debug, Clone, Default, PartialEq)]
pub struct MaintainReport {
    /// The tables, in the order of their names.
    pub tables: Vec<(TableName, Report)>,
}

impl MaintainReport {
    /// Whether nothing went wrong anywhere.
    pub fn is_clean(&self) -> bool {
        self.tables.iter().all(|(_, report)| report.is_clean())
    }
}

impl fmt::Display for MaintainReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, (table, report)) in self.tables.iter().enumerate() {
            let end = if i + 1 == self.tables.len() { "" } else { "\n" };
            write!(f, "{table}: {report}{end}")?;
        }
        Ok(())
    }
}

impl Session {
    /// Maintenance of the table `schema.table` on request. The name is checked when it runs.
    pub fn maintain(&self, table: impl Into<String>) -> Maintain {
        Maintain::new(self.clone(), Some(table.into()))
    }

    /// Maintenance of every table of the root, one after the other.
    pub fn maintain_all(&self) -> Maintain {
        Maintain::new(self.clone(), None)
    }

    /// Every folder `<schema>/<table>` of the root that holds a Delta log, in the order of the names.
    pub(crate) async fn tables(&self) -> Result<Vec<TableName>> {
        let (store, root) = self.root_store()?;
        let failed = |e: object_store::Error| {
            Error::new(ErrorKind::Unavailable, "the tables of the root cannot be listed").with_source(e)
        };
        let folders = async |below: Path| store.list_with_delimiter(Some(&below)).await.map_err(failed);
        let mut tables = Vec::new();
        for schema in folders(root).await?.common_prefixes {
            for table in folders(schema.clone()).await?.common_prefixes {
                let (Some(schema), Some(name)) = (schema.filename(), table.filename()) else { continue };
                // A folder whose name is no table's cannot be asked for by name either.
                let Ok(name) = TableName::new(schema, name) else { continue };
                if store.list(Some(&table.clone().join("_delta_log"))).try_next().await.map_err(failed)?.is_some() {
                    tables.push(name);
                }
            }
        }
        tables.sort_by_key(ToString::to_string);
        Ok(tables)
    }
}

impl Maintain {
    fn new(session: Session, table: Option<String>) -> Self {
        let options = session.inner.upkeep.options.clone();
        Self { session, table, policy: None, actions: Vec::new(), options, progress: None }
    }

    /// Another policy than the session's, for this once.
    pub fn policy(mut self, policy: impl MaintenancePolicy + 'static) -> Self {
        self.policy = Some(Arc::new(policy));
        self
    }

    /// Adds an action.
    pub fn action(mut self, action: Action) -> Self {
        self.actions.push(action);
        self
    }

    /// Merges the small files of every partition.
    pub fn compact(self) -> Self {
        self.action(Action::Compact { partitions: Vec::new() })
    }

    /// Orders the rows of every partition along a space-filling curve over the columns.
    pub fn z_order<S: Into<String>>(self, columns: impl IntoIterator<Item = S>) -> Self {
        let columns = columns.into_iter().map(Into::into).collect();
        self.action(Action::ZOrder { columns, partitions: Vec::new() })
    }

    /// Deletes files that no version within the retention needs, also such that no version ever named. A retention below the
    /// table's or 7 days is lifted to it, unless [`unsafe_retention`](Maintain::unsafe_retention).
    pub fn vacuum(self, retention: Duration) -> Self {
        self.action(Action::Vacuum { retention, full: true })
    }

    /// Writes a checkpoint.
    pub fn checkpoint(self) -> Self {
        self.action(Action::Checkpoint)
    }

    /// Takes the retention of a vacuum as it is. What that risks: [`MaintenanceOptions::unsafe_retention`].
    pub fn unsafe_retention(mut self) -> Self {
        self.options.unsafe_retention = true;
        self
    }

    /// Other options than the session's.
    pub fn options(mut self, options: MaintenanceOptions) -> Self {
        self.options = options;
        self
    }

    /// A callback for progress; it is called often, from any thread, and must not block.
    pub fn on_progress(mut self, f: impl Fn(&TableName, &Progress) + Send + Sync + 'static) -> Self {
        self.progress = Some(Arc::new(f));
        self
    }

    /// Carries it out. What goes wrong with a table is in its report.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidInput`] for a name that is none, or in a read-only session; [`ErrorKind::NotFound`] where there is no
    /// such table; [`ErrorKind::ResourceExhausted`] where memory does not suffice.
    pub async fn run(self) -> Result<MaintainReport> {
        if !self.session.inner.writable {
            return Err(Error::invalid("the session is read-only: open it with .writable()"));
        }
        let tables = match &self.table {
            Some(name) => vec![self.existing(name).await?],
            None => self.session.tables().await?,
        };
        let policy: Arc<dyn MaintenancePolicy> = match (&self.policy, self.actions.is_empty()) {
            (Some(_), false) => return Err(Error::invalid("maintenance follows a policy or actions, not both")),
            (Some(policy), true) => policy.clone(),
            (None, true) => self.session.inner.upkeep.policy.clone(),
            (None, false) => {
                let asked = OnRequest::new(self.actions.clone());
                Arc::new(if self.options.unsafe_retention { asked.allow_unsafe_retention() } else { asked })
            }
        };
        let what = self.table.as_deref().unwrap_or("every table");
        let (cx, _lease) = self.session.context(what, Job::Compact).await?;
        let _relief = crate::attempt::relieving(&cx);
        let mut report = MaintainReport::default();
        for name in tables {
            let cx = cx.next_attempt().with_progress(self.progress.clone().map(|f| {
                let name = name.clone();
                Arc::new(move |p: &Progress| f(&name, p)) as duckrun_core::ProgressFn
            }));
            let done = duckrun_maintenance::run(&cx, &self.table(&name)?, &policy).await;
            report.tables.push((name, done));
        }
        Ok(report)
    }

    /// What a vacuum of the table would delete now: nothing is written or deleted.
    ///
    /// # Errors
    /// As [`run`](Maintain::run); [`ErrorKind::InvalidInput`] for a retention below the table's or 7 days without
    /// [`unsafe_retention`](Maintain::unsafe_retention), and for the whole root.
    pub async fn vacuum_plan(self, retention: Duration) -> Result<VacuumPlan> {
        let Some(name) = &self.table else { return Err(Error::invalid("a vacuum is planned for one table")) };
        let name = self.existing(name).await?;
        let (cx, _lease) = self.session.context(&name.to_string(), Job::Compact).await?;
        self.table(&name)?.vacuum_plan(&cx, retention, true).await.map_err(|e| e.or_table(name.to_string()))
    }

    fn table(&self, name: &TableName) -> Result<DeltaMaintenance> {
        Ok(DeltaMaintenance::new(self.session.table_at(name)?, self.options.clone()))
    }

    async fn existing(&self, name: &str) -> Result<TableName> {
        let parsed: TableName = name.parse()?;
        self.session.snapshot(name, duckrun_core::At::Latest).await?;
        Ok(parsed)
    }
}

impl fmt::Debug for Maintain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Maintain").field("table", &self.table).field("actions", &self.actions).finish_non_exhaustive()
    }
}
