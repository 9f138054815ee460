//! Sources of files: a location, a format or the wish to have it inferred, and options; resolved once per run.

use std::borrow::Cow;
use std::fmt;
use std::path::{Path, PathBuf};

use async_trait::async_trait;
use duckrun_core::{Error, Resolved, Result, Source, SourceContext, TableOpener};

use crate::format::Remote;
use crate::formats::{ArrowFormat, CsvFormat, JsonFormat, ParquetFormat};
use crate::infer::forced;
use crate::location::{absolute, path_text};
use crate::place::{Place, StoreChoice, is_url};
use crate::stores::{Objects, StoreWalk};
use crate::walk::Walk;
use crate::{
    FilenameColumn, Format, HivePartitions, Inferred, Listing, Location, Registry, Scan, ScanOptions, Shape, hive,
    infer,
};

/// Files of any known format: it is inferred from what is found.
pub type Files = FileSource<Registry>;
/// CSV files.
pub type Csv = FileSource<CsvFormat>;
/// JSON files, lines or arrays.
pub type Json = FileSource<JsonFormat>;
/// Parquet files.
pub type Parquet = FileSource<ParquetFormat>;
/// Arrow IPC files, also known as Feather.
pub type ArrowIpc = FileSource<ArrowFormat>;

/// How a source comes by its format. Implemented by every [`Format`], which is then taken for granted, and by
/// [`Registry`], which infers.
pub trait Choose: Clone + Send + Sync + fmt::Debug + 'static {
    /// What the listing is.
    ///
    /// # Errors
    /// As [`infer()`].
    fn choose(&self, listing: &Listing) -> Result<Inferred>;

    /// The format of a name that [`choose`](Choose::choose) gave.
    ///
    /// # Errors
    /// When there is none.
    fn format(&self, name: &str) -> Result<&dyn Format>;

    /// Markers of folders that are tables, as (format, pattern): their files are not read one by one.
    fn markers(&self) -> Vec<(String, String)>;

    /// The format in a word, for messages.
    fn label(&self) -> &str;
}

impl<F: Format + Clone + 'static> Choose for F {
    fn choose(&self, listing: &Listing) -> Result<Inferred> {
        forced(self, listing)
    }

    fn format(&self, _: &str) -> Result<&dyn Format> {
        Ok(self)
    }

    fn markers(&self) -> Vec<(String, String)> {
        Registry::default().markers()
    }

    fn label(&self) -> &str {
        self.name()
    }
}

impl Choose for Registry {
    fn choose(&self, listing: &Listing) -> Result<Inferred> {
        infer(self, listing)
    }

    fn format(&self, name: &str) -> Result<&dyn Format> {
        Ok(self.get(name)?.as_ref())
    }

    fn markers(&self) -> Vec<(String, String)> {
        Self::markers(self)
    }

    fn label(&self) -> &str {
        self.forced_name().unwrap_or("inferred")
    }
}

/// Files at a location, read by a format. See [`Csv`], [`Json`], [`Parquet`] and [`Files`], which infers the format.
///
/// Nothing is looked at before the run resolves it; then the files are listed and the list is final.
#[derive(Debug, Clone)]
pub struct FileSource<F> {
    pub(crate) location: Location,
    pub(crate) root: Option<PathBuf>,
    pub(crate) options: ScanOptions,
    pub(crate) store: StoreChoice,
    pub(crate) format: F,
}

/// What a source would read, before anything is read.
#[non_exhaustive]
#[derive(Debug)]
pub struct Inspected {
    /// What was found at the location.
    pub listing: Listing,
    /// What it was judged to be, and why.
    pub inferred: Inferred,
    /// The name of the column with each row's file, where there is one.
    pub filename: Option<String>,
    /// Whether folders named `key=value` are columns.
    pub hive: bool,
    /// How many bytes of the listed path the column leaves out.
    pub(crate) prefix: usize,
    /// The objects that were listed, where they are not local files.
    pub(crate) objects: Option<Objects>,
}

impl Inspected {
    /// What the column `filename` shows for a listed path.
    pub fn shown<'a>(&self, path: &'a str) -> &'a str {
        path.get(self.prefix..).unwrap_or(path)
    }
}

impl<F: Choose> FileSource<F> {
    /// Lists the files and says what they are and why; reads none of them. Object stores named by a URL are opened by a run, so
    /// that only those of [`store`](Self::store) are listed here.
    ///
    /// # Errors
    /// As [`Source::resolve`].
    pub async fn inspect(&self) -> Result<Inspected> {
        self.inspect_with(None, || Ok(())).await
    }

    pub(crate) async fn inspect_with(
        &self,
        tables: Option<&dyn TableOpener>,
        check: impl Fn() -> Result<()> + Send + Sync + 'static,
    ) -> Result<Inspected> {
        let root_is_url = self.root.as_deref().is_some_and(is_url);
        if self.store.store.is_some() || root_is_url || self.location.has_url() {
            let markers = self.format.markers();
            let root = self.root.as_deref().map(|root| Place::parse(root, None)).transpose()?;
            let (choice, root) = (&self.store, root.as_ref());
            let walk = StoreWalk { tables, choice, root, markers: &markers, check: &check };
            let (listing, objects) = walk.list(&self.location).await?;
            let inspected = self.judge(listing, |folder, inferred| prefix_in_store(folder, root, inferred))?;
            return Ok(Inspected { objects: Some(objects), ..inspected });
        }
        let source = self.clone();
        tokio::task::spawn_blocking(move || source.inspect_blocking(&check))
            .await
            .map_err(|e| Error::internal("listing the files of a source panicked").with_source(e))?
    }

    fn inspect_blocking(&self, check: &dyn Fn() -> Result<()>) -> Result<Inspected> {
        let mut location = self.location.resolve(self.root.as_deref())?;
        if self.options.filename_relative_to.is_some() {
            location = location.absolute()?;
        }
        let markers = self.format.markers();
        let listing = Walk { markers: &markers, root: self.root.as_deref(), check }.list(&location)?;
        self.judge(listing, prefix_of)
    }

    /// What a listing is, and what its columns are.
    fn judge(&self, listing: Listing, prefix: impl Fn(&Path, &Inferred) -> Result<usize>) -> Result<Inspected> {
        let inferred = self.format.choose(&listing)?;
        tracing::debug!(location = %listing.location, format = inferred.format, why = inferred.why, "source inferred");
        let is_table = inferred.files.is_empty();
        let filename = match &self.options.filename {
            FilenameColumn::Named(_) if is_table => {
                return Err(Error::invalid(format!(
                    "{} is a table: its rows have no file of their own to name",
                    listing.location
                )));
            }
            _ if is_table => None,
            FilenameColumn::Auto => (listing.shape != Shape::File).then(|| "filename".to_owned()),
            FilenameColumn::Named(name) if name.is_empty() => {
                return Err(Error::invalid("the column for the file's name has an empty name"));
            }
            FilenameColumn::Named(name) => Some(name.clone()),
            FilenameColumn::Off => None,
        };
        let prefix = match self.options.filename_relative_to.as_deref() {
            Some(folder) => prefix(folder, &inferred)?,
            None => 0,
        };
        let hive = self.hive_columns(&listing, &inferred)?;
        Ok(Inspected { listing, inferred, filename, hive, prefix, objects: None })
    }

    fn hive_columns(&self, listing: &Listing, inferred: &Inferred) -> Result<bool> {
        let wanted = match self.options.hive {
            HivePartitions::Off => false,
            HivePartitions::On | HivePartitions::Auto => {
                if let Err((a, b)) = hive::common_keys(inferred.files.iter().map(|f| f.path.as_str())) {
                    return Err(Error::invalid(format!(
                        "{a} and {b} lie below folders with different key=value names: narrow the location {}, or read the \
                         folders as folders with HivePartitions::Off",
                        listing.location
                    )));
                }
                self.options.hive == HivePartitions::On || !inferred.partitions.is_empty()
            }
        };
        for (column, _) in &self.options.hive_types {
            if !wanted || !inferred.partitions.iter().any(|p| p.eq_ignore_ascii_case(column)) {
                return Err(Error::invalid(format!(
                    "a type is set for the partition {column:?}, but the files of {} have {}",
                    listing.location,
                    if wanted && !inferred.partitions.is_empty() {
                        format!("only {}", inferred.partitions.join(", "))
                    } else {
                        "no partitions".to_owned()
                    }
                )));
            }
        }
        Ok(wanted)
    }

    pub(crate) async fn relation(
        &self,
        cx: &SourceContext<'_>,
        inspected: &Inspected,
        no_rows: bool,
    ) -> Result<Resolved> {
        let format = self.format.format(&inspected.inferred.format)?;
        let mut files = Cow::Borrowed(inspected.inferred.files.as_slice());
        let mut remote = None;
        if let Some(objects) = &inspected.objects {
            let mut opened = String::new();
            if !files.is_empty() && !format.decodes_itself() {
                let Some(engine) = cx.engine else {
                    return Err(Error::unsupported("files of an object store are read within a run, by its engine"));
                };
                opened = engine.open_files(objects.files(files.iter().map(|f| f.path.as_str()))?).await?;
                for file in files.to_mut() {
                    file.path.insert_str(0, &opened);
                }
            }
            remote = Some(Remote { objects, opened });
        }
        let shown = inspected.prefix + remote.as_ref().map_or(0, |r| r.opened.len());
        let first = files.first().map_or("", |f| f.path.as_str());
        let filename_prefix = first.get(..shown).map_or(0, |p| p.chars().count());
        let scan = Scan {
            location: &inspected.listing.location,
            files: &files,
            options: &self.options,
            hive: inspected.hive,
            filename: inspected.filename.clone(),
            filename_prefix,
            no_rows,
            cx,
            remote,
        };
        format.relation(&scan).await
    }
}

/// The same for files of a store, whose names begin as the location does.
fn prefix_in_store(folder: &Path, root: Option<&Place>, inferred: &Inferred) -> Result<usize> {
    let folder = Place::parse(folder, root)?.to_string();
    let base = if folder.is_empty() { folder } else { format!("{}/", folder.trim_end_matches('/')) };
    match inferred.files.iter().find(|f| !f.path.starts_with(&base)) {
        Some(outside) => Err(Error::invalid(format!(
            "{} is not below {base}, which file names shall be relative to: name a folder above all files, as a URL if they \
             have one",
            outside.path
        ))),
        None => Ok(base.len()),
    }
}

/// The bytes that every listed path (absolute by now) has before its part below `folder`.
fn prefix_of(folder: &Path, inferred: &Inferred) -> Result<usize> {
    let base = absolute(folder)?;
    let mut prefix = path_text(&base)?.trim_end_matches(std::path::is_separator).len() + 1;
    for file in &inferred.files {
        match Path::new(&file.path).strip_prefix(&base) {
            Ok(below) if !below.components().any(|c| c.as_os_str() == "..") => {
                prefix = prefix.min(file.path.len());
            }
            _ => {
                return Err(Error::invalid(format!(
                    "{} is not below {}, which file names shall be relative to: name a folder above all files",
                    file.path,
                    base.display()
                )));
            }
        }
    }
    Ok(prefix)
}

#[async_trait]
impl<F: Choose> Source for FileSource<F> {
    fn describe(&self) -> String {
        format!("{} files {}", self.format.label(), self.location)
    }

    async fn resolve(&self, cx: &SourceContext<'_>) -> Result<Resolved> {
        let run = cx.run.clone();
        let inspected = self.inspect_with(cx.tables, move || run.check()).await?;
        cx.run.check()?;
        self.relation(cx, &inspected, false).await
    }
}

#[cfg(test)]
#[path = "source_tests.rs"]
mod tests;
