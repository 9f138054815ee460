//! Runs through the public API: strategies, pins, hooks, parameters, reports.

use duckrun::{
    Append, CommitOutcome, Compression, ErrorKind, FileOptions, Nothing, Overwrite, Report, SafeAppend, SchemaChange,
    TimestampMode,
};

use crate::support::{Lake, rows};

fn is_send<T: Send>(value: T) -> T {
    value
}

#[tokio::test(flavor = "multi_thread")]
async fn every_future_can_move_between_threads() {
    let lake = Lake::new().await;
    let run = is_send(lake.session.model("a.b").sql("select 1::bigint as n").run());
    tokio::spawn(run).await.unwrap().unwrap().committed().map(drop).unwrap();
    is_send(lake.session.sql("select 1").stream()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_three_strategies() {
    let lake = Lake::new().await;
    let model = || lake.session.model("mart.t");
    let report = model().sql("select range::bigint as n from range(3)").strategy(SafeAppend).run().await.unwrap();
    assert_eq!((report.read_version, report.version(), report.rows_inserted()), (None, Some(0), 3));
    let report = model().sql("select 10::bigint as n").strategy(Append::default()).run().await.unwrap();
    assert_eq!(report.version(), Some(1));
    let more = "select n + 100 as n from this";
    let report = model().sql(more).strategy(SafeAppend).run().await.unwrap();
    assert_eq!((report.version(), report.rows_inserted()), (Some(2), 4));
    assert_eq!(lake.rows("select count(*), max(n) from mart.t").await, ["8|110"]);
    let report = model().sql("select 'x' as s").strategy(Overwrite::default()).run().await.unwrap();
    let metrics = report.metrics().unwrap();
    assert_eq!((metrics.rows_deleted, metrics.files_removed), (Some(8), 3));
    assert_eq!(lake.rows("select * from mart.t").await, ["x"]);
    let text = report.to_string();
    assert!(text.starts_with("mart.t v2→v3 overwrite: +1 row, -8 rows, 1 file, -3 files, "), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_new_commits_nothing() {
    let lake = Lake::new().await;
    lake.put("a.t", "select 1::bigint as n").await;
    let before = lake.state("a.t");
    let report: Report = lake.session.model("a.t").sql("select 1::bigint as n where false").run().await.unwrap();
    assert_eq!(report.outcome, CommitOutcome::NothingToDo(Nothing::NoRows));
    assert_eq!(lake.state("a.t"), before);
    // A first run creates the table even if it is empty: a table without rows is not a missing table.
    let report = lake.session.model("a.empty").sql("select 1::bigint as n where false").run().await.unwrap();
    assert_eq!(report.version(), Some(0));
    assert_eq!(lake.rows("select count(*) from a.empty").await, ["0"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn this_needs_a_table_a_first_sql_or_columns() {
    let lake = Lake::new().await;
    let sql = "select coalesce(max(n), 0) + 1 as n from this";
    let error = lake.session.model("a.t").sql(sql).run().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    assert!(error.message().contains("first_sql"), "{error}");
    assert!(!lake.folder("a.t").exists());
    use duckrun::arrow::datatypes::{DataType, Field, Schema};
    let columns = std::sync::Arc::new(Schema::new(vec![Field::new("n", DataType::Int64, true)]));
    for expected in ["1", "2", "3"] {
        lake.session.model("a.t").sql(sql).columns(columns.clone()).run().await.unwrap().committed().map(drop).unwrap();
        assert_eq!(lake.rows("select max(n) from a.t").await, [expected]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn columns_go_by_name_and_types_stay() {
    let lake = Lake::new().await;
    let model = || lake.session.model("a.t");
    model()
        .sql("select 1::bigint as n, 'a' as s, 1.50::decimal(10,2) as d")
        .run()
        .await
        .unwrap()
        .committed()
        .map(drop)
        .unwrap();
    model()
        .sql("select 'b' as S, 2::integer as N, 7.5::decimal(5,1) as d")
        .run()
        .await
        .unwrap()
        .committed()
        .map(drop)
        .unwrap();
    assert_eq!(lake.rows("select n, s, d from a.t order by n").await, ["1|a|1.50", "2|b|7.50"]);
    let before = lake.state("a.t");
    for (sql, part) in [
        ("select 1.5::double as n", "\"n\""),
        ("select 1::bigint as n, 1.234::decimal(10,3) as d", "\"d\""),
        ("select 1::hugeint as n", "\"n\""),
    ] {
        let error = model().sql(sql).run().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidData, "{sql}: {error}");
        assert!(error.message().contains(part), "{error}");
    }
    let report = model().sql("select 3::bigint as n, 9 as extra").run().await.unwrap();
    assert!(report.warnings[0].contains("\"extra\""));
    assert_eq!(lake.rows("select n, s from a.t where n = 3").await, ["3|NULL"]);
    assert_ne!(lake.state("a.t"), before);
    let report = model()
        .sql("select 4::bigint as n, 9 as extra")
        .on_schema_change(SchemaChange::AppendNewColumns)
        .run()
        .await
        .unwrap();
    assert_eq!(report.version(), Some(3));
    assert_eq!(lake.rows("select n, extra from a.t order by n").await, ["1|NULL", "2|NULL", "3|NULL", "4|9"]);
    let error = model().sql("select 5::bigint as n").on_schema_change(SchemaChange::Fail).run().await.unwrap_err();
    assert!(error.message().contains("missing [s, d, extra]"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn hooks_variables_and_parameters() {
    let lake = Lake::new().await;
    let report = lake
        .session
        .model("a.t")
        .variable("names", ["x", "y"])
        .variable("day", "2013-01-31")
        .before("create temp table picked as select unnest(getvariable('names')) as name")
        .before("create macro twice(a) as a * 2")
        .sql("select name, twice(?)::bigint as n, getvariable('day')::date as d from picked where name <> ?")
        .param(21)
        .param("y")
        .after("create table done as select 1")
        .run()
        .await
        .unwrap();
    assert!(report.after_error.is_none());
    assert_eq!(lake.rows("from a.t").await, ["x|42|2013-01-31"]);
    let report =
        lake.session.model("a.t").sql("select 'z' as name").after("select * from nowhere").run().await.unwrap();
    assert_eq!(report.version(), Some(1), "the commit stands");
    assert!(report.after_error.is_some() && report.to_string().contains("after the commit failed"));
}

#[tokio::test(flavor = "multi_thread")]
async fn several_tables_are_pinned_and_versions_are_kept() {
    let lake = Lake::new().await;
    lake.put("raw.a", "select range::bigint as n from range(5)").await;
    lake.put("raw.b", "select 3::bigint as n, 'three' as s").await;
    let join = "select s, a.n from raw.a join raw.b using (n)";
    lake.put("mart.c", join).await;
    assert_eq!(lake.rows("from mart.c").await, ["three|3"]);
    lake.session
        .model("raw.a")
        .sql("select 9::bigint as n")
        .strategy(Overwrite::default())
        .run()
        .await
        .unwrap()
        .committed()
        .map(drop)
        .unwrap();
    let then = lake.session.sql("select count(*) from raw.a").at("raw.a", duckrun::At::Version(0));
    assert_eq!(rows(then).await, ["5"]);
    assert_eq!(lake.rows("select count(*) from raw.a").await, ["1"]);
    // A bare name means a table of the model's own schema.
    lake.put("raw.d", "select count(*) as n from b").await;
    assert_eq!(lake.rows("from raw.d").await, ["1"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn partitions_come_from_the_log() {
    let lake = Lake::new().await;
    let sql = "select * from (values (1::bigint, 'a b', date '2020-01-01'), (2, 'c/d=%é', null), (3, null, date '1999-12-31')) t(n, p, d)";
    let report = lake.session.model("a.t").sql(sql).partition_by(["p", "d"]).run().await.unwrap();
    assert_eq!(report.metrics().unwrap().files_added, 3);
    let expected = ["1|a b|2020-01-01", "2|c/d=%é|NULL", "3|NULL|1999-12-31"];
    assert_eq!(lake.rows("from a.t order by n").await, expected);
    assert_eq!(lake.rows("select n from a.t where p = 'c/d=%é'").await, ["2"]);
    lake.put("a.t", "select 4::bigint as n, 'a b' as p").await;
    assert_eq!(lake.rows("select n, d from a.t where p = 'a b' order by n").await, ["1|2020-01-01", "4|NULL"]);
    let before = lake.state("a.t");
    let error = lake.session.model("a.t").sql("select 5::bigint as n, '' as p").run().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidData, "{error}");
    assert_eq!(lake.state("a.t"), before);
    let error = lake.session.model("a.t").sql("select 5::bigint as n").partition_by(["n"]).run().await.unwrap_err();
    assert!(error.message().contains("partitioned by"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn properties_comments_and_refresh() {
    let lake = Lake::new().await;
    let model = || lake.session.model("a.t");
    let report = model()
        .sql("select 1::bigint as n, 'x' as p")
        .property("delta.checkpointInterval", "5")
        .comment("numbers")
        .column_comment("n", "a number")
        .run()
        .await
        .unwrap();
    assert_eq!(report.version(), Some(0));
    let snapshot = lake.session.snapshot("a.t", duckrun::At::Latest).await.unwrap();
    assert_eq!(snapshot.comment().as_deref(), Some("numbers"));
    assert_eq!(snapshot.properties()["delta.checkpointInterval"], "5");
    let report =
        model().sql("select 2::integer as n, 'q' as q").partition_by(["q"]).full_refresh(true).run().await.unwrap();
    assert_eq!(report.version(), Some(1));
    let snapshot = lake.session.snapshot("a.t", duckrun::At::Latest).await.unwrap();
    assert_eq!(snapshot.partition_columns(), ["q"]);
    assert_eq!(lake.rows("from a.t").await, ["2|q"]);
    for version in 2..=5 {
        let report = model().sql("select 3::integer as n, 'q' as q").run().await.unwrap();
        assert_eq!(report.version(), Some(version));
        assert_eq!(report.maintenance.len(), usize::from(version == 5), "{:?}", report.maintenance);
    }
    assert!(lake.folder("a.t").join("_delta_log/00000000000000000005.checkpoint.parquet").exists());
    assert_eq!(lake.rows("select count(*) from a.t").await, ["5"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_is_recognised() {
    let lake = Lake::new().await;
    let run = |version| lake.session.model("a.t").sql("select 1::bigint as n").transaction("loader", version).run();
    assert_eq!(run(1).await.unwrap().version(), Some(0));
    for replay in [1, 0] {
        let outcome = run(replay).await.unwrap().outcome;
        assert_eq!(outcome, CommitOutcome::NothingToDo(Nothing::AlreadyApplied { version: 1 }));
    }
    assert_eq!(run(2).await.unwrap().version(), Some(1));
    assert_eq!(lake.rows("select count(*) from a.t").await, ["2"]);
    assert_eq!(lake.state("a.t").1.len(), 2, "a replay leaves no file");
}

#[tokio::test(flavor = "multi_thread")]
async fn codecs_and_file_sizes() {
    let lake = Lake::new().await;
    for compression in [Compression::Snappy, Compression::Zstd(3), Compression::Uncompressed] {
        let files =
            FileOptions { compression, target_file_size: 400_000, row_group_rows: 20_000, ..FileOptions::default() };
        let sql = "select range::bigint as n, hash(range)::varchar as s from range(200000)";
        let report =
            lake.session.model("a.t").sql(sql).files(files).strategy(Overwrite::default()).run().await.unwrap();
        assert!(report.metrics().unwrap().files_added > 3, "{report}");
        assert_eq!(lake.rows("select count(*), sum(n) from a.t").await, ["200000|19999900000"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn timestamps_by_choice() {
    let lake = Lake::new().await;
    let sql = "select timestamp '2020-01-01 00:00:00.000001' as t";
    lake.put("a.ntz", sql).await;
    lake.session
        .model("a.utc")
        .sql(sql)
        .timestamps(TimestampMode::Utc)
        .run()
        .await
        .unwrap()
        .committed()
        .map(drop)
        .unwrap();
    let types = |name: &'static str| {
        let session = lake.session.clone();
        async move { session.snapshot(name, duckrun::At::Latest).await.unwrap().schema().field(0).data_type().to_string() }
    };
    assert_eq!(types("a.ntz").await, "Timestamp(µs)");
    assert_eq!(types("a.utc").await, "Timestamp(µs, \"UTC\")");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_s_own_location_and_connection() {
    let lake = Lake::new().await;
    let elsewhere = tempfile::tempdir().unwrap();
    let place = elsewhere.path().join("my table");
    let location = duckrun::Location::local(&place).unwrap();
    lake.session
        .model("a.t")
        .sql("select 1::bigint as n")
        .location(location.clone())
        .run()
        .await
        .unwrap()
        .committed()
        .map(drop)
        .unwrap();
    assert!(place.join("_delta_log").is_dir() && !lake.folder("a.t").exists());
    let connection = duckdb::Connection::open_in_memory().unwrap();
    connection.execute_batch("create table mine as select 41::bigint as n").unwrap();
    let session = duckrun::Session::open(lake.root())
        .governor(duckrun_testkit::own_governor())
        .connection(connection)
        .writable()
        .await
        .unwrap();
    let report = session.model("a.t").sql("select n + 1 as n from mine").location(location).run().await.unwrap();
    assert_eq!(report.version(), Some(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn progress_is_reported() {
    let lake = Lake::new().await;
    let seen = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
    let log = seen.clone();
    lake.session
        .model("a.t")
        .sql("select range as n from range(500000)")
        .on_progress(move |p| log.lock().unwrap().push((p.phase, p.rows, p.bytes)))
        .run()
        .await
        .unwrap()
        .committed()
        .map(drop)
        .unwrap();
    let seen = seen.lock().unwrap();
    assert!(
        seen.iter().any(|(p, rows, bytes)| *p == duckrun::Phase::Writing && *rows == 500_000 && *bytes > 0),
        "{:?}",
        seen.last()
    );
}
