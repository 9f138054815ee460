//! Column names: two that differ only in case are one column to DuckDB and Spark, and two to delta-rs; they are refused.

use std::collections::HashMap;

use arrow::datatypes::{DataType, Fields};

use crate::{Error, Result, quote_ident};

/// Refuses names that are empty, occur twice, or differ only in case.
///
/// # Errors
/// [`ErrorKind::InvalidInput`](crate::ErrorKind::InvalidInput) that lists every such name.
pub fn check_names<S: AsRef<str>>(names: &[S]) -> Result<()> {
    check("the result", names.iter().map(AsRef::as_ref))
}

/// The same for a group of columns or fields; `what` says whose they are.
pub(super) fn check<'a>(what: &str, names: impl Iterator<Item = &'a str>) -> Result<()> {
    let mut seen: HashMap<String, &str> = HashMap::new();
    let mut problems = Vec::new();
    for name in names {
        if name.is_empty() {
            problems.push("a name is empty".to_owned());
            continue;
        }
        match seen.insert(name.to_lowercase(), name) {
            Some(first) if first == name => problems.push(format!("{} occurs twice", quote_ident(name))),
            Some(first) => {
                problems.push(format!("{} and {} differ only in case", quote_ident(first), quote_ident(name)));
            }
            None => {}
        }
    }
    if problems.is_empty() {
        return Ok(());
    }
    Err(Error::invalid(format!(
        "{what} has column names that a table cannot hold: {}; rename them",
        problems.join(", ")
    )))
}

/// The same for every struct inside a type.
pub(super) fn check_nested(what: &str, ty: &DataType) -> Result<()> {
    let group = |fields: &Fields| check(what, fields.iter().map(|f| f.name().as_str()));
    match ty {
        DataType::Struct(fields) => {
            group(fields)?;
            fields.iter().try_for_each(|f| check_nested(what, f.data_type()))
        }
        DataType::List(child) => check_nested(what, child.data_type()),
        DataType::Map(entries, _) => check_nested(what, entries.data_type()),
        _ => Ok(()),
    }
}

/// The field of a struct by its name: exactly, else ignoring case, as DuckDB's own struct casts do.
pub(super) fn find<'a, T>(items: &'a [T], name: &str, name_of: impl Fn(&T) -> &str) -> Option<&'a T> {
    items
        .iter()
        .find(|item| name_of(item) == name)
        .or_else(|| items.iter().find(|item| name_of(item).to_lowercase() == name.to_lowercase()))
}
