//! A DuckDB database that is opened through the C API, so that a file system of ours can be registered with it.

use std::ffi::{CStr, CString, c_char, c_void};
use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

use duckdb::{Connection, ffi};

use crate::duckdb::remote::RemoteFiles;

/// A connection, and the database under it where it is ours.
pub(in crate::duckdb) struct Database {
    // Before `raw`: fields are dropped in this order.
    conn: Connection,
    _raw: Option<Raw>,
}

impl Database {
    /// An in-memory database of its own with these settings, whose readers see `files` where this build can give them to it.
    pub(in crate::duckdb) fn open(settings: &[(String, String)], files: &Arc<RemoteFiles>) -> duckdb::Result<Self> {
        let mut config = Config::new()?;
        for (name, value) in settings {
            config.set(name, value)?;
        }
        let raw = Raw::open(&config)?;
        register(&raw, files)?;
        // SAFETY: `raw` is a database that `duckdb_open_ext` has just returned. The connection does not own it, and keeps
        // the handle to make clones from: `Database` drops it after the connection, and hands the connection out by
        // reference only, never clones of it.
        let conn = unsafe { Connection::open_from_raw(raw.0) }?;
        Ok(Self { conn, _raw: Some(raw) })
    }

    /// A connection to somebody else's database.
    pub(in crate::duckdb) fn of(conn: Connection) -> Self {
        Self { conn, _raw: None }
    }
}

impl Deref for Database {
    type Target = Connection;

    fn deref(&self) -> &Connection {
        &self.conn
    }
}

impl fmt::Debug for Database {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Database").finish_non_exhaustive()
    }
}

fn fail(state: ffi::duckdb_state, text: String) -> duckdb::Error {
    duckdb::Error::DuckDBFailure(ffi::Error::new(state), Some(text))
}

struct Config(ffi::duckdb_config);

impl Config {
    fn new() -> duckdb::Result<Self> {
        let mut config = std::ptr::null_mut();
        // SAFETY: the out-parameter is valid for a write.
        let state = unsafe { ffi::duckdb_create_config(&mut config) };
        let config = Self(config);
        if state == ffi::DuckDBSuccess { Ok(config) } else { Err(fail(state, "no configuration".to_owned())) }
    }

    fn set(&mut self, name: &str, value: &str) -> duckdb::Result<()> {
        let (c_name, c_value) = (CString::new(name)?, CString::new(value)?);
        // SAFETY: the configuration is alive, and both strings end with a zero and outlive the call, which copies them.
        let state = unsafe { ffi::duckdb_set_config(self.0, c_name.as_ptr(), c_value.as_ptr()) };
        // The value may be a secret.
        if state == ffi::DuckDBSuccess { Ok(()) } else { Err(fail(state, format!("set {name} error"))) }
    }
}

impl Drop for Config {
    fn drop(&mut self) {
        // SAFETY: made by `duckdb_create_config`, destroyed once; a null is allowed.
        unsafe { ffi::duckdb_destroy_config(&mut self.0) };
    }
}

/// A `duckdb_database`, closed when dropped.
struct Raw(ffi::duckdb_database);

// SAFETY: the handle is a heap-allocated wrapper around a shared pointer to the database, which is safe to use from any
// thread; it is closed once, by whichever thread drops it.
unsafe impl Send for Raw {}

impl Raw {
    fn open(config: &Config) -> duckdb::Result<Self> {
        let mut raw = Self(std::ptr::null_mut());
        let mut error: *mut c_char = std::ptr::null_mut();
        // SAFETY: the path ends with a zero, the configuration is alive and copied, both out-parameters are valid for writes.
        let state = unsafe { ffi::duckdb_open_ext(c":memory:".as_ptr(), &mut raw.0, config.0, &mut error) };
        if state == ffi::DuckDBSuccess {
            return Ok(raw);
        }
        let mut text = "cannot open a database".to_owned();
        if !error.is_null() {
            // SAFETY: a non-null error is a string that ends with a zero, allocated by DuckDB for us to free, once.
            unsafe {
                text = CStr::from_ptr(error).to_string_lossy().into_owned();
                ffi::duckdb_free(error.cast::<c_void>());
            }
        }
        Err(fail(state, text))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        // SAFETY: opened by `duckdb_open_ext`, closed once; a null is allowed.
        unsafe { ffi::duckdb_close(&mut self.0) };
    }
}

#[cfg(not(feature = "bundled"))]
fn register(_: &Raw, _: &Arc<RemoteFiles>) -> duckdb::Result<()> {
    Ok(())
}

#[cfg(feature = "bundled")]
fn register(raw: &Raw, files: &Arc<RemoteFiles>) -> duckdb::Result<()> {
    let Err(text) = super::files::register(raw.0.cast(), files.clone()) else { return Ok(()) };
    Err(fail(ffi::DuckDBError, format!("the file system cannot be registered: {text}")))
}
