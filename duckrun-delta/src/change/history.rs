//! How changes describe themselves in the table's history: the words of Spark and delta-rs.

use std::collections::BTreeMap;
use std::time::Duration;

use duckrun_core::{Clause, MergePlan, Operation, ReplacePlan, Replaced, Then, When, quote_ident};
use serde_json::json;

use super::{Done, has};

pub(super) fn merge(plan: &MergePlan, done: &Done, elapsed: Duration) -> Operation {
    let deletes = plan.clauses.iter().any(|c| matches!(c.then, Then::Delete));
    let name = match (plan.source, deletes) {
        (true, _) => "MERGE",
        (false, true) => "DELETE",
        (false, false) => "UPDATE",
    };
    let mut operation = Operation::new(name);
    let counts = &done.counts;
    let deleted = counts.deleted.unwrap_or_default();
    let (added, removed) = (done.staged.files.len(), done.removed.len());
    let change_files = done.staged.change_files.len() as u64;
    let mut metrics: Vec<(&str, u64)> = vec![("executionTimeMs", elapsed.as_millis() as u64)];
    if plan.source {
        let on: Vec<String> = plan.keys.iter().map(|k| format!("target.{0} = source.{0}", quote_ident(k))).collect();
        let all: Vec<String> = on.into_iter().chain(plan.predicates.iter().map(|p| p.sql.clone())).collect();
        operation.parameters.insert("predicate".into(), all.join(" AND "));
        operation.parameters.insert("mergePredicate".into(), all.join(" AND "));
        for (key, when) in [
            ("matchedPredicates", When::Matched),
            ("notMatchedPredicates", When::NotMatched),
            ("notMatchedBySourcePredicates", When::NotMatchedBySource),
        ] {
            let list: Vec<_> = plan.clauses(when).map(described).collect();
            operation.parameters.insert(key.into(), json!(list).to_string());
        }
        metrics.extend([
            ("numSourceRows", counts.source),
            ("numTargetRowsInserted", counts.inserted),
            ("numTargetRowsUpdated", counts.updated),
            ("numTargetRowsDeleted", deleted),
            ("numTargetRowsCopied", counts.copied),
            ("numOutputRows", done.staged.rows()),
            ("numTargetFilesAdded", added as u64),
            ("numTargetFilesRemoved", removed as u64),
            ("numTargetBytesAdded", done.staged.bytes()),
            ("numTargetChangeFilesAdded", change_files),
        ]);
    } else {
        let conditions: Vec<&str> = plan
            .clauses(When::NotMatchedBySource)
            .filter_map(|c| c.condition.as_ref().map(|e| e.sql.as_str()))
            .collect();
        operation.parameters.insert("predicate".into(), json!(conditions).to_string());
        metrics.extend([
            (if deletes { "numDeletedRows" } else { "numUpdatedRows" }, if deletes { deleted } else { counts.updated }),
            ("numCopiedRows", counts.copied),
            ("numAddedFiles", added as u64),
            ("numRemovedFiles", removed as u64),
            ("numAddedBytes", done.staged.bytes()),
            ("numAddedChangeFiles", change_files),
        ]);
    }
    operation.metrics = texts(metrics);
    debug_assert!(!plan.fresh || !has(plan, When::Matched));
    operation
}

pub(super) fn replace(plan: &ReplacePlan, partition_by: &[String], done: &Done, elapsed: Duration) -> Operation {
    let mut operation = Operation::new("WRITE");
    operation.parameters.insert("mode".into(), "Overwrite".into());
    operation.parameters.insert("partitionBy".into(), json!(partition_by).to_string());
    match &plan.rows {
        Replaced::Where(predicate) => operation.parameters.insert("predicate".into(), predicate.sql.clone()),
        Replaced::Partitions => operation.parameters.insert("partitionOverwriteMode".into(), "dynamic".into()),
        Replaced::Keys { keys, .. } => operation.parameters.insert("replaceOn".into(), keys.join(", ")),
        _ => None,
    };
    operation.metrics = texts(vec![
        ("executionTimeMs", elapsed.as_millis() as u64),
        ("numFiles", done.staged.files.len() as u64),
        ("numOutputRows", done.staged.rows()),
        ("numOutputBytes", done.staged.bytes()),
        ("numRemovedFiles", done.removed.len() as u64),
        ("numDeletedRows", done.counts.deleted.unwrap_or_default()),
        ("numCopiedRows", done.counts.copied),
        ("numAddedChangeFiles", done.staged.change_files.len() as u64),
    ]);
    operation
}

fn texts(figures: Vec<(&str, u64)>) -> BTreeMap<String, String> {
    figures.into_iter().map(|(k, v)| (k.to_owned(), v.to_string())).collect()
}

fn described(clause: &Clause) -> serde_json::Value {
    let action = match clause.then {
        Then::Update(_) => "update",
        Then::Delete => "delete",
        Then::Insert(_) => "insert",
        _ => "nothing",
    };
    match &clause.condition {
        Some(condition) => json!({ "actionType": action, "predicate": condition.sql }),
        None => json!({ "actionType": action }),
    }
}
