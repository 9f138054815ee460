//! One parquet file on its way into the store: created under a fresh name, extended by encoded row groups, finished.
//!
//! A local file is written in place and synced; an object is put whole when it is small and in parts of [`PART`] bytes
//! otherwise. The invariant: parts in flight over all files of a write never exceed the permits of its semaphore.

use std::fs::File;
use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use duckrun_core::{Error, ErrorKind, Result};
use object_store::path::Path as ObjectPath;
use object_store::{MultipartUpload, ObjectStore, ObjectStoreExt, PutPayload};
use parquet::arrow::arrow_writer::ArrowColumnChunk;
use parquet::column::writer::ColumnCloseResult;
use parquet::file::metadata::ParquetMetaData;
use parquet::file::properties::WriterPropertiesPtr;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::types::TypePtr;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::scan::Fetched;

use super::encode::Encoded;
use super::litter::Litter;
use super::stats::Counts;

/// The size of an upload's parts; all but the last are equal, as some stores demand.
const PART: usize = duckrun_memory::constants::UPLOAD_PART as usize;

/// Where files go.
#[derive(Debug, Clone)]
pub(crate) struct Destination {
    pub(crate) store: Arc<dyn ObjectStore>,
    pub(crate) local: Option<PathBuf>,
    pub(crate) litter: Litter,
    pub(crate) permits: Arc<Semaphore>,
    pub(crate) schema: TypePtr,
    pub(crate) properties: WriterPropertiesPtr,
    pub(crate) sync: bool,
}

/// A file that is being written.
#[derive(Debug)]
pub(crate) struct DataFile {
    to: Destination,
    /// The path below the table, unencoded.
    relative: String,
    writer: SerializedFileWriter<Out>,
    counts: Counts,
    upload: Option<Upload>,
}

/// One column chunk of a row group.
#[derive(Debug)]
pub(crate) enum Part {
    /// Encoded here.
    Encoded(Box<ArrowColumnChunk>),
    /// The bytes of another file's, at their offsets there, with the metadata that they get here.
    Copied(Fetched, Box<ColumnCloseResult>),
}

/// A file that is complete.
#[derive(Debug)]
pub(crate) struct Finished {
    pub(crate) relative: String,
    pub(crate) size: u64,
    pub(crate) metadata: ParquetMetaData,
    pub(crate) counts: Counts,
}

#[derive(Debug)]
enum Out {
    Disk(File),
    Memory(Vec<u8>),
}

impl Write for Out {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        match self {
            Self::Disk(file) => file.write(buf),
            Self::Memory(bytes) => bytes.write(buf),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Disk(file) => file.flush(),
            Self::Memory(_) => Ok(()),
        }
    }
}

impl DataFile {
    /// Creates a file. Blocks for a local one.
    pub(crate) fn create(to: Destination, relative: String) -> Result<Self> {
        let out = match &to.local {
            Some(root) => Out::Disk(
                to.litter
                    .create(root, &relative)
                    .map_err(|e| io_error(&root.join(&relative).display().to_string(), e))?,
            ),
            None => Out::Memory(Vec::new()),
        };
        let writer = SerializedFileWriter::new(out, Arc::clone(&to.schema), Arc::clone(&to.properties))
            .map_err(|e| write_error(&relative, e))?;
        Ok(Self { to, relative, writer, counts: Counts::new(0, 0), upload: None })
    }

    /// Bytes in the file so far.
    pub(crate) fn bytes(&self) -> u64 {
        self.writer.bytes_written() as u64
    }

    /// Appends a row group. Blocks for a local file; for an object follow with [`DataFile::send`].
    pub(crate) fn append(&mut self, encoded: Encoded) -> Result<()> {
        self.append_parts(encoded.chunks.into_iter().map(|chunk| Part::Encoded(Box::new(chunk))), encoded.counts)
    }

    /// As [`DataFile::append`], from column chunks that were encoded or taken from another file.
    pub(crate) fn append_parts(&mut self, parts: impl IntoIterator<Item = Part>, counts: Counts) -> Result<()> {
        let append = |writer: &mut SerializedFileWriter<Out>| -> parquet::errors::Result<()> {
            let mut group = writer.next_row_group()?;
            for part in parts {
                match part {
                    Part::Encoded(chunk) => chunk.append_to_row_group(&mut group)?,
                    Part::Copied(bytes, close) => group.append_column(&bytes, *close)?,
                }
            }
            group.close()?;
            Ok(())
        };
        append(&mut self.writer).map_err(|e| write_error(&self.name(), e))?;
        if self.counts == Counts::new(0, 0) {
            self.counts = counts;
        } else {
            self.counts.merge(&counts);
        }
        Ok(())
    }

    fn name(&self) -> String {
        self.to.local.as_ref().map_or_else(|| self.relative.clone(), |r| r.join(&self.relative).display().to_string())
    }

    /// Writes the footer and syncs. Blocks for a local file; for an object follow with [`DataFile::complete`].
    pub(crate) fn seal(&mut self) -> Result<ParquetMetaData> {
        let metadata = self.writer.finish().map_err(|e| write_error(&self.name(), e))?;
        if let (Out::Disk(file), true) = (self.writer.inner(), self.to.sync) {
            file.sync_all().map_err(|e| io_error(&self.name(), e))?;
        }
        Ok(metadata)
    }

    /// Sends what was appended, as far as it fills parts. Waits while too many parts are in flight.
    pub(crate) async fn send(&mut self) -> Result<()> {
        self.writer.flush().map_err(|e| io_error(&self.relative, e))?;
        let Out::Memory(bytes) = self.writer.inner_mut() else { return Ok(()) };
        while bytes.len() >= PART {
            let rest = bytes.split_off(PART);
            let part = std::mem::replace(bytes, rest);
            if self.upload.is_none() {
                let path = object_path(&self.relative)?;
                self.to.litter.register(path.clone());
                let parts = self.to.store.put_multipart(&path).await.map_err(|e| store_error(&self.relative, e))?;
                self.upload = Some(Upload { parts: Some(parts), sending: JoinSet::new() });
            }
            if let Some(upload) = &mut self.upload {
                upload.put(part, &self.to.permits).await.map_err(|e| store_error(&self.relative, e))?;
            }
        }
        Ok(())
    }

    /// Ends the file after [`DataFile::seal`]: for an object the last bytes are sent and all are waited for.
    pub(crate) async fn complete(mut self, metadata: ParquetMetaData) -> Result<Finished> {
        let size = self.bytes();
        if matches!(self.writer.inner(), Out::Memory(_)) {
            self.send().await?;
        }
        if let Out::Memory(bytes) = self.writer.inner_mut() {
            let last = std::mem::take(bytes);
            match self.upload.take() {
                Some(mut upload) => {
                    if !last.is_empty() {
                        upload.put(last, &self.to.permits).await.map_err(|e| store_error(&self.relative, e))?;
                    }
                    upload.complete().await.map_err(|e| store_error(&self.relative, e))?;
                }
                None => {
                    let path = object_path(&self.relative)?;
                    self.to.litter.register(path.clone());
                    let payload = PutPayload::from(Bytes::from(last));
                    self.to.store.put(&path, payload).await.map_err(|e| store_error(&self.relative, e))?;
                }
            }
        }
        Ok(Finished { relative: self.relative, size, metadata, counts: self.counts })
    }
}

/// A multipart upload that is aborted when it is dropped before it is complete.
#[derive(Debug)]
struct Upload {
    parts: Option<Box<dyn MultipartUpload>>,
    sending: JoinSet<object_store::Result<()>>,
}

impl Upload {
    async fn put(&mut self, part: Vec<u8>, permits: &Arc<Semaphore>) -> object_store::Result<()> {
        while let Some(done) = self.sending.try_join_next() {
            done.map_err(|source| object_store::Error::JoinError { source })??;
        }
        // The semaphore is never closed; without a permit the part would only be sent too early.
        let permit = Arc::clone(permits).acquire_owned().await.ok();
        if let Some(parts) = &mut self.parts {
            let send = parts.put_part(PutPayload::from(Bytes::from(part)));
            self.sending.spawn(async move {
                let sent = send.await;
                drop(permit);
                sent
            });
        }
        Ok(())
    }

    async fn complete(&mut self) -> object_store::Result<()> {
        while let Some(done) = self.sending.join_next().await {
            done.map_err(|source| object_store::Error::JoinError { source })??;
        }
        if let Some(parts) = &mut self.parts {
            parts.complete().await?;
        }
        self.parts = None;
        Ok(())
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        let Some(mut parts) = self.parts.take() else { return };
        self.sending.abort_all();
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            drop(runtime.spawn(async move {
                if let Err(error) = parts.abort().await {
                    tracing::warn!(%error, "an upload could not be aborted; the store's own rules remove its parts");
                }
            }));
        }
    }
}

fn object_path(relative: &str) -> Result<ObjectPath> {
    // `parse`, not `from`: the name is encoded already, and `from` would encode it again.
    ObjectPath::parse(relative).map_err(|e| Error::internal(format!("bad object name {relative:?}: {e}")))
}

/// Syncs a folder, so that the names in it survive a crash. Where folders cannot be opened there is nothing to do.
pub(crate) fn sync_folder(folder: &std::path::Path) -> Result<()> {
    #[cfg(unix)]
    File::open(folder).and_then(|f| f.sync_all()).map_err(|e| io_error(&folder.display().to_string(), e))?;
    #[cfg(not(unix))]
    let _ = folder;
    Ok(())
}

fn io_kind(e: &io::Error) -> ErrorKind {
    use io::ErrorKind as K;
    match e.kind() {
        K::StorageFull | K::QuotaExceeded | K::FileTooLarge | K::OutOfMemory => ErrorKind::ResourceExhausted,
        K::PermissionDenied | K::ReadOnlyFilesystem => ErrorKind::PermissionDenied,
        K::NotADirectory | K::InvalidFilename => ErrorKind::InvalidInput,
        K::Interrupted => ErrorKind::Cancelled,
        // Too many open files, in this process or on the machine.
        _ if matches!(e.raw_os_error(), Some(23 | 24)) => ErrorKind::ResourceExhausted,
        _ => ErrorKind::Unavailable,
    }
}

/// The error of a local path.
pub(crate) fn io_error(path: &str, e: io::Error) -> Error {
    Error::new(io_kind(&e), format!("cannot write {path}: {e}")).with_operation("write").with_source(e)
}

/// The error of the parquet writer; what the file system said decides about the kind.
fn write_error(path: &str, e: parquet::errors::ParquetError) -> Error {
    let kind = cause(&e).map_or(ErrorKind::Internal, io_kind);
    Error::new(kind, format!("cannot write {path}: {e}")).with_operation("write").with_source(e)
}

/// The error of an object store.
fn store_error(path: &str, e: object_store::Error) -> Error {
    let kind = match &e {
        object_store::Error::PermissionDenied { .. } | object_store::Error::Unauthenticated { .. } => {
            ErrorKind::PermissionDenied
        }
        object_store::Error::NotFound { .. } => ErrorKind::NotFound,
        object_store::Error::NotImplemented { .. } | object_store::Error::NotSupported { .. } => ErrorKind::Unsupported,
        other => cause(other).map_or(ErrorKind::Unavailable, io_kind),
    };
    Error::new(kind, format!("cannot write {path}: {e}")).with_operation("write").with_source(e)
}

fn cause<'a>(e: &'a (dyn std::error::Error + 'static)) -> Option<&'a io::Error> {
    std::iter::successors(Some(e), |e| e.source()).find_map(|e| e.downcast_ref::<io::Error>())
}
