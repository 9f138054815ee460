//! A table of a session: its versions, and changes of rows that need no SQL of a model.

use std::future::{Future, IntoFuture};
use std::pin::Pin;
use std::sync::Arc;

use duckrun_core::{At, FileOptions, Progress, Result, Snapshot, TableName, TableStore};
use duckrun_delta::{Delete, DeltaStore, Update};

use crate::model::Model;
use crate::report::Report;
use crate::session::Session;

/// A table of a session.
///
/// ```no_run
/// # async fn doc(lake: duckrun::Session) -> duckrun::Result<()> {
/// let flights = lake.table("mart.flights")?;
/// let report = flights.delete("day < DATE '2020-01-01'").await?;
/// println!("{report}");
/// flights.update([("price", "price * 0.9"), ("note", "'sale'")], Some("year = 2020")).retries(3).run().await?;
/// # Ok(()) }
/// ```
#[derive(Debug, Clone)]
pub struct Table {
    session: Session,
    store: DeltaStore,
    name: TableName,
}

impl Table {
    pub(crate) fn new(session: Session, store: DeltaStore, name: TableName) -> Self {
        Self { session, store, name }
    }

    /// The name.
    pub fn name(&self) -> &TableName {
        &self.name
    }

    /// The table's place.
    pub fn store(&self) -> &DeltaStore {
        &self.store
    }

    /// Pins a version; `None` where there is no table.
    ///
    /// # Errors
    /// Anything that stands in the way of reading the log.
    pub async fn snapshot(&self, at: At) -> Result<Option<Arc<dyn Snapshot>>> {
        self.store.snapshot(at).await.map_err(|e| e.with_table(self.name.to_string()))
    }

    /// Deletes the rows for which a predicate holds; where it is NULL, the row stays. See [`Delete`].
    pub fn delete(&self, predicate: impl Into<String>) -> RowChange {
        self.change(|model| model.strategy(Delete::rows_where(predicate)))
    }

    /// Deletes every row.
    pub fn delete_all(&self) -> RowChange {
        self.change(|model| model.strategy(Delete::all()))
    }

    /// Sets columns to expressions over the row as it was, where the predicate holds. See [`Update`].
    pub fn update<C: Into<String>, E: Into<String>>(
        &self,
        set: impl IntoIterator<Item = (C, E)>,
        predicate: Option<&str>,
    ) -> RowChange {
        let update = Update::new(set);
        self.change(|model| {
            model.strategy(match predicate {
                Some(predicate) => update.rows_where(predicate),
                None => update,
            })
        })
    }

    fn change(&self, strategy: impl FnOnce(Model) -> Model) -> RowChange {
        RowChange { model: strategy(self.session.model(self.name.to_string())) }
    }
}

/// A change of a table's rows; it happens when it is awaited or [run](RowChange::run).
#[must_use = "a change does nothing until it is awaited"]
#[derive(Debug, Clone)]
pub struct RowChange {
    model: Model,
}

impl RowChange {
    /// On a conflict, reads again and decides again, up to this many times.
    pub fn retries(mut self, retries: u32) -> Self {
        self.model = self.model.retries(retries);
        self
    }

    /// How data files are written.
    pub fn files(mut self, files: FileOptions) -> Self {
        self.model = self.model.files(files);
        self
    }

    /// An application's own transaction: a change whose version was applied before does nothing.
    pub fn transaction(mut self, app_id: impl Into<String>, version: i64) -> Self {
        self.model = self.model.transaction(app_id, version);
        self
    }

    /// A callback for progress; it is called often, from any thread, and must not block.
    pub fn on_progress(mut self, f: impl Fn(&Progress) + Send + Sync + 'static) -> Self {
        self.model = self.model.on_progress(f);
        self
    }

    /// Carries the change out. As with a model, a conflict is an outcome in the report.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`](duckrun_core::ErrorKind::NotFound) where there is no table; otherwise as
    /// [`Model::run`].
    pub async fn run(self) -> Result<Report> {
        self.model.run().await
    }
}

impl IntoFuture for RowChange {
    type Output = Result<Report>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.run())
    }
}
