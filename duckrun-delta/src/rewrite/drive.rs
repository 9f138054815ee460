//! The loop of one rewrite: row groups are made side by side and appended in order, one new file for each old one.
//!
//! The invariant: row groups arrive in the order of files and rows, whatever order they are finished in.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arrow::datatypes::SchemaRef;
use duckrun_core::{
    BatchStream, DataFile as Listed, Error, Phase, Progress, Result, RewriteSpec, Rewritten, RunContext, Staged,
    StagedFile,
};
use futures::{StreamExt, TryStreamExt};
use parquet::basic::Compression as Codec;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::{JoinSet, spawn_blocking};

use super::changes::{Columns, Patch};
use super::column::{Encoder, Input, Shared};
use super::group::{Outcome, RowGroup, Work, start};
use super::produce::{Next, Producer};
use crate::scan::TableShape;
use crate::snapshot::{DeltaSnapshot, LiveFile};
use crate::write::Target;
use crate::write::encode::{codec, properties};
use crate::write::layout::Layout;
use crate::write::litter::{Litter, Sweep};
use crate::write::partition::log_path;
use crate::write::sink::{DataFile, Destination, Finished, sync_folder};
use crate::write::stats::file_stats;

/// Files that are being closed at a time.
const CLOSING: usize = 4;

/// One rewrite, set up but not begun.
pub(super) struct Drive<'a> {
    cx: &'a RunContext,
    shared: Arc<Shared>,
    shape: TableShape,
    location: crate::location::Location,
    files: Vec<Listed>,
    live: HashMap<String, LiveFile>,
    columns: Columns,
    share: u64,
    in_flight: usize,
    out: Out<'a>,
    /// Last, so that it is dropped last: files and uploads must have let go when it sweeps.
    sweep: Sweep,
}

/// What has come out so far.
struct Out<'a> {
    cx: &'a RunContext,
    shared: Arc<Shared>,
    to: Destination,
    in_flight: usize,
    current: Option<Current>,
    closing: JoinSet<Result<(usize, Arc<Input>, Finished)>>,
    staged: Vec<(usize, StagedFile)>,
    done: Rewritten,
    rows: u64,
    bytes: u64,
}

/// The old file whose row groups arrive.
struct Current {
    number: usize,
    input: Arc<Input>,
    /// Rows in which nothing changes, kept back until something else in the file does.
    unchanged: Vec<(usize, Range<u64>)>,
    changed: bool,
    writer: Option<DataFile>,
    rows: u64,
    updated: u64,
}

impl<'a> Drive<'a> {
    pub(super) async fn new(
        cx: &'a RunContext,
        target: &Target,
        snapshot: &DeltaSnapshot,
        spec: &RewriteSpec,
        changes: &SchemaRef,
    ) -> Result<Self> {
        let layout = Layout::new(&spec.write, &target.columns, &spec.write.schema)?;
        let columns = Columns::new(spec, &layout, changes)?;
        let codec = codec(spec.write.files.compression)?;
        let live = snapshot.live_files().await?;
        let wanted: std::collections::HashSet<&str> = spec.files.iter().map(|f| f.path.as_str()).collect();
        let live = live.into_iter().filter(|f| wanted.contains(f.path.as_str())).map(|f| (f.path.clone(), f));
        let memory = cx.memory();
        let writers = memory.writers.max(1);
        let uploads = memory.uploads_in_flight.max(1);
        let parts = match target.local {
            Some(_) => 0,
            None => uploads as u64 * duckrun_memory::constants::UPLOAD_PART,
        };
        let litter = Litter::new();
        let to = Destination {
            store: Arc::clone(&target.store),
            local: target.local.clone(),
            litter: litter.clone(),
            permits: Arc::new(Semaphore::new(uploads)),
            schema: layout.parquet.root_schema_ptr(),
            properties: Arc::new(properties(codec).build()),
            sync: spec.write.files.sync,
        };
        let shared = Arc::new(Shared {
            encoders: Encoder::all(&layout)?,
            codec,
            litter: litter.clone(),
            set: columns.set.clone(),
            skip_unchanged: spec.skip_unchanged,
            differs: layout.columns.iter().map(|_| AtomicBool::new(false)).collect(),
            workers: Semaphore::new(writers),
            layout,
        });
        // One row group more than there are workers, so that the end of one does not leave a worker idle.
        let in_flight = writers + 1;
        Ok(Self {
            cx,
            shape: TableShape::with_schema(snapshot, &spec.write.schema)?,
            location: snapshot.location().clone(),
            files: spec.files.clone(),
            live: live.collect(),
            columns,
            share: memory.writer.saturating_sub(parts).max(memory.row_group_bytes),
            in_flight,
            out: Out {
                cx,
                shared: Arc::clone(&shared),
                to,
                in_flight,
                current: None,
                closing: JoinSet::new(),
                staged: Vec::new(),
                done: Rewritten::default(),
                rows: 0,
                bytes: 0,
            },
            shared,
            sweep: Sweep::new(litter, Arc::clone(&target.store)),
        })
    }

    pub(super) async fn run(self, changes: BatchStream) -> Result<Rewritten> {
        let Self { cx, shared, shape, location, files, live, columns, share, in_flight, mut out, sweep } = self;
        let producer = Producer::new(location, shape, Arc::clone(&shared), files, live, (changes, columns), share);
        let result = tokio::select! {
            biased;
            () = cx.cancellation().cancelled() => Err(Error::cancelled()),
            result = rewrite(&shared, producer, in_flight, &mut out) => result,
        };
        match result {
            Ok(()) => {
                sweep.keep();
                out.staged.sort_unstable_by_key(|(number, _)| *number);
                let mut done = out.done;
                done.staged = Staged::new(out.staged.into_iter().map(|(_, file)| file).collect());
                Ok(done)
            }
            Err(e) => {
                out.current = None;
                out.closing.shutdown().await;
                sweep.now().await;
                Err(e)
            }
        }
    }
}

/// Makes row groups and appends them, each while the other goes on.
async fn rewrite(shared: &Arc<Shared>, producer: Producer, in_flight: usize, out: &mut Out<'_>) -> Result<()> {
    let (send, mut receive) = mpsc::channel(1);
    let make = async move {
        let work = futures::stream::try_unfold(producer, |mut producer| async move {
            Ok::<_, Error>(producer.next().await?.map(|next| (next, producer)))
        });
        let made = work.map_ok(|next: Next| {
            let (number, input) = (next.number, Arc::clone(&next.work.input));
            let started = start(shared, next.work, false);
            async move { started.await.map(|outcome| (number, input, outcome)) }
        });
        let mut made = std::pin::pin!(made.try_buffered(in_flight));
        while let Some(outcome) = made.try_next().await? {
            if send.send(outcome).await.is_err() {
                break;
            }
        }
        Ok::<_, Error>(())
    };
    let put = async {
        while let Some((number, input, outcome)) = receive.recv().await {
            out.take(number, input, outcome).await?;
        }
        Ok(())
    };
    tokio::try_join!(make, put)?;
    out.finish().await
}

impl Out<'_> {
    async fn take(&mut self, number: usize, input: Arc<Input>, outcome: Outcome) -> Result<()> {
        if self.current.as_ref().is_none_or(|c| c.number != number) {
            self.close().await?;
            let unchanged = Vec::new();
            self.current =
                Some(Current { number, input, unchanged, changed: false, writer: None, rows: 0, updated: 0 });
        }
        let Some(current) = &mut self.current else { return Ok(()) };
        match outcome {
            Outcome::Same { group, rows } => {
                match current.unchanged.last_mut() {
                    // Parts of one row group are one again, so that its bytes can be taken.
                    Some((last, before)) if *last == group && before.end == rows.start => before.end = rows.end,
                    _ => current.unchanged.push((group, rows)),
                }
                if current.changed { self.catch_up().await } else { Ok(()) }
            }
            Outcome::Changed(group) => {
                current.changed = true;
                self.catch_up().await?;
                self.append(group).await
            }
        }
    }

    /// Appends what was kept back: the file is needed after all.
    async fn catch_up(&mut self) -> Result<()> {
        let Some(current) = &mut self.current else { return Ok(()) };
        let unchanged = std::mem::take(&mut current.unchanged);
        if unchanged.is_empty() {
            return Ok(());
        }
        let (shared, input) = (Arc::clone(&self.shared), Arc::clone(&current.input));
        let needed = futures::stream::iter(unchanged).map(|(group, rows)| {
            let work = Work { input: Arc::clone(&input), group, rows, patch: Patch::default(), memory: None };
            start(&shared, work, true)
        });
        let mut needed = std::pin::pin!(needed.buffered(self.in_flight));
        while let Some(outcome) = needed.try_next().await? {
            match outcome {
                Outcome::Changed(group) => self.append(group).await?,
                Outcome::Same { .. } => return Err(Error::internal("rows that are needed were left out")),
            }
        }
        Ok(())
    }

    /// Appends a row group to the new file, which is created with the first one that has rows.
    async fn append(&mut self, group: RowGroup) -> Result<()> {
        let Some(current) = &mut self.current else { return Ok(()) };
        let RowGroup { parts, counts, bytes, rows, updated, deleted, memory } = group;
        current.rows += rows;
        current.updated += updated;
        self.done.rows_updated += updated;
        self.done.rows_deleted += deleted;
        self.rows += rows;
        self.bytes += bytes;
        if rows > 0 {
            let (writer, to) = (current.writer.take(), self.to.clone());
            let name = new_name(&current.input.live.path, self.shared.codec)?;
            let task = spawn_blocking(move || {
                let mut file = writer.map_or_else(|| DataFile::create(to, name), Ok)?;
                file.append_parts(parts, counts)?;
                Ok::<_, Error>(file)
            });
            let mut file = task.await.map_err(|e| Error::internal(format!("a file writer stopped: {e}")))??;
            file.send().await?;
            current.writer = Some(file);
        }
        drop(memory);
        self.cx.report(&Progress::start(Phase::Writing).at(self.rows, self.bytes));
        Ok(())
    }

    /// Ends the current file. The footer, the sync and the rest of the upload go on beside everything else.
    async fn close(&mut self) -> Result<()> {
        let Some(Current { number, input, changed, writer, rows, updated, .. }) = self.current.take() else {
            return Ok(());
        };
        if !changed {
            return Ok(());
        }
        input.changed.store(true, Ordering::Relaxed);
        self.done.removed.push(input.live.path.clone());
        self.done.rows_copied += rows.saturating_sub(updated);
        if let Some(mut file) = writer {
            while self.closing.len() >= CLOSING {
                self.collect().await?;
            }
            self.closing.spawn(async move {
                let sealed = spawn_blocking(move || file.seal().map(|metadata| (file, metadata)));
                let (file, metadata) =
                    sealed.await.map_err(|e| Error::internal(format!("a file writer stopped: {e}")))??;
                Ok((number, input, file.complete(metadata).await?))
            });
        }
        Ok(())
    }

    /// Waits for a file that is being closed.
    async fn collect(&mut self) -> Result<()> {
        let Some(done) = self.closing.join_next().await else { return Ok(()) };
        let (number, input, file) = done.map_err(|e| Error::internal(format!("a file writer stopped: {e}")))??;
        let staged = StagedFile::new(
            logged_name(&input.live.path, &file.relative),
            file.size,
            u64::try_from(file.metadata.file_metadata().num_rows()).unwrap_or_default(),
            input.live.partition_values.clone(),
            Some(file_stats(&self.shared.layout.stats, &file.counts, &file.metadata)),
            self.cx.now().timestamp_millis(),
        );
        self.staged.push((number, staged));
        Ok(())
    }

    async fn finish(&mut self) -> Result<()> {
        self.close().await?;
        while !self.closing.is_empty() {
            self.collect().await?;
        }
        if self.to.sync && self.to.local.is_some() {
            let litter = self.to.litter.clone();
            let task = spawn_blocking(move || litter.changed_folders().iter().try_for_each(|f| sync_folder(f)));
            task.await.map_err(|e| Error::internal(format!("a file writer stopped: {e}")))??;
        }
        Ok(())
    }
}

/// A fresh name in the folder of the old file.
fn new_name(old: &str, codec: Codec) -> Result<String> {
    let old = crate::read::decoded_path(old)?;
    let folder = old.rfind('/').map_or("", |at| &old[..=at]);
    let suffix = match codec {
        Codec::ZSTD(_) => "zstd.parquet",
        Codec::SNAPPY => "snappy.parquet",
        _ => "parquet",
    };
    Ok(format!("{folder}part-00000-{}-c000.{suffix}", uuid::Uuid::new_v4()))
}

/// The path of the new file in the log: the old one's folder to the letter, however its writer encoded it.
fn logged_name(old: &str, relative: &str) -> String {
    let folder = old.rfind('/').map_or("", |at| &old[..=at]);
    let name = relative.rsplit('/').next().unwrap_or(relative);
    format!("{folder}{}", log_path(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_file_stays_in_the_folder_of_the_old_one() {
        let name = new_name("a%2520b=1/x%20y.parquet", Codec::SNAPPY).unwrap();
        assert!(name.starts_with("a%20b=1/part-00000-") && name.ends_with("-c000.snappy.parquet"), "{name}");
        let logged = logged_name("a%2520b=1/x%20y.parquet", &name);
        assert_eq!(logged, name.replace('%', "%25"));
        assert_eq!(logged_name("old", "new"), "new");
    }
}
