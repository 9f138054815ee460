//! The table metadata: which schemas and snapshots there are.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use duckrun_core::{Error, ErrorKind, Result};
use serde::Deserialize;
use serde_json::Value as Json;

use super::IcebergFormat;

/// The property that says that some files have no field ids.
const NAME_MAPPING: &str = "schema.name-mapping.default";

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
    /// The table's folder and its metadata, from the folder or from a metadata file in it.
    pub(super) fn open(location: &Path) -> Result<(PathBuf, Self)> {
        let location = fs::canonicalize(location).map_err(|e| unreadable(location, e))?;
        let file = if location.is_dir() { newest(&location)? } else { location };
        let folder = file
            .parent()
            .and_then(Path::parent)
            .ok_or_else(|| Error::invalid(format!("{} is not in the folder metadata of a table", file.display())))?;
        if file.to_string_lossy().contains(".gz.metadata.json") {
            return Err(Error::unsupported(format!(
                "{} is compressed: set write.metadata.compression-codec to none and commit once",
                file.display()
            )));
        }
        let text = fs::read(&file).map_err(|e| unreadable(&file, e))?;
        let broken = |e| {
            Error::corrupt(format!("{} is not the metadata of an Iceberg table: {e}", file.display())).with_source(e)
        };
        let raw: Json = serde_json::from_slice(&text).map_err(broken)?;
        match raw["format-version"].as_u64() {
            Some(1 | 2) => {}
            Some(version) => {
                return Err(Error::unsupported(format!(
                    "{} is of Iceberg's format version {version}, and only 1 and 2 are read: export the table to parquet",
                    file.display()
                )));
            }
            None => return Err(Error::corrupt(format!("{} has no format-version", file.display()))),
        }
        let metadata: Self = serde_json::from_value(raw).map_err(broken)?;
        debug_assert!(metadata.format_version <= 2);
        if metadata.properties.contains_key(NAME_MAPPING) {
            return Err(Error::unsupported(format!(
                "{} has a name mapping ({NAME_MAPPING}): files that were imported without field ids would be misread; \
                 rewrite the data files and drop the property",
                file.display()
            )));
        }
        Ok((folder.to_owned(), metadata))
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
fn newest(table: &Path) -> Result<PathBuf> {
    let folder = table.join("metadata");
    if let Ok(hint) = fs::read_to_string(folder.join("version-hint.text")) {
        let hinted = folder.join(format!("v{}.metadata.json", hint.trim()));
        if hint.trim().parse::<u64>().is_ok() && hinted.is_file() {
            return Ok(hinted);
        }
    }
    let mut found: BTreeMap<u64, Vec<PathBuf>> = BTreeMap::new();
    for entry in fs::read_dir(&folder).map_err(|e| unreadable(&folder, e))? {
        let entry = entry.map_err(|e| unreadable(&folder, e))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let Some(stem) = name.strip_suffix(".metadata.json") else { continue };
        // `v3`, `00003-<uuid>`.
        let digits = stem.strip_prefix('v').unwrap_or(stem);
        let digits = digits.split(['-', '.']).next().unwrap_or_default();
        if let Ok(version) = digits.parse() {
            found.entry(version).or_default().push(entry.path());
        }
    }
    match found.pop_last() {
        Some((_, files)) if files.len() == 1 => Ok(files.into_iter().next().unwrap_or_default()),
        Some((version, files)) => Err(Error::invalid(format!(
            "{} has {} metadata files of version {version}, of which only the catalog knows the current one: name it, for \
             example Iceberg::at(\"{}\")",
            folder.display(),
            files.len(),
            files[0].display()
        ))),
        None => Err(Error::new(
            ErrorKind::NotFound,
            format!(
                "{} is no Iceberg table: its folder metadata has no file that ends in .metadata.json",
                table.display()
            ),
        )),
    }
}

/// A failure of the file system.
pub(super) fn unreadable(path: &Path, e: std::io::Error) -> Error {
    let kind = match e.kind() {
        std::io::ErrorKind::NotFound => ErrorKind::NotFound,
        std::io::ErrorKind::PermissionDenied => ErrorKind::PermissionDenied,
        _ => ErrorKind::Unavailable,
    };
    Error::new(kind, format!("{} of an Iceberg table cannot be read: {e}", path.display())).with_source(e)
}
