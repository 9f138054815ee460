//! The settings of this crate: plain values that serialise. None of them is read from an environment variable.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::plan::constants;
use crate::{Error, GIB, Result};

/// How much memory runs may take and how it is spread. The default detects everything.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MemorySettings {
    /// A limit in bytes for this process. It overrides detection *downwards only*: a limit above what the machine or the
    /// container has would only lead to the process being killed. Where nothing can be detected it is taken as it is.
    pub limit: Option<u64>,

    /// The most threads for DuckDB; by default the processors that this process may use. A plan may give fewer,
    /// because each thread needs memory of its own.
    pub threads: Option<usize>,

    /// The most parquet writers side by side; by default as many as threads are allowed.
    pub writers: Option<usize>,

    /// How many runs the limit is cut for. With 1 (the default) each run is planned with the whole limit and runs follow
    /// one another; with N each gets an N-th, though never less than its floors, and N run at a time.
    pub concurrent_runs: usize,

    /// The floors of the shares.
    pub floors: Floors,

    /// Where and how much may be spilled to disk.
    pub spill: SpillSettings,
}

/// The least that each share must have; below their sum a run is refused.
///
/// The defaults are measured, with room on top: [`constants`](crate::constants) says what and how. Change one only after
/// measuring your own jobs: below them DuckDB answers "out of memory", or the kernel kills the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Floors {
    /// The process before any job: program, DataFusion, runtime. Counted once for the process, however many runs there are.
    pub process: u64,

    /// DuckDB's `memory_limit`.
    pub engine: u64,

    /// What DuckDB takes beyond its `memory_limit`: Arrow buffers that it exported, and its allocator.
    pub reserve: u64,

    /// One parquet writer: a row group of 122,880 rows by some 16 columns and one upload part.
    pub writer: u64,

    /// delta-rs reading and rewriting files (compaction).
    pub delta_rs: u64,

    /// delta-rs's own merge. It is not bounded by its pool (725 MB were measured with a pool of 64 MB), so this floor only
    /// keeps out the hopeless; see [`MemoryPlan::delta_rs_pool`](crate::MemoryPlan::delta_rs_pool).
    pub delta_rs_merge: u64,
}

/// Where DuckDB (and DataFusion) put what does not fit in memory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SpillSettings {
    /// The directory in which each run creates its own. By default `/var/tmp`, then `/tmp` (Unix), or the system's
    /// temporary directory: `/var/tmp` first, because `/tmp` is a tmpfs on many systems, and what is spilled to a tmpfs
    /// stays in memory.
    pub dir: Option<PathBuf>,

    /// The most bytes that one run may spill. By default only the free disk says.
    pub max_bytes: Option<u64>,

    /// Free disk that spilling must leave to others.
    pub disk_reserve: u64,
}

impl Default for MemorySettings {
    fn default() -> Self {
        Self {
            limit: None,
            threads: None,
            writers: None,
            concurrent_runs: 1,
            floors: Floors::default(),
            spill: SpillSettings::default(),
        }
    }
}

impl Default for Floors {
    fn default() -> Self {
        Self {
            process: constants::PROCESS_FLOOR,
            engine: constants::ENGINE_FLOOR,
            reserve: constants::RESERVE_FLOOR,
            writer: constants::WRITER_FLOOR,
            delta_rs: constants::DELTA_RS_FLOOR,
            delta_rs_merge: constants::DELTA_RS_MERGE_FLOOR,
        }
    }
}

impl Default for SpillSettings {
    fn default() -> Self {
        Self { dir: None, max_bytes: None, disk_reserve: 2 * GIB }
    }
}

impl MemorySettings {
    /// Settings with an explicit limit and defaults for the rest.
    pub fn with_limit(bytes: u64) -> Self {
        Self { limit: Some(bytes), ..Self::default() }
    }

    /// Refuses settings that cannot be meant, with all problems in one error.
    pub fn validate(&self) -> Result<()> {
        let checks = [
            (self.limit == Some(0), "`limit` is 0; leave it out to detect the limit"),
            (self.threads == Some(0), "`threads` is 0; leave it out to use every processor"),
            (self.writers == Some(0), "`writers` is 0; leave it out for as many as there are threads"),
            (self.concurrent_runs == 0, "`concurrent_runs` is 0; 1 lets runs follow one another"),
            (self.floors.engine == 0, "`floors.engine` is 0; DuckDB cannot work without memory"),
            (
                self.floors.writer < 2 * constants::UPLOAD_PART,
                "`floors.writer` is below 16 MiB; a writer holds an upload part of 8 MiB and a row group",
            ),
        ];
        let problems: Vec<String> =
            checks.into_iter().filter(|(wrong, _)| *wrong).map(|(_, text)| text.to_owned()).collect();
        match problems.is_empty() {
            true => Ok(()),
            false => Err(Error::InvalidSettings { problems }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_problem_is_listed_at_once() {
        let settings = MemorySettings { threads: Some(0), concurrent_runs: 0, ..MemorySettings::default() };
        let text = settings.validate().unwrap_err().to_string();
        assert!(text.contains("`threads`") && text.contains("`concurrent_runs`"), "{text}");
    }

    #[test]
    fn settings_round_trip_and_default_what_is_missing() {
        let settings: MemorySettings = serde_json::from_str(r#"{"limit": 1073741824}"#).unwrap();
        assert_eq!(settings, MemorySettings::with_limit(GIB));
        let text = serde_json::to_string(&settings).unwrap();
        assert_eq!(serde_json::from_str::<MemorySettings>(&text).unwrap(), settings);
        assert!(serde_json::from_str::<MemorySettings>(r#"{"limits": 1}"#).is_err());
    }
}
