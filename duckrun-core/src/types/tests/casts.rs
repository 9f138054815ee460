//! Casts to the types of a table that exists: what fits is cast by name, what could be lost is refused with the column.

use arrow::datatypes::{DataType, Field};

use super::bridge::texts;
use super::table::{connect, described};
use crate::types::{DuckType, cast_expr, list_of, map_of, sql_type};
use crate::{ErrorKind, TimestampMode};

fn structure(fields: &[(&str, DataType)]) -> DataType {
    DataType::Struct(fields.iter().map(|(name, ty)| Field::new(*name, ty.clone(), true)).collect())
}

/// The value, cast to the table's type, as text; and the type that DuckDB gives the expression.
fn cast(value: &str, to: &DataType, mode: TimestampMode) -> Result<(String, String), String> {
    let con = connect();
    let expr = cast_expr("c", &described(&con, value), to, mode).map_err(|e| e.to_string())?;
    let sql = format!("SELECT CAST({expr} AS VARCHAR), typeof({expr}) FROM (SELECT {value} AS c, 'x' AS e0)");
    let mut got = texts(&con, &sql)?;
    let ty = DuckType::parse(&got.remove(1).unwrap()).unwrap().to_string();
    Ok((got.remove(0).unwrap_or_else(|| "NULL".into()), ty))
}

#[test]
fn what_fits_is_cast() {
    use DataType::{Boolean, Date32, Decimal128, Float64, Int8, Int16, Int32, Int64, Utf8};
    let ntz = DataType::Timestamp(arrow::datatypes::TimeUnit::Microsecond, None);
    let ns = "TIMESTAMP_NS '2020-01-01 00:00:00.000001'";
    for (value, to, text) in [
        ("1", Int64, "1"),
        ("255::UTINYINT", Int16, "255"),
        ("255::UTINYINT", Decimal128(7, 2), "255.00"),
        ("2147483647", Float64, "2147483647.0"),
        ("1.5", Decimal128(38, 10), "1.5000000000"),
        ("99::DECIMAL(2,0)", Int8, "99"),
        ("NULL", Int32, "NULL"),
        ("NULL", structure(&[("a", list_of(Int32))]), "NULL"),
        ("[]", list_of(Int32), "[]"),
        ("map {}", map_of(Utf8, Boolean), "{}"),
        ("[NULL]", list_of(structure(&[("a", Int32)])), "[NULL]"),
        ("[1, NULL]::INTEGER[2]", list_of(Int64), "[1, NULL]"),
        ("DATE '2020-02-29'", ntz.clone(), "2020-02-29 00:00:00"),
        ("DATE '2020-02-29'", Date32, "2020-02-29"),
        ("uuid()::VARCHAR::UUID IS NULL", Boolean, "false"),
        ("{'b': 1, 'a': 'x'}", structure(&[("a", Utf8), ("b", Int64)]), "{'a': x, 'b': 1}"),
        ("{'A b': 1}", structure(&[("a B", Int64), ("new", Utf8)]), "{'a B': 1, 'new': NULL}"),
        ("[{'s': {'x': 1::TINYINT}}]", list_of(structure(&[("s", structure(&[("y", Utf8), ("x", Int8)]))])), {
            "[{'s': {'y': NULL, 'x': 1}}]"
        }),
        (
            &format!("{{'b': 1, 't': [{ns}, NULL]}}"),
            structure(&[("t", list_of(ntz.clone())), ("b", Int64), ("n", Int8)]),
            { "{'t': ['2020-01-01 00:00:00.000001', NULL], 'b': 1, 'n': NULL}" },
        ),
        (&format!("map {{ {ns}: {{'k': 1}} }}"), map_of(ntz, structure(&[("k", Int64), ("l", Utf8)])), {
            "{'2020-01-01 00:00:00.000001'={'k': 1, 'l': NULL}}"
        }),
    ] {
        let got = cast(value, &to, TimestampMode::Ntz).unwrap_or_else(|e| panic!("{value}: {e}"));
        assert_eq!(got, (text.to_owned(), sql_type(&to).unwrap()), "{value}");
    }
}

#[test]
fn what_could_be_lost_is_refused_with_its_column() {
    use DataType::{Decimal128, Float32, Int16, Int32, Int64, Utf8};
    let con = connect();
    for (value, to) in [
        ("1.5::DOUBLE", Int64),
        ("1::BIGINT", Int32),
        ("1::BIGINT", DataType::Float64),
        ("1", Float32),
        ("1::DECIMAL(18,2)", Decimal128(17, 2)),
        ("1::DECIMAL(18,2)", Decimal128(18, 3)),
        ("1::UBIGINT", Int64),
        ("1::HUGEINT", Int64),
        ("1", Utf8),
        ("'1'", Int32),
        ("true", Int32),
        ("'1'", DataType::Binary),
        ("TIMESTAMP '2020-01-01'", DataType::Date32),
        ("TIMESTAMP '2020-01-01'", DataType::Timestamp(arrow::datatypes::TimeUnit::Microsecond, Some("UTC".into()))),
        ("TIMESTAMPTZ '2020-01-01'", DataType::Timestamp(arrow::datatypes::TimeUnit::Microsecond, None)),
        ("1", list_of(Int32)),
        ("[1]", Int32),
        ("[1]", map_of(Int32, Int32)),
        ("[1::BIGINT]", list_of(Int16)),
        ("{'a': 1, 'b': 2}", structure(&[("a", Int32)])),
        ("{'a': {'x': 1::BIGINT}}", structure(&[("a", structure(&[("x", Int32)]))])),
        ("map {1: 2::BIGINT}", map_of(Int32, Int32)),
    ] {
        let e = cast_expr("my c", &described(&con, value), &to, TimestampMode::Ntz).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::InvalidData, "{value} as {to}");
        assert!(e.message().starts_with("column \"my c\""), "{e}");
    }
    let e = cast_expr("c", &DuckType::Time, &Utf8, TimestampMode::Ntz).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Unsupported);
    let e = cast_expr("c", &DuckType::Integer, &DataType::UInt8, TimestampMode::Ntz).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::InvalidData);
}

#[test]
fn a_required_field_that_the_result_lacks_is_refused() {
    let to =
        DataType::Struct(vec![Field::new("a", DataType::Int32, true), Field::new("b", DataType::Int32, false)].into());
    let from = DuckType::Struct(vec![("a".into(), DuckType::Integer)]);
    let e = cast_expr("c", &from, &to, TimestampMode::Ntz).unwrap_err();
    assert!(e.message().contains(r#""c"."b""#), "{e}");
}

#[test]
fn utc_mode_takes_the_two_timestamps_as_one() {
    let ntz = DataType::Timestamp(arrow::datatypes::TimeUnit::Microsecond, None);
    let utc = DataType::Timestamp(arrow::datatypes::TimeUnit::Microsecond, Some("UTC".into()));
    for value in [
        "TIMESTAMP '2020-01-01'",
        "TIMESTAMPTZ '2020-01-01 00:00:00+00'",
        "TIMESTAMP_S '2020-01-01'",
        "DATE '2020-01-01'",
        "TIMESTAMP_NS '2020-01-01'",
        "'2020-01-01 00:00:00+00'::TIMESTAMPTZ_NS",
    ] {
        let both =
            [(&ntz, "2020-01-01 00:00:00", "TIMESTAMP"), (&utc, "2020-01-01 00:00:00+00", "TIMESTAMP WITH TIME ZONE")];
        for (to, text, ty) in both {
            assert_eq!(cast(value, to, TimestampMode::Utc).unwrap(), (text.into(), ty.into()), "{value}");
            let (listed, _) = cast(&format!("[{value}]"), &list_of(to.clone()), TimestampMode::Utc).unwrap();
            assert!(listed.contains(text), "{listed}");
        }
    }
}

#[test]
fn a_date_beyond_a_timestamp_is_refused_while_the_query_runs() {
    let ntz = DataType::Timestamp(arrow::datatypes::TimeUnit::Microsecond, None);
    let e = cast("DATE '5881580-07-10'", &ntz, TimestampMode::Ntz).unwrap_err();
    assert!(e.contains(crate::types::LOSS) && e.contains("\"c\""), "{e}");
}
