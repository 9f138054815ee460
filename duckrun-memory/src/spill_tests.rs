//! Spill directories: made, capped, removed, and cleaned up after a crash.

use super::*;
use crate::{GIB, SpillSettings};

fn plan_in(dir: &Path) -> SpillPlan {
    SpillPlan::new(&SpillSettings { dir: Some(dir.to_owned()), ..SpillSettings::default() }, 1)
}

/// A directory as a killed process leaves it: its files, and a lock that nobody holds.
fn leftover(parent: &Path, name: &str) -> PathBuf {
    let dir = parent.join(format!("{PREFIX}{name}"));
    fs::create_dir(&dir).unwrap();
    fs::write(dir.join(LOCK), "").unwrap();
    fs::write(dir.join("duckdb_temp_storage-0.tmp"), vec![0; 4096]).unwrap();
    dir
}

#[test]
fn a_directory_disappears_with_its_owner() {
    let parent = tempfile::tempdir().unwrap();
    let spill = SpillDir::create(&plan_in(parent.path())).unwrap();
    let path = spill.path().to_owned();
    let name = path.file_name().unwrap().to_string_lossy().into_owned();
    assert!(name.starts_with(&format!("{PREFIX}{}-", process::id())), "{name}");
    let nested = spill.subdirectory("datafusion").unwrap();
    fs::write(nested.join("spill"), vec![0; 1000]).unwrap();
    assert_eq!(spill.used_bytes(), 1000);
    drop(spill);
    assert!(!path.exists());
    let spill = SpillDir::create(&plan_in(parent.path())).unwrap();
    spill.close().unwrap();
    assert_eq!(fs::read_dir(parent.path()).unwrap().count(), 0);
}

/// A process number may be used again by another process, and is the same in every container. A leftover whose name
/// carries a number that is alive (our own) must go all the same.
#[test]
fn leftovers_go_and_the_living_stay() {
    let parent = tempfile::tempdir().unwrap();
    let living = SpillDir::create(&plan_in(parent.path())).unwrap();
    let dead = leftover(parent.path(), &format!("{}-reused", process::id()));
    let stranger = parent.path().join("duckrun-other");
    fs::create_dir(&stranger).unwrap();
    let second = SpillDir::create(&plan_in(parent.path())).unwrap();
    assert!(!dead.exists());
    assert!(stranger.exists() && living.path().exists() && second.path().exists());
    assert_eq!(SpillDir::remove_leftovers(parent.path()), 0);
}

#[test]
fn a_directory_that_is_being_created_is_left_alone() {
    let parent = tempfile::tempdir().unwrap();
    let creating = parent.path().join(format!("{PREFIX}1-abc"));
    fs::create_dir(&creating).unwrap();
    assert_eq!(SpillDir::remove_leftovers(parent.path()), 0);
    assert!(creating.exists());
}

#[cfg(unix)]
#[test]
fn links_are_not_followed_and_others_cannot_look_in() {
    use std::os::unix::fs::{PermissionsExt, symlink};
    let (parent, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let victim = leftover(elsewhere.path(), "2-def");
    symlink(&victim, parent.path().join(format!("{PREFIX}2-def"))).unwrap();
    let spill = SpillDir::create(&plan_in(parent.path())).unwrap();
    assert!(victim.join(LOCK).exists());
    assert_eq!(fs::metadata(spill.path()).unwrap().permissions().mode() & 0o777, 0o700);
}

#[test]
fn many_at_once_do_not_take_each_other_for_leftovers() {
    let parent = tempfile::tempdir().unwrap();
    let plan = plan_in(parent.path());
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                for _ in 0..25 {
                    let spill = SpillDir::create(&plan).unwrap();
                    assert!(spill.path().join(LOCK).exists());
                }
            });
        }
    });
    assert_eq!(fs::read_dir(parent.path()).unwrap().count(), 0);
}

#[test]
fn the_cap_is_below_what_is_free() {
    let parent = tempfile::tempdir().unwrap();
    let free = Disk::of(parent.path()).free.expect("the test machine's temporary directory is a local disk");
    let spill = SpillDir::create(&SpillPlan { disk_reserve: free / 2, ..plan_in(parent.path()) }).unwrap();
    let cap = spill.cap().unwrap();
    assert!(cap <= free / 2 + GIB && cap > 0, "{cap} of {free}");
}

#[test]
fn a_parent_that_cannot_be_is_named_in_the_error() {
    let parent = tempfile::tempdir().unwrap();
    let file = parent.path().join("file");
    fs::write(&file, "").unwrap();
    let error = SpillDir::create(&plan_in(&file.join("below"))).unwrap_err();
    assert!(error.to_string().contains("file/below"), "{error}");
    assert_eq!(error.kind(), crate::ErrorKind::Environment);
}
