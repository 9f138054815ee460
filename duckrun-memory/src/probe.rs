//! The sample of facts that a limit is derived from, and who takes it.
//!
//! A sample is a value: it can be recorded, serialised, and replayed in a test. Everything that a system may not tell is an
//! `Option`.

use std::thread;

use serde::{Deserialize, Serialize};
use sysinfo::{MemoryRefreshKind, RefreshKind, System};

use crate::meter::{own_anonymous_bytes, resident_bytes};
use crate::{CgroupReader, CgroupSample};

/// Takes samples of the machine's memory.
///
/// Implemented by [`SystemProbe`], and by embedders who know better (a scheduler that was told its share, a test); called
/// once at the start of every run, from any thread. `sample` must be cheap (files of `/proc`, no waiting) and must not
/// fail: what cannot be found out is left out of the sample.
pub trait MemoryProbe: Send + Sync + std::fmt::Debug {
    /// The facts of this moment.
    fn sample(&self) -> MemorySample;
}

/// What was found out about memory at one moment. The default knows nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct MemorySample {
    /// The machine's RAM.
    pub physical: Option<u64>,
    /// What the system could give out now without swapping: free pages, and caches that it would drop.
    pub available: Option<u64>,
    /// What this process holds of the RAM now, files that it has mapped included.
    pub own_resident: Option<u64>,
    /// The part of it that is no file: what this process would have to give back by itself, and what its control group
    /// counts against it.
    pub own_anonymous: Option<u64>,
    /// The control groups of this process, where there are any.
    pub cgroup: Option<CgroupSample>,
    /// The processors that this process may use, with its affinity and CPU quota taken into account.
    pub cpus: Option<usize>,
}

impl MemorySample {
    /// What this process holds already and can be counted as its own in a limit: the anonymous pages, or the resident ones
    /// where a system does not tell them apart. Mapped files are not added where they can be told apart, for a system
    /// counts them as available already.
    pub fn own(&self) -> u64 {
        self.own_anonymous.or(self.own_resident).unwrap_or(0)
    }
}

/// The running system: `sysinfo` for the machine, `/proc` for the process, [`CgroupReader`] for the control groups.
#[derive(Clone, Debug, Default)]
pub struct SystemProbe {
    cgroups: CgroupReader,
}

impl SystemProbe {
    /// A probe of the system that this process runs on.
    pub fn new() -> Self {
        Self::default()
    }

    /// A probe that reads the control groups elsewhere: from a recorded tree, or from a host's tree mounted into a
    /// container.
    pub fn with_cgroups(cgroups: CgroupReader) -> Self {
        Self { cgroups }
    }
}

impl MemoryProbe for SystemProbe {
    fn sample(&self) -> MemorySample {
        // sysinfo's own `cgroup_limits` is not used: it takes one group of version 2, or a fixed path of version 1.
        let ram = RefreshKind::nothing().with_memory(MemoryRefreshKind::nothing().with_ram());
        let system = System::new_with_specifics(ram);
        let known = |bytes: u64| (bytes > 0).then_some(bytes);
        let physical = known(system.total_memory());
        MemorySample {
            physical,
            // With a total, an available memory of 0 is a fact; without one it is sysinfo's way to say "unknown".
            available: physical.map(|_| system.available_memory()),
            own_resident: resident_bytes(),
            own_anonymous: own_anonymous_bytes(),
            cgroup: self.cgroups.read(),
            cpus: thread::available_parallelism().ok().map(usize::from),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_running_system_is_seen() {
        let sample = SystemProbe::new().sample();
        let physical = sample.physical.expect("every test machine tells its RAM");
        assert!(sample.available.unwrap() <= physical);
        assert!(sample.own() > 0 && sample.own() < physical);
        let text = serde_json::to_string(&sample).unwrap();
        assert_eq!(serde_json::from_str::<MemorySample>(&text).unwrap(), sample);
    }
}
