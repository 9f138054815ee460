//! The commit: put-if-absent on HEAD + 1, conflicts decided by us, a lost answer settled before anything else is tried.
//!
//! Three invariants:
//! - the bytes put at a version never change while their fate is unknown, and no other version is tried before it is known;
//! - every version between the pinned one and the one that we take was read and judged;
//! - a commit that is in the log is reported as committed, whatever the store answered.

mod age;
mod conflict;
mod maintain;
mod put;
mod render;
mod replaced;
#[cfg(test)]
mod tests;

use std::pin::pin;
use std::time::Instant;

use bytes::Bytes;
use duckrun_core::{
    AppTransaction, At, Commit, CommitOutcome, ConflictPolicy, Error, ErrorKind, Intent, Nothing, Result, RunContext,
    Snapshot, WriteAction, WriteMetrics,
};
use futures::TryStreamExt;

pub(crate) use self::conflict::CommitSummary;
use self::conflict::{Stakes, Verdict};
pub(crate) use self::maintain::{Kept, Since, Upkeep, VACUUM_APP, upkeep};
#[cfg(test)]
pub(crate) use self::put::unfinished;
pub(crate) use self::put::{Fate, unfinished_version};
use self::put::{Settled, settle};
use self::render::Rendered;
pub(crate) use self::render::{APPLIED, RUN_ID};
use self::replaced::Replaced;
use crate::history;
use crate::location::Location;
use crate::protocol::{Metadata, Protocol, check_feed};
use crate::prune::Prune;
use crate::schema::DeltaSchema;
use crate::snapshot::{DeltaSnapshot, LiveFile};

/// Versions taken by others in a row before a commit gives up.
const MAX_ATTEMPTS: usize = 10_000;

/// What the table will be after the commit.
struct Target {
    protocol: Option<Protocol>,
    metadata: Option<Metadata>,
}

/// Commits an intent against the version that was read.
pub(crate) async fn commit(
    cx: &RunContext,
    location: &Location,
    at: Option<&DeltaSnapshot>,
    intent: &Intent,
) -> Result<CommitOutcome> {
    let started = Instant::now();
    let mut base: Option<DeltaSnapshot> = at.cloned();
    if let (Some(base), Some(transaction)) = (&base, &intent.transaction)
        && let Some(version) = base.app_version(&transaction.app_id).await?
        && version >= transaction.version
    {
        return Ok(CommitOutcome::NothingToDo(Nothing::AlreadyApplied { version }));
    }
    let read = at.map(|s| s.version());
    let stakes = Stakes {
        removes: intent.removed.iter().map(String::as_str).collect(),
        reads: Some(&intent.reads.files),
        ranges: match &base {
            Some(base) => Prune::new(base, &intent.reads.ranges)?,
            None => Prune::default(),
        },
    };
    if read.is_none()
        && let Some(found) = history::list(location, None).await?.cleaned_up()
    {
        return Ok(conflict(
            None,
            found,
            "the table was created by another run, and its first entries are gone from the log",
        ));
    }
    let mut next = read.map_or(0, |v| v + 1);
    let mut replaced = match &base {
        Some(base) if intent.plan.action == WriteAction::Overwrite => Some(Replaced::of(base).await?),
        _ => None,
    };
    for _ in 0..MAX_ATTEMPTS {
        cx.check()?;
        age::check(cx, location, base.as_ref(), &intent.staged.all().collect::<Vec<_>>()).await?;
        let target = target(cx, base.as_ref(), intent)?;
        let (rendered, mut metrics) = render(cx, base.as_ref(), &target, intent, replaced.as_ref(), read).await?;
        let Settled { fate, taken } = settle(cx, location, next, &rendered, intent.sync).await?;
        match fate {
            Fate::Committed => {
                metrics.commit_time = started.elapsed();
                return Ok(CommitOutcome::Committed(Commit::new(next, metrics)));
            }
            Fate::Unknown => return Ok(CommitOutcome::Unknown { version: next, id: cx.id() }),
            Fate::Taken => {}
        }
        // Somebody else has this version: judge it and everything after it, then try the one after that. What it says is known
        // by now, so that a conflict with it costs no further request.
        if let Some(bytes) = &taken {
            if let Some(end) = judge(next, bytes, read, base.as_ref(), intent, &stakes)? {
                return Ok(end);
            }
            replaced.iter_mut().try_for_each(|replaced| replaced.follow(next, bytes))?;
        }
        let newest = history::list(location, Some(next)).await?.newest().unwrap_or(next).max(next);
        let mut rest = pin!(history::commits(location, next + u64::from(taken.is_some())..=newest));
        while let Some((version, bytes)) = rest.try_next().await? {
            let Some(bytes) = bytes else {
                return Ok(CommitOutcome::Conflict {
                    read,
                    found: newest,
                    reason: format!("version {version} is no longer in the log, so it cannot be judged"),
                });
            };
            if let Some(end) = judge(version, &bytes, read, base.as_ref(), intent, &stakes)? {
                return Ok(end);
            }
            replaced.iter_mut().try_for_each(|replaced| replaced.follow(version, &bytes))?;
        }
        next = newest + 1;
        if base.is_none() {
            // Two first runs at once: an append joins the table that won, if it fits; anything else was planned for no table.
            let winner = match DeltaSnapshot::open(location, At::Version(newest)).await? {
                Some(winner) => winner,
                None => return Err(Error::corrupt("a table has vanished while it was written")),
            };
            if let Some(reason) = cannot_join(intent, &winner) {
                return Ok(conflict(None, newest, &reason));
            }
            base = Some(winner);
        }
    }
    Err(Error::new(ErrorKind::Unavailable, format!("{MAX_ATTEMPTS} versions in a row were taken by others"))
        .with_operation("commit"))
}

/// Whether a commit of somebody else ends the attempt, and how.
fn judge(
    version: u64,
    bytes: &[u8],
    read: Option<u64>,
    base: Option<&DeltaSnapshot>,
    intent: &Intent,
    stakes: &Stakes<'_>,
) -> Result<Option<CommitOutcome>> {
    let summary = CommitSummary::parse(version, bytes)?;
    if let Some(transaction) = &intent.transaction
        && let Some(applied) = summary.app_version(&transaction.app_id)
        && applied >= transaction.version
    {
        return Ok(Some(CommitOutcome::NothingToDo(Nothing::AlreadyApplied { version: applied })));
    }
    Ok(match summary.judge(intent.plan.conflict, base.map(DeltaSnapshot::metadata), stakes) {
        Verdict::Pass => None,
        Verdict::CreatesTable if base.is_none() => None,
        Verdict::CreatesTable => Some(conflict(read, version, "the table was created anew")),
        Verdict::Conflict(reason) => Some(conflict(read, version, &reason)),
    })
}

fn conflict(read: Option<u64>, found: u64, reason: &str) -> CommitOutcome {
    CommitOutcome::Conflict { read, found, reason: reason.to_owned() }
}

/// Why a first run cannot append to the table that another first run has created; `None` if it can.
fn cannot_join(intent: &Intent, winner: &DeltaSnapshot) -> Option<String> {
    if intent.plan.action != WriteAction::Append || intent.plan.conflict != ConflictPolicy::Blind {
        return Some("the table was created by another run".to_owned());
    }
    let same_columns = winner.schema().fields().len() == intent.plan.schema.fields().len()
        && intent.plan.schema.fields().iter().all(|f| {
            winner.schema().field_with_name(f.name()).is_ok_and(|w| w.data_type() == f.data_type() && w.is_nullable())
        });
    if !same_columns {
        return Some("the table was created by another run, with other columns".to_owned());
    }
    (winner.partition_columns() != intent.plan.partition_columns.as_slice())
        .then(|| "the table was created by another run, with other partition columns".to_owned())
}

/// Protocol and metadata actions of the commit, where they change.
fn target(cx: &RunContext, base: Option<&DeltaSnapshot>, intent: &Intent) -> Result<Target> {
    let plan = &intent.plan;
    let Some(base) = base else {
        let schema = DeltaSchema::from_arrow(&plan.schema, None)?;
        let metadata = Metadata {
            id: uuid::Uuid::new_v4().to_string(),
            name: None,
            description: plan.metadata.comment.clone(),
            format: Default::default(),
            schema_string: with_comments(schema.clone(), plan)?.to_json()?,
            partition_columns: plan.partition_columns.clone(),
            created_time: Some(cx.now().timestamp_millis()),
            configuration: plan.metadata.properties.clone(),
        };
        check_feed(&metadata, &schema)?;
        return Ok(Target {
            protocol: Some(Protocol::for_new_table(&schema, &plan.metadata.properties)),
            metadata: Some(metadata),
        });
    };
    let replaces = plan.action == WriteAction::Overwrite;
    let removes = replaces || !intent.removed.is_empty();
    base.protocol().check_writable(base.metadata(), base.delta_schema(), removes, Some(&plan.checks))?;
    if plan.metadata.is_empty() {
        return Ok(Target { protocol: None, metadata: None });
    }
    let mut metadata = base.metadata().clone();
    let mut protocol = None;
    if let Some(schema) = &plan.metadata.schema {
        if base.metadata().column_mapping() {
            return Err(Error::unsupported("the schema of a table with the feature columnMapping cannot be changed"));
        }
        let schema = if replaces {
            DeltaSchema::from_arrow(schema, Some(base.delta_schema()))?
        } else {
            base.delta_schema().with_added(schema)?
        };
        protocol = base.protocol().upgraded_for(&schema);
        metadata.schema_string = schema.to_json()?;
    }
    let schema = with_comments(DeltaSchema::parse(&metadata.schema_string)?, plan)?;
    metadata.schema_string = schema.to_json()?;
    if let Some(columns) = &plan.metadata.partition_columns {
        metadata.partition_columns.clone_from(columns);
    }
    metadata.configuration.extend(plan.metadata.properties.clone());
    if let Some(comment) = &plan.metadata.comment {
        metadata.description = Some(comment.clone());
    }
    check_feed(&metadata, &schema)?;
    let changed = metadata != *base.metadata();
    Ok(Target { protocol, metadata: changed.then_some(metadata) })
}

fn with_comments(mut schema: DeltaSchema, plan: &duckrun_core::WritePlan) -> Result<DeltaSchema> {
    for (column, comment) in &plan.metadata.column_comments {
        match schema.fields.iter_mut().find(|f| f.name == *column) {
            Some(field) => field.set_comment(comment),
            None => {
                return Err(Error::invalid(format!("a comment names the column {column:?}, which the table lacks")));
            }
        }
    }
    Ok(schema)
}

/// The commit's bytes and its figures.
async fn render(
    cx: &RunContext,
    base: Option<&DeltaSnapshot>,
    target: &Target,
    intent: &Intent,
    replaced: Option<&Replaced>,
    read: Option<u64>,
) -> Result<(Rendered, WriteMetrics)> {
    let removed = match base {
        Some(_) if replaced.is_some() => replaced.map(Replaced::files).unwrap_or_default(),
        Some(base) if !intent.removed.is_empty() => named(base, &intent.removed).await?,
        _ => Vec::new(),
    };
    let mut metrics = WriteMetrics::default();
    metrics.rows_inserted = intent.staged.rows();
    metrics.rows_deleted = removed.iter().map(crate::snapshot::LiveFile::live_rows).sum();
    if let Some(counts) = &intent.counts {
        metrics.rows_inserted = counts.inserted;
        metrics.rows_updated = counts.updated;
        metrics.rows_deleted = counts.deleted;
        metrics.rows_copied = counts.copied;
    }
    metrics.files_added = intent.staged.files.len() as u64;
    metrics.bytes_added = intent.staged.bytes();
    metrics.files_removed = removed.len() as u64;
    metrics.bytes_removed = removed.iter().map(|f| f.size).sum();
    let rendered =
        render::render(cx, base, target.protocol.as_ref(), target.metadata.as_ref(), &removed, intent, read, &metrics)?;
    Ok((rendered, metrics))
}

/// The live files of these paths.
async fn named(base: &DeltaSnapshot, paths: &[String]) -> Result<Vec<LiveFile>> {
    let wanted: std::collections::HashSet<&str> = paths.iter().map(String::as_str).collect();
    let mut files = base.live_files().await?;
    files.retain(|f| wanted.contains(f.path.as_str()));
    match files.len() == wanted.len() {
        true => Ok(files),
        false => Err(Error::internal("a file that is to be removed is not in the snapshot that was read")),
    }
}

/// Puts a commit that was made elsewhere at exactly this version, and finds out what became of it. The bytes carry the run's id.
pub(crate) async fn settle_bytes(
    cx: &RunContext,
    location: &Location,
    version: u64,
    bytes: Bytes,
    sync: bool,
) -> Result<Fate> {
    Ok(settle(cx, location, version, &Rendered(bytes), sync).await?.fate)
}

/// The outcome of a commit whose version somebody else has taken, for a write that any commit refuses.
pub(crate) async fn conflict_after(
    location: &Location,
    read: u64,
    transaction: Option<&AppTransaction>,
) -> Result<CommitOutcome> {
    let newest = history::list(location, Some(read + 1)).await?.newest().unwrap_or(read + 1).max(read + 1);
    for version in read + 1..=newest {
        let (Some(transaction), Some(bytes)) = (transaction, history::read_commit(location, version).await?) else {
            continue;
        };
        if let Some(applied) = CommitSummary::parse(version, &bytes)?.app_version(&transaction.app_id)
            && applied >= transaction.version
        {
            return Ok(CommitOutcome::NothingToDo(Nothing::AlreadyApplied { version: applied }));
        }
    }
    Ok(conflict(Some(read), read + 1, "the table was changed since it was read"))
}

/// Whose commit a version of the log is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Holder {
    /// There is none.
    Nobody,
    /// This run's, by its id.
    Us,
    /// Somebody else's.
    Other,
}

/// Looks whose commit a version is, and what it says if it is somebody else's: the proof that staged files may (or must not) be
/// removed.
async fn holder(location: &Location, version: u64, id: duckrun_core::RunId) -> Result<(Holder, Option<Bytes>)> {
    let bytes = history::read_commit(location, version).await?;
    Ok(match &bytes {
        Some(bytes) if CommitSummary::parse(version, bytes)?.is_of(id) => (Holder::Us, None),
        Some(_) => (Holder::Other, bytes),
        None => (Holder::Nobody, None),
    })
}
