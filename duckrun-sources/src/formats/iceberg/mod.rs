//! Iceberg tables (format versions 1 and 2): the metadata is read here, the data files by the engine.
//!
//! The crate `iceberg` is not used: its release 0.10 stands on arrow and parquet 58, which would be a third arrow beside ours
//! (59) and DuckDB's (60), and DuckDB's extension has to be downloaded. What a reader of a snapshot needs is small: a JSON
//! file, a list of manifests and the manifests (Avro, decoded by `arrow-avro`), and the result is an exact list of parquet
//! files whose columns are found by field id. What is not covered is refused by its name: format version 3, equality deletes,
//! deletion vectors, files other than parquet, tables with a name mapping, nested columns that changed, encryption.
//!
//! Source: the Iceberg table specification, "Table Metadata", "Manifest Lists", "Manifests", "Position Delete Files".

mod home;
mod manifest;
mod metadata;
mod schema;

use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use duckrun_core::arrow::datatypes::{Field, Schema};
use duckrun_core::object_store::ObjectStore;
use duckrun_core::{
    ColumnSource, DataFile, Error, FileColumn, FileSet, Relation, Resolved, Result, Source, SourceContext,
    StorageOptions, TableOpener,
};
use serde::{Deserialize, Serialize};

use self::home::{Folder, Home};
use self::manifest::{Check, Manifests};
use self::metadata::TableMetadata;
use crate::place::{Place, StoreChoice};
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
        let remote = scan.remote.as_ref().map(|remote| remote.objects);
        let table = Iceberg {
            location: scan.location.into(),
            which: self.clone(),
            store: remote.map(|objects| objects.choice.clone()).unwrap_or_default(),
            root: remote.and_then(|objects| objects.root.clone()),
        };
        table.resolve(scan.cx).await
    }
}

/// An Iceberg table in a folder or in an object store, at any snapshot.
///
/// Without a catalog the newest metadata file of the folder is taken for the current one. Where a catalog knows better (a
/// failed commit may leave a newer file), name the metadata file itself.
///
/// The metadata holds absolute paths. Those below the table's own location are taken below the folder that was opened, so that
/// a copy is read as a copy; in an object store those in the same bucket are read too (below the root, for a
/// [`FileSource`](crate::FileSource) that has one); all others are refused.
///
/// ```
/// use duckrun_sources::Iceberg;
/// let orders = Iceberg::at("/lake/sales/orders").snapshot_id(3051729675574597004);
/// let exactly = Iceberg::at("/lake/sales/orders/metadata/00012-5f2e.metadata.json");
/// let remote = Iceberg::at("s3://lake/sales/orders");
/// # let _ = (orders, exactly, remote);
/// ```
#[derive(Debug, Clone)]
pub struct Iceberg {
    location: PathBuf,
    which: IcebergFormat,
    store: StoreChoice,
    root: Option<Place>,
}

impl Iceberg {
    /// The table in a folder (a path or a URL), or of a metadata file, at its current snapshot.
    pub fn at(location: impl Into<PathBuf>) -> Self {
        let (which, store) = (IcebergFormat::default(), StoreChoice::default());
        Self { location: location.into(), which, store, root: None }
    }

    /// Options of the store that the location's URL names, over those of the session. `Debug` does not show their values.
    #[must_use]
    pub fn storage_options(mut self, options: StorageOptions) -> Self {
        self.store.options = options;
        self
    }

    /// Reads from this store: the location is a path in it.
    #[must_use]
    pub fn store(mut self, store: Arc<dyn ObjectStore>) -> Self {
        self.store.store = Some(store);
        self
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
        let run = cx.run.clone();
        Ok(Relation::Files(files(self, cx.tables, &move || run.check()).await?).into())
    }
}

/// The files of a snapshot.
async fn files(table: &Iceberg, tables: Option<&dyn TableOpener>, check: Check<'_>) -> Result<FileSet> {
    if table.which.snapshot_id.is_some() && table.which.as_of.is_some() {
        return Err(Error::invalid("both a snapshot and a time are named: name one"));
    }
    let (folder, named) = Folder::open(&table.location, &table.store, table.root.as_ref(), tables).await?;
    let metadata = TableMetadata::open(&folder, named).await?;
    let snapshot = metadata.snapshot(&table.which)?;
    let schema = metadata.schema_of(snapshot, &table.which)?;
    metadata.unchanged_inside(schema)?;
    let home = Home { folder, location: metadata.location.clone() };
    let found = match snapshot {
        Some(snapshot) => Manifests::read(&home, snapshot, check).await?,
        None => Manifests::default(),
    };
    let mut deleted = manifest::read_position_deletes(&home, &found.position_deletes, check).await?;
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
        let place = home.resolve(&file.path)?;
        let (path, url) = home.address(&file.path, &place)?;
        let deleted = deleted.remove(&place).map(|mut rows| {
            rows.sort_unstable();
            rows.dedup();
            Arc::new(rows)
        });
        files.push(DataFile { path, url, size: file.size, rows: Some(file.rows), deleted });
    }
    files.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(FileSet {
        schema: Arc::new(Schema::new(fields)),
        columns,
        files,
        partition_values: Vec::new(),
        positions: false,
        store: match home.folder {
            Folder::Store(remote) => Some(remote.store),
            Folder::Disk(_) => None,
        },
    })
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
