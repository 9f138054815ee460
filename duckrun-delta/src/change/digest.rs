//! Telling that the rows of the last commit come in once more: a batch that is loaded again after a failure elsewhere.
//!
//! A merge that updates and inserts whole incoming values is idempotent: made twice, the second changes nothing. Finding that out
//! row by row means to read every row that matches. So such a merge records what it was, and one that finds its own record in the
//! last commit that changed rows is done. Whatever else was committed since, by whomever, and the merge looks at the rows.

use std::hash::Hasher;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use arrow::row::{RowConverter, SortField};
use duckrun_core::{
    Assignment, Clause, Duplicates, EngineSession, Error, MergePlan, NullKeys, Query, RelationName, Result, Then, When,
};
use futures::TryStreamExt;
use siphasher::sip128::{Hasher128, SipHasher13};

use super::incoming::nullable;
use super::sql::SOURCE;
use crate::strategy::source_column;

/// What the digest means; another number for every change of it.
const VERSION: u8 = 1;

/// Whether a merge that was made with these rows changes nothing when it is made with them again.
///
/// Values that are expressions may not be idempotent (`n + 1`), nor conditions (`random() < 0.5`); a row with a NULL key that
/// matches nothing is inserted again, and so is one whose match a predicate rules out.
pub(super) fn is_idempotent(merge: &MergePlan) -> bool {
    let simple = |clause: &Clause| clause.condition.is_none() && !clause.also_insert;
    let whole = |set: &[Assignment]| set.iter().all(|a| a.value == source_column(&a.column));
    let mut updates = false;
    let mut seen = Vec::new();
    for clause in &merge.clauses {
        let fits = match (clause.when, &clause.then) {
            (When::Matched, Then::Update(set)) => {
                updates = true;
                whole(set)
            }
            (When::NotMatched, Then::Insert(set)) => whole(set),
            (When::NotMatchedBySource, Then::Delete) => true,
            _ => false,
        };
        // A second clause of a kind never applies after one without a condition; nothing is claimed of such a plan.
        if !fits || !simple(clause) || seen.contains(&clause.when) {
            return false;
        }
        seen.push(clause.when);
    }
    // An insert looks at keys alone, which is little more than to digest its rows.
    updates
        && RowConverter::supports_fields(&sort_fields(&merge.incoming))
        && merge.source
        && merge.skip_unchanged
        && !merge.fresh
        && !merge.keys.is_empty()
        && merge.predicates.is_empty()
        && matches!(merge.null_keys, NullKeys::Refuse | NullKeys::Equal)
        && matches!(merge.duplicates, Duplicates::Refuse | Duplicates::KeepFirst(_))
}

/// The digest of a merge with the rows that were laid by, whatever their order: 128 bits, by a hash that is good to tell what
/// differs by accident.
pub(super) async fn of(engine: &dyn EngineSession, merge: &MergePlan) -> Result<String> {
    let source = RelationName::bare(SOURCE)?;
    let schema = nullable(&merge.incoming);
    let query = Query::new(format!("SELECT * FROM {}", source.to_sql()));
    let query = query.with_output(schema.clone()).with_text_as_is(true);
    let mut batches = engine.query(&query).await?;
    let mut rows = Rows::new(&schema)?;
    while let Some(batch) = batches.try_next().await? {
        rows.add(&batch)?;
    }
    Ok(rows.digest(merge))
}

/// The digest of rows, as a sum: it does not depend on their order, nor on how they are cut into batches.
struct Rows {
    converter: RowConverter,
    count: u64,
    sum: u128,
}

impl Rows {
    fn new(schema: &SchemaRef) -> Result<Self> {
        let converter = RowConverter::new(sort_fields(schema)).map_err(failed)?;
        Ok(Self { converter, count: 0, sum: 0 })
    }

    fn add(&mut self, batch: &RecordBatch) -> Result<()> {
        let rows = self.converter.convert_columns(batch.columns()).map_err(failed)?;
        for row in rows.iter() {
            let mut hasher = SipHasher13::new();
            hasher.write(row.data());
            self.sum = self.sum.wrapping_add(hasher.finish128().as_u128());
        }
        self.count += rows.num_rows() as u64;
        Ok(())
    }

    /// With what is done with the rows: the same rows may be merged by another key, or into fewer columns.
    fn digest(&self, merge: &MergePlan) -> String {
        let mut columns: Vec<(When, Vec<&str>)> = merge
            .clauses
            .iter()
            .map(|clause| {
                let mut set: Vec<&str> = match &clause.then {
                    Then::Update(set) | Then::Insert(set) => set.iter().map(|a| a.column.as_str()).collect(),
                    _ => Vec::new(),
                };
                set.sort_unstable();
                (clause.when, set)
            })
            .collect();
        columns.sort_unstable();
        let mut keys = merge.keys.clone();
        keys.sort_unstable();
        let types: Vec<_> = merge.incoming.fields().iter().map(|f| (f.name(), f.data_type().to_string())).collect();
        let mut hasher = SipHasher13::new();
        hasher.write(format!("{keys:?} {:?} {columns:?} {types:?}", merge.null_keys).as_bytes());
        hasher.write_u64(self.count);
        hasher.write(&self.sum.to_le_bytes());
        format!("{VERSION}:{:032x}", hasher.finish128().as_u128())
    }
}

fn sort_fields(schema: &SchemaRef) -> Vec<SortField> {
    schema.fields().iter().map(|f| SortField::new(f.data_type().clone())).collect()
}

fn failed(e: arrow::error::ArrowError) -> Error {
    Error::internal("incoming rows cannot be digested").with_source(e)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{ArrayRef, Float64Array, Int64Array, StringArray};
    use arrow::datatypes::{DataType, Field, Schema};
    use duckrun_core::RowExpr;

    use super::*;

    fn schema() -> SchemaRef {
        Arc::new(Schema::new(vec![
            Field::new("id", DataType::Int64, true),
            Field::new("name", DataType::Utf8, true),
            Field::new("x", DataType::Float64, true),
        ]))
    }

    fn batch(rows: &[(i64, Option<&str>, f64)]) -> RecordBatch {
        let columns: Vec<ArrayRef> = vec![
            Arc::new(rows.iter().map(|r| r.0).collect::<Int64Array>()),
            Arc::new(rows.iter().map(|r| r.1).collect::<StringArray>()),
            Arc::new(rows.iter().map(|r| r.2).collect::<Float64Array>()),
        ];
        RecordBatch::try_new(schema(), columns).unwrap()
    }

    fn upsert() -> MergePlan {
        let all = |names: &[&str]| names.iter().map(|n| Assignment::new(*n, source_column(n))).collect::<Vec<_>>();
        let mut plan = MergePlan::new(vec!["id".to_owned()], schema());
        plan.clauses.push(Clause::new(When::Matched, None, Then::Update(all(&["name", "x"]))));
        plan.clauses.push(Clause::new(When::NotMatched, None, Then::Insert(all(&["id", "name", "x"]))));
        plan
    }

    type Change = dyn Fn(&mut MergePlan);

    fn digest(plan: &MergePlan, batches: &[RecordBatch]) -> String {
        let mut rows = Rows::new(&schema()).unwrap();
        batches.iter().for_each(|b| rows.add(b).unwrap());
        rows.digest(plan)
    }

    #[test]
    fn rows_make_the_digest_and_their_order_does_not() {
        let plan = upsert();
        let (a, b, c) = ((1, Some("a"), 0.0), (2, None, 1.5), (3, Some(""), f64::NAN));
        let known = digest(&plan, &[batch(&[a, b, c])]);
        assert_eq!(known, digest(&plan, &[batch(&[c]), batch(&[]), batch(&[b, a])]));
        for other in [
            vec![a, b],
            vec![a, b, c, c],
            vec![a, b, (3, None, f64::NAN)],
            vec![(1, Some("a"), -0.0), b, c],
            // Values that change places.
            vec![(1, None, 0.0), (2, Some("a"), 1.5), c],
            vec![(2, Some("a"), 0.0), (1, None, 1.5), c],
        ] {
            assert_ne!(known, digest(&plan, &[batch(&other)]), "{other:?}");
        }
    }

    #[test]
    fn what_is_done_with_the_rows_makes_the_digest_too() {
        let rows = [batch(&[(1, Some("a"), 0.0)])];
        let known = digest(&upsert(), &rows);
        let others: [fn(&mut MergePlan); 5] = [
            |p| p.keys.push("name".to_owned()),
            |p| p.null_keys = NullKeys::Equal,
            |p| p.clauses.truncate(1),
            |p| p.clauses[0].then = Then::Update(vec![Assignment::new("x", source_column("x"))]),
            |p| p.clauses.push(Clause::new(When::NotMatchedBySource, None, Then::Delete)),
        ];
        for change in others {
            let mut plan = upsert();
            change(&mut plan);
            assert_ne!(known, digest(&plan, &rows), "{plan:?}");
        }
    }

    #[test]
    fn only_what_is_idempotent_counts() {
        assert!(is_idempotent(&upsert()));
        let expr = |sql: &str| RowExpr::new(sql, Default::default(), Default::default());
        let others: Vec<Box<Change>> = vec![
            Box::new(|p| p.fresh = true),
            Box::new(|p| p.skip_unchanged = false),
            Box::new(|p| p.null_keys = NullKeys::Distinct),
            Box::new(|p| p.duplicates = Duplicates::Allow),
            Box::new(|p| p.source = false),
            Box::new(|p| p.keys.clear()),
            Box::new(move |p| p.predicates.push(expr("target.\"x\" > 0"))),
            Box::new(move |p| p.clauses[0].condition = Some(expr("random() < 0.5"))),
            Box::new(move |p| p.clauses[1].condition = Some(expr("source.\"x\" > 0"))),
            Box::new(|p| p.clauses[0].also_insert = true),
            Box::new(|p| p.clauses[0].then = Then::Delete),
            Box::new(move |p| p.clauses[0].then = Then::Update(vec![Assignment::new("x", expr("target.\"x\" + 1"))])),
            // Another column's value.
            Box::new(|p| p.clauses[0].then = Then::Update(vec![Assignment::new("x", source_column("id"))])),
            Box::new(|p| drop(p.clauses.remove(0))),
            Box::new(|p| p.clauses.push(p.clauses[0].clone())),
            Box::new(move |p| {
                let delete = Clause::new(When::NotMatchedBySource, Some(expr("target.\"x\" > 0")), Then::Delete);
                p.clauses.push(delete);
            }),
        ];
        for (n, change) in others.iter().enumerate() {
            let mut plan = upsert();
            change(&mut plan);
            assert!(!is_idempotent(&plan), "{n}: {plan:?}");
        }
    }
}
