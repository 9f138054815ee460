//! delta-rs's own merge, delete and update behind our plans: what it computes, what it refuses, and that nothing it does
//! wrong reaches a table.

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use deltalake::datafusion::prelude::SessionContext;
use deltalake::delta_datafusion::DeltaCdfTableProvider;
use duckrun::arrow::datatypes::SchemaRef;
use duckrun::arrow::util::display::{ArrayFormatter, FormatOptions};
use duckrun::core::{Capabilities, NullKeys, RelationName, TableReference};
use duckrun::delta::{Delete, Merge, MergeClause, Update};
use duckrun::duckdb::DuckDb;
use duckrun::memory::Job;
use duckrun::{
    At, BatchStream, CommitOutcome, DeltaRsExecutor, DeltaRsOptions, Engine, EngineSession, EngineSettings, ErrorKind,
    Nothing, Query, Relation, Report, Result, RunContext, Session, Strategy, Value,
};
use duckrun_testkit::{Fault, FaultyStore, Operation, own_governor};
use object_store::memory::InMemory;
use url::Url;

use crate::support::{Lake, rows};

fn executor(options: DeltaRsOptions) -> Arc<DeltaRsExecutor> {
    Arc::new(DeltaRsExecutor::new(options))
}

/// A session over the same root that writes with delta-rs only.
async fn session(lake: &Lake) -> Session {
    let executor = executor(DeltaRsOptions::default());
    Session::open(lake.root()).governor(own_governor()).executor(executor).writable().await.unwrap()
}

async fn run(session: &Session, sql: &str, strategy: impl Strategy + 'static) -> Result<Report> {
    let model = session.model("a.t");
    let model = if strategy.has_source() { model.sql(sql) } else { model };
    model.strategy(strategy).run().await
}

/// Rows inserted, updated, deleted and copied.
fn counts(report: &Report) -> (u64, u64, Option<u64>, u64) {
    let m = report.metrics().unwrap_or_else(|| panic!("{report}"));
    (m.rows_inserted, m.rows_updated, m.rows_deleted, m.rows_copied)
}

async fn all(lake: &Lake) -> Vec<String> {
    lake.rows("select * from a.t order by all").await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upsert_keeps_types_and_an_idempotent_one_commits_nothing() {
    let lake = Lake::new().await;
    lake.put(
        "a.t",
        "select i::bigint as id, (i * 1.5)::decimal(15,2) as price, 'n' || i as name, (i % 3)::integer as kind, \
         timestamptz '2024-01-01 00:00:00+00' as at from range(10) r(i)",
    )
    .await;
    let with = session(&lake).await;
    let sql = "select i::bigint as id, 7.25::decimal(15,2) as price, 'new' as name, 9::integer as kind, \
               timestamptz '2025-01-01 00:00:00+00' as at from range(8, 12) r(i)";
    let report = run(&with, sql, Merge::on(["id"])).await.unwrap();
    assert_eq!(report.executor, "delta-rs");
    assert!(report.memory.job == Job::MergeDeltaRs && report.memory.delta_rs > 0, "{}", report.memory);
    assert_eq!(counts(&report), (2, 2, Some(0), 8));
    assert_eq!(lake.rows("select count(*), sum(price), max(id) from a.t").await, ["12|71.00|11"]);
    // UPSTREAM trap 7: delta-rs has written an expression's type instead of the column's.
    let sql =
        "select 0::bigint as id, 0::decimal(15,2) as price, '' as name, 0::integer as kind, null::timestamptz as at";
    let merge = Merge::on(["id"]).set("price", "target.price * 3").set("kind", "target.kind + 1");
    let report = run(&with, sql, merge).await.unwrap();
    assert_eq!(report.rows_inserted(), 0);
    assert_eq!(
        lake.rows("select price, kind, typeof(price), typeof(kind) from a.t where id = 0").await,
        ["0.00|1|DECIMAL(15,2)|INTEGER"]
    );
    // Again: nothing changes, nothing is committed.
    let before = lake.state("a.t");
    let sql = "select i::bigint as id, 7.25::decimal(15,2) as price, 'new' as name, 9::integer as kind, \
               timestamptz '2025-01-01 00:00:00+00' as at from range(8, 12) r(i)";
    let report = run(&with, sql, Merge::on(["id"])).await.unwrap();
    assert_eq!(report.outcome, CommitOutcome::NothingToDo(Nothing::Unchanged), "{report}");
    assert_eq!(lake.state("a.t"), before);
    let report = run(&with, &format!("{sql} where false"), Merge::on(["id"])).await.unwrap();
    assert_eq!(report.outcome, CommitOutcome::NothingToDo(Nothing::NoRows));
}

/// delta-rs rules files out by statistics that are not exact (#3905: decimals as floats; timestamps cut to milliseconds) and
/// inserts a key that is there. Keys at the edges of such statistics must be found.
#[tokio::test(flavor = "multi_thread")]
async fn keys_at_the_edge_of_inexact_statistics_are_found() {
    for key in [
        "1234567890123456.78::decimal(18,2)",
        "-1234567890123456.78::decimal(18,2)",
        "timestamptz '2024-05-05 05:05:05.123999+00'",
        "timestamp '2024-05-05 05:05:05.123999'",
        "repeat('z', 200)",
        "'nan'::double",
        "'inf'::double",
        "-0.0::double",
        "2.5::float",
        "9223372036854775807::bigint",
        "date '9999-12-31'",
        "'\\xff\\x00'::blob",
        "true",
    ] {
        let lake = Lake::new().await;
        let with = session(&lake).await;
        // The first write by delta-rs itself, so that the statistics are its own.
        lake.put("a.t", format!("select {key} as k, 1::bigint as v where false")).await;
        let first = run(&with, &format!("select {key} as k, 1::bigint as v"), Merge::on(["k"])).await.unwrap();
        assert_eq!(first.rows_inserted(), 1, "{key}: {first}");
        let again = if key.starts_with("-0.0") { "0.0::double" } else { key };
        let report = run(&with, &format!("select {again} as k, 2::bigint as v"), Merge::on(["k"])).await.unwrap();
        assert_eq!(counts(&report), (0, 1, Some(0), 0), "{key}: {report}");
        assert_eq!(lake.rows("select count(*), sum(v) from a.t").await, ["1|2"], "{key}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_clause_that_holds_applies() {
    let lake = Lake::new().await;
    lake.put("a.t", "select i::bigint as id, i::bigint as v, null::varchar as note from range(6) r(i)").await;
    let with = session(&lake).await;
    let merge = Merge::on(["id"])
        .clause(MergeClause::matched_do_nothing().when("target.v = 0"))
        .clause(MergeClause::matched_delete().when("source.v < 0"))
        .clause(
            MergeClause::matched_update_set([("v", "source.v + target.v")])
                .when("target.v in (2, 3) and source.v > 10"),
        )
        .clause(MergeClause::matched_update_set([("note", "'kept'")]))
        .clause(MergeClause::not_matched_insert().when("source.v > 0"));
    let sql = "select * from (values (0, -1), (1, -1), (2, 20), (3, 5), (7, 7), (8, -8)) x(id, v)";
    let sql = format!("select id::bigint as id, v::bigint as v, null::varchar as note from ({sql})");
    let report = run(&with, &sql, merge).await.unwrap();
    assert_eq!(counts(&report), (1, 2, Some(1), 3), "{report}");
    assert_eq!(all(&lake).await, ["0|0|NULL", "2|22|NULL", "3|3|kept", "4|4|NULL", "5|5|NULL", "7|7|NULL"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_match_no_incoming_row() {
    let lake = Lake::new().await;
    lake.put("a.t", "select i::bigint as id, i::integer as v, date '2024-01-01' as d from range(6) r(i)").await;
    let with = session(&lake).await;
    let merge = Merge::on(["id"])
        .clause(MergeClause::matched_update())
        .clause(MergeClause::not_matched_by_source_delete().when("target.v >= 4"))
        .clause(MergeClause::not_matched_by_source_update([("v", "target.v + 100"), ("d", "date '2024-01-01' + 30")]));
    let report = run(&with, "select 1::bigint as id, 11::integer as v, date '2025-01-01' as d", merge).await.unwrap();
    assert_eq!(counts(&report), (0, 4, Some(2), 0), "{report}");
    assert_eq!(all(&lake).await, ["0|100|2024-01-31", "1|11|2025-01-01", "2|102|2024-01-31", "3|103|2024-01-31"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn null_keys_and_duplicate_keys() {
    let lake = Lake::new().await;
    lake.put("a.t", "select * from (values ('a', 1::bigint), (null, 2::bigint)) t(k, v)").await;
    let with = session(&lake).await;
    let incoming = "select * from (values ('a', 10::bigint), (null, 20::bigint)) t(k, v)";
    let before = lake.state("a.t");
    let error = run(&with, incoming, Merge::on(["k"])).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidData, "{error}");
    let twice = "select 'b' as k, i::bigint as v from range(3) r(i)";
    let error = run(&with, twice, Merge::on(["k"])).await.unwrap_err();
    assert!(error.kind() == ErrorKind::InvalidData && error.message().contains("3 incoming rows"), "{error}");
    assert_eq!(lake.state("a.t"), before);
    let report = run(&with, incoming, Merge::on(["k"]).null_keys(NullKeys::Equal)).await.unwrap();
    assert_eq!(counts(&report), (0, 2, Some(0), 0), "{report}");
    assert_eq!(all(&lake).await, ["a|10", "NULL|20"]);
    let report = run(&with, incoming, Merge::on(["k"]).null_keys(NullKeys::Distinct)).await.unwrap();
    assert_eq!(report.rows_inserted(), 1, "{report}");
}

#[tokio::test(flavor = "multi_thread")]
async fn delete_and_update_without_incoming_rows() {
    let lake = Lake::new().await;
    let rows =
        "select i::bigint as id, (i / 4.0)::decimal(18,2) as price, (i % 2)::integer as kind from range(20) r(i)";
    lake.put("a.t", rows).await;
    let with = session(&lake).await;
    // Through delta-rs's own delete and update: integers have exact statistics.
    let report = run(&with, "", Delete::rows_where("id < 5")).await.unwrap();
    assert_eq!(counts(&report), (0, 0, Some(5), 15), "{report}");
    let report = run(&with, "", Update::new([("price", "price * 2")]).rows_where("id >= 15")).await.unwrap();
    assert_eq!(counts(&report), (0, 5, Some(0), 10), "{report}");
    assert_eq!(
        lake.rows("select typeof(price), sum(price) from a.t where id >= 15 group by 1").await,
        ["DECIMAL(18,2)|42.50"]
    );
    // Through its merge: delta-rs would rule files out by decimals that are floats.
    let report = run(&with, "", Delete::rows_where("price = 1.25")).await.unwrap();
    assert_eq!(report.metrics().unwrap().rows_deleted, Some(1), "{report}");
    // A condition that is NULL for a row does not hold.
    lake.put("a.t", "select null::bigint as id, null::decimal(18,2) as price, 1::integer as kind").await;
    let report = run(&with, "", Delete::rows_where("not (id < 10)")).await.unwrap();
    assert_eq!(report.metrics().unwrap().rows_deleted, Some(10), "{report}");
    assert_eq!(lake.rows("select count(*) from a.t").await, ["5"]);
    let report = run(&with, "", Delete::all()).await.unwrap();
    assert_eq!(lake.rows("select count(*) from a.t").await, ["0"], "{report}");
}

/// What the change data feed of a version says, as delta-rs reads it.
async fn feed(lake: &Lake, version: u64) -> Vec<String> {
    let url = Url::from_directory_path(lake.folder("a.t")).unwrap();
    let table = deltalake::open_table(url).await.unwrap();
    let changes = table.scan_cdf().with_starting_version(version).with_ending_version(version);
    let session = SessionContext::new();
    let provider = DeltaCdfTableProvider::try_new(changes).unwrap();
    let frame = session.read_table(Arc::new(provider)).unwrap();
    let frame = frame.select_columns(&["_change_type", "id", "v"]).unwrap();
    let mut found = Vec::new();
    for batch in frame.collect().await.unwrap() {
        let options = FormatOptions::default().with_null("NULL");
        let columns: Vec<_> =
            batch.columns().iter().map(|c| ArrayFormatter::try_new(c.as_ref(), &options).unwrap()).collect();
        for row in 0..batch.num_rows() {
            found.push(columns.iter().map(|c| c.value(row).to_string()).collect::<Vec<_>>().join("|"));
        }
    }
    found.sort();
    found
}

/// The same table by both executors: delta-rs's change files say what ours say (`change_feed`).
#[tokio::test(flavor = "multi_thread")]
async fn a_change_feed_is_written() {
    for partitioned in [false, true] {
        let lake = Lake::new().await;
        let model = lake.session.model("a.t").property("delta.enableChangeDataFeed", "true");
        let model = if partitioned { model.partition_by(["p"]) } else { model };
        let sql = "select i::bigint as id, i::bigint as v, (i % 2)::integer as p from range(5) r(i)";
        model.sql(sql).run().await.unwrap().committed().map(drop).unwrap();
        let merge = Merge::on(["id"])
            .clause(MergeClause::matched_delete().when("source.v < 0"))
            .clause(MergeClause::matched_update())
            .clause(MergeClause::not_matched_insert());
        let sql = "select * from (values (0, 0, 0), (1, -1, 1), (2, 20, 0), (9, 9, 1)) t(id, v, p)";
        let sql = format!("select id::bigint as id, v::bigint as v, p::integer as p from ({sql}) t");
        let with = session(&lake).await;
        let report = run(&with, &sql, merge).await.unwrap();
        assert_eq!(report.executor, "delta-rs");
        // The row 0 is as it should be, so it is no change.
        assert_eq!(counts(&report), (1, 1, Some(1), 3), "{report}");
        assert_eq!(lake.rows("select id, v from a.t order by all").await, ["0|0", "2|20", "3|3", "4|4", "9|9"]);
        let expected = ["delete|1|1", "insert|9|9", "update_postimage|2|20", "update_preimage|2|2"];
        assert_eq!(feed(&lake, 1).await, expected, "partitioned: {partitioned}");

        let report = run(&with, "", Update::new([("v", "v + 1")]).rows_where("id = 3")).await.unwrap();
        assert_eq!((report.executor.as_str(), report.version()), ("delta-rs", Some(2)));
        assert_eq!(feed(&lake, 2).await, ["update_postimage|3|4", "update_preimage|3|3"]);
        let report = run(&with, "", Delete::rows_where("id = 4")).await.unwrap();
        assert_eq!(report.version(), Some(3));
        assert_eq!(feed(&lake, 3).await, ["delete|4|4"]);
        // An append stays with ours, and is in the feed because the protocol derives it.
        lake.put("a.t", "select 50::bigint as id, 50::bigint as v, 0::integer as p").await;
        assert_eq!(feed(&lake, 4).await, ["insert|50|50"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn expressions_mean_what_duckdb_says_or_are_refused() {
    let lake = Lake::new().await;
    let put =
        "select 1::bigint as id, 7::integer as n, 9223372036854775807::bigint as big, 2.5::double as x, 'Ab' as s";
    lake.put("a.t", put).await;
    let with = session(&lake).await;
    let before = lake.state("a.t");
    let row = "select 1::bigint as id, 7::integer as n, 2::bigint as big, 2.5::double as x, 'c' as s";
    // DuckDB and DataFusion disagree about these: refused, by their text, before anything is written.
    for (column, value) in [
        ("n", "target.n / 2"),
        ("n", "target.n % 2"),
        ("n", "cast(target.x as integer)"),
        ("n", "target.x"),
        ("s", "regexp_replace(target.s, 'A', 'B')"),
        ("n", "case when target.s = target.n then 1 else 2 end"),
        ("x", "random() + target.x"),
    ] {
        let error = run(&with, row, Merge::on(["id"]).set(column, value)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{value}: {error}");
        assert!(error.message().contains("delta-rs"), "{value}: {error}");
    }
    // Integers wrap in DataFusion; here they overflow as they do in DuckDB.
    let error = run(&with, row, Merge::on(["id"]).set("big", "target.big + 1")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidData, "{error}");
    let error = run(&with, row, Merge::on(["id"]).set("n", "target.n + source.big * 3000000000")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidData, "{error}");
    assert_eq!(lake.state("a.t"), before);
    // What reads no column of the table is DuckDB's: 7 / 2 is 3.5, which rounds to 4.
    let merge = Merge::on(["id"])
        .set("n", "source.n / 2")
        .set("big", "target.n * 1000 + source.n % 4")
        .set("x", "case when target.s || source.s = 'Abc' and target.x between 2 and 3 then target.x + 0.5 else 0 end")
        .set("s", "upper(coalesce(target.s, 'x')) || regexp_replace(source.s, 'c', 'd')");
    assert_eq!(run(&with, row, merge).await.unwrap().version(), Some(1));
    assert_eq!(all(&lake).await, ["1|4|7003|3.0|ABd"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn partitions_not_null_and_predicates() {
    let lake = Lake::new().await;
    let model = lake.session.model("a.t").partition_by(["p"]);
    let sql = "select i::bigint as id, case i % 3 when 0 then null when 1 then 'a b/c=%' else 'x' end as p, i::bigint as v \
               from range(9) r(i)";
    model.sql(sql).run().await.unwrap().committed().map(drop).unwrap();
    let with = session(&lake).await;
    let merge = Merge::on(["id"]).predicate("target.p = 'x'");
    let report = run(&with, "select 2::bigint as id, 'x' as p, 20::bigint as v", merge).await.unwrap();
    assert_eq!(counts(&report).1, 1, "{report}");
    let merge = Merge::on(["id"]);
    let sql = "select * from (values (1, 'a b/c=%', 10), (0, null, 100), (5, 'moved', 50), (99, null, 99)) t(id, p, v)";
    let sql = format!("select id::bigint as id, p, v::bigint as v from ({sql}) t");
    let report = run(&with, &sql, merge).await.unwrap();
    assert_eq!((counts(&report).0, counts(&report).1), (1, 3), "{report}");
    assert_eq!(
        lake.rows("select p, count(*), sum(v) from a.t group by all order by all").await,
        ["a b/c=%|3|21", "moved|1|50", "x|2|28", "NULL|4|208",]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn any_commit_since_the_pinned_version_is_a_conflict() {
    let lake = Lake::new().await;
    lake.put("a.t", "select i::bigint as id, i::bigint as v from range(10) r(i)").await;
    let with = session(&lake).await;
    let (held, root) = (lake.session.clone(), lake.root().to_owned());
    // Somebody else commits while the merge runs, after its version was pinned.
    let between = move || {
        let session = held.clone();
        let _ = &root;
        tokio::task::block_in_place(|| {
            tokio::runtime::Handle::current()
                .block_on(async { session.model("a.t").sql("select 77::bigint as id, 7::bigint as v").run().await })
        })
        .unwrap()
        .committed()
        .map(drop)
        .unwrap();
    };
    let once = std::sync::Once::new();
    let model = with.model("a.t").sql("select 3::bigint as id, 33::bigint as v").strategy(Merge::on(["id"]));
    let model = model.on_progress(move |p| {
        if p.phase == duckrun::Phase::Matching {
            once.call_once(&between);
        }
    });
    let report = model.run().await.unwrap();
    match &report.outcome {
        CommitOutcome::Conflict { read: Some(0), found: 1, .. } => {}
        other => panic!("{other:?}"),
    }
    let (versions, files) = lake.state("a.t");
    assert_eq!((versions.len(), files.len()), (2, 2), "the refused merge left a file: {files:?}");
    // Running again succeeds, and a transaction is applied once.
    let again = |v| {
        with.model("a.t")
            .sql("select 3::bigint as id, 33::bigint as v")
            .strategy(Merge::on(["id"]))
            .transaction("app", v)
    };
    assert_eq!(again(1).run().await.unwrap().version(), Some(2));
    let outcome = again(1).run().await.unwrap().outcome;
    assert_eq!(outcome, CommitOutcome::NothingToDo(Nothing::AlreadyApplied { version: 1 }));
    let log = std::fs::read_to_string(lake.folder("a.t").join("_delta_log/00000000000000000002.json")).unwrap();
    assert!(log.contains("\"txnId\"") && log.contains("\"operation\":\"MERGE\""), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_answer_is_settled() {
    for fault in [Fault::LostAnswer, Fault::LostRequest] {
        let store = FaultyStore::new(InMemory::new());
        let url = Url::parse("mem://lake/").unwrap();
        let session = Session::open_in(url, Arc::new(store.clone()), "").governor(own_governor()).writable();
        let session = session.executor(Arc::new(duckrun::FirstThatAccepts::new(vec![
            executor(DeltaRsOptions::default()),
            Arc::new(duckrun::SqlExecutor),
        ])));
        let session = session.await.unwrap();
        run(&session, "select 1::bigint as id, 1::bigint as v", duckrun::Append::default())
            .await
            .unwrap()
            .committed()
            .map(drop)
            .unwrap();
        let hits = Arc::new(std::sync::atomic::AtomicUsize::new(0));
        let count = hits.clone();
        store.set_rule(move |operation, path| {
            let commit = operation == Operation::Put && path.as_ref().ends_with("00000000000000000001.json");
            (commit && count.fetch_add(1, std::sync::atomic::Ordering::SeqCst) < 2).then_some(fault)
        });
        let report = run(&session, "select 1::bigint as id, 2::bigint as v", Merge::on(["id"])).await.unwrap();
        assert_eq!((report.executor.as_str(), report.version()), ("delta-rs", Some(1)), "{fault:?}: {report}");
        assert_eq!(counts(&report), (0, 1, Some(0), 0));
        store.set_rule(|_, _| None);
        assert_eq!(session.snapshot("a.t", At::Latest).await.unwrap().version(), 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_that_are_too_large_are_refused_before_they_are_read() {
    let lake = Lake::new().await;
    lake.put("a.t", "select i::bigint as id, md5(i::varchar) as s from range(10000) r(i)").await;
    let before = lake.state("a.t");
    let options = DeltaRsOptions { max_memory: Some(1000), ..DeltaRsOptions::default() };
    let with =
        Session::open(lake.root()).governor(own_governor()).executor(executor(options)).writable().await.unwrap();
    let error = run(&with, "select 1::bigint as id, 'x' as s", Merge::on(["id"])).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ResourceExhausted);
    assert!(error.message().contains("max_memory"), "{error}");
    assert_eq!(lake.state("a.t"), before);
    // By default the memory plan decides, and the message has the limit that would do.
    let memory = duckrun::MemorySettings { limit: Some(640 << 20), ..Default::default() };
    let with = Session::open(lake.root())
        .governor(own_governor())
        .memory(memory)
        .executor(executor(DeltaRsOptions::default()));
    let with = with.writable().await.unwrap();
    lake.put("a.t", "select i::bigint as id, 'x' as s from range(8000000) r(i)").await;
    let error = run(&with, "select 1::bigint as id, 'x' as s", Merge::on(["id"])).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ResourceExhausted);
    assert!(error.message().contains("would do"), "{error}");
    // The incoming rows are held in the pool, which is bounded: an error of the right kind, and nothing is left.
    let options = DeltaRsOptions { max_memory: Some(u64::MAX), ..DeltaRsOptions::default() };
    let memory = duckrun::MemorySettings { limit: Some(640 << 20), ..Default::default() };
    let with = Session::open(lake.root())
        .governor(own_governor())
        .memory(memory)
        .executor(executor(options))
        .writable()
        .await
        .unwrap();
    let before = lake.state("a.t");
    let many = "select -i::bigint as id, md5(i::varchar) as s from range(6000000) r(i)";
    let error = run(&with, many, Merge::on(["id"])).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ResourceExhausted, "{error}");
    assert_eq!(lake.state("a.t"), before);
    // A failure of the incoming rows keeps its kind on its way through delta-rs.
    let bad = Merge::on(["id"]).set("s", "error('no')");
    let error = run(&session(&lake).await, "select 1::bigint as id, 'x' as s", bad).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Query, "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn first_runs_and_other_plans_are_refused() {
    let lake = Lake::new().await;
    let with = session(&lake).await;
    let error = run(&with, "select 1::bigint as id", Merge::on(["id"])).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
    lake.put("a.t", "select 1::bigint as id").await;
    let error = run(&with, "select 1::bigint as id", duckrun::Overwrite::default()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
    // It cannot tell whether a list is as it was.
    lake.put("a.n", "select 1::bigint as id, [1] as l").await;
    let merge = |skips| Merge::on(["id"]).skip_unchanged(skips);
    let session = || with.model("a.n").sql("select 1::bigint as id, [1] as l");
    let error = session().strategy(merge(true)).run().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
    assert!(error.message().contains("nested columns"), "{error}");
    let report = session().strategy(merge(false)).run().await.unwrap();
    assert_eq!(counts(&report).1, 1);
}

/// An engine whose last query, the one that feeds delta-rs, yields some rows and then nothing for ever.
#[derive(Debug)]
struct Stuck(DuckDb);

#[derive(Debug)]
struct StuckSession(Box<dyn EngineSession>);

#[async_trait]
impl Engine for Stuck {
    fn name(&self) -> &str {
        "stuck"
    }

    fn capabilities(&self) -> Capabilities {
        self.0.capabilities()
    }

    async fn open(&self, cx: &RunContext) -> Result<Box<dyn EngineSession>> {
        Ok(Box::new(StuckSession(self.0.open(cx).await?)))
    }
}

#[async_trait]
impl EngineSession for StuckSession {
    async fn register(&self, name: &RelationName, relation: Relation) -> Result<()> {
        self.0.register(name, relation).await
    }

    async fn set_variable(&self, name: &str, value: &Value) -> Result<()> {
        self.0.set_variable(name, value).await
    }

    async fn execute(&self, sql: &str) -> Result<()> {
        self.0.execute(sql).await
    }

    async fn references(&self, sql: &str) -> Result<Vec<TableReference>> {
        self.0.references(sql).await
    }

    async fn describe(&self, query: &Query) -> Result<SchemaRef> {
        self.0.describe(query).await
    }

    async fn query(&self, query: &Query) -> Result<BatchStream> {
        let stream = self.0.query(query).await?;
        if !query.sql.ends_with("FROM __duckrun_source AS source") {
            return Ok(stream);
        }
        let schema = stream.schema().clone();
        Ok(BatchStream::new(schema, futures::StreamExt::chain(stream, futures::stream::pending())))
    }

    async fn materialize(&self, name: &RelationName, query: &Query) -> Result<u64> {
        self.0.materialize(name, query).await
    }

    async fn settings(&self) -> Result<EngineSettings> {
        self.0.settings().await
    }

    fn interrupt(&self) {
        self.0.interrupt();
    }
}

/// Upstream, a merge can stop for ever without an error (delta-rs #4614). Where nothing happens, the run is given up.
#[tokio::test(flavor = "multi_thread")]
async fn a_merge_that_stands_still_is_given_up() {
    for feed in ["true", "false"] {
        let lake = Lake::new().await;
        let model = lake.session.model("a.t").property("delta.enableChangeDataFeed", feed);
        let sql = "select i::bigint as id, i::bigint as v from range(1000) r(i)";
        model.sql(sql).run().await.unwrap().committed().map(drop).unwrap();
        let before = lake.state("a.t");
        let options = DeltaRsOptions { stall: Duration::from_millis(700), ..DeltaRsOptions::default() };
        let stuck = Session::open(lake.root())
            .governor(own_governor())
            .engine(Arc::new(Stuck(DuckDb::in_memory())))
            .executor(executor(options));
        let stuck = stuck.writable().await.unwrap();
        let started = Instant::now();
        let error = run(&stuck, "select 1::bigint as id, 5::bigint as v", Merge::on(["id"])).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ResourceExhausted, "{error}");
        assert!(error.message().contains("#4614"), "{error}");
        assert!(started.elapsed() < Duration::from_secs(20), "{:?}", started.elapsed());
        assert_eq!(lake.state("a.t"), before);
        // Dropping the run in the same state ends it too.
        let options = DeltaRsOptions::default();
        let stuck = Session::open(lake.root())
            .governor(own_governor())
            .engine(Arc::new(Stuck(DuckDb::in_memory())))
            .executor(executor(options));
        let stuck = stuck.writable().await.unwrap();
        let merge = run(&stuck, "select 1::bigint as id, 5::bigint as v", Merge::on(["id"]));
        assert!(tokio::time::timeout(Duration::from_secs(2), merge).await.is_err());
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert_eq!(lake.state("a.t"), before);
        run(&lake.session, "select 1::bigint as id, 5::bigint as v", Merge::on(["id"]))
            .await
            .unwrap()
            .committed()
            .map(drop)
            .unwrap();
        assert_eq!(rows(lake.session.sql("select v from a.t where id = 1")).await, ["5"]);
    }
}
