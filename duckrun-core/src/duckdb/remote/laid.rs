//! Files of object stores for a DuckDB that has no file system of ours: they are laid by in the run's spill folder.
//!
//! That is a caller's own connection, whose database was opened without us, and a libduckdb that was not compiled with us.
//! Whole files are fetched, once, in pieces, and read by DuckDB from the disk: what its readers can do they still do, and
//! memory stays out of it. What is lost is pruning within files before they cross the network; the list is as pruned as ever.
//! An Arrow stream into a temporary table would also fetch every row group, spill them decoded (a multiple of the bytes), and
//! lose the rows' positions that merges need; a table function in Rust is not pushed any filter by this C API.
//!
//! Invariants: nothing is written outside of the spill folder, and not more than its cap; what is laid by has the size that
//! was listed, or the relation is not registered.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Component, Path as FsPath, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use object_store::path::Path;
use tokio::runtime::Handle;
use url::Url;

use super::RemoteFiles;
use crate::{Error, ErrorKind, FileSet, Result, RunContext, StoreFile, StoreFiles};

/// Files that are fetched at a time, each through a buffer of this size.
const AT_ONCE: usize = 4;
const BUFFER: usize = 1 << 20;

/// What a session has laid by so far.
#[derive(Default)]
pub(in crate::duckdb) struct Laid {
    sets: AtomicUsize,
    bytes: std::sync::atomic::AtomicU64,
}

/// A snapshot's files, laid by.
pub(in crate::duckdb) async fn lay_by(cx: &RunContext, laid: &Laid, mut set: FileSet) -> Result<FileSet> {
    let Some(store) = set.store.take() else { return Ok(set) };
    let mut files = Vec::with_capacity(set.files.len());
    for (i, file) in set.files.iter().enumerate() {
        let path = Path::from_url_path(&file.path)
            .map_err(|e| Error::corrupt(format!("{:?} is not a path: {e}", file.path)))?;
        files.push(StoreFile { name: format!("{i}.parquet"), path, size: file.size, e_tag: None });
    }
    let prefix = lay_by_files(cx, laid, StoreFiles { store, files }).await?;
    for (i, file) in set.files.iter_mut().enumerate() {
        file.url = Url::from_file_path(format!("{prefix}{i}.parquet"))
            .map_err(|()| Error::internal("a spill folder that is no absolute path"))?;
    }
    Ok(set)
}

/// Files that were listed, laid by. Returns what stands before their names.
pub(in crate::duckdb) async fn lay_by_files(cx: &RunContext, laid: &Laid, files: StoreFiles) -> Result<String> {
    let Some(spill) = cx.spill() else {
        return Err(Error::unsupported(
            "this DuckDB reads files of object stores from the run's spill folder, and the run has none",
        ));
    };
    let bytes: u64 = files.files.iter().map(|f| f.size).sum();
    let before = laid.bytes.fetch_add(bytes, Ordering::SeqCst);
    if let Some(cap) = spill.cap()
        && before.saturating_add(bytes) > cap
    {
        return Err(Error::new(
            ErrorKind::ResourceExhausted,
            format!(
                "{} bytes of an object store would be laid by for this DuckDB, and the spill folder may hold {cap}: free \
                 disk, name another spill folder, or read them with a DuckDB of duckrun's own",
                before + bytes
            ),
        ));
    }
    let folder = spill
        .subdirectory(&format!("laid-{}", laid.sets.fetch_add(1, Ordering::SeqCst)))
        .map_err(|e| Error::new(ErrorKind::ResourceExhausted, "the spill folder cannot be used").with_source(e))?;
    let base = folder.to_str().ok_or_else(|| Error::invalid("the spill directory is not UTF-8"))?.to_owned();
    tracing::debug!(files = files.files.len(), bytes, "files of an object store are laid by");
    let names: Arc<Vec<String>> = Arc::new(files.files.iter().map(|f| f.name.clone()).collect());
    // Ends the reads when this future is dropped.
    let cancel = cx.cancellation().child_token();
    let guard = cancel.clone().drop_guard();
    // Each file is read once: no beginning need be kept.
    let remote = RemoteFiles::new(Handle::current(), cancel, 0);
    let prefix = remote.open_files(files);
    let next = Arc::new(AtomicUsize::new(0));
    let mut workers = tokio::task::JoinSet::new();
    for _ in 0..AT_ONCE.min(names.len()) {
        let (remote, names, next) = (remote.clone(), names.clone(), next.clone());
        let (prefix, base) = (prefix.clone(), base.clone());
        workers.spawn_blocking(move || {
            while let Some(name) = names.get(next.fetch_add(1, Ordering::SeqCst)) {
                copy(&remote, &format!("{prefix}{name}"), &below(&base, name)?)?;
            }
            Ok(())
        });
    }
    while let Some(done) = workers.join_next().await {
        done.map_err(|e| Error::internal("laying files by panicked").with_source(e)).flatten()?;
    }
    drop(guard);
    Ok(format!("{base}/"))
}

/// The place of a name below a folder, which no name leaves.
fn below(base: &str, name: &str) -> Result<PathBuf> {
    let plain = FsPath::new(name).components().all(|c| matches!(c, Component::Normal(_)));
    if name.is_empty() || !plain {
        return Err(Error::invalid(format!("a file called {name:?} cannot be laid by")));
    }
    Ok(FsPath::new(base).join(name))
}

fn copy(remote: &Arc<RemoteFiles>, path: &str, to: &FsPath) -> Result<()> {
    let file = remote.open(path).ok_or_else(|| Error::internal("a file that was registered is unknown"))?;
    let failed = |e: io::Error| {
        let kind = match e.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => ErrorKind::ResourceExhausted,
            io::ErrorKind::PermissionDenied => ErrorKind::PermissionDenied,
            _ => ErrorKind::Unavailable,
        };
        Error::new(kind, "a file of an object store cannot be laid by in the spill folder").with_source(e)
    };
    if let Some(folder) = to.parent() {
        fs::create_dir_all(folder).map_err(failed)?;
    }
    let mut out = File::create(to).map_err(failed)?;
    let mut buffer = vec![0; BUFFER.min(file.size() as usize)];
    let mut at = 0;
    while at < file.size() {
        let read = file.read_next(&mut buffer, at)?;
        if read == 0 {
            return Err(Error::internal("a read of a remote file made no progress"));
        }
        out.write_all(&buffer[..read]).map_err(failed)?;
        at += read as u64;
    }
    Ok(())
}
