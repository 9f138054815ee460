//! A control group of our own, with a limit, and a process inside that must find it.
//!
//! Needs the right to create a group (root, or a delegated subtree); without it the test says so and passes.

use std::io::{BufRead, Write};
use std::process::{Child, Command, Stdio};

use cgroups_rs::CgroupPid;
use cgroups_rs::fs::memory::MemController;
use cgroups_rs::fs::{Cgroup, hierarchies};
use duckrun_memory::{
    EffectiveLimit, Job, MIB, MemoryProbe, MemorySample, MemorySettings, PeakMeter, SystemProbe, plan,
};

const LIMIT: u64 = 512 * MIB;
const MARK: &str = "inside: ";
const INSIDE: &str = "DUCKRUN_MEMORY_TEST_INSIDE";

/// A group that is removed again, also when an assertion fails.
struct Group(Cgroup);

impl Group {
    fn create() -> Result<Self, String> {
        let name = format!("duckrun-memory-test-{}", std::process::id());
        let controllers = Some(vec!["memory".to_owned()]);
        let group = Cgroup::new_with_specified_controllers(hierarchies::auto(), name, controllers);
        let group = Self(group.map_err(|error| format!("creating a group: {error}"))?);
        let memory: &MemController = group.0.controller_of().ok_or("no memory controller")?;
        memory.set_limit(LIMIT as i64).map_err(|error| format!("setting its limit: {error}"))?;
        Ok(group)
    }

    fn take_in(&self, child: &Child) -> Result<(), String> {
        let pid = CgroupPid::from(u64::from(child.id()));
        self.0.add_task_by_tgid(pid).map_err(|error| format!("moving a process into it: {error}"))
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // A group that cannot be removed is empty and harmless.
        let _ = self.0.delete();
    }
}

#[test]
fn a_process_in_a_group_of_512_mib_finds_and_keeps_its_limit() {
    let group = match Group::create() {
        Ok(group) => group,
        Err(why) => return eprintln!("SKIPPED: this system does not allow the live test: {why}"),
    };
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "live_cgroup::inside", "--ignored", "--nocapture", "--test-threads=1"])
        .env(INSIDE, "1")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let moved = group.take_in(&child);
    child.stdin.take().unwrap().write_all(b"go\n").unwrap();
    let output = child.wait_with_output().unwrap();
    if let Err(why) = moved {
        return eprintln!("SKIPPED: this system does not allow the live test: {why}");
    }
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{}\n{text}", output.status);
    let reports: Vec<(MemorySample, EffectiveLimit)> = text
        .lines()
        .filter_map(|line| line.split_once(MARK))
        .map(|(_, json)| serde_json::from_str(json).unwrap())
        .collect();
    let [before, after] = &reports[..] else { panic!("two reports in {text}") };
    for (sample, limit) in [before, after] {
        let levels = &sample.cgroup.as_ref().unwrap().levels;
        assert_eq!(levels[0].limit, Some(LIMIT), "{levels:#?}");
        // What the group has left is less than the limit by the kernel's own pages and files in use, no more.
        assert!(limit.bytes <= LIMIT && limit.bytes > LIMIT - 64 * MIB, "{}", limit.picture());
    }
    let grown = after.0.own() - before.0.own();
    assert!(grown > 250 * MIB, "{grown}");
}

/// Runs only in the child of the test above: says what it sees, holds half of it, and says again.
#[test]
#[ignore = "the child of a_process_in_a_group_of_512_mib_finds_and_keeps_its_limit"]
fn inside() {
    if std::env::var_os(INSIDE).is_none() {
        return;
    }
    let mut line = String::new();
    std::io::stdin().lock().read_line(&mut line).unwrap();
    let report = || {
        let sample = SystemProbe::new().sample();
        let limit = EffectiveLimit::detect(&sample, &MemorySettings::default());
        println!("\n{MARK}{}", serde_json::to_string(&(&sample, &limit)).unwrap());
        limit
    };
    let limit = report();
    let plan = plan(&limit, &MemorySettings::default(), Job::Write).unwrap();
    let meter = PeakMeter::start();
    let share = (plan.lease_bytes() * 2 / 3) as usize;
    let held: Vec<u8> = (0..share).map(|n| n as u8).collect();
    report();
    assert!(held.iter().any(|byte| *byte > 0));
    assert!(meter.stop().growth() as usize >= share / 2);
}
