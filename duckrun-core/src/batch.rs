//! A stream of Arrow batches: pulled, never pushed; consumed once; it ends only when every row has passed.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use futures::{Stream, StreamExt, TryStreamExt};

use crate::{Error, Result};

/// A stream of batches of one schema.
///
/// # Contract
/// - **Pulled**: the producer holds at most a small bounded buffer; what is not polled is not computed.
/// - **Whole or failed**: the end of the stream (`None`) means that every row has passed. A producer that stops for any
///   other reason, interruption included, yields an `Err` first. After an `Err` the stream ends.
/// - **Cancelled by dropping**: the producer stops, without waiting for it.
pub struct BatchStream {
    schema: SchemaRef,
    inner: Pin<Box<dyn Stream<Item = Result<RecordBatch>> + Send>>,
    estimate: Option<Estimate>,
    done: bool,
}

/// A cheap question to the producer: how much of the work is done, 0 to 1, as far as it knows.
pub(crate) type Estimate = Arc<dyn Fn() -> Option<f64> + Send + Sync>;

impl BatchStream {
    /// Wraps a stream whose batches have the given schema.
    pub fn new(schema: SchemaRef, inner: impl Stream<Item = Result<RecordBatch>> + Send + 'static) -> Self {
        Self { schema, inner: Box::pin(inner), estimate: None, done: false }
    }

    /// A stream over batches in memory, for small inputs and tests.
    pub fn from_batches(schema: SchemaRef, batches: Vec<RecordBatch>) -> Self {
        Self::new(schema, futures::stream::iter(batches.into_iter().map(Ok)))
    }

    /// Attaches the producer's own estimate of its progress.
    #[must_use]
    pub fn with_estimate(mut self, estimate: impl Fn() -> Option<f64> + Send + Sync + 'static) -> Self {
        self.estimate = Some(Arc::new(estimate));
        self
    }

    /// How much of the query the producer believes is done, 0 to 1; may be asked at any time, from a clone of the question.
    pub fn estimate(&self) -> impl Fn() -> Option<f64> + Send + Sync + use<> {
        let estimate = self.estimate.clone();
        move || estimate.as_ref().and_then(|f| f())
    }

    /// The schema of every batch.
    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// The same rows, each batch changed by a function; the new schema is the caller's word.
    #[must_use]
    pub fn map_batches(
        self,
        schema: SchemaRef,
        mut f: impl FnMut(RecordBatch) -> Result<RecordBatch> + Send + 'static,
    ) -> Self {
        let estimate = self.estimate.clone();
        Self { estimate, ..Self::new(schema, self.map(move |batch| batch.and_then(&mut f))) }
    }

    /// Collects everything. For results that are known to be small: this is not bounded in memory.
    ///
    /// # Errors
    /// The stream's first error.
    pub async fn collect(self) -> Result<Vec<RecordBatch>> {
        self.try_collect().await
    }
}

impl Stream for BatchStream {
    type Item = Result<RecordBatch>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.done {
            return Poll::Ready(None);
        }
        let item = std::task::ready!(self.inner.as_mut().poll_next(cx));
        let item = match item {
            Some(Ok(batch)) if batch.num_columns() != self.schema.fields().len() => {
                Some(Err(Error::internal(format!(
                    "a batch has {} columns where the stream promised {}",
                    batch.num_columns(),
                    self.schema.fields().len()
                ))))
            }
            item => item,
        };
        self.done = !matches!(item, Some(Ok(_)));
        Poll::Ready(item)
    }
}

impl fmt::Debug for BatchStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BatchStream").field("schema", &self.schema).finish_non_exhaustive()
    }
}
