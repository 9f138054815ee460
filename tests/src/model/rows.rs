//! Columns and rows: what a query returns and what a table holds.

use std::fmt;

use super::expr::Scope;
use super::{Expr, Refusal, Type, Value};

/// A column.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Column {
    /// The name.
    pub name: String,
    /// The type.
    pub ty: Type,
}

impl Column {
    /// A column.
    pub fn new(name: impl Into<String>, ty: Type) -> Self {
        Self { name: name.into(), ty }
    }
}

/// Rows with their columns. Two are equal if they hold the same rows, in any order.
#[derive(Clone)]
pub struct Rows {
    /// The columns.
    pub columns: Vec<Column>,
    /// The rows, each with one value for every column.
    pub rows: Vec<Vec<Value>>,
}

impl Rows {
    /// Rows with their columns.
    pub fn new(columns: Vec<Column>, rows: Vec<Vec<Value>>) -> Self {
        debug_assert!(rows.iter().all(|r| r.len() == columns.len()), "a row has another number of values");
        Self { columns, rows }
    }

    /// Where a column is.
    ///
    /// # Errors
    /// [`Refusal::UnknownColumn`].
    pub fn index(&self, name: &str) -> Result<usize, Refusal> {
        self.columns.iter().position(|c| c.name == name).ok_or_else(|| Refusal::UnknownColumn(name.to_owned()))
    }

    /// Where several columns are.
    ///
    /// # Errors
    /// [`Refusal::UnknownColumn`].
    pub fn indexes(&self, names: &[String]) -> Result<Vec<usize>, Refusal> {
        names.iter().map(|n| self.index(n)).collect()
    }

    /// The rows for which a condition over the table's columns is true.
    ///
    /// # Errors
    /// [`Refusal::UnknownColumn`].
    pub fn filter(&self, condition: &Expr) -> Result<Self, Refusal> {
        let mut rows = Vec::new();
        for row in &self.rows {
            if condition.holds(Scope { target: self, target_row: Some(row), source: self, source_row: None })? {
                rows.push(row.clone());
            }
        }
        Ok(Self::new(self.columns.clone(), rows))
    }

    /// The rows with every zero positive: where an engine joins on floats, it may hand on the other zero.
    pub fn unsigned_zeros(&self) -> Self {
        let one = |v: &Value| match v {
            Value::Float(f) if *f == 0.0 => Value::Float(0.0),
            other => other.clone(),
        };
        Self::new(self.columns.clone(), self.rows.iter().map(|r| r.iter().map(one).collect()).collect())
    }

    /// The rows as sorted text, for comparing and for reading in a failed test.
    pub fn sorted(&self) -> Vec<String> {
        let mut lines: Vec<String> = self.rows.iter().map(|r| format!("{r:?}")).collect();
        lines.sort();
        lines
    }
}

impl PartialEq for Rows {
    fn eq(&self, other: &Self) -> bool {
        self.columns == other.columns && self.sorted() == other.sorted()
    }
}

impl fmt::Debug for Rows {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<String> = self.columns.iter().map(|c| format!("{} {:?}", c.name, c.ty)).collect();
        writeln!(f, "({})", names.join(", "))?;
        self.sorted().iter().try_for_each(|line| writeln!(f, "  {line}"))
    }
}
