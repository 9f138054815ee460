//! The suites. A new one is a file here and a line in [`SUITES`].

mod floors;
mod lineitem;
mod maintain;
mod memory;
mod merge;
mod rewrite;
mod shared;
mod sources;
mod stores;
mod stores_scan;
mod write;
mod write_subjects;

use crate::Result;
use crate::args::Args;
use crate::child::{Codec, Done, Job};

/// A group of cases under a name on the command line.
pub(crate) struct Suite {
    pub(crate) name: &'static str,
    pub(crate) about: &'static str,
    /// Measures what the arguments ask for, and prints it.
    pub(crate) run: fn(&Args) -> Result<()>,
    /// Does one subject's job in a child process.
    pub(crate) child: fn(&Job) -> Result<Done>,
}

/// One task that all its subjects do, each into an empty folder.
pub(crate) struct Case {
    pub(crate) name: &'static str,
    pub(crate) about: &'static str,
    pub(crate) subjects: &'static [&'static str],
    pub(crate) codec: Codec,
    /// The rows that every subject must leave.
    pub(crate) rows: u64,
    /// Commits (or their like) per run.
    pub(crate) operations: u64,
}

const SUITES: &[Suite] = &[
    write::SUITE,
    merge::SUITE,
    rewrite::SUITE,
    maintain::SUITE,
    memory::SUITE,
    floors::SUITE,
    sources::SUITE,
    stores::SUITE,
];

/// The suite of that name, or an error that lists the suites.
pub(crate) fn by_name(name: &str) -> Result<&'static Suite> {
    SUITES
        .iter()
        .find(|suite| suite.name == name)
        .ok_or_else(|| format!("there is no suite {name:?}; there are:\n{}", listing()).into())
}

/// The suites, one per line.
pub(crate) fn listing() -> String {
    SUITES.iter().map(|suite| format!("  {:<10} {}\n", suite.name, suite.about)).collect()
}
