//! The protocol in a deterministic simulation.

use std::time::Instant;

use duckrun_testkit::simulation::Simulation;

/// A number from the environment.
fn ask(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|v| v.parse().ok()).unwrap_or(default)
}

#[test]
fn ten_thousand_operations_keep_every_promise() {
    let started = Instant::now();
    let (tally, _, simulated) = Simulation::new(ask("SEED", 1)).operations(ask("OPS", 5_000)).trace();
    println!("{tally:?}, {} hours in {:?}", simulated.num_hours(), started.elapsed());
    assert!(tally.is_clean(), "{:#?}", tally.violations);
}
