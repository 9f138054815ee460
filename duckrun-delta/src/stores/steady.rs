//! What the log needs of a store beyond the trait: sorted listings of the log, and tokens replaced after a refusal.

use std::fmt;
use std::future::Future;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};

use super::tokens::Tokens;
use crate::history::LOG;

/// How often a read that failed at once is tried, and the first pause between.
const TRIES: u32 = 3;
const FIRST_PAUSE: Duration = Duration::from_millis(50);
/// A client with retries of its own has taken longer over them: its failure stands.
const AT_ONCE: Duration = Duration::from_secs(2);

/// Wraps every store that is not the local disk.
///
/// Listings of a log are sorted by name, which the trait does not promise and log replay relies on. A request that the store
/// answers with 401 is made once more with a fresh token. Reads that fail at once for a reason that may pass are repeated,
/// for stores whose clients do not; writes are not: whether they took effect is settled where that is known.
#[derive(Clone, Debug)]
pub(crate) struct Steady {
    inner: Arc<dyn ObjectStore>,
    tokens: Option<Arc<Tokens>>,
}

impl Steady {
    pub(crate) fn new(inner: Arc<dyn ObjectStore>) -> Self {
        Self { inner, tokens: None }
    }

    /// Replaces tokens that the store refuses. The rest is left to the wrapper of each table.
    pub(crate) fn with_tokens(mut self, tokens: Arc<Tokens>) -> Self {
        self.tokens = Some(tokens);
        self
    }

    /// Makes a request, and once more with a fresh token where it was refused for want of one.
    async fn authorised<T, F: Future<Output = Result<T>>>(&self, request: impl Fn() -> F) -> Result<T> {
        let Some(tokens) = &self.tokens else { return request().await };
        let generation = tokens.generation();
        match request().await {
            Err(Error::Unauthenticated { .. }) => {
                tokens.refused(generation.max(1)).await;
                request().await
            }
            done => done,
        }
    }

    /// Makes a request without effect until it succeeds, fails for good, or has failed often enough.
    async fn read<T, F: Future<Output = Result<T>>>(&self, request: impl Fn() -> F) -> Result<T> {
        let tries = if self.tokens.is_some() { 1 } else { TRIES };
        let (mut pause, mut attempt) = (FIRST_PAUSE, 1);
        loop {
            let started = Instant::now();
            match self.authorised(&request).await {
                Err(Error::Generic { .. }) if attempt < tries && started.elapsed() < AT_ONCE => {}
                done => return done,
            }
            tokio::time::sleep(pause).await;
            (pause, attempt) = (pause * 4, attempt + 1);
        }
    }

    /// A listing of a log, sorted; `None` for any other folder.
    fn log(&self, prefix: Option<&Path>, offset: Option<&Path>) -> Option<BoxStream<'static, Result<ObjectMeta>>> {
        let prefix = prefix.filter(|p| p.filename() == Some(LOG))?.clone();
        let (this, offset) = (self.clone(), offset.cloned());
        let listed = async move {
            let all = || async {
                match &offset {
                    Some(offset) => this.inner.list_with_offset(Some(&prefix), offset),
                    None => this.inner.list(Some(&prefix)),
                }
                .try_collect::<Vec<_>>()
                .await
            };
            let mut found = this.read(all).await?;
            found.sort_unstable_by(|a, b| a.location.cmp(&b.location));
            Ok::<_, Error>(futures::stream::iter(found.into_iter().map(Ok)))
        };
        Some(futures::stream::once(listed).try_flatten().boxed())
    }
}

#[async_trait]
impl ObjectStore for Steady {
    async fn put_opts(&self, path: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        self.authorised(|| self.inner.put_opts(path, payload.clone(), options.clone())).await
    }

    async fn put_multipart_opts(&self, path: &Path, options: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        self.authorised(|| self.inner.put_multipart_opts(path, options.clone())).await
    }

    async fn get_opts(&self, path: &Path, options: GetOptions) -> Result<GetResult> {
        self.read(|| self.inner.get_opts(path, options.clone())).await
    }

    async fn get_ranges(&self, path: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        self.read(|| self.inner.get_ranges(path, ranges)).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.inner.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.log(prefix, None).unwrap_or_else(|| self.inner.list(prefix))
    }

    fn list_with_offset(&self, prefix: Option<&Path>, offset: &Path) -> BoxStream<'static, Result<ObjectMeta>> {
        self.log(prefix, Some(offset)).unwrap_or_else(|| self.inner.list_with_offset(prefix, offset))
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.read(|| self.inner.list_with_delimiter(prefix)).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.authorised(|| self.inner.copy_opts(from, to, options.clone())).await
    }
}

impl fmt::Display for Steady {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.inner, f)
    }
}
