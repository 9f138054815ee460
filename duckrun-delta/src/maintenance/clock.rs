//! Guard against skewed clocks: what is old is told by the store's times and the local clock, so these must agree.
//!
//! A local clock that runs ahead makes young files look old, and that is how a vacuum deletes the files of a run in flight. Proof
//! of agreement is an object that the store has just dated: the newest commit, if it is fresh, else a probe.

use std::time::Duration;

use chrono::{DateTime, Utc};
use duckrun_core::{Error, ErrorKind, Result, RunContext, Snapshot as _};
use object_store::path::Path;
use object_store::{ObjectStoreExt, PutPayload};

use crate::error::store_error;
use crate::history::{LOG, commit_path};
use crate::location::Location;
use crate::snapshot::DeltaSnapshot;

/// How far the local clock and the store's may be apart. Retentions are days.
pub(super) const MAX_SKEW: Duration = Duration::from_secs(10 * 60);

/// Fails where the clocks disagree. May write a hidden object into the log folder and remove it again.
///
/// # Errors
/// [`ErrorKind::Unavailable`] with both times: fix the clock.
pub(super) async fn check(cx: &RunContext, location: &Location, snapshot: &DeltaSnapshot) -> Result<()> {
    if newest_commit(cx, location, snapshot).await? {
        return Ok(());
    }
    let probe = Path::from_iter([LOG.to_owned(), format!(".clock-{}.tmp", uuid::Uuid::new_v4())]);
    let doing = || format!("ask the store of {location} for its time");
    location.store().put(&probe, PutPayload::from_static(b"")).await.map_err(|e| store_error(e, doing()))?;
    let dated = location.store().head(&probe).await;
    if let Err(e) = location.store().delete(&probe).await {
        tracing::debug!(%probe, error = %e, "a probe of the store's clock is left; its name is hidden");
    }
    let theirs = dated.map_err(|e| store_error(e, doing()))?.last_modified;
    match apart(theirs, cx.now()) {
        skew if skew > MAX_SKEW => Err(skewed(theirs, cx.now())),
        _ => Ok(()),
    }
}

/// The part of the guard that writes nothing: whether the newest commit proves that the clocks agree.
///
/// # Errors
/// Where it lies in the future.
pub(super) async fn newest_commit(cx: &RunContext, location: &Location, snapshot: &DeltaSnapshot) -> Result<bool> {
    let path = commit_path(snapshot.version());
    let theirs = match location.store().head(&path).await {
        Ok(object) => object.last_modified,
        Err(object_store::Error::NotFound { .. }) => return Ok(false),
        Err(e) => return Err(store_error(e, format_args!("look at {path}"))),
    };
    let agree = apart(theirs, cx.now()) <= MAX_SKEW;
    if !agree && theirs > cx.now() { Err(skewed(theirs, cx.now())) } else { Ok(agree) }
}

fn apart(a: DateTime<Utc>, b: DateTime<Utc>) -> Duration {
    (a - b).abs().to_std().unwrap_or_default()
}

fn skewed(theirs: DateTime<Utc>, ours: DateTime<Utc>) -> Error {
    Error::new(
        ErrorKind::Unavailable,
        format!(
            "the local clock says {} where the store says {}: nothing is deleted while they differ by more than {} minutes",
            ours.to_rfc3339(),
            theirs.to_rfc3339(),
            MAX_SKEW.as_secs() / 60
        ),
    )
}
