//! Delta tables and stores for sources that name one by its place.

use std::sync::Arc;

use duckrun_core::{Error, OpenedStore, Result, StorageOptions, TableOpener, TableStore};
use duckrun_delta::{DeltaStore, Location};
use url::Url;

use crate::session::Session;

/// Opens Delta tables by path or URL, and stores by URL, with the session's credentials.
#[derive(Debug, Clone)]
pub(crate) struct Places(pub(crate) Session);

impl TableOpener for Places {
    fn open(&self, format: &str, location: &str, options: &StorageOptions) -> Result<Arc<dyn TableStore>> {
        if format != "delta" {
            return Err(Error::unsupported(format!("tables of the format {format:?} cannot be opened")));
        }
        let url = Url::parse(location).ok().filter(|url| location.contains("://") && url.scheme() != "file");
        let location = match url {
            Some(url) => {
                let opened = self.0.open_store(&url, options)?;
                Location::in_store(&url, opened.store, &opened.path)?
            }
            None if location.contains("://") => Location::from_url(location, options)?,
            None => Location::local(location)?,
        };
        Ok(Arc::new(DeltaStore::new(location)))
    }

    fn open_store(&self, url: &Url, options: &StorageOptions) -> Result<OpenedStore> {
        self.0.open_store(url, options)
    }
}
