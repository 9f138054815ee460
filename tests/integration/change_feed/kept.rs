//! What becomes of change files beside the commit that names them: none for nothing, none after a refusal, gone with a vacuum when
//! they are old, written under the memory limit.

use std::time::Duration;

use duckrun::core::maintenance::Action;
use duckrun::{
    Append, CommitOutcome, Delete, ErrorKind, MemorySettings, Merge, Nothing, SchemaChange, Session, Update,
};

use super::{FEED, cdc, change_files, table, values};
use crate::maintained::{Shifted, World, actions, age, clean};
use crate::memory::{in_a_child_with, is_the_child};
use crate::support::Lake;

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_without_changes_writes_none() {
    let lake = table(false).await;
    let before = lake.state("a.t");
    for (rows, strategy) in [
        ("(1, 1, 1), (7, 7, 1)", Merge::on(["id"])),
        ("(1, 5, 1)", Merge::on(["id"]).update_condition("false").insert_condition("false")),
    ] {
        let report = lake.session.model("a.t").sql(values(rows)).strategy(strategy).run().await.unwrap();
        assert_eq!(report.outcome, CommitOutcome::NothingToDo(Nothing::Unchanged), "{report}");
    }
    let report = lake.session.model("a.t").strategy(Update::new([("v", "v")])).run().await.unwrap();
    assert!(matches!(report.outcome, CommitOutcome::NothingToDo(_)), "{report}");
    assert_eq!(lake.state("a.t"), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn columns_of_the_feed_s_own_names_are_refused() {
    let lake = Lake::new().await;
    for name in ["_change_type", "_commit_version", "_Commit_Timestamp"] {
        let model = lake.session.model("a.t").sql(format!("select 1 as id, 2 as \"{name}\"")).property(FEED, "true");
        let error = model.run().await.unwrap_err();
        assert!(error.kind() == ErrorKind::InvalidInput && error.message().contains(name), "{error}");
        assert!(!lake.folder("a.t").exists());
    }
    let lake = table(false).await;
    let before = lake.state("a.t");
    for strategy in [0, 1] {
        let model = lake.session.model("a.t").sql("select 1::bigint as id, 'x' as _change_type");
        let model = model.on_schema_change(SchemaChange::AppendNewColumns);
        let model = if strategy == 0 { model.strategy(Append::default()) } else { model.strategy(Merge::on(["id"])) };
        let error = model.run().await.unwrap_err();
        assert!(error.kind() == ErrorKind::InvalidInput && error.message().contains("_change_type"), "{error}");
        assert_eq!(lake.state("a.t"), before);
    }
    // Without a feed they are columns as any other.
    lake.put("a.u", "select 1 as _change_type").await;
}

/// Deletes a row when it is resolved: after the pin, before the commit.
#[derive(Debug)]
struct Meddles(Session);

#[async_trait::async_trait]
impl duckrun::Source for Meddles {
    fn describe(&self) -> String {
        "a delete".into()
    }

    async fn resolve(&self, _: &duckrun::SourceContext<'_>) -> duckrun::Result<duckrun::Resolved> {
        self.0.model("a.t").strategy(Delete::rows_where("id = 3")).run().await?.committed().map(drop)?;
        Ok(duckrun::Relation::Sql("select 1::bigint as id, 10::bigint as v, 1::integer as p".into()).into())
    }
}

/// A refused run leaves no change file, and a retry writes its own.
#[tokio::test(flavor = "multi_thread")]
async fn a_refused_run_leaves_no_change_file() {
    let lake = table(false).await;
    let other = lake.other().await;
    let model =
        lake.session.model("a.t").source("s", Meddles(other)).sql("select * from s").strategy(Merge::on(["id"]));
    let report = model.run().await.unwrap();
    assert!(matches!(report.outcome, CommitOutcome::Conflict { .. }), "{report}");
    assert_eq!((change_files(&lake.folder("a.t")).len(), cdc(&lake, 2)), (1, 1), "the delete's only");
    // One that fails when the last rows are computed.
    let before = lake.state("a.t");
    let fails = "select 2::bigint as id, 5::bigint as v, 0::integer as p union all \
                 select i::bigint, case when i = 99999 then error('no')::bigint else i end, 0 from range(50, 100000) r(i)";
    let error = lake.session.model("a.t").sql(fails).strategy(Merge::on(["id"])).run().await.unwrap_err();
    assert!(error.to_string().contains("no"), "{error}");
    assert_eq!(lake.state("a.t"), before);
}

/// A store that is no folder: change files are uploaded and read back.
#[tokio::test(flavor = "multi_thread")]
async fn a_store_holds_change_files() {
    let session = World::memory().session().maintenance(false).await.unwrap();
    let model = session.model("a.t").sql("select i::bigint as n, i % 2 as p from range(10) r(i)").partition_by(["p"]);
    model.property(FEED, "true").run().await.unwrap().committed().map(drop).unwrap();
    let model =
        session.model("a.t").sql("select 3::bigint as n, 0 as p union all select 20, 0").strategy(Merge::on(["n"]));
    model.run().await.unwrap().committed().map(drop).unwrap();
    let feed =
        session.sql("select n, p, _change_type from s order by all").source("s", session.changes("a.t", 1).unwrap());
    let expected = ["3|0|update_postimage", "3|1|update_preimage", "20|0|insert"];
    assert_eq!(duckrun_testkit::rows(feed).await.unwrap(), expected);
}

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
const WEEK: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// Change files stay while a commit within the retention names them, and go afterwards; so do those of crashed runs.
#[tokio::test(flavor = "multi_thread")]
async fn vacuum_takes_old_change_files_and_orphans() {
    for full in [false, true] {
        let world = World::local();
        let folder = world.folder("a.t");
        for (days, sql) in [(9, "select i::bigint as n from range(10) r(i)"), (0, "")] {
            let clock = Shifted::by(-chrono::Duration::days(days));
            let session = world.session().maintenance(false).clock(clock).await.unwrap();
            if !sql.is_empty() {
                session
                    .model("a.t")
                    .sql(sql)
                    .property(FEED, "true")
                    .run()
                    .await
                    .unwrap()
                    .committed()
                    .map(drop)
                    .unwrap();
            }
            let delete = Delete::rows_where(format!("n = {days}"));
            session.model("a.t").strategy(delete).run().await.unwrap().committed().map(drop).unwrap();
            if days > 0 {
                std::fs::write(folder.join("_change_data/cdc-crashed.parquet"), "x").unwrap();
                std::fs::create_dir_all(folder.join("_change_data/.theirs")).unwrap();
                std::fs::write(folder.join("_change_data/.theirs/x"), "x").unwrap();
                age(&folder, DAY * days as u32);
            }
        }
        std::fs::write(folder.join("_change_data/cdc-in-flight.parquet"), "x").unwrap();
        assert_eq!(change_files(&folder).len(), 5);
        // Old by its own date, but the commit that names it is young: a copy may have any date.
        let young = actions(&folder, 2)["cdc"][0]["path"].as_str().unwrap().to_owned();
        let file = std::fs::File::options().append(true).open(folder.join(&young)).unwrap();
        file.set_modified(std::time::SystemTime::now() - 8 * DAY).unwrap();
        let session = world.session().maintenance(false).await.unwrap();
        let vacuum = Action::Vacuum { retention: WEEK, full };
        let report = clean(session.maintain("a.t").action(vacuum)).await;
        let left: Vec<String> = change_files(&folder)
            .iter()
            .map(|p| p.strip_prefix(&folder).unwrap().display().to_string())
            .filter(|p| !p.contains(".theirs") && !p.contains("in-flight"))
            .collect();
        assert_eq!(left, [young], "{report}");
        assert_eq!(change_files(&folder).len(), 3, "hidden ones and young ones stay");
        assert_eq!(world.read("a.t").await.1, (1..9).collect::<Vec<i64>>());
    }
}

/// What a merge into a table with a feed may take.
const LIMIT: u64 = 420 << 20;
const ROWS: u64 = 3_200_000;

#[test]
fn a_feed_larger_than_the_limit_is_written_under_it() {
    // What glibc keeps of freed memory is beyond the plan (README, "Limits"). It is given back when much is held, but not before it
    // was held: with all arenas three runs of this peaked at 404, 421 and 445 MB, where the limit is 440.
    let text = in_a_child_with("change_feed::kept::inside", 512 << 20, &[("MALLOC_ARENA_MAX", "1")]);
    assert!(text.contains("the feed was written"), "{text}");
}

/// Runs only as the child of the test above.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "the child of a_feed_larger_than_the_limit_is_written_under_it"]
async fn inside() {
    if !is_the_child() {
        return;
    }
    let root = tempfile::tempdir().unwrap();
    let session = Session::open(root.path()).memory(MemorySettings::with_limit(LIMIT)).writable().await.unwrap();
    let sql = |from: u64, factor: u64| {
        format!(
            "select range as n, range * {factor} as m, hash(range)::varchar || repeat(chr((97 + range % 26)::int), 110) as s \
             from range({from}, {})",
            from + ROWS
        )
    };
    let model = session.model("a.t").sql(sql(0, 7)).property(FEED, "true");
    model.run().await.unwrap().committed().map(drop).unwrap();
    // Half of the keys are there already.
    let model = session.model("a.t").sql(sql(ROWS / 2, 8)).strategy(Merge::on(["n"]));
    let report = model.run().await.unwrap().committed().unwrap();
    assert_eq!((report.rows_inserted(), report.rows_updated()), (ROWS / 2, ROWS / 2));
    let changes = session.changes("a.t", 1).unwrap().until(1);
    let counts = "select _change_type, count(*) from s group by all order by all";
    let counts = duckrun_testkit::rows(session.sql(counts).source("s", changes)).await.unwrap();
    let half = ROWS / 2;
    assert_eq!(
        counts,
        [format!("insert|{half}"), format!("update_postimage|{half}"), format!("update_preimage|{half}")]
    );
    let passed = ROWS * (8 + 8 + 4 + 125);
    assert!(passed > LIMIT, "only {passed} bytes of table, source, and one and a half as many of feed");
    eprintln!("the feed was written: {report}\n{}", report.memory);
    assert!(report.peak_memory < LIMIT, "the peak was {} of {LIMIT}", report.peak_memory);
}
