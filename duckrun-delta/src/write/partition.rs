//! Partition values: how rows are grouped by them, how they are written in the log, how they name a folder.
//!
//! The folder's name is for people and for tools that list files; readers of the table take values from the log only. It is
//! therefore free to be shortened, while the value in the log never is.

use std::collections::{BTreeMap, HashMap};

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Date32Type, Decimal128Type, Float64Type, Int64Type, TimestampMicrosecondType};
use arrow::row::{OwnedRow, RowConverter, SortField};
use chrono::{DateTime, Datelike};
use duckrun_core::{Error, ErrorKind, Result};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use super::layout::PartitionColumn;
use super::stats::decimal_text;

/// What hive, Spark and delta-rs call the folder of NULL.
const NULL_FOLDER: &str = "__HIVE_DEFAULT_PARTITION__";

/// All that is not encoded in the name of a folder.
const FOLDER: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');

/// File systems take 255 bytes for a name.
const FOLDER_BYTES: usize = 200;

/// The values of one partition.
#[derive(Debug, Clone)]
pub(crate) struct Partition {
    /// By physical name, as the log has them.
    pub(crate) values: BTreeMap<String, Option<String>>,
    /// `a=1/b=x/`, or nothing for a table without partitions.
    pub(crate) folder: String,
}

/// Splits batches by the values of the partition columns.
#[derive(Debug)]
pub(crate) struct Splitter {
    converter: RowConverter,
    known: HashMap<OwnedRow, usize>,
    /// Every partition that occurred, by number.
    pub(crate) partitions: Vec<Partition>,
}

impl Splitter {
    pub(crate) fn new(columns: &[PartitionColumn], incoming: &arrow::datatypes::Schema) -> Result<Self> {
        let mut fields = Vec::with_capacity(columns.len());
        for column in columns {
            let data_type = incoming.field(column.position).data_type();
            if !partitionable(data_type) {
                return Err(Error::unsupported(format!(
                    "column {:?} of type {data_type} cannot be a partition column: its values have no agreed text form",
                    column.name
                )));
            }
            fields.push(SortField::new(data_type.clone()));
        }
        let converter = RowConverter::new(fields).map_err(internal)?;
        Ok(Self { converter, known: HashMap::new(), partitions: Vec::new() })
    }

    /// The number of the partition for every row.
    pub(crate) fn split(&mut self, columns: &[PartitionColumn], batch: &RecordBatch) -> Result<Vec<usize>> {
        let values: Vec<ArrayRef> = columns.iter().map(|c| normal(batch.column(c.position))).collect::<Result<_>>()?;
        let rows = self.converter.convert_columns(&values).map_err(internal)?;
        let mut numbers: Vec<usize> = Vec::with_capacity(batch.num_rows());
        for i in 0..batch.num_rows() {
            let same = i > 0 && rows.row(i) == rows.row(i - 1);
            let number = if same {
                numbers[i - 1]
            } else {
                let row = rows.row(i).owned();
                match self.known.get(&row) {
                    Some(number) => *number,
                    None => {
                        self.partitions.push(partition(columns, &values, i)?);
                        self.known.insert(row, self.partitions.len() - 1);
                        self.partitions.len() - 1
                    }
                }
            };
            numbers.push(number);
        }
        Ok(numbers)
    }
}

fn internal(e: arrow::error::ArrowError) -> Error {
    Error::internal(format!("rows could not be split by partition: {e}")).with_source(e)
}

/// Values that have one text form have one form here, so that every NaN is one partition and -0.0 is not another 0.0.
fn normal(array: &ArrayRef) -> Result<ArrayRef> {
    let canonical = |v: f64| {
        if v.is_nan() {
            f64::NAN
        } else if v == 0.0 {
            0.0
        } else {
            v
        }
    };
    Ok(match array.data_type() {
        DataType::Float64 => {
            std::sync::Arc::new(array.as_primitive::<Float64Type>().unary::<_, Float64Type>(canonical))
        }
        DataType::Float32 => std::sync::Arc::new(
            array
                .as_primitive::<arrow::datatypes::Float32Type>()
                .unary::<_, arrow::datatypes::Float32Type>(|v| canonical(f64::from(v)) as f32),
        ),
        _ => std::sync::Arc::clone(array),
    })
}

fn partitionable(data_type: &DataType) -> bool {
    use DataType as T;
    match data_type {
        T::Dictionary(_, values) => partitionable(values),
        T::Boolean | T::Int8 | T::Int16 | T::Int32 | T::Int64 | T::Float32 | T::Float64 | T::Date32 => true,
        T::Decimal128(_, scale) => *scale >= 0,
        T::Timestamp(_, _) | T::Utf8 | T::LargeUtf8 | T::Utf8View => true,
        _ => false,
    }
}

fn partition(columns: &[PartitionColumn], values: &[ArrayRef], row: usize) -> Result<Partition> {
    let mut partition = Partition { values: BTreeMap::new(), folder: String::new() };
    for (column, array) in columns.iter().zip(values) {
        let value = if array.logical_nulls().is_some_and(|n| n.is_null(row)) {
            None
        } else {
            Some(text(column, &array.slice(row, 1))?)
        };
        partition.folder.push_str(&folder(&column.physical, value.as_deref()));
        partition.folder.push('/');
        partition.values.insert(column.physical.clone(), value);
    }
    Ok(partition)
}

fn invalid(column: &PartitionColumn, what: &str) -> Error {
    Error::new(ErrorKind::InvalidData, format!("partition column {:?} {what}", column.name))
}

/// The protocol's text for the only value of an array.
fn text(column: &PartitionColumn, one: &ArrayRef) -> Result<String> {
    let to = |t: &DataType| cast(one, t).map_err(internal);
    Ok(match one.data_type() {
        DataType::Dictionary(_, values) => return text(column, &to(values)?),
        DataType::Boolean => one.as_boolean().value(0).to_string(),
        DataType::Int8 | DataType::Int16 | DataType::Int32 | DataType::Int64 => {
            to(&DataType::Int64)?.as_primitive::<Int64Type>().value(0).to_string()
        }
        DataType::Float32 => float(f64::from(one.as_primitive::<arrow::datatypes::Float32Type>().value(0)), || {
            format!("{:?}", one.as_primitive::<arrow::datatypes::Float32Type>().value(0))
        }),
        DataType::Float64 => {
            let v = one.as_primitive::<Float64Type>().value(0);
            float(v, || format!("{v:?}"))
        }
        DataType::Decimal128(_, scale) => {
            decimal_text(one.as_primitive::<Decimal128Type>().value(0), scale.unsigned_abs())
        }
        DataType::Date32 => {
            let days = i64::from(one.as_primitive::<Date32Type>().value(0));
            let date = DateTime::from_timestamp(days * 86_400, 0).map(|d| d.date_naive());
            match date.filter(|d| (1..=9999).contains(&d.year())) {
                Some(date) => date.format("%Y-%m-%d").to_string(),
                None => return Err(invalid(column, "has a date outside the years 0001 to 9999, which readers refuse")),
            }
        }
        DataType::Timestamp(_, zone) => {
            let micros = one.as_primitive::<TimestampMicrosecondType>().value(0);
            let at = DateTime::from_timestamp_micros(micros).filter(|d| (1..=9999).contains(&d.year()));
            let Some(at) = at else {
                return Err(invalid(column, "has a timestamp outside the years 0001 to 9999, which readers refuse"));
            };
            // With a zone the text names it: without one, Spark reads the text in its session's zone.
            let format = if zone.is_some() { "%Y-%m-%dT%H:%M:%S%.6fZ" } else { "%Y-%m-%d %H:%M:%S%.6f" };
            at.format(format).to_string()
        }
        _ => {
            let text = to(&DataType::Utf8)?;
            let text = text.as_string::<i32>().value(0);
            if text.is_empty() {
                return Err(invalid(
                    column,
                    "has an empty text, which would be read back as NULL; use NULL or another text",
                ));
            }
            text.to_owned()
        }
    })
}

/// As Java, Rust and DuckDB all parse it.
fn float(v: f64, finite: impl FnOnce() -> String) -> String {
    match v {
        v if v.is_nan() => "NaN".to_owned(),
        f64::INFINITY => "Infinity".to_owned(),
        f64::NEG_INFINITY => "-Infinity".to_owned(),
        _ => finite(),
    }
}

fn folder(column: &str, value: Option<&str>) -> String {
    let encode = |text: &str| utf8_percent_encode(text, FOLDER).to_string();
    let name = format!("{}={}", encode(column), value.map_or_else(|| NULL_FOLDER.to_owned(), encode));
    if name.len() <= FOLDER_BYTES {
        return name;
    }
    // Shortened names may meet: files have names of their own, and values are in the log.
    let cut = &name[..FOLDER_BYTES];
    let cut = cut.rfind('%').filter(|at| *at + 3 > FOLDER_BYTES).map_or(cut, |at| &cut[..at]);
    format!("{cut}~")
}

/// A path as it stands in the log: URL-encoded once more, of which our names need only the percent sign.
pub(crate) fn log_path(relative: &str) -> String {
    relative.replace('%', "%25")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_are_encoded_and_cut_between_characters() {
        assert_eq!(folder("a b", Some("x/y=ü%")), "a%20b=x%2Fy%3D%C3%BC%25");
        assert_eq!(folder("a", None), "a=__HIVE_DEFAULT_PARTITION__");
        for n in 60..80 {
            let name = folder("c", Some(&"ü".repeat(n)));
            assert!(name.len() <= FOLDER_BYTES + 1, "{name}");
            assert!(!name.contains("%~") && !name.contains("%C~") && !name.contains("%B~"), "{name}");
        }
        assert_eq!(log_path("a%20b=1/part"), "a%2520b=1/part");
    }
}
