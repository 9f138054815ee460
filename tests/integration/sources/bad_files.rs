//! Bad input: the error names the file and the way out, and no table comes to be.

use std::io::Write as _;
use std::process::{Command, Stdio};

use duckrun::sources::{ArrowIpc, Csv, Files, Json, Parquet};

use super::{error_of, file, path};
use crate::support::Lake;

fn gzip(content: &str) -> Vec<u8> {
    let mut child = Command::new("gzip").arg("-c").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(content.as_bytes()).unwrap();
    child.wait_with_output().unwrap().stdout
}

fn parquet(lake: &Lake, at: &str, sql: &str) {
    let at = path(&file(lake, at, ""));
    duckdb::Connection::open_in_memory()
        .unwrap()
        .execute_batch(&format!("copy ({sql}) to '{at}' (format parquet)"))
        .unwrap();
}

fn contains(e: &str, parts: &[&str]) {
    for part in parts {
        assert!(e.contains(part), "{part:?} is not in: {e}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_there_and_too_much_there() {
    let lake = Lake::new().await;
    std::fs::create_dir(lake.root().join("empty")).unwrap();
    contains(&error_of(&lake, Files::at(lake.root().join("empty"))).await, &["ROOT/empty holds no files", "is empty"]);
    file(&lake, "mixed/a.csv", "x\n1\n");
    file(&lake, "mixed/b.parquet", "");
    let e = error_of(&lake, Files::at(lake.root().join("mixed"))).await;
    contains(&e, &["ROOT/mixed/a.csv", "ROOT/mixed/b.parquet", "name one kind with a glob, or force a format"]);
    let e = error_of(&lake, Files::at("../secret.csv").root(lake.root().join("mixed"))).await;
    contains(&e, &["../secret.csv is outside of the root ROOT/mixed", "name a path below the root"]);
    file(&lake, "zero/a.csv", "");
    contains(
        &error_of(&lake, Files::at(lake.root().join("zero"))).await,
        &["ROOT/zero/a.csv is empty", "state its columns"],
    );
    assert!(!lake.folder("out.t").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn files_that_are_not_whole() {
    let lake = Lake::new().await;
    let rows: String = (0..50_000).map(|n| format!("{n},{}\n", n * 7919 % 100_003)).collect();
    let whole = gzip(&format!("a,b\n{rows}"));
    file(&lake, "gz/a.csv.gz", &whole[..whole.len() / 2]);
    contains(&error_of(&lake, Csv::folder(lake.root().join("gz"))).await, &["ROOT/gz/a.csv.gz"]);
    // Files that were cut while they were written.
    parquet(&lake, "whole.parquet", "select range as n from range(1000)");
    let bytes = std::fs::read(lake.root().join("whole.parquet")).unwrap();
    file(&lake, "pq/a.parquet", &bytes[..bytes.len() / 2]);
    contains(&error_of(&lake, Parquet::folder(lake.root().join("pq"))).await, &["ROOT/pq/a.parquet"]);
    file(&lake, "arrow/a.arrow", b"ARROW1\0\0 and no more");
    contains(
        &error_of(&lake, ArrowIpc::folder(lake.root().join("arrow"))).await,
        &["ROOT/arrow/a.arrow is not a whole Arrow IPC file"],
    );
    file(&lake, "json/a.ndjson", "{\"a\": 1}\n{\"a\": \n");
    contains(&error_of(&lake, Json::folder(lake.root().join("json"))).await, &["ROOT/json/a.ndjson"]);
    assert!(!lake.folder("out.t").join("_delta_log").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_and_columns_that_do_not_fit() {
    let lake = Lake::new().await;
    let ragged: String = (0..100).map(|n| format!("{n},x\n")).collect();
    file(&lake, "ragged/a.csv", format!("a,b\n{ragged}100\n"));
    let e = error_of(&lake, Csv::folder(lake.root().join("ragged")).header(true).delimiter(",")).await;
    contains(&e, &["ROOT/ragged/a.csv", "null_padding"]);
    parquet(&lake, "foreign/a.parquet", "select 1 as n, 'a' as s");
    parquet(&lake, "foreign/b.parquet", "select 1.5 as price");
    let e = error_of(&lake, Parquet::folder(lake.root().join("foreign"))).await;
    contains(&e, &["ROOT/foreign/b.parquet", "union_by_name"]);
    assert!(!lake.folder("out.t").join("_delta_log").exists());
}
