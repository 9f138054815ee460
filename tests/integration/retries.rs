//! A retry reads again, runs the SQL again and plans again: writers that get in each other's way all get through.

use std::sync::Arc;

use duckrun::{MemorySettings, Merge, Session};

use crate::oracle::files;
use crate::support::Lake;

const WRITERS: i64 = 8;
const RUNS: i64 = 4;

/// Every writer adds one to the same three counters and to one of its own, in its SQL: the sum tells whether every run saw the
/// one before it. A retry that replayed rows it had computed would lose additions.
#[tokio::test(flavor = "multi_thread", worker_threads = 8)]
async fn eight_writers_upsert_the_same_keys() {
    let lake = Lake::new().await;
    lake.put("a.t", "select i::bigint as id, 0::bigint as n, -1::bigint as writer from range(3) t(i)").await;
    let governor = Arc::new(duckrun::FairGovernor::new());
    let memory = MemorySettings { concurrent_runs: WRITERS as usize, ..MemorySettings::default() };
    let mut tasks = Vec::new();
    for writer in 0..WRITERS {
        let open = Session::open(lake.root()).memory(memory.clone()).governor(governor.clone());
        let session = open.writable().await.unwrap();
        tasks.push(tokio::spawn(async move {
            let mut versions = Vec::new();
            for _ in 0..RUNS {
                let own = 100 + writer;
                let sql = format!(
                    "select k.id, coalesce(t.n, 0) + 1 as n, {writer}::bigint as writer \
                     from (values (0::bigint), (1), (2), ({own})) k(id) left join this t on t.id = k.id"
                );
                let model = session.model("a.t").sql(sql).strategy(Merge::on(["id"])).files(files(1000)).retries(1000);
                let report = model.run().await.unwrap().committed().unwrap();
                versions.push((report.version().unwrap(), writer, report.attempts));
            }
            versions
        }));
    }
    let mut all = Vec::new();
    for task in tasks {
        all.extend(task.await.unwrap());
    }
    all.sort_unstable();
    let versions: Vec<u64> = all.iter().map(|(v, ..)| *v).collect();
    assert_eq!(versions, (1..=(WRITERS * RUNS) as u64).collect::<Vec<_>>(), "every run is one version");
    let total = WRITERS * RUNS;
    let last = all.last().unwrap().1;
    let shared = lake.rows("select id, n, writer from a.t where id < 3 order by id").await;
    assert_eq!(shared, (0..3).map(|id| format!("{id}|{total}|{last}")).collect::<Vec<_>>());
    let own = lake.rows("select id, n from a.t where id >= 100 order by id").await;
    assert_eq!(own, (0..WRITERS).map(|w| format!("{}|{RUNS}", 100 + w)).collect::<Vec<_>>());
    let attempts: u32 = all.iter().map(|(.., n)| n).sum();
    eprintln!("{total} upserts of {WRITERS} writers took {attempts} attempts");
    assert!(attempts > total as u32, "they never met");
}
