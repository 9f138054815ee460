//! The change data feed: what every commit of a range of versions inserted, deleted and updated, as one relation of files.
//!
//! Source: the Delta protocol, "Add CDC File" and "Change Data Files". A commit that has `cdc` actions is read from those
//! files alone. For any other commit the changes follow from its `add` and `remove` actions that change data: all rows of an
//! added file are inserts, all rows of a removed one deletes, and where one commit removes and adds the same path with another
//! deletion vector, the difference of the two vectors is what changed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, StringArray, TimestampMicrosecondArray};
use arrow::datatypes::{DataType, Field, Schema, TimeUnit};
use chrono::{DateTime, Utc};
use duckrun_core::{At, CHANGE_TYPE, ColumnSource, Error, ErrorKind, FileColumn, FileSet, Result, Snapshot as _};
use serde::Deserialize;
use serde_json::Value as Json;

use crate::deletion_vector::Descriptor;
use crate::history;
use crate::location::Location;
use crate::protocol::Metadata;
use crate::read::file_set;
use crate::schema::DeltaSchema;
use crate::snapshot::{DeltaSnapshot, LiveFile};

/// The folder of change files.
pub(crate) const CHANGE_DATA: &str = "_change_data";
/// The version that did it.
const COMMIT_VERSION: &str = "_commit_version";
/// When that version was committed.
const COMMIT_TIMESTAMP: &str = "_commit_timestamp";

/// The name of the first column that a table with a change feed must not have, because the feed has one of that name.
pub(crate) fn reserved<'a>(mut columns: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    columns.find(|c| [CHANGE_TYPE, COMMIT_VERSION, COMMIT_TIMESTAMP].iter().any(|name| c.eq_ignore_ascii_case(name)))
}

/// The changes of the versions `from..=to` (the newest if `to` is `None`), in the columns that the table has at the last one.
pub(crate) async fn changes(location: &Location, from: u64, to: Option<u64>) -> Result<FileSet> {
    if let Some(to) = to
        && to < from
    {
        return Err(Error::invalid(format!(
            "the changes from version {from} to version {to}: the end is before the start"
        )));
    }
    let missing = || Error::new(ErrorKind::NotFound, format!("there is no table at {location}"));
    let end = DeltaSnapshot::open(location, to.map_or(At::Latest, At::Version)).await?.ok_or_else(missing)?;
    let last = end.version();
    if from > last + 1 {
        let why = format!("changes were asked for from version {from} on, but the newest is {last}");
        return Err(Error::new(ErrorKind::NotFound, why));
    }
    let columns: Vec<&str> =
        end.delta_schema().fields.iter().map(|f| f.physical_name(end.metadata().column_mapping())).collect();
    for name in [CHANGE_TYPE, COMMIT_VERSION, COMMIT_TIMESTAMP] {
        if columns.contains(&name) || end.schema().index_of(name).is_ok() {
            return Err(Error::unsupported(format!(
                "the table has a column {name}, which is what a column of the change data feed is called: rename it"
            )));
        }
    }
    let times = history::list(location, None).await?.times();
    let mut entries = Vec::new();
    for version in from..=last {
        let Some(bytes) = history::read_commit(location, version).await? else {
            let since =
                times.keys().find(|v| **v > version).map_or_else(String::new, |v| format!(": ask from version {v} on"));
            return Err(Error::new(
                ErrorKind::NotFound,
                format!("version {version} is no longer in the log, so that its changes are not known{since}"),
            )
            .with_version(version));
        };
        let commit = Commit::parse(version, &bytes)?;
        if version == from && from < last {
            let start = end.at_version(from).await?;
            same_shape(from, start.metadata(), &end)?;
        } else if let Some(metadata) = &commit.metadata {
            same_shape(version, metadata, &end)?;
        }
        let time = commit.in_commit_time.or(times.get(&version).copied()).unwrap_or_default();
        commit.entries(&end, time, &mut entries).await?;
    }
    relation(&end, entries).await
}

/// One file of the feed.
struct Entry {
    file: LiveFile,
    /// `None` where the file says it row by row.
    change: Option<&'static str>,
    /// The rows to read; all that no deletion vector hides if `None`.
    only: Option<BTreeSet<u64>>,
    version: u64,
    time: DateTime<Utc>,
}

/// The part of a commit that says what changed.
struct Commit {
    version: u64,
    metadata: Option<Metadata>,
    in_commit_time: Option<DateTime<Utc>>,
    adds: BTreeMap<String, Action>,
    removes: BTreeMap<String, Action>,
    cdc: Vec<Action>,
}

/// An `add`, `remove` or `cdc` action.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Action {
    path: String,
    #[serde(default)]
    size: Option<u64>,
    #[serde(default)]
    partition_values: Option<BTreeMap<String, Option<String>>>,
    #[serde(default)]
    stats: Option<String>,
    #[serde(default)]
    deletion_vector: Option<Descriptor>,
}

impl Commit {
    fn parse(version: u64, bytes: &[u8]) -> Result<Self> {
        let corrupt = |why: &str| Error::corrupt(format!("version {version} of the log {why}")).with_version(version);
        let mut commit = Self {
            version,
            metadata: None,
            in_commit_time: None,
            adds: BTreeMap::new(),
            removes: BTreeMap::new(),
            cdc: Vec::new(),
        };
        for line in bytes.split(|b| *b == b'\n').filter(|l| !l.iter().all(u8::is_ascii_whitespace)) {
            let mut line: Json = serde_json::from_slice(line).map_err(|e| corrupt("is not JSON").with_source(e))?;
            let take = |line: &mut Json, name: &str| line.get_mut(name).map(Json::take).filter(|v| !v.is_null());
            let action = |body| {
                serde_json::from_value::<Action>(body).map_err(|e| corrupt("has a broken action").with_source(e))
            };
            // A missing flag counts as a change: the protocol requires it, so nothing may be concluded from its absence.
            let changes = |body: &Json| body["dataChange"].as_bool() != Some(false);
            if let Some(body) = take(&mut line, "add").filter(changes) {
                let add = action(body)?;
                commit.adds.insert(add.path.clone(), add);
            } else if let Some(body) = take(&mut line, "remove").filter(changes) {
                let remove = action(body)?;
                commit.removes.insert(remove.path.clone(), remove);
            } else if let Some(body) = take(&mut line, "cdc") {
                commit.cdc.push(action(body)?);
            } else if let Some(body) = take(&mut line, "metaData") {
                let metadata = serde_json::from_value(body);
                commit.metadata =
                    Some(metadata.map_err(|e| corrupt("has metadata that cannot be understood").with_source(e))?);
            } else if let Some(body) = take(&mut line, "commitInfo") {
                commit.in_commit_time = body["inCommitTimestamp"].as_i64().and_then(DateTime::from_timestamp_millis);
            }
        }
        Ok(commit)
    }

    async fn entries(self, end: &DeltaSnapshot, time: DateTime<Utc>, out: &mut Vec<Entry>) -> Result<()> {
        let Self { version, mut adds, removes, cdc, .. } = self;
        let entry = |action: Action, change, only| -> Result<Entry> {
            let partition_values = match action.partition_values {
                Some(values) => values,
                None if end.partition_columns().is_empty() => BTreeMap::new(),
                None => {
                    return Err(Error::unsupported(format!(
                        "version {version} removed {} without saying its partition values, so that its rows are not known: \
                         ask for the changes after it",
                        action.path
                    ))
                    .with_version(version));
                }
            };
            let Action { path, size, stats, deletion_vector, .. } = action;
            let file = LiveFile { path, size: size.unwrap_or(0), partition_values, stats, deletion_vector };
            Ok(Entry { file, change, only, version, time })
        };
        if !cdc.is_empty() {
            for action in cdc {
                out.push(entry(action, None, None)?);
            }
            return Ok(());
        }
        for (path, remove) in removes {
            let Some(add) = adds.remove(&path) else {
                out.push(entry(remove, Some("delete"), None)?);
                continue;
            };
            // The same file under another deletion vector: only the difference changed.
            let store = end.location().store().as_ref();
            let rows = async |vector: &Option<Descriptor>| match vector {
                Some(vector) => Ok::<_, Error>(vector.rows(store).await?.into_iter().collect::<BTreeSet<u64>>()),
                None => Ok(BTreeSet::new()),
            };
            let (before, after) = (rows(&remove.deletion_vector).await?, rows(&add.deletion_vector).await?);
            let unhidden = |action: Action| Action { deletion_vector: None, ..action };
            let (deleted, restored) = (&after - &before, &before - &after);
            let stats = add.stats.clone().or(remove.stats.clone());
            if !deleted.is_empty() {
                let action = Action { stats: stats.clone(), ..unhidden(remove) };
                out.push(entry(action, Some("delete"), Some(deleted))?);
            }
            if !restored.is_empty() {
                out.push(entry(Action { stats, ..unhidden(add) }, Some("insert"), Some(restored))?);
            }
        }
        for add in adds.into_values() {
            out.push(entry(add, Some("insert"), None)?);
        }
        Ok(())
    }
}

/// Refuses a range in which a column changed its type or the partition columns changed: one relation has one type for each.
fn same_shape(version: u64, metadata: &Metadata, end: &DeltaSnapshot) -> Result<()> {
    let refuse = |what: String| {
        Err(Error::unsupported(format!(
            "at version {version} {what}: ask for the changes before and after it one by one"
        ))
        .with_version(version))
    };
    let schema = DeltaSchema::parse(&metadata.schema_string)?;
    let (mapped, mapped_now) = (metadata.column_mapping(), end.metadata().column_mapping());
    for field in &end.delta_schema().fields {
        let physical = field.physical_name(mapped_now);
        if let Some(before) = schema.fields.iter().find(|f| f.physical_name(mapped) == physical)
            && before.data_type != field.data_type
        {
            return refuse(format!("the column {:?} had another type than at version {}", field.name, end.version()));
        }
    }
    let physical = |schema: &DeltaSchema, mapped: bool, columns: &[String]| -> Vec<String> {
        let of =
            |name: &String| schema.fields.iter().find(|f| f.name == *name).map(|f| f.physical_name(mapped).to_owned());
        columns.iter().filter_map(of).collect()
    };
    if physical(&schema, mapped, &metadata.partition_columns)
        != physical(end.delta_schema(), mapped_now, end.partition_columns())
    {
        return refuse(format!("the table was partitioned otherwise than at version {}", end.version()));
    }
    Ok(())
}

async fn relation(end: &DeltaSnapshot, entries: Vec<Entry>) -> Result<FileSet> {
    let mut types = Vec::new();
    let mut versions = Vec::new();
    let mut times = Vec::new();
    let mut only = Vec::new();
    let mut files = Vec::new();
    for entry in entries {
        types.push(entry.change);
        versions.push(i64::try_from(entry.version).unwrap_or(i64::MAX));
        times.push(entry.time.timestamp_micros());
        only.push(entry.only);
        files.push(entry.file);
    }
    let mut set = file_set(end, files).await?;
    for (file, only) in set.files.iter_mut().zip(only) {
        let Some(only) = only else { continue };
        let rows = file.rows.ok_or_else(|| {
            Error::unsupported(format!(
                "rows of {} were deleted by a deletion vector, and the log does not say how many rows the file has",
                file.path
            ))
        })?;
        file.deleted = Some(Arc::new((0..rows).filter(|row| !only.contains(row)).collect()));
    }
    let utc = DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
    let constants = set.partition_values.len();
    let change = ColumnSource::FileOrConstant { physical_name: CHANGE_TYPE.to_owned(), constant: constants };
    let added: [(&str, DataType, ColumnSource, ArrayRef); 3] = [
        (CHANGE_TYPE, DataType::Utf8, change, Arc::new(StringArray::from(types))),
        (COMMIT_VERSION, DataType::Int64, ColumnSource::Partition(constants + 1), Arc::new(Int64Array::from(versions))),
        (
            COMMIT_TIMESTAMP,
            utc,
            ColumnSource::Partition(constants + 2),
            Arc::new(TimestampMicrosecondArray::from(times).with_timezone("UTC")),
        ),
    ];
    let mut fields: Vec<Arc<Field>> = set.schema.fields().iter().cloned().collect();
    for (name, data_type, source, values) in added {
        fields.push(Arc::new(Field::new(name, data_type.clone(), true)));
        set.columns.push(FileColumn { name: name.to_owned(), data_type, physical_type: None, source });
        set.partition_values.push(values);
    }
    set.schema = Arc::new(Schema::new(fields));
    Ok(set)
}
