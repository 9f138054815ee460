//! Rows come back as they went in: all types, partitions, order, rolled files, column mapping.

use arrow::array::*;
use arrow::datatypes::*;
use duckrun_core::{Compression, ErrorKind};
use object_store::memory::InMemory;
use object_store::{ObjectStore, ObjectStoreExt};

use super::super::PhysicalColumn;
use super::*;

fn all_types() -> RecordBatch {
    let utc = |v: TimestampMicrosecondArray| Arc::new(v.with_timezone("UTC")) as ArrayRef;
    let text = vec![Some(""), None, Some("ü\u{10FFFF}\"\\\n"), Some("NULL")];
    let micros = vec![Some(i64::MIN / 2), None, Some(-1), Some(253_402_300_799_999_999)];
    let list = ListArray::from_iter_primitive::<Int32Type, _, _>(vec![
        Some(vec![Some(1), None]),
        None,
        Some(vec![]),
        Some(vec![None]),
    ]);
    let mut map = MapBuilder::new(None, StringBuilder::new(), Int64Builder::new());
    for i in 0..4 {
        map.keys().append_value(format!("k{i}"));
        map.values().append_option((i != 2).then_some(i));
        map.append(i != 1).unwrap();
    }
    let members: Fields = vec![Field::new("a", DataType::Int32, true), Field::new("b", DataType::Utf8, true)].into();
    let of_struct = StructArray::new(
        members,
        vec![Arc::new(Int32Array::from(vec![Some(1), None, Some(3), None])), Arc::new(StringArray::from(text.clone()))],
        Some(vec![true, false, true, true].into()),
    );
    let d = |p, s, v: Vec<Option<i128>>| -> ArrayRef {
        Arc::new(Decimal128Array::from(v).with_precision_and_scale(p, s).unwrap())
    };
    let max38 = 10_i128.pow(38) - 1;
    RecordBatch::try_from_iter_with_nullable(vec![
        ("bool", Arc::new(BooleanArray::from(vec![Some(true), None, Some(false), Some(true)])) as ArrayRef, true),
        ("i8", Arc::new(Int8Array::from(vec![Some(i8::MIN), None, Some(0), Some(i8::MAX)])), true),
        ("i16", Arc::new(Int16Array::from(vec![Some(i16::MIN), None, Some(0), Some(i16::MAX)])), true),
        ("i32", Arc::new(Int32Array::from(vec![Some(i32::MIN), None, Some(0), Some(i32::MAX)])), true),
        ("i64", Arc::new(Int64Array::from(vec![Some(i64::MIN), None, Some(0), Some(i64::MAX)])), true),
        ("f32", Arc::new(Float32Array::from(vec![Some(f32::NAN), None, Some(-0.0), Some(f32::MIN)])), true),
        ("f64", Arc::new(Float64Array::from(vec![Some(f64::INFINITY), None, Some(-0.0), Some(f64::NAN)])), true),
        ("d9", d(9, 2, vec![Some(-999_999_999), None, Some(0), Some(999_999_999)]), true),
        ("d18", d(18, 2, vec![Some(123_456_789_012_345_678), None, Some(0), Some(-1)]), true),
        ("d38", d(38, 38, vec![Some(max38), None, Some(0), Some(-max38)]), true),
        ("date", Arc::new(Date32Array::from(vec![Some(-719_162), None, Some(0), Some(2_932_896)])), true),
        ("ts", utc(TimestampMicrosecondArray::from(micros.clone())), true),
        ("ntz", Arc::new(TimestampMicrosecondArray::from(micros)), true),
        ("text", Arc::new(StringArray::from(text)), true),
        ("bin", Arc::new(BinaryArray::from(vec![Some(&b""[..]), None, Some(&[0, 255][..]), Some(&b"x"[..])])), true),
        ("list", Arc::new(list), true),
        ("map", Arc::new(map.finish()), true),
        ("struct", Arc::new(of_struct), true),
        ("nothing", Arc::new(Int32Array::from(vec![None; 4])), true),
    ])
    .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_type_comes_back() {
    for compression in [Compression::Zstd(1), Compression::Snappy, Compression::Uncompressed] {
        let dir = tempfile::tempdir().unwrap();
        let batch = all_types();
        let mut files = options(1_000);
        files.compression = compression;
        files.sync = true;
        let spec = spec(&batch.schema(), &[], files);
        let staged = write(&local(dir.path()), &spec, vec![batch.clone(), batch.slice(1, 2)]).await.unwrap();
        assert_eq!((staged.files.len(), staged.rows()), (1, 6));
        let path = on_disk(dir.path(), &staged.files[0].path);
        assert_eq!(std::fs::metadata(&path).unwrap().len(), staged.files[0].size);
        let back = read(&path);
        let whole = arrow::compute::concat_batches(&batch.schema(), [&batch, &batch.slice(1, 2)]).unwrap();
        for (i, column) in whole.columns().iter().enumerate() {
            // Only the children's names differ: the format prescribes them.
            let have = back[0].column(i);
            let want = super::super::conform::conform(column, back[0].schema().field(i)).unwrap();
            // NaN is not equal to itself; arrays print alike.
            assert_eq!(format!("{have:?}"), format!("{want:?}"), "{}", whole.schema().field(i).name());
        }
        let reader = ParquetRecordBatchReaderBuilder::try_new(File::open(&path).unwrap()).unwrap();
        let footer = reader.metadata().file_metadata();
        assert!(footer.key_value_metadata().is_none(), "the arrow schema is not embedded");
        assert!(footer.created_by().unwrap().contains("duckrun"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_rows_make_no_files() {
    let dir = tempfile::tempdir().unwrap();
    let table = dir.path().join("table");
    let (schema, batch) = numbers(0, 10);
    let staged = write(&local(&table), &spec(&schema, &[], options(10)), vec![batch.slice(0, 0)]).await.unwrap();
    assert!(staged.files.is_empty() && !table.exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn files_roll_and_rows_keep_their_order() {
    let dir = tempfile::tempdir().unwrap();
    let (schema, _) = numbers(0, 0);
    let mut files = options(5_000);
    files.target_file_size = 60_000;
    files.compression = Compression::Uncompressed;
    let batches: Vec<_> = (0..100).map(|i| numbers(i * 2_048, (i + 1) * 2_048).1).collect();
    let staged = write(&local(dir.path()), &spec(&schema, &[], files), batches).await.unwrap();
    assert!(staged.files.len() > 10, "{}", staged.files.len());
    let mut next = 0;
    for file in &staged.files {
        assert!(file.size < 60_000 + 50_000, "{}", file.size);
        for batch in read(&on_disk(dir.path(), &file.path)) {
            for n in batch.column(0).as_primitive::<Int64Type>().values() {
                assert_eq!(*n, next);
                next += 1;
            }
        }
    }
    assert_eq!(next, 204_800);
    assert_eq!(files_below(dir.path()).len(), staged.files.len());
}

fn partitioned(values: Vec<Option<&str>>) -> RecordBatch {
    let n: ArrayRef = Arc::new((0..values.len() as i64).collect::<Int64Array>());
    let p: ArrayRef = Arc::new(StringArray::from(values));
    RecordBatch::try_from_iter_with_nullable(vec![("p /%", p, true), ("n", n, true)]).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn strange_partition_values_name_folders_and_stand_in_the_log() {
    let long = "ü".repeat(300);
    let values = ["a b", "%", "a/b", "a=b", "ü", "\"'", "..", "__HIVE_DEFAULT_PARTITION__", "\u{1}", " ", &long];
    let mut rows: Vec<Option<&str>> = values.iter().map(|v| Some(*v)).collect();
    rows.push(None);
    let batch = partitioned([rows.clone(), rows.clone()].concat());
    let dir = tempfile::tempdir().unwrap();
    let staged = write(&local(dir.path()), &spec(&batch.schema(), &["p /%"], options(100)), vec![batch]).await.unwrap();
    assert_eq!(staged.files.len(), rows.len());
    for (i, value) in rows.iter().enumerate() {
        let of_value = |f: &&duckrun_core::StagedFile| f.partition_values["p /%"].as_deref() == *value;
        let file = staged.files.iter().find(of_value).unwrap();
        let back = read(&on_disk(dir.path(), &file.path));
        assert_eq!(back[0].num_columns(), 1, "partition columns are not in the files");
        let have = back[0].column(0).as_primitive::<Int64Type>().values().to_vec();
        assert_eq!(have, [i as i64, (i + rows.len()) as i64]);
        assert!(file.path.starts_with("p%2520%252F%2525="), "{}", file.path);
    }
    let null = staged.files.iter().find(|f| f.partition_values["p /%"].is_none()).unwrap();
    assert!(null.path.contains("=__HIVE_DEFAULT_PARTITION__/part-"));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_text_is_no_partition_value() {
    let dir = tempfile::tempdir().unwrap();
    let table = dir.path().join("table");
    let batch = partitioned(vec![Some("a"), Some("")]);
    let e = write(&local(&table), &spec(&batch.schema(), &["p /%"], options(1)), vec![batch]).await.unwrap_err();
    assert_eq!(e.kind(), ErrorKind::InvalidData);
    assert!(e.to_string().contains("p /%"), "{e}");
    assert!(!table.exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn partition_values_are_written_as_the_protocol_says() {
    let all = all_types();
    let case = |column: &str, row: usize| {
        let n: ArrayRef = Arc::new(Int64Array::from(vec![1]));
        let value = all.column_by_name(column).unwrap().slice(row, 1);
        RecordBatch::try_from_iter_with_nullable(vec![(column, value, true), ("n", n, true)]).unwrap()
    };
    for (column, row, want) in [
        ("bool", 0, Some("true")),
        ("i8", 0, Some("-128")),
        ("i64", 0, Some("-9223372036854775808")),
        ("f32", 0, Some("NaN")),
        ("f64", 0, Some("Infinity")),
        ("f64", 2, Some("0.0")),
        ("d9", 0, Some("-9999999.99")),
        ("d18", 0, Some("1234567890123456.78")),
        ("d18", 3, Some("-0.01")),
        ("date", 0, Some("0001-01-01")),
        ("date", 3, Some("9999-12-31")),
        ("ts", 2, Some("1969-12-31T23:59:59.999999Z")),
        ("ntz", 2, Some("1969-12-31 23:59:59.999999")),
        ("ntz", 1, None),
    ] {
        let batch = case(column, row);
        let dir = tempfile::tempdir().unwrap();
        let staged =
            write(&local(dir.path()), &spec(&batch.schema(), &[column], options(9)), vec![batch]).await.unwrap();
        assert_eq!(staged.files[0].partition_values[column].as_deref(), want, "{column}");
    }
    for (column, kind) in
        [("bin", ErrorKind::Unsupported), ("list", ErrorKind::Unsupported), ("ts", ErrorKind::InvalidData)]
    {
        let batch = case(column, 0);
        let dir = tempfile::tempdir().unwrap();
        let spec = spec(&batch.schema(), &[column], options(9));
        assert_eq!(write(&local(dir.path()), &spec, vec![batch]).await.unwrap_err().kind(), kind, "{column}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn many_partitions_in_little_memory_stay_within_it() {
    let dir = tempfile::tempdir().unwrap();
    let schema =
        Arc::new(Schema::new(vec![Field::new("p", DataType::Int32, true), Field::new("text", DataType::Utf8, true)]));
    let of = Arc::clone(&schema);
    let batch = move |i: i32| {
        let p: ArrayRef = Arc::new((0..2_048).map(|r| Some((i * 7 + r) % 300)).collect::<Int32Array>());
        let t: ArrayRef =
            Arc::new((0..2_048).map(|r| Some(format!("{i:4} {r:4} {}", "x".repeat(500)))).collect::<StringArray>());
        RecordBatch::try_new(Arc::clone(&of), vec![p, t]).unwrap()
    };
    let mut plan = memory(2 << 30, 2);
    (plan.writer, plan.row_group_bytes, plan.writers) = (16 << 20, 8 << 20, 2);
    let rows = BatchStream::new(Arc::clone(&schema), futures::stream::iter((0..100).map(move |i| Ok(batch(i)))));
    let target = local(dir.path());
    let spec = spec(&schema, &["p"], options(1_000_000));
    let staged = write_files(&RunContext::new(plan), &target, &spec, rows).await.unwrap();
    assert_eq!(staged.rows(), 204_800);
    // 110 MB of rows cannot have been held in 16 MB: they left in several row groups for each partition.
    let groups: usize = staged
        .files
        .iter()
        .map(|f| on_disk(dir.path(), &f.path))
        .map(|p| ParquetRecordBatchReaderBuilder::try_new(File::open(p).unwrap()).unwrap().metadata().num_row_groups())
        .sum();
    assert!(groups > 900, "{groups}");
    // Each partition's rows are in the order in which they came.
    let mut last: std::collections::HashMap<String, String> = Default::default();
    for file in &staged.files {
        let p = file.partition_values["p"].clone().unwrap();
        for b in read(&on_disk(dir.path(), &file.path)) {
            for t in b.column(0).as_string::<i32>().iter().flatten() {
                let key = t[..9].to_owned();
                if let Some(before) = last.insert(p.clone(), key.clone()) {
                    assert!(before < key, "{p}: {before} then {key}");
                }
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn mapped_columns_have_physical_names_and_ids() {
    let inner: Fields = vec![Field::new("x", DataType::Int32, true)].into();
    let s = StructArray::new(inner, vec![Arc::new(Int32Array::from(vec![5]))], None);
    let batch = RecordBatch::try_from_iter_with_nullable(vec![
        ("p", Arc::new(Int32Array::from(vec![1])) as ArrayRef, true),
        ("s", Arc::new(s) as ArrayRef, true),
    ])
    .unwrap();
    let physical = |logical: &str, physical: &str, id| PhysicalColumn {
        logical: logical.into(),
        physical: physical.into(),
        field_id: Some(id),
    };
    let dir = tempfile::tempdir().unwrap();
    let mut target = local(dir.path());
    target.columns = vec![physical("p", "col-p", 1), physical("s", "col-s", 2)];
    let staged = write(&target, &spec(&batch.schema(), &["p"], options(9)), vec![batch]).await.unwrap();
    let file = &staged.files[0];
    assert_eq!(file.partition_values["col-p"].as_deref(), Some("1"));
    assert_eq!(
        file.stats.as_deref().unwrap(),
        r#"{"numRecords":1,"minValues":{"col-s":{"x":5}},"maxValues":{"col-s":{"x":5}},"nullCount":{"col-s":{"x":0}}}"#
    );
    let path = on_disk(dir.path(), &file.path);
    let reader = ParquetRecordBatchReaderBuilder::try_new(File::open(path).unwrap()).unwrap();
    let root = reader.parquet_schema().root_schema();
    assert_eq!((root.get_fields()[0].name(), root.get_fields()[0].get_basic_info().id()), ("col-s", 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn objects_are_put_whole_or_in_parts() {
    let store = Arc::new(InMemory::new());
    let target = Target { store: store.clone(), local: None, columns: vec![] };
    let (schema, small) = numbers(0, 1_000);
    let mut files = options(200_000);
    files.compression = Compression::Uncompressed;
    let spec = spec(&schema, &[], files);
    let big: Vec<_> = (0..40).map(|i| numbers(i * 100_000, (i + 1) * 100_000).1).collect();
    for (batches, rows) in [(vec![small], 1_000), (big, 4_000_000)] {
        let staged = write(&target, &spec, batches).await.unwrap();
        assert_eq!((staged.files.len(), staged.rows()), (1, rows));
        let path = object_store::path::Path::parse(&staged.files[0].path).unwrap();
        let bytes = store.get(&path).await.unwrap().bytes().await.unwrap();
        assert_eq!(bytes.len() as u64, staged.files[0].size);
        let reader = ParquetRecordBatchReaderBuilder::try_new(bytes).unwrap().build().unwrap();
        let have: usize = reader.map(|b| b.unwrap().num_rows()).sum();
        assert_eq!(have as u64, rows);
    }
    let all = store.list(None);
    assert_eq!(futures::StreamExt::count(all).await, 2);
}
