//! CSV and TSV through DuckDB's `read_csv`. What is not set is sniffed from the first files.

use async_trait::async_trait;
use duckrun_core::{Error, Resolved, Result};
use serde::{Deserialize, Serialize};

use super::nonempty;
use crate::{CallOptions, Compression, Format, Scan};

/// The options of CSV. Left out, DuckDB sniffs delimiter, quote, header and types.
///
/// Sniffed types follow the data: a column that held integers yesterday may be text today. A job that runs every day
/// states its types ([`types`](Self::types)) or its whole schema ([`columns`](Self::columns)).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CsvFormat {
    /// `csv`, or `tsv` for [`CsvFormat::tsv`].
    pub name: String,
    /// Between values; up to four bytes.
    pub delimiter: Option<String>,
    /// Whether the first line holds the names.
    pub header: Option<bool>,
    /// Around values that hold the delimiter; empty for none.
    pub quote: Option<String>,
    /// Before a quote within quotes.
    pub escape: Option<String>,
    /// What starts a line that is skipped.
    pub comment: Option<String>,
    /// Texts that mean NULL.
    pub null_strings: Vec<String>,
    /// The whole schema, in order: names and SQL types.
    pub columns: Vec<(String, String)>,
    /// SQL types of some columns, by name.
    pub types: Vec<(String, String)>,
    /// Read every column as text.
    pub all_text: bool,
    /// Lines to skip at the beginning.
    pub skip: Option<u64>,
    /// Rows to sniff.
    pub sample_rows: Option<u64>,
    /// The format of dates, for example `%d.%m.%Y`.
    pub date_format: Option<String>,
    /// The format of timestamps.
    pub timestamp_format: Option<String>,
    /// What separates decimals, for example `,`.
    pub decimal_separator: Option<String>,
    /// The longest line, in bytes (DuckDB's default is 2 MB).
    pub max_line_bytes: Option<u64>,
    /// Whether rows that are too short are filled with NULL instead of refused.
    pub pad_short_rows: bool,
    /// How the files are compressed, where their suffix (`.gz`, `.zst`) does not say so.
    pub compression: Option<Compression>,
}

impl Default for CsvFormat {
    fn default() -> Self {
        Self {
            name: "csv".to_owned(),
            delimiter: None,
            header: None,
            quote: None,
            escape: None,
            comment: None,
            null_strings: Vec::new(),
            columns: Vec::new(),
            types: Vec::new(),
            all_text: false,
            skip: None,
            sample_rows: None,
            date_format: None,
            timestamp_format: None,
            decimal_separator: None,
            max_line_bytes: None,
            pad_short_rows: false,
            compression: None,
        }
    }
}

impl CsvFormat {
    /// Values separated by tabs, in files that end in `.tsv`.
    pub fn tsv() -> Self {
        Self { name: "tsv".to_owned(), delimiter: Some("\t".to_owned()), ..Self::default() }
    }

    fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        if let Some(d) = &self.delimiter
            && (d.is_empty() || d.len() > 4 || d.contains(['\n', '\r']))
        {
            problems.push(format!("the delimiter {d:?} is not one to four bytes without a line break"));
        }
        let single = [("quote", &self.quote), ("escape", &self.escape), ("comment", &self.comment)];
        for (what, value) in single {
            if let Some(v) = value
                && (v.len() > 1 || v.contains(['\n', '\r']))
            {
                problems.push(format!("the {what} {v:?} is not one ASCII character, or empty for none"));
            }
        }
        for text in &self.null_strings {
            if let Some(quote) = self.quote.as_deref().filter(|q| !q.is_empty())
                && text.contains(quote)
            {
                problems.push(format!("the null string {text:?} contains the quote {quote:?}"));
            }
        }
        if !self.columns.is_empty() && !self.types.is_empty() {
            problems.push("both columns (the whole schema) and types (of some columns) are set: set one".to_owned());
        }
        if self.all_text && (!self.columns.is_empty() || !self.types.is_empty()) {
            problems.push("all_text contradicts the column types that are set".to_owned());
        }
        problems
    }
}

#[async_trait]
impl Format for CsvFormat {
    fn name(&self) -> &str {
        &self.name
    }

    fn extensions(&self) -> Vec<&str> {
        vec![if self.name == "tsv" { "tsv" } else { "csv" }]
    }

    fn decompresses(&self) -> &[Compression] {
        &[Compression::Gzip, Compression::Zstd]
    }

    async fn relation(&self, scan: &Scan<'_>) -> Result<Resolved> {
        if let Some(e) = Error::problems(self.problems()) {
            return Err(e.with_operation("reading CSV options"));
        }
        let options = CallOptions::new()
            .text("delim", self.delimiter.as_deref())
            .flag("header", self.header)
            .text("quote", self.quote.as_deref())
            .text("escape", self.escape.as_deref())
            .text("comment", self.comment.as_deref())
            .texts("nullstr", &self.null_strings)
            .map("columns", &self.columns)
            .map("types", &self.types)
            .flag("all_varchar", self.all_text.then_some(true))
            .number("skip", self.skip)
            .number("sample_size", self.sample_rows)
            .text("dateformat", self.date_format.as_deref())
            .text("timestampformat", self.timestamp_format.as_deref())
            .text("decimal_separator", self.decimal_separator.as_deref())
            .number("max_line_size", self.max_line_bytes)
            .flag("null_padding", self.pad_short_rows.then_some(true))
            .text("compression", self.compression.map(Compression::as_str));
        let files = nonempty(scan, !self.columns.is_empty())?;
        Ok(Scan { files: &files, ..scan.clone() }.select("read_csv", options))
    }
}
