//! The contract of a source: something outside that becomes a relation of the engine.

use std::fmt;

use async_trait::async_trait;

use crate::{Relation, Result, RunContext};

/// A source. Implemented by duckrun-sources and by embedders; called once per run, after the target was pinned.
#[async_trait]
pub trait Source: Send + Sync + fmt::Debug {
    /// What this source is, for messages and reports; without secrets.
    fn describe(&self) -> String;

    /// Resolves to a relation, lazily: files are listed, not read, unless their content decides the format.
    ///
    /// # Errors
    /// With the file's name and the way out.
    async fn resolve(&self, cx: &RunContext) -> Result<Relation>;

    /// Whether resolving reads the run's own target, which makes an append fenced.
    fn reads_target(&self) -> bool {
        false
    }
}
