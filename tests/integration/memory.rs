//! A result several times larger than the memory limit, written under that limit.

use duckrun::{MemorySettings, Session};

/// The limit of the run, and the least that must pass through it, in bytes.
const LIMIT: u64 = 420 << 20;

#[tokio::test(flavor = "multi_thread")]
async fn four_times_the_limit_is_written_under_the_limit() {
    // In a child process, so that what other tests of this binary hold is not counted.
    if std::env::var_os("DUCKRUN_MEMORY_CHILD").is_none() {
        let child = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "memory::four_times_the_limit_is_written_under_the_limit", "--nocapture"])
            .env("DUCKRUN_MEMORY_CHILD", "1")
            .output()
            .unwrap();
        assert!(child.status.success(), "{}{}", String::from_utf8_lossy(&child.stdout), String::from_utf8_lossy(&child.stderr));
        eprint!("{}", String::from_utf8_lossy(&child.stderr));
        return;
    }
    let root = tempfile::tempdir().unwrap();
    let session = Session::open(root.path()).memory(MemorySettings::with_limit(LIMIT)).writable().await.unwrap();
    // 13 million rows of 24 + about 140 bytes: 1.9 GB of Arrow.
    let sql = "select range as n, range * 7 as m, hash(range)::varchar || repeat(chr((97 + range % 26)::int), 110) as s \
               from range(13000000)";
    let report = session.model("a.big").sql(sql).run().await.unwrap().committed().unwrap();
    assert_eq!(report.rows_inserted(), 13_000_000);
    let passed = 13_000_000 * (8 + 8 + 4 + 125);
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
