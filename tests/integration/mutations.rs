//! Is the harness worth anything? Each of these breaks something on purpose, by a switch of the testkit, and must be found within the
//! cases that the quick suite plays; without it the same seeds are clean.

use duckrun_testkit::Tally;
use duckrun_testkit::simulation::{Mutation, Simulation};

/// The operations of each seed, and how many seeds there are: as many cases as the quick suite has.
const OPERATIONS: u64 = 1_000;
const SEEDS: u64 = 10;

/// The first tally with a violation, and the seed that led to it.
fn found(mutation: Mutation) -> (u64, Tally) {
    let play = |seed| Simulation::new(seed).operations(OPERATIONS).mutation(mutation).run();
    let found = (1..=SEEDS).map(|seed| (seed, play(seed))).find(|(_, tally)| !tally.is_clean());
    let (seed, tally) = found.unwrap_or_else(|| panic!("{mutation:?} was not found"));
    println!("{mutation:?}: seed {seed}, {:?}", tally.violations);
    let clean = Simulation::new(seed).operations(tally.operations + 20).run();
    assert!(clean.is_clean(), "{:#?}", clean.violations);
    (seed, tally)
}

#[test]
fn a_broken_compare_and_swap_is_found() {
    let (_, tally) = found(Mutation::PutsOverwrite);
    assert!(tally.violations.iter().any(|v| v.contains("was written a second time")), "{:?}", tally.violations);
}

#[test]
fn a_skipped_idempotency_check_is_found() {
    let (_, tally) = found(Mutation::ForgetsRuns);
    let twice = |v: &String| v.contains("is in the log twice") || v.contains("was refused, and is version");
    assert!(tally.violations.iter().any(twice), "{:?}", tally.violations);
}

#[test]
fn a_wrong_prune_is_found() {
    let (_, tally) = found(Mutation::WrongStatistics);
    assert!(tally.violations.iter().any(|v| v.contains("is not what the operation does")), "{:?}", tally.violations);
}

#[test]
fn a_vacuum_without_retention_is_found() {
    let (_, tally) = found(Mutation::VacuumsAtOnce);
    let early = |v: &String| v.contains("within the retention") || v.contains("which is not there");
    assert!(tally.violations.iter().any(early), "{:?}", tally.violations);
}
