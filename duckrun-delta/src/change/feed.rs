//! The change data feed of a commit: which rows it inserted, updated (as they were and as they are) and deleted.
//!
//! Source: the Delta protocol, "Add CDC File". A commit with change files is read from them alone, so where one file of the table
//! is rewritten, every row that the commit changes is written to change files too; a commit that only adds and removes whole
//! files says by that what changed, and has none. Two invariants:
//! - an update that leaves a row as it is counts as none here exactly where the rewriter counts it as none, by the same
//!   comparison;
//! - the feed has as many rows of each kind as the commit reports, or there is no commit.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, StringArray};
use arrow::compute::interleave;
use arrow::datatypes::{DataType, Field, Int8Type, Schema, SchemaRef};
use duckrun_core::{
    CHANGE_DELETE, CHANGE_TYPE, CHANGE_UPDATE, Error, FileSet, Phase, Query, Relation, RelationName, Result, Snapshot,
    WritePlan,
};

use super::sql::{BEFORE, CHANGE_INSERT, FeedSql};
use super::{Done, Work};
use crate::changes::reserved;
use crate::protocol::{CHANGE_FEED, feed_column};
use crate::rewrite::equality;

/// Whether the table has a change feed, after the plan's own change of its properties.
pub(super) fn is_on(at: Option<&dyn Snapshot>, plan: &WritePlan) -> bool {
    let mut properties = at.map(|s| s.properties()).unwrap_or_default();
    properties.extend(plan.metadata.properties.clone());
    properties.get(CHANGE_FEED).is_some_and(|v| v.eq_ignore_ascii_case("true"))
}

/// Fails where a column of a table with a change feed is called as one of the feed's.
pub(crate) fn check(at: Option<&dyn Snapshot>, plan: &WritePlan) -> Result<()> {
    match reserved(plan.schema.fields().iter().map(|f| f.name().as_str())) {
        Some(name) if is_on(at, plan) => Err(feed_column(name)),
        _ => Ok(()),
    }
}

impl Work<'_> {
    /// Writes the change files. `before` are the files that lose rows; `skip_unchanged` as in the rewrite.
    pub(super) async fn feed(
        &self,
        feed: FeedSql,
        before: FileSet,
        skip_unchanged: bool,
        done: &mut Done,
    ) -> Result<()> {
        self.phase(Phase::Writing);
        self.engine.register(&RelationName::bare(BEFORE)?, Relation::Files(before)).await?;
        let query = Query::new(feed.sql).with_output(feed.output).with_joins_as_written(true);
        let rows = self.engine.query(&query).await?;
        let split = Split::new(rows.schema(), feed.set, skip_unchanged);
        let tally = Arc::clone(&split.tally);
        let rows = rows.map_batches(Arc::clone(&split.schema), move |batch| split.split(&batch));
        let staged = self.store.stage(self.cx, self.at.as_ref(), &self.spec().for_change_data(), rows).await?;
        done.staged.change_files = staged.files;
        tally.check(done)
    }
}

/// How many changes of each kind a feed has.
#[derive(Debug, Default)]
struct Tally {
    inserted: AtomicU64,
    updated: AtomicU64,
    deleted: AtomicU64,
}

impl Tally {
    fn check(&self, done: &Done) -> Result<()> {
        let counts = &done.counts;
        for (what, in_feed, written) in [
            ("inserts", &self.inserted, Some(counts.inserted)),
            ("updates", &self.updated, Some(counts.updated)),
            ("deletes", &self.deleted, counts.deleted),
        ] {
            let in_feed = in_feed.load(Ordering::Relaxed);
            if written.is_some_and(|written| written != in_feed) {
                return Err(Error::internal(format!(
                    "the change data feed has {in_feed} {what} where {} rows were written; the table is as it was",
                    written.unwrap_or_default()
                )));
            }
        }
        Ok(())
    }
}

/// Makes change data of a feed's rows: two rows of each update that changes something, one of everything else.
struct Split {
    /// The schema of change data.
    schema: SchemaRef,
    /// The columns that updates set; their new values come in this order after the table's columns.
    set: Vec<usize>,
    skip_unchanged: bool,
    tally: Arc<Tally>,
}

impl Split {
    fn new(rows: &SchemaRef, set: Vec<usize>, skip_unchanged: bool) -> Self {
        let table = rows.fields().len() - 1 - set.len();
        let mut fields: Vec<Arc<Field>> = rows.fields().iter().skip(1).take(table).cloned().collect();
        fields.push(Arc::new(Field::new(CHANGE_TYPE, DataType::Utf8, true)));
        Self { schema: Arc::new(Schema::new(fields)), set, skip_unchanged, tally: Arc::default() }
    }

    fn split(&self, batch: &RecordBatch) -> Result<RecordBatch> {
        let table = self.schema.fields().len() - 1;
        let kinds = batch.column(0).as_primitive::<Int8Type>();
        let (old, new) = batch.columns()[1..].split_at(table);
        let compared = self.set.iter().zip(new).filter(|_| self.skip_unchanged);
        let same: Vec<_> = compared.map(|(at, new)| equality(&old[*at], new)).collect();
        let (mut inserted, mut updated, mut deleted) = (0, 0, 0);
        // For each row of the feed: 0 for the columns as they were (or of a row that is no update), 1 as they are; and the row.
        let mut from: Vec<(usize, usize)> = Vec::with_capacity(batch.num_rows());
        let mut types: Vec<&str> = Vec::with_capacity(batch.num_rows());
        for (row, kind) in kinds.values().iter().enumerate() {
            match *kind {
                CHANGE_UPDATE if self.skip_unchanged && same.iter().all(|same| same(row, row)) => {}
                CHANGE_UPDATE => {
                    from.extend([(0, row), (1, row)]);
                    types.extend(["update_preimage", "update_postimage"]);
                    updated += 1;
                }
                CHANGE_DELETE => {
                    from.push((0, row));
                    types.push("delete");
                    deleted += 1;
                }
                CHANGE_INSERT => {
                    from.push((0, row));
                    types.push("insert");
                    inserted += 1;
                }
                other => return Err(Error::internal(format!("a change of the unknown kind {other}"))),
            }
        }
        let failed = |e| Error::internal("change data cannot be put together").with_source(e);
        let as_it_is = from.len() == batch.num_rows() && updated == 0;
        let mut columns: Vec<ArrayRef> = Vec::with_capacity(table + 1);
        for (at, before) in old.iter().enumerate() {
            let after = self.set.iter().position(|set| *set == at).map_or(before, |n| &new[n]);
            columns.push(match as_it_is {
                true => Arc::clone(before),
                false => interleave(&[before.as_ref() as &dyn Array, after.as_ref()], &from).map_err(failed)?,
            });
        }
        columns.push(Arc::new(StringArray::from(types)));
        for (counter, n) in
            [(&self.tally.inserted, inserted), (&self.tally.updated, updated), (&self.tally.deleted, deleted)]
        {
            counter.fetch_add(n, Ordering::Relaxed);
        }
        RecordBatch::try_new(Arc::clone(&self.schema), columns).map_err(failed)
    }
}

/// Some files of a set, renumbered.
pub(super) fn subset(set: &FileSet, files: &[usize]) -> FileSet {
    let mut part = set.clone();
    part.files = files.iter().map(|f| set.files[*f].clone()).collect();
    let indices = arrow::array::UInt64Array::from_iter_values(files.iter().map(|f| *f as u64));
    part.partition_values = set
        .partition_values
        .iter()
        .map(|values| arrow::compute::take(values, &indices, None).unwrap_or_else(|_| values.slice(0, 0)))
        .collect();
    part
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{Float64Array, Int8Array, Int64Array};

    /// What the rewriter leaves alone is not in the feed, and what it does not compare is.
    #[test]
    fn updates_become_two_rows_and_unchanged_ones_none() {
        let field = |name: &str, ty: DataType| Field::new(name, ty, true);
        let schema = Arc::new(Schema::new(vec![
            field("kind", DataType::Int8),
            field("id", DataType::Int64),
            field("x", DataType::Float64),
            field("new", DataType::Float64),
        ]));
        let kinds = vec![CHANGE_UPDATE, CHANGE_UPDATE, CHANGE_UPDATE, CHANGE_DELETE, CHANGE_INSERT, CHANGE_UPDATE];
        let batch = RecordBatch::try_new(
            Arc::clone(&schema),
            vec![
                Arc::new(Int8Array::from(kinds)),
                Arc::new(Int64Array::from_iter_values(0..6)),
                Arc::new(Float64Array::from(vec![Some(0.0), Some(f64::NAN), None, Some(3.0), Some(4.0), Some(5.0)])),
                Arc::new(Float64Array::from(vec![Some(-0.0), Some(-f64::NAN), None, None, None, None])),
            ],
        )
        .unwrap();
        for (skip_unchanged, ids) in [(true, vec![0, 0, 3, 4, 5, 5]), (false, vec![0, 0, 1, 1, 2, 2, 3, 4, 5, 5])] {
            let split = Split::new(&schema, vec![1], skip_unchanged);
            let out = split.split(&batch).unwrap();
            assert_eq!(out.column(0).as_primitive::<arrow::datatypes::Int64Type>().values().to_vec(), ids);
            let kinds = out.column(2).as_string::<i32>();
            let last: Vec<_> = (out.num_rows() - 4..out.num_rows()).map(|i| kinds.value(i)).collect();
            assert_eq!(last, ["delete", "insert", "update_preimage", "update_postimage"]);
            assert!(out.column(1).is_null(out.num_rows() - 1), "the new value");
            assert_eq!(split.tally.updated.load(Ordering::Relaxed), if skip_unchanged { 2 } else { 4 });
        }
    }
}
