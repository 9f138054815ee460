//! One measurement in a process of its own: the job goes in as an argument, the figures come back as a line on stdout.
//!
//! The child measures itself at its very end: `/proc/self/stat` for the CPU time of all its threads, ended ones included, and
//! `/proc/self/status` for the highest resident memory. Both cover the process from its start, so what a subject spends on
//! opening an engine or a runtime counts. Wall time is that of the job alone. All this is Linux's; elsewhere a run fails.

use std::fs;
use std::io::{BufRead, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::str::FromStr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use duckrun::{Compression, WriteMetrics};
use duckrun_testkit::MemoryGroup;
use serde::{Deserialize, Serialize};

use crate::{Error, Result, suites};

/// What a child does.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Job {
    pub(crate) suite: String,
    pub(crate) case: String,
    pub(crate) subject: String,
    /// The parquet file that is read.
    pub(crate) input: PathBuf,
    /// The folder that is written to: empty, or the root of the table that is changed.
    pub(crate) output: PathBuf,
    pub(crate) codec: Codec,
    pub(crate) threads: usize,
    /// The data files of the table that is changed, for subjects that know no table.
    pub(crate) files: TableFiles,
    /// The memory that the subject may use; otherwise what it detects.
    pub(crate) limit: Option<Limit>,
    /// Whether the plan's floors are put out of force.
    pub(crate) no_floors: bool,
    /// Whether the process looks at its own memory while it works.
    pub(crate) watched: bool,
}

/// How a subject's memory is limited, in bytes.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Limit {
    /// By a group of the kernel, which the subject has to detect; the child begins when it is in the group.
    Group(u64),
    /// By a setting.
    Setting(u64),
}

/// Data files of a table, seen from a change to it.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct TableFiles {
    /// Those that may hold a row that is looked for, by the range of the first key column.
    pub(crate) scanned: Vec<PathBuf>,
    /// Those that hold a row that changes.
    pub(crate) touched: Vec<PathBuf>,
    /// How many incoming rows are new.
    pub(crate) inserted: u64,
}

/// The compression that all subjects of a case use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Codec {
    /// ZSTD at [`Codec::ZSTD_LEVEL`].
    Zstd,
    /// SNAPPY.
    Snappy,
}

impl Codec {
    /// The default level of duckrun's file options.
    pub(crate) const ZSTD_LEVEL: i32 = 1;

    /// As duckrun's file options say it.
    pub(crate) fn compression(self) -> Compression {
        match self {
            Self::Zstd => Compression::Zstd(Self::ZSTD_LEVEL),
            Self::Snappy => Compression::Snappy,
        }
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Zstd => "zstd",
            Self::Snappy => "snappy",
        }
    }
}

impl FromStr for Codec {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text.to_ascii_lowercase().as_str() {
            "zstd" => Ok(Self::Zstd),
            "snappy" => Ok(Self::Snappy),
            _ => Err(format!("unknown codec {text:?}: zstd or snappy").into()),
        }
    }
}

/// What a subject says of the job that it did.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Done {
    /// What it changed, where it knows.
    pub(crate) changes: Option<Changes>,
    /// Why it did not begin: the memory is too little, and how much would do.
    pub(crate) refused: Option<String>,
    /// What it asked of an object store, where it was counted.
    pub(crate) asked: Option<Asked>,
}

/// Requests to an object store.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct Asked {
    pub(crate) requests: u64,
    /// Bytes asked for by reads.
    pub(crate) bytes: u64,
}

/// What a commit did to a table.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub(crate) struct Changes {
    pub(crate) rows_inserted: u64,
    pub(crate) rows_updated: u64,
    pub(crate) rows_deleted: u64,
    pub(crate) rows_copied: u64,
    pub(crate) files_added: u64,
    pub(crate) files_removed: u64,
}

impl From<&WriteMetrics> for Changes {
    fn from(m: &WriteMetrics) -> Self {
        Self {
            rows_inserted: m.rows_inserted,
            rows_updated: m.rows_updated,
            rows_deleted: m.rows_deleted.unwrap_or_default(),
            rows_copied: m.rows_copied,
            files_added: m.files_added,
            files_removed: m.files_removed,
        }
    }
}

/// How often a child's group is looked at.
const WATCH_EVERY: Duration = Duration::from_millis(5);

/// What a child measured of itself.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Figures {
    /// User and system time of the whole process, in seconds.
    pub(crate) cpu_s: f64,
    /// Wall-clock time of the job, in seconds.
    pub(crate) wall_s: f64,
    /// The highest resident memory of the process, in millions of bytes.
    pub(crate) peak_mb: f64,
    /// The highest anonymous memory of the process in bytes, in samples; only of jobs that are about memory.
    pub(crate) anonymous: Option<u64>,
    /// What the subject says of its work.
    pub(crate) done: Done,
}

/// How a child ended.
#[derive(Debug)]
pub(crate) enum Ended {
    /// It did its job, or refused it.
    Well(Figures),
    /// The kernel killed it.
    Killed,
    /// Anything else.
    Badly(String),
}

/// Runs a job in a child process, which must end well.
pub(crate) fn spawn(job: &Job) -> Result<Figures> {
    match launch(job, None)? {
        Ended::Well(figures) => Ok(figures),
        Ended::Killed => Err(format!("{} / {}: the child was killed", job.case, job.subject).into()),
        Ended::Badly(why) => Err(format!("{} / {}: {why}", job.case, job.subject).into()),
    }
}

/// Runs a job in a child process, in a memory group if there is one.
pub(crate) fn launch(job: &Job, group: Option<&MemoryGroup>) -> Result<Ended> {
    let mut child = Command::new(std::env::current_exe()?)
        .arg("child")
        .arg(serde_json::to_string(job)?)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()?;
    if let Some(group) = group
        && let Err(why) = group.take_in(&child)
    {
        child.kill()?;
        child.wait()?;
        return Err(why.into());
    }
    // A child that waits for its group reads a line; the others never look.
    let told = child.stdin.take().map_or(Ok(()), |mut stdin| stdin.write_all(b"go\n"));
    let output = child.wait_with_output()?;
    if output.status.signal() == Some(libc::SIGKILL) {
        return Ok(Ended::Killed);
    }
    if !output.status.success() {
        return Ok(Ended::Badly(format!("the child ended with {}", output.status)));
    }
    told?;
    let text = String::from_utf8_lossy(&output.stdout);
    let line = text.lines().last().unwrap_or_default();
    Ok(match serde_json::from_str(line) {
        Ok(figures) => Ended::Well(figures),
        Err(e) => Ended::Badly(format!("unreadable figures {line:?}: {e}")),
    })
}

/// The highest anonymous memory of this process while something runs, in samples.
fn watched<T>(job: impl FnOnce() -> T) -> (T, Option<u64>) {
    let ended = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let peak = scope.spawn(|| {
            let mut peak = None;
            while !ended.load(Ordering::Relaxed) {
                peak = peak.max(status_bytes("RssAnon:").ok());
                std::thread::sleep(WATCH_EVERY);
            }
            peak
        });
        let done = job();
        ended.store(true, Ordering::Relaxed);
        (done, peak.join().unwrap_or_default())
    })
}

/// Does a job in this process and prints the figures.
pub(crate) fn serve(job: &Job) -> Result<()> {
    if matches!(job.limit, Some(Limit::Group(_))) {
        std::io::stdin().lock().read_line(&mut String::new())?;
    }
    let filter = tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| "off".into());
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    let suite = suites::by_name(&job.suite)?;
    let start = Instant::now();
    // Looking costs time of its own, which the suites that measure time must not count.
    let (done, anonymous) = match job.watched {
        true => watched(|| (suite.child)(job)),
        false => ((suite.child)(job), None),
    };
    let (done, wall_s) = (done?, start.elapsed().as_secs_f64());
    let figures = Figures { cpu_s: cpu_seconds()?, wall_s, peak_mb: peak_mb()?, anonymous, done };
    println!("{}", serde_json::to_string(&figures)?);
    Ok(())
}

/// User and system time of this process. The unit of `/proc/self/stat` is `USER_HZ`, which Linux fixes at 100 per second.
pub(crate) fn cpu_seconds() -> Result<f64> {
    let stat = fs::read_to_string("/proc/self/stat")?;
    // The second field is the program's name in parentheses and may hold anything; utime and stime are fields 14 and 15.
    let (_, fields) = stat.rsplit_once(')').ok_or("/proc/self/stat has no program name")?;
    let fields: Vec<&str> = fields.split_whitespace().collect();
    let ticks = |i: usize| -> Result<u64> { Ok(fields.get(i - 3).ok_or("/proc/self/stat is too short")?.parse()?) };
    Ok((ticks(14)? + ticks(15)?) as f64 / 100.0)
}

/// The highest resident memory of this process (`VmHWM`), in millions of bytes.
fn peak_mb() -> Result<f64> {
    Ok(status_bytes("VmHWM:")? as f64 / 1e6)
}

/// An amount of memory in `/proc/self/status`.
fn status_bytes(name: &str) -> Result<u64> {
    let status = fs::read_to_string("/proc/self/status")?;
    let kib: u64 = status
        .lines()
        .find_map(|line| line.strip_prefix(name))
        .and_then(|rest| rest.split_whitespace().next())
        .ok_or_else(|| format!("/proc/self/status has no {name}"))?
        .parse()?;
    Ok(kib * 1024)
}
