//! Histories: generated sequences of runs of `scd2` leave what the model says, run after run.

use duckrun::{Model, Scd2};
use duckrun_testkit::generate::sql;
use duckrun_testkit::model::{self, Changed, Column, Rows, Table, Type, Value};
use proptest::prelude::*;
use proptest::test_runner::TestCaseError;

use crate::change_feed::in_the_feed;
use crate::merge_properties::check;
use crate::oracle::{files, read, runtime};
use crate::support::Lake;

const DAY: i64 = 86_400_000_000;
/// 2025-01-01: whatever is later is the time of a run.
const LATER: i64 = 20_089 * DAY;

#[derive(Debug, Clone)]
struct Case {
    by_time: bool,
    close_missing: bool,
    /// The rows of each run: id, value, day of the change.
    runs: Vec<Vec<(i64, Option<i64>, i64)>>,
}

fn case() -> impl Strategy<Value = Case> {
    let row = (0_i64..5, prop::option::weighted(0.8, 0_i64..3), 1_i64..6);
    let run = prop::collection::vec(row, 1..5).prop_map(|mut rows| {
        rows.sort_unstable();
        rows.dedup_by_key(|r| r.0);
        rows
    });
    (any::<bool>(), any::<bool>(), prop::collection::vec(run, 1..4)).prop_map(|(by_time, close_missing, runs)| Case {
        by_time,
        close_missing,
        runs,
    })
}

fn columns(history: bool) -> Vec<Column> {
    let mut columns =
        vec![Column::new("id", Type::Long), Column::new("v", Type::Long), Column::new("at", Type::TimestampNtz)];
    if history {
        let own = ["dbt_updated_at", "dbt_valid_from", "dbt_valid_to"];
        columns.extend(own.map(|n| Column::new(n, Type::TimestampNtz)));
    }
    columns
}

/// The rows with the time of a run, which the model cannot know, as one value.
fn timeless(rows: &Rows) -> Rows {
    let one = |v: &Value| match v {
        Value::Timestamp(t) if *t >= LATER => Value::Timestamp(LATER),
        other => other.clone(),
    };
    Rows::new(rows.columns.clone(), rows.rows.iter().map(|r| r.iter().map(one).collect()).collect())
}

async fn history(case: Case, feed: bool) -> Result<(), TestCaseError> {
    let lake = Lake::new().await;
    let mut table = Table::new(Rows::new(columns(true), Vec::new()));
    let changed = if case.by_time { Changed::UpdatedAt("at".into()) } else { Changed::Columns(vec!["v".into()]) };
    let scd2 = model::Scd2 { keys: vec!["id".into()], changed, close_missing: case.close_missing, now: LATER };
    for run in &case.runs {
        let rows = run
            .iter()
            .map(|(id, v, day)| vec![Value::Int(*id), Value::from(*v), Value::Timestamp((18_262 + day) * DAY)]);
        let incoming = Rows::new(columns(false), rows.collect());
        let counts = table.scd2(&scd2, &incoming).unwrap();
        let strategy = Scd2::on(["id"]);
        let strategy = if case.by_time { strategy.updated_at("at") } else { strategy.check(["v"]) };
        let strategy = if case.close_missing { strategy.invalidate_hard_deletes() } else { strategy };
        let model: Model = lake.session.model("a.t").sql(sql::select(&incoming)).strategy(strategy).files(files(1000));
        let model = model.property("delta.enableChangeDataFeed", feed.to_string());
        let report = model.run().await;
        prop_assert!(report.is_ok(), "{report:?}");
        let report = report.unwrap();
        prop_assert_eq!(report.version().is_some(), counts.committed, "{}", report);
        if counts.committed && report.read_version.is_some() {
            prop_assert_eq!(
                (report.rows_inserted(), report.rows_updated()),
                (counts.inserted as u64, counts.updated as u64)
            );
        }
        if feed && report.read_version.is_some() && counts.committed {
            in_the_feed(&lake, &report, true).await.map_err(TestCaseError::fail)?;
        }
        let query = "(select id, v, \"at\", dbt_updated_at, dbt_valid_from, dbt_valid_to from a.t)";
        let got = timeless(&read(&lake.session, query, &columns(true)).await);
        prop_assert!(got == timeless(table.rows()), "got {got:?}\nexpected {:?}", table.rows());
        let ids =
            lake.rows("select count(*) - count(distinct dbt_scd_id), count(*) - count(dbt_scd_id) from a.t").await;
        // As in dbt, a row that was closed as missing and comes back with the same updated-at has the id of its closed version.
        if case.by_time && !case.close_missing {
            prop_assert_eq!(ids, ["0|0".to_owned()], "one id for every version");
        }
        let open = "select count(*) - count(distinct id) from a.t where dbt_valid_to is null";
        prop_assert_eq!(lake.rows(open).await, ["0".to_owned()], "one open version for every key");
    }
    Ok(())
}

#[test]
fn histories_agree_with_the_model() {
    let runtime = runtime();
    check(16, &case(), |case| runtime.block_on(history(case, false)));
}

/// With a change feed every run's closed and new versions are in it.
#[test]
fn histories_are_in_the_change_feed() {
    let runtime = runtime();
    check(12, &case(), |case| runtime.block_on(history(case, true)));
}
