//! Tables: columns with nasty names, rows spread over files, partitions, tiny row groups, rows that a vector deleted.

use proptest::prelude::*;
use proptest::sample::{Index, select};

use super::values::{key_type, partition_type, value, value_type};
use crate::model::{Column, Rows, Table, Type, Value};

/// A table and how its rows lie in files.
#[derive(Debug, Clone)]
pub struct TableCase {
    /// The columns: keys first, then values, then `seq`, then the partition column if there is one.
    pub columns: Vec<Column>,
    /// The key columns' names.
    pub keys: Vec<String>,
    /// The partition columns' names.
    pub partition_by: Vec<String>,
    /// The rows of each write.
    pub files: Vec<Vec<Vec<Value>>>,
    /// Rows of a row group.
    pub row_group_rows: usize,
    /// For each write, rows that a deletion vector removes afterwards (their numbers). Only without partitions.
    pub deleted: Vec<Vec<u64>>,
    /// The values that each key column draws from, so that keys meet.
    pub pools: Vec<Vec<Value>>,
}

impl TableCase {
    /// The rows of one write.
    pub fn file(&self, n: usize) -> Rows {
        Rows::new(self.columns.clone(), self.files[n].clone())
    }

    /// All rows that are not deleted, as the model's table.
    pub fn table(&self) -> Table {
        let mut rows = Vec::new();
        for (file, deleted) in self.files.iter().zip(&self.deleted) {
            rows.extend(
                file.iter().enumerate().filter(|(i, _)| !deleted.contains(&(*i as u64))).map(|(_, r)| r.clone()),
            );
        }
        Table::new(Rows::new(self.columns.clone(), rows))
    }
}

/// The columns of a table: one or two keys, one to four values, `seq` (a number for tests to order by), perhaps a partition
/// column. Returns the columns and how many are keys and whether the last is the partition column.
pub fn columns() -> BoxedStrategy<(Vec<Column>, usize, bool)> {
    let keys = prop::collection::vec(key_type(), 1..=2);
    let values = prop::collection::vec(value_type(), 1..=4);
    (keys, values, prop::option::weighted(0.35, partition_type()))
        .prop_map(|(keys, values, partition)| {
            // A keyword, capitals, a letter beyond ASCII: every name must be quoted by whoever writes SQL.
            let key_names = ["Key", "select"];
            let value_names = ["v", "größe", "Target", "order"];
            let count = keys.len();
            let mut columns: Vec<Column> = keys.into_iter().zip(key_names).map(|(t, n)| Column::new(n, t)).collect();
            columns.extend(values.into_iter().zip(value_names).map(|(t, n)| Column::new(n, t)));
            columns.push(Column::new("seq", Type::Long));
            let partitioned = partition.is_some();
            columns.extend(partition.map(|t| Column::new("part", t)));
            (columns, count, partitioned)
        })
        .boxed()
}

/// A row whose keys come from the pools; `part` and `at` are partition values and event times. `seq` is set by the caller.
pub fn row(columns: &[Column], pools: &[Vec<Value>]) -> BoxedStrategy<Vec<Value>> {
    let cells: Vec<BoxedStrategy<Value>> = columns
        .iter()
        .enumerate()
        .map(|(i, c)| match (pools.get(i), c.name.as_str()) {
            (Some(pool), _) => select(pool.clone()).boxed(),
            (None, "part") => partition_value(&c.ty),
            (None, "seq") => Just(Value::Int(0)).boxed(),
            (None, "at") => event_time(&c.ty),
            (None, _) => value(&c.ty),
        })
        .collect();
    cells.boxed()
}

/// Few partitions, without the empty string, which a Delta table cannot tell from NULL.
pub fn partition_value(ty: &Type) -> BoxedStrategy<Value> {
    let values = match ty {
        Type::Text => ["a b", "c/d=%é", "NULL"].map(Value::from).to_vec(),
        Type::Bool => vec![Value::Bool(false), Value::Bool(true)],
        Type::Date => [-1, 0, 20_000].map(Value::Date).to_vec(),
        Type::Timestamp => [-1, 0, 1_600_000_000_123_456].map(Value::Timestamp).to_vec(),
        _ => [-1, 0, 7].map(Value::Int).to_vec(),
    };
    prop_oneof![1 => Just(Value::Null), 6 => select(values)].boxed()
}

/// A time within a few days of the epoch, for columns that are cut into windows; seldom NULL.
fn event_time(ty: &Type) -> BoxedStrategy<Value> {
    const DAY: i64 = 86_400_000_000;
    let ty = ty.clone();
    (prop::option::weighted(0.97, -3_i64..4), select(vec![0, 1, DAY / 2, DAY - 1]))
        .prop_map(move |(day, us)| match (day, &ty) {
            (None, _) => Value::Null,
            (Some(day), Type::Date) => Value::Date(day as i32),
            (Some(day), _) => Value::Timestamp(day * DAY + us),
        })
        .boxed()
}

/// A table.
pub fn table_case() -> BoxedStrategy<TableCase> {
    columns()
        .prop_flat_map(|(columns, keys, partitioned)| {
            let pools: Vec<BoxedStrategy<Vec<Value>>> =
                columns[..keys].iter().map(|c| prop::collection::vec(value(&c.ty), 2..8).boxed()).collect();
            (Just(columns), Just(partitioned), pools)
        })
        .prop_flat_map(|(columns, partitioned, pools)| {
            let file = prop::collection::vec(row(&columns, &pools), 0..8);
            let deleted = prop::collection::vec(prop::option::weighted(0.3, any::<Index>()), 4);
            (
                Just((columns, partitioned, pools)),
                prop::collection::vec(file, 1..4),
                select(vec![1_usize, 3, 1000]),
                deleted,
            )
        })
        .prop_map(|((columns, partitioned, pools), mut files, row_group_rows, picks)| {
            if let Some(seq) = columns.iter().position(|c| c.name == "seq") {
                files.iter_mut().flatten().zip(1..).for_each(|(row, n)| row[seq] = Value::Int(n));
            }
            let deleted = files
                .iter()
                .zip(picks)
                .map(|(rows, pick)| match pick {
                    Some(pick) if !partitioned && rows.len() > 1 => vec![pick.index(rows.len()) as u64],
                    _ => Vec::new(),
                })
                .collect();
            let keys = columns[..pools.len()].iter().map(|c| c.name.clone()).collect();
            let partition_by = if partitioned { vec!["part".to_owned()] } else { Vec::new() };
            TableCase { columns, keys, partition_by, files, row_group_rows, deleted, pools }
        })
        .boxed()
}
