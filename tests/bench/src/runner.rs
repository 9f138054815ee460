//! Children in turns, for every suite; and the cases of suites that write into empty folders: outputs checked, medians
//! printed.
//!
//! Subjects alternate (A B C, C B A, ...), so that a slow minute of the machine meets all of them; warm-up rounds are run and
//! checked like the others, but not counted.

use std::fs;
use std::path::Path;

use crate::args::Args;
use crate::child::{self, Figures, Job, TableFiles};
use crate::stats::{self, Summary};
use crate::suites::Case;
use crate::written::{self, Written};
use crate::{Result, control, data};

/// Runs the cases that are asked for and prints each as soon as it is measured.
pub(crate) fn run(suite: &'static str, mut cases: Vec<Case>, args: &Args) -> Result<()> {
    let names = cases.iter().map(|case| case.name).collect::<Vec<_>>().join(", ");
    cases.retain(|case| args.case.as_deref().is_none_or(|name| name == case.name));
    if cases.is_empty() {
        return Err(format!("suite {suite} has the cases {names}").into());
    }
    let folder = std::path::absolute(&args.data)?;
    let input = data::lineitem(&folder, args.rows)?;
    for case in &cases {
        let subjects = chosen(case.subjects, args);
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

/// The subjects that are asked for.
pub(crate) fn chosen(subjects: &[&'static str], args: &Args) -> Vec<&'static str> {
    let wanted = |name: &&'static str| args.subject.as_deref().is_none_or(|only| only == *name);
    subjects.iter().copied().filter(wanted).collect()
}

/// Runs each subject as often as asked, in turns, and returns the counted runs by subject. `one` learns whether it is the
/// subject's last run.
pub(crate) fn rounds<T>(
    subjects: &[&'static str],
    args: &Args,
    mut one: impl FnMut(&'static str, bool) -> Result<T>,
) -> Result<Vec<Vec<T>>> {
    let mut runs: Vec<Vec<T>> = subjects.iter().map(|_| Vec::new()).collect();
    let all = args.warm_up + args.runs;
    for round in 0..all {
        let mut order: Vec<usize> = (0..subjects.len()).collect();
        if round % 2 == 1 {
            order.reverse();
        }
        for i in order {
            let run = one(subjects[i], round + 1 == all)?;
            if round >= args.warm_up {
                runs[i].push(run);
            }
        }
    }
    Ok(runs)
}

/// Prints a case, as a table or as JSON lines.
pub(crate) fn print(case: &Case, summaries: &[Summary], json: bool) -> Result<()> {
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

fn measure(
    suite: &'static str,
    case: &Case,
    subjects: &[&'static str],
    args: &Args,
    input: &Path,
) -> Result<Vec<Summary>> {
    let speedup = control::two_thread_speedup();
    let runs = rounds(subjects, args, |subject, last| {
        let output = input.with_file_name(format!("out-{}-{}-{subject}", std::process::id(), case.name));
        let job = Job {
            suite: suite.to_owned(),
            case: case.name.to_owned(),
            subject: subject.to_owned(),
            input: input.to_owned(),
            output: output.clone(),
            codec: case.codec,
            threads: args.threads,
            files: TableFiles::default(),
            limit: None,
            no_floors: false,
            watched: false,
        };
        let run = one(&job, case);
        done_with(&output, args.keep && last && run.is_ok())?;
        run
    })?;
    let summaries =
        subjects.iter().zip(&runs).filter_map(|(name, runs)| Summary::new(suite, case, name, runs, speedup));
    Ok(summaries.collect())
}

/// Removes what a run left, unless it is to be kept.
pub(crate) fn done_with(output: &Path, keep: bool) -> Result<()> {
    match keep {
        true => eprintln!("kept {}", output.display()),
        false => fs::remove_dir_all(output)?,
    }
    Ok(())
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
