//! One live file as Arrow arrays of the table's own names and types.
//!
//! Columns are found by physical name or field id, other writers' physical types are cast without loss ([`fit`]), a column
//! that the file lacks is NULL, partition columns are constants from the log. Three invariants:
//!
//! - a row group is decoded column by column and in pieces, so memory is the compressed chunk, one page and one piece;
//! - decoding blocks and belongs on blocking threads; fetching is async;
//! - a stream that ends has passed every row that the deletion vector leaves.

mod fit;
mod shape;
mod source;
mod stream;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use arrow::array::{ArrayRef, UInt32Array, new_null_array};
use arrow::compute::{concat, take};
use arrow::datatypes::{DataType, Field, FieldRef, Fields, Schema, TimeUnit};
use arrow::error::ArrowError;
use bytes::Bytes;
use duckrun_core::{Error, ErrorKind, Result};
use parquet::arrow::arrow_reader::{
    ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder, RowSelection,
};
use parquet::arrow::{PARQUET_FIELD_ID_META_KEY, ProjectionMask};
use parquet::basic::Type as PhysicalType;
use parquet::errors::ParquetError;
use parquet::file::metadata::{ParquetMetaData, ParquetMetaDataReader};

use crate::location::Location;
use crate::snapshot::LiveFile;

use fit::{fit, position};
use shape::ShapeColumn;

pub(crate) use shape::TableShape;
pub(crate) use source::{Fetched, Source, read_local};

/// Read from the end of a file at first: nearly every footer is shorter.
const FOOTER_GUESS: u64 = 64 * 1024;

/// A live file whose footer has been read.
#[derive(Debug, Clone)]
pub(crate) struct OpenFile {
    name: String,
    source: Source,
    size: u64,
    reader: ArrowReaderMetadata,
    columns: Vec<Column>,
    /// The number of each row group's first row, and the number of rows at the end.
    starts: Vec<u64>,
    deleted: Option<Arc<Vec<u64>>>,
}

/// One column of the table in this file.
#[derive(Debug, Clone)]
struct Column {
    /// The table's name and type, or the view of it that the caller asked for.
    field: FieldRef,
    physical_type: DataType,
    place: Place,
}

#[derive(Debug, Clone)]
enum Place {
    /// A root column of the file.
    Root(usize),
    /// The same value in every row.
    Constant(ArrayRef),
    Missing,
}

impl OpenFile {
    /// Opens a live file: its footer, and its deletion vector.
    ///
    /// # Errors
    /// Where the file is missing or not parquet, or a column is of another kind than the table's.
    pub(crate) async fn open(location: &Location, shape: &TableShape, live: &LiveFile) -> Result<Self> {
        let deleted = match &live.deletion_vector {
            Some(vector) => Some(Arc::new(vector.rows(location.store().as_ref()).await?)),
            None => None,
        };
        Self::open_with(location, shape, live, deleted).await
    }

    /// As [`OpenFile::open`], with a deletion vector that has been read already.
    pub(crate) async fn open_with(
        location: &Location,
        shape: &TableShape,
        live: &LiveFile,
        deleted: Option<Arc<Vec<u64>>>,
    ) -> Result<Self> {
        let relative = crate::read::decoded_path(&live.path)?;
        let name = format!("{relative:?} of {location}");
        let source = Source::open(location, &relative).await?;
        let footer = footer(&source, &name, live.size).await?;
        let mut starts = vec![0_u64];
        for group in footer.row_groups() {
            let rows =
                u64::try_from(group.num_rows()).map_err(|_| corrupt(&name, "a row group of less than no rows"))?;
            starts.push(starts.last().copied().unwrap_or_default() + rows);
        }
        if deleted.as_ref().and_then(|d| d.last().copied()) >= starts.last().copied() {
            return Err(corrupt(&name, "a deletion vector that names rows beyond the end"));
        }
        let reader = arrow_metadata(&name, Arc::new(footer), false)?;
        let columns = shape
            .columns
            .iter()
            .map(|column| {
                let place = place(column, shape.by_id, live, &reader)?;
                Ok(Column { field: Arc::clone(&column.field), physical_type: column.physical_type.clone(), place })
            })
            .collect::<Result<_>>()?;
        Ok(Self { name, source, size: live.size, reader, columns, starts, deleted })
    }

    /// The same file with flat texts and binaries as Arrow's view types, which are decoded without copying their bytes.
    pub(crate) fn with_views(mut self) -> Result<Self> {
        self.reader = arrow_metadata(&self.name, Arc::clone(self.reader.metadata()), true)?;
        for column in &mut self.columns {
            let view = match column.field.data_type() {
                DataType::Utf8 => DataType::Utf8View,
                DataType::Binary => DataType::BinaryView,
                _ => continue,
            };
            column.field = Arc::new(column.field.as_ref().clone().with_data_type(view.clone()));
            column.physical_type = view;
        }
        Ok(self)
    }

    /// The file for messages.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// The footer.
    pub(crate) fn metadata(&self) -> &Arc<ParquetMetaData> {
        self.reader.metadata()
    }

    /// The number of row groups.
    pub(crate) fn row_groups(&self) -> usize {
        self.starts.len() - 1
    }

    /// Rows in the file, deleted ones included.
    pub(crate) fn rows(&self) -> u64 {
        self.starts[self.row_groups()]
    }

    /// The rows of a row group, numbered within the file.
    pub(crate) fn rows_of(&self, row_group: usize) -> Range<u64> {
        self.starts[row_group]..self.starts[row_group + 1]
    }

    /// The rows under the deletion vector, ascending.
    pub(crate) fn deleted(&self) -> &[u64] {
        self.deleted.as_ref().map_or(&[], |d| d.as_slice())
    }

    /// The rows under the deletion vector that are in a range.
    pub(crate) fn deleted_in(&self, rows: &Range<u64>) -> &[u64] {
        let deleted = self.deleted();
        let at = |row| deleted.partition_point(|d| *d < row);
        &deleted[at(rows.start)..at(rows.end)]
    }

    /// The field of a column as arrays have it.
    pub(crate) fn field(&self, column: usize) -> &FieldRef {
        &self.columns[column].field
    }

    /// The root column of the file that holds a column, if any does.
    pub(crate) fn root(&self, column: usize) -> Option<usize> {
        match self.columns[column].place {
            Place::Root(root) => Some(root),
            _ => None,
        }
    }

    /// The parquet leaves of a root column.
    pub(crate) fn leaves(&self, root: usize) -> Range<usize> {
        let schema = self.reader.parquet_schema();
        let leaves = 0..schema.num_columns();
        let mut of_root = leaves.filter(|leaf| schema.get_column_root_idx(*leaf) == root);
        let first = of_root.next().unwrap_or_default();
        first..of_root.next_back().unwrap_or(first) + 1
    }

    /// Where the chunks of columns are in the file.
    pub(crate) fn ranges(&self, row_group: usize, columns: &[usize]) -> Vec<Range<u64>> {
        let group = self.metadata().row_group(row_group);
        let leaves = columns.iter().filter_map(|c| self.root(*c)).flat_map(|root| self.leaves(root));
        let range = |leaf: usize| {
            let (start, length) = group.column(leaf).byte_range();
            start..start + length
        };
        leaves.map(range).collect()
    }

    /// Fetches the chunks of columns.
    pub(crate) async fn fetch(&self, row_group: usize, columns: &[usize]) -> Result<Fetched> {
        let ranges = self.ranges(row_group, columns);
        let starts: Vec<u64> = ranges.iter().map(|r| r.start).collect();
        let parts: Vec<Bytes> = self.source.fetch(&self.name, ranges).await?;
        Ok(Fetched::new(starts.into_iter().zip(parts).collect(), self.size))
    }

    /// As [`OpenFile::fetch`] for a local file, on the present thread; `None` for an object. Blocks.
    pub(crate) fn fetch_local(&self, row_group: usize, columns: &[usize]) -> Option<Result<Fetched>> {
        let Source::Local(file) = &self.source else { return None };
        let read = |range: Range<u64>| Ok((range.start, read_local(file, &self.name, range)?));
        let parts: Result<Vec<_>> = self.ranges(row_group, columns).into_iter().map(read).collect();
        Some(parts.map(|parts| Fetched::new(parts, self.size)))
    }

    /// Whether the file is on this machine's disk, so that reading it needs no waiting for others.
    pub(crate) fn is_local(&self) -> bool {
        matches!(self.source, Source::Local(_))
    }

    /// Begins to decode columns of a row group whose chunks were fetched. Blocks, and so does the iterator.
    ///
    /// `selection` is relative to the row group; without one every row comes, deleted ones too.
    pub(crate) fn decode(
        &self,
        fetched: Fetched,
        row_group: usize,
        columns: &[usize],
        batch_rows: usize,
        selection: Option<RowSelection>,
    ) -> Result<Pieces> {
        let rows = self.rows_of(row_group);
        let all = usize::try_from(rows.end - rows.start).unwrap_or(usize::MAX);
        let left = selection.as_ref().map_or(all, RowSelection::row_count);
        let mut roots: Vec<usize> = columns.iter().filter_map(|c| self.root(*c)).collect();
        roots.sort_unstable();
        roots.dedup();
        // Arrays come in the order of the file.
        let order = columns.iter().map(|c| self.root(*c).and_then(|root| roots.binary_search(&root).ok())).collect();
        let reader = match roots.is_empty() {
            true => None,
            false => {
                let mask = ProjectionMask::roots(self.reader.parquet_schema(), roots);
                let mut builder = ParquetRecordBatchReaderBuilder::new_with_metadata(fetched, self.reader.clone())
                    .with_row_groups(vec![row_group])
                    .with_projection(mask)
                    .with_batch_size(batch_rows.max(1));
                if let Some(selection) = selection {
                    builder = builder.with_row_selection(selection);
                }
                Some(builder.build().map_err(|e| parquet_error(&self.name, e))?)
            }
        };
        let columns = columns.iter().map(|c| self.columns[*c].clone()).collect();
        Ok(Pieces { name: self.name.clone(), reader, columns, order, left, batch_rows: batch_rows.max(1) })
    }

    /// A column of a row group as one array, rows under the deletion vector included.
    #[cfg_attr(not(test), expect(dead_code, reason = "for callers that need whole columns"))]
    pub(crate) async fn read_column(&self, row_group: usize, column: usize) -> Result<ArrayRef> {
        let fetched = self.fetch(row_group, &[column]).await?;
        let file = self.clone();
        let read = move || {
            let pieces = file.decode(fetched, row_group, &[column], 1 << 16, None)?;
            let arrays = pieces.map(|piece| piece.map(|mut arrays| arrays.remove(0))).collect::<Result<Vec<_>>>()?;
            let refs: Vec<&dyn arrow::array::Array> = arrays.iter().map(AsRef::as_ref).collect();
            match refs.is_empty() {
                true => Ok(arrow::array::new_empty_array(file.field(column).data_type())),
                false => concat(&refs).map_err(|e| corrupt(&file.name, &e.to_string())),
            }
        };
        tokio::task::spawn_blocking(read).await.map_err(source::stopped)?
    }
}

/// Columns of a row group, some rows at a time: one array for each column that was asked for.
pub(crate) struct Pieces {
    name: String,
    reader: Option<ParquetRecordBatchReader>,
    columns: Vec<Column>,
    /// Where each column is among the arrays that come.
    order: Vec<Option<usize>>,
    left: usize,
    batch_rows: usize,
}

impl Pieces {
    fn piece(&mut self) -> Result<Option<Vec<ArrayRef>>> {
        let batch = match &mut self.reader {
            Some(reader) => match reader.next() {
                Some(batch) => Some(batch.map_err(|e| decode_error(&self.name, e))?),
                None if self.left > 0 => return Err(corrupt(&self.name, "fewer rows than its footer says")),
                None => return Ok(None),
            },
            None if self.left == 0 => return Ok(None),
            None => None,
        };
        let rows = batch.as_ref().map_or(self.left.min(self.batch_rows), |b| b.num_rows());
        self.left = self.left.checked_sub(rows).ok_or_else(|| corrupt(&self.name, "more rows than its footer says"))?;
        let array = |(column, at): (&Column, &Option<usize>)| match (&column.place, &batch, at) {
            (Place::Root(_), Some(batch), Some(at)) => {
                fit(batch.column(*at), &column.physical_type, column.field.data_type()).map_err(|misfit| {
                    Error::unsupported(format!(
                        "the column {:?} of the file {}: {misfit}",
                        column.field.name(),
                        self.name
                    ))
                })
            }
            (Place::Constant(one), _, _) => {
                take(one, &UInt32Array::from(vec![0; rows]), None).map_err(|e| Error::internal(e.to_string()))
            }
            _ => Ok(new_null_array(column.field.data_type(), rows)),
        };
        Ok(Some(self.columns.iter().zip(&self.order).map(array).collect::<Result<_>>()?))
    }
}

impl Iterator for Pieces {
    type Item = Result<Vec<ArrayRef>>;

    fn next(&mut self) -> Option<Self::Item> {
        self.piece().transpose()
    }
}

fn corrupt(name: &str, what: &str) -> Error {
    Error::corrupt(format!("the file {name} has {what}"))
}

fn parquet_error(name: &str, e: ParquetError) -> Error {
    match e {
        ParquetError::NYI(_) => Error::unsupported(format!("the file {name} cannot be read: {e}")).with_source(e),
        e => Error::corrupt(format!("the file {name} cannot be read: {e}")).with_source(e),
    }
}

/// A codec that this build lacks is no fault of the file.
fn decode_error(name: &str, e: ArrowError) -> Error {
    let text = format!("the file {name} cannot be decoded: {e}");
    let kind = if text.contains("Disabled feature") { ErrorKind::Unsupported } else { ErrorKind::Corrupt };
    Error::new(kind, text).with_source(e)
}

/// Reads the footer from the end of the file, twice where it is long.
async fn footer(source: &Source, name: &str, size: u64) -> Result<ParquetMetaData> {
    let mut tail = FOOTER_GUESS.min(size);
    loop {
        let bytes = source.fetch(name, std::iter::once(size - tail..size).collect()).await?;
        let bytes = bytes.into_iter().next().unwrap_or_default();
        let mut reader = ParquetMetaDataReader::new();
        match reader.try_parse_sized(&bytes, size) {
            Ok(()) => return reader.finish().map_err(|e| parquet_error(name, e)),
            Err(ParquetError::NeedMoreData(needed)) if needed as u64 > tail && tail < size => {
                tail = (needed as u64).min(size);
            }
            Err(e) => return Err(parquet_error(name, e)),
        }
    }
}

/// The Arrow types of a file, from its parquet types alone: an Arrow schema in the footer says what some writer's memory
/// looked like, not what the file holds.
fn arrow_metadata(name: &str, footer: Arc<ParquetMetaData>, views: bool) -> Result<ArrowReaderMetadata> {
    let failed = |e| parquet_error(name, e);
    let plain = ArrowReaderOptions::new().with_skip_arrow_metadata(true);
    let plain = ArrowReaderMetadata::try_new(Arc::clone(&footer), plain).map_err(failed)?;
    let schema = plain.parquet_schema();
    let mut int96 = schema.columns().iter().map(|c| c.physical_type() == PhysicalType::INT96);
    let fields: Fields = plain.schema().fields().iter().map(|f| hinted(f, views, &mut int96)).collect();
    if fields == *plain.schema().fields() {
        return Ok(plain);
    }
    let options = ArrowReaderOptions::new().with_schema(Arc::new(Schema::new(fields)));
    ArrowReaderMetadata::try_new(footer, options).map_err(failed)
}

/// INT96 is read as microseconds: they are all that a Delta timestamp has, and nanoseconds would overflow outside the years
/// 1677 to 2262.
///
/// Children keep plain texts: views pay for whole columns only.
fn hinted(field: &FieldRef, views: bool, int96: &mut dyn Iterator<Item = bool>) -> FieldRef {
    let data_type = match field.data_type() {
        DataType::Struct(fields) => DataType::Struct(fields.iter().map(|f| hinted(f, false, int96)).collect()),
        DataType::List(f) => DataType::List(hinted(f, false, int96)),
        DataType::Map(f, sorted) => DataType::Map(hinted(f, false, int96), *sorted),
        flat => match (int96.next().unwrap_or(false), flat) {
            (true, _) => DataType::Timestamp(TimeUnit::Microsecond, None),
            (_, DataType::Utf8) if views => DataType::Utf8View,
            (_, DataType::Binary) if views => DataType::BinaryView,
            (_, flat) => flat.clone(),
        },
    };
    Arc::new(Field::clone(field).with_data_type(data_type))
}

fn place(column: &ShapeColumn, by_id: bool, live: &LiveFile, reader: &ArrowReaderMetadata) -> Result<Place> {
    if column.partition {
        let value = live.partition_values.get(&column.physical_name).and_then(|v| v.as_deref());
        let one = crate::read::parse_values(column.field.name(), vec![value], column.field.data_type())?;
        return Ok(Place::Constant(one));
    }
    let fields = reader.schema().fields();
    let ids: HashMap<&str, usize> = fields
        .iter()
        .enumerate()
        .filter_map(|(i, f)| Some((f.metadata().get(PARQUET_FIELD_ID_META_KEY)?.as_str(), i)))
        .collect();
    let found = match column.id.filter(|_| by_id && !ids.is_empty()) {
        Some(id) => ids.get(id.to_string().as_str()).copied(),
        None => position(fields, &column.physical_name),
    };
    Ok(found.map_or(Place::Missing, Place::Root))
}
