//! The table: its versions, and the operations that make a new one or refuse.

use std::fmt;

use duckrun::SchemaChange;

use super::expr::Scope;
use super::{Column, Expr, Rows, Value};

/// Why an operation is refused. The table keeps its version.
#[non_exhaustive]
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// Incoming rows share a key: the key and how many rows have it, for each such key.
    DuplicateKeys(Vec<(Vec<Value>, usize)>),
    /// This many incoming rows have a NULL in their key, and that is to be refused.
    NullKeys(usize),
    /// A column that is named does not exist.
    UnknownColumn(String),
    /// The incoming columns differ from the table's, and that is to be refused.
    SchemaChanged {
        /// Columns that the table lacks.
        added: Vec<String>,
        /// Columns that the incoming rows lack.
        missing: Vec<String>,
    },
    /// A column has another type than the table's.
    TypeChanged(String),
    /// This many incoming rows lie outside what is replaced.
    OutsideReplaced(usize),
    /// This many incoming rows have no event time.
    NullEventTime(usize),
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?}")
    }
}

impl std::error::Error for Refusal {}

/// How many rows an operation touched. Rows that were copied depend on the files, so the model does not know them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Rows that are new.
    pub inserted: usize,
    /// Rows that got other values; where unchanged rows are not skipped, all that an update met.
    pub updated: usize,
    /// Rows that went.
    pub deleted: usize,
    /// Whether there is a new version.
    pub committed: bool,
}

/// A table with every version that it had.
#[derive(Debug, Clone)]
pub struct Table {
    versions: Vec<Rows>,
    /// What happens when incoming columns differ.
    pub on_schema_change: SchemaChange,
}

impl Table {
    /// A table whose first version holds these rows.
    pub fn new(rows: Rows) -> Self {
        Self { versions: vec![rows], on_schema_change: SchemaChange::Ignore }
    }

    /// The newest version's number.
    pub fn version(&self) -> usize {
        self.versions.len() - 1
    }

    /// The newest version's rows.
    pub fn rows(&self) -> &Rows {
        &self.versions[self.version()]
    }

    /// The rows of a version.
    pub fn at(&self, version: usize) -> Option<&Rows> {
        self.versions.get(version)
    }

    /// The columns.
    pub fn columns(&self) -> &[Column] {
        &self.rows().columns
    }

    /// A table that begins with a version of this one, and follows the same rules.
    ///
    /// `None` where there is no such version.
    pub fn branch(&self, version: usize) -> Option<Self> {
        Some(Self { versions: vec![self.at(version)?.clone()], on_schema_change: self.on_schema_change })
    }

    /// Adds a version that something else than an operation of the model made: maintenance, or another writer.
    pub fn record(&mut self, rows: Rows) {
        self.commit(rows);
    }

    /// Takes the newest version's rows as they were read, where the model allows several answers (the sign of a zero).
    pub fn settle(&mut self, rows: Rows) {
        self.versions.pop();
        self.commit(rows);
    }

    /// Adds a version.
    pub(super) fn commit(&mut self, rows: Rows) {
        self.versions.push(rows);
    }

    /// The table and the incoming rows after the schema change that is asked for: the table's rows with its new columns, and
    /// the incoming rows with those of their columns that the table then has, in their own order.
    pub(super) fn fit(&self, incoming: &Rows) -> Result<(Rows, Rows), Refusal> {
        let mut table = self.rows().clone();
        for column in &incoming.columns {
            if table.columns.iter().any(|c| c.name == column.name && c.ty != column.ty) {
                return Err(Refusal::TypeChanged(column.name.clone()));
            }
        }
        let lacks = |rows: &Rows, c: &Column| !rows.columns.iter().any(|o| o.name == c.name);
        let added: Vec<Column> = incoming.columns.iter().filter(|c| lacks(&table, c)).cloned().collect();
        let missing: Vec<&Column> = table.columns.iter().filter(|c| lacks(incoming, c)).collect();
        match self.on_schema_change {
            SchemaChange::Fail if !added.is_empty() || !missing.is_empty() => {
                let added = added.into_iter().map(|c| c.name).collect();
                let missing = missing.into_iter().map(|c| c.name.clone()).collect();
                return Err(Refusal::SchemaChanged { added, missing });
            }
            SchemaChange::AppendNewColumns | SchemaChange::SyncAllColumns => {
                for row in &mut table.rows {
                    row.extend(added.iter().map(|_| Value::Null));
                }
                table.columns.extend(added);
            }
            _ => {}
        }
        let kept: Vec<usize> = (0..incoming.columns.len()).filter(|i| !lacks(&table, &incoming.columns[*i])).collect();
        let rows = incoming.rows.iter().map(|r| kept.iter().map(|i| r[*i].clone()).collect()).collect();
        let columns = kept.iter().map(|i| incoming.columns[*i].clone()).collect();
        Ok((table, Rows::new(columns, rows)))
    }

    /// `overwrite`: the incoming rows and columns are the table.
    pub fn overwrite(&mut self, incoming: &Rows) -> Counts {
        let deleted = self.rows().rows.len();
        self.commit(incoming.clone());
        Counts { inserted: incoming.rows.len(), deleted, committed: true, ..Counts::default() }
    }

    /// `overwrite` that keeps the table's columns: the incoming rows are added to an empty table.
    ///
    /// # Errors
    /// When the columns do not fit.
    pub fn refill(&mut self, incoming: &Rows) -> Result<Counts, Refusal> {
        let (mut table, incoming) = self.fit(incoming)?;
        let deleted = table.rows.len();
        table.rows = aligned(&table, &incoming);
        let inserted = table.rows.len();
        self.commit(table);
        Ok(Counts { inserted, deleted, committed: true, ..Counts::default() })
    }

    /// `append` and `safeappend`: the incoming rows are added, by column name.
    ///
    /// # Errors
    /// When the columns do not fit.
    pub fn append(&mut self, incoming: &Rows) -> Result<Counts, Refusal> {
        let (table, incoming) = self.fit(incoming)?;
        let added = aligned(&table, &incoming);
        self.finish(table, Counts { inserted: added.len(), ..Counts::default() }, added)
    }

    /// `delete`: the rows for which the condition is true go; without one, all.
    ///
    /// # Errors
    /// When the condition names an unknown column.
    pub fn delete(&mut self, condition: Option<&Expr>) -> Result<Counts, Refusal> {
        let mut table = self.rows().clone();
        let before = table.rows.len();
        retain(&mut table, |scope| Ok(!condition.is_none_or_true(scope)?))?;
        let deleted = before - table.rows.len();
        self.finish(table, Counts { deleted, ..Counts::default() }, Vec::new())
    }

    /// `update`: sets columns of the rows for which the condition is true. Values are computed from the row as it was.
    ///
    /// # Errors
    /// When an unknown column is named.
    pub fn update(&mut self, set: &[(String, Expr)], condition: Option<&Expr>) -> Result<Counts, Refusal> {
        let table = self.rows().clone();
        let mut new = table.clone();
        let mut updated = 0;
        for (row, new_row) in table.rows.iter().zip(&mut new.rows) {
            let scope = Scope { target: &table, target_row: Some(row), source: &table, source_row: None };
            if condition.is_none_or_true(scope)? {
                for (column, value) in set {
                    new_row[table.index(column)?] = value.value(scope)?;
                }
                updated += usize::from(new_row != row);
            }
        }
        self.finish(new, Counts { updated, ..Counts::default() }, Vec::new())
    }

    /// Commits the rows and the added ones, unless nothing changed: neither rows nor columns.
    pub(super) fn finish(
        &mut self,
        mut table: Rows,
        mut counts: Counts,
        added: Vec<Vec<Value>>,
    ) -> Result<Counts, Refusal> {
        table.rows.extend(added);
        counts.committed =
            counts.inserted + counts.updated + counts.deleted > 0 || table.columns.len() != self.columns().len();
        if counts.committed {
            self.commit(table);
        }
        Ok(counts)
    }
}

/// The incoming rows with the table's columns, NULL where they lack one.
pub(super) fn aligned(table: &Rows, incoming: &Rows) -> Vec<Vec<Value>> {
    let from: Vec<Option<usize>> = table.columns.iter().map(|c| incoming.index(&c.name).ok()).collect();
    let value = |row: &Vec<Value>, i: &Option<usize>| i.map_or(Value::Null, |i| row[i].clone());
    incoming.rows.iter().map(|row| from.iter().map(|i| value(row, i)).collect()).collect()
}

/// Keeps the table's rows that fulfil a condition.
pub(super) fn retain(table: &mut Rows, keep: impl Fn(Scope<'_>) -> Result<bool, Refusal>) -> Result<(), Refusal> {
    let all = table.clone();
    table.rows.clear();
    for row in &all.rows {
        if keep(Scope { target: &all, target_row: Some(row), source: &all, source_row: None })? {
            table.rows.push(row.clone());
        }
    }
    Ok(())
}

/// A condition that may be missing, which holds always.
pub(super) trait Condition {
    fn is_none_or_true(&self, scope: Scope<'_>) -> Result<bool, Refusal>;
}

impl Condition for Option<&Expr> {
    fn is_none_or_true(&self, scope: Scope<'_>) -> Result<bool, Refusal> {
        self.map_or(Ok(true), |e| e.holds(scope))
    }
}
