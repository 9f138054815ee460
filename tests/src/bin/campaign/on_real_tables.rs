//! The state machine's part of a campaign: operations on real tables, compared with the model after every step.

use duckrun::Result;
use duckrun_testkit::Tally;
use duckrun_testkit::machine::{Machine, MachineStore};
use duckrun_testkit::work::Playground;

/// Does so many operations on real tables.
///
/// # Errors
/// Where the store cannot be opened.
pub(crate) fn on_real_tables(operations: u64, seed: u64, playground: &Playground) -> Result<Tally> {
    let machine = Machine::new(seed).operations(operations);
    if playground.is_local() {
        return Ok(machine.run());
    }
    let root = playground.place("machine")?.open()?;
    let store = MachineStore::Store { url: root.url().clone(), store: root.store.clone(), prefix: root.prefix.clone() };
    Ok(machine.store(store).run())
}
