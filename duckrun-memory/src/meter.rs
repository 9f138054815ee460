//! What the process really holds: now, at its peak, and at the peak of one run.
//!
//! All numbers are of the process. With several runs at once each run's peak includes the others', so it can be compared
//! with the limit always, with the run's own plan only when it ran alone.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use sysinfo::{Pid, ProcessRefreshKind, ProcessesToUpdate, System};

use crate::MemoryPlan;
use crate::cgroup::status_field;

/// The RAM that this process holds now (`VmRSS`), or `None` where the system does not tell.
pub fn resident_bytes() -> Option<u64> {
    own_status("VmRSS").or_else(resident_by_sysinfo)
}

/// The most RAM that this process ever held (`VmHWM`); only Linux tells.
pub fn peak_resident_bytes() -> Option<u64> {
    own_status("VmHWM")
}

/// The part of the resident memory that is no file (`RssAnon`, since Linux 4.5).
pub(crate) fn own_anonymous_bytes() -> Option<u64> {
    own_status("RssAnon")
}

/// What to do when the process holds much: to have freed memory given back that the allocator keeps.
///
/// glibc keeps what a thread has freed in that thread's arena. Measured (`memory --limit-mb 512 --times 2 --case merge`): a peak
/// of 472 MiB, and one process of three killed, where one arena took 323; with relief 341 to 367 and none of eight. It lowers
/// peaks and bounds none: what is taken between two looks is held before it is given back.
#[derive(Clone, Copy, Debug)]
pub struct Relief {
    /// Bytes of anonymous memory above which it is done.
    pub above: u64,
    /// Gives back, and returns when that is done. Called on the meter's thread.
    pub give_back: fn(),
}

impl Relief {
    /// Given back less than this, it waits longer until the next time.
    const WORTH: u64 = 8 << 20;
    /// Between two times at least, and at most.
    const WAIT: std::ops::Range<Duration> = Duration::from_millis(50)..Duration::from_secs(2);

    /// Relief of a job with a plan: when two thirds of the process's limit are held.
    pub fn for_plan(plan: &MemoryPlan, give_back: fn()) -> Self {
        Self { above: plan.limit / 3 * 2, give_back }
    }
}

/// When to relieve next.
#[derive(Debug)]
struct Relieving {
    relief: Relief,
    wait: Duration,
    next: Instant,
}

impl Relieving {
    fn look(&mut self, anonymous: u64) {
        if anonymous <= self.relief.above || Instant::now() < self.next {
            return;
        }
        (self.relief.give_back)();
        let given = anonymous.saturating_sub(own_anonymous_bytes().unwrap_or(anonymous));
        // Where nothing is to be had the memory is in use, and looking for more costs the threads that use it time.
        self.wait = if given < Relief::WORTH { (self.wait * 2).min(Relief::WAIT.end) } else { Relief::WAIT.start };
        self.next = Instant::now() + self.wait;
        tracing::trace!(given, anonymous, "freed memory given back");
    }
}

/// Measures the peak of the resident memory between its start and its end.
///
/// A thread looks every few milliseconds, which costs one small file of `/proc` each time. A spike that is shorter is
/// still found on Linux if it is the highest ever, because the kernel's own high-water mark then rises during the run.
/// Dropping the meter stops the thread.
#[derive(Debug)]
pub struct PeakMeter {
    start: u64,
    high_water_before: Option<u64>,
    peak: Arc<AtomicU64>,
    sampler: Option<(Sender<()>, JoinHandle<()>)>,
}

/// What a [`PeakMeter`] measured, for a run's report.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Peak {
    /// Resident bytes when the meter was started.
    pub start: u64,
    /// The most resident bytes until it was read.
    pub peak: u64,
}

impl PeakMeter {
    /// How often the memory is looked at by default: about as long as it takes to fill 100 MB. Looking four times as often took
    /// 3 % of the processor time of a merge.
    pub const INTERVAL: Duration = Duration::from_millis(20);

    /// Starts to measure.
    pub fn start() -> Self {
        Self::start_every(Self::INTERVAL)
    }

    /// Starts to measure at an interval of the caller's choice.
    pub fn start_every(interval: Duration) -> Self {
        Self::begin(interval, None)
    }

    /// Starts to measure, and to relieve where the process holds much.
    pub fn start_with(relief: Relief) -> Self {
        Self::begin(Self::INTERVAL, Some(relief))
    }

    fn begin(interval: Duration, relief: Option<Relief>) -> Self {
        let start = resident_bytes().unwrap_or(0);
        let peak = Arc::new(AtomicU64::new(start));
        let sampler = sampler(interval, Arc::clone(&peak), relief);
        Self { start, high_water_before: peak_resident_bytes(), sampler, peak }
    }

    /// The peak so far. The meter goes on.
    pub fn peak(&self) -> Peak {
        let now = resident_bytes().unwrap_or(0);
        let high_water = peak_resident_bytes().filter(|now| Some(*now) > self.high_water_before);
        let sampled = self.peak.fetch_max(now, Ordering::Relaxed).max(now);
        Peak { start: self.start, peak: sampled.max(high_water.unwrap_or(0)) }
    }

    /// Stops and returns the peak.
    pub fn stop(self) -> Peak {
        self.peak()
    }
}

impl Drop for PeakMeter {
    fn drop(&mut self) {
        if let Some((stop, thread)) = self.sampler.take() {
            drop(stop);
            // The thread wakes at once and has nothing to report; its own panic would be no reason for ours.
            let _ = thread.join();
        }
    }
}

impl Peak {
    /// What was added to the memory that the process held at the start.
    pub fn growth(&self) -> u64 {
        self.peak.saturating_sub(self.start)
    }
}

/// The sampling thread, which ends when the sender is dropped. Where no thread can be had the meter still knows the
/// beginning, the end, and the kernel's high-water mark.
fn sampler(interval: Duration, peak: Arc<AtomicU64>, relief: Option<Relief>) -> Option<(Sender<()>, JoinHandle<()>)> {
    let (stop, stopped) = mpsc::channel();
    let mut relieving = relief.map(|relief| Relieving { relief, wait: Relief::WAIT.start, next: Instant::now() });
    let sample = move || {
        while stopped.recv_timeout(interval) == Err(RecvTimeoutError::Timeout) {
            let Some(bytes) = resident_bytes() else { return };
            peak.fetch_max(bytes, Ordering::Relaxed);
            // Less is anonymous than is resident.
            if let Some(relieving) = relieving.as_mut().filter(|r| bytes > r.relief.above) {
                relieving.look(own_anonymous_bytes().unwrap_or(bytes));
            }
        }
    };
    let thread = thread::Builder::new().name("duckrun-peak-meter".into()).spawn(sample);
    Some((stop, thread.ok()?))
}

fn own_status(field: &str) -> Option<u64> {
    match cfg!(target_os = "linux") {
        true => status_field(&std::fs::read_to_string("/proc/self/status").ok()?, field),
        false => None,
    }
}

fn resident_by_sysinfo() -> Option<u64> {
    let own = Pid::from_u32(std::process::id());
    let mut system = System::new();
    let memory = ProcessRefreshKind::nothing().with_memory();
    system.refresh_processes_specifics(ProcessesToUpdate::Some(&[own]), false, memory);
    system.process(own).map(sysinfo::Process::memory).filter(|bytes| *bytes > 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::MIB;

    #[test]
    fn a_peak_that_is_over_is_still_known() {
        let meter = PeakMeter::start();
        let held = vec![1_u8; 64 << 20];
        let meanwhile = resident_bytes().unwrap();
        assert!(held.iter().map(|byte| u64::from(*byte)).sum::<u64>() > 0);
        thread::sleep(PeakMeter::INTERVAL * 10);
        drop(held);
        let peak = meter.stop();
        assert!(peak.peak + MIB >= meanwhile, "{peak:?} {meanwhile}");
        assert!(peak.growth() >= 48 * MIB, "{peak:?}");
    }

    #[test]
    fn memory_is_given_back_above_the_line_only() {
        static CALLS: AtomicU64 = AtomicU64::new(0);
        fn give_back() {
            CALLS.fetch_add(1, Ordering::Relaxed);
        }
        let meter = PeakMeter::start_with(Relief { above: u64::MAX, give_back });
        thread::sleep(PeakMeter::INTERVAL * 5);
        drop(meter);
        assert_eq!(CALLS.load(Ordering::Relaxed), 0);
        let meter = PeakMeter::start_with(Relief { above: 1, give_back });
        thread::sleep(PeakMeter::INTERVAL * 30);
        drop(meter);
        // Nothing comes back, so that it waits 100, 200, 400 ms and not as little as it samples.
        assert!((1..=10).contains(&CALLS.load(Ordering::Relaxed)), "{CALLS:?}");
    }

    #[test]
    fn both_ways_to_read_the_resident_memory_agree() {
        let (ours, theirs) = (resident_bytes().unwrap(), resident_by_sysinfo().unwrap());
        assert!(ours.abs_diff(theirs) < 64 * MIB, "{ours} {theirs}");
        if let Some(peak) = peak_resident_bytes() {
            assert!(peak + MIB >= ours);
        }
    }
}
