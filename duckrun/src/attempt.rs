//! A run, from the pinned snapshot to the report; and its repetition after a conflict, from the beginning.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use duckrun_core::arrow::datatypes::Schema;
use duckrun_core::{
    At, BatchStream, CommitOutcome, EngineSession, EngineSettings, Error, ErrorKind, Phase, Progress, Query, Relation,
    RelationName, Result, RunContext, Snapshot, SourceContext, StrategyRun, TableName, TableReference, TableState,
    TableStore, Target, WriteJob,
};
use duckrun_memory::{PeakMeter, Relief};
use tracing::Instrument;

use crate::model::Model;
use crate::pins;
use crate::report::{FailedWindow, PhaseTime, Report};
use crate::session::{holding, this};
use crate::tables::Places;

/// Runs a model: once, or once for each of the runs that its strategy stands for.
pub(crate) async fn run(model: &Model, name: &TableName) -> Result<Report> {
    let job = model.session.inner.executor.job(model.strategy.job());
    let (cx, lease) = model.session.context(&model.name, job).await?;
    let cx = cx.with_progress(model.progress.clone());
    let report = holding(leased(model, name, &cx, lease.waited())).await?;
    tracing::info!(table = %name, "{report}");
    Ok(report)
}

/// The same within its lease.
async fn leased(model: &Model, name: &TableName, cx: &RunContext, waited: Duration) -> Result<Report> {
    // Most strategies are one run, whatever the table; only for the others it is opened once more to ask whether it is there.
    let now = cx.now();
    if let Ok(None) = model.strategy.runs(now, false) {
        return repeated(model, name, cx, waited).await;
    }
    if model.transaction.is_some() {
        return Err(Error::invalid(
            "a transaction is one commit, and this strategy makes several: run its windows one by one",
        ));
    }
    let exists = store(model, name)?.snapshot(At::Latest).await.map_err(|e| e.with_table(name.to_string()))?.is_some();
    let fresh = !exists || model.table.full_refresh;
    let Some(runs) = model.strategy.runs(now, fresh)? else {
        return Err(Error::internal("a strategy of several runs that is one"));
    };
    windows(model, name, cx, waited, runs).await
}

/// Runs window after window, each pinned after its predecessor; stops at the first that does not commit.
async fn windows(
    model: &Model,
    name: &TableName,
    cx: &RunContext,
    waited: Duration,
    runs: Vec<StrategyRun>,
) -> Result<Report> {
    let started = Instant::now();
    let mut whole: Option<Report> = None;
    let mut model = model.clone();
    let variables = model.variables.clone();
    for run in runs {
        model.strategy = run.strategy;
        model.variables = variables.clone();
        model.variables.extend(run.variables);
        tracing::info!(table = %name, window = run.label, "window");
        match (repeated(&model, name, cx, waited).await, &mut whole) {
            (Ok(report), None) => whole = Some(report.into_windows(run.label)),
            (Ok(report), Some(whole)) => whole.add(run.label, report),
            // Nothing has been written yet: the run has failed as any other.
            (Err(e), None) => {
                let message = format!("the window {}: {}", run.label, e.message());
                let error = Error::new(e.kind(), message).or_table(e.table().unwrap_or(&model.name));
                return Err(error.with_source(e));
            }
            (Err(e), Some(whole)) => whole.failed = Some(FailedWindow { label: run.label, error: e }),
        }
        if whole.as_ref().is_some_and(|w| w.failed.is_some() || w.is_refused()) {
            break;
        }
        // The first window has rebuilt the table; the others are ordinary.
        model.table.full_refresh = false;
    }
    let mut report = whole.ok_or_else(|| Error::invalid("there is no window to run"))?;
    report.elapsed = started.elapsed();
    Ok(report)
}

/// Measures what a job holds, and has freed memory given back where that nears the limit.
pub(crate) fn relieving(cx: &RunContext) -> PeakMeter {
    PeakMeter::start_with(Relief::for_plan(cx.memory(), duckrun_core::duckdb::give_back_freed_memory))
}

/// Runs a model once, repeating it after conflicts as often as it asks.
async fn repeated(model: &Model, name: &TableName, cx: &RunContext, waited: Duration) -> Result<Report> {
    let started = Instant::now();
    let meter = relieving(cx);
    let mut attempts = 0;
    let mut before: Option<(Arc<dyn Snapshot>, u64)> = None;
    loop {
        attempts += 1;
        let cx = cx.next_attempt();
        let span = tracing::info_span!("run", table = %name, strategy = model.strategy.name(), id = %cx.id());
        let done = attempt(model, name, &cx, before.as_ref()).instrument(span).await?;
        if Model::is_conflict(&done.outcome) && attempts <= model.retries {
            tracing::info!(table = %name, attempts, "conflict: reading and running again");
            // A pause that differs between competitors, so that they do not meet again and again.
            let jitter = cx.id().as_uuid().as_u128() as u64 % 20;
            tokio::time::sleep(Duration::from_millis(jitter * u64::from(attempts.min(10)))).await;
            before = match (done.at, &done.outcome) {
                (Some(at), CommitOutcome::Conflict { found, .. }) => Some((at, *found)),
                _ => None,
            };
            continue;
        }
        return Ok(Report {
            table: name.to_string(),
            strategy: model.strategy.name().to_owned(),
            executor: done.executor,
            read_version: done.at.as_ref().map(|s| s.version()),
            outcome: done.outcome,
            warnings: done.warnings,
            phases: done.phases,
            attempts,
            waited,
            elapsed: started.elapsed(),
            peak_memory: meter.stop().peak,
            memory: cx.memory().clone(),
            engine: done.settings,
            after_error: done.after_error,
            maintenance: done.maintenance,
            maintained: done.maintained,
            run_id: cx.id(),
            windows: Vec::new(),
            failed: None,
        });
    }
}

/// The table's store: the model's own, or the session's.
fn store(model: &Model, name: &TableName) -> Result<Arc<dyn TableStore>> {
    Ok(match &model.store {
        Some(store) => store.clone(),
        None => Arc::new(model.session.table_at(name)?),
    })
}

struct Done {
    executor: String,
    at: Option<Arc<dyn Snapshot>>,
    outcome: CommitOutcome,
    warnings: Vec<String>,
    phases: Vec<PhaseTime>,
    settings: EngineSettings,
    after_error: Option<Error>,
    maintenance: Vec<String>,
    maintained: Option<duckrun_maintenance::Report>,
}

/// Measures phases.
struct Watch<'a> {
    cx: &'a RunContext,
    since: Instant,
    phases: Vec<PhaseTime>,
}

impl Watch<'_> {
    fn start(&mut self, phase: Phase) {
        self.cx.report(&Progress::start(phase));
        self.since = Instant::now();
    }

    fn end(&mut self, phase: Phase) {
        self.phases.push(PhaseTime { phase, time: self.since.elapsed() });
    }
}

/// `before` is what the attempt before had pinned, and the version that it met.
async fn attempt(
    model: &Model,
    name: &TableName,
    cx: &RunContext,
    before: Option<&(Arc<dyn Snapshot>, u64)>,
) -> Result<Done> {
    let mut watch = Watch { cx, since: Instant::now(), phases: Vec::new() };
    watch.start(Phase::Pinning);
    let store = store(model, name)?;
    // The version is captured before anything else reads; everything after sees this snapshot. An engine that opens reads
    // nothing, and takes as long as a request.
    let pinning = async {
        match before {
            Some((known, found)) => store.snapshot_after(known, *found).await,
            None => store.snapshot(At::Latest).await,
        }
    };
    let (at, opened) = futures::future::join(pinning, model.session.inner.engine.open(cx)).await;
    let at = at.map_err(|e| e.with_table(name.to_string()))?;
    if at.is_none() && model.expect_existing {
        return Err(Error::new(
            ErrorKind::NotFound,
            format!("the table was expected to exist at {}", store.location()),
        ));
    }
    let opened = opened?;
    let engine = opened.as_ref();
    let sql = choose_sql(model, at.is_some());
    let sources = register_sources(model, engine, cx, store.as_ref(), at.as_ref()).await?;
    let reads_target = pin(model, name, engine, sql, at.as_ref()).await? || sources.reads_target;
    watch.end(Phase::Pinning);

    watch.start(Phase::Before);
    for (variable, value) in &model.variables {
        engine.set_variable(variable, value).await?;
    }
    for statement in &model.before {
        engine.execute(statement).await?;
    }
    watch.end(Phase::Before);

    watch.start(Phase::Writing);
    let query = Query::new(sql).with_params(model.params.clone()).with_timestamps(model.timestamps);
    let incoming = match model.strategy.has_source() {
        true => engine.describe(&query).await?,
        false => Arc::new(Schema::empty()),
    };
    let facts = at.as_ref().map(|s| s.facts());
    let state = TableState::new(facts, reads_target, model.table.clone());
    let plan = model.strategy.plan(&state, &incoming)?;
    let (warnings, changes) = (plan.warnings.clone(), plan.action.clone());
    for warning in &warnings {
        tracing::warn!(table = %name, "{warning}");
    }
    tracing::debug!(action = ?changes, conflict = ?plan.conflict, reads_target, "planned");
    let settings = engine.settings().await?;
    let executor = model.session.inner.executor.chosen(at.as_deref(), &plan);
    let job = WriteJob {
        engine,
        store: store.as_ref(),
        at: at.clone(),
        plan,
        query,
        files: model.files.clone(),
        transaction: model.transaction.clone(),
        info: sources.info,
    };
    let outcome = model.session.inner.executor.run(cx, job).await.map_err(|e| e.with_table(name.to_string()))?;
    watch.end(Phase::Writing);

    let mut done = Done {
        executor,
        at: at.clone(),
        outcome,
        warnings,
        phases: Vec::new(),
        settings,
        after_error: None,
        maintenance: Vec::new(),
        maintained: None,
    };
    if let CommitOutcome::Committed(commit) = &done.outcome {
        if !model.after.is_empty() {
            watch.start(Phase::After);
            for statement in &model.after {
                if let Err(e) = engine.execute(statement).await {
                    tracing::error!(table = %name, error = %e, "a statement after the commit failed");
                    done.after_error = Some(e);
                    break;
                }
            }
            watch.end(Phase::After);
        }
        let upkeep = &model.session.inner.upkeep;
        if upkeep.inline {
            // The engine's memory is maintenance's now: both have the one lease of the run.
            drop(opened);
            watch.start(Phase::Maintenance);
            done.maintained = upkeep.after_run(cx, store.as_ref(), at.as_deref(), commit).await;
            done.maintenance = match &done.maintained {
                Some(report) => report.fault.iter().map(|f| format!("failed: {f}")).collect(),
                None => store.after_commit(cx, at.as_ref(), commit.version).await,
            };
            done.maintenance.extend(done.maintained.iter().flat_map(|r| &r.steps).map(ToString::to_string));
            watch.end(Phase::Maintenance);
        }
    }
    done.phases = watch.phases;
    Ok(done)
}

/// A first run and a full refresh have a SQL of their own, where one is given.
fn choose_sql(model: &Model, exists: bool) -> &str {
    let sql = model.sql.as_deref().unwrap_or_default();
    if !model.strategy.has_source() {
        return "";
    }
    match &model.first_sql {
        Some(first) if !exists || model.table.full_refresh => first,
        _ => sql,
    }
}

/// What resolving the sources has brought, beside their relations.
#[derive(Default)]
struct Sources {
    reads_target: bool,
    info: BTreeMap<String, String>,
}

/// Resolves and registers the sources.
async fn register_sources(
    model: &Model,
    engine: &dyn EngineSession,
    cx: &RunContext,
    store: &dyn TableStore,
    at: Option<&Arc<dyn Snapshot>>,
) -> Result<Sources> {
    let mut found = Sources::default();
    let target = Target::new(store.location(), at, model.table.full_refresh);
    let places = Places(model.session.clone());
    let seen = SourceContext::new(cx).with_engine(engine).with_target(target).with_tables(&places);
    for (alias, source) in &model.sources {
        let resolved = source.resolve(&seen).await.map_err(|e| e.or_table(format!("source {alias}")))?;
        engine.register(&RelationName::bare(alias)?, resolved.relation).await?;
        found.reads_target |= resolved.reads_target;
        for (key, value) in resolved.info {
            if found.info.insert(key.clone(), value).is_some() {
                return Err(Error::invalid(format!(
                    "two sources of the run record {key:?} in its commit: give each a name of its own"
                )));
            }
        }
    }
    Ok(found)
}

/// Pins what the SQL and the hooks name; says whether they read the target.
async fn pin(
    model: &Model,
    name: &TableName,
    engine: &dyn EngineSession,
    sql: &str,
    target: Option<&Arc<dyn Snapshot>>,
) -> Result<bool> {
    let mut references = match sql.is_empty() {
        true => Vec::new(),
        false => engine.references(sql).await?,
    };
    for statement in model.before.iter().chain(&model.after) {
        references.extend(pins::mentioned(statement));
    }
    let is_source = |r: &TableReference| {
        r.schema.is_none() && model.sources.iter().any(|(alias, _)| alias.eq_ignore_ascii_case(&r.table))
    };
    references.retain(|r| !is_source(r));
    let is_this = |r: &TableReference| r.schema.is_none() && r.table.eq_ignore_ascii_case("this");
    let is_target = |r: &TableReference| {
        r.table.eq_ignore_ascii_case(name.table())
            && r.schema.as_ref().is_none_or(|s| s.eq_ignore_ascii_case(name.schema()))
    };
    let reads_target = references.iter().any(|r| is_this(r) || is_target(r));
    match target {
        Some(snapshot) if reads_target => {
            pins::register(engine, &this()?, snapshot.as_ref()).await?;
            pins::register(engine, &RelationName::of_table(name), snapshot.as_ref()).await?;
        }
        Some(_) => {}
        None if references.iter().any(is_this) => match &model.columns {
            Some(columns) => {
                let empty = BatchStream::from_batches(columns.clone(), Vec::new());
                engine.register(&this()?, Relation::Stream(empty)).await?;
            }
            None => {
                return Err(Error::invalid(
                    "the SQL reads \"this\", and the table does not exist yet: give the first run a SQL of its own \
                     (first_sql), or declare the columns",
                ));
            }
        },
        None => {}
    }
    for (table, relation, at) in pins::resolve(&references, Some(name.schema()), &[]) {
        let same =
            table.table().eq_ignore_ascii_case(name.table()) && table.schema().eq_ignore_ascii_case(name.schema());
        if same {
            // The target is read at the version that was captured first, under whatever name.
            if let (Some(snapshot), None) = (target, relation.schema()) {
                pins::register(engine, &relation, snapshot.as_ref()).await?;
            }
            continue;
        }
        let other = model.session.table_at(&table)?;
        if let Some(snapshot) = other.snapshot(at).await.map_err(|e| e.with_table(table.to_string()))? {
            pins::register(engine, &relation, snapshot.as_ref()).await?;
        }
    }
    Ok(reads_target)
}
