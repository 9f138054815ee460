//! The change data feed: against delta-rs's own, and where delta-rs refuses or knows no such log.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use deltalake::DeltaTable;
use deltalake::datafusion::logical_expr::{col, lit};
use deltalake::datafusion::physical_plan::collect;
use deltalake::datafusion::prelude::SessionContext;
use duckrun::arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use duckrun::arrow::util::display::{ArrayFormatter, FormatOptions};
use duckrun::{At, CommitOutcome, ErrorKind, Overwrite, SafeAppend};
use serde_json::{Value as Json, json};
use url::Url;

use super::{read, rows_of};
use crate::support::Lake;

const FEED: &str = "select n, p, _change_type, _commit_version from s";

fn batch(from: i64, to: i64, odd: &str) -> RecordBatch {
    let texts: Vec<String> = (from..to).map(|n| format!("p{}{odd}", n % 2)).collect();
    RecordBatch::try_from_iter_with_nullable(vec![
        ("n", Arc::new(Int64Array::from_iter_values(from..to)) as ArrayRef, true),
        ("p", Arc::new(StringArray::from(texts)) as ArrayRef, true),
    ])
    .unwrap()
}

async fn opened(folder: &Path) -> DeltaTable {
    fs::create_dir_all(folder).unwrap();
    let mut table = DeltaTable::try_from_url(Url::from_directory_path(folder).unwrap()).await.unwrap();
    let _ = table.load().await;
    table
}

/// Appends, a delete of whole files, deletes and updates within files, an optimize: with or without change files. `odd` ends
/// the partition values.
async fn table(lake: &Lake, feed: bool, partitioned: bool, odd: &str) {
    let folder = lake.folder("a.t");
    let write = opened(&folder).await.write(vec![batch(0, 10, odd)]);
    let write = write.with_configuration([("delta.enableChangeDataFeed", Some(feed.to_string()))]);
    let table = if partitioned { write.with_partition_columns(["p"]) } else { write }.await.unwrap();
    let table = table.write(vec![batch(10, 20, odd)]).await.unwrap();
    let (table, _) = table.delete().with_predicate(col("n").eq(lit(3_i64))).await.unwrap();
    let (table, _) = table
        .update()
        .with_predicate(col("n").gt(lit(15_i64)))
        .with_update("n", col("n") + lit(100_i64))
        .await
        .unwrap();
    let (table, _) = table.optimize().await.unwrap();
    let (table, _) = table.delete().with_predicate(col("p").eq(lit(format!("p0{odd}")))).await.unwrap();
    assert_eq!(table.version(), Some(5));
}

/// What delta-rs says of the same versions.
async fn theirs(folder: &Path, from: u64, to: u64) -> Vec<String> {
    let context = SessionContext::new();
    let feed = opened(folder).await.scan_cdf().with_starting_version(from).with_ending_version(to);
    let plan = feed.build(&context.state(), None).await.unwrap();
    let options = FormatOptions::new().with_null("NULL");
    let mut rows = Vec::new();
    for batch in collect(plan, context.task_ctx()).await.unwrap() {
        let columns =
            ["n", "p", "_change_type", "_commit_version"].map(|name| batch.column_by_name(name).unwrap().clone());
        let formatters = columns.each_ref().map(|c| ArrayFormatter::try_new(c.as_ref(), &options).unwrap());
        rows.extend((0..batch.num_rows()).map(|i| formatters.each_ref().map(|f| f.value(i).to_string()).join("|")));
    }
    rows.sort();
    rows
}

#[tokio::test(flavor = "multi_thread")]
async fn the_feed_is_that_of_delta_rs() {
    for partitioned in [false, true] {
        let lake = Lake::new().await;
        table(&lake, true, partitioned, "").await;
        let folder = lake.folder("a.t");
        assert!(folder.join("_change_data").is_dir() || partitioned, "delta-rs wrote change files");
        for (from, to) in [(0, 5), (1, 1), (2, 4), (3, 3), (4, 4)] {
            let ours = rows_of(&lake, lake.session.changes("a.t", from).unwrap().until(to), FEED).await;
            assert_eq!(ours, theirs(&folder, from, to).await, "partitioned {partitioned}, {from} to {to}");
        }
        // A rerun over the same feed, with its times, which are those of time travel.
        let times = "select distinct _commit_version, _commit_timestamp from s where _commit_version in (0, 3)";
        let times = rows_of(&lake, lake.session.changes("a.t", 0).unwrap(), times).await;
        for (row, version) in times.iter().zip([0, 3]) {
            let time = row.split_once('|').unwrap().1.parse().unwrap();
            assert_eq!(lake.session.snapshot("a.t", At::Timestamp(time)).await.unwrap().version(), version);
        }
    }
}

/// delta-rs looks for its own change files under names that are encoded once too often, where a partition value needs
/// encoding; we find them.
#[tokio::test(flavor = "multi_thread")]
async fn change_files_of_odd_partitions_are_found() {
    let (lake, plain) = (Lake::new().await, Lake::new().await);
    table(&lake, true, true, "/ =%é").await;
    table(&plain, true, true, "").await;
    let feed = "select n, replace(p, '/ =%é', '') as p, _change_type, _commit_version from s";
    let odd = rows_of(&lake, lake.session.changes("a.t", 0).unwrap(), feed).await;
    assert_eq!(odd, rows_of(&plain, plain.session.changes("a.t", 0).unwrap(), feed).await);
}

/// Without change files the rows of rewritten files appear whole; what is left after them is the same.
#[tokio::test(flavor = "multi_thread")]
async fn without_change_files_inserts_and_deletes_are_derived() {
    let lake = Lake::new().await;
    table(&lake, false, true, "/ =%é").await;
    assert!(!lake.folder("a.t").join("_change_data").exists());
    let net = "select n, p, sum(case _change_type when 'insert' then 1 when 'delete' then -1 end) as copies from s \
               group by all having copies <> 0";
    let mut now = lake.rows("select n, p, 1 from a.t").await;
    now.sort();
    assert!(!now.is_empty());
    assert_eq!(rows_of(&lake, lake.session.changes("a.t", 0).unwrap(), net).await, now);
    let compaction = rows_of(&lake, lake.session.changes("a.t", 4).unwrap().until(4), FEED).await;
    assert!(compaction.is_empty(), "a compaction changes nothing: {compaction:?}");
    let delete = rows_of(&lake, lake.session.changes("a.t", 2).unwrap().until(2), FEED).await;
    assert_eq!(delete.iter().filter(|r| r.contains("delete")).count(), 5);
    assert_eq!(delete.iter().filter(|r| r.contains("insert")).count(), 4);
}

/// Rewrites a commit line by line.
fn rewrite(lake: &Lake, version: u64, edit: impl Fn(Json) -> Vec<Json>) {
    let log = lake.folder("a.t").join(format!("_delta_log/{version:020}.json"));
    let text = fs::read_to_string(&log).unwrap();
    let lines: Vec<String> =
        text.lines().flat_map(|l| edit(serde_json::from_str(l).unwrap())).map(|a| a.to_string()).collect();
    fs::write(log, lines.join("\n") + "\n").unwrap();
}

/// The protocol's own example of an inline vector: rows 3, 4, 7, 11, 18, 29.
fn vector() -> Json {
    json!({ "storageType": "i", "pathOrInlineDv": "wi5b=000010000siXQKl0rr91000f55c8Xg0@@D72lkbi5=-{L", "sizeInBytes": 40, "cardinality": 6 })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deletion_vector_that_grows_or_goes_is_the_change() {
    let lake = Lake::new().await;
    lake.put("a.t", "select range::bigint as n, 'x' as p from range(30)").await;
    rewrite(&lake, 0, |mut action| {
        if action.get("protocol").is_some() {
            let features = json!(["deletionVectors"]);
            action["protocol"] = json!({ "minReaderVersion": 3, "minWriterVersion": 7, "readerFeatures": features, "writerFeatures": features });
        }
        vec![action]
    });
    let first = fs::read_to_string(lake.folder("a.t").join("_delta_log/00000000000000000000.json")).unwrap();
    let add = first.lines().map(|l| serde_json::from_str::<Json>(l).unwrap()).find(|a| a.get("add").is_some()).unwrap();
    let commit = |version: u64, before: Option<Json>, after: Option<Json>| {
        let mut remove = json!({ "path": add["add"]["path"], "dataChange": true, "deletionTimestamp": 1 });
        if let Some(vector) = before {
            remove["deletionVector"] = vector;
        }
        let mut again = add.clone();
        if let Some(vector) = after {
            again["add"]["deletionVector"] = vector;
        }
        let log = lake.folder("a.t").join(format!("_delta_log/{version:020}.json"));
        fs::write(log, format!("{}\n{again}\n", json!({ "remove": remove }))).unwrap();
    };
    commit(1, None, Some(vector()));
    commit(2, Some(vector()), None);
    let rows = rows_of(&lake, lake.session.changes("a.t", 1).unwrap(), FEED).await;
    let expected = |change: &str, version: u64| {
        let mut rows: Vec<String> = [3, 4, 7, 11, 18, 29].iter().map(|n| format!("{n}|x|{change}|{version}")).collect();
        rows.sort();
        rows
    };
    let of = |version: &str| rows.iter().filter(|r| r.ends_with(version)).cloned().collect::<Vec<_>>();
    assert_eq!(of("|1"), expected("delete", 1));
    assert_eq!(of("|2"), expected("insert", 2));
    assert_eq!(rows.len(), 12);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_known_is_refused_by_name() {
    let lake = Lake::new().await;
    for n in 0..4 {
        lake.put("a.t", format!("select {n}::bigint as n, 'x' as p")).await;
    }
    let error = async |from: u64, to: Option<u64>| {
        let changes = lake.session.changes("a.t", from).unwrap();
        read(&lake, to.into_iter().fold(changes, |c, to| c.until(to)), FEED).await.unwrap_err()
    };
    let e = error(9, None).await;
    assert!(e.kind() == ErrorKind::NotFound && e.message().contains("from version 9 on, but the newest is 3"), "{e}");
    assert_eq!(error(0, Some(9)).await.kind(), ErrorKind::NotFound);
    assert_eq!(error(2, Some(1)).await.kind(), ErrorKind::InvalidInput);
    let nothing = rows_of(&lake, lake.session.changes("a.t", 4).unwrap(), FEED).await;
    assert!(nothing.is_empty(), "the version after the newest has no changes yet");

    let retyped = lake.session.model("a.t").sql("select 'nine' as n, 'x' as p").strategy(Overwrite::default());
    retyped.run().await.unwrap().committed().map(drop).unwrap();
    let e = error(2, None).await;
    assert_eq!(e.kind(), ErrorKind::Unsupported, "{e}");
    assert!(e.message().contains("at version 2 the column \"n\" had another type than at version 4"), "{e}");
    assert_eq!(
        rows_of(&lake, lake.session.changes("a.t", 4).unwrap(), "select n from s where _change_type = 'insert'").await,
        ["nine"]
    );

    deltalake::checkpoints::create_checkpoint(&opened(&lake.folder("a.t")).await, None).await.unwrap();
    for version in 0..2 {
        fs::remove_file(lake.folder("a.t").join(format!("_delta_log/{version:020}.json"))).unwrap();
    }
    let e = error(1, Some(4)).await;
    assert_eq!(e.kind(), ErrorKind::NotFound, "{e}");
    assert!(
        e.message().contains("version 1 is no longer in the log") && e.message().contains("from version 2 on"),
        "{e}"
    );
    let none = lake.session.changes("a.none", 0).unwrap();
    let e = read(&lake, none, FEED).await.unwrap_err();
    assert!(e.kind() == ErrorKind::NotFound && e.message().contains("there is no table"), "{e}");
}

/// Changes of the run's own target fence an append, and stop at the pinned version; those of another table do not fence.
#[tokio::test(flavor = "multi_thread")]
async fn changes_of_the_target_are_pinned_and_fence() {
    let lake = Lake::new().await;
    lake.put("a.t", "select 1::bigint as n").await;
    lake.put("a.u", "select 1::bigint as n").await;
    let info = |version: u64| {
        let log = lake.folder("a.t").join(format!("_delta_log/{version:020}.json"));
        let text = fs::read_to_string(log).unwrap();
        serde_json::from_str::<Json>(text.lines().next().unwrap()).unwrap()["commitInfo"].clone()
    };
    for (version, table, blind) in [(1, "a.u", true), (2, "a.t", false)] {
        let model = lake.session.model("a.t").source("s", lake.session.changes(table, 0).unwrap());
        let report = model.sql("select max(n) + 1 as n from s").run().await.unwrap();
        assert!(matches!(report.outcome, CommitOutcome::Committed(_)), "{report}");
        assert_eq!(info(version)["isBlindAppend"], blind, "{table}");
    }
    let beyond = lake.session.changes("a.t", 0).unwrap().until(7);
    let model = lake.session.model("a.t").source("s", beyond).sql("select n from s").strategy(SafeAppend);
    assert_eq!(model.run().await.unwrap_err().kind(), ErrorKind::NotFound);
}
