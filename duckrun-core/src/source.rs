//! The contract of a source: something outside that becomes a relation of the engine.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use object_store::ObjectStore;
use object_store::path::Path;
use url::Url;

use crate::{At, EngineSession, Error, Relation, Result, RunContext, Snapshot, StorageOptions, TableStore};

/// A source. Implemented by duckrun-sources and by embedders; called once per attempt of a run, after the target was pinned.
///
/// # Contract
/// A source keeps nothing between calls: a retry resolves it again, against the version that the retry has pinned.
#[async_trait]
pub trait Source: Send + Sync + fmt::Debug {
    /// What this source is, for messages and reports; without secrets.
    fn describe(&self) -> String;

    /// Resolves to a relation, lazily: files are listed, not read, unless their content decides the format.
    ///
    /// # Errors
    /// With the file's name and the way out.
    async fn resolve(&self, cx: &SourceContext<'_>) -> Result<Resolved>;
}

/// What a source can see of the run that resolves it.
#[non_exhaustive]
#[derive(Debug, Clone, Copy)]
pub struct SourceContext<'a> {
    /// The run: its cancellation, clock and memory plan.
    pub run: &'a RunContext,
    /// The run's private engine session, for a source that has to ask what a relation holds.
    pub engine: Option<&'a dyn EngineSession>,
    /// The target's location and its pinned snapshot.
    pub target: Target<'a>,
    /// Opens tables of other formats than files.
    pub tables: Option<&'a dyn TableOpener>,
}

/// The run's target, as a source sees it. The default is no table at all.
#[non_exhaustive]
#[derive(Debug, Clone, Copy, Default)]
pub struct Target<'a> {
    /// Where it is ([`TableStore::location`]); empty outside of a run.
    pub location: &'a str,
    /// The pinned snapshot; `None` on a first run.
    pub snapshot: Option<&'a Arc<dyn Snapshot>>,
    /// Whether the run replaces all rows (a full refresh), so that nothing that the table holds counts as loaded.
    pub replaced: bool,
}

impl<'a> Target<'a> {
    /// The target of a run.
    pub fn new(location: &'a str, snapshot: Option<&'a Arc<dyn Snapshot>>, replaced: bool) -> Self {
        Self { location, snapshot, replaced }
    }

    /// The snapshot whose rows stay after the run.
    pub fn kept(&self) -> Option<&'a Arc<dyn Snapshot>> {
        self.snapshot.filter(|_| !self.replaced)
    }
}

impl<'a> SourceContext<'a> {
    /// The context of a run without engine, target and tables, for tests and for sources that are looked at alone.
    pub fn new(run: &'a RunContext) -> Self {
        Self { run, engine: None, target: Target::default(), tables: None }
    }

    /// The same with an engine session.
    #[must_use]
    pub fn with_engine(mut self, engine: &'a dyn EngineSession) -> Self {
        self.engine = Some(engine);
        self
    }

    /// The same with a target.
    #[must_use]
    pub fn with_target(mut self, target: Target<'a>) -> Self {
        self.target = target;
        self
    }

    /// The same with a way to open tables.
    #[must_use]
    pub fn with_tables(mut self, tables: &'a dyn TableOpener) -> Self {
        self.tables = Some(tables);
        self
    }

    /// Whether a table is the run's target.
    pub fn is_target(&self, store: &dyn TableStore) -> bool {
        !self.target.location.is_empty() && store.location() == self.target.location
    }

    /// Pins a version of a table. The newest version of the target is the one that the run has pinned already.
    ///
    /// # Errors
    /// As [`TableStore::snapshot`].
    pub async fn snapshot(&self, store: &dyn TableStore, at: At) -> Result<Option<Arc<dyn Snapshot>>> {
        if at == At::Latest && self.is_target(store) {
            return Ok(self.target.snapshot.cloned());
        }
        store.snapshot(at).await
    }
}

/// A source as it was resolved for one attempt. A relation alone becomes one with `.into()`.
#[must_use = "a relation that is not registered is not read"]
#[non_exhaustive]
#[derive(Debug)]
pub struct Resolved {
    /// The relation.
    pub relation: Relation,
    /// Whether resolving or reading it reads the run's own target, which makes an append fenced.
    pub reads_target: bool,
    /// What the run's commit is to record, by key; a later run reads it back from [`Snapshot::history`] with
    /// [`CommitRecord::recorded`](crate::CommitRecord::recorded).
    pub info: BTreeMap<String, String>,
}

impl Resolved {
    /// A relation that does not depend on the target.
    pub fn new(relation: Relation) -> Self {
        Self { relation, reads_target: false, info: BTreeMap::new() }
    }

    /// The same, and whether it reads the target.
    pub fn with_reads_target(mut self, reads_target: bool) -> Self {
        self.reads_target = reads_target;
        self
    }

    /// The same with something for the commit info.
    pub fn with_info(mut self, info: BTreeMap<String, String>) -> Self {
        self.info = info;
        self
    }
}

impl From<Relation> for Resolved {
    fn from(relation: Relation) -> Self {
        Self::new(relation)
    }
}

/// Opens tables and stores by their place, for sources that name one. Implemented by whoever knows the table format and the
/// credentials (the facade); called by sources, so that they need not depend on it.
pub trait TableOpener: Send + Sync + fmt::Debug {
    /// The table of a format (`delta`) at a path or URL. Nothing is read or created.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported) for a format that it does not know,
    /// [`ErrorKind::InvalidInput`](crate::ErrorKind::InvalidInput) for a location or options that cannot be.
    fn open(&self, format: &str, location: &str, options: &StorageOptions) -> Result<Arc<dyn TableStore>>;

    /// The store of a URL, with these options over those that the opener has. Nothing is asked of it yet.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported) for an opener that knows no stores,
    /// [`ErrorKind::InvalidInput`](crate::ErrorKind::InvalidInput) for a URL or options that no store can be made of; values of
    /// options are never part of the message.
    fn open_store(&self, url: &Url, options: &StorageOptions) -> Result<OpenedStore> {
        let _ = (url, options);
        Err(Error::unsupported("nothing here opens object stores by their URL: give the source its store"))
    }
}

/// A store, and where in it a URL points.
#[derive(Clone)]
pub struct OpenedStore {
    /// The store.
    pub store: Arc<dyn ObjectStore>,
    /// The path of the URL in it.
    pub path: Path,
}

impl fmt::Debug for OpenedStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A store's own `Debug` may show its credentials.
        f.debug_struct("OpenedStore").field("path", &self.path).finish_non_exhaustive()
    }
}
