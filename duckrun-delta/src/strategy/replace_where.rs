//! `replace_where` and `insert_overwrite`: a part of the table becomes what the SQL yields, in one commit.

use arrow::datatypes::SchemaRef;
use duckrun_core::memory::Job;
use duckrun_core::{
    ConflictPolicy, Error, ReplacePlan, Replaced, Result, Strategy, TableFacts, TableOptions, TableState, WriteAction,
    WritePlan,
};

use super::expr::{self, Columns, Scope};
use super::{Fit, change, changed, check_partitions, contract, fit, replacement, validate_options};

/// Replaces the rows that fulfil a predicate. An incoming row that does not fulfil it is an error.
///
/// ```
/// use duckrun_delta::ReplaceWhere;
/// let march = ReplaceWhere::new("day >= DATE '2024-03-01' and day < DATE '2024-04-01'");
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReplaceWhere {
    predicate: String,
}

impl ReplaceWhere {
    /// The rows that fulfil this predicate over the table's columns.
    pub fn new(predicate: impl Into<String>) -> Self {
        Self { predicate: predicate.into() }
    }
}

/// The incoming columns fitted to those of a table whose rows are replaced.
fn fitted(table: &TableFacts, target: &TableState, incoming: &SchemaRef) -> Result<Fit> {
    check_partitions(table, &target.options)?;
    let mut fit = fit(&table.schema, incoming, target.options.on_schema_change)?;
    fit.check_required()?;
    fit.warn_dropped(|_| false);
    Ok(fit)
}

impl Strategy for ReplaceWhere {
    fn name(&self) -> &str {
        "replace_where"
    }

    fn job(&self) -> Job {
        Job::MergeDuckDb
    }

    fn validate(&self, options: &TableOptions) -> Vec<String> {
        let mut problems = validate_options(options);
        problems.extend(expr::problem("the predicate", &self.predicate));
        problems
    }

    fn plan(&self, target: &TableState, incoming: &SchemaRef) -> Result<WritePlan> {
        let Some(table) = changed(target) else {
            return replacement(self.name(), target, incoming, ConflictPolicy::CompareAndSwap);
        };
        let fit = fitted(table, target, incoming)?;
        let columns = Columns::new(table.schema.clone(), fit.incoming.clone());
        let rows = Replaced::Where(columns.expr("the predicate", &self.predicate, Scope::Target)?);
        let mut replace = ReplacePlan::new(rows, fit.incoming.clone());
        replace.check = Some(columns.expr("the predicate", &self.predicate, Scope::Incoming)?);
        let action = WriteAction::Replace(Box::new(replace));
        let plan = change(self.name(), action, table, target, fit, ConflictPolicy::CompareAndSwap);
        contract::complete(plan, target, incoming)
    }
}

/// Replaces the partitions that occur among the incoming rows; the others stay. The table must be partitioned.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct InsertOverwrite;

impl Strategy for InsertOverwrite {
    fn name(&self) -> &str {
        "insert_overwrite"
    }

    fn job(&self) -> Job {
        Job::MergeDuckDb
    }

    fn validate(&self, options: &TableOptions) -> Vec<String> {
        let mut problems = validate_options(options);
        if options.partition_by.as_ref().is_some_and(Vec::is_empty) {
            problems.push("insert_overwrite replaces partitions: partition_by must name a column".to_owned());
        }
        problems
    }

    fn plan(&self, target: &TableState, incoming: &SchemaRef) -> Result<WritePlan> {
        let plan = match changed(target) {
            None => replacement(self.name(), target, incoming, ConflictPolicy::CompareAndSwap)?,
            Some(table) => {
                let fit = fitted(table, target, incoming)?;
                let replace = ReplacePlan::new(Replaced::Partitions, fit.incoming.clone());
                let action = WriteAction::Replace(Box::new(replace));
                let plan = change(self.name(), action, table, target, fit, ConflictPolicy::CompareAndSwap);
                contract::complete(plan, target, incoming)?
            }
        };
        match plan.partition_columns.is_empty() {
            true => Err(Error::invalid(
                "insert_overwrite replaces partitions, and the table has none: give partition_by (with a full refresh \
                 where the table exists), or use replace_where",
            )),
            false => Ok(plan),
        }
    }
}
