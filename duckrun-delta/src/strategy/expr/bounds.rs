//! What an expression says of single columns: comparisons with constants that must hold wherever it holds.
//!
//! A bound may be missing, never wrong: a constant counts only where it has exactly one meaning in the column's type, so that
//! casting it there loses nothing. Floats have no bounds.

use arrow::datatypes::{DataType, Schema};
use duckrun_core::{Bound, Comparison, quote_literal};
use sqlparser::ast::{BinaryOperator, CastKind, DataType as SqlType, Expr, UnaryOperator, Value};

/// The bounds of an expression's top-level conjuncts. `column` gives the table's column that an expression is.
pub(super) fn of(expr: &Expr, column: &dyn Fn(&Expr) -> Option<String>, table: &Schema) -> Vec<Bound> {
    let mut bounds = Vec::new();
    let mut open = vec![expr];
    while let Some(expr) = open.pop() {
        match expr {
            Expr::Nested(inner) => open.push(inner),
            Expr::BinaryOp { left, op: BinaryOperator::And, right } => open.extend([right.as_ref(), left.as_ref()]),
            Expr::BinaryOp { left, op, right } => {
                let Some(comparison) = comparison(op) else { continue };
                let one = bound(left, comparison, right, column, table);
                bounds.extend(one.or_else(|| bound(right, mirrored(comparison), left, column, table)));
            }
            Expr::Between { expr, negated: false, low, high } => {
                bounds.extend(bound(expr, Comparison::GreaterOrEqual, low, column, table));
                bounds.extend(bound(expr, Comparison::LessOrEqual, high, column, table));
            }
            _ => {}
        }
    }
    bounds
}

fn comparison(op: &BinaryOperator) -> Option<Comparison> {
    Some(match op {
        BinaryOperator::Eq => Comparison::Equal,
        BinaryOperator::Lt => Comparison::Less,
        BinaryOperator::LtEq => Comparison::LessOrEqual,
        BinaryOperator::Gt => Comparison::Greater,
        BinaryOperator::GtEq => Comparison::GreaterOrEqual,
        _ => return None,
    })
}

fn mirrored(comparison: Comparison) -> Comparison {
    match comparison {
        Comparison::Equal => Comparison::Equal,
        Comparison::Less => Comparison::Greater,
        Comparison::LessOrEqual => Comparison::GreaterOrEqual,
        Comparison::Greater => Comparison::Less,
        Comparison::GreaterOrEqual => Comparison::LessOrEqual,
    }
}

fn bound(
    side: &Expr,
    comparison: Comparison,
    other: &Expr,
    column: &dyn Fn(&Expr) -> Option<String>,
    table: &Schema,
) -> Option<Bound> {
    let name = column(side)?;
    let constant = constant(other, table.field_with_name(&name).ok()?.data_type())?;
    Some(Bound::new(name, comparison, constant))
}

/// A constant as SQL, where it has one meaning in the column's type.
fn constant(expr: &Expr, ty: &DataType) -> Option<String> {
    match expr {
        Expr::Nested(inner) => constant(inner, ty),
        Expr::UnaryOp { op: op @ (UnaryOperator::Minus | UnaryOperator::Plus), expr } => {
            let Expr::Value(value) = expr.as_ref() else { return None };
            let Value::Number(digits, _) = &value.value else { return None };
            let sign = if *op == UnaryOperator::Minus { "-" } else { "" };
            number(digits, ty).then(|| format!("{sign}{digits}"))
        }
        Expr::Value(value) => match &value.value {
            Value::Number(digits, _) => number(digits, ty).then(|| digits.clone()),
            Value::Boolean(b) => (*ty == DataType::Boolean).then(|| b.to_string()),
            Value::SingleQuotedString(text) => text_constant(text, None, ty),
            _ => None,
        },
        Expr::TypedString(typed) => match &typed.value.value {
            Value::SingleQuotedString(text) => text_constant(text, Some(&typed.data_type), ty),
            _ => None,
        },
        Expr::Cast { kind: CastKind::Cast | CastKind::DoubleColon, expr, data_type, array: false, format: None } => {
            match expr.as_ref() {
                Expr::Value(value) => match &value.value {
                    Value::SingleQuotedString(text) => text_constant(text, Some(data_type), ty),
                    _ => None,
                },
                _ => None,
            }
        }
        _ => None,
    }
}

/// Whether a number without exponent is exact in the type.
fn number(digits: &str, ty: &DataType) -> bool {
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let plain = !whole.is_empty()
        && whole.len() + fraction.len() <= 38
        && whole.bytes().chain(fraction.bytes()).all(|b| b.is_ascii_digit());
    let room = |max: i128| digits.parse::<i128>().is_ok_and(|n| n <= max);
    match ty {
        // A constant beyond the type is no bound: it could not be cast.
        DataType::Int8 => room(i8::MAX.into()),
        DataType::Int16 => room(i16::MAX.into()),
        DataType::Int32 => room(i32::MAX.into()),
        DataType::Int64 => room(i64::MAX.into()),
        DataType::Decimal128(p, s) => {
            let (p, s) = (usize::from(*p), usize::try_from(*s).unwrap_or(0));
            plain && fraction.len() <= s && whole.trim_start_matches('0').len() + s <= p
        }
        _ => false,
    }
}

fn text_constant(text: &str, typed: Option<&SqlType>, ty: &DataType) -> Option<String> {
    let literal = quote_literal(text);
    let (date, time) = (is_date(text), is_time(text));
    match (ty, typed) {
        (DataType::Utf8, None) => Some(literal),
        (DataType::Date32, None | Some(SqlType::Date)) => date.then(|| format!("DATE {literal}")),
        (
            DataType::Timestamp(..),
            None | Some(SqlType::Timestamp(None, _) | SqlType::Date | SqlType::Datetime(None)),
        ) if date || time => {
            // A DATE over a text with a time would drop it.
            (date || !matches!(typed, Some(SqlType::Date))).then(|| format!("TIMESTAMP {literal}"))
        }
        _ => None,
    }
}

/// `2024-01-31`.
fn is_date(text: &str) -> bool {
    shape(text) == "0000-00-00"
}

/// `2024-01-31 12:30`, with seconds and up to six digits of them.
fn is_time(text: &str) -> bool {
    let shape = shape(text).replacen('T', " ", 1);
    let Some(rest) = shape.strip_prefix("0000-00-00 00:00") else { return false };
    let Some(seconds) = rest.strip_prefix(":00") else { return rest.is_empty() };
    match seconds.strip_prefix('.') {
        Some(fraction) => (1..=6).contains(&fraction.len()) && fraction.bytes().all(|b| b == b'0'),
        None => seconds.is_empty(),
    }
}

fn shape(text: &str) -> String {
    text.chars().map(|c| if c.is_ascii_digit() { '0' } else { c }).collect()
}
