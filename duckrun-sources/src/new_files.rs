//! The files of a listing that a table has not loaded yet: the base of the "load only what is new" job.
//!
//! # Two ways to ask
//! - **In SQL**, over the `filename` column: `select * from landing where filename not in (select filename from this)`.
//!   Every file is listed, and every file of the listing is opened; right for some hundred files.
//! - **[`NewFiles`]**, which compares the listing with the names that the table has before the engine sees a file, so that
//!   loaded files are never opened. Who knows the names is a [`LoadedFiles`]: the table's own column read from the run's
//!   pinned snapshot, the commit history, or a list that an embedder keeps.
//!
//! An engine with session variables offers a third: store the new names in a variable before the SQL runs
//! (`SET VARIABLE fresh = (select list({filename: file}) from ...)`) and read `read_csv(getvariable('fresh'))`. It fails on
//! an empty list and sniffs at another time than it reads, so that it is not built in.
//!
//! Invariant: a run loads a file whole or not at all, and names it in the rows (or the commit) that it loads; two runs that
//! list the same new file cannot both commit, because [`NewFiles`] says that it reads the target, which fences the append.

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::path::is_separator;
use std::sync::Arc;

use async_trait::async_trait;
use duckrun_core::{Error, Relation, Result, RunContext, Source};

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

/// Who knows the files that were loaded. Implemented over a table's snapshot or history, or by an embedder; asked once per
/// run, after the target was pinned.
///
/// # Contract
/// The names are those of the `filename` column. A name that is missing loads its file again; one too many never loads it.
/// The answer belongs to the pinned snapshot, never to a later version.
#[async_trait]
pub trait LoadedFiles: Send + Sync + fmt::Debug {
    /// The names.
    ///
    /// # Errors
    /// When the answer is not complete (a history that no longer reaches back to its beginning): guessing would load twice.
    async fn loaded(&self, cx: &RunContext) -> Result<BTreeSet<String>>;

    /// Whether asking reads the run's own target.
    fn reads_target(&self) -> bool {
        true
    }
}

/// A list that somebody else keeps.
#[async_trait]
impl LoadedFiles for BTreeSet<String> {
    async fn loaded(&self, _: &RunContext) -> Result<BTreeSet<String>> {
        Ok(self.clone())
    }

    fn reads_target(&self) -> bool {
        false
    }
}

/// The files of a source that were not loaded yet. Where there are none it is a relation with the schema and no rows.
///
/// ```
/// use std::collections::BTreeSet;
/// use std::sync::Arc;
/// use duckrun_sources::{Csv, NewFiles};
///
/// let loaded: BTreeSet<String> = BTreeSet::from(["2013-01-01.csv".into()]);
/// let source = NewFiles::of(Csv::glob("landing/*.csv").filename_relative_to("landing"), Arc::new(loaded));
/// # let _ = source;
/// ```
#[derive(Debug, Clone)]
pub struct NewFiles<F> {
    files: FileSource<F>,
    loaded: Arc<dyn LoadedFiles>,
}

impl<F: Choose> NewFiles<F> {
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

    fn reads_target(&self) -> bool {
        self.loaded.reads_target()
    }

    async fn resolve(&self, cx: &RunContext) -> Result<Relation> {
        let run = cx.clone();
        let mut inspected = self.files.inspect_with(move || run.check()).await?;
        if inspected.filename.is_none() {
            return Err(Error::invalid(format!(
                "{} has no column with the file's name, by which later runs could tell what is new: use with_filename",
                self.describe()
            )));
        }
        let loaded = self.loaded.loaded(cx).await?;
        cx.check()?;
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
        let nothing_new = new.iter().all(|f| f.size == 0);
        if nothing_new {
            // The schema of what was loaded; the newest name is the likeliest to have the present one.
            new = all.iter().rfind(|f| f.size > 0).or(all.last()).cloned().into_iter().collect();
        }
        inspected.inferred.files = new;
        self.files.relation(&inspected, nothing_new)
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
