//! The statistics of a file as the Delta protocol's JSON text, taken from the parquet footer and from counters of our own.
//!
//! The invariant: `minValues` never lies above a row and `maxValues` never below one, whatever a reader rounds; where that
//! cannot be promised the value is left out. Numbers are written by hand: delta-rs takes decimals through f64 and a
//! reader then prunes the file that holds the row (delta-rs #3905).

use std::fmt::Write as _;

use arrow::datatypes::DataType;
use chrono::{DateTime, Datelike, NaiveDateTime, SubsecRound, TimeDelta};
use parquet::file::metadata::{ParquetMetaData, RowGroupMetaData};
use parquet::file::statistics::Statistics;

/// Characters of a text that are kept, as Spark does.
const TEXT_CHARS: usize = 32;

/// Bytes of a text that the parquet footer keeps: the most that [`TEXT_CHARS`] characters can take.
pub(crate) const TEXT_BYTES: usize = 4 * TEXT_CHARS;

/// Where a column's NULLs are counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Measure {
    /// By parquet, in the leaf of this index.
    Leaf(usize),
    /// By the encoder, in the counter of this index (parquet's counts for lists are of elements, not of rows).
    Counter(usize),
}

/// How a column's minimum and maximum are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum StatKind {
    Int,
    Float,
    Decimal(u8),
    Date,
    Timestamp {
        utc: bool,
    },
    Text,
    /// No minimum and maximum: booleans and binaries, as in Spark; lists and maps.
    NullsOnly,
}

impl StatKind {
    pub(crate) fn of(data_type: &DataType) -> Self {
        match data_type {
            DataType::Int8 | DataType::Int16 | DataType::Int32 | DataType::Int64 => Self::Int,
            DataType::Float32 | DataType::Float64 => Self::Float,
            DataType::Decimal128(_, scale) => Self::Decimal(scale.unsigned_abs()),
            DataType::Date32 => Self::Date,
            DataType::Timestamp(_, zone) => Self::Timestamp { utc: zone.is_some() },
            DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => Self::Text,
            _ => Self::NullsOnly,
        }
    }
}

/// One entry of the statistics.
#[derive(Debug)]
pub(crate) struct StatColumn {
    /// Physical names from the column down to the leaf.
    pub(crate) keys: Vec<String>,
    pub(crate) measure: Measure,
    pub(crate) kind: StatKind,
}

/// What the encoder counts beside parquet, for one row group or one file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Counts {
    /// NULLs of lists and maps, by counter.
    pub(crate) nulls: Vec<u64>,
    /// By leaf: whether a float is NaN or infinite. JSON has neither, and readers order NaN differently.
    pub(crate) not_finite: Vec<bool>,
}

impl Counts {
    pub(crate) fn new(counters: usize, leaves: usize) -> Self {
        Self { nulls: vec![0; counters], not_finite: vec![false; leaves] }
    }

    /// Adds the counts of one column, whose first counter and first leaf are these.
    pub(crate) fn put(&mut self, counter: usize, leaf: usize, column: &Self) {
        self.nulls.iter_mut().skip(counter).zip(&column.nulls).for_each(|(a, b)| *a += b);
        self.not_finite.iter_mut().skip(leaf).zip(&column.not_finite).for_each(|(a, b)| *a |= b);
    }

    pub(crate) fn merge(&mut self, other: &Self) {
        self.nulls.iter_mut().zip(&other.nulls).for_each(|(a, b)| *a += b);
        self.not_finite.iter_mut().zip(&other.not_finite).for_each(|(a, b)| *a |= b);
    }
}

/// The JSON text for a finished file.
pub(crate) fn file_stats(columns: &[StatColumn], counts: &Counts, file: &ParquetMetaData) -> String {
    let (mut mins, mut maxs, mut nulls) = (Tree::default(), Tree::default(), Tree::default());
    for column in columns {
        let leaf = match column.measure {
            Measure::Counter(i) => {
                nulls.put(&column.keys, counts.nulls[i].to_string());
                continue;
            }
            Measure::Leaf(i) => i,
        };
        if let Some(n) = null_count(file.row_groups(), leaf) {
            nulls.put(&column.keys, n.to_string());
        }
        if counts.not_finite[leaf] {
            continue;
        }
        let Some((min, max)) = range(file.row_groups(), leaf) else { continue };
        if let Some(text) = bound(column.kind, min, Side::Min) {
            mins.put(&column.keys, text);
        }
        if let Some(text) = bound(column.kind, max, Side::Max) {
            maxs.put(&column.keys, text);
        }
    }
    let rows = file.file_metadata().num_rows();
    format!("{{\"numRecords\":{rows},\"minValues\":{mins},\"maxValues\":{maxs},\"nullCount\":{nulls}}}")
}

fn null_count(groups: &[RowGroupMetaData], leaf: usize) -> Option<u64> {
    groups.iter().map(|g| g.column(leaf).statistics().and_then(Statistics::null_count_opt)).sum()
}

/// A value of the footer, in a form that orders as the column's type does.
#[derive(Debug, Clone, PartialEq, PartialOrd)]
enum Value {
    Int(i128),
    Float(f64),
    Bytes(Vec<u8>),
}

/// The smallest and largest value over all row groups; `None` where there is none or a row group does not tell.
fn range(groups: &[RowGroupMetaData], leaf: usize) -> Option<(Value, Value)> {
    let mut range: Option<(Value, Value)> = None;
    for group in groups {
        let column = group.column(leaf);
        let stats = column.statistics()?;
        match values(stats, column.column_type() == parquet::basic::Type::FIXED_LEN_BYTE_ARRAY) {
            Some((min, max)) => {
                range = Some(match range {
                    None => (min, max),
                    Some((a, b)) => (if min < a { min } else { a }, if max > b { max } else { b }),
                });
            }
            None if stats.null_count_opt() == Some(column.num_values() as u64) => {}
            None => return None,
        }
    }
    range
}

fn values(stats: &Statistics, decimal: bool) -> Option<(Value, Value)> {
    Some(match stats {
        Statistics::Int32(s) => (Value::Int((*s.min_opt()?).into()), Value::Int((*s.max_opt()?).into())),
        Statistics::Int64(s) => (Value::Int((*s.min_opt()?).into()), Value::Int((*s.max_opt()?).into())),
        Statistics::Float(s) => (Value::Float((*s.min_opt()?).into()), Value::Float((*s.max_opt()?).into())),
        Statistics::Double(s) => (Value::Float(*s.min_opt()?), Value::Float(*s.max_opt()?)),
        Statistics::FixedLenByteArray(s) if decimal => {
            (Value::Int(big_endian(s.min_bytes_opt()?)?), Value::Int(big_endian(s.max_bytes_opt()?)?))
        }
        Statistics::ByteArray(s) => {
            (Value::Bytes(s.min_bytes_opt()?.to_vec()), Value::Bytes(s.max_bytes_opt()?.to_vec()))
        }
        _ => return None,
    })
}

fn big_endian(bytes: &[u8]) -> Option<i128> {
    let negative = bytes.first()? & 0x80 != 0;
    let mut wide = [if negative { 0xff } else { 0 }; 16];
    wide.get_mut(16usize.checked_sub(bytes.len())?..)?.copy_from_slice(bytes);
    Some(i128::from_be_bytes(wide))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    Min,
    Max,
}

/// A bound as JSON text, widened by whatever its spelling cannot hold; `None` where no spelling is safe.
fn bound(kind: StatKind, value: Value, side: Side) -> Option<String> {
    match (kind, value) {
        (StatKind::Int, Value::Int(v)) => Some(v.to_string()),
        (StatKind::Decimal(scale), Value::Int(v)) => Some(decimal_text(v, scale)),
        (StatKind::Float, Value::Float(v)) => match (v == 0.0, side) {
            // Readers may or may not order -0.0 below 0.0.
            (true, Side::Min) => Some("-0.0".to_owned()),
            (true, Side::Max) => Some("0.0".to_owned()),
            _ => float_text(v, side),
        },
        (StatKind::Date, Value::Int(days)) => {
            let date = DateTime::from_timestamp(i64::try_from(days).ok()?.checked_mul(86_400)?, 0)?.date_naive();
            in_years(date.year()).then(|| format!("\"{}\"", date.format("%Y-%m-%d")))
        }
        (StatKind::Timestamp { utc }, Value::Int(micros)) => {
            let at = DateTime::from_timestamp_micros(i64::try_from(micros).ok()?)?.naive_utc();
            let at = millis(at, side)?;
            let zone = if utc { "Z" } else { "" };
            in_years(at.year()).then(|| format!("\"{}{zone}\"", at.format("%Y-%m-%dT%H:%M:%S%.3f")))
        }
        (StatKind::Text, Value::Bytes(bytes)) => {
            let text = std::str::from_utf8(&bytes).ok()?;
            match side {
                Side::Min => Some(quoted(prefix(text))),
                Side::Max => text_above(text).map(|t| quoted(&t)),
            }
        }
        _ => None,
    }
}

/// A float such that also a reader that is one unit in the last place off (serde_json without `float_roundtrip`) stays on
/// the safe side of it.
fn float_text(v: f64, side: Side) -> Option<String> {
    let wider = |w: &f64| Some(if side == Side::Min { w.next_down() } else { w.next_up() });
    std::iter::successors(Some(v), wider).take(4).filter(|w| w.is_finite()).map(|w| format!("{w:?}")).find(|text| {
        serde_json::from_str::<f64>(text).is_ok_and(|read| if side == Side::Min { read <= v } else { read >= v })
    })
}

/// Years that every reader parses.
fn in_years(year: i32) -> bool {
    (1..=9999).contains(&year)
}

/// To the millisecond below or above: that is all that JSON statistics hold.
fn millis(at: NaiveDateTime, side: Side) -> Option<NaiveDateTime> {
    let floor = at.trunc_subsecs(3);
    match side {
        Side::Max if floor < at => floor.checked_add_signed(TimeDelta::milliseconds(1)),
        _ => Some(floor),
    }
}

/// `-1.05` for -105 at scale 2, every digit kept.
pub(crate) fn decimal_text(unscaled: i128, scale: u8) -> String {
    let (sign, mut digits) = (if unscaled < 0 { "-" } else { "" }, unscaled.unsigned_abs().to_string());
    let scale = usize::from(scale);
    if scale > 0 {
        if digits.len() <= scale {
            digits.insert_str(0, &"0".repeat(scale + 1 - digits.len()));
        }
        digits.insert(digits.len() - scale, '.');
    }
    format!("{sign}{digits}")
}

fn prefix(text: &str) -> &str {
    text.char_indices().nth(TEXT_CHARS).map_or(text, |(end, _)| &text[..end])
}

/// The text itself where it is short, else the least text of at most [`TEXT_CHARS`] characters above everything that
/// starts as it does.
fn text_above(text: &str) -> Option<String> {
    let cut = prefix(text);
    if cut.len() == text.len() {
        return Some(cut.to_owned());
    }
    let mut rest = cut;
    while let Some(last) = rest.chars().next_back() {
        rest = &rest[..rest.len() - last.len_utf8()];
        let next = match last {
            '\u{D7FF}' => Some('\u{E000}'),
            other => char::from_u32(u32::from(other) + 1),
        };
        if let Some(next) = next {
            return Some(format!("{rest}{next}"));
        }
    }
    None
}

fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// A JSON object whose leaves are texts already.
#[derive(Debug, Default)]
struct Tree(Vec<(String, Node)>);

#[derive(Debug)]
enum Node {
    Text(String),
    Tree(Tree),
}

impl Tree {
    fn put(&mut self, keys: &[String], text: String) {
        let Some((first, rest)) = keys.split_first() else { return };
        if rest.is_empty() {
            self.0.push((first.clone(), Node::Text(text)));
            return;
        }
        // Leaves arrive in the schema's order, so a struct that was begun is the last entry.
        if !matches!(self.0.last(), Some((key, Node::Tree(_))) if key == first) {
            self.0.push((first.clone(), Node::Tree(Self::default())));
        }
        if let Some((_, Node::Tree(tree))) = self.0.last_mut() {
            tree.put(rest, text);
        }
    }
}

impl std::fmt::Display for Tree {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_char('{')?;
        for (i, (key, node)) in self.0.iter().enumerate() {
            write!(f, "{}{}:", if i == 0 { "" } else { "," }, quoted(key))?;
            match node {
                Node::Text(text) => f.write_str(text)?,
                Node::Tree(tree) => write!(f, "{tree}")?,
            }
        }
        f.write_char('}')
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decimals_keep_every_digit() {
        assert_eq!(decimal_text(123_456_789_012_345_678, 2), "1234567890123456.78");
        assert_eq!(decimal_text(-5, 2), "-0.05");
        assert_eq!(decimal_text(-5, 0), "-5");
        assert_eq!(decimal_text(i128::MIN, 38), "-1.70141183460469231731687303715884105728");
    }

    #[test]
    fn a_long_maximum_is_raised_and_stays_text() {
        let long = "a".repeat(40);
        assert_eq!(text_above(&long), Some(format!("{}b", "a".repeat(31))));
        assert_eq!(text_above(&"\u{10FFFF}".repeat(40)), None);
        assert_eq!(text_above(&format!("x{}", "\u{10FFFF}".repeat(40))), Some("y".to_owned()));
        assert_eq!(text_above(&format!("{}\u{D7FF}zz", "a".repeat(31))), Some(format!("{}\u{E000}", "a".repeat(31))));
    }

    #[test]
    fn the_maximum_of_a_timestamp_is_rounded_up() {
        let at = |micros: i64, side| bound(StatKind::Timestamp { utc: true }, Value::Int(micros.into()), side);
        assert_eq!(at(1_001, Side::Min).unwrap(), "\"1970-01-01T00:00:00.001Z\"");
        assert_eq!(at(1_001, Side::Max).unwrap(), "\"1970-01-01T00:00:00.002Z\"");
        assert_eq!(at(-1, Side::Min).unwrap(), "\"1969-12-31T23:59:59.999Z\"");
        assert_eq!(at(-1, Side::Max).unwrap(), "\"1970-01-01T00:00:00.000Z\"");
        assert_eq!(at(i64::MAX, Side::Max), None);
    }
}
