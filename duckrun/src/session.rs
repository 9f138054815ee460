//! A session: one root of Delta tables, and the components that its runs share.

use std::fmt;
use std::future::{Future, IntoFuture};
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use duckrun_core::duckdb::{Connection, DuckDb};
use duckrun_core::maintenance::MaintenanceOptions;
use duckrun_core::{
    At, BatchStream, Clock, Engine, EngineSession, Error, ErrorKind, Executor, OpenedStore, Query, RelationName,
    Result, RunContext, Snapshot, Source, SourceContext, StorageOptions, SystemClock, TableName, TableStore, Value,
};
use duckrun_delta::{DeltaRsExecutor, DeltaStore, FirstThatAccepts, Location, SqlExecutor, StoreRoot, WriterLock};
use duckrun_maintenance::MaintenancePolicy;
use duckrun_memory::{
    EffectiveLimit, FairGovernor, Governor, Job, Lease, MemoryProbe, MemorySettings, SpillDir, SystemProbe,
};
use object_store::ObjectStore;
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use url::Url;

use crate::maintain::Upkeep;
use crate::model::Model;
use crate::pins;
use crate::table::Table;
use crate::tables::Places;

/// Where the tables of a session are: `<root>/<schema>/<table>`.
#[derive(Clone)]
enum Root {
    Local(PathBuf),
    Store { url: Url, store: Arc<dyn ObjectStore>, prefix: Path, opened: Option<Box<StoreRoot>> },
}

/// A root of Delta tables, opened for reading or writing. Cheap to clone; runs of one session may run at the same time.
#[derive(Clone)]
pub struct Session {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    root: Root,
    pub(crate) writable: bool,
    pub(crate) engine: Arc<dyn Engine>,
    pub(crate) executor: Arc<dyn Executor>,
    pub(crate) memory: MemorySettings,
    probe: Arc<dyn MemoryProbe>,
    governor: Arc<dyn Governor>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) upkeep: Upkeep,
    writer_lock: Option<Arc<dyn WriterLock>>,
    storage_options: StorageOptions,
}

impl Session {
    /// Opens a root on the local file system: `<root>/<schema>/<table>`. Read-only until
    /// [`writable`](SessionBuilder::writable) is asked for. Awaiting the builder opens it.
    pub fn open(root: impl Into<PathBuf>) -> SessionBuilder {
        SessionBuilder::new(Root::Local(root.into()))
    }

    /// Opens a root in a store that the caller made. `url` names the root in messages, `prefix` is its path in the store.
    pub fn open_in(url: Url, store: Arc<dyn ObjectStore>, prefix: impl Into<Path>) -> SessionBuilder {
        SessionBuilder::new(Root::Store { url, store, prefix: prefix.into(), opened: None })
    }

    /// Opens a root named by a URL, with the options of its store: `s3://`, `az://`, `abfss://`, `gs://` with the cargo
    /// feature of the store, or `file://`.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidInput`] for a URL or options that no store can be made of; values are never part of the message.
    pub fn open_url(url: &str, options: &StorageOptions) -> Result<SessionBuilder> {
        let parsed = Url::parse(url).map_err(|_| Error::invalid("the root is not a URL"))?;
        if parsed.scheme() == "file" {
            let path = parsed.to_file_path().map_err(|()| Error::invalid("the file:// URL is not a local path"))?;
            return Ok(Self::open(path));
        }
        Ok(Self::open_root(&StoreRoot::open(url, options)?))
    }

    /// Opens a root in a store that was opened by its URL, for example with a provider of tokens.
    pub fn open_root(root: &StoreRoot) -> SessionBuilder {
        let (url, store, prefix) = (root.url().clone(), root.store().clone(), root.prefix().clone());
        SessionBuilder::new(Root::Store { url, store, prefix, opened: Some(Box::new(root.clone())) })
    }

    /// A model: the SQL, sources and strategy of the table `schema.table`. The name is checked when the model runs.
    pub fn model(&self, name: impl Into<String>) -> Model {
        Model::new(self.clone(), name.into())
    }

    /// A table, whether or not it exists: its versions, and changes of its rows.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidInput`] for a name that is not `schema.table`.
    pub fn table(&self, name: &str) -> Result<Table> {
        let parsed = name.parse()?;
        Ok(Table::new(self.clone(), self.table_at(&parsed)?, parsed))
    }

    pub(crate) fn table_at(&self, name: &TableName) -> Result<DeltaStore> {
        let location = match &self.inner.root {
            Root::Local(root) => Location::local(root.join(name.schema()).join(name.table()))?,
            Root::Store { url, store, prefix, .. } => {
                let mut url = url.clone();
                url.path_segments_mut()
                    .map_err(|()| Error::invalid("the root's URL must have a path"))?
                    .pop_if_empty()
                    .extend([name.schema(), name.table()]);
                let prefix = prefix.clone().join(name.schema()).join(name.table());
                Location::in_store(&url, store.clone(), &prefix)?
            }
        };
        Ok(DeltaStore::new(match &self.inner.writer_lock {
            Some(lock) => location.with_lock(lock.clone()),
            None => location,
        }))
    }

    /// Pins a version of a table.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] where there is no such table or version.
    pub async fn snapshot(&self, name: &str, at: At) -> Result<Arc<dyn Snapshot>> {
        let store = self.table_at(&name.parse()?)?;
        match store.snapshot(at).await.map_err(|e| e.with_table(name))? {
            Some(snapshot) => Ok(snapshot),
            None => {
                Err(Error::new(ErrorKind::NotFound, format!("there is no table at {}", store.location()))
                    .with_table(name))
            }
        }
    }

    /// Reads with SQL. Every Delta table that the SQL names is pinned; see [`Reader`] for other versions and parameters.
    pub fn sql(&self, sql: impl Into<String>) -> Reader {
        Reader { session: self.clone(), query: Query::new(sql), pinned: Vec::new(), sources: Vec::new() }
    }

    /// The store of the root, and the root's place in it.
    pub(crate) fn root_store(&self) -> Result<(Arc<dyn ObjectStore>, Path)> {
        match &self.inner.root {
            Root::Local(root) => {
                let store = LocalFileSystem::new_with_prefix(root)
                    .map_err(|e| Error::invalid("the root is not a folder").with_source(e))?;
                Ok((Arc::new(store), Path::default()))
            }
            Root::Store { store, prefix, .. } => Ok((store.clone(), prefix.clone())),
        }
    }

    /// The store of a URL: the root's own where the URL is in it, otherwise one with the session's credentials and these
    /// options.
    pub(crate) fn open_store(&self, url: &Url, options: &StorageOptions) -> Result<OpenedStore> {
        let own = options.expose().next().is_none();
        let opened = |root: StoreRoot| OpenedStore { store: root.store().clone(), path: root.prefix().clone() };
        match &self.inner.root {
            Root::Store { opened: Some(root), .. } => Ok(opened(root.sibling(url.as_str(), options)?)),
            Root::Store { url: root, store, prefix, opened: None } if own => match inside(url, root, prefix) {
                Some(path) => Ok(OpenedStore { store: store.clone(), path }),
                None => StoreRoot::open(url.as_str(), &self.inner.storage_options).map(opened),
            },
            _ => StoreRoot::open(url.as_str(), &self.inner.storage_options.clone().merge(options)).map(opened),
        }
    }

    /// A context for a job: memory detected, planned, leased, with a place to spill.
    pub(crate) async fn context(&self, name: &str, job: Job) -> Result<(RunContext, Lease)> {
        let inner = &self.inner;
        let planned = || {
            let limit = EffectiveLimit::detect(&inner.probe.sample(), &inner.memory);
            duckrun_memory::plan(&limit, &inner.memory, job)
        };
        let mut plan = planned()?;
        let lease = inner.governor.lease(plan.lease_request(name));
        let lease = match INSIDE.try_with(|()| ()) {
            // The run around this one keeps its memory until this one has ended.
            Ok(()) => tokio::time::timeout(INNER_WAITS, lease).await.map_err(|_| waits_for_itself(name))??,
            Err(_) => lease.await?,
        };
        if lease.waited() > SAMPLE_HOLDS {
            // Neighbours may have come meanwhile. A smaller limit makes no share larger, so the lease holds that plan too; a
            // larger one is left to later runs.
            let now = planned()?;
            if now.limit < plan.limit {
                plan = now;
            }
        }
        tracing::info!(table = name, "{plan}");
        let spill_plan = plan.spill.clone();
        let spill = tokio::task::spawn_blocking(move || SpillDir::create(&spill_plan))
            .await
            .map_err(|e| Error::internal("creating the spill directory failed").with_source(e))??;
        let cx = RunContext::new(plan).with_clock(inner.clock.clone()).with_spill(Some(Arc::new(spill)));
        Ok((cx, lease))
    }
}

tokio::task_local! {
    /// Set while a run holds its memory: what its sources and the embedder's other components begin in its task is inside it.
    static INSIDE: ();
}

/// A part of a run that holds its memory.
pub(crate) async fn holding<T>(part: impl Future<Output = T>) -> T {
    INSIDE.scope((), part).await
}

/// How long a run inside a run waits for its memory. Others may give theirs back meanwhile; the one around it does not.
const INNER_WAITS: Duration = Duration::from_secs(5);

fn waits_for_itself(name: &str) -> Error {
    Error::new(
        ErrorKind::ResourceExhausted,
        format!(
            "{name} is run inside of another run, which keeps its memory until this one has ended: leave room for both with              MemorySettings::concurrent_runs, or give one of the sessions a governor of its own"
        ),
    )
}

/// How long a run may have waited for its lease before it looks again how much memory there is.
const SAMPLE_HOLDS: Duration = Duration::from_secs(1);

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let root = match &self.inner.root {
            Root::Local(path) => path.display().to_string(),
            Root::Store { prefix, .. } => prefix.to_string(),
        };
        f.debug_struct("Session").field("root", &root).field("writable", &self.inner.writable).finish_non_exhaustive()
    }
}

/// The path of a URL in the store whose folder `prefix` another URL names; `None` where it is not in that store.
fn inside(url: &Url, root: &Url, prefix: &Path) -> Option<Path> {
    let authority = |url: &Url| (url.scheme().to_owned(), url.authority().to_owned());
    if authority(url) != authority(root) {
        return None;
    }
    let (path, root) = (Path::from_url_path(url.path()).ok()?, Path::from_url_path(root.path()).ok()?);
    let parts = |path: &Path| -> Vec<String> { path.parts().map(|p| p.as_ref().to_owned()).collect() };
    let (path, root, prefix) = (parts(&path), parts(&root), parts(prefix));
    // Where the root's URL ends as its prefix does, what is before both is the store's own place; otherwise only what is
    // below the root is known to be in it.
    let place = match root.strip_suffix(prefix.as_slice()) {
        Some(before) => path.strip_prefix(before)?.to_vec(),
        None => [prefix.as_slice(), path.strip_prefix(root.as_slice())?].concat(),
    };
    Path::parse(place.join("/")).ok()
}

/// Builds a [`Session`]; awaiting it opens the root.
#[must_use = "a session is opened by awaiting its builder"]
pub struct SessionBuilder {
    root: Root,
    writable: bool,
    engine: Option<Arc<dyn Engine>>,
    extensions: bool,
    executor: Arc<dyn Executor>,
    memory: MemorySettings,
    probe: Arc<dyn MemoryProbe>,
    governor: Arc<dyn Governor>,
    clock: Arc<dyn Clock>,
    upkeep: Upkeep,
    writer_lock: Option<Arc<dyn WriterLock>>,
    storage_options: StorageOptions,
}

impl SessionBuilder {
    fn new(root: Root) -> Self {
        Self {
            root,
            writable: false,
            engine: None,
            extensions: false,
            executor: Arc::new(FirstThatAccepts::new(vec![
                Arc::new(SqlExecutor),
                Arc::new(DeltaRsExecutor::default()),
            ])),
            memory: MemorySettings::default(),
            probe: Arc::new(SystemProbe::new()),
            governor: Arc::new(FairGovernor::of_process()),
            clock: Arc::new(SystemClock),
            upkeep: Upkeep::default(),
            writer_lock: None,
            storage_options: StorageOptions::default(),
        }
    }

    /// Allows writes, and creates the root folder if it is local and missing.
    pub fn writable(mut self) -> Self {
        self.writable = true;
        self
    }

    /// Another engine than an in-memory DuckDB for every run.
    pub fn engine(mut self, engine: Arc<dyn Engine>) -> Self {
        self.engine = Some(engine);
        self
    }

    /// Loads DuckDB's own extensions for the stores of the session and gives them secrets of its storage options, so that
    /// SQL can name remote files by itself (`read_parquet('s3://...')`). Off by default: nothing of duckrun needs them, and
    /// a run is refused where they are not installed. For an engine of one's own see [`DuckDb::with_store_secret`].
    pub fn use_duckdb_extensions(mut self, on: bool) -> Self {
        self.extensions = on;
        self
    }

    /// The engine: what was set, or a DuckDB for every run.
    fn chosen_engine(&self) -> Result<Arc<dyn Engine>> {
        match (&self.engine, &self.root) {
            (Some(engine), _) if !self.extensions => Ok(engine.clone()),
            (None, _) if !self.extensions => Ok(Arc::new(DuckDb::in_memory())),
            (Some(_), _) => Err(Error::invalid(
                "use_duckdb_extensions is for the session's own DuckDB, and an engine or connection was set: make the secrets there",
            )),
            (None, Root::Store { opened: Some(root), .. }) => {
                let engine = DuckDb::in_memory().with_store_secret(root.url().as_str(), root.options().clone());
                Ok(Arc::new(engine))
            }
            (None, _) => Err(Error::invalid(
                "use_duckdb_extensions makes secrets of the options of the root's URL, and the root was not opened by a URL of an object \
                 store: set an engine with DuckDb::with_store_secret",
            )),
        }
    }

    /// A DuckDB connection of the caller's: its tables are visible to the SQL of every run. See [`DuckDb::with_connection`].
    pub fn connection(self, connection: Connection) -> Self {
        self.engine(Arc::new(DuckDb::with_connection(connection)))
    }

    /// Another executor than the default: [`SqlExecutor`], and [`DeltaRsExecutor`] for what it refuses.
    pub fn executor(mut self, executor: Arc<dyn Executor>) -> Self {
        self.executor = executor;
        self
    }

    /// Memory settings: an explicit limit, threads, floors, spill.
    pub fn memory(mut self, settings: MemorySettings) -> Self {
        self.memory = settings;
        self
    }

    /// Another way to learn what memory there is.
    pub fn probe(mut self, probe: Arc<dyn MemoryProbe>) -> Self {
        self.probe = probe;
        self
    }

    /// Another governor than the process's ([`FairGovernor::of_process`]), which all sessions ask that were not given one: their
    /// runs together stay under one limit, and one that does not fit waits, with a line in the log.
    ///
    /// So a run must not wait for another one that waits for its memory. A source that begins a run, in this session or
    /// another, gets an error after some seconds, unless [`MemorySettings::concurrent_runs`] leaves room for both. Whoever
    /// begins one while he keeps a stream open, or in a task of its own that he waits for, waits for ever. A session with a
    /// governor of its own (`Arc::new(FairGovernor::new())`) waits for nobody and is counted by nobody.
    pub fn governor(mut self, governor: Arc<dyn Governor>) -> Self {
        self.governor = governor;
        self
    }

    /// Another clock than the system's.
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// Whether runs maintain their table after the commit, as the [policy](Self::policy) says. On by default. A fault is in the
    /// run's report, never its error. Most small commits cost nothing: the table is looked at only now and then
    /// ([`is_occasion`](MaintenancePolicy::is_occasion)).
    pub fn maintenance(mut self, on: bool) -> Self {
        self.upkeep.inline = on;
        self
    }

    /// Another policy of maintenance than [`DefaultPolicy`](duckrun_maintenance::DefaultPolicy) with its default settings.
    pub fn policy(mut self, policy: impl MaintenancePolicy + 'static) -> Self {
        self.upkeep.policy = Arc::new(policy);
        self
    }

    /// How maintenance is carried out.
    pub fn maintenance_options(mut self, options: MaintenanceOptions) -> Self {
        self.upkeep.options = options;
        self
    }

    /// Options of the stores that sources name by URL (`Csv::glob("s3://landing/*.csv")`), for a session whose root is a
    /// local folder or a store that the caller made. A root that was opened by its URL brings its own.
    pub fn storage_options(mut self, options: StorageOptions) -> Self {
        self.storage_options = options;
        self
    }

    /// Puts every commit under a lock, for a store without conditional puts (which is refused for writing otherwise). See
    /// [`WriterLock`] for what a lock cannot promise.
    pub fn writer_lock(mut self, lock: Arc<dyn WriterLock>) -> Self {
        self.writer_lock = Some(lock);
        self
    }

    async fn build(self) -> Result<Session> {
        self.memory.validate()?;
        let engine = self.chosen_engine()?;
        if let Root::Local(root) = &self.root {
            let (root, create) = (root.clone(), self.writable);
            let opened = tokio::task::spawn_blocking(move || {
                if create { std::fs::create_dir_all(&root) } else { std::fs::metadata(&root).map(|_| ()) }
                    .map_err(|e| (root, e))
            })
            .await
            .map_err(|e| Error::internal("opening the root failed").with_source(e))?;
            if let Err((root, e)) = opened {
                let kind = match e.kind() {
                    std::io::ErrorKind::NotFound => ErrorKind::NotFound,
                    std::io::ErrorKind::PermissionDenied => ErrorKind::PermissionDenied,
                    _ => ErrorKind::InvalidInput,
                };
                return Err(Error::new(kind, format!("cannot open the root {}: {e}", root.display())).with_source(e));
            }
        }
        Ok(Session {
            inner: Arc::new(Inner {
                root: self.root,
                writable: self.writable,
                engine,
                executor: self.executor,
                memory: self.memory,
                probe: self.probe,
                governor: self.governor,
                clock: self.clock,
                upkeep: self.upkeep,
                writer_lock: self.writer_lock,
                storage_options: self.storage_options,
            }),
        })
    }
}

impl IntoFuture for SessionBuilder {
    type Output = Result<Session>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.build())
    }
}

impl fmt::Debug for SessionBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SessionBuilder").field("writable", &self.writable).finish_non_exhaustive()
    }
}

/// A query over pinned tables.
///
/// ```no_run
/// # async fn doc(lake: duckrun::Session) -> duckrun::Result<()> {
/// use duckrun::At;
/// let before = lake.sql("select count(*) from mart.flights").at("mart.flights", At::Version(3)).collect().await?;
/// # Ok(()) }
/// ```
#[must_use = "a query runs when it is streamed or collected"]
#[derive(Debug, Clone)]
pub struct Reader {
    session: Session,
    query: Query,
    pinned: Vec<(String, At)>,
    sources: Vec<(String, Arc<dyn Source>)>,
}

impl Reader {
    /// Pins a table to another version than the newest.
    pub fn at(mut self, table: impl Into<String>, at: At) -> Self {
        self.pinned.push((table.into(), at));
        self
    }

    /// A source, visible to the SQL under a name.
    pub fn source(mut self, name: impl Into<String>, source: impl Source + 'static) -> Self {
        self.sources.push((name.into(), Arc::new(source)));
        self
    }

    /// Binds the next positional parameter.
    pub fn param(mut self, value: impl Into<Value>) -> Self {
        self.query.params.push(value.into());
        self
    }

    /// Runs the query and streams its rows. The stream holds the engine session and the memory lease until it is dropped.
    ///
    /// # Errors
    /// [`ErrorKind::Query`] where it cannot be planned; failures while it runs arrive in the stream.
    pub async fn stream(self) -> Result<BatchStream> {
        let (cx, lease) = self.session.context("a query", Job::Write).await?;
        let relief = crate::attempt::relieving(&cx);
        let engine: Box<dyn EngineSession> = self.session.inner.engine.open(&cx).await?;
        let mut requested = Vec::new();
        for (name, at) in &self.pinned {
            requested.push((name.parse::<TableName>()?, *at));
        }
        let places = Places(self.session.clone());
        let seen = SourceContext::new(&cx).with_engine(engine.as_ref()).with_tables(&places);
        for (alias, source) in &self.sources {
            let resolved = holding(source.resolve(&seen)).await.map_err(|e| e.or_table(format!("source {alias}")))?;
            engine.register(&RelationName::bare(alias)?, resolved.relation).await?;
        }
        let references = engine.references(&self.query.sql).await?;
        for (name, relation, at) in pins::resolve(&references, None, &requested) {
            if let Some(snapshot) =
                self.session.table_at(&name)?.snapshot(at).await.map_err(|e| e.with_table(name.to_string()))?
            {
                pins::register(engine.as_ref(), &relation, snapshot.as_ref()).await?;
            }
        }
        let rows = engine.query(&self.query).await?;
        let schema = rows.schema().clone();
        // The session, the lease and the spill directory (in the context) must outlive the rows.
        let keep = (engine, relief, lease, cx);
        let held = futures::StreamExt::map(rows, move |batch| {
            let _ = &keep;
            batch
        });
        Ok(BatchStream::new(schema, held))
    }

    /// Runs the query and collects its rows; for results that are known to be small.
    ///
    /// # Errors
    /// As [`stream`](Self::stream).
    pub async fn collect(self) -> Result<Vec<duckrun_core::arrow::array::RecordBatch>> {
        self.stream().await?.collect().await
    }

    /// Runs the query and prints its rows as a table; for results that are known to be small.
    ///
    /// # Errors
    /// As [`stream`](Self::stream).
    pub async fn to_table(self) -> Result<String> {
        let batches = self.collect().await?;
        duckrun_core::arrow::util::pretty::pretty_format_batches(&batches)
            .map(|table| table.to_string())
            .map_err(|e| Error::internal("the rows cannot be printed").with_source(e))
    }
}

/// The name under which a model's SQL reads its own table.
pub(crate) fn this() -> Result<RelationName> {
    RelationName::bare("this")
}
