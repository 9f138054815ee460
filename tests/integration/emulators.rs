//! Every strategy against emulators of S3 and Azure, over HTTP: conditional puts, concurrent writers, and secrets that
//! never show.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use chrono::{TimeDelta, Utc};
use duckrun::core::maintenance::Action;
use duckrun::sources::{Csv, Delta, Files, NewFiles};
use duckrun::{
    Append, BatchSize, ErrorKind, InsertOverwrite, MemorySettings, Microbatch, SafeAppend, Scd2, Session, StoreRoot,
    Token, TokenProvider,
};
use duckrun_testkit::{BearerProxy, Emulated, Emulator, own_governor};
use object_store::path::Path as StorePath;
use object_store::{ObjectStore, ObjectStoreExt};
use tracing_subscriber::fmt::MakeWriter;

use crate::jobs::{self, BEFORE, End};
use crate::readers::skipped;

const CANARY: &str = "canary5ecretcanary";

fn tools() -> &'static Path {
    Path::new(env!("CARGO_TARGET_TMPDIR"))
}

pub(crate) async fn start(emulated: Emulated) -> Option<Emulator> {
    let started =
        tokio::task::spawn_blocking(move || Emulator::start(emulated, &tools().join("emulators"))).await.unwrap();
    started.map_err(|why| skipped(&format!("{emulated:?}, emulated"), &why)).ok()
}

async fn lake(emulator: &Emulator, folder: &str) -> Session {
    let memory = MemorySettings { concurrent_runs: 4, ..MemorySettings::with_limit(2 << 30) };
    let opened = Session::open_url(&emulator.url(folder), &emulator.options(CANARY)).unwrap().governor(own_governor());
    opened.memory(memory).writable().await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_strategy_on_s3() {
    if let Some(emulator) = start(Emulated::S3).await {
        suite(&emulator).await;
        windows_partitions_and_histories(&emulator).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_strategy_on_azure() {
    if let Some(emulator) = start(Emulated::Azure).await {
        suite(&emulator).await;
        windows_partitions_and_histories(&emulator).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn maintenance_and_sources_on_s3() {
    if let Some(emulator) = start(Emulated::S3).await {
        maintenance(&emulator).await;
        sources(&emulator).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn maintenance_and_sources_on_azure() {
    if let Some(emulator) = start(Emulated::Azure).await {
        maintenance(&emulator).await;
        sources(&emulator).await;
    }
}

/// The strategies whose tables are not those of the jobs.
async fn windows_partitions_and_histories(emulator: &Emulator) {
    let session = lake(emulator, "others").await;
    let rows = async |sql: &str| crate::support::rows(session.sql(sql)).await;
    let days = "select i as n, timestamp '2024-01-01' + to_days(i::int) as moment from range(6) t(i)";
    session.model("a.days").sql(days).run().await.unwrap().committed().map(drop).unwrap();
    let window = Microbatch::new("moment", BatchSize::Day)
        .begin("2024-01-02T00:00:00Z".parse().unwrap())
        .end("2024-01-04T00:00:00Z".parse().unwrap());
    let again = "select 10 + i as n, timestamp '2024-01-01' + to_days(i::int) as moment from range(6) t(i)";
    let report = session.model("a.days").sql(again).strategy(window).run().await.unwrap();
    assert_eq!(report.windows.len(), 2, "{report}");
    assert_eq!(rows("select n from a.days order by moment").await, ["0", "11", "12", "3", "4", "5"]);

    let parts = "select i as n, i % 3 as p from range(9) t(i)";
    session.model("a.parts").sql(parts).partition_by(["p"]).run().await.unwrap().committed().map(drop).unwrap();
    let replaced = session.model("a.parts").sql("select 100 as n, 1 as p").strategy(InsertOverwrite);
    replaced.run().await.unwrap().committed().map(drop).unwrap();
    assert_eq!(rows("select p, sum(n)::bigint from a.parts group by p order by p").await, ["0|9", "1|100", "2|15"]);

    for (price, gone) in [(1, false), (1, false), (2, true)] {
        let sql = format!(
            "select i as id, case when i = 0 then {price} else 7 end as price from range({}) t(i)",
            if gone { 2 } else { 3 }
        );
        let history = Scd2::on(["id"]).check(["price"]).invalidate_hard_deletes();
        drop(session.model("a.history").sql(sql).strategy(history).run().await.unwrap());
    }
    let sql = "select id, price, dbt_valid_to is null from a.history order by id, price";
    assert_eq!(rows(sql).await, ["0|1|false", "0|2|true", "1|7|true", "2|7|false"]);
}

/// Every action, and what it leaves in the store.
async fn maintenance(emulator: &Emulator) {
    let session = lake(emulator, "kept").await;
    let (store, folder) = raw(emulator, "kept");
    let objects = async |below: &str| -> Vec<String> {
        let prefix = StorePath::parse(format!("{folder}/{below}")).unwrap();
        let listed: Vec<_> = futures::TryStreamExt::try_collect(store.list(Some(&prefix))).await.unwrap();
        listed.into_iter().filter_map(|o: object_store::ObjectMeta| o.location.filename().map(str::to_owned)).collect()
    };
    for n in 0..6 {
        let sql = format!("select {n} * 10 + i as id, {n} as g, 'x' as s from range(10) t(i)");
        let model = session.model("a.t").sql(sql).strategy(Append::default());
        let model = model.property("delta.logRetentionDuration", "interval 1 seconds");
        model.run().await.unwrap().committed().map(drop).unwrap();
    }
    // An orphan of a run that never committed.
    store.put(&StorePath::parse(format!("{folder}/a/t/part-orphan.parquet")).unwrap(), "x".into()).await.unwrap();
    let mut all = Vec::new();
    for (what, job) in [
        ("compaction", session.maintain("a.t").compact()),
        ("z-order", session.maintain("a.t").z_order(["id", "g"])),
        ("vacuum", session.maintain("a.t").unsafe_retention().vacuum(Duration::ZERO)),
        ("checkpoint", session.maintain("a.t").checkpoint()),
        ("log clean-up", session.maintain("a.t").action(Action::CleanLog { retention: Duration::ZERO })),
    ] {
        if what == "log clean-up" {
            // Older than the retention, by the store's clock and in its whole seconds.
            tokio::time::sleep(Duration::from_millis(3_200)).await;
        }
        let report = job.run().await.unwrap();
        assert!(report.is_clean(), "{what}: {report}");
        all.push(format!("{what}: {report}"));
        let rows = crate::support::rows(session.sql("select count(*)::bigint, sum(id)::bigint from a.t")).await;
        assert_eq!(rows, ["60|1770"], "{what}");
    }
    let files = objects("a/t")
        .await
        .into_iter()
        .filter(|name| name.ends_with(".parquet") && !name.contains("checkpoint"))
        .count();
    assert_eq!(files, 1, "{all:#?}");
    let log = objects("a/t/_delta_log").await;
    assert!(log.iter().any(|name| name.contains(".checkpoint")), "{log:?}");
    assert!(log.iter().filter(|name| name.ends_with(".json")).count() < 9, "{log:?} {all:#?}");
    let report = session.model("a.t").sql("select 60 as id, 6 as g, 'y' as s").strategy(Append::default()).run().await;
    report.unwrap().committed().map(drop).unwrap();
}

/// The store itself, and the path of a folder in it.
fn raw(emulator: &Emulator, folder: &str) -> (Arc<dyn ObjectStore>, String) {
    let root = StoreRoot::open(&emulator.url(folder), &emulator.options(CANARY)).unwrap();
    (root.store().clone(), root.prefix().to_string())
}

/// Files of the session's store by their URL, tables by theirs, and new files.
async fn sources(emulator: &Emulator) {
    let session = lake(emulator, "tables").await;
    let (store, _) = raw(emulator, "");
    let put =
        async |at: &str, text: String| store.put(&StorePath::parse(at).unwrap(), text.into()).await.map(drop).unwrap();
    for day in 1..=3 {
        put(&format!("landing/d{day} ü%20.csv"), format!("n,s\n{day},x\n")).await;
        put(&format!("lines/year=202{day}/a.ndjson"), format!("{{\"n\": {day}}}\n")).await;
    }
    let big: String = (0..200_000).map(|i| format!("{i},text {i}\n")).collect();
    put("big/a.csv", format!("n,s\n{big}")).await;
    let read = async |source, sql: &str| duckrun_testkit::rows(session.sql(sql).source("s", source)).await.unwrap();
    let url = |folder: &str| emulator.url(folder);
    let lines = Files::at(url("lines"));
    assert_eq!(read(lines, "select year, n from s order by n").await, ["2021|1", "2022|2", "2023|3"]);
    let big = Files::at(url("big/a.csv"));
    assert_eq!(
        read(big, "select count(*)::bigint, sum(n)::bigint, max(s) from s").await,
        ["200000|19999900000|text 99999"]
    );
    let landing =
        || NewFiles::by_column(Csv::glob(url("landing/*.csv")).filename_relative_to(url("landing")).rfc4180());
    for expected in ["3", "4"] {
        let model =
            session.model("a.flights").sql("select * from s").source("s", landing()).strategy(Append::default());
        model.run().await.unwrap().committed().map(drop).unwrap();
        let rows = crate::support::rows(session.sql("select count(*)::bigint from a.flights")).await;
        assert_eq!(rows, [expected]);
        put("landing/d4.csv", "n,s\n4,x\n".to_owned()).await;
    }
    let names = crate::support::rows(session.sql("select filename from a.flights order by 1 limit 2")).await;
    assert_eq!(names, ["d1 ü%20.csv", "d2 ü%20.csv"]);
    // A table by its URL, and the folder of one, with the session's credentials.
    let table = Delta::at(url("tables/a/flights")).version(0);
    let rows = duckrun_testkit::rows(session.sql("select count(*)::bigint from s").source("s", table)).await.unwrap();
    assert_eq!(rows, ["3"]);
    let folder = Files::at(url("tables/a/flights"));
    assert_eq!(read(folder, "select count(*)::bigint from s").await, ["4"]);
    // From a session whose root is a local folder, with options of the session or of the source.
    let disk = tempfile::tempdir().unwrap();
    let local = Session::open(disk.path()).governor(own_governor()).writable().await.unwrap();
    let own = Csv::glob(url("landing/*.csv")).storage_options(emulator.options(CANARY));
    let sql = "select count(*)::bigint from s";
    assert_eq!(duckrun_testkit::rows(local.sql(sql).source("s", own)).await.unwrap(), ["4"]);
    let local = Session::open(disk.path())
        .governor(own_governor())
        .storage_options(emulator.options(CANARY))
        .writable()
        .await
        .unwrap();
    let named = Csv::glob(url("landing/*.csv"));
    assert_eq!(duckrun_testkit::rows(local.sql(sql).source("s", named)).await.unwrap(), ["4"]);
    // A file that is replaced while a run reads is not read in two halves.
    let missing = Csv::file(url("landing/none.csv"));
    let error = session.sql(sql).source("s", missing).collect().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
}

/// Tokens from a callback, good for ten requests each or until shortly before they expire.
#[derive(Debug, Default)]
struct Tokens {
    asked: AtomicU64,
    expires: Option<TimeDelta>,
}

#[async_trait::async_trait]
impl TokenProvider for Tokens {
    async fn token(&self) -> duckrun::Result<Token> {
        let token = Token::new(format!("{CANARY}-{}", self.asked.fetch_add(1, Ordering::SeqCst)));
        Ok(match self.expires {
            Some(time) => token.expiring(Utc::now() + time),
            None => token,
        })
    }
}

/// Over HTTP: a token that the store answers with 401 is replaced and the request made again, and one that is about to
/// expire is replaced before it is refused. Writers, readers, merges, vacuums and sources go through it.
#[tokio::test(flavor = "multi_thread")]
async fn tokens_are_replaced_before_they_expire_and_after_a_401() {
    let Some(emulator) = start(Emulated::Azure).await else { return };
    for (good_for, expires) in [(10, None), (u64::MAX, Some(TimeDelta::minutes(5) + TimeDelta::milliseconds(300)))] {
        let proxy = BearerProxy::start(&emulator, good_for).await.unwrap();
        let provider = Arc::new(Tokens { expires, ..Tokens::default() });
        let root = StoreRoot::open_with_tokens(
            &emulator.url(if expires.is_some() { "expiring" } else { "refused" }),
            &proxy.options(),
            provider.clone(),
        )
        .unwrap();
        let memory = MemorySettings::with_limit(1 << 30);
        let session = Session::open_root(&root).governor(own_governor()).memory(memory).writable().await.unwrap();
        jobs::prepare(&session).await;
        for job in jobs::all().into_iter().filter(|job| ["append", "merge", "compact"].contains(&job.name)) {
            if expires.is_some() {
                tokio::time::sleep(Duration::from_millis(400)).await;
            }
            let end = (job.run)(&session).await.unwrap();
            assert!(matches!(end, End::Committed), "{}: {end:?}", job.name);
        }
        let vacuum = session.maintain("a.t").vacuum(Duration::from_secs(8 * 24 * 3600)).run().await.unwrap();
        assert!(vacuum.is_clean(), "{vacuum}");
        let rows = jobs::table(&session).await;
        assert!(rows.contains(&"1|new".to_owned()) && rows.len() >= 7, "{rows:?}");
        root.store().put(&StorePath::from("landing/a.csv"), "n\n1\n".into()).await.unwrap();
        // A token that expires in the middle of an upload: each part arrives once.
        let path = StorePath::from(format!("landing/parts-{}", expires.is_some()));
        let mut upload = root.store().put_multipart(&path).await.unwrap();
        for part in 0..25_u8 {
            upload.put_part(vec![part; 50_000].into()).await.unwrap();
        }
        upload.complete().await.unwrap();
        let bytes = root.store().get(&path).await.unwrap().bytes().await.unwrap();
        assert!(bytes.len() == 25 * 50_000 && bytes.chunks(50_000).zip(0..).all(|(c, n)| c.iter().all(|b| *b == n)));
        let csv = Csv::glob(emulator.url("landing/*.csv"));
        let read = duckrun_testkit::rows(session.sql("select n from s").source("s", csv)).await.unwrap();
        assert_eq!(read, ["1"]);
        let (asked, refused) = (provider.asked.load(Ordering::SeqCst), proxy.refused());
        println!("{asked} tokens, {refused} requests answered with 401 of {}", proxy.served());
        match expires {
            None => assert!(asked > 5 && refused > 4, "{asked} {refused}"),
            Some(_) => assert!(asked > 3 && refused == 0, "{asked} {refused}"),
        }
    }
}

async fn suite(emulator: &Emulator) {
    for job in jobs::all() {
        let session = lake(emulator, job.name).await;
        jobs::prepare(&session).await;
        assert_eq!(jobs::table(&session).await, BEFORE, "{}", job.name);
        let end = (job.run)(&session).await.unwrap();
        assert!(matches!(end, End::Committed), "{}: {end:?}", job.name);
        assert_eq!(jobs::table(&session).await, job.after, "{}", job.name);
    }
    // Blind appenders all succeed; of fenced ones that read one version, one does.
    let session = lake(emulator, "several").await;
    session.model("a.t").sql("select 0 as n").run().await.unwrap().committed().map(drop).unwrap();
    let mut writers = tokio::task::JoinSet::new();
    for n in 1..=6 {
        let other = lake(emulator, "several").await;
        writers.spawn(async move {
            let model = other.model("a.t").sql(format!("select {n} as n"));
            let done = if n <= 3 { model.strategy(Append::default()) } else { model.strategy(SafeAppend).retries(20) };
            done.run().await.unwrap().committed().map(drop).unwrap();
        });
    }
    while let Some(done) = writers.join_next().await {
        done.unwrap();
    }
    let rows = crate::support::rows(session.sql("select n from a.t order by n")).await;
    assert_eq!(rows, ["0", "1", "2", "3", "4", "5", "6"]);
}

/// Everything that is logged, at trace level.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Log {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

/// A secret in options, tokens and SAS strings, through runs that succeed and runs that fail: never in a log at trace
/// level, an error and its sources, a `Debug`, a report, or the message of a panic.
#[tokio::test(flavor = "current_thread")]
async fn secrets_never_show() {
    let Some(emulator) = start(Emulated::S3).await else { return };
    let azure = start(Emulated::Azure).await;
    let log = Log::default();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_writer(log.clone())
        .with_ansi(false)
        .finish();
    let _logging = tracing::subscriber::set_default(subscriber);
    // What a panic prints: of a source that was given secrets and panics with all that it has, and of futures that unwrap.
    let panics = Arc::new(Mutex::new(String::new()));
    let (heard, before) = (panics.clone(), std::panic::take_hook());
    std::panic::set_hook(Box::new(move |panic| {
        *heard.lock().unwrap() += &panic.to_string();
        before(panic);
    }));
    let mut shown = String::new();
    let session = lake(&emulator, "secret").await;
    let options = emulator.options(CANARY);
    let source = Csv::glob(emulator.url("nothing/*.csv")).storage_options(options.clone());
    shown += &format!("{:?} {:?}", source, StoreRoot::open(&emulator.url("x"), &options).unwrap());
    let failed = session.sql("select * from s").source("s", source.clone()).collect().await.unwrap_err();
    shown += &format!("{failed} {failed:?}");
    let elsewhere = Csv::glob("s3://another-bucket/x/*.csv").storage_options(options.clone());
    let failed = session.sql("select * from s").source("s", elsewhere).collect().await.unwrap_err();
    shown += &format!("{failed} {failed:?}");
    for table in ["s3://another-bucket/t", "s3://lake/nothing"] {
        let failed =
            session.sql("select * from s").source("s", Delta::at(table).options(options.clone())).collect().await;
        shown += &format!("{failed:?}");
    }
    let panicking = session.clone();
    let panicked = tokio::spawn(async move {
        let model = panicking.model("a.t").sql("select * from s").source("s", Panicking(source));
        drop(model.run().await.unwrap());
    });
    shown += &format!("{:?}", panicked.await.unwrap_err());
    let unwrapped = session.clone();
    let panicked = tokio::spawn(async move { unwrapped.sql("select * from nowhere").collect().await.unwrap() });
    shown += &format!("{:?}", panicked.await.unwrap_err());
    let report = session.model("a.t").sql("select 1 as n").run().await.unwrap();
    shown += &format!("{session:?} {report:?} {report} {:?}", emulator.options(CANARY));
    shown += &format!("{:?}", session.sql("select * from a.t").collect().await.unwrap());
    let nobody = emulator.options(CANARY).with("aws_endpoint", "http://127.0.0.1:1").with("max_retries", "0");
    let mut failing = vec![
        Session::open_url(&emulator.url("x").replace("lake", "missing"), &emulator.options(CANARY)).unwrap(),
        Session::open_url(&emulator.url("x"), &nobody).unwrap(),
    ];
    if let Some(azure) = &azure {
        let options = |name: &str, value: &str| {
            let all = azure.options("");
            let others = all.expose().filter(|(key, _)| *key != "azure_storage_account_key");
            duckrun::StorageOptions::from_iter(others).with(name, value).with("max_retries", "0")
        };
        for (name, value) in [
            ("access_token", CANARY.to_owned()),
            ("azure_storage_sas_key", format!("sv=2021-08-06&ss=b&srt=sco&sp=rwdlac&sig={CANARY}")),
            ("azure_storage_account_key", format!("{CANARY}AA==")),
        ] {
            match Session::open_url(&azure.url("x"), &options(name, &value)) {
                Ok(session) => failing.push(session),
                Err(e) => shown += &format!("{e} {e:?}"),
            }
        }
    }
    for builder in failing {
        shown += &format!("{builder:?}");
        let session = builder.memory(MemorySettings::with_limit(1 << 30)).writable().await.unwrap();
        let error = session.model("a.t").sql("select 1 as n").run().await.unwrap_err();
        shown += &format!("{error} {error:?}");
        let mut source = std::error::Error::source(&error);
        while let Some(e) = source {
            shown += &format!("{e} {e:?}");
            source = e.source();
        }
    }
    shown += &panics.lock().unwrap();
    assert!(shown.contains("a source that panics") && shown.contains("nowhere"), "the panics were heard");
    assert!(!shown.contains(CANARY), "{}", around(&shown));
    let logged = String::from_utf8_lossy(&log.0.lock().unwrap()).into_owned();
    assert!(logged.len() > 1000, "nothing was logged");
    assert!(!logged.contains(CANARY), "{}", around(&logged));
}

/// A source that panics, and prints itself with its options.
#[derive(Debug)]
struct Panicking(Csv);

#[async_trait::async_trait]
impl duckrun::Source for Panicking {
    fn describe(&self) -> String {
        "panicking".to_owned()
    }

    async fn resolve(&self, cx: &duckrun::SourceContext<'_>) -> duckrun::Result<duckrun::Resolved> {
        panic!("a source that panics: {:?} {cx:?}", self.0)
    }
}

fn around(text: &str) -> String {
    let at = text.find(CANARY).unwrap_or(0);
    text.chars().skip(at.saturating_sub(300)).take(600).collect()
}
