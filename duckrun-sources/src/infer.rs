//! Inference: what the files of a listing are, and why. Pure and total: no disk, no clock, no panic.
//!
//! In a folder there may be other things beside the data, so that files of no known format are left out (and named in
//! `why`); in a glob or a list every file was meant, and one that is unknown is an error. Two formats in one listing are an
//! error everywhere: half of the rows would be missing.

use std::collections::{BTreeMap, BTreeSet};
use std::path::is_separator;

use duckrun_core::{Error, ErrorKind, Result};

use crate::listing::{count, examples};
use crate::{Compression, Format, ListedFile, Listing, Registry, Shape, hive};

/// Suffixes of compressions that no reader here undoes.
const FOREIGN: [&str; 15] =
    ["bz2", "xz", "lz4", "zip", "br", "z", "7z", "rar", "lzo", "lzma", "sz", "tar", "tgz", "gzip", "zstd"];

/// What a listing was judged to be.
#[non_exhaustive]
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inferred {
    /// The format's name.
    pub format: String,
    /// How the files are compressed, by their suffixes; `None` where they differ.
    pub compression: Option<Compression>,
    /// The keys of hive partitions that every file has, sorted.
    pub partitions: Vec<String>,
    /// The files to read, sorted by path. Empty for a table folder.
    pub files: Vec<ListedFile>,
    /// Files of a folder that are left out.
    pub ignored: Vec<String>,
    /// The reason in words, for example `31 files end in .csv`.
    pub why: String,
}

/// What a listing is and why.
///
/// ```
/// use duckrun_sources::{Listing, Registry, Shape, infer};
/// let listing = Listing::new(Shape::Folder, "in").with_files(["in/day=1/a.parquet", "in/day=2/b.pq", "in/day=2/README"]);
/// let inferred = infer(&Registry::default(), &listing)?;
/// assert_eq!((inferred.format.as_str(), inferred.partitions), ("parquet", vec!["day".to_string()]));
/// assert_eq!(inferred.why, "2 files end in .parquet, .pq; partitioned by day; left out 1 file (in/day=2/README)");
/// # Ok::<(), duckrun_core::Error>(())
/// ```
///
/// # Errors
/// [`ErrorKind::InvalidInput`] for unknown or mixed formats and for table folders within a folder of files,
/// [`ErrorKind::NotFound`] for a listing without files.
pub fn infer(registry: &Registry, listing: &Listing) -> Result<Inferred> {
    if let Some(name) = registry.forced_name() {
        return forced(registry.get(name)?.as_ref(), listing);
    }
    if let Some(table) = listing.tables.iter().find(|t| t.path == listing.location) {
        return Ok(Inferred {
            format: table.format.clone(),
            compression: Some(Compression::None),
            partitions: Vec::new(),
            files: Vec::new(),
            ignored: Vec::new(),
            why: format!("{} was found in the folder", table.marker),
        });
    }
    no_tables(listing)?;

    let mut known: BTreeMap<&str, Vec<(&ListedFile, Kind<'_>)>> = BTreeMap::new();
    let mut unknown: Vec<&str> = Vec::new();
    for file in &listing.files {
        match classify(registry, &file.path) {
            Class::Known(kind) => known.entry(kind.format).or_default().push((file, kind)),
            Class::Unreadable(reason) => return Err(Error::invalid(format!("{}: {reason}", file.path))),
            Class::Unknown => unknown.push(&file.path),
        }
    }
    if known.len() > 1 {
        return Err(mixed(listing, &known));
    }
    let Some((format, files)) = known.pop_first() else { return Err(nothing_known(registry, listing)) };
    if let Some(first) = unknown.first()
        && listing.shape != Shape::Folder
    {
        return Err(Error::invalid(format!(
            "the format of {first} is unknown, while others of {} are {format}: narrow the location, or force a format",
            listing.location
        )));
    }

    let compressions: BTreeSet<Compression> = files.iter().map(|(_, k)| k.compression).collect();
    let suffixes: BTreeSet<&str> = files.iter().map(|(_, k)| k.suffix.as_str()).collect();
    let ends = if files.len() == 1 { "ends" } else { "end" };
    let why =
        format!("{} {ends} in {}", count(files.len(), "file"), suffixes.into_iter().collect::<Vec<_>>().join(", "));
    finish(
        format.to_owned(),
        (compressions.len() == 1).then(|| compressions.first().copied()).flatten(),
        files.into_iter().map(|(f, _)| f.clone()).collect(),
        unknown.into_iter().map(str::to_owned).collect(),
        why,
    )
}

/// The same for a format that was asked for: a file, a glob or a list is taken as it is, of a folder the files that end as
/// the format's do.
pub(crate) fn forced(format: &dyn Format, listing: &Listing) -> Result<Inferred> {
    let name = format.name().to_owned();
    let own_table = listing.tables.iter().any(|t| t.path == listing.location && t.format == name);
    if listing.shape == Shape::Folder && !own_table {
        no_tables(listing)?;
    }
    if own_table && listing.shape == Shape::Folder {
        let why = format!("{name} was asked for");
        return finish(name, Some(Compression::None), Vec::new(), Vec::new(), why);
    }
    if listing.files.is_empty() {
        return Err(no_files(listing));
    }
    let extensions = format.extensions();
    let markers = format.folder_markers();
    if extensions.is_empty() && !markers.is_empty() {
        return Err(Error::invalid(format!(
            "{} is no {name} table: it has no {}; name the table's own folder",
            listing.location,
            markers.join(" and no ")
        )));
    }
    let fits = |file: &ListedFile| {
        let (extension, compression, _) = suffix(&file.path);
        extensions.contains(&extension.as_str())
            && (compression == Compression::None || format.decompresses().contains(&compression))
    };
    let (files, ignored): (Vec<ListedFile>, Vec<ListedFile>) = match listing.shape {
        Shape::Folder => listing.files.iter().cloned().partition(fits),
        _ => (listing.files.clone(), Vec::new()),
    };
    if files.is_empty() {
        let ends: Vec<String> = extensions.iter().map(|e| format!(".{e}")).collect();
        return Err(Error::invalid(format!(
            "the folder {} has no file that ends in {}: found {}; name the files with a glob to read them as {name}",
            listing.location,
            ends.join(", "),
            listing.found()
        )));
    }
    let mut compressions: BTreeSet<Compression> = files.iter().map(|f| suffix(&f.path).1).collect();
    let compression = if compressions.len() == 1 { compressions.pop_first() } else { None };
    let ignored = ignored.into_iter().map(|f| f.path).collect();
    let why = format!("{name} was asked for, {}", count(files.len(), "file"));
    finish(name, compression, files, ignored, why)
}

fn finish(
    format: String,
    compression: Option<Compression>,
    files: Vec<ListedFile>,
    ignored: Vec<String>,
    mut why: String,
) -> Result<Inferred> {
    // Files with different keys are judged by the source, which knows whether partitions are wanted.
    let partitions = hive::common_keys(files.iter().map(|f| f.path.as_str())).unwrap_or_default();
    if !partitions.is_empty() {
        why.push_str(&format!("; partitioned by {}", partitions.join(", ")));
    }
    if !ignored.is_empty() {
        why.push_str(&format!("; left out {}", examples(ignored.len(), ignored.iter().map(String::as_str))));
    }
    Ok(Inferred { format, compression, partitions, files, ignored, why })
}

/// Why a file is of its format.
struct Kind<'a> {
    format: &'a str,
    compression: Compression,
    suffix: String,
}

enum Class<'a> {
    Known(Kind<'a>),
    Unreadable(String),
    Unknown,
}

fn classify<'a>(registry: &'a Registry, path: &str) -> Class<'a> {
    let (extension, compression, ending) = suffix(path);
    if let Some(format) = registry.of_extension(&extension) {
        if compression == Compression::None || format.decompresses().contains(&compression) {
            return Class::Known(Kind { format: format.name(), compression, suffix: ending });
        }
        return Class::Unreadable(format!(
            "{} files cannot be read through {compression}: decompress the file",
            format.name()
        ));
    }
    if FOREIGN.contains(&extension.as_str())
        && let Some((stem, _)) = path.rsplit_once('.')
        && let Some(format) = registry.of_extension(&suffix(stem).0)
    {
        return Class::Unreadable(format!(
            "a {} file compressed as .{extension} cannot be read: use .gz or .zst, or decompress it",
            format.name()
        ));
    }
    Class::Unknown
}

/// A path's extension in lower case (before the compression's), its compression, and both as written in a message.
fn suffix(path: &str) -> (String, Compression, String) {
    let name = path.rsplit(is_separator).next().unwrap_or(path).to_lowercase();
    let (stem, compression, tail) = match name.rsplit_once('.') {
        Some((stem, "gz")) => (stem, Compression::Gzip, ".gz"),
        Some((stem, "zst")) => (stem, Compression::Zstd, ".zst"),
        _ => (name.as_str(), Compression::None, ""),
    };
    match stem.rsplit_once('.') {
        Some((before, extension)) if !before.is_empty() && !extension.is_empty() => {
            (extension.to_owned(), compression, format!(".{extension}{tail}"))
        }
        _ => (String::new(), compression, tail.to_owned()),
    }
}

fn no_tables(listing: &Listing) -> Result<()> {
    let Some(table) = listing.tables.first() else { return Ok(()) };
    let article = if table.format.starts_with(['a', 'e', 'i', 'o', 'u']) { "an" } else { "a" };
    let what = format!("{} is {article} {} table (it has {})", table.path, table.format, table.marker);
    Err(Error::invalid(match listing.shape {
        Shape::Folder => format!(
            "{what}: open it as {article} {} table; its files, read one by one, would bring back rows that are deleted",
            table.format
        ),
        _ => format!(
            "{what}, and the glob {} names its data files: open it as {article} {} table, or force a format if deleted rows \
             are wanted",
            listing.location, table.format
        ),
    }))
}

fn no_files(listing: &Listing) -> Error {
    Error::new(ErrorKind::NotFound, format!("{} has no files", listing.location))
}

fn nothing_known(registry: &Registry, listing: &Listing) -> Error {
    if listing.files.is_empty() {
        return no_files(listing);
    }
    let found = match listing.shape {
        Shape::File => format!("the format of {} is unknown", listing.location),
        _ => format!("no file of {} is of a known format: found {}", listing.location, listing.found()),
    };
    Error::invalid(format!("{found}; known are {}; force a format or register one", registry.extensions()))
}

fn mixed(listing: &Listing, known: &BTreeMap<&str, Vec<(&ListedFile, Kind<'_>)>>) -> Error {
    let each: Vec<String> = known
        .iter()
        .map(|(format, files)| {
            let example = files.first().map_or("", |(f, _)| f.path.as_str());
            format!("{} of {format} (such as {example})", count(files.len(), "file"))
        })
        .collect();
    Error::invalid(format!(
        "{} mixes formats: {}; name one kind with a glob, or force a format",
        listing.location,
        each.join(", ")
    ))
}

#[cfg(test)]
#[path = "infer_tests.rs"]
mod tests;
