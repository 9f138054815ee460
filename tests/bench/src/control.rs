//! The control beside wall times: how much of a second processor there is right now.
//!
//! Virtual machines often give two busy threads less than two processors, and differently from minute to minute. Wall times
//! of parallel subjects mean little without this figure; CPU seconds are the ones to compare.

use std::hint::black_box;
use std::thread;
use std::time::{Duration, Instant};

const ROUNDS: u64 = 150_000_000;

/// How much faster two busy threads do a fixed amount of work than one does: 2.0 with two idle processors, 1.0 with one.
pub(crate) fn two_thread_speedup() -> f64 {
    let alone = timed(|| spin(2 * ROUNDS));
    let together = timed(|| {
        thread::scope(|scope| {
            scope.spawn(|| spin(ROUNDS));
            scope.spawn(|| spin(ROUNDS));
        });
    });
    alone.as_secs_f64() / together.as_secs_f64()
}

/// A chain of dependent operations that no compiler shortens.
fn spin(rounds: u64) {
    let mut x = black_box(1_u64);
    for _ in 0..rounds {
        x = black_box(x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1));
    }
}

fn timed(work: impl FnOnce()) -> Duration {
    let start = Instant::now();
    work();
    start.elapsed()
}
