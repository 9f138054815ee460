//! Every strategy over a store that fails at every one of its requests, in every way: the table is as before or as it
//! should be, what the run says is true, and nothing is left that a vacuum would not reclaim.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use duckrun::delta::{InsertOverwrite, MicrobatchWindow, Scd2};
use duckrun::{CommitOutcome, ErrorKind, LeaseLock, MemorySettings, Session};
use duckrun_testkit::{Fault, FaultyStore, Operation, own_governor};
use futures::TryStreamExt;
use object_store::ObjectStore;
use object_store::memory::InMemory;
use object_store::path::Path;
use url::Url;

use crate::jobs::{self, BEFORE, End};

async fn lake(store: &FaultyStore) -> Session {
    let url = Url::parse("mem://lake/").unwrap();
    let memory = MemorySettings::with_limit(1 << 30);
    Session::open_in(url, Arc::new(store.clone()), Path::default())
        .governor(own_governor())
        .memory(memory)
        .writable()
        .await
        .unwrap()
}

/// Meets the n-th request of a job with a fault, for every n; with `STRIDE` requests between two faults of one kind, so that
/// together the jobs meet every combination that matters and the test stays short.
#[tokio::test(flavor = "multi_thread")]
async fn every_strategy_survives_every_fault() {
    const STRIDE: usize = 11;
    let (mut runs, mut refused, mut unknown) = (0, 0, 0);
    let prepared = Arc::new(InMemory::new());
    let url = Url::parse("mem://lake/").unwrap();
    let session =
        Session::open_in(url, prepared.clone(), Path::default()).governor(own_governor()).writable().await.unwrap();
    jobs::prepare(&session).await;
    for (nth_job, job) in jobs::all().into_iter().enumerate() {
        let store = FaultyStore::new(prepared.fork());
        let session = lake(&store).await;
        let requests = Arc::new(AtomicUsize::new(0));
        let count = requests.clone();
        store.set_rule(move |_, _| {
            count.fetch_add(1, Ordering::SeqCst);
            None
        });
        assert!(matches!((job.run)(&session).await.unwrap(), End::Committed), "{}", job.name);
        let requests = requests.load(Ordering::SeqCst);
        println!("{}: {requests} requests", job.name);
        store.set_rule(|_, _| None);
        assert_eq!(jobs::table(&session).await, job.after, "{}", job.name);
        for (nth_fault, fault) in Fault::SURVIVABLE.into_iter().enumerate() {
            for nth in ((nth_job + nth_fault) % STRIDE..requests).step_by(STRIDE) {
                let what = format!("{}: request {nth} of {requests} meets {fault:?}", job.name);
                let store = FaultyStore::new(prepared.fork());
                let session = lake(&store).await;
                let seen = AtomicUsize::new(0);
                store.set_rule(move |_, _| (seen.fetch_add(1, Ordering::SeqCst) == nth).then_some(fault));
                let end = (job.run)(&session).await;
                store.set_rule(|_, _| None);
                runs += 1;
                match judge(&job, &end, &store, &session, &what).await {
                    Judged::Refused => refused += 1,
                    Judged::Unknown => unknown += 1,
                    Judged::Done => {}
                }
            }
        }
    }
    println!("{runs} runs with a fault: {refused} refused, {unknown} unknown, the others as if nothing had happened");
    assert!(runs > 150, "{runs}");
}

/// The same for the strategies whose tables are not those of the jobs: windows, partitions, histories.
#[tokio::test(flavor = "multi_thread")]
async fn windows_partitions_and_histories_survive_every_fault() {
    const STRIDE: usize = 5;
    const LOOKS: [&str; 3] = [
        "select n from a.days order by moment",
        "select p, sum(n)::bigint from a.parts group by p order by p",
        "select id, price, dbt_valid_to is null from a.history order by id, price",
    ];
    let model = |session: &Session, nth: usize, again: bool| match nth {
        0 => {
            let shift = if again { 10 } else { 0 };
            let sql = format!(
                "select {shift} + i as n, timestamp '2024-01-01' + to_days(i::int) as moment from range(6) t(i)"
            );
            let (from, to) = ("2024-01-02T00:00:00Z".parse().unwrap(), "2024-01-04T00:00:00Z".parse().unwrap());
            let model = session.model("a.days").sql(sql);
            if again { model.strategy(MicrobatchWindow::new("moment", from, to)) } else { model }
        }
        1 if again => session.model("a.parts").sql("select 100 as n, 1 as p").strategy(InsertOverwrite),
        1 => session.model("a.parts").sql("select i as n, i % 3 as p from range(9) t(i)").partition_by(["p"]),
        _ => {
            let sql = format!(
                "select i as id, case when i = 0 then {} else 7 end as price from range(3) t(i)",
                u8::from(again)
            );
            session.model("a.history").sql(sql).strategy(Scd2::on(["id"]).check(["price"]))
        }
    };
    let inner = Arc::new(InMemory::new());
    let session = lake(&FaultyStore::new(inner.clone())).await;
    for nth in 0..LOOKS.len() {
        model(&session, nth, false).run().await.unwrap().committed().map(drop).unwrap();
    }
    for (nth, look) in LOOKS.into_iter().enumerate() {
        let rows = async |session: &Session| duckrun_testkit::rows(session.sql(look)).await.unwrap();
        let before = rows(&session).await;
        let store = FaultyStore::new(inner.fork());
        let requests = Arc::new(AtomicUsize::new(0));
        let count = requests.clone();
        let plain = lake(&store).await;
        store.set_rule(move |_, _| {
            count.fetch_add(1, Ordering::SeqCst);
            None
        });
        model(&plain, nth, true).run().await.unwrap().committed().map(drop).unwrap();
        let requests = requests.load(Ordering::SeqCst);
        store.set_rule(|_, _| None);
        let after = rows(&plain).await;
        assert_ne!(before, after);
        for (kind, fault) in Fault::SURVIVABLE.into_iter().enumerate() {
            for hit in (kind % STRIDE..requests).step_by(STRIDE) {
                let store = FaultyStore::new(inner.fork());
                let session = lake(&store).await;
                let seen = AtomicUsize::new(0);
                store.set_rule(move |_, _| (seen.fetch_add(1, Ordering::SeqCst) == hit).then_some(fault));
                let end = model(&session, nth, true).run().await;
                store.set_rule(|_, _| None);
                let (found, what) = (rows(&session).await, format!("{look}: request {hit} meets {fault:?}: {end:?}"));
                match &end {
                    Ok(report) => match &report.outcome {
                        CommitOutcome::Committed(_) => assert_eq!(found, after, "{what}"),
                        CommitOutcome::Unknown { .. } => assert!(found == before || found == after, "{what}"),
                        _ => assert_eq!(found, before, "{what}"),
                    },
                    Err(e) if e.kind() == ErrorKind::CommitUnknown => {
                        assert!(found == before || found == after, "{what}");
                    }
                    Err(e) => {
                        assert!(blames_the_store(e), "{what}");
                        assert_eq!(found, before, "{what}");
                    }
                }
            }
        }
    }
}

/// One answer that cannot be right (a conflict about an object that nobody else knows, a body cut short) condemned a store for good:
/// "does not honour conditional puts", fix your configuration. It is asked again instead.
#[tokio::test(flavor = "multi_thread")]
async fn a_store_is_not_condemned_for_one_answer() {
    for (operation, fault) in [(Operation::Put, Fault::Conflict), (Operation::Get, Fault::ShortBody)] {
        let store = FaultyStore::new(InMemory::new());
        let session = lake(&store).await;
        let met = AtomicUsize::new(0);
        store.set_rule(move |asked, path| {
            let probe = asked == operation && path.as_ref().contains("_duckrun_probe_");
            (probe && met.fetch_add(1, Ordering::SeqCst) == 0).then_some(fault)
        });
        let report = session.model("a.t").sql("select 1 as n").run().await.unwrap();
        assert_eq!(report.version(), Some(0), "{fault:?}: {report}");
    }
    // One that always answers so cannot be judged, which is not the configuration's fault.
    let store = FaultyStore::new(InMemory::new());
    store.set_rule(|asked, path| {
        (asked == Operation::Get && path.as_ref().contains("_duckrun_probe_")).then_some(Fault::ShortBody)
    });
    let error = lake(&store).await.model("a.t").sql("select 1 as n").run().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
}

/// Whether an error is one that a store's fault may end with.
fn blames_the_store(e: &duckrun::Error) -> bool {
    use ErrorKind as K;
    // Two faults can make the probe believe that the store is no good.
    let probed = e.kind() == K::Unsupported && e.message().contains("conditional puts");
    probed || [K::Unavailable, K::PermissionDenied, K::Corrupt, K::AlreadyExists].contains(&e.kind())
}

enum Judged {
    Done,
    Refused,
    Unknown,
}

/// The table is as before or as it should be, what the run says is true, and nothing is left that a vacuum would not reclaim.
async fn judge(
    job: &jobs::Job,
    end: &duckrun::Result<End>,
    store: &FaultyStore,
    session: &Session,
    what: &str,
) -> Judged {
    let rows = jobs::table(session).await;
    let judged = match end {
        Ok(End::Committed) => {
            assert_eq!(rows, job.after, "{what}");
            Judged::Done
        }
        Ok(End::Unknown) => {
            assert!(rows == job.after || rows == BEFORE, "{what}: {rows:?}");
            Judged::Unknown
        }
        Ok(End::Nothing | End::Conflict) => {
            assert_eq!(rows, BEFORE, "{what}: {end:?}");
            Judged::Done
        }
        Err(e) => {
            assert!(blames_the_store(e), "{what}: {e}");
            assert_eq!(rows, BEFORE, "{what}: {e}");
            Judged::Refused
        }
    };
    // Nothing but the log and data files, which a full vacuum removes where no version names them.
    let objects: Vec<Path> = store.list(None).map_ok(|o| o.location).try_collect().await.unwrap();
    for object in objects {
        let name = object.as_ref();
        let known = name.starts_with("a/t/_delta_log/") || name.ends_with(".parquet");
        let probe = name.contains("_duckrun_probe_");
        assert!(known || probe, "{what}: left {name}");
    }
    judged
}

/// Many faults in one run, at random: every second, sixth or twentieth request meets one. The seed is printed, and
/// `FAULT_SEED` in the environment repeats it.
#[tokio::test(flavor = "multi_thread")]
async fn every_strategy_survives_many_faults_at_once() {
    const TIME: Duration = Duration::from_secs(30);
    let prepared = Arc::new(InMemory::new());
    let url = Url::parse("mem://lake/").unwrap();
    let session =
        Session::open_in(url, prepared.clone(), Path::default()).governor(own_governor()).writable().await.unwrap();
    jobs::prepare(&session).await;
    let seed = std::env::var("FAULT_SEED").ok().and_then(|seed| seed.parse().ok());
    let now = || std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos() as u64;
    let mut random = Random(seed.unwrap_or_else(now) | 1);
    let (started, mut runs, mut refused, mut unknown, mut met) = (std::time::Instant::now(), 0, 0, 0, 0);
    while started.elapsed() < TIME {
        let all = jobs::all();
        let (seed, pick) = (random.0, random.next() as usize % all.len());
        let (job, often) = (&all[pick], [2, 6, 20][random.next() as usize % 3]);
        let what = format!("FAULT_SEED={seed}: {}, a fault in {often}", job.name);
        let store = FaultyStore::new(prepared.fork());
        let session = lake(&store).await;
        let faults = Arc::new(AtomicUsize::new(0));
        let (count, mut dice) = (faults.clone(), Random(random.next() | 1));
        store.set_rule(move |_, _| {
            let hit = dice.next() % often == 0;
            count.fetch_add(usize::from(hit), Ordering::SeqCst);
            hit.then(|| Fault::SURVIVABLE[dice.next() as usize % Fault::SURVIVABLE.len()])
        });
        // A store that fails every second request may keep a run busy with its repeats.
        let end = tokio::time::timeout(Duration::from_secs(60), (job.run)(&session)).await;
        store.set_rule(|_, _| None);
        let Ok(end) = end else { panic!("{what}: the run does not end") };
        runs += 1;
        met += faults.load(Ordering::SeqCst);
        match judge(job, &end, &store, &session, &what).await {
            Judged::Refused => refused += 1,
            Judged::Unknown => unknown += 1,
            Judged::Done => {}
        }
    }
    println!(
        "{runs} runs met {met} faults: {refused} refused, {unknown} unknown, the others as if nothing had happened"
    );
    assert!(runs > 10, "{runs}");
}

/// xorshift64: enough to choose faults by.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 >> 8
    }
}

/// A store that accepts a second put that must create is refused before anything is written; a lock lets it be written.
#[tokio::test(flavor = "multi_thread")]
async fn a_store_without_conditional_puts_is_refused_unless_there_is_a_lock() {
    let store = Unconditional(Arc::default());
    let url = Url::parse("mem://lake/").unwrap();
    let open =
        || Session::open_in(url.clone(), Arc::new(store.clone()), Path::default()).governor(own_governor()).writable();
    let session = open().await.unwrap();
    let error = session.model("a.t").sql("select 1 as n").run().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
    assert!(error.message().contains("WriterLock"), "{error}");
    assert!(store.list(None).try_collect::<Vec<_>>().await.unwrap().is_empty());
    let locks: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let lock = LeaseLock::new(locks, Path::from("locks")).with_duration(Duration::from_secs(5));
    let memory = MemorySettings { concurrent_runs: 4, ..MemorySettings::with_limit(2 << 30) };
    let session = open().memory(memory).writer_lock(Arc::new(lock)).await.unwrap();
    session.model("a.t").sql("select 0 as n").run().await.unwrap().committed().map(drop).unwrap();
    let mut writers = tokio::task::JoinSet::new();
    for n in 1..5 {
        let session = session.clone();
        writers.spawn(async move {
            let append = session.model("a.t").sql(format!("select {n} as n")).strategy(duckrun::Append::default());
            append.run().await.unwrap().committed().map(drop).unwrap();
        });
    }
    while let Some(done) = writers.join_next().await {
        done.unwrap();
    }
    assert_eq!(crate::support::rows(session.sql("select n from a.t order by n")).await, ["0", "1", "2", "3", "4"]);
}

/// A store that takes `PutMode::Create` for an ordinary put.
#[derive(Debug, Clone)]
struct Unconditional(Arc<InMemory>);

impl std::fmt::Display for Unconditional {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Unconditional")
    }
}

#[async_trait::async_trait]
impl ObjectStore for Unconditional {
    async fn put_opts(
        &self,
        path: &Path,
        payload: object_store::PutPayload,
        _: object_store::PutOptions,
    ) -> object_store::Result<object_store::PutResult> {
        self.0.put_opts(path, payload, object_store::PutOptions::default()).await
    }

    async fn put_multipart_opts(
        &self,
        path: &Path,
        options: object_store::PutMultipartOptions,
    ) -> object_store::Result<Box<dyn object_store::MultipartUpload>> {
        self.0.put_multipart_opts(path, options).await
    }

    async fn get_opts(
        &self,
        path: &Path,
        options: object_store::GetOptions,
    ) -> object_store::Result<object_store::GetResult> {
        self.0.get_opts(path, options).await
    }

    fn delete_stream(
        &self,
        paths: futures::stream::BoxStream<'static, object_store::Result<Path>>,
    ) -> futures::stream::BoxStream<'static, object_store::Result<Path>> {
        self.0.delete_stream(paths)
    }

    fn list(
        &self,
        prefix: Option<&Path>,
    ) -> futures::stream::BoxStream<'static, object_store::Result<object_store::ObjectMeta>> {
        self.0.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> object_store::Result<object_store::ListResult> {
        self.0.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: object_store::CopyOptions) -> object_store::Result<()> {
        self.0.copy_opts(from, to, options).await
    }
}
