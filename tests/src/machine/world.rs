//! A real table and its model, step by step.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use chrono::{DateTime, Utc};
use duckrun::core::maintenance::Action;
use duckrun::core::{Clock, FILE_INDEX, ROW_NUMBER, RelationName};
use duckrun::memory::{EffectiveLimit, Job, MemorySettings};
use duckrun::{
    At, CommitOutcome, DefaultPolicy, Engine, EngineSession, FileOptions, MaintainReport, PolicySettings, Query,
    Relation, Report, RunContext, Session, Snapshot, TableStore,
};

use super::apply::{apply, history, judge, judge_error, run};
use super::shape::Shape;
use super::step::{ACTORS, How, Step, Upkeep, Winner, Write, joins_floats};
use super::violation::Violation;
use super::{Failure, MachineStore};
use crate::generate::{arrow, delete_rows_of, sql};
use crate::model::{Column, Rows, Table, Value};
use crate::{Interleaved, Tally, log_versions, own_governor};

const TABLE: &str = "a.t";

/// A clock that goes on when it is told to: the time of a history's versions is then known.
#[derive(Debug)]
struct Told(AtomicI64);

impl Clock for Told {
    fn now(&self) -> DateTime<Utc> {
        DateTime::from_timestamp_micros(self.0.load(Ordering::Acquire)).unwrap_or_default()
    }
}

/// A table in a store, what it must hold, and those who work on it.
pub(super) struct World {
    shape: Shape,
    table: Table,
    actors: Vec<Session>,
    janitor: Session,
    reader: Box<dyn EngineSession>,
    clock: Option<Arc<Told>>,
    /// Older versions may be gone, or have lost files.
    kept_from: usize,
    folder: Option<PathBuf>,
    _root: Option<tempfile::TempDir>,
    step: usize,
    pub(super) tally: Tally,
}

/// What another one did during a race.
enum Done {
    Run(Box<Write>, Box<duckrun::Result<Report>>),
    Upkeep(duckrun::Result<MaintainReport>),
}

type Checked = Result<(), Failure>;

fn failed(what: impl std::fmt::Display) -> Failure {
    Violation::other(what).into()
}

impl World {
    /// Creates the table by its first run.
    pub(super) async fn create(shape: &Shape, store: &MachineStore, place: &str) -> Result<Self, Failure> {
        let (root, folder) = match store {
            MachineStore::Local => {
                let root = tempfile::tempdir().map_err(failed)?;
                let folder = root.path().join("a/t");
                (Some(root), Some(folder))
            }
            MachineStore::Store { .. } => (None, None),
        };
        let clock = shape.history.as_ref().map(|_| Arc::new(Told(AtomicI64::new(1_735_689_600_000_000))));
        let memory = MemorySettings { threads: Some(1), writers: Some(1), ..MemorySettings::with_limit(2 << 30) };
        let open = || {
            let open = match (&root, store) {
                (Some(root), _) => Session::open(root.path()),
                (None, MachineStore::Store { url, store, prefix }) => {
                    let mut url = url.clone();
                    if let Ok(mut segments) = url.path_segments_mut() {
                        segments.pop_if_empty().push(place);
                    }
                    Session::open_in(url, store.clone(), prefix.clone().join(place))
                }
                (None, MachineStore::Local) => Session::open(std::env::temp_dir()),
            };
            // Each actor is a process of its own.
            open.writable().memory(memory.clone()).governor(own_governor())
        };
        let mut actors = Vec::new();
        for actor in 0..ACTORS {
            let mut builder = open();
            if let Some(clock) = &clock {
                builder = builder.clock(clock.clone());
            }
            // One of them merges small files after its runs, much sooner than by default.
            let mut settings = PolicySettings::default();
            (settings.max_small_files, settings.min_bin_files) = (5, 2);
            let policy = DefaultPolicy::new(settings).map_err(failed)?;
            let maintains = actor + 1 == ACTORS && clock.is_none();
            actors.push(builder.maintenance(maintains).policy(policy).await.map_err(failed)?);
        }
        let janitor = open().await.map_err(failed)?;
        let plan = duckrun::memory::plan(&EffectiveLimit::explicit(1 << 30, 1), &memory, Job::Write).map_err(failed)?;
        let reader = duckrun::duckdb::DuckDb::in_memory().open(&RunContext::new(plan)).await.map_err(failed)?;
        let mut model = actors[0].model(TABLE).sql(sql::select(&shape.first));
        if shape.history.is_some() {
            let rows = Rows::new(shape.source(), Vec::new());
            model = actors[0].model(TABLE).sql(sql::select(&rows)).strategy(history(shape));
        } else if !shape.partition_by.is_empty() {
            model = model.partition_by(shape.partition_by.clone());
        }
        for (key, value) in &shape.properties {
            model = model.property(key, value);
        }
        let files = FileOptions { row_group_rows: shape.row_group_rows, sync: false, ..FileOptions::default() };
        model.files(files).run().await.and_then(Report::committed).map(drop).map_err(failed)?;
        let world = Self {
            table: Table::new(shape.first.clone()),
            shape: shape.clone(),
            actors,
            janitor,
            reader,
            clock,
            kept_from: 0,
            folder,
            _root: root,
            step: 0,
            tally: Tally { operations: 1, commits: 1, ..Tally::default() },
        };
        world.same_as_model(false).await?;
        Ok(world)
    }

    /// Carries one step out and compares.
    pub(super) async fn take(&mut self, step: &Step) -> Checked {
        self.step += 1;
        if let Some(clock) = &self.clock {
            clock.0.fetch_add(3_600_000_000, Ordering::AcqRel);
        }
        let mut ambiguous = false;
        match step {
            Step::Write(write) if write.fits(self.table.columns()) => {
                ambiguous = joins_floats(write);
                let base = self.table.version();
                let done = run(self.actors[write.actor].model(TABLE), write, &self.shape).run().await;
                self.judged(write, base, None, done)?;
            }
            Step::Race { loser, moment, winners } if loser.fits(self.table.columns()) => {
                ambiguous = joins_floats(loser);
                ambiguous |= winners.iter().any(|w| matches!(w, Winner::Write(w) if joins_floats(w)));
                self.race(loser, *moment, winners).await?;
            }
            Step::Write(_) | Step::Race { .. } => return Ok(()),
            Step::Maintain(upkeep) => self.maintain(*upkeep).await?,
            Step::Vectors(picks) => {
                if !self.vectors(picks).await? {
                    return Ok(());
                }
            }
            Step::Filter { actor, version, condition, of } => {
                let version = self.kept_from + version.index(self.table.version() + 1 - self.kept_from);
                let rows = self.at(version);
                if !of.iter().all(|c| rows.columns.contains(c)) {
                    return Ok(());
                }
                let wanted = rows.filter(condition).map_err(failed)?;
                self.tally.operations += 1;
                let text = sql::expression(condition, "", "", &Rows::new(of.clone(), Vec::new()));
                let query = format!("select {} from {TABLE} where {text}", names(&rows.columns));
                let query = self.actors[*actor].sql(query).at(TABLE, At::Version(version as u64));
                let batches = query.collect().await.map_err(|e| failed(format!("a filtered read: {e}")))?;
                let got = arrow::rows(&rows.columns, &batches).map_err(failed)?;
                Violation::between(&format!("version {version} where {text}"), &got, &wanted)?;
            }
            Step::Travel(index) => {
                self.tally.operations += 1;
                self.older(index.index(self.table.version() + 1)).await?;
            }
        }
        let got = self.same_as_model(ambiguous).await?;
        if ambiguous {
            self.table.settle(got);
        }
        // One older version after each step; all of them at the end.
        self.older((self.step * 7_919) % (self.table.version() + 1)).await
    }

    /// Every version that there is, and the history.
    pub(super) async fn finish(&mut self) -> Checked {
        for version in 0..self.table.version() {
            self.older(version).await?;
        }
        let snapshot = self.snapshot(At::Latest).await.map_err(failed)?;
        let history = snapshot.history().await.map_err(failed)?;
        let versions: Vec<u64> = history.iter().map(|c| c.version).collect();
        let first = versions.first().copied().unwrap_or_default();
        if !versions.iter().copied().eq(first..=self.table.version() as u64) || first > self.kept_from as u64 {
            return Err(failed(format!(
                "the history has the versions {versions:?} of {} and those from {} on are kept",
                self.table.version(),
                self.kept_from
            )));
        }
        Ok(())
    }

    fn at(&self, version: usize) -> Rows {
        self.table.at(version).cloned().unwrap_or_else(|| self.table.rows().clone())
    }

    fn now(&self) -> i64 {
        self.clock.as_ref().map_or(0, |c| c.0.load(Ordering::Acquire))
    }

    /// Versions that maintenance has made hold the same rows.
    fn catch_up(&mut self, version: u64) {
        while (self.table.version() as u64) < version {
            self.table.record(self.table.rows().clone());
            self.tally.commits += 1;
        }
    }

    /// Compares what a run did with the model; `raced` says that others may have committed since `base`.
    fn judged(&mut self, write: &Write, base: usize, raced: Option<bool>, done: duckrun::Result<Report>) -> Checked {
        self.tally.operations += 1;
        let (shape, now) = (self.shape.clone(), self.now());
        let say = |e: String| failed(format!("{:?} at version {base}: {e}", write.how));
        let of_base = |table: &Table, version: usize, n: usize| {
            let mut branch = table.branch(version).unwrap_or_else(|| Table::new(table.rows().clone()));
            apply(&mut branch, write, &shape, n, now)
        };
        let report = match done {
            Ok(report) => report,
            Err(e) => return judge_error(&e, &of_base(&self.table, base, 0)).map_err(say),
        };
        let ends: Vec<CommitOutcome> = match report.windows.is_empty() {
            true => vec![report.outcome.clone()],
            false => report.windows.iter().map(|w| w.outcome.clone()).collect(),
        };
        let maintains = write.actor + 1 == ACTORS && self.clock.is_none();
        for (n, end) in ends.iter().enumerate() {
            match end {
                CommitOutcome::Committed(commit) => {
                    if maintains {
                        self.catch_up(commit.version.saturating_sub(1));
                    }
                    let version = self.table.version() as u64 + 1;
                    let expected = apply(&mut self.table, write, &shape, n, now);
                    judge(end, &expected).map_err(say)?;
                    if commit.version != version {
                        return Err(say(format!("it committed version {}, not {version}", commit.version)));
                    }
                    self.tally.commits += 1;
                }
                CommitOutcome::Conflict { read, found, reason } => {
                    self.tally.conflicts += 1;
                    let Some(metadata_changed) = raced.filter(|_| n == 0) else {
                        return Err(say(format!("a conflict without a race: {report}")));
                    };
                    let newest = self.table.version() as u64;
                    if *read != Some(base as u64) || *found <= base as u64 || *found > newest {
                        return Err(say(format!("read {read:?}, found {found} of {newest}: {reason}")));
                    }
                    if matches!(write.how, How::Append(false)) && !metadata_changed {
                        return Err(say(format!("a blind append was refused: {reason}")));
                    }
                }
                // The answer of a run that commits nothing is true of the version that it has read.
                CommitOutcome::NothingToDo(_) => {
                    let version = if n == 0 { base } else { self.table.version() };
                    judge(end, &of_base(&self.table, version, n)).map_err(say)?;
                }
                other => return Err(say(format!("{other:?}"))),
            }
        }
        if let Some(window) = &report.failed {
            let expected = of_base(&self.table, self.table.version(), ends.len());
            judge_error(&window.error, &expected).map_err(say)?;
        }
        if let Some(maintained) = &report.maintained {
            if let Some(fault) = maintained.faults().next() {
                return Err(say(format!("maintenance: {fault}")));
            }
            self.catch_up(maintained.committed().unwrap_or_default());
        }
        Ok(())
    }

    async fn race(&mut self, loser: &Write, moment: crate::Moment, winners: &[Winner]) -> Checked {
        let base = self.table.version();
        let columns = self.table.columns().to_vec();
        let done: Arc<Mutex<Vec<Done>>> = Arc::default();
        let (seen, shape, keys) = (done.clone(), self.shape.clone(), self.shape.keys.clone());
        let (actors, janitor) = (self.actors.clone(), self.janitor.clone());
        // A winner that no longer fits after another one is found out by its own error, so only one may change the columns.
        let mut planned: Vec<Winner> = Vec::new();
        for winner in winners {
            match winner {
                Winner::Write(w) if !w.fits(&columns) || planned.iter().any(changes_columns) => {}
                other => planned.push(other.clone()),
            }
        }
        let store: Arc<dyn TableStore> =
            Arc::new(self.actors[loser.actor].table(TABLE).map_err(failed)?.store().clone());
        let others = planned.clone();
        let store = Interleaved::new(store, moment, async move {
            for winner in others {
                let end = match winner {
                    Winner::Write(write) => {
                        let report = run(actors[write.actor].model(TABLE), &write, &shape).run().await;
                        Done::Run(write, Box::new(report))
                    }
                    Winner::Compact => Done::Upkeep(janitor.maintain(TABLE).compact().run().await),
                    Winner::ZOrder => Done::Upkeep(janitor.maintain(TABLE).z_order(keys.clone()).run().await),
                };
                seen.lock().unwrap_or_else(PoisonError::into_inner).push(end);
            }
        });
        let model = run(self.actors[loser.actor].model(TABLE), loser, &self.shape).store(store.clone());
        let report = model.run().await;
        let ends = std::mem::take(&mut *done.lock().unwrap_or_else(PoisonError::into_inner));
        for end in ends {
            match end {
                Done::Run(write, report) => {
                    let base = self.table.version();
                    self.judged(&write, base, None, *report)?;
                }
                Done::Upkeep(report) => self.upkept(report)?,
            }
        }
        let metadata_changed = self.table.columns() != columns.as_slice() || planned.iter().any(rewrites_metadata);
        self.judged(loser, base, Some(metadata_changed), report)
    }

    fn upkept(&mut self, report: duckrun::Result<MaintainReport>) -> Checked {
        self.tally.operations += 1;
        let report = report.map_err(failed)?;
        for (_, report) in &report.tables {
            if let Some(fault) = report.faults().next() {
                return Err(failed(format!("maintenance: {fault}")));
            }
            self.catch_up(report.committed().unwrap_or_default());
        }
        Ok(())
    }

    async fn maintain(&mut self, upkeep: Upkeep) -> Checked {
        let maintain = self.janitor.maintain(TABLE);
        let maintain = match upkeep {
            Upkeep::Compact => maintain.compact(),
            Upkeep::ZOrder => maintain.z_order(self.shape.keys.clone()),
            Upkeep::Vacuum => maintain.vacuum(Duration::ZERO).unsafe_retention(),
            Upkeep::Checkpoint => maintain.checkpoint(),
            Upkeep::CleanLog => maintain.action(Action::CleanLog { retention: Duration::ZERO }),
        };
        if matches!(upkeep, Upkeep::Vacuum | Upkeep::CleanLog) {
            self.kept_from = self.table.version();
        }
        let report = maintain.run().await;
        self.upkept(report)?;
        // Markers of a vacuum are versions too.
        let newest = self.snapshot(At::Latest).await.map_err(failed)?.version();
        self.catch_up(newest);
        Ok(())
    }

    /// Deletes rows as another writer would. `false` where that cannot be done: in a store, or when the log's beginning is gone.
    async fn vectors(&mut self, picks: &[proptest::sample::Index]) -> Result<bool, Failure> {
        let Some(folder) = self.folder.clone().filter(|f| log_versions(f).first() == Some(&0)) else {
            return Ok(false);
        };
        let snapshot = self.snapshot(At::Latest).await.map_err(failed)?;
        let mut set = snapshot.files().await.map_err(failed)?;
        set.positions = true;
        let files = set.files.clone();
        let columns = self.table.columns().to_vec();
        let mut wanted = columns.clone();
        wanted.extend([FILE_INDEX, ROW_NUMBER].map(|n| Column::new(n, crate::model::Type::Long)));
        let mut rows = self.select(set, &wanted).await.map_err(failed)?.rows;
        let mut gone: BTreeMap<String, Vec<u64>> = BTreeMap::new();
        for pick in picks.iter().take(rows.len()) {
            let row = rows.swap_remove(pick.index(rows.len()));
            if let [.., Value::Int(file), Value::Int(number)] = row.as_slice() {
                gone.entry(files[*file as usize].path.clone()).or_default().push(*number as u64);
            }
        }
        for file in &files {
            if let (Some(rows), Some(before)) = (gone.get_mut(&file.path), &file.deleted) {
                rows.extend(before.iter());
            }
        }
        gone.values_mut().for_each(|rows| rows.sort_unstable());
        if !delete_rows_of(&folder, |path, _| gone.get(path).cloned().unwrap_or_default()).map_err(failed)? {
            return Ok(false);
        }
        self.tally.operations += 1;
        self.tally.commits += 1;
        rows.iter_mut().for_each(|row| row.truncate(columns.len()));
        self.table.record(Rows::new(columns, rows));
        Ok(true)
    }

    async fn snapshot(&self, at: At) -> duckrun::Result<Arc<dyn Snapshot>> {
        self.janitor.snapshot(TABLE, at).await
    }

    async fn select(&self, set: duckrun::core::FileSet, columns: &[Column]) -> duckrun::Result<Rows> {
        let name = RelationName::bare("machine")?;
        self.reader.register(&name, Relation::Files(set)).await?;
        let query = Query::new(format!("select {} from machine", names(columns)));
        arrow::rows(columns, &self.reader.query(&query).await?.collect().await?)
    }

    /// The newest version is the model's: its number, columns and rows.
    async fn same_as_model(&self, unsigned: bool) -> Result<Rows, Failure> {
        let snapshot = self.snapshot(At::Latest).await.map_err(failed)?;
        let version = self.table.version();
        if snapshot.version() != version as u64 {
            return Err(failed(format!("the table is at version {}, the model at {version}", snapshot.version())));
        }
        let wanted = self.table.rows();
        let schema = snapshot.schema();
        let real: Vec<&str> = schema.fields().iter().map(|f| f.name().as_str()).collect();
        let columns: Vec<&str> = wanted.columns.iter().map(|c| c.name.as_str()).collect();
        if self.shape.history.is_none() && real != columns {
            return Err(failed(format!("the columns are {real:?}, in the model {columns:?}")));
        }
        let set = snapshot.files().await.map_err(failed)?;
        let got = self.select(set, &wanted.columns).await.map_err(failed)?;
        let what = format!("version {version}");
        match unsigned {
            true => Violation::between(&what, &got.unsigned_zeros(), &wanted.unsigned_zeros())?,
            false => Violation::between(&what, &got, wanted)?,
        }
        Ok(got)
    }

    /// An older version reads as it did, or, once files or log entries were cleaned up, not at all.
    async fn older(&self, version: usize) -> Checked {
        let wanted = self.at(version);
        let read = async {
            let snapshot = self.snapshot(At::Version(version as u64)).await?;
            self.select(snapshot.files().await?, &wanted.columns).await
        };
        match read.await {
            Ok(got) => Violation::between(&format!("version {version}, read again"), &got, &wanted)
                .map_err(|v| Failure::from(v.torn())),
            Err(_) if version < self.kept_from => Ok(()),
            Err(e) => Err(failed(format!("version {version} of {}: {e}", self.table.version()))),
        }
    }
}

fn names(columns: &[Column]) -> String {
    columns.iter().map(|c| sql::quoted(&c.name)).collect::<Vec<_>>().join(", ")
}

/// Whether a winner may change the columns.
fn changes_columns(winner: &Winner) -> bool {
    matches!(winner, Winner::Write(w) if matches!(w.how, How::Overwrite(false, _))
        || (w.has_source() && w.change != duckrun::SchemaChange::Ignore))
}

/// Whether a winner repeats the metadata, perhaps with other properties.
fn rewrites_metadata(winner: &Winner) -> bool {
    changes_columns(winner) || matches!(winner, Winner::Write(w) if matches!(w.how, How::Overwrite(..)))
}
