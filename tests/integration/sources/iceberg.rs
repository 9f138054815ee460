//! Iceberg tables as pyiceberg writes and reads them: the same rows at every snapshot; what is not read is refused by name.

use std::path::{Path, PathBuf};
use std::process::Command;

use duckrun::ErrorKind;
use duckrun::sources::{Files, Iceberg};
use serde::Deserialize;

use super::{read, rows_of};
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

#[tokio::test(flavor = "multi_thread")]
async fn tables_of_pyiceberg_are_read_as_pyiceberg_reads_them() {
    let python = match installed() {
        Ok(python) => python,
        Err(why) => return skipped("Iceberg tables of pyiceberg", &why),
    };
    let lake = Lake::new().await;
    let folder = lake.root().join("ice");
    std::fs::create_dir(&folder).unwrap();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("readers/iceberg.py");
    let run = Command::new(&python).arg(script).arg(&folder).output().unwrap();
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
    let seen: Vec<Seen> = serde_json::from_slice(&run.stdout).unwrap();
    assert!(seen.len() > 8);
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
