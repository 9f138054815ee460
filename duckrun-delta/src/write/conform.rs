//! Arrays brought to the exact type of the file's field, without copying values.
//!
//! Only the spelling changes (a list's child name, the zone's name, a dictionary spelled out). A type that would have to be
//! converted is refused: conversions belong in the SQL, where they are checked.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, FixedSizeListArray, GenericListArray, MapArray, OffsetSizeTrait, StructArray,
};
use arrow::compute::{CastOptions, cast_with_options};
use arrow::datatypes::{DataType, Field, FieldRef, TimeUnit, TimestampMicrosecondType};
use arrow::error::ArrowError;
use duckrun_core::{Error, ErrorKind, Result};

use super::layout::is_utc;

/// The array as the field has it.
pub(crate) fn conform(array: &ArrayRef, field: &Field) -> Result<ArrayRef> {
    use DataType as T;
    Ok(match (array.data_type(), field.data_type()) {
        (have, want) if have == want => Arc::clone(array),
        // The parquet writer takes either spelling of texts and binaries.
        (have, want) if is_text(have) && is_text(want) => Arc::clone(array),
        (have, want) if is_binary(have) && is_binary(want) => Arc::clone(array),
        (T::Timestamp(TimeUnit::Microsecond, Some(zone)), T::Timestamp(TimeUnit::Microsecond, Some(utc)))
            if is_utc(zone) =>
        {
            let values = array.as_primitive::<TimestampMicrosecondType>().clone();
            Arc::new(values.with_timezone(Arc::clone(utc)))
        }
        (T::Dictionary(_, values), want) => {
            let options = CastOptions { safe: false, ..CastOptions::default() };
            let spelled = cast_with_options(array, values, &options).map_err(arrow_error)?;
            return conform(&spelled, &field.clone().with_data_type(want.clone()));
        }
        (T::Null, want) => arrow::array::new_null_array(want, array.len()),
        (T::Struct(have), T::Struct(want)) if have.len() == want.len() => {
            let children = array.as_struct().columns().iter().zip(want);
            let children = children.map(|(child, field)| conform(child, field)).collect::<Result<Vec<_>>>()?;
            Arc::new(StructArray::try_new(want.clone(), children, array.nulls().cloned()).map_err(arrow_error)?)
        }
        (T::List(_), T::List(element)) => list::<i32>(array, element)?,
        (T::LargeList(_), T::LargeList(element)) => list::<i64>(array, element)?,
        (T::FixedSizeList(_, a), T::FixedSizeList(element, b)) if a == b => {
            let list = array.as_fixed_size_list();
            let values = conform(list.values(), element)?;
            let nulls = list.nulls().cloned();
            Arc::new(FixedSizeListArray::try_new(Arc::clone(element), *a, values, nulls).map_err(arrow_error)?)
        }
        (T::Map(_, _), T::Map(entries, sorted)) => {
            let map = array.as_map();
            let have: ArrayRef = Arc::new(map.entries().clone());
            let pairs = conform(&have, entries)?;
            Arc::new(
                MapArray::try_new(
                    Arc::clone(entries),
                    map.offsets().clone(),
                    pairs.as_struct().clone(),
                    map.nulls().cloned(),
                    *sorted,
                )
                .map_err(arrow_error)?,
            )
        }
        (have, want) => {
            return Err(Error::internal(format!(
                "the rows bring {have} where the table has {want}; cast it in the SQL"
            )));
        }
    })
}

fn list<O: OffsetSizeTrait>(array: &ArrayRef, element: &FieldRef) -> Result<ArrayRef> {
    let list = array.as_list::<O>();
    let values = conform(list.values(), element)?;
    let conformed =
        GenericListArray::<O>::try_new(Arc::clone(element), list.offsets().clone(), values, list.nulls().cloned());
    Ok(Arc::new(conformed.map_err(arrow_error)?))
}

fn is_text(data_type: &DataType) -> bool {
    matches!(data_type, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View)
}

fn is_binary(data_type: &DataType) -> bool {
    matches!(data_type, DataType::Binary | DataType::LargeBinary | DataType::BinaryView)
}

/// What is left to go wrong once the types fit is a NULL inside a nested column that forbids it.
fn arrow_error(e: ArrowError) -> Error {
    Error::new(ErrorKind::InvalidData, e.to_string()).with_source(e)
}
