//! Metadata without data files: what is chosen and what is refused. Whole tables, written by pyiceberg, are read in the
//! integration tests.

use std::fs;

use duckrun_core::ErrorKind;

use super::*;

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

fn read(dir: &tempfile::TempDir) -> Result<FileSet> {
    files(&Iceberg::at(dir.path()), &|| Ok(()))
}

#[test]
fn a_table_without_snapshot_has_its_schema_and_no_rows() {
    let set = read(&table(&[("v1.metadata.json", metadata(2, ""))])).unwrap();
    let columns: Vec<String> = set.schema.fields().iter().map(|f| format!("{} {}", f.name(), f.data_type())).collect();
    assert_eq!(columns, ["n Decimal128(9, 2)", "t Utf8"]);
    assert_eq!(set.columns[1].source, ColumnSource::FieldId(2));
    assert!(set.files.is_empty());
}

#[test]
fn the_newest_metadata_is_the_hinted_one_or_the_one_of_the_highest_number() {
    let broken = "not JSON".to_owned();
    let hinted = [
        ("v1.metadata.json", metadata(2, "")),
        ("v2.metadata.json", broken.clone()),
        ("version-hint.text", "1".to_owned()),
    ];
    assert!(read(&table(&hinted)).is_ok());
    let numbered = [("00009-a.metadata.json", broken), ("00010-b.metadata.json", metadata(1, ""))];
    assert!(read(&table(&numbered)).is_ok());
    let e = read(&table(&[])).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::NotFound, "{e}");
}

#[test]
fn what_could_be_misread_is_refused_by_name() {
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
        let e = read(&table(&[("v1.metadata.json", text)])).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::Unsupported, "{e}");
        assert!(e.message().contains(part), "{part}: {e}");
    }
    let e = read(&table(&[("v1.metadata.json", "{}".to_owned())])).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Corrupt, "{e}");
}

#[test]
fn paths_are_taken_below_the_folder_and_never_outside() {
    let places = Places { folder: "/new/place".into(), location: "file:///old/place/".into() };
    for path in [
        "file:///old/place/data/a b%20.parquet",
        "file:/old/place/data/a b%20.parquet",
        "/old/place/data/a b%20.parquet",
    ] {
        assert_eq!(places.resolve(path).unwrap(), Path::new("/new/place/data/a b%20.parquet"));
    }
    for path in
        ["/old/place/../secret", "/old/places/a", "/etc/passwd", "s3://b/old/place/a", "/old/place//etc/x/../../y"]
    {
        assert_eq!(places.resolve(path).unwrap_err().kind(), ErrorKind::Unsupported, "{path}");
    }
}
