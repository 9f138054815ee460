//! What every format can be told about a scan: plain settings that serialise.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// Options that are the same for every format of files.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ScanOptions {
    /// Whether columns of different files are matched by name (the result has all of them, missing ones are NULL) instead
    /// of by position (CSV) or by the first file's schema.
    pub union_by_name: bool,
    /// The column that holds each row's file. By default `filename`, for everything but a single file.
    pub filename: FilenameColumn,
    /// Make the file's name relative to this folder, with `/` between folders.
    pub filename_relative_to: Option<PathBuf>,
    /// Whether folders named `key=value` become columns.
    pub hive: HivePartitions,
    /// Types of partition columns, by name; the others are guessed from the values (dates, timestamps and integers, or
    /// text).
    pub hive_types: Vec<(String, String)>,
}

/// Whether and under what name a source has a column with the file of each row.
#[non_exhaustive]
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FilenameColumn {
    /// `filename` where the location can mean several files (a glob, a folder, a list), none for a single file.
    #[default]
    Auto,
    /// A column of this name.
    Named(String),
    /// No column.
    Off,
}

/// Whether folders named `key=value` become columns.
#[non_exhaustive]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HivePartitions {
    /// Yes where every file's path has the same keys; where only some have them the source is refused.
    #[default]
    Auto,
    /// Yes; files with different keys are refused.
    On,
    /// No, the folders are only folders.
    Off,
}
