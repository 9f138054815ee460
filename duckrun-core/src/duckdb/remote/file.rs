//! An open file: reads at a place, and reads from front to back with a window read ahead.

use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::{Bytes, BytesMut};
use futures::{StreamExt, TryStreamExt};
use tokio::sync::{mpsc, oneshot};

use super::request::Request;
use super::{RemoteFiles, RemoteSet, TAIL};
use crate::{Error, ErrorKind, Result};

/// The largest and the first window of a file that is read from front to back.
const WINDOW: u64 = 4 << 20;
const FIRST_WINDOW: u64 = 256 << 10;
/// A longer read is fetched in parts of this size, a few at a time: one connection rarely fills a line.
const PART: u64 = 8 << 20;
const PARTS_AT_ONCE: usize = 4;
/// Chunks between the store's task and DuckDB's thread.
const CHUNKS: usize = 16;

/// One open file. Positional reads may come from several threads at once.
pub(in crate::duckdb) struct RemoteFile {
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
    pub(super) fn new(files: Arc<RemoteFiles>, set: Arc<RemoteSet>, key: (usize, usize)) -> Self {
        let size = set.files[key.1].size;
        Self { files, set, key, size, ahead: Mutex::default() }
    }

    pub(in crate::duckdb) fn size(&self) -> u64 {
        self.size
    }

    /// Fills `out` with the bytes from `offset`.
    ///
    /// # Errors
    /// For a range beyond the end, a store that fails, or an interrupt.
    pub(in crate::duckdb) fn read_at(&self, out: &mut [u8], offset: u64) -> Result<()> {
        let end = offset.checked_add(out.len() as u64).filter(|end| *end <= self.size);
        let Some(end) = end else {
            return Err(self.error(ErrorKind::Corrupt, format!("is shorter than its reader expects ({})", self.size)));
        };
        if out.is_empty() || self.copy_tail(out, offset) {
            return Ok(());
        }
        let known = self.files.beginnings.copy(self.key, out, offset);
        let (out, offset) = (&mut out[known..], offset + known as u64);
        if out.is_empty() {
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
        self.fetch_and_keep(out, offset)
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
    pub(in crate::duckdb) fn read_next(&self, out: &mut [u8], offset: u64) -> Result<usize> {
        let wanted = (out.len() as u64).min(self.size.saturating_sub(offset)) as usize;
        if self.size <= TAIL {
            self.read_at(&mut out[..wanted], offset)?;
            return Ok(wanted);
        }
        let mut ahead = self.ahead.lock().unwrap_or_else(PoisonError::into_inner);
        let mut done = 0;
        while done < wanted {
            let at = offset + done as u64;
            let inside = at.checked_sub(ahead.start).filter(|from| *from < ahead.window.len() as u64);
            let Some(from) = inside else {
                let known = self.files.beginnings.copy(self.key, &mut out[done..wanted], at);
                done += known;
                if known > 0 {
                    continue;
                }
                if (wanted - done) as u64 >= WINDOW {
                    self.fetch_and_keep(&mut out[done..wanted], at)?;
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
        self.files.beginnings.keep(self.key, at, |room| match window.len() <= room {
            true => window.clone(),
            // A slice would hold all of it.
            false => Bytes::copy_from_slice(&window[..room]),
        });
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

    /// The same as [`fetch`](Self::fetch); what continues the beginning that is kept of the file is kept too.
    fn fetch_and_keep(&self, out: &mut [u8], offset: u64) -> Result<()> {
        self.fetch(out, offset)?;
        let keep = |room: usize| Bytes::copy_from_slice(&out[..out.len().min(room)]);
        self.files.beginnings.keep(self.key, offset, keep);
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
