//! Watching delta-rs at work: every batch, request and reservation counts as progress, and all of them fail once it is stopped.
//!
//! delta-rs runs parts of a merge on tasks of its own, which dropping its future does not reach (delta-rs 1.1.3,
//! `write/execution.rs`). They end because whatever they ask for next is refused. What is refused first is the commit.

use std::fmt;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use deltalake::datafusion::common::DataFusionError;
use deltalake::datafusion::execution::memory_pool::{
    FairSpillPool, MemoryConsumer, MemoryLimit, MemoryPool, MemoryReservation,
};
use duckrun_core::Error;
use futures::stream::BoxStream;
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, PutMultipartOptions,
    PutOptions, PutPayload, PutResult, Result, UploadPart,
};

const STOPPED: &str = "the run was stopped";

/// What one run of delta-rs has done so far.
#[derive(Debug, Default)]
pub(super) struct Meter {
    ticks: AtomicU64,
    rows: AtomicU64,
    bytes: AtomicU64,
    peak: AtomicU64,
    stopped: AtomicBool,
    written: Mutex<Vec<Path>>,
    failure: Mutex<Option<Error>>,
}

impl Meter {
    /// Counts something that happened; `false` once stopped.
    pub(super) fn tick(&self) -> bool {
        self.ticks.fetch_add(1, Ordering::Relaxed);
        !self.is_stopped()
    }

    /// How much has happened: another number than before means progress.
    pub(super) fn ticks(&self) -> u64 {
        self.ticks.load(Ordering::Relaxed)
    }

    pub(super) fn add_rows(&self, rows: usize) {
        self.rows.fetch_add(rows as u64, Ordering::Relaxed);
    }

    /// Incoming rows that passed, and bytes written.
    pub(super) fn totals(&self) -> (u64, u64) {
        (self.rows.load(Ordering::Relaxed), self.bytes.load(Ordering::Relaxed))
    }

    /// The most that was reserved of the memory pool, in bytes.
    pub(super) fn peak(&self) -> u64 {
        self.peak.load(Ordering::Relaxed)
    }

    pub(super) fn stop(&self) {
        self.stopped.store(true, Ordering::Release);
    }

    pub(super) fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Acquire)
    }

    /// The objects that were written, by their paths below the table.
    pub(super) fn written(&self) -> Vec<Path> {
        self.written.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Keeps the failure of the incoming rows: delta-rs hands it on as text.
    pub(super) fn fail(&self, e: Error) {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(e);
    }

    pub(super) fn failure(&self) -> Option<Error> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn check(&self) -> Result<()> {
        if self.tick() {
            return Ok(());
        }
        Err(object_store::Error::Generic { store: "duckrun", source: STOPPED.into() })
    }

    fn writes(&self, path: &Path) {
        self.written.lock().unwrap_or_else(PoisonError::into_inner).push(path.clone());
    }
}

/// DataFusion's pool with a fair share for every operator that can spill.
#[derive(Debug)]
pub(super) struct MeteredPool {
    inner: FairSpillPool,
    meter: Arc<Meter>,
}

impl MeteredPool {
    pub(super) fn new(bytes: usize, meter: Arc<Meter>) -> Self {
        Self { inner: FairSpillPool::new(bytes), meter }
    }

    fn note(&self) {
        self.meter.peak.fetch_max(self.inner.reserved() as u64, Ordering::Relaxed);
    }
}

impl fmt::Display for MeteredPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.inner, f)
    }
}

impl MemoryPool for MeteredPool {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn register(&self, consumer: &MemoryConsumer) {
        self.inner.register(consumer);
    }

    fn unregister(&self, consumer: &MemoryConsumer) {
        self.inner.unregister(consumer);
    }

    fn grow(&self, reservation: &MemoryReservation, additional: usize) {
        self.meter.tick();
        self.inner.grow(reservation, additional);
        self.note();
    }

    fn shrink(&self, reservation: &MemoryReservation, shrink: usize) {
        self.meter.tick();
        self.inner.shrink(reservation, shrink);
    }

    fn try_grow(
        &self,
        reservation: &MemoryReservation,
        additional: usize,
    ) -> deltalake::datafusion::common::Result<()> {
        if !self.meter.tick() {
            return Err(DataFusionError::Execution(STOPPED.to_owned()));
        }
        self.inner.try_grow(reservation, additional)?;
        self.note();
        Ok(())
    }

    fn reserved(&self) -> usize {
        self.inner.reserved()
    }

    fn memory_limit(&self) -> MemoryLimit {
        self.inner.memory_limit()
    }
}

/// A store whose requests are counted. `table` says that paths are relative to the table, and new objects are remembered.
#[derive(Debug, Clone)]
pub(super) struct MeteredStore {
    inner: Arc<dyn ObjectStore>,
    meter: Arc<Meter>,
    table: bool,
}

impl MeteredStore {
    pub(super) fn new(inner: Arc<dyn ObjectStore>, meter: Arc<Meter>, table: bool) -> Self {
        Self { inner, meter, table }
    }

    fn writing(&self, path: &Path) -> Result<()> {
        self.meter.check()?;
        if self.table {
            self.meter.writes(path);
        }
        Ok(())
    }
}

impl fmt::Display for MeteredStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.inner, f)
    }
}

#[async_trait]
impl ObjectStore for MeteredStore {
    async fn put_opts(&self, path: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        self.writing(path)?;
        self.meter.bytes.fetch_add(payload.content_length() as u64, Ordering::Relaxed);
        let done = self.inner.put_opts(path, payload, options).await;
        self.meter.tick();
        done
    }

    async fn put_multipart_opts(&self, path: &Path, options: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        self.writing(path)?;
        let inner = self.inner.put_multipart_opts(path, options).await?;
        Ok(Box::new(MeteredUpload { inner, meter: self.meter.clone() }))
    }

    async fn get_opts(&self, path: &Path, options: GetOptions) -> Result<GetResult> {
        self.meter.check()?;
        let done = self.inner.get_opts(path, options).await;
        self.meter.tick();
        done
    }

    async fn get_ranges(&self, path: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        self.meter.check()?;
        let done = self.inner.get_ranges(path, ranges).await;
        self.meter.tick();
        done
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.inner.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list(prefix)
    }

    fn list_with_offset(&self, prefix: Option<&Path>, offset: &Path) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list_with_offset(prefix, offset)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.meter.check()?;
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.writing(to)?;
        self.inner.copy_opts(from, to, options).await
    }
}

#[derive(Debug)]
struct MeteredUpload {
    inner: Box<dyn MultipartUpload>,
    meter: Arc<Meter>,
}

#[async_trait]
impl MultipartUpload for MeteredUpload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        if let Err(e) = self.meter.check() {
            return Box::pin(async { Err(e) });
        }
        self.meter.bytes.fetch_add(data.content_length() as u64, Ordering::Relaxed);
        let (part, meter) = (self.inner.put_part(data), self.meter.clone());
        Box::pin(async move {
            let done = part.await;
            meter.tick();
            done
        })
    }

    async fn complete(&mut self) -> Result<PutResult> {
        self.meter.check()?;
        self.inner.complete().await
    }

    async fn abort(&mut self) -> Result<()> {
        self.inner.abort().await
    }
}
