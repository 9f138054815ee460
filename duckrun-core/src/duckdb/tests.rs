//! The engine against DuckDB itself: streaming, cancelling, failing half-way, isolation, snapshots as relations.

use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::array::{Array, ArrayRef, AsArray, Int64Array, StringArray};
use arrow::datatypes::{DataType, Field, Int64Type, Schema};
use duckrun_memory::{EffectiveLimit, Job, MIB, MemorySettings, SpillDir};
use futures::StreamExt;

use super::*;
use crate::{
    BatchStream, ColumnSource, DataFile, ErrorKind, FileColumn, FileSet, Query, Relation, RelationName, Value,
};

fn context(megabytes: u64) -> RunContext {
    let settings = MemorySettings::default();
    let plan = duckrun_memory::plan(&EffectiveLimit::explicit(megabytes * MIB, 2), &settings, Job::Write).unwrap();
    let spill = SpillDir::create(&plan.spill).unwrap();
    RunContext::new(plan).with_spill(Some(Arc::new(spill)))
}

async fn session() -> Box<dyn EngineSession> {
    DuckDb::in_memory().open(&context(1024)).await.unwrap()
}

async fn ints(session: &dyn EngineSession, sql: &str) -> Vec<Option<i64>> {
    let batches = session.query(&Query::new(sql)).await.unwrap().collect().await.unwrap();
    batches.iter().flat_map(|b| b.column(0).as_primitive::<Int64Type>().iter().collect::<Vec<_>>()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_arrive_whole_and_typed() {
    let session = session().await;
    let rows = session.query(&Query::new("select i, i::utinyint u from range(100) t(i)")).await.unwrap();
    assert_eq!(rows.schema().field(1).data_type(), &DataType::Int16);
    let batches = rows.collect().await.unwrap();
    assert_eq!(batches.iter().map(|b| b.num_rows()).sum::<usize>(), 100);
    assert_eq!(batches[0].schema().field(1).data_type(), &DataType::Int16);
}

/// A result far larger than the limit must pass through it. Resident memory, not a counter of ours, is the witness.
#[tokio::test(flavor = "multi_thread")]
async fn a_result_larger_than_the_limit_streams() {
    let cx = context(400);
    let session = DuckDb::in_memory().open(&cx).await.unwrap();
    let before = duckrun_memory::resident_bytes().unwrap_or(0);
    let sql = "select i, repeat('x', 100) || i as s from range(12000000) t(i)";
    let mut rows = session.query(&Query::new(sql)).await.unwrap();
    let (mut count, mut bytes, mut peak) = (0u64, 0u64, 0u64);
    while let Some(batch) = rows.next().await {
        let batch = batch.unwrap();
        count += batch.num_rows() as u64;
        bytes += batch.get_array_memory_size() as u64;
        if count.is_multiple_of(204_800) {
            peak = peak.max(duckrun_memory::resident_bytes().unwrap_or(0));
        }
    }
    assert_eq!(count, 12_000_000);
    assert!(bytes > 3 * 400 * MIB, "only {bytes} bytes passed");
    assert!(peak.saturating_sub(before) < 400 * MIB, "grew from {before} to {peak}");
}

/// What is not pulled is not computed: DuckDB stops at its buffer.
#[tokio::test(flavor = "multi_thread")]
async fn a_slow_consumer_holds_the_producer_back() {
    let session = session().await;
    let mut rows = session.query(&Query::new("select i, repeat('y', 200) s from range(50000000) t(i)")).await.unwrap();
    rows.next().await.unwrap().unwrap();
    let before = duckrun_memory::resident_bytes().unwrap_or(0);
    tokio::time::sleep(Duration::from_millis(500)).await;
    let after = duckrun_memory::resident_bytes().unwrap_or(0);
    assert!(after.saturating_sub(before) < 200 * MIB, "grew from {before} to {after} while nobody pulled");
}

#[tokio::test(flavor = "multi_thread")]
async fn dropping_a_stream_stops_the_query_and_frees_the_session() {
    let session = session().await;
    let sort = Query::new("select * from (select i, hash(i) h from range(200000000) t(i)) order by h");
    let pending = session.query(&sort);
    let mut rows = tokio::time::timeout(Duration::from_secs(10), pending).await.unwrap().unwrap();
    // The sort has not yielded a row when its consumer goes away.
    assert!(tokio::time::timeout(Duration::from_millis(50), rows.next()).await.is_err());
    drop(rows);
    let started = Instant::now();
    assert_eq!(ints(session.as_ref(), "select 42::bigint").await, [Some(42)]);
    assert!(started.elapsed() < Duration::from_secs(5), "the session was busy for {:?}", started.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interrupted_stream_fails_and_never_looks_whole() {
    for pulled in [0, 1, 5] {
        let session = session().await;
        let mut rows = session.query(&Query::new("select i from range(1000000000) t(i)")).await.unwrap();
        for _ in 0..pulled {
            rows.next().await.unwrap().unwrap();
        }
        session.interrupt();
        let last = loop {
            match rows.next().await {
                Some(Ok(_)) => {}
                other => break other,
            }
        };
        assert_eq!(last.unwrap().unwrap_err().kind(), ErrorKind::Cancelled);
        assert!(rows.next().await.is_none());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failure_after_a_million_rows_is_an_error_in_the_stream() {
    let session = session().await;
    let sql = "select case when i = 1500000 then error('row ' || i) else i::varchar end v from range(3000000) t(i)";
    let mut rows = session.query(&Query::new(sql)).await.unwrap();
    let mut seen = 0;
    let error = loop {
        match rows.next().await.expect("a failing query must not end quietly") {
            Ok(batch) => seen += batch.num_rows(),
            Err(e) => break e,
        }
    };
    assert!(seen > 0, "some rows come before the failure");
    assert_eq!(error.kind(), ErrorKind::Query);
    assert!(error.message().contains("row 1500000"), "{error}");
    assert!(rows.next().await.is_none());
    assert_eq!(ints(session.as_ref(), "select 1::bigint").await, [Some(1)], "the session survives");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_failure_has_its_kind() {
    let session = session().await;
    for (sql, kind) in [
        ("selec 1", ErrorKind::Query),
        ("select * from nowhere", ErrorKind::Query),
        ("select 1; select 2", ErrorKind::Query),
        ("drop table x", ErrorKind::Query),
        ("select time '10:00:00' t", ErrorKind::Unsupported),
        ("select 1 a, 2 A", ErrorKind::InvalidInput),
    ] {
        let error = session.query(&Query::new(sql)).await.unwrap_err();
        assert_eq!(error.kind(), kind, "{sql}: {error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_text_that_is_run_as_it_is_must_yield_what_it_says() {
    let session = session().await;
    let schema = |ty| Arc::new(Schema::new(vec![Field::new("n", ty, true)]));
    let query = |sql: &str| Query::new(sql).with_output(schema(DataType::Int64)).with_text_as_is(true);
    let rows = session.query(&query("SELECT 7::BIGINT AS n")).await.unwrap().collect().await.unwrap();
    assert_eq!(rows[0].num_rows(), 1);
    for (sql, kind) in [
        ("SELECT 7::INTEGER AS n", ErrorKind::Internal),
        ("SELECT 7::BIGINT AS m", ErrorKind::Internal),
        ("SELECT 7::BIGINT AS n, 8 AS o", ErrorKind::Internal),
        ("SELEC 7", ErrorKind::Query),
    ] {
        let done = match session.query(&query(sql)).await {
            Ok(stream) => stream.collect().await.map(drop),
            Err(e) => Err(e),
        };
        assert_eq!(done.unwrap_err().kind(), kind, "{sql}");
    }
    let name = RelationName::bare("laid").unwrap();
    let laid = Query::new("SELECT i AS n FROM range(3) t(i);").with_text_as_is(true);
    assert_eq!(session.materialize(&name, &laid).await.unwrap(), 3);
    assert_eq!(ints(session.as_ref(), "select n from laid order by n").await, [Some(0), Some(1), Some(2)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn views_that_come_any_way_are_followed() {
    let named = async |session: &dyn EngineSession| -> Vec<String> {
        session.references("select * from seen").await.unwrap().into_iter().map(|r| r.table).collect()
    };
    let session = session().await;
    assert_eq!(named(session.as_ref()).await, ["seen"]);
    let name = RelationName::bare("Seen").unwrap();
    session.register(&name, Relation::Sql("select * from behind".to_owned())).await.unwrap_err();
    session.execute("create table behind as select 1 as n").await.unwrap();
    session.register(&name, Relation::Sql("select * from behind".to_owned())).await.unwrap();
    assert!(named(session.as_ref()).await.contains(&"behind".to_owned()));
    let other = self::session().await;
    other.execute("create table below as select 1 as n; create view seen as from below").await.unwrap();
    assert!(named(other.as_ref()).await.contains(&"below".to_owned()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_value_that_would_be_lost_is_invalid_data() {
    let session = session().await;
    for sql in [
        "select timestamp_ns '2020-01-01 00:00:00.000000001' t",
        "select 'infinity'::date t",
        "select uhugeint '340282366920938463463374607431768211455' t",
    ] {
        let error = session.query(&Query::new(sql)).await.unwrap().collect().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidData, "{sql}: {error}");
        assert!(error.message().contains('t'), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn cancelling_the_context_ends_every_call() {
    let cx = context(1024);
    let session = DuckDb::in_memory().open(&cx).await.unwrap();
    let mut rows = session.query(&Query::new("select i from range(1000000000) t(i)")).await.unwrap();
    rows.next().await.unwrap().unwrap();
    cx.cancellation().cancel();
    let error = loop {
        match rows.next().await.unwrap() {
            Ok(_) => {}
            Err(e) => break e,
        }
    };
    assert_eq!(error.kind(), ErrorKind::Cancelled);
    assert_eq!(session.execute("select 1").await.unwrap_err().kind(), ErrorKind::Cancelled);
}

#[tokio::test(flavor = "multi_thread")]
async fn settings_are_set_and_reported() {
    let cx = context(1024);
    let settings = DuckDb::in_memory().open(&cx).await.unwrap().settings().await.unwrap();
    assert_eq!(settings.threads, 2);
    assert!(!settings.preserve_insertion_order);
    assert!(settings.spill_directory.contains("duckrun-spill"), "{settings:?}");
    assert!(settings.memory_limit.ends_with("MiB"), "{settings:?}");
}

/// A merge of 300,000 changed rows failed: its stream of changes was sorted by an ORDER BY and arrived in another order, because
/// DuckDB streams the parts of a sorted result from several threads unless it is told to keep the order.
#[tokio::test(flavor = "multi_thread")]
async fn a_sorted_stream_that_keeps_its_order_is_sorted() {
    let cx = context(1024);
    let session = DuckDb::in_memory().open(&cx).await.unwrap();
    let rows = Query::new("select (hash(range) % 10)::bigint as f, range as r from range(1000000)");
    session.materialize(&RelationName::bare("m").unwrap(), &rows).await.unwrap();
    let fields = [("f", DataType::Int64), ("r", DataType::Int64)];
    let schema = Schema::new(fields.map(|(name, ty)| Field::new(name, ty, true)).to_vec());
    for _ in 0..10 {
        let mut query = Query::new("select f, r from m order by f, r").with_output(Arc::new(schema.clone()));
        query.keep_order = true;
        let mut rows = session.query(&query).await.unwrap();
        let (mut last, mut count) = (None, 0);
        while let Some(batch) = rows.next().await {
            let batch = batch.unwrap();
            let (f, r) = (batch.column(0).as_primitive::<Int64Type>(), batch.column(1).as_primitive::<Int64Type>());
            for place in f.values().iter().zip(r.values()) {
                let place = Some((*place.0, *place.1));
                assert!(last < place, "{place:?} after {last:?}");
                last = place;
                count += 1;
            }
        }
        assert_eq!(count, 1_000_000);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn parameters_variables_and_outputs() {
    let session = session().await;
    session.set_variable("names", &Value::from(["a", "it's"])).await.unwrap();
    let query = Query::new("select len(getvariable('names'))::bigint + ? as n").with_params(vec![Value::Int(40)]);
    let batches = session.query(&query).await.unwrap().collect().await.unwrap();
    assert_eq!(batches[0].column(0).as_primitive::<Int64Type>().value(0), 42);
    let wanted = Arc::new(Schema::new(vec![
        Field::new("B", DataType::Int64, true),
        Field::new("missing", DataType::Utf8, true),
        Field::new("a", DataType::Utf8, true),
    ]));
    let query = Query::new("select 'x' as a, 7::integer as b").with_output(wanted.clone());
    let batches = session.query(&query).await.unwrap().collect().await.unwrap();
    assert_eq!(batches[0].schema(), wanted);
    assert_eq!(batches[0].column(0).as_primitive::<Int64Type>().value(0), 7);
    assert!(batches[0].column(1).is_null(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_do_not_see_each_other_on_a_callers_connection() {
    let conn = Connection::open_in_memory().unwrap();
    conn.execute_batch("create table theirs as select 5::bigint a").unwrap();
    let engine = DuckDb::with_connection(conn);
    let (one, two) = (engine.open(&context(1024)).await.unwrap(), engine.open(&context(1024)).await.unwrap());
    let name = RelationName::bare("landing").unwrap();
    one.register(&name, Relation::Sql("select 1::bigint a".into())).await.unwrap();
    two.register(&name, Relation::Sql("select 2::bigint a".into())).await.unwrap();
    assert_eq!(ints(one.as_ref(), "select a from landing").await, [Some(1)]);
    assert_eq!(ints(two.as_ref(), "select a from landing").await, [Some(2)]);
    assert_eq!(ints(two.as_ref(), "select a from theirs").await, [Some(5)]);
    drop(one);
    assert_eq!(ints(two.as_ref(), "select a from landing").await, [Some(2)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_becomes_a_relation() {
    let session = session().await;
    let schema =
        Arc::new(Schema::new(vec![Field::new("n", DataType::Int64, true), Field::new("s", DataType::Utf8, true)]));
    let batch = arrow::array::RecordBatch::try_new(
        schema.clone(),
        vec![
            Arc::new(Int64Array::from(vec![Some(1), None, Some(3)])) as ArrayRef,
            Arc::new(StringArray::from(vec![Some("a"), Some(""), None])),
        ],
    )
    .unwrap();
    let rows = BatchStream::from_batches(schema, vec![batch.clone(), batch]);
    session.register(&RelationName::bare("r").unwrap(), Relation::Stream(rows)).await.unwrap();
    assert_eq!(ints(session.as_ref(), "select sum(n)::bigint from r where s is null or s <> ''").await, [Some(8)]);
}

/// Rows that came before a stream failed must not look like all of them: the relation stayed, half full.
#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_fails_leaves_no_relation() {
    let session = session().await;
    let schema = Arc::new(Schema::new(vec![Field::new("n", DataType::Int64, true)]));
    let column = Arc::new(Int64Array::from(vec![1])) as ArrayRef;
    let batch = arrow::array::RecordBatch::try_new(schema.clone(), vec![column]).unwrap();
    let rows = futures::stream::iter([Ok(batch), Err(crate::Error::invalid("the source broke off"))]);
    let name = RelationName::bare("half").unwrap();
    let error = session.register(&name, Relation::Stream(BatchStream::new(schema, rows))).await.unwrap_err();
    assert!(error.message().contains("broke off"), "{error}");
    let error = session.query(&Query::new("select * from half")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Query, "{error}");
}

/// A name can be registered again whatever it was: DuckDB does not replace a view by a table, nor a table by a view.
#[tokio::test(flavor = "multi_thread")]
async fn a_relation_replaces_one_of_another_kind() {
    let conn = Connection::open_in_memory().unwrap();
    conn.execute_batch("create table r as select 7::bigint a").unwrap();
    let theirs = DuckDb::with_connection(conn.try_clone().unwrap()).open(&context(1024)).await.unwrap();
    for session in [session().await, theirs] {
        let name = RelationName::bare("r").unwrap();
        for _ in 0..2 {
            session.register(&name, Relation::Sql("select 1::bigint a".into())).await.unwrap();
            assert_eq!(ints(session.as_ref(), "select a from r").await, [Some(1)]);
            session.materialize(&name, &Query::new("select 2::bigint a")).await.unwrap();
            assert_eq!(ints(session.as_ref(), "select a from r").await, [Some(2)]);
        }
    }
    let kept: i64 = conn.query_row("select a from memory.main.r", [], |row| row.get(0)).unwrap();
    assert_eq!(kept, 7, "the caller's own table of that name");
}

/// A pinned set of files: names with glob characters, a column that a file lacks, renamed columns, partition values that
/// no path could carry, deleted rows.
#[tokio::test(flavor = "multi_thread")]
async fn a_file_set_is_read_as_the_table_means_it() {
    let dir = tempfile::tempdir().unwrap();
    let conn = Connection::open_in_memory().unwrap();
    let path = |name: &str| dir.path().join(name);
    for (name, sql) in [
        ("f[0].parquet", "select range::bigint as \"c-1\", {'x': range::bigint} as s from range(5)"),
        ("f0.parquet", "select 99::bigint as \"c-1\", {'x': 9::bigint} as s"),
        ("it's.parquet", "select {'x': range::bigint} as s from range(3)"),
    ] {
        let target = path(name).to_str().unwrap().replace('\'', "''");
        conn.execute_batch(&format!("COPY ({sql}) TO '{target}' (FORMAT parquet)")).unwrap();
    }
    let file = |name: &str, deleted: Option<Vec<u64>>| DataFile {
        path: name.to_owned(),
        url: url::Url::from_file_path(path(name)).unwrap(),
        size: 1,
        rows: None,
        deleted: deleted.map(Arc::new),
    };
    let logical = DataType::Struct(vec![Field::new("why", DataType::Int64, true)].into());
    let physical = DataType::Struct(vec![Field::new("x", DataType::Int64, true)].into());
    let column = |name: &str, data_type: &DataType, source| FileColumn {
        name: name.into(),
        data_type: data_type.clone(),
        physical_type: (name == "s").then(|| physical.clone()),
        source,
    };
    let in_file = |name: &str| ColumnSource::File { physical_name: name.into() };
    let set = FileSet {
        schema: Arc::new(Schema::new(vec![
            Field::new("id", DataType::Int64, true),
            Field::new("s", logical.clone(), true),
            Field::new("p", DataType::Utf8, true),
        ])),
        columns: vec![
            column("id", &DataType::Int64, in_file("c-1")),
            column("s", &logical, in_file("s")),
            column("p", &DataType::Utf8, ColumnSource::Partition(0)),
        ],
        files: vec![file("f[0].parquet", Some(vec![0, 4])), file("it's.parquet", None)],
        partition_values: vec![Arc::new(StringArray::from(vec![Some("a=b/c'%20"), None])) as ArrayRef],
        positions: false,
        store: None,
    };
    let session = session().await;
    let name = RelationName::bare("t").unwrap();
    session.register(&name, Relation::Files(set.clone())).await.unwrap();
    let s = session.as_ref();
    assert_eq!(ints(s, "select id from t where p is not null order by id").await, [Some(1), Some(2), Some(3)]);
    assert_eq!(ints(s, "select count(*)::bigint from t where id is null and p is null").await, [Some(3)]);
    assert_eq!(ints(s, "select sum(s.why)::bigint from t").await, [Some(9)]);
    assert_eq!(ints(s, "select count(*)::bigint from t where p = 'a=b/c''%20'").await, [Some(3)]);
    let empty = FileSet { files: vec![], partition_values: vec![], ..set };
    session.register(&name, Relation::Files(empty)).await.unwrap();
    assert_eq!(ints(s, "select count(*)::bigint from t").await, [Some(0)]);
}
