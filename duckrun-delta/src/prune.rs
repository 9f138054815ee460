//! Which files can hold rows of a range: partition values, and statistics widened by what their writers lose.
//!
//! The invariant: a file is ruled out only if no row of it can lie in the ranges, whoever wrote its statistics. Writers lose:
//! decimals go through f64 (delta-rs #3905), timestamps are cut to milliseconds, texts to a prefix whose maximum may not have
//! been raised; NaN is in no statistics of floats, so floats never rule a file out. What is missing or unreadable rules nothing
//! out.

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::compute::cast;
use arrow::datatypes::{
    DataType, Date32Type, Decimal128Type, Int8Type, Int16Type, Int32Type, Int64Type, TimeUnit, TimestampMicrosecondType,
};
use chrono::{DateTime, NaiveDate, NaiveDateTime};
use duckrun_core::{ColumnRange, Error, Result, Snapshot as _};
use serde_json::Value as Json;
use std::collections::BTreeMap;

use crate::read::parse_values;
use crate::snapshot::DeltaSnapshot;

/// Ranges, made ready to judge files of one table.
#[derive(Debug, Clone, Default)]
pub(crate) struct Prune {
    columns: Vec<Column>,
}

#[derive(Debug, Clone)]
struct Column {
    physical: String,
    partition: bool,
    data_type: DataType,
    min: Option<Scalar>,
    max: Option<Scalar>,
    nulls: bool,
}

/// A value that can be compared: whole numbers of days, microseconds, or a decimal's unscaled digits; or text.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Scalar {
    Int(i128),
    Text(String),
}

impl Prune {
    /// Ranges over the logical columns of a table. Columns of types whose statistics prove nothing are left out.
    pub(crate) fn new(snapshot: &DeltaSnapshot, ranges: &[ColumnRange]) -> Result<Self> {
        let schema = snapshot.schema();
        let mapped = snapshot.metadata().column_mapping();
        let mut columns = Vec::new();
        for range in ranges {
            let at = schema
                .index_of(&range.column)
                .map_err(|_| Error::internal(format!("a range over {:?}, which the table lacks", range.column)))?;
            let data_type = schema.field(at).data_type().clone();
            let partition = snapshot.partition_columns().contains(&range.column);
            let edge = |edge: &Option<ArrayRef>| -> Result<Option<Option<Scalar>>> {
                match edge {
                    None => Ok(Some(None)),
                    Some(array) => Ok(scalar(array, &data_type)?.map(Some)),
                }
            };
            // A value that cannot be compared makes the whole range useless, not unbounded on one side only.
            if let (Some(min), Some(max)) = (edge(&range.min)?, edge(&range.max)?) {
                let physical = snapshot.delta_schema().fields[at].physical_name(mapped).to_owned();
                columns.push(Column { physical, partition, data_type, min, max, nulls: range.nulls });
            }
        }
        Ok(Self { columns })
    }

    /// Whether a file may hold rows that lie in all ranges.
    pub(crate) fn may_hold(&self, partition_values: &BTreeMap<String, Option<String>>, stats: Option<&str>) -> bool {
        let mut parsed: Option<Json> = None;
        self.columns.iter().all(|column| {
            if column.partition {
                return column.partition_may_hold(partition_values.get(&column.physical).and_then(|v| v.as_deref()));
            }
            let Some(text) = stats else { return true };
            let stats = parsed.get_or_insert_with(|| serde_json::from_str(text).unwrap_or(Json::Null));
            column.stats_may_hold(stats)
        })
    }
}

impl Column {
    fn partition_may_hold(&self, text: Option<&str>) -> bool {
        let Some(text) = text.filter(|t| !t.is_empty()) else { return self.nulls };
        match parse_values(&self.physical, vec![Some(text)], &self.data_type).map(|a| scalar(&a, &self.data_type)) {
            Ok(Ok(Some(value))) => self.overlaps(Some(&value), Some(&value)),
            _ => true,
        }
    }

    fn stats_may_hold(&self, stats: &Json) -> bool {
        let nulls = &stats["nullCount"][&self.physical];
        if self.nulls && nulls.as_u64() != Some(0) {
            return true;
        }
        let low = self.stored(&stats["minValues"][&self.physical]).map(|v| self.widened(v, -1));
        let high = self.stored(&stats["maxValues"][&self.physical]).map(|v| self.widened(v, 1));
        self.overlaps(low.as_ref(), high.as_ref())
    }

    /// Whether the values from `low` to `high` (unknown where absent) reach into the range.
    fn overlaps(&self, low: Option<&Scalar>, high: Option<&Scalar>) -> bool {
        let below = match (high, &self.min) {
            // A text that begins with the maximum may be in the file: the maximum may be a cut prefix.
            (Some(Scalar::Text(high)), Some(Scalar::Text(min))) => min > high && !min.starts_with(high.as_str()),
            (Some(high), Some(min)) => high < min,
            _ => false,
        };
        let above = matches!((low, &self.max), (Some(low), Some(max)) if low > max);
        !(below || above)
    }

    /// The value of a statistic, where it can be read for certain.
    fn stored(&self, json: &Json) -> Option<Scalar> {
        match &self.data_type {
            DataType::Int8 | DataType::Int16 | DataType::Int32 | DataType::Int64 => {
                Some(Scalar::Int(i128::from(json.as_i64()?)))
            }
            DataType::Decimal128(_, scale) => decimal(json, *scale),
            DataType::Date32 => {
                let date = NaiveDate::parse_from_str(json.as_str()?, "%Y-%m-%d").ok()?;
                Some(Scalar::Int(i128::from((date - NaiveDate::default()).num_days())))
            }
            DataType::Timestamp(..) => Some(Scalar::Int(i128::from(micros(json.as_str()?)?))),
            DataType::Utf8 => Some(Scalar::Text(json.as_str()?.to_owned())),
            _ => None,
        }
    }

    /// Moves a bound outwards by what may have been lost when it was written.
    fn widened(&self, value: Scalar, direction: i128) -> Scalar {
        match (value, &self.data_type) {
            (Scalar::Int(v), DataType::Timestamp(..)) => Scalar::Int(v + direction * 1_000),
            // Up to 15 digits a double holds a decimal exactly; beyond, it is off by at most a unit in its last place.
            (Scalar::Int(v), DataType::Decimal128(precision, _)) if *precision > 15 => {
                Scalar::Int(v + direction * (v.abs() / (1 << 50) + 1))
            }
            (value, _) => value,
        }
    }
}

/// A decimal statistic as unscaled digits.
fn decimal(json: &Json, scale: i8) -> Option<Scalar> {
    let text = match json {
        Json::String(text) => text.clone(),
        Json::Number(number) => number.to_string(),
        _ => return None,
    };
    let scale = usize::try_from(scale).ok()?;
    if let Some(exact) = digits(&text, scale) {
        return Some(Scalar::Int(exact));
    }
    // An exponent, or more digits than the scale: through a double, as it was most likely written.
    let value = text.parse::<f64>().ok()? * 10_f64.powi(i32::try_from(scale).ok()?);
    (value.abs() < 1e37).then(|| Scalar::Int(value.round() as i128))
}

/// `-12.5` at scale 2 as -1250, exactly, or nothing.
fn digits(text: &str, scale: usize) -> Option<i128> {
    let (negative, rest) = text.strip_prefix('-').map_or((false, text), |rest| (true, rest));
    let (whole, fraction) = rest.split_once('.').unwrap_or((rest, ""));
    if fraction.len() > scale || !whole.bytes().chain(fraction.bytes()).all(|b| b.is_ascii_digit()) {
        return None;
    }
    let value: i128 = format!("{whole}{fraction:0<scale$}").parse().ok()?;
    Some(if negative { -value } else { value })
}

fn micros(text: &str) -> Option<i64> {
    if let Ok(time) = DateTime::parse_from_rfc3339(text) {
        return Some(time.timestamp_micros());
    }
    for format in ["%Y-%m-%dT%H:%M:%S%.f", "%Y-%m-%d %H:%M:%S%.f"] {
        if let Ok(time) = NaiveDateTime::parse_from_str(text, format) {
            return Some(time.and_utc().timestamp_micros());
        }
    }
    None
}

/// The first value of an array, where its type can be compared; `None` for other types and for NULL.
fn scalar(array: &ArrayRef, data_type: &DataType) -> Result<Option<Scalar>> {
    let array = if array.data_type() == data_type {
        array.clone()
    } else {
        cast(array, data_type).map_err(|e| Error::internal("a range in another type").with_source(e))?
    };
    if array.is_empty() || array.is_null(0) {
        return Ok(None);
    }
    Ok(Some(match data_type {
        DataType::Int8 => Scalar::Int(array.as_primitive::<Int8Type>().value(0).into()),
        DataType::Int16 => Scalar::Int(array.as_primitive::<Int16Type>().value(0).into()),
        DataType::Int32 => Scalar::Int(array.as_primitive::<Int32Type>().value(0).into()),
        DataType::Int64 => Scalar::Int(array.as_primitive::<Int64Type>().value(0).into()),
        DataType::Date32 => Scalar::Int(array.as_primitive::<Date32Type>().value(0).into()),
        DataType::Decimal128(..) => Scalar::Int(array.as_primitive::<Decimal128Type>().value(0)),
        DataType::Timestamp(TimeUnit::Microsecond, _) => {
            Scalar::Int(array.as_primitive::<TimestampMicrosecondType>().value(0).into())
        }
        DataType::Utf8 => Scalar::Text(array.as_string::<i32>().value(0).to_owned()),
        _ => return Ok(None),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn column(data_type: DataType, min: Scalar, max: Scalar) -> Column {
        Column { physical: "c".into(), partition: false, data_type, min: Some(min), max: Some(max), nulls: false }
    }

    fn holds(column: &Column, min: Json, max: Json) -> bool {
        column.stats_may_hold(&serde_json::json!({"minValues": {"c": min}, "maxValues": {"c": max}}))
    }

    #[test]
    fn what_a_writer_may_have_lost_rules_nothing_out() {
        // delta-rs #3905: 1234567890123456.78 is written as a double, which is below the value.
        let key = Scalar::Int(123_456_789_012_345_678);
        let c = column(DataType::Decimal128(18, 2), key.clone(), key);
        assert!(holds(&c, 1.0.into(), 1_234_567_890_123_456.8.into()));
        assert!(holds(&c, 1.0.into(), 1_234_567_890_123_456.5.into()));
        assert!(!holds(&c, 1.0.into(), 1_234_567_890_000_000.0.into()));
        let micros = Scalar::Int(i128::from(micros("2020-01-01T00:00:00.000999Z").unwrap()));
        let c = column(DataType::Timestamp(TimeUnit::Microsecond, None), micros.clone(), micros);
        assert!(holds(&c, "2019-01-01T00:00:00.000Z".into(), "2020-01-01T00:00:00.000Z".into()));
        assert!(!holds(&c, "2019-01-01T00:00:00.000Z".into(), "2019-12-31T23:59:59.000Z".into()));
        let text = Scalar::Text("abcdef".into());
        let c = column(DataType::Utf8, text.clone(), text);
        assert!(holds(&c, "a".into(), "abc".into()));
        assert!(!holds(&c, "a".into(), "abb".into()));
        assert!(holds(&c, Json::Null, Json::Null));
    }

    #[test]
    fn a_column_of_nulls_is_ruled_out_only_where_nulls_do_not_matter() {
        let mut c = column(DataType::Int64, Scalar::Int(1), Scalar::Int(2));
        let stats = serde_json::json!({"minValues": {"c": 5}, "maxValues": {"c": 6}, "nullCount": {"c": 1}});
        assert!(!c.stats_may_hold(&stats));
        c.nulls = true;
        assert!(c.stats_may_hold(&stats));
    }

    proptest! {
        #[test]
        fn a_value_between_the_bounds_is_never_ruled_out(
            mut values in prop::collection::vec(-10_i128.pow(17)..10_i128.pow(17), 1..6), through_double: bool,
        ) {
            values.sort_unstable();
            let (first, last) = (values[0], values[values.len() - 1]);
            let write = |v: i128| match through_double {
                true => Json::from(v as f64 / 100.0),
                false => Json::String(format!("{}{}.{:02}", if v < 0 { "-" } else { "" }, v.abs() / 100, v.abs() % 100)),
            };
            for v in &values {
                let c = column(DataType::Decimal128(17, 2), Scalar::Int(*v), Scalar::Int(*v));
                prop_assert!(holds(&c, write(first), write(last)));
            }
        }

        #[test]
        fn texts_cut_to_any_length_never_rule_out(mut texts in prop::collection::vec("\\PC{0,12}", 1..5), cut in 0_usize..6) {
            texts.sort_unstable();
            let prefix = |t: &str| Json::from(t.chars().take(cut).collect::<String>());
            for t in &texts {
                let c = column(DataType::Utf8, Scalar::Text(t.clone()), Scalar::Text(t.clone()));
                prop_assert!(holds(&c, prefix(&texts[0]), prefix(&texts[texts.len() - 1])));
            }
        }
    }
}
