//! Maintenance that dies: at every call of the store, and dropped at every point where it waits. The table reads the same.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Poll;
use std::time::Duration;

use duckrun::Session;
use duckrun::core::maintenance::Action;
use duckrun_testkit::{Fault, FaultyStore};
use futures::StreamExt;
use object_store::memory::InMemory;

use crate::maintained::{World, clean};

/// Everything at once: files are rewritten, deleted, the log is folded up.
fn all(session: &Session) -> duckrun::Maintain {
    session
        .maintain("a.t")
        .unsafe_retention()
        .compact()
        .z_order(["n"])
        .vacuum(Duration::ZERO)
        .checkpoint()
        .action(Action::CleanLog { retention: Duration::ZERO })
}

async fn fragments(world: &World) -> Session {
    let session = world.session().maintenance(false).await.unwrap();
    for n in 0..4 {
        let model = session.model("a.t").sql(format!("select {n}::bigint as n, ({n} % 2)::integer as p"));
        // A retention of nothing, so that the clean-up has something to delete.
        let model = model.partition_by(["p"]).property("delta.logRetentionDuration", "interval 0 seconds");
        model.run().await.unwrap().committed().map(drop).unwrap();
    }
    session
}

/// From the call `at` on everything fails, as when the process or its network dies (with a lost answer: only that call); later all
/// is well again. Returns how many calls there were.
async fn fault_at(store: InMemory, fault: Option<Fault>, at: usize) -> usize {
    let store = FaultyStore::new(store);
    let world = World::within(store.clone());
    let session = world.session().maintenance(false).await.unwrap();
    let count = Arc::new(AtomicUsize::new(0));
    let counted = count.clone();
    store.set_rule(move |_, _| {
        let call = counted.fetch_add(1, Ordering::SeqCst);
        fault.filter(|f| call == at || (*f != Fault::LostAnswer && call > at && call < at + 40))
    });
    let report = all(&session).run().await;
    store.set_rule(|_, _| None);
    if fault.is_none() {
        let applied: Vec<_> = report.as_ref().unwrap().tables[0].1.applied().cloned().collect();
        assert!(applied.len() == 5 && applied.iter().all(|a| a.skipped.is_none()), "{applied:?}");
        assert!([0, 2, 4].iter().all(|step| applied[*step].files_removed > 0), "{applied:?}");
    }
    let (version, rows) = world.read("a.t").await;
    assert_eq!(rows, [0, 1, 2, 3], "{fault:?} at call {at}, v{version}: {report:?}");
    // And the next maintenance ends well.
    drop(clean(session.maintain("a.t").compact().checkpoint()).await);
    assert_eq!(world.read("a.t").await.1, [0, 1, 2, 3], "{fault:?} at call {at}");
    count.load(Ordering::SeqCst)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_fault_at_every_call_of_the_store() {
    let store = Arc::new(InMemory::new());
    drop(fragments(&World::within(store.clone())).await);
    let calls = fault_at(store.fork(), None, 0).await;
    assert!(calls > 40, "{calls}");
    let cases = [Fault::Denied, Fault::LostRequest, Fault::LostAnswer]
        .into_iter()
        .flat_map(|f| (0..calls).map(move |at| (f, at)));
    let all = cases.map(|(fault, at)| tokio::spawn(fault_at(store.fork(), Some(fault), at)));
    // Side by side: what waits for answers sleeps most of the time.
    let mut done = futures::stream::iter(all).buffer_unordered(32);
    while let Some(one) = done.next().await {
        one.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn dropped_wherever_it_waits() {
    let (local, store) = (World::local(), Arc::new(InMemory::new()));
    drop(fragments(&local).await);
    drop(fragments(&World::within(store.clone())).await);
    for on_disk in [true, false] {
        for polls in (0..).map(|n: usize| n + n * n / 10) {
            let world = if on_disk { local.copy() } else { World::within(store.fork()) };
            let session = world.session().maintenance(false).await.unwrap();
            let mut done = false;
            {
                let mut future = pin!(all(&session).run());
                let mut left = polls;
                std::future::poll_fn(|cx| {
                    if left == 0 {
                        return Poll::Ready(());
                    }
                    left -= 1;
                    match future.as_mut().poll(cx) {
                        Poll::Ready(report) => {
                            assert!(report.unwrap().is_clean());
                            done = true;
                            Poll::Ready(())
                        }
                        Poll::Pending => Poll::Pending,
                    }
                })
                .await;
            }
            let (version, rows) = world.read("a.t").await;
            assert_eq!(rows, [0, 1, 2, 3], "after {polls} polls, v{version}");
            drop(clean(session.maintain("a.t").compact().checkpoint()).await);
            assert_eq!(world.read("a.t").await.1, [0, 1, 2, 3], "after {polls} polls");
            if done {
                break;
            }
        }
    }
}
