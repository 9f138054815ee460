//! Runs dropped at their await points: the old table or the new one, usable, with nothing but reclaimable litter, and DuckDB interrupted.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use duckrun::arrow::array::{ArrayRef, Int64Array, RecordBatch};
use duckrun::{At, BatchStream, Relation, Resolved, Result, Session, Source, SourceContext};
use duckrun_testkit::cancel::{Dropped, after, at_every_await};
use duckrun_testkit::work::{
    End, Features, Kind, Mix, Numbers, Operation, Place, Root, Row, compare, create, read, run, vacuumed,
};
use object_store::memory::InMemory;

/// A table of two appends, and the rows that it holds.
async fn prepare(root: &Root) -> Vec<Row> {
    let session = root.session().await.unwrap();
    create(&session, Features::default().forgets(true)).await.unwrap();
    let (mut rows, mut numbers) = (Vec::new(), Numbers::new(1));
    for number in 1..=2 {
        let append = Operation::choose(Mix::Only(Kind::Append), number, &rows, &mut numbers);
        rows = append.apply(&rows);
        assert_eq!(run(&session, 0, &append).await, End::Committed);
    }
    rows
}

/// After a drop: old or new, then usable; what was dropped may still be finishing a commit that was sent.
async fn check(root: &Root, before: &[Row], operation: &Operation, what: &str, sweep: bool) {
    let after = operation.apply(before);
    let session = root.session().maintenance(false).await.unwrap();
    let (_, mut rows) = read(&session, At::Latest).await.unwrap();
    let rows = rows.remove(&0).unwrap_or_default();
    assert!(rows == before || rows == after, "{what}: {rows:?} is neither {before:?} nor {after:?}");
    if !sweep {
        return;
    }
    let next = Operation::choose(Mix::Only(Kind::Append), 4, &[], &mut Numbers::new(9));
    assert_eq!(run(&session, 0, &next).await, End::Committed, "{what}");
    let (_, mut now) = read(&session, At::Latest).await.unwrap();
    let now = now.remove(&0).unwrap_or_default();
    // A commit that was sent before the drop is either there or not; the append joins whichever it is.
    assert!(
        [before, &after].into_iter().any(|old| compare(&next.apply(old), &now).is_ok()),
        "{what}: {now:?} after {rows:?}"
    );
    let mut wrong = vacuumed(root).await.unwrap();
    for _ in 0..40 {
        // A blocking task may still be closing its file.
        if wrong.is_empty() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
        wrong = vacuumed(root).await.unwrap();
    }
    assert_eq!(wrong, Vec::<String>::new(), "{what}");
}

fn operation(kind: Kind, before: &[Row]) -> Operation {
    let operation = Operation::choose(Mix::Only(kind), 3, before, &mut Numbers::new(kind as u64));
    assert_eq!(operation.kind, kind);
    operation
}

const KINDS: [Kind; 9] = [
    Kind::Append,
    Kind::SafeAppend,
    Kind::Insert,
    Kind::Merge,
    Kind::DeleteInsert,
    Kind::Replace,
    Kind::Overwrite,
    Kind::Delete,
    Kind::Update,
];

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let (from, to) = (entry.as_ref().unwrap().path(), to.join(entry.unwrap().file_name()));
        if from.is_dir() {
            copy(&from, &to);
        } else {
            std::fs::copy(&from, &to).unwrap();
        }
    }
}

/// Every strategy on a local table. Every fourth await point, from another one on for each strategy: together they meet all.
#[tokio::test(flavor = "multi_thread")]
async fn every_strategy_on_the_local_disk() {
    const STRIDE: usize = 4;
    let prepared = tempfile::tempdir().unwrap();
    let before = prepare(&Place::Local(prepared.path().to_owned()).open().unwrap()).await;
    let mut drops = 0;
    for (nth, kind) in KINDS.into_iter().enumerate() {
        let operation = operation(kind, &before);
        drops += at_every_await(
            (1 + nth % STRIDE..).step_by(STRIDE),
            async || {
                let folder = tempfile::tempdir().unwrap();
                copy(prepared.path(), folder.path());
                let root = Place::Local(folder.path().to_owned()).open().unwrap();
                (folder, root)
            },
            async |(_, root): &(tempfile::TempDir, Root)| {
                let session = root.session().await.unwrap();
                run(&session, 0, &operation).await
            },
            async |(_folder, root), dropped| {
                let what = format!("{kind:?} {dropped:?}");
                if let Dropped::Completed(end) = &dropped {
                    assert!(matches!(end, End::Committed | End::Nothing), "{what}");
                }
                let sweep = !matches!(dropped, Dropped::After(n) if n / STRIDE % 2 == nth % 2);
                check(&root, &before, &operation, &what, sweep).await;
            },
        )
        .await;
    }
    println!("{drops} drops on the local disk");
    assert!(drops > 40, "{drops}");
}

/// One strategy over an object store, at every await point.
#[tokio::test(flavor = "multi_thread")]
async fn a_merge_over_an_object_store() {
    let prepared = Arc::new(InMemory::new());
    let before = prepare(&Root::within(prepared.clone())).await;
    let drops = at_every_await(
        1..,
        async || Root::within(Arc::new(prepared.fork())),
        async |root: &Root| {
            let session = root.session().await.unwrap();
            run(&session, 0, &operation(Kind::Merge, &before)).await
        },
        async |root, dropped| {
            let sweep = !matches!(dropped, Dropped::After(n) if n % 4 != 0);
            check(&root, &before, &operation(Kind::Merge, &before), &format!("{dropped:?}"), sweep).await;
        },
    )
    .await;
    println!("{drops} drops over an object store");
    assert!(drops > 10, "{drops}");
}

/// A source without an end, which says when nobody pulls it any more.
#[derive(Debug, Clone, Default)]
struct Endless(Arc<AtomicBool>);

struct Pulled(Arc<AtomicBool>);

impl Drop for Pulled {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

#[async_trait::async_trait]
impl Source for Endless {
    fn describe(&self) -> String {
        "rows without an end".into()
    }

    async fn resolve(&self, _: &SourceContext<'_>) -> Result<Resolved> {
        let column: ArrayRef = Arc::new(Int64Array::from_iter_values(0..1024));
        let batch = RecordBatch::try_from_iter([("id", column)]).unwrap();
        let pulled = Pulled(self.0.clone());
        let rows = futures::stream::repeat_with({
            let batch = batch.clone();
            move || {
                let _ = &pulled;
                Ok(batch.clone())
            }
        });
        Ok(Relation::Stream(BatchStream::new(batch.schema(), rows)).into())
    }
}

/// The run would never end, and neither would DuckDB: what it reads is dropped soon after the run is.
#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_run_interrupts_duckdb() {
    let root = Root::within(Arc::new(InMemory::new()));
    let session: Session = root.session().await.unwrap();
    // An aggregate: DuckDB pulls and pulls, and hands nothing on in between.
    let sql = "select 0::bigint as writer, count(*) as id, 0::bigint as op, sum(id)::bigint as val from rows";
    let mut interrupted = 0;
    for polls in [1, 3, 5, 8, 12, 20] {
        let source = Endless::default();
        let model = session.model("a.t").source("rows", source.clone()).sql(sql);
        let dropped = tokio::time::timeout(Duration::from_millis(600), after(polls, model.run())).await;
        assert!(!matches!(dropped, Ok(Dropped::Completed(_))), "a run without an end has ended");
        // This source's own handle and the model's are gone; the stream goes when DuckDB lets go of it.
        let resolved = Arc::strong_count(&source.0) > 1 || source.0.load(Ordering::SeqCst);
        let since = Instant::now();
        while resolved && !source.0.load(Ordering::SeqCst) {
            assert!(since.elapsed() < Duration::from_secs(10), "DuckDB goes on after {polls} polls");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        interrupted += usize::from(resolved);
    }
    assert!(interrupted > 0, "no run got as far as DuckDB");
    assert!(session.snapshot("a.t", At::Latest).await.is_err());
    // And the session's memory is free again.
    session.model("a.t").sql("select 1 as n").run().await.unwrap().committed().map(drop).unwrap();
}
