//! `scd2`: a history of rows, with the columns and rules of dbt's snapshots.
//!
//! The rules are those of dbt-adapters' `snapshots/strategies.sql` and `helpers.sql`: a key's current version is the one whose
//! `dbt_valid_to` is NULL; a changed row closes it at the new version's time and opens a new one.

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use duckrun_core::memory::Job;
use duckrun_core::{
    Assignment, Clause, ConflictPolicy, Duplicates, Error, MergePlan, NullKeys, Result, RowExpr, Strategy,
    TableOptions, TableState, Then, When, WriteAction, WritePlan,
};

use super::expr::{self, Columns, source_column, target_column};
use super::merge::{duplicates, keys, shared};
use super::{
    change, changed, check_partitions, column_problems, contract, fit, rebuilt, resolve, serializable, validate_options,
};

const SCD_ID: &str = "dbt_scd_id";
const UPDATED_AT: &str = "dbt_updated_at";
const VALID_FROM: &str = "dbt_valid_from";
const VALID_TO: &str = "dbt_valid_to";

/// The time of the run, which the executor sets.
const NOW: &str = "CAST(getvariable('duckrun_now') AS TIMESTAMP)";

#[derive(Debug, Clone, PartialEq, Eq)]
enum Compared {
    Columns(Vec<String>),
    All,
}

/// Keeps every version of a row, as dbt's snapshots do: `dbt_valid_from` and `dbt_valid_to` (NULL for the current version),
/// `dbt_updated_at`, and `dbt_scd_id`. A row that was closed as missing and comes back with the same updated-at gets the id of its
/// closed version again, as in dbt.
///
/// A row has changed where its [`updated_at`](Scd2::updated_at) is later than the current version's, or where one of the
/// [`check`](Scd2::check)ed columns differs; times are then the updated-at column's, if there is one, else the run's. Rows that have
/// not changed are not touched: a second run with the same source commits nothing.
///
/// ```
/// use duckrun_delta::Scd2;
/// let by_time = Scd2::on(["id"]).updated_at("changed_at").invalidate_hard_deletes();
/// let by_value = Scd2::on(["id"]).check(["price", "name"]);
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scd2 {
    keys: Vec<String>,
    updated_at: Option<String>,
    compared: Option<Compared>,
    hard_deletes: bool,
    null_keys: NullKeys,
    dedup_by: Option<String>,
}

impl Scd2 {
    /// A history of rows by these key columns.
    pub fn on<S: Into<String>>(keys: impl IntoIterator<Item = S>) -> Self {
        Self {
            keys: keys.into_iter().map(Into::into).collect(),
            updated_at: None,
            compared: None,
            hard_deletes: false,
            null_keys: NullKeys::default(),
            dedup_by: None,
        }
    }

    /// The column that says when a row was last changed.
    #[must_use]
    pub fn updated_at(mut self, column: impl Into<String>) -> Self {
        self.updated_at = Some(column.into());
        self
    }

    /// A row has changed where one of these columns differs.
    #[must_use]
    pub fn check<S: Into<String>>(mut self, columns: impl IntoIterator<Item = S>) -> Self {
        self.compared = Some(Compared::Columns(columns.into_iter().map(Into::into).collect()));
        self
    }

    /// A row has changed where any column differs.
    #[must_use]
    pub fn check_all(mut self) -> Self {
        self.compared = Some(Compared::All);
        self
    }

    /// Closes the current version of keys that no longer come in, at the time of the run.
    #[must_use]
    pub fn invalidate_hard_deletes(mut self) -> Self {
        self.hard_deletes = true;
        self
    }

    /// What a NULL in a key means.
    #[must_use]
    pub fn null_keys(mut self, null_keys: NullKeys) -> Self {
        self.null_keys = null_keys;
        self
    }

    /// Keeps one incoming row of each key: the first in this order, as in ORDER BY.
    #[must_use]
    pub fn dedup_by(mut self, order: impl Into<String>) -> Self {
        self.dedup_by = Some(order.into());
        self
    }

    /// The time of a new version, and its type.
    fn time(&self, incoming: &Schema) -> Result<(RowExpr, DataType)> {
        let Some(column) = &self.updated_at else {
            let now = RowExpr::new(NOW, BTreeSet::new(), BTreeSet::new());
            return Ok((now, DataType::Timestamp(TimeUnit::Microsecond, None)));
        };
        let Some(field) = fit::find(incoming, column) else {
            return Err(Error::invalid(format!("the SQL's result lacks the updated_at column {column:?}")));
        };
        match field.data_type() {
            ty @ (DataType::Date32 | DataType::Timestamp(..)) => Ok((source_column(field.name()), ty.clone())),
            other => Err(Error::invalid(format!(
                "the updated_at column {column:?} is {other}: it must be a date or a timestamp"
            ))),
        }
    }

    /// The incoming columns and dbt's four, as the table holds them.
    fn history(incoming: &Schema, time: &DataType) -> Result<SchemaRef> {
        let mut fields: Vec<Field> = incoming.fields().iter().map(|f| f.as_ref().clone()).collect();
        for (name, ty) in [(SCD_ID, &DataType::Utf8), (UPDATED_AT, time), (VALID_FROM, time), (VALID_TO, time)] {
            if fit::find(incoming, name).is_some() {
                return Err(Error::invalid(format!(
                    "the SQL yields the column {name:?}, which the history fills itself"
                )));
            }
            fields.push(Field::new(name, ty.clone(), true));
        }
        Ok(Arc::new(Schema::new(fields)))
    }

    /// What a new version's row is.
    fn version(&self, columns: &[String], keys: &[String], time: &RowExpr) -> Vec<Assignment> {
        let text = |e: &RowExpr| format!("coalesce(CAST({} AS VARCHAR), '')", e.sql);
        let mut id = time.clone();
        let parts: Vec<String> = keys.iter().map(|k| text(&source_column(k))).chain([text(time)]).collect();
        id.sql = format!("md5({})", parts.join(" || '|' || "));
        id.source.extend(keys.iter().cloned());
        let open = RowExpr::new("NULL", BTreeSet::new(), BTreeSet::new());
        let mut row: Vec<Assignment> = columns.iter().map(|c| Assignment::new(c, source_column(c))).collect();
        row.push(Assignment::new(SCD_ID, id));
        row.push(Assignment::new(UPDATED_AT, time.clone()));
        row.push(Assignment::new(VALID_FROM, time.clone()));
        row.push(Assignment::new(VALID_TO, open));
        row
    }

    /// When a matched row has changed.
    fn changed(&self, time: &RowExpr, columns: &Changed<'_>) -> Result<RowExpr> {
        let names = match &self.compared {
            None => {
                let from = target_column(VALID_FROM);
                let sql = format!("{} < {}", from.sql, time.sql);
                return Ok(RowExpr::new(sql, from.target, time.source.clone()));
            }
            Some(Compared::All) => columns.shared.iter().filter(|c| !columns.keys.contains(c)).cloned().collect(),
            Some(Compared::Columns(names)) => {
                let mut problems = Vec::new();
                let found = resolve("check", names, columns.incoming, "the SQL's result", &mut problems);
                for name in found.iter().filter(|n| !columns.shared.contains(n)) {
                    problems.push(format!(
                        "check names {name:?}, which the table lacks: add it with on_schema_change = append_new_columns"
                    ));
                }
                Error::problems(problems).map_or(Ok(found), Err)?
            }
        };
        // As in dbt, a compared column that the table did not have makes a new version of every row, once.
        if names.iter().any(|n| fit::find(columns.table, n).is_none()) {
            return Ok(RowExpr::new("TRUE", BTreeSet::new(), BTreeSet::new()));
        }
        let differs = |n: &String| format!("{} IS DISTINCT FROM {}", target_column(n).sql, source_column(n).sql);
        let sql = match names.is_empty() {
            true => "FALSE".to_owned(),
            false => names.iter().map(differs).collect::<Vec<_>>().join(" OR "),
        };
        let names: BTreeSet<String> = names.into_iter().collect();
        Ok(RowExpr::new(sql, names.clone(), names))
    }

    fn shell(&self, columns: &Columns, keys: Vec<String>) -> Result<MergePlan> {
        let mut plan = MergePlan::new(keys, columns.source.clone());
        plan.null_keys = self.null_keys;
        if let Some(order) = &self.dedup_by {
            plan.duplicates = duplicates(Duplicates::KeepFirst(order.clone()), columns)?;
        }
        Ok(plan)
    }
}

/// What a change is judged by.
struct Changed<'a> {
    /// The table before the commit.
    table: &'a Schema,
    incoming: &'a Schema,
    shared: &'a [String],
    keys: &'a [String],
}

impl Strategy for Scd2 {
    fn name(&self) -> &str {
        "scd2"
    }

    fn job(&self) -> Job {
        Job::MergeDuckDb
    }

    fn validate(&self, options: &TableOptions) -> Vec<String> {
        let mut problems = validate_options(options);
        problems.extend(column_problems("the unique key", &self.keys));
        match (&self.updated_at, &self.compared) {
            (None, None) => problems.push("scd2 needs an updated_at column or the columns to check".to_owned()),
            (_, Some(Compared::Columns(columns))) => problems.extend(column_problems("check", columns)),
            _ => {}
        }
        if self.updated_at.as_deref() == Some("") {
            problems.push("the updated_at column has no name".to_owned());
        }
        if let Some(order) = &self.dedup_by {
            problems.extend(expr::order_problem("dedup_by", order));
        }
        problems
    }

    fn plan(&self, target: &TableState, incoming: &SchemaRef) -> Result<WritePlan> {
        let (time, ty) = self.time(incoming)?;
        let history = Self::history(incoming, &ty)?;
        let Some(table) = changed(target) else {
            let mut plan = rebuilt(self.name(), target, &history, ConflictPolicy::CompareAndSwap)?;
            let columns = Columns::new(Arc::new(Schema::empty()), incoming.clone());
            let keys = keys(&self.keys, incoming, incoming)?;
            let names: Vec<String> = incoming.fields().iter().map(|f| f.name().clone()).collect();
            let row = self.version(&names, &keys, &time);
            let mut merge = self.shell(&columns, keys)?;
            merge.fresh = true;
            merge.clauses.push(Clause::new(When::NotMatched, None, Then::Insert(row)));
            plan.action = WriteAction::Merge(Box::new(merge));
            return contract::complete(plan, target, incoming);
        };
        check_partitions(table, &target.options)?;
        let mut problems = Vec::new();
        let own = [SCD_ID, UPDATED_AT, VALID_FROM, VALID_TO].map(str::to_owned);
        resolve("scd2", &own, &table.schema, "the table", &mut problems);
        if let Some(e) = Error::problems(problems) {
            return Err(Error::invalid(format!("the table is no history that scd2 made: {}", e.message())));
        }
        let mut fit = fit(&table.schema, &history, target.options.on_schema_change)?;
        fit.check_required()?;
        fit.warn_dropped(|_| false);
        // The expressions see the SQL's own columns only, in the table's spelling and types.
        let width = incoming.fields().len();
        let seen = Arc::new(Schema::new(fit.incoming.fields()[..width].to_vec()));
        let columns = Columns::new(table.schema.clone(), seen.clone());
        let keys = keys(&self.keys, &table.schema, &seen)?;
        let (time, _) = self.time(&seen)?;
        let shared: Vec<String> = shared(&fit).into_iter().filter(|c| fit::find(&seen, c).is_some()).collect();
        let changes = Changed { table: &table.schema, incoming: &seen, shared: &shared, keys: &keys };
        let is_changed = self.changed(&time, &changes)?;
        let current = target_column(VALID_TO);
        let current = RowExpr::new(format!("{} IS NULL", current.sql), current.target, BTreeSet::new());
        let close = |at: &RowExpr| Then::Update(vec![Assignment::new(VALID_TO, at.clone())]);
        let row = self.version(&shared, &keys, &time);
        let mut merge = self.shell(&columns, keys.clone())?;
        merge.predicates.push(current.clone());
        let mut superseded = Clause::new(When::Matched, Some(is_changed), close(&time));
        superseded.also_insert = true;
        merge.clauses.push(superseded);
        merge.clauses.push(Clause::new(When::NotMatched, None, Then::Insert(row)));
        if self.hard_deletes {
            let now = RowExpr::new(NOW, BTreeSet::new(), BTreeSet::new());
            merge.clauses.push(Clause::new(When::NotMatchedBySource, Some(current), close(&now)));
        }
        let action = WriteAction::Merge(Box::new(merge));
        let plan = change(self.name(), action, table, target, fit, serializable(target));
        contract::complete(plan, target, incoming)
    }
}
