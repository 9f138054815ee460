//! `insert`: adds the rows whose key the table does not have.

use arrow::datatypes::SchemaRef;
use duckrun_core::memory::Job;
use duckrun_core::{NullKeys, Result, Strategy, TableOptions, TableState, WritePlan};

use super::{Merge, validate_options};

/// Inserts incoming rows whose key is not in the table; rows that are there are never touched, and nothing new is no commit.
///
/// Refused if a concurrent commit could have added one of the keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Insert {
    merge: Merge,
}

impl Insert {
    /// By these key columns.
    pub fn on<S: Into<String>>(keys: impl IntoIterator<Item = S>) -> Self {
        Self { merge: Merge::on(keys).inserting() }
    }

    /// Inserts a row only where this holds of it.
    #[must_use]
    pub fn insert_condition(mut self, sql: impl Into<String>) -> Self {
        self.merge = self.merge.insert_condition(sql);
        self
    }

    /// A row of the table counts as having the key only where this holds; see [`Merge::predicate`].
    #[must_use]
    pub fn predicate(mut self, sql: impl Into<String>) -> Self {
        self.merge = self.merge.predicate(sql);
        self
    }

    /// Keeps one incoming row of each key; see [`Merge::dedup_by`].
    #[must_use]
    pub fn dedup_by(mut self, order: impl Into<String>) -> Self {
        self.merge = self.merge.dedup_by(order);
        self
    }

    /// What a NULL in a key means.
    #[must_use]
    pub fn null_keys(mut self, null_keys: NullKeys) -> Self {
        self.merge = self.merge.null_keys(null_keys);
        self
    }

    /// Other names for the table and the incoming rows in expressions.
    #[must_use]
    pub fn aliases(mut self, target: impl Into<String>, source: impl Into<String>) -> Self {
        self.merge = self.merge.aliases(target, source);
        self
    }
}

impl Strategy for Insert {
    fn name(&self) -> &str {
        "insert"
    }

    fn job(&self) -> Job {
        Job::MergeDuckDb
    }

    fn validate(&self, options: &TableOptions) -> Vec<String> {
        let mut problems = validate_options(options);
        problems.extend(self.merge.problems());
        problems
    }

    fn plan(&self, target: &TableState, incoming: &SchemaRef) -> Result<WritePlan> {
        self.merge.plan_as(self.name(), target, incoming)
    }
}
