//! Delta tables for sources that name one by its place.

use std::sync::Arc;

use duckrun_core::{Error, Result, StorageOptions, TableOpener, TableStore};
use duckrun_delta::{DeltaStore, Location};

/// Opens Delta tables by path or URL.
#[derive(Debug, Clone, Copy)]
pub(crate) struct DeltaTables;

impl TableOpener for DeltaTables {
    fn open(&self, format: &str, location: &str, options: &StorageOptions) -> Result<Arc<dyn TableStore>> {
        if format != "delta" {
            return Err(Error::unsupported(format!("tables of the format {format:?} cannot be opened")));
        }
        let location = match location.contains("://") {
            true => Location::from_url(location, options)?,
            false => Location::local(location)?,
        };
        Ok(Arc::new(DeltaStore::new(location)))
    }
}
