//! Deletion vectors for tables under test: delta-rs reads them and does not write them.

use std::collections::BTreeMap;
use std::path::Path;

use duckrun::{Error, Result};
use serde_json::{Value as Json, json};

use crate::log_versions;

/// Commits deletion vectors to a local table, as another writer would: `choose` is asked for each live file, by its row count
/// and in the order of the log, which rows go. Returns whether a version was written.
///
/// The table's log must begin with version 0: checkpoints are not read.
///
/// # Errors
/// When the log cannot be read or written.
pub fn delete_rows(table: &Path, mut choose: impl FnMut(u64) -> Vec<u64>) -> Result<bool> {
    delete_rows_of(table, |_, rows| choose(rows))
}

/// The same, for a caller that knows the files: `choose` is asked by a file's path in the log and its row count, and answers with
/// all rows that are to be deleted in it, those of the vector that it has included.
///
/// # Errors
/// As [`delete_rows`].
pub fn delete_rows_of(table: &Path, mut choose: impl FnMut(&str, u64) -> Vec<u64>) -> Result<bool> {
    let wrong = |e: std::io::Error| Error::invalid(format!("the log of {}: {e}", table.display()));
    let path = |version: u64| table.join(format!("_delta_log/{version:020}.json"));
    let (mut protocol, mut live, mut next) = (Json::Null, Vec::<(String, Json)>::new(), 0);
    for version in log_versions(table) {
        next = version + 1;
        for line in std::fs::read_to_string(path(version)).map_err(wrong)?.lines() {
            let action: Json = serde_json::from_str(line).map_err(|e| Error::invalid(e.to_string()))?;
            let name = |kind: &str| action[kind]["path"].as_str().map(str::to_owned);
            if let Some(new) = action.get("protocol") {
                protocol = new.clone();
            }
            if let Some(gone) = name("remove") {
                live.retain(|(p, _)| *p != gone);
            }
            if let Some(added) = name("add") {
                live.push((added, action["add"].clone()));
            }
        }
    }
    let mut lines = vec![json!({ "commitInfo": { "operation": "DELETE", "timestamp": 0 } }), with_vectors(&protocol)];
    let before = lines.len();
    for (file, mut add) in live {
        let stats: BTreeMap<String, Json> =
            add["stats"].as_str().and_then(|s| serde_json::from_str(s).ok()).unwrap_or_default();
        let rows = choose(&file, stats.get("numRecords").and_then(Json::as_u64).unwrap_or_default());
        if rows.is_empty() {
            continue;
        }
        let mut remove = json!({
            "path": file, "deletionTimestamp": 1, "dataChange": true, "extendedFileMetadata": true,
            "partitionValues": add["partitionValues"], "size": add["size"],
        });
        if add["deletionVector"].is_object() {
            // A file with a vector is another one than the file without it: without this both would be live.
            remove["deletionVector"] = add["deletionVector"].clone();
        }
        lines.push(json!({ "remove": remove }));
        let bytes = vector(&rows);
        add["deletionVector"] = json!({
            "storageType": "i", "pathOrInlineDv": z85(&bytes), "sizeInBytes": bytes.len(), "cardinality": rows.len(),
        });
        lines.push(json!({ "add": add }));
    }
    if lines.len() == before {
        return Ok(false);
    }
    let text: String = lines.iter().map(|l| format!("{l}\n")).collect();
    std::fs::write(path(next), text).map_err(wrong)?;
    Ok(true)
}

/// The protocol with the feature, and with the features that the old numbers stand for.
fn with_vectors(protocol: &Json) -> Json {
    let list = |key: &str, legacy: &[&str]| {
        let mut features: Vec<String> = match protocol[key].as_array() {
            Some(features) => features.iter().filter_map(|f| f.as_str().map(str::to_owned)).collect(),
            None => legacy.iter().map(|f| (*f).to_owned()).collect(),
        };
        if !features.iter().any(|f| f == "deletionVectors") {
            features.push("deletionVectors".into());
        }
        features
    };
    let legacy: &[&str] = match protocol["minWriterVersion"].as_i64() {
        Some(4) => &["appendOnly", "invariants", "checkConstraints", "changeDataFeed", "generatedColumns"],
        _ => &["appendOnly", "invariants"],
    };
    json!({ "protocol": {
        "minReaderVersion": 3, "minWriterVersion": 7,
        "readerFeatures": list("readerFeatures", &[]),
        "writerFeatures": list("writerFeatures", legacy),
    } })
}

/// Row numbers below 65,536, ascending, as the protocol's portable Roaring bitmap array: one array container.
fn vector(rows: &[u64]) -> Vec<u8> {
    let mut out = Vec::new();
    out.extend(1_681_511_377_u32.to_le_bytes());
    out.extend(1_u64.to_le_bytes());
    out.extend(0_u32.to_le_bytes());
    // "No run containers", one container, its high bits and cardinality less one, where its values begin.
    out.extend(12_346_u32.to_le_bytes());
    out.extend(1_u32.to_le_bytes());
    out.extend(0_u16.to_le_bytes());
    out.extend((rows.len() as u16 - 1).to_le_bytes());
    out.extend(16_u32.to_le_bytes());
    rows.iter().for_each(|r| out.extend((*r as u16).to_le_bytes()));
    out
}

/// ZeroMQ's base 85, padded with zeros to whole groups as the protocol says.
fn z85(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 85] = b"0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.-:+=^!/*?&<>()[]{}@%$#";
    let mut out = String::new();
    for group in bytes.chunks(4) {
        let mut padded = [0; 4];
        padded[..group.len()].copy_from_slice(group);
        let number = u32::from_be_bytes(padded);
        for power in [85_u32.pow(4), 85_u32.pow(3), 85_u32.pow(2), 85, 1] {
            out.push(char::from(DIGITS[(number / power % 85) as usize]));
        }
    }
    out
}
