//! Fitting incoming columns to a table's: by name, in the table's types, with nothing lost.

use std::sync::Arc;

use arrow::datatypes::{Field, Schema, SchemaRef};
use duckrun_core::types::{check_names, widens};
use duckrun_core::{Error, ErrorKind, Result, SchemaChange};

/// How incoming rows are written into a table.
#[derive(Debug)]
pub(crate) struct Fit {
    /// The table's schema after the commit: what every written row must have.
    pub(crate) schema: SchemaRef,
    /// The same, where columns were added.
    pub(crate) added: Option<SchemaRef>,
    /// The incoming columns, with the table's spelling and type where the table has the column.
    pub(crate) incoming: SchemaRef,
    /// Columns of the table that must not be NULL and that the source lacks: an error where rows are inserted.
    pub(crate) required: Vec<String>,
    /// Incoming columns that are not written.
    pub(crate) dropped: Vec<String>,
    /// What the caller should know.
    pub(crate) warnings: Vec<String>,
}

impl Fit {
    /// Warns of the incoming columns that are not written, but for those that serve otherwise (in conditions).
    pub(crate) fn warn_dropped(&mut self, used: impl Fn(&str) -> bool) {
        let dropped = self.dropped.iter().filter(|c| !used(c));
        self.warnings.extend(dropped.map(|c| format!("the column {c:?} is not in the table and was dropped")));
    }

    /// Fails where rows cannot be inserted because a column that must not be NULL is missing.
    pub(crate) fn check_required(&self) -> Result<()> {
        match self.required.first() {
            Some(column) => Err(Error::new(
                ErrorKind::InvalidData,
                format!("the column {column:?} must not be NULL, and the source lacks it"),
            )),
            None => Ok(()),
        }
    }
}

/// A column by its name: exactly, else the one that differs in case only.
pub(crate) fn find<'a>(schema: &'a Schema, name: &str) -> Option<&'a Arc<Field>> {
    let fields = schema.fields();
    fields
        .iter()
        .find(|f| f.name() == name)
        .or_else(|| fields.iter().find(|f| f.name().to_lowercase() == name.to_lowercase()))
}

/// Fits columns by name: exactly, else by case-insensitive match, as SQL does.
pub(crate) fn fit(table: &Schema, incoming: &Schema, change: SchemaChange) -> Result<Fit> {
    let names: Vec<&str> = incoming.fields().iter().map(|f| f.name().as_str()).collect();
    check_names(&names)?;
    let mut problems = Vec::new();
    let mut required = Vec::new();
    let (mut missing, mut retyped, mut extra) = (Vec::new(), Vec::new(), Vec::new());
    for column in table.fields() {
        match find(incoming, column.name()) {
            None => {
                if !column.is_nullable() {
                    required.push(column.name().clone());
                }
                missing.push(column.name().clone());
            }
            Some(source) => {
                let same = source.data_type().equals_datatype(column.data_type());
                if !same && !widens(source.data_type(), column.data_type()) {
                    problems.push(format!(
                        "the column {:?} is {} in the source and {} in the table, which would lose values; \
                         cast it in the SQL, or change the table's type with a full refresh",
                        column.name(),
                        source.data_type(),
                        column.data_type()
                    ));
                }
                if !same {
                    retyped.push(format!(
                        "{} ({} instead of {})",
                        column.name(),
                        source.data_type(),
                        column.data_type()
                    ));
                }
            }
        }
    }
    let mut seen = Vec::with_capacity(names.len());
    for column in incoming.fields() {
        match find(table, column.name()) {
            None => {
                extra.push(column.clone());
                seen.push(column.as_ref().clone().with_nullable(true));
            }
            Some(known) => seen.push(known.as_ref().clone().with_nullable(true)),
        }
    }
    if change == SchemaChange::Fail && !(missing.is_empty() && retyped.is_empty() && extra.is_empty()) {
        let names: Vec<_> = extra.iter().map(|f| f.name().as_str()).collect();
        return Err(Error::new(
            ErrorKind::InvalidData,
            format!(
                "the columns differ from the table's: added [{}], missing [{}], retyped [{}]",
                names.join(", "),
                missing.join(", "),
                retyped.join(", ")
            ),
        ));
    }
    if !problems.is_empty() {
        return Err(Error::new(ErrorKind::InvalidData, problems.join("; ")));
    }
    let (mut warnings, mut dropped) = (Vec::new(), Vec::new());
    let mut fields: Vec<Field> = table.fields().iter().map(|f| f.as_ref().clone()).collect();
    let adds = matches!(change, SchemaChange::AppendNewColumns | SchemaChange::SyncAllColumns);
    for column in &extra {
        if adds {
            fields.push(column.as_ref().clone().with_nullable(true));
        } else {
            dropped.push(column.name().clone());
        }
    }
    if change == SchemaChange::SyncAllColumns {
        for column in &missing {
            warnings.push(format!("the column {column:?} is not in the source; it is kept, columns are never dropped"));
        }
    }
    let schema = Arc::new(Schema::new(fields));
    let added = (adds && !extra.is_empty()).then(|| schema.clone());
    let incoming = Arc::new(Schema::new(seen));
    Ok(Fit { schema, added, incoming, required, dropped, warnings })
}
