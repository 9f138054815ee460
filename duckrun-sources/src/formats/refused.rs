//! Formats that are recognised, so that nobody reads them as something else, and refused with the way out.
//!
//! The parquet files in a table's folder are not the table: some were removed, some rows are deleted, and the partition
//! values are in the log. Reading them as plain files would bring back what is gone.

use duckrun_core::{Error, Relation, Result};

use crate::{Format, Scan};

/// A folder with a `_delta_log`.
#[derive(Debug, Clone, Copy, Default)]
pub struct DeltaFormat;

impl Format for DeltaFormat {
    fn name(&self) -> &str {
        "delta"
    }

    fn folder_markers(&self) -> Vec<&str> {
        vec!["_delta_log"]
    }

    fn relation(&self, scan: &Scan<'_>) -> Result<Relation> {
        Err(Error::unsupported(format!(
            "{} is a Delta table (it has a _delta_log): open it as a Delta table, its data files alone are not the table",
            scan.location
        )))
    }
}

/// A folder with Iceberg metadata.
#[derive(Debug, Clone, Copy, Default)]
pub struct IcebergFormat;

impl Format for IcebergFormat {
    fn name(&self) -> &str {
        "iceberg"
    }

    fn folder_markers(&self) -> Vec<&str> {
        vec!["metadata/*.metadata.json", "metadata/version-hint.text"]
    }

    fn relation(&self, scan: &Scan<'_>) -> Result<Relation> {
        Err(Error::unsupported(format!(
            "{} is an Iceberg table (it has Iceberg metadata), which sources do not read yet: export it to parquet, its data \
             files alone are not the table",
            scan.location
        )))
    }
}

/// Arrow IPC files.
#[derive(Debug, Clone, Copy, Default)]
pub struct ArrowFormat;

impl Format for ArrowFormat {
    fn name(&self) -> &str {
        "arrow"
    }

    fn extensions(&self) -> Vec<&str> {
        vec!["arrow", "feather"]
    }

    fn relation(&self, scan: &Scan<'_>) -> Result<Relation> {
        Err(Error::unsupported(format!(
            "{} holds Arrow IPC files, which sources do not read yet: write them as parquet, or register a format of your own",
            scan.location
        )))
    }
}
