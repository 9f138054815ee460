//! Results several times larger than the memory limit, written under that limit; runs side by side; what is said about it.

use std::io::{BufRead, Write};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};

use duckrun::{Append, FairGovernor, MemorySettings, Merge, Model, Overwrite, Session};
use duckrun_testkit::MemoryGroup;

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

#[tokio::test(flavor = "multi_thread")]
async fn an_impossible_limit_is_refused_with_the_number_that_would_do() {
    let root = tempfile::tempdir().unwrap();
    let session = Session::open(root.path()).memory(MemorySettings::with_limit(50 << 20)).writable().await.unwrap();
    let error = session.model("a.t").sql("select 1 as n").run().await.unwrap_err();
    assert_eq!(error.kind(), duckrun::ErrorKind::ResourceExhausted);
    assert!(error.message().contains("MiB"), "{error}");
    assert!(!root.path().join("a").exists());
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
    let governor = Arc::new(FairGovernor::new());
    let session = Session::open(root.path()).memory(memory).governor(governor.clone()).writable().await.unwrap();
    for table in ["a.appended", "a.merged_1", "a.merged_2"] {
        session.model(table).sql(rows(0, ROWS)).run().await.unwrap().committed().map(drop).unwrap();
    }
    let append = |session: &Session| session.model("a.appended").sql(rows(ROWS, ROWS)).strategy(Append::default());
    // Half of the keys are there already.
    let merge = |table: &str| {
        let sql = rows(ROWS / 2, ROWS).replace("range * 7", "range * 8");
        session.model(table).sql(sql).strategy(Merge::on(["n"]))
    };
    let overwrite = |table: &str| session.model(table).sql(rows(0, ROWS)).strategy(Overwrite::default());
    let models: Vec<Model> = vec![
        append(&session),
        append(&session),
        append(&session),
        overwrite("a.new_1"),
        overwrite("a.new_2"),
        overwrite("a.new_3"),
        merge("a.merged_1"),
        merge("a.merged_2"),
    ];
    let passed = models.len() as u64 * ROWS * (8 + 8 + 4 + 125);
    assert!(passed > SHARED_LIMIT, "only {passed} bytes");
    let runs: Vec<_> = models.into_iter().map(|model| tokio::spawn(model.run())).collect();
    for run in runs {
        let report = run.await.unwrap().unwrap().committed().unwrap();
        eprintln!("side by side: {report}, waited {:?}", report.waited);
        assert!(report.peak_memory < SHARED_LIMIT, "the peak was {} of {SHARED_LIMIT}", report.peak_memory);
    }
    assert_eq!(governor.on_lease(), 0);
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
