//! Where the table of a campaign is: on the local disk, behind an object store, or in a store that is named by a URL.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use duckrun::{Error, MemorySettings, Result, Session, SessionBuilder, StorageOptions, StoreRoot};
use object_store::ObjectStore;
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use serde::{Deserialize, Serialize};
use url::Url;

use super::machine;

/// The table of a campaign.
pub const TABLE: &str = "a.t";

/// A root of tables, as it can be told to another process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Place {
    /// A folder.
    Local(PathBuf),
    /// A folder, read and written through an object store.
    Folder(PathBuf),
    /// A URL with its options; only for emulators, because the options are handed on in the open.
    Url {
        /// The URL.
        url: String,
        /// The options.
        options: BTreeMap<String, String>,
    },
}

/// An opened place.
#[derive(Debug, Clone)]
pub struct Root {
    /// The store of the tables.
    pub store: Arc<dyn ObjectStore>,
    /// Where in the store they are.
    pub prefix: Path,
    url: Url,
    /// The folder, where sessions shall use the local file system.
    local: Option<PathBuf>,
}

impl Place {
    /// Opens it.
    ///
    /// # Errors
    /// A folder that does not exist, or a URL that is none.
    pub fn open(&self) -> Result<Root> {
        match self {
            Self::Local(folder) | Self::Folder(folder) => {
                let folder = folder.canonicalize().map_err(machine("open the folder"))?;
                let store = LocalFileSystem::new_with_prefix(&folder)
                    .map_err(|e| Error::invalid("the root is not a folder").with_source(e))?;
                let local = matches!(self, Self::Local(_)).then_some(folder);
                Ok(Root { local, ..Root::within(Arc::new(store)) })
            }
            Self::Url { url, options } => {
                let options: StorageOptions = options.iter().map(|(k, v)| (k.clone(), v.clone())).collect();
                let root = StoreRoot::open(url, &options)?;
                let (store, prefix) = (root.store().clone(), root.prefix().clone());
                Ok(Root { store, prefix, url: root.url().clone(), local: None })
            }
        }
    }
}

impl Root {
    /// A root at the beginning of a store.
    ///
    /// # Panics
    /// Never: the URL is a constant.
    #[must_use]
    #[expect(clippy::expect_used, reason = "the URL is a constant")]
    pub fn within(store: Arc<dyn ObjectStore>) -> Self {
        let url = Url::parse("lake://campaign/").expect("a URL");
        Self { store, prefix: Path::default(), url, local: None }
    }

    /// The name of the root.
    #[must_use]
    pub fn url(&self) -> &Url {
        &self.url
    }

    /// The same root through another store, never through the local file system.
    #[must_use]
    pub fn through(&self, store: Arc<dyn ObjectStore>) -> Self {
        Self { store, local: None, ..self.clone() }
    }

    /// A writable session, not yet opened, with little memory, few threads and a governor of its own: campaigns run many side
    /// by side, each as if it were a process.
    pub fn session(&self) -> SessionBuilder {
        let open = match &self.local {
            Some(folder) => Session::open(folder),
            None => Session::open_in(self.url.clone(), self.store.clone(), self.prefix.clone()),
        };
        let memory = MemorySettings { threads: Some(1), writers: Some(1), ..MemorySettings::with_limit(1 << 30) };
        open.writable().memory(memory).governor(crate::own_governor())
    }

    /// Where the campaign's table is in the store.
    #[must_use]
    pub fn table(&self) -> Path {
        TABLE.split('.').fold(self.prefix.clone(), |path, part| path.join(part))
    }

    /// The folder of the campaign's table, where sessions use the local file system.
    #[must_use]
    pub fn folder(&self) -> Option<PathBuf> {
        self.local.as_ref().map(|root| root.join(TABLE.replace('.', "/")))
    }
}
