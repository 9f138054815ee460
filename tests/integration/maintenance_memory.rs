//! Compaction and z-order of more rows than their memory could hold, under a limit that the kernel enforces.

use duckrun::memory::PeakMeter;
use duckrun::{FileOptions, Maintain, MemorySettings, Session};

use crate::maintained::clean;
use crate::memory::{in_a_child, is_the_child};
use crate::support::rows;

/// The limit of the session, in bytes.
const LIMIT: u64 = 420 << 20;
/// What the kernel's group may hold: the limit, and some room for pages of files that are being written.
const GROUP: u64 = 512 << 20;
const FILES: u64 = 16;
const ROWS: u64 = 250_000;

#[test]
fn more_than_the_limit_is_compacted_under_the_limit() {
    let text = in_a_child("maintenance_memory::compacts", GROUP);
    assert!(text.contains("compact →"), "{text}");
}

#[test]
fn more_than_the_limit_is_ordered_under_the_limit() {
    let text = in_a_child("maintenance_memory::orders", GROUP);
    assert!(text.contains("z-order by h →"), "{text}");
}

/// Runs only as a child of the test above.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "the child of more_than_the_limit_is_compacted_under_the_limit"]
async fn compacts() {
    if is_the_child() {
        under_the_limit(|maintain| maintain.compact()).await;
    }
}

/// Runs only as a child of the test above.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "the child of more_than_the_limit_is_ordered_under_the_limit"]
async fn orders() {
    if is_the_child() {
        under_the_limit(|maintain| maintain.z_order(["h"])).await;
    }
}

async fn under_the_limit(action: impl FnOnce(Maintain) -> Maintain) {
    let root = tempfile::tempdir().unwrap();
    let session = Session::open(root.path()).memory(MemorySettings::with_limit(LIMIT)).writable().maintenance(false);
    let session = session.await.unwrap();
    let files = FileOptions { sync: false, ..FileOptions::default() };
    for n in 0..FILES {
        // 16 bytes of numbers, at least 125 of text.
        let sql = format!(
            "select range as n, hash(range)::varchar as h, hash(range)::varchar || repeat(chr((97 + range % 26)::int), 110) as s \
             from range({}, {})",
            n * ROWS,
            (n + 1) * ROWS
        );
        session.model("a.t").sql(sql).files(files.clone()).run().await.unwrap().committed().map(drop).unwrap();
    }
    let passed = FILES * ROWS * (8 + 24 + 125);
    assert!(passed > LIMIT * 4 / 3, "only {passed} bytes");
    let meter = PeakMeter::start();
    let report = clean(action(session.maintain("a.t"))).await;
    let peak = meter.stop().peak;
    assert!(report.tables[0].1.committed().is_some(), "{report}");
    eprintln!("{report}; peak {} MiB", peak >> 20);
    assert!(peak < LIMIT, "the peak was {peak} of {LIMIT}");
    let sql = "select count(*), count(distinct n), sum(n)::bigint, sum(length(s) - length(h))::bigint from a.t";
    let all = FILES * ROWS;
    assert_eq!(rows(session.sql(sql)).await, [format!("{all}|{all}|{}|{}", all * (all - 1) / 2, all * 110)]);
}
