//! A table store in which something else happens at a chosen moment: how a test lets another writer in.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use duckrun::core::{Intent, RewriteSpec, Rewritten, Staged, WriteSpec};
use duckrun::{At, BatchStream, CommitOutcome, Result, RunContext, Snapshot, TableStore};
use futures::future::BoxFuture;

/// When something else happens, as seen by a run that uses the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Moment {
    /// Right after the run pinned its snapshot.
    Pinned,
    /// Before the run writes new rows.
    Stage,
    /// Before the run rewrites files.
    Rewrite,
    /// Before the run commits.
    Commit,
}

/// Wraps a store and carries out an action once, the first time that a moment comes.
///
/// ```
/// # async fn f(store: std::sync::Arc<dyn duckrun::TableStore>, other: duckrun::Model) {
/// use duckrun_testkit::{Interleaved, Moment};
/// let store = Interleaved::new(store, Moment::Commit, async move {
///     other.run().await.expect("the other writer");
/// });
/// # }
/// ```
pub struct Interleaved {
    inner: Arc<dyn TableStore>,
    moment: Moment,
    action: Mutex<Option<BoxFuture<'static, ()>>>,
    happened: AtomicBool,
}

impl Interleaved {
    /// Wraps a store.
    pub fn new(
        inner: Arc<dyn TableStore>,
        moment: Moment,
        action: impl Future<Output = ()> + Send + 'static,
    ) -> Arc<Self> {
        let action = Mutex::new(Some(Box::pin(action) as BoxFuture<'static, ()>));
        Arc::new(Self { inner, moment, action, happened: AtomicBool::new(false) })
    }

    /// Whether the moment came.
    pub fn happened(&self) -> bool {
        self.happened.load(Ordering::Acquire)
    }

    async fn at(&self, moment: Moment) {
        if moment == self.moment {
            let action = self.action.lock().unwrap_or_else(PoisonError::into_inner).take();
            if let Some(action) = action {
                action.await;
                self.happened.store(true, Ordering::Release);
            }
        }
    }
}

impl fmt::Debug for Interleaved {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Interleaved").field("inner", &self.inner).field("moment", &self.moment).finish_non_exhaustive()
    }
}

#[async_trait]
impl TableStore for Interleaved {
    fn location(&self) -> &str {
        self.inner.location()
    }

    async fn snapshot(&self, at: At) -> Result<Option<Arc<dyn Snapshot>>> {
        let snapshot = self.inner.snapshot(at).await?;
        self.at(Moment::Pinned).await;
        Ok(snapshot)
    }

    async fn stage(
        &self,
        cx: &RunContext,
        at: Option<&Arc<dyn Snapshot>>,
        spec: &WriteSpec,
        rows: BatchStream,
    ) -> Result<Staged> {
        self.at(Moment::Stage).await;
        self.inner.stage(cx, at, spec, rows).await
    }

    async fn rewrite(
        &self,
        cx: &RunContext,
        at: &Arc<dyn Snapshot>,
        spec: &RewriteSpec,
        changes: BatchStream,
    ) -> Result<Rewritten> {
        self.at(Moment::Rewrite).await;
        self.inner.rewrite(cx, at, spec, changes).await
    }

    async fn commit(&self, cx: &RunContext, at: Option<&Arc<dyn Snapshot>>, intent: &Intent) -> Result<CommitOutcome> {
        self.at(Moment::Commit).await;
        self.inner.commit(cx, at, intent).await
    }

    async fn after_commit(&self, cx: &RunContext, at: Option<&Arc<dyn Snapshot>>, version: u64) -> Vec<String> {
        self.inner.after_commit(cx, at, version).await
    }

    async fn discard(&self, cx: &RunContext, staged: &Staged) -> Result<()> {
        self.inner.discard(cx, staged).await
    }
}
