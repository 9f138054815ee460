//! Testing a table store of one's own: `cargo run -p duckrun-testkit --example foreign_store`.
//!
//! [`MemoryStore`] keeps versioned tables in the memory of the process: no log, no Delta, parquet objects in an in-memory object
//! store. Runs of duckrun write to it by `Model::store`. It is small because it leaves out what the contract lets a store leave out
//! (rewriting files, maintenance), and it keeps the rest, as the conformance suite shows.

use std::any::Any;
use std::collections::{BTreeMap, HashMap};
use std::process::ExitCode;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use duckrun::arrow::datatypes::SchemaRef;
use duckrun::core::{
    ColumnSource, CommitRecord, ConflictPolicy, DataFile, FileColumn, FileSet, Intent, Staged, StagedFile, WriteAction,
    WriteSpec,
};
use duckrun::{
    At, BatchStream, Commit, CommitOutcome, Error, ErrorKind, Nothing, Result, RunContext, Session, Snapshot,
    TableStore, WriteMetrics,
};
use duckrun_testkit::conformance::{self, Conformance};
use futures::StreamExt;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use parquet::arrow::ArrowWriter;
use serde_json::json;
use url::Url;

/// Tables in memory. Cheap to clone; clones share the tables.
#[derive(Debug, Clone, Default)]
pub(crate) struct Memory {
    objects: Arc<InMemory>,
    tables: Arc<Mutex<HashMap<String, Vec<Version>>>>,
}

/// One version, whole: nothing in it ever changes.
#[derive(Debug, Clone)]
struct Version {
    schema: SchemaRef,
    partition_columns: Vec<String>,
    properties: BTreeMap<String, String>,
    comment: Option<String>,
    files: Vec<StagedFile>,
    /// The newest version of each application.
    applications: HashMap<String, i64>,
    record: CommitRecord,
}

impl Memory {
    /// The table of a name.
    pub(crate) fn table(&self, name: &str) -> MemoryStore {
        MemoryStore { memory: self.clone(), name: name.to_owned(), location: format!("memory:///{name}") }
    }

    fn tables(&self) -> MutexGuard<'_, HashMap<String, Vec<Version>>> {
        self.tables.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One table in memory.
#[derive(Debug, Clone)]
pub(crate) struct MemoryStore {
    memory: Memory,
    name: String,
    location: String,
}

/// A pinned version.
#[derive(Debug)]
struct Pinned {
    number: u64,
    version: Version,
    history: Vec<CommitRecord>,
    objects: Arc<InMemory>,
}

fn wrong(e: impl std::fmt::Display) -> Error {
    Error::internal(e.to_string())
}

#[async_trait]
impl TableStore for MemoryStore {
    fn location(&self) -> &str {
        &self.location
    }

    async fn snapshot(&self, at: At) -> Result<Option<Arc<dyn Snapshot>>> {
        let tables = self.memory.tables();
        let Some(versions) = tables.get(&self.name) else { return Ok(None) };
        let number = match at {
            At::Version(version) => version as usize,
            At::Timestamp(time) => match versions.iter().rposition(|v| v.record.timestamp <= time) {
                Some(number) => number,
                None => return Err(Error::new(ErrorKind::NotFound, "the table is younger than that")),
            },
            _ => versions.len() - 1,
        };
        let Some(version) = versions.get(number) else {
            return Err(Error::new(ErrorKind::NotFound, format!("version {number} does not exist")));
        };
        let history = versions[..=number].iter().map(|v| v.record.clone()).collect();
        let objects = self.memory.objects.clone();
        Ok(Some(Arc::new(Pinned { number: number as u64, version: version.clone(), history, objects })))
    }

    async fn stage(
        &self,
        _cx: &RunContext,
        _at: Option<&Arc<dyn Snapshot>>,
        spec: &WriteSpec,
        mut rows: BatchStream,
    ) -> Result<Staged> {
        // Nothing is put before the last row has come: a stream that fails leaves no object.
        let mut writer = ArrowWriter::try_new(Vec::new(), spec.schema.clone(), None).map_err(wrong)?;
        let mut count = 0;
        while let Some(batch) = rows.next().await {
            let batch = batch?;
            count += batch.num_rows() as u64;
            writer.write(&batch).map_err(wrong)?;
        }
        if count == 0 {
            return Ok(Staged::default());
        }
        let bytes = writer.into_inner().map_err(wrong)?;
        let size = bytes.len() as u64;
        let path = format!("{}/{}.parquet", self.name, uuid::Uuid::new_v4());
        self.memory.objects.put(&Path::from(path.as_str()), bytes.into()).await.map_err(wrong)?;
        Ok(Staged::new(vec![StagedFile::new(path, size, count, BTreeMap::new(), None, 0)]))
    }

    async fn commit(&self, cx: &RunContext, at: Option<&Arc<dyn Snapshot>>, intent: &Intent) -> Result<CommitOutcome> {
        if !intent.removed.is_empty() {
            return Err(Error::unsupported("this store does not replace single files"));
        }
        // One lock, held while nothing is awaited: the whole commit is one step for everybody else.
        let mut tables = self.memory.tables();
        let versions = tables.entry(self.name.clone()).or_default();
        let read = at.map(|s| s.version());
        if let (Some(transaction), Some(last)) = (&intent.transaction, versions.last())
            && let Some(applied) = last.applications.get(&transaction.app_id).filter(|v| **v >= transaction.version)
        {
            return Ok(CommitOutcome::NothingToDo(Nothing::AlreadyApplied { version: *applied }));
        }
        let next = read.map_or(0, |v| v + 1);
        let newest = versions.len() as u64;
        if newest > next {
            let conflict =
                |reason: &str| CommitOutcome::Conflict { read, found: newest - 1, reason: reason.to_owned() };
            let known = read.and_then(|v| versions.get(v as usize)).map(|v| &v.schema);
            let last = versions.last().map(|v| &v.schema);
            if intent.plan.conflict != ConflictPolicy::Blind {
                return Ok(conflict("somebody else has committed"));
            }
            if last != known.or(Some(&intent.plan.schema)) {
                return Ok(conflict("the columns are others"));
            }
        }
        let plan = &intent.plan;
        let mut metrics = WriteMetrics::default();
        metrics.rows_inserted = intent.staged.rows();
        metrics.files_added = intent.staged.files.len() as u64;
        metrics.bytes_added = intent.staged.bytes();
        metrics.rows_deleted = Some(0);
        let before = versions.last();
        let mut files = before.map(|v| v.files.clone()).unwrap_or_default();
        match plan.action {
            WriteAction::Append => {}
            WriteAction::Overwrite => {
                metrics.rows_deleted = Some(files.iter().map(|f| f.rows).sum());
                metrics.files_removed = files.len() as u64;
                files.clear();
            }
            _ => return Err(Error::unsupported("this store appends and overwrites")),
        }
        files.extend(intent.staged.files.iter().cloned());
        let Some(schema) = plan.metadata.schema.clone().or_else(|| before.map(|v| v.schema.clone())) else {
            return Err(Error::invalid("a table is created with a schema"));
        };
        let mut properties = before.map(|v| v.properties.clone()).unwrap_or_default();
        properties.extend(plan.metadata.properties.clone());
        let mut applications = before.map(|v| v.applications.clone()).unwrap_or_default();
        applications.extend(intent.transaction.iter().map(|t| (t.app_id.clone(), t.version)));
        let info = json!({
            "operation": plan.strategy, "runId": cx.id().to_string(), "userMetadata": json!(intent.info).to_string(),
        });
        let record = CommitRecord::new(newest, cx.now(), info.as_object().cloned().unwrap_or_default());
        let comment = plan.metadata.comment.clone().or_else(|| before.and_then(|v| v.comment.clone()));
        let partition_columns = match &plan.metadata.partition_columns {
            Some(columns) => columns.clone(),
            None => before.map_or_else(|| plan.partition_columns.clone(), |v| v.partition_columns.clone()),
        };
        versions.push(Version { schema, partition_columns, properties, comment, files, applications, record });
        Ok(CommitOutcome::Committed(Commit::new(newest, metrics)))
    }

    async fn discard(&self, _cx: &RunContext, staged: &Staged) -> Result<()> {
        for file in &staged.files {
            match self.memory.objects.delete(&Path::from(file.path.as_str())).await {
                Ok(()) | Err(object_store::Error::NotFound { .. }) => {}
                Err(e) => return Err(wrong(e)),
            }
        }
        Ok(())
    }
}

#[async_trait]
impl Snapshot for Pinned {
    fn version(&self) -> u64 {
        self.number
    }

    fn schema(&self) -> SchemaRef {
        self.version.schema.clone()
    }

    fn partition_columns(&self) -> &[String] {
        &self.version.partition_columns
    }

    fn properties(&self) -> BTreeMap<String, String> {
        self.version.properties.clone()
    }

    fn comment(&self) -> Option<String> {
        self.version.comment.clone()
    }

    async fn files(&self) -> Result<FileSet> {
        let column = |field: &Arc<duckrun::arrow::datatypes::Field>| FileColumn {
            name: field.name().clone(),
            data_type: field.data_type().clone(),
            physical_type: None,
            source: ColumnSource::File { physical_name: field.name().clone() },
        };
        let mut files = Vec::new();
        for file in &self.version.files {
            files.push(DataFile {
                path: file.path.clone(),
                url: Url::parse(&format!("memory:///{}", file.path)).map_err(wrong)?,
                size: file.size,
                rows: Some(file.rows),
                deleted: None,
            });
        }
        let store: Arc<dyn ObjectStore> = self.objects.clone();
        Ok(FileSet {
            schema: self.version.schema.clone(),
            columns: self.version.schema.fields().iter().map(column).collect(),
            files,
            partition_values: Vec::new(),
            positions: false,
            store: Some(store),
        })
    }

    async fn app_version(&self, app_id: &str) -> Result<Option<i64>> {
        Ok(self.version.applications.get(app_id).copied())
    }

    async fn history(&self) -> Result<Vec<CommitRecord>> {
        Ok(self.history.clone())
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// The report of the suite.
pub(crate) async fn report() -> Conformance {
    let memory = Memory::default();
    conformance::table_store(|name| Arc::new(memory.table(name))).await
}

/// A run of duckrun that writes to the store.
pub(crate) async fn run() -> Result<duckrun::Report> {
    let root = tempfile::tempdir().map_err(wrong)?;
    let lake = Session::open(root.path()).writable().await?;
    let store = Arc::new(Memory::default().table("numbers"));
    let model = lake.model("a.numbers").store(store).sql("select i from range(1000) t(i)");
    model.clone().run().await?.committed().map(drop)?;
    model.run().await?.committed()
}

#[tokio::main]
async fn main() -> ExitCode {
    let report = report().await;
    println!("{report}");
    match run().await {
        Ok(run) => println!("{run}"),
        Err(e) => {
            println!("a run failed: {e}");
            return ExitCode::FAILURE;
        }
    }
    if report.is_clean() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
