//! An object store that fails on demand, before or after the effect: what a network does to a client.

use std::fmt;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
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
}

/// Which operation a fault meets.
#[non_exhaustive]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// Writing an object in one piece.
    Put,
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

fn denied(path: &Path) -> Error {
    Error::PermissionDenied { path: path.to_string(), source: "403".into() }
}

/// The error of a fault that keeps the operation from happening.
fn before(fault: Option<Fault>, path: &Path) -> Result<()> {
    match fault {
        Some(Fault::LostRequest) => Err(transport(path)),
        Some(Fault::Denied) => Err(denied(path)),
        Some(Fault::LostAnswer) | None => Ok(()),
    }
}

#[async_trait]
impl ObjectStore for FaultyStore {
    async fn put_opts(&self, path: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        let fault = self.ask(Operation::Put, path);
        before(fault, path)?;
        let done = self.inner.put_opts(path, payload, options).await;
        if fault == Some(Fault::LostAnswer) { Err(transport(path)) } else { done }
    }

    async fn put_multipart_opts(&self, path: &Path, options: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        before(self.ask(Operation::Put, path), path)?;
        self.inner.put_multipart_opts(path, options).await
    }

    async fn get_opts(&self, path: &Path, options: GetOptions) -> Result<GetResult> {
        let fault = self.ask(Operation::Get, path);
        before(fault, path)?;
        if fault == Some(Fault::LostAnswer) {
            return Err(transport(path));
        }
        self.inner.get_opts(path, options).await
    }

    async fn get_ranges(&self, path: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        before(self.ask(Operation::Get, path), path)?;
        self.inner.get_ranges(path, ranges).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        use futures::StreamExt;
        let this = self.clone();
        let checked = locations.map(move |path| {
            let path = path?;
            before(this.ask(Operation::Delete, &path), &path)?;
            Ok(path)
        });
        self.inner.delete_stream(checked.boxed())
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        use futures::StreamExt;
        let path = prefix.cloned().unwrap_or_default();
        match before(self.ask(Operation::List, &path), &path) {
            Ok(()) => self.inner.list(prefix),
            Err(e) => futures::stream::once(async move { Err(e) }).boxed(),
        }
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        let path = prefix.cloned().unwrap_or_default();
        before(self.ask(Operation::List, &path), &path)?;
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        before(self.ask(Operation::Put, to), to)?;
        self.inner.copy_opts(from, to, options).await
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
