//! `delete` and `update`: changes of rows that are there, without incoming rows.

use std::sync::Arc;

use arrow::datatypes::{Schema, SchemaRef};
use duckrun_core::memory::Job;
use duckrun_core::{
    Clause, ConflictPolicy, Error, ErrorKind, MergePlan, Result, Strategy, TableFacts, TableOptions, TableState, Then,
    When, WriteAction, WritePlan,
};

use super::expr::{self, Columns, Scope};
use super::merge::{assignments, set_problems};
use super::{contract, validate_options};

/// Deletes rows of a table that exists.
///
/// ```
/// use duckrun_delta::Delete;
/// let old = Delete::rows_where("day < DATE '2020-01-01'");
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delete {
    predicate: Option<String>,
}

impl Delete {
    /// Every row.
    pub fn all() -> Self {
        Self { predicate: None }
    }

    /// The rows for which this holds; where it is NULL, the row stays.
    pub fn rows_where(predicate: impl Into<String>) -> Self {
        Self { predicate: Some(predicate.into()) }
    }
}

/// Updates rows of a table that exists. Values are cast to the column's own type.
///
/// ```
/// use duckrun_delta::Update;
/// let cheaper = Update::new([("price", "price * 0.9")]).rows_where("year < 2020");
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Update {
    set: Vec<(String, String)>,
    predicate: Option<String>,
}

impl Update {
    /// Sets columns to expressions over the row as it was.
    pub fn new<C: Into<String>, E: Into<String>>(set: impl IntoIterator<Item = (C, E)>) -> Self {
        Self { set: set.into_iter().map(|(c, e)| (c.into(), e.into())).collect(), predicate: None }
    }

    /// Only in the rows for which this holds.
    #[must_use]
    pub fn rows_where(mut self, predicate: impl Into<String>) -> Self {
        self.predicate = Some(predicate.into());
        self
    }
}

/// The problems of both.
fn problems(options: &TableOptions, predicate: Option<&str>) -> Vec<String> {
    let mut problems = validate_options(options);
    problems.extend(predicate.and_then(|sql| expr::problem("the predicate", sql)));
    if options.full_refresh {
        problems.push("a full refresh needs rows to build the table from".to_owned());
    }
    if options.contract.is_some() {
        problems.push("a contract is about incoming rows, and there are none".to_owned());
    }
    problems
}

fn existing(target: &TableState) -> Result<&TableFacts> {
    target
        .existing
        .as_ref()
        .ok_or_else(|| Error::new(ErrorKind::NotFound, "the table does not exist, so none of its rows can be changed"))
}

fn plan(name: &str, table: &TableFacts, predicate: Option<&str>, then: Then) -> Result<WritePlan> {
    let columns = Columns::of_table(&table.schema);
    let condition = predicate.map(|sql| columns.expr("the predicate", sql, Scope::Target)).transpose()?;
    let mut merge = MergePlan::new(Vec::new(), Arc::new(Schema::empty()));
    merge.source = false;
    merge.clauses.push(Clause::new(When::NotMatchedBySource, condition, then));
    let action = WriteAction::Merge(Box::new(merge));
    let partitions = table.partition_columns.clone();
    let mut plan = WritePlan::new(name, action, table.schema.clone(), partitions, ConflictPolicy::Serializable);
    plan.checks = contract::constraints(table, &table.schema)?;
    Ok(plan)
}

impl Strategy for Delete {
    fn name(&self) -> &str {
        "delete"
    }

    fn job(&self) -> Job {
        Job::MergeDuckDb
    }

    fn has_source(&self) -> bool {
        false
    }

    fn validate(&self, options: &TableOptions) -> Vec<String> {
        problems(options, self.predicate.as_deref())
    }

    fn plan(&self, target: &TableState, _incoming: &SchemaRef) -> Result<WritePlan> {
        plan(self.name(), existing(target)?, self.predicate.as_deref(), Then::Delete)
    }
}

impl Strategy for Update {
    fn name(&self) -> &str {
        "update"
    }

    fn job(&self) -> Job {
        Job::MergeDuckDb
    }

    fn has_source(&self) -> bool {
        false
    }

    fn validate(&self, options: &TableOptions) -> Vec<String> {
        let mut found = problems(options, self.predicate.as_deref());
        if self.set.is_empty() {
            found.push("an update sets at least one column".to_owned());
        }
        found.extend(set_problems("the update", &self.set));
        found
    }

    fn plan(&self, target: &TableState, _incoming: &SchemaRef) -> Result<WritePlan> {
        let table = existing(target)?;
        let columns = Columns::of_table(&table.schema);
        let set = assignments(&columns, &table.schema, &self.set, Scope::Target)?;
        plan(self.name(), table, self.predicate.as_deref(), Then::Update(set))
    }
}
