//! Every strategy against emulators of S3 and Azure, over HTTP: conditional puts, concurrent writers, and secrets that never show.

use std::path::Path;
use std::sync::{Arc, Mutex};

use duckrun::{Append, MemorySettings, SafeAppend, Session};
use duckrun_testkit::{Emulated, Emulator};
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
    let opened = Session::open_url(&emulator.url(folder), &emulator.options(CANARY)).unwrap();
    opened.memory(memory).writable().await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_strategy_on_s3() {
    if let Some(emulator) = start(Emulated::S3).await {
        suite(&emulator).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_strategy_on_azure() {
    if let Some(emulator) = start(Emulated::Azure).await {
        suite(&emulator).await;
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

/// A secret in options, tokens and SAS strings, through runs that succeed and runs that fail: never in a log at trace level, an error and
/// its sources, a `Debug` or a report.
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
    let mut shown = String::new();
    let session = lake(&emulator, "secret").await;
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
    assert!(!shown.contains(CANARY), "{}", around(&shown));
    let logged = String::from_utf8_lossy(&log.0.lock().unwrap()).into_owned();
    assert!(logged.len() > 1000, "nothing was logged");
    assert!(!logged.contains(CANARY), "{}", around(&logged));
}

fn around(text: &str) -> String {
    let at = text.find(CANARY).unwrap_or(0);
    text.chars().skip(at.saturating_sub(300)).take(600).collect()
}
