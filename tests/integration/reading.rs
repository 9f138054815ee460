//! Snapshots of tables that others wrote: delta-rs, and logs made by hand for features that delta-rs does not write.

use std::path::Path;
use std::sync::Arc;

use deltalake::DeltaTable;
use deltalake::arrow::array::{
    ArrayRef, Date32Array, Decimal128Array, Int32Array, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray,
};
use deltalake::protocol::SaveMode;
use duckrun::{At, ErrorKind, Session};
use serde_json::json;
use url::Url;

use crate::support::{Lake, rows};

async fn delta_rs(folder: &Path) -> DeltaTable {
    std::fs::create_dir_all(folder).unwrap();
    DeltaTable::try_from_url(Url::from_directory_path(folder).unwrap()).await.unwrap()
}

fn batch(from: i64, to: i64) -> RecordBatch {
    let n: Vec<i64> = (from..to).collect();
    let text: Vec<Option<String>> = n.iter().map(|i| (i % 3 != 0).then(|| format!("s {i}/=%'é"))).collect();
    let decimals = Decimal128Array::from_iter_values(n.iter().map(|i| i128::from(*i) * 1_234_567_890_123))
        .with_precision_and_scale(20, 2)
        .unwrap();
    let times = TimestampMicrosecondArray::from_iter_values(n.iter().map(|i| i * 1_000_001)).with_timezone("UTC");
    RecordBatch::try_from_iter_with_nullable(vec![
        ("n", Arc::new(Int64Array::from(n.clone())) as ArrayRef, true),
        ("p", Arc::new(StringArray::from(text)) as ArrayRef, true),
        ("d", Arc::new(Date32Array::from_iter_values(n.iter().map(|i| *i as i32 * 400))) as ArrayRef, true),
        ("m", Arc::new(decimals) as ArrayRef, true),
        ("t", Arc::new(times) as ArrayRef, true),
    ])
    .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_of_delta_rs_with_partitions_checkpoints_and_history() {
    let lake = Lake::new().await;
    let folder = lake.folder("raw.t");
    let mut table = delta_rs(&folder).await;
    for i in 0..25 {
        table = table
            .write(vec![batch(i * 4, i * 4 + 4)])
            .with_save_mode(SaveMode::Append)
            .with_partition_columns(["p", "d"])
            .await
            .unwrap();
    }
    deltalake::checkpoints::create_checkpoint(&table, None).await.unwrap();
    table.write(vec![batch(1000, 1001)]).with_save_mode(SaveMode::Append).await.unwrap();
    // Everything before the checkpoint is gone from the log: the checkpoint alone must do.
    for version in 0..20 {
        std::fs::remove_file(folder.join(format!("_delta_log/{version:020}.json"))).unwrap();
    }
    assert_eq!(lake.rows("select count(*), sum(n) from raw.t").await, ["101|5950"]);
    let sample = "select n, p, d, m, t::varchar from raw.t where n in (4, 6) order by n";
    assert_eq!(
        lake.rows(sample).await,
        [
            "4|s 4/=%'é|1974-05-20|49382715604.92|1970-01-01 00:00:04.000004+00",
            "6|NULL|1976-07-28|74074073407.38|1970-01-01 00:00:06.000006+00"
        ]
    );
    let then = lake.session.sql("select count(*) from raw.t").at("raw.t", At::Version(24));
    assert_eq!(rows(then).await, ["100"]);
    let error = lake.session.snapshot("raw.t", At::Version(3)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
    // And ours appends to it.
    let more = "select 7::bigint as n, 'new' as p, date '2020-02-29' as d";
    let report = lake.session.model("raw.t").sql(more).run().await.unwrap();
    assert_eq!(report.version(), Some(26), "{report}");
    let table = delta_rs(&folder).await;
    assert_eq!(table.snapshot().unwrap().snapshot().log_data().num_files(), 102);
}

#[tokio::test(flavor = "multi_thread")]
async fn evolved_schemas_read_null() {
    let lake = Lake::new().await;
    let folder = lake.folder("raw.t");
    let one =
        RecordBatch::try_from_iter_with_nullable(vec![("a", Arc::new(Int32Array::from(vec![1])) as ArrayRef, true)])
            .unwrap();
    let two = RecordBatch::try_from_iter_with_nullable(vec![
        ("b", Arc::new(StringArray::from(vec!["x"])) as ArrayRef, true),
        ("a", Arc::new(Int32Array::from(vec![2])) as ArrayRef, true),
    ])
    .unwrap();
    let table = delta_rs(&folder).await.write(vec![one]).await.unwrap();
    let merge = deltalake::operations::write::SchemaMode::Merge;
    table.write(vec![two]).with_save_mode(SaveMode::Append).with_schema_mode(merge).await.unwrap();
    assert_eq!(lake.rows("select a, b from raw.t order by a").await, ["1|NULL", "2|x"]);
    let then = lake.session.sql("select * from raw.t").at("raw.t", At::Version(0));
    assert_eq!(rows(then).await, ["1"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn time_travel_by_timestamp() {
    let lake = Lake::new().await;
    let mut times = Vec::new();
    for n in 0..3 {
        lake.put("a.t", format!("select {n}::bigint as n")).await;
        times.push(chrono::Utc::now());
        tokio::time::sleep(std::time::Duration::from_millis(30)).await;
    }
    for (version, time) in times.iter().enumerate() {
        let snapshot = lake.session.snapshot("a.t", At::Timestamp(*time)).await.unwrap();
        assert_eq!(snapshot.version(), version as u64);
    }
    let before = times[0] - chrono::Duration::hours(1);
    let error = lake.session.snapshot("a.t", At::Timestamp(before)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
}

/// Rewrites the first commit of a table of ours, as a writer with other features would have left it.
fn edit_log(folder: &Path, version: u64, edit: impl Fn(&mut serde_json::Value)) {
    let path = folder.join(format!("_delta_log/{version:020}.json"));
    let text = std::fs::read_to_string(&path).unwrap();
    let lines: Vec<String> = text
        .lines()
        .map(|line| {
            let mut action: serde_json::Value = serde_json::from_str(line).unwrap();
            edit(&mut action);
            action.to_string()
        })
        .collect();
    std::fs::write(&path, lines.join("\n") + "\n").unwrap();
}

fn with_features(action: &mut serde_json::Value, features: &[&str]) {
    if action.get("protocol").is_some() {
        action["protocol"] = json!({ "minReaderVersion": 3, "minWriterVersion": 7, "readerFeatures": features, "writerFeatures": features });
    }
}

async fn ten_rows() -> Lake {
    let lake = Lake::new().await;
    let sql = "select range::bigint as n, {'x': range::bigint} as s from range(30)";
    lake.put("a.t", sql).await;
    lake
}

#[tokio::test(flavor = "multi_thread")]
async fn deletion_vectors_hide_rows() {
    let lake = ten_rows().await;
    edit_log(&lake.folder("a.t"), 0, |action| {
        with_features(action, &["deletionVectors"]);
        if action.get("add").is_some() {
            // The inline example of the protocol's text: rows 3, 4, 7, 11, 18, 29.
            action["add"]["deletionVector"] = json!({
                "storageType": "i", "pathOrInlineDv": "wi5b=000010000siXQKl0rr91000f55c8Xg0@@D72lkbi5=-{L",
                "sizeInBytes": 40, "cardinality": 6,
            });
        }
    });
    assert_eq!(lake.rows("select count(*), sum(n) from a.t").await, [format!("24|{}", 435 - 3 - 4 - 7 - 11 - 18 - 29)]);
    assert_eq!(lake.rows("select n from a.t where n in (2, 3, 4, 5) order by n").await, ["2", "5"]);
    // An overwrite removes the file with its vector; the table is empty of it afterwards for every reader.
    let report = lake
        .session
        .model("a.t")
        .sql("select 1::bigint as n")
        .strategy(duckrun::Overwrite::default())
        .run()
        .await
        .unwrap();
    assert_eq!(report.metrics().unwrap().rows_deleted, Some(24));
    assert_eq!(lake.rows("select n from a.t").await, ["1"]);
    let table = delta_rs(&lake.folder("a.t")).await;
    assert_eq!(table.snapshot().unwrap().snapshot().log_data().num_files(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn column_mapping_renames_columns_and_nested_fields() {
    let lake = ten_rows().await;
    edit_log(&lake.folder("a.t"), 0, |action| {
        with_features(action, &["columnMapping"]);
        if action.get("metaData").is_some() {
            action["metaData"]["configuration"]["delta.columnMapping.mode"] = json!("name");
            action["metaData"]["configuration"]["delta.columnMapping.maxColumnId"] = json!("3");
            let field = |name: &str, physical: &str, id: u32, ty: serde_json::Value| {
                json!({ "name": name, "type": ty, "nullable": true,
                    "metadata": { "delta.columnMapping.id": id, "delta.columnMapping.physicalName": physical } })
            };
            let inner = json!({ "type": "struct", "fields": [field("deep name", "x", 3, json!("long"))] });
            let fields = [field("my number", "n", 1, json!("long")), field("nested", "s", 2, inner)];
            action["metaData"]["schemaString"] = json!(json!({ "type": "struct", "fields": fields }).to_string());
        }
    });
    let sql = "select sum(\"my number\"), sum(nested.\"deep name\") from a.t";
    assert_eq!(lake.rows(sql).await, ["435|435"]);
    let before = lake.state("a.t");
    let more = "select 100::bigint as \"my number\", {'deep name': 7::bigint} as nested";
    let error = lake.session.model("a.t").sql(more).run().await.unwrap_err();
    assert!(error.to_string().contains("columnMapping"), "{error}");
    assert_eq!(lake.state("a.t"), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn features_that_could_be_misread_are_refused_by_name() {
    for feature in ["typeWidening", "variantType", "somethingNew"] {
        let lake = ten_rows().await;
        edit_log(&lake.folder("a.t"), 0, |action| with_features(action, &[feature]));
        let before = lake.state("a.t");
        for error in [
            lake.session.snapshot("a.t", At::Latest).await.map(|_| ()).unwrap_err(),
            lake.session.model("a.t").sql("select 1::bigint as n").run().await.map(|_| ()).unwrap_err(),
        ] {
            assert_eq!(error.kind(), ErrorKind::Unsupported, "{feature}: {error}");
            assert!(error.to_string().contains(feature), "{feature}: {error}");
        }
        assert_eq!(lake.state("a.t"), before);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_constraint_of_the_table_holds_for_what_is_written() {
    let lake = ten_rows().await;
    edit_log(&lake.folder("a.t"), 0, |action| {
        if action.get("metaData").is_some() {
            action["metaData"]["configuration"]["delta.constraints.positive"] = json!("n > 0");
        }
    });
    let before = lake.state("a.t");
    assert_eq!(lake.rows("select count(*) from a.t").await, ["30"]);
    for sql in ["select -1::bigint as n", "select null::bigint as n"] {
        let error = lake.session.model("a.t").sql(sql).run().await.map(drop).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidData);
        assert!(error.message().contains("\"positive\"") && error.message().contains("1 rows"), "{error}");
    }
    assert_eq!(lake.state("a.t"), before);
    lake.put("a.t", "select 7::bigint as n").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_append_only_table_is_not_overwritten() {
    let lake = Lake::new().await;
    let model = || lake.session.model("a.t").sql("select 1::bigint as n");
    model().property("delta.appendOnly", "true").run().await.unwrap().committed().map(drop).unwrap();
    model().run().await.unwrap().committed().map(drop).unwrap();
    let before = lake.state("a.t");
    let error = model().strategy(duckrun::Overwrite::default()).run().await.unwrap_err();
    assert!(error.message().contains("append-only"), "{error}");
    assert_eq!(lake.state("a.t"), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn opening_does_not_read_files() {
    let lake = ten_rows().await;
    let session: Session = lake.session.clone();
    for file in lake.state("a.t").1 {
        std::fs::remove_file(file).unwrap();
    }
    let snapshot = session.snapshot("a.t", At::Latest).await.unwrap();
    assert_eq!(snapshot.schema().fields().len(), 2);
    assert_eq!(snapshot.files().await.unwrap().files[0].rows, Some(30));
}
