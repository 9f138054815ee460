//! `merge`: incoming rows update the rows of the table that have their key, and are inserted where there is none.

mod clause;
mod plan;
#[cfg(test)]
mod tests;

use arrow::datatypes::SchemaRef;
use duckrun_core::memory::Job;
use duckrun_core::{Duplicates, NullKeys, Result, Strategy, TableOptions, TableState, WritePlan};

pub use self::clause::MergeClause;
pub(super) use self::clause::set_problems;
pub(super) use self::plan::{assignments, duplicates, keys, shared};
use super::expr::{self, Aliases};
use super::{column_problems, validate_options};

/// An upsert by key.
///
/// Without clauses of its own it updates matched rows and inserts the others: every column that both sides have, but the keys,
/// whose stored values stay. [`clause`](Merge::clause) replaces that by an ordered list that says everything.
///
/// Expressions are DuckDB SQL over `target` and `source` (also `DBT_INTERNAL_DEST` and `DBT_INTERNAL_SOURCE`, and the
/// [`aliases`](Merge::aliases)); they are parsed, and a condition that is NULL does not hold. Two incoming rows with one key are
/// an error before anything is written, unless [`dedup_by`](Merge::dedup_by) says which one counts.
///
/// A merge without conditions and expressions records a digest of its rows in its commit. The same rows once more, with nothing
/// else committed since but maintenance, are known by it, and no file of the table is read.
///
/// ```
/// use duckrun_delta::{Merge, MergeClause};
/// let upsert = Merge::on(["id"]).exclude_columns(["created"]).update_condition("source.at > target.at");
/// let clauses = Merge::on(["id"])
///     .clause(MergeClause::matched_delete().when("source.deleted"))
///     .clause(MergeClause::matched_update())
///     .clause(MergeClause::not_matched_insert().when("not deleted"));
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Merge {
    keys: Vec<String>,
    update_columns: Option<Vec<String>>,
    exclude_columns: Option<Vec<String>>,
    update_condition: Option<String>,
    insert_condition: Option<String>,
    set: Vec<(String, String)>,
    predicates: Vec<String>,
    clauses: Vec<MergeClause>,
    missing: Vec<MergeClause>,
    delete_when: Option<String>,
    dedup_by: Option<String>,
    null_keys: NullKeys,
    skip_unchanged: bool,
    aliases: Aliases,
    /// Whether matched rows are updated where no clause says otherwise; not so for `insert`.
    updates: bool,
}

impl Merge {
    /// A merge by these key columns.
    pub fn on<S: Into<String>>(keys: impl IntoIterator<Item = S>) -> Self {
        Self {
            keys: keys.into_iter().map(Into::into).collect(),
            update_columns: None,
            exclude_columns: None,
            update_condition: None,
            insert_condition: None,
            set: Vec::new(),
            predicates: Vec::new(),
            clauses: Vec::new(),
            missing: Vec::new(),
            delete_when: None,
            dedup_by: None,
            null_keys: NullKeys::default(),
            skip_unchanged: true,
            aliases: Aliases::default(),
            updates: true,
        }
    }

    /// The same without updates.
    pub(super) fn inserting(mut self) -> Self {
        self.updates = false;
        self
    }

    /// Updates only these columns.
    #[must_use]
    pub fn update_columns<S: Into<String>>(mut self, columns: impl IntoIterator<Item = S>) -> Self {
        self.update_columns = Some(columns.into_iter().map(Into::into).collect());
        self
    }

    /// Updates every column but these.
    #[must_use]
    pub fn exclude_columns<S: Into<String>>(mut self, columns: impl IntoIterator<Item = S>) -> Self {
        self.exclude_columns = Some(columns.into_iter().map(Into::into).collect());
        self
    }

    /// Updates a matched row only where this holds.
    #[must_use]
    pub fn update_condition(mut self, sql: impl Into<String>) -> Self {
        self.update_condition = Some(sql.into());
        self
    }

    /// Inserts a row only where this holds of it.
    #[must_use]
    pub fn insert_condition(mut self, sql: impl Into<String>) -> Self {
        self.insert_condition = Some(sql.into());
        self
    }

    /// Sets a column of an updated row to an expression instead of the incoming value.
    #[must_use]
    pub fn set(mut self, column: impl Into<String>, sql: impl Into<String>) -> Self {
        self.set.push((column.into(), sql.into()));
        self
    }

    /// A condition of the match beside equal keys (dbt's `incremental_predicates`); files that cannot fulfil it are not read.
    #[must_use]
    pub fn predicate(mut self, sql: impl Into<String>) -> Self {
        self.predicates.push(sql.into());
        self
    }

    /// A clause. With one of them, only the list of clauses says what happens; of each kind the first that holds applies.
    #[must_use]
    pub fn clause(mut self, clause: MergeClause) -> Self {
        self.clauses.push(clause);
        self
    }

    /// A column or condition of the incoming rows that marks deletions: such a row deletes its match and is never inserted.
    #[must_use]
    pub fn delete_when(mut self, sql: impl Into<String>) -> Self {
        self.delete_when = Some(sql.into());
        self
    }

    /// Keeps one incoming row of each key: the first in this order, as in ORDER BY (`updated_at desc`).
    #[must_use]
    pub fn dedup_by(mut self, order: impl Into<String>) -> Self {
        self.dedup_by = Some(order.into());
        self
    }

    /// What a NULL in a key means.
    #[must_use]
    pub fn null_keys(mut self, null_keys: NullKeys) -> Self {
        self.null_keys = null_keys;
        self
    }

    /// Whether a file in which every matched row has its new values already is left alone. On by default.
    #[must_use]
    pub fn skip_unchanged(mut self, skip: bool) -> Self {
        self.skip_unchanged = skip;
        self
    }

    /// Deletes the rows of the table whose key no incoming row has.
    #[must_use]
    pub fn delete_missing(mut self) -> Self {
        self.missing.push(MergeClause::not_matched_by_source_delete());
        self
    }

    /// Deletes those of them for which this holds.
    #[must_use]
    pub fn delete_missing_where(mut self, sql: impl Into<String>) -> Self {
        self.missing.push(MergeClause::not_matched_by_source_delete().when(sql));
        self
    }

    /// Updates the rows of the table whose key no incoming row has, where a condition holds.
    #[must_use]
    pub fn update_missing<C: Into<String>, E: Into<String>>(
        mut self,
        set: impl IntoIterator<Item = (C, E)>,
        condition: Option<&str>,
    ) -> Self {
        let clause = MergeClause::not_matched_by_source_update(set);
        self.missing.push(match condition {
            Some(sql) => clause.when(sql),
            None => clause,
        });
        self
    }

    /// Other names for the table and the incoming rows in expressions.
    #[must_use]
    pub fn aliases(mut self, target: impl Into<String>, source: impl Into<String>) -> Self {
        self.aliases = Aliases { target: Some(target.into()), source: Some(source.into()) };
        self
    }

    fn duplicates(&self) -> Duplicates {
        match &self.dedup_by {
            Some(order) => Duplicates::KeepFirst(order.clone()),
            None => Duplicates::Refuse,
        }
    }

    /// Every problem with the options that no schema is needed to see.
    pub(super) fn problems(&self) -> Vec<String> {
        let mut problems = column_problems("the unique key", &self.keys);
        let mut parse = |what: &str, sql: &str| problems.extend(expr::problem(what, sql));
        for (what, sql) in [
            ("the update condition", &self.update_condition),
            ("the insert condition", &self.insert_condition),
            ("delete_when", &self.delete_when),
        ] {
            sql.iter().for_each(|sql| parse(what, sql));
        }
        self.predicates.iter().for_each(|sql| parse("the predicate", sql));
        if let Some(order) = &self.dedup_by {
            problems.extend(expr::order_problem("dedup_by", order));
        }
        problems.extend(clause::set_problems("set", &self.set));
        if self.update_columns.is_some() && self.exclude_columns.is_some() {
            problems.push("update_columns and exclude_columns contradict each other: choose one".to_owned());
        }
        for (what, columns) in [("update_columns", &self.update_columns), ("exclude_columns", &self.exclude_columns)] {
            problems.extend(columns.iter().flat_map(|columns| column_problems(what, columns)));
        }
        for (column, _) in &self.set {
            if self.exclude_columns.iter().flatten().any(|c| c.eq_ignore_ascii_case(column)) {
                problems.push(format!("the column {column:?} is both excluded from updates and set"));
            }
        }
        let short = [
            (self.update_columns.is_some(), "update_columns"),
            (self.exclude_columns.is_some(), "exclude_columns"),
            (self.update_condition.is_some(), "update_condition"),
            (self.insert_condition.is_some(), "insert_condition"),
            (!self.set.is_empty(), "set"),
            (self.delete_when.is_some(), "delete_when"),
            (!self.missing.is_empty(), "delete_missing or update_missing"),
        ];
        let given: Vec<_> = short.iter().filter(|(given, _)| *given).map(|(_, name)| *name).collect();
        if !self.clauses.is_empty() && !given.is_empty() {
            problems.push(format!("clauses say everything: {} cannot be given beside them", given.join(", ")));
        }
        problems.extend(clause::list_problems(&self.clauses));
        problems.extend(clause::list_problems(&self.missing));
        problems.extend(self.aliases.problems());
        problems
    }

    /// The plan, under the name of the strategy that asks for it.
    pub(super) fn plan_as(&self, name: &str, target: &TableState, incoming: &SchemaRef) -> Result<WritePlan> {
        plan::plan(self, name, target, incoming)
    }
}

impl Strategy for Merge {
    fn name(&self) -> &str {
        "merge"
    }

    fn job(&self) -> Job {
        Job::MergeDuckDb
    }

    fn validate(&self, options: &TableOptions) -> Vec<String> {
        let mut problems = validate_options(options);
        problems.extend(self.problems());
        problems
    }

    fn plan(&self, target: &TableState, incoming: &SchemaRef) -> Result<WritePlan> {
        self.plan_as(self.name(), target, incoming)
    }
}

/// A [`Merge`] that also deletes the rows of the table whose key no incoming row has: the table becomes the source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FullSync {
    merge: Merge,
    condition: Option<String>,
}

impl FullSync {
    /// A synchronisation by these key columns.
    pub fn on<S: Into<String>>(keys: impl IntoIterator<Item = S>) -> Self {
        Self { merge: Merge::on(keys), condition: None }
    }

    /// Deletes missing rows only where this holds of them.
    #[must_use]
    pub fn delete_where(mut self, sql: impl Into<String>) -> Self {
        self.condition = Some(sql.into());
        self
    }

    /// Changes the options of the merge.
    ///
    /// ```
    /// use duckrun_delta::FullSync;
    /// let sync = FullSync::on(["id"]).merge(|m| m.exclude_columns(["created"])).delete_where("region = 'eu'");
    /// ```
    #[must_use]
    pub fn merge(mut self, options: impl FnOnce(Merge) -> Merge) -> Self {
        self.merge = options(self.merge);
        self
    }

    fn whole(&self) -> Merge {
        match &self.condition {
            Some(sql) => self.merge.clone().delete_missing_where(sql),
            None => self.merge.clone().delete_missing(),
        }
    }
}

impl Strategy for FullSync {
    fn name(&self) -> &str {
        "full_sync"
    }

    fn job(&self) -> Job {
        Job::MergeDuckDb
    }

    fn validate(&self, options: &TableOptions) -> Vec<String> {
        self.whole().validate(options)
    }

    fn plan(&self, target: &TableState, incoming: &SchemaRef) -> Result<WritePlan> {
        self.whole().plan_as(self.name(), target, incoming)
    }
}
