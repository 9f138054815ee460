//! Control groups of version 1: the memory controller's own hierarchy.
//!
//! The limit of a group is the smaller of `memory.limit_in_bytes` and `hierarchical_memory_limit` in `memory.stat`. The
//! latter is the kernel's own minimum over all ancestors, including those above a container's mount, which cannot be read.

use std::fs;
use std::path::Path;

use super::CgroupLevel;
use super::files::{is_limit, limit, number, stat_field};

/// The facts of the group `dir`; `own` marks our own group. `None` for an ancestor that does not account for its children
/// (`memory.use_hierarchy` is 0, possible before Linux 5.11): its limit does not bind us.
pub(super) fn level(dir: &Path, own: bool) -> Option<CgroupLevel> {
    if !own && number(&dir.join("memory.use_hierarchy")) == Some(0) {
        return None;
    }
    let stat = fs::read_to_string(dir.join("memory.stat")).unwrap_or_default();
    let hierarchical = stat_field(&stat, "hierarchical_memory_limit").filter(is_limit);
    let direct = limit(&dir.join("memory.limit_in_bytes"));
    Some(CgroupLevel {
        path: dir.to_owned(),
        limit: direct.into_iter().chain(hierarchical).min(),
        high: None,
        usage: number(&dir.join("memory.usage_in_bytes")),
        // `total_` includes the groups below, as the usage does.
        inactive_file: stat_field(&stat, "total_inactive_file").or_else(|| stat_field(&stat, "inactive_file")),
        active_file: stat_field(&stat, "total_active_file").or_else(|| stat_field(&stat, "active_file")),
    })
}
