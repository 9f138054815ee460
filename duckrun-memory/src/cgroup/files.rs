//! The few text formats of `/proc` and `/sys/fs/cgroup`, each read as "a number or nothing".

use std::fs;
use std::path::Path;

/// From here on a version 1 limit means "unlimited". The kernel writes the largest number of pages that it can count,
/// which differs by page size and word length (`0x7FFFFFFFFFFFF000` on x86-64); nothing real is near 2^62.
const UNLIMITED: u64 = 1 << 62;

/// A file that holds one number. `max` (version 2) and the sentinels of version 1 are "no limit", hence `None`.
pub(super) fn limit(path: &Path) -> Option<u64> {
    number(path).filter(is_limit)
}

/// Whether a number is a limit rather than a sentinel for none.
pub(super) fn is_limit(bytes: &u64) -> bool {
    *bytes < UNLIMITED
}

/// A file that holds one number.
pub(super) fn number(path: &Path) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// A field of a file of lines `name value`, as in `memory.stat`.
pub(super) fn stat_field(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| {
        let (key, value) = line.split_once(' ')?;
        (key == name).then(|| value.trim().parse().ok())?
    })
}

/// A field of `/proc/self/status` in bytes: lines `VmRSS:     1234 kB`.
pub(crate) fn status_field(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| {
        let (key, value) = line.split_once(':')?;
        let kib = value.trim().strip_suffix("kB")?.trim();
        (key == name).then(|| Some(kib.parse::<u64>().ok()?.saturating_mul(1024)))?
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_matched_whole() {
        let stat = "total_inactive_file 7\ninactive_file 3\nbroken\n";
        assert_eq!(stat_field(stat, "inactive_file"), Some(3));
        assert_eq!(stat_field(stat, "file"), None);
        let status = "Name:\tduckrun\nVmHWM:\t     12 kB\nRssAnon:\t  4 kB\nVmRSS:\tx kB\n";
        assert_eq!(status_field(status, "VmHWM"), Some(12 * 1024));
        assert_eq!(status_field(status, "VmRSS"), None);
        assert_eq!(status_field(status, "Name"), None);
    }

    #[test]
    fn sentinels_are_not_limits() {
        for sentinel in [u64::MAX, i64::MAX as u64, 0x7FFF_FFFF_FFFF_F000, 0x7FFF_FFFF_FFFF_0000] {
            assert!(!is_limit(&sentinel), "{sentinel:#x}");
        }
        assert!(is_limit(&(1 << 45)));
    }
}
