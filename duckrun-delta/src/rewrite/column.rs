//! One column of one row group: decoded in pieces, patched and encoded again, or its bytes taken as they are.
//!
//! Everything here blocks. The invariant: at most one piece of a column is decoded at a time, beside the compressed chunk that
//! it comes from and the encoded one that it becomes.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arrow::array::{Array, ArrayRef};
use arrow::datatypes::{Schema, SchemaRef};
use duckrun_core::{Error, ErrorKind, Result};
use parquet::arrow::ArrowSchemaConverter;
use parquet::arrow::arrow_reader::{RowSelection, RowSelector};
use parquet::arrow::arrow_writer::{ArrowColumnWriter, ArrowRowGroupWriterFactory, compute_leaves};
use parquet::basic::Compression as Codec;
use parquet::errors::ParquetError;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::types::SchemaDescriptor;
use tokio::sync::Semaphore;

use super::changes::{Happens, Patch};
use super::patch::{NewValues, apply, equality};
use crate::scan::{Fetched, OpenFile};
use crate::snapshot::LiveFile;
use crate::write::conform::conform;
use crate::write::encode::{Position, inspect, properties};
use crate::write::layout::Layout;
use crate::write::litter::Litter;
use crate::write::sink::Part;
use crate::write::stats::Counts;

/// Decoded bytes that a piece should have.
const PIECE_BYTES: u64 = 1 << 20;

/// Rows of a piece: enough to make the work for each piece negligible, few enough to stay in a processor's cache.
const PIECE_ROWS: Range<usize> = 1_024..16_384;

/// What all tasks of one rewrite share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) layout: Layout,
    /// One entry for each column of the layout.
    pub(super) encoders: Vec<Encoder>,
    pub(super) codec: Codec,
    pub(super) litter: Litter,
    /// For each column of the layout its position in the changes, where updates set it.
    pub(super) set: Vec<Option<usize>>,
    /// Updates that change nothing count as none.
    pub(super) skip_unchanged: bool,
    /// For each column of the layout whether updates were lately found to change it: then the old values are not looked at
    /// before the column is encoded.
    pub(super) differs: Vec<AtomicBool>,
    /// Permits for blocking tasks.
    pub(super) workers: Semaphore,
}

/// What encoding one column by itself needs.
#[derive(Debug)]
pub(super) struct Encoder {
    schema: SchemaRef,
    parquet: SchemaDescriptor,
    /// The column's first leaf and first counter in the layout.
    pub(super) leaf: usize,
    pub(super) counter: usize,
}

impl Encoder {
    pub(super) fn all(layout: &Layout) -> Result<Vec<Self>> {
        let (mut leaf, mut counter) = (0, 0);
        let one = |column: &crate::write::layout::Column| {
            let schema = Arc::new(Schema::new(vec![Arc::clone(&column.field)]));
            let parquet = ArrowSchemaConverter::new().schema_root("schema").convert(&schema).map_err(encode_error)?;
            let encoder = Self { schema, parquet, leaf, counter };
            leaf += column.leaves;
            counter += column.counters;
            Ok(encoder)
        };
        layout.columns.iter().map(one).collect()
    }
}

/// A file that is being rewritten.
#[derive(Debug)]
pub(super) struct Input {
    pub(super) file: OpenFile,
    pub(super) live: LiveFile,
    /// For each column of the layout whether its chunks may be taken as they are.
    pub(super) copyable: Vec<bool>,
    /// For each leaf of the layout whether the log proves that its floats are finite.
    pub(super) finite: Vec<bool>,
    /// Whether something in the file is known to change.
    pub(super) changed: AtomicBool,
}

/// The rows of a row group, or of a part of one, and what happens to them.
#[derive(Debug)]
pub(super) struct Segment {
    pub(super) group: usize,
    pub(super) rows: Range<u64>,
    pub(super) events: Vec<(u64, Happens)>,
}

impl Segment {
    /// Whether these are all rows of the row group.
    pub(super) fn is_whole(&self, file: &OpenFile) -> bool {
        self.rows == file.rows_of(self.group)
    }

    fn selection(&self, file: &OpenFile) -> Option<RowSelection> {
        if self.is_whole(file) {
            return None;
        }
        let all = file.rows_of(self.group);
        let within = (self.rows.start - all.start) as usize..(self.rows.end - all.start) as usize;
        Some(RowSelection::from_consecutive_ranges(std::iter::once(within), (all.end - all.start) as usize))
    }
}

/// A column of a row group that is ready for the new file.
#[derive(Debug)]
pub(super) struct Done {
    pub(super) parts: Vec<Part>,
    /// Of this column's leaves and counters only.
    pub(super) counts: Counts,
    pub(super) bytes: u64,
    /// For each row of the patch whether this column changed it.
    pub(super) changed: Vec<bool>,
}

/// The work on one column; clones go to blocking threads.
#[derive(Debug, Clone)]
pub(super) struct Task {
    pub(super) shared: Arc<Shared>,
    pub(super) input: Arc<Input>,
    pub(super) segment: Arc<Segment>,
    /// The position in the layout.
    pub(super) column: usize,
    /// The chunks, if they had to be fetched from a store.
    pub(super) fetched: Option<Fetched>,
}

impl Task {
    /// The position among the columns of the table, which is that in the opened file.
    fn scanned(&self) -> usize {
        self.shared.layout.columns[self.column].position
    }

    fn name(&self) -> &str {
        &self.shared.layout.columns[self.column].name
    }

    fn fetched(&self) -> Result<Fetched> {
        match &self.fetched {
            Some(fetched) => Ok(fetched.clone()),
            None => match self.input.file.fetch_local(self.segment.group, &[self.scanned()]) {
                Some(fetched) => fetched,
                None => Err(Error::internal("a column chunk was not fetched")),
            },
        }
    }

    fn check(&self) -> Result<()> {
        if self.shared.litter.stopped() { Err(Error::cancelled()) } else { Ok(()) }
    }

    /// Rows to decode at a time.
    fn piece_rows(&self) -> usize {
        let group = self.input.file.metadata().row_group(self.segment.group);
        let leaves = self.input.file.root(self.scanned()).map(|root| self.input.file.leaves(root)).unwrap_or_default();
        let bytes: u64 = leaves.map(|leaf| group.column(leaf).uncompressed_size().unsigned_abs()).sum();
        let width = (bytes / group.num_rows().unsigned_abs().max(1)).max(1);
        ((PIECE_BYTES / width) as usize).clamp(PIECE_ROWS.start, PIECE_ROWS.end)
    }

    /// The column's new values, one for each row of the patch.
    pub(super) fn new_values(&self, patch: &Patch) -> Result<ArrayRef> {
        let at = self.shared.set[self.column].ok_or_else(|| Error::internal("a column that no update sets"))?;
        patch.values(at, self.input.file.field(self.scanned()))
    }

    /// Decodes, patches and encodes the column.
    pub(super) fn encode(&self, mut new: Option<NewValues>) -> Result<Done> {
        let (column, file) = (&self.shared.layout.columns[self.column], &self.input.file);
        let mut out = Encoding::begin(self)?;
        let mut events = self.segment.events.as_slice();
        let mut first = self.segment.rows.start;
        let selection = self.segment.selection(file);
        let pieces =
            file.decode(self.fetched()?, self.segment.group, &[self.scanned()], self.piece_rows(), selection)?;
        for piece in pieces {
            self.check()?;
            let piece = piece?.swap_remove(0);
            let end = first + piece.len() as u64;
            let (here, later) = events.split_at(events.partition_point(|(row, _)| *row < end));
            let patched = apply(&piece, first, here, new.as_mut())?;
            (first, events) = (end, later);
            if !column.field.is_nullable() && patched.logical_null_count() > 0 {
                return Err(Error::new(
                    ErrorKind::InvalidData,
                    format!(
                        "the column {:?} is declared NOT NULL, but rows of {} have none (a file older than the column, or \
                         another writer's mistake)",
                        column.name,
                        file.name()
                    ),
                ));
            }
            if !patched.is_empty() {
                out.write(self, &patched)?;
            }
        }
        out.finish(new.map(|n| n.changed).unwrap_or_default())
    }

    /// Whether the new values change anything, found by decoding the rows of the patch only. Stops at the first difference.
    pub(super) fn probe(&self, new: &ArrayRef) -> Result<bool> {
        let file = &self.input.file;
        let all = file.rows_of(self.segment.group);
        let updates = self.segment.events.iter().filter_map(|(row, happens)| match happens {
            Happens::Update(i) => Some(((row - all.start) as usize, *i)),
            Happens::Goes => None,
        });
        let (rows, values): (Vec<usize>, Vec<usize>) = updates.unzip();
        let mut selectors = Vec::with_capacity(2 * rows.len());
        let mut next = 0;
        for row in rows {
            if row > next {
                selectors.push(RowSelector::skip(row - next));
            }
            selectors.push(RowSelector::select(1));
            next = row + 1;
        }
        let selection = Some(RowSelection::from(selectors));
        let mut values = values.into_iter();
        let pieces =
            file.decode(self.fetched()?, self.segment.group, &[self.scanned()], self.piece_rows(), selection)?;
        for piece in pieces {
            self.check()?;
            let piece = piece?.swap_remove(0);
            let same = equality(&piece, new);
            if values.by_ref().take(piece.len()).enumerate().any(|(i, j)| !same(i, j)) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The column with new values, or `None` where they change nothing.
    ///
    /// The first time a column is only probed; once updates were seen to change it, it is encoded at once, and what that
    /// finds out decides about the next time.
    pub(super) fn encode_if_changed(&self, new: ArrayRef) -> Result<Option<Done>> {
        let differs = &self.shared.differs[self.column];
        if !differs.load(Ordering::Relaxed) && !self.probe(&new)? {
            return Ok(None);
        }
        let done = self.encode(Some(NewValues::new(new, true)))?;
        let changed = done.changed.contains(&true);
        differs.store(changed, Ordering::Relaxed);
        Ok(changed.then_some(done))
    }

    /// The column as it is: its bytes where they may be taken, else encoded again.
    pub(super) fn keep(&self) -> Result<Done> {
        let root = self.input.file.root(self.scanned());
        let root = root.filter(|_| self.input.copyable[self.column] && self.segment.is_whole(&self.input.file));
        match root {
            Some(root) => match super::copy::copy(self, root, self.fetched()?)? {
                Some(done) => Ok(done),
                None => self.encode(None),
            },
            None => self.encode(None),
        }
    }

    /// Counts what statistics need and a chunk does not tell, by decoding it.
    pub(super) fn count(&self, fetched: Fetched) -> Result<Counts> {
        let column = &self.shared.layout.columns[self.column];
        let mut counts = Counts::new(column.counters, column.leaves);
        let columns = [self.scanned()];
        for piece in self.input.file.decode(fetched, self.segment.group, &columns, self.piece_rows(), None)? {
            self.check()?;
            let piece = conform(&piece?.swap_remove(0), &column.field)?;
            inspect(&column.field, &piece, None, &mut Position { leaf: 0, counter: 0 }, &mut counts);
        }
        Ok(counts)
    }

    /// Whether a dictionary is tried for a leaf: if the chunk that it comes from has one, or is encoded in a way that we do
    /// not write. A plain chunk stays plain: somebody found its values too distinct.
    fn wants_dictionary(&self, leaf: usize) -> bool {
        let Some(root) = self.input.file.root(self.scanned()) else { return true };
        let leaves = self.input.file.leaves(root);
        if leaves.len() != self.shared.layout.columns[self.column].leaves {
            return true;
        }
        let chunk = self.input.file.metadata().row_group(self.segment.group).column(leaves.start + leaf);
        let plain =
            chunk.encodings().all(|e| matches!(e, parquet::basic::Encoding::PLAIN | parquet::basic::Encoding::RLE));
        chunk.dictionary_page_offset().is_some() || !plain
    }
}

/// The writers of one column's leaves, and what they were given so far.
struct Encoding {
    writers: Vec<ArrowColumnWriter>,
    counts: Counts,
}

impl Encoding {
    fn begin(task: &Task) -> Result<Self> {
        let column = &task.shared.layout.columns[task.column];
        let encoder = &task.shared.encoders[task.column];
        let mut properties = properties(task.shared.codec);
        for leaf in (0..column.leaves).filter(|leaf| !task.wants_dictionary(*leaf)) {
            properties = properties.set_column_dictionary_enabled(encoder.parquet.column(leaf).path().clone(), false);
        }
        let schema = encoder.parquet.root_schema_ptr();
        // The factory takes schema and properties from a file writer; this one writes nowhere.
        let nowhere =
            SerializedFileWriter::new(std::io::sink(), schema, Arc::new(properties.build())).map_err(encode_error)?;
        let factory = ArrowRowGroupWriterFactory::new(&nowhere, Arc::clone(&encoder.schema));
        let writers = factory.create_column_writers(0).map_err(encode_error)?;
        Ok(Self { writers, counts: Counts::new(column.counters, column.leaves) })
    }

    fn write(&mut self, task: &Task, piece: &ArrayRef) -> Result<()> {
        let field = &task.shared.layout.columns[task.column].field;
        let named = |e: Error| Error::new(e.kind(), format!("column {:?}: {}", task.name(), e.message()));
        let piece = conform(piece, field).map_err(named)?;
        inspect(field, &piece, None, &mut Position { leaf: 0, counter: 0 }, &mut self.counts);
        let leaves = compute_leaves(field, &piece).map_err(encode_error)?;
        for (writer, leaf) in self.writers.iter_mut().zip(&leaves) {
            writer.write(leaf).map_err(encode_error)?;
        }
        Ok(())
    }

    fn finish(self, changed: Vec<bool>) -> Result<Done> {
        let mut done = Done { parts: Vec::new(), counts: self.counts, bytes: 0, changed };
        for writer in self.writers {
            let chunk = writer.close().map_err(encode_error)?;
            done.bytes += chunk.close().bytes_written;
            done.parts.push(Part::Encoded(Box::new(chunk)));
        }
        Ok(done)
    }
}

pub(super) fn encode_error(e: ParquetError) -> Error {
    Error::internal(format!("a row group could not be encoded: {e}")).with_source(e)
}
