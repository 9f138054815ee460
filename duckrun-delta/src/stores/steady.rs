//! What readers and the log need of a store beyond the trait: whole bodies, sorted listings of the log, and tokens that are
//! replaced after a refusal.

use std::fmt;
use std::future::Future;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use chrono::{DateTime, Utc};
use duckrun_core::{Clock, SystemClock};
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use object_store::multipart::MultipartStore;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetRange, GetResult, GetResultPayload, ListResult, MultipartUpload,
    OBJECT_STORE_COALESCE_DEFAULT, ObjectMeta, ObjectStore, ObjectStoreExt, PutMultipartOptions, PutOptions,
    PutPayload, PutResult, Result, coalesce_ranges,
};

use super::tokens::Tokens;
use super::uploads::Upload;
use crate::history::LOG;

/// How often a read that failed at once is tried, and the first pause between.
const TRIES: u32 = 3;
const FIRST_PAUSE: Duration = Duration::from_millis(50);
/// Objects that are deleted at a time where a token may have to be replaced: what Azure takes in one request.
const DELETES: usize = 256;
/// A client with retries of its own has taken longer over them: its failure stands.
const AT_ONCE: Duration = Duration::from_secs(2);

/// Wraps every store that is not the local disk.
///
/// A body has as many bytes as its range, or ends with an error: a commit that is cut at the end of a line still parses, and
/// `object_store::coalesce_ranges` panics on a short answer. One that breaks off is continued from there, a few times.
/// Listings of a log are sorted by name, which the trait does not promise and log replay relies on. A request that the
/// store answers with 401 is made once more with a fresh token, each part of an upload too. Reads that fail at once for a reason that may pass are
/// repeated, for stores whose clients do not; writes are not: whether they took effect is settled where that is known.
#[derive(Clone, Debug)]
pub(crate) struct Steady {
    inner: Arc<dyn ObjectStore>,
    tokens: Option<Arc<Tokens>>,
    /// The same client, for uploads whose parts may have to be sent again.
    parts: Option<Parts>,
    tries: u32,
    clock: Arc<dyn Clock>,
}

/// A client's uploads. `Debug` shows nothing of it.
#[derive(Clone)]
struct Parts(Arc<dyn MultipartStore>);

impl fmt::Debug for Parts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Parts")
    }
}

impl Steady {
    pub(crate) fn new(inner: Arc<dyn ObjectStore>) -> Self {
        Self { inner, tokens: None, parts: None, tries: TRIES, clock: Arc::new(SystemClock) }
    }

    /// A store whose client repeats requests by itself: only tokens that it refuses are replaced, and refusals told from
    /// failures.
    pub(crate) fn around<C: ObjectStore + MultipartStore>(client: C, tokens: Option<Arc<Tokens>>) -> Self {
        let client = Arc::new(client);
        let parts = tokens.is_some().then(|| Parts(client.clone()));
        Self { inner: client, tokens, parts, tries: 1, clock: Arc::new(SystemClock) }
    }

    /// Waits by another clock.
    pub(crate) fn with_clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    fn since(&self, started: DateTime<Utc>) -> Duration {
        (self.clock.now() - started).to_std().unwrap_or_default()
    }

    async fn authorised<T, F: Future<Output = Result<T>>>(&self, request: impl Fn() -> F) -> Result<T> {
        authorised(self.tokens.as_deref(), request).await
    }

    /// Makes a request without effect until it succeeds, fails for good, or has failed often enough.
    async fn read<T, F: Future<Output = Result<T>>>(&self, request: impl Fn() -> F) -> Result<T> {
        let tries = self.tries;
        let (mut pause, mut attempt) = (FIRST_PAUSE, 1);
        loop {
            let started = self.clock.now();
            match self.authorised(&request).await {
                Err(Error::Generic { .. }) if attempt < tries && self.since(started) < AT_ONCE => {}
                done => return done,
            }
            self.clock.sleep(pause).await;
            (pause, attempt) = (pause * 4, attempt + 1);
        }
    }

    /// A listing, begun once more where its first page was refused for want of a fresh token. Between pages a token is
    /// replaced before it expires.
    fn listing(&self, prefix: Option<&Path>, offset: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let begin = |store: &Arc<dyn ObjectStore>, prefix: Option<&Path>, offset: Option<&Path>| match offset {
            Some(offset) => store.list_with_offset(prefix, offset).map_err(refusal).boxed(),
            None => store.list(prefix).map_err(refusal).boxed(),
        };
        let Some(tokens) = self.tokens.clone() else { return begin(&self.inner, prefix, offset) };
        let (inner, prefix, offset) = (self.inner.clone(), prefix.cloned(), offset.cloned());
        let listed = async move {
            let generation = tokens.generation();
            let mut page = begin(&inner, prefix.as_ref(), offset.as_ref());
            let first = match page.next().await {
                Some(Err(Error::Unauthenticated { .. })) => {
                    tokens.refused(generation.max(1)).await;
                    return begin(&inner, prefix.as_ref(), offset.as_ref());
                }
                first => first,
            };
            futures::stream::iter(first).chain(page).boxed()
        };
        futures::stream::once(listed).flatten().boxed()
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
        if let (Some(Parts(store)), Some(tokens)) = (&self.parts, &self.tokens)
            && options == PutMultipartOptions::default()
        {
            return Ok(Box::new(Upload::begin(store.clone(), tokens.clone(), path).await?));
        }
        self.authorised(|| self.inner.put_multipart_opts(path, options.clone())).await
    }

    async fn get_opts(&self, path: &Path, options: GetOptions) -> Result<GetResult> {
        let head = options.head;
        let (if_match, version) = (options.if_match.clone(), options.version.clone());
        let GetResult { payload, meta, range, attributes } =
            self.read(|| self.inner.get_opts(path, options.clone())).await?;
        let payload = match payload {
            GetResultPayload::Stream(body) if !head => {
                let if_match = if_match.or_else(|| meta.e_tag.clone());
                let options = GetOptions { if_match, version, ..GetOptions::default() };
                let (store, path, clock) = (self.inner.clone(), path.clone(), self.clock.clone());
                let body = Body { store, path, clock, options, body, at: range.start, end: range.end, left: TRIES - 1 };
                GetResultPayload::Stream(futures::stream::try_unfold(body, Body::next).boxed())
            }
            other => other,
        };
        Ok(GetResult { payload, meta, range, attributes })
    }

    async fn get_ranges(&self, path: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        // Through `get_opts`, so that every piece is whole.
        let get = |range| async move { self.get_range(path, range).await };
        coalesce_ranges(ranges, get, OBJECT_STORE_COALESCE_DEFAULT).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let Some(tokens) = self.tokens.clone() else { return self.inner.delete_stream(locations) };
        let inner = self.inner.clone();
        let chunks = locations.ready_chunks(DELETES).then(move |chunk| {
            let (inner, tokens) = (inner.clone(), tokens.clone());
            async move { futures::stream::iter(delete(&inner, &tokens, chunk).await) }
        });
        chunks.flatten().boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.log(prefix, None).unwrap_or_else(|| self.listing(prefix, None))
    }

    fn list_with_offset(&self, prefix: Option<&Path>, offset: &Path) -> BoxStream<'static, Result<ObjectMeta>> {
        self.log(prefix, Some(offset)).unwrap_or_else(|| self.listing(prefix, Some(offset)))
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.read(|| self.inner.list_with_delimiter(prefix)).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.authorised(|| self.inner.copy_opts(from, to, options.clone())).await
    }
}

/// Makes a request, and once more with a fresh token where it was refused for want of one.
pub(super) async fn authorised<T, F: Future<Output = Result<T>>>(
    tokens: Option<&Tokens>,
    request: impl Fn() -> F,
) -> Result<T> {
    let Some(tokens) = tokens else { return request().await.map_err(refusal) };
    let generation = tokens.generation();
    match request().await.map_err(refusal) {
        Err(Error::Unauthenticated { .. }) => {
            tokens.refused(generation.max(1)).await;
            request().await.map_err(refusal)
        }
        done => done,
    }
}

/// A refusal (401, 403) that a client reports as any other failure: `object_store` 0.13 does of listings and of deletes in
/// batches. The status stands in a type of its own that is not public, so that its text is what there is to go by; an error
/// that is taken for a refusal in error stays an error.
fn refusal(e: Error) -> Error {
    let Error::Generic { source, .. } = &e else { return e };
    let mut cause: Option<&dyn std::error::Error> = Some(source.as_ref());
    let mut status = None;
    while let Some(e) = cause {
        let text = e.to_string();
        if let Some((_, rest)) = text.split_once("status code: ") {
            status = rest.get(..3).map(str::to_owned);
            break;
        }
        cause = e.source();
    }
    match status.as_deref() {
        Some("401") => Error::Unauthenticated { path: String::new(), source: Box::new(e) },
        Some("403") => Error::PermissionDenied { path: String::new(), source: Box::new(e) },
        _ => e,
    }
}

/// Deletes objects, and once more with a fresh token where that was what was wanting.
async fn delete(inner: &Arc<dyn ObjectStore>, tokens: &Tokens, paths: Vec<Result<Path>>) -> Vec<Result<Path>> {
    let (mut done, mut wanted) = (Vec::with_capacity(paths.len()), Vec::with_capacity(paths.len()));
    for path in paths {
        match path {
            Ok(path) => wanted.push(path),
            Err(e) => done.push(Err(e)),
        }
    }
    let ask = || {
        let paths = futures::stream::iter(wanted.clone()).map(Ok).boxed();
        inner.delete_stream(paths).map(|deleted| deleted.map_err(refusal)).collect::<Vec<_>>()
    };
    let generation = tokens.generation();
    let mut answers = ask().await;
    if answers.iter().any(|answer| matches!(answer, Err(Error::Unauthenticated { .. }))) {
        tokens.refused(generation.max(1)).await;
        answers = ask().await;
        // Deleted the first time, one by one.
        for (answer, path) in answers.iter_mut().zip(&wanted) {
            if matches!(answer, Err(Error::NotFound { .. })) {
                *answer = Ok(path.clone());
            }
        }
    }
    done.extend(answers);
    done
}

/// The body of a read, as far as it has come.
struct Body {
    store: Arc<dyn ObjectStore>,
    path: Path,
    clock: Arc<dyn Clock>,
    /// Of the requests that continue it: the same version of the object.
    options: GetOptions,
    body: BoxStream<'static, Result<Bytes>>,
    at: u64,
    end: u64,
    left: u32,
}

impl Body {
    async fn next(mut self) -> Result<Option<(Bytes, Self)>> {
        loop {
            let failed = match self.body.next().await {
                Some(Ok(chunk)) => {
                    self.at += chunk.len() as u64;
                    return Ok(Some((chunk, self)));
                }
                None if self.at >= self.end => return Ok(None),
                None => Error::Generic { store: "object store", source: "a body ended before its range did".into() },
                Some(Err(e)) => e,
            };
            if self.left == 0 || !matches!(failed, Error::Generic { .. }) {
                return Err(failed);
            }
            self.left -= 1;
            self.clock.sleep(FIRST_PAUSE).await;
            let range = Some(GetRange::Bounded(self.at..self.end));
            let options = GetOptions { range, ..self.options.clone() };
            self.body = match self.store.get_opts(&self.path, options).await {
                Ok(rest) => rest.into_stream(),
                Err(e) => futures::stream::once(async { Err(e) }).boxed(),
            };
        }
    }
}

impl fmt::Display for Steady {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.inner, f)
    }
}
