//! What a writer does, as data: an operation says exactly which rows the writer has afterwards.

use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};

use super::Numbers;

/// One row of a writer: a key that is unique among its rows, the operation that wrote it, and a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Row {
    /// The key.
    pub id: i64,
    /// The number of the operation that wrote the row last.
    pub op: i64,
    /// A value.
    pub val: i64,
}

/// The rows of a writer, sorted.
pub type Rows = Vec<Row>;

/// Every kind of operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// A blind append.
    Append,
    /// An append that is refused after any other commit.
    SafeAppend,
    /// Rows whose key is absent.
    Insert,
    /// An upsert.
    Merge,
    /// Rows by their keys deleted, and inserted.
    DeleteInsert,
    /// The writer's rows replaced, by a predicate.
    Replace,
    /// The rows of the writer's day replaced, as a window of a microbatch.
    Microbatch,
    /// An upsert that deletes what it does not bring; only for a writer that is alone.
    FullSync,
    /// The whole table replaced; only for a writer that is alone.
    Overwrite,
    /// Rows deleted by a predicate.
    Delete,
    /// Rows updated by a predicate.
    Update,
    /// Small files merged.
    Compact,
    /// Rows ordered along a curve.
    ZOrder,
    /// Files that no version needs deleted, without a retention; only for a writer that is alone.
    Vacuum,
    /// A checkpoint.
    Checkpoint,
    /// Expired log entries deleted; only for a writer that is alone.
    CleanLog,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 16] = [
        Self::Append,
        Self::SafeAppend,
        Self::Insert,
        Self::Merge,
        Self::DeleteInsert,
        Self::Replace,
        Self::Microbatch,
        Self::FullSync,
        Self::Overwrite,
        Self::Delete,
        Self::Update,
        Self::Compact,
        Self::ZOrder,
        Self::Vacuum,
        Self::Checkpoint,
        Self::CleanLog,
    ];
}

/// Which operations a writer chooses from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mix {
    /// Every kind: for a writer that is alone.
    Alone,
    /// What many writers may do to one table, each to its own rows.
    Shared,
    /// Only one kind, where the writer has rows that it can be done to.
    Only(Kind),
}

/// A writer whose rows are more than this replaces them.
const MOST_ROWS: usize = 60;

/// What a writer does to its rows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Operation {
    /// What it does.
    pub kind: Kind,
    /// The rows that it brings; none for changes by predicate and maintenance.
    pub rows: Rows,
    /// For changes by predicate: the rows whose key leaves this remainder ...
    pub remainder: i64,
    /// ... divided by this.
    pub modulus: i64,
    /// For updates: what is added to the value.
    pub plus: i64,
    /// The number of the operation.
    pub number: i64,
}

impl Operation {
    /// Chooses an operation for a writer that has these rows.
    #[must_use]
    pub fn choose(mix: Mix, number: i64, before: &[Row], numbers: &mut Numbers) -> Self {
        use Kind as K;
        let shared: [K; 15] = [
            K::Append,
            K::Append,
            K::Append,
            K::SafeAppend,
            K::SafeAppend,
            K::Insert,
            K::Merge,
            K::Merge,
            K::DeleteInsert,
            K::Replace,
            K::Microbatch,
            K::Delete,
            K::Update,
            K::Compact,
            K::Checkpoint,
        ];
        let wanted = match mix {
            Mix::Only(kind) => kind,
            Mix::Alone => numbers.one_of(&K::ALL),
            Mix::Shared => numbers.one_of(&shared),
        };
        let grows = matches!(wanted, K::Append | K::SafeAppend | K::Insert | K::Merge | K::DeleteInsert);
        let kind = match wanted {
            _ if grows && before.len() > MOST_ROWS => K::Replace,
            other => other,
        };
        let fresh = |i: u64| Row { id: number * 16 + i as i64, op: number, val: i as i64 };
        let mut rows: Rows = (0..2 + numbers.below(4)).map(fresh).collect();
        match kind {
            K::Insert | K::Merge | K::DeleteInsert | K::FullSync => {
                let skip = numbers.below(3) as usize;
                let old = before.iter().skip(skip).step_by(3).take(8);
                rows.extend(old.map(|row| Row { op: number, val: row.val + 1000, ..*row }));
            }
            K::Append | K::SafeAppend | K::Replace | K::Microbatch | K::Overwrite => {}
            _ => rows.clear(),
        }
        let modulus = 2 + numbers.below(3) as i64;
        let remainder = numbers.below(modulus as u64) as i64;
        Self { kind, rows, remainder, modulus, plus: 1 + numbers.below(9) as i64, number }
    }

    /// Whether a predicate of this operation takes the row.
    fn takes(&self, row: &Row) -> bool {
        row.id % self.modulus == self.remainder
    }

    /// The writer's rows afterwards.
    #[must_use]
    pub fn apply(&self, before: &[Row]) -> Rows {
        let mut rows = before.to_vec();
        let brings = |row: &Row| self.rows.iter().any(|new| new.id == row.id);
        match self.kind {
            Kind::Append | Kind::SafeAppend => rows.extend(&self.rows),
            Kind::Insert => {
                let absent = self.rows.iter().filter(|new| before.iter().all(|old| old.id != new.id));
                rows.extend(absent);
            }
            Kind::Merge | Kind::DeleteInsert => {
                rows.retain(|row| !brings(row));
                rows.extend(&self.rows);
            }
            Kind::Replace | Kind::Microbatch | Kind::FullSync | Kind::Overwrite => rows.clone_from(&self.rows),
            Kind::Delete => rows.retain(|row| !self.takes(row)),
            Kind::Update => {
                for row in rows.iter_mut().filter(|row| self.takes(row)) {
                    *row = Row { op: self.number, val: row.val + self.plus, ..*row };
                }
            }
            Kind::Compact | Kind::ZOrder | Kind::Vacuum | Kind::Checkpoint | Kind::CleanLog => {}
        }
        rows.sort_unstable();
        rows
    }

    /// The rows that it brings, as a SQL query over the table's columns.
    #[must_use]
    pub fn sql(&self, writer: i64) -> String {
        rows_sql(writer, &self.rows)
    }

    /// The predicate of a change, as SQL.
    #[must_use]
    pub fn predicate(&self, writer: i64) -> String {
        format!("writer = {writer} and id % {} = {}", self.modulus, self.remainder)
    }
}

/// The day of a writer, by which windows tell its rows from those of others.
pub(super) fn day(writer: i64) -> DateTime<Utc> {
    DateTime::UNIX_EPOCH + TimeDelta::days(10_000 + writer)
}

pub(super) fn rows_sql(writer: i64, rows: &[Row]) -> String {
    let values: Vec<String> = rows
        .iter()
        .map(|r| format!("({writer}::bigint, {}::bigint, {}::bigint, {}::bigint)", r.id, r.op, r.val))
        .collect();
    let day = day(writer).format("%F");
    format!("select *, date '{day}' as day from (values {}) v(writer, id, op, val)", values.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_stay_unique_and_choices_repeat() {
        let (mut rows, mut again) = (Rows::new(), Rows::new());
        let (mut one, mut two) = (Numbers::new(7), Numbers::new(7));
        for number in 1..500 {
            let operation = Operation::choose(Mix::Alone, number, &rows, &mut one);
            assert_eq!(operation, Operation::choose(Mix::Alone, number, &again, &mut two));
            rows = operation.apply(&rows);
            again = operation.apply(&again);
            let mut ids: Vec<i64> = rows.iter().map(|r| r.id).collect();
            ids.dedup();
            assert_eq!(ids.len(), rows.len(), "{operation:?}");
            assert!(rows.len() < MOST_ROWS + 20);
        }
    }
}
