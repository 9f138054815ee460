//! What the tests of maintenance share: tables on any store, read back file by file without an engine, and time that passes.

use std::collections::BTreeMap;
use std::path::Path as FsPath;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use chrono::{DateTime, Utc};
use duckrun::arrow::array::AsArray;
use duckrun::arrow::datatypes::Int64Type;
use duckrun::delta::StoreRoot;
use duckrun::{At, FairGovernor, MemorySettings, Result, Session, Snapshot};
use duckrun_testkit::{Emulator, FaultyStore};
use object_store::local::LocalFileSystem;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::prefix::PrefixStore;
use object_store::{ObjectStore, ObjectStoreExt};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use url::Url;

/// A root of tables in a store. Its sessions share one governor.
#[derive(Clone)]
pub(crate) struct World {
    pub(crate) store: Arc<dyn ObjectStore>,
    local: Option<Arc<tempfile::TempDir>>,
    remote: Option<Arc<(Emulator, StoreRoot)>>,
    governor: Arc<FairGovernor>,
}

impl World {
    /// On the local file system.
    pub(crate) fn local() -> Self {
        let root = Arc::new(tempfile::tempdir().unwrap());
        let store = Arc::new(LocalFileSystem::new_with_prefix(root.path()).unwrap());
        Self { store, local: Some(root), remote: None, governor: Arc::default() }
    }

    /// In any store with conditional puts.
    pub(crate) fn within(store: impl ObjectStore) -> Self {
        Self { store: Arc::new(store), local: None, remote: None, governor: Arc::default() }
    }

    pub(crate) fn memory() -> Self {
        Self::within(InMemory::new())
    }

    /// In an emulated store, over HTTP. The emulator lives as long as the world does.
    pub(crate) fn emulated(emulator: Emulator) -> Self {
        let root = StoreRoot::open(&emulator.url("lake"), &emulator.options("secret")).unwrap();
        let store = Arc::new(PrefixStore::new(root.store().clone(), root.prefix().clone()));
        Self { store, local: None, remote: Some(Arc::new((emulator, root))), governor: Arc::default() }
    }

    /// The same tables through a store that tells what is asked of it, and its rules.
    pub(crate) fn hooked(&self) -> (Self, FaultyStore) {
        let store = FaultyStore::new(self.store.clone());
        (Self::within(store.clone()), store)
    }

    /// A local root with the same files.
    pub(crate) fn copy(&self) -> Self {
        fn copy(from: &FsPath, to: &FsPath) {
            for entry in std::fs::read_dir(from).unwrap() {
                let (from, to) = (entry.as_ref().unwrap().path(), to.join(entry.unwrap().file_name()));
                if from.is_dir() {
                    std::fs::create_dir(&to).unwrap();
                    copy(&from, &to);
                } else {
                    std::fs::copy(&from, &to).unwrap();
                }
            }
        }
        let world = Self::local();
        copy(self.local.as_ref().unwrap().path(), world.local.as_ref().unwrap().path());
        world
    }

    pub(crate) fn folder(&self, table: &str) -> std::path::PathBuf {
        self.local.as_ref().unwrap().path().join(table.replace('.', "/"))
    }

    /// A session, not yet opened: another process, as far as duckrun can tell.
    pub(crate) fn session(&self) -> duckrun::SessionBuilder {
        let open = match (&self.local, &self.remote) {
            (Some(root), _) => Session::open(root.path()),
            (None, Some(remote)) => Session::open_root(&remote.1),
            (None, None) => Session::open_in(Url::parse("mem://lake/").unwrap(), self.store.clone(), Path::default()),
        };
        let memory = MemorySettings { concurrent_runs: 8, ..MemorySettings::default() };
        open.writable().memory(memory).governor(self.governor.clone())
    }

    /// The table's rows by its column `n`, ascending.
    pub(crate) async fn numbers(&self, snapshot: &Arc<dyn Snapshot>, table: &str) -> Result<Vec<i64>> {
        Ok(self.columns(snapshot, table, ["n"]).await?.into_iter().map(|[n]| n).collect())
    }

    /// The table's rows by some BIGINT columns, ascending: every live file is read without an engine, rows under deletion vectors
    /// do not count.
    pub(crate) async fn columns<const N: usize>(
        &self,
        snapshot: &Arc<dyn Snapshot>,
        table: &str,
        names: [&str; N],
    ) -> Result<Vec<[i64; N]>> {
        let mut rows = Vec::new();
        for file in snapshot.files().await?.files {
            let folder = format!("/{}/", table.replace('.', "/"));
            let name = file.url.path().rsplit_once(&folder).unwrap().1;
            let path = Path::parse(format!("{folder}{name}")).unwrap();
            let bytes = self.store.get(&path).await.map_err(|e| duckrun::Error::corrupt(format!("{path}: {e}")))?;
            let bytes: Bytes = bytes.bytes().await.unwrap();
            let mut at = 0_u64;
            for batch in ParquetRecordBatchReaderBuilder::try_new(bytes).unwrap().build().unwrap() {
                let batch = batch.unwrap();
                let columns = names.map(|name| batch.column_by_name(name).unwrap().as_primitive::<Int64Type>());
                for row in 0..batch.num_rows() {
                    if !file.deleted.as_ref().is_some_and(|d| d.contains(&at)) {
                        rows.push(columns.map(|column| column.value(row)));
                    }
                    at += 1;
                }
            }
        }
        rows.sort_unstable();
        Ok(rows)
    }

    /// The newest version and its rows.
    pub(crate) async fn read(&self, table: &str) -> (u64, Vec<i64>) {
        let session = self.session().await.unwrap();
        let snapshot = session.snapshot(table, At::Latest).await.unwrap();
        (snapshot.version(), self.numbers(&snapshot, table).await.unwrap())
    }
}

/// The sizes of the live files.
pub(crate) async fn sizes(session: &Session, table: &str) -> Vec<u64> {
    let snapshot = session.snapshot(table, At::Latest).await.unwrap();
    snapshot.files().await.unwrap().files.iter().map(|f| f.size).collect()
}

/// A clock that is off by so many milliseconds.
#[derive(Debug, Default)]
pub(crate) struct Shifted(AtomicI64);

impl Shifted {
    pub(crate) fn by(offset: chrono::Duration) -> Arc<Self> {
        let clock = Arc::new(Self::default());
        clock.set(offset);
        clock
    }

    pub(crate) fn set(&self, offset: chrono::Duration) {
        self.0.store(offset.num_milliseconds(), Ordering::SeqCst);
    }
}

impl duckrun::core::Clock for Shifted {
    fn now(&self) -> DateTime<Utc> {
        Utc::now() + chrono::Duration::milliseconds(self.0.load(Ordering::SeqCst))
    }
}

/// Makes every file below a folder so much older, as the file system dates it.
pub(crate) fn age(folder: &FsPath, by: Duration) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            age(&path, by);
            continue;
        }
        let file = std::fs::File::options().append(true).open(&path).unwrap();
        let time = file.metadata().unwrap().modified().unwrap();
        file.set_modified(time - by).unwrap();
        assert!(SystemTime::now().duration_since(time - by).unwrap() >= by / 2);
    }
}

/// The actions of a version, by kind.
pub(crate) fn actions(folder: &FsPath, version: u64) -> BTreeMap<String, Vec<serde_json::Value>> {
    let text = std::fs::read_to_string(folder.join(format!("_delta_log/{version:020}.json"))).unwrap();
    let mut actions: BTreeMap<String, Vec<serde_json::Value>> = BTreeMap::new();
    for line in text.lines() {
        let action: serde_json::Value = serde_json::from_str(line).unwrap();
        for (kind, body) in action.as_object().unwrap() {
            actions.entry(kind.clone()).or_default().push(body.clone());
        }
    }
    actions
}

/// A policy that asks for the same every time.
#[derive(Debug, Clone)]
pub(crate) struct Always(pub(crate) Vec<duckrun::Action>);

impl duckrun::maintenance::MaintenancePolicy for Always {
    fn decide(&self, _: &duckrun::core::maintenance::TableStats, _: DateTime<Utc>) -> Vec<duckrun::Action> {
        self.0.clone()
    }
}

/// Does something once, when maintenance reports its first rows: after its plan, before its commit.
pub(crate) fn once(
    work: impl FnOnce() + Send + 'static,
) -> impl Fn(&duckrun::TableName, &duckrun::Progress) + Send + Sync {
    let work = Mutex::new(Some(work));
    move |_, progress| {
        if progress.rows > 0
            && let Some(work) = work.lock().unwrap().take()
        {
            work();
        }
    }
}

/// Waits for a future in the middle of another task.
pub(crate) fn wait<T>(future: impl Future<Output = T>) -> T {
    tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on(future))
}

/// Maintenance in which nothing may go wrong.
pub(crate) async fn clean(maintain: duckrun::Maintain) -> duckrun::MaintainReport {
    let report = maintain.run().await.unwrap();
    assert!(report.is_clean(), "{report}");
    report
}
