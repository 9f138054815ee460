//! What the generator knows of the table while it draws a sequence: its columns, if all goes as foreseen.
//!
//! Whether a run is refused by another one is decided while the sequence runs, so the shape is a forecast; a step that does not
//! fit the table after all is left out then.

use proptest::prelude::*;
use proptest::sample::select;

use crate::generate::{self, value};
use crate::model::{Changed, Column, Rows, Scd2, Type, Value};

/// The columns of a history that are not the source's; `dbt_scd_id` is beside them and is not compared.
const HISTORY: [&str; 3] = ["dbt_updated_at", "dbt_valid_from", "dbt_valid_to"];

/// The table as a sequence foresees it.
#[derive(Debug, Clone)]
pub(super) struct Shape {
    /// The columns: keys first.
    pub(super) columns: Vec<Column>,
    /// Columns that incoming rows may add.
    pub(super) extras: Vec<Column>,
    /// The key columns.
    pub(super) keys: Vec<String>,
    /// The partition columns.
    pub(super) partition_by: Vec<String>,
    /// The values that each key draws from.
    pub(super) pools: Vec<Vec<Value>>,
    /// The rows of the first run.
    pub(super) first: Rows,
    /// Rows of a row group of the first run.
    pub(super) row_group_rows: usize,
    /// Table properties.
    pub(super) properties: Vec<(String, String)>,
    /// Whether the table is a history, and by which rules.
    pub(super) history: Option<Scd2>,
}

impl Shape {
    /// The columns of incoming rows.
    pub(super) fn source(&self) -> Vec<Column> {
        let own = |c: &&Column| self.history.is_none() || !HISTORY.contains(&c.name.as_str());
        self.columns.iter().filter(own).cloned().collect()
    }

    /// A column that the table lacks.
    pub(super) fn extra(&self) -> Option<Column> {
        self.extras.iter().find(|e| !self.columns.iter().any(|c| c.name == e.name)).cloned()
    }
}

fn properties() -> BoxedStrategy<Vec<(String, String)>> {
    (select(vec![3_u32, 10, 1000]), any::<bool>())
        .prop_map(|(interval, forgets)| {
            let mut properties = vec![("delta.checkpointInterval".to_owned(), interval.to_string())];
            if forgets {
                properties.push(("delta.logRetentionDuration".to_owned(), "interval 0 seconds".to_owned()));
            }
            properties
        })
        .boxed()
}

/// A table of rows.
fn rows() -> BoxedStrategy<Shape> {
    let at = select(vec![Type::Date, Type::Timestamp, Type::TimestampNtz]);
    (generate::columns(), at)
        .prop_flat_map(|((mut columns, keys, partitioned), at)| {
            columns.insert(keys, Column::new("at", at));
            let pools: Vec<BoxedStrategy<Vec<Value>>> =
                columns[..keys].iter().map(|c| prop::collection::vec(value(&c.ty), 2..8).boxed()).collect();
            (Just((columns, partitioned)), pools)
        })
        .prop_flat_map(|((columns, partitioned), pools)| {
            let first = prop::collection::vec(generate::row(&columns, &pools), 0..8);
            (Just((columns, partitioned, pools)), first, select(vec![1_usize, 3, 1000]), properties())
        })
        .prop_map(|((columns, partitioned, pools), mut first, row_group_rows, properties)| {
            generate::number(&columns, &mut first, 1);
            Shape {
                keys: columns[..pools.len()].iter().map(|c| c.name.clone()).collect(),
                extras: vec![Column::new("extra", Type::Text), Column::new("more", Type::Double)],
                partition_by: if partitioned { vec!["part".to_owned()] } else { Vec::new() },
                first: Rows::new(columns.clone(), first),
                columns,
                pools,
                row_group_rows,
                properties,
                history: None,
            }
        })
        .boxed()
}

/// A history, as `scd2` keeps it.
fn history() -> BoxedStrategy<Shape> {
    (any::<bool>(), any::<bool>(), properties())
        .prop_map(|(by_time, close_missing, properties)| {
            let mut columns = vec![
                Column::new("id", Type::Long),
                Column::new("v", Type::Long),
                Column::new("at", Type::TimestampNtz),
            ];
            columns.extend(HISTORY.map(|n| Column::new(n, Type::TimestampNtz)));
            let changed = if by_time { Changed::UpdatedAt("at".into()) } else { Changed::Columns(vec!["v".into()]) };
            Shape {
                first: Rows::new(columns.clone(), Vec::new()),
                columns,
                extras: Vec::new(),
                keys: vec!["id".to_owned()],
                partition_by: Vec::new(),
                pools: vec![(0..5).map(Value::Int).collect()],
                row_group_rows: 1000,
                properties,
                history: Some(Scd2 { keys: vec!["id".into()], changed, close_missing, now: 0 }),
            }
        })
        .boxed()
}

/// A table to begin with.
pub(super) fn shape() -> BoxedStrategy<Shape> {
    prop_oneof![7 => rows(), 1 => history()].boxed()
}
