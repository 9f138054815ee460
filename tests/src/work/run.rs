//! Operations through the public API, and the table read back.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use duckrun::arrow::array::AsArray;
use duckrun::arrow::datatypes::Int64Type;
use duckrun::core::maintenance::Action;
use duckrun::{
    Append, At, CommitOutcome, DeleteInsert, Error, FullSync, Insert, Maintain, Merge, MicrobatchWindow, Model,
    Overwrite, ReplaceWhere, Report, Result, SafeAppend, Session,
};
use futures::TryStreamExt;
use object_store::ObjectStore;

use super::ledger::End;
use super::operation::{Kind, Operation, Row, Rows, day, rows_sql};
use super::place::{Root, TABLE};

/// How often a writer that is not alone tries again.
const RETRIES: u32 = 8;

/// What the table of a campaign is like.
#[non_exhaustive]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Features {
    /// Partitioned by the writer's number.
    pub partitioned: bool,
    /// With a change feed.
    pub feed: bool,
    /// Its log is cleaned up at every checkpoint.
    pub forgets: bool,
}

impl Features {
    /// Those of a seed: every other table is partitioned, every third has a change feed.
    #[must_use]
    pub fn of(seed: u64) -> Self {
        Self { partitioned: seed.is_multiple_of(2), feed: seed.is_multiple_of(3), forgets: false }
    }

    /// With a log that is cleaned up, or not.
    #[must_use]
    pub fn forgets(mut self, forgets: bool) -> Self {
        self.forgets = forgets;
        self
    }
}

/// Creates the table without rows of any writer.
///
/// # Errors
/// The run's.
pub async fn create(session: &Session, features: Features) -> Result<()> {
    let sql = rows_sql(-1, &[Row { id: 0, op: 0, val: 0 }]);
    let mut model = session.model(TABLE).sql(sql).strategy(Overwrite::default());
    // Checkpoints and clean-ups come soon and often, so that a campaign meets them.
    model = model.property("delta.checkpointInterval", "5");
    if features.forgets {
        model = model.property("delta.logRetentionDuration", "interval 0 seconds");
    }
    if features.feed {
        model = model.property("delta.enableChangeDataFeed", "true");
    }
    if features.partitioned {
        model = model.partition_by(["writer"]);
    }
    model.run().await?.committed().map(drop)
}

/// Does an operation for a writer. What goes wrong is an [`End`].
pub async fn run(session: &Session, writer: i64, operation: &Operation) -> End {
    match done(session, writer, operation).await {
        Ok(end) => end,
        Err(e) => End::Refused { kind: format!("{:?}", e.kind()), message: chain(&e) },
    }
}

/// An error with its causes.
fn chain(e: &Error) -> String {
    let mut text = e.to_string();
    let mut next = std::error::Error::source(e);
    while let Some(source) = next {
        text = format!("{text}: {source}");
        next = source.source();
    }
    text
}

async fn done(session: &Session, writer: i64, operation: &Operation) -> Result<End> {
    let model = || session.model(TABLE).sql(operation.sql(writer));
    let ran = |model: Model| async { model.retries(RETRIES).run().await.map(|report| end(&report)) };
    match operation.kind {
        Kind::Append => ran(model().strategy(Append::default())).await,
        Kind::SafeAppend => ran(model().strategy(SafeAppend)).await,
        Kind::Insert => ran(model().strategy(Insert::on(["writer", "id"]))).await,
        Kind::Merge => ran(model().strategy(Merge::on(["writer", "id"]))).await,
        Kind::DeleteInsert => ran(model().strategy(DeleteInsert::on(["writer", "id"]))).await,
        Kind::Replace => ran(model().strategy(ReplaceWhere::new(format!("writer = {writer}")))).await,
        Kind::Microbatch => {
            let window = MicrobatchWindow::new("day", day(writer), day(writer + 1));
            ran(model().strategy(window)).await
        }
        Kind::FullSync => ran(model().strategy(FullSync::on(["writer", "id"]))).await,
        Kind::Overwrite => ran(model().strategy(Overwrite::default())).await,
        Kind::Delete => {
            let delete = session.table(TABLE)?.delete(operation.predicate(writer));
            delete.retries(RETRIES).run().await.map(|report| end(&report))
        }
        Kind::Update => {
            let set = [("val", format!("val + {}", operation.plus)), ("op", operation.number.to_string())];
            let update = session.table(TABLE)?.update(set, Some(&operation.predicate(writer)));
            update.retries(RETRIES).run().await.map(|report| end(&report))
        }
        Kind::Compact => maintained(session.maintain(TABLE).compact()).await,
        Kind::ZOrder => maintained(session.maintain(TABLE).z_order(["id"])).await,
        Kind::Vacuum => maintained(session.maintain(TABLE).unsafe_retention().vacuum(Duration::ZERO)).await,
        Kind::Checkpoint => maintained(session.maintain(TABLE).checkpoint()).await,
        Kind::CleanLog => {
            let clean = Action::CleanLog { retention: Duration::ZERO };
            maintained(session.maintain(TABLE).unsafe_retention().action(clean)).await
        }
    }
}

fn end(report: &Report) -> End {
    match &report.outcome {
        CommitOutcome::Committed(_) => End::Committed,
        CommitOutcome::Conflict { .. } => End::Conflict,
        CommitOutcome::NothingToDo(_) => End::Nothing,
        // Whatever outcomes there may be one day: they are settled by reading.
        _ => End::Unknown,
    }
}

async fn maintained(maintain: Maintain) -> Result<End> {
    let report = maintain.run().await?;
    let fault = report.tables.iter().flat_map(|(_, report)| report.faults()).next();
    Ok(match fault {
        None => End::Committed,
        Some(fault) => End::Refused { kind: format!("{:?}", fault.kind), message: fault.message.clone() },
    })
}

/// The rows of every writer at a version, with the version; the row that made the table is left out.
///
/// # Errors
/// The table's.
pub async fn read(session: &Session, at: At) -> Result<(u64, BTreeMap<i64, Rows>)> {
    let version = session.snapshot(TABLE, at).await?.version();
    let query = session.sql(format!("select writer, id, op, val from {TABLE} where writer >= 0"));
    let mut found: BTreeMap<i64, Rows> = BTreeMap::new();
    for batch in query.at(TABLE, At::Version(version)).collect().await? {
        let column = |i: usize| {
            let column = batch.column(i).as_primitive_opt::<Int64Type>();
            column.ok_or_else(|| Error::corrupt("the table's columns are not those it was made with"))
        };
        let (writer, id, op, val) = (column(0)?, column(1)?, column(2)?, column(3)?);
        for i in 0..batch.num_rows() {
            let row = Row { id: id.value(i), op: op.value(i), val: val.value(i) };
            found.entry(writer.value(i)).or_default().push(row);
        }
    }
    found.values_mut().for_each(|rows| rows.sort_unstable());
    Ok((version, found))
}

/// Vacuums without a retention, in a session of its own, and looks at every object: data files that no log entry names, versions that
/// are missing from the log, and files of unknown names in it. Nobody else may be writing.
///
/// # Errors
/// The vacuum's, or the listing's.
pub async fn vacuumed(root: &Root) -> Result<Vec<String>> {
    let session = root.session().maintenance(false).await?;
    let vacuum = session.maintain(TABLE).unsafe_retention().vacuum(Duration::ZERO).run().await?;
    let mut wrong: Vec<String> = vacuum
        .tables
        .iter()
        .flat_map(|(_, r)| r.faults())
        .map(|f| format!("the vacuum failed: {}", f.message))
        .collect();
    let snapshot = session.snapshot(TABLE, At::Latest).await?;
    let live: BTreeSet<String> = snapshot
        .files()
        .await?
        .files
        .iter()
        .filter_map(|f| f.url.path().rsplit('/').next().map(str::to_owned))
        .collect();
    let mut seen = BTreeSet::new();
    let mut versions = BTreeSet::new();
    for path in names(root).await? {
        let name = path.rsplit('/').next().unwrap_or_default().to_owned();
        if !path.contains("_delta_log/") {
            if name.ends_with(".parquet") && live.contains(&name) {
                seen.insert(name);
            } else if !passing(&name) {
                wrong.push(format!("after a vacuum there is {path}, which the log does not name"));
            }
        } else if let Some(version) = name.strip_suffix(".json").and_then(|v| v.parse::<u64>().ok()) {
            versions.insert(version);
        } else if name != "_last_checkpoint" && !name.ends_with(".checkpoint.parquet") && !passing(&name) {
            wrong.push(format!("after a vacuum the log has {name}"));
        }
    }
    wrong.extend(live.difference(&seen).map(|name| format!("the log names {name}, which is not there")));
    if let (Some(first), Some(last)) = (versions.first(), versions.last()) {
        let missing = (*first..=*last).filter(|v| !versions.contains(v));
        wrong.extend(missing.map(|v| format!("version {v} is missing from the log")));
        if *last != snapshot.version() {
            wrong.push(format!("the log ends with version {last}, but the table is at {}", snapshot.version()));
        }
    }
    Ok(wrong)
}

/// Files of others: what `object_store` was writing into a local folder (no listing of its own shows them), and the object by which a
/// store was asked whether it honours conditional puts.
fn passing(name: &str) -> bool {
    let staged = name.rsplit_once('#').is_some_and(|(_, n)| n.parse::<u64>().is_ok());
    staged || name.starts_with("_duckrun_probe_")
}

/// Every object of the table. A local folder is read by itself: a listing of the store leaves out what it takes for unfinished.
async fn names(root: &Root) -> Result<Vec<String>> {
    if let Some(folder) = root.folder() {
        let all = crate::data_files(&folder).into_iter().chain(crate::data_files(&folder.join("_delta_log")));
        return Ok(all.map(|path| path.display().to_string()).collect());
    }
    let listed: Vec<_> = root.store.list(Some(&root.table())).try_collect().await.map_err(|e| {
        Error::new(duckrun::ErrorKind::Unavailable, "the table's objects cannot be listed").with_source(e)
    })?;
    Ok(listed.into_iter().map(|object| object.location.to_string()).collect())
}
