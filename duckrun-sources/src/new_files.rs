//! The files of a listing that a table has not loaded yet: the base of the "load only what is new" job.
//!
//! # Who knows what was loaded
//! [`NewFiles`] compares the listing with the names that are known before the engine sees a file, so that loaded files are
//! never opened. The names come from a [`LoadedFiles`]:
//! - [`ByColumn`] ([`NewFiles::by_column`]): the table's own column with the file's name, read at the run's pinned snapshot. It
//!   stays right whatever happens to the table (deletes, restores, other writers), and costs a scan of that one column.
//! - [`ByHistory`] ([`NewFiles::by_history`]): what earlier runs recorded in their commits. The table needs no such column, and
//!   a file whose rows the SQL left out counts as loaded. It costs a reading of the log, and is refused where the log does
//!   not reach back to its beginning any more, or where somebody restored the table to an older version.
//! - a list that an embedder keeps.
//!
//! The same in SQL, `select * from landing where filename not in (select filename from this)`, opens every file of the listing
//! on every run.
//!
//! Invariant: a run loads a file whole or not at all, and names it in the rows (or the commit) that it loads; two runs that
//! list the same new file cannot both commit, because [`NewFiles`] says that it reads the target, which fences the append.
//! A run whose new files hold no rows commits nothing, and its files are new again next time.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::path::is_separator;
use std::sync::Arc;

use async_trait::async_trait;
use duckrun_core::arrow::array::AsArray;
use duckrun_core::{
    Error, ErrorKind, Query, Relation, RelationName, Resolved, Result, Source, SourceContext, quote_ident,
};
use futures::StreamExt;

use crate::{Choose, FileSource, ListedFile};

/// The entries of a listing that are not loaded, in the listing's order, each once.
///
/// ```
/// use std::collections::BTreeSet;
/// let loaded = BTreeSet::from(["a.csv".to_string()]);
/// assert_eq!(duckrun_sources::new_files(["a.csv", "c.csv", "b.csv", "c.csv"], &loaded), ["c.csv", "b.csv"]);
/// ```
pub fn new_files<T: AsRef<str>>(listing: impl IntoIterator<Item = T>, loaded: &BTreeSet<String>) -> Vec<T> {
    let mut seen = BTreeSet::new();
    let mut new = |name: &str| !loaded.contains(name) && seen.insert(name.to_owned());
    listing.into_iter().filter(|file| new(file.as_ref())).collect()
}

/// Who knows the files that were loaded. Implemented here over a table's column and its history, and by embedders; asked once
/// per attempt of a run, after the target was pinned.
///
/// # Contract
/// The names are those of the `filename` column. A name that is missing loads its file again; one too many never loads it.
/// The answer belongs to the pinned snapshot, never to a later version; where the run replaces the table
/// ([`Target::kept`](duckrun_core::Target::kept) is `None`) nothing counts as loaded.
#[async_trait]
pub trait LoadedFiles: Send + Sync + fmt::Debug {
    /// The names. `column` is the source's own column with them.
    ///
    /// # Errors
    /// When the answer is not complete (a history that no longer reaches back to its beginning): guessing would load twice.
    async fn loaded(&self, cx: &SourceContext<'_>, column: &str) -> Result<BTreeSet<String>>;

    /// What the commit of a run that loads these files has to record, by key.
    ///
    /// # Errors
    /// When the names cannot be written down.
    fn record(&self, cx: &SourceContext<'_>, new: &[&str]) -> Result<BTreeMap<String, String>> {
        let _ = (cx, new);
        Ok(BTreeMap::new())
    }

    /// Whether asking reads the run's own target.
    fn reads_target(&self) -> bool {
        true
    }
}

/// A list that somebody else keeps.
#[async_trait]
impl LoadedFiles for BTreeSet<String> {
    async fn loaded(&self, _: &SourceContext<'_>, _: &str) -> Result<BTreeSet<String>> {
        Ok(self.clone())
    }

    fn reads_target(&self) -> bool {
        false
    }
}

/// The names in a column of the target, at the version that the run has pinned.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ByColumn {
    column: Option<String>,
}

impl ByColumn {
    /// The column that is called as the source's own (`filename`, unless the source says otherwise).
    pub fn new() -> Self {
        Self::default()
    }

    /// A column that the SQL gave another name.
    pub fn named(column: impl Into<String>) -> Self {
        Self { column: Some(column.into()) }
    }
}

/// The name under which a run's session sees the target while its column is read.
const LOADED: &str = "__duckrun_loaded";

#[async_trait]
impl LoadedFiles for ByColumn {
    async fn loaded(&self, cx: &SourceContext<'_>, column: &str) -> Result<BTreeSet<String>> {
        let Some(snapshot) = cx.target.kept() else { return Ok(BTreeSet::new()) };
        let Some(engine) = cx.engine else {
            return Err(Error::unsupported("the table's column can be asked only within a run"));
        };
        let column = self.column.as_deref().unwrap_or(column);
        let schema = snapshot.schema();
        let Some((_, field)) = schema.column_with_name(column) else {
            return Err(Error::invalid(format!(
                "the table has no column {column:?} that would say which files it has: store it (select *), name the one \
                 that says it (ByColumn::named), or judge by the history (NewFiles::by_history)"
            )));
        };
        let name = RelationName::bare(LOADED)?;
        engine.register(&name, Relation::Files(snapshot.files().await?)).await?;
        let quoted = quote_ident(column);
        let sql = format!("SELECT DISTINCT {quoted} FROM {} WHERE {quoted} IS NOT NULL", name.to_sql());
        let mut rows = engine.query(&Query::new(sql)).await?;
        let mut names = BTreeSet::new();
        while let Some(batch) = rows.next().await {
            let batch = batch?;
            let Some(texts) = batch.column(0).as_string_opt::<i32>() else {
                return Err(Error::invalid(format!(
                    "the table's column {column:?} is {}, and names of files are text: name another column",
                    field.data_type()
                )));
            };
            names.extend(texts.iter().flatten().map(str::to_owned));
        }
        Ok(names)
    }
}

/// The names that earlier runs recorded in their commits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ByHistory {
    name: String,
}

impl Default for ByHistory {
    fn default() -> Self {
        Self { name: "files".to_owned() }
    }
}

/// Where a run that replaces the table says that its names are all there are.
const FRESH: &str = "fresh";
/// Before the name of what is recorded.
const KEY: &str = "duckrun.loaded.";

impl ByHistory {
    /// What is recorded under the name `files`.
    pub fn new() -> Self {
        Self::default()
    }

    /// What is recorded under another name, where one table loads files of several sources.
    pub fn named(name: impl Into<String>) -> Self {
        Self { name: name.into() }
    }

    fn key(&self) -> String {
        format!("{KEY}{}", self.name)
    }
}

#[async_trait]
impl LoadedFiles for ByHistory {
    async fn loaded(&self, cx: &SourceContext<'_>, _: &str) -> Result<BTreeSet<String>> {
        let Some(snapshot) = cx.target.kept() else { return Ok(BTreeSet::new()) };
        let lost = |why: String| {
            Error::new(
                ErrorKind::NotFound,
                format!(
                    "{why}, so that nobody can say from the history which files the table has: judge by its column \
                     (NewFiles::by_column), or rebuild the table (full_refresh)"
                ),
            )
        };
        let commits = snapshot.history().await?;
        let (key, fresh) = (self.key(), format!("{}.{FRESH}", self.key()));
        // What was before the table was last replaced by a run of ours does not matter any more.
        let since = commits.iter().rev().find(|c| c.recorded(&fresh).is_some()).map_or(0, |c| c.version);
        let mut commits = commits.iter().filter(|c| c.version >= since);
        let mut names = BTreeSet::new();
        for version in since..=snapshot.version() {
            let Some(commit) = commits.next().filter(|c| c.version == version) else {
                return Err(lost(format!("version {version} is no longer in the log")));
            };
            if commit.operation() == Some("RESTORE") {
                return Err(lost(format!("version {version} restored the table to an older version")));
            }
            let Some(recorded) = commit.recorded(&key) else { continue };
            let recorded: Vec<String> = serde_json::from_str(&recorded).map_err(|e| {
                Error::corrupt(format!("version {version} of the log has a record {key:?} that is not ours"))
                    .with_source(e)
            })?;
            names.extend(recorded);
        }
        Ok(names)
    }

    fn record(&self, cx: &SourceContext<'_>, new: &[&str]) -> Result<BTreeMap<String, String>> {
        let list = serde_json::to_string(new).map_err(|e| Error::internal("names that are no JSON").with_source(e))?;
        let mut record = BTreeMap::from([(self.key(), list)]);
        if cx.target.kept().is_none() {
            record.insert(format!("{}.{FRESH}", self.key()), "true".to_owned());
        }
        Ok(record)
    }
}

/// The files of a source that were not loaded yet. Where there are none it is a relation with the schema and no rows.
///
/// ```
/// use std::collections::BTreeSet;
/// use std::sync::Arc;
/// use duckrun_sources::{Csv, NewFiles};
///
/// let landing = || Csv::glob("landing/*.csv").filename_relative_to("landing");
/// let by_column = NewFiles::by_column(landing());
/// let by_history = NewFiles::by_history(landing());
/// let loaded: BTreeSet<String> = BTreeSet::from(["2013-01-01.csv".into()]);
/// let by_list = NewFiles::of(landing(), Arc::new(loaded));
/// # let _ = (by_column, by_history, by_list);
/// ```
#[derive(Debug, Clone)]
pub struct NewFiles<F> {
    files: FileSource<F>,
    loaded: Arc<dyn LoadedFiles>,
}

impl<F: Choose> NewFiles<F> {
    /// Judged by the table's own column of the source's name for it: `filename`, or what
    /// [`filename_as`](FileSource::filename_as) says.
    pub fn by_column(files: FileSource<F>) -> Self {
        Self::of(files, Arc::new(ByColumn::new()))
    }

    /// Judged by what earlier runs recorded in the table's commits.
    pub fn by_history(files: FileSource<F>) -> Self {
        Self::of(files, Arc::new(ByHistory::new()))
    }

    /// The files of `files` that `loaded` does not know.
    pub fn of(files: FileSource<F>, loaded: Arc<dyn LoadedFiles>) -> Self {
        Self { files, loaded }
    }
}

#[async_trait]
impl<F: Choose> Source for NewFiles<F> {
    fn describe(&self) -> String {
        format!("new {}", self.files.describe())
    }

    async fn resolve(&self, cx: &SourceContext<'_>) -> Result<Resolved> {
        let run = cx.run.clone();
        let mut inspected = self.files.inspect_with(cx.tables, move || run.check()).await?;
        if inspected.inferred.files.is_empty() {
            return Err(Error::invalid(format!(
                "{} is a table, not a set of files: read its changes instead",
                inspected.listing.location
            )));
        }
        let Some(column) = inspected.filename.clone() else {
            return Err(Error::invalid(format!(
                "{} has no column with the file's name, by which later runs could tell what is new: use with_filename",
                self.describe()
            )));
        };
        let loaded = self.loaded.loaded(cx, &column).await?;
        cx.run.check()?;
        let all = std::mem::take(&mut inspected.inferred.files);
        if let Some((listed, known)) = renamed(all.iter().map(|f| inspected.shown(&f.path)), &loaded) {
            return Err(Error::invalid(format!(
                "{listed} looks new, but {known} was loaded, and no name of {} is known: use the location as before, or \
                 filename_relative_to, so that no file is loaded twice",
                self.describe()
            )));
        }
        let named = all.iter().map(|file| Named { shown: inspected.shown(&file.path), file });
        let mut new: Vec<ListedFile> = new_files(named, &loaded).into_iter().map(|n| n.file.clone()).collect();
        tracing::debug!(listed = all.len(), new = new.len(), "new files");
        // A file of zero bytes has no rows and no schema: often its upload has just begun, and it is new again next time.
        let whole: Vec<&str> = new.iter().filter(|f| f.size > 0).map(|f| inspected.shown(&f.path)).collect();
        let nothing_new = whole.is_empty();
        let info = if nothing_new { BTreeMap::new() } else { self.loaded.record(cx, &whole)? };
        if nothing_new {
            // The schema of what was loaded; the newest name is the likeliest to have the present one.
            new = all.iter().rfind(|f| f.size > 0).or(all.last()).cloned().into_iter().collect();
        }
        inspected.inferred.files = new;
        let resolved = self.files.relation(cx, &inspected, nothing_new).await?;
        let reads_target = resolved.reads_target || self.loaded.reads_target();
        Ok(resolved.with_reads_target(reads_target).with_info(info))
    }
}

struct Named<'a> {
    shown: &'a str,
    file: &'a ListedFile,
}

impl AsRef<str> for Named<'_> {
    fn as_ref(&self) -> &str {
        self.shown
    }
}

/// A listed name and a loaded one that end alike where no listed name is loaded: the location is written in another way
/// than in earlier runs (`/srv/landing/a.csv`, `landing/a.csv`), and everything would be loaded again.
fn renamed<'a>(listing: impl Iterator<Item = &'a str>, loaded: &'a BTreeSet<String>) -> Option<(&'a str, &'a str)> {
    if loaded.is_empty() {
        return None;
    }
    let listing: BTreeSet<&str> = listing.collect();
    if listing.iter().any(|name| loaded.contains(*name)) {
        return None;
    }
    let mut ends: HashMap<&str, &str> = HashMap::new();
    for known in loaded {
        for end in tails(known) {
            ends.entry(end).or_insert(known);
        }
    }
    listing.iter().find_map(|listed| {
        let shorter = || tails(listed).find_map(|end| loaded.get(end).map(String::as_str));
        ends.get(listed).copied().or_else(shorter).map(|known| (*listed, known))
    })
}

/// `a/b/c`: `b/c`, `c`.
fn tails(path: &str) -> impl Iterator<Item = &str> {
    path.match_indices(is_separator).map(|(i, _)| &path[i + 1..]).filter(|tail| !tail.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_location_written_in_another_way_is_noticed() {
        let loaded = BTreeSet::from(["landing/a.csv".to_owned(), "landing/b.csv".to_owned()]);
        assert_eq!(renamed(["/srv/landing/b.csv"].into_iter(), &loaded), Some(("/srv/landing/b.csv", "landing/b.csv")));
        assert_eq!(renamed(["b.csv"].into_iter(), &loaded), Some(("b.csv", "landing/b.csv")));
        assert_eq!(renamed(["landing/c.csv"].into_iter(), &loaded), None);
        assert_eq!(renamed(["landing/a.csv", "x/landing/b.csv"].into_iter(), &loaded), None, "one name is known");
        assert_eq!(renamed(["2014/ding/b.csv"].into_iter(), &loaded), None);
    }

    proptest! {
        #[test]
        fn new_and_loaded_make_up_the_listing(
            listing in prop::collection::vec("[a-c]{1,3}", 0..20),
            loaded in prop::collection::btree_set("[a-c]{1,3}", 0..20),
        ) {
            let new = new_files(listing.clone(), &loaded);
            let distinct: BTreeSet<String> = new.iter().cloned().collect();
            prop_assert_eq!(distinct.len(), new.len(), "each once");
            prop_assert!(distinct.is_disjoint(&loaded));
            let all: BTreeSet<String> = listing.into_iter().collect();
            prop_assert_eq!(&distinct | &(&all & &loaded), all);
            let mut after = loaded;
            after.extend(new);
            prop_assert!(new_files(distinct, &after).is_empty(), "a second run finds nothing");
        }
    }
}
