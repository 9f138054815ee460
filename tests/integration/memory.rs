//! Results several times larger than the memory limit, written under that limit; runs side by side; what is refused and what
//! is said about it.

use std::io::{BufRead, Write};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use duckrun::memory::{self, LeaseRequest, MIB, MemorySample};
use duckrun::{
    Append, Error, ErrorKind, FairGovernor, Governor, MemoryProbe, MemorySettings, Merge, MicrobatchWindow, Model,
    Overwrite, Relation, Resolved, Session, Source, SourceContext,
};
use duckrun_testkit::{MemoryGroup, own_governor};
use futures::TryStreamExt;

use crate::support::Lake;

/// The limit of the single run, in bytes.
const LIMIT: u64 = 420 << 20;
/// What the kernel's group may hold: the limit, and some room for pages of files that are being written.
const GROUP: u64 = 512 << 20;
/// The limit of the runs side by side, which the kernel's group holds to the byte.
const SHARED_LIMIT: u64 = 2 << 30;
const CHILD: &str = "DUCKRUN_MEMORY_CHILD";

/// Runs an ignored test in a child process, so that what other tests of this binary hold is not counted; in a
/// control group where one can be made, so that the kernel would kill it beyond the limit. Returns what it wrote.
pub(crate) fn in_a_child(test: &str, group: u64) -> String {
    in_a_child_with(test, group, &[])
}

/// The same, with environment variables of the child's own.
pub(crate) fn in_a_child_with(test: &str, group: u64, environment: &[(&str, &str)]) -> String {
    let group_bytes = group;
    let group = MemoryGroup::create(&test.replace("::", "-"), group);
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test, "--ignored", "--nocapture", "--test-threads=1"])
        .env(CHILD, "1")
        .envs(environment.iter().copied())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    match group.as_ref().map_err(Clone::clone).and_then(|g| g.take_in(&child)) {
        Ok(()) => eprintln!("under a control group of {} MiB", group_bytes >> 20),
        Err(why) => eprintln!("skipped: the kernel's limit ({why}); the peak is measured instead"),
    }
    child.stdin.take().unwrap().write_all(b"go\n").unwrap();
    let output = child.wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{}\n{}{text}", output.status, String::from_utf8_lossy(&output.stdout));
    eprint!("{text}");
    text
}

/// Whether this process is the child, which then waits until it is in its group.
pub(crate) fn is_the_child() -> bool {
    let is = std::env::var_os(CHILD).is_some();
    if is {
        std::io::stdin().lock().read_line(&mut String::new()).unwrap();
    }
    is
}

#[test]
fn four_times_the_limit_is_written_under_the_limit() {
    let text = in_a_child("memory::inside", GROUP);
    assert!(text.contains("13 000 000 rows"), "{text}");
}

/// Runs only as the child of the test above.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "the child of four_times_the_limit_is_written_under_the_limit"]
async fn inside() {
    if !is_the_child() {
        return;
    }
    let root = tempfile::tempdir().unwrap();
    let session = Session::open(root.path()).memory(MemorySettings::with_limit(LIMIT)).writable().await.unwrap();
    // 13 million rows of 16 bytes of numbers and at least 125 of text.
    let sql = "select range as n, range * 7 as m, hash(range)::varchar || repeat(chr((97 + range % 26)::int), 110) as s \
               from range(13000000)";
    let report = session.model("a.big").sql(sql).run().await.unwrap().committed().unwrap();
    assert_eq!(report.rows_inserted(), 13_000_000);
    let passed: u64 = 13_000_000 * (8 + 8 + 4 + 125);
    assert!(passed > 4 * LIMIT, "only {passed} bytes");
    eprintln!("{report}\n{}", report.memory);
    assert!(report.peak_memory < LIMIT, "the peak was {} of {LIMIT}", report.peak_memory);
}

/// The number that would do, where a lack of memory is the reason.
fn needed(error: &Error) -> Option<u64> {
    std::error::Error::source(error)?.downcast_ref::<memory::Error>()?.needed()
}

const JOBS: [&str; 5] = ["overwrite", "append", "merge", "microbatch", "compaction"];

/// One of the jobs on the table `a.t`.
async fn job(name: &str, session: &Session, sql: &str) -> duckrun::Result<()> {
    let model = session.model("a.t").sql(sql);
    let model = match name {
        "overwrite" => model.strategy(Overwrite::default()),
        "append" => model.strategy(Append::default()),
        "merge" => model.strategy(Merge::on(["n"])),
        "microbatch" => {
            let day = |text: &str| text.parse().unwrap();
            model.strategy(MicrobatchWindow::new("d", day("2024-01-01T00:00:00Z"), day("2024-01-02T00:00:00Z")))
        }
        "compaction" => {
            let report = session.maintain("a.t").compact().run().await?;
            assert!(report.is_clean() && report.tables[0].1.committed().is_some(), "{report}");
            return Ok(());
        }
        other => panic!("there is no job {other}"),
    };
    model.run().await?.committed().map(drop)
}

/// Whoever reads the refusal sets that number and runs again. So it is neither a guess (a byte less is refused, with the same
/// number) nor a promise that the plan does not keep, and nothing is read or written before it.
#[tokio::test(flavor = "multi_thread")]
async fn every_job_is_refused_at_the_start_with_the_number_that_does() {
    const ROWS: &str = "select range as n, date '2024-01-01' + (range % 2)::integer as d, 'a' as s from range(1000)";
    for name in JOBS {
        let lake = Lake::new().await;
        for _ in 0..10 {
            let model = lake.session.model("a.t").sql(ROWS).strategy(Append::default());
            model.run().await.unwrap().committed().map(drop).unwrap();
        }
        let before = lake.state("a.t");
        let under = async |bytes| {
            let memory = MemorySettings::with_limit(bytes);
            let open = Session::open(lake.root()).governor(own_governor()).memory(memory).maintenance(false);
            open.writable().await.unwrap()
        };
        // A source that is not there would be another error.
        let nothing_there = "select * from read_parquet('/not/there.parquet')";
        let mut limit = 50 * MIB;
        for _ in 0..2 {
            let error = job(name, &under(limit).await, nothing_there).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::ResourceExhausted, "{name}: {error}");
            let number = needed(&error).unwrap();
            assert!(error.to_string().contains(&number.to_string()), "{name}: {error}");
            assert!(limit == 50 * MIB || number == limit + 1, "{name}: {number} after {limit}");
            limit = number - 1;
        }
        assert_eq!(lake.state("a.t"), before, "{name}");
        let sql = match name {
            "merge" => "select range as n, date '2024-01-01' as d, 'b' as s from range(500, 1500)",
            "microbatch" => "select range as n, date '2024-01-01' as d, 'b' as s from range(500)",
            _ => ROWS,
        };
        if name == "merge" {
            // Ten rows for each key would be ten updates; that is another test.
            job("overwrite", &lake.session, ROWS).await.unwrap();
        }
        job(name, &under(limit + 1).await, sql).await.unwrap_or_else(|e| panic!("{name} with what it needs: {e}"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_impossible_limit_leaves_nothing_behind() {
    let root = tempfile::tempdir().unwrap();
    let session = Session::open(root.path()).memory(MemorySettings::with_limit(50 << 20)).writable().await.unwrap();
    let error = session.model("a.t").sql("select 1 as n").run().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ResourceExhausted);
    assert!(error.message().contains("MiB"), "{error}");
    assert!(!root.path().join("a").exists());
}

/// Two sessions that know nothing of each other each planned with the whole machine, and together took it twice.
#[tokio::test(flavor = "multi_thread")]
async fn sessions_of_one_process_share_its_memory() {
    let (left, right) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let reader = Session::open(left.path()).writable().await.unwrap();
    let writer = Session::open(right.path()).writable().await.unwrap();
    // Far more than the stream's buffers hold, so that it stays open.
    let rows = reader.sql("select range as n from range(5000000)").stream().await.unwrap();
    let governor = FairGovernor::of_process();
    assert!(governor.on_lease() > 0);
    let mut run = tokio::spawn(writer.model("a.t").sql("select 1 as n").run());
    let early = tokio::time::timeout(Duration::from_millis(500), &mut run).await;
    assert!(early.is_err() && governor.waiting() >= 1, "{early:?}");
    let batches: Vec<_> = rows.try_collect().await.unwrap();
    assert_eq!(batches.iter().map(|b| b.num_rows()).sum::<usize>(), 5_000_000);
    let report = run.await.unwrap().unwrap().committed().unwrap();
    assert!(report.waited >= Duration::from_millis(400), "waited {:?}", report.waited);
}

/// A source that begins a run of its own, in another session of the process.
#[derive(Debug)]
struct RunsAnother(Session);

#[async_trait::async_trait]
impl Source for RunsAnother {
    fn describe(&self) -> String {
        "what another run leaves".to_owned()
    }

    async fn resolve(&self, _: &SourceContext<'_>) -> duckrun::Result<Resolved> {
        self.0.model("b.t").sql("select 1 as n").run().await?.committed().map(drop)?;
        Ok(Relation::Sql("select 1 as n".to_owned()).into())
    }
}

/// The inner run waited for the memory of the outer one, which waited for the inner one: quickstart stood still for ever.
#[tokio::test(flavor = "multi_thread")]
async fn a_run_inside_a_run_is_refused_where_there_is_no_room_for_both() {
    for (concurrent_runs, fits) in [(1, false), (2, true)] {
        let root = tempfile::tempdir().unwrap();
        let memory = MemorySettings { concurrent_runs, ..MemorySettings::with_limit(1 << 30) };
        let governor = own_governor();
        let open = || Session::open(root.path()).governor(governor.clone()).memory(memory.clone()).writable();
        let (outer, inner) = (open().await.unwrap(), open().await.unwrap());
        let run = outer.model("a.t").source("s", RunsAnother(inner.clone())).sql("select * from s").run().await;
        let query = outer.sql("select * from s").source("s", RunsAnother(inner)).collect().await;
        for (what, error) in [("run", run.map(drop).err()), ("query", query.map(drop).err())] {
            assert_eq!(error.is_none(), fits, "{what}: {error:?}");
            if let Some(error) = error {
                assert_eq!(error.kind(), ErrorKind::ResourceExhausted, "{error}");
                assert!(error.message().contains("concurrent_runs"), "{error}");
            }
        }
        // Nothing is kept by what was refused.
        outer.model("a.u").sql("select 1 as n").run().await.unwrap().committed().map(drop).unwrap();
    }
}

/// Memory as a scheduler may tell of it: less with every look.
#[derive(Debug)]
struct Shrinking(AtomicU64);

impl MemoryProbe for Shrinking {
    fn sample(&self) -> MemorySample {
        let physical = self.0.fetch_sub(512 * MIB, Ordering::Relaxed);
        MemorySample { physical: Some(physical), cpus: Some(2), ..MemorySample::default() }
    }
}

/// A governor that lets wait before it grants.
#[derive(Debug)]
struct Slow(Duration);

#[async_trait::async_trait]
impl Governor for Slow {
    async fn lease(&self, ask: LeaseRequest) -> memory::Result<memory::Lease> {
        tokio::time::sleep(self.0).await;
        Ok(memory::Lease::new(ask.bytes, || ()).after_waiting(self.0))
    }
}

/// A run that waited long for its lease kept the plan of the moment when it had asked, whatever its neighbours had taken since.
#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_waited_looks_again_how_much_there_is() {
    for (waits, expected) in [(Duration::ZERO, 2048 * MIB), (Duration::from_millis(1100), 1536 * MIB)] {
        let root = tempfile::tempdir().unwrap();
        let session = Session::open(root.path()).probe(Arc::new(Shrinking(AtomicU64::new(2048 * MIB))));
        let session = session.governor(Arc::new(Slow(waits))).maintenance(false).writable().await.unwrap();
        let report = session.model("a.t").sql("select 1 as n").run().await.unwrap().committed().unwrap();
        assert_eq!(report.memory.limit, expected, "after {waits:?}");
    }
}

#[test]
fn eight_runs_side_by_side_stay_below_their_common_limit() {
    let text = in_a_child("memory::eight", SHARED_LIMIT);
    assert_eq!(text.matches("side by side:").count(), 8, "{text}");
}

/// Rows of 16 bytes of numbers and at least 125 of text.
fn rows(from: u64, count: u64) -> String {
    format!(
        "select range as n, range * 7 as m, hash(range)::varchar || repeat(chr((97 + range % 26)::int), 110) as s \
         from range({from}, {})",
        from + count
    )
}

/// Runs only as the child of the test above.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "the child of eight_runs_side_by_side_stay_below_their_common_limit"]
async fn eight() {
    const ROWS: u64 = 2_500_000;
    if !is_the_child() {
        return;
    }
    let root = tempfile::tempdir().unwrap();
    let mut memory = MemorySettings::with_limit(SHARED_LIMIT);
    memory.concurrent_runs = 8;
    // A session for every run: what they share is their process, and so its governor.
    let mut sessions = Vec::new();
    for _ in 0..8 {
        sessions.push(Session::open(root.path()).memory(memory.clone()).writable().await.unwrap());
    }
    let session = sessions[0].clone();
    for table in ["a.appended", "a.merged_1", "a.merged_2"] {
        session.model(table).sql(rows(0, ROWS)).run().await.unwrap().committed().map(drop).unwrap();
    }
    let append = |n: usize| sessions[n].model("a.appended").sql(rows(ROWS, ROWS)).strategy(Append::default());
    // Half of the keys are there already.
    let merge = |n: usize, table: &str| {
        let sql = rows(ROWS / 2, ROWS).replace("range * 7", "range * 8");
        sessions[n].model(table).sql(sql).strategy(Merge::on(["n"]))
    };
    let overwrite = |n: usize, table: &str| sessions[n].model(table).sql(rows(0, ROWS)).strategy(Overwrite::default());
    let models: Vec<Model> = vec![
        append(0),
        append(1),
        append(2),
        overwrite(3, "a.new_1"),
        overwrite(4, "a.new_2"),
        overwrite(5, "a.new_3"),
        merge(6, "a.merged_1"),
        merge(7, "a.merged_2"),
    ];
    let passed = models.len() as u64 * ROWS * (8 + 8 + 4 + 125);
    assert!(passed > SHARED_LIMIT, "only {passed} bytes");
    let runs: Vec<_> = models.into_iter().map(|model| tokio::spawn(model.run())).collect();
    for run in runs {
        let report = run.await.unwrap().unwrap().committed().unwrap();
        eprintln!("side by side: {report}, waited {:?}", report.waited);
        assert!(report.peak_memory < SHARED_LIMIT, "the peak was {} of {SHARED_LIMIT}", report.peak_memory);
    }
    assert_eq!(FairGovernor::of_process().on_lease(), 0);
    let counts = "select (select count(*) from a.appended), (select count(*) from a.new_3), \
                  (select count(*) from a.merged_2), (select count(*) from a.merged_2 where m = n * 8 and n > 0)";
    let expected = format!("{}|{}|{}|{}", 4 * ROWS, ROWS, ROWS / 2 * 3, ROWS);
    assert_eq!(duckrun_testkit::rows(session.sql(counts)).await.unwrap(), [expected]);
}

/// An operator who asks why a run was slow or refused has the plan in the log, in a line, and the peak in the report.
#[tokio::test]
async fn the_plan_of_a_run_is_one_line_of_the_log() {
    #[derive(Clone, Default)]
    struct Log(Arc<Mutex<Vec<u8>>>);
    impl Write for Log {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone()).finish();
    let guard = tracing::subscriber::set_default(subscriber);

    let root = tempfile::tempdir().unwrap();
    let session = Session::open(root.path()).memory(MemorySettings::with_limit(LIMIT)).writable().await.unwrap();
    let report = session.model("a.t").sql("select 1 as n").run().await.unwrap().committed().unwrap();
    drop(guard);

    let text = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    let plans: Vec<&str> = text.lines().filter(|line| line.contains("memory plan for")).collect();
    let [plan] = plans[..] else { panic!("{text}") };
    assert!(plan.contains("table=\"a.t\"") && plan.contains("limit 420 MiB (explicit limit), duckdb"), "{plan}");
    assert!(plan.contains(&report.memory.to_string()), "{plan}");
    assert!(report.peak_memory > 0 && report.to_string().contains("peak"), "{report}");
}
