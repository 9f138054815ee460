//! Hive partitions: folders named `key=value`, exactly as DuckDB 2.0 reads them, and the way to write such a name.
//!
//! DuckDB decodes `%XX` in values but not in keys, takes `__HIVE_DEFAULT_PARTITION__` for NULL before it decodes, skips
//! components with more than one `=` or with `?`, `&` or a line break, ignores the file's own name, compares keys without
//! case, and lets the first of equal keys win. A listing that is judged by other rules than the reader's would promise
//! columns that do not come.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::is_separator;

use percent_encoding::percent_decode_str;

/// What a NULL partition value is called in a path.
pub const NULL: &str = "__HIVE_DEFAULT_PARTITION__";

/// The partition values in a file's path, outermost first; `None` is NULL.
///
/// ```
/// use duckrun_sources::hive;
/// let values = hive::partitions("t/year=2013/city=S%C3%A3o%20Paulo/x=__HIVE_DEFAULT_PARTITION__/a=b.csv");
/// assert_eq!(values, [
///     ("year".to_string(), Some("2013".to_string())),
///     ("city".to_string(), Some("São Paulo".to_string())),
///     ("x".to_string(), None),
/// ]);
/// ```
pub fn partitions(path: &str) -> Vec<(String, Option<String>)> {
    let mut found: Vec<(String, Option<String>)> = Vec::new();
    for (key, value) in raw(path) {
        if found.iter().any(|(k, _)| k.eq_ignore_ascii_case(key)) {
            continue;
        }
        let value = (value != NULL).then(|| percent_decode_str(value).decode_utf8_lossy().into_owned());
        found.push((key.to_owned(), value));
    }
    found
}

/// The folder's name for a partition value, such that [`partitions`] and DuckDB read the same value back.
///
/// `None` where the key cannot stand in a path: it is empty or has one of `/ \ = ? &` or a control character.
///
/// ```
/// use duckrun_sources::hive;
/// assert_eq!(hive::folder("city", Some("a/b=c")).as_deref(), Some("city=a%2Fb%3Dc"));
/// assert_eq!(hive::folder("city", None).as_deref(), Some("city=__HIVE_DEFAULT_PARTITION__"));
/// assert_eq!(hive::folder("a=b", None), None);
/// ```
pub fn folder(key: &str, value: Option<&str>) -> Option<String> {
    if key.is_empty() || key.chars().any(|c| c.is_control() || matches!(c, '/' | '\\' | '=' | '?' | '&')) {
        return None;
    }
    let Some(value) = value else { return Some(format!("{key}={NULL}")) };
    let mut out = format!("{key}=");
    for (i, byte) in value.bytes().enumerate() {
        let plain = byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.') || (byte == b'_' && i > 0);
        if plain {
            out.push(char::from(byte));
        } else {
            // A leading underscore too: a value that reads like the NULL marker must not be one.
            let _ = write!(out, "%{byte:02X}");
        }
    }
    Some(out)
}

/// The keys that every path has, sorted, or the two paths that disagree.
pub(crate) fn common_keys<'a>(paths: impl IntoIterator<Item = &'a str>) -> Result<Vec<String>, (&'a str, &'a str)> {
    let mut first: Option<(&'a str, BTreeMap<String, String>)> = None;
    // Listings are sorted, so that files of one folder follow each other: the folder is judged once.
    let mut last_folder: Option<&'a str> = None;
    for path in paths {
        let folder = &path[..path.rfind(is_separator).unwrap_or(0)];
        if last_folder == Some(folder) {
            continue;
        }
        last_folder = Some(folder);
        let mut keys: BTreeMap<String, String> = BTreeMap::new();
        for (key, _) in raw(path) {
            keys.entry(key.to_ascii_lowercase()).or_insert_with(|| key.to_owned());
        }
        match &first {
            None => first = Some((path, keys)),
            Some((example, known)) if !known.keys().eq(keys.keys()) => return Err((example, path)),
            Some(_) => {}
        }
    }
    Ok(first.map(|(_, keys)| keys.into_values().collect()).unwrap_or_default())
}

fn raw(path: &str) -> impl Iterator<Item = (&str, &str)> {
    let folders = &path[..path.rfind(is_separator).unwrap_or(0)];
    folders.split(is_separator).filter_map(|part| {
        if part.contains(['?', '&', '\n', '\r']) {
            return None;
        }
        let (key, value) = part.split_once('=')?;
        (!key.is_empty() && !value.contains('=')).then_some((key, value))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn odd_components_are_read_as_duckdb_reads_them() {
        assert_eq!(partitions("k=a=b/x.csv"), []);
        assert_eq!(partitions("=1/x.csv"), []);
        assert_eq!(partitions("a=1&b=2/x.csv"), []);
        assert_eq!(partitions("p=2.csv"), []);
        assert_eq!(partitions("k=/x.csv"), [("k".into(), Some(String::new()))]);
        assert_eq!(partitions("k=100%/x.csv"), [("k".into(), Some("100%".into()))]);
        assert_eq!(partitions("k=a+b/x.csv"), [("k".into(), Some("a+b".into()))]);
        assert_eq!(partitions("k%20x=1/x.csv"), [("k%20x".into(), Some("1".into()))]);
        assert_eq!(partitions("K=1/k=2/x.csv"), [("K".into(), Some("1".into()))]);
        assert_eq!(partitions("k=%5F_HIVE_DEFAULT_PARTITION__/x.csv"), [("k".into(), Some(NULL.into()))]);
    }

    #[test]
    fn keys_must_agree() {
        assert_eq!(common_keys(["t/m=1/y=2/a", "t/Y=1/m=3/b"]).unwrap(), ["m", "y"]);
        assert_eq!(common_keys(["t/a", "t/b"]).unwrap(), [""; 0]);
        assert_eq!(common_keys(["t/y=1/a", "t/b"]), Err(("t/y=1/a", "t/b")));
        assert_eq!(common_keys([]).unwrap(), [""; 0]);
    }

    proptest! {
        #[test]
        fn any_value_survives_its_path(key in "[^/\\\\=?&\\p{Cc}]{1,8}", value in prop::option::of("(?s).{0,40}"), deep in "[a-z]{0,3}") {
            let folder = folder(&key, value.as_deref()).unwrap();
            prop_assert!(!folder.contains('/'));
            prop_assert_eq!(partitions(&format!("{deep}/{folder}/data.parquet")), [(key, value)]);
        }

        #[test]
        fn parsing_is_total(path in "(?s).{0,60}") {
            let _ = partitions(&path);
            let _ = common_keys([path.as_str(), "a=1/b"]);
        }
    }
}
