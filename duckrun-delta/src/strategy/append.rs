//! `append`: adds rows; any number of appenders at once, and the table is the union.

use arrow::datatypes::SchemaRef;
use duckrun_core::{ConflictPolicy, Result, Strategy, TableOptions, TableState, WritePlan};

use super::{addition, replacement, validate_options};

/// Adds rows, by column name.
///
/// Blind: what others commit meanwhile does not matter, because the rows do not depend on the table. Where they do (the SQL,
/// a view or a source reads the target), or on [`fenced`](Append::fenced), it is a compare-and-swap like
/// [`SafeAppend`](crate::SafeAppend).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Append {
    fenced: bool,
}

impl Append {
    /// Refuses the run if anything but harmless maintenance was committed since the pinned version.
    #[must_use]
    pub fn fenced(mut self) -> Self {
        self.fenced = true;
        self
    }
}

impl Strategy for Append {
    fn name(&self) -> &str {
        "append"
    }

    fn validate(&self, options: &TableOptions) -> Vec<String> {
        validate_options(options)
    }

    fn plan(&self, target: &TableState, incoming: &SchemaRef) -> Result<WritePlan> {
        let fenced = self.fenced || target.reads_target;
        let conflict = if fenced { ConflictPolicy::CompareAndSwap } else { ConflictPolicy::Blind };
        match &target.existing {
            Some(table) if !target.options.full_refresh => addition(self.name(), table, target, incoming, conflict),
            // A refresh replaces what it has read, so it is always fenced.
            Some(_) => replacement(self.name(), target, incoming, ConflictPolicy::CompareAndSwap),
            None => replacement(self.name(), target, incoming, conflict),
        }
    }
}
