//! The simulation's part of a campaign.

use duckrun_testkit::Tally;
use duckrun_testkit::simulation::Simulation;

/// Runs so many operations of the simulation.
pub(crate) fn simulated(operations: u64, seed: u64) -> Tally {
    Simulation::new(seed).operations(operations).run()
}
