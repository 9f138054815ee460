//! Spark's own MERGE cases (`../shared/cases/spark_merge_cases.json`): every one gives the stated rows or the stated error, or
//! stands in the list below with the reason why it does not.

use duckrun::ErrorKind;
use duckrun::{Merge, MergeClause};
use serde_json::Value as Json;

use crate::oracle::{by_delta_rs, files};
use crate::support::Lake;

/// Cases that our specification decides otherwise, and how.
const DECIDED_OTHERWISE: &[(&str, &str)] = &[
    ("only delete with multiple matches", "two incoming rows for one key are refused whatever the clauses are"),
    (
        "delete + insert with multiple matches for both",
        "two incoming rows for one key are refused whatever the clauses are",
    ),
    ("insert only merge with multiple matches", "two incoming rows for one key are refused, matched or new"),
    ("empty source", "an empty source commits nothing: it does not empty a table"),
    ("empty source delete only", "an empty source commits nothing: it does not empty a table"),
];

/// Cases that delta-rs's merge behind our plans refuses: it leaves arithmetic on the table's columns to ours.
const NOT_FOR_DELTA_RS: &[&str] = &[
    "delete only matched and not matched by source",
    "not matched by source update + delete clauses",
    "not matched by source delete + not matched insert",
    "multiple not matched by source clauses",
];

/// The cases in a folder beside the repository, or `None` with a message.
pub(crate) fn cases(file: &str) -> Option<Vec<Json>> {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/cases").join(file);
    let Ok(text) = std::fs::read_to_string(&path) else {
        eprintln!("skipped: there is no ../shared/cases/{file} beside the repository");
        return None;
    };
    let all: Json = serde_json::from_str(&text).unwrap();
    Some(all["cases"].as_array().unwrap().clone())
}

/// `a = b, c = d` without the alias of the left side.
fn set(text: &str) -> Vec<(String, String)> {
    text.split(',')
        .map(|pair| {
            let (column, value) = pair.split_once('=').unwrap();
            (column.trim().trim_start_matches("t.").to_owned(), value.trim().to_owned())
        })
        .collect()
}

/// `(a, b) VALUES (c, d)` as pairs.
fn values(text: &str) -> Vec<(String, String)> {
    let (columns, values) = text.split_once(" VALUES ").unwrap();
    let list = |t: &str| -> Vec<String> {
        let inner = t.trim().strip_prefix('(').unwrap().strip_suffix(')').unwrap();
        inner.split(',').map(|p| p.trim().to_owned()).collect()
    };
    list(columns).into_iter().map(|c| c.trim_start_matches("t.").to_owned()).zip(list(values)).collect()
}

fn clause(json: &Json) -> MergeClause {
    let text = |key: &str| json[key].as_str();
    let made = match (text("action").unwrap(), text("set"), text("values")) {
        ("update", Some("*"), _) => MergeClause::matched_update(),
        ("update", Some(list), _) => MergeClause::matched_update_set(set(list)),
        ("delete", ..) => MergeClause::matched_delete(),
        ("insert", _, Some("*")) => MergeClause::not_matched_insert(),
        ("insert", _, Some(list)) => MergeClause::not_matched_insert_values(values(list)),
        ("updateNotMatched", Some(list), _) => MergeClause::not_matched_by_source_update(set(list)),
        ("deleteNotMatched", ..) => MergeClause::not_matched_by_source_delete(),
        other => panic!("no clause for {other:?}"),
    };
    match text("condition") {
        Some(sql) => made.when(sql),
        None => made,
    }
}

/// `s.key = t.key and more`: the key, and what else a match must fulfil.
fn merge(case: &Json) -> Merge {
    let on = case["on"].as_str().unwrap();
    let mut parts = on.split(" AND ").flat_map(|p| p.split(" and "));
    assert_eq!(parts.next(), Some("s.key = t.key"));
    let mut merge = Merge::on(["key"]).aliases("t", "s");
    for predicate in parts {
        merge = merge.predicate(predicate);
    }
    case["clauses"].as_array().unwrap().iter().map(clause).fold(merge, Merge::clause)
}

fn select(rows: &Json) -> String {
    let rows: Vec<String> =
        rows.as_array().unwrap().iter().map(|r| format!("({}::int, {}::int)", r[0], r[1])).collect();
    match rows.is_empty() {
        true => "select 0::int as key, 0::int as value where false".to_owned(),
        false => format!("select * from (values {}) v(key, value)", rows.join(", ")),
    }
}

fn sorted(rows: &Json) -> Vec<String> {
    let mut rows: Vec<String> = rows.as_array().unwrap().iter().map(|r| format!("{}|{}", r[0], r[1])).collect();
    rows.sort();
    rows
}

#[tokio::test(flavor = "multi_thread")]
async fn spark_merge_cases() {
    let Some(cases) = cases("spark_merge_cases.json") else { return };
    let (mut rows, mut errors, mut otherwise, mut not_accepted) = (0, 0, 0, Vec::new());
    for case in &cases {
        let name = case["name"].as_str().unwrap().trim();
        // One file, and one file for every row; and the same by delta-rs's merge.
        for (row_by_row, theirs) in [(false, false), (true, false), (false, true)] {
            let lake = Lake::new().await;
            let put = |sql: String| lake.session.model("a.t").sql(sql).files(files(1000)).run();
            let target = case["target"].as_array().unwrap();
            let parts: Vec<Json> = match row_by_row {
                true => target.iter().map(|r| Json::Array(vec![r.clone()])).collect(),
                false => vec![case["target"].clone()],
            };
            for part in &parts {
                put(select(part)).await.unwrap().committed().map(drop).unwrap();
            }
            let before = lake.state("a.t");
            let session = if theirs { by_delta_rs(&lake).await } else { lake.session.clone() };
            let model = session.model("a.t").sql(select(&case["source"])).files(files(1000));
            let done = model.strategy(merge(case)).run().await;
            let mut got = lake.rows("select key, value from a.t").await;
            got.sort();
            if theirs && done.as_ref().is_err_and(|e| e.kind() == ErrorKind::Unsupported) {
                assert_eq!(lake.state("a.t"), before, "{name}");
                not_accepted.push(name);
                continue;
            }
            let refused = DECIDED_OTHERWISE.iter().find(|(n, _)| *n == name);
            match (case["expect"].as_str().unwrap(), refused) {
                ("rows", None) => {
                    done.unwrap_or_else(|e| panic!("{name}: {e}")).committed().map(drop).unwrap();
                    assert_eq!(got, sorted(&case["result"]), "{name}");
                    rows += 1;
                }
                ("rows", Some((_, reason))) if reason.starts_with("an empty source") => {
                    assert_eq!(done.unwrap().version(), None, "{name}: {reason}");
                    assert_eq!(got, sorted(&case["target"]), "{name}");
                    otherwise += 1;
                }
                (_, listed) => {
                    let error = done.unwrap_err();
                    assert_eq!(error.kind(), ErrorKind::InvalidData, "{name}: {error}");
                    assert!(error.message().contains("key = "), "{name}: {error}");
                    assert_eq!(lake.state("a.t"), before, "{name}");
                    assert_eq!(got, sorted(&case["target"]), "{name}");
                    match listed {
                        Some(_) => otherwise += 1,
                        None => errors += 1,
                    }
                }
            }
        }
    }
    assert_eq!(cases.len(), 56);
    assert_eq!(not_accepted, NOT_FOR_DELTA_RS);
    // Each case on one file, on a file for every row, and by delta-rs.
    let stated = 3 * 45 - NOT_FOR_DELTA_RS.len();
    assert_eq!((rows, errors, otherwise), (stated, 3 * 6, 3 * 5), "stated rows, stated errors, decided otherwise");
}
