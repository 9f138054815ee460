//! Iceberg tables as pyiceberg writes and reads them: the same rows at every snapshot; what is not read is refused by name.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use duckrun::sources::{Files, Iceberg};
use duckrun::{ErrorKind, MemorySettings, Session, Source, StoreRoot};
use duckrun_testkit::{CountingStore, Emulated, own_governor};
use futures::TryStreamExt;
use object_store::memory::InMemory;
use object_store::path::Path as StorePath;
use object_store::{ObjectStore, ObjectStoreExt};
use serde::Deserialize;
use url::Url;

use super::{read, rows_of};
use crate::emulators::start;
use crate::readers::{installed, skipped};
use crate::support::Lake;

/// What pyiceberg saw of one snapshot.
#[derive(Deserialize)]
struct Seen {
    name: String,
    metadata: PathBuf,
    snapshot: Option<i64>,
    rows: Vec<String>,
}

const ROWS: &str = "select columns(*)::varchar from s";

/// Lets pyiceberg write its tables below a folder, or as `more` says, and returns what it read of them.
fn written(python: &Path, folder: &Path, more: &[&str]) -> Vec<Seen> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("readers/iceberg.py");
    let run = Command::new(python).arg(script).arg(folder).args(more).output().unwrap();
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
    let seen: Vec<Seen> = serde_json::from_slice(&run.stdout).unwrap();
    assert!(seen.len() > 8);
    seen
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_of_pyiceberg_are_read_as_pyiceberg_reads_them() {
    let python = match installed() {
        Ok(python) => python,
        Err(why) => return skipped("Iceberg tables of pyiceberg", &why),
    };
    let lake = Lake::new().await;
    let folder = lake.root().join("ice");
    std::fs::create_dir(&folder).unwrap();
    let seen = written(&python, &folder, &[]);
    for table in &seen {
        let place = format!("{} at {:?}", table.name, table.snapshot);
        let of = |location: &Path| table.snapshot.into_iter().fold(Iceberg::at(location), Iceberg::snapshot_id);
        let mut rows = rows_of(&lake, of(&table.metadata), ROWS).await;
        rows.sort();
        assert_eq!(rows, table.rows, "{place}");
        let root = table.metadata.parent().unwrap().parent().unwrap();
        if table.snapshot.is_none() {
            assert_eq!(rows_of(&lake, Files::at(root), ROWS).await, table.rows, "{place}, inferred");
        }
    }
    // A copy elsewhere is the same table.
    let copied = lake.root().join("copy");
    let original = folder.join("n/evolved");
    assert!(Command::new("cp").arg("-r").args([&original, &copied]).status().unwrap().success());
    std::fs::remove_dir_all(&original).unwrap();
    let evolved = seen.iter().find(|t| t.name == "evolved").unwrap();
    assert_eq!(rows_of(&lake, Files::at(&copied), ROWS).await, evolved.rows);
    let early = Iceberg::at(&copied).as_of(chrono::DateTime::UNIX_EPOCH);
    assert_eq!(read(&lake, early, ROWS).await.unwrap_err().kind(), ErrorKind::NotFound);

    for (name, part) in
        [("equality", "equality deletes"), ("mapped", "name mapping"), ("version_3", "format version 3")]
    {
        let e = read(&lake, Files::at(folder.join("n").join(name)), ROWS).await.unwrap_err();
        assert_eq!(e.kind(), ErrorKind::Unsupported, "{name}: {e}");
        assert!(e.message().contains(part), "{name}: {e}");
    }
    // A failed commit may leave a second file of the newest version: only the catalog knows.
    let metadata = folder.join("n/version_1/metadata");
    let newest = std::fs::read_dir(&metadata)
        .unwrap()
        .map(|e| e.unwrap().path())
        .filter(|p| p.to_string_lossy().ends_with(".metadata.json"))
        .max()
        .unwrap();
    let name = newest.file_name().unwrap().to_str().unwrap();
    std::fs::copy(&newest, metadata.join(format!("{}-another.metadata.json", &name[..5]))).unwrap();
    let e = read(&lake, Files::at(folder.join("n/version_1")), ROWS).await.unwrap_err();
    assert!(e.message().contains("only the catalog knows the current one"), "{e}");
    assert_eq!(rows_of(&lake, Iceberg::at(&newest), ROWS).await, ["1", "2", "3"]);
}

async fn remote(session: &Session, source: impl Source + 'static) -> Result<Vec<String>, duckrun::Error> {
    let mut rows = duckrun_testkit::rows(session.sql(ROWS).source("s", source)).await?;
    rows.sort();
    Ok(rows)
}

/// Tables that pyiceberg has written to an S3, with `s3://` in all of their metadata, are read there; and copies of them in a store
/// that was given, at another path, are read as copies, also by a DuckDB without a file system of ours.
#[tokio::test(flavor = "multi_thread")]
async fn tables_in_stores_are_read_as_pyiceberg_reads_them() {
    let python = match installed() {
        Ok(python) => python,
        Err(why) => return skipped("Iceberg tables of pyiceberg in stores", &why),
    };
    let Some(emulator) = start(Emulated::S3).await else { return };
    let folder = tempfile::tempdir().unwrap();
    let warehouse = emulator.url("ice");
    let seen = written(&python, folder.path(), &[&warehouse, &emulator.endpoint()]);
    let memory = || MemorySettings::with_limit(2 << 30);
    let options = emulator.options("secret");
    let session = Session::open_url(&emulator.url("tables"), &options).unwrap().governor(own_governor());
    let session = session.memory(memory()).writable().await.unwrap();
    let disk = tempfile::tempdir().unwrap();
    let local = Session::open(disk.path()).governor(own_governor()).memory(memory()).writable().await.unwrap();

    // The copy: `ice/n/TABLE/..` becomes `a copy/of 100%25/n/TABLE/..`.
    let bucket = StoreRoot::open(&warehouse, &options).unwrap();
    let copied = CountingStore::new(InMemory::new());
    let objects: Vec<_> = bucket.store().list(Some(bucket.prefix())).try_collect().await.unwrap();
    for object in objects {
        let bytes = bucket.store().get(&object.location).await.unwrap().bytes().await.unwrap();
        let below = object.location.as_ref().strip_prefix("ice/").unwrap();
        copied.put(&StorePath::parse(format!("a copy/of 100%25/{below}")).unwrap(), bytes.into()).await.unwrap();
    }
    let given: Arc<dyn ObjectStore> = Arc::new(copied.clone());
    let injected = |given: Arc<dyn ObjectStore>| {
        Session::open_in(Url::parse("mem://lake/tables").unwrap(), given, StorePath::from("tables"))
            .governor(own_governor())
    };
    let own = injected(given.clone()).memory(memory()).writable().await.unwrap();
    let connection = duckrun::duckdb::Connection::open_in_memory().unwrap();
    let connected = injected(given.clone()).connection(connection).writable().await.unwrap();

    for table in &seen {
        let place = format!("{} at {:?}", table.name, table.snapshot);
        let of = |location: String| table.snapshot.into_iter().fold(Iceberg::at(location), Iceberg::snapshot_id);
        let metadata = table.metadata.to_str().unwrap().to_owned();
        let below = metadata.strip_prefix(&format!("{warehouse}/")).unwrap();
        assert_eq!(remote(&session, of(metadata.clone())).await.unwrap(), table.rows, "{place}");
        let in_the_store = of(format!("a copy/of 100%25/{below}")).store(given.clone());
        assert_eq!(remote(&own, in_the_store.clone()).await.unwrap(), table.rows, "{place}, given");
        assert_eq!(remote(&connected, in_the_store).await.unwrap(), table.rows, "{place}, laid by");
        if table.snapshot.is_some() {
            continue;
        }
        let root = |path: &str| path.rsplitn(3, '/').nth(2).unwrap().to_owned();
        assert_eq!(remote(&session, Files::at(root(&metadata))).await.unwrap(), table.rows, "{place}, inferred");
        let by_options = Files::at(root(&metadata)).storage_options(options.clone());
        assert_eq!(remote(&local, by_options).await.unwrap(), table.rows, "{place}, from a local session");
        let by_url = Files::at(root(&format!("mem://lake/a copy/of 100%25/{below}")));
        assert_eq!(remote(&own, by_url).await.unwrap(), table.rows, "{place}, by the URL of the session's store");
    }
    for (name, part) in
        [("equality", "equality deletes"), ("mapped", "name mapping"), ("version_3", "format version 3")]
    {
        let e = remote(&session, Files::at(format!("{warehouse}/n/{name}"))).await.unwrap_err();
        assert_eq!(e.kind(), ErrorKind::Unsupported, "{name}: {e}");
        assert!(e.message().contains(part) && e.message().contains("s3://lake/ice/n/"), "{name}: {e}");
    }
    // A filter on one column of the copy asks for that column's bytes only, and opens nothing but what the metadata names.
    copied.take();
    let evolved = Files::at("a copy/of 100%25/n/evolved").store(given.clone());
    let max = duckrun_testkit::rows(own.sql("select max(id)::varchar from s").source("s", evolved)).await.unwrap();
    assert_eq!(max, [(1_u64 << 40).to_string()]);
    assert!(copied.paths().iter().all(|p| p.contains("/n/evolved")), "{:?}", copied.paths());
    // A table that is not there, and a location with a root that the table is outside of.
    let e = remote(&session, Iceberg::at(format!("{warehouse}/n/nowhere"))).await.unwrap_err();
    assert_eq!(e.kind(), ErrorKind::NotFound, "{e}");
    let rooted = Files::at(format!("{warehouse}/n/evolved")).root(format!("{warehouse}/n/deletes"));
    let e = remote(&session, rooted).await.unwrap_err();
    assert_eq!(e.kind(), ErrorKind::InvalidInput, "{e}");
}
