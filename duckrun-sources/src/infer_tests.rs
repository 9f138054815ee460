//! Inference against a table of expectations that was written by hand, from BEHAVIOUR's list and not from the code.

use proptest::prelude::*;

use super::*;
use crate::TableFolder;

/// What a name that ends so is: a format and its compression, or nothing.
const EXPECTED: &[(&str, Option<(&str, Compression)>)] = &[
    (".csv", Some(("csv", Compression::None))),
    (".CSV", Some(("csv", Compression::None))),
    (".csv.gz", Some(("csv", Compression::Gzip))),
    (".csv.zst", Some(("csv", Compression::Zstd))),
    (".Csv.GZ", Some(("csv", Compression::Gzip))),
    (".2013.csv", Some(("csv", Compression::None))),
    (".tsv", Some(("tsv", Compression::None))),
    (".tsv.gz", Some(("tsv", Compression::Gzip))),
    (".parquet", Some(("parquet", Compression::None))),
    (".snappy.parquet", Some(("parquet", Compression::None))),
    (".pq", Some(("parquet", Compression::None))),
    (".json", Some(("json", Compression::None))),
    (".ndjson", Some(("json", Compression::None))),
    (".jsonl.zst", Some(("json", Compression::Zstd))),
    (".json.gz", Some(("json", Compression::Gzip))),
    (".arrow", Some(("arrow", Compression::None))),
    (".feather", Some(("arrow", Compression::None))),
    (".parquet.gz", None),
    (".arrow.zst", None),
    (".csv.bz2", None),
    (".csv.gz.gz", None),
    (".csv.tmp", None),
    (".csv~", None),
    (".", None),
    (".gz", None),
    ("", None),
    (".xlsx", None),
    ("csv", None),
];

fn one(path: &str) -> Result<Inferred> {
    infer(&Registry::default(), &Listing::new(Shape::File, path).with_files([path]))
}

fn message(listing: &Listing) -> String {
    infer(&Registry::default(), listing).unwrap_err().to_string()
}

#[test]
fn mixtures_are_refused_with_an_example_of_each() {
    let listing = Listing::new(Shape::Folder, "in").with_files(["in/a.csv", "in/b.csv", "in/c.parquet"]);
    let m = message(&listing);
    assert!(
        m.contains("in mixes formats: 2 files of csv (such as in/a.csv), 1 file of parquet (such as in/c.parquet)"),
        "{m}"
    );
    let m = message(&Listing::new(Shape::Glob, "in/*").with_files(["in/a.csv", "in/README"]));
    assert!(m.contains("the format of in/README is unknown"), "{m}");
}

#[test]
fn a_foreign_compression_is_never_left_out_silently() {
    let m = message(&Listing::new(Shape::Folder, "in").with_files(["in/a.csv", "in/b.csv.bz2"]));
    assert!(m.contains("in/b.csv.bz2: a csv file compressed as .bz2"), "{m}");
    let m = message(&Listing::new(Shape::Folder, "in").with_files(["in/a.parquet", "in/b.parquet.gz"]));
    assert!(m.contains("in/b.parquet.gz: parquet files cannot be read through gzip"), "{m}");
}

#[test]
fn tables_are_tables_and_never_files() {
    let table = |path: &str| TableFolder::new(path, "delta", "_delta_log");
    let whole = infer(&Registry::default(), &Listing::new(Shape::Folder, "t").with_table(table("t"))).unwrap();
    assert_eq!((whole.format.as_str(), whole.why.as_str()), ("delta", "_delta_log was found in the folder"));
    let nested = Listing::new(Shape::Folder, "lake").with_files(["lake/a.parquet"]).with_table(table("lake/t"));
    assert!(message(&nested).contains("lake/t is a delta table"), "{}", message(&nested));
    let glob = Listing::new(Shape::Glob, "t/*.parquet").with_files(["t/a.parquet"]).with_table(table("t"));
    assert!(message(&glob).contains("the glob t/*.parquet names its data files"), "{}", message(&glob));
    let raw = infer(&Registry::default().forced("parquet"), &glob).unwrap();
    assert_eq!(raw.files.len(), 1, "a forced format takes a glob at its word");
    assert!(infer(&Registry::default().forced("parquet"), &nested).is_err(), "but not a folder");
}

#[test]
fn what_is_unknown_lists_what_was_found_and_what_is_known() {
    let m = message(&Listing::new(Shape::Folder, "in").with_files(["in/a.xlsx", "in/b.txt"]));
    assert!(m.contains("found 2 files (in/a.xlsx, in/b.txt); known are .arrow, .csv, .feather"), "{m}");
    assert!(
        message(&Listing::new(Shape::File, "a.xlsx").with_files(["a.xlsx"]))
            .contains("the format of a.xlsx is unknown")
    );
    assert!(message(&Listing::new(Shape::Folder, "in")).contains("in has no files"));
    let e = infer(&Registry::default().forced("cvs"), &Listing::new(Shape::File, "a").with_files(["a"])).unwrap_err();
    assert!(e.message().contains("no format is called \"cvs\": use one of arrow, csv, delta"), "{e}");
}

#[test]
fn a_forced_format_takes_its_own_files_of_a_folder() {
    let listing =
        Listing::new(Shape::Folder, "in").with_files(["in/a.csv", "in/b.csv.gz", "in/c.parquet", "in/d.csv.bz2"]);
    let inferred = infer(&Registry::default().forced("csv"), &listing).unwrap();
    assert_eq!(inferred.files.iter().map(|f| f.path.as_str()).collect::<Vec<_>>(), ["in/a.csv", "in/b.csv.gz"]);
    assert_eq!(inferred.ignored, ["in/c.parquet", "in/d.csv.bz2"]);
    assert_eq!(inferred.compression, None, "they differ");
    let none = Listing::new(Shape::Folder, "in").with_files(["in/a.txt"]);
    let e = infer(&Registry::default().forced("csv"), &none).unwrap_err();
    assert!(
        e.message().contains("no file that ends in .csv: found 1 file (in/a.txt); name the files with a glob"),
        "{e}"
    );
}

fn ending() -> impl Strategy<Value = &'static (&'static str, Option<(&'static str, Compression)>)> {
    prop::sample::select(EXPECTED.iter().collect::<Vec<_>>())
}

proptest! {
    #[test]
    fn one_file_agrees_with_the_table(folder in "([a-zé .=%]{1,6}/){0,3}", stem in "[a-zA-Z0-9_é\\[\\]*' ]{1,10}", ending in ending()) {
        let (suffix, expected) = ending;
        let inferred = one(&format!("{folder}{stem}{suffix}"));
        match expected {
            Some((format, compression)) => {
                let inferred = inferred.unwrap();
                prop_assert_eq!(&inferred.format, format);
                prop_assert_eq!(inferred.compression, Some(*compression));
            }
            None => prop_assert!(inferred.is_err(), "{:?}", inferred),
        }
    }

    /// The rule for folders, said again in other words: one known format wins over files of none; two are refused; what is
    /// a known format in a compression that nobody undoes is refused.
    #[test]
    fn a_folder_agrees_with_the_table(endings in prop::collection::vec(ending(), 0..5)) {
        let paths: Vec<String> = endings.iter().enumerate().map(|(i, (suffix, _))| format!("in/f{i}{suffix}")).collect();
        let formats: BTreeSet<&str> = endings.iter().filter_map(|(_, e)| e.map(|(f, _)| f)).collect();
        let barred = endings.iter().any(|(s, _)| [".parquet.gz", ".arrow.zst", ".csv.bz2"].contains(s));
        let inferred = infer(&Registry::default(), &Listing::new(Shape::Folder, "in").with_files(paths.clone()));
        if formats.len() == 1 && !barred {
            let inferred = inferred.unwrap();
            prop_assert!(formats.contains(inferred.format.as_str()));
            prop_assert_eq!(inferred.files.len(), endings.iter().filter(|(_, e)| e.is_some()).count());
            prop_assert_eq!(inferred.files.len() + inferred.ignored.len(), paths.len());
        } else {
            prop_assert!(inferred.is_err(), "{:?}", inferred);
        }
    }

    #[test]
    fn inference_is_total_and_deterministic(
        shape in prop::sample::select(vec![Shape::File, Shape::Folder, Shape::Glob, Shape::List]),
        mut paths in prop::collection::vec("(?s).{0,20}(\\.(csv|pq|gz|json))?", 0..6),
        table in prop::option::of(prop::sample::select(vec!["", "in", "in/t"])),
        forced in prop::option::of(prop::sample::select(vec!["csv", "parquet", "delta", "iceberg", "no such"])),
    ) {
        let registry = forced.map_or_else(Registry::default, |f| Registry::default().forced(f));
        let listing = |paths: &[String]| {
            let listing = Listing::new(shape, "in").with_files(paths.to_vec());
            table.map_or(listing.clone(), |t| listing.with_table(TableFolder::new(t, "delta", "_delta_log")))
        };
        let first = infer(&registry, &listing(&paths)).map_err(|e| e.to_string());
        paths.reverse();
        let second = infer(&registry, &listing(&paths)).map_err(|e| e.to_string());
        prop_assert_eq!(&first, &second, "the order of the listing does not matter");
        if let Err(message) = first {
            prop_assert!(message.len() > 20, "an error says something: {}", message);
        }
    }
}
