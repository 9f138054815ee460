//! Iceberg's types in Arrow's.

use std::sync::Arc;

use duckrun_core::arrow::datatypes::{DataType, Field, Fields, TimeUnit};
use duckrun_core::{Error, Result};
use serde_json::Value as Json;

/// The Arrow type of a column. UUIDs and times of day come as text: a Delta table has no type for them.
pub(super) fn arrow_type(column: &str, ty: &Json) -> Result<DataType> {
    let unknown = || Error::unsupported(format!("the column {column:?} has Iceberg's type {ty}, which is not read"));
    if let Some(name) = ty.as_str() {
        return primitive(name).ok_or_else(unknown);
    }
    let field = |name: &str, ty: &Json| Ok(Arc::new(Field::new(name, arrow_type(column, ty)?, true)));
    match ty["type"].as_str() {
        Some("struct") => {
            let fields = ty["fields"].as_array().filter(|f| !f.is_empty()).ok_or_else(unknown)?;
            let fields = fields.iter().map(|f| field(f["name"].as_str().ok_or_else(unknown)?, &f["type"]));
            Ok(DataType::Struct(fields.collect::<Result<Fields>>()?))
        }
        Some("list") => Ok(DataType::List(field("element", &ty["element"])?)),
        Some("map") => {
            let key = Arc::new(Field::new("key", arrow_type(column, &ty["key"])?, false));
            let entries = DataType::Struct(Fields::from(vec![key, field("value", &ty["value"])?]));
            Ok(DataType::Map(Arc::new(Field::new("key_value", entries, false)), false))
        }
        _ => Err(unknown()),
    }
}

fn primitive(name: &str) -> Option<DataType> {
    Some(match name {
        "boolean" => DataType::Boolean,
        "int" => DataType::Int32,
        "long" => DataType::Int64,
        "float" => DataType::Float32,
        "double" => DataType::Float64,
        "date" => DataType::Date32,
        "timestamp" => DataType::Timestamp(TimeUnit::Microsecond, None),
        "timestamptz" => DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
        "string" | "uuid" | "time" => DataType::Utf8,
        "binary" => DataType::Binary,
        other if other.starts_with("fixed[") => DataType::Binary,
        other => {
            let args = other.strip_prefix("decimal(")?.strip_suffix(')')?;
            let (precision, scale) = args.split_once(',')?;
            let (precision, scale) = (precision.trim().parse().ok()?, scale.trim().parse().ok()?);
            ((1..=38).contains(&precision) && (0..=38).contains(&scale))
                .then_some(DataType::Decimal128(precision, scale))?
        }
    })
}
