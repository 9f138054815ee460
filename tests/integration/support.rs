//! What the tests share.

use std::path::{Path, PathBuf};

use duckrun::{Reader, Session};
use duckrun_testkit::own_governor;

/// A writable session over a temporary root.
pub(crate) struct Lake {
    pub(crate) session: Session,
    root: tempfile::TempDir,
}

impl Lake {
    pub(crate) async fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        let session = Session::open(root.path()).governor(own_governor()).writable().await.unwrap();
        Self { session, root }
    }

    /// The same root with another session.
    pub(crate) fn with_session(self, session: Session) -> Self {
        Self { session, ..self }
    }

    pub(crate) fn root(&self) -> &Path {
        self.root.path()
    }

    /// The folder of a table.
    pub(crate) fn folder(&self, name: &str) -> PathBuf {
        self.root.path().join(name.replace('.', "/"))
    }

    /// Another session over the same root, with memory of its own: another process, as far as duckrun can tell.
    pub(crate) async fn other(&self) -> Session {
        Session::open(self.root.path()).governor(own_governor()).writable().await.unwrap()
    }

    /// Runs a model that only appends, and must succeed.
    pub(crate) async fn put(&self, name: &str, sql: impl Into<String>) {
        self.session.model(name).sql(sql).run().await.unwrap().committed().map(drop).unwrap();
    }

    pub(crate) async fn rows(&self, sql: &str) -> Vec<String> {
        rows(self.session.sql(sql)).await
    }

    /// What a refused run must leave as it was: versions and files.
    pub(crate) fn state(&self, name: &str) -> (Vec<u64>, Vec<PathBuf>) {
        let folder = self.folder(name);
        (duckrun_testkit::log_versions(&folder), duckrun_testkit::data_files(&folder))
    }
}

pub(crate) async fn rows(reader: Reader) -> Vec<String> {
    duckrun_testkit::rows(reader).await.unwrap()
}
