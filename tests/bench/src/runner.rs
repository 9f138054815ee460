//! Runs the cases of a suite: children in turns, outputs checked, medians printed.
//!
//! Subjects alternate (A B C, C B A, ...), so that a slow minute of the machine meets all of them; warm-up rounds are run and
//! checked like the others, but not counted.

use std::fs;
use std::path::Path;

use crate::args::Args;
use crate::child::{self, Figures, Job};
use crate::stats::{self, Summary};
use crate::suites::{Case, Suite};
use crate::written::{self, Written};
use crate::{Result, control, data};

/// Runs a suite and prints each case as soon as it is measured.
pub(crate) fn run(suite: &Suite, args: &Args) -> Result<()> {
    let mut cases = (suite.cases)(args);
    let names = cases.iter().map(|case| case.name).collect::<Vec<_>>().join(", ");
    cases.retain(|case| args.case.as_deref().is_none_or(|name| name == case.name));
    if cases.is_empty() {
        return Err(format!("suite {} has the cases {names}", suite.name).into());
    }
    let folder = std::path::absolute(&args.data)?;
    let input = data::lineitem(&folder, args.rows)?;
    for case in &cases {
        let subjects: Vec<&'static str> = case
            .subjects
            .iter()
            .copied()
            .filter(|name| args.subject.as_deref().is_none_or(|only| only == *name))
            .collect();
        if subjects.is_empty() && cases.len() == 1 {
            return Err(format!("case {} has the subjects {}", case.name, case.subjects.join(", ")).into());
        }
        if subjects.is_empty() {
            continue;
        }
        let summaries = measure(suite, case, &subjects, args, &input)?;
        print(case, &summaries, args.json)?;
    }
    Ok(())
}

fn print(case: &Case, summaries: &[Summary], json: bool) -> Result<()> {
    let Some(first) = summaries.first() else { return Ok(()) };
    if json {
        for summary in summaries {
            println!("{}", serde_json::to_string(summary)?);
        }
        return Ok(());
    }
    println!("\n{}: {} ({})", case.name, case.about, case.codec.name());
    println!(
        "  medians of {} runs; two busy threads are {:.2} times as fast as one on this machine right now",
        first.runs, first.two_thread_speedup
    );
    println!("{}", stats::table(summaries));
    Ok(())
}

fn measure(suite: &Suite, case: &Case, subjects: &[&'static str], args: &Args, input: &Path) -> Result<Vec<Summary>> {
    let speedup = control::two_thread_speedup();
    let mut runs: Vec<Vec<(Figures, Written)>> = vec![Vec::new(); subjects.len()];
    for round in 0..args.warm_up + args.runs {
        let mut order: Vec<usize> = (0..subjects.len()).collect();
        if round % 2 == 1 {
            order.reverse();
        }
        for i in order {
            let output = input.with_file_name(format!("out-{}-{}-{}", std::process::id(), case.name, subjects[i]));
            let job = Job {
                suite: suite.name.to_owned(),
                case: case.name.to_owned(),
                subject: subjects[i].to_owned(),
                input: input.to_owned(),
                output: output.clone(),
                codec: case.codec,
                threads: args.threads,
            };
            let run = one(&job, case);
            match args.keep && round + 1 == args.warm_up + args.runs && run.is_ok() {
                true => eprintln!("kept {}", output.display()),
                false => fs::remove_dir_all(&output)?,
            }
            let run = run?;
            if round >= args.warm_up {
                runs[i].push(run);
            }
        }
    }
    let summaries =
        subjects.iter().zip(&runs).filter_map(|(name, runs)| Summary::new(suite.name, case, name, runs, speedup));
    Ok(summaries.collect())
}

/// One child, and the check of what it wrote.
fn one(job: &Job, case: &Case) -> Result<(Figures, Written)> {
    fs::create_dir_all(&job.output)?;
    let figures = child::spawn(job)?;
    let written = written::count(&job.output)?;
    if written.rows != case.rows {
        return Err(
            format!("{} / {} wrote {} rows instead of {}", case.name, job.subject, written.rows, case.rows).into()
        );
    }
    Ok((figures, written))
}
