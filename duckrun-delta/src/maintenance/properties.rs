//! The table's properties that maintenance follows.

use std::time::Duration;

use duckrun_core::{Error, Result};

use crate::protocol::Metadata;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// The protocol's defaults.
const DELETED_FILE_RETENTION: Duration = Duration::from_secs(7 * 24 * 60 * 60);
const LOG_RETENTION: Duration = Duration::from_secs(30 * 24 * 60 * 60);
const CHECKPOINT_INTERVAL: u64 = 100;

/// What a table says about its own maintenance.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Properties {
    /// `delta.deletedFileRetentionDuration`: how long removed files are needed.
    pub(crate) deleted_file_retention: Duration,
    /// `delta.logRetentionDuration`: how long versions can be read.
    pub(crate) log_retention: Duration,
    /// `delta.enableExpiredLogCleanup`.
    pub(crate) clean_log: bool,
    /// `delta.checkpointInterval`.
    pub(crate) checkpoint_interval: u64,
    /// `delta.targetFileSize`.
    pub(crate) target_file_size: Option<u64>,
}

impl Default for Properties {
    /// The protocol's defaults.
    fn default() -> Self {
        Self {
            deleted_file_retention: DELETED_FILE_RETENTION,
            log_retention: LOG_RETENTION,
            clean_log: true,
            checkpoint_interval: CHECKPOINT_INTERVAL,
            target_file_size: None,
        }
    }
}

impl Properties {
    /// Reads them.
    ///
    /// # Errors
    /// For a retention that cannot be understood. A default in its place could be shorter than what the table promises.
    pub(crate) fn of(metadata: &Metadata) -> Result<Self> {
        let get = |key: &str| metadata.configuration.get(key);
        let retention = |key: &str, default| match get(key) {
            None => Ok(default),
            Some(text) => interval(text).ok_or_else(|| {
                Error::unsupported(format!(
                    "the table property {key} is {text:?}; intervals are written as \"interval 7 days\""
                ))
            }),
        };
        Ok(Self {
            deleted_file_retention: retention("delta.deletedFileRetentionDuration", DELETED_FILE_RETENTION)?,
            log_retention: retention("delta.logRetentionDuration", LOG_RETENTION)?,
            clean_log: get("delta.enableExpiredLogCleanup").is_none_or(|v| !v.eq_ignore_ascii_case("false")),
            checkpoint_interval: get("delta.checkpointInterval")
                .and_then(|v| v.trim().parse().ok())
                .filter(|n| *n > 0)
                .unwrap_or(CHECKPOINT_INTERVAL),
            target_file_size: get("delta.targetFileSize").and_then(|v| bytes(v)).filter(|n| *n > 0),
        })
    }
}

/// `interval 1 day 12 hours`, as Spark writes intervals. Months and years have no fixed length.
fn interval(text: &str) -> Option<Duration> {
    let lower = text.trim().to_ascii_lowercase();
    let mut words = lower.strip_prefix("interval").unwrap_or(&lower).split_whitespace().peekable();
    words.peek()?;
    let mut total = Duration::ZERO;
    while let Some(number) = words.next() {
        let number: u32 = number.parse().ok()?;
        let unit = match words.next()?.trim_end_matches('s') {
            "week" => 7 * DAY,
            "day" => DAY,
            "hour" => Duration::from_secs(3600),
            "minute" => Duration::from_secs(60),
            "second" => Duration::from_secs(1),
            "millisecond" => Duration::from_millis(1),
            "microsecond" => Duration::from_micros(1),
            "nanosecond" => Duration::from_nanos(1),
            _ => return None,
        };
        total = total.checked_add(unit.checked_mul(number)?)?;
    }
    Some(total)
}

/// `104857600` or `100mb`, as Databricks writes sizes.
fn bytes(text: &str) -> Option<u64> {
    let lower = text.trim().to_ascii_lowercase();
    let digits = lower.trim_end_matches(|c: char| c.is_ascii_alphabetic()).trim_end();
    let unit = match lower[digits.len()..].trim().trim_end_matches('b') {
        "" => 1,
        "k" => 1 << 10,
        "m" => 1 << 20,
        "g" => 1 << 30,
        _ => return None,
    };
    digits.parse::<u64>().ok()?.checked_mul(unit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_and_sizes_are_read_as_others_write_them() {
        for (text, want) in [
            ("interval 7 days", Some(7 * DAY)),
            ("INTERVAL 1 WEEK", Some(7 * DAY)),
            ("interval 1 day 12 hours", Some(DAY + DAY / 2)),
            ("30 days", Some(30 * DAY)),
            ("interval 0 seconds", Some(Duration::ZERO)),
            ("interval 1 month", None),
            ("interval -1 days", None),
            ("interval", None),
            ("interval 7", None),
            ("interval 4294967295 weeks 1 nanosecond", Some(Duration::new(4_294_967_295 * 7 * 86_400, 1))),
        ] {
            assert_eq!(interval(text), want, "{text}");
        }
        for (text, want) in
            [("104857600", Some(104_857_600)), ("100mb", Some(100 << 20)), ("1 GB", Some(1 << 30)), ("x", None)]
        {
            assert_eq!(bytes(text), want, "{text}");
        }
    }
}
