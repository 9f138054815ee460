//! Options that may hold secrets: they can be used, not printed.

use std::collections::BTreeMap;
use std::fmt;

/// Storage options by key (delta-rs's and `object_store`'s names, such as `aws_access_key_id`). `Debug` shows keys only.
///
/// ```
/// let options = duckrun_core::StorageOptions::from_iter([("azure_storage_account_key", "s3cret")]);
/// assert!(!format!("{options:?}").contains("s3cret"));
/// ```
#[derive(Clone, Default, PartialEq, Eq)]
pub struct StorageOptions(BTreeMap<String, String>);

impl StorageOptions {
    /// The options, for the code that hands them to a store.
    pub fn expose(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(k, v)| (k.as_str(), v.as_str()))
    }

    /// These options, with others over them. Keys are the same in any case.
    #[must_use]
    pub fn merge(mut self, others: &Self) -> Self {
        for (key, value) in &others.0 {
            self.0.retain(|known, _| !known.eq_ignore_ascii_case(key));
            self.0.insert(key.clone(), value.clone());
        }
        self
    }

    /// Adds an option.
    #[must_use]
    pub fn with(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.0.insert(key.into(), value.into());
        self
    }
}

impl<K: Into<String>, V: Into<String>> FromIterator<(K, V)> for StorageOptions {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(options: I) -> Self {
        Self(options.into_iter().map(|(k, v)| (k.into(), v.into())).collect())
    }
}

impl fmt::Debug for StorageOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.0.keys().map(|k| (k, "***"))).finish()
    }
}
