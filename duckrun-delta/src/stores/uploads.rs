//! Uploads in parts whose parts are sent once more with a fresh token where the store refused one.
//!
//! `object_store::MultipartUpload` numbers a part when it is handed over, so that one that failed cannot be handed over again.
//! The clients also have [`MultipartStore`], which leaves the numbers to the caller; a part sent twice under one number is
//! there once.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use object_store::multipart::{MultipartStore, PartId};
use object_store::path::Path;
use object_store::{Error, MultipartId, MultipartUpload, PutPayload, PutResult, Result, UploadPart};

use super::steady::authorised;
use super::tokens::Tokens;

/// An upload that was begun.
pub(super) struct Upload {
    store: Arc<dyn MultipartStore>,
    tokens: Arc<Tokens>,
    path: Path,
    id: MultipartId,
    parts: usize,
    sent: Arc<Mutex<BTreeMap<usize, PartId>>>,
}

impl Upload {
    pub(super) async fn begin(store: Arc<dyn MultipartStore>, tokens: Arc<Tokens>, path: &Path) -> Result<Self> {
        let id = authorised(Some(&tokens), || store.create_multipart(path)).await?;
        Ok(Self { store, tokens, path: path.clone(), id, parts: 0, sent: Arc::default() })
    }
}

#[async_trait]
impl MultipartUpload for Upload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        let part = self.parts;
        self.parts += 1;
        let (store, tokens, sent) = (self.store.clone(), self.tokens.clone(), self.sent.clone());
        let (path, id) = (self.path.clone(), self.id.clone());
        Box::pin(async move {
            let put = authorised(Some(&tokens), || store.put_part(&path, &id, part, data.clone())).await?;
            sent.lock().unwrap_or_else(PoisonError::into_inner).insert(part, put);
            Ok(())
        })
    }

    async fn complete(&mut self) -> Result<PutResult> {
        let parts: Vec<PartId> =
            std::mem::take(&mut *self.sent.lock().unwrap_or_else(PoisonError::into_inner)).into_values().collect();
        if parts.len() != self.parts {
            let source = format!("{} of {} parts were sent", parts.len(), self.parts).into();
            return Err(Error::Generic { store: "object store", source });
        }
        let complete = || self.store.complete_multipart(&self.path, &self.id, parts.clone());
        authorised(Some(&self.tokens), complete).await
    }

    async fn abort(&mut self) -> Result<()> {
        authorised(Some(&self.tokens), || self.store.abort_multipart(&self.path, &self.id)).await
    }
}

impl fmt::Debug for Upload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A client's own `Debug` may show its credentials.
        f.debug_struct("Upload").field("path", &self.path).field("parts", &self.parts).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use object_store::ObjectStoreExt;
    use object_store::memory::InMemory;

    use super::super::tokens::{Token, TokenProvider};
    use super::*;

    #[derive(Debug, Default)]
    struct Counting(AtomicU64);

    #[async_trait]
    impl TokenProvider for Counting {
        async fn token(&self) -> duckrun_core::Result<Token> {
            Ok(Token::new(format!("canary{}", self.0.fetch_add(1, Ordering::SeqCst))))
        }
    }

    /// A store in memory that answers every `every`th request of an upload with 401.
    struct Expiring {
        inner: InMemory,
        tokens: Arc<Tokens>,
        every: u64,
        requests: AtomicU64,
    }

    impl Expiring {
        async fn request(&self) -> Result<()> {
            self.tokens.get().await.map_err(|e| Error::Generic { store: "test", source: Box::new(e) })?;
            match (self.requests.fetch_add(1, Ordering::SeqCst) + 1).is_multiple_of(self.every) {
                true => Err(Error::Unauthenticated { path: "x".into(), source: "401".into() }),
                false => Ok(()),
            }
        }
    }

    #[async_trait]
    impl MultipartStore for Expiring {
        async fn create_multipart(&self, path: &Path) -> Result<MultipartId> {
            self.request().await?;
            self.inner.create_multipart(path).await
        }

        async fn put_part(&self, path: &Path, id: &MultipartId, part: usize, data: PutPayload) -> Result<PartId> {
            self.request().await?;
            self.inner.put_part(path, id, part, data).await
        }

        async fn complete_multipart(&self, path: &Path, id: &MultipartId, parts: Vec<PartId>) -> Result<PutResult> {
            self.request().await?;
            self.inner.complete_multipart(path, id, parts).await
        }

        async fn abort_multipart(&self, path: &Path, id: &MultipartId) -> Result<()> {
            self.request().await?;
            self.inner.abort_multipart(path, id).await
        }
    }

    /// The token expires in the middle of an upload, at each of its requests in turn: every part is there once, in order.
    #[tokio::test]
    async fn a_part_that_is_refused_is_sent_again_with_a_fresh_token() {
        for every in 2..=5 {
            let provider = Arc::new(Counting::default());
            let tokens = Tokens::new(provider.clone());
            let store = Arc::new(Expiring {
                inner: InMemory::new(),
                tokens: tokens.clone(),
                every,
                requests: AtomicU64::new(0),
            });
            let path = Path::from("t/part.parquet");
            let mut upload = Upload::begin(store.clone(), tokens.clone(), &path).await.unwrap();
            let parts: Vec<UploadPart> = (0..4).map(|n| upload.put_part(format!("part {n};").into())).collect();
            for part in parts {
                part.await.unwrap();
            }
            upload.complete().await.unwrap();
            let bytes = store.inner.get(&path).await.unwrap().bytes().await.unwrap();
            assert_eq!(bytes, "part 0;part 1;part 2;part 3;");
            assert!(provider.0.load(Ordering::SeqCst) > 1, "a token was replaced");
            assert!(!format!("{upload:?}").contains("canary"));
        }
        // One that is refused twice in a row stays refused, and what was not sent whole is not completed.
        let tokens = Tokens::new(Arc::new(Counting::default()));
        let store = Expiring { inner: InMemory::new(), tokens: tokens.clone(), every: 1, requests: AtomicU64::new(0) };
        let path = Path::from("t/part.parquet");
        let id = store.inner.create_multipart(&path).await.unwrap();
        let mut upload = Upload { store: Arc::new(store), tokens, path, id, parts: 0, sent: Arc::default() };
        assert!(matches!(upload.put_part("x".into()).await, Err(Error::Unauthenticated { .. })));
        assert!(upload.complete().await.is_err());
    }
}
