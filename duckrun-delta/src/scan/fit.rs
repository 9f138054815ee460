//! What a file holds, as the table's type: without loss, or refused.
//!
//! A value that the table's type cannot hold is an error and never a NULL or a rounded one: what is read here is written
//! into new files, and the old ones go.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, ListArray, MapArray, StructArray, new_null_array};
use arrow::compute::kernels::cmp::not_distinct;
use arrow::compute::{CastOptions, cast_with_options};
use arrow::datatypes::{DataType, Field, TimeUnit, TimestampMicrosecondType};

/// Why an array does not fit.
pub(super) type Misfit = String;

/// The array as `logical`, which has the shape of `physical` with other names of struct members.
pub(super) fn fit(array: &ArrayRef, physical: &DataType, logical: &DataType) -> Result<ArrayRef, Misfit> {
    use DataType as T;
    if array.data_type() == logical {
        return Ok(Arc::clone(array));
    }
    let failed = |e: arrow::error::ArrowError| e.to_string();
    match (array.data_type(), physical, logical) {
        (T::Struct(have), T::Struct(physical), T::Struct(logical)) => {
            let members = array.as_struct();
            let child = |(p, l): (&Arc<Field>, &Arc<Field>)| match position(have, p.name()) {
                Some(i) => fit(members.column(i), p.data_type(), l.data_type()),
                None => Ok(new_null_array(l.data_type(), array.len())),
            };
            let children = physical.iter().zip(logical).map(child).collect::<Result<Vec<_>, _>>()?;
            let array =
                StructArray::try_new_with_length(logical.clone(), children, members.nulls().cloned(), array.len());
            Ok(Arc::new(array.map_err(failed)?))
        }
        (T::List(_), T::List(physical), T::List(logical)) => {
            let list = array.as_list::<i32>();
            let values = fit(list.values(), physical.data_type(), logical.data_type())?;
            let list = ListArray::try_new(Arc::clone(logical), list.offsets().clone(), values, list.nulls().cloned());
            Ok(Arc::new(list.map_err(failed)?))
        }
        (T::Map(_, _), T::Map(physical, _), T::Map(logical, sorted)) => {
            let (T::Struct(physical), T::Struct(wanted)) = (physical.data_type(), logical.data_type()) else {
                return Err("the map has no entries".to_owned());
            };
            let map = array.as_map();
            let entries = [map.keys(), map.values()].into_iter().zip(physical.iter().zip(wanted));
            let entries = entries.map(|(array, (p, l))| fit(array, p.data_type(), l.data_type()));
            let entries =
                StructArray::try_new(wanted.clone(), entries.collect::<Result<_, _>>()?, None).map_err(failed)?;
            let map =
                MapArray::try_new(Arc::clone(logical), map.offsets().clone(), entries, map.nulls().cloned(), *sorted);
            Ok(Arc::new(map.map_err(failed)?))
        }
        (_, _, flat) => convert(array, flat),
    }
}

/// The member of this name; other writers may spell it in another case.
pub(super) fn position(fields: &arrow::datatypes::Fields, name: &str) -> Option<usize> {
    let exact = fields.iter().position(|f| f.name() == name);
    exact.or_else(|| {
        let mut alike = fields.iter().enumerate().filter(|(_, f)| f.name().to_lowercase() == name.to_lowercase());
        let (first, second) = (alike.next(), alike.next());
        first.filter(|_| second.is_none()).map(|(i, _)| i)
    })
}

fn convert(array: &ArrayRef, want: &DataType) -> Result<ArrayRef, Misfit> {
    use DataType as T;
    let have = array.data_type();
    let refused = || Err(format!("it is {have} in the file, which cannot become the table's {want}"));
    match (have, want) {
        (T::Null, _) => Ok(new_null_array(want, array.len())),
        (have, want) if have.is_numeric() && want.is_numeric() => exact(array, want),
        // Whether a file says that its timestamps are in UTC or does not, their values are the table's.
        (T::Timestamp(_, _), T::Timestamp(TimeUnit::Microsecond, zone)) => {
            let plain = cast(array, &T::Timestamp(unit(have), None))?;
            let micros = exact(&plain, &T::Timestamp(TimeUnit::Microsecond, None))?;
            Ok(Arc::new(micros.as_primitive::<TimestampMicrosecondType>().clone().with_timezone_opt(zone.clone())))
        }
        (have, want) if is_bytes(have) && is_bytes(want) => cast(array, want),
        _ => refused(),
    }
}

fn unit(data_type: &DataType) -> TimeUnit {
    match data_type {
        DataType::Timestamp(unit, _) => *unit,
        _ => TimeUnit::Microsecond,
    }
}

fn is_bytes(data_type: &DataType) -> bool {
    use DataType as T;
    matches!(
        data_type,
        T::Utf8 | T::LargeUtf8 | T::Utf8View | T::Binary | T::LargeBinary | T::BinaryView | T::FixedSizeBinary(_)
    )
}

fn cast(array: &ArrayRef, to: &DataType) -> Result<ArrayRef, Misfit> {
    let options = CastOptions { safe: false, ..CastOptions::default() };
    cast_with_options(array, to, &options).map_err(|e| e.to_string())
}

/// Casts there and back again: what does not come back was lost.
fn exact(array: &ArrayRef, to: &DataType) -> Result<ArrayRef, Misfit> {
    let there = cast(array, to)?;
    let widened = array.data_type().is_integer() && to.is_integer();
    if widened || array.data_type() == to {
        return Ok(there);
    }
    let back = cast(&there, array.data_type())?;
    let same = not_distinct(array, &back).map_err(|e| e.to_string())?;
    match same.values().iter().position(|same| !same) {
        None => Ok(there),
        Some(row) => Err(format!(
            "its value {} is {} in the file, which the table's {to} cannot hold",
            arrow::util::display::array_value_to_string(array, row).unwrap_or_else(|e| e.to_string()),
            array.data_type()
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::*;

    fn of(array: impl Array + 'static, want: &DataType) -> Result<ArrayRef, Misfit> {
        fit(&(Arc::new(array) as ArrayRef), want, want)
    }

    #[test]
    fn numbers_become_the_table_s_or_are_refused() {
        let wide = of(UInt32Array::from(vec![Some(7), None]), &DataType::Int64).unwrap();
        assert_eq!(wide.as_ref(), &Int64Array::from(vec![Some(7), None]) as &dyn Array);
        assert!(of(UInt64Array::from(vec![u64::MAX]), &DataType::Int64).is_err());
        assert!(of(Float64Array::from(vec![0.1]), &DataType::Float32).is_err());
        assert!(of(Float64Array::from(vec![0.5, f64::NAN]), &DataType::Float32).is_ok());
        assert!(of(Int64Array::from(vec![(1 << 53) + 1]), &DataType::Float64).is_err());
        let d = |v: i128, p, s| Decimal128Array::from(vec![v]).with_precision_and_scale(p, s).unwrap();
        assert!(of(d(1234, 6, 2), &DataType::Decimal128(10, 4)).is_ok());
        assert!(of(d(1230, 6, 2), &DataType::Decimal128(6, 1)).is_ok());
        assert!(of(d(1234, 6, 2), &DataType::Decimal128(6, 1)).is_err());
    }

    #[test]
    fn timestamps_keep_their_value_whatever_the_zone() {
        let utc = DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
        let t = of(TimestampMillisecondArray::from(vec![5]), &utc).unwrap();
        assert_eq!(t.as_primitive::<TimestampMicrosecondType>().value(0), 5_000);
        assert_eq!(t.data_type(), &utc);
        assert!(of(TimestampNanosecondArray::from(vec![1_500]), &utc).is_err());
        assert!(of(TimestampMillisecondArray::from(vec![i64::MAX]), &utc).is_err());
        assert!(of(Date32Array::from(vec![1]), &utc).is_err());
        assert!(of(BinaryArray::from(vec![&[0xff_u8][..]]), &DataType::Utf8).is_err());
    }
}
