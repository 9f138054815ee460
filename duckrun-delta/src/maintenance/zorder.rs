//! Z-order: rows along a space-filling curve over some columns, so that files and row groups hold narrow ranges of all of them.
//!
//! Every value becomes a rank among sampled values of its column, the ranks' bits are interleaved, rows are sorted by that. The
//! sample makes skewed columns count as much as even ones; it is taken at fixed distances, so the same files give the same order.

use std::sync::Arc;

use arrow::array::{Array as _, ArrayRef, AsArray, RecordBatch};
use arrow::compute::kernels::substring::{substring, substring_by_char};
use arrow::datatypes::DataType;
use arrow::row::{OwnedRow, RowConverter, SortField};
use duckrun_core::{BatchStream, Error, Result, RunContext, Snapshot as _};
use futures::StreamExt;

use super::sort;
use crate::snapshot::DeltaSnapshot;

/// Columns of a curve at most: each takes [`BITS`] of the key.
const MAX_COLUMNS: usize = 8;
const BITS: u32 = 16;

/// Sampled values of a column at most.
const SAMPLES: usize = 1 << 14;

/// How much of a text or binary counts.
const PREFIX: u64 = 64;

/// Refuses columns that have no order, or only one value in a partition.
pub(super) fn check(snapshot: &DeltaSnapshot, columns: &[String]) -> Result<()> {
    let mut problems = Vec::new();
    if columns.is_empty() || columns.len() > MAX_COLUMNS {
        problems.push(format!("a z-order takes 1 to {MAX_COLUMNS} columns, not {}", columns.len()));
    }
    let schema = snapshot.schema();
    for (i, column) in columns.iter().enumerate() {
        match schema.field_with_name(column) {
            Err(_) => problems.push(format!("the table has no column {column:?} to order by")),
            Ok(field) if field.data_type().is_nested() => {
                problems.push(format!("the column {column:?} is nested and has no order"));
            }
            Ok(_) if snapshot.partition_columns().contains(column) => {
                problems
                    .push(format!("{column:?} is a partition column, the same in all rows that are ordered together"));
            }
            Ok(_) if columns[..i].contains(column) => problems.push(format!("the column {column:?} is named twice")),
            Ok(_) => {}
        }
    }
    Error::problems(problems).map_or(Ok(()), Err)
}

/// The ranks of the columns' values.
#[derive(Debug)]
pub(super) struct Curve {
    axes: Vec<Axis>,
}

#[derive(Debug)]
struct Axis {
    converter: RowConverter,
    /// Distinct sampled values, ascending.
    bounds: Vec<OwnedRow>,
}

/// Takes the ranks from a stream of the columns alone.
pub(super) async fn sample(mut rows: BatchStream) -> Result<Curve> {
    let types: Vec<DataType> = rows.schema().fields().iter().map(|f| f.data_type().clone()).collect();
    let mut sampler = Sampler::new(&types)?;
    while let Some(batch) = rows.next().await {
        sampler.take(&batch?)?;
    }
    Ok(sampler.finish())
}

struct Sampler {
    axes: Vec<(RowConverter, Vec<OwnedRow>)>,
    /// Every so manieth row is taken.
    stride: usize,
    next: usize,
}

impl Sampler {
    fn new(types: &[DataType]) -> Result<Self> {
        let axis = |t: &DataType| Ok((RowConverter::new(vec![SortField::new(t.clone())]).map_err(broken)?, Vec::new()));
        Ok(Self { axes: types.iter().map(axis).collect::<Result<_>>()?, stride: 1, next: 0 })
    }

    fn take(&mut self, batch: &RecordBatch) -> Result<()> {
        let mut at = self.next;
        let picked: Vec<u32> = std::iter::from_fn(|| {
            let row = at;
            at += self.stride;
            (row < batch.num_rows()).then_some(row as u32)
        })
        .collect();
        self.next = self.next + picked.len() * self.stride - batch.num_rows();
        let picked = arrow::array::UInt32Array::from(picked);
        for ((converter, sample), column) in self.axes.iter_mut().zip(batch.columns()) {
            let values = arrow::compute::take(column, &picked, None).map_err(broken)?;
            let rows = converter.convert_columns(&[prefix(&values)?]).map_err(broken)?;
            sample.extend(rows.iter().map(|r| r.owned()));
        }
        // Too many: every second one goes, and is not taken any more.
        while self.axes.first().is_some_and(|(_, sample)| sample.len() > SAMPLES) {
            self.stride *= 2;
            for (_, sample) in &mut self.axes {
                let mut odd = false;
                sample.retain(|_| {
                    odd = !odd;
                    odd
                });
            }
        }
        Ok(())
    }

    fn finish(self) -> Curve {
        let axis = |(converter, mut bounds): (RowConverter, Vec<OwnedRow>)| {
            bounds.sort_unstable();
            bounds.dedup();
            Axis { converter, bounds }
        };
        Curve { axes: self.axes.into_iter().map(axis).collect() }
    }
}

impl Curve {
    /// The place of every row on the curve.
    pub(super) fn keys(&self, columns: &[ArrayRef]) -> Result<Vec<u128>> {
        let mut keys = vec![0_u128; columns.first().map_or(0, |c| c.len())];
        let count = self.axes.len() as u32;
        for (number, (axis, column)) in (0..).zip(self.axes.iter().zip(columns)) {
            let rows = axis.converter.convert_columns(&[prefix(column)?]).map_err(broken)?;
            let (ranks, nulls) = (axis.bounds.len() as u64 + 2, column.logical_nulls());
            for (i, (key, row)) in keys.iter_mut().zip(rows.iter()).enumerate() {
                let rank = match &nulls {
                    Some(nulls) if nulls.is_null(i) => 0,
                    _ => 1 + axis.bounds.partition_point(|bound| bound.row() <= row) as u64,
                };
                // Ranks fill the bits, so that a column of few values decides as early as one of many.
                let rank = (rank << BITS) / ranks;
                for bit in 0..BITS {
                    if rank >> (BITS - 1 - bit) & 1 == 1 {
                        *key |= 1 << (127 - bit * count - number);
                    }
                }
            }
        }
        Ok(keys)
    }
}

/// The rows along the curve; `positions` are the columns' in the stream.
pub(super) async fn sorted(
    cx: &RunContext,
    curve: Curve,
    positions: Vec<usize>,
    rows: BatchStream,
) -> Result<BatchStream> {
    let curve = Arc::new(curve);
    sort::sorted(cx, rows, move |batch| {
        let columns: Vec<ArrayRef> = positions.iter().map(|p| Arc::clone(batch.column(*p))).collect();
        curve.keys(&columns)
    })
    .await
}

/// Long values by their beginning: they are compared, sampled and kept many times.
fn prefix(array: &ArrayRef) -> Result<ArrayRef> {
    match array.data_type() {
        DataType::Utf8 => substring_by_char(array.as_string::<i32>(), 0, Some(PREFIX))
            .map(|a| Arc::new(a) as ArrayRef)
            .map_err(broken),
        DataType::Binary => substring(array.as_ref(), 0, Some(PREFIX)).map_err(broken),
        _ => Ok(Arc::clone(array)),
    }
}

fn broken(e: arrow::error::ArrowError) -> Error {
    Error::internal(format!("rows cannot be placed on the curve: {e}")).with_source(e)
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{Int64Array, StringArray};
    use arrow::datatypes::{Field, Schema};

    async fn curve(columns: Vec<ArrayRef>) -> Curve {
        let fields: Vec<Field> =
            columns.iter().enumerate().map(|(i, c)| Field::new(i.to_string(), c.data_type().clone(), true)).collect();
        let schema = Arc::new(Schema::new(fields));
        let batch = RecordBatch::try_new(schema.clone(), columns).unwrap();
        let batches = (0..batch.num_rows()).step_by(1000).map(|at| batch.slice(at, 1000.min(batch.num_rows() - at)));
        sample(BatchStream::from_batches(schema, batches.collect())).await.unwrap()
    }

    #[tokio::test]
    async fn one_column_is_ordered_as_it_is() {
        let values: ArrayRef = Arc::new((0..100_000).map(|n| (n % 7 != 0).then_some(n / 3)).collect::<Int64Array>());
        let curve = curve(vec![values.clone()]).await;
        assert!(curve.axes[0].bounds.len() > SAMPLES / 4 && curve.axes[0].bounds.len() <= SAMPLES);
        let keys = curve.keys(std::slice::from_ref(&values)).unwrap();
        let values = values.as_primitive::<arrow::datatypes::Int64Type>();
        let mut rows: Vec<usize> = (0..keys.len()).collect();
        rows.sort_by_key(|i| keys[*i]);
        let ordered: Vec<Option<i64>> =
            rows.iter().map(|i| arrow::array::Array::is_valid(values, *i).then(|| values.value(*i))).collect();
        // NULLs come first; values that share a rank are near each other.
        assert_eq!(ordered.iter().take_while(|v| v.is_none()).count(), 100_000 / 7 + 1);
        let far = ordered.windows(2).filter(|w| w[0].zip(w[1]).is_some_and(|(a, b)| a > b + 16)).count();
        assert_eq!(far, 0);
    }

    #[tokio::test]
    async fn columns_count_alike_whatever_their_spread() {
        let n = 40_000_u64;
        let hash = |i: u64| i.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 40;
        // One column of few values, one of skewed ones, as texts with a long common beginning that is within the prefix.
        let few: ArrayRef = Arc::new((0..n).map(|i| Some(hash(i) as i64 % 4)).collect::<Int64Array>());
        let skewed: ArrayRef = Arc::new(
            (0..n)
                .map(|i| Some(format!("https://example.com/{:020}", (hash(i + n) % 1000).pow(4))))
                .collect::<StringArray>(),
        );
        let curve = curve(vec![few.clone(), skewed.clone()]).await;
        let keys = curve.keys(&[few.clone(), skewed.clone()]).unwrap();
        let mut rows: Vec<usize> = (0..keys.len()).collect();
        rows.sort_by_key(|i| keys[*i]);
        let few = few.as_primitive::<arrow::datatypes::Int64Type>();
        let skewed = skewed.as_string::<i32>();
        // Of 16 equal pieces of the curve, each holds one value of the first column and a quarter of the second's.
        let (mut distinct, mut share) = (0, 0);
        for piece in rows.chunks(n as usize / 16) {
            let a: std::collections::BTreeSet<i64> = piece.iter().map(|i| few.value(*i)).collect();
            let b: std::collections::BTreeSet<&str> = piece.iter().map(|i| skewed.value(*i)).collect();
            distinct += a.len();
            share += b.len();
        }
        assert!(distinct <= 16 * 2, "{distinct}");
        assert!(share <= 16 * 400, "{share}");
    }
}
