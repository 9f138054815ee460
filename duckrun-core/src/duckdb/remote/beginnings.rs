//! The beginnings of files that are read from front to back, kept between the times that DuckDB plans a query over them.
//!
//! DuckDB 2.0 sniffs a CSV or JSON file whenever it binds its reader, and reads a whole buffer for it (32 MiB for both by
//! default): once for the view, once to describe the query, once to run it. Its own cache of remote files keeps only paths with
//! a scheme that it knows, and would keep what is read once as well.
//!
//! Invariants: what is kept of a file is one piece from its first byte; all pieces together hold at most the limit; nothing
//! that is kept is given up for something else, so that a scan over many files cannot drive out the one that is planned with.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

/// Which file: the set that it was registered in, and its place there.
pub(super) type Key = (usize, usize);

/// The beginnings of one session's files.
pub(super) struct Beginnings {
    limit: usize,
    kept: Mutex<Kept>,
}

#[derive(Default)]
struct Kept {
    files: HashMap<Key, Vec<Bytes>>,
    bytes: usize,
}

impl Beginnings {
    pub(super) fn new(limit: usize) -> Self {
        Self { limit, kept: Mutex::default() }
    }

    /// Copies what is kept from `offset` on into `out`, and returns how many bytes that were.
    pub(super) fn copy(&self, key: Key, out: &mut [u8], offset: u64) -> usize {
        // Clones of the pieces, so that other threads need not wait for the copying.
        let pieces = self.kept().files.get(&key).cloned().unwrap_or_default();
        let (mut start, mut done) = (0, 0);
        for piece in pieces {
            let end = start + piece.len() as u64;
            let at = offset + done as u64;
            if (start..end).contains(&at) {
                let rest = &piece[(at - start) as usize..];
                let count = rest.len().min(out.len() - done);
                out[done..done + count].copy_from_slice(&rest[..count]);
                done += count;
            }
            start = end;
        }
        done
    }

    /// Keeps bytes that continue what is kept of the file, as many as there is room for.
    pub(super) fn keep(&self, key: Key, offset: u64, bytes: impl FnOnce(usize) -> Bytes) {
        let mut kept = self.kept();
        let room = self.limit.saturating_sub(kept.bytes);
        let length: u64 = kept.files.get(&key).into_iter().flatten().map(|piece| piece.len() as u64).sum();
        if length != offset || room == 0 {
            return;
        }
        let piece = bytes(room);
        kept.bytes += piece.len();
        kept.files.entry(key).or_default().push(piece);
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_beginning_is_one_piece_and_the_limit_holds() {
        let beginnings = Beginnings::new(10);
        let keep = |key, offset, text: &'static str| {
            beginnings.keep(key, offset, |room| Bytes::from_static(&text.as_bytes()[..text.len().min(room)]));
        };
        let read = |key, offset, length| {
            let mut out = vec![b'.'; length];
            let count = beginnings.copy(key, &mut out, offset);
            String::from_utf8(out[..count].to_vec()).unwrap()
        };
        keep((0, 1), 3, "not the beginning");
        assert_eq!(read((0, 1), 3, 4), "");
        keep((0, 1), 0, "abc");
        keep((0, 1), 0, "abc");
        keep((0, 1), 3, "def");
        assert_eq!(
            (read((0, 1), 0, 9), read((0, 1), 2, 2), read((0, 1), 6, 1)),
            ("abcdef".into(), "cd".into(), "".into())
        );
        keep((0, 2), 0, "another one");
        assert_eq!(read((0, 2), 0, 20), "anot");
        keep((0, 3), 0, "no room");
        assert_eq!((read((0, 3), 0, 20), read((0, 1), 0, 3)), ("".into(), "abc".into()));
    }
}
