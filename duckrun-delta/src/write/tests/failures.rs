//! A write that fails or is dropped leaves nothing behind, and says what was wrong.

use std::time::Duration;

use arrow::array::{Array, ArrayRef, Int64Array};
use duckrun_core::{Error, ErrorKind};
use futures::StreamExt;
use object_store::ObjectStore;
use object_store::memory::InMemory;

use super::*;

/// Many rows, then an error or an endless wait.
fn interrupted(wait: bool) -> BatchStream {
    let (schema, _) = numbers(0, 0);
    let rows = futures::stream::iter((0..200).map(|i| Ok(numbers(i * 2_048, (i + 1) * 2_048).1)));
    if wait {
        BatchStream::new(schema, rows.chain(futures::stream::pending()))
    } else {
        BatchStream::new(schema, rows.chain(futures::stream::iter([Err(Error::new(ErrorKind::Query, "half-way"))])))
    }
}

fn small_files() -> FileOptions {
    let mut files = options(4_096);
    files.target_file_size = 40_000;
    files
}

#[tokio::test(flavor = "multi_thread")]
async fn an_error_of_the_stream_leaves_no_file() {
    let dir = tempfile::tempdir().unwrap();
    let table = dir.path().join("deep/table");
    let rows = interrupted(false);
    let spec = spec(rows.schema(), &[], small_files());
    let e = write_files(&context(), &local(&table), &spec, rows).await.unwrap_err();
    assert_eq!((e.kind(), e.message()), (ErrorKind::Query, "half-way"));
    assert!(!dir.path().join("deep").exists(), "folders that the write made are gone as well");
}

#[tokio::test(flavor = "multi_thread")]
async fn dropping_the_future_leaves_no_file() {
    let dir = tempfile::tempdir().unwrap();
    for millis in [1, 5, 20, 100] {
        let table = dir.path().join("table");
        let (cx, target) = (context(), local(&table));
        let rows = interrupted(true);
        let spec = spec(rows.schema(), &[], small_files());
        let run = write_files(&cx, &target, &spec, rows);
        assert!(tokio::time::timeout(Duration::from_millis(millis), run).await.is_err());
        assert!(files_below(&table).is_empty());
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert!(!table.exists(), "a task that outlived the future made a file");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn dropping_the_future_leaves_no_object() {
    let store = Arc::new(InMemory::new());
    let target = Target { store: store.clone(), local: None, columns: vec![] };
    let (cx, rows) = (context(), interrupted(true));
    let spec = spec(rows.schema(), &[], small_files());
    let run = write_files(&cx, &target, &spec, rows);
    assert!(tokio::time::timeout(Duration::from_millis(200), run).await.is_err());
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(store.list(None).count().await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_token_cancels() {
    let dir = tempfile::tempdir().unwrap();
    let (cx, rows) = (context(), interrupted(true));
    let spec = spec(rows.schema(), &[], small_files());
    let token = cx.cancellation().clone();
    tokio::spawn(async move {
        tokio::time::sleep(Duration::from_millis(50)).await;
        token.cancel();
    });
    let e = write_files(&cx, &local(dir.path()), &spec, rows).await.unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Cancelled);
    assert!(files_below(dir.path()).is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn files_of_others_stay() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("other.parquet"), b"x").unwrap();
    let rows = interrupted(false);
    let spec = spec(rows.schema(), &[], small_files());
    write_files(&context(), &local(dir.path()), &spec, rows).await.unwrap_err();
    assert_eq!(files_below(dir.path()), [dir.path().join("other.parquet")]);
}

#[tokio::test(flavor = "multi_thread")]
async fn null_in_a_required_column_is_refused_with_its_name() {
    let dir = tempfile::tempdir().unwrap();
    let schema = Arc::new(Schema::new(vec![Field::new("must be", DataType::Int64, false)]));
    let incoming = Arc::new(Schema::new(vec![Field::new("must be", DataType::Int64, true)]));
    let column: ArrayRef = Arc::new(Int64Array::from(vec![Some(1), None, None]));
    assert_eq!(column.null_count(), 2);
    let batch = RecordBatch::try_new(Arc::clone(&incoming), vec![column]).unwrap();
    let rows = BatchStream::from_batches(incoming, vec![batch.clone(), batch.slice(1, 1)]);
    let spec = spec(&schema, &[], options(9));
    let e = write_files(&context(), &local(dir.path()), &spec, rows).await.unwrap_err();
    assert_eq!(e.kind(), ErrorKind::InvalidData);
    assert!(e.message().contains("\"must be\"") && e.message().contains('3'), "{e}");
    assert!(files_below(dir.path()).is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_says_so_and_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let mount = |args: &[&str]| {
        std::process::Command::new("mount").args(args).arg(dir.path()).status().is_ok_and(|s| s.success())
    };
    if !mount(&["-t", "tmpfs", "-o", "size=256k", "tmpfs"]) {
        eprintln!("skipped: no small tmpfs can be mounted here");
        return;
    }
    let (schema, batch) = numbers(0, 200_000);
    let mut files = options(10_000);
    files.compression = duckrun_core::Compression::Uncompressed;
    let e = write(&local(dir.path()), &spec(&schema, &[], files), vec![batch]).await.unwrap_err();
    let left = files_below(dir.path());
    let _ = std::process::Command::new("umount").arg(dir.path()).status();
    assert_eq!(e.kind(), ErrorKind::ResourceExhausted, "{e}");
    assert!(e.to_string().contains(&dir.path().display().to_string()), "{e}");
    assert!(left.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_in_the_way_of_the_folder_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let table = dir.path().join("table");
    std::fs::write(&table, b"x").unwrap();
    let (schema, batch) = numbers(0, 10);
    let e = write(&local(&table), &spec(&schema, &[], options(9)), vec![batch]).await.unwrap_err();
    assert_eq!(e.kind(), ErrorKind::InvalidInput, "{e}");
    assert!(e.to_string().contains("table"), "{e}");
}
