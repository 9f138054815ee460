//! Sources from end to end but for the engine: the SQL that they resolve to, each of which was run in DuckDB 2.0.0.

use std::collections::BTreeSet;
use std::fs;
use std::sync::Arc;

use duckrun_core::memory::{EffectiveLimit, GIB, Job, MemorySettings, plan};
use duckrun_core::{ErrorKind, Relation, RunContext};

use super::*;
use crate::{Compression, LoadedFiles, NewFiles};

fn cx() -> RunContext {
    RunContext::new(plan(&EffectiveLimit::explicit(4 * GIB, 2), &MemorySettings::default(), Job::Write).unwrap())
}

fn dir(files: &[&str]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for file in files {
        let path = dir.path().join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, "x,y\n1,2\n").unwrap();
    }
    dir
}

/// The SQL, with the temporary folder called DIR, or the error's text.
fn sql(source: &dyn Source, dir: &tempfile::TempDir) -> String {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let run = cx();
    let text = match runtime.block_on(source.resolve(&SourceContext::new(&run))).map(|r| r.relation) {
        Ok(Relation::Sql(sql)) => sql,
        Ok(other) => panic!("{other:?}"),
        Err(e) => e.to_string(),
    };
    text.replace(&dir.path().display().to_string(), "DIR")
}

#[test]
fn the_main_job_reads_the_listed_files_exactly_and_has_their_names() {
    let d = dir(&["landing/b.csv", "landing/a.csv", "landing/it's [1].csv", "landing/readme.md"]);
    let source = Csv::glob(d.path().join("landing/*.csv"));
    assert_eq!(
        sql(&source, &d),
        "SELECT * FROM read_csv([{filename: 'DIR/landing/a.csv'}, {filename: 'DIR/landing/b.csv'}, \
         {filename: 'DIR/landing/it''s [1].csv'}], filename = 'filename', hive_partitioning = false)"
    );
    assert!(source.describe().starts_with("csv files "));
}

#[test]
fn options_reach_the_reader_quoted() {
    let d = dir(&["a.csv"]);
    let source = Csv::file(d.path().join("a.csv"))
        .delimiter(";")
        .header(true)
        .quote("'")
        .null_strings(["NA", "n\"a"])
        .column_type("y", "DECIMAL(10,2)")
        .compression(Compression::None)
        .union_by_name();
    assert_eq!(
        sql(&source, &d),
        "SELECT * FROM read_csv([{filename: 'DIR/a.csv'}], hive_partitioning = false, union_by_name = true, delim = ';', \
         header = true, quote = '''', nullstr = ['NA', 'n\"a'], types = {'y': 'DECIMAL(10,2)'}, compression = 'none')"
    );
    let bad = Csv::file(d.path().join("a.csv")).delimiter("").quote("ab").column("x", "INT").column_type("x", "INT");
    let e = sql(&bad, &d);
    assert!(e.starts_with("invalid input: 3 problems: the delimiter \"\""), "{e}");
    let e = sql(&Csv::file(d.path().join("a.csv")).quote("'").null_strings(["it's"]), &d);
    assert!(e.contains("the null string \"it's\" contains the quote \"'\""), "{e}");
}

/// A file of zero bytes that sorts first made DuckDB 2.0 sniff no dialect at all, and fail on every other file.
#[test]
fn empty_files_do_not_break_the_schema_of_the_others() {
    let d = dir(&["in/b.csv"]);
    fs::write(d.path().join("in/a.csv"), "").unwrap();
    let both = Csv::folder(d.path().join("in"));
    assert!(sql(&both, &d).starts_with("SELECT * FROM read_csv([{filename: 'DIR/in/b.csv'}], "));
    let empty = Csv::file(d.path().join("in/a.csv"));
    assert!(sql(&empty, &d).contains("DIR/in/a.csv is empty (0 bytes)"));
    assert!(sql(&empty.column("x", "INT"), &d).contains("columns = {'x': 'INT'}"));
}

#[test]
fn the_filename_column_follows_the_location_and_the_wish() {
    let d = dir(&["in/é/a.csv"]);
    let file = d.path().join("in/é/a.csv");
    assert!(!sql(&Csv::at(&file), &d).contains("filename ="), "a single file has none");
    assert!(sql(&Csv::at(&file).with_filename(), &d).contains("filename = 'filename'"));
    assert!(sql(&Csv::folder(d.path()).filename_as("src"), &d).contains("filename = 'src'"));
    assert!(!sql(&Csv::folder(d.path()).without_filename(), &d).contains("filename ="));
    let relative = Csv::folder(d.path().join("in")).filename_relative_to(d.path().join("in/é/"));
    let taken = d.path().join("in/é/").to_str().unwrap().chars().count();
    assert_eq!(
        sql(&relative, &d),
        format!(
            "SELECT * REPLACE (substr(\"filename\", {}) AS \"filename\") FROM read_csv([{{filename: 'DIR/in/é/a.csv'}}], \
             filename = 'filename', hive_partitioning = false)",
            taken + 1
        )
    );
    let e = sql(&Csv::folder(d.path()).filename_relative_to(d.path().join("other")), &d);
    assert!(e.contains("DIR/in/é/a.csv is not below DIR/other"), "{e}");
}

#[test]
fn hive_folders_become_columns_where_all_files_have_them() {
    let d = dir(&["t/y=1/a.csv", "t/y=2/b.csv", "u/y=1/a.csv", "u/b.csv"]);
    let t = Csv::folder(d.path().join("t"));
    assert!(
        sql(&t.clone().hive_type("y", "VARCHAR"), &d)
            .contains("hive_partitioning = true, hive_types = {'y': 'VARCHAR'}")
    );
    assert!(sql(&t.clone().hive(HivePartitions::Off), &d).contains("hive_partitioning = false"));
    let e = sql(&t.hive_type("month", "INT"), &d);
    assert!(e.contains("\"month\"") && e.contains("have only y"), "{e}");
    let e = sql(&Csv::folder(d.path().join("u")), &d);
    assert!(e.contains("DIR/u/b.csv and DIR/u/y=1/a.csv lie below folders with different key=value names"), "{e}");
}

#[test]
fn formats_are_inferred_forced_and_refused() {
    let d = dir(&[
        "a.parquet",
        "j/a.ndjson",
        "j/b.jsonl.gz",
        "k/a.json",
        "t/a.tsv",
        "x/data",
        "d/_delta_log/0.json",
        "f/a.arrow",
    ]);
    let at = |p: &str| Files::at(d.path().join(p));
    assert_eq!(
        sql(&at("a.parquet"), &d),
        "SELECT * FROM read_parquet([{filename: 'DIR/a.parquet'}], hive_partitioning = false)"
    );
    assert!(sql(&at("j"), &d).ends_with("format = 'newline_delimited')"), "{}", sql(&at("j"), &d));
    assert!(sql(&at("k"), &d).ends_with("format = 'auto')"));
    assert!(sql(&at("t/a.tsv"), &d).contains("delim = '\t'"));
    assert!(sql(&at("x/data"), &d).contains("the format of DIR/x/data is unknown"));
    assert!(sql(&at("x/data").format("csv"), &d).starts_with("SELECT * FROM read_csv("));
    assert_eq!(
        sql(&at("d"), &d),
        "unsupported: DIR/d is a Delta table, and nothing here opens Delta tables: resolve it within a run of the crate duckrun"
    );
    assert!(sql(&Parquet::folder(d.path().join("d")), &d).contains("DIR/d is a delta table"));
    assert!(sql(&at("f"), &d).contains("DIR/f/a.arrow is not a whole Arrow IPC file"));
    let not_a_table = sql(&at("k").format("delta"), &d);
    assert!(not_a_table.contains("DIR/k is no delta table: it has no _delta_log"), "{not_a_table}");
    assert!(sql(&Csv::folder(d.path().join("t")).tsv(), &d).contains("delim = '\t'"));
}

#[test]
fn a_root_confines_and_resolves() {
    let d = dir(&["root/in/a.csv", "b.csv"]);
    let root = d.path().join("root");
    assert!(sql(&Csv::glob("in/*.csv").root(&root), &d).contains("'DIR/root/in/a.csv'"));
    let e = sql(&Csv::glob("../*.csv").root(&root), &d);
    assert_eq!(
        e,
        "invalid input: ../*.csv is outside of the root DIR/root: name a path below the root, or open the source with another root"
    );
}

#[test]
fn an_embedders_format_is_asked_like_ours() {
    #[derive(Debug)]
    struct Notes;
    #[async_trait]
    impl Format for Notes {
        fn name(&self) -> &str {
            "notes"
        }
        fn extensions(&self) -> Vec<&str> {
            vec!["note"]
        }
        fn folder_markers(&self) -> Vec<&str> {
            vec![".notebook"]
        }
        async fn relation(&self, scan: &Scan<'_>) -> Result<Resolved> {
            let sql = format!("SELECT content FROM read_text({}) -- {}", scan.file_list(), scan.location);
            Ok(Relation::Sql(sql).into())
        }
    }
    let d = dir(&["a/x.note", "b/.notebook", "b/y.csv"]);
    let files = |p: &str| Files::at(d.path().join(p)).registry(Registry::default().with(Arc::new(Notes)));
    assert_eq!(sql(&files("a"), &d), "SELECT content FROM read_text([{filename: 'DIR/a/x.note'}]) -- DIR/a");
    assert_eq!(sql(&files("b"), &d), "SELECT content FROM read_text([]) -- DIR/b");
}

#[test]
fn settings_have_defaults_and_refuse_what_they_do_not_know() {
    use serde::Deserialize;
    use serde::de::value::{Error, MapDeserializer};
    let from = |pairs: Vec<(&'static str, &'static str)>| {
        CsvFormat::deserialize(MapDeserializer::<_, Error>::new(pairs.into_iter()))
    };
    assert_eq!(from(vec![]).unwrap(), CsvFormat::default());
    assert!(from(vec![("delimeter", ";")]).is_err());
}

#[test]
fn new_files_reads_only_what_is_new() {
    let d = dir(&["in/a.csv", "in/b.csv", "in/c.csv"]);
    let files = Csv::glob(d.path().join("in/*.csv")).filename_relative_to(d.path().join("in"));
    let new = |names: &[&str]| {
        let loaded: BTreeSet<String> = names.iter().map(|n| (*n).to_owned()).collect();
        sql(&NewFiles::of(files.clone(), Arc::new(loaded)), &d)
    };
    assert!(
        new(&["a.csv", "gone.csv"]).contains("read_csv([{filename: 'DIR/in/b.csv'}, {filename: 'DIR/in/c.csv'}], ")
    );
    let nothing = new(&["a.csv", "b.csv", "c.csv"]);
    assert!(
        nothing.contains("read_csv([{filename: 'DIR/in/c.csv'}], ") && nothing.ends_with(") WHERE false"),
        "{nothing}"
    );
    fs::write(d.path().join("in/d.csv"), "").unwrap();
    assert_eq!(new(&["a.csv", "b.csv", "c.csv"]), nothing, "an upload that has just begun is left for later");
    fs::remove_file(d.path().join("in/d.csv")).unwrap();
    let e = new(&["in/a.csv"]);
    assert!(e.contains("a.csv looks new, but in/a.csv was loaded"), "{e}");
    let single = NewFiles::of(Csv::file(d.path().join("in/a.csv")), Arc::new(BTreeSet::new()));
    assert!(sql(&single, &d).contains("use with_filename"));
}

#[test]
fn asking_a_table_fences_the_append_and_its_failure_is_the_runs() {
    #[derive(Debug)]
    struct Truncated;
    #[async_trait]
    impl LoadedFiles for Truncated {
        async fn loaded(&self, _: &SourceContext<'_>, _: &str) -> Result<BTreeSet<String>> {
            Err(Error::new(ErrorKind::NotFound, "the history begins at version 7"))
        }
    }
    let d = dir(&["a.csv"]);
    let source = NewFiles::of(Csv::folder(d.path()), Arc::new(Truncated));
    assert_eq!(sql(&source, &d), "not found: the history begins at version 7");
    let (runtime, run) = (tokio::runtime::Builder::new_current_thread().build().unwrap(), cx());
    let fenced =
        |source: NewFiles<CsvFormat>| runtime.block_on(source.resolve(&SourceContext::new(&run))).unwrap().reads_target;
    assert!(!fenced(NewFiles::of(Csv::folder(d.path()), Arc::new(BTreeSet::new()))));
    assert!(fenced(NewFiles::by_history(Csv::folder(d.path()))), "also where there is no table yet");
}

#[test]
fn a_cancelled_run_resolves_nothing() {
    let d = dir(&["a.csv"]);
    let cx = cx();
    cx.cancellation().cancel();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let e = runtime.block_on(Csv::folder(d.path()).resolve(&SourceContext::new(&cx))).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Cancelled);
}
