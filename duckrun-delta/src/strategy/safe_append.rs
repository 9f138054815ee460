//! `safeappend`: adds rows only if the table is still as it was read.

use arrow::datatypes::SchemaRef;
use duckrun_core::{ConflictPolicy, Result, Strategy, TableOptions, TableState, WritePlan};

use super::{addition, replacement, validate_options};

/// Adds rows by compare-and-swap: any commit since the pinned version refuses the run, harmless maintenance excepted.
///
/// The target is neither scanned nor joined: the version is the proof. This is the strategy for "load what is not there yet",
/// where two runs that both saw the same gap must not both fill it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SafeAppend;

impl Strategy for SafeAppend {
    fn name(&self) -> &str {
        "safeappend"
    }

    fn validate(&self, options: &TableOptions) -> Vec<String> {
        validate_options(options)
    }

    fn plan(&self, target: &TableState, incoming: &SchemaRef) -> Result<WritePlan> {
        match &target.existing {
            Some(table) if !target.options.full_refresh => {
                addition(self.name(), table, target, incoming, ConflictPolicy::CompareAndSwap)
            }
            _ => replacement(self.name(), target, incoming, ConflictPolicy::CompareAndSwap),
        }
    }
}
