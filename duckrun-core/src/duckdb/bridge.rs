//! The one FFI module. Here DuckDB's Arrow (60) becomes ours (59) through the Arrow C data interface, without copying a buffer;
//! `database` opens databases through the C API, and `files` is what their readers call for the files of object stores.
//!
//! Invariant of the Arrow crossing: the structs that cross are `repr(C)` with the layout of the [C data interface], which is frozen; both Arrow
//! versions define them so. Moving one into the other moves its ownership (the release callback) with it.
//!
//! [C data interface]: https://arrow.apache.org/docs/format/CDataInterface.html
#![allow(unsafe_code)]

mod database;
#[cfg(feature = "bundled")]
mod files;

use arrow::array::{Array as _, RecordBatch, RecordBatchOptions, StructArray};
use arrow::datatypes::{DataType, Fields, Schema, SchemaRef};
use arrow::ffi::{FFI_ArrowArray, FFI_ArrowSchema};
use duckdb::arrow as arrow60;
use duckdb::arrow::array::Array as _;
use std::sync::Arc;

pub(super) use self::database::Database;
use crate::{Error, Result};

const _: () = {
    assert!(size_of::<FFI_ArrowArray>() == size_of::<arrow60::ffi::FFI_ArrowArray>());
    assert!(align_of::<FFI_ArrowArray>() == align_of::<arrow60::ffi::FFI_ArrowArray>());
    assert!(size_of::<FFI_ArrowSchema>() == size_of::<arrow60::ffi::FFI_ArrowSchema>());
    assert!(align_of::<FFI_ArrowSchema>() == align_of::<arrow60::ffi::FFI_ArrowSchema>());
};

/// The schema of a DuckDB result in our Arrow.
pub(super) fn schema(theirs: &arrow60::datatypes::Schema) -> Result<SchemaRef> {
    let exported = arrow60::ffi::FFI_ArrowSchema::try_from(theirs)
        .map_err(|e| Error::internal("DuckDB's result schema cannot be exported").with_source(e))?;
    // SAFETY: both types are `repr(C)` structs of the Arrow C data interface (sizes and alignments asserted above).
    // `transmute` moves the value: the release callback is now owned, and called once, by our Arrow.
    let imported: FFI_ArrowSchema = unsafe { std::mem::transmute(exported) };
    let schema = Schema::try_from(&imported)
        .map_err(|e| Error::internal("DuckDB's result schema cannot be read").with_source(e))?;
    Ok(Arc::new(schema))
}

/// One batch of a DuckDB result in our Arrow, sharing DuckDB's buffers. `schema` is what [`schema`] returned for the result.
pub(super) fn batch(theirs: arrow60::record_batch::RecordBatch, schema: &SchemaRef) -> Result<RecordBatch> {
    let rows = theirs.num_rows();
    if theirs.num_columns() == 0 {
        let options = RecordBatchOptions::new().with_row_count(Some(rows));
        return RecordBatch::try_new_with_options(schema.clone(), vec![], &options)
            .map_err(|e| Error::internal("an empty batch was refused").with_source(e));
    }
    let data = arrow60::array::StructArray::from(theirs).into_data();
    let exported = arrow60::ffi::FFI_ArrowArray::new(&data);
    // SAFETY: as in `schema`: the same `repr(C)` struct, moved with its release callback.
    let imported: FFI_ArrowArray = unsafe { std::mem::transmute(exported) };
    let fields: Fields = schema.fields().clone();
    // SAFETY: the array was exported just now from a valid struct array whose type is the one that `schema` describes: the
    // caller obtained it from the same DuckDB result, and DuckDB never changes types between batches of a result.
    let data = unsafe { arrow::ffi::from_ffi_and_data_type(imported, DataType::Struct(fields)) }
        .map_err(|e| Error::internal("a batch of DuckDB cannot be imported").with_source(e))?;
    Ok(RecordBatch::from(StructArray::from(data)))
}

/// One of our batches in DuckDB's Arrow, sharing its buffers; for loading a stream into a table.
pub(super) fn to_duckdb(ours: &RecordBatch) -> Result<arrow60::record_batch::RecordBatch> {
    let fail = |e| Error::internal("a batch cannot be exported to DuckDB").with_source(e);
    let exported = FFI_ArrowSchema::try_from(ours.schema().as_ref()).map_err(fail)?;
    // SAFETY: as in `schema`, in the other direction.
    let schema: arrow60::ffi::FFI_ArrowSchema = unsafe { std::mem::transmute(exported) };
    let data = StructArray::from(ours.clone()).into_data();
    let exported = FFI_ArrowArray::new(&data);
    // SAFETY: as in `batch`, in the other direction.
    let array: arrow60::ffi::FFI_ArrowArray = unsafe { std::mem::transmute(exported) };
    // SAFETY: array and schema were exported just now from one valid batch.
    let data = unsafe { arrow60::ffi::from_ffi(array, &schema) }
        .map_err(|e| Error::internal("a batch cannot be imported by DuckDB's arrow").with_source(e))?;
    Ok(arrow60::array::StructArray::from(data).into())
}

/// Has the C library give back what it keeps of freed memory.
pub(super) fn give_back_freed_memory() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: `malloc_trim` is safe to call from any thread at any time: it takes no pointer, and each arena's lock in turn.
    unsafe {
        libc::malloc_trim(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow60::array::{ArrayRef, Int64Array, ListArray, StringArray};
    use arrow60::datatypes::Int64Type;

    #[test]
    fn buffers_are_shared_not_copied() {
        let ints = Int64Array::from(vec![Some(1), None, Some(3)]);
        let pointer = ints.values().inner().as_ptr();
        let list = ListArray::from_iter_primitive::<Int64Type, _, _>(vec![Some(vec![Some(1)]), None, Some(vec![])]);
        let theirs = arrow60::record_batch::RecordBatch::try_from_iter_with_nullable(vec![
            ("i", Arc::new(ints) as ArrayRef, true),
            ("s", Arc::new(StringArray::from(vec!["a", "b", "c"])) as ArrayRef, true),
            ("l", Arc::new(list) as ArrayRef, true),
        ])
        .unwrap();
        let schema = schema(theirs.schema_ref()).unwrap();
        let ours = batch(theirs, &schema).unwrap();
        assert_eq!(ours.num_rows(), 3);
        let column = ours.column(0).to_data();
        assert_eq!(column.buffers()[0].as_ptr(), pointer);
        assert_eq!(column.null_count(), 1);
    }
}
