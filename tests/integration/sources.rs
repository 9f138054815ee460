//! Sources from end to end: what a run reads of files, tables and changes, and what it says of bad ones.

mod bad_files;
mod changes;
mod formats;
mod iceberg;
mod new_files;
mod remote;

use std::fs;
use std::path::{Path, PathBuf};

use duckrun::{Error, Overwrite, Source};

use crate::support::Lake;

/// A file below the lake's root, its folders made.
fn file(lake: &Lake, path: &str, content: impl AsRef<[u8]>) -> PathBuf {
    let path = lake.root().join(path);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, content).unwrap();
    path
}

/// The rows of a query over a source called `s`, through a table that it is written to.
async fn rows_of(lake: &Lake, source: impl Source + 'static, sql: &str) -> Vec<String> {
    match read(lake, source, sql).await {
        Ok(rows) => rows,
        Err(e) => panic!("{e:?}"),
    }
}

/// The same, where it may fail.
async fn read(lake: &Lake, source: impl Source + 'static, sql: &str) -> Result<Vec<String>, Error> {
    let model = lake.session.model("out.t").source("s", source).sql(sql).strategy(Overwrite::default());
    model.run().await?.committed().map(drop)?;
    let mut rows = lake.rows("select * from out.t").await;
    rows.sort();
    Ok(rows)
}

/// The error of a source, with the lake's root called ROOT.
async fn error_of(lake: &Lake, source: impl Source + 'static) -> String {
    let e = read(lake, source, "select * from s").await.unwrap_err();
    e.to_string().replace(&path(lake.root()), "ROOT")
}

fn path(path: &Path) -> String {
    path.to_str().unwrap().to_owned()
}
