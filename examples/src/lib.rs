//! What the examples share: where their data is, where their output goes, and a progress bar.

use std::path::{Path, PathBuf};

use duckrun::{Error, Progress, Result};
use indicatif::{ProgressBar, ProgressStyle};

/// The folder with the examples' data.
pub fn data() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("data")
}

/// The output folder: the first argument, or a temporary folder that is removed when the guard is dropped.
///
/// # Errors
/// Where the folder cannot be created.
pub fn output_folder(name: &str) -> Result<(PathBuf, Option<tempfile::TempDir>)> {
    let fail = |e: std::io::Error| Error::invalid(format!("cannot create the output folder: {e}"));
    if let Some(folder) = std::env::args_os().nth(1) {
        let folder = PathBuf::from(folder);
        std::fs::create_dir_all(&folder).map_err(fail)?;
        return Ok((folder, None));
    }
    let guard = tempfile::Builder::new().prefix(&format!("duckrun-{name}-")).tempdir().map_err(fail)?;
    println!("Writing to a temporary folder; name one as the argument to keep the tables.");
    Ok((guard.path().to_owned(), Some(guard)))
}

/// Logs of duckrun on standard error, as `RUST_LOG` asks; nothing by default.
pub fn init_tracing() {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| "off".into());
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
}

/// A progress bar on standard error, invisible where that is not a terminal.
pub fn bar() -> ProgressBar {
    let style = ProgressStyle::with_template("{spinner} {msg} {bar:30} {percent}%")
        .unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::new(100).with_style(style)
}

/// Shows a progress event.
pub fn show(bar: &ProgressBar, progress: &Progress) {
    bar.set_message(format!(
        "{:<11} {:>10} rows {:>6} MB",
        progress.phase.to_string(),
        progress.rows,
        progress.bytes / 1_000_000
    ));
    if let Some(fraction) = progress.fraction {
        bar.set_position((fraction * 100.0) as u64);
    }
    bar.tick();
}

/// The program of README.md, compiled as a test.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
pub struct Readme;
