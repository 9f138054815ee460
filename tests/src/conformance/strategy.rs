//! What every `Strategy` must do: its plans are looked at, and it is run on real tables.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use chrono::{DateTime, TimeDelta, Utc};
use duckrun::arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use duckrun::core::memory::Job;
use duckrun::core::{ConflictPolicy, StrategyRun, TableFacts, TableState, WriteAction, WritePlan};
use duckrun::{
    At, CommitOutcome, ErrorKind, FileOptions, Model, Report, Result as Outcome, SchemaChange, Session, Strategy,
    TableOptions, TableStore,
};

use super::{Conformance, Found, Trouble, broken, holds, same};
use crate::{Interleaved, Moment, rows};

type Got<T> = Result<T, Trouble>;

const TABLE: &str = "a.t";

/// What a strategy promises, and with which rows it is run.
///
/// The table has the columns `id` BIGINT, `v` BIGINT, `at` TIMESTAMP and `part` VARCHAR, and is partitioned by `part`.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct StrategySubject {
    /// The SQL of a run, with all four columns; unused where the strategy takes no rows.
    pub sql: String,
    /// Whether it replaces what others commit meanwhile, on purpose.
    pub blind: bool,
    /// Whether it replaces the table's columns by design.
    pub replaces_schema: bool,
}

impl Default for StrategySubject {
    /// Two rows of which one meets a row of the table.
    fn default() -> Self {
        let sql = "select * from (values (2::bigint, 20::bigint, timestamp '2020-01-02 01:00:00', 'b'), \
                   (9, 90, timestamp '2020-01-02 02:00:00', 'b')) t(id, v, \"at\", part)";
        Self { sql: sql.to_owned(), blind: false, replaces_schema: false }
    }
}

impl StrategySubject {
    /// Other incoming rows.
    #[must_use]
    pub fn sql(mut self, sql: impl Into<String>) -> Self {
        self.sql = sql.into();
        self
    }

    /// A strategy that replaces what others commit meanwhile, on purpose.
    #[must_use]
    pub fn blind(mut self) -> Self {
        self.blind = true;
        self
    }

    /// A strategy that replaces the table's columns.
    #[must_use]
    pub fn replacing_schema(mut self) -> Self {
        self.replaces_schema = true;
        self
    }
}

/// Checks a strategy. `factory` makes one with the same options each time.
pub async fn strategy<F>(factory: F, subject: StrategySubject) -> Conformance
where
    F: Fn() -> Arc<dyn Strategy>,
{
    let it = factory();
    let (factory, subject) = (&factory, &subject);
    let mut report = Conformance::of(format!("strategy {}", it.name()));
    report.check_now("named", "The name, for reports and commit info.", || {
        holds(!it.name().trim().is_empty(), "the name is empty")?;
        same("the name of another one", factory().name().to_owned(), it.name().to_owned())
    });
    report.check_now(
        "options_are_judged",
        "Every problem with the options, before anything is read; for first runs too.",
        || {
            same("the problems of usual options", it.validate(&TableOptions::default()), Vec::new())?;
            let odd =
                TableOptions { partition_by: Some(vec![String::new(), String::new()]), ..TableOptions::default() };
            same("the problems of odd options, asked twice", it.validate(&odd), it.validate(&odd))
        },
    );
    report.check_now("pure", "A pure function from facts to a plan.", || {
        for state in [state(None, false), state(Some(schema()), false), state(Some(schema()), true)] {
            for (a, b) in plans(it.as_ref(), &state)?.iter().zip(plans(factory().as_ref(), &state)?) {
                let (one, two) = (a.as_ref().map(|p| format!("{p:?}")), b.as_ref().map(|p| format!("{p:?}")));
                same("two plans for one table", one.map_err(ToString::to_string), two.map_err(ToString::to_string))?;
            }
        }
        Ok(())
    });
    report.check_now("first_run_creates", "Creation of a table always carries a schema.", || {
        for plan in plans(it.as_ref(), &state(None, false))? {
            match plan {
                Ok(plan) => {
                    holds(plan.metadata.schema.is_some(), "the plan of a first run has no schema for the table")?;
                    same("the columns", names(&plan.schema), names(&schema()))?;
                }
                Err(e) if !it.has_source() => same("the error without a table", e.kind(), ErrorKind::NotFound)?,
                Err(e) => return Err(e.into()),
            }
        }
        Ok(())
    });
    report.check_now(
        "columns_stay",
        "The columns of the rows to write: the table's, as it will be after the commit.",
        || {
            for plan in plans(it.as_ref(), &state(Some(schema()), false))? {
                let plan = plan?;
                if !subject.replaces_schema {
                    for field in schema().fields() {
                        let kept = plan.schema.field_with_name(field.name()).map(|f| f.data_type().clone()).ok();
                        same("a column of the table", kept, Some(field.data_type().clone()))?;
                    }
                }
                same("the partition columns", plan.partition_columns.clone(), vec!["part".to_owned()])?;
            }
            Ok(())
        },
    );
    report.check_now(
        "readers_are_fenced",
        "Whether anything bound to the run reads the target: what was read must not have changed.",
        || {
            if subject.blind {
                return Err(Trouble::Lacking("it is blind on purpose".to_owned()));
            }
            for plan in plans(it.as_ref(), &state(Some(schema()), true))? {
                let plan = plan?;
                holds(
                    plan.conflict != ConflictPolicy::Blind,
                    "a run that reads its target is blind to what others commit",
                )?;
                if plan.action.removes() && plan.action != WriteAction::Overwrite {
                    holds(plan.conflict != ConflictPolicy::Blind, "rows go, whatever others have committed")?;
                }
            }
            Ok(())
        },
    );
    report.check_now(
        "refuses_what_does_not_fit",
        "Errors when the incoming schema does not fit the table. Nothing has been written.",
        || {
            if subject.replaces_schema || !it.has_source() {
                return Err(Trouble::Lacking("it takes any columns".to_owned()));
            }
            let mut other: Vec<Field> = schema().fields().iter().map(|f| f.as_ref().clone()).collect();
            other[1] = Field::new("v", DataType::Struct(vec![Field::new("x", DataType::Utf8, true)].into()), true);
            let incoming: SchemaRef = Arc::new(Schema::new(other));
            for plan in plans_for(it.as_ref(), &state(Some(schema()), false), &incoming)? {
                holds(plan.is_err(), "a struct is planned into a column of numbers")?;
            }
            let mut strict = state(Some(schema()), false);
            strict.options.on_schema_change = SchemaChange::Fail;
            let mut more: Vec<Field> = schema().fields().iter().map(|f| f.as_ref().clone()).collect();
            more.push(Field::new("more", DataType::Utf8, true));
            for plan in plans_for(it.as_ref(), &strict, &Arc::new(Schema::new(more)))? {
                match plan {
                    Err(e) => {
                        holds(e.message().contains("more"), format_args!("the error does not name the column: {e}"))?
                    }
                    Ok(_) => return broken("a new column passes where any difference is to be refused"),
                }
            }
            Ok(())
        },
    );
    report
        .check(
            "runs",
            "Carries the plan out: one commit, or nothing to do; never an error with rows that fit.",
            async {
                let lake = Lake::new().await?;
                lake.seed().await?;
                let before = lake.version().await?;
                let done = lake.run(factory(), subject).await?;
                match &done.outcome {
                    CommitOutcome::Committed(commit) => {
                        holds(commit.version > before, format_args!("version {} after {before}", commit.version))
                    }
                    CommitOutcome::NothingToDo(_) => same("the version", lake.version().await?, before),
                    other => broken(format_args!("{other:?} although nobody else writes")),
                }
            },
        )
        .await;
    report
        .check("a_failed_run_leaves_the_table", "A refused or failed run leaves the table at its old version.", async {
            let lake = Lake::new().await?;
            lake.seed().await?;
            let (before, rows) = (lake.version().await?, lake.rows().await?);
            if factory().has_source() {
                let sql = format!(
                    "select id, v, \"at\", case when id = 9 then error('broken off') else part end as part \
                                   from ({})",
                    subject.sql
                );
                let failed = lake.model(factory(), Some(sql)).run().await;
                holds(failed.is_err(), "a query that fails is a success")?;
            }
            same("the version", lake.version().await?, before)?;
            same("the rows", lake.rows().await?, rows)
        })
        .await;
    report
        .check(
            "serialisable",
            "Beside another writer: the result of running after it, or a refusal that leaves nothing.",
            async {
                for other in OTHERS {
                    raced(factory, subject, other).await?;
                }
                Ok(())
            },
        )
        .await;
    report
}

/// What another writer does during a run.
const OTHERS: [Other; 4] = [Other::Adds, Other::Changes, Other::Removes, Other::Replaces];

#[derive(Debug, Clone, Copy)]
enum Other {
    Adds,
    Changes,
    Removes,
    Replaces,
}

impl Other {
    fn model(self, session: &Session) -> Model {
        let model = session.model(TABLE).files(files());
        match self {
            Self::Adds => {
                model.sql("select 9::bigint as id, 1::bigint as v, timestamp '2020-01-02' as \"at\", 'b' as part")
            }
            Self::Changes => model.strategy(duckrun::Update::new([("v", "v + 1000")]).rows_where("id = 2")),
            Self::Removes => model.strategy(duckrun::Delete::rows_where("id = 2")),
            Self::Replaces => model
                .sql("select 77::bigint as id, 7::bigint as v, timestamp '2020-01-02' as \"at\", 'b' as part")
                .strategy(duckrun::Overwrite::default()),
        }
    }
}

/// Lets another writer in after the strategy has pinned its version, and right before it commits.
async fn raced<F>(factory: &F, subject: &StrategySubject, other: Other) -> Found
where
    F: Fn() -> Arc<dyn Strategy>,
{
    // What the order says: first the other one, then the strategy.
    let quiet = Lake::new().await?;
    quiet.seed().await?;
    other.model(&quiet.session).run().await?.committed().map(drop)?;
    let after_other = quiet.rows().await?;
    let alone = quiet.run(factory(), subject).await?;
    let in_order = quiet.rows().await?;

    for moment in [Moment::Pinned, Moment::Commit] {
        let lake = Lake::new().await?;
        lake.seed().await?;
        let outside =
            Session::open(lake.root.path()).governor(crate::own_governor()).writable().maintenance(false).await?;
        let inner: Arc<dyn TableStore> = Arc::new(lake.session.table(TABLE)?.store().clone());
        let store = Interleaved::new(inner, moment, async move {
            // Whether it worked shows in the rows.
            let _ = other.model(&outside).run().await;
        });
        let sql = factory().has_source().then(|| subject.sql.clone());
        let report = lake.model(factory(), sql).store(store.clone()).run().await?;
        if !store.happened() {
            continue;
        }
        let got = lake.rows().await?;
        let right = match &report.outcome {
            CommitOutcome::Committed(_) => got == in_order,
            // Of several windows, the ones before the refused one stay.
            CommitOutcome::Conflict { .. } => got == after_other || report.windows.len() > 1,
            // Nothing to do was true of the version that was read.
            CommitOutcome::NothingToDo(_) => got == after_other,
            _ => false,
        };
        let what = format_args!("{other:?} at {moment:?}: {report}\ngot      {got:?}\nin order {in_order:?} ({alone})");
        holds(right, what)?;
    }
    Ok(())
}

fn files() -> FileOptions {
    FileOptions { sync: false, ..FileOptions::default() }
}

/// A session over a folder of its own.
struct Lake {
    session: Session,
    root: tempfile::TempDir,
}

impl Lake {
    async fn new() -> Got<Self> {
        let root = tempfile::tempdir().map_err(|e| Trouble::Broken(e.to_string()))?;
        let session = Session::open(root.path()).governor(crate::own_governor()).writable().maintenance(false).await?;
        Ok(Self { session, root })
    }

    /// Four rows in two partitions.
    async fn seed(&self) -> Found {
        let sql = "select i::bigint as id, i::bigint as v, timestamp '2020-01-01' + to_hours(i::integer * 8) as \"at\", \
                   case when i < 2 then 'a' else 'b' end as part from range(4) t(i)";
        let model = self.session.model(TABLE).sql(sql).partition_by(["part"]).files(files());
        model.run().await?.committed().map(drop)?;
        Ok(())
    }

    fn model(&self, strategy: Arc<dyn Strategy>, sql: Option<String>) -> Model {
        let model = self.session.model(TABLE).strategy(Shared(strategy)).files(files());
        match sql {
            Some(sql) => model.sql(sql),
            None => model,
        }
    }

    async fn run(&self, strategy: Arc<dyn Strategy>, subject: &StrategySubject) -> Got<Report> {
        let sql = strategy.has_source().then(|| subject.sql.clone());
        Ok(self.model(strategy, sql).run().await?)
    }

    async fn version(&self) -> Got<u64> {
        Ok(self.session.snapshot(TABLE, At::Latest).await?.version())
    }

    /// The columns of the source, in the order of the rows.
    async fn rows(&self) -> Got<Vec<String>> {
        Ok(rows(self.session.sql(format!("select id, v, \"at\", part from {TABLE} order by all"))).await?)
    }
}

/// A strategy by its handle.
struct Shared(Arc<dyn Strategy>);

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Strategy for Shared {
    fn name(&self) -> &str {
        self.0.name()
    }

    fn job(&self) -> Job {
        self.0.job()
    }

    fn has_source(&self) -> bool {
        self.0.has_source()
    }

    fn runs(&self, now: DateTime<Utc>, fresh: bool) -> Outcome<Option<Vec<StrategyRun>>> {
        self.0.runs(now, fresh)
    }

    fn validate(&self, options: &TableOptions) -> Vec<String> {
        self.0.validate(options)
    }

    fn plan(&self, target: &TableState, incoming: &SchemaRef) -> Outcome<WritePlan> {
        self.0.plan(target, incoming)
    }
}

fn schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new("id", DataType::Int64, true),
        Field::new("v", DataType::Int64, true),
        Field::new("at", DataType::Timestamp(TimeUnit::Microsecond, None), true),
        Field::new("part", DataType::Utf8, true),
    ]))
}

fn names(schema: &Schema) -> Vec<String> {
    schema.fields().iter().map(|f| f.name().clone()).collect()
}

/// What a strategy is told: no table, or one with these columns.
fn state(existing: Option<SchemaRef>, reads_target: bool) -> TableState {
    let facts = existing.map(|s| TableFacts::new(7, s, vec!["part".to_owned()], BTreeMap::new()));
    // A table that exists keeps its partitions.
    let partition_by = facts.is_none().then(|| vec!["part".to_owned()]);
    TableState::new(facts, reads_target, TableOptions { partition_by, ..TableOptions::default() })
}

fn plans(strategy: &dyn Strategy, state: &TableState) -> Got<Vec<Outcome<WritePlan>>> {
    plans_for(strategy, state, &schema())
}

/// The plan of the strategy, or those of its runs.
fn plans_for(strategy: &dyn Strategy, state: &TableState, incoming: &SchemaRef) -> Got<Vec<Outcome<WritePlan>>> {
    let incoming = if strategy.has_source() { incoming.clone() } else { Arc::new(Schema::empty()) };
    let now = DateTime::<Utc>::UNIX_EPOCH + TimeDelta::days(20_000);
    let fresh = state.existing.is_none();
    match strategy.runs(now, fresh)? {
        None => Ok(vec![strategy.plan(state, &incoming)]),
        Some(runs) if runs.is_empty() => broken("it is several runs, and there is none"),
        Some(runs) => Ok(runs.iter().take(3).map(|run| run.strategy.plan(state, &incoming)).collect()),
    }
}
