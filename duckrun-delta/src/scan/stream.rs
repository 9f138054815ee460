//! A file's rows as a stream of batches, without those under its deletion vector.

use std::ops::Range;
use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, RecordBatch};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use duckrun_core::{BatchStream, Error, ROW_NUMBER, Result, RunContext};
use parquet::arrow::arrow_reader::RowSelection;
use tokio::sync::mpsc::{Receiver, channel};
use tokio::task::JoinHandle;

use super::OpenFile;
use super::source::stopped;

/// Batches decoded ahead of the consumer.
const AHEAD: usize = 2;

/// What one stream reads.
struct Reading {
    file: OpenFile,
    cx: RunContext,
    columns: Vec<usize>,
    schema: SchemaRef,
    batch_rows: usize,
    row_numbers: bool,
    next: usize,
    group: Option<Group>,
}

/// A row group that is being decoded.
struct Group {
    batches: Receiver<Result<Vec<ArrayRef>>>,
    decoder: JoinHandle<()>,
    /// Rows that are left, as ranges.
    left: std::vec::IntoIter<Range<u64>>,
    range: Range<u64>,
    rows: usize,
}

impl OpenFile {
    /// The live rows of the file: `columns` by their positions in the table, in this order, then
    /// [`ROW_NUMBER`] if `row_numbers` (rows under the deletion vector are counted, but do not come).
    ///
    /// One row group at a time is held compressed, and a few batches decoded. Dropping the stream stops the decoder.
    pub(crate) fn stream(
        &self,
        cx: &RunContext,
        columns: &[usize],
        batch_rows: usize,
        row_numbers: bool,
    ) -> BatchStream {
        let mut fields: Vec<Arc<Field>> = columns.iter().map(|c| Arc::clone(self.field(*c))).collect();
        if row_numbers {
            fields.push(Arc::new(Field::new(ROW_NUMBER, DataType::Int64, false)));
        }
        let schema = Arc::new(Schema::new(fields));
        let reading = Reading {
            file: self.clone(),
            cx: cx.clone(),
            columns: columns.to_vec(),
            schema: Arc::clone(&schema),
            batch_rows,
            row_numbers,
            next: 0,
            group: None,
        };
        BatchStream::new(schema, futures::stream::try_unfold(reading, Reading::step))
    }

    /// The rows of a range that are not under the deletion vector, as ranges within the file.
    pub(crate) fn live_in(&self, rows: &Range<u64>) -> Vec<Range<u64>> {
        let mut live = Vec::new();
        let mut from = rows.start;
        for gone in self.deleted_in(rows) {
            live.push(from..*gone);
            from = gone + 1;
        }
        live.push(from..rows.end);
        live.retain(|r| !r.is_empty());
        live
    }
}

impl Reading {
    async fn step(mut self) -> Result<Option<(RecordBatch, Self)>> {
        loop {
            self.cx.check()?;
            match &mut self.group {
                Some(group) => {
                    let batch = tokio::select! {
                        biased;
                        () = self.cx.cancellation().cancelled() => return Err(Error::cancelled()),
                        batch = group.batches.recv() => batch,
                    };
                    match batch {
                        Some(batch) => {
                            let batch = self.batch(batch?)?;
                            return Ok(Some((batch, self)));
                        }
                        None => self.end_of_group().await?,
                    }
                }
                None if self.next == self.file.row_groups() => return Ok(None),
                None => self.begin().await?,
            }
        }
    }

    async fn begin(&mut self) -> Result<()> {
        let row_group = self.next;
        self.next += 1;
        let rows = self.file.rows_of(row_group);
        let live = self.file.live_in(&rows);
        if live.is_empty() {
            return Ok(());
        }
        let all = (rows.end - rows.start) as usize;
        let count = live.iter().map(|r| (r.end - r.start) as usize).sum();
        let selection = (count < all).then(|| {
            let within = live.iter().map(|r| (r.start - rows.start) as usize..(r.end - rows.start) as usize);
            RowSelection::from_consecutive_ranges(within, all)
        });
        let fetched = self.file.fetch(row_group, &self.columns).await?;
        let (send, batches) = channel(AHEAD);
        let (file, columns, batch_rows) = (self.file.clone(), self.columns.clone(), self.batch_rows);
        let decoder = tokio::task::spawn_blocking(move || {
            let pieces = match file.decode(fetched, row_group, &columns, batch_rows, selection) {
                Ok(pieces) => pieces,
                Err(e) => return drop(send.blocking_send(Err(e))),
            };
            for piece in pieces {
                let failed = piece.is_err();
                // Nobody listens any more: the stream was dropped.
                if send.blocking_send(piece).is_err() || failed {
                    return;
                }
            }
        });
        self.group = Some(Group { batches, decoder, left: live.into_iter(), range: 0..0, rows: count });
        Ok(())
    }

    fn batch(&mut self, mut arrays: Vec<ArrayRef>) -> Result<RecordBatch> {
        let Some(group) = &mut self.group else { return Err(Error::internal("a batch of no row group")) };
        let rows = match arrays.first() {
            Some(first) => first.len(),
            None => group.rows.min(self.batch_rows.max(1)),
        };
        group.rows = group.rows.checked_sub(rows).ok_or_else(|| Error::internal("more rows than were selected"))?;
        if self.row_numbers {
            let numbers: Int64Array = (0..rows).filter_map(|_| group.number()).map(|n| n as i64).collect();
            arrays.push(Arc::new(numbers));
        }
        let options = arrow::array::RecordBatchOptions::new().with_row_count(Some(rows));
        RecordBatch::try_new_with_options(Arc::clone(&self.schema), arrays, &options).map_err(|e| {
            Error::corrupt(format!("the file {} does not have the table's columns: {e}", self.file.name()))
                .with_source(e)
        })
    }

    async fn end_of_group(&mut self) -> Result<()> {
        let Some(group) = self.group.take() else { return Ok(()) };
        group.decoder.await.map_err(stopped)?;
        match group.rows {
            0 => Ok(()),
            rows => Err(Error::internal(format!("{rows} rows of {} did not come", self.file.name()))),
        }
    }
}

impl Group {
    /// The number of the next live row.
    fn number(&mut self) -> Option<u64> {
        loop {
            if let Some(number) = self.range.next() {
                return Some(number);
            }
            self.range = self.left.next()?;
        }
    }
}
