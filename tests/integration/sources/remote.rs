//! Sources on object stores: every format as on the local disk, pruned, new files, and nothing but what was listed.

use std::fs;
use std::sync::Arc;

use duckrun::sources::{ArrowIpc, Csv, Files, Json, NewFiles, Parquet};
use duckrun::{Append, ErrorKind, MemorySettings, Merge, Overwrite, Session, Source};
use duckrun_testkit::{CountingStore, own_governor};
use object_store::local::LocalFileSystem;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use url::Url;

use super::{file, path};
use crate::support::{Lake, rows};

/// Tables below `tables`, sources anywhere in the store.
async fn lake(store: Arc<dyn ObjectStore>) -> Session {
    let url = Url::parse("mem://lake/tables").unwrap();
    let memory = MemorySettings::with_limit(2 << 30);
    Session::open_in(url, store, Path::from("tables")).governor(own_governor()).memory(memory).writable().await.unwrap()
}

/// A caller's own connection on the same store: a DuckDB without a file system of ours.
async fn connected(store: Arc<dyn ObjectStore>) -> Session {
    let url = Url::parse("mem://lake/tables").unwrap();
    let connection = duckrun::duckdb::Connection::open_in_memory().unwrap();
    Session::open_in(url, store, Path::from("tables"))
        .governor(own_governor())
        .connection(connection)
        .writable()
        .await
        .unwrap()
}

async fn read(session: &Session, source: impl Source + 'static, sql: &str) -> Result<Vec<String>, duckrun::Error> {
    duckrun_testkit::rows(session.sql(sql).source("s", source)).await
}

async fn error(session: &Session, source: impl Source + 'static) -> duckrun::Error {
    read(session, source, "select * from s").await.unwrap_err()
}

async fn put(store: &dyn ObjectStore, at: &str, content: impl Into<Vec<u8>>) {
    store.put(&Path::parse(at).unwrap(), content.into().into()).await.unwrap();
}

/// One folder of each format, inferred and asked for, through DuckDBs with and without a file system of ours.
#[tokio::test(flavor = "multi_thread")]
async fn every_format_reads_as_on_the_local_disk() {
    let disk = Lake::new().await;
    for (name, text) in [("a", "n,s\n1,x\n"), ("b", "n,s\n2,\"y, z\"\n3,\n"), ("it's [1]", "n,s\n4,ü\n")] {
        file(&disk, &format!("csv/{name}.csv"), text);
    }
    file(&disk, "csv/.hidden.csv", "n,s\n9,no\n");
    file(&disk, "csv/_tmp/c.csv", "n,s\n9,no\n");
    file(&disk, "tsv/a.tsv", "n\ts\n1\ta,b\n");
    file(&disk, "lines/a.ndjson", "{\"n\": 1, \"s\": \"a\"}\n{\"n\": 2, \"s\": null}\n");
    file(&disk, "array/a.json", "[{\"n\": 1, \"s\": \"a\"}, {\"n\": 2, \"s\": \"b\"}]");
    for sql in [
        "copy (select 5 as n, 'gz' as s) to 'ROOT/gz/a.csv.gz' (format csv, compression gzip)",
        "copy (select 6 as n, 'zst' as s) to 'ROOT/gz/b.csv.gz' (format csv, compression gzip)",
        "copy (select i as n, 'j' || i as s from range(9) t(i)) to 'ROOT/jz/a.json.gz' (format json, compression gzip)",
        "copy (select i as n, 'p' || i as s from range(50000) t(i)) to 'ROOT/pq/year=2013/m=1/a.parquet' (format parquet)",
        "copy (select i as n, 'q' || i as s from range(50000) t(i)) to 'ROOT/pq/year=2014/m=2/a.parquet' (format parquet)",
    ] {
        let folder = sql.split("ROOT/").nth(1).unwrap().rsplit_once('/').unwrap().0;
        fs::create_dir_all(disk.root().join(folder)).unwrap();
        let sql = sql.replace("ROOT", &path(disk.root()));
        duckrun::duckdb::Connection::open_in_memory().unwrap().execute_batch(&sql).unwrap();
    }
    super::formats::arrow_folder(&disk);
    disk.put("d.t", "select i as n, 'd' || i as s from range(10) t(i)").await;
    disk.put("d.t", "select 10 as n, 'more' as s").await;

    let store: Arc<dyn ObjectStore> = Arc::new(LocalFileSystem::new_with_prefix(disk.root()).unwrap());
    for session in [lake(store.clone()).await, connected(store.clone()).await] {
        for (folder, sql) in [
            ("csv", "select n, s, filename from s order by n"),
            ("tsv", "select n, s, filename from s"),
            ("lines", "select n, s from s order by n"),
            ("array", "select n, s, filename from s order by n"),
            ("gz", "select n, s, filename from s order by n"),
            ("jz", "select count(*)::bigint, max(s) from s"),
            ("pq", "select year, m, count(*)::bigint, sum(n)::bigint, max(s) from s group by all order by year"),
            ("arrow", "select n, s, filename from s order by n"),
        ] {
            let url = format!("mem://lake/{folder}");
            let local = Files::at(disk.root().join(folder)).filename_relative_to(disk.root());
            let expected = read(&disk.session, local, sql).await.unwrap();
            assert!(!expected.is_empty());
            let by_url = Files::at(&url).filename_relative_to("mem://lake");
            assert_eq!(read(&session, by_url, sql).await.unwrap(), expected, "{url}");
            let given = Files::at(folder).store(store.clone());
            assert_eq!(read(&session, given, sql).await.unwrap(), expected, "{folder} of a store that was given");
        }
        let glob = Csv::glob("mem://lake/csv/[ab].csv").rfc4180();
        let names = read(&session, glob, "select filename, n from s order by n").await.unwrap();
        assert_eq!(names, ["mem://lake/csv/a.csv|1", "mem://lake/csv/b.csv|2", "mem://lake/csv/b.csv|3"]);
        let deep = Parquet::glob("mem://lake/pq/year=*/m=*/*.parquet").hive_type("year", "BIGINT");
        let years = read(&session, deep, "select distinct year, m from s order by year").await.unwrap();
        assert_eq!(years, ["2013|1", "2014|2"]);
        let one = Csv::file("mem://lake/csv/it's [1].csv").column("n", "BIGINT").column("s", "VARCHAR").header(true);
        assert_eq!(read(&session, one, "select * from s").await.unwrap(), ["4|ü"]);
        let list = Csv::list(["mem://lake/csv/b.csv", "mem://lake/csv/it's [1].csv"]);
        assert_eq!(read(&session, list, "select count(*)::bigint from s").await.unwrap(), ["3"]);
        let lines = Json::folder("mem://lake/lines").lines();
        assert_eq!(read(&session, lines, "select sum(n)::bigint from s").await.unwrap(), ["3"]);
        let arrow = ArrowIpc::folder("mem://lake/arrow").columns(["n"]);
        assert_eq!(read(&session, arrow, "select count(n)::bigint from s").await.unwrap(), ["4"]);
        // A folder that is a Delta table is read as one.
        let table = Files::at("mem://lake/d/t");
        assert_eq!(read(&session, table, "select count(*)::bigint, max(s) from s").await.unwrap(), ["11|more"]);
        let e = error(&session, Files::at("d/t").store(store.clone())).await;
        assert!(e.message().contains("Session::open_in"), "{e}");
    }
}

/// What is loaded is not opened again, and two listings of one store give the same names.
#[tokio::test(flavor = "multi_thread")]
async fn new_files_of_a_store() {
    let store = CountingStore::new(InMemory::new());
    let session = lake(Arc::new(store.clone())).await;
    for day in 1..=3 {
        put(&store, &format!("landing/d{day}.csv"), format!("n\n{day}\n")).await;
    }
    let by_column =
        || NewFiles::by_column(Csv::glob("mem://lake/landing/*.csv").filename_relative_to("mem://lake/landing"));
    let by_history = || NewFiles::by_history(Csv::glob("landing/*.csv").store(Arc::new(store.clone())));
    let load = async || {
        let model = session.model("a.columns").sql("select * from s").strategy(Append::default());
        drop(model.source("s", by_column()).run().await.unwrap());
        let model = session.model("a.history").sql("select n from s").strategy(Append::default());
        drop(model.source("s", by_history()).run().await.unwrap());
        ["a.columns", "a.history"].map(|table| format!("select count(*)::bigint from {table}"))
    };
    for expected in ["3", "3", "4", "4"] {
        for sql in load().await {
            assert_eq!(rows(session.sql(&sql)).await, [expected], "{sql}");
        }
        if expected == "3" {
            put(&store, "landing/empty.csv", "").await;
        }
        if expected == "3" && store.head(&Path::from("landing/later")).await.is_ok() {
            put(&store, "landing/d4.csv", "n\n4\n").await;
        }
        put(&store, "landing/later", "x").await;
    }
    let names = rows(session.sql("select filename from a.columns order by 1")).await;
    assert_eq!(names, ["d1.csv", "d2.csv", "d3.csv", "d4.csv"]);
    store.take();
    let model = session.model("a.columns").sql("select * from s").source("s", by_column()).strategy(Append::default());
    drop(model.run().await.unwrap());
    let opened: Vec<String> =
        store.paths().into_iter().filter(|p| p.contains("landing/d") && p.starts_with("GET")).collect();
    // Nothing is new: the last file is asked for its schema.
    assert!(opened.iter().all(|p| p.contains("d4")), "{opened:?}");
}

/// Parquet by its chunks, CSV once from front to back; a filter on a folder leaves its files alone.
#[tokio::test(flavor = "multi_thread")]
async fn only_what_is_needed_is_fetched() {
    let folder = tempfile::tempdir().unwrap();
    let root = path(folder.path());
    let connection = duckrun::duckdb::Connection::open_in_memory().unwrap();
    for year in [2013, 2014] {
        fs::create_dir_all(folder.path().join(format!("pq/year={year}"))).unwrap();
        let rows = "select i as n, md5(i::varchar) as text, hash(i) as h from range(500000) t(i)";
        let sql = format!("copy ({rows}) to '{root}/pq/year={year}/a.parquet' (format parquet)");
        connection.execute_batch(&sql).unwrap();
    }
    fs::create_dir(folder.path().join("csv")).unwrap();
    let rows = "select i as n, md5(i::varchar) as text from range(1000000) t(i)";
    connection.execute_batch(&format!("copy ({rows}) to '{root}/csv/big.csv' (format csv)")).unwrap();
    fs::create_dir(folder.path().join("json")).unwrap();
    connection.execute_batch(&format!("copy ({rows}) to '{root}/json/big.json' (format json)")).unwrap();
    let size = |name: &str| fs::metadata(folder.path().join(name)).unwrap().len() as f64;
    let (parquet, csv) = (2.0 * size("pq/year=2013/a.parquet"), size("csv/big.csv"));
    assert!(parquet > 30e6 && csv > 35e6, "{parquet} {csv}");

    let store = CountingStore::new(LocalFileSystem::new_with_prefix(folder.path()).unwrap());
    let session = lake(Arc::new(store.clone())).await;
    let pq = || Parquet::folder("mem://lake/pq");
    let mut measured = Vec::new();
    for (what, sql, answer, most) in [
        ("a count", "select count(*)::bigint from s", "1000000", 0.02 * parquet),
        ("a column", "select sum(n)::bigint from s", "249999500000", 0.35 * parquet),
        ("a folder", "select count(distinct text)::bigint from s where year = 2014", "500000", 0.5 * parquet),
        ("a range", "select max(text) from s where n = 77", "28dd2c7955ce926456240b2ff0100bde", 0.25 * parquet),
    ] {
        store.take();
        assert_eq!(read(&session, pq(), sql).await.unwrap(), [answer], "{what}");
        let asked = store.take();
        measured.push(format!("{what}: {} requests, {} of {parquet} bytes", asked.total(), asked.bytes_read));
        assert!((asked.bytes_read as f64) < most, "{measured:?}");
    }
    store.take();
    let sql = "select count(*)::bigint, sum(n)::bigint, count(distinct text)::bigint from s";
    let big = Csv::file("mem://lake/csv/big.csv");
    assert_eq!(read(&session, big, sql).await.unwrap(), ["1000000|499999500000|1000000"]);
    let asked = store.take();
    measured.push(format!("CSV: {} requests, {} of {csv} bytes", asked.total(), asked.bytes_read));
    println!("{measured:#?}");
    // DuckDB sniffs the file whenever it plans: what it reads for that is fetched once.
    assert!((asked.bytes_read as f64) < 1.2 * csv, "{measured:?}");
    let json = size("json/big.json");
    let big = Json::file("mem://lake/json/big.json").lines();
    assert_eq!(read(&session, big, sql).await.unwrap(), ["1000000|499999500000|1000000"]);
    let asked = store.take();
    println!("JSON: {} requests, {} of {json} bytes", asked.total(), asked.bytes_read);
    assert!(json > 50e6 && (asked.bytes_read as f64) < 1.2 * json, "{} of {json}", asked.bytes_read);
}

/// A root is not left, other objects are not opened, a replaced file is not mixed with the old one, and a secret in a URL
/// is refused without being repeated.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_but_what_was_listed_is_read() {
    let store = InMemory::new();
    put(&store, "in/a.csv", "n\n1\n").await;
    put(&store, "other/b.csv", "n\n2\n").await;
    let store: Arc<dyn ObjectStore> = Arc::new(store);
    let session = lake(store.clone()).await;
    let rooted = |at: &str| Csv::at(at).root("mem://lake/in");
    assert_eq!(read(&session, rooted("*.csv"), "select * from s").await.unwrap(), ["1|mem://lake/in/a.csv"]);
    assert_eq!(read(&session, rooted("x/../a.csv"), "select * from s").await.unwrap(), ["1"]);
    for bad in ["../other/b.csv", "mem://lake/other/b.csv", "mem://lake/in/../other/*.csv", "/other/b.csv"] {
        let e = error(&session, rooted(bad)).await;
        assert_eq!(e.kind(), ErrorKind::InvalidInput, "{bad}: {e}");
        assert!(e.message().contains("outside of the root mem://lake/in"), "{bad}: {e}");
    }
    for sql in [
        "select * from read_csv('mem://lake/other/b.csv')",
        "select * from read_csv('duckrun://0/mem://lake/other/b.csv')",
        "select * from read_csv('duckrun://0/mem://lake/in/../other/b.csv')",
        "select * from read_csv('duckrun://7/mem://lake/in/a.csv')",
    ] {
        let both = format!("{sql} union all select n from s");
        let e = read(&session, Csv::file("mem://lake/in/a.csv"), &both).await.unwrap_err();
        assert_eq!(e.kind(), ErrorKind::Query, "{sql}: {e}");
    }
    for (at, says) in [
        ("mem://lake/in/z*.csv", "matches no file: mem://lake/in has 1 file (a.csv)"),
        ("mem://lake/nowhere", "there is neither a file nor a folder"),
        ("mem://lake/in/a.csv/", "1"),
    ] {
        match read(&session, Csv::at(at), "select n from s").await {
            Ok(rows) => assert_eq!(rows, [says], "{at}"),
            Err(e) => {
                assert_eq!(e.kind(), ErrorKind::NotFound, "{e}");
                assert!(e.message().contains(says), "{e}");
            }
        }
    }
    for secret in ["https://acc.blob.core.windows.net/c/x.csv?sv=1&sig=canary", "s3://key:canary@bucket/x.csv"] {
        let e = error(&session, Csv::at(secret)).await;
        assert!(e.message().contains("storage options") && !format!("{e:?}").contains("canary"), "{e:?}");
    }
    let e = error(&session, Csv::at("nowhere://x/y.csv")).await;
    assert_eq!(e.kind(), ErrorKind::InvalidInput, "{e}");
    // Replaced between the listing and the reading, which a statement before the SQL does here.
    put(store.as_ref(), "in/big.csv", format!("n\n{}", "1\n".repeat(200_000))).await;
    let source = Csv::file("mem://lake/in/big.csv").column("n", "BIGINT").header(true);
    let replacing = Replacing(store.clone(), source);
    let e = error(&session, replacing).await;
    assert_eq!(e.kind(), ErrorKind::Unavailable, "{e}");
    assert!(e.message().contains("mem://lake/in/big.csv was replaced"), "{e}");
}

/// Replaces the file that its source has listed.
#[derive(Debug)]
struct Replacing(Arc<dyn ObjectStore>, Csv);

#[async_trait::async_trait]
impl Source for Replacing {
    fn describe(&self) -> String {
        self.1.describe()
    }

    async fn resolve(&self, cx: &duckrun::SourceContext<'_>) -> duckrun::Result<duckrun::Resolved> {
        let resolved = self.1.resolve(cx).await?;
        put(self.0.as_ref(), "in/big.csv", format!("n\n{}", "2\n".repeat(200_000))).await;
        Ok(resolved)
    }
}

/// A caller's own connection reads and changes tables of stores too: files are laid by in the spill folder, and gone after
/// the run.
#[tokio::test(flavor = "multi_thread")]
async fn a_connection_of_the_callers_reads_stores() {
    let store = CountingStore::new(InMemory::new());
    let own = lake(Arc::new(store.clone())).await;
    let sql = "select i as id, i % 7 as p, 'v' || i as v from range(100000) t(i)";
    own.model("a.t")
        .sql(sql)
        .strategy(Overwrite::default())
        .partition_by(["p"])
        .run()
        .await
        .unwrap()
        .committed()
        .map(drop)
        .unwrap();
    let session = connected(Arc::new(store.clone())).await;
    let sum = "select count(*)::bigint, sum(id)::bigint, count(distinct p)::bigint from a.t";
    assert_eq!(rows(session.sql(sum)).await, ["100000|4999950000|7"]);
    let change = "select 5 as id, 5 as p, 'changed' as v union all select 200000, 3, 'new'";
    let merge = session.model("a.t").sql(change).strategy(Merge::on(["id"]));
    merge.run().await.unwrap().committed().map(drop).unwrap();
    let append = session.model("a.t").sql("select max(id) + 1 as id, 1 as p, 'next' as v from this");
    append.strategy(Append::default()).run().await.unwrap().committed().map(drop).unwrap();
    let after = rows(own.sql("select id, p, v from a.t where v not like 'v%' order by id")).await;
    assert_eq!(after, ["5|5|changed", "200000|3|new", "200001|1|next"]);
    // More than the spill folder may hold is refused before it is fetched.
    let mut memory = MemorySettings::default();
    memory.spill.max_bytes = Some(1000);
    let url = Url::parse("mem://lake/tables").unwrap();
    let connection = duckrun::duckdb::Connection::open_in_memory().unwrap();
    let small = Session::open_in(url, Arc::new(store.clone()), Path::from("tables"))
        .governor(own_governor())
        .connection(connection)
        .memory(memory);
    let small = small.await.unwrap();
    store.take();
    let e = small.sql("select count(*) from a.t").collect().await.unwrap_err();
    assert_eq!(e.kind(), ErrorKind::ResourceExhausted, "{e}");
    assert!(store.paths().iter().all(|p| !p.ends_with(".parquet")));
}
