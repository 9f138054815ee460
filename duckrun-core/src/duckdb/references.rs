//! Which tables a SQL text names, by DuckDB's own parser (`json_serialize_sql`), views of the session included.

use std::collections::BTreeSet;

use duckdb::Connection;
use serde_json::Value as Json;

use super::failure::failure;
use crate::{Error, ErrorKind, Result, TableReference};

/// The syntax tree of exactly one query, as JSON. Nothing is executed or bound.
fn parse(conn: &Connection, sql: &str) -> Result<Json> {
    let text: String = conn
        .query_row("SELECT json_serialize_sql(?)", [sql], |row| row.get(0))
        .map_err(|e| failure(e, "parse the query"))?;
    serde_json::from_str(&text).map_err(|e| Error::internal("DuckDB's syntax tree is not JSON").with_source(e))
}

/// Fails unless the text is exactly one SELECT (or VALUES, FROM, WITH, TABLE, DESCRIBE).
pub(super) fn single_query(conn: &Connection, sql: &str) -> Result<Json> {
    let tree = parse(conn, sql)?;
    if tree["error"].as_bool() == Some(true) {
        let message = tree["error_message"].as_str().unwrap_or("unknown");
        return Err(Error::new(
            ErrorKind::Query,
            if tree["error_type"] == "not implemented" {
                "the SQL of a model must be one SELECT; put other statements before or after it \
                 (a PIVOT statement is written as SELECT * FROM (PIVOT ...))"
                    .to_owned()
            } else {
                format!("the SQL does not parse: {message}")
            },
        ));
    }
    match tree["statements"].as_array().map_or(0, Vec::len) {
        1 => Ok(tree),
        n => Err(Error::new(ErrorKind::Query, format!("the SQL of a model must be one SELECT, not {n} statements"))),
    }
}

/// Views that a query may name, by lower-case name, with a text that has every name of their definition.
pub(super) type Views = Vec<(String, String)>;

/// All table references of a query; those of views that it names are followed by their definition. Which views there are is asked
/// of DuckDB unless it is `known`.
pub(super) fn references(conn: &Connection, sql: &str, known: Option<Views>) -> Result<Vec<TableReference>> {
    let mut found = BTreeSet::new();
    collect(&single_query(conn, sql)?, &mut Vec::new(), &mut found);
    if found.is_empty() {
        return Ok(Vec::new());
    }
    // A view's own tables matter too: a query over a view of the target reads the target. The stored definition is
    // `CREATE VIEW name AS SELECT ...`; DuckDB serialises SELECT alone, so the words of the definition decide: finding one too
    // many only makes an append fenced that need not have been.
    let views = known.map_or_else(|| views(conn), Ok)?;
    let mut open: Vec<String> = found.iter().map(|r| r.table.to_lowercase()).collect();
    let mut seen = BTreeSet::new();
    while let Some(name) = open.pop() {
        if !seen.insert(name.clone()) {
            continue;
        }
        for (_, definition) in views.iter().filter(|(view, _)| *view == name) {
            for word in words(definition) {
                found.insert(TableReference { catalog: None, schema: None, table: word.clone() });
                open.push(word.to_lowercase());
            }
        }
    }
    Ok(found.into_iter().collect())
}

/// Views that somebody else than us defined. Takes DuckDB 20 ms: it makes all of its own first.
fn views(conn: &Connection) -> Result<Views> {
    let sql = "SELECT lower(view_name), sql FROM duckdb_views() \
               WHERE NOT internal AND coalesce(comment, '') <> 'duckrun:relation'";
    let mut statement = conn.prepare(sql).map_err(|e| failure(e, "list views"))?;
    let rows = statement
        .query_map([], |row| Ok((row.get(0)?, row.get::<_, Option<String>>(1)?.unwrap_or_default())))
        .map_err(|e| failure(e, "list views"))?;
    rows.collect::<duckdb::Result<_>>().map_err(|e| failure(e, "list views"))
}

/// The words of a statement outside string literals, comments kept: an over-approximation of the names in it.
pub(super) fn words(sql: &str) -> BTreeSet<String> {
    let mut words = BTreeSet::new();
    let mut rest = sql.chars().peekable();
    let mut word = String::new();
    while let Some(c) = rest.next() {
        if c.is_alphanumeric() || c == '_' || c == '$' {
            word.push(c);
            continue;
        }
        if !word.is_empty() {
            words.insert(std::mem::take(&mut word));
        }
        if c == '\'' || c == '"' {
            let mut quoted = String::new();
            while let Some(q) = rest.next() {
                if q == c && rest.next_if_eq(&c).is_none() {
                    break;
                }
                quoted.push(q);
            }
            if c == '"' {
                words.insert(quoted);
            }
        }
    }
    if !word.is_empty() {
        words.insert(word);
    }
    words
}

/// Walks a syntax tree. `scope` holds the names of common table expressions that hide tables at this point.
fn collect(tree: &Json, scope: &mut Vec<String>, found: &mut BTreeSet<TableReference>) {
    let map = match tree {
        Json::Object(map) => map,
        Json::Array(items) => return items.iter().for_each(|v| collect(v, scope, found)),
        _ => return,
    };
    let outer = scope.len();
    let node = map.get("type").and_then(Json::as_str);
    if node == Some("BASE_TABLE") {
        let part = |key: &str| map.get(key).and_then(Json::as_str).filter(|s| !s.is_empty()).map(str::to_owned);
        if let Some(table) = part("table_name") {
            let (catalog, schema) = (part("catalog_name"), part("schema_name"));
            let hidden = schema.is_none() && scope.iter().any(|cte| cte.eq_ignore_ascii_case(&table));
            if !hidden {
                found.insert(TableReference { catalog, schema, table });
            }
        }
    }
    // A recursive expression sees itself; any other sees only those before it.
    if let (Some("RECURSIVE_CTE_NODE"), Some(name)) = (node, map.get("cte_name").and_then(Json::as_str)) {
        scope.push(name.to_owned());
    }
    for cte in map.get("cte_map").and_then(|m| m["map"].as_array()).into_iter().flatten() {
        collect(&cte["value"], scope, found);
        scope.extend(cte["key"].as_str().map(str::to_owned));
    }
    map.iter().filter(|(key, _)| *key != "cte_map").for_each(|(_, v)| collect(v, scope, found));
    scope.truncate(outer);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(sql: &str) -> Vec<String> {
        let conn = Connection::open_in_memory().unwrap();
        conn.execute_batch("CREATE SCHEMA mart; CREATE TABLE mart.t (a INT); CREATE VIEW v AS SELECT * FROM mart.t")
            .unwrap();
        references(&conn, sql, None)
            .unwrap()
            .into_iter()
            .map(|r| r.schema.map_or(r.table.clone(), |s| format!("{s}.{}", r.table)))
            .collect()
    }

    #[test]
    fn names_are_found_wherever_a_table_can_stand() {
        assert_eq!(named("select * from a join b using (x)"), ["a", "b"]);
        assert_eq!(named("select 1 where 1 in (select x from \"My\".\"T\")"), ["My.T"]);
        assert_eq!(named("with c as (from d) select * from c"), ["d"]);
        assert_eq!(named("with c as (from c) select * from c"), ["c"]);
        assert_eq!(named("select * from (with c as (select 1) from c) join c using (x)"), ["c"]);
        assert_eq!(named("with recursive r as (select 1 i union all select i + 1 from r, e) from r"), ["e"]);
        assert_eq!(named("select 'from this' as \"this\""), Vec::<String>::new());
        assert!(named("from v").contains(&"t".to_owned()));
        assert_eq!(named("from x pivot (sum(a) for b in (1, 2))"), ["x"]);
    }

    #[test]
    fn views_that_are_known_are_followed_as_those_that_are_asked_for() {
        let conn = Connection::open_in_memory().unwrap();
        let known = vec![("v".to_owned(), "SELECT * FROM w".to_owned()), ("w".to_owned(), "FROM t".to_owned())];
        let found = references(&conn, "from V", Some(known)).unwrap();
        assert!(["V", "w", "t"].iter().all(|name| found.iter().any(|r| r.table == *name)), "{found:?}");
        let found = references(&conn, "from V", Some(Vec::new())).unwrap();
        assert_eq!(found.len(), 1);
    }

    #[test]
    fn only_one_query_passes() {
        let conn = Connection::open_in_memory().unwrap();
        for bad in
            ["select 1; select 2", "drop table x", "select", "", "create table x as select 1", "select 1; drop table x"]
        {
            assert_eq!(single_query(&conn, bad).unwrap_err().kind(), ErrorKind::Query, "{bad}");
        }
        for good in ["select 1;", "from range(3)", "values (1)", "with a as (select 1) from a -- end"] {
            single_query(&conn, good).unwrap();
        }
    }

    #[test]
    fn words_see_quoted_names_and_skip_literals() {
        let found = words(r#"create view v as select 'this' from "My ""T""" where a_1 = 2"#);
        assert!(found.contains("My \"T\"") && found.contains("a_1") && !found.contains("this"));
    }
}
