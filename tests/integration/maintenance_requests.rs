//! What maintenance after every commit asks of a store: nothing after most small appends, and a look now and then.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use duckrun::core::maintenance::{Action, TableStats};
use duckrun::maintenance::{DefaultPolicy, MaintenancePolicy};
use duckrun::{Append, At, Session, SessionBuilder};
use duckrun_testkit::CountingStore;
use object_store::memory::InMemory;
use object_store::path::Path;
use url::Url;

fn lake(store: &CountingStore) -> SessionBuilder {
    Session::open_in(Url::parse("mem://lake/").unwrap(), Arc::new(store.clone()), Path::default())
        .governor(duckrun_testkit::own_governor())
        .writable()
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

/// Decides as the default, and looks after every commit.
#[derive(Debug, Default)]
struct Eager(DefaultPolicy);

impl MaintenancePolicy for Eager {
    fn decide(&self, stats: &TableStats, now: DateTime<Utc>) -> Vec<Action> {
        self.0.decide(stats, now)
    }
}

/// Requests for 100 appends to a new table.
async fn hundred(change: impl Fn(SessionBuilder) -> SessionBuilder) -> u64 {
    let store = CountingStore::new(InMemory::new());
    let session = change(lake(&store)).await.unwrap();
    for _ in 0..100 {
        let model = session.model("a.t").sql("select 2 as n").strategy(Append::default());
        model.run().await.unwrap().committed().map(drop).unwrap();
    }
    let asked = store.take().total();
    let snapshot = session.snapshot("a.t", At::Latest).await.unwrap();
    assert_eq!(snapshot.files().await.unwrap().files.len(), 100);
    asked
}

#[tokio::test(flavor = "multi_thread")]
async fn maintenance_asks_little_of_the_store() {
    let without = hundred(|lake| lake.maintenance(false)).await;
    let eager = hundred(|lake| lake.policy(Eager::default())).await;
    let with = hundred(|lake| lake).await;
    println!("100 appends: {without} requests without maintenance, {eager} with a look after each, {with} by default");
    // Checkpoints spare more than all of maintenance costs: an append alone reads the log since the last one, about 11 requests.
    assert!(with < without / 2, "{with} requests instead of {without}");
    assert!(with < 1_900 && with < eager * 2 / 3, "{with} requests instead of {eager}");
}
