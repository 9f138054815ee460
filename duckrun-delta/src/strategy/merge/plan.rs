//! From options and schemas to a [`MergePlan`].

use std::collections::BTreeSet;

use arrow::datatypes::{DataType, Schema, SchemaRef};
use duckrun_core::{
    Assignment, Clause, ConflictPolicy, Duplicates, Error, ErrorKind, MergePlan, Result, RowExpr, TableState, Then,
    When, WriteAction, WritePlan,
};

use super::Merge;
use super::clause::{Action, MergeClause};
use crate::strategy::expr::{self, Columns, Scope, not_true, source_column};
use crate::strategy::{Fit, change, changed, check_partitions, contract, fit, replacement, resolve, serializable};

/// What the clauses are made of.
struct Making<'a> {
    /// What expressions may name.
    columns: Columns,
    /// The table's columns after the commit.
    table: &'a Schema,
    /// The incoming columns that the table has, as it spells them.
    shared: Vec<String>,
    keys: Vec<String>,
}

pub(super) fn plan(merge: &Merge, name: &str, target: &TableState, incoming: &SchemaRef) -> Result<WritePlan> {
    let Some(table) = changed(target) else { return fresh(merge, name, target, incoming) };
    check_partitions(table, &target.options)?;
    let mut fit = fit(&table.schema, incoming, target.options.on_schema_change)?;
    let mut making = Making {
        columns: Columns::new(table.schema.clone(), fit.incoming.clone()),
        table: &fit.schema,
        shared: shared(&fit),
        keys: keys(&merge.keys, &table.schema, &fit.incoming)?,
    };
    making.columns.aliases = merge.aliases.clone();
    let mut plan = shell(merge, &making.columns, making.keys.clone())?;
    for sql in &merge.predicates {
        plan.predicates.push(making.columns.expr("the predicate", sql, Scope::Match)?);
    }
    plan.clauses = match merge.clauses.is_empty() {
        true => making.defaults(merge)?,
        false => making.list(&merge.clauses)?,
    };
    if plan.clauses(When::NotMatched).any(|c| matches!(&c.then, Then::Insert(set) if lacks(set, &fit.required))) {
        fit.check_required()?;
    }
    let used = used(&plan);
    fit.warn_dropped(|column| used.contains(column));
    let action = WriteAction::Merge(Box::new(plan));
    contract::complete(change(name, action, table, target, fit, serializable(target)), target, incoming)
}

/// A first run or a rebuild: everything that comes in is inserted, but for rows that are marked as deleted.
fn fresh(merge: &Merge, name: &str, target: &TableState, incoming: &SchemaRef) -> Result<WritePlan> {
    let mut plan = replacement(name, target, incoming, ConflictPolicy::CompareAndSwap)?;
    let mut columns = Columns::new(SchemaRef::new(Schema::empty()), incoming.clone());
    columns.aliases = merge.aliases.clone();
    let mut merged = shell(merge, &columns, keys(&merge.keys, incoming, incoming)?)?;
    merged.fresh = true;
    let all = incoming.fields().iter().map(|f| Assignment::new(f.name(), source_column(f.name()))).collect();
    let kept = delete_when(merge, &columns)?.map(not_true);
    merged.clauses.push(Clause::new(When::NotMatched, kept, Then::Insert(all)));
    plan.action = WriteAction::Merge(Box::new(merged));
    Ok(plan)
}

/// The plan without predicates and clauses.
fn shell(merge: &Merge, columns: &Columns, keys: Vec<String>) -> Result<MergePlan> {
    let mut plan = MergePlan::new(keys, columns.source.clone());
    plan.null_keys = merge.null_keys;
    plan.skip_unchanged = merge.skip_unchanged;
    plan.duplicates = duplicates(merge.duplicates(), columns)?;
    Ok(plan)
}

/// The order of a deduplication with its columns found.
pub(in crate::strategy) fn duplicates(duplicates: Duplicates, columns: &Columns) -> Result<Duplicates> {
    match duplicates {
        Duplicates::KeepFirst(order) => Ok(Duplicates::KeepFirst(columns.order("dedup_by", &order)?)),
        other => Ok(other),
    }
}

/// The keys as the table spells them; both sides must have them.
pub(in crate::strategy) fn keys(keys: &[String], table: &Schema, incoming: &Schema) -> Result<Vec<String>> {
    let mut problems = Vec::new();
    let found = resolve("the unique key", keys, table, "the table", &mut problems);
    if problems.is_empty() {
        resolve("the unique key", keys, incoming, "the SQL's result", &mut problems);
    }
    for name in &found {
        if let Ok(DataType::Map(..)) = table.field_with_name(name).map(|f| f.data_type()) {
            problems.push(format!("the key {name:?} is a map, which cannot be compared"));
        }
    }
    Error::problems(problems).map_or(Ok(found), Err)
}

/// The incoming columns that are written.
pub(in crate::strategy) fn shared(fit: &Fit) -> Vec<String> {
    let names = fit.incoming.fields().iter().map(|f| f.name().clone());
    names.filter(|name| !fit.dropped.contains(name)).collect()
}

/// Whether an insert leaves out a column that must not be NULL.
fn lacks(set: &[Assignment], required: &[String]) -> bool {
    required.iter().any(|column| !set.iter().any(|a| a.column == *column))
}

/// The incoming columns that conditions and values name.
fn used(plan: &MergePlan) -> BTreeSet<String> {
    let mut used: BTreeSet<String> = plan.predicates.iter().flat_map(|e| e.source.iter().cloned()).collect();
    for clause in &plan.clauses {
        used.extend(clause.condition.iter().flat_map(|e| e.source.iter().cloned()));
        if let Then::Update(set) | Then::Insert(set) = &clause.then {
            used.extend(set.iter().flat_map(|a| a.value.source.iter().cloned()));
        }
    }
    if let Duplicates::KeepFirst(order) = &plan.duplicates {
        // The order is text by now; a column that it may name is not warned of.
        let names = plan.incoming.fields().iter().map(|f| f.name());
        used.extend(names.filter(|n| order.contains(&expr::source_column(n).sql)).cloned());
    }
    used
}

/// The condition that marks deletions.
fn delete_when(merge: &Merge, columns: &Columns) -> Result<Option<RowExpr>> {
    let Some(sql) = &merge.delete_when else { return Ok(None) };
    let marked = columns.expr("delete_when", sql, Scope::Source)?;
    if let (Some(column), 1) = (marked.source.first(), marked.source.len())
        && marked.sql == source_column(column).sql
        && columns.source.field_with_name(column).is_ok_and(|f| *f.data_type() != DataType::Boolean)
    {
        return Err(Error::invalid(format!(
            "delete_when names the column {column:?}, which is not a BOOLEAN: write a condition (for example \
             {column} = 'D')"
        )));
    }
    Ok(Some(marked))
}

impl Making<'_> {
    /// What a merge without clauses does.
    fn defaults(&self, merge: &Merge) -> Result<Vec<Clause>> {
        let mut clauses = Vec::new();
        let deleted = delete_when(merge, &self.columns)?;
        if let (Some(deleted), true) = (&deleted, merge.updates) {
            clauses.push(Clause::new(When::Matched, Some(deleted.clone()), Then::Delete));
        }
        if merge.updates {
            let set = self.updates(merge)?;
            let condition = self.condition("the update condition", merge.update_condition.as_deref(), Scope::Change)?;
            if !set.is_empty() {
                clauses.push(Clause::new(When::Matched, condition, Then::Update(set)));
            }
        }
        let condition = self.condition("the insert condition", merge.insert_condition.as_deref(), Scope::Source)?;
        let condition = expr::and(condition, deleted.map(not_true));
        clauses.push(Clause::new(When::NotMatched, condition, Then::Insert(self.all())));
        clauses.extend(self.list(&merge.missing)?);
        Ok(clauses)
    }

    /// The columns that an update sets.
    fn updates(&self, merge: &Merge) -> Result<Vec<Assignment>> {
        let mut problems = Vec::new();
        let mut named = |what: &str, list: &Option<Vec<String>>, whose: &str, schema: &Schema| {
            list.as_ref().map(|list| resolve(what, list, schema, whose, &mut problems))
        };
        let only = named("update_columns", &merge.update_columns, "the table", self.table);
        let but = named("exclude_columns", &merge.exclude_columns, "the table", self.table);
        for column in only.iter().flatten() {
            let set = merge.set.iter().any(|(c, _)| c.eq_ignore_ascii_case(column));
            if !set && !self.shared.contains(column) {
                problems.push(format!("update_columns names {column:?}, which the SQL's result lacks"));
            }
        }
        if let Some(e) = Error::problems(problems) {
            return Err(e);
        }
        let chosen = |column: &String| match (&only, &but) {
            (Some(only), _) => only.contains(column),
            (None, Some(but)) => !self.keys.contains(column) && !but.contains(column),
            (None, None) => !self.keys.contains(column),
        };
        let given = self.set(&merge.set, Scope::Change)?;
        let mut set: Vec<Assignment> = self
            .shared
            .iter()
            .filter(|c| chosen(c) && !given.iter().any(|a| a.column == **c))
            .map(|c| Assignment::new(c, source_column(c)))
            .collect();
        set.extend(given);
        Ok(set)
    }

    /// Every column that both sides have.
    fn all(&self) -> Vec<Assignment> {
        self.shared.iter().map(|c| Assignment::new(c, source_column(c))).collect()
    }

    fn condition(&self, what: &str, sql: Option<&str>, scope: Scope) -> Result<Option<RowExpr>> {
        sql.map(|sql| self.columns.expr(what, sql, scope)).transpose()
    }

    fn set(&self, list: &[(String, String)], scope: Scope) -> Result<Vec<Assignment>> {
        assignments(&self.columns, self.table, list, scope)
    }

    /// Clauses as a caller wrote them.
    fn list(&self, clauses: &[MergeClause]) -> Result<Vec<Clause>> {
        let mut out = Vec::with_capacity(clauses.len());
        for clause in clauses {
            let scope = match clause.when {
                When::Matched => Scope::Change,
                When::NotMatched => Scope::Source,
                When::NotMatchedBySource => Scope::Target,
            };
            let then = match &clause.then {
                Action::UpdateAll => {
                    let mut set = self.all();
                    set.retain(|a| !self.keys.contains(&a.column));
                    if set.is_empty() { Then::Nothing } else { Then::Update(set) }
                }
                Action::Update(set) => Then::Update(self.set(set, scope)?),
                Action::Delete => Then::Delete,
                Action::InsertAll => Then::Insert(self.all()),
                Action::Insert(set) => Then::Insert(self.set(set, scope)?),
                Action::Nothing => Then::Nothing,
            };
            let condition = self.condition(clause.what(), clause.condition.as_deref(), scope)?;
            out.push(Clause::new(clause.when, condition, then));
        }
        Ok(out)
    }
}

/// Assignments with their columns and values found.
pub(in crate::strategy) fn assignments(
    columns: &Columns,
    table: &Schema,
    list: &[(String, String)],
    scope: Scope,
) -> Result<Vec<Assignment>> {
    let names: Vec<String> = list.iter().map(|(column, _)| column.clone()).collect();
    let mut problems = Vec::new();
    let found = resolve("a value", &names, table, "the table", &mut problems);
    if let Some(e) = Error::problems(problems) {
        return Err(e);
    }
    let mut set: Vec<Assignment> = Vec::with_capacity(list.len());
    for (column, (_, sql)) in found.into_iter().zip(list) {
        if set.iter().any(|a| a.column == column) {
            return Err(Error::new(ErrorKind::InvalidInput, format!("the column {column:?} is set twice")));
        }
        let value = columns.expr(&format!("the value of {column:?}"), sql, scope)?;
        set.push(Assignment::new(column, value));
    }
    Ok(set)
}
