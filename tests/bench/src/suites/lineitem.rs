//! Delta tables of `lineitem` that are made before anything is measured: the tables, incoming rows, fresh copies; and the
//! check of what was left behind.
//!
//! Tables and incoming rows are kept between runs of the benchmark, under names that say what they hold; what has its final
//! name is complete. Delete the folder to have them made again by the current code.

use std::fs;
use std::path::{Path, PathBuf};

use duckdb::Connection;
use duckrun::{Append, FileOptions, Overwrite, Session};

use super::shared::{quoted, utf8};
use crate::child::Codec;
use crate::{Result, data, written};

/// The table's name in its session.
pub(super) const TABLE: &str = "bench.lineitem";

/// The columns in types that no library changes without anybody noticing: rows are compared by a hash of these.
const FINGERPRINT: &str = "l_orderkey::bigint, l_partkey::bigint, l_suppkey::bigint, l_linenumber::integer, \
    l_quantity::decimal(15, 2), l_extendedprice::decimal(15, 2), l_discount::decimal(15, 2), l_tax::decimal(15, 2), \
    l_returnflag::varchar, l_linestatus::varchar, l_shipdate::date, l_commitdate::date, l_receiptdate::date, \
    l_shipinstruct::varchar, l_shipmode::varchar, l_comment::varchar";

/// A table that cases start from.
#[derive(Debug)]
pub(super) struct Table {
    /// The folder below which it is.
    root: PathBuf,
    /// The data files.
    files: Vec<PathBuf>,
}

/// Rows, whatever their order: how many, and a sum of hashes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Rows {
    pub(super) count: u64,
    sum: String,
}

/// The folder of the table below a root.
pub(super) fn folder(root: &Path) -> PathBuf {
    root.join(TABLE.replace('.', "/"))
}

impl Table {
    /// The table of this many rows in this many files, which split the order keys between them.
    pub(super) fn open(dir: &Path, rows: u64, files: u64, codec: Codec) -> Result<Self> {
        let root = dir.join(format!("lineitem-{rows}-{files}-{}", codec.name()));
        if !root.is_dir() {
            let input = data::lineitem(dir, rows)?;
            eprintln!("making {} (once)", root.display());
            let partial = dir.join(format!("lineitem-{rows}.{}.partial", std::process::id()));
            let made = make(&partial, &input, files, codec).and_then(|()| Ok(fs::rename(&partial, &root)?));
            if made.is_err() {
                // Best effort: the error that matters is the first one.
                let _ = fs::remove_dir_all(&partial);
            }
            made?;
        }
        let table = Self { files: written::live_files(&folder(&root))?, root };
        match table.files.len() as u64 {
            n if n == files => Ok(table),
            n => Err(format!("{} has {n} files instead of {files}", table.root.display()).into()),
        }
    }

    /// A copy whose data files are links to the originals: nobody writes into a data file.
    pub(super) fn copy_to(&self, root: &Path) -> Result<()> {
        if root.exists() {
            fs::remove_dir_all(root)?;
        }
        copy_tree(&self.root, root)
    }

    /// Rows that come in, computed from the view `lineitem`, as a parquet file that is kept under a name.
    pub(super) fn source(&self, name: &str, sql: &str) -> Result<PathBuf> {
        let path = self.root.with_extension(format!("{name}.parquet"));
        if !path.is_file() {
            let partial = path.with_extension(format!("{}.partial", std::process::id()));
            let target = quoted(&partial)?;
            self.sql(None)?.execute_batch(&format!("copy ({sql}) to {target} (format parquet, compression snappy)"))?;
            fs::rename(&partial, &path)?;
        }
        Ok(path)
    }

    /// The rows of a query over the views `lineitem` and `source`.
    pub(super) fn rows(&self, source: Option<&Path>, sql: &str) -> Result<Rows> {
        rows(&self.sql(source)?, sql)
    }

    /// The data files.
    pub(super) fn files(&self) -> &[PathBuf] {
        &self.files
    }

    /// A DuckDB with the views `lineitem`, `lineitem_files` (the same with a column `filename`) and `source`.
    pub(super) fn sql(&self, source: Option<&Path>) -> Result<Connection> {
        let db = Connection::open_in_memory()?;
        let files = list(&self.files)?;
        db.execute_batch(&format!(
            "set preserve_insertion_order = false; create view lineitem as select * from read_parquet({files}); \
             create view lineitem_files as select * from read_parquet({files}, filename = true)"
        ))?;
        if let Some(source) = source {
            db.execute_batch(&format!("create view source as select * from read_parquet({})", quoted(source)?))?;
        }
        Ok(db)
    }
}

/// What the table below a root holds now, as any reader of its log sees it.
pub(super) fn found(root: &Path) -> Result<Rows> {
    let files = list(&written::live_files(&folder(root))?)?;
    rows(&Connection::open_in_memory()?, &format!("select * from read_parquet({files})"))
}

/// The rows of one parquet file.
pub(super) fn of_file(file: &Path) -> Result<Rows> {
    rows(&Connection::open_in_memory()?, &format!("select * from read_parquet({})", quoted(file)?))
}

fn rows(db: &Connection, sql: &str) -> Result<Rows> {
    let counted = format!("select count(*), coalesce(sum(hash({FINGERPRINT})::hugeint), 0)::varchar from ({sql})");
    Ok(db.query_row(&counted, [], |row| Ok(Rows { count: row.get(0)?, sum: row.get(1)? }))?)
}

/// The files as DuckDB's list of names.
pub(super) fn list(files: &[PathBuf]) -> Result<String> {
    let names = files.iter().map(|file| quoted(file)).collect::<Result<Vec<_>>>()?;
    Ok(format!("[{}]", names.join(", ")))
}

/// Writes the table: one commit per file, files as long as it takes.
fn make(root: &Path, input: &Path, files: u64, codec: Codec) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        // Many small files are wanted here.
        let session = Session::open(root).maintenance(false).writable().await?;
        let input = utf8(input)?.replace('\'', "''");
        for i in 0..files {
            let options =
                FileOptions { compression: codec.compression(), target_file_size: 1 << 40, ..FileOptions::default() };
            let part = format!(
                "select * from read_parquet('{input}') where l_orderkey * {files} // \
                 (select max(l_orderkey) + 1 from read_parquet('{input}')) = {i}"
            );
            let model = session.model(TABLE).sql(part).files(options);
            let model = if i == 0 { model.strategy(Overwrite::default()) } else { model.strategy(Append::default()) };
            model.run().await?.committed().map(drop)?;
        }
        Ok(())
    })
}

/// Copies a folder; parquet files are linked where the file system can.
fn copy_tree(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let source = entry?.path();
        let target = to.join(source.file_name().unwrap_or_default());
        let link = source.extension().is_some_and(|e| e == "parquet") && !from.ends_with("_delta_log");
        if source.is_dir() {
            copy_tree(&source, &target)?;
        } else if !link || fs::hard_link(&source, &target).is_err() {
            fs::copy(&source, &target)?;
        }
    }
    Ok(())
}
