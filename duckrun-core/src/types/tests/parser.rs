//! The parser: whatever `Display` or DuckDB writes is read back as the same type, and no text makes it panic.

use proptest::prelude::*;

use crate::types::DuckType;

fn leaf() -> impl Strategy<Value = DuckType> {
    use DuckType::*;
    let plain = vec![
        Boolean,
        TinyInt,
        SmallInt,
        Integer,
        BigInt,
        HugeInt,
        UTinyInt,
        USmallInt,
        UInteger,
        UBigInt,
        UHugeInt,
        BigNum,
        Float,
        Double,
        Varchar,
        Blob,
        Bit,
        Uuid,
        Json,
        Date,
        Time,
        TimeNs,
        TimeTz,
        Timestamp,
        TimestampS,
        TimestampMs,
        TimestampNs,
        TimestampTz,
        TimestampTzNs,
        Interval,
        Variant,
        Geometry,
    ];
    prop_oneof![
        4 => prop::sample::select(plain),
        1 => (1..=38_u8).prop_flat_map(|width| (Just(width), 0..=width)).prop_map(|(width, scale)| Decimal { width, scale }),
        1 => prop::collection::btree_set("[a-z', \"()\\[\\]é]{0,6}", 1..4).prop_map(|l| Enum(l.into_iter().collect())),
    ]
}

/// Field names of every kind; the number keeps them apart.
fn fields(inner: impl Strategy<Value = DuckType>) -> impl Strategy<Value = Vec<(String, DuckType)>> {
    prop::collection::vec(("[a-zA-Z \"'(),\\[\\]ü]{0,5}", inner), 1..4)
        .prop_map(|v| v.into_iter().enumerate().map(|(i, (name, ty))| (format!("{name}{i}"), ty)).collect())
}

/// Types of every kind, nested to any sensible depth.
pub(super) fn any_type() -> impl Strategy<Value = DuckType> {
    leaf().prop_recursive(4, 24, 4, |inner| {
        let boxed = inner.clone().prop_map(Box::new);
        prop_oneof![
            boxed.clone().prop_map(DuckType::List),
            (boxed.clone(), 1..5_u32).prop_map(|(ty, n)| DuckType::Array(ty, n)),
            (boxed.clone(), boxed).prop_map(|(k, v)| DuckType::Map(k, v)),
            fields(inner.clone()).prop_map(DuckType::Struct),
            fields(inner.clone()).prop_map(DuckType::Union),
            prop::collection::vec(inner, 1..4).prop_map(DuckType::Tuple),
        ]
    })
}

proptest! {
    #[test]
    fn what_display_writes_is_read_back(ty in any_type()) {
        prop_assert_eq!(DuckType::parse(&ty.to_string()).unwrap(), ty);
    }

    #[test]
    fn no_text_makes_the_parser_panic(text in ".{0,40}", punctuation in "[A-Z\\[\\]()'\", 0-9]{0,40}") {
        let _ = (DuckType::parse(&text), DuckType::parse(&punctuation));
    }
}

#[cfg(feature = "duckdb")]
proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn duckdb_reads_and_writes_the_same_type(ty in any_type()) {
        let con = ::duckdb::Connection::open_in_memory().unwrap();
        let sql = format!("DESCRIBE SELECT NULL::{ty} AS x");
        match con.query_row(&sql, [], |row| row.get::<_, String>(1)) {
            Ok(text) => prop_assert_eq!(DuckType::parse(&text).unwrap(), ty),
            Err(e) => return Err(TestCaseError::fail(format!("{sql}: {e}"))),
        }
    }
}

#[test]
fn every_form_of_a_name_is_read() {
    let s = |name: &str, ty| DuckType::Struct(vec![(name.to_owned(), ty)]);
    for (text, ty) in [
        ("\"NULL\"", DuckType::Null),
        ("\"NULL\"[]", DuckType::List(Box::new(DuckType::Null))),
        ("STRUCT(a TIMESTAMP WITH TIME ZONE)", s("a", DuckType::TimestampTz)),
        (
            "STRUCT(\"a\"\"b c\" TIMESTAMP WITH TIME ZONE[])",
            s("a\"b c", DuckType::List(Box::new(DuckType::TimestampTz))),
        ),
        ("STRUCT", DuckType::Struct(vec![])),
        ("ENUM('a', 'it''s', 'x,y)')", DuckType::Enum(vec!["a".into(), "it's".into(), "x,y)".into()])),
        ("GEOMETRY('OGC:CRS84')", DuckType::Geometry),
        (" decimal( 9 , 2 ) [ 3 ] ", DuckType::Array(Box::new(DuckType::Decimal { width: 9, scale: 2 }), 3)),
        ("numeric", DuckType::Decimal { width: 18, scale: 3 }),
        ("VARCHAR(10)", DuckType::Varchar),
        ("double precision", DuckType::Double),
        ("memory.main.mood", DuckType::Other("memory.main.mood".into())),
        ("\"my type\"[]", DuckType::List(Box::new(DuckType::Other("\"my type\"".into())))),
        ("QUATERNION(a (b), ')')", DuckType::Other("QUATERNION(a (b), ')')".into())),
    ] {
        assert_eq!(DuckType::parse(text).unwrap(), ty, "{text}");
    }
}

#[test]
fn what_is_no_type_is_refused() {
    for text in [
        "",
        "INTEGER[",
        "INTEGER]",
        "DECIMAL(39,0)",
        "DECIMAL(4,5)",
        "DECIMAL(0,0)",
        "STRUCT()",
        "STRUCT(a)",
        "ENUM('a",
        "MAP(INTEGER)",
        "INTEGER[x]",
        "INTEGER, INTEGER",
        "STRUCT(a INTEGER",
        "'a'",
        "INTEGER[99999999999]",
        "X(",
    ] {
        assert!(DuckType::parse(text).is_err(), "{text}");
    }
    for deep in
        ["MAP(INTEGER,".repeat(100_000), "STRUCT(a ".repeat(100_000), format!("INTEGER{}", "[]".repeat(100_000))]
    {
        assert!(DuckType::parse(&deep).is_err());
    }
}
