//! DuckDB's failures as our errors: the class that DuckDB prints decides the kind.

use super::remote::plain_names;
use crate::types::LOSS;
use crate::{Error, ErrorKind};

/// Precedes the kind of a failure of ours in a text that passes through DuckDB.
const READ: &str = "duckrun could not read: ";

#[cfg_attr(not(feature = "bundled"), allow(dead_code))]
/// A failure to read a remote file, as the text of a DuckDB error; [`failure`] finds its kind again.
pub(super) fn read_failure(e: &Error) -> String {
    format!("{READ}{}: {}", e.kind(), e.message())
}

/// The kind that [`read_failure`] wrote.
fn kind_of_read(text: &str) -> Option<ErrorKind> {
    use ErrorKind as K;
    let (_, rest) = text.split_once(READ)?;
    [K::Unavailable, K::NotFound, K::PermissionDenied, K::Unsupported, K::Corrupt, K::Cancelled, K::Internal]
        .into_iter()
        .find(|kind| rest.starts_with(&format!("{kind}: ")))
}

/// Maps an error of the duckdb crate. `doing` completes the sentence "DuckDB failed to ...".
pub(super) fn failure(e: duckdb::Error, doing: &str) -> Error {
    let text = match &e {
        duckdb::Error::DuckDBFailure(_, Some(message)) => message.clone(),
        other => other.to_string(),
    };
    let plain = plain_names(text.trim());
    Error::new(kind_of(&text), format!("DuckDB failed to {doing}: {plain}")).with_source(e)
}

/// The kind for a message of DuckDB, which starts with the class of the failure.
fn kind_of(text: &str) -> ErrorKind {
    let class = text.split(':').next().unwrap_or_default();
    let lower = text.to_ascii_lowercase();
    let full = lower.contains("no space left") || lower.contains("max_temp_directory_size");
    let denied = lower.contains("permission denied");
    if let Some(kind) = kind_of_read(text) {
        return kind;
    }
    if text.contains(LOSS) {
        return ErrorKind::InvalidData;
    }
    match class {
        "Out of Memory Error" => ErrorKind::ResourceExhausted,
        "INTERRUPT Error" => ErrorKind::Cancelled,
        "Permission Error" => ErrorKind::PermissionDenied,
        "FATAL Error" | "INTERNAL Error" => ErrorKind::Internal,
        "HTTP Error" | "Connection Error" => ErrorKind::Unavailable,
        "IO Error" if full => ErrorKind::ResourceExhausted,
        "IO Error" if denied => ErrorKind::PermissionDenied,
        _ => ErrorKind::Query,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_become_kinds() {
        for (text, kind) in [
            ("Parser Error: syntax error", ErrorKind::Query),
            ("Out of Memory Error: failed to allocate", ErrorKind::ResourceExhausted),
            ("INTERRUPT Error: Interrupted!", ErrorKind::Cancelled),
            ("IO Error: Could not write: No space left on device", ErrorKind::ResourceExhausted),
            ("IO Error: Cannot open file \"x\": Permission denied", ErrorKind::PermissionDenied),
            ("IO Error: No files found", ErrorKind::Query),
            (&format!("IO Error: {READ}unavailable: s3://b/x cannot be read: reset"), ErrorKind::Unavailable),
            (&format!("IO Error: {READ}permission denied: s3://b/x"), ErrorKind::PermissionDenied),
        ] {
            assert_eq!(kind_of(text), kind, "{text}");
        }
    }
}
