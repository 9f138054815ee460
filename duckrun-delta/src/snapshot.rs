//! A table at one version: opened from the log without reading its files, pinned for as long as it lives.

use std::any::Any;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{Array, AsArray, RecordBatch, StructArray};
use arrow::datatypes::{Int32Type, Int64Type, SchemaRef};
use async_trait::async_trait;
use chrono::{DateTime, Utc};
use deltalake::DeltaTableError;
use deltalake::kernel::Snapshot as LazySnapshot;
use duckrun_core::{At, ColumnRange, CommitRecord, Error, ErrorKind, FileSet, Result, Snapshot};
use futures::TryStreamExt;

use crate::deletion_vector::Descriptor;
use crate::error::delta_error;
use crate::location::Location;
use crate::protocol::{Metadata, Protocol};
use crate::prune::Prune;
use crate::schema::DeltaSchema;

/// A Delta table at one version.
#[derive(Clone)]
pub struct DeltaSnapshot {
    location: Location,
    lazy: Arc<LazySnapshot>,
    protocol: Protocol,
    metadata: Metadata,
    delta_schema: DeltaSchema,
    schema: SchemaRef,
    /// When it was opened, by the location's clock.
    pinned: DateTime<Utc>,
}

/// A live file, as the log has it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct LiveFile {
    /// The path as it stands in the log, still encoded: a remove must repeat it to the letter.
    pub(crate) path: String,
    pub(crate) size: u64,
    pub(crate) partition_values: BTreeMap<String, Option<String>>,
    pub(crate) stats: Option<String>,
    pub(crate) deletion_vector: Option<Descriptor>,
}

impl LiveFile {
    /// Rows that a reader sees, where the log knows.
    pub(crate) fn live_rows(&self) -> Option<u64> {
        let gone = self.deletion_vector.as_ref().map_or(0, |dv| dv.cardinality.unsigned_abs());
        Some(self.rows()?.saturating_sub(gone))
    }

    /// Rows in the file, where the log knows.
    pub(crate) fn rows(&self) -> Option<u64> {
        #[derive(serde::Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Rows {
            num_records: Option<u64>,
        }
        serde_json::from_str::<Rows>(self.stats.as_deref()?).ok()?.num_records
    }
}

impl DeltaSnapshot {
    /// Opens a version; `Ok(None)` means that there is no table at this place, and only that.
    pub(crate) async fn open(location: &Location, at: At) -> Result<Option<Self>> {
        let version = match at {
            At::Latest => None,
            At::Version(version) => Some(version),
            At::Timestamp(time) => match crate::history::version_at(location, time).await? {
                Some(version) => Some(version),
                None => return Ok(None),
            },
            _ => return Err(Error::unsupported("this way to name a version")),
        };
        let pinned = location.clock().now();
        let mut second = false;
        loop {
            let e = match LazySnapshot::try_new(location.log().as_ref(), version).await {
                Ok(lazy) => return Self::build(location.clone(), lazy, pinned).map(Some),
                Err(e) => e,
            };
            match Self::not_opened(location, e, version).await? {
                None => return Ok(None),
                // It may have been committed between the two looks; then another one finds it.
                Some(e) if !second && matches!(e.kind(), ErrorKind::NotFound | ErrorKind::Corrupt) => second = true,
                // The log has it, so "not found" can only mean that a part of it is missing.
                Some(e) if e.kind() == ErrorKind::NotFound => return Err(Error::corrupt(e.message()).with_source(e)),
                Some(e) => return Err(e),
            }
        }
    }

    /// A table is missing only if its log folder holds nothing (`Ok(None)`). Whatever else stands in the way must not look like a
    /// first run: it is handed back where the log has, by now, what was asked for.
    ///
    /// # Errors
    /// A version that does not exist, and a log that cannot be listed.
    async fn not_opened(location: &Location, e: DeltaTableError, version: Option<u64>) -> Result<Option<Error>> {
        let missing = |message: String| Error::new(ErrorKind::NotFound, message);
        let log = crate::history::list(location, None).await?;
        if log.is_empty() {
            return match version {
                None => Ok(None),
                Some(_) => Err(missing(format!("there is no table at {location}"))),
            };
        }
        match (version, log.newest()) {
            (Some(version), Some(newest)) if version > newest => {
                Err(missing(format!("version {version} does not exist: the newest is {newest}")).with_source(e))
            }
            (Some(version), _) if log.is_before_oldest(version) => {
                Err(missing(format!("version {version} is no longer in the log, which was cleaned up")).with_source(e))
            }
            _ => Ok(Some(delta_error(e, format!("open the table {location}")))),
        }
    }

    fn build(location: Location, lazy: LazySnapshot, pinned: DateTime<Utc>) -> Result<Self> {
        let json = |e| Error::corrupt("the table's protocol or metadata cannot be understood").with_source(e);
        let protocol: Protocol =
            serde_json::to_value(lazy.protocol()).and_then(serde_json::from_value).map_err(json)?;
        protocol.check_readable()?;
        let metadata: Metadata =
            serde_json::to_value(lazy.metadata()).and_then(serde_json::from_value).map_err(json)?;
        let delta_schema = DeltaSchema::parse(&metadata.schema_string)?;
        let schema = delta_schema.arrow()?;
        Ok(Self { location, lazy: Arc::new(lazy), protocol, metadata, delta_schema, schema, pinned })
    }

    /// The same table at a later version.
    pub(crate) async fn at_version(&self, version: u64) -> Result<Self> {
        match Self::open(&self.location, At::Version(version)).await? {
            Some(snapshot) => Ok(snapshot),
            None => Err(Error::corrupt(format!("version {version} has vanished"))),
        }
    }

    /// The newest version, from what is known and what came after it: cheaper than opening it anew.
    pub(crate) async fn newest(&self) -> Result<Self> {
        let (engine, pinned) = (self.location.log().engine(None), self.location.clock().now());
        let lazy = self.lazy.clone().update(engine, None).await;
        let lazy = lazy.map_err(|e| delta_error(e, format_args!("open the newest version of {}", self.location)))?;
        Self::build(self.location.clone(), lazy.as_ref().clone(), pinned)
    }

    /// How long ago it was opened.
    pub(crate) fn age(&self) -> Duration {
        (self.location.clock().now() - self.pinned).to_std().unwrap_or_default()
    }

    pub(crate) fn location(&self) -> &Location {
        &self.location
    }

    /// The log's files behind this version, for replays of our own.
    pub(crate) fn lazy(&self) -> &LazySnapshot {
        &self.lazy
    }

    pub(crate) fn protocol(&self) -> &Protocol {
        &self.protocol
    }

    pub(crate) fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    pub(crate) fn delta_schema(&self) -> &DeltaSchema {
        &self.delta_schema
    }

    /// The live files, from the log.
    pub(crate) async fn live_files(&self) -> Result<Vec<LiveFile>> {
        let batches: Vec<RecordBatch> = self
            .lazy
            .files(self.location.log().as_ref(), None)
            .try_collect()
            .await
            .map_err(|e| delta_error(e, format_args!("list the files of {}", self.location)))?;
        let mut files = Vec::with_capacity(batches.iter().map(RecordBatch::num_rows).sum());
        for batch in &batches {
            read_files(batch, &mut files)?;
        }
        // The log's order is newest first; a stable order makes reports and tests repeatable.
        files.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(files)
    }
}

fn read_files(batch: &RecordBatch, out: &mut Vec<LiveFile>) -> Result<()> {
    let missing = |name: &str| Error::internal(format!("delta-rs lists files without {name}"));
    let column = |name: &str| batch.column_by_name(name).ok_or_else(|| missing(name));
    let paths = column("path")?;
    let sizes = column("size")?.as_primitive_opt::<Int64Type>().ok_or_else(|| missing("size"))?;
    let stats = batch.column_by_name("stats");
    let vectors = batch.column_by_name("deletionVector").and_then(|c| c.as_struct_opt());
    let constants = batch.column_by_name("fileConstantValues").and_then(|c| c.as_struct_opt());
    let partitions = constants.and_then(|c| c.column_by_name("partitionValues")).and_then(|c| c.as_map_opt());
    for row in 0..batch.num_rows() {
        let mut partition_values = BTreeMap::new();
        if let Some(map) = partitions.filter(|m| m.is_valid(row)) {
            let entries = map.value(row);
            for i in 0..entries.len() {
                if let Some(key) = text(entries.column(0).as_ref(), i) {
                    partition_values.insert(key, text(entries.column(1).as_ref(), i));
                }
            }
        }
        out.push(LiveFile {
            path: text(paths.as_ref(), row).ok_or_else(|| missing("path"))?,
            size: sizes.value(row).unsigned_abs(),
            partition_values,
            stats: stats.and_then(|s| text(s.as_ref(), row)).filter(|s| !s.is_empty()),
            deletion_vector: vectors.and_then(|v| descriptor(v, row)),
        });
    }
    Ok(())
}

fn descriptor(vectors: &StructArray, row: usize) -> Option<Descriptor> {
    if vectors.is_null(row) {
        return None;
    }
    let int = |name: &str| {
        let column = vectors.column_by_name(name)?;
        let column = column.as_primitive_opt::<Int32Type>()?;
        column.is_valid(row).then(|| column.value(row))
    };
    let cardinality = vectors.column_by_name("cardinality")?.as_primitive_opt::<Int64Type>()?.value(row);
    Some(Descriptor {
        storage_type: text(vectors.column_by_name("storageType")?.as_ref(), row)?,
        path_or_inline_dv: text(vectors.column_by_name("pathOrInlineDv")?.as_ref(), row)?,
        offset: int("offset"),
        size_in_bytes: int("sizeInBytes")?,
        cardinality,
    })
}

/// A string of any of Arrow's string layouts.
pub(crate) fn text(array: &dyn Array, row: usize) -> Option<String> {
    if array.is_null(row) {
        return None;
    }
    if let Some(a) = array.as_string_opt::<i32>() {
        return Some(a.value(row).to_owned());
    }
    if let Some(a) = array.as_string_opt::<i64>() {
        return Some(a.value(row).to_owned());
    }
    array.as_string_view_opt().map(|a| a.value(row).to_owned())
}

#[async_trait]
impl Snapshot for DeltaSnapshot {
    fn version(&self) -> u64 {
        self.lazy.version()
    }

    fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }

    fn partition_columns(&self) -> &[String] {
        &self.metadata.partition_columns
    }

    fn properties(&self) -> BTreeMap<String, String> {
        self.metadata.configuration.clone()
    }

    fn comment(&self) -> Option<String> {
        self.metadata.description.clone()
    }

    fn column_comments(&self) -> BTreeMap<String, String> {
        self.delta_schema.fields.iter().filter_map(|f| Some((f.name.clone(), f.comment()?.to_owned()))).collect()
    }

    async fn files(&self) -> Result<FileSet> {
        let files = self.live_files().await?;
        crate::read::file_set(self, files).await.map_err(|e| e.with_version(self.version()))
    }

    async fn files_within(&self, ranges: &[ColumnRange]) -> Result<FileSet> {
        let prune = Prune::new(self, ranges)?;
        let mut files = self.live_files().await?;
        files.retain(|f| prune.may_hold(&f.partition_values, f.stats.as_deref()));
        crate::read::file_set(self, files).await.map_err(|e| e.with_version(self.version()))
    }

    async fn app_version(&self, app_id: &str) -> Result<Option<i64>> {
        let doing = format!("read the transactions of {}", self.location);
        let scan = self.lazy.scan_builder().build().map_err(|e| delta_error(e, &doing))?;
        let (kernel, engine) = (scan.snapshot().clone(), self.location.log().engine(None));
        let app_id = app_id.to_owned();
        tokio::task::spawn_blocking(move || kernel.get_app_id_version(&app_id, engine.as_ref()))
            .await
            .map_err(|e| Error::internal("reading transactions failed").with_source(e))?
            .map_err(|e| delta_error(e.into(), &doing))
    }

    async fn history(&self) -> Result<Vec<CommitRecord>> {
        crate::history::records(&self.location, self.version()).await
    }

    async fn last_applied(&self) -> Result<Option<String>> {
        crate::history::last_applied(&self.location, self.version()).await
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

impl fmt::Debug for DeltaSnapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DeltaSnapshot")
            .field("location", &self.location)
            .field("version", &self.version())
            .finish_non_exhaustive()
    }
}
