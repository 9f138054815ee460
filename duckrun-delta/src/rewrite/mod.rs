//! Files written anew with some of their rows changed, without SQL: decoded, patched and encoded column by column.
//!
//! The changes come as a sorted stream of row numbers and new values. A touched file keeps its rows' order, its partition
//! and the boundaries of its row groups; rows under its deletion vector go for good. Invariants:
//!
//! - values of kept rows are the same to the bit; what no change touches is taken as encoded bytes ([`copy`]);
//! - memory is the row groups in flight, compressed, and their changes, within the writer's share; rows are decoded in
//!   pieces, so another writer's huge row groups cost their compressed chunks and no more ([`column`]);
//! - a row group is cut where its changes alone fill a quarter of the share; otherwise row groups neither split nor join, so
//!   a table that loses rows for long gets small ones until compaction joins them;
//! - with `skip_unchanged` a file is begun only when the first value is known to change;
//! - no litter: as in [`write`](crate::write).

mod changes;
mod column;
mod copy;
mod drive;
mod group;
mod patch;
mod produce;
#[cfg(test)]
mod tests;

pub(crate) use self::patch::equality;
use duckrun_core::{BatchStream, Result, RewriteSpec, Rewritten, RunContext};

use crate::snapshot::DeltaSnapshot;
use crate::write::Target;

/// Rewrites the files that `changes` name. See [`TableStore::rewrite`](duckrun_core::TableStore::rewrite).
///
/// # Errors
/// The stream's, the store's, a file's that cannot be read as the table's, or
/// [`ErrorKind::InvalidData`](duckrun_core::ErrorKind::InvalidData) for NULL in a column that forbids it. Every file of the call
/// has been removed by then.
pub(crate) async fn rewrite_files(
    cx: &RunContext,
    target: &Target,
    snapshot: &DeltaSnapshot,
    spec: &RewriteSpec,
    changes: BatchStream,
) -> Result<Rewritten> {
    let schema = std::sync::Arc::clone(changes.schema());
    drive::Drive::new(cx, target, snapshot, spec, &schema).await?.run(changes).await
}
