//! The decision per column: the Delta type of a DuckDB type, or a refusal that names the column and the cast to use.

use arrow::datatypes::{DataType, Field};

use super::delta::{list_of, map_of, timestamp_ntz, timestamp_utc};
use super::{DuckType, cast, names};
use crate::{Error, Result, TimestampMode, quote_ident};

/// What becomes of a column.
#[derive(Debug, Clone, PartialEq)]
pub struct Decision {
    /// What the Delta table holds.
    pub arrow: DataType,
    /// SQL over the quoted column that yields exactly that type. It is the bare column where nothing has to be done.
    pub expr: String,
}

/// Decides what becomes of a column of a query's result.
///
/// ```
/// use duckrun_core::TimestampMode;
/// use duckrun_core::types::{DuckType, decide};
/// let d = decide("n", &DuckType::UInteger, TimestampMode::Ntz)?;
/// assert_eq!((d.arrow.to_string().as_str(), d.expr.as_str()), ("Int64", r#"CAST("n" AS BIGINT)"#));
/// let e = decide("at", &DuckType::Time, TimestampMode::Ntz).unwrap_err();
/// assert!(e.message().contains(r#"CAST("at" AS VARCHAR)"#));
/// # Ok::<(), duckrun_core::Error>(())
/// ```
///
/// # Errors
/// [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported) where the type has no Delta counterpart,
/// [`ErrorKind::InvalidInput`](crate::ErrorKind::InvalidInput) where names inside a struct collide.
pub fn decide(column: &str, ty: &DuckType, timestamps: TimestampMode) -> Result<Decision> {
    let arrow = delta_type(ty, timestamps).map_err(|refused| refusal(column, ty, &refused))?;
    names::check_nested(&format!("column {}", quote_ident(column)), &arrow)?;
    let expr = cast::cast_expr(column, ty, &arrow, timestamps)?;
    Ok(Decision { arrow, expr })
}

/// The Delta type of a DuckDB type, or the innermost type that has none. This is the table of the module's documentation.
pub(super) fn delta_type(ty: &DuckType, timestamps: TimestampMode) -> Result<DataType, DuckType> {
    let inner = |ty: &DuckType| delta_type(ty, timestamps);
    Ok(match ty {
        DuckType::Boolean => DataType::Boolean,
        DuckType::TinyInt => DataType::Int8,
        DuckType::SmallInt | DuckType::UTinyInt => DataType::Int16,
        DuckType::Integer | DuckType::USmallInt => DataType::Int32,
        DuckType::BigInt | DuckType::UInteger => DataType::Int64,
        DuckType::UBigInt => DataType::Decimal128(20, 0),
        DuckType::HugeInt | DuckType::UHugeInt => DataType::Decimal128(38, 0),
        DuckType::Float => DataType::Float32,
        DuckType::Double => DataType::Float64,
        DuckType::Decimal { width, scale } => match i8::try_from(*scale) {
            Ok(scale) if (1..=38).contains(width) && scale.unsigned_abs() <= *width => {
                DataType::Decimal128(*width, scale)
            }
            _ => return Err(ty.clone()),
        },
        DuckType::Varchar | DuckType::Enum(_) | DuckType::Uuid | DuckType::Json => DataType::Utf8,
        DuckType::Blob => DataType::Binary,
        DuckType::Date => DataType::Date32,
        DuckType::Timestamp | DuckType::TimestampS | DuckType::TimestampMs | DuckType::TimestampNs => {
            match timestamps {
                TimestampMode::Ntz => timestamp_ntz(),
                TimestampMode::Utc => timestamp_utc(),
            }
        }
        DuckType::TimestampTz | DuckType::TimestampTzNs => timestamp_utc(),
        DuckType::List(element) | DuckType::Array(element, _) => list_of(inner(element)?),
        DuckType::Map(key, value) => map_of(inner(key)?, inner(value)?),
        DuckType::Struct(fields) if !fields.is_empty() => {
            let field = |(name, ty): &(String, DuckType)| Ok(Field::new(name, inner(ty)?, true));
            DataType::Struct(fields.iter().map(field).collect::<Result<_, DuckType>>()?)
        }
        DuckType::BigNum
        | DuckType::Bit
        | DuckType::Time
        | DuckType::TimeNs
        | DuckType::TimeTz
        | DuckType::Interval
        | DuckType::Variant
        | DuckType::Geometry
        | DuckType::Type
        | DuckType::Null
        | DuckType::Struct(_)
        | DuckType::Tuple(_)
        | DuckType::Union(_)
        | DuckType::Other(_) => return Err(ty.clone()),
    })
}

/// The refusal of a column because of a type in it, with the cast that would do.
pub(super) fn refusal(column: &str, ty: &DuckType, refused: &DuckType) -> Error {
    let column = quote_ident(column);
    let (what, hint) = match refused {
        DuckType::Null => ("a NULL without a type".to_owned(), ", or as the type that it should have"),
        DuckType::BigNum => ("BIGNUM".to_owned(), ", or as DECIMAL(38,0) where its values fit"),
        DuckType::Struct(_) => ("a STRUCT without fields".to_owned(), ""),
        DuckType::Tuple(_) => ("a TUPLE, whose fields have no names".to_owned(), ", with names of your own"),
        other => (other.to_string(), ""),
    };
    let within = if refused == ty { String::new() } else { format!(" in its {ty}") };
    Error::unsupported(format!(
        "column {column} has {what}{within}, which no Delta type holds; use CAST({column} AS {}){hint}",
        storable(ty)
    ))
}

/// The nearest type that a Delta table can hold and that DuckDB can cast to without loss.
fn storable(ty: &DuckType) -> DuckType {
    let boxed = |ty: &DuckType| Box::new(storable(ty));
    match ty {
        DuckType::List(element) => DuckType::List(boxed(element)),
        DuckType::Array(element, n) => DuckType::Array(boxed(element), *n),
        DuckType::Map(key, value) => DuckType::Map(boxed(key), boxed(value)),
        DuckType::Struct(fields) if !fields.is_empty() => {
            DuckType::Struct(fields.iter().map(|(name, ty)| (name.clone(), storable(ty))).collect())
        }
        DuckType::Tuple(fields) if !fields.is_empty() => {
            DuckType::Struct(fields.iter().zip(1..).map(|(ty, i)| (format!("f{i}"), storable(ty))).collect())
        }
        ty if delta_type(ty, TimestampMode::Ntz).is_ok() => ty.clone(),
        _ => DuckType::Varchar,
    }
}
