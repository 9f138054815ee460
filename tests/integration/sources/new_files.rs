//! "Load only what is new": judged by the table's column and by its history, also when many load at once.

use std::fs;
use std::sync::Arc;

use duckrun::sources::{ByColumn, ByHistory, Csv, NewFiles};
use duckrun::{Append, CommitOutcome, ErrorKind, FairGovernor, MemorySettings, Model, Nothing, SafeAppend, Session};

use super::file;
use crate::support::Lake;

#[derive(Debug, Clone, Copy, PartialEq)]
enum Judge {
    Column,
    History,
}

/// A file of two rows for each name.
fn arrive(lake: &Lake, names: &[&str]) {
    for name in names {
        file(lake, &format!("in/{name}.csv"), format!("x\n{name}1\n{name}2\n"));
    }
}

fn load(lake: &Lake, session: &Session, by: Judge) -> Model {
    let folder = lake.root().join("in");
    let files = Csv::folder(&folder).header(true).all_text().filename_relative_to(&folder);
    let (source, sql) = match by {
        Judge::Column => (NewFiles::by_column(files), "select * from s"),
        // The table has no column with the file's name.
        Judge::History => (NewFiles::by_history(files), "select x from s"),
    };
    session.model("a.t").source("s", source).sql(sql)
}

/// Each file's two rows, once.
async fn loaded(lake: &Lake) -> Vec<String> {
    let mut rows = lake.rows("select x from a.t").await;
    rows.sort();
    rows
}

fn expected(names: &[&str]) -> Vec<String> {
    let mut rows: Vec<String> = names.iter().flat_map(|n| [format!("{n}1"), format!("{n}2")]).collect();
    rows.sort();
    rows
}

#[tokio::test(flavor = "multi_thread")]
async fn only_new_files_are_loaded_and_loaded_ones_are_not_opened() {
    for by in [Judge::Column, Judge::History] {
        let lake = Lake::new().await;
        arrive(&lake, &["a", "b"]);
        let run = async |expected: Option<u64>| {
            let report = load(&lake, &lake.session, by).run().await.unwrap();
            assert_eq!(report.version(), expected, "{by:?}: {report}");
            report.outcome
        };
        let _ = run(Some(0)).await;
        assert_eq!(run(None).await, CommitOutcome::NothingToDo(Nothing::NoRows));
        arrive(&lake, &["c"]);
        // A loaded file that has become unreadable is nobody's business any more.
        file(&lake, "in/a.csv", b"x\n\"unclosed");
        let _ = run(Some(1)).await;
        assert_eq!(loaded(&lake).await, expected(&["a", "b", "c"]), "{by:?}");
        // Rows that are gone are gone for the column's judgement, not for the history's.
        arrive(&lake, &["a"]);
        let report = load(&lake, &lake.session, by).full_refresh(true).run().await.unwrap();
        assert_eq!(report.version(), Some(2), "{report}");
        assert_eq!(loaded(&lake).await, expected(&["a", "b", "c"]), "{by:?}: a refresh loads all files again");
        arrive(&lake, &["d"]);
        let _ = run(Some(3)).await;
        assert_eq!(loaded(&lake).await, expected(&["a", "b", "c", "d"]), "{by:?}");
    }
}

/// Eight loaders of one folder into which files keep arriving: every file once, whoever loads it. Nobody creates the table
/// beforehand, so that first runs meet as well.
#[tokio::test(flavor = "multi_thread", worker_threads = 8)]
async fn concurrent_loaders_load_every_file_once() {
    for by in [Judge::Column, Judge::History] {
        let lake = Arc::new(Lake::new().await);
        let governor = Arc::new(FairGovernor::new());
        let memory = MemorySettings { concurrent_runs: 8, ..MemorySettings::default() };
        let names: Vec<String> = (0..24).map(|n| format!("f{n:02}")).collect();
        arrive(&lake, &[&names[0], &names[1]]);
        let mut tasks = Vec::new();
        for loader in 0..8 {
            let open = Session::open(lake.root()).memory(memory.clone()).governor(governor.clone());
            let (session, lake, mine) = (open.writable().await.unwrap(), lake.clone(), names[2 + loader..].to_vec());
            tasks.push(tokio::spawn(async move {
                let (mut committed, mut refused) = (0, 0);
                for round in 0..4 {
                    // Three arrivals per loader in all; a name that another one delivers too is the same file.
                    if let Some(name) = mine.get(round * 8).filter(|_| round < 3) {
                        arrive(&lake, &[name]);
                    }
                    let model = load(&lake, &session, by);
                    // Half of them with a blind strategy, which the source fences.
                    let model =
                        if loader % 2 == 0 { model.strategy(SafeAppend) } else { model.strategy(Append::default()) };
                    match model.run().await.unwrap().outcome {
                        CommitOutcome::Committed(_) => committed += 1,
                        CommitOutcome::Conflict { .. } => refused += 1,
                        CommitOutcome::NothingToDo(_) => {}
                        other => panic!("{other:?}"),
                    }
                }
                (committed, refused)
            }));
        }
        let (mut committed, mut refused) = (0, 0);
        for task in tasks {
            let (c, r) = task.await.unwrap();
            committed += c;
            refused += r;
        }
        let _ = load(&lake, &lake.session, by).run().await.unwrap();
        let there: Vec<String> = fs::read_dir(lake.root().join("in"))
            .unwrap()
            .map(|e| e.unwrap().path().file_stem().unwrap().to_str().unwrap().to_owned())
            .collect();
        assert!(there.len() > 10);
        assert_eq!(loaded(&lake).await, expected(&there.iter().map(String::as_str).collect::<Vec<_>>()), "{by:?}");
        eprintln!("{by:?}: {committed} committed, {refused} refused, {} files", there.len());
        assert!(committed > 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_column_that_cannot_say_it_is_refused() {
    let lake = Lake::new().await;
    arrive(&lake, &["a"]);
    load(&lake, &lake.session, Judge::History).run().await.unwrap().committed().map(drop).unwrap();
    let e = load(&lake, &lake.session, Judge::Column).run().await.unwrap_err();
    assert_eq!(e.kind(), ErrorKind::InvalidInput);
    assert!(e.message().contains("the table has no column \"filename\""), "{e}");
    let files = || Csv::folder(lake.root().join("in")).all_text();
    let by = |column: &str| NewFiles::of(files(), Arc::new(ByColumn::named(column)));
    let model =
        |column: &str| lake.session.model("a.u").source("s", by(column)).sql("select filename as f, 1 as n from s");
    model("f").run().await.unwrap().committed().map(drop).unwrap();
    assert!(matches!(model("f").run().await.unwrap().outcome, CommitOutcome::NothingToDo(_)), "under another name");
    let e = model("n").run().await.unwrap_err();
    assert!(e.message().contains("names of files are text"), "{e}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_history_that_is_not_whole_is_refused() {
    let lake = Lake::new().await;
    arrive(&lake, &["a"]);
    let run = || load(&lake, &lake.session, Judge::History);
    run().run().await.unwrap().committed().map(drop).unwrap();
    // Commits of others say nothing about files, and do no harm.
    lake.put("a.t", "select 'by hand' as x").await;
    assert!(matches!(run().run().await.unwrap().outcome, CommitOutcome::NothingToDo(_)));

    let url = url::Url::from_directory_path(lake.folder("a.t")).unwrap();
    let table = deltalake::open_table(url).await.unwrap();
    deltalake::checkpoints::create_checkpoint(&table, None).await.unwrap();
    let first = lake.folder("a.t").join("_delta_log/00000000000000000000.json");
    let kept = fs::read(&first).unwrap();
    fs::remove_file(&first).unwrap();
    let before = lake.state("a.t");
    let e = run().run().await.unwrap_err();
    assert_eq!(e.kind(), ErrorKind::NotFound, "{e}");
    assert!(e.message().contains("version 0 is no longer in the log") && e.message().contains("by_column"), "{e}");
    assert_eq!(lake.state("a.t"), before);

    fs::write(&first, kept).unwrap();
    let (_, _) = table.restore().with_version_to_restore(0).await.unwrap();
    let e = run().run().await.unwrap_err();
    assert!(e.message().contains("version 2 restored the table"), "{e}");
    // The way out that the message names.
    run().full_refresh(true).run().await.unwrap().committed().map(drop).unwrap();
    assert!(matches!(run().run().await.unwrap().outcome, CommitOutcome::NothingToDo(_)));
    assert_eq!(loaded(&lake).await, expected(&["a"]));
}

#[tokio::test(flavor = "multi_thread")]
async fn two_sources_record_under_their_own_names() {
    let lake = Lake::new().await;
    for folder in ["one", "two"] {
        file(&lake, &format!("{folder}/a.csv"), format!("x\n{folder}\n"));
    }
    let source = |folder: &str, by: ByHistory| {
        let folder = lake.root().join(folder);
        NewFiles::of(Csv::folder(&folder).filename_relative_to(&folder), Arc::new(by))
    };
    let model = |by: [ByHistory; 2]| {
        let [one, two] = by;
        let model = lake.session.model("a.t").source("one", source("one", one)).source("two", source("two", two));
        model.sql("select x from one union all select x from two")
    };
    let e = model([ByHistory::new(), ByHistory::new()]).run().await.unwrap_err();
    assert!(e.message().contains("two sources of the run record \"duckrun.loaded.files\""), "{e}");
    let named = || [ByHistory::named("one"), ByHistory::named("two")];
    model(named()).run().await.unwrap().committed().map(drop).unwrap();
    assert!(matches!(model(named()).run().await.unwrap().outcome, CommitOutcome::NothingToDo(_)));
    file(&lake, "two/b.csv", "x\nnew\n");
    model(named()).run().await.unwrap().committed().map(drop).unwrap();
    assert_eq!(loaded(&lake).await, ["new", "one", "two"]);
}
