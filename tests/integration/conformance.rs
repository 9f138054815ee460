//! The conformance suites: all of ours pass, and each suite catches implementations that are broken on purpose.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use chrono::{DateTime, TimeDelta, Utc};
use duckrun::core::maintenance::{Action, TableStats};
use duckrun::core::{
    Capabilities, ConflictPolicy, EngineSettings, Intent, RelationName, Staged, StorageOptions, TableOpener,
    TableReference, TableState, WritePlan, WriteSpec,
};
use duckrun::duckdb::{Connection, DuckDb};
use duckrun::maintenance::{DefaultPolicy, Disabled, MaintenancePolicy, OnRequest};
use duckrun::memory::{GIB, MemoryProbe, MemorySample, SystemProbe};
use duckrun::sources::{ArrowIpc, Csv, Delta, Files, Iceberg, Json, NewFiles, Parquet};
use duckrun::{
    Append, At, BatchSize, BatchStream, CommitOutcome, Delete, DeleteInsert, DeltaStore, Engine, EngineSession,
    FullSync, Insert, InsertOverwrite, Location, Merge, Microbatch, MicrobatchWindow, Overwrite, Query, Relation,
    ReplaceWhere, Resolved, Result, RunContext, SafeAppend, Scd2, Snapshot, Source, SourceContext, Strategy,
    TableStore, Update, Value,
};
use duckrun_testkit::conformance::{self, Conformance, PolicySubject, SourceSubject, StrategySubject, Verdict};
use futures::StreamExt;
use object_store::memory::InMemory;
use url::Url;

#[path = "../examples/foreign_store.rs"]
#[allow(dead_code)]
mod foreign_store;
#[path = "../examples/foreign_strategy.rs"]
#[allow(dead_code)]
mod foreign_strategy;

/// A broken implementation fails these checks, and the report says so in words.
fn catches(report: &Conformance, checks: &[&str]) {
    for check in checks {
        assert!(report.failed(check), "{check} passes: {report}");
    }
    assert!(report.to_string().contains("FAILED"), "{report}");
}

fn skipped(report: &Conformance) -> Vec<&'static str> {
    report.checks().iter().filter(|c| matches!(c.verdict, Verdict::Skipped(_))).map(|c| c.name).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_engine_conforms() {
    let report = conformance::engine(|| Arc::new(DuckDb::in_memory())).await;
    report.assert();
    assert_eq!(skipped(&report), Vec::<&str>::new());
    let connection = Connection::open_in_memory().unwrap();
    let engine: Arc<dyn Engine> = Arc::new(DuckDb::with_connection(connection));
    conformance::engine(|| engine.clone()).await.assert();
}

/// An engine with one flaw.
#[derive(Debug)]
struct BadEngine {
    inner: DuckDb,
    /// One session for all runs, and streams whose errors are swallowed.
    shared: tokio::sync::OnceCell<Arc<dyn EngineSession>>,
}

#[derive(Debug)]
struct BadSession(Arc<dyn EngineSession>);

#[async_trait]
impl Engine for BadEngine {
    fn name(&self) -> &str {
        "bad"
    }
    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }
    async fn open(&self, cx: &RunContext) -> Result<Box<dyn EngineSession>> {
        let session = self.shared.get_or_try_init(|| async { self.inner.open(cx).await.map(Arc::from) }).await?;
        Ok(Box::new(BadSession(session.clone())))
    }
}

#[async_trait]
impl EngineSession for BadSession {
    async fn register(&self, name: &RelationName, relation: Relation) -> Result<()> {
        self.0.register(name, relation).await
    }
    async fn set_variable(&self, name: &str, value: &Value) -> Result<()> {
        self.0.set_variable(name, value).await
    }
    async fn execute(&self, sql: &str) -> Result<()> {
        self.0.execute(sql).await
    }
    async fn references(&self, _sql: &str) -> Result<Vec<TableReference>> {
        Ok(Vec::new())
    }
    async fn describe(&self, query: &Query) -> Result<duckrun::arrow::datatypes::SchemaRef> {
        self.0.describe(query).await
    }
    async fn query(&self, query: &Query) -> Result<BatchStream> {
        let stream = self.0.query(query).await?;
        let schema = stream.schema().clone();
        Ok(BatchStream::new(schema, stream.take_while(|batch| futures::future::ready(batch.is_ok()))))
    }
    async fn settings(&self) -> Result<EngineSettings> {
        self.0.settings().await
    }
    fn interrupt(&self) {
        self.0.interrupt();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_engine_is_caught() {
    let make = || Arc::new(BadEngine { inner: DuckDb::in_memory(), shared: tokio::sync::OnceCell::new() }) as Arc<_>;
    let report = conformance::engine(make).await;
    catches(&report, &["own_namespace", "late_failures_are_seen", "interrupt_is_an_error", "references_are_found"]);
}

fn in_memory(store: &Arc<InMemory>, name: &str) -> DeltaStore {
    let url = Url::parse(&format!("memory:///lake/{name}")).unwrap();
    DeltaStore::new(Location::in_store(&url, store.clone(), &format!("lake/{name}").into()).unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_delta_stores_conform() {
    let root = tempfile::tempdir().unwrap();
    let local = |name: &str| Arc::new(DeltaStore::new(Location::local(root.path().join(name)).unwrap())) as Arc<_>;
    let report = conformance::table_store(local).await;
    report.assert();
    assert_eq!(skipped(&report), Vec::<&str>::new());
    let store = Arc::new(InMemory::new());
    let report = conformance::table_store(|name| Arc::new(in_memory(&store, name))).await;
    report.assert();
    assert_eq!(skipped(&report), Vec::<&str>::new());
}

/// What a store forgets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Forgets {
    CompareAndSwap,
    Transactions,
    Errors,
    Pins,
}

#[derive(Debug)]
struct BadStore(DeltaStore, Forgets);

#[async_trait]
impl TableStore for BadStore {
    fn location(&self) -> &str {
        self.0.location()
    }
    async fn snapshot(&self, at: At) -> Result<Option<Arc<dyn Snapshot>>> {
        match (self.1, at) {
            (Forgets::Errors, at) => Ok(self.0.snapshot(at).await.unwrap_or_default()),
            (Forgets::Pins, _) => self.0.snapshot(At::Latest).await,
            (_, at) => self.0.snapshot(at).await,
        }
    }
    async fn stage(
        &self,
        cx: &RunContext,
        at: Option<&Arc<dyn Snapshot>>,
        spec: &WriteSpec,
        rows: BatchStream,
    ) -> Result<Staged> {
        self.0.stage(cx, at, spec, rows).await
    }
    async fn commit(&self, cx: &RunContext, at: Option<&Arc<dyn Snapshot>>, intent: &Intent) -> Result<CommitOutcome> {
        let mut intent = intent.clone();
        match self.1 {
            Forgets::CompareAndSwap => intent.plan.conflict = ConflictPolicy::Blind,
            Forgets::Transactions => intent.transaction = None,
            _ => {}
        }
        self.0.commit(cx, at, &intent).await
    }
    async fn discard(&self, cx: &RunContext, staged: &Staged) -> Result<()> {
        self.0.discard(cx, staged).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn broken_stores_are_caught() {
    for (forgets, checks) in [
        (Forgets::CompareAndSwap, ["compare_and_swap", "one_first_run_wins"].as_slice()),
        (Forgets::Transactions, &["transactions_replay"]),
        (Forgets::Errors, &["missing_version_is_an_error"]),
        (Forgets::Pins, &["pinned_stays"]),
    ] {
        let store = Arc::new(InMemory::new());
        let report = conformance::table_store(|name| Arc::new(BadStore(in_memory(&store, name), forgets))).await;
        catches(&report, checks);
    }
}

async fn check<S: Strategy + Clone + 'static>(strategy: S, subject: StrategySubject) {
    conformance::strategy(|| Arc::new(strategy.clone()), subject).await.assert();
}

#[tokio::test(flavor = "multi_thread")]
async fn strategies_that_replace_and_add_conform() {
    let usual = StrategySubject::default;
    check(Overwrite::default(), usual().replacing_schema()).await;
    check(Overwrite::default().keep_schema(), usual()).await;
    check(Overwrite::default().blind(), usual().replacing_schema().blind()).await;
    check(Append::default(), usual()).await;
    check(Append::default().fenced(), usual()).await;
    check(SafeAppend, usual()).await;
    check(ReplaceWhere::new("part = 'b'"), usual()).await;
    check(InsertOverwrite, usual()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn strategies_that_merge_conform() {
    let usual = StrategySubject::default;
    check(Merge::on(["id"]), usual()).await;
    check(Insert::on(["id"]), usual()).await;
    check(DeleteInsert::on(["id"]), usual()).await;
    check(FullSync::on(["id"]), usual()).await;
    check(Delete::rows_where("id = 2"), usual()).await;
    check(Update::new([("v", "v * 2")]).rows_where("id >= 2"), usual()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn strategies_with_windows_conform() {
    let usual = StrategySubject::default;
    let begin: DateTime<Utc> = "2020-01-02T00:00:00Z".parse().unwrap();
    let end = begin + TimeDelta::days(1);
    check(MicrobatchWindow::new("at", begin, end), usual()).await;
    check(Microbatch::new("at", BatchSize::Day).begin(begin).end(end), usual()).await;
    foreign_strategy::report().await.assert();
}

/// A strategy with a flaw.
#[derive(Debug)]
struct BadStrategy {
    inner: Merge,
    blind: bool,
    calls: AtomicU64,
}

impl Strategy for BadStrategy {
    fn name(&self) -> &str {
        "bad"
    }
    fn plan(&self, target: &TableState, incoming: &duckrun::arrow::datatypes::SchemaRef) -> Result<WritePlan> {
        let mut plan = self.inner.plan(target, incoming)?;
        if self.blind {
            plan.conflict = ConflictPolicy::Blind;
        } else {
            plan.warnings.push(format!("call {}", self.calls.fetch_add(1, Ordering::Relaxed)));
            plan.metadata.schema = None;
        }
        Ok(plan)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn broken_strategies_are_caught() {
    let bad =
        |blind| move || Arc::new(BadStrategy { inner: Merge::on(["id"]), blind, calls: AtomicU64::new(0) }) as Arc<_>;
    let report = conformance::strategy(bad(true), StrategySubject::default()).await;
    catches(&report, &["readers_are_fenced", "serialisable"]);
    let report = conformance::strategy(bad(false), StrategySubject::default()).await;
    catches(&report, &["pure", "first_run_creates"]);
}

/// `scd2` makes a table of its own columns, so that the suite's table is none of it.
#[tokio::test(flavor = "multi_thread")]
async fn the_plans_of_a_history_conform() {
    let report = conformance::strategy(|| Arc::new(Scd2::on(["id"]).check(["v"])), StrategySubject::default()).await;
    for check in report.checks().iter().filter(|c| ["named", "options_are_judged", "pure"].contains(&c.name)) {
        assert_eq!(check.verdict, Verdict::Passed, "{report}");
    }
}

#[test]
fn the_policies_conform() {
    conformance::policy(|| Arc::new(DefaultPolicy::default()), PolicySubject::default()).assert();
    conformance::policy(|| Arc::new(Disabled), PolicySubject::default()).assert();
    let compact = || Arc::new(OnRequest::new([Action::Compact { partitions: vec![] }])) as Arc<_>;
    conformance::policy(compact, PolicySubject::default().insisting()).assert();
}

#[derive(Debug, Default)]
struct BadPolicy(AtomicU64);

impl MaintenancePolicy for BadPolicy {
    fn decide(&self, stats: &TableStats, _now: DateTime<Utc>) -> Vec<Action> {
        assert!(stats.target_file_size < u64::MAX, "it divides by the size");
        let full = self.0.fetch_add(1, Ordering::Relaxed).is_multiple_of(2);
        let unknown = BTreeMap::from([("nobody".to_owned(), None)]);
        vec![Action::Vacuum { retention: Duration::ZERO, full }, Action::Compact { partitions: vec![unknown] }]
    }
}

#[test]
fn a_broken_policy_is_caught() {
    let report = conformance::policy(|| Arc::new(BadPolicy::default()), PolicySubject::default());
    catches(&report, &["pure", "total", "at_rest", "young_files_stay", "known_partitions"]);
}

/// Opens Delta tables for sources.
#[derive(Debug)]
struct Tables;

impl TableOpener for Tables {
    fn open(&self, _format: &str, location: &str, _options: &StorageOptions) -> Result<Arc<dyn TableStore>> {
        Ok(Arc::new(DeltaStore::new(Location::local(location)?)))
    }
}

fn copy(sql: &str, to: &Path) {
    let connection = Connection::open_in_memory().unwrap();
    connection.execute_batch(&format!("copy ({sql}) to '{}' (format parquet)", to.display())).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_sources_conform() {
    let root = tempfile::tempdir().unwrap();
    let at = |name: &str| {
        let path = root.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        path
    };
    let write = |name: &str, text: &str| std::fs::write(at(name), text).unwrap();
    write("csv/a.csv", "n,s\n1,a\n2,b\n");
    write("json/a.json", "[{\"n\": 1}, {\"n\": 2}]");
    write("lines/a.ndjson", "{\"n\": 1}\n{\"n\": 2}\n");
    copy("select range as n from range(3)", &at("pq/a.parquet"));
    let batch = duckrun_testkit::generate::arrow::batch(&duckrun_testkit::model::Rows::new(
        vec![duckrun_testkit::model::Column::new("n", duckrun_testkit::model::Type::Long)],
        vec![vec![duckrun_testkit::model::Value::Int(1)]],
    ))
    .unwrap();
    let file = std::fs::File::create(at("ipc/a.arrow")).unwrap();
    let mut writer = arrow_ipc::writer::FileWriter::try_new(file, &batch.schema()).unwrap();
    writer.write(&batch).unwrap();
    writer.finish().unwrap();
    write(
        "ice/metadata/v1.metadata.json",
        r#"{"format-version": 2, "table-uuid": "9c12d441-03fe-4693-9a96-a0705ddf69c1", "location": "/ice", "last-sequence-number": 0,
        "last-updated-ms": 1600000000000, "last-column-id": 1, "current-schema-id": 0, "schemas": [{"type": "struct",
        "schema-id": 0, "fields": [{"id": 1, "name": "n", "required": false, "type": "long"}]}], "default-spec-id": 0,
        "partition-specs": [{"spec-id": 0, "fields": []}], "last-partition-id": 999, "default-sort-order-id": 0,
        "sort-orders": [{"order-id": 0, "fields": []}], "properties": {}, "current-snapshot-id": -1, "snapshots": []}"#,
    );
    let lake = duckrun::Session::open(root.path().join("lake"))
        .governor(duckrun_testkit::own_governor())
        .writable()
        .await
        .unwrap();
    let put = || lake.model("a.t").sql("select range as n from range(4)").run();
    put().await.unwrap().committed().map(drop).unwrap();
    let table = root.path().join("lake/a/t").display().to_string();

    let (csv, pq) = (at("csv/b.csv"), at("pq/b.parquet"));
    let subjects = [
        SourceSubject::new(Csv::folder(root.path().join("csv")), 2)
            .missing(Csv::folder(root.path().join("no")))
            .grown(move || std::fs::write(&csv, "n,s\n3,c\n").unwrap(), 3),
        SourceSubject::new(Json::file(at("json/a.json")), 2).missing(Json::file(at("json/none.json"))),
        SourceSubject::new(Json::file(at("lines/a.ndjson")), 2).missing(Json::glob(at("lines/*.none"))),
        SourceSubject::new(Parquet::folder(root.path().join("pq")), 3)
            .missing(Parquet::file(at("pq/none.parquet")))
            .grown(move || copy("select 1 as n", &pq), 4),
        SourceSubject::new(ArrowIpc::file(at("ipc/a.arrow")), 1).missing(ArrowIpc::file(at("ipc/none.arrow"))),
        SourceSubject::new(Iceberg::at(root.path().join("ice")), 0).missing(Iceberg::at(root.path().join("no-ice"))),
        SourceSubject::new(Delta::at(&table), 4).missing(Delta::at(format!("{table}-none"))).tables(Arc::new(Tables)),
        SourceSubject::new(Delta::at(&table).version(0), 4)
            .missing(Delta::at(&table).version(9))
            .tables(Arc::new(Tables)),
        SourceSubject::new(Files::at(&table), 4).tables(Arc::new(Tables)),
        SourceSubject::new(Files::at(root.path().join("json")), 2).missing(Files::at(root.path().join("none"))),
        SourceSubject::new(NewFiles::by_column(Csv::glob(root.path().join("csv/a*.csv"))), 2),
    ];
    for subject in subjects {
        conformance::source(|| subject).await.assert();
    }
}

/// A source that hands its rows over once, and takes what is not there for empty.
#[derive(Debug, Default)]
struct BadSource(AtomicBool, Mutex<u64>);

#[async_trait]
impl Source for BadSource {
    fn describe(&self) -> String {
        let mut calls = self.1.lock().unwrap();
        *calls += 1;
        format!("call {calls}")
    }
    async fn resolve(&self, _cx: &SourceContext<'_>) -> Result<Resolved> {
        let rows = if self.0.swap(true, Ordering::Relaxed) { 0 } else { 3 };
        Ok(Relation::Sql(format!("select range as n from range({rows})")).into())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_source_is_caught() {
    let subject = SourceSubject::new(BadSource::default(), 3).missing(BadSource::default());
    let report = conformance::source(|| subject).await;
    catches(&report, &["described", "resolves_again", "missing_is_an_error"]);
}

/// A sample that was recorded.
#[derive(Debug, Clone)]
struct Recorded(MemorySample);

impl MemoryProbe for Recorded {
    fn sample(&self) -> MemorySample {
        self.0.clone()
    }
}

#[test]
fn the_probes_conform() {
    conformance::probe(|| Arc::new(SystemProbe::new())).assert();
    conformance::probe(|| Arc::new(Recorded(SystemProbe::new().sample()))).assert();
    conformance::probe(|| Arc::new(Recorded(MemorySample::default()))).assert();
    let sample = MemorySample { physical: Some(8 * GIB), available: Some(0), cpus: Some(1), ..MemorySample::default() };
    conformance::probe(|| Arc::new(Recorded(sample.clone()))).assert();
}

/// A probe that waits, fails in the long run, and has more to give than there is.
#[derive(Debug, Default)]
struct BadProbe(AtomicU64);

impl MemoryProbe for BadProbe {
    fn sample(&self) -> MemorySample {
        std::thread::sleep(Duration::from_millis(60));
        let call = self.0.fetch_add(1, Ordering::Relaxed);
        assert!(call < 54, "no more samples");
        MemorySample { physical: Some(GIB), available: Some(2 * GIB), cpus: Some(0), ..MemorySample::default() }
    }
}

#[test]
fn a_broken_probe_is_caught() {
    let report = conformance::probe(|| Arc::new(BadProbe::default()));
    catches(&report, &["cheap", "any_thread", "believable"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_foreign_store_conforms_and_takes_runs() {
    let report = foreign_store::report().await;
    report.assert();
    assert_eq!(skipped(&report), ["rewrites"]);
    let run = foreign_store::run().await.unwrap();
    assert_eq!((run.version(), run.rows_inserted()), (Some(1), 1000), "{run}");
}
