//! The model's rows as Arrow batches, and back.

use std::sync::Arc;

use duckrun::arrow::array::{
    Array, ArrayRef, AsArray, BinaryArray, BooleanArray, Date32Array, Decimal128Array, Float32Array, Float64Array,
    Int8Array, Int16Array, Int32Array, Int64Array, ListArray, RecordBatch, RecordBatchOptions, StringArray,
    StructArray, TimestampMicrosecondArray,
};
use duckrun::arrow::buffer::{NullBuffer, OffsetBuffer};
use duckrun::arrow::datatypes::{
    DataType, Date32Type, Decimal128Type, Field, Fields, Float32Type, Float64Type, Int8Type, Int16Type, Int32Type,
    Int64Type, Schema, SchemaRef, TimeUnit, TimestampMicrosecondType,
};
use duckrun::{Error, Result};

use crate::model::{Column, Rows, Type, Value};

/// A type in Arrow, as Delta writers take it.
pub fn data_type(ty: &Type) -> DataType {
    match ty {
        Type::Bool => DataType::Boolean,
        Type::Byte => DataType::Int8,
        Type::Short => DataType::Int16,
        Type::Int => DataType::Int32,
        Type::Long => DataType::Int64,
        Type::Float => DataType::Float32,
        Type::Double => DataType::Float64,
        Type::Decimal(p, s) => DataType::Decimal128(*p, *s as i8),
        Type::Text => DataType::Utf8,
        Type::Binary => DataType::Binary,
        Type::Date => DataType::Date32,
        Type::Timestamp => DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
        Type::TimestampNtz => DataType::Timestamp(TimeUnit::Microsecond, None),
        Type::List(item) => DataType::List(Arc::new(Field::new("element", data_type(item), true))),
        Type::Struct(fields) => DataType::Struct(struct_fields(fields)),
    }
}

fn struct_fields(fields: &[(String, Type)]) -> Fields {
    fields.iter().map(|(n, t)| Field::new(n, data_type(t), true)).collect()
}

/// The columns as an Arrow schema.
pub fn schema(columns: &[Column]) -> SchemaRef {
    Arc::new(Schema::new(columns.iter().map(|c| Field::new(&c.name, data_type(&c.ty), true)).collect::<Vec<_>>()))
}

/// The rows as one batch.
///
/// # Errors
/// When a value is not of its column's type.
pub fn batch(rows: &Rows) -> Result<RecordBatch> {
    let arrays = rows
        .columns
        .iter()
        .enumerate()
        .map(|(i, c)| array(&rows.rows.iter().map(|r| &r[i]).collect::<Vec<_>>(), &c.ty))
        .collect::<Result<Vec<_>>>()?;
    let options = RecordBatchOptions::new().with_row_count(Some(rows.rows.len()));
    RecordBatch::try_new_with_options(schema(&rows.columns), arrays, &options).map_err(wrong)
}

fn wrong(e: impl std::fmt::Display) -> Error {
    Error::invalid(e.to_string())
}

/// Takes one variant out of a value.
macro_rules! pick {
    ($values:expr, $variant:ident, $map:expr) => {
        $values.iter().map(|v| if let Value::$variant(x) = v { Some($map(x)) } else { None }).collect::<Vec<_>>()
    };
}

fn array(values: &[&Value], ty: &Type) -> Result<ArrayRef> {
    let times = || TimestampMicrosecondArray::from(pick!(values, Timestamp, |x: &i64| *x));
    Ok(match ty {
        Type::Bool => Arc::new(BooleanArray::from(pick!(values, Bool, |x: &bool| *x))),
        Type::Byte => Arc::new(Int8Array::from(pick!(values, Int, |x: &i64| *x as i8))),
        Type::Short => Arc::new(Int16Array::from(pick!(values, Int, |x: &i64| *x as i16))),
        Type::Int => Arc::new(Int32Array::from(pick!(values, Int, |x: &i64| *x as i32))),
        Type::Long => Arc::new(Int64Array::from(pick!(values, Int, |x: &i64| *x))),
        Type::Float => Arc::new(Float32Array::from(pick!(values, Float, |x: &f64| *x as f32))),
        Type::Double => Arc::new(Float64Array::from(pick!(values, Float, |x: &f64| *x))),
        Type::Decimal(p, s) => Arc::new(
            Decimal128Array::from(pick!(values, Decimal, |x: &i128| *x))
                .with_precision_and_scale(*p, *s as i8)
                .map_err(wrong)?,
        ),
        Type::Text => Arc::new(StringArray::from(pick!(values, Text, |x: &String| x.clone()))),
        Type::Binary => Arc::new(BinaryArray::from_iter(pick!(values, Binary, |x: &Vec<u8>| x.clone()))),
        Type::Date => Arc::new(Date32Array::from(pick!(values, Date, |x: &i32| *x))),
        Type::Timestamp => Arc::new(times().with_timezone("UTC")),
        Type::TimestampNtz => Arc::new(times()),
        Type::List(item) => {
            let lists = pick!(values, List, |x: &Vec<Value>| x.clone());
            let lengths = lists.iter().map(|l| l.as_ref().map_or(0, Vec::len));
            let offsets = OffsetBuffer::from_lengths(lengths);
            let nulls = NullBuffer::from_iter(lists.iter().map(Option::is_some));
            let items: Vec<&Value> = lists.iter().flatten().flatten().collect();
            let field = Arc::new(Field::new("element", data_type(item), true));
            Arc::new(ListArray::try_new(field, offsets, array(&items, item)?, Some(nulls)).map_err(wrong)?)
        }
        Type::Struct(fields) => {
            let structs = pick!(values, Struct, |x: &Vec<Value>| x.clone());
            let nulls = NullBuffer::from_iter(structs.iter().map(Option::is_some));
            let children = fields
                .iter()
                .enumerate()
                .map(|(i, (_, t))| {
                    let cells: Vec<&Value> =
                        structs.iter().map(|s| s.as_ref().map_or(&Value::Null, |s| &s[i])).collect();
                    array(&cells, t)
                })
                .collect::<Result<Vec<_>>>()?;
            Arc::new(StructArray::try_new(struct_fields(fields), children, Some(nulls)).map_err(wrong)?)
        }
    })
}

/// The rows of batches whose columns have the names of these, in any order.
///
/// # Errors
/// When a column is missing or has another type.
pub fn rows(columns: &[Column], batches: &[RecordBatch]) -> Result<Rows> {
    let mut rows = Vec::new();
    for batch in batches {
        let arrays = columns
            .iter()
            .map(|c| {
                let array = batch.column_by_name(&c.name).ok_or_else(|| wrong(format!("no column {:?}", c.name)))?;
                duckrun::arrow::compute::cast(array, &data_type(&c.ty)).map_err(wrong)
            })
            .collect::<Result<Vec<_>>>()?;
        for row in 0..batch.num_rows() {
            rows.push(arrays.iter().zip(columns).map(|(a, c)| cell(a, row, &c.ty)).collect());
        }
    }
    Ok(Rows::new(columns.to_vec(), rows))
}

fn cell(array: &ArrayRef, row: usize, ty: &Type) -> Value {
    if array.is_null(row) {
        return Value::Null;
    }
    match ty {
        Type::Bool => Value::Bool(array.as_boolean().value(row)),
        Type::Byte => Value::Int(array.as_primitive::<Int8Type>().value(row).into()),
        Type::Short => Value::Int(array.as_primitive::<Int16Type>().value(row).into()),
        Type::Int => Value::Int(array.as_primitive::<Int32Type>().value(row).into()),
        Type::Long => Value::Int(array.as_primitive::<Int64Type>().value(row)),
        Type::Float => Value::Float(array.as_primitive::<Float32Type>().value(row).into()),
        Type::Double => Value::Float(array.as_primitive::<Float64Type>().value(row)),
        Type::Decimal(..) => Value::Decimal(array.as_primitive::<Decimal128Type>().value(row)),
        Type::Text => Value::Text(array.as_string::<i32>().value(row).to_owned()),
        Type::Binary => Value::Binary(array.as_binary::<i32>().value(row).to_vec()),
        Type::Date => Value::Date(array.as_primitive::<Date32Type>().value(row)),
        Type::Timestamp | Type::TimestampNtz => {
            Value::Timestamp(array.as_primitive::<TimestampMicrosecondType>().value(row))
        }
        Type::List(item) => {
            let items = array.as_list::<i32>().value(row);
            Value::List((0..items.len()).map(|i| cell(&items, i, item)).collect())
        }
        Type::Struct(fields) => {
            let columns = array.as_struct().columns();
            Value::Struct(columns.iter().zip(fields).map(|(a, (_, t))| cell(a, row, t)).collect())
        }
    }
}
