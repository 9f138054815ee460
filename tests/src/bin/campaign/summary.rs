//! The summary of a campaign.

use std::time::Duration;

use duckrun_testkit::Tally;
use serde::Serialize;

/// What is printed at the end, in this order.
#[derive(Debug, Serialize)]
pub(crate) struct Summary<'a> {
    operations: u64,
    commits: u64,
    conflicts: u64,
    faults: u64,
    kills: u64,
    lost: u64,
    phantom: u64,
    torn: u64,
    duplicate: u64,
    violations: usize,
    seed: u64,
    seconds: f64,
    messages: &'a [String],
}

impl<'a> Summary<'a> {
    pub(crate) fn new(tally: &'a Tally, seed: u64, time: Duration) -> Self {
        Self {
            operations: tally.operations,
            commits: tally.commits,
            conflicts: tally.conflicts,
            faults: tally.faults,
            kills: tally.kills,
            lost: tally.lost,
            phantom: tally.phantom,
            torn: tally.torn,
            duplicate: tally.duplicate,
            violations: tally.violations.len(),
            seed,
            seconds: (time.as_secs_f64() * 10.0).round() / 10.0,
            messages: &tally.violations,
        }
    }

    /// The counts in one line.
    pub(crate) fn line(tally: &Tally) -> String {
        format!(
            "operations {}, commits {}, conflicts {}, faults {}, kills {}, lost {}, phantom {}, torn {}, duplicate {}, \
             violations {}",
            tally.operations,
            tally.commits,
            tally.conflicts,
            tally.faults,
            tally.kills,
            tally.lost,
            tally.phantom,
            tally.torn,
            tally.duplicate,
            tally.violations.len()
        )
    }

    /// Prints it: as JSON on standard output, or as text there.
    pub(crate) fn print(&self, json: bool) {
        for message in self.messages {
            eprintln!("violation: {message}");
        }
        if json {
            match serde_json::to_string(self) {
                Ok(text) => println!("{text}"),
                Err(e) => eprintln!("the summary cannot be written down: {e}"),
            }
            return;
        }
        for (name, count) in [
            ("operations", self.operations),
            ("commits", self.commits),
            ("conflicts", self.conflicts),
            ("faults", self.faults),
            ("kills", self.kills),
            ("lost", self.lost),
            ("phantom", self.phantom),
            ("torn", self.torn),
            ("duplicate", self.duplicate),
            ("violations", self.violations as u64),
            ("seed", self.seed),
        ] {
            println!("{name:<11}{count}");
        }
        println!("{:<11}{:.1}", "seconds", self.seconds);
    }
}
