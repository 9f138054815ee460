//! Names of tables and relations. A name that exists was validated: no path can be escaped and no SQL injected through one.

use std::fmt;
use std::str::FromStr;

use crate::{Error, Result};

/// Longest accepted part of a name, in bytes; also what common file systems accept for a folder.
const MAX_PART: usize = 200;

/// Quotes an identifier for SQL: `a"b` becomes `"a""b"`.
///
/// ```
/// assert_eq!(duckrun_core::quote_ident("a\"b"), "\"a\"\"b\"");
/// ```
pub fn quote_ident(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// Quotes a text literal for SQL: `it's` becomes `'it''s'`.
pub fn quote_literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

/// One part of a name: a folder of the lake and an identifier of SQL at once.
///
/// Any Unicode text, except what would leave its folder or hide from a Delta listing: empty text, control characters,
/// `/` and `\`, a leading `.` or `_` (both mean "hidden" to readers of a lake), surrounding blanks.
fn validate_part(part: &str, whole: &str) -> Result<()> {
    let problem = if part.is_empty() {
        "has an empty part"
    } else if part.len() > MAX_PART {
        "has a part longer than 200 bytes"
    } else if part.contains(['/', '\\']) {
        "contains a path separator"
    } else if part.chars().any(char::is_control) {
        "contains a control character"
    } else if part.starts_with(['.', '_']) {
        "has a part that starts with '.' or '_', which readers of a lake treat as hidden"
    } else if part.trim() != part {
        "has blanks around a part"
    } else {
        return Ok(());
    };
    Err(Error::invalid(format!("the name {whole:?} {problem}")))
}

/// The name of a Delta table below a root: `schema.table`, stored in the folder `<root>/<schema>/<table>`.
///
/// ```
/// use duckrun_core::TableName;
/// let name: TableName = "mart.flights".parse()?;
/// assert_eq!((name.schema(), name.table()), ("mart", "flights"));
/// assert!("../etc.passwd".parse::<TableName>().is_err());
/// # Ok::<(), duckrun_core::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TableName {
    schema: String,
    table: String,
}

impl TableName {
    /// A validated name.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidInput`](crate::ErrorKind::InvalidInput) if a part is empty, too long, hidden, or could leave its folder.
    pub fn new(schema: impl Into<String>, table: impl Into<String>) -> Result<Self> {
        let (schema, table) = (schema.into(), table.into());
        let whole = format!("{schema}.{table}");
        validate_part(&schema, &whole)?;
        validate_part(&table, &whole)?;
        Ok(Self { schema, table })
    }

    /// The schema: the first folder below the root.
    pub fn schema(&self) -> &str {
        &self.schema
    }

    /// The table: the second folder below the root.
    pub fn table(&self) -> &str {
        &self.table
    }

    /// The name as quoted SQL: `"mart"."flights"`.
    pub fn to_sql(&self) -> String {
        format!("{}.{}", quote_ident(&self.schema), quote_ident(&self.table))
    }
}

impl FromStr for TableName {
    type Err = Error;

    /// Splits at the only dot; a name whose parts contain dots is built with [`TableName::new`].
    fn from_str(s: &str) -> Result<Self> {
        match s.split_once('.') {
            Some((schema, table)) if !table.contains('.') => Self::new(schema, table),
            _ => Err(Error::invalid(format!("the table name {s:?} is not of the form schema.table"))),
        }
    }
}

impl fmt::Display for TableName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.schema, self.table)
    }
}

/// The name under which a relation is visible to a run's SQL: one part (`landing`, `this`) or two (`mart.flights`).
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RelationName {
    schema: Option<String>,
    name: String,
}

impl RelationName {
    /// A name of one part.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidInput`](crate::ErrorKind::InvalidInput) for a name that is empty, too long or has control characters.
    pub fn bare(name: impl Into<String>) -> Result<Self> {
        let name = name.into();
        if name.is_empty() || name.len() > MAX_PART || name.chars().any(char::is_control) {
            return Err(Error::invalid(format!("{name:?} cannot name a relation")));
        }
        Ok(Self { schema: None, name })
    }

    /// The relation of a Delta table.
    pub fn of_table(table: &TableName) -> Self {
        Self { schema: Some(table.schema.clone()), name: table.table.clone() }
    }

    /// The schema, for a name of two parts.
    pub fn schema(&self) -> Option<&str> {
        self.schema.as_deref()
    }

    /// The last part.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The name as quoted SQL.
    pub fn to_sql(&self) -> String {
        match &self.schema {
            Some(schema) => format!("{}.{}", quote_ident(schema), quote_ident(&self.name)),
            None => quote_ident(&self.name),
        }
    }
}

impl fmt::Display for RelationName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.schema {
            Some(schema) => write!(f, "{schema}.{}", self.name),
            None => f.write_str(&self.name),
        }
    }
}

/// A table that a SQL text names, as written there (not yet resolved against anything).
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TableReference {
    /// The catalog part, where one was written.
    pub catalog: Option<String>,
    /// The schema part, where one was written.
    pub schema: Option<String>,
    /// The table part.
    pub table: String,
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn names_that_could_leave_their_folder_are_refused() {
        for bad in [
            "flights",
            "a.b.c",
            ".b",
            "a.",
            "a./b",
            "a.b/c",
            "a\\.b",
            "..a.b",
            "a...",
            "a._b",
            "_delta_log.x",
            "a.b\0",
            " a.b",
            "a.b\n",
        ] {
            let parsed = bad.parse::<TableName>();
            assert!(parsed.is_err(), "{bad:?} became {parsed:?}");
        }
        assert!(TableName::new("mart", "x".repeat(201)).is_err());
        assert_eq!(TableName::new("Märt", "it's \"1\"").unwrap().to_sql(), r#""Märt"."it's ""1""""#);
    }

    proptest! {
        #[test]
        fn quoting_is_reversible(s in ".*") {
            let q = quote_ident(&s);
            prop_assert_eq!(q[1..q.len() - 1].replace("\"\"", "\""), s.clone());
            let q = quote_literal(&s);
            prop_assert_eq!(q[1..q.len() - 1].replace("''", "'"), s);
        }
    }
}
