//! Generated merges on generated tables: ours against the model, against DuckDB's own `MERGE INTO`, against delta-rs's merge.
//!
//! The number of cases is small by default; `PROPTEST_CASES=2000 cargo test -p duckrun-testkit --test integration propert` is a
//! campaign. The smallest case that fails is printed.

use duckrun::core::NullKeys;
use duckrun::{CommitOutcome, Delete, DeleteInsert, ErrorKind, Insert, InsertOverwrite, Nothing, ReplaceWhere, Update};
use duckrun_testkit::generate::{self, MergeCase, merge_case, sql};
use duckrun_testkit::model::{Clause, Column, Counts, Expr, Merge, Refusal, Rows, Table, Then, Type};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestCaseError, TestError, TestRunner};

use crate::change_feed::{in_the_feed, readable_by_delta_rs};
use crate::oracle::{self, create, create_with, files, modelled, read, runtime, strategy};
use crate::support::Lake;

/// proptest's own default means that nobody asked for a number.
pub(crate) fn check<S: Strategy>(cases: u32, strategy: &S, test: impl Fn(S::Value) -> Result<(), TestCaseError>) {
    let mut config = Config { failure_persistence: None, max_shrink_iters: 200, ..Config::default() };
    if config.cases == 256 {
        config.cases = cases;
    }
    match TestRunner::new(config).run(strategy, test) {
        Ok(()) => {}
        Err(TestError::Fail(reason, case)) => panic!("{reason}\nsmallest case: {case:?}"),
        Err(other) => panic!("{other}"),
    }
}

/// Whether the match of a case compares floats.
fn joins_floats(case: &MergeCase) -> bool {
    let float = |c: &&Column| matches!(c.ty, Type::Float | Type::Double);
    let floats: Vec<&str> = case.table.columns.iter().filter(float).map(|c| c.name.as_str()).collect();
    !floats.is_empty()
        && (!case.options.predicates.is_empty() || case.options.keys.iter().any(|k| floats.contains(&k.as_str())))
}

fn same(what: &str, got: &Rows, expected: &Rows) -> Result<(), TestCaseError> {
    prop_assert!(got == expected, "{what}\ngot {got:?}\nexpected {expected:?}");
    Ok(())
}

/// What a run did, compared with what the model says.
fn judged(outcome: &duckrun::Result<duckrun::Report>, expected: &Result<Counts, Refusal>) -> Result<(), TestCaseError> {
    match (outcome, expected) {
        (Ok(report), Ok(counts)) => match &report.outcome {
            CommitOutcome::Committed(commit) => {
                prop_assert!(counts.committed, "a commit that changes nothing: {report}");
                let m = &commit.metrics;
                let got = (m.rows_inserted, m.rows_updated, m.rows_deleted);
                let wanted = (counts.inserted as u64, counts.updated as u64, Some(counts.deleted as u64));
                prop_assert_eq!(got, wanted, "inserted, updated, deleted: {}", report);
            }
            CommitOutcome::NothingToDo(Nothing::NoRows | Nothing::Unchanged) => {
                prop_assert!(!counts.committed, "nothing was committed, not {counts:?}");
            }
            other => prop_assert!(false, "{other:?}"),
        },
        (Err(e), Err(refusal)) => {
            let kind = match refusal {
                Refusal::SchemaChanged { .. } | Refusal::TypeChanged(_) => {
                    [ErrorKind::InvalidData, ErrorKind::InvalidInput]
                }
                _ => [ErrorKind::InvalidData; 2],
            };
            prop_assert!(kind.contains(&e.kind()), "{e} for {refusal}");
            let part = match refusal {
                Refusal::DuplicateKeys(keys) => keys.iter().map(|(_, n)| *n).max().unwrap_or_default().to_string(),
                Refusal::NullKeys(n) => format!("{n} incoming"),
                _ => String::new(),
            };
            prop_assert!(e.message().contains(&part), "{e} does not say {part}");
        }
        (got, wanted) => prop_assert!(false, "{got:?}\nwhere the model says {wanted:?}"),
    }
    Ok(())
}

/// Whose merge.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum By {
    Ours,
    /// Ours, on a table with a change feed.
    OursWithFeed,
    /// delta-rs's merge behind our plans.
    DeltaRsExecutor,
}

/// Whether the merge was accepted; it then did what the model and DuckDB say.
pub(crate) async fn merged(case: MergeCase, by: By) -> Result<bool, TestCaseError> {
    let lake = Lake::new().await;
    create_with(&lake, "a.t", &case.table, by == By::OursWithFeed).await;
    let mut table = case.table.table();
    same("the table before", &read(&lake.session, "a.t", table.columns()).await, table.rows())?;
    let before = lake.state("a.t");
    let old = table.rows().clone();
    table.on_schema_change = case.on_schema_change;
    let merge = modelled(&case);
    let expected = table.merge(&merge, &case.incoming);
    let session = if by == By::DeltaRsExecutor { oracle::by_delta_rs(&lake).await } else { lake.session.clone() };
    let model = session.model("a.t").sql(sql::select(&case.incoming)).strategy(strategy(&case));
    let outcome = model.on_schema_change(case.on_schema_change).files(files(case.table.row_group_rows)).run().await;
    if by == By::DeltaRsExecutor && outcome.as_ref().is_err_and(|e| e.kind() == ErrorKind::Unsupported) {
        prop_assert_eq!(lake.state("a.t"), before, "it was not accepted");
        return Ok(false);
    }
    judged(&outcome, &expected)?;
    let got = read(&lake.session, "a.t", table.columns()).await;
    match joins_floats(&case) {
        true => same("the merge", &got.unsigned_zeros(), &table.rows().unsigned_zeros())?,
        false => same("the merge", &got, table.rows())?,
    }
    if !expected.as_ref().is_ok_and(|c| c.committed) {
        prop_assert_eq!(lake.state("a.t"), before, "nothing was to be written");
        return Ok(true);
    }
    if let (By::OursWithFeed, Ok(report)) = (by, &outcome) {
        in_the_feed(&lake, report, readable_by_delta_rs(&case.table)).await.map_err(TestCaseError::fail)?;
    }
    if by == By::Ours {
        let by_duckdb = oracle::duckdb(&case, &merge, &old, table.columns()).await;
        same("DuckDB's MERGE INTO", &by_duckdb.unsigned_zeros(), &table.rows().unsigned_zeros())?;
    }
    Ok(true)
}

#[test]
fn merges_agree_with_the_model_and_with_duckdb() {
    let runtime = runtime();
    check(64, &merge_case(), |case| runtime.block_on(merged(case, By::Ours)).map(drop));
}

#[test]
fn merges_by_delta_rs_s_executor_agree_with_the_model() {
    let runtime = runtime();
    let (accepted, refused) = (std::cell::Cell::new(0), std::cell::Cell::new(0));
    check(32, &merge_case(), |case| {
        let counter = if runtime.block_on(merged(case, By::DeltaRsExecutor))? { &accepted } else { &refused };
        counter.set(counter.get() + 1);
        Ok(())
    });
    eprintln!("merges by delta-rs's executor: {} accepted, {} refused", accepted.get(), refused.get());
    assert!(accepted.get() > 0);
}

#[test]
fn merges_agree_with_delta_rs() {
    let runtime = runtime();
    let alike = merge_case().prop_filter("a known difference", |case| {
        let quiet = |c: &Clause| matches!(&c.then, Then::Nothing);
        oracle::delta_rs_differs(case).is_none()
            && !case.incoming.rows.is_empty()
            && !modelled(case).clauses.iter().all(quiet)
            && case.table.table().merge(&modelled(case), &case.incoming).is_ok()
    });
    check(24, &alike, |case| {
        runtime.block_on(async {
            let merge = modelled(&case);
            let mut table = case.table.table();
            let lake = Lake::new().await;
            create(&lake, "a.t", &case.table).await;
            let done = oracle::delta_rs_merge(&lake.folder("a.t"), &merge, &case.incoming).await;
            prop_assert!(done.is_ok(), "{done:?}");
            table.merge(&merge, &case.incoming).unwrap();
            same("delta-rs's merge", &read(&lake.session, "a.t", table.columns()).await, table.rows())
        })
    });
}

/// One of the strategies that are no merge with options.
#[derive(Debug, Clone)]
pub(crate) enum Other {
    Insert(NullKeys),
    DeleteInsert(NullKeys, Option<Expr>),
    ReplaceWhere(Expr),
    InsertOverwrite,
    Delete(Option<Expr>),
    Update(String, Expr, Option<Expr>),
}

pub(crate) fn other_case() -> BoxedStrategy<(MergeCase, Other)> {
    merge_case()
        .prop_flat_map(|case| {
            let columns = case.table.columns.clone();
            // Columns that the source has too: the condition is asked of incoming rows as well.
            let shared: Vec<_> =
                columns.iter().filter(|c| case.incoming.columns.iter().any(|i| i.name == c.name)).cloned().collect();
            let any = generate::expression(&columns, true, false);
            let both = generate::expression(&shared, true, false);
            let nulls = prop::sample::select(vec![NullKeys::Equal, NullKeys::Distinct, NullKeys::Refuse]);
            let set = prop::sample::select(columns).prop_flat_map(|c| {
                (
                    Just(c.name.clone()),
                    prop_oneof![generate::value(&c.ty).prop_map(Expr::Literal), Just(Expr::Target(c.name)),],
                )
            });
            let some = |e: &BoxedStrategy<Expr>| prop::option::weighted(0.8, e.clone());
            let other = prop_oneof![
                nulls.clone().prop_map(Other::Insert),
                (nulls, prop::option::of(any.clone())).prop_map(|(n, e)| Other::DeleteInsert(n, e)),
                both.prop_map(Other::ReplaceWhere),
                Just(Other::InsertOverwrite),
                some(&any).prop_map(Other::Delete),
                (set, some(&any)).prop_map(|((c, v), e)| Other::Update(c, v, e)),
            ];
            (Just(case), other)
        })
        .prop_filter("insert_overwrite needs partitions", |(case, other)| {
            !matches!(other, Other::InsertOverwrite) || !case.table.partition_by.is_empty()
        })
        .boxed()
}

pub(crate) async fn changed(case: MergeCase, other: Other, feed: bool) -> Result<(), TestCaseError> {
    let lake = Lake::new().await;
    create_with(&lake, "a.t", &case.table, feed).await;
    let mut table: Table = case.table.table();
    let before = lake.state("a.t");
    let keys = case.options.keys.clone();
    let columns = Rows::new(case.table.columns.clone(), Vec::new());
    let text = |e: &Expr| sql::expression(e, "target", "source", &columns);
    let bare = |e: &Expr| sql::expression(e, "", "", &columns);
    let with_source =
        matches!(other, Other::Insert(_) | Other::DeleteInsert(..) | Other::ReplaceWhere(_) | Other::InsertOverwrite);
    let mut model = lake.session.model("a.t").files(files(case.table.row_group_rows));
    if with_source {
        table.on_schema_change = case.on_schema_change;
        model = model.sql(sql::select(&case.incoming)).on_schema_change(case.on_schema_change);
    }
    let (expected, model) = match &other {
        Other::Insert(nulls) => {
            let ignored = case.on_schema_change == duckrun::SchemaChange::Ignore;
            let known = |n: &str| !ignored || case.table.columns.iter().any(|t| t.name == n);
            let columns: Vec<_> = case.incoming.columns.iter().filter(|c| known(&c.name)).cloned().collect();
            let mut merge = Merge::upsert(keys.clone(), &columns);
            merge.clauses.remove(0);
            merge.null_keys = *nulls;
            (table.merge(&merge, &case.incoming), model.strategy(Insert::on(keys).null_keys(*nulls)))
        }
        Other::DeleteInsert(nulls, e) => {
            let mut strategy = DeleteInsert::on(keys.clone()).null_keys(*nulls);
            if let Some(e) = e {
                strategy = strategy.predicate(text(e));
            }
            let predicates: Vec<Expr> = e.iter().cloned().collect();
            (table.delete_insert(&keys, *nulls, &predicates, &case.incoming), model.strategy(strategy))
        }
        Other::ReplaceWhere(e) => {
            // Rows that do not fulfil the condition are an error; here they are only left in sometimes.
            (table.replace_where(e, &case.incoming), model.strategy(ReplaceWhere::new(bare(e))))
        }
        Other::InsertOverwrite => {
            (table.insert_overwrite(&case.table.partition_by, &case.incoming), model.strategy(InsertOverwrite))
        }
        Other::Delete(None) => (table.delete(None), model.strategy(Delete::all())),
        Other::Delete(Some(e)) => (table.delete(Some(e)), model.strategy(Delete::rows_where(bare(e)))),
        Other::Update(column, value, e) => {
            let ty = &columns.columns[columns.index(column).unwrap()].ty;
            let new = match value {
                Expr::Literal(v) => sql::literal(v, ty),
                other => bare(other),
            };
            let mut strategy = Update::new([(column.clone(), new)]);
            if let Some(e) = e {
                strategy = strategy.rows_where(bare(e));
            }
            (table.update(&[(column.clone(), value.clone())], e.as_ref()), model.strategy(strategy))
        }
    };
    let outcome = model.run().await;
    judged(&outcome, &expected)?;
    same("the change", &read(&lake.session, "a.t", table.columns()).await, table.rows())?;
    if !expected.is_ok_and(|c| c.committed) {
        prop_assert_eq!(lake.state("a.t"), before, "nothing was to be written");
    } else if let (true, Ok(report)) = (feed, &outcome) {
        in_the_feed(&lake, report, readable_by_delta_rs(&case.table)).await.map_err(TestCaseError::fail)?;
    }
    Ok(())
}

#[test]
fn the_other_strategies_agree_with_the_model() {
    let runtime = runtime();
    check(96, &other_case(), |(case, other)| runtime.block_on(changed(case, other, false)));
}
