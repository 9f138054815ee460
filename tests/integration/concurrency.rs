//! Many writers on one local table: what is acknowledged is there once, what is refused left nothing.

use std::sync::Arc;

use duckrun::{Append, CommitOutcome, MemorySettings, Overwrite, SafeAppend, Session};

use crate::support::Lake;

const WRITERS: usize = 8;
const RUNS: usize = 25;

/// Sessions that run side by side: memory split among as many runs as there are writers.
async fn sessions(lake: &Lake) -> Vec<Session> {
    let governor = Arc::new(duckrun::FairGovernor::new());
    let memory = MemorySettings { concurrent_runs: WRITERS, ..MemorySettings::default() };
    let mut sessions = Vec::new();
    for _ in 0..WRITERS {
        let open = Session::open(lake.root()).memory(memory.clone()).governor(governor.clone());
        sessions.push(open.writable().await.unwrap());
    }
    sessions
}

#[tokio::test(flavor = "multi_thread", worker_threads = 8)]
async fn eight_safe_appenders() {
    let lake = Lake::new().await;
    lake.put("a.t", "select -1::bigint as writer, 0::bigint as run").await;
    let mut tasks = Vec::new();
    for (writer, session) in sessions(&lake).await.into_iter().enumerate() {
        tasks.push(tokio::spawn(async move {
            let (mut acknowledged, mut refused) = (Vec::new(), 0);
            for run in 0..RUNS {
                let sql = format!("select {writer}::bigint as writer, {run}::bigint as run");
                let report = session.model("a.t").sql(sql).strategy(SafeAppend).run().await.unwrap();
                match report.outcome {
                    CommitOutcome::Committed(commit) => acknowledged.push((commit.version, writer, run)),
                    CommitOutcome::Conflict { read, found, .. } => {
                        assert!(read.unwrap() < found);
                        refused += 1;
                    }
                    other => panic!("{other:?}"),
                }
            }
            (acknowledged, refused)
        }));
    }
    let (mut acknowledged, mut refused) = (Vec::new(), 0);
    for task in tasks {
        let (mine, no) = task.await.unwrap();
        acknowledged.extend(mine);
        refused += no;
    }
    assert_eq!(acknowledged.len() + refused, WRITERS * RUNS);
    let mut versions: Vec<u64> = acknowledged.iter().map(|(v, ..)| *v).collect();
    versions.sort_unstable();
    assert_eq!(versions, (1..=acknowledged.len() as u64).collect::<Vec<_>>(), "every acknowledged run is one version");
    let (log, files) = lake.state("a.t");
    assert_eq!(log.len(), acknowledged.len() + 1);
    assert_eq!(files.len(), acknowledged.len() + 1, "a refused run left a file");
    let mut expected: Vec<String> = acknowledged.iter().map(|(_, w, r)| format!("{w}|{r}")).collect();
    expected.sort();
    let mut rows = lake.rows("select writer, run from a.t where writer >= 0").await;
    rows.sort();
    assert_eq!(rows, expected);
    eprintln!("safeappend: {} acknowledged, {refused} refused", acknowledged.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 8)]
async fn eight_blind_appenders() {
    let lake = Lake::new().await;
    let mut tasks = Vec::new();
    // Nobody creates the table first: eight first runs meet, one creates, the others join.
    for (writer, session) in sessions(&lake).await.into_iter().enumerate() {
        tasks.push(tokio::spawn(async move {
            for run in 0..RUNS {
                let sql = format!("select {writer}::bigint as writer, {run}::bigint as run");
                session
                    .model("a.t")
                    .sql(sql)
                    .strategy(Append::default())
                    .run()
                    .await
                    .unwrap()
                    .committed()
                    .map(drop)
                    .unwrap();
            }
        }));
    }
    for task in tasks {
        task.await.unwrap();
    }
    let counted = "select count(*), count(distinct (writer, run)) from a.t";
    assert_eq!(lake.rows(counted).await, [format!("{0}|{0}", WRITERS * RUNS)]);
    // One commit for each run; the others are maintenance, which so many files call for.
    let (log, _) = lake.state("a.t");
    assert_eq!(log, (0..log.len() as u64).collect::<Vec<_>>());
    let commits = log.iter().map(|v| lake.folder("a.t").join(format!("_delta_log/{v:020}.json")));
    let data = commits.filter(|c| std::fs::read_to_string(c).unwrap().contains("\"dataChange\":true")).count();
    assert_eq!(data, WRITERS * RUNS);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 8)]
async fn two_first_runs_one_wins() {
    for _ in 0..5 {
        let lake = Lake::new().await;
        let (one, two) = (lake.session.clone(), lake.other().await);
        let run = |session: Session, n: i64| async move {
            let sql = format!("select {n}::bigint as n from range(1000)");
            session.model("a.t").sql(sql).strategy(Overwrite::default()).run().await.unwrap()
        };
        let (one, two) = tokio::join!(tokio::spawn(run(one, 1)), tokio::spawn(run(two, 2)));
        let reports = [one.unwrap(), two.unwrap()];
        let committed = reports.iter().filter(|r| r.version().is_some()).count();
        let rows = lake.rows("select distinct n from a.t").await;
        assert_eq!(rows.len(), 1, "both contents stayed");
        for report in &reports {
            if let CommitOutcome::Conflict { read, found, .. } = &report.outcome {
                assert_eq!((*read, *found), (None, 0));
            }
        }
        assert_eq!(lake.state("a.t").1.len(), committed);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 8)]
async fn retries_recompute() {
    let lake = Lake::new().await;
    lake.put("a.t", "select 0::bigint as n").await;
    let mut tasks = Vec::new();
    for session in sessions(&lake).await {
        tasks.push(tokio::spawn(async move {
            for _ in 0..5 {
                let next = session.model("a.t").sql("select max(n) + 1 as n from this").strategy(SafeAppend);
                next.retries(1_000).run().await.unwrap().committed().map(drop).unwrap();
            }
        }));
    }
    for task in tasks {
        task.await.unwrap();
    }
    // A replayed, stale result would repeat a number.
    assert_eq!(lake.rows("select count(*), count(distinct n), max(n) from a.t").await, ["41|41|40"]);
}

/// An append whose SQL reads the target is fenced by itself; one that does not is not.
#[tokio::test(flavor = "multi_thread")]
async fn an_append_that_reads_its_target_is_fenced() {
    let lake = Lake::new().await;
    lake.put("a.t", "select 1::bigint as n").await;
    for (sql, before, fenced) in [
        ("select max(n) + 1 as n from this, competitor", None, true),
        ("select max(n) + 1 as n from a.t, competitor", None, true),
        ("select max(n) + 1 as n from A.\"T\", competitor", None, true),
        ("select (select max(n) from t) + nothing as n from competitor", None, true),
        ("select n from v, competitor", Some("create view v as select n from a.t"), true),
        ("select n from x, competitor", Some("create temp table x as select n from this"), true),
        ("with t as (select 7::bigint as n) select n from t, competitor", None, false),
        ("select 7::bigint as n from competitor where 'this' = 'this'", None, false),
    ] {
        let mut model = lake.session.model("a.t").sql(sql).source("competitor", Competitor(lake.other().await));
        if let Some(before) = before {
            model = model.before(before);
        }
        let report = model.strategy(Append::default()).run().await.unwrap();
        assert_eq!(report.is_conflict(), fenced, "{sql}: {report}");
    }
}

/// Commits to `a.t` when it is resolved: after the pin, before the commit.
#[derive(Debug)]
struct Competitor(Session);

#[async_trait::async_trait]
impl duckrun::Source for Competitor {
    fn describe(&self) -> String {
        "a competitor".into()
    }

    async fn resolve(&self, _: &duckrun::SourceContext<'_>) -> duckrun::Result<duckrun::Resolved> {
        self.0.model("a.t").sql("select 100::bigint as n").run().await?.committed().map(drop)?;
        Ok(duckrun::Relation::Sql("select 0::bigint as nothing".into()).into())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_overwrite_is_refused_or_blind() {
    let lake = Lake::new().await;
    lake.put("a.t", "select 1::bigint as n").await;
    let run = |strategy: Overwrite, other: Session| {
        lake.session
            .model("a.t")
            .sql("select 5::bigint as n from c")
            .source("c", Competitor(other))
            .strategy(strategy)
            .run()
    };
    let refused = run(Overwrite::default(), lake.other().await).await.unwrap();
    assert!(refused.is_conflict(), "{refused}");
    assert_eq!(lake.rows("select n from a.t order by n").await, ["1", "100"]);
    let blind = run(Overwrite::default().blind(), lake.other().await).await.unwrap();
    assert_eq!(blind.version(), Some(3));
    assert_eq!(lake.rows("select n from a.t").await, ["5"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn dropping_a_run_leaves_the_table_as_it_was() {
    let lake = Lake::new().await;
    lake.put("a.t", "select 1::bigint as n, '' as s").await;
    let before = lake.state("a.t");
    let slow = "select range as n, repeat('x', 100) || hash(range) as s from range(300000000)";
    for pause in [0, 20, 300, 1500] {
        let run = lake.session.model("a.t").sql(slow).run();
        let timeout = std::time::Duration::from_millis(pause);
        assert!(tokio::time::timeout(timeout, run).await.is_err(), "the run was faster than its cancellation");
        // Removal is best effort and local files go at once; the encoders may still be closing theirs.
        for _ in 0..100 {
            if lake.state("a.t") == before {
                break;
            }
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
        assert_eq!(lake.state("a.t"), before, "after {pause} ms");
    }
    lake.put("a.t", "select 2::bigint as n").await;
}

/// Compacts `a.t` with plain delta-rs when it is resolved: after the pin, before the commit.
#[derive(Debug)]
struct Compactor(std::path::PathBuf);

#[async_trait::async_trait]
impl duckrun::Source for Compactor {
    fn describe(&self) -> String {
        "a compactor".into()
    }

    async fn resolve(&self, _: &duckrun::SourceContext<'_>) -> duckrun::Result<duckrun::Resolved> {
        let url = url::Url::from_directory_path(&self.0).unwrap();
        let table = deltalake::DeltaTable::try_from_url(url).await.unwrap();
        let (_, metrics) = table.optimize().await.unwrap();
        assert!(metrics.num_files_removed > 1);
        Ok(duckrun::Relation::Sql("select 0::bigint as nothing".into()).into())
    }
}

/// Harmless maintenance does not refuse, and does not resurrect: delta-rs's own stale overwrite after an OPTIMIZE leaves the
/// old rows in the table (its conflict check ignores removes with `dataChange=false`).
#[tokio::test(flavor = "multi_thread")]
async fn a_compaction_in_between_neither_refuses_nor_corrupts() {
    for (strategy, expected) in [("safeappend", "5|13"), ("append", "5|13"), ("overwrite", "1|7")] {
        let lake = Lake::new().await;
        for n in 0..4 {
            lake.put("a.t", format!("select {n}::bigint as n")).await;
        }
        let model =
            lake.session.model("a.t").sql("select 7 + nothing as n from c").source("c", Compactor(lake.folder("a.t")));
        let report = model.strategy_named(strategy).run().await.unwrap();
        assert_eq!((report.read_version, report.version()), (Some(3), Some(5)), "{report}");
        assert_eq!(lake.rows("select count(*), sum(n) from a.t").await, [expected], "{strategy}");
    }
}
