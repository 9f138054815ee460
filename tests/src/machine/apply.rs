//! A run, twice: as a model of duckrun and as an operation of the model in memory; and whether both ended alike.

use chrono::{DateTime, TimeDelta};
use duckrun::{
    Append, BatchSize, CommitOutcome, Delete, DeleteInsert, ErrorKind, FileOptions, FullSync, Insert, InsertOverwrite,
    Microbatch, Nothing, Overwrite, ReplaceWhere, SafeAppend, Update,
};

use super::shape::Shape;
use super::step::{How, Write, full_sync};
use crate::generate::{merge_strategy, sql};
use crate::model::{Changed, Column, Counts, Expr, Merge, MergeOptions, Refusal, Rows, Scd2, Table};

const DAY: i64 = 86_400_000_000;

/// How files are written.
pub(super) fn files(write: &Write) -> FileOptions {
    FileOptions {
        row_group_rows: write.row_group_rows,
        target_file_size: write.file_size,
        sync: false,
        ..FileOptions::default()
    }
}

/// The run on a real table.
pub(super) fn run(model: duckrun::Model, write: &Write, shape: &Shape) -> duckrun::Model {
    let known = Rows::new(write.of.clone(), Vec::new());
    let bare = |e: &Expr| sql::expression(e, "", "", &known);
    let qualified = |e: &Expr| sql::expression(e, "target", "source", &known);
    let keys = || shape.keys.clone();
    let mut model = model.files(files(write));
    if write.has_source() {
        model = model.sql(sql::select(&write.incoming)).on_schema_change(write.change);
    }
    match &write.how {
        How::Append(false) => model.strategy(Append::default()),
        How::Append(true) => model.strategy(Append::default().fenced()),
        How::SafeAppend => model.strategy(SafeAppend),
        How::Overwrite(keep, blind) => {
            let overwrite = if *keep { Overwrite::default().keep_schema() } else { Overwrite::default() };
            model.strategy(if *blind { overwrite.blind() } else { overwrite })
        }
        How::Merge(options) => model.strategy(merge_strategy(options, &write.of)),
        How::FullSync(None) => model.strategy(FullSync::on(keys())),
        How::FullSync(Some(e)) => model.strategy(FullSync::on(keys()).delete_where(qualified(e))),
        How::Insert(nulls) => model.strategy(Insert::on(keys()).null_keys(*nulls)),
        How::DeleteInsert(nulls, e) => {
            let strategy = DeleteInsert::on(keys()).null_keys(*nulls);
            model.strategy(match e {
                Some(e) => strategy.predicate(qualified(e)),
                None => strategy,
            })
        }
        How::ReplaceWhere(e) => model.strategy(ReplaceWhere::new(bare(e))),
        How::InsertOverwrite => model.strategy(InsertOverwrite),
        How::Microbatch(day, count) => {
            let begin = DateTime::UNIX_EPOCH + TimeDelta::days(*day);
            let end = begin + TimeDelta::days(*count);
            model.strategy(Microbatch::new("at", BatchSize::Day).begin(begin).end(end))
        }
        How::Delete(None) => model.strategy(Delete::all()),
        How::Delete(Some(e)) => model.strategy(Delete::rows_where(bare(e))),
        How::Update(column, value, e) => {
            let ty = write.of.iter().find(|c| c.name == *column).map(|c| &c.ty);
            let value = match (value, ty) {
                (Expr::Literal(v), Some(ty)) => sql::literal(v, ty),
                (other, _) => bare(other),
            };
            let update = Update::new([(column.clone(), value)]);
            model.strategy(match e {
                Some(e) => update.rows_where(bare(e)),
                None => update,
            })
        }
        How::Scd2 => model.strategy(history(shape)),
    }
}

/// The strategy of a history.
pub(super) fn history(shape: &Shape) -> duckrun::Scd2 {
    let strategy = duckrun::Scd2::on(shape.keys.clone());
    let Some(rules) = &shape.history else { return strategy };
    let strategy = match &rules.changed {
        Changed::UpdatedAt(column) => strategy.updated_at(column),
        Changed::Columns(columns) => strategy.check(columns.clone()),
    };
    if rules.close_missing { strategy.invalidate_hard_deletes() } else { strategy }
}

/// The `n`-th commit of the run on the table in memory: most runs have one, a microbatch has one for each window.
pub(super) fn apply(table: &mut Table, write: &Write, shape: &Shape, n: usize, now: i64) -> Result<Counts, Refusal> {
    if write.has_source() {
        table.on_schema_change = write.change;
    }
    let rows = &write.incoming;
    // Columns that are left out are none that a merge could set.
    let ignored = write.change == duckrun::SchemaChange::Ignore;
    let known = |c: &&Column| !ignored || table.columns().iter().any(|t| t.name == c.name);
    let columns: Vec<Column> = rows.columns.iter().filter(known).cloned().collect();
    let merge = |table: &mut Table, options: &MergeOptions| table.merge(&options.merge(&columns), rows);
    match &write.how {
        How::Append(_) | How::SafeAppend => table.append(rows),
        How::Overwrite(true, _) => table.refill(rows),
        How::Overwrite(false, _) => Ok(table.overwrite(rows)),
        How::Merge(options) => merge(table, options),
        How::FullSync(condition) => merge(table, &full_sync(&shape.keys, condition.as_ref())),
        How::Insert(nulls) => {
            let mut insert = Merge::upsert(shape.keys.clone(), &columns);
            insert.clauses.remove(0);
            insert.null_keys = *nulls;
            table.merge(&insert, rows)
        }
        How::DeleteInsert(nulls, e) => {
            let predicates: Vec<Expr> = e.iter().cloned().collect();
            table.delete_insert(&shape.keys, *nulls, &predicates, rows)
        }
        How::ReplaceWhere(e) => table.replace_where(e, rows),
        How::InsertOverwrite => table.insert_overwrite(&shape.partition_by, rows),
        How::Microbatch(day, _) => {
            let start = (day + n as i64) * DAY;
            table.window("at", start, start + DAY, rows)
        }
        How::Delete(e) => table.delete(e.as_ref()),
        How::Update(column, value, e) => table.update(&[(column.clone(), value.clone())], e.as_ref()),
        How::Scd2 => match &shape.history {
            Some(rules) => table.scd2(&Scd2 { now, ..rules.clone() }, rows),
            None => Err(Refusal::UnknownColumn("dbt_valid_to".to_owned())),
        },
    }
}

/// Whether a commit did what the model did.
///
/// # Errors
/// The difference, in words.
pub(super) fn judge(outcome: &CommitOutcome, expected: &Result<Counts, Refusal>) -> Result<(), String> {
    match (outcome, expected) {
        (CommitOutcome::Committed(commit), Ok(counts)) if counts.committed => {
            let m = &commit.metrics;
            let got = (m.rows_inserted, m.rows_updated, m.rows_deleted);
            let wanted = (counts.inserted as u64, counts.updated as u64, Some(counts.deleted as u64));
            if got == wanted {
                return Ok(());
            }
            Err(format!("inserted, updated, deleted are {got:?}, the model has {wanted:?}"))
        }
        (CommitOutcome::NothingToDo(Nothing::NoRows | Nothing::Unchanged), Ok(counts)) if !counts.committed => Ok(()),
        _ => Err(format!("{outcome:?}, and the model says {expected:?}")),
    }
}

/// Whether a run was refused as the model refuses it.
///
/// # Errors
/// The difference, in words.
pub(super) fn judge_error(error: &duckrun::Error, expected: &Result<Counts, Refusal>) -> Result<(), String> {
    let Err(refusal) = expected else {
        return Err(format!("it failed: {error}; the model says {expected:?}"));
    };
    let fits = match refusal {
        Refusal::SchemaChanged { .. } | Refusal::TypeChanged(_) => {
            matches!(error.kind(), ErrorKind::InvalidData | ErrorKind::InvalidInput)
        }
        _ => error.kind() == ErrorKind::InvalidData,
    };
    let part = match refusal {
        Refusal::DuplicateKeys(keys) => keys.iter().map(|(_, n)| *n).max().unwrap_or_default().to_string(),
        Refusal::NullKeys(n) => format!("{n} incoming"),
        _ => String::new(),
    };
    if fits && error.message().contains(&part) {
        return Ok(());
    }
    Err(format!("it was refused with: {error}; the model says {refusal}"))
}
