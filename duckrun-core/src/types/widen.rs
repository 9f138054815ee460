//! Which Delta type holds every value of another one exactly. Whether a value may be NULL is a constraint, not a type:
//! it is ignored here and checked where batches are conformed.

use arrow::datatypes::{DataType, Field, Fields};

use super::delta::{list_of, map_fields, map_of, timestamp_ntz, timestamp_utc};
use super::{is_delta_type, names};
use crate::TimestampMode;

/// Whether every value of `from` has an exact counterpart in `to`.
///
/// Integers widen to larger integers, to decimals with room for all their digits, and to floats whose mantissa holds
/// them; a decimal to one with at least its digits on either side of the point, and without fraction to an integer or
/// float that holds it; `float` to `double`; `date` to `timestamp_ntz` (Delta's own type widening; a date beyond a
/// timestamp's range is refused while the query runs). Lists, maps and structs widen inside; a struct's fields are
/// found by name, and `to` may have more, if they may be NULL. `timestamp` and `timestamp_ntz` never widen to one another.
pub fn widens(from: &DataType, to: &DataType) -> bool {
    match (from, to) {
        (DataType::List(a), DataType::List(b)) => widens(a.data_type(), b.data_type()),
        (DataType::Map(a, _), DataType::Map(b, _)) => match (map_fields(a), map_fields(b)) {
            (Some((ak, av)), Some((bk, bv))) => {
                widens(ak.data_type(), bk.data_type()) && widens(av.data_type(), bv.data_type())
            }
            _ => false,
        },
        (DataType::Struct(a), DataType::Struct(b)) => struct_widens(a, b),
        _ => leaf_widens(from, to, TimestampMode::Ntz),
    }
}

fn struct_widens(from: &Fields, to: &Fields) -> bool {
    let find = |fields: &'_ Fields, name: &str| names::find(fields, name, |f| f.name()).cloned();
    let kept = from.iter().all(|f| find(to, f.name()).is_some_and(|t| widens(f.data_type(), t.data_type())));
    !from.is_empty() && kept && to.iter().all(|t| t.is_nullable() || find(from, t.name()).is_some())
}

/// The same for types without children, where the mode may equate `timestamp` and `timestamp_ntz`.
pub(super) fn leaf_widens(from: &DataType, to: &DataType, timestamps: TimestampMode) -> bool {
    use DataType::{Date32, Decimal128, Float32, Float64, Int8, Int16, Int32, Int64};
    if !is_delta_type(from) || !is_delta_type(to) {
        return false;
    }
    let utc = timestamps == TimestampMode::Utc;
    match (from, to) {
        (Int8, Int16 | Int32 | Int64 | Float32 | Float64)
        | (Int16, Int32 | Int64 | Float32 | Float64)
        | (Int32, Int64 | Float64)
        | (Float32, Float64) => true,
        (Decimal128(p, s), Decimal128(q, t)) => t >= s && room(*q, *t) >= room(*p, *s),
        (Int8 | Int16 | Int32 | Int64, Decimal128(q, t)) => digits(from).is_some_and(|d| room(*q, *t) >= d),
        (Decimal128(p, 0), Int8) => *p <= 2,
        (Decimal128(p, 0), Int16) => *p <= 4,
        (Decimal128(p, 0), Int32) => *p <= 9,
        (Decimal128(p, 0), Int64) => *p <= 18,
        (Decimal128(p, 0), Float32) => *p <= 7,
        (Decimal128(p, 0), Float64) => *p <= 15,
        (Date32, to) if *to == timestamp_ntz() => true,
        (Date32, to) if *to == timestamp_utc() => utc,
        (from, to) if *from == timestamp_ntz() && *to == timestamp_utc() => utc,
        (from, to) if *from == timestamp_utc() && *to == timestamp_ntz() => utc,
        _ => from == to,
    }
}

/// Digits before the point.
fn room(precision: u8, scale: i8) -> i16 {
    i16::from(precision) - i16::from(scale)
}

/// Digits that the values of an integer type have at most.
fn digits(ty: &DataType) -> Option<i16> {
    match ty {
        DataType::Int8 => Some(3),
        DataType::Int16 => Some(5),
        DataType::Int32 => Some(10),
        DataType::Int64 => Some(19),
        _ => None,
    }
}

/// The smallest Delta type that both types widen to; `None` where there is none.
///
/// A struct gets the fields of both, those of `a` first.
pub fn common_type(a: &DataType, b: &DataType) -> Option<DataType> {
    match (a, b) {
        (DataType::List(x), DataType::List(y)) => Some(list_of(common_type(x.data_type(), y.data_type())?)),
        (DataType::Map(x, _), DataType::Map(y, _)) => {
            let ((xk, xv), (yk, yv)) = (map_fields(x)?, map_fields(y)?);
            let key = common_type(xk.data_type(), yk.data_type())?;
            Some(map_of(key, common_type(xv.data_type(), yv.data_type())?))
        }
        (DataType::Struct(x), DataType::Struct(y)) => {
            let mut fields = Vec::with_capacity(x.len());
            for f in x {
                let ty = match names::find(y, f.name(), |f| f.name()) {
                    Some(g) => common_type(f.data_type(), g.data_type())?,
                    None => f.data_type().clone(),
                };
                fields.push(Field::new(f.name(), ty, true));
            }
            let new = y.iter().filter(|g| names::find(x, g.name(), |f| f.name()).is_none());
            fields.extend(new.map(|g| Field::new(g.name(), g.data_type().clone(), true)));
            Some(DataType::Struct(fields.into()))
        }
        _ if widens(a, b) => Some(b.clone()),
        _ if widens(b, a) => Some(a.clone()),
        _ if widens(a, &DataType::Float64) && widens(b, &DataType::Float64) => Some(DataType::Float64),
        _ => common_decimal(a, b).map(|(precision, scale)| DataType::Decimal128(precision, scale)),
    }
}

/// Precision and scale that hold the digits of two integers or decimals.
fn common_decimal(a: &DataType, b: &DataType) -> Option<(u8, i8)> {
    let shape = |ty: &DataType| match ty {
        DataType::Decimal128(p, s) => Some((room(*p, *s), *s)),
        ty => Some((digits(ty)?, 0)),
    };
    let ((before_a, after_a), (before_b, after_b)) = (shape(a)?, shape(b)?);
    let scale = after_a.max(after_b);
    let precision = u8::try_from(before_a.max(before_b) + i16::from(scale)).ok()?;
    (precision <= 38).then_some((precision, scale))
}
