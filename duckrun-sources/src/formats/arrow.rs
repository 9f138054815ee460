//! Arrow IPC, in the file format (Feather version 2) and the stream format, decoded here: DuckDB has no reader of its own.
//!
//! The engine takes the batches into a table of the run, which it may spill, when the source is registered. So this is the
//! one format of files that is not lazy: filters do not reach the files, and a column that is not wanted is left out only by
//! [`ArrowFormat::columns`]. The alternatives are worse: DuckDB's own reader is an extension to download, and scans of Arrow
//! memory through its C API return wrong columns under a projection.
//!
//! Invariant: a value either arrives exactly, or an error names its file and column.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek};
use std::sync::Arc;

use arrow_ipc::reader::{FileReader, StreamReader};
use async_trait::async_trait;
use duckrun_core::arrow::array::{Array, ArrayRef, RecordBatch, RecordBatchOptions, StringArray, new_null_array};
use duckrun_core::arrow::compute::{CastOptions, cast_with_options};
use duckrun_core::arrow::datatypes::{DataType, Field, Fields, Schema, SchemaRef, TimeUnit};
use duckrun_core::arrow::error::ArrowError;
use duckrun_core::object_store::ObjectStore;
use duckrun_core::{BatchStream, Error, ErrorKind, Relation, Resolved, Result, StoreFile};
use serde::{Deserialize, Serialize};
use tokio::runtime::Handle;
use tokio::sync::mpsc;

use crate::object_reader::ObjectReader;
use crate::{Format, Scan, hive};

/// Batches between the thread that decodes and the engine.
const CHANNEL: usize = 2;

/// The options of Arrow IPC.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ArrowFormat {
    /// The only columns to decode, in this order; all if empty.
    pub columns: Vec<String>,
}

#[async_trait]
impl Format for ArrowFormat {
    fn name(&self) -> &str {
        "arrow"
    }

    fn extensions(&self) -> Vec<&str> {
        vec!["arrow", "feather"]
    }

    fn decodes_itself(&self) -> bool {
        true
    }

    async fn relation(&self, scan: &Scan<'_>) -> Result<Resolved> {
        if let Some((column, _)) = scan.options.hive_types.first() {
            return Err(Error::unsupported(format!(
                "the partition {column:?} of Arrow IPC files comes as text: cast it in the SQL instead of setting a type"
            )));
        }
        let object =
            |path: &str| scan.object(path).map(|(store, file)| (store.clone(), file.clone(), Handle::current()));
        let inputs: Vec<Input> =
            scan.files.iter().map(|f| Input { path: f.path.clone(), object: object(&f.path) }).collect();
        let looked_at = inputs.clone();
        let wanted = self.columns.clone();
        let union = scan.options.union_by_name;
        let run = scan.cx.run.clone();
        let columns = tokio::task::spawn_blocking(move || columns(&looked_at, &wanted, union, &|| run.check()))
            .await
            .map_err(|e| Error::internal("reading Arrow schemas panicked").with_source(e))??;
        let plan = Plan::new(columns, scan)?;
        let files = if scan.no_rows { Vec::new() } else { inputs };
        let schema = plan.schema.clone();
        let (sender, receiver) = mpsc::channel(CHANNEL);
        tokio::task::spawn_blocking(move || {
            let last = plan.send(&files, &sender).map(|()| None);
            // A receiver that is gone has cancelled the run.
            let _ = sender.blocking_send(last);
        });
        // The end is a message of its own: a channel that merely closes means that the thread died.
        let batches = futures::stream::unfold(receiver, |mut receiver| async {
            let died = || Err(Error::internal("the thread that decodes Arrow IPC ended without a result"));
            let item = receiver.recv().await.unwrap_or_else(died);
            item.transpose().map(|batch| (batch, receiver))
        });
        Ok(Relation::Stream(BatchStream::new(schema, batches)).into())
    }
}

/// What is decoded: a local file, or an object of a store.
#[derive(Clone)]
struct Input {
    path: String,
    object: Option<(Arc<dyn ObjectStore>, StoreFile, Handle)>,
}

trait ReadSeek: Read + Seek + Send {}
impl<T: Read + Seek + Send> ReadSeek for T {}

impl Input {
    fn open(&self) -> io::Result<Box<dyn ReadSeek>> {
        Ok(match &self.object {
            None => Box::new(File::open(&self.path)?),
            Some((store, file, runtime)) => Box::new(ObjectReader::new(store.clone(), file.clone(), runtime.clone())),
        })
    }
}

/// A file's batches, of whichever of the two formats.
enum Reader {
    File(FileReader<BufReader<Box<dyn ReadSeek>>>),
    Stream(StreamReader<BufReader<Box<dyn ReadSeek>>>),
}

impl Reader {
    fn open(input: &Input) -> Result<Self> {
        let path = input.path.as_str();
        let fail = |e: io::Error| {
            // A store's error says all of it.
            let e = match e.downcast::<Error>() {
                Ok(ours) => return ours,
                Err(e) => e,
            };
            let kind = match e.kind() {
                io::ErrorKind::NotFound => ErrorKind::NotFound,
                io::ErrorKind::PermissionDenied => ErrorKind::PermissionDenied,
                _ => ErrorKind::Unavailable,
            };
            Error::new(kind, format!("{path} cannot be read: {e}")).with_source(e)
        };
        let mut file = input.open().map_err(fail)?;
        let mut magic = Vec::new();
        (&mut file).take(6).read_to_end(&mut magic).map_err(fail)?;
        file.rewind().map_err(fail)?;
        if magic.is_empty() {
            return Err(Error::new(
                ErrorKind::InvalidData,
                format!("{path} is empty (0 bytes), so that it has no schema: leave it out"),
            ));
        }
        if magic.starts_with(b"FEA1") {
            return Err(Error::unsupported(format!(
                "{path} is Feather version 1: write it again as version 2 (Arrow IPC)"
            )));
        }
        let file = BufReader::new(file);
        if magic == *b"ARROW1" {
            FileReader::try_new(file, None).map(Self::File).map_err(|e| broken(path, e))
        } else {
            StreamReader::try_new(file, None).map(Self::Stream).map_err(|e| broken(path, e))
        }
    }

    /// The same, decoding only these columns.
    fn project(input: &Input, wanted: Vec<usize>) -> Result<Self> {
        let path = input.path.as_str();
        let again = |e: io::Error| Error::new(ErrorKind::Unavailable, format!("{path} cannot be read: {e}"));
        let file = || input.open().map(BufReader::new).map_err(again);
        match Self::open(input)? {
            Self::File(_) => FileReader::try_new(file()?, Some(wanted)).map(Self::File).map_err(|e| broken(path, e)),
            Self::Stream(_) => {
                StreamReader::try_new(file()?, Some(wanted)).map(Self::Stream).map_err(|e| broken(path, e))
            }
        }
    }

    fn schema(&self) -> SchemaRef {
        match self {
            Self::File(reader) => reader.schema(),
            Self::Stream(reader) => reader.schema(),
        }
    }

    fn next(&mut self) -> Option<std::result::Result<RecordBatch, ArrowError>> {
        match self {
            Self::File(reader) => reader.next(),
            Self::Stream(reader) => reader.next(),
        }
    }
}

fn broken(path: &str, e: ArrowError) -> Error {
    Error::new(
        ErrorKind::InvalidData,
        format!("{path} is not a whole Arrow IPC file ({e}): write it again, or leave it out"),
    )
    .with_source(e)
}

/// The columns to read, in the types that the engine takes.
fn columns(inputs: &[Input], wanted: &[String], union: bool, check: &dyn Fn() -> Result<()>) -> Result<Vec<Field>> {
    let mut found: Vec<Field> = Vec::new();
    let example = inputs.first().map_or("", |input| input.path.as_str());
    for input in inputs {
        check()?;
        let path = &input.path;
        let schema = Reader::open(input)?.schema();
        let first = found.is_empty();
        for field in schema.fields() {
            if !wanted.is_empty() && !wanted.contains(field.name()) {
                continue;
            }
            let ty = loadable(field.data_type()).ok_or_else(|| {
                Error::unsupported(format!(
                    "the column {:?} of {path} has Arrow's type {}, which has no counterpart: convert it, or name the \
                     columns to read",
                    field.name(),
                    field.data_type()
                ))
            })?;
            match found.iter().find(|f| f.name() == field.name()) {
                Some(known) if *known.data_type() == ty => {}
                Some(known) => {
                    return Err(foreign(format!(
                        "the column {:?} of {path} is {ty}, and {} in {}",
                        field.name(),
                        known.data_type(),
                        example
                    )));
                }
                None if first || union => found.push(Field::new(field.name(), ty, true)),
                None => {
                    return Err(foreign(format!(
                        "{path} has a column {:?} that {} lacks: use union_by_name, or name the columns to read",
                        field.name(),
                        example
                    )));
                }
            }
        }
        if !union && let Some(missing) = found.iter().find(|f| schema.index_of(f.name()).is_err()) {
            return Err(foreign(format!(
                "{path} lacks the column {:?} of {}: use union_by_name, or leave the file out",
                missing.name(),
                example
            )));
        }
    }
    if let Some(missing) = wanted.iter().find(|w| !found.iter().any(|f| f.name() == *w)) {
        return Err(Error::invalid(format!("there is no column {missing:?} in {}", example)));
    }
    if !wanted.is_empty() {
        found.sort_by_key(|f| wanted.iter().position(|w| w == f.name()));
    }
    Ok(found)
}

fn foreign(message: String) -> Error {
    Error::new(ErrorKind::InvalidData, message)
}

/// What every file is made to fit.
struct Plan {
    columns: Vec<Field>,
    /// The columns, then the file's name, then the partitions.
    schema: SchemaRef,
    filename: bool,
    filename_prefix: usize,
    partitions: Vec<String>,
}

impl Plan {
    fn new(columns: Vec<Field>, scan: &Scan<'_>) -> Result<Self> {
        let partitions = match scan.hive {
            true => hive::common_keys(scan.files.iter().map(|f| f.path.as_str())).unwrap_or_default(),
            false => Vec::new(),
        };
        let mut fields = columns.clone();
        for name in scan.filename.iter().chain(&partitions) {
            if columns.iter().any(|f| f.name().eq_ignore_ascii_case(name)) {
                return Err(Error::invalid(format!(
                    "the files of {} have a column {name:?} of their own: use filename_as or HivePartitions::Off",
                    scan.location
                )));
            }
            fields.push(Field::new(name, DataType::Utf8, true));
        }
        let schema = Arc::new(Schema::new(fields));
        Ok(Self {
            columns,
            schema,
            filename: scan.filename.is_some(),
            filename_prefix: scan.filename_prefix,
            partitions,
        })
    }

    fn send(&self, files: &[Input], to: &mpsc::Sender<Result<Option<RecordBatch>>>) -> Result<()> {
        for file in files {
            let path = file.path.as_str();
            let schema = Reader::open(file)?.schema();
            let mut wanted: Vec<usize> = self.columns.iter().filter_map(|c| schema.index_of(c.name()).ok()).collect();
            wanted.sort_unstable();
            let mut reader = Reader::project(file, wanted)?;
            while let Some(batch) = reader.next() {
                let batch = self.fit(path, &batch.map_err(|e| broken(path, e))?)?;
                if to.blocking_send(Ok(Some(batch))).is_err() {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    fn fit(&self, path: &str, batch: &RecordBatch) -> Result<RecordBatch> {
        let rows = batch.num_rows();
        let mut arrays: Vec<ArrayRef> = Vec::with_capacity(self.schema.fields().len());
        for column in &self.columns {
            arrays.push(match batch.column_by_name(column.name()) {
                Some(array) => convert(path, column, array)?,
                None => new_null_array(column.data_type(), rows),
            });
        }
        let constant = |value: Option<&str>| Arc::new(StringArray::from(vec![value; rows])) as ArrayRef;
        if self.filename {
            let shown: String = path.chars().skip(self.filename_prefix).collect();
            arrays.push(constant(Some(&shown)));
        }
        let values = if self.partitions.is_empty() { Vec::new() } else { hive::partitions(path) };
        for key in &self.partitions {
            let value = values.iter().find(|(k, _)| k.eq_ignore_ascii_case(key)).and_then(|(_, v)| v.as_deref());
            arrays.push(constant(value));
        }
        let options = RecordBatchOptions::new().with_row_count(Some(rows));
        RecordBatch::try_new_with_options(self.schema.clone(), arrays, &options).map_err(|e| broken(path, e))
    }
}

/// A column in its loadable type. What the cast would cut is found by casting back.
fn convert(path: &str, to: &Field, array: &ArrayRef) -> Result<ArrayRef> {
    let from = array.data_type();
    if from == to.data_type() {
        return Ok(array.clone());
    }
    let options = CastOptions { safe: false, ..CastOptions::default() };
    let fail = |e: ArrowError| {
        Error::new(
            ErrorKind::InvalidData,
            format!("the column {:?} of {path} is no {}: {e}", to.name(), to.data_type()),
        )
    };
    let cast = cast_with_options(array, to.data_type(), &options).map_err(fail)?;
    if may_cut(from) {
        let back = cast_with_options(&cast, from, &options).map_err(fail)?;
        if back.to_data() != array.to_data() {
            return Err(Error::new(
                ErrorKind::InvalidData,
                format!(
                    "the column {:?} of {path} has values of {from} that {} cannot hold (nanoseconds, or a time of day in \
                     a date): round them first",
                    to.name(),
                    to.data_type()
                ),
            ));
        }
    }
    Ok(cast)
}

fn may_cut(ty: &DataType) -> bool {
    match ty {
        DataType::Timestamp(TimeUnit::Nanosecond, _) | DataType::Date64 => true,
        DataType::List(f) | DataType::LargeList(f) | DataType::FixedSizeList(f, _) | DataType::Map(f, _) => {
            may_cut(f.data_type())
        }
        DataType::Struct(fields) => fields.iter().any(|f| may_cut(f.data_type())),
        _ => false,
    }
}

/// The type in which the engine takes an Arrow type without loss; `None` where it has none.
fn loadable(ty: &DataType) -> Option<DataType> {
    let inside = |f: &Field| Some(Arc::new(Field::new(f.name(), loadable(f.data_type())?, true)));
    Some(match ty {
        DataType::Boolean
        | DataType::Int8
        | DataType::Int16
        | DataType::Int32
        | DataType::Int64
        | DataType::Float32
        | DataType::Float64
        | DataType::Date32 => ty.clone(),
        DataType::UInt8 => DataType::Int16,
        DataType::UInt16 => DataType::Int32,
        DataType::UInt32 => DataType::Int64,
        DataType::UInt64 => DataType::Decimal128(20, 0),
        DataType::Float16 => DataType::Float32,
        DataType::Date64 => DataType::Date32,
        DataType::Decimal32(p, s) | DataType::Decimal64(p, s) | DataType::Decimal128(p, s)
            if *s >= 0 && i32::from(*s) <= i32::from(*p) =>
        {
            DataType::Decimal128(*p, *s)
        }
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => DataType::Utf8,
        DataType::Binary | DataType::LargeBinary | DataType::BinaryView | DataType::FixedSizeBinary(_) => {
            DataType::Binary
        }
        DataType::Timestamp(_, None) => DataType::Timestamp(TimeUnit::Microsecond, None),
        // An instant is the same in every zone.
        DataType::Timestamp(_, Some(_)) => DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
        DataType::Dictionary(_, value) => loadable(value)?,
        DataType::List(f) | DataType::LargeList(f) | DataType::FixedSizeList(f, _) => DataType::List(inside(f)?),
        DataType::Struct(fields) if !fields.is_empty() => {
            DataType::Struct(fields.iter().map(|f| inside(f)).collect::<Option<Fields>>()?)
        }
        DataType::Map(entries, sorted) => {
            let DataType::Struct(kv) = entries.data_type() else { return None };
            let [key, value] = kv.as_ref() else { return None };
            let key = Arc::new(Field::new(key.name(), loadable(key.data_type())?, false));
            let kv = Fields::from(vec![key, inside(value)?]);
            DataType::Map(Arc::new(Field::new(entries.name(), DataType::Struct(kv), false)), *sorted)
        }
        _ => return None,
    })
}
