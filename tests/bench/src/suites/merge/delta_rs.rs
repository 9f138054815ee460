//! The subject `delta_rs`: plain calls of the library, with our codec and row groups and otherwise its defaults. Runs in child
//! processes.

use std::sync::Arc;

use deltalake::DeltaTable;
use deltalake::arrow::datatypes::SchemaRef;
use deltalake::datafusion::prelude::{Expr, ParquetReadOptions, SessionContext, col, lit};
use deltalake::datafusion::scalar::ScalarValue;
use deltalake::operations::merge::{MergeBuilder, MergeMetrics};
use deltalake::operations::write::WriteBuilder;
use deltalake::protocol::SaveMode;

use super::cases::{Case, Change, ONE_IN_A_HUNDRED, TWO_COLUMNS};
use crate::Result;
use crate::child::{Changes, Done, Job};
use crate::suites::lineitem::folder;
use crate::suites::shared::{datafusion, delta_table, runtime, utf8, writer_properties};

pub(super) fn run(job: &Job, case: &Case) -> Result<Done> {
    runtime(job)?.block_on(async {
        let context = datafusion(job);
        let table = delta_table(&folder(&job.output)).await?;
        let changes = match case.change {
            Change::Delete => Some(delete(job, &context, table).await?),
            Change::Update => Some(update(job, &context, table).await?),
            Change::Microbatch | Change::ReplaceWhere => replace(job, &context, table).await.map(|()| None)?,
            _ => Some(merge(job, &context, table, case.change).await?),
        };
        Ok(Done { changes, ..Done::default() })
    })
}

async fn merge(job: &Job, context: &SessionContext, table: DeltaTable, change: Change) -> Result<Changes> {
    let source = context.read_parquet(utf8(&job.input)?, ParquetReadOptions::default()).await?;
    let columns: SchemaRef = Arc::new(source.schema().as_arrow().clone());
    let all: Vec<&str> = columns.fields().iter().map(|field| field.name().as_str()).collect();
    let on = "target.l_orderkey = source.l_orderkey and target.l_linenumber = source.l_linenumber";
    let mut merge: MergeBuilder = table
        .merge(source, on)
        .with_source_alias("source")
        .with_target_alias("target")
        .with_session_state(Arc::new(context.state()))
        .with_writer_properties(writer_properties(job)?);
    let updated: &[&str] = match change {
        Change::Insert => &[],
        Change::UpdateColumns => &TWO_COLUMNS,
        _ => &all,
    };
    if !updated.is_empty() {
        merge = merge.when_matched_update(|update| {
            updated.iter().fold(update, |update, column| update.update(*column, format!("source.{column}")))
        })?;
    }
    merge = merge.when_not_matched_insert(|insert| {
        all.iter().fold(insert, |insert, column| insert.set(*column, format!("source.{column}")))
    })?;
    if change == Change::Sync {
        merge = merge.when_not_matched_by_source_delete(|delete| delete)?;
    }
    let (_, metrics) = merge.await?;
    Ok(changes(&metrics))
}

fn changes(m: &MergeMetrics) -> Changes {
    Changes {
        rows_inserted: m.num_target_rows_inserted as u64,
        rows_updated: m.num_target_rows_updated as u64,
        rows_deleted: m.num_target_rows_deleted as u64,
        rows_copied: m.num_target_rows_copied as u64,
        files_added: m.num_target_files_added as u64,
        files_removed: m.num_target_files_removed as u64,
    }
}

async fn delete(job: &Job, context: &SessionContext, table: DeltaTable) -> Result<Changes> {
    let (_, m) = table
        .delete()
        .with_predicate(ONE_IN_A_HUNDRED)
        .with_session_state(Arc::new(context.state()))
        .with_writer_properties(writer_properties(job)?)
        .await?;
    Ok(Changes {
        rows_deleted: m.num_deleted_rows.unwrap_or_default() as u64,
        rows_copied: m.num_copied_rows as u64,
        files_added: m.num_added_files as u64,
        files_removed: m.num_removed_files as u64,
        ..Changes::default()
    })
}

async fn update(job: &Job, context: &SessionContext, table: DeltaTable) -> Result<Changes> {
    let (_, m) = table
        .update()
        .with_predicate(ONE_IN_A_HUNDRED)
        .with_update("l_returnflag", "'X'")
        .with_update("l_linestatus", "'Y'")
        .with_session_state(Arc::new(context.state()))
        .with_writer_properties(writer_properties(job)?)
        .await?;
    Ok(Changes {
        rows_updated: m.num_updated_rows as u64,
        rows_copied: m.num_copied_rows as u64,
        files_added: m.num_added_files as u64,
        files_removed: m.num_removed_files as u64,
        ..Changes::default()
    })
}

/// An overwrite with a `replaceWhere`; it returns no figures.
async fn replace(job: &Job, context: &SessionContext, table: DeltaTable) -> Result<()> {
    let source = context.read_parquet(utf8(&job.input)?, ParquetReadOptions::default()).await?;
    let snapshot = table.snapshot()?.snapshot().clone();
    WriteBuilder::new(table.log_store(), Some(snapshot))
        .with_input_plan(source.into_unoptimized_plan())
        .with_session_state(Arc::new(context.state()))
        .with_save_mode(SaveMode::Overwrite)
        .with_replace_where(month())
        .with_writer_properties(writer_properties(job)?)
        .await?;
    Ok(())
}

/// The month as an expression: as a string it could hold no date (delta-rs renders and parses it again).
fn month() -> Expr {
    let day = |days| lit(ScalarValue::Date32(Some(days)));
    // Days since 1970 of 1 March and 1 April 1995.
    col("l_shipdate").gt_eq(day(9190)).and(col("l_shipdate").lt(day(9221)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_month_is_the_one_of_the_other_subjects() -> Result<()> {
        let days = "select date '1995-03-01' - date '1970-01-01', date '1995-04-01' - date '1970-01-01'";
        let db = duckdb::Connection::open_in_memory()?;
        let days: (i64, i64) = db.query_row(days, [], |row| Ok((row.get(0)?, row.get(1)?)))?;
        assert_eq!(days, (9190, 9221));
        let month = super::super::cases::MONTH;
        assert!(month.contains("1995-03-01") && month.contains("1995-04-01"));
        Ok(())
    }
}
