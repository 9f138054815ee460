//! Readers of other projects see the tables that we write as we see them: the same types, rows and versions.
//!
//! Three ways to read, in processes of their own: delta-rs with DataFusion, delta-rs with Arrow's C++ library, and DuckDB
//! 1.5.5 with its delta extension (delta-kernel-rs). They come from PyPI into a virtual environment below the target folder;
//! where that cannot be made the test says so and passes. `tests/readers/read.py` is the other half.

mod canonical;
mod tables;

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use duckrun::At;
use duckrun::arrow::array::RecordBatch;
use serde::Deserialize;
use serde_json::{Value as Json, json};

use self::canonical::{schema, value};
use self::tables::{Table, every_type, evolved, partitions, quickstart};
use crate::support::Lake;

const READERS: [&str; 3] = ["datafusion", "pyarrow", "duckdb"];

/// What one reader saw of one version.
#[derive(Deserialize)]
struct Seen {
    schema: Vec<(String, String)>,
    rows: Vec<Json>,
    /// How many rows hold each predicate, where the reader has SQL.
    counts: Option<Vec<i64>>,
    /// What the log says, where the reader tells.
    log: Log,
}

#[derive(Debug, PartialEq, Deserialize)]
struct Log {
    version: Option<u64>,
    partition_by: Option<Vec<String>>,
    comment: Option<String>,
}

#[tokio::test(flavor = "multi_thread")]
async fn other_readers_see_the_same_tables() {
    let python = match installed() {
        Ok(python) => python,
        Err(why) => return skipped("tables as other readers see them", &why),
    };
    let lake = Lake::new().await;
    let mut tables = quickstart(&lake);
    tables.extend([every_type(&lake).await, partitions(&lake).await, evolved(&lake).await]);
    let job: Vec<Json> = tables
        .iter()
        .map(|t| json!({ "name": t.name, "path": lake.folder(t.name), "versions": Vec::from_iter(0..t.versions), "predicates": t.predicates }))
        .collect();
    let job_file = lake.root().join("job.json");
    fs::write(&job_file, serde_json::to_vec(&job).unwrap()).unwrap();
    let mut ours = BTreeMap::new();
    for table in &tables {
        for version in 0..table.versions {
            ours.insert((table.name, version), read(&lake, table, version).await);
        }
    }
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("readers/read.py");
    for reader in READERS {
        let run = Command::new(&python).arg(&script).arg(reader).arg(&job_file).output().unwrap();
        assert!(run.status.success(), "{reader}: {}", String::from_utf8_lossy(&run.stderr));
        let theirs: BTreeMap<String, BTreeMap<String, Seen>> = serde_json::from_slice(&run.stdout).unwrap();
        for table in &tables {
            let theirs = &theirs[table.name];
            for version in 0..table.versions {
                compare(reader, table, version, &theirs[&version.to_string()], &ours[&(table.name, version)]);
            }
            let newest = table.versions - 1;
            compare(reader, table, newest, &theirs["latest"], &ours[&(table.name, newest)]);
        }
    }
}

/// What we see of a version ourselves.
async fn read(lake: &Lake, table: &Table, version: u64) -> Seen {
    let name = table.name;
    let at = |sql: String| lake.session.sql(sql).at(name, At::Version(version));
    let stream = at(format!("select * from {name}")).stream().await.unwrap();
    let schema = schema(stream.schema());
    let batches: Vec<RecordBatch> = stream.collect().await.unwrap();
    let row = |batch: &RecordBatch, row| batch.columns().iter().map(|c| value(c, row)).collect();
    let rows = batches.iter().flat_map(|b| (0..b.num_rows()).map(move |i| row(b, i))).collect();
    let counts: Vec<String> = table.predicates.iter().map(|p| format!("count(*) filter ({p})")).collect();
    let counts = at(format!("select {} from {name}", counts.join(", "))).collect().await.unwrap();
    let counts = counts[0].columns().iter().map(|c| value(c, 0).as_i64().unwrap()).collect();
    let partition_by = Some(table.partition_by.iter().map(|&c| c.to_owned()).collect());
    let log = Log { version: Some(version), partition_by, comment: table.comment.map(ToOwned::to_owned) };
    Seen { schema, rows, counts: Some(counts), log }
}

/// Holds what a reader saw against what we see.
fn compare(reader: &str, table: &Table, version: u64, theirs: &Seen, ours: &Seen) {
    let place = format!("{} v{version} by {reader}", table.name);
    assert_eq!(theirs.schema, ours.schema, "{place}: types");
    if let Some(types) = table.types {
        assert_eq!(Vec::from_iter(theirs.schema.iter().map(|(_, t)| t.as_str())), types, "{place}");
    }
    equal(sorted(&theirs.rows), sorted(&ours.rows), &place);
    for (i, predicate) in table.predicates.iter().enumerate() {
        if let (Some(theirs), Some(ours)) = (&theirs.counts, &ours.counts) {
            assert_eq!(theirs[i], ours[i], "{place}: {predicate}");
        }
    }
    if theirs.log.version.is_some() {
        assert_eq!(theirs.log, ours.log, "{place}");
    }
}

#[allow(clippy::explicit_write, reason = "the test harness would swallow what eprintln! prints")]
pub(crate) fn skipped(what: &str, why: &str) {
    writeln!(std::io::stderr(), "skipped: {what}: {why}").unwrap();
}

fn sorted(rows: &[Json]) -> Vec<String> {
    let mut rows: Vec<String> = rows.iter().map(Json::to_string).collect();
    rows.sort_unstable();
    rows
}

/// Equality that names the first difference instead of printing thousands of rows.
fn equal<T: PartialEq + Debug>(theirs: Vec<T>, ours: Vec<T>, place: &str) {
    let first = theirs.iter().zip(&ours).find(|(theirs, ours)| theirs != ours);
    assert!(first.is_none(), "{place}: (theirs, ours) {first:?}");
    assert_eq!(theirs.len(), ours.len(), "{place}: number of rows");
}

/// The Python of a virtual environment that has what the scripts need, or why there is none.
pub(crate) fn installed() -> Result<PathBuf, String> {
    let requirements = Path::new(env!("CARGO_MANIFEST_DIR")).join("readers/requirements.txt");
    let wanted = fs::read_to_string(&requirements).map_err(|e| e.to_string())?;
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("readers");
    fs::create_dir_all(&folder).map_err(|e| e.to_string())?;
    // One test process at a time makes it; the others wait and find it made.
    let lock = File::create(folder.join("lock")).map_err(|e| e.to_string())?;
    lock.lock().map_err(|e| e.to_string())?;
    let (venv, done) = (folder.join("venv"), folder.join("installed.txt"));
    let python = venv.join(if cfg!(windows) { "Scripts/python.exe" } else { "bin/python" });
    // Written last, so a half-made environment is not taken for a whole one; the environment may also have lost its Python.
    let usable = || run(Command::new(&python).args(["-c", "import deltalake, duckdb, fastavro, pyarrow, pyiceberg"]));
    if fs::read_to_string(&done).is_ok_and(|made| made == wanted) && usable().is_ok() {
        return Ok(python);
    }
    let _ = fs::remove_file(&done);
    let _ = fs::remove_dir_all(&venv);
    let base = if cfg!(windows) { "python" } else { "python3" };
    run(Command::new(base).args(["-m", "venv"]).arg(&venv))?;
    run(Command::new(&python)
        .args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r"])
        .arg(&requirements))?;
    usable()?;
    fs::write(&done, wanted).map_err(|e| e.to_string())?;
    Ok(python)
}

fn run(command: &mut Command) -> Result<(), String> {
    let output = command.output().map_err(|e| format!("{command:?}: {e}"))?;
    let last = || String::from_utf8_lossy(&output.stderr).trim().lines().last().unwrap_or_default().to_owned();
    if output.status.success() { Ok(()) } else { Err(format!("{command:?} failed: {}", last())) }
}
