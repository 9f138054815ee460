//! Types and values: the edges of each type more often than its middle.

use proptest::prelude::*;
use proptest::sample::select;

use crate::model::{Type, Value};

/// A type that can be a key: every scalar type.
pub fn key_type() -> BoxedStrategy<Type> {
    select(vec![
        Type::Bool,
        Type::Byte,
        Type::Short,
        Type::Int,
        Type::Long,
        Type::Float,
        Type::Double,
        Type::Decimal(9, 2),
        Type::Decimal(18, 2),
        Type::Decimal(38, 10),
        Type::Text,
        Type::Binary,
        Type::Date,
        Type::Timestamp,
        Type::TimestampNtz,
    ])
    .boxed()
}

/// Any type: mostly scalar ones.
pub fn value_type() -> BoxedStrategy<Type> {
    prop_oneof![
        8 => key_type(),
        1 => key_type().prop_map(|t| Type::List(Box::new(t))),
        1 => (key_type(), key_type()).prop_map(|(a, b)| Type::Struct(vec![("a".into(), a), ("b".into(), b)])),
    ]
    .boxed()
}

/// A type that tables are partitioned by.
pub fn partition_type() -> BoxedStrategy<Type> {
    select(vec![Type::Int, Type::Text, Type::Date, Type::Bool, Type::Timestamp]).boxed()
}

/// The digits of the largest decimal of a precision.
fn nines(precision: u8) -> i128 {
    10_i128.pow(u32::from(precision)) - 1
}

const DAY: i64 = 86_400_000_000;

/// The values at which a type's writers, readers and statistics go wrong.
pub fn edges(ty: &Type) -> Vec<Value> {
    let ints = |v: Vec<i64>| v.into_iter().map(Value::Int).collect();
    match ty {
        Type::Bool => vec![Value::Bool(false), Value::Bool(true)],
        Type::Byte => ints(vec![i8::MIN.into(), -1, 0, i8::MAX.into()]),
        Type::Short => ints(vec![i16::MIN.into(), -1, 0, i16::MAX.into()]),
        Type::Int => ints(vec![i32::MIN.into(), -1, 0, i32::MAX.into()]),
        // Beyond 2^53 neighbours are one and the same to a double.
        Type::Long => ints(vec![i64::MIN, i64::MIN + 1, -1, 0, (1 << 53) + 1, (1 << 53) + 2, i64::MAX - 1, i64::MAX]),
        Type::Float => {
            [f32::NAN, -0.0, 0.0, f32::MIN_POSITIVE, f32::MAX, f32::MIN, f32::INFINITY, f32::NEG_INFINITY, 0.1]
                .map(|f| Value::Float(f.into()))
                .to_vec()
        }
        Type::Double => {
            [f64::NAN, -0.0, 0.0, 5e-324, f64::MAX, f64::MIN, f64::INFINITY, f64::NEG_INFINITY, 0.1, 1.0 + f64::EPSILON]
                .map(Value::Float)
                .to_vec()
        }
        Type::Decimal(precision, _) => {
            let max = nines(*precision);
            [0, 1, -1, max, max - 1, -max, 1 - max, max / 7, max / 7 + 1].map(Value::Decimal).to_vec()
        }
        Type::Text => {
            let long = "statistics are cut after 32 chars";
            [
                "".to_owned(),
                "a".to_owned(),
                "A".to_owned(),
                "it's \"quoted\" % _ \\ \n".to_owned(),
                "NULL".to_owned(),
                "e\u{301}".to_owned(),
                "é".to_owned(),
                format!("{long}, a"),
                format!("{long}, b"),
                "\u{10ffff}".repeat(33),
                "z".repeat(33),
                "z".repeat(32),
            ]
            .map(Value::Text)
            .to_vec()
        }
        Type::Binary => vec![vec![], vec![0], vec![0, 0], vec![0xff; 40], vec![0x7f; 33], b"text".to_vec()]
            .into_iter()
            .map(Value::Binary)
            .collect(),
        // 0001-01-01, the day before Gregory's reform, the epoch, 9999-12-31.
        Type::Date => [-719_162, -141_428, -1, 0, 1, 2_932_896].map(Value::Date).to_vec(),
        // Log statistics have milliseconds: 999 and 1001 microseconds are cut to 0 and 1.
        Type::Timestamp | Type::TimestampNtz => {
            [-719_162 * DAY, -1_001, -1, 0, 1, 999, 1_000, 1_001, 1_600_000_000_123_456, 2_932_897 * DAY - 1]
                .map(Value::Timestamp)
                .to_vec()
        }
        Type::List(item) => {
            let mut lists = vec![Value::List(vec![]), Value::List(vec![Value::Null])];
            lists.push(Value::List(edges(item)));
            lists
        }
        Type::Struct(fields) => {
            let first = fields.iter().map(|(_, t)| edges(t).swap_remove(0)).collect();
            vec![Value::Struct(fields.iter().map(|_| Value::Null).collect()), Value::Struct(first)]
        }
    }
}

/// A value of a type that is not NULL, from its middle.
fn middle(ty: &Type) -> BoxedStrategy<Value> {
    match ty {
        Type::Bool => any::<bool>().prop_map(Value::Bool).boxed(),
        Type::Byte => any::<i8>().prop_map(|v| Value::Int(v.into())).boxed(),
        Type::Short => any::<i16>().prop_map(|v| Value::Int(v.into())).boxed(),
        Type::Int => (-50_i64..50).prop_map(Value::Int).boxed(),
        Type::Long => any::<i64>().prop_map(Value::Int).boxed(),
        Type::Float => (-1000_i16..1000).prop_map(|v| Value::Float(f64::from(f32::from(v) / 8.0))).boxed(),
        Type::Double => (-1e15..1e15).prop_map(Value::Float).boxed(),
        Type::Decimal(precision, _) => {
            let max = nines(*precision);
            (-max..=max).prop_map(Value::Decimal).boxed()
        }
        Type::Text => prop_oneof![
            9 => "[ -~äß漢🦆]{1,12}".prop_map(Value::Text),
            1 => (1_000_usize..40_000).prop_map(|n| Value::Text("long ".repeat(n / 5))),
        ]
        .boxed(),
        Type::Binary => prop::collection::vec(any::<u8>(), 0..12).prop_map(Value::Binary).boxed(),
        Type::Date => (-30_000..30_000).prop_map(Value::Date).boxed(),
        Type::Timestamp | Type::TimestampNtz => (-DAY * 9_000..DAY * 20_000).prop_map(Value::Timestamp).boxed(),
        Type::List(item) => prop::collection::vec(value(item), 0..3).prop_map(Value::List).boxed(),
        Type::Struct(fields) => {
            fields.iter().map(|(_, t)| value(t)).collect::<Vec<_>>().prop_map(Value::Struct).boxed()
        }
    }
}

/// A value of a type: NULL, an edge, or something between.
pub fn value(ty: &Type) -> BoxedStrategy<Value> {
    prop_oneof![1 => Just(Value::Null), 4 => select(edges(ty)), 4 => middle(ty)].boxed()
}
