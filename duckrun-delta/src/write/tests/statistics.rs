//! Statistics against brute force: every row lies within its file's range, and NULLs are counted exactly.

use arrow::array::*;
use arrow::datatypes::*;
use proptest::prelude::*;
use serde_json::Value;

use super::*;

type Rows = Vec<(Option<i64>, Option<f64>, Option<String>, Option<i64>, Option<i64>, Option<Vec<Option<i32>>>)>;

fn any_text() -> impl Strategy<Value = String> {
    prop_oneof![
        proptest::collection::vec(proptest::char::any(), 0..60).prop_map(|c| c.into_iter().collect()),
        (0..70_usize, proptest::char::any()).prop_map(|(n, c)| format!("{}{c}", "\u{10FFFF}".repeat(n))),
        (0..70_usize).prop_map(|n| "a".repeat(n)),
    ]
}

fn any_rows() -> impl Strategy<Value = Rows> {
    let float = prop_oneof![3 => -1e3..1e3_f64, 1 => Just(-0.0), 1 => Just(0.0), 1 => proptest::num::f64::ANY];
    let row = (
        proptest::option::of(any::<i64>()),
        proptest::option::of(float),
        proptest::option::of(any_text()),
        proptest::option::of(-1_000_000_000_000_000_000_i64..1_000_000_000_000_000_000),
        proptest::option::of(-70_000_000_000_000_000_i64..300_000_000_000_000_000),
        proptest::option::of(proptest::collection::vec(proptest::option::of(any::<i32>()), 0..3)),
    );
    proptest::collection::vec(row, 1..40)
}

fn batch(rows: &Rows) -> RecordBatch {
    let decimals = rows.iter().map(|r| r.3.map(i128::from)).collect::<Decimal128Array>();
    let floats: ArrayRef = Arc::new(rows.iter().map(|r| r.1).collect::<Float64Array>());
    let parents: Vec<bool> = rows.iter().map(|r| r.0.is_some()).collect();
    let inner: Fields = vec![Field::new("f", DataType::Float64, true)].into();
    RecordBatch::try_from_iter_with_nullable(vec![
        ("i", Arc::new(rows.iter().map(|r| r.0).collect::<Int64Array>()) as ArrayRef, true),
        ("f", Arc::clone(&floats), true),
        ("t", Arc::new(rows.iter().map(|r| r.2.clone()).collect::<StringArray>()), true),
        ("d", Arc::new(decimals.with_precision_and_scale(18, 2).unwrap()), true),
        ("ts", Arc::new(rows.iter().map(|r| r.4).collect::<TimestampMicrosecondArray>().with_timezone("UTC")), true),
        ("l", Arc::new(ListArray::from_iter_primitive::<Int32Type, _, _>(rows.iter().map(|r| r.5.clone()))), true),
        ("s", Arc::new(StructArray::new(inner, vec![floats], Some(parents.into()))), true),
    ])
    .unwrap()
}

/// `1234.56` as 123456, without a float in between.
fn unscaled(number: &str) -> i128 {
    number.replace('.', "").parse().unwrap()
}

/// The text between a key and the end of its value: numbers must not pass through serde_json's f64.
fn raw<'a>(stats: &'a str, side: &str, key: &str) -> Option<&'a str> {
    let side = &stats[stats.find(&format!("\"{side}\":")).unwrap()..];
    let side = &side[..side.find("},\"").unwrap_or(side.len())];
    let at = side.find(&format!("\"{key}\":"))? + key.len() + 3;
    Some(side[at..].split([',', '}']).next().unwrap())
}

fn micros(text: &str) -> i64 {
    chrono::DateTime::parse_from_rfc3339(text).unwrap().timestamp_micros()
}

fn check(rows: &Rows, stats: &str) {
    let json: Value = serde_json::from_str(stats).unwrap();
    let (min, max, nulls) = (&json["minValues"], &json["maxValues"], &json["nullCount"]);
    assert_eq!(json["numRecords"], rows.len());
    let count = |null: &dyn Fn(&Rows) -> usize| null(rows);
    assert_eq!(nulls["i"], count(&|r| r.iter().filter(|r| r.0.is_none()).count()));
    assert_eq!(nulls["f"], count(&|r| r.iter().filter(|r| r.1.is_none()).count()));
    assert_eq!(nulls["t"], count(&|r| r.iter().filter(|r| r.2.is_none()).count()));
    assert_eq!(nulls["l"], count(&|r| r.iter().filter(|r| r.5.is_none()).count()));
    assert_eq!(nulls["s"]["f"], count(&|r| r.iter().filter(|r| r.0.is_none() || r.1.is_none()).count()));
    for row in rows {
        if let Some(i) = row.0 {
            assert!(min["i"].as_i64().unwrap() <= i && i <= max["i"].as_i64().unwrap());
        }
        if let Some(t) = &row.2 {
            assert!(min["t"].as_str().unwrap().as_bytes() <= t.as_bytes());
            if let Some(max) = max["t"].as_str() {
                assert!(t.as_bytes() <= max.as_bytes() && max.chars().count() <= 32);
            }
        }
        if let Some(d) = row.3 {
            assert!(unscaled(raw(stats, "minValues", "d").unwrap()) <= d.into());
            assert!(unscaled(raw(stats, "maxValues", "d").unwrap()) >= d.into());
        }
        if let Some(ts) = row.4 {
            if let Some(min) = min["ts"].as_str() {
                assert!(micros(min) <= ts);
            }
            if let Some(max) = max["ts"].as_str() {
                assert!(micros(max) >= ts);
            }
        }
        if let (Some(f), Some(min), Some(max)) = (row.1, min["f"].as_f64(), max["f"].as_f64()) {
            assert!(min <= f && f <= max && min.total_cmp(&f).is_le() && max.total_cmp(&f).is_ge());
        }
    }
    if rows.iter().any(|r| r.1.is_some_and(|f| !f.is_finite())) {
        assert!(min.get("f").is_none() && max.get("f").is_none());
    } else if rows.iter().any(|r| r.1.is_some()) {
        assert!(min.get("f").is_some() && max.get("f").is_some());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 192, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_row_lies_within_the_statistics(rows in any_rows(), group in 1..50_usize) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let dir = tempfile::tempdir().unwrap();
        let batch = batch(&rows);
        let spec = spec(&batch.schema(), &[], options(group));
        let staged = runtime.block_on(write(&local(dir.path()), &spec, vec![batch])).unwrap();
        check(&rows, staged.files[0].stats.as_deref().unwrap());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_leading_columns_are_measured_and_properties_can_say_which() {
    let rows: Rows = vec![(Some(1), Some(1.0), Some("x".into()), Some(5), Some(0), None)];
    let batch = batch(&rows);
    let keys = |property: Option<(&str, &str)>, first: Option<usize>| {
        let batch = batch.clone();
        let mut files = options(9);
        files.stats_columns = first;
        let mut spec = spec(&batch.schema(), &["d"], files);
        spec.properties.extend(property.map(|(k, v)| (k.to_owned(), v.to_owned())));
        async move {
            let dir = tempfile::tempdir().unwrap();
            let staged = write(&local(dir.path()), &spec, vec![batch]).await?;
            let json: Value = serde_json::from_str(staged.files[0].stats.as_deref().unwrap()).unwrap();
            let mut keys: Vec<String> = json["nullCount"].as_object().unwrap().keys().cloned().collect();
            keys.sort();
            duckrun_core::Result::<String>::Ok(keys.join(" "))
        }
    };
    let indexed = "delta.dataSkippingNumIndexedCols";
    assert_eq!(keys(None, None).await.unwrap(), "f i l s t ts");
    assert_eq!(keys(None, Some(2)).await.unwrap(), "f i");
    assert_eq!(keys(Some((indexed, "3")), None).await.unwrap(), "f i t");
    assert_eq!(keys(Some((indexed, "0")), None).await.unwrap(), "");
    assert_eq!(keys(Some((indexed, "-1")), None).await.unwrap(), "f i l s t ts");
    assert_eq!(keys(Some(("delta.dataSkippingStatsColumns", "t, s.f")), None).await.unwrap(), "s t");
    assert!(keys(Some((indexed, "many")), None).await.is_err());
}
