//! Single promises: what is copied, what is refused, what a failed or dropped rewrite leaves behind.

use std::collections::BTreeMap;

use duckrun_core::ErrorKind;
use object_store::memory::InMemory;
use object_store::{ObjectStore, ObjectStoreExt};
use parquet::basic::{Compression as Codec, Encoding};
use parquet::file::metadata::ParquetMetaData;
use parquet::file::properties::EnabledStatistics;
use parquet::file::reader::{FileReader, SerializedFileReader};
use tokio_util::sync::CancellationToken;

use super::*;

/// `rows` rows of a number, a text and a float, the number being the row.
fn simple(rows: i64) -> RecordBatch {
    let n: Int64Array = (0..rows).collect();
    let t: StringArray = (0..rows).map(|i| Some(format!("text number {}", i % 7))).collect();
    let f: Float64Array = (0..rows).map(|i| (i % 5 != 0).then_some(i as f64)).collect();
    let schema = Schema::new(vec![
        Field::new("n", DataType::Int64, false),
        Field::new("t", DataType::Utf8, true),
        Field::new("f", DataType::Float64, true),
    ]);
    RecordBatch::try_new(Arc::new(schema), vec![Arc::new(n), Arc::new(t), Arc::new(f)]).unwrap()
}

fn texts(values: &[Option<&str>]) -> RecordBatch {
    let values: ArrayRef = Arc::new(values.iter().copied().collect::<StringArray>());
    RecordBatch::try_from_iter_with_nullable([("t", values, true)]).unwrap()
}

fn footer(path: &Path) -> ParquetMetaData {
    SerializedFileReader::new(File::open(path).unwrap()).unwrap().metadata().clone()
}

fn chunk(path: &Path, group: usize, leaf: usize) -> Vec<u8> {
    let (start, length) = footer(path).row_group(group).column(leaf).byte_range();
    std::fs::read(path).unwrap()[start as usize..(start + length) as usize].to_vec()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_no_change_touches_is_taken_as_bytes() {
    let batch = simple(350);
    let table = Table::new(&batch.schema(), &[]);
    let made = table.own(&batch, files()).await;
    let at = table.commit(&made).await;
    let new = texts(&[Some("new"), None]);
    let list = [(0, 101, Some(0)), (0, 102, Some(1))];
    let done = table.rewrite(&at, vec![changes(&list, &new)], false).await.unwrap();
    assert_eq!((done.rows_updated, done.rows_deleted, done.rows_copied), (2, 0, 348));
    let (old, new) = (table.path(&made[0].path), table.path(&done.staged.files[0].path));
    let rows = |path| footer(path).row_groups().iter().map(|g| g.num_rows()).collect::<Vec<_>>();
    assert_eq!(rows(&old), rows(&new));
    for group in 0..4 {
        for leaf in 0..3 {
            let same = chunk(&old, group, leaf) == chunk(&new, group, leaf);
            assert_eq!(same, (group, leaf) != (1, 1), "row group {group}, leaf {leaf}");
        }
    }
    let stats: serde_json::Value = serde_json::from_str(done.staged.files[0].stats.as_deref().unwrap()).unwrap();
    assert_eq!((&stats["minValues"]["t"], &stats["nullCount"]["t"]), (&json!("new"), &json!(1)));
    assert_eq!((&stats["maxValues"]["n"], &stats["maxValues"]["f"]), (&json!(349), &json!(349.0)));

    // Rows that go shift every column of their row group, and of no other.
    let done = table.rewrite(&at, vec![changes(&[(0, 349, None)], &texts(&[]))], true).await.unwrap();
    let new = table.path(&done.staged.files[0].path);
    assert_eq!(rows(&new), [100, 100, 100, 49]);
    assert!((0..3).all(|leaf| chunk(&old, 2, leaf) == chunk(&new, 2, leaf)));
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_that_change_nothing_write_nothing() {
    let batch = simple(350);
    let table = Table::new(&batch.schema(), &[]);
    let mut made = table.own(&batch, files()).await;
    made[0].deleted = vec![5, 120];
    let at = table.commit(&made).await;
    let rows: Vec<i64> = (0..350).filter(|r| r % 3 == 0 && *r != 120).collect();
    let same: Vec<(i64, i64, Option<u32>)> = rows.iter().map(|r| (0, *r, Some(*r as u32))).collect();
    let done = table.rewrite(&at, vec![changes(&same, &batch)], true).await.unwrap();
    assert_eq!((done.removed.len(), done.staged.files.len(), done.rows_updated), (0, 0, 0));
    assert_eq!(table.on_disk(), 1);
    // One value is enough to begin the file, and everything before it comes after all.
    let mut list = same;
    list.last_mut().unwrap().2 = Some(0);
    let done = table.rewrite(&at, vec![changes(&list, &batch)], true).await.unwrap();
    assert_eq!((done.removed.len(), done.rows_updated, done.rows_copied), (1, 1, 347));
    assert_eq!(table.read(&at, &done.staged.files[0]).await.num_rows(), 348);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_without_rows_is_only_removed_and_emptied_row_groups_are_left_out() {
    let batch = simple(250);
    let table = Table::new(&batch.schema(), &[]);
    let mut made = table.own(&batch, files()).await;
    made[0].deleted = vec![0];
    let at = table.commit(&made).await;
    let none = texts(&[]);
    let go = |rows: std::ops::Range<i64>| changes(&rows.map(|r| (0, r, None)).collect::<Vec<_>>(), &none);
    let done = table.rewrite(&at, vec![go(1..250)], true).await.unwrap();
    assert_eq!((done.removed.len(), done.staged.files.len(), done.rows_deleted), (1, 0, 249));
    let done = table.rewrite(&at, vec![go(100..200)], true).await.unwrap();
    let groups: Vec<i64> =
        footer(&table.path(&done.staged.files[0].path)).row_groups().iter().map(|g| g.num_rows()).collect();
    assert_eq!((groups, done.rows_copied), (vec![99, 50], 149));
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_changes_are_refused_and_leave_nothing() {
    let batch = simple(250);
    let table = Table::new(&batch.schema(), &[]);
    let mut made = table.own(&batch, files()).await;
    made[0].deleted = vec![7];
    let at = table.commit(&made).await;
    let new = texts(&[Some("x")]);
    let twice = [(0, 101, Some(0)), (0, 101, Some(0))];
    let backwards = [(0, 240, Some(0)), (0, 101, Some(0))];
    for (list, word) in [
        (&twice[..], "twice"),
        (&backwards[..], "order"),
        (&[(0, 250, Some(0))], "250"),
        (&[(0, -1, Some(0))], "-1"),
        (&[(1, 0, Some(0))], "not listed"),
        (&[(0, 3, Some(0)), (0, 7, Some(0))], "deleted before"),
    ] {
        let e = table.rewrite(&at, vec![changes(list, &new)], false).await.unwrap_err();
        assert!(e.message().contains(word), "{e}");
    }
    let numbers: ArrayRef = Arc::new(Int64Array::from(vec![Some(1), None]));
    let numbers = RecordBatch::try_from_iter_with_nullable([("n", numbers, true)]).unwrap();
    let list: Vec<(i64, i64, Option<u32>)> = (100..210).map(|r| (0, r, Some((r % 2) as u32))).collect();
    let batches = vec![changes(&list[..60], &numbers), changes(&list[60..], &numbers)];
    let e = table.rewrite(&at, batches, false).await.unwrap_err();
    assert_eq!(e.kind(), ErrorKind::InvalidData);
    assert!(e.message().contains("\"n\" in 55 rows"), "{e}");
    // NULL beside a delete is no value.
    let list = [(0, 101, None), (0, 102, Some(0))];
    assert_eq!(table.rewrite(&at, vec![changes(&list, &numbers)], false).await.unwrap().rows_deleted, 1);
    assert_eq!(table.on_disk(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_or_dropped_rewrite_leaves_nothing() {
    let batch = simple(30_000);
    let table = Table::new(&batch.schema(), &[]);
    let made = table.own(&batch, files()).await;
    let at = table.commit(&made).await;
    let new = texts(&[Some("x")]);
    let cancel = CancellationToken::new();
    let stop = cancel.clone();
    let cx = context().with_cancellation(cancel).with_progress(Some(Arc::new(move |p| {
        if p.rows > 2_000 {
            stop.cancel();
        }
    })));
    let all: Vec<(i64, i64, Option<u32>)> = (0..30_000).map(|r| (0, r, Some(0))).collect();
    let e = table.rewrite_as(&cx, &at, vec![changes(&all, &new)], false, files()).await.unwrap_err();
    assert_eq!((e.kind(), table.on_disk()), (ErrorKind::Cancelled, 1));

    // A stream that stops halfway leaves the rewrite waiting; then it is dropped.
    let spec = RewriteSpec::new(table.write(files()), at.files().await.unwrap().files, false);
    let first = changes(&all[..5_000], &new);
    let schema = first.schema();
    let rows = futures::StreamExt::chain(futures::stream::iter([Ok(first)]), futures::stream::pending());
    let (store, cx) = (table.store(), context());
    let rewriting = store.rewrite(&cx, &at, &spec, BatchStream::new(schema, rows));
    assert!(tokio::time::timeout(std::time::Duration::from_millis(300), rewriting).await.is_err());
    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    assert_eq!(table.on_disk(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn partitions_keep_their_values_and_folders() {
    let batch = simple(40);
    let p: ArrayRef = Arc::new((0..40).map(|i| Some(if i < 20 { "a b/%" } else { "ü" })).collect::<StringArray>());
    let mut fields: Vec<FieldRef> = batch.schema().fields().iter().cloned().collect();
    fields.insert(1, Arc::new(Field::new("p", DataType::Utf8, true)));
    let mut columns = batch.columns().to_vec();
    columns.insert(1, p);
    let batch = RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).unwrap();
    let table = Table::new(&batch.schema(), &["p"]);
    let made = table.own(&batch, files()).await;
    let at = table.commit(&made).await;
    let done = table.rewrite(&at, vec![changes(&[(0, 1, Some(0)), (1, 2, None)], &texts(&[Some("x")]))], true).await;
    let done = done.unwrap();
    assert_eq!(done.removed.len(), 2);
    for (old, file) in at.files().await.unwrap().files.iter().zip(&done.staged.files) {
        let folder = |p: &str| p[..p.rfind('/').unwrap()].to_owned();
        assert_eq!(folder(&old.path), folder(&file.path));
        let made = made.iter().find(|m| m.path == old.path).unwrap();
        assert_eq!(made.partition, file.partition_values.clone().into_iter().collect::<Vec<_>>());
        let rows = table.read(&at, file).await;
        let values: BTreeMap<&str, usize> =
            rows.column(1).as_string::<i32>().iter().flatten().map(|v| (v, rows.num_rows())).collect();
        assert!(values == BTreeMap::from([("a b/%", 19)]) || values == BTreeMap::from([("ü", 20)]), "{values:?}");
    }
    let e = table.rewrite(&at, vec![changes(&[(0, 1, Some(0))], &batch)], true).await.unwrap_err();
    assert!(e.message().contains("partition column"), "{e}");
}

#[tokio::test(flavor = "multi_thread")]
async fn columns_that_a_file_lacks_are_null_and_mapped_ones_are_found() {
    // In the file the columns are called otherwise, and one of the table's is missing.
    let ids = |field: Field, id: &str| {
        field.with_metadata([("PARQUET:field_id".to_owned(), id.to_owned())].into_iter().collect())
    };
    let physical = Schema::new(vec![
        ids(Field::new("col-2", DataType::Utf8, true), "2"),
        ids(Field::new("col-1", DataType::Int64, true), "1"),
    ]);
    let t: ArrayRef = Arc::new(StringArray::from(vec!["a", "b", "c"]));
    let stored = RecordBatch::try_new(Arc::new(physical), vec![t, Arc::new(Int64Array::from(vec![1, 2, 3]))]).unwrap();
    let logical = Arc::new(Schema::new(vec![
        Field::new("n", DataType::Int64, true),
        Field::new("later", DataType::Int32, true),
        Field::new("t", DataType::Utf8, true),
    ]));
    let field = |name: &str, ty: &str, id: i64| {
        json!({"name": name, "type": ty, "nullable": true, "metadata": {
            "delta.columnMapping.id": id, "delta.columnMapping.physicalName": format!("col-{id}")}})
    };
    let fields = [field("n", "long", 1), field("later", "integer", 3), field("t", "string", 2)];
    let schema = json!({"type": "struct", "fields": fields}).to_string();
    for mode in ["name", "id"] {
        let table = Table::new(&logical, &[]);
        let made = table.foreign("x.parquet", &stored, WriterProperties::default());
        let at = table.commit_as(&[made], &schema, json!({"delta.columnMapping.mode": mode})).await;
        let later: ArrayRef = Arc::new(Int32Array::from(vec![None, Some(7)]));
        let new = RecordBatch::try_from_iter_with_nullable([("later", later, true)]).unwrap();
        let nothing = table.rewrite(&at, vec![changes(&[(0, 1, Some(0))], &new)], true).await.unwrap();
        assert!(nothing.removed.is_empty());
        let done = table.rewrite(&at, vec![changes(&[(0, 1, Some(1))], &new)], true).await.unwrap();
        let rows = table.read(&at, &done.staged.files[0]).await;
        let want = RecordBatch::try_new(
            Arc::clone(&logical),
            vec![
                Arc::new(Int64Array::from(vec![1, 2, 3])),
                Arc::new(Int32Array::from(vec![None, Some(7), None])),
                Arc::new(StringArray::from(vec!["a", "b", "c"])),
            ],
        );
        assert_eq!(rows, want.unwrap());
        let new = footer(&table.path(&done.staged.files[0].path));
        let column = new.file_metadata().schema_descr().column(2);
        assert_eq!((column.name(), column.self_type().get_basic_info().id()), ("col-2", 2));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn plain_columns_stay_plain_and_codecs_follow_the_write() {
    let batch = simple(500);
    let table = Table::new(&batch.schema(), &[]);
    let plain = WriterProperties::builder().set_dictionary_enabled(false).set_compression(Codec::SNAPPY).build();
    let made = table.foreign("x.parquet", &batch, plain);
    let at = table.commit(&[made]).await;
    let done = table.rewrite(&at, vec![changes(&[(0, 1, Some(0))], &texts(&[Some("x")]))], true).await.unwrap();
    let new = footer(&table.path(&done.staged.files[0].path));
    let group = new.row_group(0);
    assert!(group.columns().iter().all(|c| c.encodings().all(|e| e != Encoding::RLE_DICTIONARY)));
    // The chunk that changed has the codec of the write, the others keep theirs.
    assert_eq!(group.column(0).compression(), Codec::SNAPPY);
    assert!(matches!(group.column(1).compression(), Codec::ZSTD(_)));
}

#[tokio::test(flavor = "multi_thread")]
async fn many_large_changes_cut_their_row_group() {
    let text = |c: &str| Some(c.repeat(100_000));
    let t: ArrayRef = Arc::new((0..400).map(|i| text(if i % 2 == 0 { "a" } else { "b" })).collect::<StringArray>());
    let n: ArrayRef = Arc::new((0..400).collect::<Int64Array>());
    let batch = RecordBatch::try_from_iter_with_nullable([("n", n, true), ("t", t, true)]).unwrap();
    let table = Table::new(&batch.schema(), &[]);
    let made = table.foreign("x.parquet", &batch, WriterProperties::default());
    let at = table.commit(&[made]).await;
    let settings = MemorySettings { writers: Some(1), ..MemorySettings::with_limit(330 << 20) };
    let limit = EffectiveLimit::explicit(330 << 20, 1);
    let cx = RunContext::new(plan(&limit, &settings, Job::Write).unwrap());
    let new: ArrayRef = Arc::new((0..400).map(|_| text("c")).collect::<StringArray>());
    let new = RecordBatch::try_from_iter_with_nullable([("t", new, true)]).unwrap();
    let batches = (0..40).map(|b| {
        let list: Vec<(i64, i64, Option<u32>)> = (0..10).map(|i| (0, b * 10 + i, Some((b * 10 + i) as u32))).collect();
        changes(&list, &new)
    });
    for skip_unchanged in [false, true] {
        let done = table.rewrite_as(&cx, &at, batches.clone().collect(), skip_unchanged, files()).await.unwrap();
        let groups = footer(&table.path(&done.staged.files[0].path)).num_row_groups();
        assert!((2..10).contains(&groups), "{groups} row groups of a writer's share of {}", cx.memory().writer);
        assert_eq!(done.rows_updated, 400);
        let rows = table.read(&at, &done.staged.files[0]).await;
        assert_eq!((rows.num_rows(), rows.column(1).as_ref()), (400, new.column(0).as_ref()));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_in_a_store_is_rewritten_there() {
    let batch = simple(350);
    let table = Table::new(&batch.schema(), &[]);
    let made = table.own(&batch, files()).await;
    table.commit(&made).await;
    let memory = Arc::new(InMemory::new());
    let prefix = object_store::path::Path::from("lake/t");
    for name in [made[0].path.as_str(), "_delta_log/00000000000000000000.json"] {
        let bytes = std::fs::read(table.path(name)).unwrap();
        memory.put(&object_store::path::Path::from(format!("lake/t/{name}")), bytes.into()).await.unwrap();
    }
    let url = url::Url::parse("memory:///lake/t/").unwrap();
    let root: Arc<dyn ObjectStore> = memory.clone();
    let store = DeltaStore::new(Location::in_store(&url, root, &prefix).unwrap());
    let at = store.snapshot(At::Latest).await.unwrap().unwrap();
    let spec = RewriteSpec::new(table.write(files()), at.files().await.unwrap().files, true);
    let change = |list: &[(i64, i64, Option<u32>)]| {
        let batch = changes(list, &texts(&[Some("x")]));
        BatchStream::from_batches(batch.schema(), vec![batch])
    };
    let done = store.rewrite(&context(), &at, &spec, change(&[(0, 120, Some(0)), (0, 250, None)])).await.unwrap();
    assert_eq!((done.rows_updated, done.rows_deleted, done.rows_copied), (1, 1, 348));
    let file = &done.staged.files[0];
    let live = LiveFile {
        path: file.path.clone(),
        size: file.size,
        partition_values: file.partition_values.clone(),
        stats: None,
        deletion_vector: None,
    };
    let rows = read(&at, &live).await;
    assert_eq!((rows.num_rows(), rows.column(1).as_string::<i32>().value(120)), (349, "x"));
    let e = store.rewrite(&context(), &at, &spec, change(&[(0, 120, Some(0)), (0, 350, None)])).await.unwrap_err();
    assert!(e.message().contains("350"), "{e}");
    let objects: Vec<_> = futures::TryStreamExt::try_collect(memory.list(Some(&prefix))).await.unwrap();
    assert_eq!(objects.len(), 3);
}

/// Offsets of page indexes and bloom filters that were copied along would point into the wrong file.
#[tokio::test(flavor = "multi_thread")]
async fn indexes_stay_behind_and_new_files_are_rewritten_again() {
    let batch = simple(500);
    let table = Table::new(&batch.schema(), &[]);
    let properties = WriterProperties::builder()
        .set_statistics_enabled(EnabledStatistics::Page)
        .set_data_page_row_count_limit(20)
        .set_bloom_filter_enabled(true)
        .set_max_row_group_row_count(Some(120))
        .build();
    let made = table.foreign("x.parquet", &batch, properties);
    let mut at = table.commit(&[made]).await;
    for (round, row) in [(0, 130), (1, 250), (2, 499)] {
        let text = format!("round {round}");
        let new = texts(&[Some(text.as_str())]);
        let done = table.rewrite(&at, vec![changes(&[(0, row, Some(0))], &new)], true).await.unwrap();
        let file = &done.staged.files[0];
        let path = table.path(&file.path);
        assert!(footer(&path).row_groups().iter().flat_map(|g| g.columns()).all(|c| {
            c.bloom_filter_offset().is_none() && c.column_index_offset().is_none() && c.offset_index_offset().is_none()
        }));
        let rows = table.read(&at, file).await;
        assert_eq!(rows.column(0), batch.column(0));
        assert_eq!(rows.column(2), batch.column(2));
        assert_eq!(rows.column(1).as_string::<i32>().value(row as usize), text);
        let stats: serde_json::Value = serde_json::from_str(file.stats.as_deref().unwrap()).unwrap();
        assert_eq!((&stats["minValues"]["n"], &stats["maxValues"]["n"]), (&json!(0), &json!(499)));
        assert_eq!((&stats["minValues"]["f"], &stats["maxValues"]["f"]), (&json!(1.0), &json!(499.0)));
        assert_eq!(stats["nullCount"], json!({"n": 0, "t": 0, "f": 100}));
        at = table.commit(&[Made { path: file.path.clone(), stats: file.stats.clone(), ..Made::default() }]).await;
    }
}
