//! A model: one table, its SQL, its sources, its strategy. A builder that ends in `run().await`.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use duckrun_core::arrow::datatypes::SchemaRef;
use duckrun_core::{
    AppTransaction, CommitOutcome, Contract, Error, FileOptions, Progress, ProgressFn, RelationName, Result,
    SchemaChange, Source, Strategy, TableName, TableOptions, TableStore, TimestampMode, Value,
};
use duckrun_delta::{Append, Location, StrategyConfig};

use crate::attempt;
use crate::report::Report;
use crate::session::Session;

/// One table's SQL with everything that a run of it needs. Nothing is read or written before [`run`](Model::run).
#[must_use = "a model does nothing until it is run"]
#[derive(Clone)]
pub struct Model {
    pub(crate) session: Session,
    pub(crate) name: String,
    pub(crate) sources: Vec<(String, Arc<dyn Source>)>,
    pub(crate) sql: Option<String>,
    pub(crate) first_sql: Option<String>,
    pub(crate) params: Vec<Value>,
    pub(crate) variables: BTreeMap<String, Value>,
    pub(crate) before: Vec<String>,
    pub(crate) after: Vec<String>,
    /// The strategy, once the model has been validated.
    pub(crate) strategy: Arc<dyn Strategy>,
    chosen: Chosen,
    unique_key: Option<Vec<String>>,
    pub(crate) table: TableOptions,
    pub(crate) files: FileOptions,
    pub(crate) store: Option<Arc<dyn TableStore>>,
    pub(crate) columns: Option<SchemaRef>,
    pub(crate) transaction: Option<AppTransaction>,
    pub(crate) timestamps: TimestampMode,
    pub(crate) expect_existing: bool,
    pub(crate) retries: u32,
    pub(crate) progress: Option<ProgressFn>,
}

/// How the strategy was given.
#[derive(Clone)]
enum Chosen {
    Given(Arc<dyn Strategy>),
    Configured(Box<StrategyConfig>),
}

impl Model {
    pub(crate) fn new(session: Session, name: String) -> Self {
        Self {
            session,
            name,
            sources: Vec::new(),
            sql: None,
            first_sql: None,
            params: Vec::new(),
            variables: BTreeMap::new(),
            before: Vec::new(),
            after: Vec::new(),
            strategy: Arc::new(Append::default()),
            chosen: Chosen::Configured(Box::default()),
            unique_key: None,
            table: TableOptions::default(),
            files: FileOptions::default(),
            store: None,
            columns: None,
            transaction: None,
            timestamps: TimestampMode::default(),
            expect_existing: false,
            retries: 0,
            progress: None,
        }
    }

    /// The SQL: one SELECT. It sees the sources by their names, the table itself as `this`, and every other Delta table of
    /// the root as `schema.table`.
    pub fn sql(mut self, sql: impl Into<String>) -> Self {
        self.sql = Some(sql.into());
        self
    }

    /// The SQL of a first run and of a full refresh, where the table does not exist yet or is not to be read.
    pub fn first_sql(mut self, sql: impl Into<String>) -> Self {
        self.first_sql = Some(sql.into());
        self
    }

    /// A source, visible to the SQL under a name.
    pub fn source(mut self, name: impl Into<String>, source: impl Source + 'static) -> Self {
        self.sources.push((name.into(), Arc::new(source)));
        self
    }

    /// Binds the next positional parameter of the SQL.
    pub fn param(mut self, value: impl Into<Value>) -> Self {
        self.params.push(value.into());
        self
    }

    /// Sets a session variable, read back as `getvariable('name')`.
    pub fn variable(mut self, name: impl Into<String>, value: impl Into<Value>) -> Self {
        self.variables.insert(name.into(), value.into());
        self
    }

    /// Statements to run in the run's private session after the target was pinned and before the SQL.
    pub fn before(mut self, sql: impl Into<String>) -> Self {
        self.before.push(sql.into());
        self
    }

    /// Statements to run in the run's private session after a commit. Their failure is in the report, not the run's error:
    /// the commit has happened.
    pub fn after(mut self, sql: impl Into<String>) -> Self {
        self.after.push(sql.into());
        self
    }

    /// The strategy; without one it is [`Merge`](crate::Merge) where there is a [`unique_key`](Model::unique_key), else
    /// [`Append`].
    pub fn strategy(mut self, strategy: impl Strategy + 'static) -> Self {
        self.chosen = Chosen::Given(Arc::new(strategy));
        self
    }

    /// The strategy by its name, as configuration files write it; its key is [`unique_key`](Model::unique_key). An unknown name is
    /// reported when the model runs.
    pub fn strategy_named(self, name: &str) -> Self {
        self.config(StrategyConfig { strategy: Some(name.to_owned()), ..StrategyConfig::default() })
    }

    /// The strategy as configuration files write it, with its options. What is wrong with it is reported when the model runs.
    ///
    /// ```no_run
    /// # async fn doc(lake: duckrun::Session) -> duckrun::Result<()> {
    /// use duckrun::StrategyConfig;
    /// let config = StrategyConfig {
    ///     unique_key: Some(vec!["id".into()]),
    ///     update_condition: Some("source.changed > target.changed".into()),
    ///     ..StrategyConfig::default()
    /// };
    /// lake.model("mart.customers").sql("select * from raw.customers").config(config).run().await?;
    /// # Ok(()) }
    /// ```
    pub fn config(mut self, config: StrategyConfig) -> Self {
        self.chosen = Chosen::Configured(Box::new(config));
        self
    }

    /// The key columns, for a strategy that is given by its name, or by default: `merge`.
    pub fn unique_key<S: Into<String>>(mut self, columns: impl IntoIterator<Item = S>) -> Self {
        self.unique_key = Some(columns.into_iter().map(Into::into).collect());
        self
    }

    /// What the SQL's columns and the written rows must be.
    ///
    /// ```no_run
    /// # async fn doc(lake: duckrun::Session) -> duckrun::Result<()> {
    /// use duckrun::Contract;
    /// let contract = Contract::default().column("id", "BIGINT").column("name", "VARCHAR").not_null("id").unique(["id"]);
    /// lake.model("mart.customers").sql("select id, name from raw.customers").contract(contract).run().await?;
    /// # Ok(()) }
    /// ```
    pub fn contract(mut self, contract: Contract) -> Self {
        self.table.contract = Some(contract);
        self
    }

    /// Partition columns of a table that is created or refreshed.
    pub fn partition_by<S: Into<String>>(mut self, columns: impl IntoIterator<Item = S>) -> Self {
        self.table.partition_by = Some(columns.into_iter().map(Into::into).collect());
        self
    }

    /// What happens when the incoming columns differ from the table's.
    pub fn on_schema_change(mut self, change: SchemaChange) -> Self {
        self.table.on_schema_change = change;
        self
    }

    /// Rebuilds the table, whatever the strategy.
    pub fn full_refresh(mut self, refresh: bool) -> Self {
        self.table.full_refresh = refresh;
        self
    }

    /// A table property, set when the table is created.
    pub fn property(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.table.properties.insert(key.into(), value.into());
        self
    }

    /// The table's comment.
    pub fn comment(mut self, comment: impl Into<String>) -> Self {
        self.table.comment = Some(comment.into());
        self
    }

    /// A column's comment.
    pub fn column_comment(mut self, column: impl Into<String>, comment: impl Into<String>) -> Self {
        self.table.column_comments.insert(column.into(), comment.into());
        self
    }

    /// How data files are written.
    pub fn files(mut self, files: FileOptions) -> Self {
        self.files = files;
        self
    }

    /// Another place than `<root>/<schema>/<table>`.
    pub fn location(mut self, location: Location) -> Self {
        self.store = Some(Arc::new(duckrun_delta::DeltaStore::new(location)));
        self
    }

    /// Another store of the table than ours.
    pub fn store(mut self, store: Arc<dyn TableStore>) -> Self {
        self.store = Some(store);
        self
    }

    /// The columns that `this` has on a first run, before there is a table.
    pub fn columns(mut self, columns: SchemaRef) -> Self {
        self.columns = Some(columns);
        self
    }

    /// An application's own transaction: a run whose version was applied before does nothing.
    pub fn transaction(mut self, app_id: impl Into<String>, version: i64) -> Self {
        self.transaction = Some(AppTransaction::new(app_id, version));
        self
    }

    /// How a TIMESTAMP without zone is stored.
    pub fn timestamps(mut self, timestamps: TimestampMode) -> Self {
        self.timestamps = timestamps;
        self
    }

    /// Fails instead of creating the table where it does not exist.
    pub fn expect_existing(mut self) -> Self {
        self.expect_existing = true;
        self
    }

    /// On a conflict, reads again, runs the SQL again and plans again, up to this many times.
    pub fn retries(mut self, retries: u32) -> Self {
        self.retries = retries;
        self
    }

    /// A callback for progress; it is called often, from any thread, and must not block.
    pub fn on_progress(mut self, f: impl Fn(&Progress) + Send + Sync + 'static) -> Self {
        self.progress = Some(Arc::new(f));
        self
    }

    /// The strategy that was given, or that the configuration makes.
    fn choose(&self) -> Result<Arc<dyn Strategy>> {
        match (&self.chosen, &self.unique_key) {
            (Chosen::Given(strategy), None) => Ok(strategy.clone()),
            (Chosen::Given(strategy), Some(_)) => Err(Error::invalid(format!(
                "the strategy {} has its own key: give unique_key to it, or name the strategy (strategy_named)",
                strategy.name()
            ))),
            (Chosen::Configured(config), None) => config.build(),
            (Chosen::Configured(config), Some(key)) => {
                let mut config = config.clone();
                if config.unique_key.as_ref().is_some_and(|other| other != key) {
                    return Err(Error::invalid("the configuration and the model name two unique keys"));
                }
                config.unique_key = Some(key.clone());
                config.build()
            }
        }
    }

    /// Everything that is wrong with the configuration, and the table's name.
    fn validate(&mut self) -> Result<TableName> {
        let mut problems = Vec::new();
        match self.choose() {
            Ok(strategy) => {
                problems.extend(strategy.validate(&self.table));
                self.strategy = strategy;
            }
            Err(e) => {
                problems.push(e.message().to_owned());
                // What is wrong with the table's options is wrong under every strategy.
                problems.extend(self.strategy.validate(&self.table));
            }
        }
        let name = self.name.parse::<TableName>().map_err(|e| problems.push(e.message().to_owned())).ok();
        let sql = |sql: &Option<String>| sql.as_deref().is_some_and(|sql| !sql.trim().is_empty());
        match (self.strategy.has_source(), sql(&self.sql)) {
            (true, false) => problems.push("the model has no SQL".to_owned()),
            (false, _) if sql(&self.sql) || sql(&self.first_sql) || !self.sources.is_empty() => {
                problems
                    .push(format!("the strategy {} takes no rows: leave SQL and sources out", self.strategy.name()));
            }
            _ => {}
        }
        for (i, (source, _)) in self.sources.iter().enumerate() {
            if let Err(e) = RelationName::bare(source) {
                problems.push(e.message().to_owned());
            }
            if source.eq_ignore_ascii_case("this") {
                problems.push("\"this\" is the table itself and cannot name a source".to_owned());
            }
            if self.sources[..i].iter().any(|(other, _)| other.eq_ignore_ascii_case(source)) {
                problems.push(format!("two sources are named {source:?}"));
            }
        }
        if self.files.row_group_rows == 0 || self.files.target_file_size == 0 {
            problems.push("row_group_rows and target_file_size must be positive".to_owned());
        }
        if let duckrun_core::Compression::Zstd(level) = self.files.compression
            && !(1..=22).contains(&level)
        {
            problems.push(format!("ZSTD has the levels 1 to 22, not {level}"));
        }
        if self.expect_existing && self.table.full_refresh {
            problems.push("expect_existing and full_refresh contradict each other".to_owned());
        }
        if !self.session.inner.writable {
            problems.push("the session is read-only: open it with .writable()".to_owned());
        }
        match (Error::problems(problems), name) {
            (None, Some(name)) => Ok(name),
            (Some(e), _) => Err(e.with_table(&self.name)),
            (None, None) => Err(Error::internal("a table name that is neither valid nor invalid")),
        }
    }

    /// Runs the model: pins, reads, writes, commits, maintains.
    ///
    /// A conflict with somebody else's commit, a lost answer and "nothing to do" are outcomes in the report, not errors; see
    /// [`Report::committed`] for those who prefer errors. Dropping the future cancels the run: the old table or the new one.
    ///
    /// # Errors
    /// With the table as it was before: [`ErrorKind::InvalidInput`](duckrun_core::ErrorKind::InvalidInput) for everything
    /// wrong with the configuration at once, before anything is read; otherwise whatever stood in the way.
    pub async fn run(mut self) -> Result<Report> {
        let name = self.validate()?;
        attempt::run(&self, &name).await.map_err(|e| e.or_table(name.to_string()))
    }

    pub(crate) fn is_conflict(outcome: &CommitOutcome) -> bool {
        matches!(outcome, CommitOutcome::Conflict { .. })
    }
}

impl fmt::Debug for Model {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // SQL, parameters and variables may hold what does not belong into a log.
        f.debug_struct("Model").field("name", &self.name).field("strategy", &self.strategy).finish_non_exhaustive()
    }
}
