//! One range of one file, asked for until it is whole, the statement is interrupted, or the store means its refusal.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use object_store::{GetOptions, GetRange, GetResultPayload};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::RemoteSet;
use crate::{Error, ErrorKind, Result};

/// How often a range whose body breaks off is asked for again, from where it broke, and the first pause before that.
const ATTEMPTS: u32 = 4;
const FIRST_PAUSE: Duration = Duration::from_millis(50);

/// The right to ask for ranges of one file, on behalf of one statement.
#[derive(Clone)]
pub(super) struct Request {
    pub(super) set: Arc<RemoteSet>,
    pub(super) index: usize,
    pub(super) statement: CancellationToken,
    pub(super) run: CancellationToken,
}

impl Request {
    /// Sends the bytes of a range in order. A body that breaks off is continued where it broke.
    pub(super) async fn range(&mut self, range: Range<u64>, out: &mpsc::Sender<(u64, Bytes)>) -> Result<()> {
        let (statement, run) = (self.statement.clone(), self.run.clone());
        tokio::select! {
            biased;
            () = statement.cancelled() => Err(Error::cancelled()),
            () = run.cancelled() => Err(Error::cancelled()),
            done = self.attempts(range, out) => done,
        }
    }

    async fn attempts(&self, range: Range<u64>, out: &mpsc::Sender<(u64, Bytes)>) -> Result<()> {
        let mut at = range.start;
        let mut pause = FIRST_PAUSE;
        for attempt in 1.. {
            let failed = match self.body(&mut at, range.end, out).await {
                Ok(()) if at == range.end => return Ok(()),
                Ok(()) => None,
                Err(e) => Some(e),
            };
            let passing = failed.as_ref().is_none_or(|e| matches!(e, object_store::Error::Generic { .. }));
            if !passing || attempt == ATTEMPTS {
                return Err(self.error(failed));
            }
            tokio::time::sleep(pause).await;
            pause *= 4;
        }
        Ok(())
    }

    async fn body(&self, at: &mut u64, end: u64, out: &mpsc::Sender<(u64, Bytes)>) -> object_store::Result<()> {
        let file = &self.set.files[self.index];
        let range = Some(GetRange::Bounded(*at..end));
        let options = GetOptions { range, if_match: file.e_tag.clone(), ..GetOptions::default() };
        let answer = self.set.store.get_opts(&file.path, options).await?;
        if answer.range.start != *at {
            return Ok(());
        }
        let mut body = match &answer.payload {
            GetResultPayload::Stream(_) => answer.into_stream(),
            // A file of the local disk, of a store that was injected: as a stream it would come in pieces of 8 KiB, each a task
            // of its own. A request is for 8 MiB at most.
            GetResultPayload::File(..) => futures::stream::once(answer.bytes()).boxed(),
        };
        while let Some(mut chunk) = body.try_next().await? {
            chunk.truncate((end - *at) as usize);
            let from = *at;
            *at += chunk.len() as u64;
            if out.send((from, chunk)).await.is_err() {
                return Ok(());
            }
        }
        Ok(())
    }

    fn error(&self, failed: Option<object_store::Error>) -> Error {
        use object_store::Error as E;
        let name = &self.set.files[self.index].name;
        let Some(e) = failed else {
            return Error::new(ErrorKind::Unavailable, format!("{name} cannot be read: its body breaks off"));
        };
        let kind = match &e {
            E::Precondition { .. } | E::NotModified { .. } => {
                let text =
                    format!("{name} was replaced since it was listed: what was read of it does not fit together");
                return Error::new(ErrorKind::Unavailable, text);
            }
            E::NotFound { .. } => ErrorKind::NotFound,
            E::PermissionDenied { .. } | E::Unauthenticated { .. } => ErrorKind::PermissionDenied,
            E::NotSupported { .. } | E::NotImplemented { .. } => ErrorKind::Unsupported,
            _ => ErrorKind::Unavailable,
        };
        Error::new(kind, format!("{name} cannot be read: {e}"))
    }
}
