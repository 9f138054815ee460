//! Keys at the edges of what files say of themselves: a merge never misses a row, and so never inserts one twice.
//!
//! Log statistics are not what they seem: delta-rs holds decimals as doubles, so that its own upsert of DECIMAL(18,2)
//! `1234567890123456.78` prunes the file that has the key and inserts a duplicate (#3905); timestamps are cut to milliseconds
//! without rounding the maximum up; texts are cut; NaN is in no minimum and maximum; some writers give none.

use duckrun::core::NullKeys;
use duckrun::{DeleteInsert, Insert, Merge};
use duckrun_testkit::generate::{arrow, edges, key_type, sql};
use duckrun_testkit::model::{self, Column, Rows, Table, Type, Value};
use proptest::prelude::*;
use proptest::sample::select;
use proptest::test_runner::TestCaseError;

use deltalake::protocol::SaveMode;

use crate::merge_properties::check;
use crate::oracle::{delta_rs, files, read, runtime};
use crate::support::Lake;

/// Who wrote the files and what their statistics are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Statistics {
    Ours,
    /// delta-rs's own.
    DeltaRs,
    /// None at all.
    Missing,
    /// As the protocol lets a writer cut them: timestamps to milliseconds, texts to prefixes, decimals to doubles.
    Cut,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Act {
    Upsert,
    Insert,
    DeleteInsert,
}

#[derive(Debug, Clone)]
struct Case {
    ty: Type,
    statistics: Statistics,
    act: Act,
    /// One file each.
    stored: Vec<Vec<Value>>,
    incoming: Vec<Value>,
}

/// The values right beside a value, and those that look like it where precision is lost.
fn beside(value: &Value, ty: &Type) -> Vec<Value> {
    match (value, ty) {
        (Value::Int(i), _) => {
            let range = match ty {
                Type::Byte => i8::MIN.into()..=i8::MAX.into(),
                Type::Short => i16::MIN.into()..=i16::MAX.into(),
                Type::Int => i32::MIN.into()..=i32::MAX.into(),
                _ => i64::MIN..=i64::MAX,
            };
            [i.checked_add(1), i.checked_sub(1)]
                .into_iter()
                .flatten()
                .filter(|i| range.contains(i))
                .map(Value::Int)
                .collect()
        }
        (Value::Float(f), Type::Float) => {
            let f = *f as f32;
            [f.next_up(), f.next_down(), -f].map(|f| Value::Float(f.into())).to_vec()
        }
        (Value::Float(f), _) => [f.next_up(), f.next_down(), -f].map(Value::Float).to_vec(),
        (Value::Decimal(d), Type::Decimal(p, _)) => {
            let max = 10_i128.pow(u32::from(*p)) - 1;
            [d + 1, d - 1].into_iter().filter(|d| (-max..=max).contains(d)).map(Value::Decimal).collect()
        }
        (Value::Text(t), _) => {
            let cut: String = t.chars().take(32).collect();
            vec![Value::Text(format!("{t} ")), Value::Text(format!("{cut}\u{10ffff}")), Value::Text(cut)]
        }
        (Value::Binary(b), _) => vec![Value::Binary([b.as_slice(), &[0]].concat())],
        (Value::Date(d), _) => vec![Value::Date(d + 1), Value::Date((d - 1).max(-719_162))],
        (Value::Timestamp(t), _) => {
            let ms = t.div_euclid(1000) * 1000;
            [t + 1, t - 1, ms, ms + 999, ms + 1000].map(Value::Timestamp).to_vec()
        }
        _ => Vec::new(),
    }
}

fn case() -> BoxedStrategy<Case> {
    key_type()
        .prop_flat_map(|ty| {
            let near: Vec<Value> = edges(&ty)
                .iter()
                .flat_map(|v| {
                    let mut all = beside(v, &ty);
                    all.push(v.clone());
                    all
                })
                .collect();
            let value = prop_oneof![1 => Just(Value::Null), 12 => select(near)];
            let stored = prop::collection::vec(prop::collection::vec(value.clone(), 1..4), 1..4);
            let incoming = prop::collection::vec(value, 1..6);
            let statistics = select(vec![Statistics::Ours, Statistics::DeltaRs, Statistics::Missing, Statistics::Cut]);
            let act = select(vec![Act::Upsert, Act::Insert, Act::DeleteInsert]);
            (Just(ty), statistics, act, stored, incoming)
        })
        .prop_map(|(ty, statistics, act, stored, mut incoming)| {
            // Some of the stored keys come in for certain.
            incoming.extend(stored.iter().flatten().step_by(2).cloned());
            let mut seen: Vec<Value> = Vec::new();
            incoming.retain(|v| {
                let known = seen.iter().any(|s| s.matches(v));
                seen.push(v.clone());
                !known
            });
            Case { ty, statistics, act, stored, incoming }
        })
        .boxed()
}

fn rows(ty: &Type, keys: &[Value], v: i64) -> Rows {
    let columns = vec![Column::new("k", ty.clone()), Column::new("v", Type::Long)];
    Rows::new(columns, keys.iter().zip(v..).map(|(k, n)| vec![k.clone(), Value::Int(n)]).collect())
}

/// Rewrites the statistics in a table's log.
fn edit(folder: &std::path::Path, ty: &Type, statistics: Statistics) {
    for version in duckrun_testkit::log_versions(folder) {
        let path = folder.join(format!("_delta_log/{version:020}.json"));
        let lines = std::fs::read_to_string(&path).unwrap();
        let edited: String = lines
            .lines()
            .map(|line| {
                let mut action: serde_json::Value = serde_json::from_str(line).unwrap();
                if let Some(add) = action.get_mut("add").and_then(|a| a.as_object_mut()) {
                    match statistics {
                        Statistics::Missing => drop(add.remove("stats")),
                        _ => {
                            let text = add["stats"].as_str().unwrap().to_owned();
                            add["stats"] = cut(serde_json::from_str(&text).unwrap(), ty).to_string().into();
                        }
                    }
                }
                format!("{action}\n")
            })
            .collect();
        std::fs::write(path, edited).unwrap();
    }
}

fn cut(mut stats: serde_json::Value, ty: &Type) -> serde_json::Value {
    for side in ["minValues", "maxValues"] {
        let Some(value) = stats.get_mut(side).and_then(|s| s.get_mut("k")) else { continue };
        match (ty, value.as_str().map(str::to_owned)) {
            (Type::Timestamp | Type::TimestampNtz, Some(text)) => {
                // 2020-09-13T12:26:40.123456Z becomes 2020-09-13T12:26:40.123Z.
                if let Some((whole, fraction)) = text.split_once('.') {
                    let digits: String = fraction.chars().take_while(char::is_ascii_digit).take(3).collect();
                    let zone = if text.ends_with('Z') { "Z" } else { "" };
                    *value = format!("{whole}.{digits}{zone}").into();
                }
            }
            (Type::Text, Some(text)) if side == "minValues" => *value = text.chars().take(4).collect::<String>().into(),
            (Type::Decimal(..), _) => {
                if let Ok(number) = value.to_string().trim_matches('"').parse::<f64>() {
                    *value = number.into();
                }
            }
            _ => {}
        }
    }
    stats
}

async fn never_missed(case: Case) -> Result<(), TestCaseError> {
    let lake = Lake::new().await;
    let folder = lake.folder("a.t");
    let mut all = Vec::new();
    let mut theirs = None;
    for (n, keys) in case.stored.iter().enumerate() {
        let rows = rows(&case.ty, keys, 100 * n as i64);
        if case.statistics == Statistics::DeltaRs {
            std::fs::create_dir_all(&folder).unwrap();
            let table = match theirs.take() {
                Some(table) => table,
                None => delta_rs(&folder).await,
            };
            let write = table.write(vec![arrow::batch(&rows).unwrap()]).with_save_mode(SaveMode::Append);
            theirs = Some(write.await.unwrap());
        } else {
            let model = lake.session.model("a.t").sql(sql::select(&rows)).files(files(2));
            model.run().await.unwrap().committed().map(drop).unwrap();
        }
        all.extend(rows.rows);
    }
    if matches!(case.statistics, Statistics::Missing | Statistics::Cut) {
        edit(&folder, &case.ty, case.statistics);
    }
    let incoming = rows(&case.ty, &case.incoming, 1000);
    let mut table = Table::new(Rows::new(incoming.columns.clone(), all));
    let mut merge = model::Merge::upsert(["k"], &incoming.columns);
    // The keys of the table stay as they are stored: 0.0 does not become -0.0.
    merge.clauses[0].then = model::Then::Update(vec![("v".into(), model::Expr::Source("v".into()))]);
    merge.null_keys = NullKeys::Equal;
    let model = lake.session.model("a.t").sql(sql::select(&incoming)).files(files(1000));
    let (expected, run) = match case.act {
        Act::Upsert => {
            (table.merge(&merge, &incoming), model.strategy(Merge::on(["k"]).null_keys(NullKeys::Equal)).run())
        }
        Act::Insert => {
            merge.clauses.remove(0);
            (table.merge(&merge, &incoming), model.strategy(Insert::on(["k"]).null_keys(NullKeys::Equal)).run())
        }
        Act::DeleteInsert => (
            table.delete_insert(&["k".into()], NullKeys::Equal, &[], &incoming),
            model.strategy(DeleteInsert::on(["k"]).null_keys(NullKeys::Equal)).run(),
        ),
    };
    let report = run.await;
    prop_assert!(report.is_ok(), "{report:?}");
    let got = read(&lake.session, "a.t", table.columns()).await;
    prop_assert!(&got == table.rows(), "got {got:?}\nexpected {:?}\n{expected:?}", table.rows());
    Ok(())
}

#[test]
fn a_merge_never_misses_a_key() {
    let runtime = runtime();
    check(80, &case(), |case| runtime.block_on(never_missed(case)));
}

/// Upstream's duplicate (#3905), to the digit, and ours beside it.
#[tokio::test(flavor = "multi_thread")]
async fn the_decimal_that_delta_rs_inserts_twice() {
    let key = Value::Decimal(123_456_789_012_345_678);
    let ty = Type::Decimal(18, 2);
    let stored = rows(&ty, std::slice::from_ref(&key), 1);
    let incoming = rows(&ty, std::slice::from_ref(&key), 2);
    for ours in [false, true] {
        let lake = Lake::new().await;
        let folder = lake.folder("a.t");
        std::fs::create_dir_all(&folder).unwrap();
        delta_rs(&folder).await.write(vec![arrow::batch(&stored).unwrap()]).await.unwrap();
        if ours {
            let model = lake.session.model("a.t").sql(sql::select(&incoming)).strategy(Merge::on(["k"]));
            model.run().await.unwrap().committed().map(drop).unwrap();
        } else {
            let merge = model::Merge::upsert(["k"], &incoming.columns);
            crate::oracle::delta_rs_merge(&folder, &merge, &incoming).await.unwrap();
        }
        let expected: &[&str] = if ours { &["2"] } else { &["1", "2"] };
        assert_eq!(lake.rows("select v from a.t order by v").await, expected, "ours: {ours}");
    }
}
