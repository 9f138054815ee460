//! Files of object stores as DuckDB reads them: by range, from threads of its own, under `remote.cpp`.
//!
//! Invariants: only files that were registered are opened, and their sizes are known, so that opening costs no request; a read
//! fills its buffer or fails, it is never short; a read ends when its statement is interrupted. What is kept besides
//! DuckDB's own buffers is bounded: chunks in flight, [`TAILS`] bytes of file ends and at most [`BEGINNINGS`] of file beginnings
//! per session, and two windows of at most 4 MiB per file that is read from front to back.
//!
//! DuckDB plans the requests of parquet files itself: it joins neighbouring column chunks by the latency that it measures,
//! fetches on threads of its own, and counts the buffers in its memory limit. What is added here: the end of a file is
//! fetched once, wide enough for most footers, and kept, since DuckDB reads footers when it plans and again when it runs; so
//! are small files, and the beginnings of large CSV and JSON files ([`beginnings`]).

mod beginnings;
mod file;
mod laid;
mod request;

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock};

use bytes::Bytes;
use object_store::ObjectStore;
use object_store::path::Path;
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

use self::beginnings::Beginnings;
pub(super) use self::file::RemoteFile;
pub(super) use self::laid::{Laid, lay_by, lay_by_files};
use super::running::Running;
use crate::{Error, FileSet, Result, StoreFiles};

/// The scheme under which files are registered: `duckrun://<set>/<name>`.
const SCHEME: &str = "duckrun://";
/// Bytes at a file's end that are fetched at once and kept. Smaller files are fetched whole.
const TAIL: u64 = 64 << 10;
/// Bytes of file ends kept per session.
const TAILS: usize = 8 << 20;
/// Bytes of the beginnings of larger files kept per session: what DuckDB reads of one to sniff it. Less where DuckDB's own limit is
/// small: an eighth of it.
const BEGINNINGS: usize = 32 << 20;

/// Everything that one session's DuckDB may read through object stores.
pub(super) struct RemoteFiles {
    runtime: Handle,
    run: CancellationToken,
    running: OnceLock<Arc<Running>>,
    sets: RwLock<Vec<Arc<RemoteSet>>>,
    tails: Mutex<Tails>,
    beginnings: Beginnings,
}

/// The files of one relation.
struct RemoteSet {
    store: Arc<dyn ObjectStore>,
    files: Vec<Listed>,
    /// Where each name is in `files`: a path that DuckDB asks for is one of these, or no file of ours.
    names: HashMap<String, usize>,
}

struct Listed {
    path: Path,
    /// What messages call it.
    name: String,
    size: u64,
    /// What the store said that it held when it was listed; a read of anything else fails.
    e_tag: Option<String>,
}

#[derive(Default)]
struct Tails {
    kept: HashMap<(usize, usize), Bytes>,
    order: VecDeque<(usize, usize)>,
    bytes: usize,
}

impl RemoteFiles {
    /// Called where the runtime is known that will make the requests. `memory` is what DuckDB may use beside it.
    pub(super) fn new(runtime: Handle, run: CancellationToken, memory: u64) -> Arc<Self> {
        let limit = usize::try_from(memory / 8).map_or(BEGINNINGS, |share| share.min(BEGINNINGS));
        Arc::new(Self {
            runtime,
            run,
            running: OnceLock::new(),
            sets: RwLock::default(),
            tails: Mutex::default(),
            beginnings: Beginnings::new(limit),
        })
    }

    /// Names what runs on the connection: its interrupts end reads too.
    pub(super) fn watch(&self, running: Arc<Running>) {
        // Set once, by the session that made both.
        let _ = self.running.set(running);
    }

    /// Registers the files of a snapshot, and returns their names for DuckDB, in order.
    pub(super) fn register(&self, set: &FileSet, store: &Arc<dyn ObjectStore>) -> Result<Vec<String>> {
        let (mut files, mut names) = (Vec::with_capacity(set.files.len()), Vec::with_capacity(set.files.len()));
        for (i, file) in set.files.iter().enumerate() {
            let path = Path::from_url_path(&file.path)
                .map_err(|e| Error::corrupt(format!("{:?} is not a path: {e}", file.path)))?;
            let plain: String = path.filename().unwrap_or_default().chars().filter(|c| is_plain(*c)).collect();
            names.push(format!("{i}/{plain}"));
            // Data files are never written again, so that their sizes are enough.
            files.push(Listed { path, name: file.url.to_string(), size: file.size, e_tag: None });
        }
        let prefix = self.add(store.clone(), files, &names);
        Ok(names.into_iter().map(|name| prefix.clone() + &name).collect())
    }

    /// Registers files that were listed. Returns what stands before their names for DuckDB.
    pub(super) fn open_files(&self, files: StoreFiles) -> String {
        let names: Vec<String> = files.files.iter().map(|f| f.name.clone()).collect();
        let listed = files.files.into_iter();
        let listed = listed.map(|f| Listed { path: f.path, name: f.name, size: f.size, e_tag: f.e_tag });
        self.add(files.store, listed.collect(), &names)
    }

    fn add(&self, store: Arc<dyn ObjectStore>, files: Vec<Listed>, names: &[String]) -> String {
        let names = names.iter().enumerate().map(|(i, name)| (name.clone(), i)).collect();
        let mut sets = self.sets.write().unwrap_or_else(PoisonError::into_inner);
        sets.push(Arc::new(RemoteSet { store, files, names }));
        format!("{SCHEME}{}/", sets.len() - 1)
    }

    /// Whether a path is one of ours.
    pub(super) fn handles(&self, path: &str) -> bool {
        path.starts_with(SCHEME)
    }

    /// Opens a registered file; `None` for another path.
    pub(super) fn open(self: &Arc<Self>, path: &str) -> Option<RemoteFile> {
        let (serial, name) = path.strip_prefix(SCHEME)?.split_once('/')?;
        let serial: usize = serial.parse().ok()?;
        let set = self.sets.read().unwrap_or_else(PoisonError::into_inner).get(serial)?.clone();
        let index = *set.names.get(name)?;
        Some(RemoteFile::new(self.clone(), set, (serial, index)))
    }

    /// Ends when the statement that reads is interrupted, or its run cancelled.
    fn statement(&self) -> CancellationToken {
        self.running.get().map_or_else(CancellationToken::new, |running| running.token())
    }

    fn tails(&self) -> MutexGuard<'_, Tails> {
        self.tails.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn is_plain(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_')
}

impl Tails {
    fn keep(&mut self, key: (usize, usize), tail: Bytes) {
        self.bytes += tail.len();
        if let Some(old) = self.kept.insert(key, tail) {
            self.bytes -= old.len();
        } else {
            self.order.push_back(key);
        }
        while self.bytes > TAILS
            && let Some(oldest) = self.order.pop_front()
        {
            self.bytes -= self.kept.remove(&oldest).map_or(0, |tail| tail.len());
        }
    }
}

/// A text of DuckDB's with the files called as the user calls them.
pub(super) fn plain_names(text: &str) -> String {
    let mut parts = text.split(SCHEME);
    let mut out = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        match part.split_once('/') {
            Some((serial, rest)) if !serial.is_empty() && serial.bytes().all(|b| b.is_ascii_digit()) => out += rest,
            _ => {
                out += SCHEME;
                out += part;
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    #[test]
    fn messages_name_files_as_they_were_listed() {
        for (text, plain) in [
            ("in duckrun://3/s3://b/x.csv: line 2, duckrun://12/y", "in s3://b/x.csv: line 2, y"),
            ("duckrun:// duckrun://x/y", "duckrun:// duckrun://x/y"),
            ("", ""),
        ] {
            assert_eq!(super::plain_names(text), plain);
        }
    }
}
