//! The state machine's part of a campaign: operations on real tables, compared with the model after every step.

use duckrun::{Error, Result};
use duckrun_testkit::Tally;

use crate::arguments::Store;

/// Does so many operations on real tables.
///
/// # Errors
/// Where it cannot be run.
pub(crate) fn on_real_tables(_operations: u64, _seed: u64, _store: Store) -> Result<Tally> {
    // HOOK: Ok(duckrun_testkit::machine::Machine::new(seed).operations(operations).run())
    Err(Error::unsupported("operations on real tables are not built in yet"))
}
