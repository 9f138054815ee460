//! What every `TableStore` must do.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use duckrun::arrow::array::{ArrayRef, Int8Array, Int64Array, RecordBatch, StringArray};
use duckrun::arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use duckrun::core::{
    CHANGE_DELETE, CHANGE_UPDATE, ConflictPolicy, FILE_INDEX, Intent, ROW_CHANGE, ROW_NUMBER, RelationName,
    RewriteSpec, RowCounts, Staged, WriteAction, WritePlan, WriteSpec,
};
use duckrun::duckdb::DuckDb;
use duckrun::{
    AppTransaction, At, BatchStream, CommitOutcome, Engine, Error, ErrorKind, FileOptions, Nothing, Query, Relation,
    Snapshot, TableStore,
};
use futures::FutureExt;

use super::{Conformance, Found, Trouble, broken, context, holds, same};
use crate::generate::arrow;
use crate::model::{Column, Rows, Type, Value};

type Got<T> = Result<T, Trouble>;
type Pinned = Option<Arc<dyn Snapshot>>;

/// Writers of the races.
const WRITERS: i64 = 6;

/// Checks a store. `factory` opens the table of a name, which does not exist at first; two handles of one name are one table.
pub async fn table_store<F>(factory: F) -> Conformance
where
    F: Fn(&str) -> Arc<dyn TableStore>,
{
    let mut report = Conformance::of(format!("table store {}", factory("subject").location()));
    report
        .check("no_table_is_none", "`Ok(None)` means that there is no table here, and only that.", async {
            let store = factory("none");
            holds(store.snapshot(At::Latest).await?.is_none(), "there is a snapshot of a table that was never created")
        })
        .await;
    report
        .check(
            "creates",
            "`commit` changes what readers see, atomically; creation of a table carries a schema.",
            async {
                let store = factory("creates");
                same("the first version", append(&store, None, &[1, 2]).await?, 0)?;
                let snapshot = pinned(&store).await?;
                same("the columns", snapshot.schema().fields().iter().map(|f| f.name().clone()).collect(), names())?;
                same("the rows", ids(&snapshot).await?, vec![1, 2])?;
                same("what another handle sees", ids(&pinned(&factory("creates")).await?).await?, vec![1, 2])
            },
        )
        .await;
    report
        .check(
            "staged_is_unseen",
            "`stage` only ever creates new objects, under names no other run uses; readers do not see them.",
            async {
                let store = factory("staged");
                let one = stage(&store, None, &[1]).await?;
                holds(store.snapshot(At::Latest).await?.is_none(), "staging creates the table")?;
                let other = stage(&store, None, &[2]).await?;
                let paths = |s: &Staged| s.files.iter().map(|f| f.path.clone()).collect::<Vec<_>>();
                holds(!paths(&one).iter().any(|p| paths(&other).contains(p)), "two runs stage one name")?;
                same("the rows that were staged", (one.rows(), other.rows()), (1, 1))?;
                version(&commit(&store, None, plan(true), one).await?)?;
                same("the rows", ids(&pinned(&store).await?).await?, vec![1])
            },
        )
        .await;
    report
        .check("versions_follow", "Put-if-absent on one version.", async {
            let store = factory("versions");
            for n in 0..4 {
                let at = store.snapshot(At::Latest).await?;
                same("the version", append(&store, at, &[n]).await?, n as u64)?;
            }
            same("the rows", ids(&pinned(&store).await?).await?, vec![0, 1, 2, 3])
        })
        .await;
    report
        .check(
            "pinned_stays",
            "A table at one version, immutable: everything read through it is of that version.",
            async {
                let store = factory("pinned");
                append(&store, None, &[1]).await?;
                let old = pinned(&store).await?;
                append(&store, Some(old.clone()), &[2]).await?;
                overwrite(&store, &[9]).await?;
                same("the pinned rows", (old.version(), ids(&old).await?), (0, vec![1]))?;
                for (version, rows) in [(0, vec![1]), (1, vec![1, 2]), (2, vec![9])] {
                    match store.snapshot(At::Version(version)).await? {
                        Some(s) => same("an older version", (s.version(), ids(&s).await?), (version, rows))?,
                        None => return broken(format_args!("version {version} says that there is no table")),
                    }
                }
                Ok(())
            },
        )
        .await;
    report
        .check("missing_version_is_an_error", "Anything else that stands in the way is an error.", async {
            let store = factory("future");
            append(&store, None, &[1]).await?;
            match store.snapshot(At::Version(99)).await {
                Err(_) => Ok(()),
                Ok(None) => broken("a version that does not exist reads as a table that does not exist"),
                Ok(Some(s)) => broken(format_args!("version 99 is version {}", s.version())),
            }
        })
        .await;
    report
        .check(
            "compare_and_swap",
            "Nothing may have been committed since: compare-and-swap on the table as it was read.",
            async {
                let store = factory("swap");
                append(&store, None, &[1]).await?;
                let old = pinned(&store).await?;
                append(&factory("swap"), Some(old.clone()), &[2]).await?;
                let staged = stage(&store, Some(&old), &[3]).await?;
                let mut fenced = plan(false);
                fenced.conflict = ConflictPolicy::CompareAndSwap;
                match commit(&store, Some(&old), fenced, staged).await? {
                    CommitOutcome::Conflict { read: Some(0), found: 1, .. } => {}
                    other => return broken(format_args!("{other:?} where version 1 was in the way")),
                }
                same("the rows", ids(&pinned(&store).await?).await?, vec![1, 2])
            },
        )
        .await;
    report
        .check(
            "blind_appends_all_pass",
            "Anything that leaves schema and protocol as they were planned for: concurrent appends all succeed.",
            async {
                let first = factory("blind");
                append(&first, None, &[0]).await?;
                let at = pinned(&first).await?;
                let runs = (1..=WRITERS).map(|n| {
                    let (store, at) = (factory("blind"), Some(at.clone()));
                    async move { append(&store, at, &[n]).await }
                });
                let mut versions = Vec::new();
                for version in futures::future::join_all(runs).await {
                    versions.push(version?);
                }
                versions.sort_unstable();
                same("the versions", versions, (1..=WRITERS as u64).collect())?;
                same("the rows", ids(&pinned(&first).await?).await?, (0..=WRITERS).collect())
            },
        )
        .await;
    report
        .check("one_first_run_wins", "Put-if-absent on one version.", async {
            let runs = (0..WRITERS).map(|n| {
                let store = factory("first");
                async move {
                    let staged = stage(&store, None, &[n]).await?;
                    let mut fenced = plan(true);
                    fenced.conflict = ConflictPolicy::CompareAndSwap;
                    Ok::<_, Trouble>((n, commit(&store, None, fenced, staged).await?))
                }
            });
            let mut winners = Vec::new();
            for end in futures::future::join_all(runs).await {
                match end? {
                    (n, CommitOutcome::Committed(_)) => winners.push(n),
                    (_, CommitOutcome::Conflict { read: None, .. }) => {}
                    (n, other) => return broken(format_args!("writer {n}: {other:?}")),
                }
            }
            same("how many won", winners.len(), 1)?;
            same("the rows", ids(&pinned(&factory("first")).await?).await?, winners)
        })
        .await;
    report
        .check("overwrite_replaces", "An overwrite removes every live file without naming them.", async {
            let store = factory("overwrite");
            append(&store, None, &[1, 2]).await?;
            append(&store, store.snapshot(At::Latest).await?, &[3]).await?;
            overwrite(&store, &[7]).await?;
            same("the rows", ids(&pinned(&store).await?).await?, vec![7])
        })
        .await;
    report
        .check(
            "transactions_replay",
            "The caller's transaction, checked at the snapshot and in every commit since.",
            async {
                let store = factory("transaction");
                append(&store, None, &[0]).await?;
                let old = pinned(&store).await?;
                let intent = |staged| {
                    let mut intent = Intent::new(plan(false), staged);
                    intent.transaction = Some(AppTransaction::new("app", 5));
                    intent
                };
                let cx = context()?;
                let done = store.commit(&cx, Some(&old), &intent(stage(&store, Some(&old), &[1]).await?)).await?;
                holds(matches!(done, CommitOutcome::Committed(_)), format_args!("{done:?}"))?;
                let new = pinned(&store).await?;
                same("the application's version", new.app_version("app").await?, Some(5))?;
                same("that of another one", new.app_version("other").await?, None)?;
                // The stale snapshot does not know of it, the commits since do.
                for at in [&new, &old] {
                    let staged = stage(&store, Some(at), &[1]).await?;
                    let again = store.commit(&context()?, Some(at), &intent(staged.clone())).await?;
                    let known = CommitOutcome::NothingToDo(Nothing::AlreadyApplied { version: 5 });
                    same("a replay", again, known)?;
                    store.discard(&cx, &staged).await?;
                }
                same("the rows", ids(&pinned(&store).await?).await?, vec![0, 1])
            },
        )
        .await;
    report
        .check(
            "records_are_read_back",
            "What the caller wants recorded with the commit; the commits up to this version, oldest first.",
            async {
                let store = factory("history");
                append(&store, None, &[0]).await?;
                let at = pinned(&store).await?;
                let mut intent = Intent::new(plan(false), stage(&store, Some(&at), &[1]).await?);
                intent.info = BTreeMap::from([("key".to_owned(), "it's \"recorded\"".to_owned())]);
                version(&store.commit(&context()?, Some(&at), &intent).await?)?;
                let history = match pinned(&store).await?.history().await {
                    Ok(history) => history,
                    Err(e) if e.kind() == ErrorKind::Unsupported => return Err(Trouble::Lacking(e.to_string())),
                    Err(e) => return Err(e.into()),
                };
                same("the versions", history.iter().map(|c| c.version).collect(), vec![0, 1])?;
                same("what is recorded", history[1].recorded("key"), Some("it's \"recorded\"".to_owned()))
            },
        )
        .await;
    report
        .check(
            "only_the_last_change_is_told",
            "What the last commit that may have changed rows or columns gave as `applied`; `None` where it gave nothing.",
            async {
                let store = factory("applied");
                append(&store, None, &[0]).await?;
                same("what a plain commit applied", pinned(&store).await?.last_applied().await?, None)?;
                let at = pinned(&store).await?;
                let mut intent = Intent::new(plan(false), stage(&store, Some(&at), &[1]).await?);
                intent.applied = Some("a \"digest\"".to_owned());
                version(&store.commit(&context()?, Some(&at), &intent).await?)?;
                let after = pinned(&store).await?;
                let told = after.last_applied().await?;
                // A store that does not know may say so.
                holds(told.is_none() || told == intent.applied, format_args!("{told:?} is told"))?;
                append(&store, Some(after.clone()), &[2]).await?;
                same("after another commit", pinned(&store).await?.last_applied().await?, None)?;
                same("at the version before it", after.last_applied().await?, told)
            },
        )
        .await;
    report
        .check(
            "discard_removes_only_staged",
            "Removes staged files of a run that was refused. Files that are already gone are no error.",
            async {
                let store = factory("discard");
                append(&store, None, &[1]).await?;
                let at = pinned(&store).await?;
                let staged = stage(&store, Some(&at), &[2]).await?;
                for _ in 0..2 {
                    store.discard(&context()?, &staged).await?;
                }
                same("the rows", ids(&pinned(&store).await?).await?, vec![1])
            },
        )
        .await;
    report
        .check(
            "a_broken_stream_stages_nothing",
            "The stream's error is returned; what was written so far is removed.",
            async {
                let store = factory("broken");
                append(&store, None, &[1]).await?;
                let at = pinned(&store).await?;
                let failing = futures::stream::iter([Ok(batch(&[2])), Err(Error::invalid("the query broke off"))]);
                let spec = spec();
                let rows = BatchStream::new(spec.schema.clone(), failing);
                let staged = store.stage(&context()?, Some(&at), &spec, rows).await;
                holds(staged.is_err(), "a stream that fails is staged as if it were whole")?;
                same("the rows", ids(&pinned(&store).await?).await?, vec![1])
            },
        )
        .await;
    report
        .check(
            "a_dropped_stage_changes_nothing",
            "Dropping a future cancels it. Before the commit was sent the table is as it was.",
            async {
                let store = factory("dropped");
                append(&store, None, &[1]).await?;
                let at = pinned(&store).await?;
                let endless = futures::stream::once(async { Ok(batch(&[2])) }).chain_pending();
                let spec = spec();
                let (cx, rows) = (context()?, BatchStream::new(spec.schema.clone(), endless));
                let staging = store.stage(&cx, Some(&at), &spec, rows);
                let ended = tokio::time::timeout(Duration::from_millis(300), staging).await;
                holds(ended.is_err(), "a stream that has not ended is staged")?;
                same("the rows", ids(&pinned(&store).await?).await?, vec![1])?;
                same("the next version", append(&store, Some(at), &[3]).await?, 1)
            },
        )
        .await;
    report
        .check(
            "a_dropped_commit_is_whole",
            "Afterwards the commit is either there or not, and the files stay.",
            async {
                let store = factory("cut");
                append(&store, None, &[1]).await?;
                for polls in 0..6 {
                    let before = pinned(&store).await?;
                    let old = ids(&before).await?;
                    let staged = stage(&store, Some(&before), &[100 + polls, 200 + polls]).await?;
                    let (cx, intent) = (context()?, Intent::new(plan(false), staged));
                    let mut sent = store.commit(&cx, Some(&before), &intent);
                    for _ in 0..polls {
                        if (&mut sent).now_or_never().is_some() {
                            break;
                        }
                        tokio::time::sleep(Duration::from_millis(1)).await;
                    }
                    drop(sent);
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    let after = pinned(&store).await?;
                    let mut whole = old.clone();
                    whole.extend([100 + polls, 200 + polls]);
                    whole.sort_unstable();
                    let got = ids(&after).await?;
                    let right = if after.version() == before.version() { &old } else { &whole };
                    holds(
                        got == *right,
                        format_args!("dropped after {polls} polls: {got:?}, neither {old:?} nor {whole:?}"),
                    )?;
                }
                Ok(())
            },
        )
        .await;
    report.check("rewrites", "Writes files anew with some of their rows changed.", rewrites(&factory)).await;
    report
        .check("one_location", "The location, without secrets.", async {
            let (one, two) = (factory("place"), factory("place"));
            same("the location of another handle", two.location(), one.location())?;
            holds(one.location() != factory("elsewhere").location(), "two tables are at one location")
        })
        .await;
    report
}

/// Three rows: one is updated, one goes, one stays; and who changes the same file meanwhile is refused.
async fn rewrites<F: Fn(&str) -> Arc<dyn TableStore>>(factory: &F) -> Found {
    let store = factory("rewrite");
    append(&store, None, &[1, 2, 3]).await?;
    let at = pinned(&store).await?;
    let set = at.files().await?;
    let (id, deleted) = (position(&set, 1).await?, position(&set, 2).await?);
    let changes = |rows: Vec<(i64, i64, i8)>| {
        let schema: SchemaRef = Arc::new(Schema::new(vec![
            Field::new(FILE_INDEX, DataType::Int64, false),
            Field::new(ROW_NUMBER, DataType::Int64, false),
            Field::new(ROW_CHANGE, DataType::Int8, false),
            Field::new("v", DataType::Utf8, true),
        ]));
        let mut rows = rows;
        rows.sort_unstable();
        let columns: Vec<ArrayRef> = vec![
            Arc::new(Int64Array::from(rows.iter().map(|r| r.0).collect::<Vec<_>>())),
            Arc::new(Int64Array::from(rows.iter().map(|r| r.1).collect::<Vec<_>>())),
            Arc::new(Int8Array::from(rows.iter().map(|r| r.2).collect::<Vec<_>>())),
            Arc::new(StringArray::from(rows.iter().map(|_| "changed").collect::<Vec<_>>())),
        ];
        let batch =
            RecordBatch::try_new(schema.clone(), columns).unwrap_or_else(|_| RecordBatch::new_empty(schema.clone()));
        BatchStream::from_batches(schema, vec![batch])
    };
    let rewrite = RewriteSpec::new(spec(), set.files.clone(), true);
    let wanted = vec![(id.0, id.1, CHANGE_UPDATE), (deleted.0, deleted.1, CHANGE_DELETE)];
    let done = match store.rewrite(&context()?, &at, &rewrite, changes(wanted.clone())).await {
        Ok(done) => done,
        Err(e) if e.kind() == ErrorKind::Unsupported => return Err(Trouble::Lacking(e.to_string())),
        Err(e) => return Err(e.into()),
    };
    same("rows updated, deleted, copied", (done.rows_updated, done.rows_deleted, done.rows_copied), (1, 1, 1))?;
    let stale = store.rewrite(&context()?, &at, &rewrite, changes(wanted)).await?;
    let intent = |staged: Staged, removed: Vec<String>| {
        let mut change = plan(false);
        change.conflict = ConflictPolicy::Serializable;
        let mut intent = Intent::new(change, staged);
        intent.reads.files = removed.iter().cloned().collect();
        intent.removed = removed;
        intent.counts = Some(RowCounts { updated: 1, deleted: Some(1), copied: 1, ..RowCounts::default() });
        intent
    };
    let end = store.commit(&context()?, Some(&at), &intent(done.staged, done.removed)).await?;
    holds(matches!(end, CommitOutcome::Committed(_)), format_args!("{end:?}"))?;
    let rows = read(&pinned(&store).await?).await?;
    let row = |id, v: &str| vec![Value::Int(id), Value::from(v)];
    same("the rows", rows, Rows::new(columns(), vec![row(1, "changed"), row(3, "v3")]))?;
    let late = store.commit(&context()?, Some(&at), &intent(stale.staged, stale.removed)).await?;
    holds(matches!(late, CommitOutcome::Conflict { .. }), format_args!("{late:?} for a file that was replaced"))
}

trait Pending: Sized {
    fn chain_pending(self) -> impl futures::Stream<Item = duckrun::Result<RecordBatch>> + Send + 'static;
}

impl<S: futures::Stream<Item = duckrun::Result<RecordBatch>> + Send + 'static> Pending for S {
    fn chain_pending(self) -> impl futures::Stream<Item = duckrun::Result<RecordBatch>> + Send + 'static {
        futures::StreamExt::chain(self, futures::stream::pending())
    }
}

fn columns() -> Vec<Column> {
    vec![Column::new("id", Type::Long), Column::new("v", Type::Text)]
}

fn names() -> Vec<String> {
    columns().into_iter().map(|c| c.name).collect()
}

fn batch(ids: &[i64]) -> RecordBatch {
    let rows = ids.iter().map(|n| vec![Value::Int(*n), Value::Text(format!("v{n}"))]).collect();
    let rows = Rows::new(columns(), rows);
    // Values of their columns' types always make a batch.
    arrow::batch(&rows).unwrap_or_else(|_| RecordBatch::new_empty(arrow::schema(&rows.columns)))
}

fn spec() -> WriteSpec {
    let files = FileOptions { sync: false, ..FileOptions::default() };
    WriteSpec::new(arrow::schema(&columns()), Vec::new(), files, BTreeMap::new())
}

/// A blind append; the plan of a first run creates the table.
fn plan(first: bool) -> WritePlan {
    let schema = arrow::schema(&columns());
    let mut plan = WritePlan::new("check", WriteAction::Append, schema.clone(), Vec::new(), ConflictPolicy::Blind);
    plan.metadata.schema = first.then_some(schema);
    plan
}

async fn stage(store: &Arc<dyn TableStore>, at: Option<&Arc<dyn Snapshot>>, ids: &[i64]) -> Got<Staged> {
    let (spec, batch) = (spec(), batch(ids));
    Ok(store.stage(&context()?, at, &spec, BatchStream::from_batches(batch.schema(), vec![batch])).await?)
}

async fn commit(
    store: &Arc<dyn TableStore>,
    at: Option<&Arc<dyn Snapshot>>,
    plan: WritePlan,
    staged: Staged,
) -> Got<CommitOutcome> {
    let mut intent = Intent::new(plan, staged);
    intent.sync = false;
    Ok(store.commit(&context()?, at, &intent).await?)
}

fn version(outcome: &CommitOutcome) -> Got<u64> {
    match outcome {
        CommitOutcome::Committed(commit) => Ok(commit.version),
        other => broken(format_args!("not committed: {other:?}")),
    }
}

async fn append(store: &Arc<dyn TableStore>, at: Pinned, ids: &[i64]) -> Got<u64> {
    let staged = stage(store, at.as_ref(), ids).await?;
    version(&commit(store, at.as_ref(), plan(at.is_none()), staged).await?)
}

async fn overwrite(store: &Arc<dyn TableStore>, ids: &[i64]) -> Got<u64> {
    let at = pinned(store).await?;
    let staged = stage(store, Some(&at), ids).await?;
    let mut all = plan(true);
    (all.action, all.conflict) = (WriteAction::Overwrite, ConflictPolicy::CompareAndSwap);
    version(&commit(store, Some(&at), all, staged).await?)
}

async fn pinned(store: &Arc<dyn TableStore>) -> Got<Arc<dyn Snapshot>> {
    match store.snapshot(At::Latest).await? {
        Some(snapshot) => Ok(snapshot),
        None => broken("the table does not exist"),
    }
}

async fn select(set: duckrun::core::FileSet, wanted: &[Column]) -> Got<Rows> {
    let engine = DuckDb::in_memory().open(&context()?).await?;
    engine.register(&RelationName::bare("it")?, Relation::Files(set)).await?;
    let names: Vec<String> = wanted.iter().map(|c| format!("\"{}\"", c.name)).collect();
    let query = Query::new(format!("SELECT {} FROM it", names.join(", ")));
    Ok(arrow::rows(wanted, &engine.query(&query).await?.collect().await?)?)
}

async fn read(snapshot: &Arc<dyn Snapshot>) -> Got<Rows> {
    select(snapshot.files().await?, &columns()).await
}

async fn ids(snapshot: &Arc<dyn Snapshot>) -> Got<Vec<i64>> {
    let mut ids: Vec<i64> = read(snapshot)
        .await?
        .rows
        .into_iter()
        .filter_map(|row| match row.first() {
            Some(Value::Int(n)) => Some(*n),
            _ => None,
        })
        .collect();
    ids.sort_unstable();
    Ok(ids)
}

/// Where the row of an id is: its file and its number.
async fn position(set: &duckrun::core::FileSet, id: i64) -> Got<(i64, i64)> {
    let mut set = set.clone();
    set.positions = true;
    let wanted = ["id", FILE_INDEX, ROW_NUMBER].map(|n| Column::new(n, Type::Long));
    for row in select(set, &wanted).await?.rows {
        if let [Value::Int(n), Value::Int(file), Value::Int(number)] = row.as_slice()
            && *n == id
        {
            return Ok((*file, *number));
        }
    }
    broken(format_args!("there is no row {id}"))
}
