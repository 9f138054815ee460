//! What every `Source` must do.

use std::sync::Arc;

use duckrun::arrow::array::RecordBatch;
use duckrun::core::{RelationName, TableOpener};
use duckrun::duckdb::DuckDb;
use duckrun::{Engine, Query, Source, SourceContext};

use super::{Conformance, Trouble, broken, context, holds, same};

type Got<T> = Result<T, Trouble>;
type Change = Arc<dyn Fn() + Send + Sync>;

/// A source and what is known about it.
#[derive(Clone)]
#[non_exhaustive]
pub struct SourceSubject {
    source: Arc<dyn Source>,
    rows: u64,
    missing: Option<Arc<dyn Source>>,
    grown: Option<(Change, u64)>,
    tables: Option<Arc<dyn TableOpener>>,
}

impl SourceSubject {
    /// A source that yields so many rows.
    pub fn new(source: impl Source + 'static, rows: u64) -> Self {
        Self { source: Arc::new(source), rows, missing: None, grown: None, tables: None }
    }

    /// One of the same kind that names something that is not there.
    #[must_use]
    pub fn missing(mut self, source: impl Source + 'static) -> Self {
        self.missing = Some(Arc::new(source));
        self
    }

    /// What makes the source yield other rows from now on, and how many.
    #[must_use]
    pub fn grown(mut self, change: impl Fn() + Send + Sync + 'static, rows: u64) -> Self {
        self.grown = Some((Arc::new(change), rows));
        self
    }

    /// Opens tables, for sources that name one.
    #[must_use]
    pub fn tables(mut self, tables: Arc<dyn TableOpener>) -> Self {
        self.tables = Some(tables);
        self
    }
}

/// Checks a source. `factory` is called once; what it hands over is resolved several times.
pub async fn source<F>(factory: F) -> Conformance
where
    F: FnOnce() -> SourceSubject,
{
    let subject = factory();
    let it = &subject;
    let mut report = Conformance::of(format!("source {}", subject.source.describe()));
    report.check_now("described", "What this source is, for messages and reports.", || {
        let text = it.source.describe();
        holds(!text.trim().is_empty(), "the description is empty")?;
        same("a second description", it.source.describe(), text)
    });
    report
        .check("resolves_to_its_rows", "Resolves to a relation.", async {
            same("the rows", count(&read(it, it.source.as_ref()).await?), it.rows)
        })
        .await;
    report
        .check("resolves_again", "A source keeps nothing between calls: a retry resolves it again.", async {
            for _ in 0..2 {
                same("the rows of another call", count(&read(it, it.source.as_ref()).await?), it.rows)?;
            }
            let both = tokio::try_join!(read(it, it.source.as_ref()), read(it, it.source.as_ref()))?;
            same("the rows of two calls at once", (count(&both.0), count(&both.1)), (it.rows, it.rows))
        })
        .await;
    report
        .check("same_columns", "A source keeps nothing between calls: its columns are the same each time.", async {
            let (one, two) = (read(it, it.source.as_ref()).await?, read(it, it.source.as_ref()).await?);
            same("the columns", two.first().map(RecordBatch::schema), one.first().map(RecordBatch::schema))
        })
        .await;
    report
        .check("cancelled", "The run: its cancellation, clock and memory plan.", async {
            let cx = context()?;
            cx.cancellation().cancel();
            let engine = DuckDb::in_memory().open(&context()?).await?;
            let mut seen = SourceContext::new(&cx).with_engine(engine.as_ref());
            if let Some(tables) = &it.tables {
                seen = seen.with_tables(tables.as_ref());
            }
            // Cheap sources need not look; whoever fails says why.
            match it.source.resolve(&seen).await {
                Ok(_) => Ok(()),
                Err(e) => same("the error of a cancelled run", e.kind(), duckrun::ErrorKind::Cancelled),
            }
        })
        .await;
    report
        .check("missing_is_an_error", "Errors come with the file's name and the way out.", async {
            let Some(missing) = &it.missing else {
                return Err(Trouble::Lacking("no missing source was given".to_owned()));
            };
            match read(it, missing.as_ref()).await {
                Ok(rows) => broken(format_args!("what is not there yields {} rows", count(&rows))),
                Err(Trouble::Broken(text) | Trouble::Lacking(text)) => {
                    holds(text.len() > 20, format_args!("the error says too little: {text}"))
                }
            }
        })
        .await;
    report
        .check("what_is_new_is_seen", "Called once per attempt of a run: a retry sees what there is then.", async {
            let Some((change, rows)) = &it.grown else {
                return Err(Trouble::Lacking("no change was given".to_owned()));
            };
            change();
            same("the rows afterwards", count(&read(it, it.source.as_ref()).await?), *rows)
        })
        .await;
    report
}

fn count(batches: &[RecordBatch]) -> u64 {
    batches.iter().map(|b| b.num_rows() as u64).sum()
}

/// Resolves, registers and reads, as a run does.
async fn read(subject: &SourceSubject, source: &dyn Source) -> Got<Vec<RecordBatch>> {
    let cx = context()?;
    let engine = DuckDb::in_memory().open(&cx).await?;
    let mut seen = SourceContext::new(&cx).with_engine(engine.as_ref());
    if let Some(tables) = &subject.tables {
        seen = seen.with_tables(tables.as_ref());
    }
    let resolved = source.resolve(&seen).await?;
    engine.register(&RelationName::bare("it")?, resolved.relation).await?;
    Ok(engine.query(&Query::new("SELECT * FROM it")).await?.collect().await?)
}
