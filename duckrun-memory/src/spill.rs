//! A place on disk for what does not fit in memory, for one run, gone with the run.
//!
//! Whose directory it is, is told by a lock on the file `owner.lock` inside it, which the operating system releases when its
//! owner dies, however it dies. The process number in the name is for people only: numbers are used again, and two
//! containers that share a disk may both be number 1. So a directory is a leftover exactly when its lock can be taken.

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::process;
use std::time::Duration;

use sysinfo::{DiskRefreshKind, Disks};
use tempfile::TempDir;

use crate::plan::SpillPlan;
use crate::{Bytes, Error, Result};

const PREFIX: &str = "duckrun-spill-";
const LOCK: &str = "owner.lock";

/// A directory without a lock is one that its owner is just creating; after this time the owner has died over it.
const CREATING: Duration = Duration::from_secs(3600);

/// A spill directory of one run, with a cap. Dropping it removes it with all that is in it.
///
/// ```
/// use duckrun_memory::{MemorySettings, SpillDir, SpillPlan};
/// let spill = SpillDir::create(&SpillPlan::new(&MemorySettings::default().spill, 1))?;
/// println!("SET temp_directory = '{}'", spill.path().display());
/// # Ok::<(), duckrun_memory::Error>(())
/// ```
#[derive(Debug)]
pub struct SpillDir {
    // Dropped in this order: the directory is removed while it is still locked.
    dir: TempDir,
    cap: Option<u64>,
    in_memory: bool,
    _lock: File,
}

impl SpillDir {
    /// Creates `duckrun-spill-<pid>-<id>` as the plan says, after removing what dead processes left there.
    ///
    /// This blocks on the file system for as long as the leftovers take to remove.
    pub fn create(plan: &SpillPlan) -> Result<Self> {
        let mut refusal = None;
        for parent in parents(plan) {
            Self::remove_leftovers(&parent);
            match create_in(&parent) {
                Ok((dir, lock)) => return Ok(Self::new(dir, lock, plan)),
                Err(source) => {
                    refusal.get_or_insert(Error::Spill { action: "create", path: parent, source });
                }
            }
        }
        Err(refusal.unwrap_or_else(|| Error::Spill {
            action: "create",
            path: PathBuf::new(),
            source: io::ErrorKind::NotFound.into(),
        }))
    }

    fn new(dir: TempDir, lock: File, plan: &SpillPlan) -> Self {
        let disk = Disk::of(dir.path());
        let cap = plan.cap(disk.free);
        let path = dir.path().display();
        if disk.in_memory {
            tracing::warn!(%path, file_system = disk.kind, "the spill directory is in memory; set another one");
        }
        if cap == Some(0) {
            tracing::warn!(%path, reserve = %Bytes(plan.disk_reserve), "no disk is free for spilling");
        }
        Self { dir, cap, in_memory: disk.in_memory, _lock: lock }
    }

    /// Where to spill: DuckDB's `temp_directory`.
    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// The most bytes to spill: DuckDB's `max_temp_directory_size`. The free disk when the directory was created less the
    /// reserve, shared by the runs, or the setting if that is less. `None` where the file system does not tell what is free
    /// (network mounts are not asked, because asking can hang); DuckDB's own rule, 90 % of the disk, holds then.
    pub fn cap(&self) -> Option<u64> {
        self.cap
    }

    /// Whether the directory is on a file system that lives in memory (tmpfs), so that spilling frees nothing. A warning was
    /// logged.
    pub fn is_in_memory(&self) -> bool {
        self.in_memory
    }

    /// A directory of its own inside, for a second library that spills (DataFusion beside DuckDB).
    pub fn subdirectory(&self, name: &str) -> Result<PathBuf> {
        let path = self.path().join(name);
        match fs::create_dir_all(&path) {
            Ok(()) => Ok(path),
            Err(source) => Err(Error::Spill { action: "create", path, source }),
        }
    }

    /// The bytes that are in it now, for a run's report.
    pub fn used_bytes(&self) -> u64 {
        size(self.path())
    }

    /// Removes the directory and says whether that worked; dropping it does the same in silence.
    pub fn close(self) -> Result<()> {
        let path = self.path().to_owned();
        self.dir.close().map_err(|source| Error::Spill { action: "remove", path, source })
    }

    /// Removes the spill directories in `parent` whose owners are dead, and returns how many. Called by every
    /// [`create`](Self::create); for those who want to clean up without a run. What cannot be removed is left for the next.
    pub fn remove_leftovers(parent: &Path) -> usize {
        let Ok(entries) = fs::read_dir(parent) else { return 0 };
        entries
            .flatten()
            .filter(|entry| entry.file_name().to_string_lossy().starts_with(PREFIX))
            // Never through a symbolic link, which anybody may put into a shared directory.
            .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
            .filter(|entry| remove_if_dead(&entry.path()))
            .count()
    }
}

/// The directories to try: the one that was set, or the system's. `/var/tmp` before `/tmp`, which is often a tmpfs.
fn parents(plan: &SpillPlan) -> Vec<PathBuf> {
    match &plan.dir {
        Some(dir) => vec![dir.clone()],
        None if cfg!(unix) => vec!["/var/tmp".into(), "/tmp".into()],
        // Only where a system has no fixed place.
        None => vec![std::env::temp_dir()],
    }
}

/// A new directory that is ours. Another process may look for leftovers at any moment: one that comes between the creation
/// of the lock file and its locking takes the directory for a leftover, which is noticed, and another one is made.
fn create_in(parent: &Path) -> io::Result<(TempDir, File)> {
    fs::create_dir_all(parent)?;
    let prefix = format!("{PREFIX}{}-", process::id());
    loop {
        let mut builder = tempfile::Builder::new();
        // What is spilled is the user's data, and the parent may be everybody's.
        #[cfg(unix)]
        builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o700));
        let dir = builder.prefix(&prefix).rand_bytes(8).tempdir_in(parent)?;
        let path = dir.path().join(LOCK);
        let lock = File::create_new(&path)?;
        match lock.try_lock() {
            Ok(()) if path.exists() => return Ok((dir, lock)),
            Ok(()) | Err(TryLockError::WouldBlock) => {}
            // A file system without locks: nobody can take the directory for a leftover, so nobody will clean up after a
            // crash there either.
            Err(TryLockError::Error(_)) => return Ok((dir, lock)),
        }
    }
}

fn remove_if_dead(dir: &Path) -> bool {
    let path = dir.join(LOCK);
    let is_file = fs::symlink_metadata(&path).is_ok_and(|metadata| metadata.is_file());
    let removed = match is_file {
        false if !is_older(dir, CREATING) => return false,
        // Without a lock nothing else was put there; and if it was, it is not ours to remove.
        false => fs::remove_dir(dir),
        true => {
            let Ok(lock) = File::options().write(true).open(&path) else { return false };
            match lock.try_lock() {
                Ok(()) => fs::remove_dir_all(dir),
                Err(_) => return false,
            }
        }
    };
    match &removed {
        Ok(()) => tracing::info!(path = %dir.display(), "removed a leftover spill directory"),
        Err(error) => tracing::debug!(path = %dir.display(), %error, "left a spill directory"),
    }
    removed.is_ok()
}

fn is_older(path: &Path, age: Duration) -> bool {
    let modified = fs::metadata(path).and_then(|metadata| metadata.modified());
    modified.is_ok_and(|modified| modified.elapsed().is_ok_and(|elapsed| elapsed > age))
}

fn size(dir: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(dir) else { return 0 };
    entries
        .flatten()
        .filter_map(|entry| Some((entry.path(), entry.metadata().ok()?)))
        .map(|(path, metadata)| if metadata.is_dir() { size(&path) } else { metadata.len() })
        .sum()
}

/// The file system below a path.
struct Disk {
    free: Option<u64>,
    in_memory: bool,
    kind: String,
}

impl Disk {
    fn of(path: &Path) -> Self {
        let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        let storage = DiskRefreshKind::nothing().with_storage();
        let disks = Disks::new_with_refreshed_list_specifics(storage);
        let mount = mount_point(&path);
        let disk = disks
            .iter()
            .filter(|disk| path.starts_with(disk.mount_point()))
            .max_by_key(|disk| disk.mount_point().components().count())
            // sysinfo leaves out some mounts; the next one up would tell of another disk.
            .filter(|disk| mount.as_ref().is_none_or(|mount| disk.mount_point() == mount));
        let kind = disk.map_or_else(String::new, |d| d.file_system().to_string_lossy().into_owned());
        Self {
            free: disk.map(sysinfo::Disk::available_space),
            in_memory: matches!(kind.as_str(), "tmpfs" | "ramfs"),
            kind,
        }
    }
}

/// The mount that a path is on, where the system lists its mounts.
fn mount_point(path: &Path) -> Option<PathBuf> {
    let text = fs::read_to_string("/proc/self/mounts").ok()?;
    let points = text.lines().filter_map(|line| line.split(' ').nth(1));
    points
        .map(|point| PathBuf::from(point.replace(r"\040", " ")))
        .filter(|point| path.starts_with(point))
        .max_by_key(|point| point.components().count())
}

#[cfg(test)]
#[path = "spill_tests.rs"]
mod tests;
