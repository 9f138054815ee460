//! Types and values as `tests/readers/read.py` prints them: types by their Delta names, values so that nothing is rounded.

use duckrun::arrow::array::{Array, AsArray};
use duckrun::arrow::datatypes::{
    DataType, Date32Type, Decimal128Type, Field, Float32Type, Float64Type, Int8Type, Int16Type, Int32Type, Int64Type,
    Schema, TimeUnit, TimestampMicrosecondType,
};
use serde_json::Value as Json;

/// Columns with the names of their Delta types.
pub(super) fn schema(schema: &Schema) -> Vec<(String, String)> {
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
pub(super) fn value(array: &dyn Array, row: usize) -> Json {
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
