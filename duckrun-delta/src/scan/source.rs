//! Byte ranges of one file, from disk or from a store, and as parquet's readers want them.
//!
//! The invariant: a local file is read by position, never through its shared cursor, so that any number of threads may read
//! from one handle.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::sync::Arc;

use bytes::{Buf, Bytes};
use duckrun_core::{Error, Result};
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use parquet::errors::ParquetError;
use parquet::file::reader::{ChunkReader, Length};

use crate::error::{io_error, store_error};
use crate::location::Location;

/// Where a file's bytes are.
#[derive(Debug, Clone)]
pub(crate) enum Source {
    Local(Arc<File>),
    Object { store: Arc<dyn ObjectStore>, path: Path },
}

impl Source {
    /// Opens the file at a path below the table (decoded). An object is only looked at when it is read.
    pub(super) async fn open(location: &Location, relative: &str) -> Result<Self> {
        match location.local_path() {
            Some(root) => {
                let path = root.join(relative);
                let open = tokio::task::spawn_blocking(move || {
                    File::open(&path).map_err(|e| io_error(e, format_args!("open {}", path.display())))
                });
                Ok(Self::Local(Arc::new(open.await.map_err(stopped)??)))
            }
            None => {
                let path = Path::parse(relative)
                    .map_err(|e| Error::corrupt(format!("{relative:?} is no object's name")).with_source(e))?;
                Ok(Self::Object { store: Arc::clone(location.store()), path })
            }
        }
    }

    /// The bytes of ranges. Objects are asked for neighbouring ranges at once.
    pub(crate) async fn fetch(&self, name: &str, ranges: Vec<Range<u64>>) -> Result<Vec<Bytes>> {
        match self {
            Self::Local(file) => {
                let (file, name) = (Arc::clone(file), name.to_owned());
                let read = move || ranges.into_iter().map(|range| read_local(&file, &name, range)).collect();
                tokio::task::spawn_blocking(read).await.map_err(stopped)?
            }
            Self::Object { store, path } => match ranges.as_slice() {
                [] => Ok(Vec::new()),
                [one] => Ok(vec![store.get_range(path, one.clone()).await.map_err(|e| failed(name, e))?]),
                many => store.get_ranges(path, many).await.map_err(|e| failed(name, e)),
            },
        }
    }
}

fn failed(name: &str, e: object_store::Error) -> Error {
    store_error(e, format_args!("read {name}"))
}

/// A task that ended without an answer.
pub(super) fn stopped(e: tokio::task::JoinError) -> Error {
    Error::internal("a reader stopped").with_source(e)
}

/// Reads a range of a local file. Blocks.
pub(crate) fn read_local(file: &File, name: &str, range: Range<u64>) -> Result<Bytes> {
    let length = usize::try_from(range.end.saturating_sub(range.start))
        .map_err(|e| Error::corrupt(format!("{name} has an impossible range")).with_source(e))?;
    let mut bytes = vec![0; length];
    read_at(file, &mut bytes, range.start).map_err(|e| match e.kind() {
        io::ErrorKind::UnexpectedEof => Error::corrupt(format!("{name} is shorter than its footer or the log says")),
        _ => io_error(e, format_args!("read {name}")),
    })?;
    Ok(bytes.into())
}

#[cfg(unix)]
fn read_at(file: &File, bytes: &mut [u8], offset: u64) -> io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, bytes, offset)
}

#[cfg(windows)]
fn read_at(file: &File, mut bytes: &mut [u8], mut offset: u64) -> io::Result<()> {
    while !bytes.is_empty() {
        match std::os::windows::fs::FileExt::seek_read(file, bytes, offset)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            read => {
                bytes = &mut bytes[read..];
                offset += read as u64;
            }
        }
    }
    Ok(())
}

/// Parts of a file that are in memory, at the offsets that they have in it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Fetched {
    parts: Vec<(u64, Bytes)>,
    length: u64,
}

impl Fetched {
    /// Parts of a file of `length` bytes.
    pub(crate) fn new(parts: Vec<(u64, Bytes)>, length: u64) -> Self {
        Self { parts, length }
    }

    fn from(&self, start: u64) -> parquet::errors::Result<Bytes> {
        let part = self.parts.iter().find(|(at, bytes)| (*at..at + bytes.len() as u64).contains(&start));
        let (at, bytes) =
            part.ok_or_else(|| ParquetError::EOF(format!("byte {start} lies outside its column chunk")))?;
        Ok(bytes.slice((start - at) as usize..))
    }
}

impl Length for Fetched {
    fn len(&self) -> u64 {
        self.length
    }
}

impl ChunkReader for Fetched {
    type T = bytes::buf::Reader<Bytes>;

    fn get_read(&self, start: u64) -> parquet::errors::Result<Self::T> {
        Ok(self.from(start)?.reader())
    }

    fn get_bytes(&self, start: u64, length: usize) -> parquet::errors::Result<Bytes> {
        let bytes = self.from(start)?;
        if bytes.len() < length {
            return Err(ParquetError::EOF(format!("{length} bytes at {start} reach beyond their column chunk")));
        }
        Ok(bytes.slice(..length))
    }
}
