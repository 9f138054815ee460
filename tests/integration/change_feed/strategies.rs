//! Each strategy, what the feed says after it, and whether change files were needed for that.

use std::collections::BTreeMap;

use duckrun::{
    Append, BatchSize, Delete, DeleteInsert, Insert, InsertOverwrite, Merge, MergeClause, Microbatch, Model, Overwrite,
    ReplaceWhere, Scd2, SchemaChange, Update,
};
use duckrun_testkit::generate::delete_rows;
use serde_json::json;

use super::{FEED, cdc, change_files, columns, feed, in_the_feed, kinds, table, their_feed, values};
use crate::maintained::{actions, clean};
use crate::support::Lake;

/// What is done, how, what the feed says (`*` where only the judge looks), and whether change files are written.
type Step = (&'static str, Box<dyn Fn(Model) -> Model>, &'static [&'static str], bool);

fn steps() -> Vec<Step> {
    fn step(
        name: &'static str,
        rows: &'static str,
        with: impl Fn(Model) -> Model + 'static,
        feed: &'static [&'static str],
        files: bool,
    ) -> Step {
        (name, Box::new(move |m| with(if rows.is_empty() { m } else { m.sql(values(rows)) })), feed, files)
    }
    let two = "(1, 10, 1), (20, 20, 0)";
    let clauses = || {
        Merge::on(["id"])
            .clause(MergeClause::matched_delete().when("source.v < 0"))
            .clause(MergeClause::matched_update())
            .clause(MergeClause::not_matched_insert())
    };
    vec![
        step("append", two, |m| m.strategy(Append::default()), &["1|10|1|insert", "20|20|0|insert"], false),
        step("insert", two, |m| m.strategy(Insert::on(["id"])), &["20|20|0|insert"], false),
        step("overwrite", two, |m| m.strategy(Overwrite::default()), &["*"], false),
        step(
            "upsert",
            two,
            |m| m.strategy(Merge::on(["id"])),
            &["1|10|1|update_postimage", "1|1|1|update_preimage", "20|20|0|insert"],
            true,
        ),
        step(
            "clauses",
            "(1, -1, 1), (2, 2, 0), (3, 30, 1), (20, 20, 0)",
            move |m| m.strategy(clauses()),
            &["1|1|1|delete", "20|20|0|insert", "3|30|1|update_postimage", "3|3|1|update_preimage"],
            true,
        ),
        step(
            "a row that moves to another partition, one that does not",
            "(1, 1, 0), (3, 5, 1), (4, 4, 0)",
            |m| m.strategy(Merge::on(["id"])),
            &["1|1|0|update_postimage", "1|1|1|update_preimage", "3|3|1|update_preimage", "3|5|1|update_postimage"],
            true,
        ),
        // The first file is read and stays: files are counted among those that change.
        step(
            "an extract of the whole table",
            "(0, 0, 0), (1, 1, 1), (2, 2, 0), (3, 3, 1), (4, 4, 0), (5, 5, 1), (6, 6, 0), (7, 70, 1), (8, 8, 0), (9, 9, 1), (10, 10, 0), (11, 11, 1)",
            |m| m.strategy(Merge::on(["id"])),
            &["7|70|1|update_postimage", "7|7|1|update_preimage"],
            true,
        ),
        step(
            "rows that no longer come in go",
            "(1, 1, 1), (6, 60, 0), (7, 7, 1), (8, 8, 0), (9, 9, 1), (10, 10, 0)",
            |m| m.strategy(Merge::on(["id"]).delete_missing()),
            &[
                "0|0|0|delete",
                "11|11|1|delete",
                "2|2|0|delete",
                "3|3|1|delete",
                "4|4|0|delete",
                "5|5|1|delete",
                "6|60|0|update_postimage",
                "6|6|0|update_preimage",
            ],
            true,
        ),
        step(
            "rows that no longer come in are updated, where that changes them",
            "(1, 1, 1)",
            |m| m.strategy(Merge::on(["id"]).update_missing([("v", "0")], Some("target.id < 3"))),
            &["2|0|0|update_postimage", "2|2|0|update_preimage"],
            true,
        ),
        step(
            "unchanged rows count as updated on request",
            "(1, 1, 1)",
            |m| m.strategy(Merge::on(["id"]).skip_unchanged(false)),
            &["1|1|1|update_postimage", "1|1|1|update_preimage"],
            true,
        ),
        step("delete", "", |m| m.strategy(Delete::rows_where("id = 4")), &["4|4|0|delete"], true),
        step("delete everything", "", |m| m.strategy(Delete::all()), &["*"], false),
        step("delete one file and a part of another", "", |m| m.strategy(Delete::rows_where("id < 7")), &["*"], true),
        step(
            "update",
            "",
            |m| m.strategy(Update::new([("v", "v * 2")]).rows_where("id in (0, 3)")),
            &["3|3|1|update_preimage", "3|6|1|update_postimage"],
            true,
        ),
        step(
            "update that moves rows",
            "",
            |m| m.strategy(Update::new([("p", "p + 1")]).rows_where("id in (2, 7)")),
            &["2|2|0|update_preimage", "2|2|1|update_postimage", "7|7|1|update_preimage", "7|7|2|update_postimage"],
            true,
        ),
        step(
            "delete_insert",
            "(1, 10, 1), (1, 11, 1), (20, 20, 0)",
            |m| m.strategy(DeleteInsert::on(["id"])),
            &["1|10|1|insert", "1|11|1|insert", "1|1|1|delete", "20|20|0|insert"],
            true,
        ),
        step(
            "replace_where",
            "(0, 5, 0), (1, 1, 1)",
            |m| m.strategy(ReplaceWhere::new("id < 2")),
            &["0|0|0|delete", "0|5|0|insert", "1|1|1|delete", "1|1|1|insert"],
            true,
        ),
        step(
            "replace_where of one file and a part of another",
            "(0, 5, 0)",
            |m| m.strategy(ReplaceWhere::new("id < 7")),
            &["*"],
            true,
        ),
        step(
            "replace_where with nothing there",
            "(50, 1, 1)",
            |m| m.strategy(ReplaceWhere::new("id > 40")),
            &["50|1|1|insert"],
            false,
        ),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn every_strategy_says_what_it_did() {
    for partitioned in [false, true] {
        for (name, with, expected, files) in steps() {
            let what = format!("{name}, partitioned: {partitioned}");
            let lake = table(partitioned).await;
            let report = with(lake.session.model("a.t")).run().await.unwrap_or_else(|e| panic!("{what}: {e}"));
            assert_eq!(report.executor, "sql", "{what}");
            let feed = in_the_feed(&lake, &report, true).await.unwrap_or_else(|e| panic!("{what}: {e}"));
            if expected != ["*"] {
                assert_eq!(feed, expected, "{what}");
            }
            let version = report.version().unwrap();
            assert_eq!(cdc(&lake, version) > 0, files, "{what}");
            assert_eq!(cdc(&lake, version), change_files(&lake.folder("a.t")).len(), "{what}");
            for action in actions(&lake.folder("a.t"), version).get("cdc").into_iter().flatten() {
                assert!(action["path"].as_str().unwrap().starts_with("_change_data/"), "{action}");
                assert_eq!(action["dataChange"], false);
                assert_eq!(action["partitionValues"].get("p").is_some(), partitioned);
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_history_counts_change_files() {
    for (strategy, metric) in [(0, "numTargetChangeFilesAdded"), (1, "numAddedChangeFiles"), (2, "numAddedChangeFiles")]
    {
        let lake = table(false).await;
        let model = lake.session.model("a.t");
        let model = match strategy {
            0 => model.sql(values("(1, 10, 1)")).strategy(Merge::on(["id"])),
            1 => model.strategy(Delete::rows_where("id = 1")),
            _ => model.sql(values("(1, 10, 1)")).strategy(ReplaceWhere::new("id = 1")),
        };
        model.run().await.unwrap().committed().map(drop).unwrap();
        let info = &actions(&lake.folder("a.t"), 2)["commitInfo"][0];
        assert_eq!(info["operationMetrics"][metric], "1", "{info}");
        // Compactions change no row.
        drop(clean(lake.session.maintain("a.t").compact()).await);
        assert_eq!((cdc(&lake, 3), feed(&lake, 3).await.len()), (0, 0));
    }
}

/// A partition at a time: whole files go and come, so that the log itself is the feed.
#[tokio::test(flavor = "multi_thread")]
async fn replaced_partitions_need_no_change_files() {
    let lake = table(true).await;
    let model = lake.session.model("a.t").sql(values("(1, 10, 1), (50, 1, 1)")).strategy(InsertOverwrite);
    let report = model.run().await.unwrap();
    let feed = in_the_feed(&lake, &report, true).await.unwrap();
    assert_eq!(kinds(&feed), BTreeMap::from([("delete", 6), ("insert", 2)]));
    assert_eq!((cdc(&lake, 2), change_files(&lake.folder("a.t")).len()), (0, 0));
}

/// Windows of a microbatch replace parts of files.
#[tokio::test(flavor = "multi_thread")]
async fn windows_are_in_the_feed() {
    let lake = Lake::new().await;
    let put = "select i::bigint as id, timestamp '2020-01-01' + to_hours(i::int * 12) as at from range(8) t(i)";
    let model = lake.session.model("a.t").sql(put).property(FEED, "true");
    model.run().await.unwrap().committed().map(drop).unwrap();
    let time = |t: &str| format!("{t}T00:00:00Z").parse().unwrap();
    let strategy = Microbatch::new("at", BatchSize::Day).begin(time("2020-01-02")).end(time("2020-01-04"));
    let sql = "select i::bigint + 100 as id, timestamp '2020-01-01' + to_hours(i::int * 6) as at from range(16) t(i)";
    let report = lake.session.model("a.t").sql(sql).strategy(strategy).run().await.unwrap().committed().unwrap();
    assert_eq!((report.windows.len(), report.version()), (2, Some(2)), "{report}");
    for version in [1, 2] {
        let feed = feed(&lake, version).await;
        assert_eq!(kinds(&feed), BTreeMap::from([("delete", 2), ("insert", 4)]), "{feed:?}");
        assert_eq!(feed, their_feed(&lake.folder("a.t"), &columns(&lake).await, version).await);
        assert!(cdc(&lake, version) > 0);
    }
}

/// A history: what is closed is an update, what is opened an insert.
#[tokio::test(flavor = "multi_thread")]
async fn versions_of_rows_are_in_the_feed() {
    let lake = Lake::new().await;
    let run = |sql: &str| {
        let strategy = Scd2::on(["id"]).updated_at("moment").invalidate_hard_deletes();
        lake.session.model("a.t").sql(sql).strategy(strategy).property(FEED, "true").run()
    };
    let first = "select i::bigint as id, 'a' as v, timestamp '2024-01-01' as moment from range(3) r(i)";
    run(first).await.unwrap().committed().map(drop).unwrap();
    let second = "select 0::bigint as id, 'b' as v, timestamp '2024-02-01' as moment union all select 1, 'a', timestamp '2024-01-01'";
    let report = run(second).await.unwrap();
    let feed = in_the_feed(&lake, &report, true).await.unwrap();
    let expected = BTreeMap::from([("insert", 1), ("update_postimage", 2), ("update_preimage", 2)]);
    assert_eq!(kinds(&feed), expected, "{feed:?}");
}

/// `now()` and `random()` have other values whenever they are asked. The feed says what was written.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_computed_is_computed_once() {
    let lake = table(true).await;
    let merge = Merge::on(["id"])
        .clause(MergeClause::matched_update_set([("v", "(random() * 1e15)::bigint + source.v * 0")]))
        .clause(MergeClause::not_matched_insert_values([
            ("id", "source.id"),
            ("v", "(random() * 1e15)::bigint"),
            ("p", "(random() * 3)::integer"),
        ]));
    let sql = "select i::bigint as id, 0::bigint as v, 0::integer as p from range(5, 30) r(i)";
    let report = lake.session.model("a.t").sql(sql).strategy(merge).run().await.unwrap();
    in_the_feed(&lake, &report, true).await.unwrap();
    let update = Update::new([("v", "epoch_us(now()) + id")]).rows_where("id < 8");
    let report = lake.session.model("a.t").strategy(update).run().await.unwrap();
    in_the_feed(&lake, &report, true).await.unwrap();
    // The incoming rows of a replacement too.
    let sql = "select i::bigint as id, (random() * 1e15)::bigint as v, 0::integer as p from range(3) r(i)";
    let report = lake.session.model("a.t").sql(sql).strategy(ReplaceWhere::new("id < 3")).run().await.unwrap();
    in_the_feed(&lake, &report, true).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn columns_that_a_commit_adds_are_null_before_it() {
    let lake = table(true).await;
    let sql = "select 1::bigint as id, 'new' as w union all select 20, 'newer'";
    let model = lake.session.model("a.t").sql(sql).strategy(Merge::on(["id"]));
    let report = model.on_schema_change(SchemaChange::AppendNewColumns).run().await.unwrap();
    let feed = in_the_feed(&lake, &report, true).await.unwrap();
    assert_eq!(feed, ["1|1|1|\u{0}|update_preimage", "1|1|1|new|update_postimage", "20|\u{0}|\u{0}|newer|insert"]);
}

/// Rows that a vector hides are in no feed, neither where their file is rewritten nor where it goes.
#[tokio::test(flavor = "multi_thread")]
async fn rows_under_deletion_vectors_are_not_in_the_feed() {
    for (strategy, files) in [(0, true), (1, true), (2, false)] {
        let lake = table(false).await;
        assert!(delete_rows(&lake.folder("a.t"), |_| vec![0, 2]).unwrap());
        let model = lake.session.model("a.t");
        let model = match strategy {
            0 => model.sql(values("(1, 10, 1), (0, 9, 0)")).strategy(Merge::on(["id"])),
            1 => model.sql(values("(3, 3, 1), (2, 9, 0)")).strategy(DeleteInsert::on(["id"])),
            _ => model.strategy(Delete::rows_where("id < 6")),
        };
        let report = model.run().await.unwrap();
        in_the_feed(&lake, &report, files).await.unwrap();
        assert_eq!(cdc(&lake, 3) > 0, files);
    }
}

/// Change files have the physical names, and what is read has the logical ones.
#[tokio::test(flavor = "multi_thread")]
async fn mapped_columns_are_in_the_feed() {
    let lake = table(true).await;
    let path = lake.folder("a.t").join(format!("_delta_log/{:020}.json", 0));
    let text = std::fs::read_to_string(&path).unwrap();
    let lines = text.lines().map(|line| {
        let mut action: serde_json::Value = serde_json::from_str(line).unwrap();
        if action.get("protocol").is_some() {
            let writer = ["changeDataFeed", "columnMapping"];
            action["protocol"] = json!({ "minReaderVersion": 3, "minWriterVersion": 7,
                "readerFeatures": ["columnMapping"], "writerFeatures": writer });
        }
        if action.get("metaData").is_some() {
            action["metaData"]["configuration"]["delta.columnMapping.mode"] = json!("name");
            action["metaData"]["configuration"]["delta.columnMapping.maxColumnId"] = json!("3");
            let field = |name: &str, physical: &str, id: u32, ty: &str| {
                json!({ "name": name, "type": ty, "nullable": true,
                    "metadata": { "delta.columnMapping.id": id, "delta.columnMapping.physicalName": physical } })
            };
            let fields =
                [field("key", "id", 1, "long"), field("my value", "v", 2, "long"), field("part", "p", 3, "integer")];
            action["metaData"]["schemaString"] = json!(json!({ "type": "struct", "fields": fields }).to_string());
            action["metaData"]["partitionColumns"] = json!(["part"]);
        }
        action.to_string()
    });
    std::fs::write(&path, lines.collect::<Vec<_>>().join("\n") + "\n").unwrap();
    let sql = "select 1::bigint as key, 10::bigint as \"my value\", 1::integer as part union all select 20, 20, 0";
    let report = lake.session.model("a.t").sql(sql).strategy(Merge::on(["key"])).run().await.unwrap();
    let feed = in_the_feed(&lake, &report, false).await.unwrap();
    assert_eq!(feed, ["1|10|1|update_postimage", "1|1|1|update_preimage", "20|20|0|insert"]);
    let file = change_files(&lake.folder("a.t")).pop().unwrap();
    let names = format!("select name from parquet_schema('{}') where num_children is null", file.display());
    assert_eq!(lake.rows(&names).await, ["id", "v", "_change_type"]);
}
