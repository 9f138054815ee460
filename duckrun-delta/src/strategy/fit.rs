//! Fitting incoming columns to a table's: by name, in the table's types, with nothing lost.

use std::sync::Arc;

use arrow::datatypes::{Field, Schema, SchemaRef};
use duckrun_core::types::widens;
use duckrun_core::{Error, ErrorKind, Result, SchemaChange};

/// How incoming rows are written into a table.
#[derive(Debug)]
pub(crate) struct Fit {
    /// The table's schema after the commit: what every written row must have.
    pub(crate) schema: SchemaRef,
    /// The same, where columns were added.
    pub(crate) added: Option<SchemaRef>,
    /// What the caller should know.
    pub(crate) warnings: Vec<String>,
}

/// Fits columns by name: exactly, else by case-insensitive match, as SQL does.
pub(crate) fn fit(table: &Schema, incoming: &Schema, change: SchemaChange) -> Result<Fit> {
    let find = |schema: &Schema, name: &str| {
        schema
            .fields()
            .iter()
            .find(|f| f.name() == name)
            .or_else(|| schema.fields().iter().find(|f| f.name().eq_ignore_ascii_case(name)))
            .cloned()
    };
    let (mut missing, mut retyped, mut extra) = (Vec::new(), Vec::new(), Vec::new());
    for column in table.fields() {
        match find(incoming, column.name()) {
            None if !column.is_nullable() => {
                return Err(Error::new(
                    ErrorKind::InvalidData,
                    format!("the column {:?} must not be NULL, and the source lacks it", column.name()),
                ));
            }
            None => missing.push(column.name().clone()),
            Some(source) => {
                let same = source.data_type().equals_datatype(column.data_type());
                if !same && !widens(source.data_type(), column.data_type()) {
                    return Err(Error::new(
                        ErrorKind::InvalidData,
                        format!(
                            "the column {:?} is {} in the source and {} in the table, which would lose values; \
                             cast it in the SQL, or change the table's type with a full refresh",
                            column.name(),
                            source.data_type(),
                            column.data_type()
                        ),
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
    for column in incoming.fields() {
        if find(table, column.name()).is_none() {
            extra.push(column.clone());
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
    let mut warnings = Vec::new();
    let mut fields: Vec<Field> = table.fields().iter().map(|f| f.as_ref().clone()).collect();
    let adds = matches!(change, SchemaChange::AppendNewColumns | SchemaChange::SyncAllColumns);
    for column in &extra {
        if adds {
            fields.push(column.as_ref().clone().with_nullable(true));
        } else {
            warnings.push(format!("the column {:?} is not in the table and was dropped", column.name()));
        }
    }
    if change == SchemaChange::SyncAllColumns {
        for column in &missing {
            warnings.push(format!("the column {column:?} is not in the source; it is kept, columns are never dropped"));
        }
    }
    let schema = Arc::new(Schema::new(fields));
    let added = (adds && !extra.is_empty()).then(|| schema.clone());
    Ok(Fit { schema, added, warnings })
}
