//! Campaigns for hours: crashes, chaos, faults, the simulation and operations on real tables, with a summary at the end.
//!
//! Exit status: 0 where every promise held, 1 where one was broken, 2 for arguments that are none, 3 where nothing could be run.

mod arguments;
mod on_real_tables;
mod simulated;
mod summary;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use duckrun::{Error, Result};
use duckrun_testkit::chaos::Chaos;
use duckrun_testkit::crash::Crashes;
use duckrun_testkit::faults::FaultCampaign;
use duckrun_testkit::work::{Playground, Program};
use duckrun_testkit::{Emulated, Tally, work};

use crate::arguments::{Arguments, Asked, Store};
use crate::summary::Summary;

const BROKEN: u8 = 1;
const USAGE: u8 = 2;
const SKIPPED: u8 = 3;

fn main() -> ExitCode {
    let asked = match Asked::parse(std::env::args().skip(1)) {
        Ok(asked) => asked,
        Err(why) => {
            eprintln!("{why}\n\n{}", arguments::USAGE);
            return ExitCode::from(USAGE);
        }
    };
    let log = tracing_subscriber::EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("duckrun_testkit=info"));
    tracing_subscriber::fmt().with_env_filter(log).with_writer(std::io::stderr).with_ansi(false).without_time().init();
    match asked {
        Asked::Help => {
            println!("{}", arguments::USAGE);
            ExitCode::SUCCESS
        }
        Asked::Child(orders) => match block_on(work::child(&orders)) {
            Ok(()) => ExitCode::SUCCESS,
            Err(e) => {
                eprintln!("a child failed: {e}");
                ExitCode::FAILURE
            }
        },
        Asked::Campaign(arguments) => campaign(&arguments),
    }
}

fn campaign(arguments: &Arguments) -> ExitCode {
    let begun = Instant::now();
    let playground = match playground(arguments.store) {
        Ok(playground) => playground,
        Err(why) => {
            eprintln!("skipped: {why}");
            return ExitCode::from(SKIPPED);
        }
    };
    let mut tally = Tally::default();
    let (mut ran, mut failed) = (false, false);
    for (name, part) in parts(arguments) {
        eprintln!("{name}, seed {}", arguments.seed);
        let since = Instant::now();
        match part(&playground) {
            Ok(done) => {
                eprintln!("{name}: {:.1} s, {}", since.elapsed().as_secs_f64(), Summary::line(&done));
                ran = true;
                tally.absorb(done);
            }
            Err(e) => {
                eprintln!("{name}: cannot be run: {e}");
                failed |= arguments.is_explicit();
            }
        }
    }
    let summary = Summary::new(&tally, arguments.seed, begun.elapsed());
    summary.print(arguments.json);
    match (tally.is_clean(), ran && !failed) {
        (false, _) => ExitCode::from(BROKEN),
        (true, false) => ExitCode::from(SKIPPED),
        (true, true) => ExitCode::SUCCESS,
    }
}

type Part<'a> = Box<dyn FnOnce(&Playground) -> Result<Tally> + 'a>;

/// The parts that were asked for, or a little of each.
fn parts(arguments: &Arguments) -> Vec<(String, Part<'_>)> {
    let seed = arguments.seed;
    let counts = arguments.counts();
    let mut parts: Vec<(String, Part<'_>)> = Vec::new();
    if let Some(n) = counts.simulate {
        parts.push((format!("{n} simulated operations"), Box::new(move |_| Ok(simulated::simulated(n, seed)))));
    }
    if let Some(n) = counts.operations {
        let part = move |playground: &Playground| on_real_tables::on_real_tables(n, seed, playground);
        parts.push((format!("{n} operations on real tables"), Box::new(part)));
    }
    if let Some(n) = counts.kills {
        let part = move |playground: &Playground| {
            block_on(async { Crashes::new(program()?, seed).kills(n).run(playground).await })
        };
        parts.push((format!("{n} kills"), Box::new(part)));
    }
    if let Some(n) = counts.faults {
        let part = move |playground: &Playground| {
            block_on(async { FaultCampaign::new(program()?, seed).faults(n).run(playground).await })
        };
        parts.push((format!("{n} faults"), Box::new(part)));
    }
    if let Some(n) = counts.seconds {
        let part = move |playground: &Playground| {
            block_on(async { Chaos::new(program()?, seed).time(Duration::from_secs(n)).run(playground).await })
        };
        parts.push((format!("{n} seconds of chaos"), Box::new(part)));
    }
    parts
}

/// This program, for child processes.
fn program() -> Result<Program> {
    let path = std::env::current_exe().map_err(|e| Error::internal("this program has no path").with_source(e))?;
    Ok(Program::new(path, ["--child"]))
}

fn playground(store: Store) -> Result<Playground, String> {
    let emulated = match store {
        Store::Local => return Playground::local().map_err(|e| e.to_string()),
        Store::S3 => Emulated::S3,
        Store::Azure => Emulated::Azure,
    };
    // Beside the program, where cargo puts what tests install.
    let beside = std::env::current_exe().ok().and_then(|exe| Some(exe.parent()?.parent()?.join("tmp")));
    let tools: PathBuf = beside.unwrap_or_else(std::env::temp_dir).join("emulators");
    Playground::emulated(emulated, &tools)
}

fn block_on<T>(future: impl Future<Output = Result<T>>) -> Result<T> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(4).enable_all().build();
    runtime.map_err(|e| Error::internal("no runtime").with_source(e))?.block_on(future)
}
