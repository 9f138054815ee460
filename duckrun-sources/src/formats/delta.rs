//! Delta tables, opened by whoever knows the format ([`TableOpener`](duckrun_core::TableOpener)): the parquet files in a
//! table's folder are not the table. Some were removed, some rows are deleted, and the partition values are in the log.

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use duckrun_core::{At, Error, ErrorKind, Relation, Resolved, Result, Source, SourceContext, StorageOptions};

use crate::{Format, Scan};

/// A folder with a `_delta_log`, at its newest version.
#[derive(Debug, Clone, Copy, Default)]
pub struct DeltaFormat;

#[async_trait]
impl Format for DeltaFormat {
    fn name(&self) -> &str {
        "delta"
    }

    fn folder_markers(&self) -> Vec<&str> {
        vec!["_delta_log"]
    }

    async fn relation(&self, scan: &Scan<'_>) -> Result<Resolved> {
        let Some(remote) = &scan.remote else { return Delta::at(scan.location).resolve(scan.cx).await };
        if remote.objects.choice.store.is_some() {
            return Err(Error::unsupported(format!(
                "{} is a Delta table in a store that was given to the source: open a session on that store (Session::open_in), \
                 and name the table in the SQL",
                scan.location
            )));
        }
        Delta::at(scan.location).options(remote.objects.choice.options.clone()).resolve(scan.cx).await
    }
}

/// A Delta table at a place of its own, at any version. The tables of the session's root need no source: SQL names them.
///
/// A table that is the run's own target is read at the version that the run has pinned, and fences an append.
///
/// ```
/// use duckrun_sources::Delta;
/// let orders = Delta::at("/lake/sales/orders").version(42);
/// # let _ = orders;
/// ```
#[derive(Debug, Clone)]
pub struct Delta {
    location: String,
    at: At,
    options: StorageOptions,
}

impl Delta {
    /// The table at a path or URL, at its newest version.
    pub fn at(location: impl Into<String>) -> Self {
        Self { location: location.into(), at: At::Latest, options: StorageOptions::default() }
    }

    /// Another version than the newest.
    #[must_use]
    pub fn version(mut self, version: u64) -> Self {
        self.at = At::Version(version);
        self
    }

    /// The newest version that was committed at or before a time.
    #[must_use]
    pub fn timestamp(mut self, time: DateTime<Utc>) -> Self {
        self.at = At::Timestamp(time);
        self
    }

    /// The options of the table's store, for a URL.
    #[must_use]
    pub fn options(mut self, options: StorageOptions) -> Self {
        self.options = options;
        self
    }
}

#[async_trait]
impl Source for Delta {
    fn describe(&self) -> String {
        format!("delta table {}", self.location)
    }

    async fn resolve(&self, cx: &SourceContext<'_>) -> Result<Resolved> {
        let Some(tables) = cx.tables else {
            return Err(Error::unsupported(format!(
                "{} is a Delta table, and nothing here opens Delta tables: resolve it within a run of the crate duckrun",
                self.location
            )));
        };
        let store = tables.open("delta", &self.location, &self.options)?;
        let Some(snapshot) = cx.snapshot(store.as_ref(), self.at).await? else {
            return Err(Error::new(ErrorKind::NotFound, format!("there is no Delta table at {}", store.location())));
        };
        let files = snapshot.files().await?;
        Ok(Resolved::new(Relation::Files(files)).with_reads_target(cx.is_target(store.as_ref())))
    }
}
