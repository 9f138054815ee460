//! A batch that comes in again: recognised where nothing has changed since, and looked at row by row where anything has.

use std::collections::BTreeMap;
use std::sync::Arc;

use duckrun::{
    Append, CommitOutcome, Delete, ErrorKind, FullSync, Insert, Merge, Nothing, Overwrite, Report, SchemaChange,
    Session, Update,
};
use duckrun_testkit::CountingStore;
use object_store::memory::InMemory;
use object_store::path::Path;
use proptest::prelude::*;
use url::Url;

use crate::merge_properties::check;
use crate::oracle::runtime;
use crate::support::{Lake, rows};

const TABLE: &str = "a.t";
const BATCH: &str = "select i as id, 'new ' || i as v, i::double as x from range(5, 15) t(i)";

async fn lake(store: &CountingStore) -> Session {
    let url = Url::parse("mem://lake/").unwrap();
    let session = Session::open_in(url, Arc::new(store.clone()), Path::default())
        .governor(duckrun_testkit::own_governor())
        .writable()
        .maintenance(false);
    let session = session.await.unwrap();
    put(&session, "select i as id, 'old ' || i as v, null::double as x from range(100) t(i)").await;
    session
}

async fn put(session: &Session, sql: &str) {
    session.model(TABLE).sql(sql).run().await.unwrap().committed().map(drop).unwrap();
}

async fn merge(session: &Session, merge: Merge, sql: &str) -> Report {
    session.model(TABLE).sql(sql).strategy(merge).run().await.unwrap()
}

fn unchanged(report: &Report) -> bool {
    matches!(report.outcome, CommitOutcome::NothingToDo(Nothing::Unchanged))
}

fn data_files_read(store: &CountingStore) -> Vec<String> {
    store.paths().into_iter().filter(|path| path.contains(".parquet") && !path.contains("_delta_log")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_that_comes_in_again_reads_no_file() {
    let store = CountingStore::new(InMemory::new());
    let session = lake(&store).await;
    merge(&session, Merge::on(["id"]), BATCH).await.committed().map(drop).unwrap();
    store.take();
    // In another order, too.
    for sql in [BATCH, &format!("from ({BATCH}) order by id desc")] {
        let again = merge(&session, Merge::on(["id"]), sql).await;
        assert!(unchanged(&again), "{again}");
        assert_eq!(data_files_read(&store), Vec::<String>::new());
    }
    // Files are arranged anew, rows are not touched.
    put(&session, "select i as id from range(1000, 1100) t(i)").await;
    assert!(unchanged(&merge(&session, Merge::on(["id"]), BATCH).await));
    assert!(!data_files_read(&store).is_empty(), "an append may have brought anything");
    let few = "select i as id, 'x' as v from range(99, 1001, 300) t(i)";
    merge(&session, Merge::on(["id"]), few).await.committed().map(drop).unwrap();
    let compacted = session.maintain(TABLE).compact().run().await.unwrap();
    assert!(compacted.is_clean() && compacted.tables[0].1.applied().count() > 0, "{compacted}");
    store.take();
    let again = merge(&session, Merge::on(["id"]), few).await;
    assert!(unchanged(&again), "{again}");
    assert_eq!(data_files_read(&store), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn another_merge_of_the_same_rows_is_looked_at() {
    let store = CountingStore::new(InMemory::new());
    let session = lake(&store).await;
    merge(&session, Merge::on(["id"]).update_columns(["v"]), BATCH).await.committed().map(drop).unwrap();
    let all = merge(&session, Merge::on(["id"]), BATCH).await.committed().unwrap();
    assert_eq!(all.metrics().unwrap().rows_updated, 10, "x was not set before");
    let sync = FullSync::on(["id"]);
    let sync = session.model(TABLE).sql(BATCH).strategy(sync).run().await.unwrap().committed().unwrap();
    assert_eq!(sync.metrics().unwrap().rows_deleted, Some(90));
    // What is not idempotent is done again.
    let count = || Merge::on(["id"]).set("x", "target.x + 1");
    for expected in [6.0, 7.0] {
        merge(&session, count(), "select 5 as id").await.committed().map(drop).unwrap();
        assert_eq!(rows(session.sql("select x from a.t where id = 5")).await, [format!("{expected:.1}")]);
    }
    // The check of the keys comes before anything else.
    let twice = session.model(TABLE).sql("select 5 as id, 'a' as v from range(2)").strategy(Merge::on(["id"]));
    assert_eq!(twice.run().await.unwrap_err().kind(), ErrorKind::InvalidData);
}

/// A digest is taken of what it can be taken of; of other types rows are compared.
#[tokio::test(flavor = "multi_thread")]
async fn nested_columns_come_again() {
    for value in [
        "[i, null]",
        "{'a': i, 'b': [i]}",
        "map {i: 'x'}",
        "[map {i: {'c': i}}]",
        "i::decimal(38, 3)",
        "i::varchar::blob",
    ] {
        let lake = Lake::new().await;
        lake.put(TABLE, format!("select i as id, {value} as v from range(100) t(i)")).await;
        let batch = format!("select id, {value} as v from (select i as id, i + 1 as i from range(5, 15) t(i))");
        merge(&lake.session, Merge::on(["id"]), &batch).await.committed().map(drop).unwrap();
        assert!(unchanged(&merge(&lake.session, Merge::on(["id"]), &batch).await), "{value}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_was_committed_since_is_looked_at() {
    for since in ["update", "delete", "append", "merge", "insert", "column", "overwrite", "plain delta-rs"] {
        let lake = Lake::new().await;
        let session = &lake.session;
        lake.put(TABLE, "select i as id, 'old ' || i as v, null::double as x from range(100) t(i)").await;
        merge(session, Merge::on(["id"]), BATCH).await.committed().map(drop).unwrap();
        let model = |sql: &str| session.model(TABLE).sql(sql);
        let done = match since {
            "update" => session.model(TABLE).strategy(Update::new([("v", "'lost'")]).rows_where("id = 7")).run().await,
            "delete" => session.model(TABLE).strategy(Delete::rows_where("id = 7")).run().await,
            "append" => model("select 7000 as id, 'more' as v").strategy(Append::default()).run().await,
            "merge" => model("select 7 as id, 'lost' as v").strategy(Merge::on(["id"])).run().await,
            "insert" => model("select 7000 as id, 'more' as v").strategy(Insert::on(["id"])).run().await,
            "column" => {
                let wider = model("select 7 as id, 'lost' as v, 1 as y").strategy(Merge::on(["id"]));
                wider.on_schema_change(SchemaChange::AppendNewColumns).run().await
            }
            "overwrite" => {
                model("select 7::bigint as id, 'lost' as v, 0.5::double as x")
                    .strategy(Overwrite::default())
                    .run()
                    .await
            }
            _ => {
                let table = deltalake::open_table(Url::from_directory_path(lake.folder(TABLE)).unwrap()).await.unwrap();
                let filter = deltalake::datafusion::prelude::col("id").eq(deltalake::datafusion::prelude::lit(7i64));
                table.delete().with_predicate(filter).await.unwrap();
                merge(session, Merge::on(["id"]), BATCH).await.committed().map(drop).unwrap();
                continue;
            }
        };
        done.unwrap().committed().map(drop).unwrap();
        merge(session, Merge::on(["id"]), BATCH).await.committed().map(drop).unwrap();
        let found = lake.rows("select id, v, x from a.t where id between 5 and 14 order by id").await;
        let expected: Vec<String> = (5..15).map(|i| format!("{i}|new {i}|{i}.0")).collect();
        assert_eq!(found, expected, "{since}");
    }
}

/// A step of the property below; the numbers choose a batch.
#[derive(Debug, Clone, Copy)]
enum Step {
    Merge(u8),
    MergeColumn(u8),
    Sync(u8),
    Update(u8),
    Delete(u8),
    Compact,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0..3u8).prop_map(Step::Merge),
        2 => (0..3u8).prop_map(Step::MergeColumn),
        1 => (0..3u8).prop_map(Step::Sync),
        1 => (0..30u8).prop_map(Step::Update),
        1 => (0..30u8).prop_map(Step::Delete),
        1 => Just(Step::Compact),
    ]
}

type Model = BTreeMap<i64, (String, i64)>;

/// Three batches, so that the same one comes often. They overlap.
fn batch(n: u8) -> (String, Model) {
    let (from, to) = (i64::from(n) * 5, i64::from(n) * 5 + 10);
    let rows = (from..to).map(|i| (i, (format!("{n} {i}"), i64::from(n)))).collect();
    (format!("select i as id, '{n} ' || i as v, {n}::bigint as x from range({from}, {to}) t(i)"), rows)
}

#[test]
fn batches_that_come_again_and_again_leave_what_a_model_says() {
    let runtime = runtime();
    check(12, &prop::collection::vec(step(), 1..12), |steps| {
        runtime.block_on(async {
            let lake = Lake::new().await;
            lake.put(TABLE, "select i as id, 'old' as v, (-1)::bigint as x from range(40) t(i)").await;
            let mut model: Model = (0..40).map(|i| (i, ("old".to_owned(), -1))).collect();
            for step in steps {
                let run = |sql: String, merge: Merge| lake.session.model(TABLE).sql(sql).strategy(merge).run();
                let done = match step {
                    Step::Merge(n) => {
                        let (sql, rows) = batch(n);
                        model.extend(rows);
                        run(sql, Merge::on(["id"])).await.map(drop)
                    }
                    Step::MergeColumn(n) => {
                        let (sql, rows) = batch(n);
                        for (id, (v, x)) in rows {
                            model.entry(id).and_modify(|old| old.0.clone_from(&v)).or_insert((v, x));
                        }
                        run(sql, Merge::on(["id"]).update_columns(["v"])).await.map(drop)
                    }
                    Step::Sync(n) => {
                        let (sql, rows) = batch(n);
                        model = rows;
                        lake.session.model(TABLE).sql(sql).strategy(FullSync::on(["id"])).run().await.map(drop)
                    }
                    Step::Update(id) => {
                        model.entry(i64::from(id)).and_modify(|row| row.1 = 77);
                        let update = Update::new([("x", "77")]).rows_where(format!("id = {id}"));
                        lake.session.model(TABLE).strategy(update).run().await.map(drop)
                    }
                    Step::Delete(id) => {
                        model.remove(&i64::from(id));
                        lake.session
                            .model(TABLE)
                            .strategy(Delete::rows_where(format!("id = {id}")))
                            .run()
                            .await
                            .map(drop)
                    }
                    Step::Compact => lake.session.maintain(TABLE).compact().run().await.map(drop),
                };
                prop_assert!(done.is_ok(), "{step:?}: {done:?}");
                let expected: Vec<String> = model.iter().map(|(id, (v, x))| format!("{id}|{v}|{x}")).collect();
                prop_assert_eq!(lake.rows("select id, v, x from a.t order by id").await, expected, "{:?}", step);
            }
            Ok(())
        })
    });
}
