//! What written rows must be beside fitting the table: the model's contract, and the CHECK constraints of the table.

use std::sync::Arc;

use arrow::datatypes::{DataType, Schema, SchemaRef};
use duckrun_core::types::{DuckType, decide};
use duckrun_core::{
    Check, Contract, Error, ErrorKind, Result, TableFacts, TableOptions, TableState, TimestampMode, WritePlan,
};

use super::expr::{Columns, Scope};
use super::fit::find;
use super::{column_problems, resolve};

/// The prefix of the table properties that hold CHECK constraints (Delta protocol, "CHECK constraints").
pub(crate) const CONSTRAINT: &str = "delta.constraints.";

/// The problems of a contract that no schema is needed to see.
pub(super) fn problems(contract: &Contract) -> Vec<String> {
    let names: Vec<String> = contract.columns.iter().map(|c| c.name.clone()).collect();
    let mut problems = if names.is_empty() { Vec::new() } else { column_problems("the contract", &names) };
    for column in &contract.columns {
        if let Some(Err(e)) = column.data_type.as_deref().map(|text| data_type(&column.name, text)) {
            problems.push(format!("the contract's column {:?}: {}", column.name, e.message()));
        }
    }
    for unique in &contract.unique {
        problems.extend(column_problems("a unique group of the contract", unique));
    }
    problems
}

/// The type that a contract names.
fn data_type(column: &str, text: &str) -> Result<DataType> {
    let name = text.trim();
    let sql = match name.to_lowercase().as_str() {
        "string" | "text" | "char" | "bpchar" => "VARCHAR",
        "long" | "int8" => "BIGINT",
        "int" | "int4" | "signed" => "INTEGER",
        "short" | "int2" => "SMALLINT",
        "byte" | "int1" => "TINYINT",
        "real" | "float4" => "FLOAT",
        "float8" => "DOUBLE",
        "bool" | "logical" => "BOOLEAN",
        "binary" | "bytea" | "varbinary" => "BLOB",
        "timestamp_ntz" | "datetime" => "TIMESTAMP",
        "timestamptz" => "TIMESTAMP WITH TIME ZONE",
        _ if name.to_lowercase().starts_with("numeric(") => {
            return data_type(column, &format!("DECIMAL({}", &name["numeric(".len()..]));
        }
        _ => name,
    };
    let parsed = DuckType::parse(sql).or_else(|e| DuckType::parse(&sql.to_uppercase()).map_err(|_| e))?;
    Ok(decide(column, &parsed, TimestampMode::default())?.arrow)
}

/// The schema of a table that is created or rebuilt.
pub(super) fn created(schema: SchemaRef, options: &TableOptions) -> SchemaRef {
    match &options.contract {
        Some(contract) => required(&schema, contract),
        None => schema,
    }
}

/// The schema with the contract's `not_null` columns as such.
fn required(schema: &Schema, contract: &Contract) -> SchemaRef {
    let strict = |name: &str| {
        contract.columns.iter().any(|c| c.not_null && find(schema, &c.name).is_some_and(|f| f.name() == name))
    };
    let fields = schema.fields().iter().map(|f| f.as_ref().clone().with_nullable(f.is_nullable() && !strict(f.name())));
    Arc::new(Schema::new(fields.collect::<Vec<_>>()))
}

/// The plan with what its rows must fulfil: the contract, and the constraints of a table that exists.
pub(super) fn complete(mut plan: WritePlan, target: &TableState, incoming: &Schema) -> Result<WritePlan> {
    if let Some(contract) = &target.options.contract {
        check_columns(contract, incoming)?;
        // Only what is written is held to it: the table's own column may be nullable, and keeps its old rows.
        plan.schema = required(&plan.schema, contract);
        let single = contract.columns.iter().filter(|c| c.unique).map(|c| std::slice::from_ref(&c.name));
        let mut problems = Vec::new();
        for group in single.chain(contract.unique.iter().map(Vec::as_slice)) {
            let check = Check::Unique(resolve("the contract", group, &plan.schema, "the table", &mut problems));
            if !plan.checks.contains(&check) {
                plan.checks.push(check);
            }
        }
        if let Some(e) = Error::problems(problems) {
            return Err(e);
        }
    }
    if let Some(table) = &target.existing {
        plan.checks.extend(constraints(table, &plan.schema)?);
    }
    Ok(plan)
}

/// Names and types, as dbt's contracts: exactly these columns, in any order.
fn check_columns(contract: &Contract, incoming: &Schema) -> Result<()> {
    let mut problems = Vec::new();
    for column in &contract.columns {
        let Some(found) = find(incoming, &column.name) else {
            problems.push(format!("the column {:?} is missing", column.name));
            continue;
        };
        if let Some(text) = &column.data_type {
            let wanted = data_type(&column.name, text)?;
            if !found.data_type().equals_datatype(&wanted) {
                problems.push(format!(
                    "the column {:?} is {} instead of {text} ({wanted})",
                    column.name,
                    found.data_type()
                ));
            }
        }
    }
    // A contract that names types describes the whole table; one that only forbids NULL or repetition does not.
    let whole = contract.columns.iter().any(|c| c.data_type.is_some());
    for found in incoming.fields().iter().filter(|_| whole) {
        if !contract.columns.iter().any(|c| c.name.to_lowercase() == found.name().to_lowercase()) {
            problems.push(format!("the column {:?} is not in it", found.name()));
        }
    }
    match problems.is_empty() {
        true => Ok(()),
        false => Err(Error::new(ErrorKind::InvalidData, format!("the contract is violated: {}", problems.join("; ")))),
    }
}

/// The table's CHECK constraints. The stored text is Spark SQL; one that DuckDB's grammar cannot express is refused by name.
pub(super) fn constraints(table: &TableFacts, schema: &SchemaRef) -> Result<Vec<Check>> {
    let columns = Columns::of_table(schema);
    let mut checks = Vec::new();
    for (key, text) in &table.properties {
        let Some(name) = key.strip_prefix(CONSTRAINT) else { continue };
        let condition = columns.expr("it is", text, Scope::Constraint).map_err(|e| {
            Error::unsupported(format!(
                "the table feature checkConstraints is in use, and the constraint {name:?} cannot be checked: {}",
                e.message()
            ))
        })?;
        checks.push(Check::Holds { name: name.to_owned(), condition });
    }
    Ok(checks)
}
