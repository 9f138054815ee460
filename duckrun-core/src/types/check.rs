//! Refuses infinite dates and timestamps. DuckDB has them, Delta has not: written as they are exported, they would be
//! read back as dates millions of years away.
//!
//! The scan is two comparisons per value over plain slices, without a look at validity; only a hit, which NULL slots and
//! unreferenced list elements can produce too, is examined row by row.

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::datatypes::{
    DataType, Date32Type, Schema, TimeUnit, TimestampMicrosecondType, TimestampMillisecondType,
    TimestampNanosecondType, TimestampSecondType,
};

use crate::{Error, ErrorKind, Result, quote_ident};

/// A check prepared for the batches of one schema.
#[derive(Debug, Clone)]
pub struct BatchCheck {
    columns: Vec<usize>,
}

impl BatchCheck {
    /// Finds the columns that have dates or timestamps, nested ones included.
    pub fn new(schema: &Schema) -> Self {
        let columns = schema.fields().iter().enumerate().filter(|(_, f)| has_time(f.data_type()));
        Self { columns: columns.map(|(i, _)| i).collect() }
    }

    /// Whether no column has to be looked at.
    pub fn is_empty(&self) -> bool {
        self.columns.is_empty()
    }

    /// Checks one batch of that schema.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidData`] that names the column and the number of rows with an infinite date or timestamp.
    pub fn check(&self, batch: &RecordBatch) -> Result<()> {
        for &i in &self.columns {
            let Some(array) = batch.columns().get(i) else { continue };
            if !may_have_infinity(array) {
                continue;
            }
            let rows = (0..array.len()).filter(|row| is_infinite(array, *row)).count();
            if rows > 0 {
                let column = quote_ident(batch.schema_ref().field(i).name());
                return Err(Error::new(
                    ErrorKind::InvalidData,
                    format!(
                        "column {column} has an infinite date or timestamp in {rows} of the {} rows of a batch, which no \
                         Delta type holds; use NULL or a far date instead (isinf() finds them)",
                        batch.num_rows()
                    ),
                ));
            }
        }
        Ok(())
    }
}

/// Checks one batch; for more than one, prepare a [`BatchCheck`].
///
/// # Errors
/// As [`BatchCheck::check`].
pub fn check_batch(batch: &RecordBatch) -> Result<()> {
    BatchCheck::new(batch.schema_ref()).check(batch)
}

fn has_time(ty: &DataType) -> bool {
    match ty {
        DataType::Date32 | DataType::Timestamp(..) => true,
        DataType::List(child) | DataType::LargeList(child) | DataType::Map(child, _) => has_time(child.data_type()),
        DataType::FixedSizeList(child, _) => has_time(child.data_type()),
        DataType::Struct(fields) => fields.iter().any(|f| has_time(f.data_type())),
        _ => false,
    }
}

/// How DuckDB exports an infinity: the largest value, or its negative.
const DAYS: i32 = i32::MAX;
const UNITS: i64 = i64::MAX;

fn units(array: &dyn Array, unit: TimeUnit) -> &[i64] {
    match unit {
        TimeUnit::Second => array.as_primitive::<TimestampSecondType>().values(),
        TimeUnit::Millisecond => array.as_primitive::<TimestampMillisecondType>().values(),
        TimeUnit::Microsecond => array.as_primitive::<TimestampMicrosecondType>().values(),
        TimeUnit::Nanosecond => array.as_primitive::<TimestampNanosecondType>().values(),
    }
}

/// Whether a leaf's buffer has an infinity, be it behind a NULL. Without a branch in the loop, so that it vectorises.
fn may_have_infinity(array: &ArrayRef) -> bool {
    match array.data_type() {
        DataType::Date32 => {
            let days = array.as_primitive::<Date32Type>().values();
            days.iter().fold(false, |hit, d| hit | (*d == DAYS) | (*d == -DAYS))
        }
        DataType::Timestamp(unit, _) => {
            units(array, *unit).iter().fold(false, |hit, t| hit | (*t == UNITS) | (*t == -UNITS))
        }
        DataType::List(_) => may_have_infinity(array.as_list::<i32>().values()),
        DataType::LargeList(_) => may_have_infinity(array.as_list::<i64>().values()),
        DataType::FixedSizeList(..) => may_have_infinity(array.as_fixed_size_list().values()),
        DataType::Map(..) => array.as_map().entries().columns().iter().any(may_have_infinity),
        DataType::Struct(_) => array.as_struct().columns().iter().any(may_have_infinity),
        _ => false,
    }
}

/// Whether the value in a row is an infinity, or has one inside.
fn is_infinite(array: &dyn Array, row: usize) -> bool {
    if array.is_null(row) {
        return false;
    }
    let any = |values: &ArrayRef| (0..values.len()).any(|i| is_infinite(values, i));
    match array.data_type() {
        DataType::Date32 => array.as_primitive::<Date32Type>().value(row).checked_abs() == Some(DAYS),
        DataType::Timestamp(unit, _) => units(array, *unit).get(row).is_some_and(|t| t.checked_abs() == Some(UNITS)),
        DataType::List(_) => any(&array.as_list::<i32>().value(row)),
        DataType::LargeList(_) => any(&array.as_list::<i64>().value(row)),
        DataType::FixedSizeList(..) => any(&array.as_fixed_size_list().value(row)),
        DataType::Map(..) => {
            let entries = array.as_map().value(row);
            entries.columns().iter().any(any)
        }
        DataType::Struct(_) => array.as_struct().columns().iter().any(|child| is_infinite(child, row)),
        _ => false,
    }
}
