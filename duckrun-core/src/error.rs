//! The one error type of every duckrun crate: a kind that says what the caller should do, and the context that says where.
//!
//! Upstream error types never appear in a public signature; they live on as the source chain, so that a major version of
//! DuckDB, arrow or delta-rs is not a major version of ours.

use std::error::Error as StdError;
use std::fmt;

/// The result type of this crate family.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong, in terms of what the caller should do about it.
#[non_exhaustive]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// A setting, name, option or SQL text is wrong: fix the input. Nothing was read or written.
    InvalidInput,
    /// The SQL failed while it was planned or executed: fix the query or the data it reads.
    Query,
    /// The rows do not fit the table or its contract (types, constraints, duplicate keys): fix the data.
    InvalidData,
    /// A table, version or file that was named does not exist.
    NotFound,
    /// Something exists where the caller said that nothing should.
    AlreadyExists,
    /// The table uses a feature, or the engine a type, that this library refuses to guess about.
    Unsupported,
    /// The table's log or files contradict the Delta protocol: report or repair it.
    Corrupt,
    /// The store or file system refused access: fix permissions or credentials.
    PermissionDenied,
    /// Memory, disk or another budget is too small: raise it (the message has the number) or make the job smaller.
    ResourceExhausted,
    /// The store or network failed in a way that may pass: try again.
    Unavailable,
    /// The answer to a commit was lost and could not be settled: look at the named version before doing anything else.
    CommitUnknown,
    /// The caller cancelled.
    Cancelled,
    /// A state this library believed impossible: report it.
    Internal,
}

impl ErrorKind {
    /// Whether the same call may succeed later without any change by the caller.
    pub fn is_retryable(self) -> bool {
        matches!(self, Self::Unavailable)
    }

    fn label(self) -> &'static str {
        match self {
            Self::InvalidInput => "invalid input",
            Self::Query => "query failed",
            Self::InvalidData => "invalid data",
            Self::NotFound => "not found",
            Self::AlreadyExists => "already exists",
            Self::Unsupported => "unsupported",
            Self::Corrupt => "corrupt table",
            Self::PermissionDenied => "permission denied",
            Self::ResourceExhausted => "resource exhausted",
            Self::Unavailable => "unavailable",
            Self::CommitUnknown => "commit unknown",
            Self::Cancelled => "cancelled",
            Self::Internal => "internal error",
        }
    }
}

impl fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.label())
    }
}

/// An error with its kind, message, table, operation, version and source chain.
///
/// ```
/// use duckrun_core::{Error, ErrorKind};
/// let e = Error::new(ErrorKind::NotFound, "version 9 does not exist").with_table("mart.flights").with_version(9);
/// assert_eq!(e.kind(), ErrorKind::NotFound);
/// assert!(!e.is_retryable());
/// assert_eq!(e.to_string(), "mart.flights: not found: version 9 does not exist");
/// ```
pub struct Error(Box<Inner>);

struct Inner {
    kind: ErrorKind,
    message: String,
    table: Option<String>,
    operation: Option<&'static str>,
    version: Option<u64>,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

impl Error {
    /// An error of a kind, with a message that names the thing and the way out.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self(Box::new(Inner {
            kind,
            message: message.into(),
            table: None,
            operation: None,
            version: None,
            source: None,
        }))
    }

    /// Shorthand for [`ErrorKind::InvalidInput`].
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::InvalidInput, message)
    }

    /// Shorthand for [`ErrorKind::Unsupported`].
    pub fn unsupported(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Unsupported, message)
    }

    /// Shorthand for [`ErrorKind::Corrupt`].
    pub fn corrupt(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Corrupt, message)
    }

    /// Shorthand for [`ErrorKind::Internal`].
    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Internal, message)
    }

    /// Shorthand for [`ErrorKind::Cancelled`].
    pub fn cancelled() -> Self {
        Self::new(ErrorKind::Cancelled, "the run was cancelled")
    }

    /// One error that lists several problems; `None` for an empty list.
    ///
    /// Configuration is validated completely before anything is read, so that a caller sees every mistake at once.
    pub fn problems(problems: Vec<String>) -> Option<Self> {
        match problems.len() {
            0 => None,
            1 => problems.into_iter().next().map(Self::invalid),
            n => Some(Self::invalid(format!("{n} problems: {}", problems.join("; ")))),
        }
    }

    /// Names the table.
    #[must_use]
    pub fn with_table(mut self, table: impl Into<String>) -> Self {
        self.0.table = Some(table.into());
        self
    }

    /// Names the table unless one is named already.
    #[must_use]
    pub fn or_table(mut self, table: impl Into<String>) -> Self {
        self.0.table.get_or_insert_with(|| table.into());
        self
    }

    /// Names the operation, for example `"commit"`.
    #[must_use]
    pub fn with_operation(mut self, operation: &'static str) -> Self {
        self.0.operation = Some(operation);
        self
    }

    /// Names the table version.
    #[must_use]
    pub fn with_version(mut self, version: u64) -> Self {
        self.0.version = Some(version);
        self
    }

    /// Attaches the error that caused this one.
    #[must_use]
    pub fn with_source(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.0.source = Some(source.into());
        self
    }

    /// The kind.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// Whether the same call may succeed later without any change by the caller.
    pub fn is_retryable(&self) -> bool {
        self.0.kind.is_retryable()
    }

    /// The message alone, without table and kind.
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// The table, where one is known.
    pub fn table(&self) -> Option<&str> {
        self.0.table.as_deref()
    }

    /// The operation, where one is known.
    pub fn operation(&self) -> Option<&'static str> {
        self.0.operation
    }

    /// The table version, where one is known.
    pub fn version(&self) -> Option<u64> {
        self.0.version
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let inner = &*self.0;
        if let Some(table) = &inner.table {
            write!(f, "{table}: ")?;
        }
        write!(f, "{}: {}", inner.kind, inner.message)?;
        if let Some(operation) = inner.operation {
            write!(f, " (while: {operation})")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Error")
            .field("kind", &self.0.kind)
            .field("message", &self.0.message)
            .field("table", &self.0.table)
            .field("operation", &self.0.operation)
            .field("version", &self.0.version)
            .field("source", &self.0.source)
            .finish()
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0.source.as_deref().map(|s| s as &(dyn StdError + 'static))
    }
}

impl From<duckrun_memory::Error> for Error {
    fn from(e: duckrun_memory::Error) -> Self {
        let kind = match &e {
            duckrun_memory::Error::InvalidSettings { .. } => ErrorKind::InvalidInput,
            duckrun_memory::Error::Spill { source, .. } if source.kind() == std::io::ErrorKind::PermissionDenied => {
                ErrorKind::PermissionDenied
            }
            _ => ErrorKind::ResourceExhausted,
        };
        Self::new(kind, e.to_string()).with_source(e)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn several_problems_become_one_error() {
        assert!(Error::problems(vec![]).is_none());
        let e = Error::problems(vec!["a is missing".into(), "b is forbidden".into()]).unwrap();
        assert_eq!(e.to_string(), "invalid input: 2 problems: a is missing; b is forbidden");
    }

    #[test]
    fn settings_that_contradict_themselves_are_input_not_a_lack_of_memory() {
        let settings = duckrun_memory::MemorySettings { concurrent_runs: 0, ..Default::default() };
        let e = Error::from(settings.validate().unwrap_err());
        assert_eq!(e.kind(), ErrorKind::InvalidInput);
    }

    #[test]
    fn the_source_chain_is_kept() {
        let e = Error::internal("x").with_source(std::io::Error::other("disk"));
        assert_eq!(e.source().unwrap().to_string(), "disk");
    }
}
