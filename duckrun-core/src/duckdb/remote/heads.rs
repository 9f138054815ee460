//! The beginnings of files that are read from front to back.
//!
//! DuckDB sniffs a CSV or JSON file whenever it plans a query over it, which is three or four times a run, and reads a buffer of 32 MiB
//! for that: without these, a CSV file of 40 MB crossed the network four times. Invariant: the bytes kept stay within the bound.

use std::collections::{HashMap, VecDeque};

use bytes::Bytes;

/// The most that is kept: a buffer of DuckDB's CSV and JSON readers.
pub(super) const MOST: usize = 32 << 20;

/// Beginnings by file, in pieces that follow each other from the first byte.
pub(super) struct Heads {
    kept: HashMap<(usize, usize), Vec<(u64, Bytes)>>,
    order: VecDeque<(usize, usize)>,
    bytes: usize,
    bound: usize,
}

impl Heads {
    pub(super) fn new(bound: usize) -> Self {
        Self { kept: HashMap::new(), order: VecDeque::new(), bytes: 0, bound: bound.min(MOST) }
    }

    /// What is kept of a file from a place on; never empty.
    pub(super) fn get(&self, key: (usize, usize), at: u64) -> Option<Bytes> {
        let pieces = self.kept.get(&key)?;
        let (start, piece) = pieces.iter().rfind(|(start, _)| *start <= at)?;
        let from = (at - start) as usize;
        (from < piece.len()).then(|| piece.slice(from..))
    }

    /// Keeps bytes that continue what is kept, as far as there is room beside nothing else; other files give way.
    pub(super) fn keep(&mut self, key: (usize, usize), at: u64, bytes: &[u8]) {
        let pieces = self.kept.entry(key).or_default();
        let end = pieces.last().map_or(0, |(start, piece)| start + piece.len() as u64);
        if at != end || end >= self.bound as u64 || bytes.is_empty() {
            return;
        }
        if pieces.is_empty() {
            self.order.push_back(key);
        }
        let room = self.bound - end as usize;
        let piece = Bytes::copy_from_slice(&bytes[..bytes.len().min(room)]);
        self.bytes += piece.len();
        pieces.push((at, piece));
        while self.bytes > self.bound
            && let Some(oldest) = self.order.iter().position(|other| *other != key).and_then(|i| self.order.remove(i))
        {
            self.bytes -= self.kept.remove(&oldest).map_or(0, |pieces| pieces.iter().map(|(_, p)| p.len()).sum());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn beginnings_are_kept_within_the_bound() {
        let mut heads = Heads::new(10);
        heads.keep((0, 0), 0, b"abcd");
        heads.keep((0, 0), 6, b"a gap");
        heads.keep((0, 0), 4, b"efgh");
        let get = |heads: &Heads, key, at| heads.get(key, at).map(|b| String::from_utf8(b.to_vec()).unwrap());
        assert_eq!(get(&heads, (0, 0), 1).as_deref(), Some("bcd"));
        assert_eq!(get(&heads, (0, 0), 4).as_deref(), Some("efgh"));
        assert_eq!(get(&heads, (0, 0), 8), None);
        // A second file takes the place of the first, and no more than there is.
        heads.keep((0, 1), 0, b"0123456789 and more");
        assert_eq!(get(&heads, (0, 0), 0), None);
        assert_eq!(get(&heads, (0, 1), 0).as_deref(), Some("0123456789"));
        heads.keep((0, 1), 10, b"more");
        assert_eq!((heads.bytes, get(&heads, (0, 1), 10)), (10, None));
        Heads::new(0).keep((0, 0), 0, b"x");
    }
}
