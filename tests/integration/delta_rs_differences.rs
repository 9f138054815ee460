//! What delta-rs's merge does otherwise than our specification, beside ours on the same table: the reasons why the differential
//! tests leave such cases out. A release of delta-rs that behaves makes a test here fail, and its reason goes.

use duckrun::Merge;
use duckrun::core::NullKeys;
use duckrun_testkit::generate::{delete_rows, sql};
use duckrun_testkit::model::{self, Column, Rows, Type, Value};

use crate::oracle::{delta_rs_merge, files};
use crate::support::Lake;

fn rows(ty: Type, keys: &[Value], v: i64) -> Rows {
    let columns = vec![Column::new("k", ty), Column::new("v", Type::Long)];
    Rows::new(columns, keys.iter().map(|k| vec![k.clone(), Value::Int(v)]).collect())
}

/// The values `v` after an upsert by delta-rs (or its error) and after the same by ours.
async fn both(
    stored: &Rows,
    incoming: &Rows,
    merge: Merge,
) -> (Result<Vec<String>, String>, Result<Vec<String>, String>) {
    let mut ends = Vec::new();
    for ours in [false, true] {
        let lake = Lake::new().await;
        let put = |rows: &Rows| lake.session.model("a.t").sql(sql::select(rows)).files(files(1000));
        put(stored).run().await.unwrap().committed().map(drop).unwrap();
        let done = if ours {
            put(incoming).strategy(merge.clone()).run().await.map(drop).map_err(|e| e.to_string())
        } else {
            let upsert = model::Merge::upsert(["k"], &incoming.columns);
            delta_rs_merge(&lake.folder("a.t"), &upsert, incoming).await.map_err(|e| e.to_string())
        };
        let rows = lake.rows("select v from a.t order by v").await;
        ends.push(done.map(|()| rows));
    }
    let ours = ends.pop().unwrap();
    (ends.pop().unwrap(), ours)
}

fn values(list: &[&str]) -> Result<Vec<String>, String> {
    Ok(list.iter().map(|v| (*v).to_owned()).collect())
}

#[tokio::test(flavor = "multi_thread")]
async fn null_keys_are_inserted_again_by_every_run() {
    let stored = rows(Type::Long, &[Value::Null], 1);
    let incoming = rows(Type::Long, &[Value::Null], 2);
    let (theirs, ours) = both(&stored, &incoming, Merge::on(["k"]).null_keys(NullKeys::Equal)).await;
    assert_eq!((theirs, ours), (values(&["1", "2"]), values(&["2"])));
    let (_, ours) = both(&stored, &incoming, Merge::on(["k"])).await;
    assert!(ours.unwrap_err().contains("NULL"));
}

#[tokio::test(flavor = "multi_thread")]
async fn two_new_rows_with_one_key_are_both_inserted() {
    let stored = rows(Type::Long, &[Value::Int(1)], 1);
    let incoming = rows(Type::Long, &[Value::Int(2), Value::Int(2)], 2);
    let (theirs, ours) = both(&stored, &incoming, Merge::on(["k"])).await;
    assert_eq!(theirs, values(&["1", "2", "2"]));
    assert!(ours.unwrap_err().contains("2 incoming rows"));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_two_zeros_are_one_key_to_both() {
    let stored = rows(Type::Double, &[Value::Float(0.0)], 1);
    let incoming = rows(Type::Double, &[Value::Float(-0.0)], 2);
    let (theirs, ours) = both(&stored, &incoming, Merge::on(["k"])).await;
    assert_eq!((theirs, ours), (values(&["2"]), values(&["2"])));
}

/// NaN is one key to both. It is in no statistics, so that ours must not let the engine rule row groups out by them.
#[tokio::test(flavor = "multi_thread")]
async fn nan_is_one_key() {
    let stored = rows(Type::Double, &[Value::Float(f64::NAN), Value::Float(1.0)], 1);
    let incoming = rows(Type::Double, &[Value::Float(f64::NAN)], 2);
    let (theirs, ours) = both(&stored, &incoming, Merge::on(["k"])).await;
    assert_eq!((theirs, ours), (values(&["1", "2"]), values(&["1", "2"])));
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_under_deletion_vectors_are_gone_to_both() {
    for ours in [false, true] {
        let lake = Lake::new().await;
        let table = rows(Type::Long, &[Value::Int(1), Value::Int(2)], 1);
        lake.session.model("a.t").sql(sql::select(&table)).run().await.unwrap().committed().map(drop).unwrap();
        assert!(delete_rows(&lake.folder("a.t"), |_| vec![0]).unwrap());
        assert_eq!(lake.rows("select k from a.t").await, ["2"]);
        let incoming = rows(Type::Long, &[Value::Int(2), Value::Int(1)], 9);
        if ours {
            let model = lake.session.model("a.t").sql(sql::select(&incoming)).strategy(Merge::on(["k"]));
            model.run().await.unwrap().committed().map(drop).unwrap();
        } else {
            let upsert = model::Merge::upsert(["k"], &incoming.columns);
            delta_rs_merge(&lake.folder("a.t"), &upsert, &incoming).await.unwrap();
        }
        assert_eq!(lake.rows("select k, v from a.t order by k").await, ["1|9", "2|9"]);
    }
}

/// The engine rules row groups of parquet files out by statistics that NaN is not in; a filter on a float keeps them all the
/// same, as on a table of the engine's own, where NaN is the greatest value.
#[tokio::test(flavor = "multi_thread")]
async fn a_filter_does_not_miss_nan() {
    let lake = Lake::new().await;
    let stored = rows(Type::Double, &[Value::Float(f64::NAN), Value::Float(1.0)], 1);
    lake.session.model("a.t").sql(sql::select(&stored)).run().await.unwrap().committed().map(drop).unwrap();
    assert_eq!(lake.rows("select count(*) from a.t where k > 5").await, ["1"]);
    assert_eq!(lake.rows("select count(*) from a.t where k = 'nan'::double").await, ["1"]);
    let delete = lake.session.model("a.t").strategy(duckrun::Delete::rows_where("k > 5"));
    assert_eq!(delete.run().await.unwrap().rows_deleted(), Some(1));
}

/// The stored zero stays: an upsert sets every column but the key.
#[tokio::test(flavor = "multi_thread")]
async fn the_stored_zero_stays() {
    let lake = Lake::new().await;
    let put = |k: f64, v: i64| {
        let rows = rows(Type::Double, &[Value::Float(k)], v);
        lake.session.model("a.t").sql(sql::select(&rows)).strategy(Merge::on(["k"])).run()
    };
    put(-0.0, 1).await.unwrap().committed().map(drop).unwrap();
    put(0.0, 2).await.unwrap().committed().map(drop).unwrap();
    assert_eq!(lake.rows("select k::varchar, v from a.t").await, ["-0.0|2"]);
}
