//! A pinned set of files as a DuckDB view over `read_parquet`, exactly as the table format means them.
//!
//! Invariants: file names are exact (the struct form of the list is not globbed), columns are found by physical name, a
//! column that a file lacks is NULL, partition values come from a table of typed literals joined on `file_index`, rows under a
//! deletion vector are anti-joined on (`file_index`, `file_row_number`). No DuckDB extension is involved.

use std::fmt::Write as _;

use arrow::datatypes::{DataType, FieldRef};
use duckdb::{Connection, appender_params_from_iter};

use super::failure::failure;
use super::literal::array_literal;
use super::remote::RemoteFiles;
use crate::types::sql_type;
use crate::{
    ColumnSource, DataFile, Error, FILE_INDEX, FileColumn, FileSet, ROW_NUMBER, Result, quote_ident, quote_literal,
};

/// The schema in which a session keeps the tables that its views join with.
const HIDDEN: &str = "__duckrun";
/// Marks our own views, whose definitions name no table of the user's.
const MARK: &str = "duckrun:relation";

/// Creates or replaces the view `name` (quoted SQL). `catalog` is the session's own, `serial` unique in the session; `remote`
/// serves the files of object stores.
pub(super) fn create_view(
    conn: &Connection,
    catalog: &str,
    name: &str,
    set: &FileSet,
    serial: u64,
    remote: Option<&RemoteFiles>,
) -> Result<()> {
    if set.files.is_empty() {
        // DuckDB forgets the schema of an empty list of files.
        let mut columns = set
            .columns
            .iter()
            .map(|c| Ok(format!("CAST(NULL AS {}) AS {}", sql_type(&c.data_type)?, quote_ident(&c.name))))
            .collect::<Result<Vec<_>>>()?;
        if set.positions {
            columns.extend([FILE_INDEX, ROW_NUMBER].map(|name| format!("CAST(NULL AS BIGINT) AS {name}")));
        }
        run(conn, &format!("CREATE OR REPLACE VIEW {name} AS SELECT {} WHERE false", columns.join(", ")))?;
        return run(conn, &format!("COMMENT ON VIEW {name} IS {}", quote_literal(MARK)));
    }
    let hidden = format!("{}.{HIDDEN}", quote_ident(catalog));
    let parts = format!("{hidden}.parts_{serial}");
    let gone = format!("{hidden}.deleted_{serial}");
    let has_parts = !set.partition_values.is_empty();
    let has_gone = set.files.iter().any(|f| f.deleted.as_ref().is_some_and(|d| !d.is_empty()));
    if has_parts || has_gone {
        run(conn, &format!("CREATE SCHEMA IF NOT EXISTS {hidden}"))?;
    }
    if has_parts {
        create_parts(conn, &parts, set)?;
    }
    if has_gone {
        create_deleted(conn, &gone, set)?;
    }
    let mut sql =
        format!("CREATE OR REPLACE VIEW {name} AS SELECT {} FROM {} f", select_list(set)?, scan(set, remote)?);
    if has_parts {
        let _ = write!(sql, " JOIN {parts} p ON p.file_index = f.file_index");
    }
    if has_gone {
        let _ = write!(sql, " ANTI JOIN {gone} d ON d.file_index = f.file_index AND d.row_number = f.file_row_number");
    }
    run(conn, &sql)?;
    run(conn, &format!("COMMENT ON VIEW {name} IS {}", quote_literal(MARK)))
}

/// Creates or replaces a view over a SQL text.
pub(super) fn create_sql_view(conn: &Connection, name: &str, sql: &str) -> Result<()> {
    let body = sql.trim().trim_end_matches(';');
    run(conn, &format!("CREATE OR REPLACE VIEW {name} AS SELECT * FROM (\n{body}\n)"))
}

fn run(conn: &Connection, sql: &str) -> Result<()> {
    conn.execute_batch(sql).map_err(|e| failure(e, "register a relation"))
}

fn create_parts(conn: &Connection, table: &str, set: &FileSet) -> Result<()> {
    let types: Vec<String> =
        set.partition_values.iter().map(|array| sql_type(array.data_type())).collect::<Result<_>>()?;
    let columns: Vec<String> = types.iter().enumerate().map(|(i, ty)| format!("p{i} {ty}")).collect();
    run(conn, &format!("CREATE TABLE {table} (file_index UBIGINT, {})", columns.join(", ")))?;
    // In slices: one statement for 100,000 files would be parsed as one expression tree.
    for start in (0..set.files.len()).step_by(2_000) {
        let mut sql = format!("INSERT INTO {table} VALUES ");
        for file in start..(start + 2_000).min(set.files.len()) {
            let separator = if file == start { "" } else { ", " };
            let _ = write!(sql, "{separator}({file}");
            for array in &set.partition_values {
                let _ = write!(sql, ", {}", array_literal(array, file)?);
            }
            sql.push(')');
        }
        run(conn, &sql)?;
    }
    Ok(())
}

fn create_deleted(conn: &Connection, table: &str, set: &FileSet) -> Result<()> {
    run(conn, &format!("CREATE TABLE {table} (file_index UBIGINT, row_number BIGINT)"))?;
    let mut parts = table.split('.').map(|p| p.trim_matches('"').replace("\"\"", "\""));
    let (Some(catalog), Some(schema), Some(name)) = (parts.next(), parts.next(), parts.next()) else {
        return Err(Error::internal("a deletion vector table without a full name"));
    };
    let fail = |e| failure(e, "register a deletion vector");
    let mut appender = conn.appender_to_catalog_and_db(&name, &catalog, &schema).map_err(fail)?;
    for (index, file) in set.files.iter().enumerate() {
        for row in file.deleted.iter().flat_map(|rows| rows.iter()) {
            let row = i64::try_from(*row).map_err(|_| Error::corrupt("a deletion vector names a row beyond 2^63"))?;
            appender.append_row(appender_params_from_iter([index as i64, row])).map_err(fail)?;
        }
    }
    appender.flush().map_err(fail)
}

/// The files' names for DuckDB: local paths, or what `remote` registers them under.
fn names(set: &FileSet, remote: Option<&RemoteFiles>) -> Result<Vec<String>> {
    if let Some(store) = &set.store {
        let Some(remote) = remote else {
            return Err(Error::internal("files of an object store were not laid by"));
        };
        return remote.register(set, store);
    }
    let local = |file: &DataFile| {
        let path = match file.url.scheme() {
            "file" => file.url.to_file_path().map_err(|()| Error::internal("a file URL without a path"))?,
            other => return Err(Error::unsupported(format!("{other}:// files come without a store to read them"))),
        };
        path.to_str().map(str::to_owned).ok_or_else(|| Error::unsupported("a table path that is not UTF-8"))
    };
    set.files.iter().map(local).collect()
}

/// `read_parquet` over the files, with every file column under its logical name and physical type.
fn scan(set: &FileSet, remote: Option<&RemoteFiles>) -> Result<String> {
    let mut files = String::from("[");
    for (i, path) in names(set, remote)?.iter().enumerate() {
        let _ = write!(files, "{}{{filename: {}}}", if i == 0 { "" } else { ", " }, quote_literal(path));
    }
    files.push(']');
    let mut map = Vec::new();
    for column in &set.columns {
        let key = match &column.source {
            ColumnSource::File { physical_name } | ColumnSource::FileOrConstant { physical_name, .. } => {
                quote_literal(physical_name)
            }
            ColumnSource::FieldId(id) => id.to_string(),
            ColumnSource::Partition(_) => continue,
        };
        let ty = sql_type(column.physical_type.as_ref().unwrap_or(&column.data_type))?;
        map.push(format!(
            "{key}: {{'name': {}, 'type': {}, 'default_value': NULL}}",
            quote_literal(&column.name),
            quote_literal(&ty)
        ));
    }
    if map.is_empty() {
        // Only partition columns: rows still have to be counted.
        map.push("'__duckrun_none': {'name': '__duckrun_none', 'type': 'BOOLEAN', 'default_value': NULL}".to_owned());
    }
    Ok(format!("read_parquet({files}, schema = MAP {{{}}})", map.join(", ")))
}

fn select_list(set: &FileSet) -> Result<String> {
    let mut out = Vec::with_capacity(set.columns.len());
    for column in &set.columns {
        let name = quote_ident(&column.name);
        out.push(match &column.source {
            ColumnSource::File { .. } | ColumnSource::FieldId(_) => match renamed(column) {
                Some(expr) => format!("{expr} AS {name}"),
                None if column.data_type.is_floating() => {
                    // NaN, which is greater than every number here, is in no statistics of parquet files: DuckDB rules row
                    // groups out by them wherever the file's column itself is compared.
                    let ty = sql_type(&column.data_type)?;
                    format!("CASE WHEN isnan(f.{name}) THEN CAST('nan' AS {ty}) ELSE f.{name} END AS {name}")
                }
                None => format!("f.{name}"),
            },
            ColumnSource::Partition(i) if *i < set.partition_values.len() => format!("p.p{i} AS {name}"),
            ColumnSource::FileOrConstant { constant: i, .. } if *i < set.partition_values.len() => {
                format!("coalesce(f.{name}, p.p{i}) AS {name}")
            }
            ColumnSource::Partition(_) | ColumnSource::FileOrConstant { .. } => {
                return Err(Error::internal("a partition column without values"));
            }
        });
    }
    if set.positions {
        out.push(format!("f.file_index::BIGINT AS {FILE_INDEX}"));
        out.push(format!("f.file_row_number::BIGINT AS {ROW_NUMBER}"));
    }
    Ok(out.join(", "))
}

/// Nested fields from their physical to their logical names, where they differ (column mapping).
fn renamed(column: &FileColumn) -> Option<String> {
    let physical = column.physical_type.as_ref()?;
    rename(&format!("f.{}", quote_ident(&column.name)), physical, &column.data_type, 0)
}

fn rename(value: &str, physical: &DataType, logical: &DataType, depth: usize) -> Option<String> {
    match (physical, logical) {
        (DataType::Struct(from), DataType::Struct(to)) => {
            let member = |(p, l): (&FieldRef, &FieldRef)| {
                let inner = format!("({value}).{}", quote_ident(p.name()));
                let expr = rename(&inner, p.data_type(), l.data_type(), depth);
                let changed = expr.is_some() || p.name() != l.name();
                (format!("{} := {}", quote_ident(l.name()), expr.unwrap_or(inner)), changed)
            };
            let members: Vec<_> = from.iter().zip(to.iter()).map(member).collect();
            members.iter().any(|(_, changed)| *changed).then(|| {
                let list: Vec<_> = members.into_iter().map(|(sql, _)| sql).collect();
                format!("CASE WHEN ({value}) IS NULL THEN NULL ELSE struct_pack({}) END", list.join(", "))
            })
        }
        (DataType::List(from), DataType::List(to)) => {
            let x = format!("x{depth}");
            let inner = rename(&x, from.data_type(), to.data_type(), depth + 1)?;
            Some(format!("list_transform({value}, lambda {x}: {inner})"))
        }
        (DataType::Map(from, _), DataType::Map(to, _)) => {
            let (DataType::Struct(from), DataType::Struct(to)) = (from.data_type(), to.data_type()) else {
                return None;
            };
            let (k, v) = (format!("k{depth}"), format!("v{depth}"));
            let key = rename(&k, from[0].data_type(), to[0].data_type(), depth + 1);
            let val = rename(&v, from[1].data_type(), to[1].data_type(), depth + 1);
            if key.is_none() && val.is_none() {
                return None;
            }
            let keys = key.map_or(format!("map_keys({value})"), |e| {
                format!("list_transform(map_keys({value}), lambda {k}: {e})")
            });
            let vals = val.map_or(format!("map_values({value})"), |e| {
                format!("list_transform(map_values({value}), lambda {v}: {e})")
            });
            Some(format!("CASE WHEN ({value}) IS NULL THEN NULL ELSE map({keys}, {vals}) END"))
        }
        _ => None,
    }
}
