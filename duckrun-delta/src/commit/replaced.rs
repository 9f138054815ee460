//! The files that an overwrite replaces: those of the version that was read, kept up to date by the commits that came in
//! between.
//!
//! A retry that opened the table again would read its checkpoint and every entry after it; beside appends without a pause on a
//! slow store it would always come too late. Each entry in between is read anyway, to be judged, and names what it adds and
//! removes.

use std::collections::BTreeMap;

use duckrun_core::{Error, Result};
use serde::Deserialize;
use serde_json::Value as Json;

use crate::deletion_vector::Descriptor;
use crate::snapshot::{DeltaSnapshot, LiveFile};

/// The live files of a version, by their paths.
pub(super) struct Replaced(BTreeMap<String, LiveFile>);

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Add {
    path: String,
    #[serde(default)]
    size: i64,
    #[serde(default)]
    partition_values: BTreeMap<String, Option<String>>,
    stats: Option<String>,
    deletion_vector: Option<Descriptor>,
}

impl Replaced {
    /// The files of a snapshot.
    pub(super) async fn of(base: &DeltaSnapshot) -> Result<Self> {
        Ok(Self(base.live_files().await?.into_iter().map(|f| (f.path.clone(), f)).collect()))
    }

    /// Follows the next version.
    pub(super) fn follow(&mut self, version: u64, bytes: &[u8]) -> Result<()> {
        let broken = |e: serde_json::Error| {
            Error::corrupt(format!("version {version} of the log has an action that cannot be understood"))
                .with_version(version)
                .with_source(e)
        };
        let mut added = Vec::new();
        for line in bytes.split(|b| *b == b'\n').filter(|l| !l.iter().all(u8::is_ascii_whitespace)) {
            let mut action: Json = serde_json::from_slice(line).map_err(broken)?;
            // The actions of a commit have no order: a file whose deletion vector changes is removed and added in one.
            if let Some(path) = action["remove"]["path"].as_str() {
                self.0.remove(path);
            } else if action["add"].is_object() {
                added.push(serde_json::from_value::<Add>(action["add"].take()).map_err(broken)?);
            }
        }
        for Add { path, size, partition_values, stats, deletion_vector } in added {
            let (size, stats) = (size.unsigned_abs(), stats.filter(|s| !s.is_empty()));
            self.0.insert(path.clone(), LiveFile { path, size, partition_values, stats, deletion_vector });
        }
        Ok(())
    }

    /// The files, sorted by their paths.
    pub(super) fn files(&self) -> Vec<LiveFile> {
        self.0.values().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn adds_and_removes_are_followed_in_any_order() {
        let mut replaced = Replaced(BTreeMap::new());
        let vector = r#"{"storageType":"i","pathOrInlineDv":"x","sizeInBytes":4,"cardinality":2}"#;
        let add =
            |path: &str| format!(r#"{{"add":{{"path":"{path}","size":7,"partitionValues":{{"p":null}},"stats":""}}}}"#);
        replaced.follow(1, format!("{}\n{}\n", add("a%20b"), add("c")).as_bytes()).unwrap();
        let marked = format!(r#"{{"add":{{"path":"c","size":7,"partitionValues":{{}},"deletionVector":{vector}}}}}"#);
        let text = format!(
            "{marked}\n{{\"remove\":{{\"path\":\"c\"}}}}\n{{\"txn\":{{}}}}\n{{\"remove\":{{\"path\":\"a%20b\"}}}}"
        );
        replaced.follow(2, text.as_bytes()).unwrap();
        let files = replaced.files();
        assert_eq!(files.len(), 1);
        assert_eq!((files[0].path.as_str(), files[0].size, &files[0].stats), ("c", 7, &None));
        assert_eq!(files[0].deletion_vector.as_ref().unwrap().cardinality, 2);
        let e = replaced.follow(3, br#"{"add":{"size":1}}"#).unwrap_err();
        assert_eq!(e.kind(), duckrun_core::ErrorKind::Corrupt, "{e}");
    }
}
