//! The stream of row changes, checked and cut by file and row group.
//!
//! The invariant: what leaves here is sorted, names every row at most once, and names only rows that exist and are not under
//! the deletion vector. Everything else is an error before a byte of that row group is written.

use std::ops::Range;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::compute::{cast, concat};
use arrow::datatypes::{DataType, Int8Type, Int64Type, SchemaRef};
use duckrun_core::{
    CHANGE_DELETE, CHANGE_UPDATE, Error, ErrorKind, FILE_INDEX, ROW_CHANGE, ROW_NUMBER, Result, RewriteSpec,
};

use crate::write::conform::conform;
use crate::write::gather::bytes_of;
use crate::write::layout::Layout;

/// Which columns of the stream are what.
#[derive(Debug)]
pub(super) struct Columns {
    file: usize,
    row: usize,
    change: usize,
    /// For each column of the layout its position in the stream, where updates set it.
    pub(super) set: Vec<Option<usize>>,
    /// Columns that must not be NULL: name, position in the stream, NULLs so far.
    required: Vec<(String, usize, u64)>,
}

impl Columns {
    pub(super) fn new(spec: &RewriteSpec, layout: &Layout, stream: &SchemaRef) -> Result<Self> {
        let marker = |name: &str, data_type: DataType| match stream.index_of(name) {
            Ok(at) if *stream.field(at).data_type() == data_type => Ok(at),
            Ok(at) => Err(Error::internal(format!("{name} is {}, not {data_type}", stream.field(at).data_type()))),
            Err(_) => Err(Error::internal(format!("a stream of row changes without {name}"))),
        };
        let file = marker(FILE_INDEX, DataType::Int64)?;
        let row = marker(ROW_NUMBER, DataType::Int64)?;
        let change = marker(ROW_CHANGE, DataType::Int8)?;
        let mut columns = Self { file, row, change, set: vec![None; layout.columns.len()], required: Vec::new() };
        for (at, field) in stream.fields().iter().enumerate() {
            if [file, row, change].contains(&at) {
                continue;
            }
            let name = field.name();
            if spec.write.partition_columns.contains(name) {
                let text = "a row that leaves its partition is deleted here and inserted there";
                return Err(Error::internal(format!("updates set the partition column {name:?}; {text}")));
            }
            let Some(known) = layout.columns.iter().position(|c| c.name == *name) else {
                return Err(Error::internal(format!("updates set the column {name:?}, which the table does not have")));
            };
            if columns.set[known].replace(at).is_some() {
                return Err(Error::internal(format!("updates set the column {name:?} twice")));
            }
            if !layout.columns[known].field.is_nullable() {
                columns.required.push((name.clone(), at, 0));
            }
        }
        Ok(columns)
    }

    /// Checks a batch's markers and counts NULLs that required columns would get.
    pub(super) fn check(&mut self, batch: RecordBatch, last: &mut Option<(i64, i64)>) -> Result<Checked> {
        let int64 = |at: usize| batch.column(at).as_primitive::<Int64Type>().clone();
        let (files, rows) = (int64(self.file), int64(self.row));
        let changes = batch.column(self.change).as_primitive::<Int8Type>().clone();
        if files.null_count() + rows.null_count() + changes.null_count() > 0 {
            return Err(Error::internal("a row change with NULL for its file, row or kind"));
        }
        for place in files.values().iter().copied().zip(rows.values().iter().copied()) {
            if last.is_some_and(|last| last >= place) {
                let (file, row) = place;
                let what = if *last == Some(place) { "comes twice" } else { "comes out of order" };
                return Err(Error::internal(format!("the change of row {row} of file {file} {what}")));
            }
            *last = Some(place);
        }
        if let Some(other) = changes.values().iter().find(|c| ![CHANGE_UPDATE, CHANGE_DELETE].contains(c)) {
            return Err(Error::internal(format!("a row change of the unknown kind {other}")));
        }
        for (_, at, nulls) in &mut self.required {
            if let Some(null) = batch.column(*at).logical_nulls() {
                let updates = changes.values().iter().enumerate().filter(|(_, c)| **c == CHANGE_UPDATE);
                *nulls += updates.filter(|(i, _)| null.is_null(*i)).count() as u64;
            }
        }
        let deletes = changes.values().iter().map(|c| *c == CHANGE_DELETE).collect();
        Ok(Checked { files: files.values().to_vec(), rows: rows.values().to_vec(), deletes, batch, next: 0 })
    }

    /// Whether a required column was given NULL. The rest of the stream is then only counted.
    pub(super) fn violated(&self) -> bool {
        self.required.iter().any(|(_, _, nulls)| *nulls > 0)
    }

    /// The error that names every required column with its number of NULLs.
    pub(super) fn violation(&self) -> Result<()> {
        let found = self.required.iter().filter(|(_, _, nulls)| *nulls > 0);
        let found: Vec<String> = found.map(|(name, _, nulls)| format!("{name:?} in {nulls} rows")).collect();
        match found.is_empty() {
            true => Ok(()),
            false => {
                let text = format!("NULL where the column is declared NOT NULL: {}", found.join(", "));
                Err(Error::new(ErrorKind::InvalidData, text))
            }
        }
    }
}

/// A batch whose markers were checked; [`Checked::next`] is the first row that was not taken yet.
#[derive(Debug)]
pub(super) struct Checked {
    files: Vec<i64>,
    rows: Vec<i64>,
    deletes: Vec<bool>,
    batch: RecordBatch,
    next: usize,
}

impl Checked {
    /// The file of the next row.
    pub(super) fn file(&self) -> Option<i64> {
        self.files.get(self.next).copied()
    }

    /// The next row.
    pub(super) fn row(&self) -> Option<i64> {
        self.rows.get(self.next).copied()
    }

    /// Takes the rows of the next row's file below `end` into a patch.
    pub(super) fn take_into(&mut self, patch: &mut Patch, end: u64) {
        let Some(file) = self.file() else { return };
        let from = self.next;
        let same = |i: &usize| self.files[*i] == file && self.rows[*i].unsigned_abs() < end;
        let count = (from..self.files.len()).take_while(same).count();
        self.next += count;
        let taken = from..from + count;
        patch.rows.extend(self.rows[taken.clone()].iter().map(|r| r.unsigned_abs()));
        patch.deletes.extend_from_slice(&self.deletes[taken]);
        let values = self.batch.slice(from, count);
        patch.bytes += bytes_of(values.columns());
        patch.values.push(values);
    }
}

/// The changes of one row group, or of a part of one.
#[derive(Debug, Default)]
pub(super) struct Patch {
    /// Row numbers within the file, ascending.
    pub(super) rows: Vec<u64>,
    /// For each row whether it goes.
    pub(super) deletes: Vec<bool>,
    values: Vec<RecordBatch>,
    pub(super) bytes: u64,
}

impl Patch {
    pub(super) fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The new values of a column of the stream, one for each row of the patch, in the type of the file's arrays.
    pub(super) fn values(&self, at: usize, want: &arrow::datatypes::Field) -> Result<ArrayRef> {
        let pieces: Vec<&dyn Array> = self.values.iter().map(|b| b.column(at).as_ref()).collect();
        let failed = |e: arrow::error::ArrowError| Error::internal(format!("new values of {:?}: {e}", want.name()));
        let all = match pieces.as_slice() {
            [one] => arrow::array::make_array(one.to_data()),
            many => concat(many).map_err(failed)?,
        };
        let all = conform(&all, want)?;
        // Texts have more than one spelling; anything else was refused by then.
        if all.data_type() == want.data_type() { Ok(all) } else { cast(&all, want.data_type()).map_err(failed) }
    }
}

/// What happens to a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Happens {
    /// It gets the values of this row of the patch.
    Update(usize),
    Goes,
}

/// What happens to the rows of a range, ascending; a row that the patch names must not be gone already.
pub(super) fn events(patch: &Patch, gone: &[u64], rows: &Range<u64>, name: &str) -> Result<Vec<(u64, Happens)>> {
    let mut events = Vec::with_capacity(patch.rows.len() + gone.len());
    let mut gone = gone.iter().copied().peekable();
    for (i, (row, delete)) in patch.rows.iter().zip(&patch.deletes).enumerate() {
        while let Some(earlier) = gone.next_if(|g| g < row) {
            events.push((earlier, Happens::Goes));
        }
        if gone.peek() == Some(row) || !rows.contains(row) {
            return Err(Error::internal(format!("row {row} of {name} is to change, but it was deleted before")));
        }
        events.push((*row, if *delete { Happens::Goes } else { Happens::Update(i) }));
    }
    events.extend(gone.map(|row| (row, Happens::Goes)));
    Ok(events)
}

/// The schema of a stream of changes that set `columns`, for callers and tests.
#[cfg(test)]
pub(super) fn change_schema(columns: &[arrow::datatypes::FieldRef]) -> SchemaRef {
    use arrow::datatypes::{Field, Schema};
    let marker = |name: &str, data_type| std::sync::Arc::new(Field::new(name, data_type, false));
    let mut fields = vec![
        marker(FILE_INDEX, DataType::Int64),
        marker(ROW_NUMBER, DataType::Int64),
        marker(ROW_CHANGE, DataType::Int8),
    ];
    fields.extend(columns.iter().map(|f| std::sync::Arc::new(f.as_ref().clone().with_nullable(true))));
    std::sync::Arc::new(Schema::new(fields))
}
