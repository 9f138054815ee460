//! What maintenance after every commit asks of a store: nothing after most small appends, a look now and then, and no more for
//! the table of 50 processes than for that of one.

use std::sync::Arc;

use duckrun::{Append, At, Session, SessionBuilder};
use duckrun_testkit::CountingStore;
use object_store::memory::InMemory;
use object_store::path::Path;
use url::Url;

fn lake(store: &CountingStore) -> SessionBuilder {
    Session::open_in(Url::parse("mem://lake/").unwrap(), Arc::new(store.clone()), Path::default()).writable()
}

async fn append(session: &Session, strategy: &str) -> duckrun::Report {
    let model = session.model("a.t").sql("select 2 as n").strategy_named(strategy);
    model.run().await.unwrap().committed().unwrap()
}

/// An append of one batch to a table with a log of one entry: the listing, the hint, the entry, the file and the commit.
#[tokio::test(flavor = "multi_thread")]
async fn an_append_takes_few_requests() {
    let store = CountingStore::new(InMemory::new());
    let session = lake(&store).await.unwrap();
    drop(append(&session, "append").await);
    for strategy in ["append", "safeappend"] {
        store.take();
        let report = append(&session, strategy).await;
        assert!(report.maintained.as_ref().unwrap().passed, "{report}");
        let paths = store.paths();
        let asked = store.take();
        assert_eq!(asked.puts, 2, "{paths:#?}");
        assert!(asked.total() <= 6, "{paths:#?}");
    }
}

/// Requests for 100 appends to a new table, and its files in the end.
async fn hundred(maintained: bool, one_process: bool) -> (u64, usize) {
    let store = CountingStore::new(InMemory::new());
    let session = lake(&store).maintenance(maintained).await.unwrap();
    for _ in 0..100 {
        let own = if one_process { session.clone() } else { lake(&store).maintenance(maintained).await.unwrap() };
        let model = own.model("a.t").sql("select 2 as n").strategy(Append::default());
        model.run().await.unwrap().committed().map(drop).unwrap();
    }
    let asked = store.take().total();
    let snapshot = session.snapshot("a.t", At::Latest).await.unwrap();
    (asked, snapshot.files().await.unwrap().files.len())
}

#[tokio::test(flavor = "multi_thread")]
async fn maintenance_asks_little_of_the_store() {
    let (without, _) = hundred(false, true).await;
    let (with, files) = hundred(true, true).await;
    let (processes, _) = hundred(true, false).await;
    println!("100 appends: {without} requests without maintenance, {with} with it, {processes} from 100 processes; {files} files");
    assert_eq!(files, 100);
    assert!(with < without, "checkpoints spare more than they cost: {with} requests instead of {without}");
    assert!(processes <= with + 20, "{processes} requests from processes of one run, {with} from one process");
}
