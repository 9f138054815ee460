//! Commits over a store that loses requests and answers: once, or a typed unknown, never twice.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use duckrun::{Append, At, CommitOutcome, ErrorKind, SafeAppend, Session};
use duckrun_testkit::{Fault, FaultyStore, Operation};
use futures::TryStreamExt;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use url::Url;

async fn lake(store: &FaultyStore) -> Session {
    let url = Url::parse("mem://lake/").unwrap();
    Session::open_in(url, Arc::new(store.clone()), Path::default())
        .governor(duckrun_testkit::own_governor())
        .writable()
        .await
        .unwrap()
}

async fn objects(store: &FaultyStore) -> Vec<String> {
    let mut paths: Vec<String> = store.list(None).map_ok(|o| o.location.to_string()).try_collect().await.unwrap();
    paths.sort();
    paths
}

fn is_commit(operation: Operation, path: &Path) -> bool {
    operation == Operation::Put && path.as_ref().contains("_delta_log/") && path.as_ref().ends_with(".json")
}

/// Rows in the table by the statistics in its log; DuckDB does not reach this store.
async fn rows(session: &Session) -> u64 {
    let snapshot = session.table("a.t").unwrap().snapshot(At::Latest).await.unwrap().unwrap();
    snapshot.files().await.unwrap().files.iter().map(|f| f.rows.unwrap()).sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_answer_is_settled_as_committed_once() {
    for fault in [Fault::LostAnswer, Fault::LostRequest] {
        let store = FaultyStore::new(InMemory::new());
        let session = lake(&store).await;
        session.model("a.t").sql("select 1::bigint as n").run().await.unwrap().committed().map(drop).unwrap();
        let hits = Arc::new(AtomicUsize::new(0));
        let count = hits.clone();
        store.set_rule(move |operation, path| {
            (is_commit(operation, path) && count.fetch_add(1, Ordering::SeqCst) < 2).then_some(fault)
        });
        let report = session.model("a.t").sql("select 2::bigint as n").strategy(Append::default()).run().await.unwrap();
        assert_eq!(report.version(), Some(1), "{fault:?}: {report}");
        assert!(hits.load(Ordering::SeqCst) >= 2);
        store.set_rule(|_, _| None);
        assert_eq!(rows(&session).await, 2);
        let commits = objects(&store).await.into_iter().filter(|p| p.ends_with(".json")).count();
        assert_eq!(commits, 2, "the commit was applied twice");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_settled_is_unknown_and_keeps_its_files() {
    let store = FaultyStore::new(InMemory::new());
    let session = lake(&store).await;
    session.model("a.t").sql("select 1::bigint as n").run().await.unwrap().committed().map(drop).unwrap();
    // The store takes the commit but never answers again about it, neither to writers nor to readers.
    store.set_rule(|operation, path| {
        let commit = path.as_ref().ends_with("0000000001.json");
        match operation {
            Operation::Put if commit => Some(Fault::LostAnswer),
            Operation::Get if commit => Some(Fault::LostRequest),
            _ => None,
        }
    });
    let report = session.model("a.t").sql("select 2::bigint as n").strategy(SafeAppend).run().await.unwrap();
    let id = report.run_id;
    assert_eq!(report.outcome, CommitOutcome::Unknown { version: 1, id });
    assert_eq!(report.committed().unwrap_err().kind(), ErrorKind::CommitUnknown);
    store.set_rule(|_, _| None);
    // It was applied: had its files been removed, the table would be broken now.
    assert_eq!(rows(&session).await, 2);
    let log = store.get(&Path::from("a/t/_delta_log/00000000000000000001.json")).await.unwrap().bytes().await.unwrap();
    assert!(String::from_utf8(log.to_vec()).unwrap().contains(&id.to_string()));
    for file in objects(&store).await.iter().filter(|p| p.ends_with(".parquet")) {
        store.head(&Path::from(file.as_str())).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_for_good_leaves_nothing() {
    let store = FaultyStore::new(InMemory::new());
    let session = lake(&store).await;
    session.model("a.t").sql("select 1::bigint as n").run().await.unwrap().committed().map(drop).unwrap();
    let before = objects(&store).await;
    for what in ["_delta_log", "part-"] {
        store.set_rule(move |operation, path| {
            (operation == Operation::Put && path.as_ref().contains(what)).then_some(Fault::Denied)
        });
        let error = session.model("a.t").sql("select 2::bigint as n").run().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{error}");
        store.set_rule(|_, _| None);
        assert_eq!(objects(&store).await, before, "{what}");
    }
}

/// Only "no such table" means a first run: an unreadable log must never turn an increment into a fresh table.
#[tokio::test(flavor = "multi_thread")]
async fn an_unreadable_table_is_not_a_missing_one() {
    let store = FaultyStore::new(InMemory::new());
    let session = lake(&store).await;
    session.model("a.t").sql("select 1::bigint as n").run().await.unwrap().committed().map(drop).unwrap();
    let before = objects(&store).await;
    for (operation, fault) in
        [(Operation::List, Fault::LostRequest), (Operation::List, Fault::Denied), (Operation::Get, Fault::LostRequest)]
    {
        store.set_rule(move |op, _| (op == operation).then_some(fault));
        let run = session.model("a.t").first_sql("select 7::bigint as n").sql("select 2::bigint as n").run().await;
        let error = run.unwrap_err();
        assert_ne!(error.kind(), ErrorKind::NotFound, "{operation:?} {fault:?}: {error}");
        store.set_rule(|_, _| None);
        assert_eq!(objects(&store).await, before);
    }
    let error = session.model("a.other").sql("select 1 as n").expect_existing().run().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
}

/// Random faults on every put and get of the log: whatever the report says is what the log holds.
#[tokio::test(flavor = "multi_thread")]
async fn random_faults_never_double_or_lose() {
    let seed = 7u64;
    let store = FaultyStore::new(InMemory::new());
    let session = lake(&store).await;
    session.model("a.t").sql("select -1::bigint as n").run().await.unwrap().committed().map(drop).unwrap();
    let mut state = seed;
    store.set_rule(move |operation, path| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let roll = state >> 33;
        if !is_commit(operation, path) || !roll.is_multiple_of(3) {
            return None;
        }
        Some(if (roll >> 8).is_multiple_of(2) { Fault::LostAnswer } else { Fault::LostRequest })
    });
    let mut acknowledged = 1;
    for n in 0..40 {
        let report = session.model("a.t").sql(format!("select {n}::bigint as n")).run().await.unwrap();
        acknowledged += report.rows_inserted();
    }
    store.set_rule(|_, _| None);
    assert_eq!(rows(&session).await, acknowledged, "seed {seed}");
    assert_eq!(acknowledged, 41, "seed {seed}");
}
