//! The change data feed of a Delta table as a source.

use async_trait::async_trait;
use duckrun_core::{Error, ErrorKind, Relation, Resolved, Result, Source, SourceContext, TableStore};
use duckrun_delta::DeltaStore;

use crate::session::Session;

/// What a range of versions did to the rows of a Delta table, as a source.
///
/// The relation has the table's columns and `_change_type`, `_commit_version`, `_commit_timestamp`; see
/// [`DeltaStore::changes`] for what they hold and where the changes come from.
///
/// ```no_run
/// # async fn doc(lake: duckrun::Session) -> duckrun::Result<()> {
/// let changes = lake.changes("mart.flights", 7)?; // version 7 and everything since
/// lake.model("mart.arrivals")
///     .source("changes", changes)
///     .sql("select flight, arr_time from changes where _change_type = 'insert'")
///     .run()
///     .await?;
/// # Ok(()) }
/// ```
#[derive(Debug, Clone)]
pub struct Changes {
    store: DeltaStore,
    from: u64,
    to: Option<u64>,
}

impl Changes {
    /// The changes of a version and all later ones. One more than the newest version is no change at all.
    pub fn of(store: DeltaStore, from: u64) -> Self {
        Self { store, from, to: None }
    }

    /// Ends with this version, included.
    #[must_use]
    pub fn until(mut self, version: u64) -> Self {
        self.to = Some(version);
        self
    }
}

impl Session {
    /// The changes of a table of this root from a version on, as a source for [`Model::source`](crate::Model::source).
    ///
    /// # Errors
    /// [`ErrorKind::InvalidInput`] for a name that is not `schema.table`.
    pub fn changes(&self, name: &str, from: u64) -> Result<Changes> {
        Ok(Changes::of(self.table_at(&name.parse()?)?, from))
    }
}

#[async_trait]
impl Source for Changes {
    fn describe(&self) -> String {
        let to = self.to.map_or_else(String::new, |to| format!(" to {to}"));
        format!("changes of {} from version {}{to}", self.store.location(), self.from)
    }

    async fn resolve(&self, cx: &SourceContext<'_>) -> Result<Resolved> {
        let target = cx.is_target(&self.store);
        // Of the target a run sees nothing that came after its pinned version.
        let pinned = cx.target.snapshot.filter(|_| target).map(|s| s.version());
        if let (Some(to), Some(pinned)) = (self.to, pinned)
            && to > pinned
        {
            return Err(Error::new(
                ErrorKind::NotFound,
                format!("version {to} does not exist: the newest is {pinned}"),
            ));
        }
        let files = self.store.changes(self.from, self.to.or(pinned)).await?;
        Ok(Resolved::new(Relation::Files(files)).with_reads_target(target))
    }
}
