//! One run's DuckDB session: a connection, its settings, and the streams that run on it.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use arrow::array::RecordBatch;
use arrow::datatypes::{Field, Schema, SchemaRef};
use async_trait::async_trait;
use duckdb::{Connection, params_from_iter};
use futures::StreamExt;
use tokio::sync::mpsc;

use super::bridge::{self, Database};
use super::failure::failure;
use super::literal::{literal, parameter};
use super::remote::{self, Laid, RemoteFiles};
use super::running::{CancelOnDrop, Running, Ticket};
use super::secrets::{self, CreateSecret};
use super::{references, relation};
use crate::types::{self, BatchCheck, DuckType};
use crate::{
    BatchStream, EngineSession, EngineSettings, Error, Phase, Progress, Query, Relation, RelationName, Result,
    RunContext, StoreFiles, TableReference, Value, quote_ident, quote_literal,
};

/// Batches between DuckDB's thread and the consumer, beside DuckDB's own buffer of 10 MiB.
const CHANNEL: usize = 8;

/// How often the progress of a statement is reported.
const PROGRESS_EVERY: std::time::Duration = std::time::Duration::from_millis(200);

/// A result column as DuckDB describes it.
#[derive(Clone)]
struct Described {
    name: String,
    ty: DuckType,
}

/// The columns of the query that was described last. Binding a query over many CSV files sniffs all of them, so a run that
/// describes its query and then runs it should pay once. Forgotten as soon as anything changes what the query may read.
type LastDescribed = Arc<Mutex<Last>>;

/// What is known of queries. Planning one over CSV or JSON files means to sniff them.
#[derive(Default)]
struct Last {
    described: Option<(Query, Vec<Described>)>,
    /// Whether something in the session is sniffed whenever a query over it is planned.
    sniffs: bool,
    /// The text that was last found to be one query.
    single: Option<String>,
    /// The views over SQL texts that were registered.
    views: references::Views,
    /// Whether there may be views that were not registered.
    other_views: bool,
}

impl Last {
    fn add_view(&mut self, name: &RelationName, sql: &str) {
        self.sniffs |= sniffs(sql);
        self.views.push((name.name().to_lowercase(), sql.to_owned()));
    }
}

pub(super) struct DuckSession {
    last: LastDescribed,
    conn: Arc<Mutex<Database>>,
    running: Arc<Running>,
    catalog: String,
    /// Attached to a caller's database: to be detached again.
    attached: bool,
    /// What its readers can open of object stores; a caller's database has no file system of ours.
    remote: Option<Arc<RemoteFiles>>,
    /// What was laid by for one that has none.
    laid: Laid,
    serial: AtomicU64,
    cx: RunContext,
}

impl DuckSession {
    /// A DuckDB of the run's own.
    pub(super) fn own(
        cx: &RunContext,
        settings: &BTreeMap<String, String>,
        extensions: bool,
        wanted: &[CreateSecret],
    ) -> Result<Self> {
        let plan = cx.memory();
        let fail = |e| failure(e, "start");
        let on = if extensions { "true" } else { "false" };
        let memory = format!("{}B", plan.engine);
        let threads = plan.threads.max(1).to_string();
        let mut all: Vec<(String, String)> = settings.iter().map(|(k, v)| (k.clone(), v.clone())).collect();
        let mut add = |name: &str, value: &str| all.push((name.to_owned(), value.to_owned()));
        add("autoload_known_extensions", on);
        add("autoinstall_known_extensions", on);
        add("preserve_insertion_order", "false");
        add("memory_limit", &memory);
        add("threads", &threads);
        if let Some(spill) = cx.spill() {
            add(
                "temp_directory",
                spill.path().to_str().ok_or_else(|| Error::invalid("the spill directory is not UTF-8"))?,
            );
            if let Some(cap) = spill.cap() {
                add("max_temp_directory_size", &format!("{cap}B"));
            }
        }
        let runtime = tokio::runtime::Handle::try_current()
            .map_err(|e| Error::internal("a session is opened outside of an async runtime").with_source(e))?;
        let remote = RemoteFiles::new(runtime, cx.cancellation().clone(), plan.engine);
        let conn = Database::open(&all, &remote).map_err(fail)?;
        wanted.iter().try_for_each(|secret| secrets::create(&conn, secret))?;
        let catalog = conn.query_row("SELECT current_database()", [], |row| row.get(0)).map_err(fail)?;
        let mut session = Self::new(conn, catalog, false, cx);
        remote.watch(session.running.clone());
        session.remote = cfg!(feature = "bundled").then_some(remote);
        Ok(session)
    }

    /// A private catalog in the caller's database.
    pub(super) fn attached(
        cx: &RunContext,
        connection: duckdb::Result<Connection>,
        settings: &BTreeMap<String, String>,
    ) -> Result<Self> {
        let fail = |e| failure(e, "attach to the caller's database");
        let conn = connection.map_err(fail)?;
        let catalog = format!("duckrun_{}", cx.id().as_uuid().simple());
        let theirs: String = conn.query_row("SELECT current_database()", [], |row| row.get(0)).map_err(fail)?;
        conn.execute_batch(&format!("ATTACH ':memory:' AS {}", quote_ident(&catalog))).map_err(fail)?;
        let session = Self::new(Database::of(conn), catalog, true, cx);
        let path = format!("{}.main,{}.main", quote_ident(&session.catalog), quote_ident(&theirs));
        let mut sql = format!("SET search_path = {};", quote_literal(&path));
        for (name, value) in settings {
            sql.push_str(&format!("SET {} = {};", quote_ident(name), quote_literal(value)));
        }
        session.lock().execute_batch(&sql).map_err(fail)?;
        Ok(session)
    }

    fn new(conn: Database, catalog: String, attached: bool, cx: &RunContext) -> Self {
        // It costs a fiftieth of a short query. And it is a nicety: where it cannot be had there still are rows and bytes.
        if cx.reports_progress() {
            let _ = conn.set_query_progress_tracking(true);
        }
        let last = Last { other_views: attached, ..Last::default() };
        Self {
            last: Arc::new(Mutex::new(last)),
            running: Running::new(conn.interrupt_handle()),
            conn: Arc::new(Mutex::new(conn)),
            catalog,
            attached,
            remote: None,
            laid: Laid::default(),
            serial: AtomicU64::new(0),
            cx: cx.clone(),
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Database> {
        self.conn.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs a closure on the connection, on a blocking thread; dropping the future interrupts it.
    async fn with<R: Send + 'static>(&self, f: impl FnOnce(&Connection) -> Result<R> + Send + 'static) -> Result<R> {
        self.cx.check()?;
        let (conn, ticket) = (self.conn.clone(), self.running.reserve());
        let mut guard = CancelOnDrop::new(ticket.clone());
        let work = tokio::task::spawn_blocking(move || {
            let conn = conn.lock().unwrap_or_else(PoisonError::into_inner);
            let Some(_active) = ticket.begin() else { return Err(Error::cancelled()) };
            f(&conn)
        });
        let cancelled = self.cx.cancellation().clone();
        let done = tokio::select! {
            done = work => done,
            () = cancelled.cancelled_owned() => return Err(Error::cancelled()),
        };
        guard.disarm();
        done.map_err(|e| Error::internal("a DuckDB call panicked").with_source(e))?
    }

    fn last(&self) -> std::sync::MutexGuard<'_, Last> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn forget(&self) {
        self.last().described = None;
    }

    fn next_serial(&self) -> u64 {
        self.serial.fetch_add(1, Ordering::Relaxed)
    }

    /// Loads a stream into a table that DuckDB may spill.
    async fn load(&self, name: &RelationName, mut rows: BatchStream) -> Result<()> {
        let schema = rows.schema().clone();
        let columns: Vec<String> = schema
            .fields()
            .iter()
            .map(|f| Ok(format!("{} {}", quote_ident(f.name()), types::sql_type(f.data_type())?)))
            .collect::<Result<_>>()?;
        let table = name.to_sql();
        self.with(move |conn| {
            conn.execute_batch(&format!("CREATE OR REPLACE TABLE {table} ({})", columns.join(", ")))
                .map_err(|e| failure(e, "create a table for a stream"))
        })
        .await?;
        let filled = self.fill(name, &mut rows).await;
        if filled.is_err() {
            // A part of the rows must not look like all of them. A session that was cancelled answers no query anyway.
            let drop = format!("DROP TABLE IF EXISTS {}", own_name(&self.catalog, name));
            if let Err(e) =
                self.with(move |conn| conn.execute_batch(&drop).map_err(|e| failure(e, "drop a table"))).await
            {
                tracing::debug!(error = %e, "the table of a stream that failed is left");
            }
        }
        filled
    }

    /// Appends the batches of a stream to a table of the session.
    async fn fill(&self, name: &RelationName, rows: &mut BatchStream) -> Result<()> {
        while let Some(batch) = rows.next().await {
            let batch = batch?;
            let (name, catalog) = (name.clone(), self.catalog.clone());
            self.with(move |conn| insert_batch(conn, &catalog, &name, &batch)).await?;
        }
        Ok(())
    }
}

/// A relation of the session, in full: where the connection is the caller's, a shorter name could be a table of theirs.
fn own_name(catalog: &str, name: &RelationName) -> String {
    format!("{}.{}.{}", quote_ident(catalog), quote_ident(name.schema().unwrap_or("main")), quote_ident(name.name()))
}

/// Makes room for a relation of another kind: DuckDB replaces a table by a table and a view by a view only.
fn clear(conn: &Connection, kind: &str, own_name: &str) {
    // Fails where the relation is not of this kind, and then it is replaced by what follows.
    if let Err(e) = conn.execute_batch(&format!("DROP {kind} IF EXISTS {own_name}")) {
        tracing::trace!(error = %e, "nothing to make room for");
    }
}

/// Appends one batch to a table of the session.
fn insert_batch(conn: &Connection, catalog: &str, name: &RelationName, batch: &RecordBatch) -> Result<()> {
    let fail = |e| failure(e, "load a stream");
    let mut appender =
        conn.appender_to_catalog_and_db(name.name(), catalog, name.schema().unwrap_or("main")).map_err(fail)?;
    appender.append_record_batch(bridge::to_duckdb(batch)?).map_err(fail)?;
    appender.flush().map_err(fail)
}

/// Whether planning a query means to sniff files.
fn sniffs(sql: &str) -> bool {
    sql.contains("read_csv") || sql.contains("read_json")
}

/// The columns of a query, in DuckDB's types.
///
/// DuckDB 2.0 plans a statement that reads files once when it is prepared and again when it is executed (their bind data does not
/// support the statement cache). Where planning is `costly`, the description is therefore laid by in a statement that is executed
/// without being prepared.
fn describe(conn: &Connection, query: &Query, costly: bool, single: bool) -> Result<Vec<Described>> {
    const LAID: &str = "temp.__duckrun_described";
    if !single {
        references::single_query(conn, &query.sql)?;
    }
    // Not of `SELECT * FROM (query)`: there DuckDB renames a column whose name occurs twice.
    let mut sql = format!("DESCRIBE {}", body(&query.sql));
    // What fails here fails again below, and there the message shows the query alone.
    let laid = costly
        && query.params.is_empty()
        && conn.execute_batch(&format!("CREATE OR REPLACE TEMP TABLE {LAID} AS FROM (\n{sql}\n)")).is_ok();
    if laid {
        sql = format!("SELECT column_name, column_type FROM {LAID} ORDER BY rowid");
    }
    let columns = described(conn, query, &sql);
    if laid && let Err(e) = conn.execute_batch(&format!("DROP TABLE {LAID}")) {
        tracing::debug!(error = %e, "a description stays");
    }
    columns
}

fn described(conn: &Connection, query: &Query, sql: &str) -> Result<Vec<Described>> {
    let mut statement = conn.prepare(sql).map_err(|e| failure(e, "plan the query"))?;
    let params: Vec<_> = query.params.iter().map(parameter).collect();
    let columns = statement
        .query_map(params_from_iter(params), |row| Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?)))
        .map_err(|e| failure(e, "plan the query"))?
        .collect::<duckdb::Result<Vec<_>>>()
        .map_err(|e| failure(e, "plan the query"))?;
    let names: Vec<&str> = columns.iter().map(|(name, _)| name.as_str()).collect();
    types::check_names(&names)?;
    columns.into_iter().map(|(name, ty)| Ok(Described { name, ty: DuckType::parse(&ty)? })).collect()
}

fn body(sql: &str) -> &str {
    sql.trim().trim_end_matches(';')
}

/// The statement that yields exactly the output columns in their Delta types, and that schema.
fn output(conn: &Connection, query: &Query, last: &LastDescribed) -> Result<(String, SchemaRef)> {
    if let (true, Some(output)) = (query.as_is, &query.output) {
        return Ok((body(&query.sql).to_owned(), output.clone()));
    }
    let mut last = last.lock().unwrap_or_else(PoisonError::into_inner);
    let columns = match last.described.as_ref() {
        Some((known, columns)) if known.sql == query.sql && known.params == query.params => columns.clone(),
        _ => {
            let single = query.as_is || last.single.as_ref() == Some(&query.sql);
            let columns = describe(conn, query, last.sniffs || sniffs(&query.sql), single)?;
            last.described = Some((query.clone(), columns.clone()));
            columns
        }
    };
    drop(last);
    let (mut list, mut fields, mut problems) = (Vec::new(), Vec::new(), Vec::new());
    match &query.output {
        None => {
            for column in &columns {
                match types::decide(&column.name, &column.ty, query.timestamps) {
                    Ok(decision) => {
                        list.push(format!("{} AS {}", decision.expr, quote_ident(&column.name)));
                        fields.push(Field::new(&column.name, decision.arrow, true));
                    }
                    Err(e) => problems.push(e),
                }
            }
        }
        Some(wanted) => {
            for field in wanted.fields() {
                let name = quote_ident(field.name());
                // The exact name first: tables may have columns that differ in nothing but the case of a quoted name.
                let found = columns
                    .iter()
                    .find(|c| c.name == *field.name())
                    .or_else(|| columns.iter().find(|c| c.name.eq_ignore_ascii_case(field.name())));
                let expr = match found {
                    Some(c) => types::cast_expr(&c.name, &c.ty, field.data_type(), query.timestamps),
                    None => types::sql_type(field.data_type()).map(|ty| format!("CAST(NULL AS {ty})")),
                };
                match expr {
                    Ok(expr) => list.push(format!("{expr} AS {name}")),
                    Err(e) => problems.push(e),
                }
            }
            fields.extend(wanted.fields().iter().map(|f| f.as_ref().clone()));
        }
    }
    if let Some(first) = problems.first() {
        let all: Vec<_> = problems.iter().map(|e| e.message().to_owned()).collect();
        return Err(Error::new(first.kind(), all.join("; ")));
    }
    Ok((format!("SELECT {} FROM (\n{}\n)", list.join(", "), body(&query.sql)), Arc::new(Schema::new(fields))))
}

/// Settings of a single query, taken back when it has run. They belong to the database, so that a caller's is left alone where
/// only speed is at stake.
struct Hints<'a> {
    conn: &'a Connection,
    back: Vec<&'static str>,
}

impl<'a> Hints<'a> {
    fn set(conn: &'a Connection, query: &Query, own: bool) -> Result<Self> {
        let mut hints = Self { conn, back: Vec::new() };
        if query.keep_order {
            hints.run("SET preserve_insertion_order = true")?;
            if own {
                hints.back.push("SET preserve_insertion_order = false");
            }
        }
        if query.joins_as_written && own {
            // DuckDB knows no row count of a list of parquet files with a schema of its own, and lays the larger side out.
            hints.run("SET disabled_optimizers = 'join_order,build_side_probe_side'")?;
            hints.back.push("RESET disabled_optimizers");
        }
        Ok(hints)
    }

    fn run(&self, sql: &str) -> Result<()> {
        self.conn.execute_batch(sql).map_err(|e| failure(e, "set up the query"))
    }
}

impl Drop for Hints<'_> {
    fn drop(&mut self) {
        for sql in &self.back {
            if let Err(e) = self.conn.execute_batch(sql) {
                tracing::debug!(error = %e, sql, "a setting stays");
            }
        }
    }
}

/// Runs on the blocking thread: executes, and hands batches over until the end, a failure, or nobody listens.
fn pump(
    conn: &Connection,
    query: &Query,
    ticket: &Ticket,
    out: &mpsc::Sender<Result<Pulled>>,
    sql: &str,
    schema: &SchemaRef,
    own: bool,
) -> Result<()> {
    let Some(active) = ticket.begin() else { return Err(Error::cancelled()) };
    let _hints = Hints::set(conn, query, own)?;
    let mut statement = conn.prepare(sql).map_err(|e| failure(e, "plan the query"))?;
    let params: Vec<_> = query.params.iter().map(parameter).collect();
    let stream = statement.stream_arrow(params_from_iter(params)).map_err(|e| failure(e, "run the query"))?;
    let theirs = bridge::schema(&stream.get_schema())?;
    let check = BatchCheck::new(schema);
    for batch in stream {
        let batch = batch.map_err(|e| failure(e, "run the query"))?;
        let batch = types::conform(bridge::batch(batch, &theirs)?, schema)?;
        check.check(&batch)?;
        if out.blocking_send(Ok(Pulled::Batch(batch))).is_err() {
            return Ok(());
        }
    }
    // DuckDB may end a stream quietly after an interrupt (UPSTREAM: duckdb fact 1): a short stream must never look whole.
    if active.was_interrupted() { Err(Error::cancelled()) } else { Ok(()) }
}

#[async_trait]
impl EngineSession for DuckSession {
    async fn register(&self, name: &RelationName, relation: Relation) -> Result<()> {
        self.forget();
        let sql_name = name.to_sql();
        let create_schema = name.schema().map(|s| format!("CREATE SCHEMA IF NOT EXISTS {}", quote_ident(s)));
        let (catalog, serial) = (self.catalog.clone(), self.next_serial());
        let (other, own) = match &relation {
            Relation::Stream(_) => ("VIEW", own_name(&self.catalog, name)),
            _ => ("TABLE", own_name(&self.catalog, name)),
        };
        let prepare = move |conn: &Connection| {
            if let Some(sql) = &create_schema {
                conn.execute_batch(sql).map_err(|e| failure(e, "create a schema"))?;
            }
            clear(conn, other, &own);
            Ok(())
        };
        let result = match relation {
            Relation::Sql(sql) => {
                self.last().add_view(name, &sql);
                self.with(move |conn| {
                    prepare(conn)?;
                    references::single_query(conn, &sql)?;
                    relation::create_sql_view(conn, &sql_name, &sql)
                })
                .await
            }
            Relation::Files(set) => {
                let remote = self.remote.clone();
                let set = match &remote {
                    Some(_) => set,
                    None => {
                        remote::lay_by(&self.cx, &self.laid, set).await.map_err(|e| e.or_table(name.to_string()))?
                    }
                };
                self.with(move |conn| {
                    prepare(conn)?;
                    relation::create_view(conn, &catalog, &sql_name, &set, serial, remote.as_deref())
                })
                .await
            }
            Relation::Stream(rows) => {
                self.with(prepare).await?;
                self.load(name, rows).await
            }
        };
        result.map_err(|e| e.or_table(name.to_string()))
    }

    async fn open_files(&self, files: StoreFiles) -> Result<String> {
        self.cx.check()?;
        match &self.remote {
            Some(remote) => Ok(remote.open_files(files)),
            None => remote::lay_by_files(&self.cx, &self.laid, files).await,
        }
    }

    async fn set_variable(&self, name: &str, value: &Value) -> Result<()> {
        self.forget();
        RelationName::bare(name)?;
        let sql = format!("SET VARIABLE {} = {}", quote_ident(name), literal(value));
        self.with(move |conn| conn.execute_batch(&sql).map_err(|e| failure(e, "set a variable"))).await
    }

    async fn execute(&self, sql: &str) -> Result<()> {
        self.forget();
        // It may create one, or attach a database that has some.
        self.last().other_views = true;
        let sql = sql.to_owned();
        self.with(move |conn| conn.execute_batch(&sql).map_err(|e| failure(e, "run a statement"))).await
    }

    async fn references(&self, sql: &str) -> Result<Vec<TableReference>> {
        let known = {
            let last = self.last();
            (!last.other_views).then(|| last.views.clone())
        };
        let (sql, last) = (sql.to_owned(), self.last.clone());
        self.with(move |conn| {
            let found = references::references(conn, &sql, known)?;
            last.lock().unwrap_or_else(PoisonError::into_inner).single = Some(sql);
            Ok(found)
        })
        .await
    }

    async fn describe(&self, query: &Query) -> Result<SchemaRef> {
        let (query, last) = (query.clone(), self.last.clone());
        self.with(move |conn| output(conn, &query, &last).map(|(_, schema)| schema)).await
    }

    async fn query(&self, query: &Query) -> Result<BatchStream> {
        let (for_output, last) = (query.clone(), self.last.clone());
        let (sql, schema) = self.with(move |conn| output(conn, &for_output, &last)).await?;
        let (sender, receiver) = mpsc::channel(CHANNEL);
        let (conn, ticket, query) = (self.conn.clone(), self.running.reserve(), query.clone());
        let guard = CancelOnDrop::new(ticket.clone());
        let progress = self.progress().await?;
        let (promised, span, own) = (schema.clone(), tracing::Span::current(), !self.attached);
        tokio::task::spawn_blocking(move || {
            let _span = span.enter();
            let conn = conn.lock().unwrap_or_else(PoisonError::into_inner);
            let last = pump(&conn, &query, &ticket, &sender, &sql, &promised, own).map(|()| Pulled::End);
            // The receiver is gone only if the consumer dropped the stream: then nobody wants to know.
            let _ = sender.blocking_send(last);
        });
        let state = Pull { receiver, guard, cx: self.cx.clone(), done: false };
        let estimate = move || progress.query_progress().percentage().map(|percent| percent / 100.0);
        Ok(BatchStream::new(schema, futures::stream::unfold(state, Pull::next)).with_estimate(estimate))
    }

    async fn materialize(&self, name: &RelationName, query: &Query) -> Result<u64> {
        let (for_output, last) = (query.clone(), self.last.clone());
        let sql = match query.as_is && query.output.is_none() {
            true => body(&query.sql).to_owned(),
            false => self.with(move |conn| output(conn, &for_output, &last)).await?.0,
        };
        self.forget();
        let progress = self.progress().await?;
        let (table, query, own) = (name.to_sql(), query.clone(), !self.attached);
        let whole = own_name(&self.catalog, name);
        let work = self.with(move |conn| {
            let fail = |e| failure(e, "run the query");
            clear(conn, "VIEW", &whole);
            let _hints = Hints::set(conn, &query, own)?;
            let create = format!("CREATE OR REPLACE TABLE {table} AS {sql}");
            match query.params.as_slice() {
                // Planned once; see `describe`.
                [] => conn.execute_batch(&create).map_err(fail)?,
                params => {
                    let params = params.iter().map(parameter);
                    conn.prepare(&create).map_err(fail)?.execute(params_from_iter(params)).map(drop).map_err(fail)?;
                }
            }
            conn.query_row(&format!("SELECT count(*) FROM {table}"), [], |row| row.get::<_, i64>(0)).map_err(fail)
        });
        tokio::pin!(work);
        let mut tick = tokio::time::interval(PROGRESS_EVERY);
        loop {
            tokio::select! {
                rows = &mut work => return Ok(rows.map_err(|e| e.or_table(name.to_string()))?.unsigned_abs()),
                _ = tick.tick() => {
                    let percentage = progress.query_progress().percentage();
                    self.cx.report(&Progress::start(Phase::Matching).with_fraction(percentage.map(|p| p / 100.0)));
                }
            }
        }
    }

    async fn settings(&self) -> Result<EngineSettings> {
        self.with(|conn| {
            let sql = "SELECT version(), current_setting('memory_limit'), current_setting('threads')::BIGINT, \
                       current_setting('temp_directory'), current_setting('max_temp_directory_size'), \
                       current_setting('preserve_insertion_order')::BOOLEAN";
            conn.query_row(sql, [], |row| {
                Ok(EngineSettings {
                    engine: format!("duckdb {}", row.get::<_, String>(0)?),
                    memory_limit: row.get(1)?,
                    threads: row.get::<_, i64>(2)?.unsigned_abs(),
                    spill_directory: row.get::<_, Option<String>>(3)?.unwrap_or_default(),
                    spill_limit: row.get(4)?,
                    preserve_insertion_order: row.get(5)?,
                })
            })
            .map_err(|e| failure(e, "report its settings"))
        })
        .await
    }

    fn interrupt(&self) {
        self.running.close();
    }
}

impl DuckSession {
    async fn progress(&self) -> Result<duckdb::ProgressHandle> {
        self.with(|conn| Ok(conn.progress_handle())).await
    }
}

/// What the query's thread sends. The end is a message of its own: a channel that merely closes means that the thread died.
enum Pulled {
    Batch(RecordBatch),
    End,
}

/// The consumer's end of a stream.
struct Pull {
    receiver: mpsc::Receiver<Result<Pulled>>,
    guard: CancelOnDrop,
    cx: RunContext,
    done: bool,
}

impl Pull {
    async fn next(mut self) -> Option<(Result<RecordBatch>, Self)> {
        if self.done {
            return None;
        }
        let cancelled = self.cx.cancellation().clone();
        let item = tokio::select! {
            biased;
            () = cancelled.cancelled_owned() => Some(Err(Error::cancelled())),
            item = self.receiver.recv() => item,
        };
        let item = match item {
            Some(Ok(Pulled::End)) => {
                self.guard.disarm();
                return None;
            }
            Some(Ok(Pulled::Batch(batch))) => Ok(batch),
            Some(Err(e)) => Err(e),
            None => Err(Error::internal("DuckDB's thread ended without a result")),
        };
        self.done = item.is_err();
        Some((item, self))
    }
}

impl Drop for DuckSession {
    fn drop(&mut self) {
        self.running.close();
        if self.attached {
            // On a thread: the connection may still be busy with a statement that is being interrupted.
            let (conn, catalog) = (self.conn.clone(), self.catalog.clone());
            let detach = move || {
                let conn = conn.lock().unwrap_or_else(PoisonError::into_inner);
                let sql = format!("SET search_path = ''; USE memory; DETACH {}", quote_ident(&catalog));
                if let Err(e) = conn.execute_batch(&sql) {
                    tracing::debug!(error = %e, "the run's private catalog stays attached");
                }
            };
            if let Err(e) = std::thread::Builder::new().name("duckrun-detach".to_owned()).spawn(detach) {
                tracing::warn!(error = %e, "the run's private catalog stays attached");
            }
        }
    }
}

impl fmt::Debug for DuckSession {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DuckSession").field("catalog", &self.catalog).finish_non_exhaustive()
    }
}
