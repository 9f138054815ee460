//! `delete_insert`: the rows of the table whose key comes in go, all incoming rows come.

use arrow::datatypes::SchemaRef;
use duckrun_core::memory::Job;
use duckrun_core::{
    ConflictPolicy, NullKeys, ReplacePlan, Replaced, Result, Strategy, TableOptions, TableState, WriteAction, WritePlan,
};

use super::expr::{self, Columns, Scope};
use super::merge::keys;
use super::{
    change, changed, check_partitions, column_problems, contract, fit, replacement, serializable, validate_options,
};

/// Deletes the rows whose key occurs among the incoming rows and inserts those, in one commit. Several incoming rows may have
/// one key: all of them are in the table afterwards.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeleteInsert {
    keys: Vec<String>,
    predicates: Vec<String>,
    null_keys: NullKeys,
}

impl DeleteInsert {
    /// By these key columns.
    pub fn on<S: Into<String>>(keys: impl IntoIterator<Item = S>) -> Self {
        let keys = keys.into_iter().map(Into::into).collect();
        Self { keys, predicates: Vec::new(), null_keys: NullKeys::default() }
    }

    /// A row of the table is deleted only where this holds of it as well (dbt's `incremental_predicates`). The incoming row is
    /// inserted all the same.
    #[must_use]
    pub fn predicate(mut self, sql: impl Into<String>) -> Self {
        self.predicates.push(sql.into());
        self
    }

    /// What a NULL in a key means.
    #[must_use]
    pub fn null_keys(mut self, null_keys: NullKeys) -> Self {
        self.null_keys = null_keys;
        self
    }

    fn replaced(&self, keys: Vec<String>, predicates: Vec<duckrun_core::RowExpr>) -> Replaced {
        Replaced::Keys { keys, null_keys: self.null_keys, predicates }
    }
}

impl Strategy for DeleteInsert {
    fn name(&self) -> &str {
        "delete_insert"
    }

    fn job(&self) -> Job {
        Job::MergeDuckDb
    }

    fn validate(&self, options: &TableOptions) -> Vec<String> {
        let mut problems = validate_options(options);
        problems.extend(column_problems("the unique key", &self.keys));
        problems.extend(self.predicates.iter().filter_map(|sql| expr::problem("the predicate", sql)));
        problems
    }

    fn plan(&self, target: &TableState, incoming: &SchemaRef) -> Result<WritePlan> {
        let Some(table) = changed(target) else {
            let mut plan = replacement(self.name(), target, incoming, ConflictPolicy::CompareAndSwap)?;
            let rows = self.replaced(keys(&self.keys, incoming, incoming)?, Vec::new());
            let mut replace = ReplacePlan::new(rows, incoming.clone());
            replace.fresh = true;
            plan.action = WriteAction::Replace(Box::new(replace));
            return Ok(plan);
        };
        check_partitions(table, &target.options)?;
        let mut fit = fit(&table.schema, incoming, target.options.on_schema_change)?;
        fit.check_required()?;
        fit.warn_dropped(|_| false);
        let columns = Columns::new(table.schema.clone(), fit.incoming.clone());
        let predicates = self
            .predicates
            .iter()
            .map(|sql| columns.expr("the predicate", sql, Scope::Target))
            .collect::<Result<_>>()?;
        let rows = self.replaced(keys(&self.keys, &table.schema, &fit.incoming)?, predicates);
        let action = WriteAction::Replace(Box::new(ReplacePlan::new(rows, fit.incoming.clone())));
        let plan = change(self.name(), action, table, target, fit, serializable(target));
        contract::complete(plan, target, incoming)
    }
}
