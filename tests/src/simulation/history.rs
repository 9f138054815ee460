//! What must be true of the table: the log replayed as it grows, beside what each run meant to do.
//!
//! A commit is judged the moment it appears: what it does to the rows must be what its run does when it runs right after the
//! version before, so the versions are a serial order of the runs, whatever the runs had read. Files are known by what the
//! simulation put into them; those of a compaction are read.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use bytes::Bytes;
use chrono::{DateTime, TimeDelta, Utc};
use duckrun::arrow::array::AsArray;
use duckrun::arrow::datatypes::Int64Type;
use object_store::path::Path;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use serde_json::Value as Json;

use super::bucket::Bucket;
use super::{LOG_RETENTION, MARGIN, RETENTION};
use crate::Tally;

/// Key and value. No two rows that runs bring along have the same value.
pub(super) type Row = (i64, i64);
/// Rows, and how often each is there.
type Rows = BTreeMap<Row, u64>;

/// What a run does to the rows.
#[derive(Debug, Clone)]
pub(super) enum Change {
    Append(Vec<Row>),
    Overwrite(Vec<Row>),
    /// Rows with one of these keys get the new value; keys that no row has are added.
    Upsert(Vec<Row>),
    /// Rows with a key in this range go.
    Delete(i64, i64),
}

impl Change {
    fn apply(&self, rows: &Rows) -> Rows {
        let mut after = rows.clone();
        match self {
            Self::Append(new) => new.iter().for_each(|row| *after.entry(*row).or_default() += 1),
            Self::Overwrite(new) => {
                after.clear();
                new.iter().for_each(|row| *after.entry(*row).or_default() += 1);
            }
            Self::Upsert(new) => {
                for row in new {
                    let old: u64 = rows.range((row.0, i64::MIN)..=(row.0, i64::MAX)).map(|(_, n)| n).sum();
                    after.retain(|(key, _), _| *key != row.0);
                    after.insert(*row, old.max(1));
                }
            }
            Self::Delete(low, high) => after.retain(|(key, _), _| key < low || key > high),
        }
        after
    }
}

/// What is known of a run that may commit.
#[derive(Debug)]
pub(super) struct Run {
    /// The number of its operation.
    pub(super) operation: u64,
    /// The version that it read.
    pub(super) read: Option<u64>,
    pub(super) change: Change,
    /// Whether any change of the data since the version that it read must refuse it.
    pub(super) fenced: bool,
    /// Whether it may join a table that somebody else created first.
    pub(super) joins: bool,
    pub(super) transaction: Option<(String, i64)>,
    refused: bool,
    committed: Option<u64>,
}

impl Run {
    pub(super) fn new(operation: u64, read: Option<u64>, change: Change) -> Self {
        let joins = matches!(change, Change::Append(_));
        Self { operation, read, change, fenced: false, joins, transaction: None, refused: false, committed: None }
    }
}

#[derive(Debug)]
struct Version {
    committed: DateTime<Utc>,
    live: Arc<BTreeSet<String>>,
    rows: Arc<Rows>,
    /// Whether it is more than maintenance.
    data: bool,
    run: Option<String>,
}

/// The table, and what was promised about it.
#[derive(Debug, Default)]
pub(super) struct History {
    prefix: String,
    versions: Vec<Version>,
    runs: HashMap<String, Run>,
    contents: HashMap<String, Arc<Vec<Row>>>,
    /// When files were put that no version has named.
    written: HashMap<String, DateTime<Utc>>,
    /// When files were removed from the table.
    gone: HashMap<String, DateTime<Utc>>,
    transactions: BTreeMap<String, i64>,
    pub(super) found: Tally,
}

impl History {
    /// Forgets the table and begins another one; what was found stays.
    pub(super) fn begin(&mut self, prefix: &str) {
        let found = std::mem::take(&mut self.found);
        *self = Self { prefix: format!("{prefix}/"), found, ..Self::default() };
    }

    pub(super) fn newest(&self) -> Option<u64> {
        (self.versions.len() as u64).checked_sub(1)
    }

    /// What a file holds.
    pub(super) fn content(&self, path: &str) -> Option<Arc<Vec<Row>>> {
        self.contents.get(path).cloned()
    }

    /// Announces what a new file holds.
    pub(super) fn announce(&mut self, path: &str, rows: &[Row]) {
        self.contents.insert(path.to_owned(), Arc::new(rows.to_vec()));
    }

    /// Announces a run before it commits.
    pub(super) fn intend(&mut self, id: String, run: Run) {
        self.runs.insert(id, run);
    }

    /// A data file was put.
    pub(super) fn written(&mut self, path: &str, now: DateTime<Utc>) {
        if let Some(path) = path.strip_prefix(&self.prefix) {
            self.written.insert(path.to_owned(), now);
        }
    }

    /// A data file is about to be deleted, by a vacuum or by the run that wrote it.
    pub(super) fn deleting(&mut self, path: &str, now: DateTime<Utc>, vacuum: bool) {
        let Some(path) = path.strip_prefix(&self.prefix).map(str::to_owned) else { return };
        let horizon = now - (RETENTION - MARGIN);
        if self.versions.last().is_some_and(|v| v.live.contains(&path)) {
            self.found.lost += self.contents.get(&path).map_or(1, |rows| rows.len() as u64);
            self.violation(format!("the live file {path} was deleted"));
        } else if let Some(gone) = self.gone.get(&path) {
            if *gone > horizon {
                self.found.torn += 1;
                self.violation(format!("the file {path} was deleted, which a version within the retention needs"));
            }
        } else if vacuum && self.written.get(&path).is_some_and(|written| *written > horizon) {
            self.violation(format!("the file {path} of a run in flight was vacuumed within the retention"));
        }
    }

    /// A commit has appeared in the log.
    pub(super) fn committed(&mut self, version: u64, bytes: &Bytes, now: DateTime<Utc>, bucket: &Bucket) {
        let next = self.versions.len() as u64;
        if version != next {
            self.found.torn += 1;
            let what = if version < next { "was written a second time" } else { "leaves a gap in the log" };
            return self.violation(format!("version {version} {what}; the next one was {next}"));
        }
        let commit = match Actions::parse(bytes) {
            Ok(commit) => commit,
            Err(why) => return self.violation(format!("version {version} {why}")),
        };
        let empty = Arc::<BTreeSet<String>>::default();
        let (live, rows) = self.versions.last().map_or((empty, Arc::default()), |v| (v.live.clone(), v.rows.clone()));
        let (mut files, mut after) = ((*live).clone(), (*rows).clone());
        for path in &commit.removed {
            if !files.remove(path) {
                self.violation(format!("version {version} removes the file {path}, which is not live"));
            }
            for row in self.content(path).iter().flat_map(|rows| rows.iter()) {
                if let Some(count) = after.get_mut(row) {
                    *count -= 1;
                    if *count == 0 {
                        after.remove(row);
                    }
                }
            }
            self.gone.insert(path.clone(), now);
        }
        for path in &commit.added {
            let object = bucket.object(&Path::from(format!("{}{path}", self.prefix)));
            let Some(object) = object else {
                self.found.lost += 1;
                self.violation(format!("version {version} names the file {path}, which is not there"));
                continue;
            };
            if !self.contents.contains_key(path) {
                match read_rows(&object.bytes) {
                    Ok(found) => self.announce(path, &found),
                    Err(e) => self.violation(format!("the file {path} cannot be read: {e}")),
                }
            }
            if !files.insert(path.clone()) {
                self.found.duplicate += 1;
                self.violation(format!("version {version} adds the file {path}, which is live"));
            }
            self.written.remove(path);
            for row in self.content(path).iter().flat_map(|rows| rows.iter()) {
                *after.entry(*row).or_default() += 1;
            }
        }
        self.judge(version, &commit, &rows, &after);
        let data = commit.data || !commit.transactions.is_empty();
        let run = commit.run.filter(|id| self.runs.contains_key(id));
        self.versions.push(Version { committed: now, live: Arc::new(files), rows: Arc::new(after), data, run });
        self.found.commits += 1;
    }

    /// Whether a commit does what its run does after the version before.
    fn judge(&mut self, version: u64, commit: &Actions, before: &Rows, after: &Rows) {
        for (app, number) in &commit.transactions {
            if self.transactions.get(app).is_some_and(|known| known >= number) {
                self.found.duplicate += 1;
                self.violation(format!("version {version} applies the transaction {number} of {app} once more"));
            }
            self.transactions.insert(app.clone(), *number);
        }
        let Some(run) = commit.run.as_ref().and_then(|id| self.runs.get_mut(id)) else {
            let known = matches!(commit.operation.as_str(), "OPTIMIZE" | "VACUUM START" | "VACUUM END");
            if !known || commit.data {
                self.found.phantom += 1;
                self.violation(format!("version {version} ({}) is of nobody", commit.operation));
            }
            return self.compare(version, "maintenance", before, after);
        };
        let (operation, read, fenced, joins) = (run.operation, run.read, run.fenced, run.joins);
        let (refused, earlier) = (run.refused, run.committed.replace(version));
        let wanted = run.change.apply(before);
        if refused {
            self.found.phantom += 1;
            self.violation(format!("version {version} is of operation {operation}, which was told that it is refused"));
        }
        if let Some(earlier) = earlier {
            self.found.duplicate += 1;
            self.violation(format!("operation {operation} is in the log twice, as versions {earlier} and {version}"));
        }
        let first = usize::try_from(read.map_or(0, |v| v + 1)).unwrap_or(usize::MAX);
        if fenced && self.versions.iter().skip(first).any(|v| v.data) {
            self.found.lost += 1;
            self.violation(format!(
                "operation {operation} read version {read:?} and became version {version}, though the data had changed"
            ));
        }
        if read.is_none() && version > 0 && !joins {
            self.violation(format!("operation {operation} found no table and became version {version} of one"));
        }
        self.compare(version, &format!("operation {operation}"), &wanted, after);
    }

    fn compare(&mut self, version: u64, who: &str, wanted: &Rows, found: &Rows) {
        if wanted == found {
            return;
        }
        let keys: BTreeSet<&Row> = wanted.keys().chain(found.keys()).collect();
        let (mut lost, mut phantom, mut duplicate) = (0, 0, 0);
        for row in keys {
            let (want, have) = (wanted.get(row).copied().unwrap_or(0), found.get(row).copied().unwrap_or(0));
            lost += want.saturating_sub(have);
            match want {
                0 => phantom += have,
                _ => duplicate += have.saturating_sub(want),
            }
        }
        self.found.lost += lost;
        self.found.phantom += phantom;
        self.found.duplicate += duplicate;
        self.violation(format!(
            "version {version} ({who}) is not what the operation does after version {}: {lost} rows are lost, {phantom} are \
             there that should not be, {duplicate} are there too often",
            i128::from(version) - 1
        ));
    }

    /// A run was told that it is committed.
    pub(super) fn acknowledged(&mut self, id: &str, version: u64) {
        let there = usize::try_from(version).ok().and_then(|v| self.versions.get(v));
        if there.and_then(|v| v.run.as_deref()) != Some(id) {
            let operation = self.runs.get(id).map_or(0, |run| run.operation);
            self.found.lost += 1;
            self.violation(format!("operation {operation} was told that it is version {version}, and it is not"));
        }
    }

    /// A run was told that it is not committed and never will be.
    pub(super) fn refused(&mut self, id: &str) {
        let Some(run) = self.runs.get_mut(id) else { return };
        run.refused = true;
        let (operation, committed) = (run.operation, run.committed);
        if let Some(version) = committed {
            self.found.phantom += 1;
            self.violation(format!("operation {operation} was refused, and is version {version}"));
        }
    }

    /// A run was told that its transaction was applied before.
    pub(super) fn replayed(&mut self, app: &str, number: i64) {
        if self.transactions.get(app).is_none_or(|known| *known < number) {
            self.found.lost += 1;
            self.violation(format!("the transaction {number} of {app} is said to be applied, and is not"));
        }
    }

    /// A reader saw these files as a version.
    pub(super) fn read<'a>(&mut self, version: u64, files: impl Iterator<Item = (&'a str, Option<u64>)>) {
        let Some(known) = usize::try_from(version).ok().and_then(|v| self.versions.get(v)) else {
            return self.violation(format!("a reader saw version {version}, which does not exist"));
        };
        let (live, mut seen) = (known.live.clone(), BTreeSet::new());
        let mut wrong = Vec::new();
        for (path, rows) in files {
            let expected = self.contents.get(path).map(|rows| rows.len() as u64);
            if rows != expected {
                wrong.push(format!("{path} with {rows:?} rows instead of {expected:?}"));
            }
            seen.insert(path.to_owned());
        }
        if seen != *live || !wrong.is_empty() {
            self.found.torn += 1;
            let missing: Vec<_> = live.difference(&seen).collect();
            let extra: Vec<_> = seen.difference(&live).collect();
            self.violation(format!(
                "a reader saw version {version} without {missing:?}, with {extra:?} that are not of it, and {wrong:?}"
            ));
        }
    }

    /// A reader asked for the newest version, and got this one, when `known` was the newest at the time that it asked.
    pub(super) fn read_newest(&mut self, version: Option<u64>, known: Option<u64>) {
        if version < known {
            self.found.torn += 1;
            self.violation(format!("a reader saw {version:?} as the newest version, after {known:?} was committed"));
        }
    }

    /// Whether readers may rely on a version: it was the newest one within the retention of the log.
    pub(super) fn is_young(&self, version: u64, now: DateTime<Utc>) -> bool {
        let next = usize::try_from(version + 1).ok().and_then(|v| self.versions.get(v));
        next.is_none_or(|next| next.committed > now - (LOG_RETENTION - MARGIN))
    }

    pub(super) fn violation(&mut self, text: String) {
        self.found.violations.push(text);
    }
}

/// What a commit holds.
#[derive(Debug, Default)]
struct Actions {
    run: Option<String>,
    operation: String,
    added: Vec<String>,
    removed: Vec<String>,
    /// Whether an add or a remove changes the data.
    data: bool,
    transactions: Vec<(String, i64)>,
}

impl Actions {
    fn parse(bytes: &Bytes) -> Result<Self, String> {
        let mut found = Self::default();
        for line in bytes.split(|b| *b == b'\n').filter(|line| !line.is_empty()) {
            let action: Json = serde_json::from_slice(line).map_err(|e| format!("is torn: {e}"))?;
            let path = |body: &Json| body["path"].as_str().unwrap_or_default().to_owned();
            if let Some(info) = action.get("commitInfo") {
                found.run = info["txnId"].as_str().map(str::to_owned);
                found.operation = info["operation"].as_str().unwrap_or_default().to_owned();
            } else if let Some(add) = action.get("add") {
                found.data |= add["dataChange"] != Json::Bool(false);
                found.added.push(path(add));
            } else if let Some(remove) = action.get("remove") {
                found.data |= remove["dataChange"] != Json::Bool(false);
                found.removed.push(path(remove));
            } else if let Some(txn) = action.get("txn") {
                let app = txn["appId"].as_str().unwrap_or_default();
                if app != "duckrun.vacuum" {
                    found.transactions.push((app.to_owned(), txn["version"].as_i64().unwrap_or_default()));
                }
            }
        }
        Ok(found)
    }
}

/// The rows of a data file.
fn read_rows(bytes: &Bytes) -> Result<Vec<Row>, String> {
    let reader = ParquetRecordBatchReaderBuilder::try_new(bytes.clone()).and_then(|b| b.build());
    let mut rows = Vec::new();
    for batch in reader.map_err(|e| e.to_string())? {
        let batch = batch.map_err(|e| e.to_string())?;
        let column = |i: usize| batch.column(i).as_primitive_opt::<Int64Type>().ok_or("a column of another type");
        let (keys, values) = (column(0)?, column(1)?);
        rows.extend(keys.values().iter().copied().zip(values.values().iter().copied()));
    }
    Ok(rows)
}

/// A length of time.
pub(super) const fn minutes(n: i64) -> TimeDelta {
    TimeDelta::seconds(n * 60)
}
