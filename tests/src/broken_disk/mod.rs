//! A disk that breaks at a chosen effect: full, failing, or gone with the whole process.
//!
//! What a process does to local files cannot be intercepted in Rust where the standard library is called directly, so a small
//! library in C is compiled and preloaded into a child process. It stands before the calls of the C library that change files, counts
//! those below one folder and breaks the nth. Linux with glibc and a C compiler only.
//!
//! ```no_run
//! use duckrun_testkit::broken_disk::{Breakage, BrokenDisk};
//! # fn main() -> Result<(), String> {
//! # let folder = std::path::Path::new("/tmp/table");
//! let disk = BrokenDisk::compile()?;
//! let mut child = std::process::Command::new("my-program");
//! disk.breaks(&mut child, folder, 7, Breakage::Full { lasting: true });
//! # Ok(()) }
//! ```

use std::path::{Path, PathBuf};
use std::process::Command;

const SOURCE: &str = include_str!("broken_disk.c");

/// How the disk breaks.
#[non_exhaustive]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Breakage {
    /// No space is left (`ENOSPC`): for one call, or from then on. What frees space goes on working.
    Full {
        /// From then on.
        lasting: bool,
    },
    /// The device fails (`EIO`): for one call, or from then on.
    Failing {
        /// From then on.
        lasting: bool,
    },
    /// The process is killed (`SIGKILL`) just before the effect.
    Kill,
    /// The process is killed in the middle of the nth write, of which half is there.
    Tear,
}

impl Breakage {
    fn word(self) -> &'static str {
        match self {
            Self::Full { lasting: false } => "enospc",
            Self::Full { lasting: true } => "enospc+",
            Self::Failing { lasting: false } => "eio",
            Self::Failing { lasting: true } => "eio+",
            Self::Kill => "kill",
            Self::Tear => "tear",
        }
    }
}

/// The compiled library; it is removed when this is dropped.
#[derive(Debug)]
pub struct BrokenDisk {
    folder: tempfile::TempDir,
}

impl BrokenDisk {
    /// Compiles the library with `cc`. Blocks.
    ///
    /// # Errors
    /// Why it cannot be done here: no Linux, no compiler. A test says so and is skipped.
    pub fn compile() -> Result<Self, String> {
        if !cfg!(all(target_os = "linux", target_env = "gnu")) {
            return Err("files can be intercepted on Linux with glibc only".to_owned());
        }
        let folder = tempfile::tempdir().map_err(|e| e.to_string())?;
        let disk = Self { folder };
        let source = disk.folder.path().join("broken_disk.c");
        std::fs::write(&source, SOURCE).map_err(|e| e.to_string())?;
        let mut cc = Command::new("cc");
        cc.args(["-O1", "-shared", "-fPIC", "-o"]).arg(disk.library()).arg(&source).args(["-ldl", "-lpthread"]);
        let output = cc.output().map_err(|e| format!("no C compiler: {e}"))?;
        if !output.status.success() {
            return Err(format!("cc failed: {}", String::from_utf8_lossy(&output.stderr).trim()));
        }
        Ok(disk)
    }

    fn library(&self) -> PathBuf {
        self.folder.path().join("libbrokendisk.so")
    }

    /// Where the effect that was met is noted, one line a process that met it.
    fn report(&self, below: &Path) -> PathBuf {
        let name: String = below.display().to_string().chars().map(|c| if c == '/' { '_' } else { c }).collect();
        self.folder.path().join(format!("met{name}"))
    }

    /// Breaks the `nth` effect (from 1) of a program below a folder, whose path has no symbolic links in it.
    pub fn breaks(&self, command: &mut Command, below: &Path, nth: u64, how: Breakage) {
        command
            .env("LD_PRELOAD", self.library())
            .env("BROKEN_DISK_BELOW", below)
            .env("BROKEN_DISK_NTH", nth.to_string())
            .env("BROKEN_DISK_HOW", how.word())
            .env("BROKEN_DISK_REPORT", self.report(below));
    }

    /// Which effect the program met, after it has ended: the call and the path. `None` where it has done fewer effects.
    pub fn met(&self, below: &Path) -> Option<String> {
        let report = self.report(below);
        let met = std::fs::read_to_string(&report).ok()?;
        let _ = std::fs::remove_file(report);
        met.lines().next().map(str::to_owned)
    }
}
