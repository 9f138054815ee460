//! Manifest lists, manifests and position deletes: Avro files that name the data files, and parquet files that name rows.
//!
//! Of every Avro file only the fields that are used are decoded: its own schema, pruned, is the reader's schema.

use std::collections::BTreeMap;
use std::fs::File;

use arrow_avro::reader::{ReaderBuilder, read_header_info};
use arrow_avro::schema::AvroSchema;
use duckrun_core::arrow::array::{Array, ArrayRef, AsArray, Int64Array, RecordBatch, StructArray};
use duckrun_core::arrow::compute::cast;
use duckrun_core::arrow::datatypes::{DataType, Int32Type, Int64Type};
use duckrun_core::arrow::error::ArrowError;
use duckrun_core::object_store::ObjectStoreExt;
use duckrun_core::{Error, Result};
use futures::{FutureExt, StreamExt, TryStreamExt};
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::file::reader::ChunkReader;
use serde_json::Value as Json;

use super::home::{Folder, Home, TableFile, blocking, unreadable};
use super::metadata::IcebergSnapshot;
use crate::stores;

/// The status of a manifest's entry that is no longer live.
const DELETED: i32 = 2;
/// Manifests that are read and decoded at a time; each is a few MB by default.
const AT_ONCE: usize = 8;

/// Asked again and again; its error ends the reading.
pub(super) type Check<'a> = &'a (dyn Fn() -> Result<()> + Send + Sync);

/// A data file, or a file of position deletes.
#[derive(Debug)]
pub(super) struct ListedData {
    pub(super) path: String,
    pub(super) size: u64,
    pub(super) rows: u64,
}

/// The live files of a snapshot.
#[derive(Debug, Default)]
pub(super) struct Manifests {
    pub(super) data: Vec<ListedData>,
    pub(super) position_deletes: Vec<String>,
}

impl Manifests {
    /// Reads everything that a snapshot lists.
    pub(super) async fn read(home: &Home, snapshot: &IcebergSnapshot, check: Check<'_>) -> Result<Self> {
        let mut manifests: Vec<(String, Option<i64>)> = snapshot.manifests.iter().map(|m| (m.clone(), None)).collect();
        if let Some(list) = &snapshot.manifest_list {
            let file = home.resolve(list)?;
            let (name, bytes) = (home.folder.called(&file), home.folder.read(&file).await?);
            manifests = blocking(move || manifest_list(&name, &bytes)).await?;
        }
        let one = |(manifest, length): (String, Option<i64>)| {
            async move {
                check()?;
                let file = home.resolve(&manifest)?;
                let (name, bytes) = (home.folder.called(&file), home.folder.read(&file).await?);
                blocking(move || Self::manifest(&name, &bytes, length)).await
            }
            .boxed()
        };
        let read: Vec<_> = manifests.into_iter().map(one).collect();
        let read = futures::stream::iter(read).buffered(AT_ONCE);
        read.try_fold(Self::default(), |mut all, more| async move {
            all.data.extend(more.data);
            all.position_deletes.extend(more.position_deletes);
            Ok(all)
        })
        .await
    }

    fn manifest(name: &str, bytes: &[u8], length: Option<i64>) -> Result<Self> {
        let size = bytes.len() as u64;
        // An Avro file that ends between two blocks looks whole.
        if let Some(length) = length
            && u64::try_from(length).ok() != Some(size)
        {
            return Err(Error::corrupt(format!(
                "the Iceberg manifest {name} has {size} bytes, where the manifest list says {length}"
            )));
        }
        let wanted = [
            "status",
            "data_file",
            "content",
            "file_path",
            "file_format",
            "record_count",
            "file_size_in_bytes",
            "key_metadata",
        ];
        let mut found = Self::default();
        read_avro(name, bytes, &wanted, |batch| {
            let status = batch.column_by_name("status")?.as_primitive_opt::<Int32Type>()?;
            let files = batch.column_by_name("data_file")?.as_struct_opt()?;
            let live = (0..batch.num_rows()).filter(|row| status.value(*row) != DELETED);
            found.entries(files, live)
        })?;
        Ok(found)
    }

    fn entries(&mut self, files: &StructArray, live: impl Iterator<Item = usize>) -> Option<Result<()>> {
        let paths = text(files.column_by_name("file_path"))?;
        let formats = text(files.column_by_name("file_format"))?;
        let rows = longs(files.column_by_name("record_count"))?;
        let sizes = longs(files.column_by_name("file_size_in_bytes"))?;
        // Version 1 has data files only.
        let content = files.column_by_name("content").and_then(|c| c.as_primitive_opt::<Int32Type>());
        let keys = files.column_by_name("key_metadata");
        for row in live {
            let path = paths.as_string::<i32>().value(row).to_owned();
            let format = formats.as_string::<i32>().value(row);
            let refuse = |what: &str| Some(Err(Error::unsupported(format!("the Iceberg file {path} {what}"))));
            if keys.is_some_and(|k| k.is_valid(row)) {
                return refuse("is encrypted, which is not read");
            }
            let content = content.map_or(0, |c| c.value(row));
            match content {
                0 | 1 if format.eq_ignore_ascii_case("parquet") => {}
                2 => {
                    return refuse(
                        "holds equality deletes, which are not read: compact the table (rewrite_data_files) first",
                    );
                }
                _ if format.eq_ignore_ascii_case("puffin") => {
                    return refuse("holds deletion vectors, which are not read: compact the table first");
                }
                _ => return refuse(&format!("is of the format {format}, and only parquet is read")),
            }
            if content == 1 {
                self.position_deletes.push(path);
            } else {
                let unsigned = |n: i64| u64::try_from(n).unwrap_or(0);
                self.data.push(ListedData { path, size: unsigned(sizes.value(row)), rows: unsigned(rows.value(row)) });
            }
        }
        Some(Ok(()))
    }
}

/// The manifests that a list names, with their lengths where it says them.
fn manifest_list(name: &str, bytes: &[u8]) -> Result<Vec<(String, Option<i64>)>> {
    let mut manifests = Vec::new();
    read_avro(name, bytes, &["manifest_path", "manifest_length"], |batch| {
        let paths = text(batch.column_by_name("manifest_path"))?;
        let lengths = longs(batch.column_by_name("manifest_length"));
        for row in 0..batch.num_rows() {
            let path = paths.as_string::<i32>().value(row).to_owned();
            manifests.push((path, lengths.filter(|l| l.is_valid(row)).map(|l| l.value(row))));
        }
        Some(Ok(()))
    })?;
    Ok(manifests)
}

/// The column as text, whatever layout it has.
fn text(column: Option<&ArrayRef>) -> Option<ArrayRef> {
    cast(column?, &DataType::Utf8).ok()
}

fn longs(column: Option<&ArrayRef>) -> Option<&Int64Array> {
    column?.as_primitive_opt::<Int64Type>()
}

/// Decodes the wanted fields of an Avro file. `None` from the visitor means that a field is not what the specification says.
fn read_avro(
    name: &str,
    bytes: &[u8],
    wanted: &[&str],
    mut visit: impl FnMut(&RecordBatch) -> Option<Result<()>>,
) -> Result<()> {
    let corrupt = |why: String| Error::corrupt(format!("{name} is not a manifest of Iceberg: {why}"));
    let broken = |e: ArrowError| corrupt(e.to_string()).with_source(e);
    let header = read_header_info(bytes).and_then(|h| h.writer_schema());
    let written = header.map_err(|e| corrupt(e.to_string()).with_source(e))?.json_string;
    let mut schema: Json = serde_json::from_str(&written).map_err(|e| corrupt(e.to_string()).with_source(e))?;
    prune(&mut schema, wanted);
    let reader =
        ReaderBuilder::new().with_reader_schema(AvroSchema::new(schema.to_string())).build(bytes).map_err(broken)?;
    for batch in reader {
        visit(&batch.map_err(broken)?).ok_or_else(|| corrupt("a field is missing or of another type".to_owned()))??;
    }
    Ok(())
}

/// Keeps the wanted fields of a record and of the records in it.
fn prune(schema: &mut Json, wanted: &[&str]) {
    if let Some(fields) = schema.get_mut("fields").and_then(Json::as_array_mut) {
        fields.retain(|f| f["name"].as_str().is_some_and(|name| wanted.contains(&name)));
        for field in fields {
            prune(&mut field["type"], wanted);
        }
    }
}

/// The rows that are deleted, by the data file that they are in.
pub(super) type Deleted = BTreeMap<TableFile, Vec<u64>>;

/// Reads the files of position deletes, one after the other.
pub(super) async fn read_position_deletes(home: &Home, files: &[String], check: Check<'_>) -> Result<Deleted> {
    let mut deleted = Deleted::new();
    for named in files {
        check()?;
        let file = home.resolve(named)?;
        let (name, owned) = (home.folder.called(&file), home.clone());
        deleted = match (&home.folder, file) {
            (Folder::Store(remote), TableFile::Store(path)) => {
                let read = async { remote.store.get(&path).await?.bytes().await };
                let bytes = read.await.map_err(|e| stores::unreadable(&name, e))?;
                blocking(move || positions(&owned, &name, bytes, deleted)).await?
            }
            (_, TableFile::Disk(path)) => {
                blocking(move || {
                    let file = File::open(&path).map_err(|e| unreadable(&path, e))?;
                    positions(&owned, &name, file, deleted)
                })
                .await?
            }
            (Folder::Disk(_), TableFile::Store(_)) => {
                return Err(Error::internal("a local table has no files in a store"));
            }
        };
    }
    Ok(deleted)
}

/// Adds the rows that a file of position deletes names.
fn positions(home: &Home, name: &str, file: impl ChunkReader + 'static, mut deleted: Deleted) -> Result<Deleted> {
    let corrupt = |why: String| Error::corrupt(format!("{name} is not a file of position deletes: {why}"));
    let builder = ParquetRecordBatchReaderBuilder::try_new(file).map_err(|e| corrupt(e.to_string()).with_source(e))?;
    let mask = ProjectionMask::columns(builder.parquet_schema(), ["file_path", "pos"]);
    let reader = builder.with_projection(mask).build().map_err(|e| corrupt(e.to_string()).with_source(e))?;
    for batch in reader {
        let batch = batch.map_err(|e| corrupt(e.to_string()).with_source(e))?;
        let (Some(paths), Some(positions)) =
            (text(batch.column_by_name("file_path")), longs(batch.column_by_name("pos")))
        else {
            return Err(corrupt("it has no columns file_path and pos".to_owned()));
        };
        let paths = paths.as_string::<i32>();
        let mut known: Option<(&str, TableFile)> = None;
        for row in 0..batch.num_rows() {
            let named = paths.value(row);
            // Sorted by path, as the specification asks: most rows are of the file before.
            if known.as_ref().is_none_or(|(name, _)| *name != named) {
                known = Some((named, home.resolve(named)?));
            }
            let position =
                u64::try_from(positions.value(row)).map_err(|_| corrupt("a position is negative".to_owned()))?;
            if let Some((_, file)) = &known {
                deleted.entry(file.clone()).or_default().push(position);
            }
        }
    }
    Ok(deleted)
}
