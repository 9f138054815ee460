//! `duckrun-bench SUITE [options]`: duckrun against what the machine can do.
//!
//! Every measurement happens in a child process of its own (this program again, with the hidden subcommand `child`), because
//! peak memory is a property of a process and because nothing of one subject may warm another. The parent only generates
//! data, starts children in turns, checks what they wrote, and prints.

mod args;
mod child;
mod control;
mod data;
mod runner;
mod stats;
mod suites;
mod written;

use std::io::Write as _;
use std::process::ExitCode;

use args::{Args, Command};

/// Any failure; a benchmark has nobody who would tell them apart.
type Error = Box<dyn std::error::Error + Send + Sync>;
type Result<T> = std::result::Result<T, Error>;

fn main() -> ExitCode {
    let outcome = match args::parse(std::env::args().skip(1)) {
        Ok(Command::Help) => {
            // A reader that has seen enough (`| head`) is no failure.
            let _ = writeln!(std::io::stdout(), "{}", args::usage());
            Ok(())
        }
        Ok(Command::Child(job)) => child::serve(&job),
        Ok(Command::Run(args)) => run(&args),
        Err(e) => Err(e),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("error: {e}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> Result<()> {
    (suites::by_name(&args.suite)?.run)(args)
}
