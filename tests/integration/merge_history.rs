//! What a merge leaves in the table's history and what it leaves alone: metrics in the words of Spark and delta-rs, no file
//! where nothing changes, constraints that hold.

use duckrun::core::Contract;
use duckrun::{
    CommitOutcome, Delete, DeleteInsert, ErrorKind, FullSync, Insert, Merge, Model, Nothing, SchemaChange, Update,
};
use duckrun_testkit::generate::arrow;
use duckrun_testkit::model::{self, Column, Rows, Type, Value};
use serde_json::Value as Json;

use crate::oracle::{delta_rs, delta_rs_merge, files};
use crate::support::Lake;

async fn lake() -> Lake {
    let lake = Lake::new().await;
    for from in [0, 10] {
        let sql = format!("select i::bigint as id, i::bigint as v from range({from}, {from} + 10) t(i)");
        lake.session.model("a.t").sql(sql).files(files(1000)).run().await.unwrap().committed().map(drop).unwrap();
    }
    lake
}

/// The actions of a version by kind.
fn actions(lake: &Lake, version: u64, kind: &str) -> Vec<Json> {
    let text = std::fs::read_to_string(lake.folder("a.t").join(format!("_delta_log/{version:020}.json"))).unwrap();
    text.lines().filter_map(|l| serde_json::from_str::<Json>(l).unwrap().get(kind).cloned()).collect()
}

fn metrics(lake: &Lake, version: u64) -> Json {
    actions(lake, version, "commitInfo")[0]["operationMetrics"].clone()
}

/// Spark writes `numSourceRows` and text, delta-rs `num_source_rows` and numbers.
fn number(metrics: &Json, name: &str) -> u64 {
    let snake: String =
        name.chars().flat_map(|c| c.is_uppercase().then_some('_').into_iter().chain(c.to_lowercase())).collect();
    let value = if metrics[name].is_null() { &metrics[snake.as_str()] } else { &metrics[name] };
    value.as_u64().or_else(|| value.as_str()?.parse().ok()).unwrap_or_else(|| panic!("no {name} in {metrics}"))
}

/// Keys 3, 4 and 100 come in: two updates in the first file, one new row.
fn incoming() -> Rows {
    let columns = vec![Column::new("id", Type::Long), Column::new("v", Type::Long)];
    let rows = [(3, 30), (4, 40), (100, 0)].map(|(id, v)| vec![Value::Int(id), Value::Int(v)]);
    Rows::new(columns, rows.to_vec())
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_of_a_merge_have_spark_s_names_and_delta_rs_s_numbers() {
    let (ours, theirs) = (lake().await, lake().await);
    let incoming = incoming();
    let sql = duckrun_testkit::generate::sql::select(&incoming);
    ours.session.model("a.t").sql(sql).strategy(Merge::on(["id"])).run().await.unwrap().committed().map(drop).unwrap();
    let upsert = model::Merge::upsert(["id"], &incoming.columns);
    delta_rs_merge(&theirs.folder("a.t"), &upsert, &incoming).await.unwrap();
    let (a, b) = (metrics(&ours, 2), metrics(&theirs, 2));
    for name in [
        "numSourceRows",
        "numTargetRowsInserted",
        "numTargetRowsUpdated",
        "numTargetRowsDeleted",
        "numTargetRowsCopied",
        "numOutputRows",
        "numTargetFilesRemoved",
    ] {
        assert!(a[name].is_string(), "Spark's names, and text: {a}");
        assert_eq!(number(&a, name), number(&b, name), "{name}: {a} {b}");
    }
    let counted = [
        "numTargetRowsInserted",
        "numTargetRowsUpdated",
        "numTargetRowsDeleted",
        "numTargetRowsCopied",
        "numSourceRows",
    ];
    assert_eq!(counted.map(|n| number(&a, n)), [1, 2, 0, 8, 3], "{a}");
    assert_eq!(number(&a, "numOutputRows"), 11, "updated, copied and inserted: {a}");
    assert_eq!(number(&a, "numTargetFilesAdded") as usize, actions(&ours, 2, "add").len());
    assert_eq!(number(&a, "numTargetFilesRemoved") as usize, actions(&ours, 2, "remove").len());
    assert_eq!(number(&a, "numTargetFilesRemoved"), 1, "the second file holds none of the keys: {a}");
    for info in [&ours, &theirs].map(|l| actions(l, 2, "commitInfo")[0].clone()) {
        assert_eq!(info["operation"], "MERGE");
        assert!(info["operationParameters"]["predicate"].as_str().is_some_and(|p| p.contains("id")), "{info}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_of_delete_update_and_sync() {
    let lake = lake().await;
    let run = |model: Model| async move { model.files(files(1000)).run().await.unwrap().committed().unwrap() };
    let report = run(lake.session.model("a.t").strategy(Delete::rows_where("id < 3"))).await;
    assert_eq!(report.rows_deleted(), Some(3));
    let m = metrics(&lake, 2);
    assert_eq!(
        ["numDeletedRows", "numCopiedRows", "numAddedFiles", "numRemovedFiles"].map(|n| number(&m, n)),
        [3, 7, 1, 1]
    );
    assert_eq!(actions(&lake, 2, "commitInfo")[0]["operation"], "DELETE");
    let report = run(lake.session.model("a.t").strategy(Update::new([("v", "-1")]).rows_where("id >= 15"))).await;
    assert_eq!(report.rows_updated(), 5);
    let m = metrics(&lake, 3);
    assert_eq!(
        ["numUpdatedRows", "numCopiedRows", "numAddedFiles", "numRemovedFiles"].map(|n| number(&m, n)),
        [5, 5, 1, 1]
    );
    assert_eq!(actions(&lake, 3, "commitInfo")[0]["operation"], "UPDATE");
    let report =
        run(lake.session.model("a.t").sql("select 3::bigint as id, 3::bigint as v").strategy(FullSync::on(["id"])))
            .await;
    let m = metrics(&lake, 4);
    let names = ["numTargetRowsDeleted", "numTargetRowsUpdated", "numTargetRowsCopied", "numTargetFilesRemoved"];
    assert_eq!(names.map(|n| number(&m, n)), [16, 0, 1, 2], "{m}");
    assert_eq!(report.rows_deleted(), Some(16));
    // A file whose rows all go is removed without a word; a whole table too.
    let report = run(lake.session.model("a.t").strategy(Delete::all())).await;
    assert_eq!(report.rows_deleted(), Some(1));
    let m = metrics(&lake, 5);
    assert_eq!(["numDeletedRows", "numAddedFiles", "numRemovedFiles"].map(|n| number(&m, n)), [1, 0, 1], "{m}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_changes_nothing_writes_nothing() {
    let lake = lake().await;
    let upsert = "select i::bigint as id, (10 * i)::bigint as v from range(5, 25) t(i)";
    let merge = || lake.session.model("a.t").sql(upsert).strategy(Merge::on(["id"]));
    merge().run().await.unwrap().committed().map(drop).unwrap();
    let before = lake.state("a.t");
    for model in [
        merge(),
        lake.session.model("a.t").sql(upsert).strategy(Insert::on(["id"])),
        lake.session.model("a.t").sql("from this").strategy(FullSync::on(["id"])),
        lake.session.model("a.t").strategy(Delete::rows_where("id > 1000")),
        lake.session.model("a.t").strategy(Update::new([("v", "v")])),
        lake.session
            .model("a.t")
            .sql("select 1::bigint as id, 1::bigint as v where false")
            .strategy(FullSync::on(["id"])),
    ] {
        let report = model.run().await.unwrap();
        let nothing = matches!(report.outcome, CommitOutcome::NothingToDo(Nothing::Unchanged | Nothing::NoRows));
        assert!(nothing, "{report}");
        assert_eq!(lake.state("a.t"), before, "{report}");
    }
    // Told not to look, it writes the same values again.
    let report =
        lake.session.model("a.t").sql(upsert).strategy(Merge::on(["id"]).skip_unchanged(false)).run().await.unwrap();
    assert_eq!((report.rows_updated(), report.version()), (20, Some(3)), "{report}");
}

/// An empty source commits nothing. One that brings a new column adds the column, and nothing else: a source that failed to
/// deliver must not empty a table.
#[tokio::test(flavor = "multi_thread")]
async fn an_empty_source_does_not_empty_a_table() {
    let lake = lake().await;
    let empty = "select 1::bigint as id, 1::bigint as v, 'x' as added where false";
    let sync = || lake.session.model("a.t").sql(empty).strategy(FullSync::on(["id"]));
    assert_eq!(sync().run().await.unwrap().version(), None);
    let report = sync().on_schema_change(SchemaChange::AppendNewColumns).run().await.unwrap();
    assert_eq!(report.version(), Some(2), "{report}");
    assert_eq!(lake.rows("select count(*), count(added) from a.t").await, ["20|0"]);
    // No row went, and that is known: the report does not say "unknown rows".
    let more = "select 1::bigint as id, 1::bigint as v, 'x' as more where false";
    let model = lake.session.model("a.t").sql(more).strategy(DeleteInsert::on(["id"]));
    let report = model.on_schema_change(SchemaChange::AppendNewColumns).run().await.unwrap();
    assert_eq!((report.version(), report.rows_deleted()), (Some(3), Some(0)), "{report}");
}

/// The number of rows is that of all rows, not of the batch in which the first was seen.
#[tokio::test(flavor = "multi_thread")]
async fn a_violated_not_null_counts_all_rows() {
    let lake = Lake::new().await;
    let contract = Contract::default().column("id", "BIGINT").not_null("id");
    let sql = "select case when i % 10 > 0 then i end::bigint as id from range(100000) t(i)";
    let error = lake.session.model("a.t").sql(sql).contract(contract).run().await.unwrap_err();
    assert!(error.message().contains("10000 "), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_check_constraint_holds_through_every_change() {
    let lake = lake().await;
    let table = delta_rs(&lake.folder("a.t")).await;
    table.add_constraint().with_constraint("positive", "v >= 0").await.unwrap();
    let before = lake.state("a.t");
    let model = || lake.session.model("a.t").files(files(1000));
    for (what, model, rows) in [
        ("insert", model().sql("select 50::bigint as id, -1::bigint as v").strategy(Insert::on(["id"])), "1 row"),
        ("append", model().sql("select 50::bigint as id, -1::bigint as v union all select 51, -2"), "2 row"),
        ("merge", model().sql("select 3::bigint as id, -1::bigint as v").strategy(Merge::on(["id"])), "1 row"),
        ("update", model().strategy(Update::new([("v", "-v")]).rows_where("id in (1, 2, 3)")), "3 row"),
    ] {
        let error = model.run().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidData, "{what}: {error}");
        for part in ["positive", rows] {
            assert!(error.message().contains(part), "{what}: {error}");
        }
        assert_eq!(lake.state("a.t"), before, "{what}");
    }
    model()
        .sql("select 3::bigint as id, 5::bigint as v")
        .strategy(Merge::on(["id"]))
        .run()
        .await
        .unwrap()
        .committed()
        .map(drop)
        .unwrap();
    model().strategy(Delete::rows_where("v = 5")).run().await.unwrap().committed().map(drop).unwrap();
    assert_eq!(lake.rows("select count(*), min(v) from a.t").await, ["18|0"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn not_null_holds_through_every_change() {
    let lake = Lake::new().await;
    let contract = Contract::default().column("id", "BIGINT").column("v", "BIGINT").not_null("v");
    let sql = "select i::bigint as id, i::bigint as v from range(10) t(i)";
    lake.session.model("a.t").sql(sql).contract(contract).run().await.unwrap().committed().map(drop).unwrap();
    let before = lake.state("a.t");
    let model = || lake.session.model("a.t").files(files(1000));
    for (what, model, rows) in [
        ("insert", model().sql("select 50::bigint as id, null::bigint as v").strategy(Insert::on(["id"])), "1"),
        ("append", model().sql("select 50::bigint as id, null::bigint as v"), "1"),
        ("merge", model().sql("select 3::bigint as id, null::bigint as v").strategy(Merge::on(["id"])), "1"),
        ("update", model().strategy(Update::new([("v", "null")]).rows_where("id in (1, 2, 3)")), "3 rows"),
    ] {
        let error = model.run().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidData, "{what}: {error}");
        for part in ["\"v\"", rows] {
            assert!(error.message().contains(part), "{what}: {error}");
        }
        assert_eq!(lake.state("a.t"), before, "{what}");
    }
    // A source that lacks the column can update, and cannot insert.
    let error = model().sql("select 50::bigint as id").strategy(Merge::on(["id"])).run().await.unwrap_err();
    assert!(error.message().contains("\"v\""), "{error}");
    assert_eq!(lake.state("a.t"), before);
}

/// A table to which another writer gave a change feed.
#[tokio::test(flavor = "multi_thread")]
async fn a_change_feed_is_honoured() {
    let lake = lake().await;
    let feed = [("delta.enableChangeDataFeed".to_owned(), "true".to_owned())].into();
    delta_rs(&lake.folder("a.t")).await.set_tbl_properties().with_properties(feed).await.unwrap();
    let sql = duckrun_testkit::generate::sql::select(&incoming());
    lake.session.model("a.t").sql(sql).strategy(Merge::on(["id"])).run().await.unwrap().committed().map(drop).unwrap();
    lake.session
        .model("a.t")
        .strategy(Delete::rows_where("id = 5"))
        .run()
        .await
        .unwrap()
        .committed()
        .map(drop)
        .unwrap();
    assert_eq!(lake.rows("select count(*), sum(v) from a.t").await, [format!("20|{}", 190 - 3 - 4 + 30 + 40 - 5)]);
    let feed = |version| actions(&lake, version, "cdc").iter().map(|c| c["path"].to_string()).collect::<Vec<_>>();
    for version in [3, 4] {
        let files = feed(version);
        assert!(!files.is_empty() && files.iter().all(|p| p.contains("_change_data/")), "version {version}: {files:?}");
    }
    let changes = |version: u64| {
        format!(
            "select _change_type, count(*) from read_parquet('{}') group by all order by all",
            lake.folder("a.t").join(actions(&lake, version, "cdc")[0]["path"].as_str().unwrap()).display()
        )
    };
    assert_eq!(lake.rows(&changes(4)).await, ["delete|1"]);
    let merged = lake.rows(&changes(3)).await.join(" ");
    assert!(merged.contains("update_preimage|2") || feed(3).len() > 1, "{merged}");
}

/// The rows of Arrow batches are those of the model and back, so that a difference is the table's and not the test's.
#[test]
fn the_model_survives_arrow() {
    let columns = vec![
        Column::new("f", Type::Double),
        Column::new("d", Type::Decimal(38, 10)),
        Column::new("l", Type::List(Box::new(Type::Text))),
        Column::new("s", Type::Struct(vec![("a".into(), Type::Date), ("b".into(), Type::Timestamp)])),
    ];
    let rows = Rows::new(
        columns.clone(),
        vec![
            vec![Value::Float(-0.0), Value::Decimal(-1), Value::List(vec![Value::Null, "".into()]), Value::Null],
            vec![Value::Float(f64::NAN), Value::Null, Value::Null, Value::Struct(vec![Value::Date(-1), Value::Null])],
        ],
    );
    assert_eq!(arrow::rows(&columns, &[arrow::batch(&rows).unwrap()]).unwrap(), rows);
    assert_ne!(Value::Float(-0.0), Value::Float(0.0));
    assert!(Value::Float(-0.0).matches(&Value::Float(0.0)));
}
