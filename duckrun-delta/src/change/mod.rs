//! Merges, replacements, updates and deletes: the engine decides which rows change, the store rewrites their files.
//!
//! 1. The incoming rows are laid by once and checked ([`incoming`]).
//! 2. Files that cannot hold a row that matters are ruled out; of the others the engine reads the key columns and what the
//!    conditions name, with the position of each row, and joins ([`sql`]).
//! 3. Files that lose every row are removed without being opened; of the others the store gets the changed rows in the order
//!    of their positions, and rewrites. Rows that stay never pass through SQL. New rows go the way of an append.
//! 4. Where the table has a change feed, the rows that changed are written to change files as well ([`feed`]).
//! 5. One commit, which holds only if nobody touched what was read.

mod digest;
pub(crate) mod feed;
mod history;
pub(crate) mod incoming;
mod marks;
mod ranges;
mod replace;
mod sql;
mod unique;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::{Int64Type, Schema};
use duckrun_core::{
    AppTransaction, Check, CommitOutcome, Duplicates, EngineSession, Error, ErrorKind, FileOptions, FileSet, Intent,
    MergePlan, Nothing, Operation, Phase, Progress, Query, ReadSet, Relation, RelationName, Result, RewriteSpec,
    RowCounts, RunContext, Snapshot, Staged, TableStore, Then, Value, When, WriteAction, WriteJob, WritePlan,
    WriteSpec, quote_ident,
};

use self::incoming::{KeyFacts, Rules, count, numbers};
pub(crate) use self::sql::SOURCE;
use self::sql::{CANDIDATES, INSERTS, MATCHES, MergeSql, TARGET};
use crate::executor::{discard, finish};

/// Where one incoming row comes for every so many of the table, or more, most of them are taken to change nothing (an extract of
/// the whole table that is merged every day): the engine then reads the columns that updates set and compares, and only rows
/// that change are put in order and sent to the store. With fewer it is the store that compares, in the row groups that the
/// matches are in, and the engine reads keys only.
const DENSE: u64 = 2;

/// From how many rows on, and with how many of them for each incoming row, the table is worth being filtered before it is joined
/// ([`incoming::filtering`]). With several key columns a filter is a join of its own, which does not pay if every incoming row
/// matches; those of an insert seldom do.
const LARGE: u64 = 1_000_000;
const FEW: u64 = 10;
const FEWER: u64 = 50;

/// One run of a plan that changes rows.
struct Work<'a> {
    cx: &'a RunContext,
    engine: &'a dyn EngineSession,
    store: &'a dyn TableStore,
    at: Option<Arc<dyn Snapshot>>,
    plan: WritePlan,
    query: Query,
    files: FileOptions,
    transaction: Option<AppTransaction>,
    info: BTreeMap<String, String>,
    started: Instant,
}

/// What a change has come to, before the commit.
#[derive(Default)]
struct Done {
    staged: Staged,
    removed: Vec<String>,
    reads: ReadSet,
    counts: RowCounts,
    /// What is recorded of a merge that need not be made again.
    applied: Option<String>,
}

/// Carries out a plan that changes rows.
pub(crate) async fn run(cx: &RunContext, job: WriteJob<'_>) -> Result<CommitOutcome> {
    let WriteJob { engine, store, at, plan, query, files, transaction, info } = job;
    let work = Work { cx, engine, store, at, plan, query, files, transaction, info, started: Instant::now() };
    let action = work.plan.action.clone();
    match &action {
        WriteAction::Merge(merge) => work.merge(merge).await,
        WriteAction::Replace(replace) => work.replace(replace).await,
        other => Err(Error::internal(format!("{other:?} changes no rows"))),
    }
}

impl Work<'_> {
    async fn merge(self, merge: &MergePlan) -> Result<CommitOutcome> {
        self.phase(Phase::Matching);
        let now = "duckrun_now";
        if merge.clauses.iter().any(|c| mentions(&c.then, c.condition.as_ref(), now)) {
            let text = self.cx.now().format("%Y-%m-%d %H:%M:%S%.6f").to_string();
            self.engine.set_variable(now, &Value::Text(text)).await?;
        }
        let mut source_rows = 0;
        if merge.source {
            let mut rules = rules(merge);
            if self.at.is_some() && marks::may_stand_in(merge) {
                // Checked as soon as it is known how: by their keys, or by what they match.
                rules.duplicates = &Duplicates::Allow;
            }
            source_rows = incoming::stage(self.engine, &self.query, &merge.incoming, &rules).await?;
            if source_rows == 0 && self.at.is_some() && !merge.fresh && self.plan.metadata.is_empty() {
                return Ok(CommitOutcome::NothingToDo(Nothing::NoRows));
            }
        }
        let mut done = Done::default();
        done.counts.source = source_rows;
        // A merge counts every row that it takes out; where nothing matches there is none.
        done.counts.deleted = Some(0);
        // No incoming rows, no change: a source that failed to deliver does not count as one that lacks every row. What is left
        // is a change of the table's columns.
        let empty = merge.source && source_rows == 0 && self.at.is_some() && !merge.fresh;
        let changed = if empty { Ok(()) } else { self.change(merge, &mut done).await };
        match changed {
            Ok(()) => {}
            Err(e) => {
                discard(self.cx, self.store, &done.staged).await;
                return Err(e);
            }
        }
        let operation = history::merge(merge, &done, self.started.elapsed());
        self.commit(done, operation, merge.fresh, source_rows == 0).await
    }

    /// Finds, rewrites and adds.
    async fn change(&self, merge: &MergePlan, done: &mut Done) -> Result<()> {
        let existing = match &self.at {
            Some(at) if !merge.fresh => at.schema(),
            _ => Arc::new(Schema::empty()),
        };
        let feed = feed::is_on(self.at.as_deref(), &self.plan);
        let mut sql = MergeSql::new(merge, &self.plan.schema, &existing, &self.plan.partition_columns, feed)?;
        let at = self.at.as_ref().filter(|_| sql.needs_matches());
        let (mut matched, mut before) = (false, None);
        let mut unchecked = self.at.is_some() && marks::may_stand_in(merge);
        if let Some(at) = at {
            let KeyFacts { ranges, distinct } = ranges::of_merge(self.engine, merge, &existing).await?;
            let mut set = at.files_within(&ranges).await?;
            set.positions = true;
            done.reads.ranges = ranges;
            done.reads.files = set.files.iter().map(|f| f.path.clone()).collect();
            tracing::debug!(files = set.files.len(), "files that may hold a match");
            matched = !set.files.is_empty();
            let existing = rows_in(&set);
            let dense = existing.is_some_and(|rows| done.counts.source.saturating_mul(DENSE) >= rows);
            if !dense && digest::is_idempotent(merge) && self.is_made(at, merge, done).await? {
                return Ok(());
            }
            sql.compare = dense && merge.skip_unchanged && sql.comparable();
            sql.marked =
                unchecked && matched && dense && existing.is_some_and(|rows| marks::fit(done.counts.source, rows));
            if unchecked && !sql.marked {
                incoming::check_all(self.engine, &rules(merge), &merge.incoming, done.counts.source).await?;
            }
            unchecked = false;
            let share = if sql.changes_rows() && merge.keys.len() > 1 { FEWER } else { FEW };
            let few = existing.is_some_and(|rows| rows >= LARGE && done.counts.source.saturating_mul(share) <= rows);
            if matched && few && sql.filterable() {
                sql.filter = incoming::filtering(&merge.keys, distinct, done.counts.source);
            }
            if matched {
                let (found, rewritten) = self.match_and_rewrite(merge, &sql, at, set, done).await?;
                matched = found > 0;
                before = rewritten.filter(|_| feed);
            }
        }
        if unchecked {
            incoming::check_all(self.engine, &rules(merge), &merge.incoming, done.counts.source).await?;
        }
        let mut laid_by = false;
        if merge.source
            && before.is_some()
            && let Some(new) = sql.new_rows(matched)?
        {
            // Written twice, to the table and to the feed, so computed once.
            let query = Query::new(new).with_output(incoming::nullable(&self.plan.schema));
            self.engine.materialize(&RelationName::bare(INSERTS)?, &query).await?;
            laid_by = true;
        }
        if merge.source
            && let Some(inserts) = sql.inserts(matched, laid_by)?
        {
            self.phase(Phase::Writing);
            self.check_rows(&inserts).await?;
            self.stage(&Query::new(inserts).with_text_as_is(true), done).await?;
        } else if matched && sql.moves() {
            // An update without incoming rows that moves rows to other partitions.
            if let Some(inserts) = sql.inserts(true, false)? {
                self.stage(&Query::new(inserts).with_text_as_is(true), done).await?;
            }
        }
        match before {
            Some(before) => self.feed(sql.feed(laid_by)?, before, merge.skip_unchanged, done).await,
            None => Ok(()),
        }
    }

    /// Whether the last commit was this merge, with these rows.
    async fn is_made(&self, at: &Arc<dyn Snapshot>, merge: &MergePlan, done: &mut Done) -> Result<bool> {
        let (digest, last) = futures::future::join(digest::of(self.engine, merge), at.last_applied()).await;
        let digest = digest?;
        let last = last.unwrap_or_else(|e| {
            // It only saves work to know.
            tracing::debug!(error = %e, "what the last commit applied is not known");
            None
        });
        let made = last.is_some_and(|last| last == digest) && self.plan.metadata.is_empty();
        if made {
            tracing::debug!("the last commit merged these very rows");
        }
        done.applied = Some(digest);
        Ok(made)
    }

    /// Returns how many matches there are, and the files that a change touches, if one of them was rewritten.
    async fn match_and_rewrite(
        &self,
        merge: &MergePlan,
        sql: &MergeSql<'_>,
        at: &Arc<dyn Snapshot>,
        set: FileSet,
        done: &mut Done,
    ) -> Result<(u64, Option<FileSet>)> {
        let target = RelationName::bare(TARGET)?;
        self.engine.register(&target, Relation::Files(set.clone())).await?;
        let conditions: Vec<(&String, &duckrun_core::RowExpr)> = self
            .plan
            .checks
            .iter()
            .filter_map(|c| match c {
                Check::Holds { name, condition } => Some((name, condition)),
                _ => None,
            })
            .collect();
        let mut checked: Vec<String> = conditions.iter().flat_map(|(_, c)| c.target.iter().cloned()).collect();
        checked.sort_unstable();
        checked.dedup();
        if !merge.clauses.iter().any(|c| matches!(c.then, Then::Update(_))) {
            checked.clear();
        }
        let matches = RelationName::bare(MATCHES)?;
        let mut by_target = rows_in(&set).is_some_and(|rows| rows < done.counts.source);
        if let Some(candidates) = sql.candidates() {
            let query = Query::new(candidates).with_joins_as_written(true).with_text_as_is(true);
            let found = self.engine.materialize(&RelationName::bare(CANDIDATES)?, &query).await?;
            if found == 0 {
                return Ok((0, None));
            }
            by_target = found < done.counts.source;
        }
        let query = Query::new(sql.matches(&checked, by_target)?).with_joins_as_written(true).with_text_as_is(true);
        let found = self.engine.materialize(&matches, &query).await?;
        self.cx.report(&Progress::start(Phase::Matching).at(found, 0));
        if sql.marked {
            let rows: Vec<u64> = set.files.iter().map(|f| f.rows.unwrap_or_default()).collect();
            marks::mark(self.engine, &rules(merge), &rows).await?;
        }
        if found == 0 || !sql.changes_rows() {
            return Ok((found, None));
        }
        if !checked.is_empty() {
            for (name, condition) in conditions {
                let n = count(self.engine, &sql.violations(&checked, &condition.sql)).await?;
                violated(name, n)?;
            }
        }
        let touched = Touched::read(&numbers(self.engine, &sql.touched(), &TOUCHED).await?);
        let (whole, moved) = whole_files(&touched, &set)?;
        for (file, rows) in &whole {
            done.removed.push(set.files[*file].path.clone());
            *done.counts.deleted.get_or_insert(0) += rows;
        }
        let mut before = None;
        if touched.files.len() > whole.len() {
            self.phase(Phase::Writing);
            let without: Vec<i64> = whole.iter().map(|(file, _)| *file as i64).collect();
            let mut query = Query::new(sql.changes(&without)?).with_output(sql.changes_schema()).with_text_as_is(true);
            // Without it several threads hand the sorted rows on as they come, whatever ORDER BY says.
            query.keep_order = true;
            let changes = self.engine.query(&query).await?;
            let spec = RewriteSpec::new(self.spec(), set.files.clone(), merge.skip_unchanged);
            let rewritten = self.store.rewrite(self.cx, at, &spec, changes).await?;
            if !rewritten.removed.is_empty() {
                before = Some(feed::subset(&set, &touched.files.iter().map(|t| t.file).collect::<Vec<_>>()));
            }
            done.staged.files.extend(rewritten.staged.files);
            done.removed.extend(rewritten.removed);
            *done.counts.deleted.get_or_insert(0) += rewritten.rows_deleted.saturating_sub(moved);
            done.counts.updated += rewritten.rows_updated;
            done.counts.copied += rewritten.rows_copied;
        }
        done.counts.updated += moved;
        // A moved row is staged with the new ones; it is none.
        done.counts.inserted = done.counts.inserted.wrapping_sub(moved);
        done.counts.deleted.get_or_insert(0);
        Ok((found, before))
    }

    fn phase(&self, phase: Phase) {
        self.cx.report(&Progress::start(phase));
    }

    fn spec(&self) -> WriteSpec {
        let mut properties = self.at.as_ref().map(|s| s.properties()).unwrap_or_default();
        properties.extend(self.plan.metadata.properties.clone());
        WriteSpec::new(self.plan.schema.clone(), self.plan.partition_columns.clone(), self.files.clone(), properties)
    }

    /// Writes the rows of a query, in the table's columns, to new files.
    async fn stage(&self, query: &Query, done: &mut Done) -> Result<()> {
        let rows = self.engine.query(&query.clone().with_output(incoming::nullable(&self.plan.schema))).await?;
        let staged = self.store.stage(self.cx, self.at.as_ref(), &self.spec(), rows).await?;
        done.counts.inserted = done.counts.inserted.wrapping_add(staged.rows());
        done.staged.files.extend(staged.files);
        Ok(())
    }

    /// Checks rows that are about to be inserted, given as a query over what is laid by.
    async fn check_rows(&self, inserts: &str) -> Result<()> {
        check_relation(self.engine, &self.plan, &format!("({inserts})")).await
    }

    async fn commit(self, done: Done, operation: Operation, fresh: bool, no_rows: bool) -> Result<CommitOutcome> {
        let creates = self.at.is_none() || fresh;
        if done.staged.files.is_empty() && done.removed.is_empty() && !creates && self.plan.metadata.is_empty() {
            let why = if no_rows { Nothing::NoRows } else { Nothing::Unchanged };
            return Ok(CommitOutcome::NothingToDo(why));
        }
        self.cx.report(&Progress::start(Phase::Committing).at(done.staged.rows(), done.staged.bytes()));
        let mut plan = self.plan;
        if creates {
            plan.action = if self.at.is_some() { WriteAction::Overwrite } else { WriteAction::Append };
        }
        let mut intent = Intent::new(plan, done.staged);
        intent.transaction = self.transaction;
        intent.sync = self.files.sync;
        intent.info = self.info;
        intent.applied = done.applied;
        if !creates {
            intent.removed = done.removed;
            intent.reads = done.reads;
            intent.counts = Some(done.counts);
            intent.operation = Some(operation);
        }
        finish(self.cx, self.store, self.at.as_ref(), &intent).await
    }
}

/// What a merge asks of its incoming rows.
fn rules(merge: &MergePlan) -> Rules<'_> {
    Rules { keys: &merge.keys, null_keys: merge.null_keys, duplicates: &merge.duplicates }
}

/// The rows of the files, where the log knows them all.
fn rows_in(set: &FileSet) -> Option<u64> {
    set.files.iter().map(|f| f.rows).sum()
}

/// Whether a clause's texts mention a session variable.
fn mentions(then: &Then, condition: Option<&duckrun_core::RowExpr>, variable: &str) -> bool {
    let assigned = match then {
        Then::Update(a) | Then::Insert(a) => a.as_slice(),
        _ => &[],
    };
    assigned.iter().map(|a| &a.value).chain(condition).any(|e| e.sql.contains(variable))
}

fn violated(constraint: &str, rows: u64) -> Result<()> {
    match rows {
        0 => Ok(()),
        n => Err(Error::new(
            ErrorKind::InvalidData,
            format!("the constraint {constraint:?} of the table does not hold in {n} rows"),
        )),
    }
}

/// Checks all rows of a relation (a name or a parenthesised query) against what the plan asks of written rows.
///
/// # Errors
/// [`ErrorKind::InvalidData`] with the columns or the constraint and the number of rows.
pub(crate) async fn check_relation(engine: &dyn EngineSession, plan: &WritePlan, relation: &str) -> Result<()> {
    for check in &plan.checks {
        match check {
            Check::Unique(columns) => {
                let keys = columns.iter().map(|c| quote_ident(c)).collect::<Vec<_>>().join(", ");
                let sql = format!(
                    "SELECT coalesce(sum(n), 0)::BIGINT AS n FROM (SELECT count(*) AS n FROM {relation} AS target \
                     GROUP BY {keys} HAVING count(*) > 1)"
                );
                let n = count(engine, &sql).await?;
                if n > 0 {
                    return Err(Error::new(
                        ErrorKind::InvalidData,
                        format!(
                            "the contract wants {} to be unique, and {n} rows share their values",
                            columns.join(", ")
                        ),
                    ));
                }
            }
            Check::Holds { name, condition } => {
                let sql = format!(
                    "SELECT count(*)::BIGINT AS n FROM {relation} AS target WHERE ({}) IS NOT TRUE",
                    condition.sql
                );
                violated(name, count(engine, &sql).await?)?;
            }
            other => return Err(Error::unsupported(format!("the check {other:?}"))),
        }
    }
    Ok(())
}

/// The table of the incoming rows of a plan that adds rows and has checks.
pub(crate) const CHECKED: &str = SOURCE;

/// The columns of [`MergeSql::touched`].
const TOUCHED: [&str; 4] = ["f", "updated", "deleted", "moved"];

/// How many rows change in each file.
struct Touched {
    files: Vec<TouchedFile>,
}

struct TouchedFile {
    file: usize,
    updated: u64,
    deleted: u64,
    moved: u64,
}

impl Touched {
    fn read(batch: &RecordBatch) -> Self {
        let column = |i: usize| batch.column(i).as_primitive::<Int64Type>();
        let number = |i: usize, row: usize| column(i).value(row).unsigned_abs();
        let files = (0..batch.num_rows())
            .map(|row| TouchedFile {
                file: number(0, row) as usize,
                updated: number(1, row),
                deleted: number(2, row),
                moved: number(3, row),
            })
            .collect();
        Self { files }
    }
}

/// Files that lose every row, with their rows; and how many rows move to another partition.
fn whole_files(touched: &Touched, set: &FileSet) -> Result<(Vec<(usize, u64)>, u64)> {
    let mut whole = Vec::new();
    for t in &touched.files {
        let file = set.files.get(t.file).ok_or_else(|| Error::internal("a match in a file that was not read"))?;
        let gone = file.deleted.as_ref().map_or(0, |d| d.len() as u64);
        if t.updated == 0 && file.rows.is_some_and(|rows| rows.saturating_sub(gone) == t.deleted) {
            whole.push((t.file, t.deleted));
        }
    }
    Ok((whole, touched.files.iter().map(|t| t.moved).sum()))
}

/// Whether a plan has clauses of a kind.
fn has(merge: &MergePlan, when: When) -> bool {
    merge.clauses(when).next().is_some()
}
