//! What rewriting promises, against a model that knows rows only.

mod cases;
mod properties;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::*;
use arrow::compute::concat_batches;
use arrow::datatypes::*;
use duckrun_core::{
    At, BatchStream, CHANGE_DELETE, CHANGE_UPDATE, FileOptions, Result, RewriteSpec, Rewritten, RunContext, Snapshot,
    StagedFile, TableStore, WriteSpec,
};
use duckrun_memory::{EffectiveLimit, Job, MemorySample, MemorySettings, plan};
use parquet::arrow::ArrowWriter;
use parquet::file::properties::WriterProperties;
use roaring::RoaringTreemap;
use serde_json::json;

use super::changes::change_schema;
use crate::scan::{OpenFile, TableShape};
use crate::schema::DeltaSchema;
use crate::snapshot::{DeltaSnapshot, LiveFile};
use crate::{DeltaStore, Location};

pub(super) fn context() -> RunContext {
    let settings = MemorySettings { writers: Some(3), ..MemorySettings::with_limit(2 << 30) };
    RunContext::new(plan(&EffectiveLimit::detect(&MemorySample::default(), &settings), &settings, Job::Write).unwrap())
}

/// A file for a table that is put together by hand.
#[derive(Debug, Default, Clone)]
pub(super) struct Made {
    pub(super) path: String,
    pub(super) stats: Option<String>,
    pub(super) deleted: Vec<u64>,
    pub(super) partition: Vec<(String, Option<String>)>,
}

/// A table whose log is written by hand, so that its files may be anybody's.
pub(super) struct Table {
    pub(super) dir: tempfile::TempDir,
    pub(super) schema: SchemaRef,
    pub(super) by: Vec<String>,
}

impl Table {
    pub(super) fn new(schema: &SchemaRef, by: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        Self { dir, schema: Arc::clone(schema), by: by.iter().map(|s| (*s).to_owned()).collect() }
    }

    pub(super) fn store(&self) -> DeltaStore {
        DeltaStore::new(Location::local(self.dir.path()).unwrap())
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A file of another writer.
    pub(super) fn foreign(&self, name: &str, batch: &RecordBatch, properties: WriterProperties) -> Made {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        let mut writer = ArrowWriter::try_new(File::create(path).unwrap(), batch.schema(), Some(properties)).unwrap();
        writer.write(batch).unwrap();
        writer.close().unwrap();
        Made { path: name.to_owned(), ..Made::default() }
    }

    /// Files of our own writer.
    pub(super) async fn own(&self, batch: &RecordBatch, files: FileOptions) -> Vec<Made> {
        let rows = BatchStream::from_batches(batch.schema(), vec![batch.clone()]);
        let staged = self.store().stage(&context(), None, &self.write(files), rows).await.unwrap();
        let made = |f: StagedFile| Made {
            path: f.path,
            stats: f.stats,
            deleted: vec![],
            partition: f.partition_values.into_iter().collect(),
        };
        staged.files.into_iter().map(made).collect()
    }

    pub(super) fn write(&self, files: FileOptions) -> WriteSpec {
        WriteSpec::new(Arc::clone(&self.schema), self.by.clone(), files, Default::default())
    }

    pub(super) async fn commit(&self, files: &[Made]) -> Arc<dyn Snapshot> {
        let schema = DeltaSchema::from_arrow(&self.schema, None).unwrap().to_json().unwrap();
        self.commit_as(files, &schema, json!({})).await
    }

    pub(super) async fn commit_as(&self, files: &[Made], schema: &str, config: serde_json::Value) -> Arc<dyn Snapshot> {
        let features = ["deletionVectors", "timestampNtz", "columnMapping"];
        let mut log = vec![
            json!({"protocol": {"minReaderVersion": 3, "minWriterVersion": 7,
                "readerFeatures": features, "writerFeatures": features}}),
            json!({"metaData": {"id": "t", "format": {"provider": "parquet", "options": {}}, "schemaString": schema,
                "partitionColumns": self.by, "configuration": config}}),
        ];
        for file in files {
            let decoded = percent_encoding::percent_decode_str(&file.path).decode_utf8().unwrap().into_owned();
            let size = std::fs::metadata(self.path(&decoded)).unwrap().len();
            let values: serde_json::Map<String, serde_json::Value> =
                file.partition.iter().map(|(k, v)| (k.clone(), json!(v))).collect();
            let mut add = json!({"path": file.path, "size": size, "partitionValues": values,
                "modificationTime": 0, "dataChange": true});
            if let Some(stats) = &file.stats {
                add["stats"] = json!(stats);
            }
            if !file.deleted.is_empty() {
                add["deletionVector"] = vector(&file.deleted);
            }
            log.push(json!({"add": add}));
        }
        let folder = self.path("_delta_log");
        std::fs::create_dir_all(&folder).unwrap();
        let text: Vec<String> = log.iter().map(ToString::to_string).collect();
        std::fs::write(folder.join("00000000000000000000.json"), text.join("\n")).unwrap();
        self.store().snapshot(At::Latest).await.unwrap().unwrap()
    }

    pub(super) async fn rewrite(
        &self,
        at: &Arc<dyn Snapshot>,
        changes: Vec<RecordBatch>,
        skip_unchanged: bool,
    ) -> Result<Rewritten> {
        self.rewrite_as(&context(), at, changes, skip_unchanged, files()).await
    }

    pub(super) async fn rewrite_as(
        &self,
        cx: &RunContext,
        at: &Arc<dyn Snapshot>,
        changes: Vec<RecordBatch>,
        skip_unchanged: bool,
        files: FileOptions,
    ) -> Result<Rewritten> {
        let mut write = self.write(files);
        write.properties = at.properties();
        let spec = RewriteSpec::new(write, at.files().await.unwrap().files, skip_unchanged);
        let changes = BatchStream::from_batches(changes[0].schema(), changes);
        self.store().rewrite(cx, at, &spec, changes).await
    }

    /// The rows of a staged file, in the table's columns.
    pub(super) async fn read(&self, at: &Arc<dyn Snapshot>, file: &StagedFile) -> RecordBatch {
        let live = LiveFile {
            path: file.path.clone(),
            size: file.size,
            partition_values: file.partition_values.clone(),
            stats: file.stats.clone(),
            deletion_vector: None,
        };
        read(at, &live).await
    }

    /// Every data file in the folder.
    pub(super) fn on_disk(&self) -> usize {
        fn below(folder: &Path) -> usize {
            let entries = std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().path());
            entries
                .map(|p| if p.is_dir() { below(&p) } else { p.to_str().unwrap().contains(".parquet") as usize })
                .sum()
        }
        below(self.dir.path())
    }
}

pub(super) fn files() -> FileOptions {
    FileOptions { row_group_rows: 100, sync: false, ..FileOptions::default() }
}

pub(super) async fn read(at: &Arc<dyn Snapshot>, live: &LiveFile) -> RecordBatch {
    let snapshot: &DeltaSnapshot = at.as_any().downcast_ref().unwrap();
    let shape = TableShape::of(snapshot).unwrap();
    let open = OpenFile::open(snapshot.location(), &shape, live).await.unwrap();
    let columns: Vec<usize> = (0..snapshot.schema().fields().len()).collect();
    let batches = open.stream(&context(), &columns, 7, false).collect().await.unwrap();
    concat_batches(&snapshot.schema(), &batches).unwrap()
}

/// A deletion vector, inline.
pub(super) fn vector(rows: &[u64]) -> serde_json::Value {
    let map: RoaringTreemap = rows.iter().copied().collect();
    let mut bytes = 1_681_511_377_u32.to_le_bytes().to_vec();
    map.serialize_into(&mut bytes).unwrap();
    let size = bytes.len();
    bytes.resize(size.div_ceil(4) * 4, 0);
    json!({"storageType": "i", "pathOrInlineDv": z85::encode(bytes), "sizeInBytes": size, "cardinality": rows.len()})
}

/// A batch of changes: file, row, and the position in `values` for an update or `None` for a delete.
pub(super) fn changes(list: &[(i64, i64, Option<u32>)], values: &RecordBatch) -> RecordBatch {
    let schema = change_schema(&values.schema().fields().iter().cloned().collect::<Vec<_>>());
    let mut columns: Vec<ArrayRef> = vec![
        Arc::new(list.iter().map(|c| c.0).collect::<Int64Array>()),
        Arc::new(list.iter().map(|c| c.1).collect::<Int64Array>()),
        Arc::new(list.iter().map(|c| if c.2.is_some() { CHANGE_UPDATE } else { CHANGE_DELETE }).collect::<Int8Array>()),
    ];
    let rows: UInt32Array = list.iter().map(|c| c.2).collect();
    columns.extend(values.columns().iter().map(|c| arrow::compute::take(c, &rows, None).unwrap()));
    RecordBatch::try_new(schema, columns).unwrap()
}
