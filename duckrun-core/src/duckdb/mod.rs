//! DuckDB behind the [`Engine`] trait.
//!
//! By default every run gets an in-memory DuckDB of its own, so that its memory limit is the run's share and nothing that it
//! registers, sets or interrupts is seen by another run. A caller's own connection is accepted too: a run then works in a
//! private catalog attached to the caller's database, and the database's memory limit and threads stay the caller's.
//!
//! Results stream: DuckDB's producers stop when a buffer of 10 MiB is full, a blocking thread hands batches of 2,048 rows
//! through a bounded channel, and dropping the stream interrupts the query. What DuckDB allocates for exported batches is
//! outside its own memory limit, which the memory plan leaves room for.

mod bridge;
mod failure;
mod literal;
mod references;
mod relation;
#[cfg_attr(not(feature = "bundled"), allow(dead_code))] // nothing calls it then
mod remote;
mod running;
mod secrets;
mod session;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;

pub use ::duckdb::Connection;

pub use self::secrets::{CreateSecret, create_secret};

use self::session::DuckSession;
use crate::{Capabilities, Engine, EngineSession, Error, Result, RunContext, StorageOptions};

/// Has the C library give back to the system what it keeps of memory that was freed, where it can (glibc's `malloc_trim`).
///
/// For [`Relief`](crate::memory::Relief): DuckDB allocates from the C library, whichever allocator Rust code has.
pub fn give_back_freed_memory() {
    bridge::give_back_freed_memory();
}

/// DuckDB as an [`Engine`].
///
/// ```
/// use duckrun_core::duckdb::DuckDb;
/// let engine = DuckDb::in_memory().with_setting("enable_object_cache", "true");
/// ```
#[derive(Clone)]
pub struct DuckDb {
    connection: Option<Arc<Mutex<Connection>>>,
    settings: BTreeMap<String, String>,
    extensions: bool,
    secrets: Vec<(String, StorageOptions)>,
}

impl DuckDb {
    /// An in-memory DuckDB of its own for every run.
    pub fn in_memory() -> Self {
        Self { connection: None, settings: BTreeMap::new(), extensions: false, secrets: Vec::new() }
    }

    /// Runs on a clone of a connection that the caller made. Its tables and views are visible to SQL behind the run's own.
    ///
    /// Memory limit, threads and spill directory belong to the whole database, so they stay as the caller set them; the
    /// report shows them as they are. Such a database has no file system of ours: files of object stores are fetched whole
    /// into the run's spill folder before they are read.
    pub fn with_connection(connection: Connection) -> Self {
        Self { connection: Some(Arc::new(Mutex::new(connection))), ..Self::in_memory() }
    }

    /// Sets a DuckDB setting for the run's connection. The memory plan's settings win over it.
    #[must_use]
    pub fn with_setting(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.settings.insert(name.into(), value.into());
        self
    }

    /// Loads DuckDB's own extension for the store of a URL, and gives it a secret of these options, so that SQL can name
    /// remote files by itself (`read_parquet('s3://...')`). A run fails where the extension is not installed. Not for a
    /// connection of the caller's, whose secrets are the caller's too. See [`create_secret`].
    #[must_use]
    pub fn with_store_secret(mut self, url: impl Into<String>, options: StorageOptions) -> Self {
        self.secrets.push((url.into(), options));
        self
    }

    /// Lets DuckDB load extensions by itself. Off by default: an extension that is not built in is downloaded, and a query
    /// that hangs on a closed network is worse than one that says what is missing.
    #[must_use]
    pub fn with_extensions(mut self, extensions: bool) -> Self {
        self.extensions = extensions;
        self
    }
}

impl Default for DuckDb {
    fn default() -> Self {
        Self::in_memory()
    }
}

impl fmt::Debug for DuckDb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DuckDb")
            .field("own", &self.connection.is_none())
            // A setting's value may be a secret (a proxy password, a token): names are enough.
            .field("settings", &self.settings.keys().collect::<Vec<_>>())
            .finish_non_exhaustive()
    }
}

#[async_trait]
impl Engine for DuckDb {
    fn name(&self) -> &str {
        "duckdb"
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities::new("duckdb").with_spills(true).with_variables(true).with_remote_files(true)
    }

    async fn open(&self, cx: &RunContext) -> Result<Box<dyn EngineSession>> {
        cx.check()?;
        let (this, cx) = (self.clone(), cx.clone());
        let open = move || -> Result<DuckSession> {
            match &this.connection {
                None => {
                    let mut secrets = Vec::with_capacity(this.secrets.len());
                    for (i, (url, options)) in this.secrets.iter().enumerate() {
                        secrets.push(create_secret(&format!("duckrun_{i}"), url, options)?);
                    }
                    DuckSession::own(&cx, &this.settings, this.extensions, &secrets)
                }
                Some(_) if !this.secrets.is_empty() => Err(Error::invalid(
                    "secrets for DuckDB's extensions are not made on a connection of the caller's: make them there",
                )),
                Some(shared) => {
                    let connection = shared.lock().unwrap_or_else(PoisonError::into_inner).try_clone();
                    DuckSession::attached(&cx, connection, &this.settings)
                }
            }
        };
        let session = tokio::task::spawn_blocking(open)
            .await
            .map_err(|e| Error::internal("opening DuckDB failed").with_source(e))??;
        Ok(Box::new(session))
    }
}
