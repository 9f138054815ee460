//! Commits that leave the rows as they are: compaction, z-order and the markers of a vacuum.
//!
//! Three invariants:
//! - every add and remove has `dataChange=false`; no protocol, and no metadata but an unchanged one;
//! - in every commit since the plan the inputs stayed live with the same deletion vectors, and protocol and metadata were not
//!   touched; then the next version is taken, so constant appends can neither refuse nor starve it;
//! - what does not hold any more gives the plan up before anything is put: nothing is tried at two versions at a time.
//!
//! delta-rs retries its own OPTIMIZE past any commit, because its conflict check ignores removes with `dataChange=false`: two of
//! them from one snapshot duplicate every row (delta-rs 1.1.3, `operations/optimize.rs`, `conflict_checker.rs`).

use std::collections::{BTreeMap, HashSet};

use bytes::Bytes;
use duckrun_core::{Error, ErrorKind, Result, RunContext, Snapshot as _, StagedFile};
use serde_json::{Value as Json, json};

use super::put::{Fate, settle};
use super::render::{RUN_ID, Rendered};
use crate::history;
use crate::location::Location;
use crate::protocol::Metadata;
use crate::snapshot::{DeltaSnapshot, LiveFile};

/// The application under which the end of a vacuum is recorded as the protocol's `txn`, its version in milliseconds since the
/// epoch: commit info is forgotten with the log's entries, transactions are kept by checkpoints.
pub(crate) const VACUUM_APP: &str = "duckrun.vacuum";

/// Versions taken by others in a row before maintenance gives way.
const MAX_ATTEMPTS: usize = 1_000;

/// A commit that leaves the rows as they are.
#[derive(Debug, Default)]
pub(crate) struct Upkeep {
    /// The operation's name, as other writers of the protocol call it.
    pub(crate) operation: &'static str,
    /// Its parameters.
    pub(crate) parameters: BTreeMap<String, String>,
    /// Its figures.
    pub(crate) metrics: BTreeMap<String, String>,
    /// The files that go.
    pub(crate) removed: Vec<LiveFile>,
    /// The files that come in their place.
    pub(crate) added: Vec<StagedFile>,
    /// Whether the unchanged metadata is repeated, which makes writers fail that are plain delta-rs and started before.
    pub(crate) guard: bool,
    /// When a vacuum ended, in milliseconds since the epoch.
    pub(crate) vacuumed: Option<i64>,
    /// Whether local commits are synced to disk.
    pub(crate) sync: bool,
}

/// How it ended.
#[must_use = "a plan that was given up has committed nothing"]
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Kept {
    /// It is in the log.
    Committed(u64),
    /// Somebody else's commit is in the way; nothing was written, and files that were to be added can go.
    GivenUp(String),
}

/// Commits. `base` is the version that the plan was made at; `cx` must have an id that no other commit has.
///
/// # Errors
/// [`ErrorKind::CommitUnknown`] where the store's answer was lost and could not be settled: files that were to be added must
/// stay. Everything else is certain to have committed nothing.
pub(crate) async fn upkeep(cx: &RunContext, location: &Location, base: &DeltaSnapshot, plan: &Upkeep) -> Result<Kept> {
    let inputs: HashSet<&str> = plan.removed.iter().map(|f| f.path.as_str()).collect();
    let rendered = render(cx, base, plan)?;
    let mut next = base.version() + 1;
    for _ in 0..MAX_ATTEMPTS {
        cx.check()?;
        super::age::check(cx, location, Some(base), &plan.added.iter().collect::<Vec<_>>()).await?;
        match settle(cx, location, next, &rendered, plan.sync).await?.fate {
            Fate::Committed => return Ok(Kept::Committed(next)),
            Fate::Unknown => {
                let text = format!("version {next} may or may not hold the {} {}", plan.operation, cx.id());
                return Err(Error::new(ErrorKind::CommitUnknown, text).with_version(next));
            }
            Fate::Taken => {}
        }
        let newest = history::list(location, Some(next)).await?.newest().unwrap_or(next).max(next);
        for version in next..=newest {
            let Some(bytes) = history::read_commit(location, version).await? else {
                return Ok(Kept::GivenUp(format!("version {version} is no longer in the log")));
            };
            if let Some(why) = Since::parse(version, &bytes)?.stands_in_the_way(version, base.metadata(), &inputs) {
                return Ok(Kept::GivenUp(why));
            }
        }
        next = newest + 1;
    }
    Ok(Kept::GivenUp(format!("{MAX_ATTEMPTS} versions in a row were taken by others")))
}

/// Waits for nothing and changes nothing: what a commit of somebody else did that matters here.
#[derive(Debug, Default)]
pub(crate) struct Since {
    protocol: bool,
    metadata: Vec<Metadata>,
    /// Paths that were added, with rows or without, change files among them.
    pub(crate) added: Vec<String>,
    /// Paths that were removed.
    pub(crate) removed: Vec<String>,
    /// Deletion vectors that removed files had.
    pub(crate) vectors: Vec<Json>,
}

impl Since {
    /// Reads a commit.
    ///
    /// # Errors
    /// What is not JSON lines of actions is corrupt and never skipped.
    pub(crate) fn parse(version: u64, bytes: &[u8]) -> Result<Self> {
        let corrupt = |why: &str| Error::corrupt(format!("version {version} of the log {why}")).with_version(version);
        let mut since = Self::default();
        for line in bytes.split(|b| *b == b'\n').filter(|l| !l.iter().all(u8::is_ascii_whitespace)) {
            let action: Json = serde_json::from_slice(line).map_err(|e| corrupt("is not JSON").with_source(e))?;
            let action = action.as_object().ok_or_else(|| corrupt("has a line that is no action"))?;
            for (name, body) in action.iter().filter(|(_, body)| !body.is_null()) {
                let path =
                    || body["path"].as_str().map(str::to_owned).ok_or_else(|| corrupt("names a file without a path"));
                match name.as_str() {
                    "protocol" => since.protocol = true,
                    "metaData" => since.metadata.push(
                        serde_json::from_value(body.clone())
                            .map_err(|e| corrupt("has metadata that cannot be understood").with_source(e))?,
                    ),
                    "add" | "cdc" => since.added.push(path()?),
                    "remove" => {
                        since.removed.push(path()?);
                        since.vectors.extend(body.get("deletionVector").filter(|v| !v.is_null()).cloned());
                    }
                    _ => {}
                }
            }
        }
        Ok(since)
    }

    fn stands_in_the_way(&self, version: u64, known: &Metadata, inputs: &HashSet<&str>) -> Option<String> {
        if self.protocol {
            return Some(format!("version {version} changed the protocol"));
        }
        if self.metadata.iter().any(|m| m != known) {
            return Some(format!("version {version} changed the metadata"));
        }
        // A path that is added again has another deletion vector now, or was restored: not the file that was read.
        let touched = self.removed.iter().chain(&self.added).find(|path| inputs.contains(path.as_str()))?;
        Some(format!("version {version} changed the file {touched}"))
    }
}

/// The bytes. They do not depend on the version that they get.
fn render(cx: &RunContext, base: &DeltaSnapshot, plan: &Upkeep) -> Result<Rendered> {
    let millis = cx.now().timestamp_millis();
    let mut lines = vec![json!({ "commitInfo": {
        "timestamp": millis,
        "operation": plan.operation,
        "operationParameters": plan.parameters,
        "readVersion": base.version(),
        "isolationLevel": "SnapshotIsolation",
        "isBlindAppend": false,
        "operationMetrics": plan.metrics,
        "engineInfo": concat!("duckrun/", env!("CARGO_PKG_VERSION")),
        RUN_ID: cx.id().to_string(),
    }})];
    let as_json = |value: Result<Json, serde_json::Error>| {
        value.map_err(|e| Error::internal("an action cannot be serialised").with_source(e))
    };
    if plan.guard {
        lines.push(json!({ "metaData": as_json(serde_json::to_value(base.metadata()))? }));
    }
    if let Some(ended) = plan.vacuumed {
        lines.push(json!({ "txn": { "appId": VACUUM_APP, "version": ended, "lastUpdated": millis } }));
    }
    for file in &plan.removed {
        let mut remove = json!({
            "path": file.path,
            "deletionTimestamp": millis,
            "dataChange": false,
            "extendedFileMetadata": true,
            "partitionValues": file.partition_values,
            "size": file.size,
        });
        if let Some(vector) = &file.deletion_vector {
            remove["deletionVector"] = as_json(serde_json::to_value(vector))?;
        }
        lines.push(json!({ "remove": remove }));
    }
    for file in &plan.added {
        let mut add = json!({
            "path": file.path,
            "partitionValues": file.partition_values,
            "size": file.size,
            "modificationTime": file.modified,
            "dataChange": false,
        });
        if let Some(stats) = &file.stats {
            add["stats"] = Json::String(stats.clone());
        }
        lines.push(json!({ "add": add }));
    }
    let mut text = String::new();
    for line in lines {
        text.push_str(&line.to_string());
        text.push('\n');
    }
    Ok(Rendered(Bytes::from(text)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const METADATA: &str = r#"{"id":"x","format":{"provider":"parquet","options":{}},"schemaString":"{}","partitionColumns":[],"configuration":{}}"#;

    fn in_the_way(lines: &[&str]) -> bool {
        let known: Metadata = serde_json::from_str(METADATA).unwrap();
        let since = Since::parse(7, lines.join("\n").as_bytes()).unwrap();
        since.stands_in_the_way(7, &known, &HashSet::from(["in1", "in2"])).is_some()
    }

    #[test]
    fn what_gives_a_compaction_up_and_what_does_not() {
        let metadata = &format!(r#"{{"metaData":{METADATA}}}"#);
        let other = &metadata.replace("\"x\"", "\"y\"");
        for (line, want) in [
            (r#"{"add":{"path":"new","dataChange":true}}"#, false),
            (r#"{"remove":{"path":"elsewhere","dataChange":true}}"#, false),
            (r#"{"commitInfo":{"operation":"VACUUM START"}}"#, false),
            (r#"{"txn":{"appId":"a","version":1}}"#, false),
            (metadata, false),
            (other, true),
            (r#"{"protocol":{"minReaderVersion":1,"minWriterVersion":2}}"#, true),
            // The case that delta-rs overlooks: another compaction took the input.
            (r#"{"remove":{"path":"in2","dataChange":false}}"#, true),
            (r#"{"remove":{"path":"in1","dataChange":true}}"#, true),
            (r#"{"add":{"path":"in1","dataChange":true,"deletionVector":{}}}"#, true),
        ] {
            assert_eq!(in_the_way(&[line]), want, "{line}");
        }
    }

    #[test]
    fn a_commit_that_cannot_be_read_is_never_skipped() {
        for bad in ["{\"add\":", "[]", "null", r#"{"add":{}}"#] {
            assert_eq!(Since::parse(3, bad.as_bytes()).unwrap_err().kind(), ErrorKind::Corrupt, "{bad}");
        }
    }
}
