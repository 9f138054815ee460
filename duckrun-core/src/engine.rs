//! The contract of an engine: it runs SQL over registered relations and hands back streams of Arrow batches.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::{BatchStream, Error, Relation, RelationName, Result, RunContext, StoreFiles, TableReference};

/// Runs SQL. Implemented by an engine (DuckDB here; others outside), called by runs.
///
/// # Contract
/// - [`open`](Engine::open) gives each run a namespace of its own: what one run registers or creates is invisible to another.
/// - Nothing is assumed about the SQL dialect beyond what [`Capabilities`] says.
/// - All methods may be called from any async task; blocking work happens on blocking threads.
#[async_trait]
pub trait Engine: Send + Sync + fmt::Debug {
    /// A short name for reports and logs, for example `duckdb`.
    fn name(&self) -> &str;

    /// What this engine can do.
    fn capabilities(&self) -> Capabilities;

    /// Opens a private session for one run, with the engine's share of the run's memory plan applied.
    ///
    /// # Errors
    /// When the engine cannot start or refuses a setting.
    async fn open(&self, cx: &RunContext) -> Result<Box<dyn EngineSession>>;
}

/// One run's private session. Dropping it cancels what still runs and releases everything.
#[async_trait]
pub trait EngineSession: Send + Sync + fmt::Debug {
    /// Makes a relation visible under a name, replacing one of that name.
    ///
    /// # Errors
    /// When the relation cannot be bound (a missing file, an unsupported type). A partial registration is not visible.
    async fn register(&self, name: &RelationName, relation: Relation) -> Result<()>;

    /// Lets the engine's own readers open files of a store, for as long as the session lives. Returns what stands before each
    /// file's name in its path there: `read_csv('<returned><name>')`. No other file of the store can be opened.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported) for an engine that reads local files only
    /// ([`Capabilities::remote_files`]).
    async fn open_files(&self, files: StoreFiles) -> Result<String> {
        drop(files);
        Err(Error::unsupported("this engine reads no files of object stores"))
    }

    /// Sets a session variable that SQL reads back (`getvariable('name')` in DuckDB).
    ///
    /// # Errors
    /// When the name or value is refused.
    async fn set_variable(&self, name: &str, value: &Value) -> Result<()>;

    /// Runs statements for their effect (hooks).
    ///
    /// # Errors
    /// The first statement's failure; later ones did not run.
    async fn execute(&self, sql: &str) -> Result<()>;

    /// The tables that a query names, as written. Used to pin what it reads and to know whether it reads the target.
    /// Tables behind views of the session are included.
    ///
    /// # Errors
    /// [`ErrorKind::Query`](crate::ErrorKind::Query) where the text is not exactly one query.
    async fn references(&self, sql: &str) -> Result<Vec<TableReference>>;

    /// The result's schema in types that a Delta table can hold, decided by the engine's type table.
    ///
    /// # Errors
    /// [`ErrorKind::Query`](crate::ErrorKind::Query) where it cannot be planned; [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported)
    /// naming each column whose type has no lossless counterpart, and the cast to use.
    async fn describe(&self, query: &Query) -> Result<SchemaRef>;

    /// Runs a query. Rows are computed as the stream is pulled.
    ///
    /// With [`Query::output`] set, each output column is taken **by name** from the result and cast to the given type; one
    /// that the result lacks is NULL; a value that does not fit is an error in the stream.
    ///
    /// # Errors
    /// As [`describe`](EngineSession::describe); failures while running arrive in the stream.
    async fn query(&self, query: &Query) -> Result<BatchStream>;

    /// Runs a query into a table of the session under a name, replacing one of that name; what does not fit the session's memory
    /// is spilled. Returns the rows. Progress is reported while it runs.
    ///
    /// # Errors
    /// As [`query`](EngineSession::query). There is no table after an error.
    async fn materialize(&self, name: &RelationName, query: &Query) -> Result<u64> {
        let rows = Arc::new(AtomicU64::new(0));
        let stream = self.query(query).await?;
        let (schema, counted) = (stream.schema().clone(), rows.clone());
        let counting = futures::StreamExt::inspect(stream, move |batch| {
            if let Ok(batch) = batch {
                counted.fetch_add(batch.num_rows() as u64, Ordering::Relaxed);
            }
        });
        self.register(name, Relation::Stream(BatchStream::new(schema, counting))).await?;
        Ok(rows.load(Ordering::Relaxed))
    }

    /// The settings in force, as the engine itself reports them.
    ///
    /// # Errors
    /// When the engine cannot be asked.
    async fn settings(&self) -> Result<EngineSettings>;

    /// Stops whatever runs in this session, at once; streams yield an error. Safe at any time.
    fn interrupt(&self);
}

/// What an engine can do; asked, not presumed.
#[non_exhaustive]
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Capabilities {
    /// The SQL dialect's name, for messages.
    pub dialect: String,
    /// Whether intermediate results spill to disk beyond the memory share.
    pub spills: bool,
    /// Whether session variables exist.
    pub variables: bool,
    /// Whether files of stores other than the local file system can be read.
    pub remote_files: bool,
}

impl Capabilities {
    /// The capabilities of an engine of this dialect that has none of the options.
    pub fn new(dialect: impl Into<String>) -> Self {
        Self { dialect: dialect.into(), spills: false, variables: false, remote_files: false }
    }

    /// The same with spilling stated.
    #[must_use]
    pub fn with_spills(mut self, spills: bool) -> Self {
        self.spills = spills;
        self
    }

    /// The same with files of stores stated.
    #[must_use]
    pub fn with_remote_files(mut self, remote_files: bool) -> Self {
        self.remote_files = remote_files;
        self
    }

    /// The same with variables stated.
    #[must_use]
    pub fn with_variables(mut self, variables: bool) -> Self {
        self.variables = variables;
        self
    }
}

/// The settings of an engine session that the write path depends on, read back from the engine.
#[non_exhaustive]
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EngineSettings {
    /// The engine and its version.
    pub engine: String,
    /// The memory limit, as the engine prints it.
    pub memory_limit: String,
    /// Worker threads.
    pub threads: u64,
    /// The folder that intermediate results spill to.
    pub spill_directory: String,
    /// The most that may be spilled, as the engine prints it.
    pub spill_limit: String,
    /// Whether rows keep the order of their source where the SQL does not ask for one.
    pub preserve_insertion_order: bool,
}

/// A parameter or variable value.
#[non_exhaustive]
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// NULL.
    Null,
    /// A boolean.
    Bool(bool),
    /// A 64-bit integer.
    Int(i64),
    /// A double.
    Float(f64),
    /// Text.
    Text(String),
    /// Bytes.
    Bytes(Vec<u8>),
    /// A list.
    List(Vec<Value>),
}

macro_rules! value_from {
    ($($t:ty => $v:ident),*) => {$(
        impl From<$t> for Value {
            fn from(v: $t) -> Self {
                Self::$v(v.into())
            }
        }
    )*};
}
value_from!(bool => Bool, i64 => Int, i32 => Int, u32 => Int, f64 => Float, &str => Text, String => Text, Vec<u8> => Bytes);

impl<T: Into<Value>> From<Option<T>> for Value {
    fn from(v: Option<T>) -> Self {
        v.map_or(Self::Null, Into::into)
    }
}

impl<T: Into<Value>, const N: usize> From<[T; N]> for Value {
    fn from(v: [T; N]) -> Self {
        Self::List(v.into_iter().map(Into::into).collect())
    }
}

/// A query: one SELECT, its parameters, and optionally the exact shape of its output.
#[non_exhaustive]
#[derive(Debug, Clone, Default)]
pub struct Query {
    /// One SELECT in the engine's dialect.
    pub sql: String,
    /// Positional parameters.
    pub params: Vec<Value>,
    /// Columns to return, by name, with the types to cast to; `None` keeps the result's own (as [`EngineSession::describe`] says).
    pub output: Option<SchemaRef>,
    /// Whether the output must come in the order of its source, where the SQL does not ask for one.
    pub keep_order: bool,
    /// How timestamps without zone are stored.
    pub timestamps: TimestampMode,
    /// Whether joins run as they are written: the rows on the right are laid out for look-up, those on the left pass by. For a
    /// caller that knows how many rows there are better than the engine. A hint; the result is the same.
    pub joins_as_written: bool,
    /// Whether the text is one query that yields exactly the columns of `output` in their types (where a result is laid by
    /// without an `output`: whatever it is to hold). For statements that a library makes: nothing need be asked about them
    /// first, and no cast is added. A result that is otherwise is an error.
    pub as_is: bool,
}

impl Query {
    /// A query without parameters.
    pub fn new(sql: impl Into<String>) -> Self {
        Self { sql: sql.into(), ..Self::default() }
    }

    /// Sets the positional parameters.
    #[must_use]
    pub fn with_params(mut self, params: Vec<Value>) -> Self {
        self.params = params;
        self
    }

    /// Sets the output columns and types.
    #[must_use]
    pub fn with_output(mut self, output: SchemaRef) -> Self {
        self.output = Some(output);
        self
    }

    /// Sets whether joins run as they are written.
    #[must_use]
    pub fn with_joins_as_written(mut self, as_written: bool) -> Self {
        self.joins_as_written = as_written;
        self
    }

    /// Sets whether the text is known to be one query that yields exactly its output.
    #[must_use]
    pub fn with_text_as_is(mut self, as_is: bool) -> Self {
        self.as_is = as_is;
        self
    }

    /// Sets how timestamps without zone are stored.
    #[must_use]
    pub fn with_timestamps(mut self, timestamps: TimestampMode) -> Self {
        self.timestamps = timestamps;
        self
    }
}

/// How a TIMESTAMP without zone is stored.
#[non_exhaustive]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TimestampMode {
    /// As Delta's `timestamp_ntz` (the default).
    #[default]
    Ntz,
    /// As Delta's `timestamp`: the values are taken to be UTC.
    Utc,
}
