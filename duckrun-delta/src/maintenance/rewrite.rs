//! Compaction and z-order: files of some partitions written again with the same rows.
//!
//! Invariants:
//! - as many rows are written as the inputs' footers and deletion vectors say, or nothing is committed;
//! - rows of different files are not mixed by a compaction: each file's rows stay together and in their order, files follow each
//!   other by age;
//! - what is committed was live all the while ([`upkeep`]); a plan whose inputs went is made again, a few times.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use duckrun_core::maintenance::{Action, Applied, MaintenanceOptions};
use duckrun_core::{
    At, BatchStream, Error, ErrorKind, FileOptions, Phase, Progress, Result, RunContext, Snapshot as _, Staged,
    TableStore as _, WriteSpec,
};
use futures::{StreamExt, TryStreamExt};

use super::properties::Properties;
use super::replay::{Live, replay};
use super::{logical_name, zorder};
use crate::commit::{Kept, Upkeep, upkeep};
use crate::scan::{OpenFile, TableShape};
use crate::snapshot::{DeltaSnapshot, LiveFile};
use crate::store::{DeltaStore, physical_columns};
use crate::write::{self, Target};

/// How often a plan is made whose inputs others have taken meanwhile.
const MAX_PLANS: usize = 3;

/// A commit takes partitions until one of these is reached: what a conflict can waste.
const COMMIT_PARTITIONS: usize = 64;
const COMMIT_BYTES: u64 = 4 << 30;

/// Files opened ahead of the one that is read.
const OPEN_AHEAD: usize = 8;

/// Rows decoded at a time.
pub(super) const BATCH_ROWS: usize = 8192;

/// Partition values by column.
type Key = BTreeMap<String, Option<String>>;

/// What is to be done with the files of a partition.
#[derive(Debug, Clone, Copy)]
enum Purpose<'a> {
    /// The small ones are merged.
    Compact,
    /// All of them are ordered.
    Order(&'a [String]),
}

/// One partition's files, oldest first.
#[derive(Debug)]
struct Group {
    key: Key,
    files: Vec<LiveFile>,
}

impl Group {
    fn bytes(&self) -> u64 {
        self.files.iter().map(|f| f.size).sum()
    }
}

/// Merges the small files of these partitions, of all where there are none.
pub(super) async fn compact(
    cx: &RunContext,
    store: &DeltaStore,
    options: &MaintenanceOptions,
    action: &Action,
    partitions: &[Key],
) -> Result<Applied> {
    run(cx, store, options, action, partitions, Purpose::Compact).await
}

/// Orders these partitions along a space-filling curve over the columns.
pub(super) async fn order(
    cx: &RunContext,
    store: &DeltaStore,
    options: &MaintenanceOptions,
    action: &Action,
    columns: &[String],
    partitions: &[Key],
) -> Result<Applied> {
    run(cx, store, options, action, partitions, Purpose::Order(columns)).await
}

async fn run(
    cx: &RunContext,
    store: &DeltaStore,
    options: &MaintenanceOptions,
    action: &Action,
    partitions: &[Key],
    purpose: Purpose<'_>,
) -> Result<Applied> {
    let mut applied = Applied::done(action.clone());
    let mut done: BTreeSet<Key> = BTreeSet::new();
    let mut why = String::new();
    'plans: for _ in 0..MAX_PLANS {
        let job = Job::new(cx, store, options, purpose).await?;
        let groups = job.groups(partitions, &done).await?;
        if groups.is_empty() {
            why = "there is nothing to merge".to_owned();
            break;
        }
        for groups in commits(groups) {
            match job.commit(&groups, &mut applied).await? {
                None => done.extend(groups.into_iter().map(|g| g.key)),
                Some(reason) => {
                    tracing::info!(
                        table = store.location(),
                        reason,
                        "a maintenance plan was overtaken; planning again"
                    );
                    why = format!("others were faster: {reason}");
                    continue 'plans;
                }
            }
        }
        why.clear();
        break;
    }
    if applied.version.is_none() {
        return Ok(Applied::skipped(action.clone(), why));
    }
    Ok(applied)
}

/// The partitions of one commit each.
fn commits(groups: Vec<Group>) -> Vec<Vec<Group>> {
    let mut commits: Vec<Vec<Group>> = Vec::new();
    let mut bytes = 0;
    for group in groups {
        bytes += group.bytes();
        match commits.last_mut() {
            Some(last) if last.len() < COMMIT_PARTITIONS && bytes <= COMMIT_BYTES => last.push(group),
            _ => {
                bytes = group.bytes();
                commits.push(vec![group]);
            }
        }
    }
    commits
}

/// One plan at one version.
struct Job<'a> {
    cx: &'a RunContext,
    store: &'a DeltaStore,
    options: &'a MaintenanceOptions,
    purpose: Purpose<'a>,
    snapshot: DeltaSnapshot,
    shape: TableShape,
    spec: WriteSpec,
    target: Target,
}

impl<'a> Job<'a> {
    async fn new(
        cx: &'a RunContext,
        store: &'a DeltaStore,
        options: &'a MaintenanceOptions,
        purpose: Purpose<'a>,
    ) -> Result<Self> {
        let location = store.table_location();
        let missing = || Error::new(ErrorKind::NotFound, format!("there is no table at {location}"));
        let snapshot = store.open(At::Latest).await?.ok_or_else(missing)?;
        snapshot.protocol().check_rewritable()?;
        let target_file_size =
            Properties::of(snapshot.metadata())?.target_file_size.unwrap_or(options.files.target_file_size).max(1);
        let files = FileOptions { target_file_size, ..options.files.clone() };
        let partition_columns = snapshot.partition_columns().to_vec();
        let spec = WriteSpec::new(snapshot.schema(), partition_columns, files, snapshot.properties());
        let target = Target {
            store: location.store().clone(),
            local: location.local_path().map(ToOwned::to_owned),
            columns: physical_columns(Some(&snapshot), &spec)?,
        };
        let shape = TableShape::of(&snapshot)?;
        if let Purpose::Order(columns) = purpose {
            zorder::check(&snapshot, columns)?;
        }
        Ok(Self { cx, store, options, purpose, snapshot, shape, spec, target })
    }

    /// What is worth doing in the partitions that were asked for.
    async fn groups(&self, partitions: &[Key], done: &BTreeSet<Key>) -> Result<Vec<Group>> {
        let mut by_key: BTreeMap<Key, Vec<Live>> = BTreeMap::new();
        for file in replay(&self.snapshot).await?.live {
            by_key.entry(file.partition_values.clone()).or_default().push(file);
        }
        let logical = |key: &Key| -> Key {
            key.iter().map(|(column, value)| (logical_name(&self.snapshot, column), value.clone())).collect()
        };
        let asked = |key: &Key| partitions.is_empty() || partitions.contains(&logical(key));
        let small = |size: u64| size < self.spec.files.target_file_size.div_ceil(2);
        let mut groups = Vec::new();
        for (key, mut files) in by_key {
            if done.contains(&key) || !asked(&key) {
                continue;
            }
            files.sort_by(|a, b| (a.modified, &a.path).cmp(&(b.modified, &b.path)));
            let worth = match self.purpose {
                Purpose::Compact => {
                    files.retain(|f| small(f.size));
                    files.len() > 1
                }
                Purpose::Order(_) => !files.is_empty(),
            };
            if worth {
                groups.push(Group { key, files: files.into_iter().map(live_file).collect() });
            }
        }
        Ok(groups)
    }

    /// Rewrites and commits some partitions. `Some` says why it was given up.
    async fn commit(&self, groups: &[Group], applied: &mut Applied) -> Result<Option<String>> {
        let read = Arc::new(AtomicU64::new(0));
        let cx = self.reporting(&read, groups.iter().map(Group::bytes).sum());
        let mut staged = Staged::default();
        for group in groups {
            match self.rewrite(&cx, group, &read).await {
                Ok(files) => staged.files.extend(files.files),
                Err(e) => {
                    self.discard(&staged).await;
                    return Err(e);
                }
            }
        }
        let removed: Vec<LiveFile> = groups.iter().flat_map(|g| g.files.clone()).collect();
        let plan = Upkeep {
            operation: "OPTIMIZE",
            parameters: self.parameters(),
            metrics: metrics(&removed, &staged),
            removed,
            added: staged.files,
            guard: self.options.guard_foreign_writers,
            vacuumed: None,
            sync: self.options.files.sync,
        };
        // An id of its own, by which a lost answer is settled.
        let outcome = upkeep(&self.cx.next_attempt(), self.snapshot.location(), &self.snapshot, &plan).await;
        let known = !outcome.as_ref().is_err_and(|e| e.kind() == ErrorKind::CommitUnknown);
        let bytes_removed = plan.removed.iter().map(|f| f.size).sum::<u64>();
        let files_removed = plan.removed.len() as u64;
        let staged = Staged::new(plan.added);
        match outcome {
            Ok(Kept::Committed(version)) => {
                applied.version = Some(version);
                applied.files_removed += files_removed;
                applied.bytes_removed += bytes_removed;
                applied.files_added += staged.files.len() as u64;
                applied.bytes_added += staged.bytes();
                Ok(None)
            }
            Ok(Kept::GivenUp(why)) => {
                self.discard(&staged).await;
                Ok(Some(why))
            }
            Err(e) => {
                // While nobody knows whether the commit names them, files stay.
                if known {
                    self.discard(&staged).await;
                }
                Err(e)
            }
        }
    }

    /// Writes one partition's rows to new files.
    async fn rewrite(&self, cx: &RunContext, group: &Group, read: &Arc<AtomicU64>) -> Result<Staged> {
        let expected = Arc::new(AtomicU64::new(0));
        let rows = match self.purpose {
            Purpose::Compact => {
                let columns: Vec<usize> = (0..self.spec.schema.fields().len()).collect();
                self.rows(cx, group, columns, Some(&expected), Some(read))
            }
            Purpose::Order(columns) => {
                let positions: Vec<usize> = columns
                    .iter()
                    .map(|c| self.spec.schema.index_of(c))
                    .collect::<Result<_, _>>()
                    .map_err(|e| Error::internal("a column of the z-order has vanished").with_source(e))?;
                let sampled = zorder::sample(self.rows(cx, group, positions.clone(), None, None)).await?;
                let all = (0..self.spec.schema.fields().len()).collect();
                let rows = self.rows(cx, group, all, Some(&expected), Some(read));
                zorder::sorted(cx, sampled, positions, rows).await?
            }
        };
        let mut staged = write::write_files(cx, &self.target, &self.spec, rows).await?;
        let expected = expected.load(Ordering::Relaxed);
        if staged.rows() != expected {
            let text =
                format!("{} rows were written where the files hold {expected}; nothing is committed", staged.rows());
            self.discard(&staged).await;
            return Err(Error::internal(text));
        }
        for file in &mut staged.files {
            // The partition keeps its name to the letter: the same value can be written in several ways.
            file.partition_values.clone_from(&group.key);
        }
        Ok(staged)
    }

    /// The live rows of a partition, file after file. Counts the rows that the footers promise, and the bytes of files that are
    /// through.
    fn rows(
        &self,
        cx: &RunContext,
        group: &Group,
        columns: Vec<usize>,
        expected: Option<&Arc<AtomicU64>>,
        read: Option<&Arc<AtomicU64>>,
    ) -> BatchStream {
        let schema = Arc::new(match self.spec.schema.project(&columns) {
            Ok(schema) => schema,
            // Positions are of this very schema.
            Err(e) => return failed(Error::internal("columns cannot be projected").with_source(e)),
        });
        let (location, shape) = (self.snapshot.location().clone(), self.shape.clone());
        let (cx, expected, read) = (cx.clone(), expected.cloned(), read.cloned());
        let opened = futures::stream::iter(group.files.clone())
            .map(move |file| {
                let (location, shape) = (location.clone(), shape.clone());
                async move { Ok::<_, Error>((OpenFile::open(&location, &shape, &file).await?, file.size)) }
            })
            .buffered(OPEN_AHEAD);
        let batches = opened
            .map_ok(move |(file, size)| {
                if let Some(expected) = &expected {
                    expected.fetch_add(file.rows() - file.deleted().len() as u64, Ordering::Relaxed);
                }
                let read = read.clone();
                let rows = file.stream(&cx, &columns, BATCH_ROWS, false);
                let end = futures::stream::once(async move {
                    if let Some(read) = read {
                        read.fetch_add(size, Ordering::Relaxed);
                    }
                    None
                });
                rows.map(Some).chain(end).filter_map(|batch| async move { batch })
            })
            .try_flatten();
        BatchStream::new(schema, batches)
    }

    /// A context that reports what is written as maintenance, with the share of the bytes that were read.
    fn reporting(&self, read: &Arc<AtomicU64>, total: u64) -> RunContext {
        let (outer, read) = (self.cx.clone(), read.clone());
        self.cx.clone().with_progress(Some(Arc::new(move |p: &Progress| {
            let share = read.load(Ordering::Relaxed) as f64 / total.max(1) as f64;
            outer.report(&Progress::start(Phase::Maintenance).at(p.rows, p.bytes).with_fraction(Some(share)));
        })))
    }

    fn parameters(&self) -> BTreeMap<String, String> {
        let columns = match self.purpose {
            Purpose::Compact => Vec::new(),
            Purpose::Order(columns) => columns.to_vec(),
        };
        BTreeMap::from([
            ("predicate".to_owned(), "[]".to_owned()),
            ("zOrderBy".to_owned(), serde_json::Value::from(columns).to_string()),
            ("targetSize".to_owned(), self.spec.files.target_file_size.to_string()),
        ])
    }

    /// Removing what is not committed is a courtesy: vacuum removes what this cannot.
    async fn discard(&self, staged: &Staged) {
        if let Err(e) = self.store.discard(self.cx, staged).await {
            tracing::warn!(table = self.store.location(), error = %e, "files of a maintenance that was given up are left for vacuum");
        }
    }
}

fn failed(e: Error) -> BatchStream {
    BatchStream::new(Arc::new(arrow::datatypes::Schema::empty()), futures::stream::once(async { Err(e) }))
}

fn live_file(file: Live) -> LiveFile {
    LiveFile {
        path: file.path,
        size: file.size,
        partition_values: file.partition_values,
        stats: None,
        deletion_vector: file.vector,
    }
}

/// The figures, in the words of Spark.
fn metrics(removed: &[LiveFile], staged: &Staged) -> BTreeMap<String, String> {
    let mut sizes: Vec<u64> = staged.files.iter().map(|f| f.size).collect();
    sizes.sort_unstable();
    let at = |percent: usize| sizes.get((sizes.len().saturating_sub(1)) * percent / 100).copied().unwrap_or_default();
    let vectors = removed.iter().filter(|f| f.deletion_vector.is_some()).count() as u64;
    [
        ("numRemovedFiles", removed.len() as u64),
        ("numRemovedBytes", removed.iter().map(|f| f.size).sum()),
        ("numAddedFiles", staged.files.len() as u64),
        ("numAddedBytes", staged.bytes()),
        ("numDeletionVectorsRemoved", vectors),
        ("minFileSize", at(0)),
        ("p25FileSize", at(25)),
        ("p50FileSize", at(50)),
        ("p75FileSize", at(75)),
        ("maxFileSize", at(100)),
    ]
    .map(|(name, n)| (name.to_owned(), n.to_string()))
    .into()
}
