//! Sorting rows by keys in bounded memory: runs that fit are sorted and spilled, then merged.
//!
//! Rows of equal keys keep their order. Spilled runs are parquet files in the run's spill directory, whose cap they respect; they
//! are gone with the stream.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, FixedSizeBinaryArray, RecordBatch, UInt32Array};
use arrow::compute::{interleave_record_batch, take_record_batch};
use arrow::datatypes::{DataType, Field, Schema};
use duckrun_core::{BatchStream, Error, ErrorKind, Result, RunContext};
use futures::StreamExt;
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::{ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder};
use parquet::basic::Compression;
use parquet::errors::ParquetError;
use parquet::file::properties::WriterProperties;
use tokio::sync::mpsc::{Receiver, Sender};

use super::rewrite::BATCH_ROWS;
use crate::error::io_error;

/// Memory for rows at least.
const LEAST: u64 = 8 << 20;

/// The rows of a spilled run's row group.
const GROUP_ROWS: usize = 32_768;

/// The bytes of a spilled page, and how often its size is looked at. All runs are open at once when they are merged, and each holds
/// a page of every column, compressed and not.
const PAGE_BYTES: usize = 64 << 10;
const PAGE_ROWS: usize = 256;

/// The column of the keys in spilled runs.
const KEY: &str = "__duckrun_key";

/// The rows by ascending keys. Everything has been read when this returns; what it holds is sorted while it is pulled.
///
/// One thread does all of it, and copies what it holds: batches come from many threads, and glibc keeps what was freed of
/// each thread's memory for that thread.
pub(super) async fn sorted(
    cx: &RunContext,
    mut rows: BatchStream,
    keys: impl Fn(&RecordBatch) -> Result<Vec<u128>> + Send + 'static,
) -> Result<BatchStream> {
    let schema = rows.schema().clone();
    let memory = cx.memory();
    // The engine does not run meanwhile, so its share is free; the writer has its own. The rest is for batches on their way,
    // and for what the allocator has not given back.
    let budget = ((memory.engine + memory.delta_rs) / 4).max(LEAST);
    let (feed, incoming) = tokio::sync::mpsc::channel(2);
    let (send, receive) = tokio::sync::mpsc::channel(2);
    let sorting = cx.clone();
    let task = tokio::task::spawn_blocking(move || {
        if let Err(e) = sort(&sorting, incoming, budget, keys, &send) {
            // Where nobody listens any more the stream was dropped.
            let _ = send.blocking_send(Err(e));
        }
    });
    while let Some(batch) = rows.next().await {
        // A thread that has ended says why in its own stream.
        if feed.send(Some(batch?)).await.is_err() {
            break;
        }
    }
    let _ = feed.send(None).await;
    let batches = futures::stream::unfold((receive, Some(task)), |(mut receive, mut task)| async move {
        if let Some(batch) = receive.recv().await {
            return Some((batch, (receive, task)));
        }
        // The end is only an end if the thread says so.
        match task.take()?.await {
            Ok(()) => None,
            Err(e) => Some((Err(Error::internal("sorting stopped").with_source(e)), (receive, None))),
        }
    });
    Ok(BatchStream::new(schema, batches))
}

/// Takes batches until `None` comes, and sends them in order. A feeder that goes before that has failed or was dropped.
fn sort(
    cx: &RunContext,
    mut incoming: Receiver<Option<RecordBatch>>,
    budget: u64,
    keys: impl Fn(&RecordBatch) -> Result<Vec<u128>>,
    send: &Sender<Result<RecordBatch>>,
) -> Result<()> {
    let mut held = Held::default();
    let mut spilled: Option<Spilled> = None;
    loop {
        let batch = match incoming.blocking_recv() {
            Some(Some(batch)) => batch,
            Some(None) => break,
            None => return Ok(()),
        };
        let rows = batch.num_rows();
        if rows == 0 {
            continue;
        }
        let all = UInt32Array::from_iter_values(0..rows as u32);
        let batch = take_record_batch(&batch, &all).map_err(broken)?;
        let bytes = batch.get_array_memory_size() as u64 + 40 * rows as u64;
        if held.bytes > 0 && held.bytes + bytes > budget {
            spill(cx, &mut spilled, &mut held)?;
        }
        held.push(keys(&batch)?, batch, bytes);
    }
    let pass = |batch| send.blocking_send(batch).is_ok();
    match spilled {
        None => held.emit(BATCH_ROWS, |batch| Ok(pass(Ok(batch)))).map(drop),
        some => {
            let mut spilled = some;
            spill(cx, &mut spilled, &mut held)?;
            spilled.map_or(Ok(()), |spilled| merge(&spilled, budget, &pass))
        }
    }
}

/// Rows in memory.
#[derive(Default)]
struct Held {
    batches: Vec<RecordBatch>,
    /// Key, batch, row.
    order: Vec<(u128, u32, u32)>,
    bytes: u64,
}

impl Held {
    fn push(&mut self, keys: Vec<u128>, batch: RecordBatch, bytes: u64) {
        let number = self.batches.len() as u32;
        self.order.extend((0..).zip(keys).map(|(row, key)| (key, number, row)));
        self.batches.push(batch);
        self.bytes += bytes;
    }

    /// The rows in order, some at a time; ends early where the consumer says so. Returns whether all have passed.
    fn emit(mut self, rows: usize, mut each: impl FnMut(RecordBatch) -> Result<bool>) -> Result<bool> {
        self.order.sort_unstable();
        let batches: Vec<&RecordBatch> = self.batches.iter().collect();
        for piece in self.order.chunks(rows) {
            let places: Vec<(usize, usize)> = piece.iter().map(|(_, b, r)| (*b as usize, *r as usize)).collect();
            if !each(interleave_record_batch(&batches, &places).map_err(broken)?)? {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

/// Runs on disk.
struct Spilled {
    folder: PathBuf,
    runs: Vec<PathBuf>,
    /// Bytes of a row in memory, on average.
    row_bytes: u64,
}

impl Drop for Spilled {
    fn drop(&mut self) {
        // The run's spill directory goes with the run in any case.
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// Writes what is held as one sorted run.
fn spill(cx: &RunContext, spilled: &mut Option<Spilled>, held: &mut Held) -> Result<()> {
    cx.check()?;
    let held = std::mem::take(held);
    let rows = held.order.len() as u64;
    if rows == 0 {
        return Ok(());
    }
    let dir = cx.spill().ok_or_else(|| {
        Error::new(
            ErrorKind::ResourceExhausted,
            "the rows to be ordered do not fit in memory, and the run has no spill directory",
        )
    })?;
    if let Some(cap) = dir.cap()
        && dir.used_bytes() + held.bytes / 2 > cap
    {
        let text = format!(
            "ordering the rows needs more than the {cap} bytes that may be spilled to {}",
            dir.path().display()
        );
        return Err(Error::new(ErrorKind::ResourceExhausted, text));
    }
    let spilled = match spilled {
        Some(spilled) => spilled,
        none => {
            let folder = dir.subdirectory(&format!("order-{}", uuid::Uuid::new_v4()))?;
            none.insert(Spilled { folder, runs: Vec::new(), row_bytes: 1 })
        }
    };
    spilled.row_bytes = spilled.row_bytes.max(held.bytes / rows);
    let path = spilled.folder.join(format!("{}.parquet", spilled.runs.len()));
    spilled.runs.push(path.clone());
    write_run(held, &path)
}

fn write_run(mut held: Held, path: &std::path::Path) -> Result<()> {
    let file = File::create_new(path).map_err(|e| io_error(e, format_args!("create {}", path.display())))?;
    let Some(first) = held.batches.first() else { return Ok(()) };
    let mut fields: Vec<_> = first.schema().fields().iter().cloned().collect();
    fields.push(Arc::new(Field::new(KEY, DataType::FixedSizeBinary(16), false)));
    let schema = Arc::new(Schema::new(fields));
    let properties = WriterProperties::builder()
        .set_compression(Compression::SNAPPY)
        .set_dictionary_enabled(false)
        .set_statistics_enabled(parquet::file::properties::EnabledStatistics::None)
        .set_max_row_group_row_count(Some(GROUP_ROWS))
        .set_data_page_size_limit(PAGE_BYTES)
        .set_write_batch_size(PAGE_ROWS)
        .build();
    let mut writer = ArrowWriter::try_new(file, schema.clone(), Some(properties)).map_err(spill_error)?;
    held.order.sort_unstable();
    let batches: Vec<&RecordBatch> = held.batches.iter().collect();
    for piece in held.order.chunks(BATCH_ROWS) {
        let places: Vec<(usize, usize)> = piece.iter().map(|(_, b, r)| (*b as usize, *r as usize)).collect();
        let rows = interleave_record_batch(&batches, &places).map_err(broken)?;
        let keys =
            FixedSizeBinaryArray::try_from_iter(piece.iter().map(|(key, ..)| key.to_be_bytes())).map_err(broken)?;
        let mut columns: Vec<ArrayRef> = rows.columns().to_vec();
        columns.push(Arc::new(keys));
        let batch = RecordBatch::try_new(schema.clone(), columns).map_err(broken)?;
        writer.write(&batch).map_err(spill_error)?;
    }
    writer.close().map_err(spill_error)?;
    Ok(())
}

/// One run while it is merged.
struct Cursor {
    reader: ParquetRecordBatchReader,
    keys: Vec<u128>,
    row: usize,
    /// Where its present batch is in the pool.
    slot: usize,
}

impl Cursor {
    /// The next batch without its keys; `None` at the end of the run.
    fn next(&mut self) -> Result<Option<RecordBatch>> {
        let Some(batch) = self.reader.next() else { return Ok(None) };
        let mut batch = batch.map_err(broken)?;
        let keys = batch.remove_column(batch.num_columns() - 1);
        let keys = keys.as_fixed_size_binary_opt().ok_or_else(|| Error::internal("a spilled run without keys"))?;
        let key = |i| <[u8; 16]>::try_from(keys.value(i)).map(u128::from_be_bytes);
        self.keys = (0..keys.len())
            .map(key)
            .collect::<std::result::Result<_, _>>()
            .map_err(|_| Error::internal("a spilled key of another length"))?;
        self.row = 0;
        Ok(Some(batch))
    }
}

fn merge(spilled: &Spilled, budget: u64, send: &dyn Fn(Result<RecordBatch>) -> bool) -> Result<()> {
    // Each run holds one batch, the output another few; together they stay in the budget.
    let share = budget / (2 * spilled.runs.len() as u64 + 4) / spilled.row_bytes.max(1);
    let rows = usize::try_from(share).unwrap_or(BATCH_ROWS).clamp(64, BATCH_ROWS);
    let mut cursors = Vec::with_capacity(spilled.runs.len());
    let mut pool: Vec<RecordBatch> = Vec::new();
    let mut heap = BinaryHeap::new();
    for path in &spilled.runs {
        let file = File::open(path).map_err(|e| io_error(e, format_args!("open {}", path.display())))?;
        let reader = ParquetRecordBatchReaderBuilder::try_new(file).map_err(spill_error)?;
        let reader = reader.with_batch_size(rows).build().map_err(spill_error)?;
        let mut cursor = Cursor { reader, keys: Vec::new(), row: 0, slot: pool.len() };
        if let Some(batch) = cursor.next()? {
            pool.push(batch);
            heap.push(Reverse((cursor.keys[0], cursors.len())));
            cursors.push(cursor);
        }
    }
    let mut places: Vec<(usize, usize)> = Vec::with_capacity(BATCH_ROWS);
    // By key, then by run: runs are in the order in which their rows came.
    while let Some(Reverse((_, number))) = heap.pop() {
        let cursor = &mut cursors[number];
        places.push((cursor.slot, cursor.row));
        cursor.row += 1;
        let mut ended = false;
        if cursor.row == cursor.keys.len() {
            match cursor.next()? {
                Some(batch) => {
                    cursor.slot = pool.len();
                    pool.push(batch);
                }
                None => ended = true,
            }
        }
        if !ended {
            heap.push(Reverse((cursor.keys[cursor.row], number)));
        }
        if places.len() >= rows || heap.is_empty() {
            let batches: Vec<&RecordBatch> = pool.iter().collect();
            let batch = interleave_record_batch(&batches, &places).map_err(broken)?;
            places.clear();
            if !send(Ok(batch)) {
                return Ok(());
            }
            // Only the present batch of each run is needed any more.
            let mut kept = Vec::with_capacity(cursors.len());
            for cursor in cursors.iter_mut() {
                kept.push(pool[cursor.slot].clone());
                cursor.slot = kept.len() - 1;
            }
            pool = kept;
        }
    }
    Ok(())
}

fn broken(e: arrow::error::ArrowError) -> Error {
    Error::internal(format!("rows cannot be sorted: {e}")).with_source(e)
}

fn spill_error(e: ParquetError) -> Error {
    Error::new(ErrorKind::ResourceExhausted, format!("sorted rows cannot be spilled: {e}")).with_source(e)
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{Int64Array, StringArray};
    use arrow::datatypes::{Int64Type, SchemaRef};
    use duckrun_memory::{EffectiveLimit, Job, MemorySample, MemorySettings, SpillDir, plan};

    /// A context whose rows must fit in [`LEAST`] bytes.
    fn tight(spill: Option<Arc<SpillDir>>) -> RunContext {
        let settings = MemorySettings::with_limit(2 << 30);
        let limit = EffectiveLimit::detect(&MemorySample::default(), &settings);
        let mut plan = plan(&limit, &settings, Job::Compact).unwrap();
        (plan.engine, plan.delta_rs) = (0, 0);
        RunContext::new(plan).with_spill(spill)
    }

    fn rows(count: i64) -> (SchemaRef, Vec<RecordBatch>) {
        let fields = vec![Field::new("n", DataType::Int64, true), Field::new("text", DataType::Utf8, true)];
        let schema = Arc::new(Schema::new(fields));
        let batch = |from: i64| {
            let n: Vec<i64> = (from..(from + 5_000).min(count)).collect();
            let text: StringArray = n.iter().map(|n| (n % 5 != 0).then(|| format!("row {n}"))).collect();
            RecordBatch::try_new(schema.clone(), vec![Arc::new(Int64Array::from(n)), Arc::new(text)]).unwrap()
        };
        (schema.clone(), (0..count).step_by(5_000).map(batch).collect())
    }

    /// Few distinct keys, so that the order of equal ones shows.
    fn key(n: i64) -> u128 {
        u128::from((n as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 54) << 90
    }

    fn keys(batch: &RecordBatch) -> Result<Vec<u128>> {
        Ok(batch.column(0).as_primitive::<Int64Type>().values().iter().map(|n| key(*n)).collect())
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn rows_come_out_in_order_whether_they_fit_or_not() {
        for (count, spills) in [(0, false), (20_000, false), (600_000, true)] {
            let settings = MemorySettings::default();
            let spill = Arc::new(SpillDir::create(&duckrun_memory::SpillPlan::new(&settings.spill, 1)).unwrap());
            let (schema, batches) = rows(count);
            let cx = tight(Some(spill.clone()));
            let rows = BatchStream::from_batches(schema, batches);
            let sorted = sorted(&cx, rows, keys).await.unwrap();
            assert_eq!(spill.used_bytes() > 1 << 20, spills);
            let mut expected: Vec<i64> = (0..count).collect();
            expected.sort_by_key(|n| key(*n));
            let mut have = Vec::new();
            for batch in sorted.collect().await.unwrap() {
                let texts = batch.column(1).as_string::<i32>();
                for (i, n) in batch.column(0).as_primitive::<Int64Type>().values().iter().enumerate() {
                    let text = texts.is_valid(i).then(|| texts.value(i).to_owned());
                    assert_eq!(text, (n % 5 != 0).then(|| format!("row {n}")));
                    have.push(*n);
                }
            }
            assert_eq!(have, expected);
            assert!(spill.used_bytes() < 1 << 20, "runs are gone with the stream");
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn without_a_place_to_spill_it_says_so() {
        let (schema, batches) = rows(600_000);
        let rows = sorted(&tight(None), BatchStream::from_batches(schema, batches), keys).await.unwrap();
        let error = rows.collect().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ResourceExhausted, "{error}");
    }
}
