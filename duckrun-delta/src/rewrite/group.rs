//! One row group, or a part of one: its columns side by side on blocking threads.

use std::ops::Range;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};

use duckrun_core::{Error, Result};
use futures::future::try_join_all;
use tokio::sync::OwnedSemaphorePermit;
use tokio::task::{JoinHandle, spawn_blocking};

use super::changes::{Happens, Patch, events};
use super::column::{Done, Input, Segment, Shared, Task};
use super::patch::NewValues;
use crate::write::sink::Part;
use crate::write::stats::Counts;

/// Rows of a file that are to be looked at.
#[derive(Debug)]
pub(super) struct Work {
    pub(super) input: Arc<Input>,
    pub(super) group: usize,
    pub(super) rows: Range<u64>,
    pub(super) patch: Patch,
    /// The memory that the work takes, given back when its outcome has been dealt with.
    pub(super) memory: Option<OwnedSemaphorePermit>,
}

/// What became of a [`Work`].
#[derive(Debug)]
pub(super) enum Outcome {
    /// Nothing in it changes. Whether it is needed depends on the rest of the file.
    Same {
        group: usize,
        rows: Range<u64>,
    },
    Changed(RowGroup),
}

/// A row group for the new file; without rows there is none.
#[derive(Debug)]
pub(super) struct RowGroup {
    pub(super) parts: Vec<Part>,
    pub(super) counts: Counts,
    pub(super) bytes: u64,
    pub(super) rows: u64,
    pub(super) updated: u64,
    pub(super) deleted: u64,
    pub(super) memory: Option<OwnedSemaphorePermit>,
}

/// Looks at rows, and makes a row group of them if something in them or (`needed`) elsewhere in their file changes.
///
/// It begins at once and as a task of its own: permits of the workers go round in turns, and one that is given to a future
/// that nobody polls would stop them all.
pub(super) fn start(shared: &Arc<Shared>, work: Work, needed: bool) -> Started {
    let shared = Arc::clone(shared);
    Started(tokio::spawn(async move { process(&shared, work, needed).await }))
}

/// Work that was begun, and stops when this is dropped.
#[derive(Debug)]
pub(super) struct Started(JoinHandle<Result<Outcome>>);

impl Future for Started {
    type Output = Result<Outcome>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let done = std::task::ready!(Pin::new(&mut self.0).poll(cx));
        Poll::Ready(done.map_err(|e| Error::internal(format!("the work on a row group stopped: {e}"))).flatten())
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn process(shared: &Arc<Shared>, work: Work, needed: bool) -> Result<Outcome> {
    let Work { input, group, rows, patch, memory } = work;
    let patch = Arc::new(patch);
    let needed = needed || input.changed.load(Ordering::Relaxed);
    if patch.is_empty() && !needed {
        return Ok(Outcome::Same { group, rows });
    }
    let events = events(&patch, input.file.deleted_in(&rows), &rows, input.file.name())?;
    let goes = events.iter().filter(|(_, h)| *h == Happens::Goes).count() as u64;
    let deleted = patch.deletes.iter().filter(|d| **d).count() as u64;
    let updates = patch.rows.len() as u64 - deleted;
    let left = rows.end - rows.start - goes;
    if deleted > 0 {
        input.changed.store(true, Ordering::Relaxed);
    }
    let layout = &shared.layout;
    let mut group_of = RowGroup {
        parts: Vec::with_capacity(layout.leaves),
        counts: Counts::new(layout.counters, layout.leaves),
        bytes: 0,
        rows: left,
        updated: if shared.skip_unchanged { 0 } else { updates },
        deleted,
        memory,
    };
    // Without a row there is nothing to decode; but rows that an old deletion vector hides do not change a file.
    if left == 0 && (needed || deleted > 0) {
        return Ok(Outcome::Changed(group_of));
    }
    let columns = Columns { shared, input: &input, segment: Arc::new(Segment { group, rows: rows.clone(), events }) };
    let set: Vec<usize> = (0..layout.columns.len()).filter(|c| updates > 0 && shared.set[*c].is_some()).collect();
    let mut done: Vec<Option<Done>> = layout.columns.iter().map(|_| None).collect();
    // Rows that go shift every column; without them a column that keeps its values keeps its bytes.
    let tentative = shared.skip_unchanged && goes == 0;
    if tentative {
        let fetched = columns.fetch(&set).await?;
        let tried = set.iter().map(|column| {
            let (task, patch) = (columns.task(*column, &fetched), Arc::clone(&patch));
            blocking(shared, move || task.encode_if_changed(task.new_values(&patch)?))
        });
        for (column, tried) in set.iter().zip(try_join_all(tried).await?) {
            done[*column] = tried;
        }
        if done.iter().all(Option::is_none) && !needed {
            return Ok(Outcome::Same { group, rows });
        }
    } else if shared.skip_unchanged && deleted == 0 && !needed && !columns.any_differs(&patch, &set).await? {
        return Ok(Outcome::Same { group, rows });
    }
    input.changed.store(true, Ordering::Relaxed);

    let rest: Vec<usize> = (0..layout.columns.len()).filter(|c| done[*c].is_none()).collect();
    let fetched = columns.fetch(&rest).await?;
    let compare = shared.skip_unchanged;
    let rest_done = rest.iter().map(|column| {
        let (task, patch) = (columns.task(*column, &fetched), Arc::clone(&patch));
        let patched = !tentative && set.contains(column);
        blocking(shared, move || match patched {
            true => task.encode(Some(NewValues::new(task.new_values(&patch)?, compare))),
            false if goes == 0 => task.keep(),
            false => task.encode(None),
        })
    });
    for (column, finished) in rest.iter().zip(try_join_all(rest_done).await?) {
        done[*column] = Some(finished);
    }

    let mut changed = vec![false; patch.rows.len()];
    for (done, encoder) in done.into_iter().flatten().zip(&shared.encoders) {
        changed.iter_mut().zip(&done.changed).for_each(|(a, b)| *a |= b);
        group_of.counts.put(encoder.counter, encoder.leaf, &done.counts);
        group_of.parts.extend(done.parts);
        group_of.bytes += done.bytes;
    }
    if shared.skip_unchanged {
        group_of.updated = changed.iter().filter(|c| **c).count() as u64;
    }
    Ok(Outcome::Changed(group_of))
}

/// Runs a task on a blocking thread, when one of the run's workers is free.
async fn blocking<T: Send + 'static>(
    shared: &Arc<Shared>,
    task: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    // The semaphore is never closed; without a permit the task would only begin too early.
    let permit = shared.workers.acquire().await.ok();
    let done = spawn_blocking(task).await.map_err(|e| Error::internal(format!("a column task stopped: {e}")))?;
    drop(permit);
    done
}

/// The columns of one segment.
struct Columns<'a> {
    shared: &'a Arc<Shared>,
    input: &'a Arc<Input>,
    segment: Arc<Segment>,
}

impl Columns<'_> {
    /// Fetches the chunks of columns, where they are not on this machine's disk.
    async fn fetch(&self, columns: &[usize]) -> Result<Option<crate::scan::Fetched>> {
        if self.input.file.is_local() || columns.is_empty() {
            return Ok(None);
        }
        let scanned: Vec<usize> = columns.iter().map(|c| self.shared.layout.columns[*c].position).collect();
        Ok(Some(self.input.file.fetch(self.segment.group, &scanned).await?))
    }

    fn task(&self, column: usize, fetched: &Option<crate::scan::Fetched>) -> Task {
        Task {
            shared: Arc::clone(self.shared),
            input: Arc::clone(self.input),
            segment: Arc::clone(&self.segment),
            column,
            fetched: fetched.clone(),
        }
    }

    /// Whether updates change any value.
    async fn any_differs(&self, patch: &Arc<Patch>, set: &[usize]) -> Result<bool> {
        let fetched = self.fetch(set).await?;
        for column in set {
            let (task, patch) = (self.task(*column, &fetched), Arc::clone(patch));
            if blocking(self.shared, move || task.probe(&task.new_values(&patch)?)).await? {
                return Ok(true);
            }
        }
        Ok(false)
    }
}
