//! Strategies: pure functions from what is known of a table to a plan of a write.
//!
//! A first run and a full refresh are an overwrite under every strategy, planned by [`replacement`]; the options are
//! validated all the same.

mod append;
#[cfg(test)]
mod changes_tests;
mod config;
mod contract;
mod delete_insert;
mod expr;
mod fit;
mod insert;
mod merge;
mod microbatch;
mod overwrite;
mod replace_where;
mod rows;
mod safe_append;
mod scd2;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::datatypes::{DataType, Schema, SchemaRef};
use duckrun_core::{
    ConflictPolicy, Error, MetadataChange, Result, Strategy, TableFacts, TableOptions, TableState, WriteAction,
    WritePlan,
};

pub use self::append::Append;
pub use self::config::{CheckColumns, ClauseAction, ClauseConfig, StrategyConfig};
pub use self::delete_insert::DeleteInsert;
pub(crate) use self::expr::source_column;
pub(crate) use self::fit::{Fit, fit};
pub use self::insert::Insert;
pub use self::merge::{FullSync, Merge, MergeClause};
pub use self::microbatch::{BatchSize, Microbatch, MicrobatchWindow};
pub use self::overwrite::Overwrite;
pub use self::replace_where::{InsertOverwrite, ReplaceWhere};
pub use self::rows::{Delete, Update};
pub use self::safe_append::SafeAppend;
pub use self::scd2::Scd2;

/// A strategy by its name, as configuration files write it; for those that need no options ([`StrategyConfig`] makes the others).
///
/// # Errors
/// [`ErrorKind::InvalidInput`](duckrun_core::ErrorKind::InvalidInput) with the names that exist, or the options that are missing.
///
/// ```
/// assert_eq!(duckrun_delta::strategy_by_name("safeappend")?.name(), "safeappend");
/// assert!(duckrun_delta::strategy_by_name("upsrt").is_err());
/// assert!(duckrun_delta::strategy_by_name("merge").unwrap_err().message().contains("unique_key"));
/// # Ok::<(), duckrun_core::Error>(())
/// ```
pub fn strategy_by_name(name: &str) -> Result<Arc<dyn Strategy>> {
    StrategyConfig { strategy: Some(name.to_owned()), ..StrategyConfig::default() }.build()
}

/// The problems of the table's options that no snapshot is needed to see.
pub(crate) fn validate_options(options: &TableOptions) -> Vec<String> {
    let mut problems = Vec::new();
    if let Some(columns) = &options.partition_by {
        for (i, column) in columns.iter().enumerate() {
            if column.is_empty() {
                problems.push("a partition column without a name".to_owned());
            }
            if columns[..i].iter().any(|c| c.eq_ignore_ascii_case(column)) {
                problems.push(format!("the partition column {column:?} is named twice"));
            }
        }
    }
    for (key, value) in &options.properties {
        let number = |what: &str| match value.parse::<u64>() {
            Ok(n) if n > 0 => None,
            _ => Some(format!("the table property {key} must be {what}, not {value:?}")),
        };
        match key.as_str() {
            "delta.checkpointInterval" => problems.extend(number("a positive number of commits")),
            "delta.columnMapping.mode" if value != "none" => {
                problems.push("tables with column mapping are read and written, but not created".to_owned());
            }
            "delta.enableDeletionVectors" | "delta.enableRowTracking" | "delta.enableInCommitTimestamps"
                if value == "true" =>
            {
                problems.push(format!("the table property {key} asks for a feature that is not written"));
            }
            "delta.minReaderVersion" | "delta.minWriterVersion" => {
                problems.push(format!("{key} follows from the features in use and cannot be set"));
            }
            key if key.starts_with("delta.feature.") || key.starts_with("delta.constraints.") => {
                problems.push(format!("the table property {key} cannot be set at creation"));
            }
            _ => {}
        }
    }
    problems.extend(options.contract.iter().flat_map(contract::problems));
    problems
}

/// The plan of a first run or of a replacement of the whole table.
pub(crate) fn replacement(
    strategy: &str,
    target: &TableState,
    incoming: &SchemaRef,
    conflict: ConflictPolicy,
) -> Result<WritePlan> {
    let plan = rebuilt(strategy, target, incoming, conflict)?;
    contract::complete(plan, target, incoming)
}

/// The same without the contract's checks, for tables with other columns than the SQL yields.
fn rebuilt(strategy: &str, target: &TableState, incoming: &SchemaRef, conflict: ConflictPolicy) -> Result<WritePlan> {
    if incoming.fields().is_empty() {
        return Err(Error::invalid("the SQL yields no columns"));
    }
    let options = &target.options;
    let existing = target.existing.as_ref();
    let partition_columns = match (&options.partition_by, existing) {
        (Some(columns), _) => resolve_partitions(columns, incoming)?,
        (None, Some(table)) => resolve_partitions(&table.partition_columns, incoming).map_err(|e| {
            Error::invalid(format!("{}; name the new partition columns to replace the partitioning", e.message()))
        })?,
        (None, None) => Vec::new(),
    };
    let action = if existing.is_some() { WriteAction::Overwrite } else { WriteAction::Append };
    let action = if strategy == "overwrite" { WriteAction::Overwrite } else { action };
    let schema = contract::created(nullable(incoming), options);
    let mut plan = WritePlan::new(strategy, action, schema.clone(), partition_columns.clone(), conflict);
    let mut metadata = MetadataChange::default();
    match existing {
        None => {
            metadata.schema = Some(schema);
            metadata.partition_columns = Some(partition_columns);
            metadata.properties = creation_properties(options);
        }
        Some(table) => {
            if !same_columns(&table.schema, &schema) {
                metadata.schema = Some(schema);
            }
            if table.partition_columns != partition_columns {
                metadata.partition_columns = Some(partition_columns);
            }
        }
    }
    comments(&mut metadata, existing, options);
    plan.metadata = metadata;
    Ok(plan)
}

/// Adds the comments that the caller asked for and that the table does not have.
fn comments(metadata: &mut MetadataChange, table: Option<&TableFacts>, options: &TableOptions) {
    let known = |column: &str| table.and_then(|t| t.column_comments.get(column));
    metadata.comment = options.comment.clone().filter(|c| table.and_then(|t| t.comment.as_ref()) != Some(c));
    metadata.column_comments = options
        .column_comments
        .iter()
        .filter(|(column, comment)| known(column) != Some(*comment))
        .map(|(column, comment)| (column.clone(), comment.clone()))
        .collect();
}

/// Whether two schemas have the same columns in the same order, whatever their nullability.
fn same_columns(a: &Schema, b: &Schema) -> bool {
    a.fields().len() == b.fields().len()
        && a.fields().iter().zip(b.fields()).all(|(a, b)| {
            a.name() == b.name() && a.data_type().equals_datatype(b.data_type()) && a.is_nullable() == b.is_nullable()
        })
}

/// A checkpoint every 10 commits, so that opening a table does not replay 99 (delta-rs's own default is 100).
fn creation_properties(options: &TableOptions) -> BTreeMap<String, String> {
    let mut properties = BTreeMap::from([("delta.checkpointInterval".to_owned(), "10".to_owned())]);
    properties.extend(options.properties.clone());
    properties
}

fn nullable(schema: &SchemaRef) -> SchemaRef {
    Arc::new(Schema::new(schema.fields().iter().map(|f| f.as_ref().clone().with_nullable(true)).collect::<Vec<_>>()))
}

/// Partition columns as the schema spells them.
fn resolve_partitions(columns: &[String], schema: &Schema) -> Result<Vec<String>> {
    let mut resolved = Vec::with_capacity(columns.len());
    let mut problems = Vec::new();
    for column in columns {
        let found = schema
            .fields()
            .iter()
            .find(|f| f.name() == column)
            .or_else(|| schema.fields().iter().find(|f| f.name().eq_ignore_ascii_case(column)));
        match found {
            None => problems.push(format!("the partition column {column:?} is not among the columns")),
            Some(field) => match field.data_type() {
                DataType::Struct(_) | DataType::List(_) | DataType::Map(..) => {
                    problems.push(format!("the partition column {column:?} is nested"));
                }
                _ => resolved.push(field.name().clone()),
            },
        }
    }
    if !columns.is_empty() && resolved.len() == schema.fields().len() {
        problems.push("every column is a partition column: at least one must be left for the files".to_owned());
    }
    match Error::problems(problems) {
        Some(e) => Err(e),
        None => Ok(resolved),
    }
}

/// Fails if an incremental run names other partition columns than the table has.
pub(crate) fn check_partitions(table: &TableFacts, options: &TableOptions) -> Result<()> {
    match &options.partition_by {
        Some(columns)
            if columns.len() != table.partition_columns.len()
                || columns.iter().zip(&table.partition_columns).any(|(a, b)| !a.eq_ignore_ascii_case(b)) =>
        {
            Err(Error::invalid(format!(
                "the table is partitioned by {:?}, the model by {columns:?}; a full refresh changes the partitioning",
                table.partition_columns
            )))
        }
        _ => Ok(()),
    }
}

/// The plan of adding rows to a table that exists.
pub(crate) fn addition(
    strategy: &str,
    table: &TableFacts,
    target: &TableState,
    incoming: &SchemaRef,
    conflict: ConflictPolicy,
) -> Result<WritePlan> {
    check_partitions(table, &target.options)?;
    let mut fit = fit(&table.schema, incoming, target.options.on_schema_change)?;
    fit.check_required()?;
    fit.warn_dropped(|_| false);
    let plan = change(strategy, WriteAction::Append, table, target, fit, conflict);
    contract::complete(plan, target, incoming)
}

/// The plan of changing a table that exists, without contract and constraints.
fn change(
    strategy: &str,
    action: WriteAction,
    table: &TableFacts,
    target: &TableState,
    fit: Fit,
    conflict: ConflictPolicy,
) -> WritePlan {
    let mut plan = WritePlan::new(strategy, action, fit.schema, table.partition_columns.clone(), conflict);
    plan.metadata.schema = fit.added;
    comments(&mut plan.metadata, Some(table), &target.options);
    plan.warnings = fit.warnings;
    plan
}

/// What may be committed beside a change that reads the rows it names: what does not touch them. A SQL that reads the table itself
/// may have read any row.
fn serializable(target: &TableState) -> ConflictPolicy {
    match target.reads_target {
        true => ConflictPolicy::CompareAndSwap,
        false => ConflictPolicy::Serializable,
    }
}

/// The table that is changed; `None` where it is created or rebuilt.
fn changed(target: &TableState) -> Option<&TableFacts> {
    target.existing.as_ref().filter(|_| !target.options.full_refresh)
}

/// Columns as the schema spells them; every one that it lacks is a problem.
fn resolve(what: &str, names: &[String], schema: &Schema, whose: &str, problems: &mut Vec<String>) -> Vec<String> {
    let mut found = Vec::with_capacity(names.len());
    for name in names {
        match fit::find(schema, name) {
            Some(field) => found.push(field.name().clone()),
            None => {
                let all: Vec<_> = schema.fields().iter().map(|f| f.name().as_str()).collect();
                problems.push(format!("{what} names the column {name:?}, which {whose} lacks ({})", all.join(", ")));
            }
        }
    }
    found
}

/// The problems of a list of columns that no schema is needed to see.
fn column_problems(what: &str, columns: &[String]) -> Vec<String> {
    let mut problems = Vec::new();
    if columns.is_empty() {
        problems.push(format!("{what} names no column"));
    }
    for (i, column) in columns.iter().enumerate() {
        if column.is_empty() {
            problems.push(format!("{what} has a column without a name"));
        } else if columns[..i].iter().any(|c| c.to_lowercase() == column.to_lowercase()) {
            problems.push(format!("{what} names {column:?} twice"));
        }
    }
    problems
}
