//! `overwrite`: the table is what the SQL yields, in one commit.

use arrow::datatypes::SchemaRef;
use duckrun_core::{ConflictPolicy, Result, Strategy, TableOptions, TableState, WriteAction, WritePlan};

use super::{addition, replacement, validate_options};

/// Replaces the table in one commit.
///
/// The schema is replaced as well, unless [`keep_schema`](Overwrite::keep_schema) is asked for. Refused if anything but
/// harmless maintenance was committed since the pinned version, unless [`blind`](Overwrite::blind) is asked for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Overwrite {
    keep_schema: bool,
    blind: bool,
}

impl Overwrite {
    /// Keeps the table's columns and types: rows are cast to them as an append would, and refused where that loses values.
    #[must_use]
    pub fn keep_schema(mut self) -> Self {
        self.keep_schema = true;
        self
    }

    /// Replaces whatever is there at the time of the commit, changes of others included.
    #[must_use]
    pub fn blind(mut self) -> Self {
        self.blind = true;
        self
    }
}

impl Strategy for Overwrite {
    fn name(&self) -> &str {
        "overwrite"
    }

    fn validate(&self, options: &TableOptions) -> Vec<String> {
        let mut problems = validate_options(options);
        if self.keep_schema && options.full_refresh {
            problems.push("full_refresh replaces the schema, keep_schema keeps it: choose one".to_owned());
        }
        problems
    }

    fn plan(&self, target: &TableState, incoming: &SchemaRef) -> Result<WritePlan> {
        let conflict = if self.blind { ConflictPolicy::Blind } else { ConflictPolicy::CompareAndSwap };
        match &target.existing {
            Some(table) if self.keep_schema => {
                let mut plan = addition(self.name(), table, target, incoming, conflict)?;
                plan.action = WriteAction::Overwrite;
                Ok(plan)
            }
            _ => replacement(self.name(), target, incoming, conflict),
        }
    }
}
