//! Three other answers to the question what a merge does: the model's, DuckDB's own `MERGE INTO`, delta-rs's merge.

use std::sync::Arc;

use deltalake::DeltaTable;
use deltalake::datafusion::common::{Column as PlanColumn, ScalarValue};
use deltalake::datafusion::logical_expr::{Expr as PlanExpr, lit, when};
use deltalake::datafusion::prelude::SessionContext;
use duckrun::core::{NullKeys, When};
use duckrun::{DeltaRsExecutor, FileOptions, Merge, Session};
use duckrun_testkit::generate::{MergeCase, TableCase, arrow, delete_rows, merge_strategy, sql};
use duckrun_testkit::model::{self, Column, Compare, Expr, Rows, Then, Type, Value};
use duckrun_testkit::own_governor;
use url::Url;

use crate::support::Lake;

/// Files without syncs: these tests are about contents.
pub(crate) fn files(row_group_rows: usize) -> FileOptions {
    FileOptions { row_group_rows, sync: false, ..FileOptions::default() }
}

/// Creates a table as generated: each of its writes is a commit, then come the deletion vectors.
pub(crate) async fn create(lake: &Lake, name: &str, case: &TableCase) {
    create_with(lake, name, case, false).await;
}

/// The same, with a change feed or without.
pub(crate) async fn create_with(lake: &Lake, name: &str, case: &TableCase, feed: bool) {
    for n in 0..case.files.len() {
        let mut model = lake.session.model(name).sql(sql::select(&case.file(n))).files(files(case.row_group_rows));
        if n == 0 && !case.partition_by.is_empty() {
            model = model.partition_by(case.partition_by.clone());
        }
        if n == 0 && feed {
            model = model.property("delta.enableChangeDataFeed", "true");
        }
        model.run().await.unwrap().committed().map(drop).unwrap();
    }
    let mut deleted = case.files.iter().zip(&case.deleted).filter(|(rows, _)| !rows.is_empty()).map(|(_, d)| d.clone());
    if case.partition_by.is_empty() {
        delete_rows(&lake.folder(name), |_| deleted.next().unwrap_or_default()).unwrap();
    }
}

/// All rows of a table, as the model has them. The columns must be exactly these.
pub(crate) async fn read(session: &Session, table: &str, columns: &[Column]) -> Rows {
    let batches = session.sql(format!("select * from {table}")).collect().await.unwrap();
    if let Some(batch) = batches.first() {
        let names: Vec<_> = batch.schema().fields().iter().map(|f| f.name().clone()).collect();
        assert_eq!(names, columns.iter().map(|c| c.name.clone()).collect::<Vec<_>>(), "the table's columns");
    }
    arrow::rows(columns, &batches).unwrap()
}

/// The merge as a strategy of ours.
pub(crate) fn strategy(case: &MergeCase) -> Merge {
    merge_strategy(&case.options, &case.table.columns)
}

/// The incoming columns that are written, and the model's merge for them.
pub(crate) fn modelled(case: &MergeCase) -> model::Merge {
    let ignored = case.on_schema_change == duckrun::SchemaChange::Ignore;
    let known = |c: &&Column| !ignored || case.table.columns.iter().any(|t| t.name == c.name);
    let columns: Vec<Column> = case.incoming.columns.iter().filter(known).cloned().collect();
    case.options.merge(&columns)
}

/// What DuckDB's own `MERGE INTO` makes of it, on a native table. `after` has the columns that the table is to have.
pub(crate) async fn duckdb(case: &MergeCase, merge: &model::Merge, before: &Rows, after: &[Column]) -> Rows {
    let connection = duckdb::Connection::open_in_memory().unwrap();
    let columns = Rows::new(after.to_vec(), Vec::new());
    let text = |e: &Expr| sql::expression(e, "target", "source", &columns);
    let target = Rows::new(before.columns.clone(), before.rows.clone());
    connection.execute_batch(&sql::create_table("target", &columns)).unwrap();
    connection.execute_batch(&format!("INSERT INTO target BY NAME {}", sql::select(&target))).unwrap();
    connection.execute_batch(&sql::create_table("source", &case.incoming)).unwrap();
    connection.execute_batch(&format!("INSERT INTO source {}", sql::select(&case.incoming))).unwrap();
    let keys: Vec<String> = case.options.keys.iter().map(|k| sql::quoted(k)).collect();
    if let Some(order) = &case.options.dedup_by {
        // A row with a NULL in its key is one of a kind, unless NULL equals NULL.
        let alone = match case.options.null_keys {
            NullKeys::Equal => "NULL".to_owned(),
            _ => format!(
                "CASE WHEN {} THEN rowid END",
                keys.iter().map(|k| format!("{k} IS NULL")).collect::<Vec<_>>().join(" OR ")
            ),
        };
        let direction = if order[0].descending { "DESC" } else { "ASC" };
        let statement = format!(
            "CREATE TABLE one AS SELECT * FROM source QUALIFY row_number() OVER (PARTITION BY {}, {alone} \
             ORDER BY seq {direction}) = 1; DROP TABLE source; ALTER TABLE one RENAME TO source",
            keys.join(", ")
        );
        connection.execute_batch(&statement).unwrap();
    }
    let equal = if case.options.null_keys == NullKeys::Equal { "IS NOT DISTINCT FROM" } else { "=" };
    let mut on: Vec<String> = keys.iter().map(|k| format!("target.{k} {equal} source.{k}")).collect();
    on.extend(merge.predicates.iter().map(text));
    let mut statement = format!("MERGE INTO target USING source ON {}", on.join(" AND "));
    for clause in &merge.clauses {
        let when = match clause.when {
            When::Matched => "MATCHED",
            When::NotMatched => "NOT MATCHED",
            When::NotMatchedBySource => "NOT MATCHED BY SOURCE",
        };
        let condition = clause.condition.as_ref().map_or(String::new(), |e| format!(" AND {}", text(e)));
        let then = match &clause.then {
            Then::Delete => "DELETE".to_owned(),
            Then::Nothing => "DO NOTHING".to_owned(),
            Then::Update(set) if set.is_empty() => "DO NOTHING".to_owned(),
            Then::Update(set) => {
                let set: Vec<String> = set.iter().map(|(c, e)| format!("{} = {}", sql::quoted(c), text(e))).collect();
                format!("UPDATE SET {}", set.join(", "))
            }
            Then::Insert(set) => {
                let names: Vec<String> = set.iter().map(|(c, _)| sql::quoted(c)).collect();
                let values: Vec<String> = set.iter().map(|(_, e)| text(e)).collect();
                format!("INSERT ({}) VALUES ({})", names.join(", "), values.join(", "))
            }
        };
        statement.push_str(&format!("\n WHEN {when}{condition} THEN {then}"));
    }
    if !merge.clauses.is_empty() && !case.incoming.rows.is_empty() {
        connection.execute_batch(&statement).unwrap_or_else(|e| panic!("{e}\n{statement}"));
    }
    let root = tempfile::tempdir().unwrap();
    let session = Session::open(root.path()).governor(own_governor()).connection(connection).await.unwrap();
    read(&session, "target", after).await
}

/// A handle of delta-rs.
pub(crate) async fn delta_rs(folder: &std::path::Path) -> DeltaTable {
    DeltaTable::try_from_url(Url::from_directory_path(folder).unwrap()).await.unwrap()
}

/// What delta-rs does otherwise than the specification, or cannot be asked for, where that could show in a case. What it does
/// instead is asserted in `delta_rs_differences.rs`, so that a release that changes it is noticed.
pub(crate) fn delta_rs_differs(case: &MergeCase) -> Option<&'static str> {
    let table = &case.table;
    let keys = &case.options.keys;
    let types: Vec<&Type> = table.columns.iter().filter(|c| keys.contains(&c.name)).map(|c| &c.ty).collect();
    let all: Vec<&Type> = table.columns.iter().map(|c| &c.ty).collect();
    let null =
        |rows: &Rows| keys.iter().filter_map(|k| rows.index(k).ok()).any(|i| rows.rows.iter().any(|r| r[i].is_null()));
    if all.iter().any(|t| matches!(t, Type::Float | Type::Double)) {
        return Some("conditions over floats are compared by IEEE 754's total order there");
    }
    if types.iter().any(|t| matches!(t, Type::Decimal(..))) {
        return Some("decimal keys are pruned by statistics in f64 (#3905)");
    }
    if case.options.null_keys == NullKeys::Equal || null(&case.incoming) {
        return Some("a NULL key never matches");
    }
    if case.options.delete_when.is_some() {
        return Some("there is no clause that leaves an incoming row out");
    }
    if case.options.dedup_by.is_some() {
        return Some("there is no option that keeps one of several incoming rows");
    }
    if case.incoming.columns.len() != table.columns.len() {
        return Some("columns that the source lacks or adds are another option there");
    }
    None
}

fn plan(e: &Expr, columns: &[Column]) -> PlanExpr {
    let column = |side: &str, name: &str| PlanExpr::Column(PlanColumn::new(Some(side), name));
    let of = |e: &Expr| plan(e, columns);
    match e {
        Expr::Target(name) => column("target", name),
        Expr::Source(name) => column("source", name),
        Expr::Literal(Value::Null) => lit(ScalarValue::Null),
        Expr::Literal(value) => lit(format!("{value:?}")),
        Expr::Compare(a, how, b) => {
            let ty = [a, b].into_iter().find_map(|e| match &**e {
                Expr::Target(n) | Expr::Source(n) => columns.iter().find(|c| c.name == *n).map(|c| c.ty.clone()),
                _ => None,
            });
            let side = |e: &Expr| match (e, &ty) {
                (Expr::Literal(v), Some(ty)) => {
                    let one = Rows::new(vec![Column::new("x", ty.clone())], vec![vec![v.clone()]]);
                    lit(ScalarValue::try_from_array(arrow::batch(&one).unwrap().column(0), 0).unwrap())
                }
                _ => of(e),
            };
            let (a, b) = (side(a), side(b));
            match how {
                Compare::Equal => a.eq(b),
                Compare::NotEqual => a.not_eq(b),
                Compare::Less => a.lt(b),
                Compare::LessOrEqual => a.lt_eq(b),
                Compare::Greater => a.gt(b),
                Compare::GreaterOrEqual => a.gt_eq(b),
            }
        }
        Expr::IsNull(a) => of(a).is_null(),
        Expr::And(a, b) => of(a).and(of(b)),
        Expr::Or(a, b) => of(a).or(of(b)),
        Expr::Not(a) => PlanExpr::Not(Box::new(of(a))),
        Expr::Coalesce(a, b) => when(of(a).is_not_null(), of(a)).otherwise(of(b)).unwrap(),
    }
}

/// Carries the merge out with plain delta-rs.
pub(crate) async fn delta_rs_merge(
    folder: &std::path::Path,
    merge: &model::Merge,
    incoming: &Rows,
) -> Result<(), deltalake::DeltaTableError> {
    let table = delta_rs(folder).await;
    let source = SessionContext::new().read_batch(arrow::batch(incoming).unwrap()).unwrap();
    let keys = merge.keys.iter().map(|k| Expr::Target(k.clone()).compare(Compare::Equal, Expr::Source(k.clone())));
    let columns = &incoming.columns;
    let on = keys.chain(merge.predicates.iter().cloned()).map(|e| plan(&e, columns)).reduce(PlanExpr::and).unwrap();
    let mut builder = table.merge(source, on).with_source_alias("source").with_target_alias("target");
    for clause in &merge.clauses {
        let condition = clause.condition.as_ref().map(|e| plan(e, columns));
        let name = |c: &str| sql::quoted(c);
        builder = match (clause.when, &clause.then) {
            (When::Matched, Then::Delete) => builder.when_matched_delete(|d| match condition {
                Some(c) => d.predicate(c),
                None => d,
            })?,
            (When::NotMatchedBySource, Then::Delete) => {
                builder.when_not_matched_by_source_delete(|d| match condition {
                    Some(c) => d.predicate(c),
                    None => d,
                })?
            }
            (when @ (When::Matched | When::NotMatchedBySource), then) => {
                // There is no "do nothing": an update that sets a column to itself is one.
                let nothing = vec![("seq".to_owned(), Expr::Target("seq".into()))];
                let set = if let Then::Update(set) = then { set } else { &nothing };
                let make = |mut u: deltalake::operations::merge::UpdateBuilder| {
                    for (column, e) in set {
                        u = u.update(name(column), plan(e, columns));
                    }
                    match condition {
                        Some(c) => u.predicate(c),
                        None => u,
                    }
                };
                if when == When::Matched {
                    builder.when_matched_update(make)?
                } else {
                    builder.when_not_matched_by_source_update(make)?
                }
            }
            (When::NotMatched, Then::Insert(set)) => builder.when_not_matched_insert(|mut i| {
                for (column, e) in set {
                    i = i.set(name(column), plan(e, columns));
                }
                match condition {
                    Some(c) => i.predicate(c),
                    None => i,
                }
            })?,
            // Rows that match nothing stay out if no later clause takes them: it must not.
            (When::NotMatched, _) => return Err(deltalake::DeltaTableError::Generic("no such clause".into())),
        };
    }
    builder.await.map(drop)
}

/// A session whose merges, deletes and updates are carried out by delta-rs, and by nothing else.
pub(crate) async fn by_delta_rs(lake: &Lake) -> Session {
    Session::open(lake.root())
        .governor(own_governor())
        .executor(Arc::new(DeltaRsExecutor::default()))
        .writable()
        .await
        .unwrap()
}

/// Shares what a test needs to run inside proptest's closures.
pub(crate) fn runtime() -> Arc<tokio::runtime::Runtime> {
    Arc::new(tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap())
}
