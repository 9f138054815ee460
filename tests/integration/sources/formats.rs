//! Folders of every format, read through what was inferred.

use std::fs::File;
use std::sync::Arc;

use arrow_ipc::CompressionType;
use arrow_ipc::writer::{FileWriter, IpcWriteOptions, StreamWriter};
use duckrun::arrow::array::{
    ArrayRef, Date64Array, Decimal128Array, DictionaryArray, FixedSizeBinaryArray, Float32Array, Int32Array,
    Int64Array, LargeStringArray, ListArray, RecordBatch, StringArray, StringViewArray, StructArray,
    Time64MicrosecondArray, TimestampNanosecondArray, TimestampSecondArray, UInt64Array,
};
use duckrun::arrow::compute::cast;
use duckrun::arrow::datatypes::{DataType, Field, Int32Type};
use duckrun::sources::{ArrowIpc, Csv, Delta, Files, Json, NewFiles, Parquet};
use duckrun::{At, CommitOutcome};

use super::{error_of, file, path, read, rows_of};
use crate::support::Lake;

fn numbers(values: &[i64]) -> RecordBatch {
    let texts: Vec<String> = values.iter().map(|n| format!("s{n}")).collect();
    RecordBatch::try_from_iter_with_nullable(vec![
        ("n", Arc::new(Int64Array::from(values.to_vec())) as ArrayRef, true),
        ("s", Arc::new(StringArray::from(texts)) as ArrayRef, true),
    ])
    .unwrap()
}

fn arrow_file(lake: &Lake, at: &str, batches: &[RecordBatch], compression: Option<CompressionType>) {
    let at = file(lake, at, "");
    let options = IpcWriteOptions::default().try_with_compression(compression).unwrap();
    let mut writer =
        FileWriter::try_new_with_options(File::create(at).unwrap(), &batches[0].schema(), options).unwrap();
    batches.iter().for_each(|b| writer.write(b).unwrap());
    writer.finish().unwrap();
}

fn arrow_stream(lake: &Lake, at: &str, batches: &[RecordBatch]) {
    let at = file(lake, at, "");
    let mut writer = StreamWriter::try_new(File::create(at).unwrap(), &batches[0].schema()).unwrap();
    batches.iter().for_each(|b| writer.write(b).unwrap());
    writer.finish().unwrap();
}

/// Two files of four rows below `arrow`, one of either format.
pub(super) fn arrow_folder(lake: &Lake) {
    arrow_file(lake, "arrow/a.arrow", &[numbers(&[1, 2]), numbers(&[3])], Some(CompressionType::ZSTD));
    arrow_stream(lake, "arrow/b.feather", &[numbers(&[4])]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_of_each_kind_is_read_by_what_it_is() {
    let lake = Lake::new().await;
    file(&lake, "csv/a.csv", "n,s\n1,a\n");
    file(&lake, "csv/b.csv", "n,s\n2,b\n");
    file(&lake, "tsv/a.tsv", "n\ts\n1\ta,b\n");
    file(&lake, "lines/a.ndjson", "{\"n\": 1, \"s\": \"a\"}\n{\"n\": 2, \"s\": null}\n");
    file(&lake, "array/a.json", "[{\"n\": 1, \"s\": \"a\"}, {\"n\": 2, \"s\": \"b\"}]");
    let pq = |n: u32| {
        format!(
            "copy (select {n}::bigint as n, 'x' as s) to '{}' (format parquet)",
            path(&lake.root().join(format!("pq/year=201{n}/a.parquet")))
        )
    };
    for n in 1..3 {
        file(&lake, &format!("pq/year=201{n}/a.parquet"), "");
        duckdb::Connection::open_in_memory().unwrap().execute_batch(&pq(n)).unwrap();
    }
    arrow_file(&lake, "arrow/a.arrow", &[numbers(&[1]), numbers(&[2])], None);
    lake.put("a.t", "select 1::bigint as n, 'x' as s").await;
    let at = |folder: &str| Files::at(lake.root().join(folder));
    let name = |file: &str| path(&lake.root().join(file));
    for (folder, expected) in [
        ("csv", vec![format!("1|a|{}", name("csv/a.csv")), format!("2|b|{}", name("csv/b.csv"))]),
        ("tsv", vec![format!("1|a,b|{}", name("tsv/a.tsv"))]),
        ("lines", vec![format!("1|a|{}", name("lines/a.ndjson")), format!("2|NULL|{}", name("lines/a.ndjson"))]),
        ("array", vec![format!("1|a|{}", name("array/a.json")), format!("2|b|{}", name("array/a.json"))]),
        ("arrow", vec![format!("1|s1|{}", name("arrow/a.arrow")), format!("2|s2|{}", name("arrow/a.arrow"))]),
        (
            "pq",
            vec![
                format!("1|x|{}|2011", name("pq/year=2011/a.parquet")),
                format!("2|x|{}|2012", name("pq/year=2012/a.parquet")),
            ],
        ),
        ("a/t", vec!["1|x".to_owned()]),
    ] {
        assert_eq!(rows_of(&lake, at(folder), "select * from s").await, expected, "{folder}");
    }
    // The forced ones, one file each: no column with the file's name.
    let one = |f: &str| lake.root().join(f);
    assert_eq!(rows_of(&lake, Csv::file(one("csv/a.csv")), "select * from s").await, ["1|a"]);
    assert_eq!(rows_of(&lake, Json::file(one("array/a.json")), "select * from s").await, ["1|a", "2|b"]);
    assert_eq!(rows_of(&lake, Parquet::file(one("pq/year=2011/a.parquet")), "select n from s").await, ["1"]);
    assert_eq!(rows_of(&lake, ArrowIpc::file(one("arrow/a.arrow")), "select * from s").await, ["1|s1", "2|s2"]);
}

/// With the dialect stated the columns are sniffed once, where all headers are the same; the rows must be as ever.
#[tokio::test(flavor = "multi_thread")]
async fn a_stated_dialect_reads_what_a_sniffed_one_reads() {
    let lake = Lake::new().await;
    let write = |folder: &str, files: &[&str]| {
        for (i, content) in files.iter().enumerate() {
            file(&lake, &format!("{folder}/{i}.csv"), content);
        }
        lake.root().join(folder)
    };
    let day = "n,s,day,at\n1,plain,2020-12-25,2020-12-25 10:00:00.5\n";
    let quoted = "n,s,day,at\r\n2,\"a, b \"\"c\"\"\",,\r\n";
    for (folder, files, expected) in [
        // One header, one type, quotes in the second file only.
        ("same", vec![day, quoted], vec!["1|plain|2020-12-25|2020-12-25T10:00:00.500", "2|a, b \"c\"|NULL|NULL"]),
        ("quotes", vec!["n,s\n1,a\n", "n,s\n2,\"b, \"\"x\"\"\"\n"], vec!["1|a", "2|b, \"x\""]),
        // Text in a later file makes the column text for all.
        ("types", vec!["a\n1\n", "a\nx\n"], vec!["1", "x"]),
        ("dates", vec!["d\n25/12/2020\n", "d\n26/12/2020\n"], vec!["2020-12-25", "2020-12-26"]),
        // Other orders and additions are matched by name, not by position.
        ("order", vec!["a,b\nx,y\n", "b,a\nw,v\n"], vec!["v|w", "x|y"]),
        ("more", vec!["a\nx\n", "a,b\ny,z\n"], vec!["x", "y"]),
        ("cells", vec!["\"a\n1\",b\n1,2\n", "\"a\n2\",b\n3,4\n"], vec![]),
    ] {
        let folder = write(folder, &files);
        let source = Csv::folder(&folder).without_filename();
        if expected.is_empty() {
            // Headers of several lines that differ: refused, never taken for each other.
            let e = error_of(&lake, source.rfc4180()).await;
            assert!(e.contains("union_by_name"), "{e}");
            continue;
        }
        assert_eq!(rows_of(&lake, source.clone(), "select * from s").await, expected, "{folder:?}");
        assert_eq!(rows_of(&lake, source.clone().rfc4180(), "select * from s").await, expected, "{folder:?}, stated");
        let typed = source.rfc4180().column_type("a", "VARCHAR");
        if folder.ends_with("types") {
            assert_eq!(rows_of(&lake, typed, "select a || '!' from s").await, ["1!", "x!"]);
        }
    }
    // DuckDB 2.0 would lose the rows of the file with the other line ends.
    let stated = Csv::folder(lake.root().join("same")).header(true).column("n", "BIGINT").column("s", "VARCHAR");
    let e = error_of(&lake, stated.column("day", "DATE").column("at", "TIMESTAMP")).await;
    assert!(e.contains("ROOT/same/0.csv and ROOT/same/1.csv end their lines differently"), "{e}");
    let named = Csv::folder(lake.root().join("same")).rfc4180().filename_relative_to(lake.root());
    assert_eq!(rows_of(&lake, named, "select n, filename from s").await, ["1|same/0.csv", "2|same/1.csv"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn arrow_files_and_streams_of_every_type() {
    let lake = Lake::new().await;
    let dictionary: DictionaryArray<Int32Type> = ["x", "y"].into_iter().collect();
    let columns = |nanos: Vec<i64>| -> Vec<(&str, ArrayRef, bool)> {
        vec![
            ("u", Arc::new(UInt64Array::from(vec![Some(u64::MAX), None])), true),
            ("h", cast(&Float32Array::from(vec![1.5, -2.0]), &DataType::Float16).unwrap(), true),
            ("d", Arc::new(Decimal128Array::from(vec![12345, -1]).with_precision_and_scale(10, 2).unwrap()), true),
            ("day", Arc::new(Date64Array::from(vec![86_400_000, 0])), true),
            ("ns", Arc::new(TimestampNanosecondArray::from(nanos)), true),
            ("at", Arc::new(TimestampSecondArray::from(vec![0, 3600]).with_timezone("+02:00")), true),
            ("k", Arc::new(dictionary.clone()), true),
            ("big", Arc::new(LargeStringArray::from(vec![Some("é"), None])), true),
            ("view", Arc::new(StringViewArray::from(vec!["a text that is too long to be inlined", ""])), true),
            ("fix", Arc::new(FixedSizeBinaryArray::try_from_iter([[0_u8, 255], [1, 2]].iter()).unwrap()), true),
            (
                "l",
                Arc::new(ListArray::from_iter_primitive::<Int32Type, _, _>(vec![Some(vec![Some(1), None]), None])),
                true,
            ),
            (
                "st",
                Arc::new(StructArray::from(vec![(
                    Arc::new(Field::new("in", DataType::Int32, true)),
                    Arc::new(Int32Array::from(vec![Some(7), None])) as ArrayRef,
                )])),
                true,
            ),
        ]
    };
    let batch = |nanos| RecordBatch::try_from_iter_with_nullable(columns(nanos)).unwrap();
    let whole = batch(vec![1_000, 2_000]);
    arrow_file(&lake, "f/plain.arrow", std::slice::from_ref(&whole), None);
    arrow_file(&lake, "f/zstd.arrow", std::slice::from_ref(&whole), Some(CompressionType::ZSTD));
    arrow_file(&lake, "f/lz4.feather", std::slice::from_ref(&whole), Some(CompressionType::LZ4_FRAME));
    arrow_stream(&lake, "f/stream.arrow", &[whole.clone(), whole]);
    let sql = "select columns(* exclude filename)::varchar from s";
    let rows = rows_of(&lake, ArrowIpc::folder(lake.root().join("f")), sql).await;
    let two = [
        "18446744073709551615|1.5|123.45|1970-01-02|1970-01-01 00:00:00.000001|1970-01-01 00:00:00+00|x|é|\
         a text that is too long to be inlined|\\x00\\xFF|[1, NULL]|{'in': 7}",
        "NULL|-2.0|-0.01|1970-01-01|1970-01-01 00:00:00.000002|1970-01-01 01:00:00+00|y|NULL||\\x01\\x02|NULL|{'in': NULL}",
    ];
    assert_eq!(rows, [[two[0]; 5], [two[1]; 5]].concat());
    let some = ArrowIpc::folder(lake.root().join("f")).columns(["k", "u"]).without_filename();
    assert_eq!(rows_of(&lake, some, "select distinct * from s").await, ["x|18446744073709551615", "y|NULL"]);

    arrow_file(&lake, "cut/a.arrow", &[batch(vec![1, 2])], None);
    let e = error_of(&lake, ArrowIpc::folder(lake.root().join("cut"))).await;
    assert!(e.contains("the column \"ns\" of ROOT/cut/a.arrow has values of Timestamp(ns)"), "{e}");
    let time: ArrayRef = Arc::new(Time64MicrosecondArray::from(vec![1]));
    let time =
        RecordBatch::try_from_iter(vec![("n", Arc::new(Int64Array::from(vec![1])) as ArrayRef), ("t", time)]).unwrap();
    arrow_file(&lake, "time/a.arrow", &[time], None);
    let e = error_of(&lake, ArrowIpc::folder(lake.root().join("time"))).await;
    assert!(e.contains("the column \"t\" of ROOT/time/a.arrow has Arrow's type Time64(µs)"), "{e}");
    let without = ArrowIpc::folder(lake.root().join("time")).columns(["n"]).without_filename();
    assert_eq!(rows_of(&lake, without, "select * from s").await, ["1"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn arrow_partitions_unions_and_new_files() {
    let lake = Lake::new().await;
    arrow_file(&lake, "h/city=New%20York/a.arrow", &[numbers(&[1])], None);
    arrow_file(&lake, "h/city=__HIVE_DEFAULT_PARTITION__/a.arrow", &[numbers(&[2])], None);
    let folder = lake.root().join("h");
    let rows = rows_of(&lake, ArrowIpc::folder(&folder).without_filename(), "select * from s").await;
    assert_eq!(rows, ["1|s1|New York", "2|s2|NULL"]);

    let more = numbers(&[3]).project(&[0]).unwrap();
    arrow_file(&lake, "u/a.arrow", &[numbers(&[1])], None);
    arrow_file(&lake, "u/b.arrow", &[more], None);
    let folder = lake.root().join("u");
    let source = || ArrowIpc::folder(&folder).filename_relative_to(&folder);
    let e = error_of(&lake, source()).await;
    assert!(e.contains("ROOT/u/b.arrow lacks the column \"s\" of ROOT/u/a.arrow: use union_by_name"), "{e}");
    let rows = rows_of(&lake, source().union_by_name(), "select * from s").await;
    assert_eq!(rows, ["1|s1|a.arrow", "3|NULL|b.arrow"]);

    let load = || {
        lake.session
            .model("b.t")
            .source("s", NewFiles::by_column(source().union_by_name()))
            .sql("select * from s")
            .run()
    };
    assert_eq!(load().await.unwrap().version(), Some(0));
    assert!(matches!(load().await.unwrap().outcome, CommitOutcome::NothingToDo(_)));
    arrow_file(&lake, "u/c.arrow", &[numbers(&[4])], None);
    assert_eq!(load().await.unwrap().rows_inserted(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn delta_tables_at_any_place_and_version() {
    let lake = Lake::new().await;
    let elsewhere = Lake::new().await;
    for n in 0..3 {
        elsewhere.put("x.t", format!("select {n}::bigint as n")).await;
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    let folder = path(&elsewhere.folder("x.t"));
    let count = |source: Delta| rows_of(&lake, source, "select count(*) from s");
    assert_eq!(count(Delta::at(&folder)).await, ["3"]);
    assert_eq!(count(Delta::at(format!("file://{folder}"))).await, ["3"]);
    assert_eq!(count(Delta::at(&folder).version(0)).await, ["1"]);
    let second = elsewhere.session.snapshot("x.t", At::Version(1)).await.unwrap();
    let time = second.history().await.unwrap()[1].timestamp;
    assert_eq!(count(Delta::at(&folder).timestamp(time)).await, ["2"]);
    let e = error_of(&lake, Delta::at(path(&lake.root().join("nothing")))).await;
    assert!(e.contains("not found: there is no Delta table at ROOT/nothing"), "{e}");
    let e = read(&lake, Delta::at(&folder).version(9), "select * from s").await.unwrap_err();
    assert!(e.message().contains("version 9 does not exist: the newest is 2"), "{e}");
    let e = error_of(&lake, NewFiles::by_history(Files::at(&folder))).await;
    assert!(e.contains("is a table, not a set of files: read its changes instead"), "{e}");

    // The target by its path is the pinned snapshot, and fences.
    lake.put("a.t", "select 1::bigint as n").await;
    let own = Files::at(lake.folder("a.t"));
    let report = lake.session.model("a.t").source("s", own).sql("select n + 1 as n from s").run().await.unwrap();
    assert_eq!(report.version(), Some(1));
    let log = std::fs::read_to_string(lake.folder("a.t").join("_delta_log/00000000000000000001.json")).unwrap();
    assert!(log.contains("\"isBlindAppend\":false"), "{log}");
}

/// What is sniffed once and then stated must read every folder as DuckDB alone reads it, columns, types, rows and refusals.
#[tokio::test(flavor = "multi_thread")]
async fn sniffing_once_reads_as_duckdb_does() {
    let folders: &[(&str, &[&str])] = &[
        ("plain", &["n,s\n1,a\n", "n,s\n2,b\n"]),
        ("order", &["n,s\n1,a\n", "s,n\nb,2\n"]),
        ("wider", &["n,s\n1,a\n", "n,s\n2.5,b\n"]),
        ("texts", &["n,s\n2024-01-01,a\n", "n,s\nyesterday,b\n"]),
        ("header", &["n,s\n", "n,s\n2,b\n", "n,s\n3,c\n"]),
        ("dialects", &["n,s\n1,\"a,b\"\n", "n;s\n2;'b;c'\n"]),
        ("quotes", &["n,s\n1,\"a\"\"b\"\n", "n,s\n2,'b'\n"]),
        ("missing", &["n,s\n1,a\n", "n\n2\n"]),
        ("more", &["n\n1\n", "n,s\n2,b\n"]),
        ("times", &["t,s\n12:30:00,a\n", "t,s\n13:30:00,b\n"]),
        ("ragged", &["n,s\n1,a\n", "n,s\n2,b,c\n3,d\n"]),
        ("headless", &["1,a\n2,b\n", "3,c\n4,d\n"]),
        ("nulls", &["n,s\n,a\n", "n,s\n,b\n"]),
        ("twice", &["n,n\n1,2\n", "n,n\n3,4\n"]),
    ];
    let lake = Lake::new().await;
    for (name, files) in folders {
        let mut list = Vec::new();
        for (i, text) in files.iter().enumerate() {
            list.push(format!("'{}'", path(&file(&lake, &format!("{name}/{i}.csv"), text))));
        }
        let body = "select typeof(any_value(l)) || coalesce(string_agg(l::varchar, ';' order by l::varchar), '') from";
        let conn = duckrun::duckdb::Connection::open_in_memory().unwrap();
        let alone = format!("{body} read_csv([{}]) as l", list.join(", "));
        let alone: Result<Option<String>, _> = conn.query_row(&alone, [], |row| row.get(0));
        let source = Csv::folder(lake.root().join(name)).without_filename();
        let query = lake.session.sql(format!("{body} landing as l")).source("landing", source);
        let ours = duckrun_testkit::rows(query).await;
        match (alone, ours) {
            (Ok(alone), Ok(ours)) => assert_eq!(ours, [alone.unwrap_or_else(|| "NULL".to_owned())], "{name}"),
            (Err(_), Err(_)) => {}
            (alone, ours) => panic!("{name}: DuckDB alone {alone:?}, ours {ours:?}"),
        }
    }
}
