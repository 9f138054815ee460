//! Listings of real folders: what is found, in which order, and what the refusals say.

use super::*;

struct Dir(tempfile::TempDir);

impl Dir {
    fn of(files: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        for file in files {
            let path = dir.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "x\n1\n").unwrap();
        }
        Self(dir)
    }

    fn at(&self, path: &str) -> PathBuf {
        if path.is_empty() { self.0.path().to_owned() } else { self.0.path().join(path) }
    }

    fn list(&self, location: &Location) -> Result<Listing> {
        let markers = crate::Registry::default().markers();
        Walk { markers: &markers, root: None, check: &|| Ok(()) }.list(location)
    }

    fn names(&self, location: &Location) -> Vec<String> {
        let listing = self.list(location).unwrap();
        let base = format!("{}/", self.0.path().display());
        listing.files.iter().map(|f| f.path.strip_prefix(&base).unwrap().to_owned()).collect()
    }

    fn error(&self, location: &Location) -> String {
        self.list(location).unwrap_err().to_string().replace(&self.0.path().display().to_string(), "DIR")
    }
}

#[test]
fn a_folder_is_listed_deeply_sorted_and_without_hidden_names() {
    let dir = Dir::of(&["b.csv", "a/z.csv", "a/_tmp/x.csv", ".hidden.csv", "_SUCCESS", "a/.part.csv", "a=1/y.csv"]);
    assert_eq!(dir.names(&Location::Folder(dir.at(""))), ["a/z.csv", "a=1/y.csv", "b.csv"]);
    assert_eq!(dir.names(&Location::At(dir.at(""))), ["a/z.csv", "a=1/y.csv", "b.csv"]);
}

#[test]
fn a_glob_matches_files_and_leaves_hidden_ones_out_unless_spelled() {
    let dir = Dir::of(&["a.csv", "_b.csv", ".c.csv", "sub/d.csv", "sub/_e/f.csv", "g.csv/h.txt", "[1].csv", "1.csv"]);
    assert_eq!(dir.names(&Location::Glob(dir.at("*.csv"))), ["1.csv", "[1].csv", "a.csv"]);
    assert_eq!(dir.names(&Location::Glob(dir.at("**/*.csv"))), ["1.csv", "[1].csv", "a.csv", "sub/d.csv"]);
    assert_eq!(dir.names(&Location::Glob(dir.at("_*.csv"))), ["_b.csv"]);
    assert_eq!(dir.names(&Location::Glob(dir.at("[1].csv"))), ["1.csv"], "a glob is a glob");
    assert_eq!(dir.names(&Location::At(dir.at("[1].csv"))), ["[1].csv"], "what exists is meant as it is");
    assert_eq!(dir.names(&Location::File(dir.at("[1].csv"))), ["[1].csv"]);
}

#[test]
fn an_empty_match_names_the_glob_and_what_is_there() {
    let dir = Dir::of(&["in/a.txt", "in/b.txt", "in/x/c.csv"]);
    assert_eq!(
        dir.error(&Location::Glob(dir.at("in/*.csv"))),
        "not found: the glob \"DIR/in/*.csv\" matches no file: DIR/in has 2 files (a.txt, b.txt) and 1 folder"
    );
    assert_eq!(
        dir.error(&Location::At(dir.at("on/*.csv"))),
        "not found: the glob \"DIR/on/*.csv\" matches no file: DIR/on does not exist; DIR has only folders: in/"
    );
    assert!(dir.error(&Location::Glob(dir.at("in/x*"))).contains("matches 1 folder, but no file"));
    assert!(dir.error(&Location::Glob(dir.at("in/[.csv"))).contains("is not a glob"));
    fs::create_dir(dir.at("empty")).unwrap();
    assert_eq!(
        dir.error(&Location::Folder(dir.at("empty"))),
        "not found: the folder DIR/empty holds no files to read: DIR/empty is empty"
    );
    assert_eq!(
        dir.error(&Location::At(dir.at("in/c.csv"))),
        "not found: DIR/in/c.csv does not exist: DIR/in has 2 files (a.txt, b.txt) and 1 folder"
    );
}

#[test]
fn a_location_must_be_what_it_was_called() {
    let dir = Dir::of(&["a.csv", "b.csv"]);
    assert!(dir.error(&Location::File(dir.at(""))).contains("is a folder, not a file"));
    assert!(dir.error(&Location::Folder(dir.at("a.csv"))).contains("is a file, not a folder"));
    assert!(dir.error(&Location::List(vec![])).contains("the list of files is empty"));
    assert!(dir.error(&Location::List(vec![dir.at("a.csv"), dir.at("a.csv")])).contains("in the list twice"));
    assert!(dir.error(&Location::File(dir.at("a.csv/x"))).contains("a.csv"));
    assert_eq!(dir.names(&Location::List(vec![dir.at("b.csv"), dir.at("a.csv")])), ["a.csv", "b.csv"]);
}

#[test]
fn table_folders_are_found_and_not_entered() {
    let dir = Dir::of(&[
        "lake/t/_delta_log/0.json",
        "lake/t/a.parquet",
        "ice/metadata/v1.metadata.json",
        "ice/data/a.parquet",
        "plain/metadata/x.csv",
        "lake/b.parquet",
    ]);
    let found = |path: &str| {
        let listing = dir.list(&Location::At(dir.at(path))).unwrap();
        let tables: Vec<String> = listing.tables.iter().map(|t| format!("{} {}", t.format, t.marker)).collect();
        (tables, listing.files.len())
    };
    assert_eq!(found("lake/t"), (vec!["delta _delta_log".to_owned()], 0));
    assert_eq!(found("lake"), (vec!["delta _delta_log".to_owned()], 1));
    assert_eq!(found("ice"), (vec!["iceberg metadata/*.metadata.json".to_owned()], 0));
    assert_eq!(found("plain"), (vec![], 1));
    assert_eq!(found("lake/t/*.parquet"), (vec!["delta _delta_log".to_owned()], 1));
}

#[test]
fn a_cancelled_run_stops_listing() {
    let dir = Dir::of(&["a.csv"]);
    let walk = Walk { markers: &[], root: None, check: &|| Err(Error::cancelled()) };
    for location in [Location::Folder(dir.at("")), Location::Glob(dir.at("*")), Location::List(vec![dir.at("a.csv")])] {
        assert_eq!(walk.list(&location).unwrap_err().kind(), ErrorKind::Cancelled, "{location}");
    }
}

#[cfg(unix)]
mod unix {
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn links_are_followed_but_never_in_circles() {
        let dir = Dir::of(&["in/a.csv", "other/b.csv"]);
        symlink(dir.at("other"), dir.at("in/link")).unwrap();
        assert_eq!(dir.names(&Location::Folder(dir.at("in"))), ["in/a.csv", "in/link/b.csv"]);
        symlink(dir.at("in"), dir.at("other/back")).unwrap();
        assert!(dir.error(&Location::Folder(dir.at("in"))).contains("the link DIR/in/link/back leads to"));
        fs::remove_file(dir.at("other/back")).unwrap();
        symlink(dir.at("nowhere"), dir.at("in/broken.csv")).unwrap();
        assert!(dir.error(&Location::Folder(dir.at("in"))).contains("is a link to something that does not exist"));
    }

    #[test]
    fn a_link_does_not_lead_out_of_a_root() {
        let dir = Dir::of(&["root/a.csv", "secret/b.csv"]);
        let root = dir.at("root");
        let walk = Walk { markers: &[], root: Some(&root), check: &|| Ok(()) };
        assert_eq!(walk.list(&Location::Folder(root.clone())).unwrap().files.len(), 1);
        symlink(dir.at("secret/b.csv"), dir.at("root/c.csv")).unwrap();
        for location in
            [Location::Folder(root.clone()), Location::Glob(root.join("*")), Location::File(root.join("c.csv"))]
        {
            let e = walk.list(&location).unwrap_err();
            assert!(e.message().contains("c.csv is outside of the root"), "{e}");
        }
    }

    #[test]
    fn a_name_that_is_not_text_is_refused_by_name() {
        let dir = Dir::of(&["a.csv"]);
        fs::write(dir.0.path().join(std::ffi::OsStr::from_bytes(b"b\xff.csv")), "x\n").unwrap();
        assert!(dir.error(&Location::Folder(dir.at(""))).contains("is not valid UTF-8"));
    }

    #[test]
    fn names_that_duckdb_would_take_for_something_else_get_their_folder() {
        let metadata = fs::metadata("Cargo.toml").unwrap();
        for (name, path) in [("~x.csv", "./~x.csv"), ("-", "./-"), ("s3:/x.csv", "./s3:/x.csv"), ("a/~b:c", "a/~b:c")] {
            assert_eq!(file_of(Path::new(name), &metadata).unwrap().path, path);
        }
    }
}
