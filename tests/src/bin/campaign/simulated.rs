//! The simulation's part of a campaign.

use duckrun::{Error, Result};
use duckrun_testkit::Tally;

/// Runs so many operations of the simulation.
///
/// # Errors
/// Where it cannot be run.
pub(crate) fn simulated(_operations: u64, _seed: u64) -> Result<Tally> {
    // HOOK: Ok(duckrun_testkit::simulation::Simulation::new(seed).operations(operations).run())
    Err(Error::unsupported("the simulation is not built in yet"))
}
