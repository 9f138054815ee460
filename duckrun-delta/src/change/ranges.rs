//! What a change reads of the table, as ranges: for ruling files out, and for judging what others commit meanwhile.

use std::sync::Arc;

use arrow::array::{Array, AsArray};
use arrow::datatypes::{DataType, Field, Schema};
use duckrun_core::{Bound, ColumnRange, EngineSession, MergePlan, Query, Result, RowExpr, Then, When, types::sql_type};
use futures::TryStreamExt;

use super::incoming::{self, KeyFacts};
use super::sql::constants;

/// The rows of the table that a merge can touch, or that would have mattered, had they been there; with what else is known of
/// the keys.
pub(super) async fn of_merge(engine: &dyn EngineSession, merge: &MergePlan, existing: &Schema) -> Result<KeyFacts> {
    let unmatched: Vec<_> =
        merge.clauses(When::NotMatchedBySource).filter(|c| !matches!(c.then, Then::Nothing)).collect();
    match (merge.source, unmatched.as_slice()) {
        (false, [only]) => {
            let ranges = of_expressions(engine, only.condition.iter(), existing).await?;
            Ok(KeyFacts { ranges, ..KeyFacts::default() })
        }
        (true, []) => {
            let mut facts = incoming::facts(engine, &merge.incoming, &merge.keys, merge.null_keys).await?;
            facts.ranges.extend(of_expressions(engine, merge.predicates.iter(), existing).await?);
            Ok(facts)
        }
        _ => Ok(KeyFacts::default()),
    }
}

/// The ranges outside of which at least one of the expressions does not hold.
pub(super) async fn of_expressions<'a>(
    engine: &dyn EngineSession,
    expressions: impl Iterator<Item = &'a RowExpr>,
    existing: &Schema,
) -> Result<Vec<ColumnRange>> {
    let mut ranges = Vec::new();
    for (column, (low, high)) in constants(expressions) {
        let Ok(field) = existing.field_with_name(&column) else { continue };
        let min = first(engine, &low, field.data_type()).await?;
        let max = first(engine, &high, field.data_type()).await?;
        if min.is_some() || max.is_some() {
            ranges.push(ColumnRange::new(column, min, max));
        }
    }
    Ok(ranges)
}

/// The first constant that is exactly a value of the column's type. Any one of them bounds the column.
async fn first(engine: &dyn EngineSession, bounds: &[&Bound], ty: &DataType) -> Result<Option<arrow::array::ArrayRef>> {
    let sql = sql_type(ty)?;
    for bound in bounds {
        let constant = &bound.constant;
        let query = Query::new(format!(
            "SELECT TRY_CAST(({constant}) AS {sql}) AS v, (TRY_CAST(({constant}) AS {sql}) = ({constant})) AS same"
        ))
        .with_output(Arc::new(Schema::new(vec![
            Field::new("v", ty.clone(), true),
            Field::new("same", DataType::Boolean, true),
        ])));
        // A constant that DuckDB cannot compare bounds nothing; the statement itself will say what is wrong with it.
        let Ok(stream) = engine.query(&query).await else { continue };
        let Ok(batches) = stream.try_collect::<Vec<_>>().await else { continue };
        if let Some(batch) = batches.iter().find(|b| b.num_rows() == 1) {
            let same = batch.column(1).as_boolean();
            if same.is_valid(0) && same.value(0) && batch.column(0).is_valid(0) {
                return Ok(Some(batch.column(0).clone()));
            }
        }
    }
    Ok(None)
}
