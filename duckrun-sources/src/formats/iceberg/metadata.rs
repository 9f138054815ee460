//! The table metadata: which schemas and snapshots there are.

use std::collections::BTreeMap;

use duckrun_core::{Error, ErrorKind, Result};
use serde::Deserialize;
use serde_json::Value as Json;

use super::IcebergFormat;
use super::home::{Folder, METADATA, TableFile};

/// The property that says that some files have no field ids.
const NAME_MAPPING: &str = "schema.name-mapping.default";
/// What a compressed file begins with.
const GZIP: [u8; 2] = [0x1f, 0x8b];

#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct TableMetadata {
    format_version: u32,
    pub(super) location: String,
    #[serde(default)]
    schema: Option<IcebergSchema>,
    #[serde(default)]
    schemas: Vec<IcebergSchema>,
    #[serde(default)]
    current_schema_id: i32,
    #[serde(default)]
    current_snapshot_id: Option<i64>,
    #[serde(default)]
    snapshots: Vec<IcebergSnapshot>,
    #[serde(default)]
    snapshot_log: Vec<LogEntry>,
    #[serde(default)]
    properties: BTreeMap<String, String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct IcebergSchema {
    #[serde(default)]
    schema_id: i32,
    pub(super) fields: Vec<IcebergField>,
}

#[derive(Debug, Deserialize)]
pub(super) struct IcebergField {
    pub(super) id: i32,
    pub(super) name: String,
    /// A name, or a nested definition.
    #[serde(rename = "type")]
    pub(super) data_type: Json,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct IcebergSnapshot {
    pub(super) snapshot_id: i64,
    timestamp_ms: i64,
    #[serde(default)]
    pub(super) manifest_list: Option<String>,
    /// Version 1 may list its manifests here.
    #[serde(default)]
    pub(super) manifests: Vec<String>,
    #[serde(default)]
    schema_id: Option<i32>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct LogEntry {
    snapshot_id: i64,
    timestamp_ms: i64,
}

impl TableMetadata {
    /// The metadata of a table: the newest, or that of a file of it.
    pub(super) async fn open(folder: &Folder, named: Option<TableFile>) -> Result<Self> {
        let file = match named {
            Some(file) => file,
            None => newest(folder).await?,
        };
        Self::parse(&folder.called(&file), &folder.read(&file).await?)
    }

    fn parse(file: &str, text: &[u8]) -> Result<Self> {
        if text.starts_with(&GZIP) {
            return Err(Error::unsupported(format!(
                "{file} is compressed: set write.metadata.compression-codec to none and commit once"
            )));
        }
        let broken = |e| Error::corrupt(format!("{file} is not the metadata of an Iceberg table: {e}")).with_source(e);
        let raw: Json = serde_json::from_slice(text).map_err(broken)?;
        match raw["format-version"].as_u64() {
            Some(1 | 2) => {}
            Some(version) => {
                return Err(Error::unsupported(format!(
                    "{file} is of Iceberg's format version {version}, and only 1 and 2 are read: export the table to parquet"
                )));
            }
            None => return Err(Error::corrupt(format!("{file} has no format-version"))),
        }
        let metadata: Self = serde_json::from_value(raw).map_err(broken)?;
        debug_assert!(metadata.format_version <= 2);
        if metadata.properties.contains_key(NAME_MAPPING) {
            return Err(Error::unsupported(format!(
                "{file} has a name mapping ({NAME_MAPPING}): files that were imported without field ids would be misread; \
                 rewrite the data files and drop the property"
            )));
        }
        Ok(metadata)
    }

    /// The snapshot to read; `None` where the table has none yet.
    pub(super) fn snapshot(&self, which: &IcebergFormat) -> Result<Option<&IcebergSnapshot>> {
        let missing = |what: String| {
            let since = self.snapshots.iter().map(|s| s.snapshot_id.to_string()).collect::<Vec<_>>().join(", ");
            Error::new(
                ErrorKind::NotFound,
                format!("the Iceberg table {} has no {what}: it has {since}", self.location),
            )
        };
        let id = match which {
            IcebergFormat { snapshot_id: Some(id), .. } => *id,
            IcebergFormat { as_of: Some(time), .. } => {
                let millis = time.timestamp_millis();
                let logged =
                    self.snapshot_log.iter().filter(|e| e.timestamp_ms <= millis).max_by_key(|e| e.timestamp_ms);
                // Tables of early writers have no log.
                let listed = self.snapshots.iter().filter(|s| s.timestamp_ms <= millis).max_by_key(|s| s.timestamp_ms);
                match (logged, listed, self.snapshot_log.is_empty()) {
                    (Some(entry), _, _) => entry.snapshot_id,
                    (None, Some(snapshot), true) => snapshot.snapshot_id,
                    _ => return Err(missing(format!("snapshot of {time} or before"))),
                }
            }
            _ => match self.current_snapshot_id {
                Some(id) if id >= 0 => id,
                _ => return Ok(None),
            },
        };
        match self.snapshots.iter().find(|s| s.snapshot_id == id) {
            Some(snapshot) => Ok(Some(snapshot)),
            None => Err(missing(format!("snapshot {id}"))),
        }
    }

    /// The schema to read it by: the table's present one, or the snapshot's own where one was asked for.
    pub(super) fn schema_of(
        &self,
        snapshot: Option<&IcebergSnapshot>,
        which: &IcebergFormat,
    ) -> Result<&IcebergSchema> {
        let asked = which.snapshot_id.is_some() || which.as_of.is_some();
        let of_snapshot = snapshot.and_then(|s| s.schema_id).filter(|_| asked);
        let id = of_snapshot.unwrap_or(self.current_schema_id);
        let listed = self.schemas.iter().find(|s| s.schema_id == id);
        // Version 1 may have the one schema only.
        listed.or(self.schema.as_ref()).ok_or_else(|| {
            Error::corrupt(format!("the metadata of the Iceberg table {} has no schema {id}", self.location))
        })
    }

    /// Refuses nested columns that are not as they always were: inside of a column the engine goes by name, not by id.
    pub(super) fn unchanged_inside(&self, schema: &IcebergSchema) -> Result<()> {
        for field in schema.fields.iter().filter(|f| f.data_type.is_object()) {
            for other in self.schemas.iter().flat_map(|s| &s.fields).filter(|f| f.id == field.id) {
                if other.data_type != field.data_type {
                    return Err(Error::unsupported(format!(
                        "the fields inside the column {:?} of the Iceberg table {} have changed, which is not read: \
                         rewrite the table, or leave it to Iceberg's own reader",
                        field.name, self.location
                    )));
                }
            }
        }
        Ok(())
    }
}

/// The newest metadata file of a table's folder.
async fn newest(folder: &Folder) -> Result<TableFile> {
    let hint = match folder.read(&folder.metadata_file("version-hint.text")?).await {
        Ok(hint) => std::str::from_utf8(&hint).ok().and_then(|hint| hint.trim().parse::<u64>().ok()),
        Err(e) if e.kind() == ErrorKind::NotFound => None,
        Err(e) => return Err(e),
    };
    let names = folder.metadata_names().await?;
    if let Some(hinted) = hint.map(|version| format!("v{version}{METADATA}"))
        && names.contains(&hinted)
    {
        return folder.metadata_file(&hinted);
    }
    let mut found: BTreeMap<u64, Vec<String>> = BTreeMap::new();
    for name in names {
        let Some(stem) = name.strip_suffix(METADATA) else { continue };
        // `v3`, `00003-<uuid>`.
        let digits = stem.strip_prefix('v').unwrap_or(stem);
        let digits = digits.split(['-', '.']).next().unwrap_or_default();
        if let Ok(version) = digits.parse() {
            found.entry(version).or_default().push(name);
        }
    }
    match found.pop_last() {
        Some((_, files)) if files.len() == 1 => folder.metadata_file(&files[0]),
        Some((version, files)) => Err(Error::invalid(format!(
            "{folder}/metadata has {} metadata files of version {version}, of which only the catalog knows the current one: \
             name it, for example Iceberg::at(\"{}\")",
            files.len(),
            folder.called(&folder.metadata_file(&files[0])?)
        ))),
        None => Err(Error::new(
            ErrorKind::NotFound,
            format!("{folder} is no Iceberg table: its folder metadata has no file that ends in {METADATA}"),
        )),
    }
}
