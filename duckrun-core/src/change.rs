//! Plans that change rows: merges, replacements, updates and deletes. Plain values over parsed SQL expressions.

use std::collections::BTreeSet;

use arrow::array::ArrayRef;
use arrow::datatypes::SchemaRef;
use serde::{Deserialize, Serialize};

/// An expression over the columns of the table (`target`) and of the incoming rows (`source`), parsed and qualified.
///
/// Every column is written as `target."name"` or `source."name"`; the names that occur are listed, so that an executor reads
/// no other column.
#[non_exhaustive]
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RowExpr {
    /// The SQL text.
    pub sql: String,
    /// Columns of the table that occur.
    pub target: BTreeSet<String>,
    /// Columns of the incoming rows that occur.
    pub source: BTreeSet<String>,
    /// What must hold of single columns of the table where the expression holds, for pruning. May be empty.
    pub bounds: Vec<Bound>,
}

impl RowExpr {
    /// An expression whose columns are known.
    pub fn new(sql: impl Into<String>, target: BTreeSet<String>, source: BTreeSet<String>) -> Self {
        Self { sql: sql.into(), target, source, bounds: Vec::new() }
    }
}

/// A comparison of a column of the table with a constant.
#[non_exhaustive]
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bound {
    /// The column.
    pub column: String,
    /// How it compares: `=`, `<`, `<=`, `>` or `>=`.
    pub comparison: Comparison,
    /// The constant, as SQL.
    pub constant: String,
}

impl Bound {
    /// A bound.
    pub fn new(column: impl Into<String>, comparison: Comparison, constant: impl Into<String>) -> Self {
        Self { column: column.into(), comparison, constant: constant.into() }
    }
}

/// A comparison.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Comparison {
    /// Equal.
    Equal,
    /// Less than.
    Less,
    /// Less than or equal.
    LessOrEqual,
    /// Greater than.
    Greater,
    /// Greater than or equal.
    GreaterOrEqual,
}

/// What a NULL in a key means.
#[non_exhaustive]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NullKeys {
    /// An incoming row with a NULL key is an error: it would be inserted again by every run.
    #[default]
    Refuse,
    /// As in SQL: NULL matches nothing, and the row is inserted.
    Distinct,
    /// NULL matches NULL.
    Equal,
}

/// What happens when two incoming rows have the same key.
#[non_exhaustive]
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Duplicates {
    /// An error that names the key and the count, before anything is written.
    #[default]
    Refuse,
    /// The first row in this order is kept (the text of an ORDER BY over `source`), the others are dropped.
    KeepFirst(String),
    /// All of them are rows of their own.
    Allow,
}

/// A merge: incoming rows are matched with the table's by key; clauses say what becomes of each row.
///
/// Without keys nothing matches; without incoming rows (`source` is false) only the clauses for rows
/// [not matched by the source](When::NotMatchedBySource) apply, to every row: an update or a delete.
#[non_exhaustive]
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MergePlan {
    /// Whether there are incoming rows at all.
    pub source: bool,
    /// The key columns, named as in the table.
    pub keys: Vec<String>,
    /// What a NULL key means.
    pub null_keys: NullKeys,
    /// What two incoming rows with one key mean.
    pub duplicates: Duplicates,
    /// Conditions that a match must fulfil beside equal keys.
    pub predicates: Vec<RowExpr>,
    /// The clauses in order; of each kind the first whose condition holds applies.
    pub clauses: Vec<Clause>,
    /// Whether a row that already has its new values counts as unchanged, and a file of such rows is left alone.
    pub skip_unchanged: bool,
    /// The incoming columns, in the types that the expressions see: the table's, where the table has the column.
    pub incoming: SchemaRef,
    /// Whether the table is created or emptied: nothing matches, and every row that is there goes.
    pub fresh: bool,
}

impl MergePlan {
    /// A merge by keys, with the defaults and without clauses.
    pub fn new(keys: Vec<String>, incoming: SchemaRef) -> Self {
        Self {
            source: true,
            keys,
            null_keys: NullKeys::default(),
            duplicates: Duplicates::default(),
            predicates: Vec::new(),
            clauses: Vec::new(),
            skip_unchanged: true,
            incoming,
            fresh: false,
        }
    }

    /// The clauses of a kind.
    pub fn clauses(&self, when: When) -> impl Iterator<Item = &Clause> {
        self.clauses.iter().filter(move |c| c.when == when)
    }
}

/// One clause of a merge.
#[non_exhaustive]
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Clause {
    /// Which rows it is about.
    pub when: When,
    /// The condition; none holds always.
    pub condition: Option<RowExpr>,
    /// What happens.
    pub then: Then,
    /// Whether the incoming row of a match is inserted as well, by the clauses for rows that match nothing (a new version
    /// beside the one that is closed).
    pub also_insert: bool,
}

impl Clause {
    /// A clause.
    pub fn new(when: When, condition: Option<RowExpr>, then: Then) -> Self {
        Self { when, condition, then, also_insert: false }
    }
}

/// What every written row must fulfil beside its types; a violation names the column or constraint and the number of rows.
#[non_exhaustive]
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Check {
    /// No two of the written rows have the same values in these columns.
    Unique(Vec<String>),
    /// A constraint of the table: an expression over its columns, unqualified and quoted, that must be true (not NULL).
    Holds {
        /// The constraint's name.
        name: String,
        /// The expression, whose columns are listed as `target`.
        condition: RowExpr,
    },
}

/// Which rows a clause is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum When {
    /// Rows of the table that match an incoming row.
    Matched,
    /// Incoming rows that match no row of the table.
    NotMatched,
    /// Rows of the table that match no incoming row.
    NotMatchedBySource,
}

/// What a clause does.
#[non_exhaustive]
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Then {
    /// Sets columns of the table's row.
    Update(Vec<Assignment>),
    /// Deletes the table's row.
    Delete,
    /// Inserts a row; columns that are not named are NULL.
    Insert(Vec<Assignment>),
    /// Leaves the row as it is.
    Nothing,
}

/// A column and its new value.
#[non_exhaustive]
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Assignment {
    /// The column, named as in the table.
    pub column: String,
    /// The value.
    pub value: RowExpr,
}

impl Assignment {
    /// An assignment.
    pub fn new(column: impl Into<String>, value: RowExpr) -> Self {
        Self { column: column.into(), value }
    }
}

/// A replacement: rows of the table go, all incoming rows come, in one commit.
#[non_exhaustive]
#[derive(Debug, Clone, PartialEq)]
pub struct ReplacePlan {
    /// Which rows go.
    pub rows: Replaced,
    /// Which incoming rows are taken; the others are dropped without a word (a window of a batch).
    pub keep: Option<RowExpr>,
    /// What every incoming row must fulfil (over `source`); a row that does not is an error.
    pub check: Option<RowExpr>,
    /// The incoming columns, in the types that the expressions see: the table's, where the table has the column.
    pub incoming: SchemaRef,
    /// Whether the table is created or emptied: every row that is there goes.
    pub fresh: bool,
}

impl ReplacePlan {
    /// A replacement that takes every incoming row.
    pub fn new(rows: Replaced, incoming: SchemaRef) -> Self {
        Self { rows, keep: None, check: None, incoming, fresh: false }
    }
}

/// The rows that a replacement deletes.
#[non_exhaustive]
#[derive(Debug, Clone, PartialEq)]
pub enum Replaced {
    /// Those that fulfil a condition over `target`.
    Where(RowExpr),
    /// Those of the partitions that occur among the incoming rows.
    Partitions,
    /// Those whose key occurs among the incoming rows.
    Keys {
        /// The key columns.
        keys: Vec<String>,
        /// What a NULL key means.
        null_keys: NullKeys,
        /// Conditions over `target` that a row must fulfil beside.
        predicates: Vec<RowExpr>,
    },
}

/// A range of one column's values, for pruning files and for judging what others committed.
///
/// Never narrower than what was read: a value outside all ranges cannot have mattered.
#[non_exhaustive]
#[derive(Debug, Clone)]
pub struct ColumnRange {
    /// The column, by its logical name.
    pub column: String,
    /// The smallest value, as an array of one element in the column's type; `None` is unbounded.
    pub min: Option<ArrayRef>,
    /// The largest value.
    pub max: Option<ArrayRef>,
    /// Whether NULL lies in the range.
    pub nulls: bool,
}

impl ColumnRange {
    /// A range without NULL.
    pub fn new(column: impl Into<String>, min: Option<ArrayRef>, max: Option<ArrayRef>) -> Self {
        Self { column: column.into(), min, max, nulls: false }
    }

    /// The same range with NULL in it, or not.
    #[must_use]
    pub fn with_nulls(mut self, nulls: bool) -> Self {
        self.nulls = nulls;
        self
    }
}

/// What a write has read of the table beside its schema: what must not have changed when it commits.
#[non_exhaustive]
#[derive(Debug, Clone, Default)]
pub struct ReadSet {
    /// The files whose rows mattered, by their paths in the log.
    pub files: BTreeSet<String>,
    /// Rows that would have mattered, had they been there: those within all of these ranges. Empty: every row.
    pub ranges: Vec<ColumnRange>,
}
