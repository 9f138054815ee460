//! Upstream failures as our errors: object stores, delta-rs, the local file system.

use std::io;

use deltalake::DeltaTableError;
use deltalake::kernel::transaction::TransactionError;
use duckrun_core::{Error, ErrorKind};
use object_store::Error as StoreError;

/// A failure of the local file system.
pub(crate) fn io_error(e: io::Error, doing: impl std::fmt::Display) -> Error {
    Error::new(io_kind(&e), format!("cannot {doing}: {e}")).with_source(e)
}

fn io_kind(e: &io::Error) -> ErrorKind {
    match e.kind() {
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => ErrorKind::PermissionDenied,
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => {
            ErrorKind::ResourceExhausted
        }
        io::ErrorKind::NotFound => ErrorKind::NotFound,
        io::ErrorKind::AlreadyExists => ErrorKind::AlreadyExists,
        _ => ErrorKind::Unavailable,
    }
}

/// A failure of an object store.
pub(crate) fn store_error(e: StoreError, doing: impl std::fmt::Display) -> Error {
    let kind = match &e {
        StoreError::NotFound { .. } => ErrorKind::NotFound,
        StoreError::AlreadyExists { .. } | StoreError::Precondition { .. } => ErrorKind::AlreadyExists,
        StoreError::PermissionDenied { .. } | StoreError::Unauthenticated { .. } => ErrorKind::PermissionDenied,
        StoreError::NotImplemented { .. } | StoreError::NotSupported { .. } => ErrorKind::Unsupported,
        StoreError::InvalidPath { .. } | StoreError::UnknownConfigurationKey { .. } => ErrorKind::InvalidInput,
        other => deepest_io(other).map_or(ErrorKind::Unavailable, io_kind),
    };
    Error::new(kind, format!("cannot {doing}")).with_source(e)
}

/// The first I/O error in a source chain.
fn deepest_io<'a>(e: &'a (dyn std::error::Error + 'static)) -> Option<&'a io::Error> {
    let mut next = Some(e);
    while let Some(e) = next {
        if let Some(io) = e.downcast_ref::<io::Error>() {
            return Some(io);
        }
        next = e.source();
    }
    None
}

/// A failure of delta-rs.
pub(crate) fn delta_error(e: DeltaTableError, doing: impl std::fmt::Display) -> Error {
    match e {
        DeltaTableError::ObjectStore { source } => store_error(source, doing),
        DeltaTableError::Transaction { source: TransactionError::ObjectStore { source } } => store_error(source, doing),
        other => {
            let kind = match &other {
                DeltaTableError::NotATable(_) | DeltaTableError::InvalidVersion(_) => ErrorKind::NotFound,
                DeltaTableError::InvalidJsonLog { .. } | DeltaTableError::SerializeLogJson { .. } => ErrorKind::Corrupt,
                e => match deepest_io(e).map(io_kind) {
                    Some(kind) => kind,
                    None => kind_of_text(&e.to_string()),
                },
            };
            Error::new(kind, format!("cannot {doing}: {other}")).with_source(other)
        }
    }
}

/// What `object_store` (0.13) says of a request without rights (403) or without valid credentials (401).
const DENIED: [&str; 3] =
    ["permission denied", "lacked the necessary privileges", "lacked valid authentication credentials"];
/// What it says of failures that may pass.
const PASSING: [&str; 5] =
    ["timed out", "connection", "request precondition failure", "store: generic ", "external: generic "];

/// delta-rs hands the kernel's errors on as text; what the log contains is then the likeliest cause.
fn kind_of_text(text: &str) -> ErrorKind {
    let lower = text.to_ascii_lowercase();
    if lower.contains("unsupported") || lower.contains("not supported") || lower.contains("unknown table feature") {
        ErrorKind::Unsupported
    } else if DENIED.iter().any(|denied| lower.contains(denied)) {
        ErrorKind::PermissionDenied
    } else if lower.contains("not found") || lower.contains("does not exist") {
        ErrorKind::NotFound
    } else if PASSING.iter().any(|passing| lower.contains(passing)) {
        ErrorKind::Unavailable
    } else {
        ErrorKind::Corrupt
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A store that refuses a request while the log is replayed is not a broken log: the kernel hands its answer on as text, and the
    /// caller was told to repair the table where the credentials had expired.
    #[test]
    fn what_a_store_says_within_the_kernel_is_told_from_a_broken_log() {
        let path = || "a/t/_delta_log/00000000000000000000.json".to_owned();
        let store = || Box::<dyn std::error::Error + Send + Sync>::from("why");
        for (error, kind) in [
            (StoreError::PermissionDenied { path: path(), source: store() }, ErrorKind::PermissionDenied),
            (StoreError::Unauthenticated { path: path(), source: store() }, ErrorKind::PermissionDenied),
            (StoreError::Precondition { path: path(), source: store() }, ErrorKind::Unavailable),
            (StoreError::Generic { store: "S3", source: store() }, ErrorKind::Unavailable),
        ] {
            for text in [
                format!("Kernel error: Error interacting with object store: {error}"),
                format!("Kernel error: Arrow error: External: {error}"),
            ] {
                assert_eq!(kind_of_text(&text), kind, "{text}");
            }
        }
        assert_eq!(kind_of_text("Kernel error: Expected contiguous commit files, but found gap"), ErrorKind::Corrupt);
    }
}
