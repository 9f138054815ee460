//! The model's options as strategies of ours.

use duckrun::core::When;
use duckrun::{Merge, MergeClause};

use super::sql;
use crate::model::{BySource, Column, Expr, MergeOptions, Rows, Then};

/// A merge with generated options as a strategy of ours. `columns` are the table's, which give constants their types.
pub fn merge_strategy(options: &MergeOptions, columns: &[Column]) -> Merge {
    let columns = Rows::new(columns.to_vec(), Vec::new());
    let text = |e: &Expr| sql::expression(e, "target", "source", &columns);
    let pairs =
        |set: &[(String, Expr)]| -> Vec<(String, String)> { set.iter().map(|(c, e)| (c.clone(), text(e))).collect() };
    let mut merge = Merge::on(options.keys.clone()).null_keys(options.null_keys).skip_unchanged(options.skip_unchanged);
    if let Some(only) = &options.update_columns {
        merge = merge.update_columns(only.clone());
    }
    if !options.exclude_columns.is_empty() {
        merge = merge.exclude_columns(options.exclude_columns.clone());
    }
    if let Some(e) = &options.update_condition {
        merge = merge.update_condition(text(e));
    }
    if let Some(e) = &options.insert_condition {
        merge = merge.insert_condition(text(e));
    }
    for (column, e) in &options.set {
        merge = merge.set(column, text(e));
    }
    for e in &options.predicates {
        merge = merge.predicate(text(e));
    }
    if let Some(e) = &options.delete_when {
        merge = merge.delete_when(text(e));
    }
    if let Some(order) = &options.dedup_by {
        let by: Vec<String> = order
            .iter()
            .map(|o| format!("{}{}", sql::quoted(&o.column), if o.descending { " desc" } else { "" }))
            .collect();
        merge = merge.dedup_by(by.join(", "));
    }
    for clause in &options.clauses {
        let made = match (clause.when, &clause.then) {
            (When::Matched, Then::Update(set)) => MergeClause::matched_update_set(pairs(set)),
            (When::Matched, Then::Delete) => MergeClause::matched_delete(),
            (When::Matched, _) => MergeClause::matched_do_nothing(),
            (When::NotMatched, Then::Insert(set)) => MergeClause::not_matched_insert_values(pairs(set)),
            (When::NotMatchedBySource, Then::Update(set)) => MergeClause::not_matched_by_source_update(pairs(set)),
            (When::NotMatchedBySource, _) => MergeClause::not_matched_by_source_delete(),
            // No such clause is generated; an insert for a match would mean nothing.
            (When::NotMatched, _) => continue,
        };
        merge = merge.clause(match &clause.condition {
            Some(e) => made.when(text(e)),
            None => made,
        });
    }
    match &options.by_source {
        Some(BySource::Delete(None)) => merge.delete_missing(),
        Some(BySource::Delete(Some(e))) => merge.delete_missing_where(text(e)),
        Some(BySource::Update(set, e)) => merge.update_missing(pairs(set), e.as_ref().map(text).as_deref()),
        None => merge,
    }
}
