//! A result several times larger than the memory limit, written under that limit.

use std::io::{BufRead, Write};
use std::process::{Command, Stdio};

use duckrun::{MemorySettings, Session};
use duckrun_testkit::MemoryGroup;

/// The limit of the run, in bytes.
const LIMIT: u64 = 420 << 20;
/// What the kernel's group may hold: the limit, and some room for pages of files that are being written.
const GROUP: u64 = 512 << 20;
const CHILD: &str = "DUCKRUN_MEMORY_CHILD";

/// In a child process, so that what other tests of this binary hold is not counted; in a control group where one can be made,
/// so that the kernel would kill it beyond the limit.
#[test]
fn four_times_the_limit_is_written_under_the_limit() {
    let group = MemoryGroup::create("write", GROUP);
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "memory::inside", "--ignored", "--nocapture", "--test-threads=1"])
        .env(CHILD, "1")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    match group.as_ref().map_err(Clone::clone).and_then(|g| g.take_in(&child)) {
        Ok(()) => eprintln!("under a control group of {} MiB", GROUP >> 20),
        Err(why) => eprintln!("skipped: the kernel's limit ({why}); the peak is measured instead"),
    }
    child.stdin.take().unwrap().write_all(b"go\n").unwrap();
    let output = child.wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}\n{}{text}", output.status, String::from_utf8_lossy(&output.stdout));
    assert!(text.contains("13 000 000 rows"), "{text}");
    eprint!("{text}");
}

/// Runs only as the child of the test above.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "the child of four_times_the_limit_is_written_under_the_limit"]
async fn inside() {
    if std::env::var_os(CHILD).is_none() {
        return;
    }
    let mut line = String::new();
    std::io::stdin().lock().read_line(&mut line).unwrap();
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
