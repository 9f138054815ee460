//! A memory control group of our own, to run a child process under a limit that the kernel enforces.

use std::process::Child;

use cgroups_rs::CgroupPid;
use cgroups_rs::fs::memory::MemController;
use cgroups_rs::fs::{Cgroup, hierarchies};

/// A control group with a memory limit; removed when dropped.
///
/// Needs the right to create a group (root, or a delegated subtree).
#[derive(Debug)]
pub struct MemoryGroup(Cgroup);

impl MemoryGroup {
    /// Creates a group that may hold this many bytes.
    ///
    /// # Errors
    /// Why this system does not allow it, in words: a test then says that it was skipped.
    pub fn create(name: &str, bytes: u64) -> Result<Self, String> {
        let name = format!("duckrun-{name}-{}", std::process::id());
        let controllers = Some(vec!["memory".to_owned()]);
        let group = Cgroup::new_with_specified_controllers(hierarchies::auto(), name, controllers);
        let group = Self(group.map_err(|e| format!("creating a control group: {e}"))?);
        let memory: &MemController = group.0.controller_of().ok_or("there is no memory controller")?;
        let limit = i64::try_from(bytes).map_err(|_| "a limit beyond 2^63")?;
        memory.set_limit(limit).map_err(|e| format!("setting the limit of a control group: {e}"))?;
        Ok(group)
    }

    /// Moves a child process into the group.
    ///
    /// # Errors
    /// Why it could not be moved.
    pub fn take_in(&self, child: &Child) -> Result<(), String> {
        let pid = CgroupPid::from(u64::from(child.id()));
        self.0.add_task_by_tgid(pid).map_err(|e| format!("moving a process into a control group: {e}"))
    }
}

impl Drop for MemoryGroup {
    fn drop(&mut self) {
        // A group that cannot be removed is empty and harmless.
        let _ = self.0.delete();
    }
}
