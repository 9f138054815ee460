//! dbt's incremental cases (`../shared/cases/dbt_incremental_cases.json`), configured as dbt writes them: every one gives the
//! stated rows or the stated error, or stands in the list below with the reason why it does not.

use chrono::{DateTime, Utc};
use duckrun::{BatchSize, ErrorKind, Microbatch, Nothing, SchemaChange, Strategy, StrategyConfig};
use duckrun_testkit::model::{Unit, windows};
use proptest::prelude::*;
use proptest::sample::select;
use serde_json::{Value as Json, json};

use crate::merge_properties::check;
use crate::oracle::files;
use crate::spark_cases::cases;
use crate::support::Lake;

/// Cases that our specification decides otherwise, and how.
const DECIDED_OTHERWISE: &[(&str, &str)] = &[
    ("schema_sync_all_columns", "sync_all_columns adds columns and never drops one: the run says so"),
    ("schema_sync_remove_only", "sync_all_columns adds columns and never drops one: the run says so"),
];

/// Rows as a SELECT; the columns are those of the first row, in the file's order.
fn sql(rows: &[Json], columns: &[String], none: bool) -> String {
    let literal = |v: &Json| match v {
        Json::Null => "NULL::varchar".to_owned(),
        Json::String(s) => format!("'{}'::varchar", s.replace('\'', "''")),
        other => format!("{other}::bigint"),
    };
    let line = |row: &Json| format!("({})", columns.iter().map(|c| literal(&row[c])).collect::<Vec<_>>().join(", "));
    let lines: Vec<String> = rows.iter().map(line).collect();
    let filter = if none { " where false" } else { "" };
    format!("select * from (values {}) t({}){filter}", lines.join(", "), columns.join(", "))
}

fn columns(rows: &[Json]) -> Vec<String> {
    // serde_json sorts keys; `id` first or not makes no difference to columns by name.
    rows[0].as_object().unwrap().keys().cloned().collect()
}

fn shown(rows: &[Json], columns: &[String]) -> Vec<String> {
    let cell = |v: &Json| match v {
        Json::Null => "NULL".to_owned(),
        Json::String(s) => s.clone(),
        other => other.to_string(),
    };
    let mut lines: Vec<String> =
        rows.iter().map(|r| columns.iter().map(|c| cell(&r[c])).collect::<Vec<_>>().join("|")).collect();
    lines.sort();
    lines
}

async fn table(lake: &Lake, columns: &[String]) -> Vec<String> {
    let mut rows = lake.rows(&format!("select {} from a.t", columns.join(", "))).await;
    rows.sort();
    rows
}

/// The case's options as a configuration file would have them.
fn config(case: &Json) -> StrategyConfig {
    let strategy = case["strategy"].as_str().unwrap().split(' ').next().unwrap();
    let mut options = json!({ "incremental_strategy": strategy, "unique_key": case["unique_key"] });
    if case["name"] == "empty_str_unique_key" {
        options["unique_key"] = json!("");
    }
    for key in ["merge_exclude_columns", "incremental_predicates"] {
        if !case[key].is_null() {
            options[key] = case[key].clone();
        }
    }
    serde_json::from_value(options).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn dbt_incremental_cases() {
    let Some(cases) = cases("dbt_incremental_cases.json") else { return };
    let (mut rows, mut errors, mut otherwise, mut first_refused, mut steps) = (0, 0, 0, Vec::new(), 0);
    for case in &cases {
        let name = case["name"].as_str().unwrap();
        if name == "microbatch_daily" {
            steps += microbatch(case).await;
            continue;
        }
        let change: SchemaChange = match case["on_schema_change"].as_str() {
            Some(mode) => serde_json::from_value(json!(mode)).unwrap(),
            None => SchemaChange::default(),
        };
        let lake = Lake::new().await;
        let model = |sql: String| lake.session.model("a.t").sql(sql).files(files(1000)).on_schema_change(change);
        let first = case["run1_rows"].as_array().unwrap();
        let of_first = columns(first);
        let created = model(sql(first, &of_first, false)).config(config(case)).run().await;
        if let Err(e) = created {
            // dbt creates a table from any rows, with any configuration; ours holds a first run to its key too.
            let reasons = ["incoming rows have the key", "have a NULL in the unique key", "thisisnotacolumn"];
            assert!(reasons.iter().any(|r| e.message().contains(r)), "{name}: {e}");
            assert!(lake.state("a.t").0.is_empty(), "{name}");
            first_refused.push(name);
            model(sql(first, &of_first, false)).run().await.unwrap().committed().map(drop).unwrap();
        }
        let before = lake.state("a.t");
        let second = case["run2_rows"].as_array().unwrap();
        let incoming = match second.is_empty() {
            true => sql(first, &of_first, true),
            false => sql(second, &columns(second), false),
        };
        let mut configs = vec![config(case)];
        if name == "incremental_predicates_delete_insert" {
            let merge = json!({ "unique_key": "id", "incremental_predicates": "DBT_INTERNAL_DEST.id != 2" });
            configs.push(serde_json::from_value(merge).unwrap());
        }
        for (n, config) in configs.into_iter().enumerate() {
            let lake = if n == 0 { &lake } else { &Lake::new().await };
            let model = |sql: String| lake.session.model("a.t").sql(sql).files(files(1000)).on_schema_change(change);
            if n > 0 {
                model(sql(first, &of_first, false)).run().await.unwrap().committed().map(drop).unwrap();
            }
            let done = model(incoming.clone()).config(config).run().await;
            if case["expected"].is_null() {
                let error = done.unwrap_err();
                if let Some(part) = case["expect_error_contains"].as_str() {
                    assert!(error.message().contains(part), "{name}: {error}");
                } else {
                    assert_eq!(error.kind(), ErrorKind::InvalidData, "{name}: {error}");
                    for column in ["field2", "field3"] {
                        assert!(error.message().contains(column), "{name}: {error}");
                    }
                }
                assert_eq!(lake.state("a.t"), before, "{name}");
                errors += 1;
                continue;
            }
            let report = done.unwrap_or_else(|e| panic!("{name}: {e}")).committed().unwrap();
            let expected = case["expected"].as_array().unwrap();
            let wanted = columns(expected);
            assert_eq!(table(lake, &wanted).await, shown(expected, &wanted), "{name}");
            let all = lake.rows("select column_name from (describe from a.t) order by 1").await;
            if let Some((_, reason)) = DECIDED_OTHERWISE.iter().find(|(n, _)| *n == name) {
                let kept = lake.rows("select field2 from a.t where id <= 3 order by id").await;
                assert_eq!(kept, ["bbb", "ddd", "fff"], "{name}: {reason}");
                assert!(report.warnings.iter().any(|w| w.contains("field2")), "{name}: {:?}", report.warnings);
                otherwise += 1;
            } else {
                let mut wanted = wanted.clone();
                wanted.sort();
                assert_eq!(all, wanted, "{name}");
                rows += 1;
            }
        }
    }
    assert_eq!(cases.len(), 19);
    // One case is told for two strategies, and both were run.
    assert_eq!((rows, errors, otherwise, steps), (14, 3, 2, 5), "stated rows, stated errors, decided otherwise, steps");
    let keys_twice = ["one_unique_key", "unary_unique_key_list", "duplicated_unary_unique_key_list"];
    let null_keys = ["trinary_unique_key_list", "trinary_unique_key_list_no_update"];
    let bad_keys = ["bad_unique_key", "bad_unique_key_list"];
    assert_eq!(first_refused, [keys_twice.as_slice(), &null_keys, &bad_keys].concat());
}

/// dbt's five steps, each at a time of its own; the windows are the strategy's for that time.
async fn microbatch(case: &Json) -> usize {
    let lake = Lake::new().await;
    let time = |v: &Json| v.as_str().unwrap().parse::<DateTime<Utc>>().unwrap();
    let begin = time(&case["begin"]);
    let mut input = case["input_rows"].as_array().unwrap().clone();
    let steps = case["steps"].as_array().unwrap();
    for step in steps {
        input.extend(case["added_before_step"][step["step"].to_string()].as_array().cloned().unwrap_or_default());
        let rows: Vec<String> = input
            .iter()
            .map(|r| format!("({}::bigint, {}::timestamptz)", r[0], r[1].to_string().replace('"', "'")))
            .collect();
        let sql = format!("select * from (values {}) t(id, event_time)", rows.join(", "));
        let fresh = step["step"] == 1;
        let strategy = Microbatch::new("event_time", BatchSize::Day).begin(begin).lookback(1);
        let runs = strategy.runs(time(&step["now"]), fresh).unwrap().unwrap();
        let modelled = windows(Unit::Day, begin, time(&step["now"]), 1, fresh);
        assert_eq!(runs.len(), modelled.len());
        let (start, end) = (modelled[0].0, modelled[modelled.len() - 1].1);
        let now = Microbatch::new("event_time", BatchSize::Day).begin(start).end(end);
        let report = lake.session.model("a.t").sql(sql).strategy(now).files(files(1000)).run().await.unwrap();
        assert_eq!(report.windows.len(), modelled.len(), "{report}");
        let count = lake.rows("select count(*), count(distinct id) from a.t").await;
        let expected = &step["expected_count"];
        assert_eq!(count, [format!("{expected}|{expected}")], "step {}", step["step"]);
    }
    steps.len()
}

#[test]
fn windows_agree_with_the_model() {
    let unit = select(vec![
        (Unit::Hour, BatchSize::Hour),
        (Unit::Day, BatchSize::Day),
        (Unit::Month, BatchSize::Month),
        (Unit::Year, BatchSize::Year),
    ]);
    // 1995 to 2030: leap years, the ends of months.
    let times = (0_i64..300, 800_000_000_i64..1_900_000_000);
    check(256, &(unit, times, 0_u32..4, any::<bool>()), |((unit, size), (ago, now), lookback, fresh)| {
        let at = |s: i64| DateTime::from_timestamp(s, 0).unwrap();
        let (now, begin) = (at(now), at(now - ago * 3600));
        let strategy = Microbatch::new("t", size).begin(begin).lookback(lookback);
        let runs = strategy.runs(now, fresh).unwrap().unwrap();
        let got: Vec<String> =
            runs.iter().map(|r| format!("{:?} {:?}", r.variables["batch_start"], r.variables["batch_end"])).collect();
        let expected: Vec<String> = windows(unit, begin, now, lookback as i32, fresh)
            .iter()
            .map(|(start, end)| {
                let text = |t: &DateTime<Utc>| duckrun::Value::from(t.format("%Y-%m-%d %H:%M:%S").to_string());
                format!("{:?} {:?}", text(start), text(end))
            })
            .collect();
        prop_assert_eq!(got, expected);
        Ok(())
    });
}

/// An empty window is replaced by nothing, a window with nothing in it and nothing to come is no commit.
#[tokio::test(flavor = "multi_thread")]
async fn an_empty_window_empties_its_part() {
    let lake = Lake::new().await;
    lake.put("a.t", "select i::bigint as id, timestamp '2020-01-01' + to_hours(i::int * 12) as at from range(4) t(i)")
        .await;
    let window = |from: &str, to: &str| {
        let time = |t: &str| format!("{t}T00:00:00Z").parse().unwrap();
        Microbatch::new("at", BatchSize::Day).begin(time(from)).end(time(to))
    };
    let empty = "select 0::bigint as id, timestamp '2020-01-01' as at where false";
    let run = |strategy: Microbatch| lake.session.model("a.t").sql(empty).strategy(strategy).run();
    run(window("2020-01-02", "2020-01-03")).await.unwrap().committed().map(drop).unwrap();
    assert_eq!(lake.rows("select id from a.t order by id").await, ["0", "1"]);
    let report = run(window("2020-01-02", "2020-01-03")).await.unwrap();
    assert!(
        matches!(report.outcome, duckrun::CommitOutcome::NothingToDo(Nothing::NoRows | Nothing::Unchanged)),
        "{report}"
    );
}
