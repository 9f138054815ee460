//! The protocol in a deterministic simulation: many short schedules, each from a seed of its own.

use std::time::Instant;

use duckrun_testkit::Tally;
use duckrun_testkit::simulation::Simulation;

/// A number from the environment.
fn ask(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|v| v.parse().ok()).unwrap_or(default)
}

/// Seeds from `first` on, until there were so many operations; a line for each.
fn campaign(first: u64, operations: u64, of_each: u64) -> Tally {
    let mut all = Tally::default();
    for seed in first.. {
        let started = Instant::now();
        let (tally, _, simulated) = Simulation::new(seed).operations(of_each.min(operations - all.operations)).trace();
        println!(
            "seed {seed}: {} operations, {} commits, {} conflicts, {} faults, {} kills, {} hours in {:.1} s",
            tally.operations,
            tally.commits,
            tally.conflicts,
            tally.faults,
            tally.kills,
            simulated.num_hours(),
            started.elapsed().as_secs_f64()
        );
        all.absorb(tally);
        if all.operations >= operations || !all.is_clean() {
            break;
        }
    }
    all
}

#[test]
fn ten_thousand_operations_keep_every_promise() {
    let all = campaign(ask("SIMULATION_SEED", 1), ask("SIMULATION_OPERATIONS", 10_000), 2_000);
    println!("{all:?}");
    assert!(all.is_clean(), "{:#?}", all.violations);
    assert!(all.commits * 3 > all.operations && all.conflicts > 0 && all.faults > 0 && all.kills > 0, "{all:?}");
}

#[test]
fn the_same_seed_is_the_same_schedule() {
    for seed in [1, 2] {
        let simulation = Simulation::new(seed).operations(300);
        let (once, again) = (simulation.trace(), simulation.trace());
        assert_eq!(once, again, "seed {seed}");
        assert_ne!(once.1, Simulation::new(seed + 10).operations(300).trace().1);
    }
    // Fewer operations are the beginning of the same schedule, and every setting has its effect.
    let plain = Simulation::new(3).operations(200).actors(3).faults(false).kills(false).run();
    assert_eq!((plain.operations, plain.faults, plain.kills), (200, 0, 0));
    assert!(plain.is_clean(), "{:#?}", plain.violations);
}
