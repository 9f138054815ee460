//! From the stream of changes to work on row groups, in the order of files and rows.
//!
//! The invariant: once a file is begun, every row of it comes, with or without changes, before the next file begins.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use duckrun_core::{BatchStream, DataFile, Error, Result};
use futures::StreamExt;
use tokio::sync::Semaphore;

use super::changes::{Checked, Columns, Patch};
use super::column::{Input, Shared};
use super::copy::{copyable, finite};
use super::group::Work;
use crate::location::Location;
use crate::scan::{OpenFile, TableShape};
use crate::snapshot::LiveFile;

/// The unit in which memory is counted: permits of a semaphore are 32 bits.
const UNIT: u64 = 4 * 1024;

/// What a work takes beside its chunks and changes: pieces, pages and the encoder's buffers of the workers.
const WORK_BYTES: u64 = 4 << 20;

/// Work on some rows of a file.
#[derive(Debug)]
pub(super) struct Next {
    /// The position of the file in the spec.
    pub(super) number: usize,
    pub(super) work: Work,
}

/// Pulls changes and cuts them.
pub(super) struct Producer {
    pub(super) location: Location,
    pub(super) shape: TableShape,
    pub(super) shared: Arc<Shared>,
    pub(super) files: Vec<DataFile>,
    pub(super) live: HashMap<String, LiveFile>,
    pub(super) changes: BatchStream,
    pub(super) columns: Columns,
    memory: Arc<Semaphore>,
    units: u32,
    /// Changes of one work at most, in bytes.
    most: u64,
    seen: Option<(i64, i64)>,
    batch: Option<Checked>,
    ended: bool,
    open: Option<Open>,
    ready: VecDeque<Next>,
}

/// The file that the changes are in.
struct Open {
    number: usize,
    input: Arc<Input>,
    group: usize,
    /// The first row that is in no work yet.
    from: u64,
    patch: Patch,
}

impl Producer {
    pub(super) fn new(
        location: Location,
        shape: TableShape,
        shared: Arc<Shared>,
        files: Vec<DataFile>,
        live: HashMap<String, LiveFile>,
        (changes, columns): (BatchStream, Columns),
        share: u64,
    ) -> Self {
        let units = u32::try_from((share / UNIT).max(1)).unwrap_or(u32::MAX >> 4).min(u32::MAX >> 4);
        Self {
            location,
            shape,
            shared,
            files,
            live,
            changes,
            columns,
            memory: Arc::new(Semaphore::new(units as usize)),
            units,
            most: share / 4,
            seen: None,
            batch: None,
            ended: false,
            open: None,
            ready: VecDeque::new(),
        }
    }

    /// The next work, once there is memory for it.
    pub(super) async fn next(&mut self) -> Result<Option<Next>> {
        loop {
            if let Some(mut next) = self.ready.pop_front() {
                let group = next.work.input.file.metadata().row_group(next.work.group);
                // The chunks as they are and as they will be.
                let chunks = 2 * group.compressed_size().unsigned_abs();
                let bytes = chunks + 2 * next.work.patch.bytes + WORK_BYTES;
                let units = u32::try_from(bytes / UNIT).unwrap_or(u32::MAX).min(self.units);
                next.work.memory = Arc::clone(&self.memory).acquire_many_owned(units).await.ok();
                return Ok(Some(next));
            }
            if self.ended {
                return Ok(None);
            }
            match self.batch.as_ref().and_then(Checked::file) {
                Some(file) => self.take(file).await?,
                None => self.pull().await?,
            }
        }
    }

    async fn pull(&mut self) -> Result<()> {
        loop {
            match self.changes.next().await {
                Some(batch) => {
                    let batch = self.columns.check(batch?, &mut self.seen)?;
                    // After a violation the rows are only counted: the error names how many there are.
                    if !self.columns.violated() {
                        self.batch = Some(batch);
                        return Ok(());
                    }
                }
                None => {
                    self.columns.violation()?;
                    self.finish_file();
                    self.ended = true;
                    return Ok(());
                }
            }
        }
    }

    /// Takes the next run of changes of one row group.
    async fn take(&mut self, file: i64) -> Result<()> {
        let number = usize::try_from(file).ok().filter(|n| *n < self.files.len());
        let number = number.ok_or_else(|| Error::internal(format!("a change of file {file}, which is not listed")))?;
        if self.open.as_ref().is_none_or(|open| open.number != number) {
            self.finish_file();
            self.open = Some(self.open_file(number).await?);
            if !self.ready.is_empty() {
                return Ok(());
            }
        }
        let (Some(open), Some(batch)) = (&mut self.open, &mut self.batch) else { return Ok(()) };
        let input = Arc::clone(&open.input);
        let file = &input.file;
        let row = batch.row().and_then(|r| u64::try_from(r).ok()).filter(|r| *r < file.rows());
        let Some(row) = row else {
            let row = batch.row().unwrap_or_default();
            return Err(Error::internal(format!(
                "a change of row {row} of {}, which has {}",
                file.name(),
                file.rows()
            )));
        };
        while row >= file.rows_of(open.group).end {
            self.ready.extend(open.cut(file.rows_of(open.group).end));
        }
        batch.take_into(&mut open.patch, file.rows_of(open.group).end);
        if open.patch.bytes >= self.most {
            let end = open.patch.rows.last().map_or(open.from, |row| row + 1);
            self.ready.extend(open.cut(end));
        }
        Ok(())
    }

    async fn open_file(&mut self, number: usize) -> Result<Open> {
        let data = &self.files[number];
        let live = self.live.get(&data.path).ok_or_else(|| {
            Error::internal(format!("the file {:?} is not in the snapshot that is to be changed", data.path))
        })?;
        let file = match &data.deleted {
            Some(deleted) => OpenFile::open_with(&self.location, &self.shape, live, Some(Arc::clone(deleted))).await?,
            None => OpenFile::open(&self.location, &self.shape, live).await?,
        };
        let file = file.with_views()?;
        let input = Input {
            copyable: copyable(&self.shared.layout, &self.shared.encoders, &file),
            finite: finite(&self.shared.layout, live, file.metadata()),
            live: live.clone(),
            changed: AtomicBool::new(!self.shared.skip_unchanged),
            file,
        };
        Ok(Open { number, input: Arc::new(input), group: 0, from: 0, patch: Patch::default() })
    }

    /// The row groups of the open file that did not come yet.
    fn finish_file(&mut self) {
        let Some(mut open) = self.open.take() else { return };
        let rows = open.input.file.rows();
        while open.from < rows {
            let end = open.input.file.rows_of(open.group).end;
            self.ready.extend(open.cut(end));
        }
    }
}

impl Open {
    /// The work up to a row; the next row group is begun where this one ends.
    fn cut(&mut self, end: u64) -> Option<Next> {
        let rows = self.from..end;
        let group = self.group;
        if end >= self.input.file.rows_of(group).end {
            self.group += 1;
        }
        self.from = end;
        let patch = std::mem::take(&mut self.patch);
        (!rows.is_empty()).then(|| Next {
            number: self.number,
            work: Work { input: Arc::clone(&self.input), group, rows, patch, memory: None },
        })
    }
}
