//! Metadata without data files: what is chosen and what is refused. Whole tables, written by pyiceberg, are read in the
//! integration tests.

use std::fs;
use std::path::Path;

use duckrun_core::ErrorKind;
use duckrun_core::object_store::memory::InMemory;
use duckrun_core::object_store::path::Path as StorePath;
use duckrun_core::object_store::{ObjectStore, ObjectStoreExt};

use super::home::TableFile;
use super::*;
use crate::Files;

fn metadata(version: u32, more: &str) -> String {
    format!(
        r#"{{"format-version": {version}, "location": "file:///old/place", "current-schema-id": 1, "current-snapshot-id": -1,
            "schemas": [
                {{"schema-id": 0, "fields": [{{"id": 7, "name": "st", "type": {{"type": "struct", "fields": [
                    {{"id": 8, "name": "x", "required": false, "type": "int"}}]}}}}]}},
                {{"schema-id": 1, "fields": [{{"id": 1, "name": "n", "type": "decimal(9, 2)"}},
                    {{"id": 2, "name": "t", "type": "time"}}]}}
            ]{more}}}"#
    )
}

fn table(files: &[(&str, String)]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("metadata")).unwrap();
    for (name, text) in files {
        fs::write(dir.path().join("metadata").join(name), text).unwrap();
    }
    dir
}

async fn read(dir: &tempfile::TempDir) -> Result<FileSet> {
    files(&Iceberg::at(dir.path()), None, &|| Ok(())).await
}

/// The same metadata in a store, in a folder with a name that must not be decoded.
async fn read_in_store(texts: &[(&str, String)]) -> Result<FileSet> {
    let store = InMemory::new();
    for (name, text) in texts {
        let path = StorePath::parse(format!("ice/a%20b/metadata/{name}")).unwrap();
        store.put(&path, text.clone().into()).await.unwrap();
    }
    let store: Arc<dyn ObjectStore> = Arc::new(store);
    let by_folder = files(&Iceberg::at("ice/a%20b").store(store.clone()), None, &|| Ok(())).await;
    if let (Ok(set), [(name, _)]) = (&by_folder, texts) {
        let by_file = Iceberg::at(format!("ice/a%20b/metadata/{name}")).store(store);
        assert_eq!(files(&by_file, None, &|| Ok(())).await.unwrap().schema, set.schema);
    }
    by_folder
}

#[tokio::test]
async fn a_table_without_snapshot_has_its_schema_and_no_rows() {
    let files = [("v1.metadata.json", metadata(2, ""))];
    for set in [read(&table(&files)).await.unwrap(), read_in_store(&files).await.unwrap()] {
        let columns: Vec<String> =
            set.schema.fields().iter().map(|f| format!("{} {}", f.name(), f.data_type())).collect();
        assert_eq!(columns, ["n Decimal128(9, 2)", "t Utf8"]);
        assert_eq!(set.columns[1].source, ColumnSource::FieldId(2));
        assert!(set.files.is_empty());
    }
}

#[tokio::test]
async fn the_newest_metadata_is_the_hinted_one_or_the_one_of_the_highest_number() {
    let broken = "not JSON".to_owned();
    let hinted = [
        ("v1.metadata.json", metadata(2, "")),
        ("v2.metadata.json", broken.clone()),
        ("version-hint.text", "1".to_owned()),
    ];
    let numbered = [("00009-a.metadata.json", broken.clone()), ("00010-b.metadata.json", metadata(1, ""))];
    let stale = [("v3.metadata.json", metadata(2, "")), ("version-hint.text", "2".to_owned())];
    for files in [&hinted[..], &numbered, &stale] {
        assert!(read(&table(files)).await.is_ok());
        assert!(read_in_store(files).await.is_ok());
    }
    let twice = [("00002-a.metadata.json", broken.clone()), ("00002-b.metadata.json", broken)];
    for (files, kind) in [(&[][..], ErrorKind::NotFound), (&twice[..], ErrorKind::InvalidInput)] {
        for e in [read(&table(files)).await.unwrap_err(), read_in_store(files).await.unwrap_err()] {
            assert_eq!(e.kind(), kind, "{e}");
        }
    }
}

#[tokio::test]
async fn what_could_be_misread_is_refused_by_name() {
    for (text, part) in [
        (metadata(3, ""), "format version 3"),
        (metadata(2, r#", "properties": {"schema.name-mapping.default": "[]"}"#), "name mapping"),
        (metadata(2, "").replace("\"time\"", "\"timestamp_ns\""), "\"t\" has Iceberg's type \"timestamp_ns\""),
        (
            metadata(2, "")
                .replace(r#""name": "t", "type": "time""#, r#""name": "t", "type": {"type": "list", "element": "int"}"#)
                .replace(r#""id": 7, "name": "st""#, r#""id": 2, "name": "st""#),
            "the fields inside the column \"t\"",
        ),
    ] {
        let files = [("v1.metadata.json", text)];
        for e in [read(&table(&files)).await.unwrap_err(), read_in_store(&files).await.unwrap_err()] {
            assert_eq!(e.kind(), ErrorKind::Unsupported, "{e}");
            assert!(e.message().contains(part), "{part}: {e}");
        }
    }
    let broken = [("v1.metadata.json", "{}".to_owned())];
    for e in [read(&table(&broken)).await.unwrap_err(), read_in_store(&broken).await.unwrap_err()] {
        assert_eq!(e.kind(), ErrorKind::Corrupt, "{e}");
    }
    let folder = table(&[]);
    fs::write(folder.path().join("metadata/v1.gz.metadata.json"), [0x1f, 0x8b, 8, 0]).unwrap();
    let e = read(&folder).await.unwrap_err();
    assert!(e.message().contains("is compressed"), "{e}");
}

#[test]
fn paths_are_taken_below_the_folder_and_never_outside() {
    let home = Home { folder: Folder::Disk("/new/place".into()), location: "file:///old/place/".into() };
    for path in [
        "file:///old/place/data/a b%20.parquet",
        "file:/old/place/data/a b%20.parquet",
        "/old/place/data/a b%20.parquet",
    ] {
        let file = TableFile::Disk(Path::new("/new/place/data/a b%20.parquet").to_owned());
        assert_eq!(home.resolve(path).unwrap(), file);
    }
    for path in
        ["/old/place/../secret", "/old/places/a", "/etc/passwd", "s3://b/old/place/a", "/old/place//etc/x/../../y"]
    {
        assert_eq!(home.resolve(path).unwrap_err().kind(), ErrorKind::Unsupported, "{path}");
    }
}

/// Opens every URL on one store, at its path.
#[derive(Debug)]
struct OneStore;

impl TableOpener for OneStore {
    fn open(&self, _: &str, _: &str, _: &StorageOptions) -> Result<Arc<dyn duckrun_core::TableStore>> {
        Err(Error::unsupported("no tables"))
    }

    fn open_store(&self, url: &url::Url, _: &StorageOptions) -> Result<duckrun_core::OpenedStore> {
        let path = StorePath::from_url_path(url.path()).unwrap();
        Ok(duckrun_core::OpenedStore { store: Arc::new(InMemory::new()), path })
    }
}

async fn in_store(at: &str, location: &str, root: Option<&str>) -> Home {
    let root = root.map(|root| Place::parse(Path::new(root), None).unwrap());
    let (folder, _) =
        Folder::open(Path::new(at), &StoreChoice::default(), root.as_ref(), Some(&OneStore)).await.unwrap();
    Home { folder, location: location.to_owned() }
}

#[tokio::test]
async fn in_a_store_paths_are_taken_below_the_folder_or_in_the_same_store() {
    let file = |key: &str| TableFile::Store(StorePath::parse(key).unwrap());
    let copy = in_store("s3://b/new/place", "s3a://old/place", None).await;
    for (path, key) in [
        ("s3a://old/place/data/c=a%20b/x +.parquet", "new/place/data/c=a%20b/x +.parquet"),
        ("s3://old/place/x", "new/place/x"),
        ("s3n://b/elsewhere/x", "elsewhere/x"),
    ] {
        assert_eq!(copy.resolve(path).unwrap(), file(key), "{path}");
    }
    let rooted = in_store("s3://b/new/place", "s3://b/new/place", Some("s3://b/new")).await;
    assert_eq!(rooted.resolve("s3://b/new/other/x").unwrap(), file("new/other/x"));
    for (home, path, says) in [
        (&copy, "s3://old/places/x", "not in the store of s3://b/new/place"),
        (&copy, "gs://b/new/place/x", "not in the store"),
        (&copy, "file:///etc/passwd", "not in the store"),
        (&copy, "/etc/passwd", "not in the store"),
        (&copy, "s3://old/place/../x", "no path of a store"),
        (&copy, "s3://old/place/a//x", "no path of a store"),
        (&rooted, "s3://b/else/x", "outside of the root s3://b/new"),
        (&rooted, "s3://b/new/../else/x", "no path of a store"),
    ] {
        let e = home.resolve(path).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::Unsupported, "{path}: {e}");
        assert!(e.message().contains(path) && e.message().contains(says), "{path}: {e}");
    }
    // The engine decodes a path once, and has the key again.
    let (path, url) = copy.address("x", &file("new/place/a%20b")).unwrap();
    assert_eq!((path.as_str(), url.as_str()), ("new/place/a%2520b", "s3://b/new/place/a%2520b"));
}

#[tokio::test]
async fn a_folder_of_a_store_with_iceberg_s_metadata_is_inferred() {
    let store = InMemory::new();
    store.put(&StorePath::from("ice/t/metadata/v1.metadata.json"), metadata(2, "").into()).await.unwrap();
    let inspected = Files::at("ice/t").store(Arc::new(store)).inspect().await.unwrap();
    assert_eq!(inspected.inferred.format, "iceberg");
}
