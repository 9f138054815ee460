//! Merges: incoming rows whose keys meet the table's, and options.

use duckrun::SchemaChange;
use duckrun::core::{NullKeys, When};
use proptest::prelude::*;
use proptest::sample::{select, subsequence};

use super::tables::{TableCase, row, table_case};
use super::values::{edges, value};
use crate::model::{BySource, Clause, Column, Compare, Expr, MergeOptions, Order, Rows, Then, Type, Value};

/// A table, incoming rows and what to do with them.
#[derive(Debug, Clone)]
pub struct MergeCase {
    /// The table.
    pub table: TableCase,
    /// The incoming rows.
    pub incoming: Rows,
    /// The options.
    pub options: MergeOptions,
    /// What happens when the columns differ.
    pub on_schema_change: SchemaChange,
}

/// A condition over the table's row (if `target`) and the incoming row (if `source`), in columns that both have.
pub fn expression(columns: &[Column], target: bool, source: bool) -> BoxedStrategy<Expr> {
    let scalar: Vec<Column> = columns.iter().filter(|c| c.ty.is_scalar()).cloned().collect();
    let comparisons = select(vec![
        Compare::Equal,
        Compare::NotEqual,
        Compare::Less,
        Compare::LessOrEqual,
        Compare::Greater,
        Compare::GreaterOrEqual,
    ]);
    let side = |name: String, of_target: bool| if of_target { Expr::Target(name) } else { Expr::Source(name) };
    let leaf = (select(scalar), comparisons, any::<(bool, u8)>()).prop_flat_map(move |(column, how, (which, kind))| {
        let left_target = if target && source { which } else { target };
        let left = side(column.name.clone(), left_target);
        match kind % 4 {
            0 => Just(Expr::IsNull(Box::new(left))).boxed(),
            1 if target && source => Just(left.compare(how, side(column.name, !left_target))).boxed(),
            _ => literal(&column.ty).prop_map(move |v| left.clone().compare(how, Expr::Literal(v))).boxed(),
        }
    });
    leaf.prop_recursive(2, 4, 2, |inner| {
        prop_oneof![
            (inner.clone(), inner.clone()).prop_map(|(a, b)| Expr::And(Box::new(a), Box::new(b))),
            (inner.clone(), inner.clone()).prop_map(|(a, b)| Expr::Or(Box::new(a), Box::new(b))),
            inner.prop_map(|a| Expr::Not(Box::new(a))),
        ]
    })
    .boxed()
}

/// A constant that is not NULL and not NaN: both have rows of their own in the tables.
fn literal(ty: &Type) -> BoxedStrategy<Value> {
    let fit = |v: &Value| !v.is_null() && !matches!(v, Value::Float(f) if !f.is_finite());
    let fallback = edges(ty).into_iter().find(fit).unwrap_or(Value::Null);
    value(ty).prop_map(move |v| if fit(&v) { v } else { fallback.clone() }).boxed()
}

/// What an update or insert sets: columns to the incoming value, to the table's or the incoming one, to NULL.
fn assignments(columns: &[Column], insert: bool) -> BoxedStrategy<Vec<(String, Expr)>> {
    let columns: Vec<Column> = columns.iter().filter(|c| insert || c.name != "part").cloned().collect();
    let count = columns.len();
    subsequence(columns, 1..=count)
        .prop_flat_map(move |columns| {
            let values: Vec<BoxedStrategy<(String, Expr)>> = columns
                .into_iter()
                .map(|c| {
                    any::<u8>()
                        .prop_map(move |kind| {
                            let (target, source) = (Expr::Target(c.name.clone()), Expr::Source(c.name.clone()));
                            let value = match kind % 8 {
                                0 => Expr::Literal(Value::Null),
                                1 if !insert => Expr::Coalesce(Box::new(target), Box::new(source)),
                                2 if !insert => target,
                                _ => source,
                            };
                            (c.name.clone(), value)
                        })
                        .boxed()
                })
                .collect();
            values
        })
        .boxed()
}

/// A list of clauses, in any order.
fn clauses(columns: &[Column]) -> BoxedStrategy<Vec<Clause>> {
    let all = columns.to_vec();
    let some = |e: BoxedStrategy<Expr>| prop::option::weighted(0.7, e);
    let matched =
        (some(expression(&all, true, true)), assignments(&all, false), any::<u8>()).prop_map(|(c, set, kind)| {
            let then = match kind % 4 {
                0 => Then::Delete,
                1 => Then::Nothing,
                _ => Then::Update(set),
            };
            Clause::new(When::Matched, c, then)
        });
    let new = (some(expression(&all, false, true)), assignments(&all, true))
        .prop_map(|(c, set)| Clause::new(When::NotMatched, c, Then::Insert(set)));
    let gone =
        (some(expression(&all, true, false)), select(all.clone()), any::<bool>()).prop_map(|(c, column, delete)| {
            let set =
                vec![(if column.name == "part" { "seq".to_owned() } else { column.name }, Expr::Literal(Value::Null))];
            Clause::new(When::NotMatchedBySource, c, if delete { Then::Delete } else { Then::Update(set) })
        });
    prop::collection::vec(prop_oneof![3 => matched, 2 => new, 1 => gone], 1..5)
        .prop_map(|mut clauses: Vec<Clause>| {
            // A clause after one of its kind that holds always is a mistake, and refused as one.
            let mut ended = Vec::new();
            clauses.retain(|c| {
                let reachable = !ended.contains(&c.when);
                if c.condition.is_none() {
                    ended.push(c.when);
                }
                reachable
            });
            clauses
        })
        .boxed()
}

/// Options that say what to do by columns and conditions.
fn options(columns: &[Column], keys: &[String]) -> BoxedStrategy<MergeOptions> {
    let keys = keys.to_vec();
    let values: Vec<String> =
        columns.iter().map(|c| c.name.clone()).filter(|n| !keys.contains(n) && n != "seq").collect();
    let count = values.len();
    let some = |e: BoxedStrategy<Expr>| prop::option::weighted(0.25, e);
    (
        (
            prop::option::weighted(0.2, subsequence(values.clone(), 1..=count)),
            subsequence(values, 0..=count),
            any::<u8>(),
        ),
        (some(expression(columns, true, true)), some(expression(columns, false, true))),
        some(expression(columns, true, true)),
        some(expression(columns, false, true)),
        prop::option::weighted(0.25, prop::option::of(expression(columns, true, false))),
    )
        .prop_map(move |((only, exclude, kind), (update, insert), predicate, marked, gone)| MergeOptions {
            exclude_columns: if only.is_none() && kind % 4 == 0 { exclude } else { Vec::new() },
            update_columns: only,
            update_condition: update,
            insert_condition: insert,
            predicates: predicate.into_iter().collect(),
            delete_when: marked,
            by_source: gone.map(BySource::Delete),
            ..MergeOptions::on(keys.clone())
        })
        .boxed()
}

/// A merge.
pub fn merge_case() -> BoxedStrategy<MergeCase> {
    table_case()
        .prop_flat_map(|table| {
            // A source may lack columns; it never lacks keys, `seq` and the partition column.
            let droppable: Vec<usize> = (table.keys.len()..table.columns.len())
                .filter(|i| !["seq", "part"].contains(&table.columns[*i].name.as_str()))
                .collect();
            let count = droppable.len();
            let lacks = prop_oneof![3 => Just(Vec::new()), 1 => subsequence(droppable, 0..count)];
            (Just(table), lacks, prop::bool::weighted(0.2))
        })
        .prop_flat_map(|(table, lacks, extra)| {
            let columns: Vec<Column> =
                table.columns.iter().enumerate().filter(|(i, _)| !lacks.contains(i)).map(|(_, c)| c.clone()).collect();
            let rows = prop::collection::vec(row(&columns, &table.pools), 0..10);
            let chosen = prop_oneof![
                3 => options(&columns, &table.keys),
                2 => (Just(table.keys.clone()), clauses(&columns))
                    .prop_map(|(keys, clauses)| MergeOptions { clauses, ..MergeOptions::on(keys) }),
            ];
            let nulls = select(vec![NullKeys::Equal, NullKeys::Distinct, NullKeys::Refuse]);
            let extra = if extra { Some(Column::new("extra", Type::Text)) } else { None };
            let change =
                select(vec![SchemaChange::Ignore, SchemaChange::AppendNewColumns, SchemaChange::SyncAllColumns]);
            (Just((table, columns, extra)), rows, chosen, nulls, any::<(u8, bool)>(), change)
        })
        .prop_map(|((table, mut columns, extra), mut rows, mut options, nulls, (kind, skip), on_schema_change)| {
            options.null_keys = nulls;
            options.skip_unchanged = skip;
            let seq = columns.iter().position(|c| c.name == "seq").unwrap_or_default();
            rows.iter_mut().zip(1000..).for_each(|(row, n)| row[seq] = Value::Int(n));
            match kind % 8 {
                // One in eight keeps its duplicates, to be refused; two say which row to keep.
                0 => {}
                1 | 2 => options.dedup_by = Some(vec![Order { column: "seq".into(), descending: kind > 127 }]),
                _ => {
                    let count = table.keys.len();
                    let mut seen: Vec<Vec<Value>> = Vec::new();
                    rows.retain(|row| {
                        let key = row[..count].to_vec();
                        let known = seen.iter().any(|k| k.iter().zip(&key).all(|(a, b)| a.matches(b)));
                        seen.push(key);
                        !known
                    });
                }
            }
            if let Some(column) = extra {
                columns.push(column);
                rows.iter_mut().for_each(|row| row.push(Value::from("extra")));
            }
            MergeCase { table, incoming: Rows::new(columns, rows), options, on_schema_change }
        })
        .boxed()
}
