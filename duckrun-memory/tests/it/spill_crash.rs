//! A killed process leaves its spill directory; the next run removes it, and not a moment too early.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use duckrun_memory::{SpillDir, SpillPlan, SpillSettings};

const MARK: &str = "spills to: ";
const PARENT: &str = "DUCKRUN_MEMORY_TEST_SPILL_PARENT";

fn plan_in(parent: &Path) -> SpillPlan {
    let settings = SpillSettings { dir: Some(parent.to_owned()), ..SpillSettings::default() };
    SpillPlan::new(&settings, 1)
}

/// A process that holds a spill directory until it is killed.
fn holder(parent: &Path) -> (Child, PathBuf) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "spill_crash::holds_until_killed", "--ignored", "--nocapture"])
        .env(PARENT, parent)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
    let path = lines
        .filter_map(|line| Some(PathBuf::from(line.split_once(MARK)?.1)))
        .next()
        .expect("the child says where it spills");
    (child, path)
}

#[test]
fn the_next_run_removes_what_a_killed_one_left() {
    let parent = tempfile::tempdir().unwrap();
    let (mut child, left) = holder(parent.path());
    assert_eq!(SpillDir::remove_leftovers(parent.path()), 0, "the owner is alive");
    assert!(left.join("spilled").exists());
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(left.exists(), "a killed process cleans nothing up");
    let next = SpillDir::create(&plan_in(parent.path())).unwrap();
    assert!(!left.exists() && next.path().exists());
}

/// Runs only in the child of the test above.
#[test]
#[ignore = "the child of the_next_run_removes_what_a_killed_one_left"]
fn holds_until_killed() {
    let Some(parent) = std::env::var_os(PARENT) else { return };
    let spill = SpillDir::create(&plan_in(Path::new(&parent))).unwrap();
    std::fs::write(spill.path().join("spilled"), "rows").unwrap();
    println!("\n{MARK}{}", spill.path().display());
    // Ends with the parent at the latest, whose end of the pipe closes.
    let _ = std::io::stdin().lock().read_line(&mut String::new());
}
