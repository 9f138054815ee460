//! Places in stores by text alone, and listings over a store in memory.

use duckrun_core::StorageOptions;
use duckrun_core::object_store::memory::InMemory;
use proptest::prelude::*;

use super::*;
use crate::Files;
use crate::place::is_url;

fn place(path: &str, root: Option<&str>) -> Result<String> {
    let root = root.map(|root| Place::parse(FsPath::new(root), None).unwrap());
    Place::parse(FsPath::new(path), root.as_ref()).map(|p| p.to_string())
}

#[test]
fn a_url_is_a_bucket_and_a_key_to_the_letter() {
    for (path, root, is) in [
        ("s3://b/in/*.csv", None, "s3://b/in/*.csv"),
        ("s3://b//in/./x/../a%20b.csv", None, "s3://b/in/a%20b.csv"),
        ("abfss://c@acc.dfs.core.windows.net/in/a b?.csv", None, "abfss://c@acc.dfs.core.windows.net/in/a b?.csv"),
        ("s3://b", None, "s3://b/"),
        ("/in/x", None, "in/x"),
        ("x.csv", Some("s3://b/in"), "s3://b/in/x.csv"),
        ("s3://b/in/x.csv", Some("s3://b/in"), "s3://b/in/x.csv"),
        ("/in/x", Some("in"), "in/x"),
        (".", Some("s3://b/in"), "s3://b/in"),
    ] {
        assert_eq!(place(path, root).unwrap(), is, "{path}");
    }
    for (path, root) in [
        ("../x", "s3://b/in"),
        ("s3://other/in/x", "s3://b/in"),
        ("s3://b/inner", "s3://b/in"),
        ("/x", "in"),
        ("a/../../x", "in"),
    ] {
        assert!(place(path, Some(root)).unwrap_err().message().contains("outside of the root"), "{path}");
    }
    for secret in ["s3://k:canary@b/x", "https://a.blob.core.windows.net/c/x?sig=canary"] {
        assert!(!format!("{:?}", place(secret, None).unwrap_err()).contains("canary"));
    }
    for local in ["x/y", "file:///x", "c:\\x", "://x", "a b://x"] {
        assert!(!is_url(FsPath::new(local)), "{local}");
    }
}

async fn listing(keys: &[&str], location: Location) -> Result<Listing> {
    let store = InMemory::new();
    for key in keys {
        let body = if key.ends_with('/') { "" } else { "x" };
        store.put(&Path::parse(key.trim_end_matches('/')).unwrap(), body.into()).await.unwrap();
    }
    let choice = StoreChoice { store: Some(Arc::new(store)), options: StorageOptions::default() };
    let markers = Files::at("x").format.markers();
    let walk = StoreWalk { tables: None, choice: &choice, root: None, markers: &markers, check: &|| Ok(()) };
    walk.list(&location).await.map(|(listing, objects)| {
        for file in &listing.files {
            assert_eq!(objects.get(&file.path).map(|o| o.size), Some(file.size));
        }
        listing
    })
}

fn names(listing: &Listing) -> Vec<&str> {
    listing.files.iter().map(|f| f.path.as_str()).collect()
}

#[tokio::test]
async fn folders_globs_and_tables_are_found_as_on_a_disk() {
    let keys = [
        "in/a.csv",
        "in/b.csv",
        "in/.hidden",
        "in/_tmp/c.csv",
        "in/deep/d.csv",
        "in/deep/er/e.csv",
        "in/marker/",
        "in/marker/f.csv",
        "t/_delta_log/0.json",
        "t/part.parquet",
        "ice/metadata/1.metadata.json",
        "ice/data/x.parquet",
        "many/t/_delta_log/0.json",
        "many/t/x.parquet",
        "many/y.csv",
    ];
    let at = async |path: &str| listing(&keys, Location::At(path.into())).await;
    let all = ["in/a.csv", "in/b.csv", "in/deep/d.csv", "in/deep/er/e.csv", "in/marker/f.csv"];
    assert_eq!(names(&at("in").await.unwrap()), all);
    assert_eq!(at("in").await.unwrap().shape, Shape::Folder);
    assert_eq!(names(&at("in/*.csv").await.unwrap()), ["in/a.csv", "in/b.csv"]);
    assert_eq!(names(&at("in/**/*.csv").await.unwrap()), all);
    assert_eq!(names(&at("in/*/d.csv").await.unwrap()), ["in/deep/d.csv"]);
    assert_eq!(names(&at("in/_*/*.csv").await.unwrap()), ["in/_tmp/c.csv"]);
    assert_eq!(names(&at("in/a.csv").await.unwrap()), ["in/a.csv"]);
    assert_eq!(at("in/a.csv").await.unwrap().shape, Shape::File);
    for (table, format) in [("t", "delta"), ("ice", "iceberg")] {
        let found = at(table).await.unwrap();
        assert_eq!((found.tables[0].path.as_str(), found.tables[0].format.as_str()), (table, format));
        assert!(found.files.is_empty());
    }
    let mixed = at("many").await.unwrap();
    assert_eq!((names(&mixed), mixed.tables[0].path.as_str()), (vec!["many/y.csv"], "many/t"));
    let glob = at("t/*.parquet").await.unwrap();
    assert_eq!(glob.tables[0].format, "delta");
    for (missing, says) in [
        ("nothing", "there is neither a file nor a folder"),
        ("in/*.json", "in has 3 files (.hidden, a.csv, b.csv)"),
        ("gone/*.csv", "is empty, or does not exist"),
        ("*.csv", "has only folders: ice, in, many, t"),
        ("in/[", "is not a glob"),
    ] {
        let e = at(missing).await.unwrap_err().to_string();
        assert!(e.contains(says), "{missing}: {e}");
    }
    let list = Location::List(vec!["many/y.csv".into(), "in/deep/d.csv".into()]);
    assert_eq!(names(&listing(&keys, list).await.unwrap()), ["in/deep/d.csv", "many/y.csv"]);
    for (list, says) in [
        (vec!["in/a.csv".into(), "in/./a.csv".into()], "in the list twice"),
        (vec!["in/a.csv".into(), "in/z.csv".into()], "in/z.csv does not exist"),
        (vec![], "the list of files is empty"),
        (vec!["in/a.csv".into(), "s3://b/z.csv".into()], "different stores"),
    ] {
        let e = listing(&keys, Location::List(list)).await.unwrap_err().to_string();
        assert!(e.contains(says), "{e}");
    }
    assert!(
        listing(&keys, Location::At("s3://b/x".into())).await.unwrap_err().to_string().contains("store of its own")
    );
}

proptest! {
    #[test]
    fn no_path_leaves_its_root(path in "[a-z./]{0,30}") {
        if let Ok(inside) = place(&path, Some("s3://b/in/side")) {
            prop_assert!(format!("{inside}/").starts_with("s3://b/in/side/"), "{inside}");
            prop_assert!(!inside.contains("/../"));
        }
    }
}
