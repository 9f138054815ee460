//! Suite `stores`: what duckrun asks of an object store, and what reading and committing through one costs.
//!
//! All but the scans run in this process: what is counted are requests, and what is timed waits for a store more than it computes.
//!
//! - `requests`: requests and bytes of one operation, on a counted store in memory.
//! - `emulated`: the same on S3, emulated by moto (installed below the data folder), with the time of each: over HTTP, with the
//!   conditional puts and listings of a real client.
//! - `scan`: sums over parquet files (`--rows 28_000_000` are 1 GB) against DuckDB on local files; see [`super::stores_scan`].
//! - `writers`: 8 and 16 writers of fenced one-row appends to one table, over a store with 50 ms of latency, against a bare loop
//!   that makes as many reads for an attempt, lists the log, and puts the next version if it is absent.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use duckrun::delta::Merge;
use duckrun::sources::Csv;
use duckrun::{Append, MemorySettings, Overwrite, SafeAppend, Session, StoreRoot};
use duckrun_testkit::{CountingStore, Emulated, Emulator, Requests};
use futures::TryStreamExt;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{Error as StoreError, ObjectStore, ObjectStoreExt, PutMode, PutOptions};
use url::Url;

use super::write_subjects::committed;
use super::{Suite, stores_scan};
use crate::Result;
use crate::args::Args;
use crate::child::{Done, Job, cpu_seconds};

pub(super) const SUITE: Suite =
    Suite { name: "stores", about: "requests, remote scans and concurrent commits through object stores", run, child };

/// Commits of each writer.
const COMMITS: u64 = 5;

fn run(args: &Args) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(args.threads).enable_all().build()?;
    let wanted = |case: &str| args.case.as_deref().is_none_or(|only| only == case);
    if wanted("requests") {
        println!("in memory");
        runtime.block_on(requests(CountingStore::new(InMemory::new()), Url::parse("mem://lake/")?, Path::default()))?;
    }
    if wanted("emulated") {
        match Emulator::start(Emulated::S3, &args.data.join("emulators")) {
            Ok(emulator) => {
                let root = StoreRoot::open(&emulator.url("bench"), &emulator.options("secret"))?;
                let store = CountingStore::new(root.store().clone());
                println!("S3, emulated by moto");
                runtime.block_on(requests(store, root.url().clone(), root.prefix().clone()))?;
            }
            Err(why) => println!("skipped: S3 cannot be emulated here: {why}"),
        }
    }
    if wanted("scan") {
        stores_scan::run(SUITE.name, args)?;
    }
    if wanted("writers") {
        for writers in [8, 16] {
            runtime.block_on(race(writers))?;
        }
    }
    Ok(())
}

fn child(job: &Job) -> Result<Done> {
    stores_scan::child(job)
}

async fn lake(store: Arc<dyn ObjectStore>, runs: usize) -> Result<Session> {
    let memory = MemorySettings { concurrent_runs: runs, ..MemorySettings::with_limit(6 << 30) };
    Ok(Session::open_in(Url::parse("mem://lake/")?, store, Path::default()).memory(memory).writable().await?)
}

async fn requests(store: CountingStore, url: Url, prefix: Path) -> Result<()> {
    let memory = MemorySettings::with_limit(6 << 30);
    let session = Session::open_in(url.clone(), Arc::new(store.clone()), prefix).memory(memory).writable().await?;
    let since = std::cell::Cell::new(Instant::now());
    let show = |what: &str| {
        let Requests { gets, bytes_read, puts, bytes_written, lists, others, .. } = store.take();
        let seconds = since.replace(Instant::now()).elapsed().as_secs_f64();
        println!(
            "{what:<44} {gets:>5} {bytes_read:>12} {puts:>5} {bytes_written:>12} {lists:>6} {others:>7} {seconds:>8.3}"
        );
    };
    println!(
        "{:<44} {:>5} {:>12} {:>5} {:>12} {:>6} {:>7} {:>8}",
        "operation", "gets", "bytes", "puts", "bytes", "lists", "others", "s"
    );
    let batch = "select i as id, hash(i) as h, md5(i::varchar) as text from range(1000000) t(i)";
    committed(&session.model("a.t").sql(batch).strategy(Overwrite::default()).run().await?)?;
    show("overwrite, first run, 1,000,000 rows, probe");
    for n in 1..=4 {
        let sql = format!("select i + {n}000000 as id, hash(i) as h, md5(i::varchar) as text from range(1000000) t(i)");
        committed(&session.model("a.t").sql(sql).strategy(Append::default()).run().await?)?;
    }
    store.take();
    since.set(Instant::now());
    let one = "select 9000000 as id, 0::ubigint as h, 'x' as text";
    committed(&session.model("a.t").sql(one).strategy(Append::default()).run().await?)?;
    show("append of one batch");
    committed(&session.model("a.t").sql(one).strategy(SafeAppend).run().await?)?;
    show("safeappend of one batch");
    let change = "select 2500000 as id, 1::ubigint as h, 'changed' as text";
    committed(&session.model("a.t").sql(change).strategy(Merge::on(["id"])).run().await?)?;
    show("merge of one row into one of 5 files");
    for (what, sql) in [
        ("query: count(*)", "select count(*) from a.t"),
        ("query: one column of three", "select sum(id) from a.t"),
        ("query: a narrow key range, all columns", "select * from a.t where id between 3000100 and 3000200"),
    ] {
        session.sql(sql).collect().await?;
        show(what);
    }
    // 200,000 lines of 5.6 MB, and ten files of one line.
    let lines: String = (0..200_000).map(|i| format!("{i},the text of line {i}\n")).collect();
    store.put(&Path::from("landing/big.csv"), format!("n,s\n{lines}").into()).await?;
    for day in 0..10 {
        store.put(&Path::from(format!("landing/days/{day}.csv")), format!("n,s\n{day},x\n").into()).await?;
    }
    store.take();
    since.set(Instant::now());
    let landing = |at: &str| Csv::at(format!("{}://{}/landing/{at}", url.scheme(), url.authority())).rfc4180();
    for (what, source) in [
        ("source: a CSV file of 5.6 MB", landing("big.csv")),
        ("source: ten CSV files of a line", landing("days/*.csv")),
    ] {
        session.sql("select count(*), sum(n), max(s) from s").source("s", source).collect().await?;
        show(what);
    }
    Ok(())
}

async fn race(writers: u64) -> Result<()> {
    let latency = Duration::from_millis(50);
    let inner = CountingStore::new(InMemory::new());
    let setup = lake(Arc::new(inner.clone()), 1).await?;
    committed(&setup.model("a.t").sql("select 0::bigint as n").run().await?)?;
    inner.take();
    committed(&setup.model("a.t").sql("select 0::bigint as n").strategy(SafeAppend).run().await?)?;
    let reads = inner.take().gets;

    let session = lake(Arc::new(inner.clone().with_network(latency, u64::MAX)), writers as usize).await?;
    let before = cpu_seconds()?;
    let (started, mut tasks) = (Instant::now(), tokio::task::JoinSet::new());
    for n in 0..writers {
        let session = session.clone();
        tasks.spawn(async move {
            for _ in 0..COMMITS {
                let model = session.model("a.t").sql(format!("select {n}::bigint as n")).strategy(SafeAppend);
                committed(&model.retries(1_000).run().await?)?;
            }
            Ok::<_, crate::Error>(())
        });
    }
    while let Some(done) = tasks.join_next().await {
        done??;
    }
    let ours = (writers * COMMITS) as f64 / started.elapsed().as_secs_f64();
    let (asked, busy) = (inner.take(), cpu_seconds()? - before);

    let bare = Arc::new(CountingStore::new(InMemory::new()).with_network(latency, u64::MAX));
    bare.put(&Path::from("log/00000000"), "{}".into()).await?;
    let (started, mut tasks) = (Instant::now(), tokio::task::JoinSet::new());
    let attempts = Arc::new(AtomicU64::new(0));
    for _ in 0..writers {
        let (bare, attempts) = (bare.clone(), attempts.clone());
        tasks.spawn(async move {
            for _ in 0..COMMITS {
                while !attempt(&bare, reads).await? {
                    attempts.fetch_add(1, Ordering::SeqCst);
                }
            }
            Ok::<_, crate::Error>(())
        });
    }
    while let Some(done) = tasks.join_next().await {
        done??;
    }
    let limit = (writers * COMMITS) as f64 / started.elapsed().as_secs_f64();
    println!(
        "{writers} writers of {COMMITS} fenced commits: {ours:.2} commits/s with {} requests and {busy:.1} CPU s; the bare \
         loop {limit:.2} with {} ({} conflicts): {:.2} of its rate",
        asked.total(),
        bare.take().total(),
        attempts.load(Ordering::SeqCst),
        ours / limit
    );
    Ok(())
}

/// The requests of one attempt at a commit: whether it won.
async fn attempt(store: &CountingStore, reads: u64) -> Result<bool> {
    let log: Vec<_> = store.list(Some(&Path::from("log"))).try_collect().await?;
    let newest = log.iter().map(|o| o.location.clone()).max().ok_or("the log is empty")?;
    for _ in 0..reads {
        store.get(&newest).await?.bytes().await?;
    }
    // The data file.
    store.put(&Path::from(format!("data/{:p}", &log)), "x".into()).await?;
    let next: u64 = newest.filename().unwrap_or_default().parse::<u64>()? + 1;
    let options = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
    match store.put_opts(&Path::from(format!("log/{next:08}")), "{}".into(), options).await {
        Ok(_) => Ok(true),
        Err(StoreError::AlreadyExists { .. }) => Ok(false),
        Err(e) => Err(e.into()),
    }
}
