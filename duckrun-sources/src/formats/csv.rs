//! CSV and TSV through DuckDB's `read_csv`. What is not set is sniffed, types from the first files.
//!
//! DuckDB 2.0 sniffs every file again whenever it plans a query and whenever it opens the file: of the time that 200 small
//! files take, four fifths. Its way out, stating the columns, gives up that columns of different files are matched by name. So
//! the columns are sniffed once and stated where nothing is left to guess: the dialect was stated (for example by
//! [`Csv::rfc4180`](crate::Csv::rfc4180)) and every file has the same first line. Elsewhere only their types are stated, which
//! keeps the names and spares the plans after the first one the sniffing of ten files (0.04 instead of 0.4 CPU seconds each).

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::sync::Arc;

use async_trait::async_trait;
use duckrun_core::arrow::datatypes::{Field, Schema, SchemaRef};
use duckrun_core::object_store::{GetOptions, GetRange, ObjectStore};
use duckrun_core::types::sql_type;
use duckrun_core::{EngineSession, Error, Query, Relation, Resolved, Result, StoreFile};
use futures::{FutureExt, StreamExt};
use serde::{Deserialize, Serialize};

use super::nonempty;
use crate::stores::AT_ONCE;
use crate::{CallOptions, Compression, Format, HivePartitions, ListedFile, Scan, ScanOptions};

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

    /// Whether nothing about the dialect is left to be sniffed.
    fn dialect_is_stated(&self) -> bool {
        self.delimiter.is_some() && self.quote.is_some() && self.escape.is_some() && self.header == Some(true)
    }

    /// Whether what is in a file is not the text itself.
    fn is_compressed(&self, file: &ListedFile) -> bool {
        let path = file.path.to_ascii_lowercase();
        match self.compression {
            Some(compression) => compression != Compression::None,
            None => path.ends_with(".gz") || path.ends_with(".zst"),
        }
    }

    /// The columns of all files, sniffed once, where it is certain that all have the same; see the module.
    async fn common_columns(&self, scan: &Scan<'_>, files: &[ListedFile]) -> Option<Vec<(String, String)>> {
        let engine = scan.cx.engine?;
        let plain =
            self.skip.is_none_or(|n| n == 0) && self.comment.is_none() && !self.pad_short_rows && !self.all_text;
        if files.len() < 2
            || !self.dialect_is_stated()
            || !plain
            || !self.columns.is_empty()
            || scan.options.union_by_name
            || files.iter().any(|f| self.is_compressed(f))
        {
            return None;
        }
        if !have_one_header(&first_lines(scan, files).await.ok()?, self.quote.as_deref().unwrap_or_default()) {
            return None;
        }
        let sniffed = describe(engine, scan, files, self.options(&[])).await?;
        self.typed(&sniffed)
    }

    /// The arguments with which no query sniffs more than the first file for columns: their types are sniffed once, from as
    /// many files as DuckDB takes, and stated. `None` where that would read the files in another way.
    async fn sniffed_once(&self, scan: &Scan<'_>, files: &[ListedFile]) -> Option<CallOptions> {
        let engine = scan.cx.engine?;
        if files.len() < 2 || self.all_text || !self.columns.is_empty() || scan.options.union_by_name {
            return None;
        }
        let sniffed = describe(engine, scan, files, self.options(&[])).await?;
        let typed = Self { types: self.typed(&sniffed)?, ..self.clone() };
        let once = typed.options(&[]).number("files_to_sniff", Some(1));
        // The first file alone may lack columns, or be empty.
        (describe(engine, scan, files, once.clone()).await? == sniffed).then_some(once)
    }

    /// The columns with their types, those that were stated as they were stated.
    fn typed(&self, schema: &Schema) -> Option<Vec<(String, String)>> {
        let stated =
            |name: &str| self.types.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, ty)| ty.clone());
        let column = |f: &Field| Some((f.name().clone(), stated(f.name()).or_else(|| sql_type(f.data_type()).ok())?));
        schema.fields().iter().map(|f| column(f)).collect()
    }

    /// The arguments of `read_csv`; `columns` takes the place of our own where it is not empty.
    fn options(&self, columns: &[(String, String)]) -> CallOptions {
        let pinned = !columns.is_empty();
        CallOptions::new()
            .text("delim", self.delimiter.as_deref())
            .flag("header", self.header)
            .text("quote", self.quote.as_deref())
            .text("escape", self.escape.as_deref())
            .text("comment", self.comment.as_deref())
            .texts("nullstr", &self.null_strings)
            .map("columns", if pinned { columns } else { &self.columns })
            .map("types", if pinned { &[] } else { &self.types })
            .flag("all_varchar", self.all_text.then_some(true))
            .number("skip", self.skip)
            .number("sample_size", self.sample_rows)
            .text("dateformat", self.date_format.as_deref())
            .text("timestampformat", self.timestamp_format.as_deref())
            .text("decimal_separator", self.decimal_separator.as_deref())
            .number("max_line_size", self.max_line_bytes)
            .flag("null_padding", self.pad_short_rows.then_some(true))
            .text("compression", self.compression.map(Compression::as_str))
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
        let files = nonempty(scan, !self.columns.is_empty())?;
        if !self.columns.is_empty() && files.len() > 1 {
            let plain: Vec<ListedFile> = files.iter().filter(|f| !self.is_compressed(f)).cloned().collect();
            let lines = first_lines(scan, &plain).await?;
            if let Some((one, other)) = other_line_ends(&lines) {
                let (one, other) = (scan.called(&plain[one].path), scan.called(&plain[other].path));
                return Err(Error::unsupported(format!(
                    "{one} and {other} end their lines differently (LF, CR LF), and with stated columns DuckDB would lose rows \
                     of one of them: state types instead of columns, or rewrite the file"
                )));
            }
        }
        let columns = self.common_columns(scan, &files).await.unwrap_or_default();
        let options = match columns.is_empty() {
            true => self.sniffed_once(scan, &files).await.unwrap_or_else(|| self.options(&[])),
            false => self.options(&columns),
        };
        Ok(Scan { files: &files, ..scan.clone() }.select("read_csv", options))
    }
}

/// The columns in the files themselves. What cannot be described (a column of times of day) is left to the reader, and so is
/// every error.
async fn describe(
    engine: &dyn EngineSession,
    scan: &Scan<'_>,
    files: &[ListedFile],
    arguments: CallOptions,
) -> Option<SchemaRef> {
    let options = ScanOptions { hive: HivePartitions::Off, ..ScanOptions::default() };
    let bare = Scan { files, options: &options, hive: false, filename: None, filename_prefix: 0, ..scan.clone() };
    let Relation::Sql(sql) = bare.select("read_csv", arguments).relation else { return None };
    engine.describe(&Query::new(sql)).await.ok()
}

/// The longest header that is compared, and of an object of a store.
const HEADER: u64 = 1 << 20;
const REMOTE_HEADER: u64 = 64 << 10;

/// The first line of each file, its end included; `None` for one that cannot be read or has no such line.
async fn first_lines(scan: &Scan<'_>, files: &[ListedFile]) -> Result<Vec<Option<Vec<u8>>>> {
    if scan.is_local() {
        let paths: Vec<String> = files.iter().map(|f| f.path.clone()).collect();
        let lines = tokio::task::spawn_blocking(move || paths.iter().map(|path| local_line(path)).collect());
        return lines.await.map_err(|e| Error::internal("reading first lines panicked").with_source(e));
    }
    let object = |file: &ListedFile| scan.object(&file.path).map(|(store, object)| (store.clone(), object.clone()));
    let lines: Vec<_> = files.iter().map(|file| remote_line(object(file)).boxed()).collect();
    Ok(futures::stream::iter(lines).buffered(AT_ONCE).collect().await)
}

async fn remote_line(object: Option<(Arc<dyn ObjectStore>, StoreFile)>) -> Option<Vec<u8>> {
    let (store, object) = object?;
    if object.size == 0 {
        return None;
    }
    let range = GetRange::Bounded(0..object.size.min(REMOTE_HEADER));
    let options = GetOptions { range: Some(range), if_match: object.e_tag.clone(), ..GetOptions::default() };
    // What fails here fails again where it is read, and is reported there.
    let bytes = store.get_opts(&object.path, options).await.ok()?.bytes().await.ok()?;
    let end = bytes.iter().position(|b| *b == b'\n')?;
    Some(bytes[..=end].to_vec())
}

fn local_line(path: &str) -> Option<Vec<u8>> {
    let mut line = Vec::new();
    BufReader::with_capacity(4_096, File::open(path).ok()?).take(HEADER).read_until(b'\n', &mut line).ok()?;
    line.ends_with(b"\n").then_some(line)
}

/// Two files of which one ends its lines with CR LF and the other with LF alone. With stated columns DuckDB 2.0 takes the line
/// ends of the first file for all, and loses the rows of the others without a word.
fn other_line_ends(lines: &[Option<Vec<u8>>]) -> Option<(usize, usize)> {
    let mut ends = lines.iter().enumerate().filter_map(|(i, line)| Some((i, line.as_ref()?.ends_with(b"\r\n"))));
    let (first, of_first) = ends.next()?;
    ends.find(|(_, end)| *end != of_first).map(|(other, _)| (first, other))
}

/// Whether all files begin with the same line, its end included, and that line is a whole header. A file that cannot be read
/// is not said to.
fn have_one_header(lines: &[Option<Vec<u8>>], quote: &str) -> bool {
    let Some(Some(header)) = lines.first() else { return false };
    // A line break within quotes is not the header's end.
    let quotes = quote.as_bytes().first().map_or(0, |q| header.iter().filter(|b| *b == q).count());
    quotes.is_multiple_of(2) && lines.iter().all(|line| line.as_ref() == Some(header))
}
