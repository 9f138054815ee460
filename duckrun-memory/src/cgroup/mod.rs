//! What the control groups say about memory: the limits and the use of our own group and of every group above it.
//!
//! Everything is read with plain files below a root directory that can be replaced, so that recorded trees of real systems
//! are the tests. Nothing here fails: a file that is missing or makes no sense leaves its field empty. `cgroups-rs` does
//! not serve for reading: its paths are absolute, it takes `memory.max` of one group only (not the ancestors', which bind as
//! well) and it trusts `/proc/self/cgroup` and the mount to line up, which they do not in many containers.

mod files;
mod locate;
mod v1;
mod v2;

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

pub(crate) use files::status_field;

/// Reads the control groups of this process.
///
/// ```no_run
/// let sample = duckrun_memory::CgroupReader::new("/").read();
/// println!("{sample:#?}");
/// ```
#[derive(Clone, Debug)]
pub struct CgroupReader {
    root: PathBuf,
}

/// Which generation of control groups accounts for memory. On a hybrid system it is the one that has the memory
/// controller, usually version 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CgroupVersion {
    /// One hierarchy for each controller; limits in `memory.limit_in_bytes`.
    V1,
    /// The unified hierarchy; limits in `memory.max`.
    V2,
}

/// The control groups of this process at one moment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct CgroupSample {
    /// The generation that accounts for memory.
    pub version: CgroupVersion,
    /// Our group as `/proc/self/cgroup` names it. In a container this path is often one that only the host can see.
    pub group: String,
    /// The groups that can be seen, our own first, the root of the mount last. Every one of their limits binds us.
    pub levels: Vec<CgroupLevel>,
}

/// One group on the way from ours to the root.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct CgroupLevel {
    /// The directory of the group.
    pub path: PathBuf,
    /// The limit that kills: `memory.max`, or version 1's limit. `None` is unlimited or unreadable.
    pub limit: Option<u64>,
    /// `memory.high`, above which the kernel slows the group down but does not kill. It is reported and never bounds a
    /// plan: what it protects is the neighbours' memory, and an operator who wants it kept sets the explicit limit.
    pub high: Option<u64>,
    /// What the group and those below it use, page cache included.
    pub usage: Option<u64>,
    /// The part of the usage that is file pages not used lately, which the kernel drops before it kills.
    pub inactive_file: Option<u64>,
    /// The part of the usage that is file pages used lately. The kernel drops them too before it kills, but somebody may miss
    /// them: they do not make a plan larger, they only keep a run from being refused.
    pub active_file: Option<u64>,
}

impl CgroupReader {
    /// A reader on the file system below `root`: `/` for the running system, a folder with a recorded `/proc` and
    /// `/sys/fs/cgroup` in tests.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// The groups of this process, or `None` where no memory controller can be seen (no control groups, not Linux,
    /// `/proc` or `/sys` hidden).
    pub fn read(&self) -> Option<CgroupSample> {
        let place = locate::locate(&self.root)?;
        let levels: Vec<_> = ancestors(&place.dir, &place.top)
            .enumerate()
            .filter_map(|(height, dir)| match place.version {
                CgroupVersion::V1 => v1::level(dir, height == 0),
                CgroupVersion::V2 => Some(v2::level(dir)),
            })
            .map(|level| CgroupLevel { path: self.seen_from_inside(&level.path), ..level })
            .collect();
        Some(CgroupSample { version: place.version, group: place.group, levels })
    }

    /// Paths are reported as the process sees them, without the folder that a test recorded them in.
    fn seen_from_inside(&self, path: &Path) -> PathBuf {
        path.strip_prefix(&self.root).map_or_else(|_| path.to_owned(), |p| Path::new("/").join(p))
    }
}

impl Default for CgroupReader {
    fn default() -> Self {
        Self::new("/")
    }
}

impl CgroupSample {
    /// The group with the smallest limit; the one nearest to us among equals.
    pub fn tightest(&self) -> Option<(&CgroupLevel, u64)> {
        let limits = self.levels.iter().filter_map(|level| Some((level, level.limit?)));
        limits.min_by_key(|(_, limit)| *limit)
    }

    /// The group that has the least left for this process, which itself holds `own_anonymous` bytes, and how much that is.
    ///
    /// It may be another group than the tightest: a large parent whose children have used it up leaves less than our own
    /// small and empty group.
    pub fn least_remaining(&self, own_anonymous: u64) -> Option<(&CgroupLevel, u64)> {
        let left = |level: &CgroupLevel| level.remaining(own_anonymous);
        let remaining = self.levels.iter().filter_map(|level| Some((level, left(level)?)));
        remaining.min_by_key(|(_, left)| *left)
    }

    /// As [`least_remaining`](Self::least_remaining), with the file pages used lately dropped as well.
    pub(crate) fn least_reclaimed(&self, own_anonymous: u64) -> Option<u64> {
        let left = |level: &CgroupLevel| {
            Some(level.remaining(own_anonymous)?.saturating_add(level.active_file.unwrap_or(0)).min(level.limit?))
        };
        self.levels.iter().filter_map(left).min()
    }
}

impl CgroupLevel {
    /// What the group leaves to this process: the limit less what the *others* use, that is, the usage without file pages
    /// that can be dropped and without the `own_anonymous` bytes that this process already holds.
    pub fn remaining(&self, own_anonymous: u64) -> Option<u64> {
        let reclaimable = self.inactive_file.unwrap_or(0);
        let others = self.usage?.saturating_sub(reclaimable).saturating_sub(own_anonymous);
        Some(self.limit?.saturating_sub(others))
    }
}

/// `dir` and the directories above it, up to and including `top`.
fn ancestors<'a>(dir: &'a Path, top: &'a Path) -> impl Iterator<Item = &'a Path> {
    dir.ancestors().take_while(move |dir| dir.starts_with(top))
}
