//! JSON through DuckDB's `read_json`: objects line by line, or one array of them.

use async_trait::async_trait;
use duckrun_core::{Error, Resolved, Result};
use serde::{Deserialize, Serialize};

use super::nonempty;
use crate::{CallOptions, Compression, Format, Scan};

/// How the objects lie in a file.
#[non_exhaustive]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JsonLayout {
    /// Lines where every file ends in `.ndjson` or `.jsonl`, otherwise whatever the files turn out to have.
    #[default]
    Auto,
    /// One object per line.
    Lines,
    /// One array of objects.
    Array,
}

/// The options of JSON. Left out, DuckDB infers the schema from the first files.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct JsonFormat {
    /// How the objects lie in a file.
    pub layout: JsonLayout,
    /// The whole schema: names and SQL types. Fields that are not named are not read.
    pub columns: Vec<(String, String)>,
    /// Objects to infer the schema from.
    pub sample_rows: Option<u64>,
    /// How deep to infer nested types; deeper values stay JSON text.
    pub max_depth: Option<u64>,
    /// The largest object, in bytes (DuckDB's default is 16 MB).
    pub max_object_bytes: Option<u64>,
    /// The format of dates.
    pub date_format: Option<String>,
    /// The format of timestamps.
    pub timestamp_format: Option<String>,
    /// How the files are compressed, where their suffix (`.gz`, `.zst`) does not say so.
    pub compression: Option<Compression>,
}

impl JsonFormat {
    fn layout(&self, scan: &Scan<'_>) -> &'static str {
        let lines = |path: &str| {
            let path = path.to_ascii_lowercase();
            let path = path.strip_suffix(".gz").or(path.strip_suffix(".zst")).unwrap_or(&path);
            path.ends_with(".ndjson") || path.ends_with(".jsonl")
        };
        match self.layout {
            JsonLayout::Lines => "newline_delimited",
            JsonLayout::Array => "array",
            JsonLayout::Auto if scan.files.iter().all(|f| lines(&f.path)) => "newline_delimited",
            JsonLayout::Auto => "auto",
        }
    }
}

#[async_trait]
impl Format for JsonFormat {
    fn name(&self) -> &str {
        "json"
    }

    fn extensions(&self) -> Vec<&str> {
        vec!["json", "ndjson", "jsonl"]
    }

    fn decompresses(&self) -> &[Compression] {
        &[Compression::Gzip, Compression::Zstd]
    }

    async fn relation(&self, scan: &Scan<'_>) -> Result<Resolved> {
        if !self.columns.is_empty() && (self.sample_rows.is_some() || self.max_depth.is_some()) {
            return Err(Error::invalid(
                "sample_rows and max_depth steer the inference of a schema, but the columns are set: set one or the other",
            )
            .with_operation("reading JSON options"));
        }
        let options = CallOptions::new()
            .text("format", Some(self.layout(scan)))
            .map("columns", &self.columns)
            .number("sample_size", self.sample_rows)
            .number("maximum_depth", self.max_depth)
            .number("maximum_object_size", self.max_object_bytes)
            .text("dateformat", self.date_format.as_deref())
            .text("timestampformat", self.timestamp_format.as_deref())
            .text("compression", self.compression.map(Compression::as_str));
        let files = nonempty(scan, !self.columns.is_empty())?;
        Ok(Scan { files: &files, ..scan.clone() }.select("read_json", options))
    }
}
