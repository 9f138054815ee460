//! DuckDB's own batches as ours, for tests: buffers are copied from arrow 60 to 59 without any unsafe code.

use std::sync::Arc;

use ::duckdb::Connection;
use ::duckdb::arrow as arrow60;
use arrow::array::{ArrayData, ArrayRef, RecordBatch, make_array};
use arrow::buffer::{BooleanBuffer, Buffer, NullBuffer};
use arrow::datatypes::{DataType, Field, Fields, Schema, TimeUnit};

/// Runs a query; all its rows as batches of our arrow.
pub(super) fn query(con: &Connection, sql: &str) -> Result<Vec<RecordBatch>, String> {
    let mut statement = con.prepare(sql).map_err(|e| e.to_string())?;
    let batches = statement.stream_arrow([]).map_err(|e| e.to_string())?;
    batches.map(|b| b.map(|b| batch(&b)).map_err(|e| e.to_string())).collect()
}

/// The text of each column of a query's only row; `None` for NULL.
pub(super) fn texts(con: &Connection, sql: &str) -> Result<Vec<Option<String>>, String> {
    let mut statement = con.prepare(sql).map_err(|e| e.to_string())?;
    let mut rows = statement.query([]).map_err(|e| e.to_string())?;
    let row = rows.next().map_err(|e| e.to_string())?.ok_or("no row")?;
    let columns = row.as_ref().column_count();
    (0..columns).map(|i| row.get::<_, Option<String>>(i).map_err(|e| e.to_string())).collect()
}

fn batch(batch: &arrow60::array::RecordBatch) -> RecordBatch {
    let schema = Schema::new(fields(batch.schema_ref().fields()));
    let columns = batch.columns().iter().map(|c| -> ArrayRef { make_array(data(&c.to_data())) }).collect();
    RecordBatch::try_new(Arc::new(schema), columns).unwrap()
}

fn data(from: &arrow60::array::ArrayData) -> ArrayData {
    let nulls = from.nulls().map(|n| NullBuffer::new(BooleanBuffer::collect_bool(n.len(), |i| n.is_valid(i))));
    ArrayData::builder(data_type(from.data_type()))
        .len(from.len())
        .offset(from.offset())
        .nulls(nulls)
        .buffers(from.buffers().iter().map(|b| Buffer::from(b.as_slice())).collect())
        .child_data(from.child_data().iter().map(data).collect())
        .align_buffers(true)
        .build()
        .unwrap()
}

fn field(from: &arrow60::datatypes::Field) -> Field {
    Field::new(from.name(), data_type(from.data_type()), from.is_nullable())
}

fn fields(from: &arrow60::datatypes::Fields) -> Fields {
    from.iter().map(|f| field(f)).collect()
}

fn data_type(from: &arrow60::datatypes::DataType) -> DataType {
    use arrow60::datatypes::{DataType as From, TimeUnit as Unit};
    match from {
        From::Boolean => DataType::Boolean,
        From::Int8 => DataType::Int8,
        From::Int16 => DataType::Int16,
        From::Int32 => DataType::Int32,
        From::Int64 => DataType::Int64,
        From::Float32 => DataType::Float32,
        From::Float64 => DataType::Float64,
        From::Decimal128(p, s) => DataType::Decimal128(*p, *s),
        From::Utf8 => DataType::Utf8,
        From::Binary => DataType::Binary,
        From::Date32 => DataType::Date32,
        From::Timestamp(unit, zone) => {
            let unit = match unit {
                Unit::Second => TimeUnit::Second,
                Unit::Millisecond => TimeUnit::Millisecond,
                Unit::Microsecond => TimeUnit::Microsecond,
                Unit::Nanosecond => TimeUnit::Nanosecond,
            };
            DataType::Timestamp(unit, zone.clone())
        }
        From::List(child) => DataType::List(Arc::new(field(child))),
        From::Map(entries, sorted) => DataType::Map(Arc::new(field(entries)), *sorted),
        From::Struct(children) => DataType::Struct(fields(children)),
        other => panic!("a batch has {other}, which no decision leads to"),
    }
}
