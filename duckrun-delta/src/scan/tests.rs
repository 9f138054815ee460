//! What the reader promises, for files of our own and of other writers.

use std::collections::BTreeMap;
use std::fs::File;
use std::sync::Arc;

use arrow::array::*;
use arrow::compute::concat_batches;
use arrow::datatypes::*;
use duckrun_core::{ErrorKind, ROW_NUMBER, RunContext};
use duckrun_memory::{EffectiveLimit, Job, MemorySettings, plan};
use parquet::arrow::ArrowWriter;
use parquet::data_type::{Int96, Int96Type};
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;

use super::shape::ShapeColumn;
use super::*;

fn context() -> RunContext {
    RunContext::new(plan(&EffectiveLimit::explicit(1 << 30, 2), &MemorySettings::default(), Job::Write).unwrap())
}

fn shape(schema: &Schema) -> TableShape {
    let column = |field: &FieldRef| ShapeColumn {
        field: Arc::clone(field),
        physical_name: field.name().clone(),
        physical_type: field.data_type().clone(),
        id: None,
        partition: field.name().starts_with("part"),
    };
    TableShape { columns: schema.fields().iter().map(column).collect(), by_id: false }
}

async fn open(dir: &std::path::Path, schema: &Schema, deleted: Vec<u64>) -> duckrun_core::Result<OpenFile> {
    let live = LiveFile {
        path: "x.parquet".to_owned(),
        size: std::fs::metadata(dir.join("x.parquet")).unwrap().len(),
        partition_values: BTreeMap::from([("part".to_owned(), Some("2020-02-29".to_owned()))]),
        stats: None,
        deletion_vector: None,
    };
    OpenFile::open_with(&Location::local(dir).unwrap(), &shape(schema), &live, Some(Arc::new(deleted))).await
}

fn write(dir: &std::path::Path, batch: &RecordBatch, rows: usize) {
    let properties = WriterProperties::builder().set_max_row_group_row_count(Some(rows)).build();
    let file = File::create(dir.join("x.parquet")).unwrap();
    let mut writer = ArrowWriter::try_new(file, batch.schema(), Some(properties)).unwrap();
    writer.write(batch).unwrap();
    writer.close().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn live_rows_come_in_the_table_s_types() {
    let dir = tempfile::tempdir().unwrap();
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("SMALL", Arc::new((0..100).map(|i| i as u16).collect::<UInt16Array>())),
        ("large", Arc::new(LargeStringArray::from_iter_values((0..100).map(|i| format!("{i}"))))),
        ("dictionary", {
            let texts: StringArray = (0..100).map(|i| Some(format!("{}", i % 3))).collect();
            arrow::compute::cast(&texts, &DataType::Dictionary(Box::new(DataType::Int8), Box::new(DataType::Utf8)))
                .unwrap()
        }),
        ("s", {
            let member: ArrayRef = Arc::new((0..100).map(|i| i as i8).collect::<Int8Array>());
            Arc::new(StructArray::from(vec![(Arc::new(Field::new("x", DataType::Int8, true)), member)]))
        }),
    ];
    write(dir.path(), &RecordBatch::try_from_iter(columns).unwrap(), 30);
    let members: Fields = vec![Field::new("new", DataType::Utf8, true), Field::new("x", DataType::Int32, true)].into();
    let schema = Schema::new(vec![
        Field::new("missing", DataType::Utf8, true),
        Field::new("small", DataType::Int32, true),
        Field::new("part", DataType::Date32, true),
        Field::new("large", DataType::Utf8, true),
        Field::new("dictionary", DataType::Utf8, true),
        Field::new("s", DataType::Struct(members), true),
    ]);
    let deleted: Vec<u64> = (0..100).filter(|r| r % 7 == 0 || (30..60).contains(r)).collect();
    let file = open(dir.path(), &schema, deleted.clone()).await.unwrap();
    assert_eq!((file.row_groups(), file.rows(), file.deleted()), (4, 100, deleted.as_slice()));
    let live: Vec<i64> = (0..100).filter(|r| !deleted.contains(&(*r as u64))).collect();
    let all: Vec<usize> = (0..6).collect();
    let batches = file.stream(&context(), &all, 8, true).collect().await.unwrap();
    assert!(batches.iter().all(|b| b.num_rows() <= 8));
    let rows = concat_batches(&batches[0].schema(), &batches).unwrap();
    assert_eq!(rows.num_rows(), live.len());
    assert_eq!(rows.column(0).null_count(), live.len());
    assert_eq!(rows.column_by_name(ROW_NUMBER).unwrap().as_primitive::<Int64Type>().values(), live.as_slice());
    for (at, row) in live.iter().enumerate() {
        assert_eq!(i64::from(rows.column(1).as_primitive::<Int32Type>().value(at)), *row);
        assert_eq!(rows.column(2).as_primitive::<Date32Type>().value(at), 18_321);
        assert_eq!(rows.column(3).as_string::<i32>().value(at), row.to_string());
        assert_eq!(rows.column(4).as_string::<i32>().value(at), (row % 3).to_string());
        let members = rows.column(5).as_struct();
        assert!(members.column(0).is_null(at));
        assert_eq!(i64::from(members.column(1).as_primitive::<Int32Type>().value(at)), *row);
    }
    // Whole columns come with their deleted rows; no column at all still has rows.
    assert_eq!(file.read_column(1, 1).await.unwrap().len(), 30);
    assert_eq!(file.read_column(3, 0).await.unwrap().null_count(), 10);
    let none = file.stream(&context(), &[], 1000, false).collect().await.unwrap();
    assert_eq!(none.iter().map(RecordBatch::num_rows).sum::<usize>(), live.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn int96_is_read_as_microseconds_of_any_year() {
    let dir = tempfile::tempdir().unwrap();
    let message = Arc::new(parse_message_type("message m { optional int96 ts; }").unwrap());
    let file = File::create(dir.path().join("x.parquet")).unwrap();
    let mut writer = SerializedFileWriter::new(file, message, Arc::new(WriterProperties::default())).unwrap();
    let mut group = writer.next_row_group().unwrap();
    let mut column = group.next_column().unwrap().unwrap();
    // Nanoseconds of the day, then the Julian day: 1970-01-01 is 2,440,588; the year 0001 is out of a nanosecond's reach.
    let value = |nanos: u64, day: u32| {
        let mut v = Int96::new();
        v.set_data(nanos as u32, (nanos >> 32) as u32, day);
        v
    };
    let values = [value(1_001_000, 2_440_588), value(0, 1_721_426)];
    column.typed::<Int96Type>().write_batch(&values, Some(&[1, 0, 1]), None).unwrap();
    column.close().unwrap();
    group.close().unwrap();
    writer.close().unwrap();
    let utc = DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
    let schema = Schema::new(vec![Field::new("ts", utc, true)]);
    let file = open(dir.path(), &schema, vec![]).await.unwrap();
    let rows = file.read_column(0, 0).await.unwrap();
    let rows: Vec<Option<i64>> = rows.as_primitive::<TimestampMicrosecondType>().iter().collect();
    assert_eq!(rows, [Some(1_001), None, Some(-62_135_596_800_000_000)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_fit_is_refused_with_file_and_column() {
    let dir = tempfile::tempdir().unwrap();
    let n: ArrayRef = Arc::new(UInt64Array::from(vec![1, u64::MAX]));
    write(dir.path(), &RecordBatch::try_from_iter([("n", n)]).unwrap(), 10);
    let schema = Schema::new(vec![Field::new("n", DataType::Int64, true)]);
    let file = open(dir.path(), &schema, vec![]).await.unwrap();
    let e = file.stream(&context(), &[0], 10, false).collect().await.unwrap_err();
    assert!(
        e.kind() == ErrorKind::Unsupported && e.message().contains("\"n\"") && e.message().contains("x.parquet"),
        "{e}"
    );
    assert_eq!(open(dir.path(), &schema, vec![2]).await.unwrap_err().kind(), ErrorKind::Corrupt);
    // A file that is cut short, and one that is no parquet at all.
    let bytes = std::fs::read(dir.path().join("x.parquet")).unwrap();
    for broken in [&bytes[..bytes.len() - 9], b"short", b"".as_slice()] {
        std::fs::write(dir.path().join("x.parquet"), broken).unwrap();
        assert_eq!(open(dir.path(), &schema, vec![]).await.unwrap_err().kind(), ErrorKind::Corrupt);
    }
}
