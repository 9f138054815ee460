//! The expected table: a row per DuckDB type, with values at its limits.

/// One DuckDB type, what it becomes, and values to prove it with.
pub(super) struct Row {
    /// The type's name, as `duckdb_types()` lists it.
    pub name: &'static str,
    /// The type, as SQL.
    pub duck: &'static str,
    /// The DuckDB type that stands for the Delta type; `None` where the type is refused.
    pub delta: Option<&'static str>,
    /// Literals that must arrive exactly.
    pub exact: &'static [&'static str],
    /// Literals that must be refused while the query runs.
    pub lost: &'static [&'static str],
}

const fn row(name: &'static str, delta: &'static str, exact: &'static [&'static str]) -> Row {
    Row { name, duck: name, delta: Some(delta), exact, lost: &[] }
}

const fn refused(name: &'static str, exact: &'static [&'static str]) -> Row {
    Row { name, duck: name, delta: None, exact, lost: &[] }
}

/// A type whose text differs from its name, or that has values which are refused.
const fn full(
    name: &'static str,
    duck: &'static str,
    delta: Option<&'static str>,
    exact: &'static [&'static str],
    lost: &'static [&'static str],
) -> Row {
    Row { name, duck, delta, exact, lost }
}

const MICROS: &[&str] = &[
    "290309-12-22 (BC) 00:00:00",
    "0001-01-01 00:00:00",
    "1969-12-31 23:59:59.999999",
    "1970-01-01",
    "9999-12-31 23:59:59.999999",
    "294247-01-10 04:00:54.775806",
];

/// Every type of DuckDB 2.0.
pub(super) const ROWS: &[Row] = &[
    row("BOOLEAN", "BOOLEAN", &["true", "false"]),
    row("TINYINT", "TINYINT", &["-128", "127", "0"]),
    row("SMALLINT", "SMALLINT", &["-32768", "32767"]),
    row("INTEGER", "INTEGER", &["-2147483648", "2147483647"]),
    row("BIGINT", "BIGINT", &["-9223372036854775808", "9223372036854775807"]),
    row("UTINYINT", "SMALLINT", &["0", "255"]),
    row("USMALLINT", "INTEGER", &["0", "65535"]),
    row("UINTEGER", "BIGINT", &["0", "4294967295"]),
    row("UBIGINT", "DECIMAL(20,0)", &["0", "18446744073709551615"]),
    full(
        "HUGEINT",
        "HUGEINT",
        Some("DECIMAL(38,0)"),
        &["0", "-99999999999999999999999999999999999999", "99999999999999999999999999999999999999"],
        &[
            "100000000000000000000000000000000000000",
            "-100000000000000000000000000000000000000",
            "170141183460469231731687303715884105727",
            "-170141183460469231731687303715884105728",
        ],
    ),
    full(
        "UHUGEINT",
        "UHUGEINT",
        Some("DECIMAL(38,0)"),
        &["0", "99999999999999999999999999999999999999"],
        &["100000000000000000000000000000000000000", "340282366920938463463374607431768211455"],
    ),
    refused("BIGNUM", &["1", "-340282366920938463463374607431768211456000"]),
    row("FLOAT", "FLOAT", &["0.1", "-0.0", "3.4028235e38", "1e-45", "nan", "inf", "-inf"]),
    row("DOUBLE", "DOUBLE", &["0.1", "-0.0", "1.7976931348623157e308", "5e-324", "nan", "inf", "-inf"]),
    full("DECIMAL", "DECIMAL(4,1)", Some("DECIMAL(4,1)"), &["-999.9", "999.9", "0"], &[]),
    full("DECIMAL", "DECIMAL(18,6)", Some("DECIMAL(18,6)"), &["-999999999999.999999", "0.000001"], &[]),
    full(
        "DECIMAL",
        "DECIMAL(38,38)",
        Some("DECIMAL(38,38)"),
        &["0.99999999999999999999999999999999999999", "-0.00000000000000000000000000000000000001"],
        &[],
    ),
    full("DECIMAL", "DECIMAL(38,0)", Some("DECIMAL(38,0)"), &["99999999999999999999999999999999999999"], &[]),
    row("VARCHAR", "VARCHAR", &["", "🦆\\0 a\"b", "it''s"]),
    row("BLOB", "BLOB", &["", "\\x00\\xFF", "a"]),
    refused("BIT", &["0101", "1"]),
    row("UUID", "VARCHAR", &["00000000-0000-0000-0000-000000000000", "ffffffff-ffff-ffff-ffff-ffffffffffff"]),
    row("JSON", "VARCHAR", &["null", "{\"a\": [1, 2.50]}", "\"it\"", "17"]),
    full("ENUM", "ENUM('a', 'it''s', '', 'ü')", Some("VARCHAR"), &["a", "it''s", "", "ü"], &[]),
    row("DATE", "DATE", &["5877642-06-25 (BC)", "0001-01-01", "1969-12-31", "1970-01-01", "5881580-07-10"]),
    refused("TIME", &["00:00:00", "24:00:00", "12:34:56.789012"]),
    refused("TIME_NS", &["00:00:00", "12:34:56.789012345"]),
    refused("TIME WITH TIME ZONE", &["00:00:00+15:59", "12:34:56.789012-02"]),
    row("TIMESTAMP", "TIMESTAMP", MICROS),
    row("TIMESTAMP_S", "TIMESTAMP", &["290309-12-22 (BC) 00:00:00", "1969-12-31 23:59:59", "294247-01-10 04:00:54"]),
    row(
        "TIMESTAMP_MS",
        "TIMESTAMP",
        &["290309-12-22 (BC) 00:00:00", "1969-12-31 23:59:59.999", "294247-01-10 04:00:54.775"],
    ),
    full(
        "TIMESTAMP_NS",
        "TIMESTAMP_NS",
        Some("TIMESTAMP"),
        &["1677-09-22 00:00:00", "1969-12-31 23:59:59.999999", "2262-04-11 23:47:16.854775"],
        &["1677-09-22 00:00:00.000000001", "1969-12-31 23:59:59.999999999", "2262-04-11 23:47:16.854775806"],
    ),
    row("TIMESTAMP WITH TIME ZONE", "TIMESTAMP WITH TIME ZONE", MICROS),
    full(
        "TIMESTAMPTZ_NS",
        "TIMESTAMPTZ_NS",
        Some("TIMESTAMP WITH TIME ZONE"),
        &["1677-09-22 00:00:00", "1969-12-31 23:59:59.999999", "2262-04-11 23:47:16.854775"],
        &["1969-12-31 23:59:59.999999999", "2262-04-11 23:47:16.854775806"],
    ),
    refused("INTERVAL", &["83 years 3 months 999 days 00:16:39.999999"]),
    refused("VARIANT", &["a"]),
    refused("GEOMETRY", &["POINT (1 2)"]),
    refused("TYPE", &[]),
    full("NULL", "\"NULL\"", None, &[], &[]),
    full("STRUCT", "STRUCT", None, &[], &[]),
    full("STRUCT", "STRUCT(a INTEGER, b TIME)", None, &["{a: 1, b: 10:00:00}"], &[]),
    full(
        "STRUCT",
        "STRUCT(a INTEGER, \"b c\" UTINYINT)",
        Some("STRUCT(\"a\" INTEGER, \"b c\" SMALLINT)"),
        &["{a: 2147483647, b c: 255}", "{a: NULL, b c: NULL}"],
        &[],
    ),
    full("LIST", "UBIGINT[]", Some("DECIMAL(20,0)[]"), &["[18446744073709551615, NULL]", "[]"], &[]),
    full("ARRAY", "INTEGER[2]", Some("INTEGER[]"), &["[2147483647, NULL]"], &[]),
    full(
        "MAP",
        "MAP(UINTEGER, HUGEINT)",
        Some("MAP(BIGINT, DECIMAL(38,0))"),
        &["{4294967295=NULL, 1=-7}", "{}"],
        &["{1=170141183460469231731687303715884105727}"],
    ),
    full("UNION", "UNION(n INTEGER, s VARCHAR)", None, &["1", "a"], &[]),
    full("TUPLE", "TUPLE(INTEGER, TIME)", None, &["(1, 10:00:00)"], &[]),
];
