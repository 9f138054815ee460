//! Control groups of version 2: the unified hierarchy.
//!
//! Each group has only its own limit in `memory.max`; a parent's binds as well, which is why the caller walks up. The root
//! group of a machine has none of these files, the root of a container's namespace has them all.

use std::fs;
use std::path::Path;

use super::CgroupLevel;
use super::files::{limit, number, stat_field};

/// The facts of the group `dir`.
pub(super) fn level(dir: &Path) -> CgroupLevel {
    let stat = fs::read_to_string(dir.join("memory.stat")).unwrap_or_default();
    CgroupLevel {
        path: dir.to_owned(),
        limit: limit(&dir.join("memory.max")),
        high: limit(&dir.join("memory.high")),
        usage: number(&dir.join("memory.current")),
        inactive_file: stat_field(&stat, "inactive_file"),
        active_file: stat_field(&stat, "active_file"),
    }
}
