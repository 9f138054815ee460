//! Rows waiting to become row groups: one buffer for each partition, in the order of the rows.
//!
//! The invariant: [`Gather::held`] is the memory of everything that waits here; the caller cuts the largest buffer when its
//! share is used up, so many partitions make row groups smaller, never memory larger.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, RecordBatch, UInt32Array};
use arrow::compute::{concat, take};
use duckrun_core::{Error, Result};

use super::encode::Chunk;
use super::layout::Layout;
use super::partition::{Partition, Splitter};

/// What an array costs beside its values: allocations, `Arc`s, pointers.
const ARRAY_OVERHEAD: u64 = 192;

/// Rows that are split by partition at a time: small batches over many partitions would be mostly overhead.
const SPLIT_ROWS: usize = 32_768;

/// A row group's worth of rows of one partition.
#[derive(Debug)]
pub(super) struct Ready {
    pub(super) partition: usize,
    pub(super) chunk: Chunk,
    /// Memory of the rows.
    pub(super) bytes: u64,
}

#[derive(Debug, Default)]
struct Buffer {
    pieces: Vec<Vec<ArrayRef>>,
    rows: usize,
    bytes: u64,
}

/// The buffers.
#[derive(Debug)]
pub(super) struct Gather {
    layout: Arc<Layout>,
    splitter: Option<Splitter>,
    waiting: Vec<RecordBatch>,
    waiting_rows: usize,
    buffers: HashMap<usize, Buffer>,
    held: u64,
    rows_limit: usize,
    bytes_limit: u64,
}

impl Gather {
    pub(super) fn new(layout: Arc<Layout>, splitter: Option<Splitter>, rows: usize, bytes: u64) -> Self {
        Self {
            layout,
            splitter,
            waiting: Vec::new(),
            waiting_rows: 0,
            buffers: HashMap::new(),
            held: 0,
            rows_limit: rows.max(1),
            bytes_limit: bytes.max(1),
        }
    }

    /// The memory of all rows that wait.
    pub(super) fn held(&self) -> u64 {
        self.held
    }

    /// The values of a partition.
    pub(super) fn partition(&self, number: usize) -> Partition {
        match &self.splitter {
            Some(splitter) => splitter.partitions[number].clone(),
            None => Partition { values: std::collections::BTreeMap::new(), folder: String::new() },
        }
    }

    /// Takes a batch; what became a full row group is pushed to `ready`.
    pub(super) fn push(&mut self, batch: &RecordBatch, ready: &mut impl Extend<Ready>) -> Result<()> {
        if batch.num_rows() == 0 {
            return Ok(());
        }
        if self.splitter.is_none() {
            let columns = self.layout.columns.iter().map(|c| Arc::clone(batch.column(c.position))).collect();
            return self.fill(0, columns, batch.num_rows(), ready);
        }
        self.held += bytes_of(batch.columns());
        self.waiting_rows += batch.num_rows();
        self.waiting.push(batch.clone());
        if self.waiting_rows >= SPLIT_ROWS || self.held > self.bytes_limit / 4 { self.split(ready) } else { Ok(()) }
    }

    /// Splits what waits by partition.
    fn split(&mut self, ready: &mut impl Extend<Ready>) -> Result<()> {
        let batches = std::mem::take(&mut self.waiting);
        self.waiting_rows = 0;
        for batch in &batches {
            self.held = self.held.saturating_sub(bytes_of(batch.columns()));
        }
        let (Some(splitter), Some(first)) = (&mut self.splitter, batches.first()) else { return Ok(()) };
        let batch = arrow::compute::concat_batches(first.schema_ref(), &batches).map_err(split_error)?;
        drop(batches);
        let numbers = splitter.split(&self.layout.partitions, &batch)?;
        // Rows of each partition in their order; partitions in the order in which they occur.
        let mut order: Vec<usize> = Vec::new();
        let mut rows: HashMap<usize, Vec<u32>> = HashMap::new();
        for (row, number) in numbers.into_iter().enumerate() {
            rows.entry(number)
                .or_insert_with(|| {
                    order.push(number);
                    Vec::new()
                })
                .push(row as u32);
        }
        for number in order {
            let Some(rows) = rows.remove(&number) else { continue };
            let count = rows.len();
            let columns = self.layout.columns.iter().map(|c| batch.column(c.position));
            let columns: Vec<ArrayRef> = if count == batch.num_rows() {
                columns.map(Arc::clone).collect()
            } else {
                let rows = UInt32Array::from(rows);
                columns.map(|c| take(c, &rows, None)).collect::<Result<_, _>>().map_err(split_error)?
            };
            self.fill(number, columns, count, ready)?;
        }
        Ok(())
    }

    /// Adds rows to a partition's buffer, cutting full row groups off.
    fn fill(
        &mut self,
        number: usize,
        columns: Vec<ArrayRef>,
        rows: usize,
        ready: &mut impl Extend<Ready>,
    ) -> Result<()> {
        let mut from = 0;
        while from < rows {
            let buffer = self.buffers.entry(number).or_default();
            let count = (self.rows_limit - buffer.rows).min(rows - from);
            let whole = count == rows;
            let piece: Vec<ArrayRef> =
                columns.iter().map(|c| if whole { Arc::clone(c) } else { c.slice(from, count) }).collect();
            let bytes = bytes_of(&piece);
            buffer.pieces.push(piece);
            buffer.rows += count;
            buffer.bytes += bytes;
            self.held += bytes;
            from += count;
            if buffer.rows >= self.rows_limit || buffer.bytes >= self.bytes_limit {
                ready.extend(self.cut(number));
            }
        }
        Ok(())
    }

    fn cut(&mut self, number: usize) -> Option<Ready> {
        let buffer = self.buffers.remove(&number)?;
        self.held = self.held.saturating_sub(buffer.bytes);
        let mut columns: Vec<Vec<ArrayRef>> =
            self.layout.columns.iter().map(|_| Vec::with_capacity(buffer.pieces.len())).collect();
        for piece in buffer.pieces {
            for (column, array) in columns.iter_mut().zip(piece) {
                column.push(array);
            }
        }
        Some(Ready { partition: number, chunk: Chunk { columns, rows: buffer.rows }, bytes: buffer.bytes })
    }

    /// Cuts the largest buffer, full or not: memory is needed.
    pub(super) fn cut_largest(&mut self, ready: &mut impl Extend<Ready>) -> Result<()> {
        self.split(ready)?;
        if let Some(number) = self.buffers.iter().max_by_key(|(_, b)| b.bytes).map(|(n, _)| *n) {
            ready.extend(self.cut(number));
        }
        Ok(())
    }

    /// Cuts everything, in the order of the partitions: the rows have ended.
    pub(super) fn finish(&mut self, ready: &mut impl Extend<Ready>) -> Result<()> {
        self.split(ready)?;
        let mut numbers: Vec<usize> = self.buffers.keys().copied().collect();
        numbers.sort_unstable();
        for number in numbers {
            ready.extend(self.cut(number));
        }
        Ok(())
    }
}

fn split_error(e: arrow::error::ArrowError) -> Error {
    Error::internal(format!("rows could not be split by partition: {e}")).with_source(e)
}

/// The memory of the rows that arrays show, whatever larger buffers they are slices of.
pub(crate) fn bytes_of(columns: &[ArrayRef]) -> u64 {
    columns
        .iter()
        .map(|c| {
            c.to_data().get_slice_memory_size().unwrap_or_else(|_| c.get_array_memory_size()) as u64 + ARRAY_OVERHEAD
        })
        .sum()
}

/// Many small pieces as one, where they are too small to be encoded one by one (rows scattered over many partitions).
pub(super) fn joined(pieces: Vec<ArrayRef>, rows: usize) -> Result<Vec<ArrayRef>> {
    if pieces.len() < 2 || pieces.len() * 256 < rows {
        return Ok(pieces);
    }
    let refs: Vec<&dyn Array> = pieces.iter().map(AsRef::as_ref).collect();
    Ok(vec![concat(&refs).map_err(split_error)?])
}
