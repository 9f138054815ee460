//! The store and the clock as one process sees them: every request and every wait goes through the gate.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use chrono::{DateTime, TimeDelta, Utc};
use duckrun::core::Clock;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{
    Attributes, CopyOptions, Error, GetOptions, GetResult, GetResultPayload, ListResult, MultipartUpload, ObjectMeta,
    ObjectStore, PutMode, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result, UploadPart,
};

use super::bucket::{Reply, Request};
use super::gate::{Cut, World};

/// The store of one process.
#[derive(Clone)]
pub(super) struct ProcessStore {
    pub(super) world: Arc<World>,
    pub(super) process: u64,
}

impl ProcessStore {
    async fn ask(&self, request: Request) -> Result<(Reply, Cut)> {
        self.world.request(self.process, request).await
    }

    async fn put(&self, path: Path, bytes: Bytes, create: bool) -> Result<PutResult> {
        match self.ask(Request::Put { path, bytes, create }).await? {
            (Reply::Put(done), _) => Ok(done),
            _ => Err(mismatch()),
        }
    }
}

fn mismatch() -> Error {
    Error::Generic { store: "simulated", source: "an answer to another question".into() }
}

fn unsupported(what: &str) -> Error {
    Error::NotImplemented { operation: what.to_owned(), implementer: "the simulated store".to_owned() }
}

#[async_trait]
impl ObjectStore for ProcessStore {
    async fn put_opts(&self, path: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        let create = match options.mode {
            PutMode::Overwrite => false,
            PutMode::Create => true,
            PutMode::Update(_) => return Err(unsupported("PutMode::Update")),
        };
        self.put(path.clone(), payload.into(), create).await
    }

    async fn put_multipart_opts(&self, path: &Path, _: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        Ok(Box::new(Upload { store: self.clone(), path: path.clone(), parts: Arc::default() }))
    }

    async fn get_opts(&self, path: &Path, options: GetOptions) -> Result<GetResult> {
        let head = options.head;
        match self.ask(Request::Get { path: path.clone(), options }).await? {
            (Reply::Got { meta, bytes, range }, cut) => {
                let half = bytes.slice(..bytes.len() / 2);
                let broken = || Error::Generic { store: "simulated", source: "the body broke off".into() };
                let pieces = match cut {
                    _ if head => Vec::new(),
                    Cut::Whole => vec![Ok(bytes)],
                    Cut::Short => vec![Ok(half)],
                    Cut::Broken => vec![Ok(half), Err(broken())],
                };
                let payload = GetResultPayload::Stream(futures::stream::iter(pieces).boxed());
                Ok(GetResult { payload, meta, range, attributes: Attributes::default() })
            }
            _ => Err(mismatch()),
        }
    }

    fn delete_stream(&self, paths: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let this = self.clone();
        let deleted = move |path: Result<Path>| {
            let this = this.clone();
            async move {
                let path = path?;
                this.ask(Request::Delete { path: path.clone() }).await.map(|_| path)
            }
        };
        paths.then(deleted).boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        listing(self.clone(), prefix.cloned(), None)
    }

    fn list_with_offset(&self, prefix: Option<&Path>, offset: &Path) -> BoxStream<'static, Result<ObjectMeta>> {
        listing(self.clone(), prefix.cloned(), Some(offset.clone()))
    }

    async fn list_with_delimiter(&self, _: Option<&Path>) -> Result<ListResult> {
        Err(unsupported("a listing of folders"))
    }

    async fn copy_opts(&self, _: &Path, _: &Path, _: CopyOptions) -> Result<()> {
        Err(unsupported("copying"))
    }
}

fn listing(store: ProcessStore, prefix: Option<Path>, offset: Option<Path>) -> BoxStream<'static, Result<ObjectMeta>> {
    let listed = async move {
        match store.ask(Request::List { prefix, offset }).await? {
            (Reply::Listed(found), _) => Ok(futures::stream::iter(found.into_iter().map(Ok))),
            _ => Err(mismatch()),
        }
    };
    futures::stream::once(listed).try_flatten().boxed()
}

impl fmt::Debug for ProcessStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ProcessStore({})", self.process)
    }
}

impl fmt::Display for ProcessStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the simulated store of process {}", self.process)
    }
}

/// Parts are laid by, and put as one object at the end.
#[derive(Debug)]
struct Upload {
    store: ProcessStore,
    path: Path,
    parts: Arc<Mutex<Vec<(usize, Bytes)>>>,
}

#[async_trait]
impl MultipartUpload for Upload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        let mut parts = self.parts.lock().unwrap_or_else(PoisonError::into_inner);
        let number = parts.len();
        parts.push((number, data.into()));
        Box::pin(std::future::ready(Ok(())))
    }

    async fn complete(&mut self) -> Result<PutResult> {
        let whole: Vec<u8> = {
            let mut parts = self.parts.lock().unwrap_or_else(PoisonError::into_inner);
            parts.sort_by_key(|(number, _)| *number);
            parts.iter().flat_map(|(_, bytes)| bytes.iter().copied()).collect()
        };
        self.store.put(self.path.clone(), whole.into(), false).await
    }

    async fn abort(&mut self) -> Result<()> {
        Ok(())
    }
}

/// The virtual clock, as wrong as the process's machine is.
#[derive(Clone)]
pub(super) struct ProcessClock {
    pub(super) world: Arc<World>,
    pub(super) process: u64,
    pub(super) skew: TimeDelta,
}

impl Clock for ProcessClock {
    fn now(&self) -> DateTime<Utc> {
        self.world.lock().now + self.skew
    }

    fn sleep(&self, time: Duration) -> BoxFuture<'static, ()> {
        let (world, process) = (self.world.clone(), self.process);
        let milliseconds = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        Box::pin(async move {
            // A wait cannot fail; that of a process that was killed never matters.
            let _ = world.request(process, Request::Sleep { milliseconds }).await;
        })
    }
}

impl fmt::Debug for ProcessClock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ProcessClock({}, {})", self.process, self.skew)
    }
}
