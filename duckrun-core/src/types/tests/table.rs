//! Every row of the table, run: values at their limits, bare and nested, through DuckDB, SQL and Arrow.

use std::collections::BTreeSet;
use std::sync::Arc;

use ::duckdb::Connection;
use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{DataType, Date32Type, Field, Float32Type, Float64Type, Schema, TimestampMicrosecondType};
use arrow::util::display::array_value_to_string;

use super::bridge::{query, texts};
use super::rows::{ROWS, Row};
use crate::types::{DuckType, LOSS, check_batch, conform, decide, list_of, map_of, sql_type};
use crate::{Error, ErrorKind, Result, TimestampMode, quote_ident, quote_literal};

/// A column name that needs quoting.
const COLUMN: &str = "it's \"x\"";

pub(super) fn connect() -> Connection {
    Connection::open_in_memory().unwrap()
}

/// The type that DESCRIBE prints for a value.
pub(super) fn described(con: &Connection, value: &str) -> DuckType {
    let text: String = con.query_row(&format!("DESCRIBE SELECT {value} AS x"), [], |row| row.get(1)).unwrap();
    DuckType::parse(&text).unwrap()
}

/// Decides on a value as a column, runs it, and gives back the conformed batch.
fn run(con: &Connection, value: &str, mode: TimestampMode) -> Result<RecordBatch> {
    let decision = decide(COLUMN, &described(con, value), mode)?;
    let from = format!("SELECT {} AS c FROM (SELECT {value} AS {})", decision.expr, quote_ident(COLUMN));
    let batches = query(con, &from).map_err(|e| Error::new(ErrorKind::Query, e))?;
    let schema = Arc::new(Schema::new(vec![Field::new("c", decision.arrow, true)]));
    let batch = conform(batches.into_iter().next().unwrap(), &schema)?;
    check_batch(&batch)?;
    Ok(batch)
}

/// The value as text that loses nothing: in SQL, over the original column.
fn exact_sql(value: &str, ty: &DataType) -> String {
    match ty {
        DataType::Binary => format!("hex({value})"),
        DataType::Date32 => format!("CAST({value} - DATE '1970-01-01' AS VARCHAR)"),
        DataType::Timestamp(_, Some(_)) => format!("CAST(epoch_us(CAST({value} AS TIMESTAMPTZ)) AS VARCHAR)"),
        DataType::Timestamp(_, None) => format!("CAST(epoch_us(CAST({value} AS TIMESTAMP)) AS VARCHAR)"),
        _ => format!("CAST({value} AS VARCHAR)"),
    }
}

/// The same, from the array.
fn exact_arrow(array: &dyn Array, row: usize) -> Option<String> {
    if array.is_null(row) {
        return None;
    }
    Some(match array.data_type() {
        DataType::Binary => array.as_binary::<i32>().value(row).iter().map(|b| format!("{b:02X}")).collect(),
        DataType::Date32 => array.as_primitive::<Date32Type>().value(row).to_string(),
        DataType::Timestamp(..) => array.as_primitive::<TimestampMicrosecondType>().value(row).to_string(),
        DataType::Float32 => format!("{:?}", array.as_primitive::<Float32Type>().value(row)),
        DataType::Float64 => format!("{:?}", array.as_primitive::<Float64Type>().value(row)),
        _ => array_value_to_string(array, row).unwrap(),
    })
}

fn same(expected: Option<&str>, got: Option<&str>, ty: &DataType) -> bool {
    match (expected, got, ty) {
        (Some(a), Some(b), DataType::Float32) => {
            a.parse::<f32>().unwrap().to_bits() == b.parse::<f32>().unwrap().to_bits()
        }
        (Some(a), Some(b), DataType::Float64) => {
            a.parse::<f64>().unwrap().to_bits() == b.parse::<f64>().unwrap().to_bits()
        }
        // DuckDB writes .5, arrow 0.5.
        (Some(a), Some(b), DataType::Decimal128(..)) => a.replace("0.", ".") == b.replace("0.", "."),
        (a, b, _) => a == b,
    }
}

/// The value as SQL of the row's type.
fn literal(row: &Row, value: &str) -> String {
    let text = format!("'{value}'");
    // Text becomes a union's text member; its number has to be one.
    let value = if row.name == "UNION" && value != "a" { value } else { &text };
    format!("CAST({value} AS {})", row.duck)
}

/// The innermost values of an array that has one row.
fn leaves(array: &dyn Array) -> Vec<(DataType, Option<String>)> {
    match array.data_type() {
        DataType::Struct(_) => array.as_struct().columns().iter().flat_map(|c| leaves(c)).collect(),
        DataType::List(_) => leaves(array.as_list::<i32>().values()),
        DataType::Map(..) => array.as_map().entries().columns().iter().flat_map(|c| leaves(c)).collect(),
        ty => (0..array.len()).map(|i| (ty.clone(), exact_arrow(array, i))).collect(),
    }
}

#[test]
fn every_type_of_duckdb_has_a_row() {
    let con = connect();
    let mut statement = con.prepare("SELECT DISTINCT upper(type_name), logical_type FROM duckdb_types()").unwrap();
    let types = statement.query_map([], |row| Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?))).unwrap();
    let rows: BTreeSet<_> = ROWS.iter().map(|r| r.name).collect();
    let mut seen = 0;
    for (name, logical) in types.map(::std::result::Result::unwrap) {
        seen += 1;
        assert!(rows.contains(logical.as_str()), "DuckDB has a type {logical} ({name}) without a row");
        let parametric = matches!(name.as_str(), "LIST" | "ARRAY" | "MAP" | "UNION" | "ENUM");
        let parsed = DuckType::parse(&name).unwrap();
        assert!(parametric || !matches!(parsed, DuckType::Other(_)), "{name} is not parsed");
    }
    assert!(seen > 70, "{seen}");
}

#[test]
fn values_at_their_limits_arrive_exactly() {
    let con = connect();
    for row in ROWS {
        let Some(delta) = row.delta else { continue };
        let decision = decide("c", &DuckType::parse(row.duck).unwrap(), TimestampMode::Ntz).unwrap();
        assert_eq!(sql_type(&decision.arrow).unwrap(), DuckType::parse(delta).unwrap().to_string(), "{}", row.duck);
        assert_eq!(decision.expr == "\"c\"", row.duck == delta || row.duck.starts_with("DECIMAL"), "{}", decision.expr);
        if decision.arrow.is_nested() {
            for value in row.exact {
                let batch = run(&con, &literal(row, value), TimestampMode::Ntz).unwrap();
                assert_eq!(batch.column(0).data_type(), &decision.arrow);
            }
            continue;
        }
        for value in row.exact {
            let value = literal(row, value);
            let expected = texts(&con, &format!("SELECT {}", exact_sql(&value, &decision.arrow))).unwrap().remove(0);
            assert!(expected.is_some(), "{value}");
            for (nested, arrow) in [
                (value.clone(), decision.arrow.clone()),
                (format!("[{value}, NULL]"), list_of(decision.arrow.clone())),
                (format!("CAST([{value}] AS {}[1])", row.duck), list_of(decision.arrow.clone())),
                (format!("[[{value}], NULL]"), list_of(list_of(decision.arrow.clone()))),
                (format!("map {{ {value} : {value} }}"), map_of(decision.arrow.clone(), decision.arrow.clone())),
                (format!("[{{'a b': {value}}}, NULL]"), list_of(one_field("a b", &decision.arrow))),
                (format!("{{'k': map {{ 'it''s': [{value}] }}}}"), {
                    one_field("k", &map_of(DataType::Utf8, list_of(decision.arrow.clone())))
                }),
            ] {
                let batch = run(&con, &nested, TimestampMode::Ntz).unwrap_or_else(|e| panic!("{nested}: {e}"));
                assert_eq!(batch.column(0).data_type(), &arrow, "{nested}");
                let found = leaves(batch.column(0))
                    .into_iter()
                    .any(|(ty, got)| ty == decision.arrow && same(expected.as_deref(), got.as_deref(), &ty));
                assert!(found, "{nested}: expected {expected:?}, got {:?}", leaves(batch.column(0)));
            }
        }
    }
}

fn one_field(name: &str, ty: &DataType) -> DataType {
    DataType::Struct(vec![Field::new(name, ty.clone(), true)].into())
}

#[test]
fn null_stays_null_at_every_level() {
    let con = connect();
    for row in ROWS.iter().filter(|r| r.delta.is_some()) {
        let ty = row.duck;
        for (value, nulls) in [
            (format!("CAST(NULL AS {ty})"), 1),
            (format!("CAST(NULL AS {ty}[])"), 1),
            (format!("CAST(NULL AS {ty}[2])"), 1),
            (format!("CAST(NULL AS STRUCT(a {ty}))"), 1),
            (format!("CAST(NULL AS MAP(VARCHAR, {ty}))"), 1),
            (format!("CAST([NULL] AS {ty}[])"), 0),
            (format!("CAST([] AS {ty}[])"), 0),
            (format!("CAST({{'a': NULL}} AS STRUCT(a {ty}))"), 0),
            (format!("CAST(map {{'a': NULL}} AS MAP(VARCHAR, {ty}))"), 0),
            (format!("CAST(map {{}} AS MAP({ty}, {ty}))"), 0),
        ] {
            let batch = run(&con, &value, TimestampMode::Ntz).unwrap_or_else(|e| panic!("{value}: {e}"));
            assert_eq!(batch.column(0).null_count(), nulls, "{value}");
            assert!(leaves(batch.column(0)).iter().all(|(ty, v)| v.is_none() || *ty == DataType::Utf8), "{value}");
        }
    }
}

#[test]
fn a_value_that_would_be_lost_is_refused_with_its_column() {
    let con = connect();
    for row in ROWS {
        for value in row.lost {
            let value = literal(row, value);
            for nested in [
                value.clone(),
                format!("[{value}]"),
                format!("{{'a': [NULL, {value}]}}"),
                format!("map {{ 1: {value} }}"),
            ] {
                let e = run(&con, &nested, TimestampMode::Ntz).unwrap_err();
                assert!(e.message().contains(LOSS) && e.message().contains(&quote_ident(COLUMN)), "{nested}: {e}");
            }
        }
    }
}

/// A check in a branch that no row takes must not fail the query, however constant its argument is.
#[test]
fn a_check_fails_only_on_the_row_that_it_is_for() {
    let con = connect();
    let ty = DuckType::TimestampNs;
    let expr = decide("x", &ty, TimestampMode::Ntz).unwrap().expr;
    let values = "(VALUES (1, TIMESTAMP_NS '2020-01-01 00:00:00.000000001'), (2, TIMESTAMP_NS '2020-01-01')) t(i, x)";
    assert!(texts(&con, &format!("SELECT CAST({expr} AS VARCHAR) FROM {values} WHERE i = 2")).is_ok());
    assert!(texts(&con, &format!("SELECT CAST({expr} AS VARCHAR) FROM {values} WHERE i = 1")).is_err());
    assert_eq!(
        texts(&con, &format!("SELECT CAST(count({expr}) AS VARCHAR) FROM {values} WHERE false")).unwrap().len(),
        1
    );
}

#[test]
fn a_refusal_names_the_column_and_a_cast_that_works() {
    let con = connect();
    for row in ROWS.iter().filter(|r| r.delta.is_none()) {
        let ty = DuckType::parse(row.duck).unwrap();
        let list = DuckType::List(Box::new(ty.clone()));
        let inside = DuckType::Struct(vec![("a b".into(), DuckType::Array(Box::new(ty.clone()), 1))]);
        for (level, refused) in [ty.clone(), list, inside].into_iter().enumerate() {
            let e = decide(COLUMN, &refused, TimestampMode::Ntz).unwrap_err();
            assert_eq!(e.kind(), ErrorKind::Unsupported);
            let cast = format!("CAST({} AS ", quote_ident(COLUMN));
            let at = e.message().find(&cast).unwrap_or_else(|| panic!("{e}"));
            let rest = &e.message()[at + cast.len()..];
            let end = rest.char_indices().scan(0, |open, (i, c)| {
                *open += match c {
                    '(' => 1,
                    ')' => -1,
                    _ => 0,
                };
                Some((i, *open))
            });
            let target = DuckType::parse(&rest[..end.into_iter().find(|(_, open)| *open < 0).unwrap().0]).unwrap();
            decide(COLUMN, &target, TimestampMode::Ntz).unwrap();
            for value in row.exact {
                let value = literal(row, value);
                let value = match level {
                    1 => format!("[{value}]"),
                    2 => format!("{{'a b': CAST([{value}] AS {}[1])}}", row.duck),
                    _ => value,
                };
                assert!(run(&con, &value, TimestampMode::Ntz).is_err_and(|e| e.kind() == ErrorKind::Unsupported));
                run(&con, &format!("CAST({value} AS {target})"), TimestampMode::Ntz)
                    .unwrap_or_else(|e| panic!("{value}: {e}"));
            }
        }
    }
}

#[test]
fn utc_mode_stores_every_timestamp_as_an_instant() {
    let con = connect();
    for row in ROWS.iter().filter(|r| r.name.starts_with("TIMESTAMP")) {
        for value in row.exact {
            let value = literal(row, value);
            let own = decide("c", &described(&con, &value), TimestampMode::Ntz).unwrap().arrow;
            let expected = texts(&con, &format!("SELECT {}", exact_sql(&value, &own))).unwrap().remove(0);
            for value in [value.clone(), format!("{{'a': [{value}]}}")] {
                let batch = run(&con, &value, TimestampMode::Utc).unwrap_or_else(|e| panic!("{value}: {e}"));
                let instant = sql_type(&leaves(batch.column(0))[0].0).unwrap();
                assert_eq!((instant.as_str(), &leaves(batch.column(0))[0].1), ("TIMESTAMP WITH TIME ZONE", &expected));
            }
        }
    }
}

#[test]
fn infinities_are_refused_where_a_value_is_one() {
    let con = connect();
    for ty in ["DATE", "TIMESTAMP", "TIMESTAMP_S", "TIMESTAMP_MS", "TIMESTAMP_NS", "TIMESTAMPTZ", "TIMESTAMPTZ_NS"] {
        for sign in ["", "-"] {
            for mode in [TimestampMode::Ntz, TimestampMode::Utc] {
                let value = format!("CAST({} AS {ty})", quote_literal(&format!("{sign}infinity")));
                for nested in [
                    value.clone(),
                    format!("[NULL, {value}]"),
                    format!("CAST([{value}] AS {ty}[1])"),
                    format!("{{'a': {{'b': {value}}}}}"),
                    format!("map {{ {value} : 1 }}"),
                    format!("map {{ 1 : [{value}] }}"),
                ] {
                    let e = run(&con, &nested, mode).expect_err(&nested);
                    assert_eq!(e.kind(), ErrorKind::InvalidData, "{nested}: {e}");
                    assert!(e.message().contains("column \"c\""), "{e}");
                }
                let hidden = format!("CASE WHEN random() > 2 THEN {{'a': {value}}} END");
                assert!(run(&con, &hidden, mode).is_ok(), "{hidden}");
            }
        }
    }
}

/// DuckDB's own sample of every type, so that a value that nobody thought of is tried too.
#[test]
fn duckdbs_sample_of_all_types_is_decided_on() {
    let con = connect();
    let sql = "SELECT column_name, column_type FROM (DESCRIBE SELECT * FROM test_all_types())";
    let mut statement = con.prepare(sql).unwrap();
    let columns = statement.query_map([], |row| Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?))).unwrap();
    let mut decided = 0;
    for (name, text) in columns.map(::std::result::Result::unwrap) {
        let ty = DuckType::parse(&text).unwrap();
        assert!(!matches!(ty, DuckType::Other(_)), "{text}");
        let Ok(decision) = decide(&name, &ty, TimestampMode::Ntz) else { continue };
        decided += 1;
        let sql = format!("SELECT {} AS c FROM test_all_types()", decision.expr);
        match query(&con, &sql) {
            Ok(batches) => {
                let schema = Arc::new(Schema::new(vec![Field::new("c", decision.arrow, true)]));
                batches.into_iter().for_each(|b| drop(conform(b, &schema).unwrap()));
            }
            Err(e) => assert!(e.contains(LOSS) && e.contains(&name), "{sql}: {e}"),
        }
    }
    assert!(decided > 45, "{decided}");
}
