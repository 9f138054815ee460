//! What a foreign commit means for ours, as a table of cases.

use super::*;
use crate::commit::conflict::Verdict;
use duckrun_core::ErrorKind;

const METADATA: &str = r#"{"id":"x","format":{"provider":"parquet","options":{}},"schemaString":"{}","partitionColumns":[],"configuration":{}}"#;

fn summary(lines: &[&str]) -> CommitSummary {
    CommitSummary::parse(5, lines.join("\n").as_bytes()).unwrap()
}

fn conflicts(lines: &[&str], policy: ConflictPolicy) -> bool {
    let known: Metadata = serde_json::from_str(METADATA).unwrap();
    matches!(summary(lines).judge(policy, Some(&known), &Default::default()), Verdict::Conflict(_))
}

#[test]
fn policies_against_foreign_commits() {
    let info = r#"{"commitInfo":{"operation":"WRITE"}}"#;
    let add = r#"{"add":{"path":"a","dataChange":true}}"#;
    let remove = r#"{"remove":{"path":"a","dataChange":true}}"#;
    let moved_in = r#"{"add":{"path":"b","dataChange":false}}"#;
    let moved_out = r#"{"remove":{"path":"a","dataChange":false}}"#;
    let undecided = r#"{"add":{"path":"a"}}"#;
    let metadata = &format!(r#"{{"metaData":{METADATA}}}"#);
    let other_metadata = &metadata.replace("\"x\"", "\"y\"");
    let protocol = r#"{"protocol":{"minReaderVersion":1,"minWriterVersion":2}}"#;
    let txn = r#"{"txn":{"appId":"a","version":1}}"#;
    // Lines of the commit, whether it refuses a blind write, whether it refuses a compare-and-swap.
    for (lines, blind, swap) in [
        (vec![info, add], false, true),
        (vec![info, remove], false, true),
        (vec![info, moved_in, moved_out], false, false),
        (vec![info, moved_in, remove], false, true),
        (vec![info, undecided], false, true),
        (vec![r#"{"commitInfo":{"operation":"VACUUM START"}}"#], false, false),
        (vec![info, metadata], false, false),
        (vec![info, metadata, moved_in, moved_out], false, false),
        (vec![info, other_metadata], true, true),
        (vec![info, protocol], true, true),
        (vec![info, txn], false, true),
        (vec![r#"{"domainMetadata":{"domain":"d"}}"#], false, true),
    ] {
        assert_eq!(conflicts(&lines, ConflictPolicy::Blind), blind, "blind: {lines:?}");
        assert_eq!(conflicts(&lines, ConflictPolicy::CompareAndSwap), swap, "compare-and-swap: {lines:?}");
    }
}

#[test]
fn a_commit_that_cannot_be_read_is_never_skipped() {
    for bad in ["{\"add\":", "[]", "null", "{}"] {
        assert_eq!(CommitSummary::parse(3, bad.as_bytes()).unwrap_err().kind(), ErrorKind::Corrupt, "{bad}");
    }
}

#[test]
fn ids_and_transactions_are_found() {
    let cx = duckrun_core::RunId::fresh();
    let mine = summary(&[&format!(r#"{{"commitInfo":{{"txnId":"{cx}"}}}}"#), r#"{"txn":{"appId":"a","version":4}}"#]);
    assert!(mine.is_of(cx) && !mine.is_of(duckrun_core::RunId::fresh()));
    assert_eq!((mine.app_version("a"), mine.app_version("b")), (Some(4), None));
}
