//! The incoming rows on their way from DuckDB to DataFusion: pulled batch by batch, once.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use arrow::datatypes::{Field, Schema, SchemaRef};
use deltalake::datafusion::common::{DataFusionError, ScalarValue};
use deltalake::datafusion::execution::{SendableRecordBatchStream, TaskContext};
use deltalake::datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use deltalake::datafusion::physical_plan::streaming::PartitionStream;
use duckrun_core::{BatchStream, EngineSession, Error, Query, Result, quote_ident};
use futures::StreamExt;

use super::expr::{Computed, column_name};
use super::meter::Meter;

/// A stream of batches as a table of one partition. It can be read once.
pub(super) struct OneShot {
    schema: SchemaRef,
    rows: Mutex<Option<BatchStream>>,
    meter: Arc<Meter>,
}

impl OneShot {
    pub(super) fn new(rows: BatchStream, meter: Arc<Meter>) -> Self {
        Self { schema: rows.schema().clone(), rows: Mutex::new(Some(rows)), meter }
    }
}

impl PartitionStream for OneShot {
    fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    fn execute(&self, _: Arc<TaskContext>) -> SendableRecordBatchStream {
        let rows = self.rows.lock().unwrap_or_else(PoisonError::into_inner).take();
        let meter = self.meter.clone();
        let stream = match rows {
            Some(rows) => rows
                .map(move |batch| {
                    if !meter.tick() {
                        return Err(DataFusionError::Execution("the run was stopped".to_owned()));
                    }
                    let batch = batch.map_err(|e| {
                        let text = e.to_string();
                        meter.fail(e);
                        DataFusionError::Execution(text)
                    })?;
                    meter.add_rows(batch.num_rows());
                    Ok(batch)
                })
                .boxed(),
            // A second reader would get no rows and take that for an empty source.
            None => futures::stream::once(async {
                Err(DataFusionError::Execution("the incoming rows were read twice".to_owned()))
            })
            .boxed(),
        };
        Box::pin(RecordBatchStreamAdapter::new(self.schema.clone(), stream))
    }
}

impl fmt::Debug for OneShot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OneShot").field("schema", &self.schema).finish_non_exhaustive()
    }
}

impl Computed {
    /// The query for the columns of the incoming rows that delta-rs needs, over the relation `laid_by`, in exact types.
    ///
    /// # Errors
    /// The engine's, where it cannot plan an expression.
    pub(super) async fn query(&self, engine: &dyn EngineSession, laid_by: &str, incoming: &Schema) -> Result<Query> {
        let mut list: Vec<String> = self.used.iter().map(|c| format!("source.{0} AS {0}", quote_ident(c))).collect();
        list.extend(self.columns.iter().enumerate().map(|(n, (sql, _))| format!("({sql}) AS {}", column_name(n))));
        if list.is_empty() {
            list.push(format!("true AS {}", column_name(0)));
        }
        let query = Query::new(format!("SELECT {} FROM {laid_by} AS source", list.join(", ")));
        let mut fields = Vec::new();
        for field in engine.describe(&query).await?.fields() {
            let computed = field.name().strip_prefix("__duckrun_e").and_then(|n| n.parse::<usize>().ok());
            let wanted = match computed.and_then(|n| self.columns.get(n)) {
                Some((_, ty)) => ty.clone(),
                None => incoming.field_with_name(field.name()).ok().map(|f| f.data_type().clone()),
            };
            fields.push(Field::new(field.name(), wanted.unwrap_or_else(|| field.data_type().clone()), true));
        }
        Ok(query.with_output(Arc::new(Schema::new(fields))))
    }

    /// The values of the constants.
    ///
    /// # Errors
    /// The engine's.
    pub(super) async fn values(&self, engine: &dyn EngineSession) -> Result<Vec<ScalarValue>> {
        if self.constants.is_empty() {
            return Ok(Vec::new());
        }
        let list: Vec<String> =
            self.constants.iter().enumerate().map(|(n, (sql, _))| format!("({sql}) AS k{n}")).collect();
        let query = Query::new(format!("SELECT {}", list.join(", ")));
        let fields: Vec<Field> = engine
            .describe(&query)
            .await?
            .fields()
            .iter()
            .zip(&self.constants)
            .map(|(f, (_, ty))| Field::new(f.name(), ty.clone().unwrap_or_else(|| f.data_type().clone()), true))
            .collect();
        let batches = engine.query(&query.with_output(Arc::new(Schema::new(fields)))).await?.collect().await?;
        let Some(row) = batches.iter().find(|b| b.num_rows() > 0) else {
            return Err(Error::internal("constants without a row"));
        };
        let value = |c| ScalarValue::try_from_array(c, 0);
        row.columns()
            .iter()
            .map(|c| value(c).map_err(|e| Error::internal("a constant cannot be read").with_source(e)))
            .collect()
    }
}
