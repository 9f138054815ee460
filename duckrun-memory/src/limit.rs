//! From a sample to one number: the effective limit is the tightest of all facts, and remembers which one it was.
//!
//! The limit is for the *whole process*, with what it already holds: memory that this process has taken is added back to
//! what is left. So a run that starts late is not punished for what the process keeps for it.

use std::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::{Bytes, GIB, MemorySample, MemorySettings};

/// The memory that this process may hold in all, and why no more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct EffectiveLimit {
    /// The limit in bytes.
    pub bytes: u64,
    /// The fact that bound it.
    pub bound_by: Bound,
    /// Every fact that was weighed, in the order of [`Bound`]'s variants; the smallest won.
    pub candidates: Vec<Candidate>,
    /// How much higher the limit would be if the kernel took back the file pages of our groups that were used lately. It does
    /// so before it kills, so a job that fits with them is not refused; they make no plan larger than its floors.
    #[serde(default)]
    pub reclaimable: u64,
    /// The smallest `memory.high` among our groups, where one is below the limit: the kernel will slow the process down
    /// before the limit is reached. Worth a warning; see [`CgroupLevel::high`](crate::CgroupLevel::high).
    pub throttled_above: Option<u64>,
    /// The processors that this process may use, at least 1.
    pub cpus: usize,
}

/// One fact that was weighed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Candidate {
    /// The fact.
    pub bound: Bound,
    /// The limit that it would be.
    pub bytes: u64,
}

/// A fact that can bound the memory of a process.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Bound {
    /// The machine's RAM.
    Physical,
    /// The limit of a control group, ours or one above it.
    CgroupLimit {
        /// The group.
        path: PathBuf,
    },
    /// What a control group's limit leaves beside its other processes.
    CgroupRemaining {
        /// The group.
        path: PathBuf,
    },
    /// What the system has available, plus what this process holds.
    Available,
    /// The limit in the settings.
    Explicit,
    /// Nothing could be read: [`EffectiveLimit::DEFAULT_BYTES`].
    Default,
}

impl EffectiveLimit {
    /// The limit where nothing can be detected and none was set: 1 GiB. Small enough for the smallest machines on which a
    /// system would hide its memory, large enough for every job.
    pub const DEFAULT_BYTES: u64 = GIB;

    /// The tightest of what the sample tells, lowered by the explicit limit in the settings, if any.
    pub fn detect(sample: &MemorySample, settings: &MemorySettings) -> Self {
        let own = sample.own();
        let cgroup = sample.cgroup.as_ref();
        let facts = [
            sample.physical.map(|bytes| (Bound::Physical, bytes)),
            cgroup
                .and_then(|groups| groups.tightest())
                .map(|(level, bytes)| (Bound::CgroupLimit { path: level.path.clone() }, bytes)),
            cgroup
                .and_then(|groups| groups.least_remaining(own))
                .map(|(level, bytes)| (Bound::CgroupRemaining { path: level.path.clone() }, bytes)),
            sample.available.map(|bytes| (Bound::Available, bytes.saturating_add(own))),
            settings.limit.map(|bytes| (Bound::Explicit, bytes)),
        ];
        let facts: Vec<Candidate> =
            facts.into_iter().flatten().map(|(bound, bytes)| Candidate { bound, bytes }).collect();
        let limit = Self::tightest(facts, sample);
        let others = limit.candidates.iter().filter(|c| !matches!(c.bound, Bound::CgroupRemaining { .. }));
        let reclaimed = cgroup.and_then(|groups| groups.least_reclaimed(own));
        let most = others.map(|c| c.bytes).chain(reclaimed).min().unwrap_or(limit.bytes);
        Self { reclaimable: most.saturating_sub(limit.bytes), ..limit }
    }

    /// A limit that was decided elsewhere, for tests and for embedders with a scheduler of their own.
    pub fn explicit(bytes: u64, cpus: usize) -> Self {
        let sample = MemorySample { cpus: Some(cpus), ..MemorySample::default() };
        Self::detect(&sample, &MemorySettings::with_limit(bytes))
    }

    fn tightest(mut candidates: Vec<Candidate>, sample: &MemorySample) -> Self {
        if candidates.is_empty() {
            candidates.push(Candidate { bound: Bound::Default, bytes: Self::DEFAULT_BYTES });
        }
        // The first among equals: a group without other processes leaves all of its limit, and then the limit is the reason.
        let (bound_by, bytes) = candidates
            .iter()
            .min_by_key(|candidate| candidate.bytes)
            .map_or((Bound::Default, Self::DEFAULT_BYTES), |c| (c.bound.clone(), c.bytes));
        let highs = sample.cgroup.iter().flat_map(|groups| &groups.levels).filter_map(|l| l.high);
        Self {
            throttled_above: highs.min().filter(|high| *high < bytes),
            cpus: sample.cpus.unwrap_or(1).max(1),
            reclaimable: 0,
            bytes,
            bound_by,
            candidates,
        }
    }

    /// Every fact that was weighed, one per line, the one that bound the limit marked. For an operator who asks "why no
    /// more?".
    pub fn picture(&self) -> String {
        let mut text = format!("memory limit {}, bound by {}\n", Bytes(self.bytes), self.bound_by);
        for Candidate { bound, bytes } in &self.candidates {
            let mark = if *bound == self.bound_by { "->" } else { "  " };
            text.push_str(&format!("  {mark} {:>10}  {bound}\n", Bytes(*bytes)));
        }
        if let Some(high) = self.throttled_above {
            text.push_str(&format!("   ! {:>10}  memory.high: slowed down above it\n", Bytes(high)));
        }
        text
    }
}

impl fmt::Display for EffectiveLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", Bytes(self.bytes), self.bound_by)
    }
}

impl fmt::Display for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Physical => f.write_str("physical memory"),
            Self::CgroupLimit { path } => write!(f, "limit of cgroup {}", path.display()),
            Self::CgroupRemaining { path } => write!(f, "what is left in cgroup {}", path.display()),
            Self::Available => f.write_str("available memory plus our own"),
            Self::Explicit => f.write_str("explicit limit"),
            Self::Default => f.write_str("default, nothing could be detected"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::MIB;

    fn machine() -> MemorySample {
        MemorySample {
            physical: Some(8 * GIB),
            available: Some(5 * GIB),
            own_resident: Some(900 * MIB),
            own_anonymous: Some(600 * MIB),
            ..MemorySample::default()
        }
    }

    #[test]
    fn what_the_process_holds_is_added_to_what_is_available() {
        let limit = EffectiveLimit::detect(&machine(), &MemorySettings::default());
        assert_eq!((limit.bytes, limit.bound_by), (5 * GIB + 600 * MIB, Bound::Available));
    }

    #[test]
    fn an_explicit_limit_only_lowers() {
        let detect = |bytes| EffectiveLimit::detect(&machine(), &MemorySettings::with_limit(bytes));
        assert_eq!(detect(GIB).bound_by, Bound::Explicit);
        let higher = detect(64 * GIB);
        assert_eq!((higher.bytes, higher.bound_by), (5 * GIB + 600 * MIB, Bound::Available));
    }

    #[test]
    fn nothing_detected_is_the_default_or_the_explicit_limit() {
        let nothing = MemorySample::default();
        let limit = EffectiveLimit::detect(&nothing, &MemorySettings::default());
        assert_eq!((limit.bytes, &limit.bound_by), (EffectiveLimit::DEFAULT_BYTES, &Bound::Default));
        assert_eq!(limit.cpus, 1);
        let limit = EffectiveLimit::detect(&nothing, &MemorySettings::with_limit(3 * GIB));
        assert_eq!((limit.bytes, limit.bound_by), (3 * GIB, Bound::Explicit));
    }

    #[test]
    fn the_picture_marks_what_bound() {
        let limit = EffectiveLimit::detect(&machine(), &MemorySettings::with_limit(GIB));
        let picture = limit.picture();
        assert!(picture.contains("->      1 GiB  explicit limit\n"), "{picture}");
        assert!(picture.contains("         8 GiB  physical memory\n"), "{picture}");
    }
}
