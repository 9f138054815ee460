//! Checkpoints: written after the commit whose version is due, by delta-rs, and never able to fail a run.
//!
//! delta-rs would write them inside its own commit and return their failure as the commit's (delta-rs 1.1.3,
//! `transaction/mod.rs`), so that a caller retries a commit that is durable. Here the commit is ours and the checkpoint follows.

use std::collections::BTreeMap;

use deltalake::DeltaTable;
use deltalake::checkpoints::create_checkpoint;
use duckrun_core::{Error, Result};

use crate::error::delta_error;
use crate::location::Location;

/// The protocol's default for `delta.checkpointInterval`.
const DEFAULT_INTERVAL: u64 = 100;

/// Whether the commit of a version is to be followed by a checkpoint. Every version is somebody's, so exactly one writer is due.
pub(crate) fn is_due(version: u64, properties: &BTreeMap<String, String>) -> bool {
    let interval = properties.get("delta.checkpointInterval").and_then(|v| v.parse().ok()).unwrap_or(DEFAULT_INTERVAL);
    version > 0 && version.is_multiple_of(std::cmp::max(interval, 1))
}

/// Writes the checkpoint of a version.
pub(crate) async fn write(location: &Location, version: u64) -> Result<()> {
    let doing = || format!("write the checkpoint of version {version} of {location}");
    let mut table = DeltaTable::new(location.log().clone());
    table.load_version(version).await.map_err(|e| delta_error(e, doing()))?;
    // On a task of its own: what delta-rs does here panics rather than fails for some inputs, and a panic must not reach a run.
    tokio::spawn(async move { create_checkpoint(&table, None).await })
        .await
        .map_err(|e| Error::internal(doing()).with_source(e))?
        .map_err(|e| delta_error(e, doing()))
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
