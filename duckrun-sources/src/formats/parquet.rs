//! Parquet through DuckDB's `read_parquet`, with projections and filters pushed into the files.

use async_trait::async_trait;
use duckrun_core::{Resolved, Result};
use serde::{Deserialize, Serialize};

use crate::{CallOptions, Format, Scan};

/// The options of parquet.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ParquetFormat {
    /// Read binary columns without a logical type as text, for old writers that did not say which they meant.
    pub binary_as_text: bool,
}

#[async_trait]
impl Format for ParquetFormat {
    fn name(&self) -> &str {
        "parquet"
    }

    fn extensions(&self) -> Vec<&str> {
        vec!["parquet", "pq"]
    }

    async fn relation(&self, scan: &Scan<'_>) -> Result<Resolved> {
        let options = CallOptions::new().flag("binary_as_string", self.binary_as_text.then_some(true));
        Ok(scan.select("read_parquet", options))
    }
}
