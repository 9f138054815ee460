//! Deleting many objects: in bulk where the store can, one by one where that fails.

use std::collections::HashSet;

use duckrun_core::{Phase, Progress, Result, RunContext};
use futures::StreamExt;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};

use crate::error::store_error;
use crate::location::Location;

/// Objects of one bulk request: what S3 takes.
const BULK: usize = 1000;

/// Deletes the objects, in their order as far as the store keeps it, and returns how many are gone, also where it failed. One
/// that was gone already counts: somebody else's vacuum had the same idea.
///
/// # Errors
/// The first object's that could not be deleted, after all the others were tried; cancellation.
pub(super) async fn all(cx: &RunContext, location: &Location, objects: &[Path]) -> (u64, Result<()>) {
    let mut gone = 0;
    let mut first = Ok(());
    for bulk in objects.chunks(BULK) {
        if let Err(cancelled) = cx.check() {
            return (gone, first.and(Err(cancelled)));
        }
        let store = location.store();
        let paths: Vec<object_store::Result<Path>> = bulk.iter().cloned().map(Ok).collect();
        let mut answers = store.delete_stream(futures::stream::iter(paths).boxed());
        let mut confirmed: HashSet<Path> = HashSet::new();
        while let Some(answer) = answers.next().await {
            match answer {
                Ok(path) => drop(confirmed.insert(path)),
                Err(object_store::Error::NotFound { .. }) => {}
                Err(e) => tracing::debug!(error = %e, "a bulk delete failed in part; trying one by one"),
            }
        }
        // Some stores confirm with other words than they were asked in; what was not confirmed is asked for once more.
        for path in bulk {
            if !confirmed.contains(path) {
                match store.delete(path).await {
                    Ok(()) | Err(object_store::Error::NotFound { .. }) => {}
                    Err(e) => {
                        first = first.and(Err(store_error(e, format_args!("delete {path}"))));
                        continue;
                    }
                }
            }
            gone += 1;
        }
        cx.report(&Progress::start(Phase::Maintenance).with_fraction(Some(gone as f64 / objects.len() as f64)));
    }
    (gone, first)
}
