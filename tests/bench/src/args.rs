//! The command line, parsed by hand: a suite and a handful of options.

use std::path::PathBuf;
use std::thread;

use crate::child::{Codec, Job};
use crate::{Result, data, suites};

/// What the command line asks for.
pub(crate) enum Command {
    /// The usage text.
    Help,
    /// A suite.
    Run(Args),
    /// One measurement in this process; the parent asks for it.
    Child(Job),
}

/// The options of a suite.
#[derive(Debug)]
pub(crate) struct Args {
    pub(crate) suite: String,
    pub(crate) rows: u64,
    pub(crate) runs: usize,
    pub(crate) warm_up: usize,
    pub(crate) codec: Codec,
    pub(crate) threads: usize,
    pub(crate) case: Option<String>,
    pub(crate) subject: Option<String>,
    pub(crate) data: PathBuf,
    /// The memory limit in MiB.
    pub(crate) limit_mb: Option<u64>,
    /// How many times the limit the data are.
    pub(crate) times: u64,
    /// Plans without the floors, to see what they have to be.
    pub(crate) no_floors: bool,
    /// Only tables of this many files.
    pub(crate) files: Option<u64>,
    pub(crate) keep: bool,
    pub(crate) json: bool,
}

impl Args {
    /// The memory limit in bytes.
    pub(crate) fn limit(&self) -> Option<u64> {
        self.limit_mb.map(|mib| mib.saturating_mul(1 << 20))
    }
}

/// Parses the arguments after the program's name.
pub(crate) fn parse(words: impl IntoIterator<Item = String>) -> Result<Command> {
    let mut words = words.into_iter();
    let mut suite = None;
    let mut args = Args {
        suite: String::new(),
        rows: data::DEFAULT_ROWS,
        runs: 5,
        warm_up: 1,
        codec: Codec::Zstd,
        threads: thread::available_parallelism().map_or(1, |n| n.get()),
        case: None,
        subject: None,
        data: data::default_dir(),
        limit_mb: None,
        times: 10,
        no_floors: false,
        files: None,
        keep: false,
        json: false,
    };
    while let Some(word) = words.next() {
        let mut value = || words.next().ok_or_else(|| format!("{word} needs a value"));
        match word.as_str() {
            "child" if suite.is_none() => return Ok(Command::Child(serde_json::from_str(&value()?)?)),
            "-h" | "--help" => return Ok(Command::Help),
            "--rows" => args.rows = number(&word, &value()?)?,
            "--runs" => args.runs = number(&word, &value()?)? as usize,
            "--warm-up" => args.warm_up = value()?.parse().map_err(|_| "--warm-up needs a number")?,
            "--threads" => args.threads = number(&word, &value()?)? as usize,
            "--codec" => args.codec = value()?.parse()?,
            "--case" => args.case = Some(value()?),
            "--subject" => args.subject = Some(value()?),
            "--data" => args.data = PathBuf::from(value()?),
            "--limit-mb" => args.limit_mb = Some(number(&word, &value()?)?),
            "--times" => args.times = number(&word, &value()?)?,
            "--no-floors" => args.no_floors = true,
            "--files" => args.files = Some(number(&word, &value()?)?),
            "--keep" => args.keep = true,
            "--json" => args.json = true,
            _ if word.starts_with('-') => return Err(format!("unknown option {word}\n\n{}", usage()).into()),
            _ if suite.is_some() => return Err(format!("one suite at a time; {word:?} is a second one").into()),
            _ => suite = Some(word),
        }
    }
    args.suite = suite.ok_or_else(usage)?;
    Ok(Command::Run(args))
}

/// A positive number.
fn number(option: &str, text: &str) -> Result<u64> {
    match text.replace('_', "").parse() {
        Ok(n) if n > 0 => Ok(n),
        _ => Err(format!("{option} needs a positive number, not {text:?}").into()),
    }
}

/// The usage text.
pub(crate) fn usage() -> String {
    format!(
        "usage: duckrun-bench SUITE [options]

suites:
{}
options:
  --rows N              rows of the generated lineitem ({}, TPC-H at scale factor 1)
  --runs N              measured runs per subject (5)
  --warm-up N           runs before them that are not counted (1)
  --codec zstd|snappy   compression of what is written (zstd, level 1)
  --limit-mb N          memory limit in MiB: of suite memory; suite merge measures how it grows under it (see below)
  --times N             suite memory: data of N times the limit (10)
  --no-floors           suite memory: plan below the floors too, to find the limit at which a job breaks
  --files N             suite merge: only tables of N files (of 1 and 10)
  --threads N           threads of every subject (as many as this process may use)
  --case NAME           only this case
  --subject NAME        only this subject
  --data DIR            where generated data and outputs go (a folder below cargo's target directory)
  --keep                leave what the last run of each subject wrote
  --json                one JSON object per case and subject instead of tables

merge --rows 60_000_000 --limit-mb 2048 measures the scattered upsert on a tenth of the rows and on all of them, in a
control group of the kernel with that limit, and says how much more ten times the rows take.

memory runs each job in such a group and prints one line (or object) per job: limit, peak and outcome.

RUST_LOG (for example RUST_LOG=duckrun=info) shows the subjects' own logs.",
        suites::listing(),
        data::DEFAULT_ROWS,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Result<Args> {
        match parse(line.split_whitespace().map(str::to_owned))? {
            Command::Run(args) => Ok(args),
            _ => Err("not a run".into()),
        }
    }

    #[test]
    fn options_may_stand_on_either_side_of_the_suite() -> Result<()> {
        let args = parsed("--rows 6_000 write --runs 3 --codec SNAPPY --json")?;
        assert_eq!((args.suite.as_str(), args.rows, args.runs), ("write", 6_000, 3));
        assert_eq!((args.codec, args.json, args.warm_up), (Codec::Snappy, true, 1));
        let args = parsed("memory --limit-mb 512 --times 2")?;
        assert_eq!((args.limit(), args.times), (Some(512 << 20), 2));
        Ok(())
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (line, expected) in [
            ("", "usage:"),
            ("write --runs 0", "--runs needs a positive number"),
            ("write --codec lz4", "zstd or snappy"),
            ("write --rows", "--rows needs a value"),
            ("write --fast", "unknown option --fast"),
            ("write merge", "one suite at a time"),
        ] {
            let error = parsed(line).map_or_else(|e| e.to_string(), |_| "nothing".to_owned());
            assert!(error.contains(expected), "{line}: {error}");
        }
    }
}
