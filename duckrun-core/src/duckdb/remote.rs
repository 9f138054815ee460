//! Files of object stores as DuckDB reads them: by range, from threads of its own, under `remote.cpp`.
//!
//! Invariants: only files that were registered are opened, and their sizes are known, so that opening costs no request; a read
//! fills its buffer or fails, it is never short; a read ends when its statement is interrupted. What is kept besides
//! DuckDB's own buffers is bounded: chunks in flight, [`TAILS`] bytes of file ends per session, and two windows of at most
//! [`WINDOW`] bytes per file that is read from front to back.
//!
//! DuckDB plans the requests of parquet files itself: it joins neighbouring column chunks by the latency that it measures,
//! fetches on threads of its own, and counts the buffers in its memory limit. What is added here: the end of a file is
//! fetched once, wide enough for most footers, and kept, since DuckDB reads footers when it plans and again when it runs.

use std::collections::{HashMap, VecDeque};
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::{StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{GetOptions, GetRange, ObjectStore};
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::running::Running;
use crate::{Error, ErrorKind, FileSet, Result};

/// The scheme under which files are registered: `duckrun://<set>/<file>/<name>`.
const SCHEME: &str = "duckrun://";
/// Bytes at a file's end that are fetched at once and kept. Smaller files are fetched whole.
const TAIL: u64 = 64 << 10;
/// Bytes of file ends kept per session.
const TAILS: usize = 8 << 20;
/// The largest and the first window of a file that is read from front to back.
const WINDOW: u64 = 4 << 20;
const FIRST_WINDOW: u64 = 256 << 10;
/// A longer read is fetched in parts of this size, a few at a time: one connection rarely fills a line.
const PART: u64 = 8 << 20;
const PARTS_AT_ONCE: usize = 4;
/// Chunks between the store's task and DuckDB's thread.
const CHUNKS: usize = 16;
/// How often a range whose body breaks off is asked for again, from where it broke, and the first pause before that.
const ATTEMPTS: u32 = 4;
const FIRST_PAUSE: Duration = Duration::from_millis(50);

/// Everything that one session's DuckDB may read through object stores.
pub(super) struct RemoteFiles {
    runtime: Handle,
    run: CancellationToken,
    running: OnceLock<Arc<Running>>,
    sets: RwLock<Vec<Arc<RemoteSet>>>,
    tails: Mutex<Tails>,
}

/// The files of one relation.
struct RemoteSet {
    store: Arc<dyn ObjectStore>,
    files: Vec<Listed>,
}

struct Listed {
    path: Path,
    /// What messages call it.
    name: String,
    size: u64,
}

#[derive(Default)]
struct Tails {
    kept: HashMap<(usize, usize), Bytes>,
    order: VecDeque<(usize, usize)>,
    bytes: usize,
}

impl RemoteFiles {
    /// Called where the runtime is known that will make the requests.
    pub(super) fn new(runtime: Handle, run: CancellationToken) -> Arc<Self> {
        Arc::new(Self { runtime, run, running: OnceLock::new(), sets: RwLock::default(), tails: Mutex::default() })
    }

    /// Names what runs on the connection: its interrupts end reads too.
    pub(super) fn watch(&self, running: Arc<Running>) {
        // Set once, by the session that made both.
        let _ = self.running.set(running);
    }

    /// Registers the files of a relation, and returns their names for DuckDB, in order.
    pub(super) fn register(&self, set: &FileSet, store: &Arc<dyn ObjectStore>) -> Result<Vec<String>> {
        let files = set
            .files
            .iter()
            .map(|file| {
                let path = Path::from_url_path(&file.path)
                    .map_err(|e| Error::corrupt(format!("{:?} is not a path: {e}", file.path)))?;
                Ok(Listed { path, name: file.url.to_string(), size: file.size })
            })
            .collect::<Result<Vec<_>>>()?;
        let mut sets = self.sets.write().unwrap_or_else(PoisonError::into_inner);
        let serial = sets.len();
        let names = files.iter().enumerate().map(|(i, file)| {
            let plain: String = file.path.filename().unwrap_or_default().chars().filter(|c| is_plain(*c)).collect();
            format!("{SCHEME}{serial}/{i}/{plain}")
        });
        let names = names.collect();
        sets.push(Arc::new(RemoteSet { store: store.clone(), files }));
        Ok(names)
    }

    /// Whether a path is one of ours.
    pub(super) fn handles(&self, path: &str) -> bool {
        path.starts_with(SCHEME)
    }

    /// Opens a registered file; `None` for another path.
    pub(super) fn open(self: &Arc<Self>, path: &str) -> Option<RemoteFile> {
        let mut parts = path.strip_prefix(SCHEME)?.splitn(3, '/');
        let (serial, index): (usize, usize) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
        let set = self.sets.read().unwrap_or_else(PoisonError::into_inner).get(serial)?.clone();
        let size = set.files.get(index)?.size;
        Some(RemoteFile { files: self.clone(), set, key: (serial, index), size, ahead: Mutex::default() })
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

/// One open file. Positional reads may come from several threads at once.
pub(super) struct RemoteFile {
    files: Arc<RemoteFiles>,
    set: Arc<RemoteSet>,
    key: (usize, usize),
    size: u64,
    ahead: Mutex<Ahead>,
}

/// What is read ahead of a reader that goes from front to back.
#[derive(Default)]
struct Ahead {
    window: Bytes,
    start: u64,
    next: Option<(Range<u64>, oneshot::Receiver<Result<Bytes>>)>,
    length: u64,
}

impl RemoteFile {
    pub(super) fn size(&self) -> u64 {
        self.size
    }

    /// Fills `out` with the bytes from `offset`.
    ///
    /// # Errors
    /// For a range beyond the end, a store that fails, or an interrupt.
    pub(super) fn read_at(&self, out: &mut [u8], offset: u64) -> Result<()> {
        let end = offset.checked_add(out.len() as u64).filter(|end| *end <= self.size);
        let Some(end) = end else {
            return Err(self.error(ErrorKind::Corrupt, format!("is shorter than its reader expects ({})", self.size)));
        };
        if out.is_empty() || self.copy_tail(out, offset) {
            return Ok(());
        }
        let tail = self.size.saturating_sub(TAIL);
        if end == self.size && out.len() as u64 <= 4 * TAIL || offset >= tail {
            let start = offset.min(tail);
            let mut bytes = vec![0; (self.size - start) as usize];
            self.fetch(&mut bytes, start)?;
            self.files.tails().keep(self.key, bytes.into());
            if self.copy_tail(out, offset) {
                return Ok(());
            }
        }
        self.fetch(out, offset)
    }

    /// Copies from the end of the file, if that is kept.
    fn copy_tail(&self, out: &mut [u8], offset: u64) -> bool {
        let Some(tail) = self.files.tails().kept.get(&self.key).cloned() else { return false };
        let start = self.size - tail.len() as u64;
        let Some(from) = offset.checked_sub(start) else { return false };
        out.copy_from_slice(&tail[from as usize..from as usize + out.len()]);
        true
    }

    /// Fills `out` from `offset` as far as the file goes, and reads ahead. One thread at a time.
    ///
    /// # Errors
    /// As [`read_at`](Self::read_at).
    pub(super) fn read_next(&self, out: &mut [u8], offset: u64) -> Result<usize> {
        let wanted = (out.len() as u64).min(self.size.saturating_sub(offset)) as usize;
        let mut ahead = self.ahead.lock().unwrap_or_else(PoisonError::into_inner);
        let mut done = 0;
        while done < wanted {
            let at = offset + done as u64;
            let inside = at.checked_sub(ahead.start).filter(|from| *from < ahead.window.len() as u64);
            let Some(from) = inside else {
                if (wanted - done) as u64 >= WINDOW {
                    self.fetch(&mut out[done..wanted], at)?;
                    return Ok(wanted);
                }
                self.advance(&mut ahead, at)?;
                continue;
            };
            let piece = &ahead.window[from as usize..];
            let count = piece.len().min(wanted - done);
            out[done..done + count].copy_from_slice(&piece[..count]);
            done += count;
        }
        Ok(wanted)
    }

    /// Moves the window to `at`, and asks for the one after it.
    fn advance(&self, ahead: &mut Ahead, at: u64) -> Result<()> {
        let window = match ahead.next.take() {
            Some((range, answer)) if range.start == at => answer.blocking_recv().map_err(|_| self.gone())??,
            _ => {
                ahead.length = FIRST_WINDOW;
                let mut bytes = vec![0; ahead.length.min(self.size - at) as usize];
                self.fetch(&mut bytes, at)?;
                bytes.into()
            }
        };
        ahead.start = at;
        ahead.window = window;
        let next = at + ahead.window.len() as u64;
        if next < self.size {
            ahead.length = (ahead.length * 2).min(WINDOW);
            let range = next..(next + ahead.length).min(self.size);
            let (sender, receiver) = oneshot::channel();
            let mut request = self.request();
            let wanted = range.clone();
            self.files.runtime.spawn(async move {
                let (chunks, mut arriving) = mpsc::channel::<(u64, Bytes)>(CHUNKS);
                let whole = async {
                    let mut bytes = BytesMut::with_capacity((wanted.end - wanted.start) as usize);
                    while let Some((_, chunk)) = arriving.recv().await {
                        bytes.extend_from_slice(&chunk);
                    }
                    bytes.freeze()
                };
                let fetched = async {
                    let fetched = request.range(wanted.clone(), &chunks).await;
                    drop(chunks);
                    fetched
                };
                let (fetched, bytes) = tokio::join!(fetched, whole);
                // Nobody listens once the file is closed.
                let _ = sender.send(fetched.map(|()| bytes));
            });
            ahead.next = Some((range, receiver));
        }
        Ok(())
    }

    /// Fills `out` from `offset` by one request, or several side by side where it is long.
    fn fetch(&self, out: &mut [u8], offset: u64) -> Result<()> {
        let end = offset + out.len() as u64;
        let starts = (offset..end).step_by(PART as usize);
        let parts: Vec<_> = starts.map(|start| start..(start + PART).min(end)).collect();
        let (chunks, mut arriving) = mpsc::channel::<(u64, Bytes)>(CHUNKS);
        let (sender, outcome) = oneshot::channel();
        let request = self.request();
        self.files.runtime.spawn(async move {
            let fetch = |part| {
                let (mut request, chunks) = (request.clone(), chunks.clone());
                async move { request.range(part, &chunks).await }
            };
            let fetches = futures::stream::iter(parts).map(fetch).buffer_unordered(PARTS_AT_ONCE);
            let fetched = fetches.try_collect::<()>().await;
            drop(chunks);
            // The reader waits until both ends are gone.
            let _ = sender.send(fetched);
        });
        let mut filled = 0;
        while let Some((at, chunk)) = arriving.blocking_recv() {
            let from = (at - offset) as usize;
            out[from..from + chunk.len()].copy_from_slice(&chunk);
            filled += chunk.len();
        }
        outcome.blocking_recv().map_err(|_| self.gone())??;
        if filled == out.len() { Ok(()) } else { Err(Error::internal("a read that was whole left a gap")) }
    }

    fn request(&self) -> Request {
        Request {
            set: self.set.clone(),
            index: self.key.1,
            statement: self.files.statement(),
            run: self.files.run.clone(),
        }
    }

    fn error(&self, kind: ErrorKind, text: String) -> Error {
        Error::new(kind, format!("{} {text}", self.set.files[self.key.1].name))
    }

    fn gone(&self) -> Error {
        self.error(ErrorKind::Unavailable, "cannot be read: the async runtime has ended".to_owned())
    }
}

/// The right to ask for ranges of one file, on behalf of one statement.
#[derive(Clone)]
struct Request {
    set: Arc<RemoteSet>,
    index: usize,
    statement: CancellationToken,
    run: CancellationToken,
}

impl Request {
    /// Sends the bytes of a range in order. A body that breaks off is continued where it broke.
    async fn range(&mut self, range: Range<u64>, out: &mpsc::Sender<(u64, Bytes)>) -> Result<()> {
        let (statement, run) = (self.statement.clone(), self.run.clone());
        tokio::select! {
            biased;
            () = statement.cancelled() => Err(Error::cancelled()),
            () = run.cancelled() => Err(Error::cancelled()),
            done = self.attempts(range, out) => done,
        }
    }

    async fn attempts(&self, range: Range<u64>, out: &mpsc::Sender<(u64, Bytes)>) -> Result<()> {
        let mut at = range.start;
        let mut pause = FIRST_PAUSE;
        for attempt in 1.. {
            let failed = match self.body(&mut at, range.end, out).await {
                Ok(()) if at == range.end => return Ok(()),
                Ok(()) => None,
                Err(e) => Some(e),
            };
            let passing = failed.as_ref().is_none_or(|e| matches!(e, object_store::Error::Generic { .. }));
            if !passing || attempt == ATTEMPTS {
                return Err(self.error(failed));
            }
            tokio::time::sleep(pause).await;
            pause *= 4;
        }
        Ok(())
    }

    async fn body(&self, at: &mut u64, end: u64, out: &mpsc::Sender<(u64, Bytes)>) -> object_store::Result<()> {
        let options = GetOptions { range: Some(GetRange::Bounded(*at..end)), ..GetOptions::default() };
        let answer = self.set.store.get_opts(&self.set.files[self.index].path, options).await?;
        if answer.range.start != *at {
            return Ok(());
        }
        let mut body = answer.into_stream();
        while let Some(mut chunk) = body.try_next().await? {
            chunk.truncate((end - *at) as usize);
            let from = *at;
            *at += chunk.len() as u64;
            if out.send((from, chunk)).await.is_err() {
                return Ok(());
            }
        }
        Ok(())
    }

    fn error(&self, failed: Option<object_store::Error>) -> Error {
        use object_store::Error as E;
        let name = &self.set.files[self.index].name;
        let Some(e) = failed else {
            return Error::new(ErrorKind::Unavailable, format!("{name} cannot be read: its body breaks off"));
        };
        let kind = match &e {
            E::NotFound { .. } => ErrorKind::NotFound,
            E::PermissionDenied { .. } | E::Unauthenticated { .. } => ErrorKind::PermissionDenied,
            E::NotSupported { .. } | E::NotImplemented { .. } => ErrorKind::Unsupported,
            _ => ErrorKind::Unavailable,
        };
        Error::new(kind, format!("{name} cannot be read: {e}"))
    }
}
