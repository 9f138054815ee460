//! The Arrow types that a Delta table holds, spelt as delta-rs spells them (`element`, `key_value`, zone `UTC`).

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, TimeUnit};

use super::DuckType;
use crate::{Error, Result};

/// Delta's `timestamp`.
pub(super) fn timestamp_utc() -> DataType {
    DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()))
}

/// Delta's `timestamp_ntz`.
pub(super) const fn timestamp_ntz() -> DataType {
    DataType::Timestamp(TimeUnit::Microsecond, None)
}

/// The list type of a Delta `array`, as the Delta kernel names its parts.
pub fn list_of(element: DataType) -> DataType {
    DataType::List(Arc::new(Field::new("element", element, true)))
}

/// The map type of a Delta `map`, as the Delta kernel names its parts.
pub fn map_of(key: DataType, value: DataType) -> DataType {
    let entries = vec![Field::new("key", key, false), Field::new("value", value, true)];
    DataType::Map(Arc::new(Field::new("key_value", DataType::Struct(entries.into()), false)), false)
}

/// The key and value fields of a map's entries.
pub(super) fn map_fields(entries: &Field) -> Option<(&Arc<Field>, &Arc<Field>)> {
    match entries.data_type() {
        DataType::Struct(fields) if fields.len() == 2 => Some((&fields[0], &fields[1])),
        _ => None,
    }
}

/// Whether a Delta table can hold the type. The names of a list's and map's inner fields do not matter.
pub fn is_delta_type(ty: &DataType) -> bool {
    of_delta(ty).is_some()
}

/// The DuckDB type that holds a Delta type's values, as SQL text with every nested name quoted.
///
/// ```
/// use duckrun_core::arrow::datatypes::DataType;
/// use duckrun_core::types::{list_of, sql_type};
/// assert_eq!(sql_type(&list_of(DataType::Int32))?, "INTEGER[]");
/// # Ok::<(), duckrun_core::Error>(())
/// ```
///
/// # Errors
/// [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported) for a type that no Delta table holds.
pub fn sql_type(ty: &DataType) -> Result<String> {
    match of_delta(ty) {
        Some(duck) => Ok(duck.to_string()),
        None => Err(Error::unsupported(format!("{ty} is not a type of a Delta table"))),
    }
}

/// The DuckDB type that exports exactly as the given one; `None` for a type that no Delta table holds.
pub(super) fn of_delta(ty: &DataType) -> Option<DuckType> {
    Some(match ty {
        DataType::Boolean => DuckType::Boolean,
        DataType::Int8 => DuckType::TinyInt,
        DataType::Int16 => DuckType::SmallInt,
        DataType::Int32 => DuckType::Integer,
        DataType::Int64 => DuckType::BigInt,
        DataType::Float32 => DuckType::Float,
        DataType::Float64 => DuckType::Double,
        DataType::Decimal128(p, s) => {
            let scale = u8::try_from(*s).ok().filter(|s| s <= p && (1..=38).contains(p))?;
            DuckType::Decimal { width: *p, scale }
        }
        DataType::Utf8 => DuckType::Varchar,
        DataType::Binary => DuckType::Blob,
        DataType::Date32 => DuckType::Date,
        DataType::Timestamp(TimeUnit::Microsecond, None) => DuckType::Timestamp,
        DataType::Timestamp(TimeUnit::Microsecond, Some(zone)) if &**zone == "UTC" => DuckType::TimestampTz,
        DataType::List(element) => DuckType::List(Box::new(of_delta(element.data_type())?)),
        DataType::Map(entries, _) => {
            let (key, value) = map_fields(entries)?;
            DuckType::Map(Box::new(of_delta(key.data_type())?), Box::new(of_delta(value.data_type())?))
        }
        DataType::Struct(fields) if !fields.is_empty() => {
            let of_field = |f: &Arc<Field>| Some((f.name().clone(), of_delta(f.data_type())?));
            DuckType::Struct(fields.iter().map(of_field).collect::<Option<_>>()?)
        }
        _ => return None,
    })
}
