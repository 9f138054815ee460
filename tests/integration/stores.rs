//! Tables of object stores: read by SQL through DuckDB's own readers, pruned, and the same as local ones.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use duckrun::core::Relation;
use duckrun::{Append, ErrorKind, MemorySettings, Overwrite, Resolved, SafeAppend, Session, Source, SourceContext};
use duckrun_testkit::{CountingStore, Fault, FaultyStore, Operation, own_governor};
use futures::StreamExt;
use object_store::ObjectStore;
use object_store::local::LocalFileSystem;
use object_store::memory::InMemory;
use object_store::path::Path;
use url::Url;

use crate::support::{Lake, rows};

async fn lake(store: impl ObjectStore) -> Session {
    let url = Url::parse("mem://lake/").unwrap();
    Session::open_in(url, Arc::new(store), Path::default()).governor(own_governor()).writable().await.unwrap()
}

async fn write(session: &Session, name: &str, sql: &str) {
    session.model(name).sql(sql).strategy(Overwrite::default()).run().await.unwrap().committed().map(drop).unwrap();
}

/// A run reads its own table, other tables and its history through the store.
#[tokio::test(flavor = "multi_thread")]
async fn sql_reads_tables_of_any_store() {
    let folder = tempfile::tempdir().unwrap();
    // Lists in no order, as the trait allows; the log needs one.
    let local = LocalFileSystem::new_with_prefix(folder.path()).unwrap();
    for session in [lake(InMemory::new()).await, lake(local).await] {
        write(&session, "a.t", "select i as n, 'x' || i as s, i % 3 as p from range(1000) t(i)").await;
        let more = "select n + 1000 as n, s, p from this where n < 10";
        session.model("a.t").sql(more).strategy(SafeAppend).run().await.unwrap().committed().map(drop).unwrap();
        let sql = "select count(*)::bigint, sum(n)::bigint, count(distinct s)::bigint from a.t";
        assert_eq!(rows(session.sql(sql)).await, ["1010|509545|1000"]);
        session
            .model("a.u")
            .sql("select p, count(*) c from a.t group by p")
            .run()
            .await
            .unwrap()
            .committed()
            .map(drop)
            .unwrap();
        assert_eq!(rows(session.sql("select * from a.u order by p")).await, ["0|338", "1|336", "2|336"]);
    }
}

/// The path in the store need not be that of the URL: the URLs of OneLake say more, and a caller's may say less.
#[tokio::test(flavor = "multi_thread")]
async fn the_prefix_says_where_the_tables_are() {
    let store = Arc::new(InMemory::new());
    for url in
        ["mem://lake/", "memory://lake/else/where", "https://onelake.dfs.fabric.microsoft.com/ws/my%20item/Tables"]
    {
        let url = Url::parse(url).unwrap();
        let session =
            Session::open_in(url, store.clone(), "my item/Tables").governor(own_governor()).writable().await.unwrap();
        let append = session.model("a.t").sql("select 1 as n").strategy(Append::default());
        append.run().await.unwrap().committed().map(drop).unwrap();
    }
    let session = lake(Arc::new(object_store::prefix::PrefixStore::new(store, "my item/Tables"))).await;
    assert_eq!(rows(session.sql("select count(*)::bigint from a.t")).await, ["3"]);
}

/// The same parquet, local and remote, under the same queries.
#[tokio::test(flavor = "multi_thread")]
async fn remote_reads_answer_as_local_ones() {
    let lake_dir = Lake::new().await;
    let sql = "select i as id, (i * 7919) % 1000003 as k, 'name ' || (i % 977) as name, \
               case when i % 11 = 0 then null else i / 3.0 end as x, {'a': i, 'b': [i, i + 1]} as nested, \
               date '2020-01-01' + (i % 400)::int as d from range(300000) t(i)";
    let run = lake_dir.session.model("a.t").sql(sql).strategy(Append::default()).run().await.unwrap();
    run.committed().map(drop).unwrap();
    let store = LocalFileSystem::new_with_prefix(lake_dir.root()).unwrap();
    let remote = lake(store).await;
    for query in [
        "select count(*)::bigint from a.t",
        "select sum(id)::bigint, sum(k)::bigint, sum(x)::double from a.t",
        "select name, count(*) from a.t where k between 1000 and 2000 group by name order by name",
        "select id, nested.b[2], d from a.t where id in (5, 123456, 299999) order by id",
        "select d, max(nested.a) from a.t where x is null group by d order by d limit 7",
        "select t.id from a.t t join a.t u on t.id = u.k where u.id < 50 order by 1",
    ] {
        assert_eq!(rows(remote.sql(query)).await, lake_dir.rows(query).await, "{query}");
    }
}

/// What DuckDB does not need is not fetched: a count reads footers, a column reads its chunks, a range its row groups.
#[tokio::test(flavor = "multi_thread")]
async fn reads_are_pruned() {
    let store = CountingStore::new(InMemory::new());
    let session = lake(store.clone()).await;
    let sql = "select i as id, hash(i) % 1000000007 as k, md5(i::varchar) as text from range(2000000) t(i)";
    write(&session, "a.t", sql).await;
    let written = store.take().bytes_written;
    assert!(written > 40_000_000, "{written}");
    let mut measured = Vec::new();
    for (query, answer, share) in [
        ("select count(*)::bigint from a.t", "2000000", 0.02),
        ("select sum(id)::bigint from a.t", "1999999000000", 0.25),
        ("select count(distinct length(text))::bigint from a.t where id between 1000 and 1100", "1", 0.2),
    ] {
        assert_eq!(rows(session.sql(query)).await, [answer], "{query}");
        let paths = store.paths();
        let asked = store.take();
        let data: Vec<_> = paths.iter().filter(|p| !p.contains("_delta_log")).collect();
        measured.push(format!("{query}: {} requests, {} of {written} bytes: {data:#?}", data.len(), asked.bytes_read));
        assert!((asked.bytes_read as f64) < share * written as f64, "{measured:?}");
    }
}

/// Failures keep their kind and name the file; what passes is repeated, also in the middle of a body.
#[tokio::test(flavor = "multi_thread")]
async fn failing_reads_have_their_kind() {
    let store = FaultyStore::new(InMemory::new());
    let session = lake(store.clone()).await;
    write(&session, "a.t", "select i as n, md5(i::varchar) s from range(100000) t(i)").await;
    let is_data =
        |operation: Operation, path: &Path| operation == Operation::Get && path.as_ref().ends_with(".parquet");
    for (fault, kind) in [(Fault::Denied, ErrorKind::PermissionDenied), (Fault::LostAnswer, ErrorKind::Unavailable)] {
        store.set_rule(move |operation, path| is_data(operation, path).then_some(fault));
        let error = session.sql("select sum(n)::bigint from a.t").collect().await.unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
        assert!(error.message().contains("mem://lake/a/t/") && error.message().contains(".parquet"), "{error}");
    }
    let mut met = 0;
    store.set_rule(move |operation, path| {
        met += usize::from(is_data(operation, path));
        (is_data(operation, path) && met % 2 == 1).then_some(Fault::LostAnswer)
    });
    assert_eq!(rows(session.sql("select sum(n)::bigint from a.t")).await, ["4999950000"]);
}

/// A run that is dropped, and a stream that is dropped, stop asking.
#[tokio::test(flavor = "multi_thread")]
async fn cancelling_stops_reads() {
    let store = CountingStore::new(InMemory::new());
    let session = lake(store.clone()).await;
    write(&session, "a.t", "select i as n, md5(i::varchar) s from range(1000000) t(i)").await;
    let slow = lake(store.clone().with_network(Duration::from_millis(300), 1 << 20)).await;
    store.take();
    let started = Instant::now();
    let mut reading = slow.sql("select * from a.t order by s").stream().await.unwrap();
    let cut = tokio::time::timeout(Duration::from_millis(1500), reading.next()).await;
    assert!(cut.is_err(), "the sort is not done yet: {:?}", started.elapsed());
    let dropped = Instant::now();
    drop(reading);
    tokio::time::sleep(Duration::from_millis(1000)).await;
    store.take();
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert_eq!(store.take().total(), 0, "still asking {:?} after the drop", dropped.elapsed());
}

/// Many readers at once, each with a DuckDB of its own.
#[tokio::test(flavor = "multi_thread")]
async fn readers_side_by_side() {
    let url = Url::parse("mem://lake/").unwrap();
    let memory = MemorySettings { concurrent_runs: 8, ..MemorySettings::with_limit(4 << 30) };
    let session = Session::open_in(url, Arc::new(InMemory::new()), Path::default())
        .governor(own_governor())
        .memory(memory)
        .writable();
    let session = session.await.unwrap();
    write(&session, "a.t", "select i as n, i % 10 as d from range(200000) t(i)").await;
    let mut readers = tokio::task::JoinSet::new();
    for digit in 0..8i64 {
        let session = session.clone();
        readers.spawn(async move {
            let sql = format!("select count(*)::bigint from a.t where d = {digit}");
            rows(session.sql(sql)).await
        });
    }
    while let Some(done) = readers.join_next().await {
        assert_eq!(done.unwrap(), ["20000"]);
    }
}

/// DuckDB's own extensions are used where they are asked for and installed; here they are not, and the refusal says so.
#[tokio::test(flavor = "multi_thread")]
async fn duckdb_s_extensions_are_asked_for_by_name() {
    let options = duckrun::StorageOptions::default()
        .with("aws_region", "nowhere")
        .with("aws_access_key_id", "canary")
        .with("aws_secret_access_key", "canary");
    let open = || Session::open_url("s3://bucket/lake", &options).unwrap().use_duckdb_extensions(true);
    let session = open().await.unwrap();
    let error = session.sql("select 1").collect().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
    assert!(error.message().contains("extension httpfs was asked for and is not installed"), "{error}");
    assert!(!format!("{error:?} {session:?}").contains("canary"));
    let connection = duckrun::duckdb::Connection::open_in_memory().unwrap();
    let error = open().connection(connection).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
    let folder = tempfile::tempdir().unwrap();
    let error = Session::open(folder.path()).governor(own_governor()).use_duckdb_extensions(true).await.unwrap_err();
    assert!(error.message().contains("with_store_secret"), "{error}");
}

/// A row, and another writer that appends to the table whenever it is read, a few times.
#[derive(Debug)]
struct Meanwhile {
    other: Session,
    left: AtomicU64,
    store: CountingStore,
}

#[async_trait::async_trait]
impl Source for Meanwhile {
    fn describe(&self) -> String {
        "a row".to_owned()
    }

    async fn resolve(&self, _: &SourceContext<'_>) -> duckrun::Result<Resolved> {
        if self.left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1)).is_ok() {
            let append = self.other.model("a.t").sql("select -1::bigint as n").strategy(Append::default());
            append.run().await?.committed().map(drop)?;
            self.store.take();
        }
        Ok(Relation::Sql("select 7::bigint as n".to_owned()).into())
    }
}

/// After a conflict a run reads what came since, not the whole log again: an overwrite that others come before, and a fenced
/// append that begins anew. Read again from the beginning, a table of many entries on a slow store never gave an overwrite its
/// turn beside appends without a pause.
#[tokio::test(flavor = "multi_thread")]
async fn a_retry_reads_only_what_came_since() {
    let store = CountingStore::new(InMemory::new());
    let url = Url::parse("mem://lake/").unwrap();
    let open = async || {
        Session::open_in(url.clone(), Arc::new(store.clone()), Path::default())
            .governor(own_governor())
            .writable()
            .maintenance(false)
    };
    let (session, other) = (open().await.await.unwrap(), open().await.await.unwrap());
    for n in 0..20 {
        let append = session.model("a.t").sql(format!("select {n}::bigint as n")).strategy(Append::default());
        append.run().await.unwrap().committed().map(drop).unwrap();
    }
    let meanwhile = |left| Meanwhile { other: other.clone(), left: AtomicU64::new(left), store: store.clone() };
    let entries = |paths: &[String]| -> Vec<u64> {
        let entry =
            |p: &String| p.strip_prefix("GET")?.split("_delta_log/").nth(1)?.strip_suffix(".json")?.parse().ok();
        paths.iter().filter_map(entry).collect()
    };
    // Version 20 is the other's, before the overwrite lists what it replaces for the one time.
    let model =
        session.model("a.t").sql("select n from s").source("s", meanwhile(1)).strategy(Overwrite::default().blind());
    let report = model.run().await.unwrap().committed().unwrap();
    let paths = store.paths();
    let mut read = entries(&paths);
    assert_eq!(report.version(), Some(21), "{report}");
    let all = read.len();
    read.sort_unstable();
    read.dedup();
    assert!(read.contains(&20) && read.len() == all, "an entry was read twice: {paths:#?}");
    assert_eq!(rows(session.sql("select * from a.t")).await, ["7"]);
    // Three others in a row, each before an attempt.
    let model = session.model("a.t").sql("select n from s").source("s", meanwhile(3)).strategy(SafeAppend);
    let report = model.retries(5).run().await.unwrap().committed().unwrap();
    let paths = store.paths();
    assert_eq!((report.version(), report.attempts), (Some(25), 4), "{report}");
    // Counted since the last of them: the conflict with version 24, and the attempt after it.
    assert!(entries(&paths).iter().all(|version| *version == 24), "{paths:#?}");
    assert_eq!(rows(session.sql("select count(*)::bigint, sum(n)::bigint from a.t")).await, ["5|11"]);
}
