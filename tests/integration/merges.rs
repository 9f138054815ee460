//! Strategies that change rows, end to end: what they leave in the table, in its history, and what they do not touch.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use duckrun::core::NullKeys;
use duckrun::delta::{
    Append, BatchSize, DeleteInsert, FullSync, Insert, InsertOverwrite, Merge, MergeClause, Microbatch, ReplaceWhere,
    Scd2,
};
use duckrun::{CommitOutcome, ErrorKind, Nothing, Phase, SchemaChange};

use crate::support::Lake;

const BASE: &str = "select i::int as id, 'old ' || i as msg, (i % 3)::int as grp from range(6) t(i)";

async fn lake(partitioned: bool) -> Lake {
    let lake = Lake::new().await;
    let mut model = lake.session.model("mart.t").sql(BASE);
    if partitioned {
        model = model.partition_by(["grp"]);
    }
    model.run().await.unwrap().committed().map(drop).unwrap();
    lake
}

async fn all(lake: &Lake) -> Vec<String> {
    lake.rows("select id, msg, grp from mart.t order by all").await
}

#[tokio::test]
async fn an_upsert_updates_and_inserts_and_the_history_says_so() {
    for partitioned in [false, true] {
        let lake = lake(partitioned).await;
        let report = lake
            .session
            .model("mart.t")
            .sql("select * from (values (1, 'new 1', 1), (9, 'new 9', 0)) v(id, msg, grp)")
            .strategy(Merge::on(["id"]))
            .run()
            .await
            .unwrap();
        let commit = report.committed().unwrap();
        assert_eq!((commit.metrics().unwrap().rows_inserted, commit.metrics().unwrap().rows_updated), (1, 1));
        assert_eq!(commit.metrics().unwrap().rows_deleted, Some(0));
        let expected = ["0|old 0|0", "1|new 1|1", "2|old 2|2", "3|old 3|0", "4|old 4|1", "5|old 5|2", "9|new 9|0"];
        assert_eq!(all(&lake).await, expected);
        let log = std::fs::read_to_string(lake.folder("mart.t").join("_delta_log/00000000000000000001.json")).unwrap();
        let info: serde_json::Value = serde_json::from_str(log.lines().next().unwrap()).unwrap();
        assert_eq!(info["commitInfo"]["operation"], "MERGE");
        let metrics = &info["commitInfo"]["operationMetrics"];
        assert_eq!(metrics["numTargetRowsInserted"], "1");
        assert_eq!(metrics["numTargetRowsUpdated"], "1");
        assert_eq!(metrics["numTargetRowsCopied"], if partitioned { "1" } else { "5" });
        // The same again changes nothing and commits nothing.
        let files = lake.state("mart.t");
        let again = lake
            .session
            .model("mart.t")
            .sql("select * from (values (1, 'new 1', 1), (9, 'new 9', 0)) v(id, msg, grp)")
            .strategy(Merge::on(["id"]))
            .run()
            .await
            .unwrap();
        assert!(matches!(again.outcome, CommitOutcome::NothingToDo(Nothing::Unchanged)), "{again}");
        assert_eq!(lake.state("mart.t"), files);
    }
}

#[tokio::test]
async fn a_row_that_changes_its_partition_moves() {
    let lake = lake(true).await;
    let report =
        lake.session.model("mart.t").sql("select 1 as id, 2 as grp").strategy(Merge::on(["id"])).run().await.unwrap();
    let commit = report.committed().unwrap();
    assert_eq!((commit.metrics().unwrap().rows_inserted, commit.metrics().unwrap().rows_updated), (0, 1));
    assert_eq!(lake.rows("select msg from mart.t where grp = 2 order by id").await, ["old 1", "old 2", "old 5"]);
    assert_eq!(lake.rows("select count(*) from mart.t").await, ["6"]);
}

#[tokio::test]
async fn an_insert_adds_absent_keys_and_commits_nothing_where_there_are_none() {
    let lake = lake(false).await;
    let insert = |sql: &str| lake.session.model("mart.t").sql(sql).strategy(Insert::on(["id"])).run();
    let report = insert("select i::int as id, 'x' as msg, 0 as grp from range(4, 8) t(i)").await.unwrap();
    assert_eq!(report.committed().unwrap().metrics().unwrap().rows_inserted, 2);
    assert_eq!(
        lake.rows("select id, msg from mart.t where id >= 4 order by id").await,
        ["4|old 4", "5|old 5", "6|x", "7|x"]
    );
    let before = lake.state("mart.t");
    let report = insert("select i::int as id, 'y' as msg, 0 as grp from range(4, 8) t(i)").await.unwrap();
    assert!(matches!(report.outcome, CommitOutcome::NothingToDo(_)));
    assert_eq!(lake.state("mart.t"), before);
}

#[tokio::test]
async fn delete_insert_replaces_every_row_of_a_key() {
    let lake = lake(false).await;
    let report = lake
        .session
        .model("mart.t")
        .sql("select * from (values (0, 'a', 0), (0, 'b', 0), (7, 'c', 1)) v(id, msg, grp)")
        .strategy(DeleteInsert::on(["id"]))
        .run()
        .await
        .unwrap();
    let commit = report.committed().unwrap();
    assert_eq!((commit.metrics().unwrap().rows_inserted, commit.metrics().unwrap().rows_deleted), (3, Some(1)));
    assert_eq!(lake.rows("select id, msg from mart.t where id in (0, 7) order by all").await, ["0|a", "0|b", "7|c"]);
}

#[tokio::test]
async fn replacements_take_out_what_they_name() {
    let lake = lake(true).await;
    let run = |sql: &str| lake.session.model("mart.t").sql(sql);
    run("select 40 as id, 'w' as msg, 1 as grp")
        .strategy(ReplaceWhere::new("id >= 4"))
        .run()
        .await
        .unwrap()
        .committed()
        .map(drop)
        .unwrap();
    assert_eq!(lake.rows("select id from mart.t order by id").await, ["0", "1", "2", "3", "40"]);
    let before = lake.state("mart.t");
    let outside =
        run("select 3 as id, 'w' as msg, 1 as grp").strategy(ReplaceWhere::new("id >= 4")).run().await.unwrap_err();
    assert_eq!(outside.kind(), ErrorKind::InvalidData, "{outside}");
    assert_eq!(lake.state("mart.t"), before);
    run("select 50 as id, 'p' as msg, 0 as grp")
        .strategy(InsertOverwrite)
        .run()
        .await
        .unwrap()
        .committed()
        .map(drop)
        .unwrap();
    assert_eq!(lake.rows("select id from mart.t order by id").await, ["1", "2", "40", "50"]);
}

#[tokio::test]
async fn a_window_is_replaced_and_what_lies_outside_is_left_out() {
    let lake = Lake::new().await;
    let rows = "select i as id, timestamp '2024-01-30' + to_days(i::int) as moment from range(5) t(i)";
    lake.put("mart.e", rows).await;
    let strategy = Microbatch::new("moment", BatchSize::Month)
        .begin("2024-01-01T00:00:00Z".parse().unwrap())
        .end("2024-03-01T00:00:00Z".parse().unwrap());
    let report = lake
        .session
        .model("mart.e")
        .sql("select 100 + i as id, timestamp '2024-01-31' + to_days((30 * i)::int) as moment from range(3) t(i)")
        .strategy(strategy)
        .run()
        .await
        .unwrap();
    assert_eq!(report.windows.len(), 2, "{report}");
    report.committed().map(drop).unwrap();
    assert_eq!(lake.rows("select id, moment::date from mart.e order by moment").await, ["100|2024-01-31"]);
}

#[tokio::test]
async fn rows_that_the_source_lacks_go() {
    let lake = lake(false).await;
    let report = lake
        .session
        .model("mart.t")
        .sql("select 2 as id, 'old 2' as msg, 2 as grp union all select 8, 'n', 0")
        .strategy(FullSync::on(["id"]))
        .run()
        .await
        .unwrap();
    let commit = report.committed().unwrap();
    assert_eq!((commit.metrics().unwrap().rows_inserted, commit.metrics().unwrap().rows_updated), (1, 0));
    assert_eq!(commit.metrics().unwrap().rows_deleted, Some(5));
    assert_eq!(all(&lake).await, ["2|old 2|2", "8|n|0"]);
}

/// An extract of the whole table: the engine compares the values itself, by the same rule as the store does for a few rows.
#[tokio::test]
async fn an_extract_of_the_whole_table_changes_what_differs() {
    const ROWS: &str = "select i::int as id, case when i % 7 = 0 then null else 'text ' || i end as msg, \
                        case when i % 5 = 0 then 'nan'::double when i % 5 = 1 then 0.0 else i / 3 end as x, \
                        (i // 250)::int as grp from range(1000) t(i)";
    let lake = Lake::new().await;
    lake.session.model("mart.t").sql(ROWS).partition_by(["grp"]).run().await.unwrap().committed().map(drop).unwrap();
    // Text, 0.0 to -0.0, NULL to a text, a text to NULL, a row that moves; NaN stays NaN, and the partition 3 as it is.
    let extract = format!(
        "select id, case id when 2 then 'other' when 7 then 'some' when 8 then null else msg end as msg, \
         case id when 6 then -0.0::double when 5 then -'nan'::double else x end as x, \
         case id when 300 then 2 else grp end as grp from ({ROWS})"
    );
    for sync in [false, true] {
        let before = lake.state("mart.t");
        let model = lake.session.model("mart.t").sql(extract.clone());
        let model = if sync { model.strategy(FullSync::on(["id"])) } else { model.strategy(Merge::on(["id"])) };
        let report = model.run().await.unwrap();
        if sync {
            assert!(matches!(report.outcome, CommitOutcome::NothingToDo(Nothing::Unchanged)), "{report}");
            assert_eq!(lake.state("mart.t"), before);
            continue;
        }
        let commit = report.committed().unwrap();
        let metrics = commit.metrics().unwrap();
        assert_eq!((metrics.rows_updated, metrics.rows_inserted, metrics.rows_deleted), (5, 0, Some(0)));
        assert_eq!(metrics.files_removed, 2, "{metrics:?}");
        let changed = "select id, msg, x::varchar, grp from mart.t where id in (2, 5, 6, 7, 8, 300) order by id";
        let expected = [
            "2|other|0.6666666666666666|0",
            "5|text 5|nan|0",
            "6|text 6|-0.0|0",
            "7|some|2.3333333333333335|0",
            "8|NULL|2.6666666666666665|0",
            "300|text 300|nan|2",
        ];
        assert_eq!(lake.rows(changed).await, expected);
        assert_eq!(lake.rows("select count(*), count(distinct id) from mart.t").await, ["1000|1000"]);
    }
}

/// As many rows come in as there are: what they match says which keys come twice and which rows are new.
#[tokio::test]
async fn an_extract_of_the_whole_table_is_told_apart_by_what_it_matches() {
    let lake = Lake::new().await;
    // Three files, in which the key 5 is there twice and rows without a key are, too.
    for sql in [
        "select i::bigint as id, 'a' as s from range(100) t(i)",
        "select i::bigint as id, 'b' as s from range(100, 200) t(i) union all select 5, 'twice'",
        "select null::bigint as id, 'none' as s from range(3)",
    ] {
        let model = lake.session.model("mart.t").sql(sql).strategy(Append::default());
        model.run().await.unwrap().committed().map(drop).unwrap();
    }
    let before = lake.state("mart.t");
    let extract = "select case when i = 150 then 5000 + i else i end::bigint as id, 'c' as s from range(200) t(i)";
    for (more, parts) in [
        // Two that match the same row, in any file; two that match nothing; one of a pair that is there twice.
        ("select 0::bigint, 'd'", ["2 incoming rows have the key (id = 0)", "1 keys"]),
        ("select 199::bigint, 'd'", ["2 incoming rows have the key (id = 199)", "1 keys"]),
        ("select 5150::bigint, 'd'", ["2 incoming rows have the key (id = 5150)", "1 keys"]),
        ("select 5::bigint, 'd' union all select 5, 'e'", ["3 incoming rows have the key (id = 5)", "1 keys"]),
    ] {
        for strategy in [Merge::on(["id"]).null_keys(NullKeys::Distinct), Merge::on(["id"])] {
            let model = lake.session.model("mart.t").sql(format!("{extract} union all {more}")).strategy(strategy);
            let error = model.run().await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidData, "{error}");
            assert!(parts.iter().all(|part| error.message().contains(part)), "{error}");
        }
        assert_eq!(lake.state("mart.t"), before);
    }
    // Keys that are NULL are no two of a kind, and come in.
    let sql = format!("{extract} union all select null, 'd' union all select null, 'e'");
    let strategy = Merge::on(["id"]).null_keys(NullKeys::Distinct);
    let commit = lake.session.model("mart.t").sql(sql).strategy(strategy).run().await.unwrap().committed().unwrap();
    let metrics = commit.metrics().unwrap();
    assert_eq!((metrics.rows_updated, metrics.rows_inserted, metrics.rows_deleted), (200, 3, Some(0)));
    let rows = "select s, count(*), count(id) from mart.t group by s order by s";
    assert_eq!(lake.rows(rows).await, ["b|1|1", "c|201|201", "d|1|0", "e|1|0", "none|3|0"]);
}

#[tokio::test]
async fn history_keeps_versions_of_rows() {
    let lake = Lake::new().await;
    let run = |sql: &str| {
        lake.session
            .model("mart.h")
            .sql(sql)
            .strategy(Scd2::on(["id"]).updated_at("moment").invalidate_hard_deletes())
            .run()
    };
    run("select 1 as id, 'a' as v, timestamp '2024-01-01' as moment union all select 2, 'b', timestamp '2024-01-01'")
        .await
        .unwrap()
        .committed()
        .map(drop)
        .unwrap();
    let second = "select 1 as id, 'A' as v, timestamp '2024-02-01' as moment";
    run(second).await.unwrap().committed().map(drop).unwrap();
    let rows = lake
        .rows("select id, v, dbt_valid_from::date, dbt_valid_to is null from mart.h order by id, dbt_valid_from")
        .await;
    assert_eq!(rows, ["1|a|2024-01-01|false", "1|A|2024-02-01|true", "2|b|2024-01-01|false"]);
    let before = lake.state("mart.h");
    assert!(matches!(run(second).await.unwrap().outcome, CommitOutcome::NothingToDo(_)));
    assert_eq!(lake.state("mart.h"), before);
}

#[tokio::test]
async fn tables_are_changed_in_place() {
    let lake = lake(true).await;
    let table = lake.session.table("mart.t").unwrap();
    let report = table.update([("msg", "'<' || msg || '>'")], Some("id < 2")).run().await.unwrap();
    assert_eq!(report.committed().unwrap().metrics().unwrap().rows_updated, 2);
    let report = table.delete("grp = 2").run().await.unwrap();
    assert_eq!(report.committed().unwrap().metrics().unwrap().rows_deleted, Some(2));
    assert_eq!(all(&lake).await, ["0|<old 0>|0", "1|<old 1>|1", "3|old 3|0", "4|old 4|1"]);
    let report = table.update([("grp", "9")], Some("id = 3")).run().await.unwrap();
    assert_eq!(report.committed().unwrap().metrics().unwrap().rows_updated, 1);
    assert_eq!(lake.rows("select id from mart.t where grp = 9").await, ["3"]);
    table.delete_all().run().await.unwrap().committed().map(drop).unwrap();
    assert_eq!(lake.rows("select count(*) from mart.t").await, ["0"]);
}

#[tokio::test]
async fn what_a_key_must_not_be_is_refused_before_anything_is_written() {
    let lake = lake(false).await;
    let before = lake.state("mart.t");
    let run = |sql: &str, merge: Merge| lake.session.model("mart.t").sql(sql).strategy(merge).run();
    let e = run("select 1 as id, 'a' as msg union all select 1, 'b'", Merge::on(["id"])).await.unwrap_err();
    assert_eq!(e.kind(), ErrorKind::InvalidData);
    assert!(e.message().contains("id = 1") && e.message().contains("2 incoming rows"), "{e}");
    let e = run("select null::int as id, 'a' as msg", Merge::on(["id"])).await.unwrap_err();
    assert!(e.message().contains("1 incoming rows have a NULL"), "{e}");
    assert_eq!(lake.state("mart.t"), before);
    let kept = Merge::on(["id"]).dedup_by("msg desc");
    run("select 1 as id, 'a' as msg union all select 1, 'b'", kept).await.unwrap().committed().map(drop).unwrap();
    assert_eq!(lake.rows("select msg from mart.t where id = 1").await, ["b"]);
    let equal = || Merge::on(["id"]).null_keys(NullKeys::Equal);
    run("select null::int as id, 'n' as msg", equal()).await.unwrap().committed().map(drop).unwrap();
    run("select null::int as id, 'm' as msg", equal()).await.unwrap().committed().map(drop).unwrap();
    assert_eq!(lake.rows("select msg from mart.t where id is null").await, ["m"]);
}

#[tokio::test]
async fn new_columns_come_with_a_merge() {
    let lake = lake(false).await;
    lake.session
        .model("mart.t")
        .sql("select 1 as id, 'm' as msg, 7 as extra")
        .strategy(Merge::on(["id"]))
        .on_schema_change(SchemaChange::AppendNewColumns)
        .run()
        .await
        .unwrap()
        .committed()
        .map(drop)
        .unwrap();
    let rows = lake.rows("select id, msg, extra, grp from mart.t where id < 2 order by id").await;
    assert_eq!(rows, ["0|old 0|NULL|0", "1|m|7|1"]);
}

/// Cancelling at every progress report of every phase leaves the old table.
#[tokio::test]
async fn a_merge_can_be_cancelled_in_every_phase() {
    let lake = lake(false).await;
    lake.put("mart.t", "select i::int as id, 'many ' || i as msg, 0 as grp from range(10, 200000) t(i)").await;
    let sql = "select i::int as id, 'new ' || i as msg, 1 as grp from range(0, 300000, 3) t(i)";
    let before = lake.state("mart.t");
    for wanted in [Phase::Matching, Phase::Writing, Phase::Committing] {
        let (sender, receiver) = tokio::sync::oneshot::channel();
        let sender = std::sync::Mutex::new(Some(sender));
        let seen = Arc::new(AtomicUsize::new(0));
        let counted = seen.clone();
        let run = lake
            .session
            .model("mart.t")
            .sql(sql)
            .strategy(Merge::on(["id"]))
            .on_progress(move |p| {
                if p.phase == wanted {
                    counted.fetch_add(1, Ordering::Relaxed);
                    if let Some(sender) = sender.lock().unwrap().take() {
                        let _ = sender.send(());
                    }
                    if wanted == Phase::Committing {
                        // Long enough for the drop to come before the put.
                        std::thread::sleep(std::time::Duration::from_millis(1));
                    }
                }
            })
            .run();
        tokio::select! {
            biased;
            _ = receiver => {}
            done = run => { done.unwrap().committed().map(drop).unwrap(); }
        }
        assert!(seen.load(Ordering::Relaxed) > 0, "{wanted} has progress");
        tokio::time::sleep(std::time::Duration::from_millis(300)).await;
        if wanted != Phase::Committing {
            let versions = lake.state("mart.t").0;
            assert_eq!(versions, before.0, "{wanted}");
        }
    }
}

/// From a million rows on the table is filtered by one of the keys before it is joined.
#[tokio::test(flavor = "multi_thread")]
async fn few_rows_find_their_matches_in_many_whatever_the_key() {
    let lake = Lake::new().await;
    let rows = "select i, case when i % 1000 <> 7 then 'k' || i end as s, date '2020-01-01' + (i % 500)::int as d, \
                (i / 4)::decimal(18, 2) as n, (i % 3)::int as p, 'old' as v";
    let table = format!("{rows} from range(1100000) t(i)");
    lake.session.model("a.t").sql(table).partition_by(["p"]).run().await.unwrap().committed().map(drop).unwrap();
    let keys: [&[&str]; 6] = [&["i"], &["s"], &["p", "i"], &["s", "i"], &["d", "n", "i"], &["d", "s"]];
    for (turn, keys) in keys.into_iter().enumerate() {
        // Three that are there and one that is not.
        let there = "from (values (5), (600000), (1099999)) t(i)";
        let few = format!("select * replace ('new {turn}' as v) from ({rows} {there})");
        let new = format!("{rows} from (values ({})) t(i)", 2_000_000 + turn * 3);
        let model = lake.session.model("a.t").sql(format!("{few} union all {new}"));
        let done = model.strategy(Merge::on(keys.iter().copied())).run().await.unwrap().committed().unwrap();
        let metrics = done.metrics().unwrap();
        assert_eq!((metrics.rows_updated, metrics.rows_inserted), (3, 1), "{keys:?}");
        let found = lake.rows(&format!("select i from a.t where v = 'new {turn}' order by i")).await;
        assert_eq!(found, ["5", "600000", "1099999"], "{keys:?}");
        let model =
            lake.session.model("a.t").sql(format!("{few} union all {rows} from (values ({})) t(i)", 3_000_000 + turn));
        let done = model.strategy(Insert::on(keys.iter().copied())).run().await.unwrap().committed().unwrap();
        assert_eq!(done.metrics().unwrap().rows_inserted, 1, "{keys:?}");
        let model = lake.session.model("a.t").sql(format!("{rows} from (values ({})) t(i)", 4_000_000 + turn));
        let done = model.strategy(Insert::on(keys.iter().copied())).run().await.unwrap().committed().unwrap();
        assert_eq!(done.metrics().unwrap().rows_inserted, 1, "{keys:?}");
        // A clause that looks at the row it matches.
        let other = MergeClause::matched_do_nothing().when("target.v = 'old'");
        let merge = Merge::on(keys.iter().copied()).clause(other).clause(MergeClause::not_matched_insert());
        let model =
            lake.session.model("a.t").sql(format!("{few} union all {rows} from (values ({})) t(i)", 5_000_000 + turn));
        let done = model.strategy(merge).run().await.unwrap().committed().unwrap();
        assert_eq!(done.metrics().unwrap().rows_inserted, 1, "{keys:?}");
    }
    assert_eq!(lake.rows("select count(*), count(distinct i), count(s) from a.t").await, ["1100024|1100024|1098924"]);
}
