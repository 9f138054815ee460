//! The log replayed for maintenance: every live file and every removed one that the log still names, without statistics.
//!
//! Only the columns that are needed are read, also from checkpoints; that makes a table of 100,000 files cheap. Invariant: the
//! newest action about a path and its deletion vector wins, and actions arrive newest commit first (protocol, "Action
//! Reconciliation"). Nothing is deleted on the word of this replay alone: [`vacuum`](super::vacuum) compares its live files with
//! those of the snapshot.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use arrow::array::{Array, AsArray, RecordBatch, StructArray};
use arrow::datatypes::{Int32Type, Int64Type};
use chrono::{DateTime, Utc};
use deltalake::kernel::engine::arrow_data::ArrowEngineData;
use deltalake::kernel::{DataType, MapType, StructField, StructType};
use duckrun_core::{Error, Result};
use object_store::path::Path;
use percent_encoding::percent_decode_str;

use crate::commit::VACUUM_APP;
use crate::deletion_vector::Descriptor;
use crate::error::delta_error;
use crate::snapshot::{DeltaSnapshot, text};

/// A live file, as far as maintenance cares.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Live {
    /// The path as it stands in the log.
    pub(super) path: String,
    pub(super) size: u64,
    pub(super) partition_values: BTreeMap<String, Option<String>>,
    /// When it was written, in milliseconds since the epoch, by the log.
    pub(super) modified: i64,
    pub(super) vector: Option<Descriptor>,
}

/// A removed file that the log still names.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Tombstone {
    /// The path as it stands in the log.
    pub(super) path: String,
    pub(super) size: u64,
    /// By the clock of whoever removed it, in milliseconds since the epoch; 0 where the log does not say.
    pub(super) removed_at: i64,
    pub(super) vector: Option<Descriptor>,
}

/// What the log holds at a version.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct LogState {
    pub(super) live: Vec<Live>,
    pub(super) tombstones: Vec<Tombstone>,
    /// When a vacuum last ended, in milliseconds since the epoch, as far as the log tells.
    pub(super) last_vacuum: Option<i64>,
    /// The version of the checkpoint that the replay ended at.
    pub(super) checkpoint: Option<u64>,
}

/// A path of the log as an object below the table; `None` for one outside (a shallow clone's).
pub(crate) fn object_path(logged: &str) -> Result<Option<Path>> {
    if logged.contains("://") || logged.starts_with('/') {
        return Ok(None);
    }
    let bad = || Error::corrupt(format!("the log names the file {logged:?}, which is not a path"));
    let decoded = percent_decode_str(logged).decode_utf8().map_err(|_| bad())?;
    Path::parse(decoded.as_ref()).map(Some).map_err(|_| bad())
}

/// The checkpoint that a snapshot was read from, and when its version was committed, by the store; as far as its listing of the
/// log says, without another request.
pub(super) fn log_files(snapshot: &DeltaSnapshot) -> (Option<u64>, Option<DateTime<Utc>>) {
    let Ok(scan) = snapshot.lazy().scan_builder().build() else { return (None, None) };
    let segment = scan.snapshot().log_segment();
    let newest = segment.listed.ascending_commit_files.last();
    let committed = newest.and_then(|f| DateTime::from_timestamp_millis(f.location.last_modified));
    (segment.checkpoint_version, committed)
}

/// Replays the log up to the snapshot's version.
pub(super) async fn replay(snapshot: &DeltaSnapshot) -> Result<LogState> {
    let location = snapshot.location().clone();
    let doing = format!("replay the log of {location}");
    let scan = snapshot.lazy().scan_builder().build().map_err(|e| delta_error(e, &doing))?;
    let (kernel, engine) = (scan.snapshot().clone(), location.log().engine(None));
    let work = move || {
        let failed = |e: String| Error::corrupt(format!("cannot {doing}: {e}"));
        let checkpoint = Arc::new(schema(false).map_err(failed)?);
        let commits = Arc::new(schema(true).map_err(failed)?);
        let segment = kernel.log_segment();
        let actions = segment
            .read_actions_with_projected_checkpoint_actions(
                engine.as_ref(),
                commits,
                checkpoint,
                None,
                None,
                None,
                None,
            )
            .map_err(|e| delta_error(e.into(), &doing))?;
        let mut replay = Replay {
            state: LogState { checkpoint: segment.checkpoint_version, ..LogState::default() },
            seen: HashSet::new(),
        };
        for batch in actions.actions {
            let batch = batch.map_err(|e| delta_error(e.into(), &doing))?;
            let data =
                ArrowEngineData::try_from_engine_data(batch.actions).map_err(|e| delta_error(e.into(), &doing))?;
            replay.take(data.record_batch())?;
        }
        Ok(replay.state)
    };
    tokio::task::spawn_blocking(work).await.map_err(|e| Error::internal("replaying the log failed").with_source(e))?
}

/// The columns that are read: of commits also who committed.
fn schema(commits: bool) -> std::result::Result<StructType, String> {
    let object = |fields: Vec<StructField>| StructType::try_new(fields).map_err(|e| e.to_string());
    let string = |name: &str| StructField::nullable(name, DataType::STRING);
    let long = |name: &str| StructField::nullable(name, DataType::LONG);
    let int = |name: &str| StructField::nullable(name, DataType::INTEGER);
    let vector = StructField::nullable(
        "deletionVector",
        object(vec![
            string("storageType"),
            string("pathOrInlineDv"),
            int("offset"),
            int("sizeInBytes"),
            long("cardinality"),
        ])?,
    );
    let values = StructField::nullable("partitionValues", MapType::new(DataType::STRING, DataType::STRING, true));
    let mut fields = vec![
        StructField::nullable(
            "add",
            object(vec![string("path"), values, long("size"), long("modificationTime"), vector.clone()])?,
        ),
        StructField::nullable("remove", object(vec![string("path"), long("deletionTimestamp"), long("size"), vector])?),
        StructField::nullable("txn", object(vec![string("appId"), long("version")])?),
    ];
    if commits {
        fields.push(StructField::nullable("commitInfo", object(vec![long("timestamp"), string("operation")])?));
    }
    object(fields)
}

struct Replay {
    state: LogState,
    /// Path and deletion vector of every file that a newer action spoke of.
    seen: HashSet<String>,
}

impl Replay {
    fn take(&mut self, batch: &RecordBatch) -> Result<()> {
        let column = |name: &str| batch.column_by_name(name).and_then(|c| c.as_struct_opt());
        // A commit may remove a file with one vector and add it with another; the keys differ, so the order inside does not count.
        if let Some(adds) = column("add") {
            for row in rows(adds) {
                let Some(path) = string(adds, "path", row) else { continue };
                let vector = descriptor(adds, row);
                if self.is_new(&path, vector.as_ref()) {
                    let size = long(adds, "size", row).unwrap_or_default().unsigned_abs();
                    let modified = long(adds, "modificationTime", row).unwrap_or_default();
                    self.state.live.push(Live { path, size, partition_values: values(adds, row), modified, vector });
                }
            }
        }
        if let Some(removes) = column("remove") {
            for row in rows(removes) {
                let Some(path) = string(removes, "path", row) else { continue };
                let vector = descriptor(removes, row);
                if self.is_new(&path, vector.as_ref()) {
                    let size = long(removes, "size", row).unwrap_or_default().unsigned_abs();
                    let removed_at = long(removes, "deletionTimestamp", row).unwrap_or_default();
                    self.state.tombstones.push(Tombstone { path, size, removed_at, vector });
                }
            }
        }
        let mut vacuum = self.state.last_vacuum;
        if let Some(transactions) = column("txn") {
            for row in
                rows(transactions).filter(|row| string(transactions, "appId", *row).as_deref() == Some(VACUUM_APP))
            {
                vacuum = vacuum.max(long(transactions, "version", row));
            }
        }
        if let Some(infos) = column("commitInfo") {
            let ends = |row: &usize| string(infos, "operation", *row).as_deref() == Some("VACUUM END");
            for row in rows(infos).filter(ends) {
                vacuum = vacuum.max(long(infos, "timestamp", row));
            }
        }
        self.state.last_vacuum = vacuum;
        Ok(())
    }

    fn is_new(&mut self, path: &str, vector: Option<&Descriptor>) -> bool {
        let key = match vector {
            None => path.to_owned(),
            // The protocol's unique id of a deletion vector; no path contains a line break unencoded.
            Some(v) => format!("{path}\n{}{}@{}", v.storage_type, v.path_or_inline_dv, v.offset.unwrap_or_default()),
        };
        self.seen.insert(key)
    }
}

fn rows(array: &StructArray) -> impl Iterator<Item = usize> + '_ {
    (0..array.len()).filter(|row| array.is_valid(*row))
}

fn string(array: &StructArray, name: &str, row: usize) -> Option<String> {
    text(array.column_by_name(name)?.as_ref(), row)
}

fn long(array: &StructArray, name: &str, row: usize) -> Option<i64> {
    let column = array.column_by_name(name)?.as_primitive_opt::<Int64Type>()?;
    column.is_valid(row).then(|| column.value(row))
}

fn int(array: &StructArray, name: &str, row: usize) -> Option<i32> {
    let column = array.column_by_name(name)?.as_primitive_opt::<Int32Type>()?;
    column.is_valid(row).then(|| column.value(row))
}

fn descriptor(action: &StructArray, row: usize) -> Option<Descriptor> {
    let vectors = action.column_by_name("deletionVector")?.as_struct_opt()?;
    if vectors.is_null(row) {
        return None;
    }
    Some(Descriptor {
        storage_type: string(vectors, "storageType", row)?,
        path_or_inline_dv: string(vectors, "pathOrInlineDv", row)?,
        offset: int(vectors, "offset", row),
        size_in_bytes: int(vectors, "sizeInBytes", row)?,
        cardinality: long(vectors, "cardinality", row).unwrap_or_default(),
    })
}

fn values(adds: &StructArray, row: usize) -> BTreeMap<String, Option<String>> {
    let map = adds.column_by_name("partitionValues").and_then(|c| c.as_map_opt());
    let Some(map) = map.filter(|m| m.is_valid(row)) else { return BTreeMap::new() };
    let entries = map.value(row);
    let pair = |i| Some((text(entries.column(0).as_ref(), i)?, text(entries.column(1).as_ref(), i)));
    (0..entries.len()).filter_map(pair).collect()
}
