//! Governors for sessions that stand for processes of their own.

use std::sync::Arc;

use duckrun::{FairGovernor, Governor};

/// A governor for one session alone, as if it were the only one of its process.
///
/// Sessions ask the governor of their process for memory, and a run waits until its bytes are free. Tests and campaigns share
/// a process and hold runs open in the middle, to let another writer in: that one must not wait for the memory of the first.
pub fn own_governor() -> Arc<dyn Governor> {
    Arc::new(FairGovernor::new())
}
