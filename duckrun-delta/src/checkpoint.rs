//! Checkpoints: written after the commit whose version is due, by the kernel under delta-rs, and never able to fail a run.
//!
//! delta-rs would write them inside its own commit and return their failure as the commit's (delta-rs 1.1.3,
//! `transaction/mod.rs`), so that a caller retries a commit that is durable. Here the commit is ours and the checkpoint follows.
//! Its `create_checkpoint` takes a table with all adds in memory and then opens the version twice more; the kernel's needs the
//! snapshot that we have.

use std::collections::BTreeMap;

use duckrun_core::{Error, Result, Snapshot as _};

use crate::error::delta_error;
use crate::snapshot::DeltaSnapshot;

/// The protocol's default for `delta.checkpointInterval`.
const DEFAULT_INTERVAL: u64 = 100;

/// Whether the commit of a version is to be followed by a checkpoint. Every version is somebody's, so exactly one writer is due.
pub(crate) fn is_due(version: u64, properties: &BTreeMap<String, String>) -> bool {
    let interval = properties.get("delta.checkpointInterval").and_then(|v| v.parse().ok()).unwrap_or(DEFAULT_INTERVAL);
    version > 0 && version.is_multiple_of(std::cmp::max(interval, 1))
}

/// Writes the checkpoint of a snapshot's version, unless there is one.
pub(crate) async fn write(snapshot: &DeltaSnapshot) -> Result<()> {
    let doing = format!("write the checkpoint of version {} of {}", snapshot.version(), snapshot.location());
    let scan = snapshot.lazy().scan_builder().build().map_err(|e| delta_error(e, &doing))?;
    let (kernel, engine) = (scan.snapshot().clone(), snapshot.location().log().engine(None));
    let failed = doing.clone();
    // On a thread of its own: it blocks, and it panics rather than fails for some inputs, and a panic must not reach a run.
    tokio::task::spawn_blocking(move || kernel.checkpoint(engine.as_ref(), None).map(drop))
        .await
        .map_err(|e| Error::internal(format!("cannot {failed}")).with_source(e))?
        .map_err(|e| delta_error(e.into(), doing))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_interval_th_version_is_due() {
        let ten = BTreeMap::from([("delta.checkpointInterval".to_owned(), "10".to_owned())]);
        let due: Vec<u64> = (0..31).filter(|v| is_due(*v, &ten)).collect();
        assert_eq!(due, [10, 20, 30]);
        assert!(is_due(100, &BTreeMap::new()) && !is_due(10, &BTreeMap::new()));
    }
}
