//! Gives batches the schema that the Delta table has: other labels on the same buffers.
//!
//! DuckDB names a list's child `l` and its zone `Etc/UTC` where ICU is present, and exports everything as nullable. Only
//! what would be another value is an error; only 64-bit offsets and string views, which DuckDB exports on request, are
//! copied.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, ListArray, MapArray, RecordBatch, RecordBatchOptions, StructArray};
use arrow::buffer::{OffsetBuffer, ScalarBuffer};
use arrow::datatypes::{DataType, Field, Fields, SchemaRef, TimeUnit, TimestampMicrosecondType};
use arrow::error::ArrowError;

use crate::{Error, ErrorKind, Result, quote_ident};

/// Relabels a batch with a schema whose columns have the same names, in the same order.
///
/// # Errors
/// [`ErrorKind::Internal`](ErrorKind::Internal) where names or types really differ: the SQL should have cast them.
/// [`ErrorKind::InvalidData`] where a column or field that must not be NULL has NULLs.
pub fn conform(batch: RecordBatch, schema: &SchemaRef) -> Result<RecordBatch> {
    if batch.schema_ref() == schema {
        return Ok(batch);
    }
    let columns = relabel_all(batch.schema_ref().fields(), batch.columns(), schema.fields(), "")?;
    if let Some((field, nulls)) = first_null(schema.fields(), &columns) {
        return Err(null_found(&quote_ident(field.name()), nulls));
    }
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    RecordBatch::try_new_with_options(schema.clone(), columns, &options).map_err(|e| refused("the batch", e))
}

fn refused(path: &str, e: ArrowError) -> Error {
    Error::internal(format!("{path} cannot be given the table's type: {e}")).with_source(e)
}

fn null_found(path: &str, nulls: usize) -> Error {
    Error::new(ErrorKind::InvalidData, format!("column {path} must not be NULL, and has {nulls} NULLs in a batch"))
}

fn first_null<'a>(fields: &'a Fields, columns: &[ArrayRef]) -> Option<(&'a Field, usize)> {
    let required = fields.iter().zip(columns).filter(|(field, _)| !field.is_nullable());
    required.map(|(field, array)| (&**field, array.logical_null_count())).find(|(_, nulls)| *nulls > 0)
}

fn relabel_all(have: &Fields, arrays: &[ArrayRef], want: &Fields, path: &str) -> Result<Vec<ArrayRef>> {
    if !have.iter().map(|f| f.name()).eq(want.iter().map(|f| f.name())) {
        let names = |fields: &Fields| fields.iter().map(|f| quote_ident(f.name())).collect::<Vec<_>>().join(", ");
        let place = if path.is_empty() { "a batch" } else { path };
        return Err(Error::internal(format!("{place} has the columns {}, not {}", names(have), names(want))));
    }
    let join = |name: &str| {
        if path.is_empty() { quote_ident(name) } else { format!("{path}.{}", quote_ident(name)) }
    };
    arrays.iter().zip(want).map(|(array, field)| relabel(array, field.data_type(), &join(field.name()))).collect()
}

fn relabel(array: &ArrayRef, want: &DataType, path: &str) -> Result<ArrayRef> {
    if array.data_type() == want {
        return Ok(array.clone());
    }
    let failed = |e| refused(&format!("column {path}"), e);
    Ok(match (array.data_type(), want) {
        (
            DataType::Timestamp(TimeUnit::Microsecond, Some(zone)),
            DataType::Timestamp(TimeUnit::Microsecond, Some(utc)),
        ) if is_utc(zone) && is_utc(utc) => {
            Arc::new(array.as_primitive::<TimestampMicrosecondType>().clone().with_timezone(utc.clone()))
        }
        (DataType::List(_), DataType::List(field)) => {
            let list = array.as_list::<i32>();
            list_array(field, list.offsets().clone(), list.values(), list, path)?
        }
        (DataType::LargeList(_), DataType::List(field)) => {
            let list = array.as_list::<i64>();
            let offsets = list.offsets().iter().map(|o| i32::try_from(*o)).collect::<Result<ScalarBuffer<i32>, _>>();
            let offsets = offsets.map_err(|e| Error::internal(format!("a list of {path} is too long: {e}")))?;
            list_array(field, OffsetBuffer::new(offsets), list.values(), list, path)?
        }
        (DataType::Map(..), DataType::Map(entries, sorted)) => {
            let map = array.as_map();
            let DataType::Struct(fields) = entries.data_type() else { return Err(differs(array, want, path)) };
            let [key, value] = &fields[..] else { return Err(differs(array, want, path)) };
            let children = vec![
                relabel(map.keys(), key.data_type(), &format!("{path}[key]"))?,
                relabel(map.values(), value.data_type(), &format!("{path}[value]"))?,
            ];
            let pairs = struct_array(fields, children, map.entries(), path)?;
            let map = MapArray::try_new(entries.clone(), map.offsets().clone(), pairs, map.nulls().cloned(), *sorted);
            Arc::new(map.map_err(failed)?)
        }
        (DataType::Struct(have), DataType::Struct(fields)) => {
            let part = array.as_struct();
            let children = relabel_all(have, part.columns(), fields, path)?;
            Arc::new(struct_array(fields, children, part, path)?)
        }
        (DataType::LargeUtf8 | DataType::Utf8View, DataType::Utf8)
        | (DataType::LargeBinary | DataType::BinaryView, DataType::Binary) => {
            arrow::compute::cast(array, want).map_err(failed)?
        }
        _ => return Err(differs(array, want, path)),
    })
}

fn list_array(
    field: &Arc<Field>,
    offsets: OffsetBuffer<i32>,
    values: &ArrayRef,
    list: &dyn Array,
    path: &str,
) -> Result<ArrayRef> {
    let values = relabel(values, field.data_type(), &format!("{path}[]"))?;
    if !field.is_nullable() && values.logical_null_count() > 0 {
        return Err(null_found(&format!("{path}[]"), values.logical_null_count()));
    }
    let list = ListArray::try_new(field.clone(), offsets, values, list.nulls().cloned());
    Ok(Arc::new(list.map_err(|e| refused(&format!("column {path}"), e))?))
}

fn struct_array(fields: &Fields, children: Vec<ArrayRef>, of: &StructArray, path: &str) -> Result<StructArray> {
    // The nulls of required fields behind a NULL struct are none; arrow knows which ones those are.
    StructArray::try_new_with_length(fields.clone(), children.clone(), of.nulls().cloned(), of.len()).map_err(|e| {
        match first_null(fields, &children) {
            Some((field, nulls)) => null_found(&format!("{path}.{}", quote_ident(field.name())), nulls),
            None => refused(&format!("column {path}"), e),
        }
    })
}

fn differs(array: &ArrayRef, want: &DataType, path: &str) -> Error {
    Error::internal(format!("column {path} came as {}, not as {want}", array.data_type()))
}

/// Whether a zone's name stands for UTC itself.
fn is_utc(zone: &str) -> bool {
    matches!(zone, "UTC" | "Etc/UTC" | "Etc/UCT" | "UCT" | "Zulu" | "Etc/Zulu" | "Z" | "+00:00" | "GMT" | "Etc/GMT")
}
