//! Recorded `/proc` and `/sys/fs/cgroup` trees, rebuilt in a temporary folder.
//!
//! The contents are what the kernel and the container runtimes write (Docker 20 and later, kubelet 1.28, systemd 252,
//! WSL 2), cut down to the files that matter.

use std::fs;
use std::path::Path;

use duckrun_memory::{Bound, CgroupReader, CgroupSample, EffectiveLimit, GIB, MIB, MemorySample, MemorySettings};

/// What version 1 writes for "unlimited" on x86-64.
pub(crate) const UNLIMITED_V1: u64 = 0x7FFF_FFFF_FFFF_F000;

/// A folder that stands for the root of a system.
pub(crate) struct Tree {
    root: tempfile::TempDir,
}

impl Tree {
    pub(crate) fn new(cgroup: &str, mountinfo: &str) -> Self {
        let tree = Self { root: tempfile::tempdir().unwrap() };
        tree.file("/proc/self/cgroup", cgroup).file("/proc/self/mountinfo", mountinfo)
    }

    pub(crate) fn empty() -> Self {
        Self { root: tempfile::tempdir().unwrap() }
    }

    pub(crate) fn file(self, path: &str, text: &str) -> Self {
        let path = self.root.path().join(path.trim_start_matches('/'));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
        self
    }

    /// A group of version 2; `max` as the file has it.
    pub(crate) fn v2(self, dir: &str, max: &str, current: u64, inactive_file: u64) -> Self {
        let stat = format!("anon 4096\nfile 8192\ninactive_file {inactive_file}\nslab 1\n");
        self.file(&format!("{dir}/memory.max"), &format!("{max}\n"))
            .file(&format!("{dir}/memory.high"), "max\n")
            .file(&format!("{dir}/memory.current"), &format!("{current}\n"))
            .file(&format!("{dir}/memory.stat"), &stat)
    }

    /// A group of version 1 with its own and its hierarchical limit.
    pub(crate) fn v1(self, dir: &str, limit: u64, hierarchical: u64, usage: u64, inactive: u64) -> Self {
        let stat = format!(
            "cache 1\nrss 2\ninactive_file 3\nhierarchical_memory_limit {hierarchical}\n\
             hierarchical_memsw_limit {UNLIMITED_V1}\ntotal_inactive_file {inactive}\n"
        );
        self.file(&format!("{dir}/memory.limit_in_bytes"), &format!("{limit}\n"))
            .file(&format!("{dir}/memory.usage_in_bytes"), &format!("{usage}\n"))
            .file(&format!("{dir}/memory.use_hierarchy"), "1\n")
            .file(&format!("{dir}/memory.stat"), &stat)
    }

    pub(crate) fn read(&self) -> Option<CgroupSample> {
        CgroupReader::new(self.root.path()).read()
    }

    /// The limit on a machine of 16 GiB with 12 free, for a process that holds 100 MiB.
    pub(crate) fn limit(&self) -> EffectiveLimit {
        let sample = MemorySample {
            physical: Some(16 * GIB),
            available: Some(12 * GIB),
            own_resident: Some(150 * MIB),
            own_anonymous: Some(100 * MIB),
            cgroup: self.read(),
            cpus: Some(2),
        };
        EffectiveLimit::detect(&sample, &MemorySettings::default())
    }

    #[track_caller]
    pub(crate) fn assert_limit(&self, bytes: u64, bound_by: &Bound) {
        let limit = self.limit();
        assert_eq!((limit.bytes, &limit.bound_by), (bytes, bound_by), "\n{}", limit.picture());
    }
}

pub(crate) fn limit_of(path: &str) -> Bound {
    Bound::CgroupLimit { path: Path::new(path).to_owned() }
}

pub(crate) fn left_in(path: &str) -> Bound {
    Bound::CgroupRemaining { path: Path::new(path).to_owned() }
}
