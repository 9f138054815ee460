//! Any nesting of any types: the SQL of a decision against DuckDB's own cast of the whole value, which has no checks but
//! must agree wherever nothing is lost.

use proptest::prelude::*;

use super::bridge::texts;
use super::parser::any_type;
use super::table::{connect, described};
use crate::types::{DuckType, cast_expr, decide, sql_type, widens};
use crate::{TimestampMode, quote_ident, quote_literal};

/// A value of the type without any NULL in it.
fn value(ty: &DuckType) -> String {
    let inner = match ty {
        DuckType::List(element) => format!("[{0}, {0}]", value(element)),
        DuckType::Array(element, n) => format!("[{}]", vec![value(element); usize::try_from(*n).unwrap()].join(", ")),
        DuckType::Map(k, v) => format!("map([{}], [{}])", value(k), value(v)),
        DuckType::Struct(fields) => {
            let fields: Vec<_> =
                fields.iter().map(|(name, ty)| format!("{} := {}", quote_ident(name), value(ty))).collect();
            format!("struct_pack({})", fields.join(", "))
        }
        DuckType::Enum(labels) => quote_literal(&labels[0]),
        DuckType::Boolean => "true".into(),
        DuckType::Uuid => "uuid()".into(),
        DuckType::Varchar | DuckType::Json | DuckType::Blob => "'17'".into(),
        DuckType::Date
        | DuckType::Timestamp
        | DuckType::TimestampS
        | DuckType::TimestampMs
        | DuckType::TimestampNs
        | DuckType::TimestampTz
        | DuckType::TimestampTzNs => "'2020-02-29'".into(),
        _ => "0".into(),
    };
    format!("CAST({inner} AS {ty})")
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn every_nesting_is_cast_as_duckdb_would(ty in any_type(), utc in any::<bool>()) {
        let mode = if utc { TimestampMode::Utc } else { TimestampMode::Ntz };
        let Ok(decision) = decide("c", &ty, mode) else { return Ok(()) };
        let con = connect();
        let target = sql_type(&decision.arrow).unwrap();
        for value in [value(&ty), format!("CAST(NULL AS {ty})")] {
            let sql = format!(
                "SELECT typeof({expr}), CAST({expr} IS NOT DISTINCT FROM CAST(c AS {target}) AS VARCHAR), \
                        CAST(({expr} IS NULL) = (c IS NULL) AS VARCHAR) FROM (SELECT {value} AS c)",
                expr = decision.expr,
            );
            let got = texts(&con, &sql).map_err(|e| TestCaseError::fail(format!("{sql}: {e}")))?;
            prop_assert_eq!(DuckType::parse(got[0].as_deref().unwrap()).unwrap().to_string(), target.clone());
            prop_assert_eq!((got[1].as_deref(), got[2].as_deref()), (Some("true"), Some("true")), "{}", sql);
        }
        // What was decided fits the table that it makes, as it comes and as it is read back.
        prop_assert!(widens(&decision.arrow, &decision.arrow));
        prop_assert_eq!(cast_expr("c", &ty, &decision.arrow, mode).unwrap(), decision.expr);
        let back = described(&con, &format!("CAST(NULL AS {target})"));
        prop_assert_eq!(cast_expr("c", &back, &decision.arrow, mode).unwrap(), "\"c\"");
    }
}
