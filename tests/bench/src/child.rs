//! One measurement in a process of its own: the job goes in as an argument, the figures come back as a line on stdout.
//!
//! The child measures itself at its very end: `/proc/self/stat` for the CPU time of all its threads, ended ones included, and
//! `/proc/self/status` for the highest resident memory. Both cover the process from its start, so what a subject spends on
//! opening an engine or a runtime counts. Wall time is that of the job alone. All this is Linux's; elsewhere a run fails.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::str::FromStr;
use std::time::Instant;

use duckrun::Compression;
use serde::{Deserialize, Serialize};

use crate::{Error, Result, suites};

/// What a child does.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Job {
    pub(crate) suite: String,
    pub(crate) case: String,
    pub(crate) subject: String,
    /// The generated parquet file.
    pub(crate) input: PathBuf,
    /// An empty folder.
    pub(crate) output: PathBuf,
    pub(crate) codec: Codec,
    pub(crate) threads: usize,
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

/// What a child measured of itself.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct Figures {
    /// User and system time of the whole process, in seconds.
    pub(crate) cpu_s: f64,
    /// Wall-clock time of the job, in seconds.
    pub(crate) wall_s: f64,
    /// The highest resident memory of the process, in millions of bytes.
    pub(crate) peak_mb: f64,
}

/// Runs a job in a child process.
pub(crate) fn spawn(job: &Job) -> Result<Figures> {
    let output = Command::new(std::env::current_exe()?)
        .arg("child")
        .arg(serde_json::to_string(job)?)
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()?;
    let failed = |why: String| format!("{} / {}: {why}", job.case, job.subject);
    if !output.status.success() {
        return Err(failed(format!("the child ended with {}", output.status)).into());
    }
    let text = String::from_utf8_lossy(&output.stdout);
    let line = text.lines().last().unwrap_or_default();
    serde_json::from_str(line).map_err(|e| failed(format!("unreadable figures {line:?}: {e}")).into())
}

/// Does a job in this process and prints the figures.
pub(crate) fn serve(job: &Job) -> Result<()> {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| "off".into());
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    let suite = suites::by_name(&job.suite)?;
    let start = Instant::now();
    (suite.run)(job)?;
    let wall_s = start.elapsed().as_secs_f64();
    let figures = Figures { cpu_s: cpu_seconds()?, wall_s, peak_mb: peak_mb()? };
    println!("{}", serde_json::to_string(&figures)?);
    Ok(())
}

/// User and system time of this process. The unit of `/proc/self/stat` is `USER_HZ`, which Linux fixes at 100 per second.
fn cpu_seconds() -> Result<f64> {
    let stat = fs::read_to_string("/proc/self/stat")?;
    // The second field is the program's name in parentheses and may hold anything; utime and stime are fields 14 and 15.
    let (_, fields) = stat.rsplit_once(')').ok_or("/proc/self/stat has no program name")?;
    let fields: Vec<&str> = fields.split_whitespace().collect();
    let ticks = |i: usize| -> Result<u64> { Ok(fields.get(i - 3).ok_or("/proc/self/stat is too short")?.parse()?) };
    Ok((ticks(14)? + ticks(15)?) as f64 / 100.0)
}

/// The highest resident memory of this process (`VmHWM`), in millions of bytes.
fn peak_mb() -> Result<f64> {
    let status = fs::read_to_string("/proc/self/status")?;
    let kib: u64 = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))
        .and_then(|rest| rest.split_whitespace().next())
        .ok_or("/proc/self/status has no VmHWM")?
        .parse()?;
    Ok(kib as f64 * 1024.0 / 1e6)
}
