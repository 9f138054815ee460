//! The fair governor against a model of a queue, and under random arrivals and cancellations on several threads.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use duckrun_memory::{Error, FairGovernor, Governor, Lease, LeaseRequest, Result};
use futures::task::noop_waker;
use proptest::prelude::*;

type Asking<'a> = Pin<Box<dyn Future<Output = Result<Lease>> + Send + 'a>>;

/// Where one run is.
enum Run<'a> {
    Asking(Asking<'a>),
    Holding(#[allow(dead_code)] Lease),
    Gone,
}

fn poll(asking: &mut Asking<'_>) -> Poll<Result<Lease>> {
    asking.as_mut().poll(&mut Context::from_waker(&noop_waker()))
}

#[derive(Clone, Copy, Debug)]
enum Step {
    /// A new run asks for so many bytes and says how many all runs may hold.
    Ask(u64, u64),
    /// The n-th run ends, or gives up waiting.
    End(usize),
    /// The n-th run is polled, as a runtime may do at any time. A granted lease is given back only by who polls it.
    Poll(usize),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        3 => (0..=110_u64, prop_oneof![3 => Just(100_u64), 1 => 20..=120_u64]).prop_map(|(n, most)| Step::Ask(n, most)),
        2 => (0..40_usize).prop_map(Step::End),
        1 => (0..40_usize).prop_map(Step::Poll),
    ];
    prop::collection::vec(step, 1..120)
}

/// First come, first served, in a dozen lines.
#[derive(Default)]
struct Model {
    on_lease: Vec<(usize, u64, u64)>,
    queue: VecDeque<(usize, u64, u64)>,
}

impl Model {
    fn sum(&self) -> u64 {
        self.on_lease.iter().map(|(_, bytes, _)| bytes).sum()
    }

    fn serve(&mut self) {
        while self.queue.front().is_some_and(|(_, bytes, most)| self.sum() + bytes <= *most) {
            self.on_lease.extend(self.queue.pop_front());
        }
    }

    fn end(&mut self, run: usize) {
        self.on_lease.retain(|(id, ..)| *id != run);
        self.queue.retain(|(id, ..)| *id != run);
        self.serve();
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn does_what_a_queue_does(steps in steps()) {
        let governor = FairGovernor::with_ceiling(100);
        let mut model = Model::default();
        let mut runs: Vec<Run<'_>> = Vec::new();
        for step in steps {
            match step {
                Step::Ask(bytes, most) => {
                    let mut asking = governor.lease(LeaseRequest::new("run", bytes).with_capacity(most));
                    let most = most.min(100);
                    let first = poll(&mut asking);
                    let id = runs.len();
                    if bytes > most {
                        let refused = matches!(first, Poll::Ready(Err(Error::LeaseTooLarge { .. })));
                        prop_assert!(refused);
                        runs.push(Run::Gone);
                        continue;
                    }
                    model.queue.push_back((id, bytes, most));
                    model.serve();
                    let granted = model.on_lease.iter().any(|(run, ..)| *run == id);
                    prop_assert_eq!(first.is_ready(), granted);
                    runs.push(match first {
                        Poll::Ready(lease) => Run::Holding(lease.unwrap()),
                        Poll::Pending => Run::Asking(asking),
                    });
                }
                Step::End(id) if id < runs.len() => {
                    runs[id] = Run::Gone;
                    model.end(id);
                }
                Step::Poll(id) => if let Some(Run::Asking(asking)) = runs.get_mut(id) {
                    let answer = poll(asking);
                    let granted = model.on_lease.iter().any(|(run, ..)| *run == id);
                    prop_assert_eq!(answer.is_ready(), granted);
                    if let Poll::Ready(lease) = answer {
                        runs[id] = Run::Holding(lease.unwrap());
                    }
                },
                Step::End(_) => {}
            }
            prop_assert_eq!(governor.on_lease(), model.sum());
            prop_assert_eq!(governor.waiting(), model.queue.len());
        }
        drop(runs);
        prop_assert_eq!((governor.on_lease(), governor.waiting()), (0, 0));
    }
}

/// One run of the storm: when it comes, how much it asks for, how long it works, and when its patience ends.
type Visit = (u64, u64, u64, Option<u64>);

fn storms() -> impl Strategy<Value = Vec<Visit>> {
    let visit = (0..3_000_u64, 1..=100_u64, 0..800_u64, prop::option::weighted(0.3, 0..1_500_u64));
    prop::collection::vec(visit, 1..60)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() })]

    /// Everybody who stays is served, nobody overcommits, and nothing is left over.
    #[test]
    fn storms_pass(storm in storms()) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(4).enable_time().build().unwrap();
        runtime.block_on(async {
            let governor = FairGovernor::with_ceiling(100);
            let held = Arc::new(AtomicU64::new(0));
            let patient = storm.iter().filter(|visit| visit.3.is_none()).count();
            let visits: Vec<_> = storm
                .into_iter()
                .map(|visit| tokio::spawn(go(governor.clone(), Arc::clone(&held), visit)))
                .collect();
            let mut served = 0;
            for visit in visits {
                let visit = tokio::time::timeout(Duration::from_secs(20), visit).await;
                served += usize::from(visit.expect("a run waits for ever").unwrap());
            }
            assert!(served >= patient);
            assert_eq!((governor.on_lease(), governor.waiting()), (0, 0));
        });
    }
}

async fn go(governor: FairGovernor, held: Arc<AtomicU64>, (comes, bytes, works, patience): Visit) -> bool {
    tokio::time::sleep(Duration::from_micros(comes)).await;
    let work = async {
        let lease = governor.lease(LeaseRequest::new("run", bytes)).await.unwrap();
        let before = held.fetch_add(bytes, Ordering::SeqCst);
        assert!(before + bytes <= 100, "{before} + {bytes}");
        let _counted = Counted { held: &held, bytes };
        tokio::time::sleep(Duration::from_micros(works)).await;
        // The count goes before the lease, so that it never counts more than is held.
        drop(_counted);
        drop(lease);
    };
    match patience {
        None => work.await,
        Some(patience) => return tokio::time::timeout(Duration::from_micros(patience), work).await.is_ok(),
    }
    true
}

/// Counts down also when its future is dropped in the middle.
struct Counted<'a> {
    held: &'a AtomicU64,
    bytes: u64,
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.held.fetch_sub(self.bytes, Ordering::SeqCst);
    }
}

/// A run that brings a smaller measurement leaves leases alone, waits until it fits, and makes nobody else's run impossible.
#[test]
fn each_run_is_held_to_its_own_capacity() {
    let governor = FairGovernor::new();
    assert_eq!(governor.capacity(), None);
    let ask = |bytes, capacity| governor.lease(LeaseRequest::new("run", bytes).with_capacity(capacity));
    let Poll::Ready(Ok(first)) = poll(&mut ask(80, 100)) else { panic!("granted at once") };
    let mut second = ask(60, 100);
    assert!(poll(&mut second).is_pending());
    let mut third = ask(20, 50);
    assert!(poll(&mut third).is_pending());
    let Poll::Ready(Err(error)) = poll(&mut ask(51, 50)) else { panic!("51 of 50 is hopeless") };
    assert_eq!((error.needed(), error.limit()), (Some(51), Some(50)));
    assert_eq!((governor.capacity(), governor.on_lease(), governor.waiting()), (Some(50), 80, 2));
    drop(first);
    let Poll::Ready(Ok(second)) = poll(&mut second) else { panic!("60 of its own 100") };
    assert!(poll(&mut third).is_pending(), "80 of its own 50");
    drop(second);
    let Poll::Ready(Ok(third)) = poll(&mut third) else { panic!("the queue moves on") };
    assert_eq!((third.bytes(), governor.on_lease()), (20, 20));
}

/// Two parts of a program that know nothing of each other take from one memory.
#[test]
fn the_governor_of_the_process_is_one() {
    let lease = futures::executor::block_on(FairGovernor::of_process().lease(LeaseRequest::new("run", 7))).unwrap();
    assert_eq!(FairGovernor::of_process().on_lease(), 7);
    drop(lease);
    assert_eq!(FairGovernor::of_process().on_lease(), 0);
    assert_eq!(FairGovernor::new().on_lease(), 0);
}

/// The embedder's own governor is a trait object with leases of its own.
#[test]
fn an_embedder_can_hand_in_a_governor() {
    #[derive(Debug, Default)]
    struct Counting(Arc<AtomicU64>);

    #[async_trait::async_trait]
    impl Governor for Counting {
        async fn lease(&self, ask: LeaseRequest) -> Result<Lease> {
            let (count, bytes) = (Arc::clone(&self.0), ask.bytes);
            count.fetch_add(bytes, Ordering::SeqCst);
            Ok(Lease::new(bytes, move || {
                count.fetch_sub(bytes, Ordering::SeqCst);
            }))
        }
    }

    let count = Arc::new(AtomicU64::new(0));
    let governor: Arc<dyn Governor> = Arc::new(Counting(Arc::clone(&count)));
    let lease = futures::executor::block_on(governor.lease(LeaseRequest::new("run", 7))).unwrap();
    assert_eq!(count.load(Ordering::SeqCst), 7);
    drop(lease);
    assert_eq!(count.load(Ordering::SeqCst), 0);
}
