//! Readers of other projects see the tables that we write as we see them: the same types, rows and versions.
//!
//! Three ways to read, in processes of their own: delta-rs with DataFusion, delta-rs with Arrow's C++ library, and DuckDB
//! 1.5.5 with its delta extension (delta-kernel-rs). They come from PyPI into a virtual environment below the target folder;
//! where that cannot be made the test says so and passes. `tests/readers/read.py` is the other half.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use duckrun::arrow::array::{Array, AsArray, RecordBatch};
use duckrun::arrow::datatypes::{
    DataType, Date32Type, Decimal128Type, Field, Float32Type, Float64Type, Int8Type, Int16Type, Int32Type, Int64Type,
    Schema, TimeUnit, TimestampMicrosecondType,
};
use duckrun::sources::Csv;
use duckrun::{Append, At, Model, Overwrite, SafeAppend, SchemaChange};
use serde::Deserialize;
use serde_json::{Value as Json, json};

use crate::support::Lake;

const READERS: [&str; 3] = ["datafusion", "pyarrow", "duckdb"];

/// What one reader saw of one version.
#[derive(Deserialize)]
struct Seen {
    schema: Vec<(String, String)>,
    rows: Vec<Json>,
    /// How many rows hold each predicate, where the reader has SQL.
    counts: Option<Vec<u64>>,
    /// What the log says, where the reader tells.
    log: Log,
}

#[derive(Deserialize)]
struct Log {
    version: Option<u64>,
    partition_by: Option<Vec<String>>,
    comment: Option<String>,
}

/// A table to compare, with predicates that mean the same in every SQL.
struct Table {
    name: &'static str,
    versions: u64,
    partition_by: &'static [&'static str],
    comment: Option<&'static str>,
    predicates: &'static [&'static str],
}

#[tokio::test(flavor = "multi_thread")]
async fn other_readers_see_the_same_tables() {
    let python = match installed() {
        Ok(python) => python,
        Err(why) => {
            // Not `eprintln!`: the test harness would swallow it.
            writeln!(std::io::stderr(), "skipped: other_readers_see_the_same_tables: {why}").unwrap();
            return;
        }
    };
    let lake = Lake::new().await;
    let tables = [flights(&lake).await, every_type(&lake).await, partitions(&lake).await, evolved(&lake).await];
    let job: Vec<Json> = tables
        .iter()
        .map(|t| json!({ "name": t.name, "path": lake.folder(t.name), "versions": Vec::from_iter(0..t.versions), "predicates": t.predicates }))
        .collect();
    let job_file = lake.root().join("job.json");
    fs::write(&job_file, serde_json::to_vec(&job).unwrap()).unwrap();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("readers/read.py");
    for reader in READERS {
        let run = Command::new(&python).arg(&script).arg(reader).arg(&job_file).output().unwrap();
        assert!(run.status.success(), "{reader}: {}", String::from_utf8_lossy(&run.stderr));
        let mut theirs: BTreeMap<String, BTreeMap<String, Seen>> = serde_json::from_slice(&run.stdout).unwrap();
        for table in &tables {
            let mut theirs = theirs.remove(table.name).unwrap();
            for version in 0..table.versions {
                compare(&lake, table, version, &theirs.remove(&version.to_string()).unwrap(), reader).await;
            }
            compare(&lake, table, table.versions - 1, &theirs.remove("latest").unwrap(), reader).await;
        }
    }
}

/// Holds what a reader saw against what we read of the same version.
async fn compare(lake: &Lake, table: &Table, version: u64, theirs: &Seen, reader: &str) {
    let name = table.name;
    let place = format!("{name} v{version} by {reader}");
    let at = |sql: String| lake.session.sql(sql).at(name, At::Version(version));
    let stream = at(format!("select * from {name}")).stream().await.unwrap();
    assert_eq!(theirs.schema, schema(stream.schema()), "{place}: types");
    let batches: Vec<RecordBatch> = stream.collect().await.unwrap();
    let ours =
        batches.iter().flat_map(|b| (0..b.num_rows()).map(|row| b.columns().iter().map(|c| value(c, row)).collect()));
    equal(sorted(&theirs.rows), sorted(&Vec::from_iter(ours)), &place);
    if let Some(counts) = &theirs.counts {
        for (predicate, count) in table.predicates.iter().zip(counts) {
            let ours = duckrun_testkit::column_i64(at(format!("select count(*) from {name} where {predicate}")))
                .await
                .unwrap();
            assert_eq!(ours, [i64::try_from(*count).unwrap()], "{place}: {predicate}");
        }
    }
    if let Some(seen) = theirs.log.version {
        assert_eq!(seen, version, "{place}");
        assert_eq!(theirs.log.partition_by.as_deref().unwrap(), table.partition_by, "{place}");
        assert_eq!(theirs.log.comment.as_deref(), table.comment, "{place}");
    }
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

async fn commits(model: Model) {
    let _committed = model.run().await.unwrap().committed().unwrap();
}

/// The quickstart's table: real data, three arrivals.
async fn flights(lake: &Lake) -> Table {
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/data/flights");
    let landing = lake.root().join("landing");
    fs::create_dir(&landing).unwrap();
    for days in [1..=10, 11..=20, 21..=31] {
        for day in days {
            let file = format!("flights-2013-01-{day:02}.csv");
            fs::copy(data.join(&file), landing.join(&file)).unwrap();
        }
        let files =
            Csv::glob(format!("{}/*.csv", landing.display())).null_strings(["NA"]).filename_relative_to(&landing);
        let model = lake.session.model("mart.flights").source("landing", files);
        let model = model.first_sql("select * from landing");
        let model = model.sql("select * from landing where filename not in (select filename from this)");
        commits(model.strategy(SafeAppend).comment("Flights out of New York City")).await;
    }
    Table {
        name: "mart.flights",
        versions: 3,
        partition_by: &[],
        comment: Some("Flights out of New York City"),
        predicates: &[
            "dep_delay > 60",
            "dep_time is null",
            "carrier = 'UA'",
            "day > 25",
            "filename = 'flights-2013-01-15.csv'",
        ],
    }
}

/// Every type that Delta has, at its limits, with NULLs, in several versions.
async fn every_type(lake: &Lake) -> Table {
    let low = "select 0::bigint as id, true as bool, (-128)::tinyint as i1, (-32768)::smallint as i2, \
        (-2147483648)::integer as i4, (-9223372036854775807 - 1)::bigint as i8, '-inf'::float as f4, (-0.0)::double as f8, \
        (-99999.9999)::decimal(9,4) as d9, (-9999999999999999.99)::decimal(18,2) as d18, \
        '-99999999999999999999999999999999999999'::decimal(38,0) as d38, '' as text, ''::blob as bytes, \
        date '0001-01-01' as day, timestamptz '0001-01-01 00:00:00+00' as ts, timestamp '0001-01-01 00:00:00' as ntz, \
        {'a': 1::integer, 'b': 'x', 'c': {'d': date '1969-12-31'}} as st, [1, null, 3]::integer[] as list, \
        map {'k': 1.5::decimal(9,4), 'l': null} as pairs, [{'a': ['x', null]}, null] as deep, \
        [map {1::bigint: timestamp '1969-12-31 23:59:59.999999'}] as maps";
    let high = "select 1, false, 127, 32767, 2147483647, 9223372036854775807, 'nan'::float, 1.7976931348623157e308, \
        99999.9999, 9999999999999999.99, '99999999999999999999999999999999999999'::decimal(38,0), \
        '\u{10ffff} \"quoted\" \\ line\nbreak 日本', '\\x00\\xFF'::blob, date '9999-12-31', \
        timestamptz '9999-12-31 23:59:59.999999+00', timestamp '9999-12-31 23:59:59.999999', \
        {'a': null, 'b': null, 'c': null}, [], map {}, [], [null]";
    let nulls = format!("select 2, {}", ["null"; 20].join(", "));
    let first = format!("{low} union all {high} union all {nulls}");
    commits(lake.session.model("mart.types").sql(first.clone()).strategy(Overwrite::default())).await;
    commits(
        lake.session
            .model("mart.types")
            .sql(format!("select * replace (id + 10 as id) from ({first})"))
            .strategy(Append::default()),
    )
    .await;
    commits(lake.session.model("mart.types").sql("select * replace (id + 100 as id) from this").strategy(SafeAppend))
        .await;
    commits(lake.session.model("mart.types").sql("select * from this where id % 2 = 0").strategy(Overwrite::default()))
        .await;
    Table {
        name: "mart.types",
        versions: 4,
        partition_by: &[],
        comment: None,
        predicates: &[
            "id >= 10",
            "bool",
            "i1 = 127",
            "i2 < 0",
            "i4 > 0",
            "i8 = 9223372036854775807",
            "f8 >= 1e308",
            "d9 = -99999.9999",
            "d18 > 9999999999999999.98",
            "d38 > 0",
            "text = ''",
            "text > 'zzz'",
            "day = date '9999-12-31'",
            "day is null",
            "ts > timestamptz '2000-01-01 00:00:00+00'",
            "ntz >= timestamp '2200-01-01 00:00:00'",
        ],
    }
}

/// Partition values of several types, NULLs and characters that need escaping among them.
async fn partitions(lake: &Lake) -> Table {
    let sql = "select range::bigint as n, \
        case range % 5 when 0 then null when 1 then 'a b/c' when 2 then 'x=%25&é' when 3 then '日本:#?' else 'plain' end as place, \
        case range % 3 when 0 then null else date '1969-12-30' + (range % 3)::integer end as day, \
        case range % 4 when 0 then null else range % 2 = 0 end as flag, (range % 2)::smallint as half, \
        (range % 2 - 0.5)::decimal(10,3) as part, timestamp '2024-02-29 12:00:00.000001' + interval (range % 2) day as moment, \
        range % 7 as value from range(120)";
    let by = &["place", "day", "flag", "half", "part", "moment"];
    commits(lake.session.model("mart.parts").sql(sql).partition_by(*by).strategy(Overwrite::default())).await;
    commits(
        lake.session
            .model("mart.parts")
            .sql("select * replace (n + 1000 as n) from this where half = 1")
            .strategy(SafeAppend),
    )
    .await;
    Table {
        name: "mart.parts",
        versions: 2,
        partition_by: by,
        comment: None,
        predicates: &[
            "place = 'x=%25&é'",
            "place is null",
            "day = date '1969-12-31'",
            "flag",
            "part < 0",
            "n >= 1000",
            "half = 0 and value = 3",
        ],
    }
}

/// A table that gains columns: old files lack them.
async fn evolved(lake: &Lake) -> Table {
    let model =
        |sql: &str| lake.session.model("mart.evolved").sql(sql).on_schema_change(SchemaChange::AppendNewColumns);
    commits(model("select range as n, 'old' as s from range(10)").strategy(Append::default())).await;
    commits(
        model("select range as n, 'new' as s, range / 4 as quarter, [range] as list from range(10, 20)")
            .strategy(Append::default()),
    )
    .await;
    commits(model("select range as n from range(20, 25)").strategy(Append::default())).await;
    Table {
        name: "mart.evolved",
        versions: 3,
        partition_by: &[],
        comment: None,
        predicates: &["n > 8", "s is null", "s = 'old'"],
    }
}

/// Columns with the names of their Delta types.
fn schema(schema: &Schema) -> Vec<(String, String)> {
    schema.fields().iter().map(|f| (f.name().clone(), type_name(f.data_type()))).collect()
}

fn type_name(data_type: &DataType) -> String {
    let of = |field: &Field| type_name(field.data_type());
    match data_type {
        DataType::Boolean => "boolean".to_owned(),
        DataType::Int8 => "byte".to_owned(),
        DataType::Int16 => "short".to_owned(),
        DataType::Int32 => "integer".to_owned(),
        DataType::Int64 => "long".to_owned(),
        DataType::Float32 => "float".to_owned(),
        DataType::Float64 => "double".to_owned(),
        DataType::Decimal128(precision, scale) => format!("decimal({precision},{scale})"),
        DataType::Utf8 => "string".to_owned(),
        DataType::Binary => "binary".to_owned(),
        DataType::Date32 => "date".to_owned(),
        DataType::Timestamp(TimeUnit::Microsecond, Some(_)) => "timestamp".to_owned(),
        DataType::Timestamp(TimeUnit::Microsecond, None) => "timestamp_ntz".to_owned(),
        DataType::List(element) => format!("array<{}>", of(element)),
        DataType::Map(entries, _) => {
            let DataType::Struct(entry) = entries.data_type() else { panic!("a map of {entries}") };
            format!("map<{},{}>", of(&entry[0]), of(&entry[1]))
        }
        DataType::Struct(fields) => {
            let fields: Vec<String> = fields.iter().map(|f| format!("{}:{}", f.name(), of(f))).collect();
            format!("struct<{}>", fields.join(","))
        }
        other => panic!("a query of ours gave {other}"),
    }
}

/// A value as `read.py` prints it.
fn value(array: &dyn Array, row: usize) -> Json {
    if array.is_null(row) {
        return Json::Null;
    }
    match array.data_type() {
        DataType::Boolean => array.as_boolean().value(row).into(),
        DataType::Int8 => array.as_primitive::<Int8Type>().value(row).into(),
        DataType::Int16 => array.as_primitive::<Int16Type>().value(row).into(),
        DataType::Int32 => array.as_primitive::<Int32Type>().value(row).into(),
        DataType::Int64 => array.as_primitive::<Int64Type>().value(row).into(),
        DataType::Float32 => match array.as_primitive::<Float32Type>().value(row) {
            v if v.is_nan() => "NaN".into(),
            v => format!("{:08x}", v.to_bits()).into(),
        },
        DataType::Float64 => match array.as_primitive::<Float64Type>().value(row) {
            v if v.is_nan() => "NaN".into(),
            v => format!("{:016x}", v.to_bits()).into(),
        },
        DataType::Decimal128(..) => array.as_primitive::<Decimal128Type>().value_as_string(row).into(),
        DataType::Utf8 => array.as_string::<i32>().value(row).into(),
        DataType::Binary => {
            Json::String(array.as_binary::<i32>().value(row).iter().map(|b| format!("{b:02x}")).collect())
        }
        DataType::Date32 => array.as_primitive::<Date32Type>().value(row).into(),
        DataType::Timestamp(..) => array.as_primitive::<TimestampMicrosecondType>().value(row).into(),
        DataType::List(_) => every(&array.as_list::<i32>().value(row)),
        DataType::Map(..) => every(&array.as_map().value(row)),
        DataType::Struct(_) => array.as_struct().columns().iter().map(|c| value(c, row)).collect(),
        other => panic!("a query of ours gave {other}"),
    }
}

fn every(array: &dyn Array) -> Json {
    (0..array.len()).map(|row| value(array, row)).collect()
}

/// The Python of a virtual environment that has what `read.py` needs, or why there is none.
fn installed() -> Result<PathBuf, String> {
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
    let usable = || run(Command::new(&python).args(["-c", "import deltalake, duckdb, pyarrow"]));
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
