//! Bad input and bad environments: a clear error, the table as before, no litter.

use std::os::unix::fs::PermissionsExt;

use duckrun::{At, Error, ErrorKind, Overwrite, Result, Session};
use duckrun_testkit::own_governor;

use crate::support::Lake;

async fn lake() -> Lake {
    let lake = Lake::new().await;
    lake.put("a.t", "select range::bigint as n, 'x' as s from range(10)").await;
    lake
}

fn error_of<T: std::fmt::Debug>(result: Result<T>, kind: ErrorKind) -> Error {
    let error = result.unwrap_err();
    assert_eq!(error.kind(), kind, "{error:?}");
    error
}

#[tokio::test(flavor = "multi_thread")]
async fn sql_that_cannot_run() {
    let lake = lake().await;
    let before = lake.state("a.t");
    for (sql, kind, part) in [
        ("selec 1", ErrorKind::Query, "parse"),
        ("select * from nowhere.at_all", ErrorKind::Query, "at_all"),
        ("select m from this", ErrorKind::Query, "\"m\""),
        ("select 1; drop table x", ErrorKind::Query, "one SELECT"),
        ("copy (select 1) to '/tmp/x'", ErrorKind::Query, "one SELECT"),
        ("select time '10:00' as n", ErrorKind::Unsupported, "\"n\""),
        ("select interval 1 day as i, '1'::bit as b", ErrorKind::Unsupported, "\"b\""),
        ("select 1 as n, 2 as N", ErrorKind::InvalidInput, "N"),
    ] {
        let error = error_of(lake.session.model("a.t").sql(sql).run().await, kind);
        assert!(error.message().contains(part), "{sql}: {error}");
        assert_eq!(error.table(), Some("a.t"), "{error}");
    }
    assert_eq!(lake.state("a.t"), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn sql_that_fails_after_a_million_rows() {
    let lake = lake().await;
    let before = lake.state("a.t");
    let sql = "select range as n, case when range = 2500000 then error('row ' || range) else 'y' end as s from range(3000000)";
    for strategy in ["overwrite", "append", "safeappend"] {
        let error = error_of(lake.session.model("a.t").sql(sql).strategy_named(strategy).run().await, ErrorKind::Query);
        assert!(error.message().contains("row 2500000"), "{error}");
        assert_eq!(lake.state("a.t"), before, "{strategy}");
    }
    error_of(lake.session.model("a.fresh").sql(sql).run().await, ErrorKind::Query);
    assert!(!lake.folder("a.fresh").join("_delta_log").exists());
    assert!(lake.state("a.fresh").1.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn configuration_is_refused_as_a_whole_and_before_anything_is_read() {
    let lake = lake().await;
    let error = error_of(
        lake.session
            .model("../etc")
            .strategy_named("upsrt")
            .partition_by(["p", "p"])
            .property("delta.checkpointInterval", "no")
            .run()
            .await,
        ErrorKind::InvalidInput,
    );
    for part in ["../etc", "no SQL", "upsrt", "named twice", "checkpointInterval"] {
        assert!(error.message().contains(part), "{part}: {error}");
    }
    let reader = Session::open(lake.root()).governor(own_governor()).await.unwrap();
    let error = error_of(reader.model("a.t").sql("select 1::bigint as n").run().await, ErrorKind::InvalidInput);
    assert!(error.message().contains("read-only"), "{error}");
    error_of(Session::open(lake.root().join("nope")).governor(own_governor()).await, ErrorKind::NotFound);
}

#[tokio::test(flavor = "multi_thread")]
async fn unknown_tables_and_versions() {
    let lake = lake().await;
    error_of(lake.session.snapshot("a.nope", At::Latest).await, ErrorKind::NotFound);
    let error = error_of(lake.session.snapshot("a.t", At::Version(9)).await, ErrorKind::NotFound);
    assert!(error.message().contains("newest is 0"), "{error}");
    let ancient = chrono::DateTime::from_timestamp(0, 0).unwrap();
    error_of(lake.session.snapshot("a.t", At::Timestamp(ancient)).await, ErrorKind::NotFound);
    error_of(lake.session.sql("select * from a.nope").collect().await, ErrorKind::Query);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_corrupt_log_is_never_a_first_run() {
    let whole = lake().await;
    whole.session.model("a.t").sql("select 1::bigint as n").run().await.unwrap().committed().map(drop).unwrap();
    let log = |lake: &Lake, version: u64| lake.folder("a.t").join(format!("_delta_log/{version:020}.json"));
    for (what, damage) in
        [("cut short", b"{\"commitInfo\":{\"time".to_vec()), ("not JSON", b"hello\n".to_vec()), ("empty", Vec::new())]
    {
        let lake = lake().await;
        std::fs::write(log(&lake, 0), damage).unwrap();
        let before = lake.state("a.t");
        let error = lake.session.model("a.t").sql("select 1::bigint as n").run().await.unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::Corrupt), "{what}: {error:?}");
        assert_eq!(lake.state("a.t"), before, "{what}");
    }
    // The first commit is missing and no checkpoint covers it.
    std::fs::remove_file(log(&whole, 0)).unwrap();
    let before = whole.state("a.t");
    let error =
        whole.session.model("a.t").sql("select 1::bigint as n").strategy(Overwrite::default()).run().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error:?}");
    assert_eq!(whole.state("a.t"), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_path_without_permission() {
    if std::fs::read_to_string("/proc/self/status").is_ok_and(|s| s.contains("Uid:\t0\t")) {
        // Permissions do not stop root; a file where a folder must be stops everybody.
        let lake = Lake::new().await;
        std::fs::create_dir_all(lake.folder("a")).unwrap();
        std::fs::write(lake.folder("a.t"), "a file").unwrap();
        let error = lake.session.model("a.t").sql("select 1::bigint as n").run().await.unwrap_err();
        assert!(error.to_string().contains("a/t"), "{error}");
        assert!(!error.is_retryable() || error.kind() == ErrorKind::Unavailable);
        assert_eq!(std::fs::read_to_string(lake.folder("a.t")).unwrap(), "a file");
        eprintln!("skipped: a folder without write permission does not stop root");
        return;
    }
    let lake = lake().await;
    let folder = lake.folder("a.t");
    let before = lake.state("a.t");
    std::fs::set_permissions(&folder, std::fs::Permissions::from_mode(0o555)).unwrap();
    let run = lake.session.model("a.t").sql("select 1::bigint as n").run().await;
    std::fs::set_permissions(&folder, std::fs::Permissions::from_mode(0o755)).unwrap();
    error_of(run, ErrorKind::PermissionDenied);
    assert_eq!(lake.state("a.t"), before);
}

/// A real full disk: a small tmpfs, where the system lets us mount one.
#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk() {
    let place = tempfile::tempdir().unwrap();
    let mounted = std::process::Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=3m", "tmpfs"])
        .arg(place.path())
        .output()
        .is_ok_and(|o| o.status.success());
    if !mounted {
        eprintln!("skipped: no small file system can be mounted here");
        return;
    }
    let session = Session::open(place.path()).governor(own_governor()).writable().await.unwrap();
    session.model("a.t").sql("select 1::bigint as n, 'x' as s").run().await.unwrap().committed().map(drop).unwrap();
    let table = place.path().join("a/t");
    let before = (duckrun_testkit::log_versions(&table), duckrun_testkit::data_files(&table));
    let sql = "select range as n, md5(range::varchar) as s from range(1000000)";
    let run = session.model("a.t").sql(sql).run().await;
    let after = (duckrun_testkit::log_versions(&table), duckrun_testkit::data_files(&table));
    let next = session.model("a.t").sql("select 2::bigint as n").run().await;
    drop(session);
    let _ = std::process::Command::new("umount").arg(place.path()).status();
    let error = error_of(run, ErrorKind::ResourceExhausted);
    assert!(error.to_string().contains("a.t"), "{error}");
    assert_eq!(after, before, "the failed run left something");
    assert_eq!(next.unwrap().version(), Some(1), "the table is writable again");
}
