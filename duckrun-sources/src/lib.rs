//! Source files with inferred formats as relations of an engine.
//!
//! A [`FileSource`] names files by a [`Location`] (a file, a folder, a glob, a list) and a [`Format`], or lets the format
//! be inferred ([`Files`]). When a run starts it is resolved: the files are listed once, sorted and pinned, [`infer()`]
//! says what they are and why, and the format renders a relation that the engine reads lazily, with projections and
//! filters pushed down by DuckDB's own readers.
//!
//! ```
//! use duckrun_sources::{Csv, Files, Parquet};
//!
//! let landing = Csv::glob("landing/*.csv").delimiter(";").null_strings(["NA"]).column_type("day", "DATE");
//! let history = Parquet::folder("history");               // year=2013/month=1/*.parquet: partitions become columns
//! let whatever = Files::at("drop").root("/srv/incoming"); // format inferred, confined to a root
//! # let _ = (landing, history, whatever);
//! ```
//!
//! Invariants:
//! - the list of files is fixed when the source is resolved: a file that arrives later is a later run's, and an engine
//!   never expands a glob by itself (DuckDB is given the exact form `[{filename: '...'}]`, where `[` and `*` are letters);
//! - [`infer()`] is pure and total: equal listings give equal answers, and every refusal names a file and the way out;
//! - nothing that a user or a file system named reaches SQL unquoted.
//!
//! # The `filename` column
//! A source of many files (a glob, a folder, a list) has a column `filename`, so that `select *` stores where each row
//! came from and the next run can tell what is new; a source of one file has none. [`FileSource::with_filename`],
//! [`FileSource::filename_as`] and [`FileSource::without_filename`] say otherwise. Its value is the path **as listed**:
//! `Csv::glob("landing/*.csv")` gives `landing/a.csv`, an absolute glob gives absolute paths. A table that several
//! machines or working directories load into should use [`FileSource::filename_relative_to`], which is the same
//! everywhere.
//!
//! # What is read how
//! CSV, JSON and parquet are read by DuckDB, lazily, with projections and filters pushed down. A folder that is a Delta table is
//! opened by the run ([`Delta`] for other versions), one with Iceberg metadata by this crate ([`Iceberg`]): both become an
//! exact list of parquet files, as lazy as parquet. [`ArrowIpc`] is decoded here and materialised by the engine, because
//! DuckDB has no reader of its own.
//!
//! # Object stores
//! `Csv::glob("s3://bucket/landing/*.csv")` lists through `object_store` and is read by DuckDB's own readers over it, without an
//! extension: parquet by the column chunks that it needs, CSV and JSON once from front to back. An [`Iceberg`] table's metadata and
//! manifests are read through `object_store` too, and of its data files what parquet needs. The run
//! opens the store with the session's options; [`FileSource::storage_options`] adds to them, [`FileSource::store`] takes a store
//! that the embedder made. A file is read as it was listed: one that was replaced since is an error (`If-Match`), and DuckDB
//! can open no other object than those that were listed.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod builders;
mod format;
pub mod formats;
pub mod hive;
mod infer;
mod listing;
mod location;
mod new_files;
mod object_reader;
mod options;
mod place;
mod source;
mod sql;
mod stores;
mod walk;

pub use format::{Compression, Format, Registry, Scan};
pub use formats::{ArrowFormat, CsvFormat, Delta, Iceberg, IcebergFormat, JsonFormat, ParquetFormat};
pub use infer::{Inferred, infer};
pub use listing::{ListedFile, Listing, Shape, TableFolder};
pub use location::Location;
pub use new_files::{ByColumn, ByHistory, LoadedFiles, NewFiles, new_files};
pub use options::{FilenameColumn, HivePartitions, ScanOptions};
pub use source::{ArrowIpc, Choose, Csv, FileSource, Files, Inspected, Json, Parquet};
pub use sql::CallOptions;
