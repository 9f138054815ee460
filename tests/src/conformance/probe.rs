//! What every `MemoryProbe` must do.

use std::sync::Arc;
use std::time::{Duration, Instant};

use duckrun::memory::{EffectiveLimit, MemoryProbe, MemorySample, MemorySettings};

use super::{Conformance, Found, broken, holds, same};

/// Samples of the check for cost.
const SAMPLES: u32 = 50;

/// Checks a probe.
pub fn probe<F>(factory: F) -> Conformance
where
    F: Fn() -> Arc<dyn MemoryProbe>,
{
    let probe = factory();
    let mut report = Conformance::of(format!("memory probe {probe:?}"));
    report.check_now(
        "never_fails",
        "`sample` must not fail: what cannot be found out is left out of the sample.",
        || {
            probe.sample();
            Ok(())
        },
    );
    report.check_now("cheap", "`sample` must be cheap (files of `/proc`, no waiting).", || {
        let started = Instant::now();
        for _ in 0..SAMPLES {
            probe.sample();
        }
        let each = started.elapsed() / SAMPLES;
        holds(each < Duration::from_millis(50), format_args!("a sample takes {each:?}"))
    });
    report.check_now("any_thread", "Called once at the start of every run, from any thread.", || {
        let panicked = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8).map(|_| scope.spawn(|| drop(probe.sample()))).collect();
            threads.into_iter().filter_map(|t| t.join().err()).count()
        });
        same("threads that panicked", panicked, 0)
    });
    report.check_now("believable", "The facts of this moment.", || {
        for _ in 0..3 {
            believable(&probe.sample())?;
        }
        Ok(())
    });
    report.check_now("no_state", "A sample is a value: nothing that a caller does with one changes the next.", || {
        let (a, b) = (factory().sample(), factory().sample());
        same("the physical memory of two probes", a.physical, b.physical)
    });
    report.check_now(
        "a_limit_follows",
        "The sample of facts that a limit is derived from; it can be recorded, serialised, and replayed.",
        || {
            let sample = probe.sample();
            let limit = EffectiveLimit::detect(&sample, &MemorySettings::default());
            holds(limit.cpus > 0, format_args!("the limit {limit} is for no processor"))?;
            let text =
                serde_json::to_string(&sample).or_else(|e| broken(format_args!("it does not serialise: {e}")))?;
            let replayed: MemorySample =
                serde_json::from_str(&text).or_else(|e| broken(format_args!("it cannot be replayed: {e}")))?;
            same(
                "the limit of the replayed sample",
                EffectiveLimit::detect(&replayed, &MemorySettings::default()),
                limit,
            )
        },
    );
    report
}

fn believable(sample: &MemorySample) -> Found {
    if let (Some(available), Some(physical)) = (sample.available, sample.physical) {
        holds(available <= physical, format_args!("{available} bytes are available of {physical}"))?;
    }
    if let (Some(own), Some(physical)) = (sample.own_resident, sample.physical) {
        holds(own <= physical, format_args!("this process holds {own} bytes of {physical}"))?;
    }
    holds(sample.physical != Some(0), "the machine has no memory: what is unknown is left out")?;
    holds(sample.cpus != Some(0), "there is no processor: what is unknown is left out")
}
