//! A Delta table as a [`TableStore`].

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use duckrun_core::maintenance::{MaintenanceOptions, TableMaintenance};
use duckrun_core::{
    At, BatchStream, CHANGE_TYPE, CommitOutcome, Error, FileSet, Intent, Progress, Result, RewriteSpec, Rewritten,
    RunContext, Snapshot, Staged, TableStore, WriteSpec,
};
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};

use crate::error::store_error;
use crate::location::Location;
use crate::maintenance::DeltaMaintenance;
use crate::schema::Names;
use crate::snapshot::DeltaSnapshot;
use crate::write::{self, PhysicalColumn, Target};
use crate::{checkpoint, commit, rewrite};

/// One Delta table in one store.
///
/// ```no_run
/// # async fn doc() -> duckrun_core::Result<()> {
/// use duckrun_core::{At, TableStore};
/// use duckrun_delta::{DeltaStore, Location};
/// let table = DeltaStore::new(Location::local("./warehouse/mart/flights")?);
/// if let Some(snapshot) = table.snapshot(At::Latest).await? {
///     println!("version {}", snapshot.version());
/// }
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct DeltaStore {
    location: Location,
}

impl DeltaStore {
    /// The table at a location. Nothing is read or created.
    pub fn new(location: Location) -> Self {
        Self { location }
    }

    /// Where it is.
    pub fn table_location(&self) -> &Location {
        &self.location
    }

    /// A snapshot with everything that only Delta tables have.
    ///
    /// # Errors
    /// As [`TableStore::snapshot`].
    pub async fn open(&self, at: At) -> Result<Option<DeltaSnapshot>> {
        DeltaSnapshot::open(&self.location, at).await
    }

    /// Where new files go, and what columns are called in them.
    fn target(&self, at: Option<&DeltaSnapshot>, spec: &WriteSpec) -> Result<Target> {
        Ok(Target {
            store: self.location.store().clone(),
            local: self.location.local_path().map(ToOwned::to_owned),
            columns: physical_columns(at, spec)?,
        })
    }

    /// The change data feed: what the versions `from..=to` (the newest, if `to` is `None`) did to the rows, as a relation with
    /// the table's columns at the last of them and three more.
    ///
    /// `_change_type` is `insert`, `delete`, `update_preimage` or `update_postimage`, `_commit_version` and
    /// `_commit_timestamp` say which commit it was. A commit that wrote change files is read from those; from any other the
    /// changes are derived, so that an update that rewrote a file appears as deletes and inserts of all its rows, the
    /// unchanged ones included. Our own commits to a table with a change feed write change files wherever rows of a file are
    /// changed and others stay; a row that an update leaves as it was is in none, unless the update counts it as updated
    /// ([`skip_unchanged`](duckrun_core::MergePlan::skip_unchanged) off). Compactions do not appear. `from` may be one more than the newest version: then there are no
    /// rows.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`](duckrun_core::ErrorKind::NotFound) for versions that do not exist or are no longer in the log;
    /// [`ErrorKind::Unsupported`](duckrun_core::ErrorKind::Unsupported) where a column's type or the partitioning changed within
    /// the range. A data file that vacuum has removed shows as an error when the relation is read.
    pub async fn changes(&self, from: u64, to: Option<u64>) -> Result<FileSet> {
        crate::changes::changes(&self.location, from, to).await
    }
}

/// The context with the stream's own estimate in every report of progress.
fn estimating(cx: &RunContext, rows: &BatchStream) -> RunContext {
    let (estimate, reports) = (rows.estimate(), cx.clone());
    let progress = move |p: &Progress| reports.report(&p.with_fraction(estimate()));
    cx.clone().with_progress(Some(Arc::new(progress)))
}

/// Our snapshot behind the trait object.
fn ours(at: &Arc<dyn Snapshot>) -> Result<&DeltaSnapshot> {
    at.as_any().downcast_ref().ok_or_else(|| Error::internal("a snapshot of another store"))
}

#[async_trait]
impl TableStore for DeltaStore {
    fn location(&self) -> &str {
        self.location.display()
    }

    async fn snapshot(&self, at: At) -> Result<Option<Arc<dyn Snapshot>>> {
        Ok(self.open(at).await?.map(|s| Arc::new(s) as Arc<dyn Snapshot>))
    }

    async fn snapshot_after(&self, known: &Arc<dyn Snapshot>, found: u64) -> Result<Option<Arc<dyn Snapshot>>> {
        // A table that has vanished or begun anew meanwhile has no such version; whatever fails here fails again below, with its
        // reason.
        match ours(known)?.newest().await {
            Ok(newest) if newest.version() >= found => Ok(Some(Arc::new(newest))),
            _ => self.snapshot(At::Latest).await,
        }
    }

    async fn stage(
        &self,
        cx: &RunContext,
        at: Option<&Arc<dyn Snapshot>>,
        spec: &WriteSpec,
        rows: BatchStream,
    ) -> Result<Staged> {
        let known = at.map(ours).transpose()?;
        if let Some(snapshot) = known {
            snapshot.protocol().check_writable(snapshot.metadata(), snapshot.delta_schema(), false, None)?;
        }
        self.location.check_writable().await?;
        let target = self.target(known, spec)?;
        let cx = &estimating(cx, &rows);
        write::write_files(cx, &target, spec, rows).await
    }

    async fn rewrite(
        &self,
        cx: &RunContext,
        at: &Arc<dyn Snapshot>,
        spec: &RewriteSpec,
        changes: BatchStream,
    ) -> Result<Rewritten> {
        let snapshot = ours(at)?;
        snapshot.protocol().check_writable(snapshot.metadata(), snapshot.delta_schema(), false, None)?;
        self.location.check_writable().await?;
        let target = self.target(Some(snapshot), &spec.write)?;
        let cx = &estimating(cx, &changes);
        rewrite::rewrite_files(cx, &target, snapshot, spec, changes).await
    }

    async fn commit(&self, cx: &RunContext, at: Option<&Arc<dyn Snapshot>>, intent: &Intent) -> Result<CommitOutcome> {
        let known = at.map(ours).transpose()?;
        commit::commit(cx, &self.location, known, intent).await
    }

    fn maintenance(&self, options: &MaintenanceOptions) -> Option<Arc<dyn TableMaintenance>> {
        Some(Arc::new(DeltaMaintenance::new(self.clone(), options.clone())))
    }

    async fn after_commit(&self, _cx: &RunContext, at: Option<&Arc<dyn Snapshot>>, version: u64) -> Vec<String> {
        // A table that is created at version 0 is never due, so the properties read before the commit will do.
        if !at.is_some_and(|s| checkpoint::is_due(version, &s.properties())) {
            return Vec::new();
        }
        let written = async {
            match self.open(At::Version(version)).await? {
                Some(snapshot) => checkpoint::write(&snapshot).await,
                None => Err(Error::corrupt(format!("version {version} has vanished"))),
            }
        };
        match written.await {
            Ok(()) => vec![format!("checkpoint of v{version}")],
            Err(e) => {
                tracing::warn!(table = self.location.display(), version, error = %e, "a checkpoint failed; the commit stands");
                vec![format!("the checkpoint of v{version} failed: {e}")]
            }
        }
    }

    async fn discard(&self, _cx: &RunContext, staged: &Staged) -> Result<()> {
        let mut deletions = tokio::task::JoinSet::new();
        let mut first = Ok(());
        for file in staged.all() {
            while deletions.len() >= CONCURRENT_DELETES {
                first = first.and(joined(deletions.join_next().await));
            }
            deletions.spawn(remove(self.location.store().clone(), file.path.clone()));
        }
        while let Some(done) = deletions.join_next().await {
            first = first.and(joined(Some(done)));
        }
        if let Some(folder) = self.location.local_path() {
            remove_empty_folders(folder, staged);
        }
        first
    }
}

/// Files removed at a time.
const CONCURRENT_DELETES: usize = 8;

/// Removes a staged file by its path in the log. One that is already gone is no error.
async fn remove(store: Arc<dyn ObjectStore>, logged: String) -> Result<()> {
    let decoded = percent_encoding::percent_decode_str(&logged).decode_utf8_lossy().into_owned();
    let path =
        Path::parse(&decoded).map_err(|e| Error::internal("a staged file has an impossible path").with_source(e))?;
    match store.delete(&path).await {
        Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
        Err(e) => Err(store_error(e, format_args!("remove {path}"))),
    }
}

fn joined(done: Option<std::result::Result<Result<()>, tokio::task::JoinError>>) -> Result<()> {
    match done {
        Some(Ok(result)) => result,
        Some(Err(e)) => Err(Error::internal("removing a file failed").with_source(e)),
        None => Ok(()),
    }
}

/// Partition folders that a refused run made, and the table's own if it never came to be. Only empty ones go.
fn remove_empty_folders(table: &std::path::Path, staged: &Staged) {
    for file in staged.all() {
        let decoded = percent_encoding::percent_decode_str(&file.path).decode_utf8_lossy();
        let mut folder = table.join(decoded.as_ref());
        while folder.pop() && folder.starts_with(table) {
            if std::fs::remove_dir(&folder).is_err() {
                break;
            }
        }
    }
}

/// The names and ids under which columns are in the files, where the table maps columns.
pub(crate) fn physical_columns(at: Option<&DeltaSnapshot>, spec: &WriteSpec) -> Result<Vec<PhysicalColumn>> {
    let Some(snapshot) = at.filter(|s| s.metadata().column_mapping()) else { return Ok(Vec::new()) };
    let known = |name: &str| snapshot.delta_schema().fields.iter().find(|f| f.name == name);
    spec.schema
        .fields()
        .iter()
        // What the table does not have is called in the files as it is here.
        .filter(|field| !(spec.change_data && field.name() == CHANGE_TYPE))
        .map(|field| {
            let delta = known(field.name()).ok_or_else(|| {
                Error::unsupported("columns cannot be added to a table with the feature columnMapping")
            })?;
            if delta.data_type.arrow(Names::Physical)? != delta.data_type.arrow(Names::Logical)? {
                return Err(Error::unsupported(format!(
                    "the column {:?} has mapped fields inside (feature columnMapping), which are read but not written",
                    field.name()
                )));
            }
            Ok(PhysicalColumn {
                logical: field.name().clone(),
                physical: delta.physical_name(true).to_owned(),
                field_id: delta.id(),
            })
        })
        .collect()
}

impl fmt::Debug for DeltaStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("DeltaStore").field(&self.location).finish()
    }
}
