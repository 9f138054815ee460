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
            prop::option::weighted(0.2, subsequence(values.clone(), count.min(1)..=count)),
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
            // Naming no column is refused.
            update_columns: only.filter(|names| !names.is_empty()),
            update_condition: update,
            insert_condition: insert,
            predicates: predicate.into_iter().collect(),
            delete_when: marked,
            by_source: gone.map(BySource::Delete),
            ..MergeOptions::on(keys.clone())
        })
        .boxed()
}

/// Options of a merge: by columns and conditions, or as a list of clauses. What NULL keys mean is chosen too; duplicates stay as they
/// are by default, refused.
pub fn merge_options(columns: &[Column], keys: &[String]) -> BoxedStrategy<MergeOptions> {
    let listed = (Just(keys.to_vec()), clauses(columns))
        .prop_map(|(keys, clauses)| MergeOptions { clauses, ..MergeOptions::on(keys) });
    let nulls = select(vec![NullKeys::Equal, NullKeys::Distinct, NullKeys::Refuse]);
    (prop_oneof![3 => options(columns, keys), 2 => listed], nulls, any::<bool>())
        .prop_map(|(options, null_keys, skip_unchanged)| MergeOptions { null_keys, skip_unchanged, ..options })
        .boxed()
}

/// Leaves the first row of every key, the keys being the first columns.
pub fn one_per_key(rows: &mut Vec<Vec<Value>>, keys: usize) {
    let mut seen: Vec<Vec<Value>> = Vec::new();
    rows.retain(|row| {
        let key = row[..keys].to_vec();
        let known = seen.iter().any(|k| k.iter().zip(&key).all(|(a, b)| a.matches(b)));
        seen.push(key);
        !known
    });
}

/// Numbers the rows in their column `seq`, so that an order by it has no ties.
pub fn number(columns: &[Column], rows: &mut [Vec<Value>], from: i64) {
    if let Some(seq) = columns.iter().position(|c| c.name == "seq") {
        rows.iter_mut().zip(from..).for_each(|(row, n)| row[seq] = Value::Int(n));
    }
}

/// Rows that may be fewer columns than the table's, and one more; and what happens then. A source never lacks keys, `seq` and the
/// columns that are named beside.
pub fn incoming(
    columns: &[Column],
    pools: &[Vec<Value>],
    needed: &[&str],
    extra: Option<Column>,
) -> BoxedStrategy<(Rows, SchemaChange)> {
    let droppable: Vec<usize> = (pools.len()..columns.len())
        .filter(|i| columns[*i].name != "seq" && !needed.contains(&columns[*i].name.as_str()))
        .collect();
    let count = droppable.len();
    let lacks = prop_oneof![3 => Just(Vec::new()), 1 => subsequence(droppable, 0..=count)];
    let (all, pools) = (columns.to_vec(), pools.to_vec());
    (lacks, prop::bool::weighted(0.2))
        .prop_flat_map(move |(lacks, extended)| {
            let mut columns: Vec<Column> =
                all.iter().enumerate().filter(|(i, _)| !lacks.contains(i)).map(|(_, c)| c.clone()).collect();
            columns.extend(extra.clone().filter(|_| extended));
            let rows = prop::collection::vec(row(&columns, &pools), 0..10);
            let change =
                select(vec![SchemaChange::Ignore, SchemaChange::AppendNewColumns, SchemaChange::SyncAllColumns]);
            (Just(columns), rows, change)
        })
        .prop_map(|(columns, mut rows, change)| {
            number(&columns, &mut rows, 1000);
            (Rows::new(columns, rows), change)
        })
        .boxed()
}

/// What two incoming rows with one key mean to a merge: one in eight keeps them, to be refused; two say which row stays; else
/// there are none.
pub fn settle_duplicates(options: &mut MergeOptions, incoming: &mut Rows, kind: u8) {
    match kind % 8 {
        0 => {}
        1 | 2 => options.dedup_by = Some(vec![Order { column: "seq".into(), descending: kind > 127 }]),
        _ => one_per_key(&mut incoming.rows, options.keys.len()),
    }
}

/// A merge.
pub fn merge_case() -> BoxedStrategy<MergeCase> {
    table_case()
        .prop_flat_map(|table| {
            let extra = Some(Column::new("extra", Type::Text));
            let incoming = incoming(&table.columns, &table.pools, &["part"], extra);
            (Just(table), incoming)
        })
        .prop_flat_map(|(table, (incoming, change))| {
            let known: Vec<Column> = incoming.columns.iter().filter(|c| c.name != "extra").cloned().collect();
            let options = merge_options(&known, &table.keys);
            (Just((table, incoming, change)), options, any::<u8>())
        })
        .prop_map(|((table, mut incoming, on_schema_change), mut options, kind)| {
            settle_duplicates(&mut options, &mut incoming, kind);
            MergeCase { table, incoming, options, on_schema_change }
        })
        .boxed()
}
