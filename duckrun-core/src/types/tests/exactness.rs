//! `widens` against brute force: for every pair of types, values at their limits are cast there and back by DuckDB.

use arrow::datatypes::{DataType, TimeUnit};

use super::bridge::texts;
use super::table::connect;
use crate::types::{common_type, sql_type, widens};

/// Values at the limits of a type, as text.
fn limits(ty: &DataType) -> Vec<String> {
    let text = |values: &[&str]| values.iter().map(|v| (*v).to_owned()).collect();
    match ty {
        DataType::Int8 => text(&["-128", "127"]),
        DataType::Int16 => text(&["-32768", "32767"]),
        DataType::Int32 => text(&["-2147483648", "2147483647", "16777217"]),
        DataType::Int64 => text(&["-9223372036854775808", "9223372036854775807", "9007199254740993"]),
        DataType::Float32 => text(&["3.4028235e38", "1e-45", "0.1", "16777215"]),
        DataType::Float64 => text(&["1.7976931348623157e308", "5e-324", "0.1", "9007199254740991"]),
        DataType::Decimal128(p, s) => {
            let (p, s) = (usize::from(*p), usize::try_from(*s).unwrap());
            let nines = format!("{}.{}", "9".repeat(p - s), "9".repeat(s));
            vec![nines.trim_end_matches('.').to_owned(), format!("-{nines}").trim_end_matches('.').to_owned()]
        }
        DataType::Date32 => text(&["0001-01-01", "9999-12-31"]),
        DataType::Timestamp(..) => text(&["0001-01-01 00:00:00.000001", "9999-12-31 23:59:59.999999"]),
        DataType::Boolean => text(&["true", "false"]),
        _ => text(&["a", "\\x00\\xFF"]),
    }
}

fn numeric(ty: &DataType) -> bool {
    ty.is_numeric()
}

fn types() -> Vec<DataType> {
    let decimals = [
        (1, 0),
        (2, 0),
        (3, 0),
        (4, 0),
        (5, 0),
        (7, 0),
        (8, 0),
        (9, 0),
        (10, 0),
        (15, 0),
        (16, 0),
        (18, 0),
        (19, 0),
        (20, 0),
        (38, 0),
        (2, 2),
        (5, 2),
        (6, 2),
        (5, 3),
        (6, 3),
        (18, 6),
        (21, 2),
        (38, 10),
        (38, 38),
    ];
    let mut types = vec![
        DataType::Boolean,
        DataType::Int8,
        DataType::Int16,
        DataType::Int32,
        DataType::Int64,
        DataType::Float32,
        DataType::Float64,
        DataType::Utf8,
        DataType::Binary,
        DataType::Date32,
        DataType::Timestamp(TimeUnit::Microsecond, None),
        DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
    ];
    types.extend(decimals.map(|(p, s)| DataType::Decimal128(p, s)));
    types
}

#[test]
fn widens_says_what_brute_force_says() {
    let con = connect();
    let mut exact_pairs = 0;
    for from in types() {
        for to in types() {
            let (f, t) = (sql_type(&from).unwrap(), sql_type(&to).unwrap());
            let exact = limits(&from).iter().all(|v| {
                let sql = format!(
                    "SELECT CAST(TRY_CAST(TRY_CAST(v AS {t}) AS {f}) IS NOT DISTINCT FROM v AS VARCHAR) \
                     FROM (SELECT CAST('{v}' AS {f}) AS v)"
                );
                texts(&con, &sql).is_ok_and(|got| got[0].as_deref() == Some("true"))
            });
            let widens = widens(&from, &to);
            assert!(exact || !widens, "{f} does not widen to {t}");
            // Back and forth is no proof where the target rounds to the nearest: 0.1 is not a binary fraction.
            let rounds = matches!(from, DataType::Decimal128(_, 1..)) && to.is_floating();
            if numeric(&from) && numeric(&to) && !rounds {
                assert_eq!(widens, exact, "{f} to {t}");
            }
            exact_pairs += usize::from(widens);
            assert_eq!(common_type(&from, &to), common_type(&to, &from), "{f} and {t}");
            if let Some(common) = common_type(&from, &to) {
                assert!(super::super::widens(&from, &common) && super::super::widens(&to, &common), "{f} and {t}");
            }
        }
    }
    assert!(exact_pairs > 150, "{exact_pairs}");
}
