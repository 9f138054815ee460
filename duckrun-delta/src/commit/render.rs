//! A commit as the bytes that go into the log: one JSON action per line, commit info first.

use bytes::Bytes;
use chrono::SecondsFormat;
use duckrun_core::{ConflictPolicy, Error, Intent, Result, RunContext, WriteAction, WriteMetrics};
use serde_json::{Map, Value as Json, json};

use crate::protocol::{Metadata, Protocol};
use crate::snapshot::{DeltaSnapshot, LiveFile};

/// The key of a run's id in commit info. `txnId` is the protocol's name for it; Spark writes its own there.
pub(crate) const RUN_ID: &str = "txnId";
/// The key of [`Intent::applied`] in commit info.
pub(crate) const APPLIED: &str = "duckrunApplied";

/// The bytes of a commit. They do not depend on the version that they will get.
#[derive(Debug, Clone)]
pub(super) struct Rendered(pub(super) Bytes);

#[allow(clippy::too_many_arguments)]
pub(super) fn render(
    cx: &RunContext,
    base: Option<&DeltaSnapshot>,
    protocol: Option<&Protocol>,
    metadata: Option<&Metadata>,
    removed: &[LiveFile],
    intent: &Intent,
    read: Option<u64>,
    metrics: &WriteMetrics,
) -> Result<Rendered> {
    let now = cx.now();
    let millis = now.timestamp_millis();
    let mut lines = Vec::with_capacity(intent.staged.all().count() + removed.len() + 3);
    lines.push(json!({ "commitInfo": commit_info(cx, base, intent, read, metrics) }));
    if let Some(protocol) = protocol {
        lines.push(json!({ "protocol": to_json(protocol)? }));
    }
    if let Some(metadata) = metadata {
        lines.push(json!({ "metaData": to_json(metadata)? }));
    }
    if let Some(transaction) = &intent.transaction {
        lines.push(json!({ "txn": {
            "appId": transaction.app_id, "version": transaction.version, "lastUpdated": millis,
        }}));
    }
    for file in removed {
        let mut remove = json!({
            "path": file.path,
            "deletionTimestamp": millis,
            "dataChange": true,
            "extendedFileMetadata": true,
            "partitionValues": file.partition_values,
            "size": file.size,
        });
        if let Some(vector) = &file.deletion_vector {
            remove["deletionVector"] = to_json(vector)?;
        }
        lines.push(json!({ "remove": remove }));
    }
    for file in &intent.staged.files {
        let mut add = json!({
            "path": file.path,
            "partitionValues": file.partition_values,
            "size": file.size,
            "modificationTime": file.modified,
            "dataChange": true,
        });
        if let Some(stats) = &file.stats {
            add["stats"] = Json::String(stats.clone());
        }
        lines.push(json!({ "add": add }));
    }
    for file in &intent.staged.change_files {
        lines.push(json!({ "cdc": {
            "path": file.path,
            "partitionValues": file.partition_values,
            "size": file.size,
            "dataChange": false,
        }}));
    }
    tracing::debug!(actions = lines.len(), at = %now.to_rfc3339_opts(SecondsFormat::Millis, true), "commit rendered");
    let mut text = String::new();
    for line in lines {
        text.push_str(&line.to_string());
        text.push('\n');
    }
    Ok(Rendered(Bytes::from(text)))
}

fn commit_info(
    cx: &RunContext,
    base: Option<&DeltaSnapshot>,
    intent: &Intent,
    read: Option<u64>,
    metrics: &WriteMetrics,
) -> Json {
    let plan = &intent.plan;
    let mut info = Map::new();
    info.insert("timestamp".into(), json!(cx.now().timestamp_millis()));
    let mode = match plan.action {
        WriteAction::Overwrite if base.is_some() => "Overwrite",
        WriteAction::Overwrite => "ErrorIfExists",
        _ => "Append",
    };
    if base.is_none() {
        info.insert("operation".into(), json!("CREATE TABLE AS SELECT"));
        info.insert(
            "operationParameters".into(),
            json!({
                "isManaged": "false",
                "description": plan.metadata.comment.clone().unwrap_or_default(),
                "partitionBy": Json::from(plan.partition_columns.clone()).to_string(),
                "properties": json!(plan.metadata.properties).to_string(),
            }),
        );
    } else if let Some(operation) = &intent.operation {
        info.insert("operation".into(), json!(operation.name));
        info.insert("operationParameters".into(), json!(operation.parameters));
    } else {
        info.insert("operation".into(), json!("WRITE"));
        info.insert(
            "operationParameters".into(),
            json!({ "mode": mode, "partitionBy": Json::from(plan.partition_columns.clone()).to_string() }),
        );
    }
    if let Some(read) = read {
        info.insert("readVersion".into(), json!(read));
    }
    info.insert(
        "isolationLevel".into(),
        json!(if plan.conflict == ConflictPolicy::Blind { "WriteSerializable" } else { "Serializable" }),
    );
    info.insert(
        "isBlindAppend".into(),
        json!(plan.action == WriteAction::Append && plan.conflict == ConflictPolicy::Blind),
    );
    let mut figures = Map::new();
    figures.insert("numFiles".into(), json!(metrics.files_added.to_string()));
    figures.insert("numOutputRows".into(), json!(metrics.rows_inserted.to_string()));
    figures.insert("numOutputBytes".into(), json!(metrics.bytes_added.to_string()));
    if metrics.files_removed > 0 {
        figures.insert("numRemovedFiles".into(), json!(metrics.files_removed.to_string()));
        figures.insert("numRemovedBytes".into(), json!(metrics.bytes_removed.to_string()));
        if let Some(rows) = metrics.rows_deleted {
            figures.insert("numDeletedRows".into(), json!(rows.to_string()));
        }
    }
    match &intent.operation {
        Some(operation) if base.is_some() => info.insert("operationMetrics".into(), json!(operation.metrics)),
        _ => info.insert("operationMetrics".into(), Json::Object(figures)),
    };
    if !intent.info.is_empty() {
        info.insert("userMetadata".into(), json!(json!(intent.info).to_string()));
    }
    info.insert("engineInfo".into(), json!(concat!("duckrun/", env!("CARGO_PKG_VERSION"))));
    info.insert("duckrunStrategy".into(), json!(plan.strategy));
    if let Some(applied) = &intent.applied {
        info.insert(APPLIED.into(), json!(applied));
    }
    info.insert(RUN_ID.into(), json!(cx.id().to_string()));
    Json::Object(info)
}

fn to_json(value: &impl serde::Serialize) -> Result<Json> {
    serde_json::to_value(value).map_err(|e| Error::internal("an action cannot be serialised").with_source(e))
}
