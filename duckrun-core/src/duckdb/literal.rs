//! Values as DuckDB parameters and as SQL literals.

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::datatypes::{DataType, Date32Type, TimeUnit, TimestampMicrosecondType};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use duckdb::types::Value as DuckValue;

use crate::types::sql_type;
use crate::{Error, Result, Value, quote_literal};

/// A value as a bound parameter.
pub(super) fn parameter(value: &Value) -> DuckValue {
    match value {
        Value::Null => DuckValue::Null,
        Value::Bool(v) => DuckValue::Boolean(*v),
        Value::Int(v) => DuckValue::BigInt(*v),
        Value::Float(v) => DuckValue::Double(*v),
        Value::Text(v) => DuckValue::Text(v.clone()),
        Value::Bytes(v) => DuckValue::Blob(v.clone()),
        Value::List(v) => DuckValue::List(v.iter().map(parameter).collect()),
    }
}

/// A value as a SQL literal.
pub(super) fn literal(value: &Value) -> String {
    match value {
        Value::Null => "NULL".to_owned(),
        Value::Bool(v) => v.to_string(),
        Value::Int(v) => format!("CAST({} AS BIGINT)", quote_literal(&v.to_string())),
        Value::Float(v) => format!("CAST({} AS DOUBLE)", quote_literal(&v.to_string())),
        Value::Text(v) => text(v),
        Value::Bytes(v) => blob(v),
        Value::List(v) => format!("[{}]", v.iter().map(literal).collect::<Vec<_>>().join(", ")),
    }
}

/// DuckDB's SQL text cannot carry a NUL byte; `chr(0)` can.
fn text(v: &str) -> String {
    if v.contains('\0') {
        let parts: Vec<_> = v.split('\0').map(quote_literal).collect();
        format!("({})", parts.join(" || chr(0) || "))
    } else {
        quote_literal(v)
    }
}

fn blob(v: &[u8]) -> String {
    let hex: String = v.iter().map(|b| format!("{b:02x}")).collect();
    format!("from_hex('{hex}')")
}

/// One value of an Arrow array, of a type that a partition column can have, as a typed SQL literal.
pub(super) fn array_literal(array: &ArrayRef, row: usize) -> Result<String> {
    let sql = sql_type(array.data_type())?;
    if array.is_null(row) {
        return Ok(format!("CAST(NULL AS {sql})"));
    }
    let body = match array.data_type() {
        DataType::Utf8 => text(array.as_string::<i32>().value(row)),
        DataType::Binary => blob(array.as_binary::<i32>().value(row)),
        // Dates and timestamps as numbers: text would have to be told apart from DuckDB's own formats (BC years, five digits).
        DataType::Date32 => {
            return Ok(format!(
                "(DATE '1970-01-01' + CAST({} AS INTEGER))",
                array.as_primitive::<Date32Type>().value(row)
            ));
        }
        DataType::Timestamp(TimeUnit::Microsecond, zone) => {
            let micros = array.as_primitive::<TimestampMicrosecondType>().value(row);
            let naive = format!("make_timestamp(CAST({micros} AS BIGINT))");
            return Ok(if zone.is_some() { format!("CAST({naive} AS TIMESTAMPTZ)") } else { naive });
        }
        _ => {
            let options = FormatOptions::default();
            let formatter = ArrayFormatter::try_new(array.as_ref(), &options)
                .map_err(|e| Error::internal("a partition value cannot be formatted").with_source(e))?;
            quote_literal(&formatter.value(row).to_string())
        }
    };
    Ok(format!("CAST({body} AS {sql})"))
}
