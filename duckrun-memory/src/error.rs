//! What can go wrong here, and what the caller should do about it.
//!
//! Detection never fails: what cannot be read is absent from the sample. Only a plan that cannot be made, a lease that can
//! never be given and a spill directory that cannot be created are errors.

use std::fmt;
use std::path::PathBuf;

use crate::{Bound, Bytes, Job};

/// The result of this crate's fallible functions.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a plan, a lease or a spill directory was refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The limit does not hold the floors of the job's shares.
    #[error(
        "{job} needs {} of memory, but the limit is {} ({bound_by}); raise the limit to {needed} bytes or more",
        Bytes(*needed), Bytes(*limit)
    )]
    LimitTooSmall {
        /// The job that was planned.
        job: Job,
        /// The smallest limit with which this job would be planned.
        needed: u64,
        /// The limit that was found.
        limit: u64,
        /// What bound that limit.
        bound_by: Bound,
    },

    /// A lease larger than everything that the governor may give out: it could never be granted, so it does not wait.
    #[error(
        "{run} asks for a lease of {}, but all runs of this process together may hold {} ({needed} of {capacity} bytes)",
        Bytes(*needed), Bytes(*capacity)
    )]
    LeaseTooLarge {
        /// The run that asked.
        run: String,
        /// The bytes it asked for.
        needed: u64,
        /// The most that the governor may give out.
        capacity: u64,
    },

    /// Settings that contradict themselves. All problems are listed, not only the first.
    #[error("memory settings: {}", problems.join("; "))]
    InvalidSettings {
        /// One sentence for each problem, naming the setting.
        problems: Vec<String>,
    },

    /// The spill directory cannot be created, measured or removed.
    #[error("cannot {action} the spill directory {}: {source}", path.display())]
    Spill {
        /// What was being done: `create`, `lock`, `remove`.
        action: &'static str,
        /// The directory.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },

    /// A governor that the embedder supplied refused the lease for a reason of its own.
    #[error("the governor refused a lease for {run}: {source}")]
    Governor {
        /// The run that asked.
        run: String,
        /// The embedder's reason.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// What the caller should do about an [`Error`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// Give the process more memory (or a smaller job): [`Error::needed`] says how much would do.
    NotEnoughMemory,
    /// Fix the settings.
    InvalidInput,
    /// Fix the machine: a directory, a permission, a full disk.
    Environment,
    /// Ask whoever wrote the component that failed.
    Component,
}

impl Error {
    /// What the caller should do.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::LimitTooSmall { .. } | Self::LeaseTooLarge { .. } => ErrorKind::NotEnoughMemory,
            Self::InvalidSettings { .. } => ErrorKind::InvalidInput,
            Self::Spill { .. } => ErrorKind::Environment,
            Self::Governor { .. } => ErrorKind::Component,
        }
    }

    /// The number of bytes that would do, where the lack of them is the reason.
    pub fn needed(&self) -> Option<u64> {
        match self {
            Self::LimitTooSmall { needed, .. } | Self::LeaseTooLarge { needed, .. } => Some(*needed),
            _ => None,
        }
    }

    /// The limit that was too small, where the lack of memory is the reason.
    pub fn limit(&self) -> Option<u64> {
        match self {
            Self::LimitTooSmall { limit, .. } => Some(*limit),
            Self::LeaseTooLarge { capacity, .. } => Some(*capacity),
            _ => None,
        }
    }
}

impl fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotEnoughMemory => "not enough memory",
            Self::InvalidInput => "invalid input",
            Self::Environment => "environment",
            Self::Component => "component",
        })
    }
}
