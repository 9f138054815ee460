//! An object store that fails on demand, before or after the effect: what a network does to a client.

use std::fmt;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, GetResultPayload, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result, UploadPart,
};

/// What a fault does to the operation that it meets.
#[non_exhaustive]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The request never arrives: nothing happens, the caller gets a transport error.
    LostRequest,
    /// The request is carried out, but its answer is lost: the caller gets a transport error.
    LostAnswer,
    /// The store refuses for good (403).
    Denied,
    /// The store asks for patience (429): nothing happens.
    Throttled,
    /// The store fails before it does anything (500).
    ServerError,
    /// The credentials have expired (401): nothing happens.
    Expired,
    /// The store says that a precondition fails (409, 412), and does nothing.
    Conflict,
    /// The request is carried out, but the answer says that a precondition fails: what a client makes of a lost answer when it
    /// repeats the request by itself.
    ConflictAfter,
    /// The body of a read breaks off half-way with an error.
    BrokenBody,
    /// The body of a read ends half-way as if it were whole.
    ShortBody,
    /// The request is carried out after this time.
    Delay(Duration),
    /// The process aborts before the request is sent.
    Death,
    /// The process aborts once the request has been carried out.
    DeathAfter,
}

impl Fault {
    /// What a network and a store do to their clients: one of each kind that a process survives.
    pub const SURVIVABLE: [Fault; 11] = [
        Fault::LostRequest,
        Fault::LostAnswer,
        Fault::Denied,
        Fault::Throttled,
        Fault::ServerError,
        Fault::Expired,
        Fault::Conflict,
        Fault::ConflictAfter,
        Fault::BrokenBody,
        Fault::ShortBody,
        Fault::Delay(Duration::from_millis(20)),
    ];
}

/// Which operation a fault meets.
#[non_exhaustive]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// Writing an object in one piece, and the start of an upload in parts.
    Put,
    /// A part of an upload, or its end.
    Part,
    /// Reading an object.
    Get,
    /// Listing.
    List,
    /// Deleting.
    Delete,
}

type Rule = Box<dyn FnMut(Operation, &Path) -> Option<Fault> + Send>;

/// Wraps a store and asks a rule before each operation whether a fault happens.
///
/// ```
/// use duckrun_testkit::{Fault, FaultyStore, Operation};
/// use object_store::memory::InMemory;
/// let store = FaultyStore::new(InMemory::new());
/// store.set_rule(|operation, path| {
///     (operation == Operation::Put && path.as_ref().contains("_delta_log")).then_some(Fault::LostAnswer)
/// });
/// ```
#[derive(Clone)]
pub struct FaultyStore {
    inner: Arc<dyn ObjectStore>,
    rule: Arc<Mutex<Rule>>,
}

impl FaultyStore {
    /// Wraps a store; no faults until a rule is set.
    pub fn new(inner: impl ObjectStore) -> Self {
        Self { inner: Arc::new(inner), rule: Arc::new(Mutex::new(Box::new(|_, _| None))) }
    }

    /// Sets the rule.
    pub fn set_rule(&self, rule: impl FnMut(Operation, &Path) -> Option<Fault> + Send + 'static) {
        *self.rule.lock().unwrap_or_else(PoisonError::into_inner) = Box::new(rule);
    }

    fn ask(&self, operation: Operation, path: &Path) -> Option<Fault> {
        (self.rule.lock().unwrap_or_else(PoisonError::into_inner))(operation, path)
    }
}

fn transport(path: &Path) -> Error {
    Error::Generic { store: "faulty", source: format!("connection reset while talking about {path}").into() }
}

fn generic(text: &'static str) -> Error {
    Error::Generic { store: "faulty", source: text.into() }
}

fn conflict(path: &Path) -> Error {
    Error::Precondition { path: path.to_string(), source: "412".into() }
}

impl Fault {
    /// The error of a fault that keeps the operation from happening.
    async fn before(self, path: &Path) -> Result<()> {
        match self {
            Self::LostRequest => Err(transport(path)),
            Self::Denied => Err(Error::PermissionDenied { path: path.to_string(), source: "403".into() }),
            Self::Throttled => Err(generic("429 Too Many Requests")),
            Self::ServerError => Err(generic("500 Internal Server Error")),
            Self::Expired => Err(Error::Unauthenticated { path: path.to_string(), source: "401".into() }),
            Self::Conflict => Err(conflict(path)),
            Self::Delay(time) => {
                tokio::time::sleep(time).await;
                Ok(())
            }
            Self::Death => std::process::abort(),
            Self::LostAnswer | Self::ConflictAfter | Self::BrokenBody | Self::ShortBody | Self::DeathAfter => Ok(()),
        }
    }

    /// What becomes of an answer.
    fn after<T>(self, path: &Path, done: Result<T>) -> Result<T> {
        match self {
            Self::LostAnswer => Err(transport(path)),
            Self::ConflictAfter => done.and(Err(conflict(path))),
            Self::DeathAfter => std::process::abort(),
            _ => done,
        }
    }
}

/// The error of a fault that keeps the operation from happening.
async fn before(fault: Option<Fault>, path: &Path) -> Result<()> {
    match fault {
        Some(fault) => fault.before(path).await,
        None => Ok(()),
    }
}

fn after<T>(fault: Option<Fault>, path: &Path, done: Result<T>) -> Result<T> {
    match fault {
        Some(fault) => fault.after(path, done),
        None => done,
    }
}

/// Half of a body, and an error or nothing after it.
async fn cut(got: GetResult, broken: bool) -> Result<GetResult> {
    let (meta, range, attributes) = (got.meta.clone(), got.range.clone(), got.attributes.clone());
    let whole = got.bytes().await?;
    let half = Ok(whole.slice(..whole.len() / 2));
    let end = broken.then(|| Err(transport(&meta.location)));
    let body = futures::stream::iter([Some(half), end].into_iter().flatten());
    Ok(GetResult { payload: GetResultPayload::Stream(body.boxed()), meta, range, attributes })
}

#[async_trait]
impl ObjectStore for FaultyStore {
    async fn put_opts(&self, path: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        let fault = self.ask(Operation::Put, path);
        before(fault, path).await?;
        after(fault, path, self.inner.put_opts(path, payload, options).await)
    }

    async fn put_multipart_opts(&self, path: &Path, options: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        let fault = self.ask(Operation::Put, path);
        before(fault, path).await?;
        let inner = after(fault, path, self.inner.put_multipart_opts(path, options).await)?;
        Ok(Box::new(FaultyUpload { inner, store: self.clone(), path: path.clone() }))
    }

    async fn get_opts(&self, path: &Path, options: GetOptions) -> Result<GetResult> {
        let fault = self.ask(Operation::Get, path);
        before(fault, path).await?;
        let head = options.head;
        let got = after(fault, path, self.inner.get_opts(path, options).await)?;
        match fault {
            Some(Fault::BrokenBody) if !head => cut(got, true).await,
            Some(Fault::ShortBody) if !head => cut(got, false).await,
            _ => Ok(got),
        }
    }

    async fn get_ranges(&self, path: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        // By the trait's own way, so that each range meets the rule.
        let get = |range| async move { object_store::ObjectStoreExt::get_range(self, path, range).await };
        object_store::coalesce_ranges(ranges, get, object_store::OBJECT_STORE_COALESCE_DEFAULT).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let this = self.clone();
        let one_by_one = locations.then(move |path| {
            let this = this.clone();
            async move {
                let path = path?;
                let fault = this.ask(Operation::Delete, &path);
                before(fault, &path).await?;
                after(
                    fault,
                    &path,
                    object_store::ObjectStoreExt::delete(&this.inner, &path).await.map(|()| path.clone()),
                )
            }
        });
        one_by_one.boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let (this, prefix) = (self.clone(), prefix.cloned());
        let listed = async move {
            let path = prefix.clone().unwrap_or_default();
            let fault = this.ask(Operation::List, &path);
            before(fault, &path).await?;
            after(fault, &path, Ok(this.inner.list(prefix.as_ref())))
        };
        futures::stream::once(listed).try_flatten().boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        let path = prefix.cloned().unwrap_or_default();
        let fault = self.ask(Operation::List, &path);
        before(fault, &path).await?;
        after(fault, &path, self.inner.list_with_delimiter(prefix).await)
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        let fault = self.ask(Operation::Put, to);
        before(fault, to).await?;
        after(fault, to, self.inner.copy_opts(from, to, options).await)
    }
}

impl fmt::Debug for FaultyStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("FaultyStore").field(&self.inner).finish()
    }
}

impl fmt::Display for FaultyStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FaultyStore({})", self.inner)
    }
}

#[derive(Debug)]
struct FaultyUpload {
    inner: Box<dyn MultipartUpload>,
    store: FaultyStore,
    path: Path,
}

#[async_trait]
impl MultipartUpload for FaultyUpload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        let fault = self.store.ask(Operation::Part, &self.path);
        let (part, path) = (self.inner.put_part(data), self.path.clone());
        Box::pin(async move {
            before(fault, &path).await?;
            after(fault, &path, part.await)
        })
    }

    async fn complete(&mut self) -> Result<PutResult> {
        let fault = self.store.ask(Operation::Part, &self.path);
        before(fault, &self.path).await?;
        after(fault, &self.path, self.inner.complete().await)
    }

    async fn abort(&mut self) -> Result<()> {
        self.inner.abort().await
    }
}
