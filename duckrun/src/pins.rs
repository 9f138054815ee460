//! Which Delta tables a SQL text reads, and their pinned snapshots as relations.

use std::collections::BTreeMap;

use duckrun_core::{At, EngineSession, Relation, RelationName, Result, Snapshot, TableName, TableReference};

/// The tables that references may mean: `schema.table`, or a bare name in the default schema. What is no table is ignored by
/// the caller, because the name may as well be one of the session's own relations.
pub(crate) fn resolve(
    references: &[TableReference],
    default_schema: Option<&str>,
    requested: &[(TableName, At)],
) -> Vec<(TableName, RelationName, At)> {
    let mut found = BTreeMap::new();
    for reference in references.iter().filter(|r| r.catalog.is_none()) {
        let (schema, relation) = match (&reference.schema, default_schema) {
            (Some(schema), _) => (schema.as_str(), None),
            (None, Some(default)) => (default, RelationName::bare(&reference.table).ok()),
            (None, None) => continue,
        };
        // A name that cannot be a table's is somebody else's business.
        let Ok(name) = TableName::new(schema, &reference.table) else { continue };
        let relation = relation.unwrap_or_else(|| RelationName::of_table(&name));
        let at = requested.iter().find(|(t, _)| *t == name).map_or(At::Latest, |(_, at)| *at);
        found.insert((name, relation), at);
    }
    found.into_iter().map(|((name, relation), at)| (name, relation, at)).collect()
}

/// Registers a snapshot under a name.
pub(crate) async fn register(
    engine: &dyn EngineSession,
    relation: &RelationName,
    snapshot: &dyn Snapshot,
) -> Result<()> {
    let files = snapshot.files().await?;
    tracing::debug!(relation = %relation, version = snapshot.version(), files = files.files.len(), "pinned");
    engine.register(relation, Relation::Files(files)).await
}

/// `schema.table` pairs and words in statements that are not queries (hooks): an over-approximation of what they read.
pub(crate) fn mentioned(sql: &str) -> Vec<TableReference> {
    let mut parts: Vec<(String, bool)> = Vec::new();
    let mut chars = sql.chars().peekable();
    // Each entry is a word and whether a dot stands before it.
    let mut after_dot = false;
    while let Some(c) = chars.next() {
        if c == '"' || c == '\'' {
            let mut quoted = String::new();
            while let Some(q) = chars.next() {
                if q == c && chars.next_if_eq(&c).is_none() {
                    break;
                }
                quoted.push(q);
            }
            if c == '"' {
                parts.push((quoted, after_dot));
            }
            after_dot = false;
        } else if c.is_alphanumeric() || c == '_' {
            let mut word = c.to_string();
            while let Some(next) = chars.next_if(|n| n.is_alphanumeric() || *n == '_') {
                word.push(next);
            }
            parts.push((word, after_dot));
            after_dot = false;
        } else if c == '.' {
            after_dot = true;
        } else if !c.is_whitespace() {
            after_dot = false;
        }
    }
    let mut found = Vec::new();
    for (i, (word, dotted)) in parts.iter().enumerate() {
        let schema = if *dotted && i > 0 { Some(parts[i - 1].0.clone()) } else { None };
        found.push(TableReference { catalog: None, schema, table: word.clone() });
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_resolve_to_tables() {
        let reference = |schema: Option<&str>, table: &str| TableReference {
            catalog: None,
            schema: schema.map(str::to_owned),
            table: table.to_owned(),
        };
        let references = [reference(Some("mart"), "a"), reference(None, "b"), reference(Some(".."), "c")];
        let pins = resolve(&references, Some("mart"), &[]);
        let names: Vec<_> = pins.iter().map(|(t, r, _)| format!("{t} as {r}")).collect();
        assert_eq!(names, ["mart.a as mart.a", "mart.b as b"]);
    }

    #[test]
    fn hooks_are_searched_for_names() {
        let found = mentioned("create temp table x as select max(t) from mart.\"my flights\" where a = 'this'");
        assert!(found.iter().any(|r| r.schema.as_deref() == Some("mart") && r.table == "my flights"));
        assert!(!found.iter().any(|r| r.table == "this"));
    }
}
