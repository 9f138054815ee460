//! An object as a file for decoders that block: reads go through a window, each window is one request.

use std::io::{self, Read, Seek, SeekFrom};
use std::sync::{Arc, mpsc};

use duckrun_core::object_store::{GetOptions, GetRange, ObjectStore};
use duckrun_core::{Error, Result, StoreFile};
use tokio::runtime::Handle;

use crate::stores::unreadable;

/// Bytes that are fetched at once, and kept.
const WINDOW: u64 = 2 << 20;

/// Reads an object from a thread that may block.
pub(crate) struct ObjectReader {
    store: Arc<dyn ObjectStore>,
    file: StoreFile,
    runtime: Handle,
    at: u64,
    start: u64,
    window: Vec<u8>,
}

impl ObjectReader {
    /// Called where the runtime is known that will make the requests.
    pub(crate) fn new(store: Arc<dyn ObjectStore>, file: StoreFile, runtime: Handle) -> Self {
        Self { store, file, runtime, at: 0, start: 0, window: Vec::new() }
    }

    fn fetch(&mut self) -> Result<()> {
        let range = self.at..(self.at + WINDOW).min(self.file.size);
        let options = GetOptions {
            range: Some(GetRange::Bounded(range.clone())),
            if_match: self.file.e_tag.clone(),
            ..GetOptions::default()
        };
        let (store, path) = (self.store.clone(), self.file.path.clone());
        let (send, receive) = mpsc::channel();
        self.runtime.spawn(async move {
            let fetched = async { store.get_opts(&path, options).await?.bytes().await };
            // Where nobody listens any more the reader was dropped.
            let _ = send.send(fetched.await);
        });
        let gone = |e| Error::internal("the runtime of a reader has ended").with_source(e);
        let bytes = receive.recv().map_err(gone)?.map_err(|e| unreadable(&self.file.name, e))?;
        self.start = range.start;
        self.window = bytes.into();
        Ok(())
    }
}

impl Read for ObjectReader {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if self.at >= self.file.size || out.is_empty() {
            return Ok(0);
        }
        let kept = self.start..self.start + self.window.len() as u64;
        if !kept.contains(&self.at) {
            self.fetch().map_err(io::Error::other)?;
        }
        let Some(piece) = self.window.get((self.at - self.start) as usize..).filter(|piece| !piece.is_empty()) else {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, format!("{} breaks off", self.file.name)));
        };
        let count = piece.len().min(out.len());
        out[..count].copy_from_slice(&piece[..count]);
        self.at += count as u64;
        Ok(count)
    }
}

impl Seek for ObjectReader {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let target = match to {
            SeekFrom::Start(at) => Some(at),
            SeekFrom::End(by) => self.file.size.checked_add_signed(by),
            SeekFrom::Current(by) => self.at.checked_add_signed(by),
        };
        self.at = target.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "a seek before the beginning"))?;
        Ok(self.at)
    }
}
