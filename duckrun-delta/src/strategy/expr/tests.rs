//! Expressions as a user may write them, and as an attacker may.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, TimeUnit};
use duckrun_core::{Bound, Comparison};
use proptest::prelude::*;

use super::*;

fn schema(columns: &[(&str, DataType)]) -> SchemaRef {
    Arc::new(Schema::new(columns.iter().map(|(n, t)| Field::new(*n, t.clone(), true)).collect::<Vec<_>>()))
}

fn columns() -> Columns {
    let inner = DataType::Struct(vec![Field::new("x", DataType::Int64, true)].into());
    let target = schema(&[
        ("id", DataType::Int64),
        ("Name", DataType::Utf8),
        ("s", inner),
        ("day", DataType::Date32),
        ("at", DataType::Timestamp(TimeUnit::Microsecond, None)),
        ("price", DataType::Decimal128(9, 2)),
        ("f", DataType::Float64),
        ("own", DataType::Int32),
        ("ключ", DataType::Int32),
        ("it's \"q\"", DataType::Utf8),
    ]);
    let source =
        schema(&[("id", DataType::Int64), ("Name", DataType::Utf8), ("op", DataType::Utf8), ("l", DataType::Utf8)]);
    Columns::new(target, source)
}

fn sql(text: &str, scope: Scope) -> String {
    columns().expr("the test", text, scope).map_or_else(|e| format!("error: {}", e.message()), |e| e.sql)
}

#[test]
fn names_are_qualified_and_nothing_else_changes() {
    for (text, scope, expected) in [
        ("id = 1", Scope::Match, r#"target."id" = 1"#),
        ("op = 'D'", Scope::Match, r#"source."op" = 'D'"#),
        ("TARGET.id <> dbt_internal_source.ID", Scope::Change, r#"target."id" <> source."id""#),
        ("DBT_INTERNAL_DEST.name is null", Scope::Target, r#"target."Name" is null"#),
        (r#""target"."Name" || '''it''' "#, Scope::Target, r#"target."Name" || '''it'''"#),
        (r#""it's ""q""" = 'a\'"#, Scope::Target, r#"target."it's ""q""" = 'a\'"#),
        ("ключ + own", Scope::Target, r#"target."ключ" + target."own""#),
        ("s.x > 1 and target.s.x < 3", Scope::Target, r#"target."s".x > 1 and target."s".x < 3"#),
        ("(s).x = s['x']", Scope::Target, r#"(target."s").x = target."s"['x']"#),
        ("target.s['x'] = 1", Scope::Target, r#"target."s"['x'] = 1"#),
        ("coalesce(own = 1, false)", Scope::Target, r#"coalesce(target."own" = 1, false)"#),
        ("name.upper()", Scope::Source, r#"source."Name".upper()"#),
        (
            "date_trunc('day', at) = day::timestamp",
            Scope::Target,
            r#"date_trunc('day', target."at") = target."day"::timestamp"#,
        ),
        (
            "id in (1, 2) and name not like 'x%'",
            Scope::Target,
            r#"target."id" in (1, 2) and target."Name" not like 'x%'"#,
        ),
        ("list_any_value([id, 1])", Scope::Source, r#"list_any_value([source."id", 1])"#),
        ("list_filter([1], lambda id: id > own)", Scope::Target, r#"list_filter([1], lambda id: id > target."own")"#),
        ("op -> '$.a' = 'x'", Scope::Source, r#"source."op" -> '$.a' = 'x'"#),
        ("{'id': id}", Scope::Source, r#"{'id': source."id"}"#),
        ("id -- the key\n = /* what? */ 1", Scope::Target, "target.\"id\"   =   1"),
        (
            "case when id = 1 then 'x' else name end",
            Scope::Source,
            r#"case when source."id" = 1 then 'x' else source."Name" end"#,
        ),
        ("extract(year from day) = 2024", Scope::Target, r#"extract(year from target."day") = 2024"#),
        ("target.id = 1", Scope::Incoming, r#"source."id" = 1"#),
        ("id > 0 and `Name` is not null", Scope::Constraint, r#""id" > 0 and "Name" is not null"#),
        ("s.x > 0", Scope::Constraint, r#""s".x > 0"#),
    ] {
        assert_eq!(sql(text, scope), expected, "{text}");
    }
}

#[test]
fn duckdbs_own_forms_parse() {
    for text in [
        "a == 1 and b <> 2 and not c",
        "a % 2 = 0 and a // 2 > 1",
        "try_cast(a as int) is not null",
        "a is not distinct from b",
        "l[1:2] = [1, 2]",
        "struct_pack(x := a) = {'x': 1}",
        "at >= now() - interval '1 day' and at < current_date - 7",
        "at > current_timestamp - interval 3 days",
        "regexp_matches(a, '^x.*$')",
        "a ilike '%x' or a similar to 'x+'",
        "hash(a) % 10 = 3",
        "(a, b) = (1, 2)",
        "a between 1 and 2 and b in (1, 2, 3)",
        "map {'k': 1}['k'] = 1",
        "list_transform(l, lambda x: x + 1) = l",
        "j ->> '$.a' = 'b'",
        "at at time zone 'UTC' > date '2024-01-01'",
        "coalesce(a, 0)::decimal(9, 2) > 1e3",
        "case a when 1 then true else false end",
        "left(a, 3) = 'abc' and position('x' in a) > 0",
        "a is true",
    ] {
        assert_eq!(problem("x", text), None);
    }
}

#[test]
fn the_columns_that_occur_are_listed() {
    let e = columns().expr("x", "target.own = op and id = 2", Scope::Match).unwrap();
    assert_eq!(e.target.iter().collect::<Vec<_>>(), ["id", "own"]);
    assert_eq!(e.source.iter().collect::<Vec<_>>(), ["op"]);
}

#[test]
fn what_is_no_single_expression_is_refused() {
    for bad in [
        "",
        "1; drop table x",
        "1) or (1 = 1",
        "id = 1 -- ' \n ; select 1",
        "(select 1) = 1",
        "id in (select id from other)",
        "exists (select 1)",
        "id = ?",
        "id = $1",
        "count(*) > 0",
        "*",
        "target.*",
        "row_number() over () = 1",
        "id = 1, 2",
        "id = 1 from x",
        "'unterminated",
        "/* unterminated",
        "E'\\' or id = 1 --'",
        "id = 1 \0",
        "x as y",
    ] {
        let result = sql(bad, Scope::Target);
        assert!(result.starts_with("error"), "{bad:?} became {result:?}");
    }
    for bad in ["", "1; drop table x", "(select 1) = 1", "id = $1", "a = 1 b"] {
        assert!(problem("x", bad).is_some(), "{bad:?}");
    }
    assert!(problem("x", "anything.goes > 1").is_none());
    let deep = format!("{}1", "1 + ".repeat(50_000));
    assert!(problem("x", &deep).unwrap().contains("operators"));
    assert!(problem("x", &"(".repeat(1_000)).is_some());
}

#[test]
fn names_that_cannot_be_told_are_refused_with_the_way_out() {
    let message = |text, scope| columns().expr("it is", text, scope).unwrap_err().message().to_owned();
    assert!(message("id = 1", Scope::Change).contains("write target.id or source.id"));
    assert!(message("nope = 1", Scope::Target).contains("id, Name, s, day"));
    assert!(message("source.op = 'x'", Scope::Target).contains("only rows of the table"));
    assert!(message("target.id = 1", Scope::Source).contains("only incoming rows"));
    assert!(message("other.id = 1", Scope::Match).contains("\"other\""));
    assert!(message("main.upper('x') = 'X'", Scope::Target).contains("\"main\""));
    let twins = Columns::of_table(&schema(&[("a", DataType::Int32), ("A", DataType::Int32), ("B", DataType::Int32)]));
    assert_eq!(twins.expr("x", "A + b", Scope::Target).unwrap().sql, r#"target."A" + target."B""#);
    let twins = Columns::of_table(&schema(&[("aB", DataType::Int32), ("AB", DataType::Int32)]));
    assert!(twins.expr("x", "ab", Scope::Target).unwrap_err().message().contains("could be"));
}

#[test]
fn aliases_of_the_caller_count() {
    let mut c = columns();
    c.aliases = Aliases { target: Some("t".into()), source: Some("s".into()) };
    let e = c.expr("x", "s.key = 1", Scope::Source).unwrap_err();
    assert!(e.message().contains("\"key\"; source has id"), "{e}");
    assert_eq!(c.expr("x", "T.id = S.id", Scope::Match).unwrap().sql, r#"target."id" = source."id""#);
    // A struct of the table that has an alias's name is found by its own qualified name.
    assert_eq!(c.expr("x", "t.s.x = 1", Scope::Target).unwrap().sql, r#"target."s".x = 1"#);
}

#[test]
fn constants_bound_columns_only_where_they_mean_one_value() {
    use Comparison::{Equal, Greater, GreaterOrEqual, Less, LessOrEqual};
    let bounds = |text: &str| columns().expr("x", text, Scope::Match).unwrap().bounds;
    assert_eq!(
        bounds("(id >= 3 and 10 > target.id) and own = -1 and op = 'x'"),
        [Bound::new("id", GreaterOrEqual, "3"), Bound::new("id", Less, "10"), Bound::new("own", Equal, "-1")]
    );
    assert_eq!(
        bounds("day between '2024-01-01' and DATE '2024-01-31' and at > TIMESTAMP '2024-01-01 10:00:00.5'"),
        [
            Bound::new("day", GreaterOrEqual, "DATE '2024-01-01'"),
            Bound::new("day", LessOrEqual, "DATE '2024-01-31'"),
            Bound::new("at", Greater, "TIMESTAMP '2024-01-01 10:00:00.5'"),
        ]
    );
    assert_eq!(bounds("name = 'it''s' and price <= 1.25").len(), 2);
    assert_eq!(bounds("'2024-01-01'::date <= day"), [Bound::new("day", GreaterOrEqual, "DATE '2024-01-01'")]);
    for none in [
        "id = 1 or own = 2",
        "not (id = 1)",
        "id > 2.5",
        "id = '1'",
        "own = 99999999999",
        "name = 1",
        "name = DATE '2024-01-01'",
        "f > 1",
        "price < 1.234",
        "price < 12345678.5",
        "day < TIMESTAMP '2024-01-01 12:00:00'",
        "day > 'yesterday'",
        "at > '2024-01-01 10:00:00+02'",
        "at > '2024-01-01 10:00'::date",
        "id = source.id",
        "s.x = 1",
        "id + 1 = 2",
        "id not between 1 and 2",
        "id <> 3",
        "name = E'x'",
    ] {
        assert_eq!(columns().expr("x", none, Scope::Match).map(|e| e.bounds).unwrap_or_default(), [], "{none}");
    }
}

#[test]
fn orders_are_lists_over_the_source() {
    let order = |text: &str| columns().order("dedup_by", text).map_err(|e| e.message().to_owned());
    assert_eq!(order("op desc nulls last, ID").unwrap(), r#"source."op" desc nulls last, source."id""#);
    for bad in ["", "own", "id; drop table x", "id) x, (id", "(select 1)"] {
        assert!(order(bad).is_err(), "{bad}");
    }
    assert!(order_problem("x", "whatever desc").is_none() && order_problem("x", "a b").is_some());
}

proptest! {
    #[test]
    fn any_column_name_is_found_and_cannot_break_out(name in "[^\\x00]{1,20}") {
        let table = schema(&[(name.as_str(), DataType::Int64)]);
        let quoted = duckrun_core::quote_ident(&name);
        let e = Columns::of_table(&table).expr("x", &format!("{quoted} > 1"), Scope::Target).unwrap();
        prop_assert_eq!(e.sql, format!("target.{quoted} > 1"));
        prop_assert!(e.target.contains(&name));
    }

    #[test]
    fn any_literal_stays_as_it_is(value in "[^\\x00]{0,20}") {
        let literal = duckrun_core::quote_literal(&value);
        let e = columns().expr("x", &format!("name = {literal}"), Scope::Target).unwrap();
        prop_assert_eq!(&e.sql, &format!("target.\"Name\" = {literal}"));
        prop_assert_eq!(&e.bounds[0].constant, &literal);
    }

    #[test]
    fn any_text_is_an_expression_or_an_error(text in "\\PC{0,40}") {
        for scope in [Scope::Match, Scope::Change, Scope::Source, Scope::Constraint] {
            let _ = columns().expr("x", &text, scope);
        }
        let _ = columns().order("x", &text);
    }
}
