//! The tables that are read: the quickstart's, every type, every kind of partition value, columns that came later.

use std::fs;
use std::process::Command;

use duckrun::{Append, Model, Overwrite, SafeAppend, SchemaChange};

use super::skipped;
use crate::support::Lake;

/// A table to compare, with predicates that mean the same in every SQL.
pub(super) struct Table {
    pub(super) name: &'static str,
    pub(super) versions: u64,
    pub(super) partition_by: &'static [&'static str],
    pub(super) comment: Option<&'static str>,
    /// The types of its columns, where the test is about these.
    pub(super) types: Option<&'static [&'static str]>,
    pub(super) predicates: &'static [&'static str],
}

async fn commits(model: Model) {
    model.run().await.unwrap().committed().map(drop).unwrap();
}

/// What the quickstart leaves: real data in four versions, one of them a competitor's, and a refused run between. Empty where
/// the example is not built: `cargo test --workspace` builds it.
pub(super) fn quickstart(lake: &Lake) -> Vec<Table> {
    let tests = std::env::current_exe().unwrap();
    let example = format!("quickstart{}", std::env::consts::EXE_SUFFIX);
    let example = tests.ancestors().nth(2).unwrap().join("examples").join(example);
    if !example.exists() {
        skipped("the tables of the quickstart", "the example is not built; cargo test --workspace builds it");
        return Vec::new();
    }
    let out = lake.root().join("quickstart");
    let run = Command::new(example).arg(&out).output().unwrap();
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
    // A Delta table names its files relatively, so it can be moved below our root.
    fs::rename(out.join("warehouse/mart"), lake.root().join("mart")).unwrap();
    let table = |name, versions, comment, predicates| Table {
        name,
        versions,
        partition_by: &[],
        comment,
        types: None,
        predicates,
    };
    let flights: &[&str] =
        &["dep_delay > 60", "dep_time is null", "carrier = 'UA'", "day > 25", "filename = 'flights-2013-01-15.csv'"];
    vec![
        table("mart.airlines", 1, None, &["carrier < 'B6'"]),
        table("mart.flights", 4, Some("Flights out of New York City, one row per flight"), flights),
    ]
}

/// Every type that Delta has, at its limits, with NULLs, in several versions.
pub(super) async fn every_type(lake: &Lake) -> Table {
    let low = "select 0::bigint as id, true as bool, (-128)::tinyint as i1, (-32768)::smallint as i2, \
        (-2147483648)::integer as i4, (-9223372036854775807 - 1)::bigint as i8, '-inf'::float as f4, (-0.0)::double as f8, \
        (-99999.9999)::decimal(9,4) as d9, (-9999999999999999.99)::decimal(18,2) as d18, \
        '-99999999999999999999999999999999999999'::decimal(38,0) as d38, '' as text, ''::blob as bytes, \
        date '0001-01-01' as day, timestamptz '0001-01-01 00:00:00+00' as ts, timestamp '0001-01-01 00:00:00' as ntz, \
        {'a': 1::integer, 'b': 'x', 'c': {'d': date '1969-12-31'}} as st, [1, null, 3]::integer[] as list, \
        map {'k': 1.5::decimal(9,4), 'l': null} as pairs, [{'a': ['x', null]}, null] as deep, \
        [map {1::bigint: timestamp '1969-12-31 23:59:59.999999'}] as maps";
    let high = "select 1, false, 127::tinyint, 32767::smallint, 2147483647, 9223372036854775807, 'nan'::float, 1.7976931348623157e308, \
        99999.9999, 9999999999999999.99, '99999999999999999999999999999999999999'::decimal(38,0), \
        '\u{10ffff} \"quoted\" \\ line\nbreak 日本', '\\x00\\xFF'::blob, date '9999-12-31', \
        timestamptz '9999-12-31 23:59:59.999999+00', timestamp '9999-12-31 23:59:59.999999', \
        {'a': null, 'b': null, 'c': null}, [], map {}, [], [null]";
    let nulls = format!("select 2, {}", ["null"; 20].join(", "));
    let first = format!("{low} union all {high} union all {nulls}");
    let second = format!("select * replace (id + 10 as id) from ({first})");
    let model = |sql: &str| lake.session.model("mart.types").sql(sql);
    commits(model(&first).strategy(Overwrite::default())).await;
    commits(model(&second).strategy(Append::default())).await;
    commits(model("select * replace (id + 100 as id) from this").strategy(SafeAppend)).await;
    commits(model("select * from this where id % 2 = 0").strategy(Overwrite::default())).await;
    Table {
        name: "mart.types",
        versions: 4,
        partition_by: &[],
        comment: None,
        types: Some(&[
            "long",
            "boolean",
            "byte",
            "short",
            "integer",
            "long",
            "float",
            "double",
            "decimal(9,4)",
            "decimal(18,2)",
            "decimal(38,0)",
            "string",
            "binary",
            "date",
            "timestamp",
            "timestamp_ntz",
            "struct<a:integer,b:string,c:struct<d:date>>",
            "array<integer>",
            "map<string,decimal(9,4)>",
            "array<struct<a:array<string>>>",
            "array<map<long,timestamp_ntz>>",
        ]),
        predicates: &[
            "id >= 10",
            "bool",
            "i1 = 127",
            "i2 < 0",
            "i4 > 0",
            "i8 = 9223372036854775807",
            "f8 >= 1e308",
            "d9 = cast('-99999.9999' as decimal(9,4))",
            "d18 > cast('9999999999999999.98' as decimal(18,2))",
            "d38 > 0",
            "text = ''",
            "text > 'zzz'",
            "day = date '9999-12-31'",
            "day is null",
            "ts > timestamptz '2000-01-01 00:00:00+00'",
            "ntz >= timestamp '2200-01-01 00:00:00'",
        ],
    }
}

/// Partition values of several types, NULLs and characters that need escaping among them. No negative decimals: delta-rs
/// reads them from the log well, but its Python package hands them to Arrow as `0.-500`.
pub(super) async fn partitions(lake: &Lake) -> Table {
    let sql = "select range::bigint as n, \
        case range % 5 when 0 then null when 1 then 'a b/c' when 2 then 'x=%25&é' when 3 then '日本:#?' else 'plain' end as place, \
        case range % 3 when 0 then null else date '1969-12-30' + (range % 3)::integer end as day, \
        case range % 4 when 0 then null else range % 2 = 0 end as flag, (range % 2)::smallint as half, \
        (range % 2 + 0.5)::decimal(10,3) as part, timestamp '2024-02-29 12:00:00.000001' + interval (range % 2) day as moment, \
        range % 7 as value from range(120)";
    let by = &["place", "day", "flag", "half", "part", "moment"];
    let model = |sql: &str| lake.session.model("mart.parts").sql(sql);
    commits(model(sql).partition_by(*by).strategy(Overwrite::default())).await;
    commits(model("select * replace (n + 1000 as n) from this where half = 1").strategy(SafeAppend)).await;
    Table {
        name: "mart.parts",
        versions: 2,
        partition_by: by,
        comment: None,
        types: None,
        predicates: &[
            "place = 'x=%25&é'",
            "place is null",
            "day = date '1969-12-31'",
            "flag",
            "part = cast('1.5' as decimal(10,3))",
            "n >= 1000",
            "half = 0 and value = 3",
        ],
    }
}

/// A table that gains columns: old files lack them.
pub(super) async fn evolved(lake: &Lake) -> Table {
    let model =
        |sql: &str| lake.session.model("mart.evolved").sql(sql).on_schema_change(SchemaChange::AppendNewColumns);
    commits(model("select range as n, 'old' as s from range(10)").strategy(Append::default())).await;
    commits(
        model("select range as n, 'new' as s, range / 4 as quarter, [range] as list from range(10, 20)")
            .strategy(Append::default()),
    )
    .await;
    commits(model("select range as n from range(20, 25)").strategy(Append::default())).await;
    Table {
        name: "mart.evolved",
        versions: 3,
        partition_by: &[],
        comment: None,
        types: None,
        predicates: &["n > 8", "s is null", "s = 'old'"],
    }
}
