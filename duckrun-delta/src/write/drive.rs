//! The loop of one write: pull rows while there is room, keep the encoders busy, append in order, roll files.
//!
//! The invariant: row groups are appended in the order in which they were cut, whatever order they are encoded in.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use arrow::array::Array;
use arrow::datatypes::SchemaRef;
use duckrun_core::{BatchStream, Error, ErrorKind, Phase, Progress, Result, RunContext, Staged, StagedFile, WriteSpec};
use futures::StreamExt;
use futures::stream::FuturesOrdered;
use parquet::basic::Compression as Codec;
use tokio::sync::Semaphore;
use tokio::task::{JoinHandle, JoinSet, spawn_blocking};

use super::Target;
use super::encode::{Encoded, codec, encode, properties};
use super::gather::{Gather, Ready};
use super::layout::Layout;
use super::litter::{Litter, Sweep};
use super::partition::{Partition, Splitter, log_path};
use super::sink::{DataFile, Destination, Finished, sync_folder};
use super::stats::file_stats;
use crate::changes::CHANGE_DATA;

/// Files that are open at a time; beyond that the one that was not extended for longest is closed.
const OPEN_FILES: usize = 128;

/// Open objects each hold up to a part in memory.
const OPEN_OBJECTS: usize = 16;

/// One write, set up but not begun.
pub(super) struct Drive<'a> {
    cx: &'a RunContext,
    layout: Arc<Layout>,
    codec: Codec,
    /// What stands before the name of a file's partition, and before its own.
    prefix: (&'static str, &'static str),
    suffix: &'static str,
    target_file_size: u64,
    to: Destination,
    gather: Gather,
    writers: usize,
    share: u64,
    open: HashMap<usize, Open>,
    clock: u64,
    closing: JoinSet<Result<(u64, Partition, Finished)>>,
    /// With the number of the file, so that the log has files in the order of their rows.
    staged: Vec<(u64, StagedFile)>,
    /// Last, so that it is dropped last: files and uploads must have let go when it sweeps.
    sweep: Sweep,
}

struct Open {
    file: DataFile,
    partition: Partition,
    number: u64,
    used: u64,
}

/// A row group on its way through an encoder.
struct Encoding {
    partition: usize,
    raw: u64,
    task: JoinHandle<Result<Encoded>>,
}

impl<'a> Drive<'a> {
    pub(super) fn new(cx: &'a RunContext, target: &Target, spec: &WriteSpec, incoming: &SchemaRef) -> Result<Self> {
        let layout = Arc::new(Layout::new(spec, &target.columns, incoming)?);
        let codec = codec(spec.files.compression)?;
        let splitter = match layout.partitions.is_empty() {
            true => None,
            false => Some(Splitter::new(&layout.partitions, incoming)?),
        };
        let memory = cx.memory();
        let writers = memory.writers.max(1);
        let uploads = memory.uploads_in_flight.max(1);
        // Encoding takes more than the rows themselves; the plan's row groups are counted with it.
        let raw = |bytes: u64| bytes / duckrun_memory::constants::ENCODING_TENTHS * 10;
        let parts = match target.local {
            Some(_) => 0,
            None => uploads as u64 * duckrun_memory::constants::UPLOAD_PART,
        };
        let share = raw(memory.writer.saturating_sub(parts).max(memory.row_group_bytes));
        let rows = spec.files.row_group_rows.min(memory.row_group_rows).max(1);
        let gather = Gather::new(Arc::clone(&layout), splitter, rows, raw(memory.row_group_bytes));
        let litter = Litter::new();
        let to = Destination {
            store: Arc::clone(&target.store),
            local: target.local.clone(),
            litter: litter.clone(),
            permits: Arc::new(Semaphore::new(uploads)),
            schema: layout.parquet.root_schema_ptr(),
            properties: Arc::new(properties(codec).build()),
            sync: spec.files.sync,
        };
        Ok(Self {
            cx,
            layout,
            codec,
            // The names that Spark gives them; only the folder of change files has a meaning to readers.
            prefix: if spec.change_data { (CHANGE_DATA, "cdc") } else { ("", "part") },
            suffix: match codec {
                Codec::ZSTD(_) => "zstd.parquet",
                Codec::SNAPPY => "snappy.parquet",
                _ => "parquet",
            },
            target_file_size: spec.files.target_file_size.max(1),
            to,
            gather,
            writers,
            share,
            open: HashMap::new(),
            clock: 0,
            closing: JoinSet::new(),
            staged: Vec::new(),
            sweep: Sweep::new(litter, Arc::clone(&target.store)),
        })
    }

    pub(super) async fn run(mut self, rows: BatchStream) -> Result<Staged> {
        match self.write(rows).await {
            Ok(()) => {
                self.sweep.keep();
                self.staged.sort_unstable_by_key(|(number, _)| *number);
                Ok(Staged::new(self.staged.into_iter().map(|(_, file)| file).collect()))
            }
            Err(e) => {
                self.open.clear();
                self.closing.shutdown().await;
                self.sweep.now().await;
                Err(e)
            }
        }
    }

    async fn write(&mut self, mut rows: BatchStream) -> Result<()> {
        let mut ready: VecDeque<Ready> = VecDeque::new();
        let mut encoding: FuturesOrdered<_> = FuturesOrdered::new();
        let mut nulls = vec![0_u64; self.layout.required.len()];
        let (mut encoding_bytes, mut rows_in, mut bytes_out, mut ended) = (0_u64, 0_u64, 0_u64, false);
        loop {
            while encoding.len() < self.writers {
                let Some(next) = ready.pop_front() else { break };
                let started = self.encode(next);
                encoding_bytes += started.raw;
                encoding.push_back(async move { (started.partition, started.raw, started.task.await) });
            }
            if ended && encoding.is_empty() && ready.is_empty() {
                break;
            }
            let full = encoding_bytes + self.gather.held() >= self.share;
            if full && encoding.is_empty() && ready.is_empty() && !ended {
                self.gather.cut_largest(&mut ready)?;
                if !ready.is_empty() {
                    continue;
                }
            }
            let violated = nulls.iter().any(|n| *n > 0);
            let pull = !ended && (violated || (ready.is_empty() && (!full || encoding.is_empty())));
            tokio::select! {
                biased;
                () = self.cx.cancellation().cancelled() => return Err(Error::cancelled()),
                Some((partition, raw, done)) = encoding.next(), if !encoding.is_empty() => {
                    let encoded = done.map_err(|e| Error::internal(format!("an encoder stopped: {e}")))??;
                    encoding_bytes -= raw;
                    bytes_out += encoded.bytes;
                    self.append(partition, encoded).await?;
                    self.cx.report(&Progress::start(Phase::Writing).at(rows_in, bytes_out));
                }
                batch = rows.next(), if pull => match batch {
                    Some(batch) => {
                        let batch = batch?;
                        rows_in += batch.num_rows() as u64;
                        for ((_, position), nulls) in self.layout.required.iter().zip(&mut nulls) {
                            *nulls += batch.column(*position).logical_null_count() as u64;
                        }
                        // After a violation the rows are only counted: the error names how many there are.
                        if nulls.iter().all(|n| *n == 0) {
                            self.gather.push(&batch, &mut ready)?;
                        }
                        self.cx.report(&Progress::start(Phase::Writing).at(rows_in, bytes_out));
                    }
                    None => {
                        ended = true;
                        violation(&self.layout.required, &nulls)?;
                        self.gather.finish(&mut ready)?;
                    }
                },
            }
        }
        self.close_all().await
    }

    fn encode(&self, ready: Ready) -> Encoding {
        let (layout, codec, litter) = (Arc::clone(&self.layout), self.codec, self.to.litter.clone());
        let chunk = ready.chunk;
        let task = spawn_blocking(move || encode(&layout, codec, chunk, &litter));
        Encoding { partition: ready.partition, raw: ready.bytes, task }
    }

    /// Appends a row group to the file of its partition, opening and closing files as needed.
    async fn append(&mut self, number: usize, encoded: Encoded) -> Result<()> {
        self.clock += 1;
        let (open, partition, serial) = match self.open.remove(&number) {
            Some(open) => (Some(open.file), open.partition, open.number),
            None => {
                self.make_room().await?;
                (None, self.gather.partition(number), self.clock)
            }
        };
        let to = self.to.clone();
        let (folder, kind) = self.prefix;
        let folder =
            if folder.is_empty() { partition.folder.clone() } else { format!("{folder}/{}", partition.folder) };
        let name = format!("{folder}{kind}-00000-{}-c000.{}", uuid::Uuid::new_v4(), self.suffix);
        let task = spawn_blocking(move || {
            let mut file = open.map_or_else(|| DataFile::create(to, name), Ok)?;
            file.append(encoded)?;
            Ok::<_, Error>(file)
        });
        let mut file = task.await.map_err(|e| Error::internal(format!("a file writer stopped: {e}")))??;
        file.send().await?;
        let open = Open { file, partition, number: serial, used: self.clock };
        if open.file.bytes() >= self.target_file_size {
            self.close(open);
        } else {
            self.open.insert(number, open);
        }
        self.collect_closed(false).await
    }

    async fn make_room(&mut self) -> Result<()> {
        let most = if self.to.local.is_some() { OPEN_FILES } else { OPEN_OBJECTS };
        while self.open.len() >= most {
            let Some(oldest) = self.open.iter().min_by_key(|(_, o)| o.used).map(|(n, _)| *n) else { break };
            if let Some(open) = self.open.remove(&oldest) {
                self.close(open);
            }
        }
        // Files that are being closed are still open: wait for some.
        while self.closing.len() > most {
            self.collect_closed(true).await?;
        }
        Ok(())
    }

    /// Closes a file beside everything else: the footer, the sync, the rest of the upload.
    fn close(&mut self, open: Open) {
        let Open { mut file, partition, number, .. } = open;
        self.closing.spawn(async move {
            let sealed = spawn_blocking(move || file.seal().map(|metadata| (file, metadata)));
            let (file, metadata) =
                sealed.await.map_err(|e| Error::internal(format!("a file writer stopped: {e}")))??;
            Ok((number, partition, file.complete(metadata).await?))
        });
    }

    async fn collect_closed(&mut self, wait: bool) -> Result<()> {
        let mut next = match wait {
            true => self.closing.join_next().await,
            false => self.closing.try_join_next(),
        };
        while let Some(done) = next {
            let (number, partition, file) =
                done.map_err(|e| Error::internal(format!("a file writer stopped: {e}")))??;
            let staged = StagedFile::new(
                log_path(&file.relative),
                file.size,
                u64::try_from(file.metadata.file_metadata().num_rows()).unwrap_or_default(),
                partition.values,
                Some(file_stats(&self.layout.stats, &file.counts, &file.metadata)),
                self.cx.now().timestamp_millis(),
            );
            self.staged.push((number, staged));
            next = self.closing.try_join_next();
        }
        Ok(())
    }

    async fn close_all(&mut self) -> Result<()> {
        let mut open: Vec<(usize, Open)> = self.open.drain().collect();
        open.sort_unstable_by_key(|(number, _)| *number);
        for (_, open) in open {
            self.close(open);
        }
        while !self.closing.is_empty() {
            self.cx.check()?;
            self.collect_closed(true).await?;
        }
        if self.to.sync && self.to.local.is_some() {
            let litter = self.to.litter.clone();
            let task = spawn_blocking(move || litter.changed_folders().iter().try_for_each(|f| sync_folder(f)));
            task.await.map_err(|e| Error::internal(format!("a file writer stopped: {e}")))??;
        }
        Ok(())
    }
}

/// The error that names every required column with its number of NULLs.
fn violation(required: &[(String, usize)], nulls: &[u64]) -> Result<()> {
    let found = required.iter().zip(nulls).filter(|(_, nulls)| **nulls > 0);
    let found: Vec<String> = found.map(|((name, _), nulls)| format!("{name:?} in {nulls} rows")).collect();
    match found.is_empty() {
        true => Ok(()),
        false => {
            let text = format!("NULL where the column is declared NOT NULL: {}", found.join(", "));
            Err(Error::new(ErrorKind::InvalidData, text))
        }
    }
}
