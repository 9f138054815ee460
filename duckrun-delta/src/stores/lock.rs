//! Locks for stores without conditional puts.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use duckrun_core::{Error, ErrorKind, Result};
use object_store::path::Path;
use object_store::{Error as StoreError, ObjectStore, ObjectStoreExt, PutMode, PutOptions, UpdateVersion};
use tokio::task::AbortHandle;

/// Lets one writer at a time commit to a table whose store has no conditional put. Every writer of the table must use it.
///
/// Called before each commit and released after it. What a lock cannot promise: a holder that is paused for longer than
/// its lease (a suspended machine, a stopped process) may put its commit after another writer has taken over. On such a
/// store a commit is therefore not claimed to be exactly once; only a store with conditional puts gives that.
#[async_trait]
pub trait WriterLock: fmt::Debug + Send + Sync {
    /// Waits until the table is ours. Dropping the future gives up.
    ///
    /// # Errors
    /// Where the lock's own store fails, or the wait is over.
    async fn acquire(&self, table: &str) -> Result<Box<dyn HeldLock>>;
}

/// A lock that is held. Dropping it without [`release`](Self::release) lets it expire.
#[async_trait]
pub trait HeldLock: fmt::Debug + Send + Sync {
    /// Whether it is still ours, as far as the holder can know: asked directly before a commit is put.
    fn is_held(&self) -> bool;

    /// Lets the next writer in.
    async fn release(self: Box<Self>);
}

/// A [`WriterLock`] as a lease: an object per table, in a store that has conditional puts.
///
/// The holder replaces the object every third of the lease's `duration`. A waiter takes over when it has seen the object
/// unchanged for a whole `duration`, by its own stopwatch: clocks of machines are not compared. So a crashed holder blocks
/// others for at most `duration` after they first look.
#[derive(Clone)]
pub struct LeaseLock {
    store: Arc<dyn ObjectStore>,
    prefix: Path,
    duration: Duration,
    patience: Duration,
}

impl LeaseLock {
    /// Leases as objects below `prefix` of a store with conditional puts; ten seconds long, waited for up to a minute.
    pub fn new(store: Arc<dyn ObjectStore>, prefix: Path) -> Self {
        Self { store, prefix, duration: Duration::from_secs(10), patience: Duration::from_secs(60) }
    }

    /// Another length of a lease. All writers must use the same one.
    #[must_use]
    pub fn with_duration(mut self, duration: Duration) -> Self {
        self.duration = duration;
        self
    }

    /// Another time after which a waiter gives up.
    #[must_use]
    pub fn with_patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    fn path(&self, table: &str) -> Path {
        // Any name becomes one part of a path.
        self.prefix.clone().join(format!("{table}.lease"))
    }

    async fn put(&self, path: &Path, holder: &str, mode: PutMode) -> object_store::Result<UpdateVersion> {
        // Never the same bytes twice: some stores make the tag of an object from its content.
        let body = format!("{holder} {}", uuid::Uuid::new_v4().simple());
        let done = self.store.put_opts(path, body.into(), PutOptions { mode, ..PutOptions::default() }).await?;
        Ok(UpdateVersion { e_tag: done.e_tag, version: done.version })
    }

    /// Takes a lease that is free: never made, released, or unchanged for a whole duration.
    async fn take(
        &self,
        path: &Path,
        holder: &str,
        seen: &mut Option<Seen>,
    ) -> object_store::Result<Option<UpdateVersion>> {
        let found = match self.store.get(path).await {
            Ok(found) => found,
            Err(StoreError::NotFound { .. }) => return lost(self.put(path, holder, PutMode::Create).await),
            Err(e) => return Err(e),
        };
        let version = UpdateVersion { e_tag: found.meta.e_tag.clone(), version: found.meta.version.clone() };
        let free = found.bytes().await?.as_ref() == FREE.as_bytes();
        let unchanged = match seen {
            Some(seen) if seen.version == version => seen.since.elapsed() >= self.duration,
            _ => {
                *seen = Some(Seen { version: version.clone(), since: Instant::now() });
                false
            }
        };
        if free || unchanged {
            return lost(self.put(path, holder, PutMode::Update(version)).await);
        }
        Ok(None)
    }
}

/// What a released lease holds.
const FREE: &str = "free";

struct Seen {
    version: UpdateVersion,
    since: Instant,
}

/// Somebody else was quicker: not an error.
fn lost(put: object_store::Result<UpdateVersion>) -> object_store::Result<Option<UpdateVersion>> {
    match put {
        Ok(version) => Ok(Some(version)),
        Err(StoreError::AlreadyExists { .. } | StoreError::Precondition { .. }) => Ok(None),
        Err(e) => Err(e),
    }
}

#[async_trait]
impl WriterLock for LeaseLock {
    async fn acquire(&self, table: &str) -> Result<Box<dyn HeldLock>> {
        let (path, holder) = (self.path(table), uuid::Uuid::new_v4().simple().to_string());
        let (started, mut seen) = (Instant::now(), None);
        loop {
            let asked = Instant::now();
            let taken = self.take(&path, &holder, &mut seen).await.map_err(|e| {
                Error::new(ErrorKind::Unavailable, format!("the writer lock of {table} cannot be taken")).with_source(e)
            })?;
            if let Some(version) = taken {
                return Ok(Box::new(Lease::keep(self.clone(), path, holder, version, asked)));
            }
            if started.elapsed() >= self.patience {
                return Err(Error::new(
                    ErrorKind::Unavailable,
                    format!("the writer lock of {table} is held by others for {:?}", self.patience),
                ));
            }
            tokio::time::sleep(self.duration / 10).await;
        }
    }
}

impl fmt::Debug for LeaseLock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LeaseLock")
            .field("prefix", &self.prefix)
            .field("duration", &self.duration)
            .finish_non_exhaustive()
    }
}

/// A lease that is ours, and the task that renews it.
struct Lease {
    state: Arc<State>,
    heart: AbortHandle,
}

struct State {
    lock: LeaseLock,
    path: Path,
    holder: String,
    lost: AtomicBool,
    current: tokio::sync::Mutex<(UpdateVersion, Instant)>,
    /// When it was renewed last, for readers that do not wait.
    renewed: std::sync::Mutex<Instant>,
}

impl Lease {
    fn keep(lock: LeaseLock, path: Path, holder: String, version: UpdateVersion, since: Instant) -> Self {
        let state = Arc::new(State {
            lock,
            path,
            holder,
            lost: AtomicBool::new(false),
            current: tokio::sync::Mutex::new((version, since)),
            renewed: std::sync::Mutex::new(since),
        });
        let beating = state.clone();
        let heart = tokio::spawn(async move { beating.beat().await }).abort_handle();
        Self { state, heart }
    }
}

impl State {
    async fn beat(&self) {
        let mut pause = tokio::time::interval(self.lock.duration / 3);
        pause.tick().await;
        loop {
            pause.tick().await;
            let mut current = self.current.lock().await;
            // Counted from before the request: a waiter may have seen the object change at any time since.
            let asked = Instant::now();
            let update = PutMode::Update(current.0.clone());
            match self.lock.put(&self.path, &self.holder, update).await {
                Ok(version) => {
                    *current = (version, asked);
                    *self.renewed.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = asked;
                }
                Err(
                    StoreError::Precondition { .. } | StoreError::NotFound { .. } | StoreError::AlreadyExists { .. },
                ) => {
                    self.lost.store(true, Ordering::SeqCst);
                    return;
                }
                Err(e) => tracing::debug!(error = %e, "a lease was not renewed; it is tried again"),
            }
        }
    }
}

#[async_trait]
impl HeldLock for Lease {
    fn is_held(&self) -> bool {
        let renewed = *self.state.renewed.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        // Others may take over after a whole duration; a third of it is left for the put itself.
        !self.state.lost.load(Ordering::SeqCst) && renewed.elapsed() < self.state.lock.duration * 2 / 3
    }

    async fn release(self: Box<Self>) {
        // Waits for a renewal under way, so that the version is the newest.
        let current = self.state.current.lock().await;
        self.heart.abort();
        let options = PutOptions { mode: PutMode::Update(current.0.clone()), ..PutOptions::default() };
        if let Err(e) = self.state.lock.store.put_opts(&self.state.path, FREE.into(), options).await {
            tracing::debug!(error = %e, "a lease was not released; it expires");
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.heart.abort();
    }
}

impl fmt::Debug for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lease").field("path", &self.state.path).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use object_store::memory::InMemory;

    fn lock(store: &Arc<dyn ObjectStore>, milliseconds: u64) -> LeaseLock {
        LeaseLock::new(store.clone(), Path::from("locks")).with_duration(Duration::from_millis(milliseconds))
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn one_holder_at_a_time_and_released_at_once() {
        let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
        let inside = Arc::new(AtomicBool::new(false));
        let mut writers = tokio::task::JoinSet::new();
        for _ in 0..6 {
            let (lock, inside) = (lock(&store, 600), inside.clone());
            writers.spawn(async move {
                for _ in 0..3 {
                    let held = lock.acquire("a.t").await.unwrap();
                    assert!(!inside.swap(true, Ordering::SeqCst));
                    tokio::time::sleep(Duration::from_millis(5)).await;
                    assert!(held.is_held());
                    inside.store(false, Ordering::SeqCst);
                    held.release().await;
                }
            });
        }
        while let Some(done) = writers.join_next().await {
            done.unwrap();
        }
    }

    /// The lease outlives its duration while it is renewed, and a holder that vanishes blocks for about one duration.
    #[tokio::test(flavor = "multi_thread")]
    async fn a_heartbeat_keeps_it_and_a_crash_frees_it() {
        let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
        let held = lock(&store, 600).acquire("a.t").await.unwrap();
        let impatient = lock(&store, 600).with_patience(Duration::from_millis(1500));
        assert_eq!(impatient.acquire("a.t").await.unwrap_err().kind(), ErrorKind::Unavailable);
        assert!(held.is_held());
        let other = lock(&store, 600).acquire("a.u").await.unwrap();
        drop((held, other));
        let started = Instant::now();
        let taken = lock(&store, 600).acquire("a.t").await.unwrap();
        assert!(taken.is_held());
        let waited = started.elapsed();
        assert!(waited >= Duration::from_millis(590) && waited < Duration::from_secs(3), "{waited:?}");
    }

    /// A holder that sleeps past its expiry (a laptop that was closed, a stopped container) knows that it holds nothing any
    /// more, and its release takes nothing from whoever took over.
    #[tokio::test(flavor = "multi_thread")]
    async fn a_holder_that_was_paused_holds_nothing() {
        let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
        let (lock, path) = (lock(&store, 300), Path::from("locks/a.t.lease"));
        let since = Instant::now();
        let version = lock.put(&path, "paused", PutMode::Create).await.unwrap();
        let paused = Box::new(Lease::keep(lock.clone(), path.clone(), "paused".to_owned(), version, since));
        assert!(paused.is_held());
        paused.heart.abort();
        let next = lock.acquire("a.t").await.unwrap();
        assert_eq!(lock.path("a.t"), path);
        assert!(since.elapsed() >= Duration::from_millis(300));
        assert!(!paused.is_held() && next.is_held());
        paused.release().await;
        assert!(next.is_held());
        let impatient = lock.clone().with_patience(Duration::from_millis(500));
        assert_eq!(impatient.acquire("a.t").await.unwrap_err().kind(), ErrorKind::Unavailable);
        next.release().await;
        impatient.acquire("a.t").await.unwrap().release().await;
    }
}
