//! An object store that counts what is asked of it, and can be as slow as a network.

use std::fmt;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, PutMultipartOptions,
    PutOptions, PutPayload, PutResult, Result, UploadPart,
};

/// What was asked of a store since the counters were taken last.
#[non_exhaustive]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Requests {
    /// Reads, heads included.
    pub gets: u64,
    /// Bytes asked for by reads.
    pub bytes_read: u64,
    /// Writes: whole objects, and starts, parts and ends of uploads.
    pub puts: u64,
    /// Bytes written.
    pub bytes_written: u64,
    /// Listings.
    pub lists: u64,
    /// Deletes and copies.
    pub others: u64,
}

impl Requests {
    /// All requests together.
    pub fn total(&self) -> u64 {
        self.gets + self.puts + self.lists + self.others
    }
}

#[derive(Debug, Default)]
struct Counters {
    gets: AtomicU64,
    bytes_read: AtomicU64,
    puts: AtomicU64,
    bytes_written: AtomicU64,
    lists: AtomicU64,
    others: AtomicU64,
    paths: Mutex<Vec<String>>,
}

/// Wraps a store and counts. Clones share the counters.
///
/// ```
/// # async fn doc() -> object_store::Result<()> {
/// use duckrun_testkit::CountingStore;
/// use object_store::{ObjectStoreExt, memory::InMemory, path::Path};
/// let store = CountingStore::new(InMemory::new());
/// store.put(&Path::from("a"), vec![1, 2].into()).await?;
/// assert_eq!((store.take().puts, store.take().total()), (1, 0));
/// # Ok(()) }
/// ```
#[derive(Debug, Clone)]
pub struct CountingStore {
    inner: Arc<dyn ObjectStore>,
    counters: Arc<Counters>,
    latency: Duration,
    seconds_per_byte: f64,
}

impl CountingStore {
    /// Wraps a store.
    pub fn new(inner: impl ObjectStore) -> Self {
        Self { inner: Arc::new(inner), counters: Arc::default(), latency: Duration::ZERO, seconds_per_byte: 0.0 }
    }

    /// Delays every request by the latency of a network, and every body by its bandwidth (bytes per second and request).
    #[must_use]
    pub fn with_network(mut self, latency: Duration, bandwidth: u64) -> Self {
        self.latency = latency;
        self.seconds_per_byte = 1.0 / bandwidth as f64;
        self
    }

    /// The counters, set back to zero.
    pub fn take(&self) -> Requests {
        let c = &self.counters;
        self.paths();
        Requests {
            gets: c.gets.swap(0, Ordering::SeqCst),
            bytes_read: c.bytes_read.swap(0, Ordering::SeqCst),
            puts: c.puts.swap(0, Ordering::SeqCst),
            bytes_written: c.bytes_written.swap(0, Ordering::SeqCst),
            lists: c.lists.swap(0, Ordering::SeqCst),
            others: c.others.swap(0, Ordering::SeqCst),
        }
    }

    /// What was asked for since the last call of this or of [`take`](Self::take), a line for each request.
    pub fn paths(&self) -> Vec<String> {
        std::mem::take(&mut *self.counters.paths.lock().unwrap_or_else(PoisonError::into_inner))
    }

    async fn count(&self, counter: &AtomicU64, what: &str, path: &Path) {
        counter.fetch_add(1, Ordering::SeqCst);
        self.counters.paths.lock().unwrap_or_else(PoisonError::into_inner).push(format!("{what} {path}"));
        if !self.latency.is_zero() {
            tokio::time::sleep(self.latency).await;
        }
    }

    async fn transfer(&self, counter: &AtomicU64, bytes: u64) {
        counter.fetch_add(bytes, Ordering::SeqCst);
        if self.seconds_per_byte > 0.0 {
            tokio::time::sleep(Duration::from_secs_f64(self.seconds_per_byte * bytes as f64)).await;
        }
    }
}

#[async_trait]
impl ObjectStore for CountingStore {
    async fn put_opts(&self, path: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        self.count(&self.counters.puts, "PUT", path).await;
        self.transfer(&self.counters.bytes_written, payload.content_length() as u64).await;
        self.inner.put_opts(path, payload, options).await
    }

    async fn put_multipart_opts(&self, path: &Path, options: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        self.count(&self.counters.puts, "START", path).await;
        let inner = self.inner.put_multipart_opts(path, options).await?;
        Ok(Box::new(CountedUpload { inner, store: self.clone(), path: path.clone() }))
    }

    async fn get_opts(&self, path: &Path, options: GetOptions) -> Result<GetResult> {
        let what = if options.head { "HEAD" } else { "GET" };
        let range = options.range.as_ref().map_or_else(String::new, |r| format!(" {r}"));
        self.count(&self.counters.gets, &format!("{what}{range}"), path).await;
        let head = options.head;
        let got = self.inner.get_opts(path, options).await?;
        if !head {
            self.transfer(&self.counters.bytes_read, got.range.end - got.range.start).await;
        }
        Ok(got)
    }

    async fn get_ranges(&self, path: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        // As a store without a cleverer way does it: neighbouring ranges together, one request each.
        object_store::coalesce_ranges(
            ranges,
            |range| async move { object_store::ObjectStoreExt::get_range(self, path, range).await },
            object_store::OBJECT_STORE_COALESCE_DEFAULT,
        )
        .await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let this = self.clone();
        let counted = locations.then(move |path| {
            let this = this.clone();
            async move {
                let path = path?;
                this.count(&this.counters.others, "DELETE", &path).await;
                Ok(path)
            }
        });
        self.inner.delete_stream(counted.boxed())
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let (this, prefix) = (self.clone(), prefix.cloned());
        let listed = async move {
            this.count(&this.counters.lists, "LIST", &prefix.clone().unwrap_or_default()).await;
            this.inner.list(prefix.as_ref())
        };
        futures::stream::once(listed).flatten().boxed()
    }

    fn list_with_offset(&self, prefix: Option<&Path>, offset: &Path) -> BoxStream<'static, Result<ObjectMeta>> {
        let (this, prefix, offset) = (self.clone(), prefix.cloned(), offset.clone());
        let listed = async move {
            this.count(&this.counters.lists, "LIST FROM", &offset).await;
            this.inner.list_with_offset(prefix.as_ref(), &offset)
        };
        futures::stream::once(listed).flatten().boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.count(&self.counters.lists, "LIST FOLDER", &prefix.cloned().unwrap_or_default()).await;
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.count(&self.counters.others, "COPY", to).await;
        self.inner.copy_opts(from, to, options).await
    }
}

impl fmt::Display for CountingStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CountingStore({})", self.inner)
    }
}

#[derive(Debug)]
struct CountedUpload {
    inner: Box<dyn MultipartUpload>,
    store: CountingStore,
    path: Path,
}

#[async_trait]
impl MultipartUpload for CountedUpload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        let (store, path, bytes) = (self.store.clone(), self.path.clone(), data.content_length() as u64);
        let part = self.inner.put_part(data);
        Box::pin(async move {
            store.count(&store.counters.puts, "PART", &path).await;
            store.transfer(&store.counters.bytes_written, bytes).await;
            part.await
        })
    }

    async fn complete(&mut self) -> Result<PutResult> {
        self.store.count(&self.store.counters.puts, "COMPLETE", &self.path).await;
        self.inner.complete().await
    }

    async fn abort(&mut self) -> Result<()> {
        self.store.count(&self.store.counters.others, "ABORT", &self.path).await;
        self.inner.abort().await
    }
}
