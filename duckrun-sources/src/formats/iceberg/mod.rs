//! Iceberg tables (format versions 1 and 2): the metadata is read here, the data files by the engine.
//!
//! The crate `iceberg` is not used: its release 0.10 stands on arrow and parquet 58, which would be a third arrow beside ours
//! (59) and DuckDB's (60), and DuckDB's extension has to be downloaded. What a reader of a snapshot needs is small: a JSON
//! file, a list of manifests and the manifests (Avro, decoded by `arrow-avro`), and the result is an exact list of parquet
//! files whose columns are found by field id. What is not covered is refused by its name: format version 3, equality deletes,
//! deletion vectors, files other than parquet, tables with a name mapping, nested columns that changed, encryption.
//!
//! Source: the Iceberg table specification, "Table Metadata", "Manifest Lists", "Manifests", "Position Delete Files".

mod manifest;
mod metadata;
mod schema;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use duckrun_core::arrow::datatypes::{Field, Schema};
use duckrun_core::{
    ColumnSource, DataFile, Error, FileColumn, FileSet, Relation, Resolved, Result, Source, SourceContext,
};
use serde::{Deserialize, Serialize};
use url::Url;

use self::manifest::Manifests;
use self::metadata::TableMetadata;
use crate::{Format, Scan};

/// A folder with Iceberg metadata, and which snapshot of it to read.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct IcebergFormat {
    /// The snapshot of this id; the current one if neither this nor `as_of` is set.
    pub snapshot_id: Option<i64>,
    /// The snapshot that was current at this time.
    pub as_of: Option<DateTime<Utc>>,
}

#[async_trait]
impl Format for IcebergFormat {
    fn name(&self) -> &str {
        "iceberg"
    }

    fn folder_markers(&self) -> Vec<&str> {
        vec!["metadata/*.metadata.json", "metadata/version-hint.text"]
    }

    async fn relation(&self, scan: &Scan<'_>) -> Result<Resolved> {
        if !scan.is_local() {
            return Err(Error::unsupported(format!(
                "{} is an Iceberg table on an object store, and only local ones are read: read its files with Parquet, where \
                 no rows are deleted, or copy the table",
                scan.location
            )));
        }
        Iceberg { location: scan.location.into(), which: self.clone() }.resolve(scan.cx).await
    }
}

/// An Iceberg table on the local file system, at any snapshot.
///
/// Without a catalog the newest metadata file of the folder is taken for the current one. Where a catalog knows better (a
/// failed commit may leave a newer file), name the metadata file itself.
///
/// ```
/// use duckrun_sources::Iceberg;
/// let orders = Iceberg::at("/lake/sales/orders").snapshot_id(3051729675574597004);
/// let exactly = Iceberg::at("/lake/sales/orders/metadata/00012-5f2e.metadata.json");
/// # let _ = (orders, exactly);
/// ```
#[derive(Debug, Clone)]
pub struct Iceberg {
    location: PathBuf,
    which: IcebergFormat,
}

impl Iceberg {
    /// The table in a folder, or of a metadata file, at its current snapshot.
    pub fn at(location: impl Into<PathBuf>) -> Self {
        Self { location: location.into(), which: IcebergFormat::default() }
    }

    /// The snapshot of an id.
    #[must_use]
    pub fn snapshot_id(mut self, id: i64) -> Self {
        self.which = IcebergFormat { snapshot_id: Some(id), as_of: None };
        self
    }

    /// The snapshot that was current at a time.
    #[must_use]
    pub fn as_of(mut self, time: DateTime<Utc>) -> Self {
        self.which = IcebergFormat { snapshot_id: None, as_of: Some(time) };
        self
    }
}

#[async_trait]
impl Source for Iceberg {
    fn describe(&self) -> String {
        format!("iceberg table {}", self.location.display())
    }

    async fn resolve(&self, cx: &SourceContext<'_>) -> Result<Resolved> {
        let (table, run) = (self.clone(), cx.run.clone());
        let files = tokio::task::spawn_blocking(move || files(&table, &|| run.check()))
            .await
            .map_err(|e| Error::internal("reading Iceberg metadata panicked").with_source(e))??;
        Ok(Relation::Files(files).into())
    }
}

/// The files of a snapshot. It blocks.
fn files(table: &Iceberg, check: &dyn Fn() -> Result<()>) -> Result<FileSet> {
    if table.which.snapshot_id.is_some() && table.which.as_of.is_some() {
        return Err(Error::invalid("both a snapshot and a time are named: name one"));
    }
    let (folder, metadata) = TableMetadata::open(&table.location)?;
    let snapshot = metadata.snapshot(&table.which)?;
    let schema = metadata.schema_of(snapshot, &table.which)?;
    metadata.unchanged_inside(schema)?;
    let places = Places { folder, location: metadata.location.clone() };
    let mut found = Manifests::default();
    if let Some(snapshot) = snapshot {
        found.read(&places, snapshot, check)?;
    }
    let mut deleted: BTreeMap<PathBuf, Vec<u64>> = BTreeMap::new();
    for file in &found.position_deletes {
        check()?;
        manifest::read_position_deletes(&places, file, &mut deleted)?;
    }
    let mut columns = Vec::with_capacity(schema.fields.len());
    for field in &schema.fields {
        let data_type = schema::arrow_type(&field.name, &field.data_type)?;
        columns.push(FileColumn {
            name: field.name.clone(),
            data_type,
            physical_type: None,
            source: ColumnSource::FieldId(field.id),
        });
    }
    let fields: Vec<Field> = columns.iter().map(|c| Field::new(&c.name, c.data_type.clone(), true)).collect();
    let mut files = Vec::with_capacity(found.data.len());
    for file in found.data {
        let path = places.resolve(&file.path)?;
        let url = Url::from_file_path(&path).map_err(|()| Error::internal("an absolute path that is no URL"))?;
        let deleted = deleted.remove(&path).map(|mut rows| {
            rows.sort_unstable();
            rows.dedup();
            Arc::new(rows)
        });
        files.push(DataFile { path: file.path, url, size: file.size, rows: Some(file.rows), deleted });
    }
    files.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(FileSet {
        schema: Arc::new(Schema::new(fields)),
        columns,
        files,
        partition_values: Vec::new(),
        positions: false,
        store: None,
    })
}

/// Where the table's files are: the paths in its metadata begin with its location, which may be another than the folder that
/// was opened (a copy, a link).
struct Places {
    folder: PathBuf,
    location: String,
}

impl Places {
    /// A path of the metadata as a file below the table's folder. Others are refused: metadata must not make us read
    /// whatever it likes.
    fn resolve(&self, path: &str) -> Result<PathBuf> {
        let location = local(&self.location).trim_end_matches('/');
        let outside = || {
            Error::unsupported(format!(
                "the Iceberg metadata names {path}, which is not below the table's location {}: only tables whose files \
                 are in their own folder are read",
                self.location
            ))
        };
        let below = local(path).strip_prefix(location).and_then(|p| p.strip_prefix('/')).ok_or_else(outside)?;
        if Path::new(below).components().any(|c| !matches!(c, std::path::Component::Normal(_))) {
            return Err(outside());
        }
        Ok(self.folder.join(below))
    }
}

/// `file:///a`, `file:/a` and `/a` are one path.
fn local(path: &str) -> &str {
    path.strip_prefix("file://").or(path.strip_prefix("file:")).unwrap_or(path)
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
