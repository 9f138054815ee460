//! Which tables we read, which we write, and the protocol of a table that we create.
//!
//! Source: the Delta protocol, "Table Features". A feature that is not listed here is refused by its name: guessing about one
//! means rows that are silently wrong.

use std::collections::{BTreeMap, BTreeSet};

use duckrun_core::{Check, Error, Result};
use serde::{Deserialize, Serialize};

use crate::changes::reserved;
use crate::schema::DeltaSchema;

/// The table property that asks for a change data feed.
pub(crate) const CHANGE_FEED: &str = "delta.enableChangeDataFeed";

/// Reader features that a read honours.
const READABLE: &[&str] = &["columnMapping", "deletionVectors", "timestampNtz", "v2Checkpoint", "vacuumProtocolCheck"];

/// Writer features that a write honours. Some need nothing of a writer that adds and removes whole files.
const WRITABLE: &[&str] = &[
    "appendOnly",
    "invariants",
    "checkConstraints",
    "changeDataFeed",
    "generatedColumns",
    "columnMapping",
    "deletionVectors",
    "timestampNtz",
    "v2Checkpoint",
    "vacuumProtocolCheck",
];

/// The protocol action.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Protocol {
    pub(crate) min_reader_version: i32,
    pub(crate) min_writer_version: i32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) reader_features: Option<BTreeSet<String>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) writer_features: Option<BTreeSet<String>>,
}

/// The metadata action.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Metadata {
    pub(crate) id: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) name: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) description: Option<String>,
    pub(crate) format: Format,
    pub(crate) schema_string: String,
    pub(crate) partition_columns: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) created_time: Option<i64>,
    pub(crate) configuration: BTreeMap<String, String>,
}

/// The metadata action's file format.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Format {
    pub(crate) provider: String,
    #[serde(default)]
    pub(crate) options: BTreeMap<String, String>,
}

impl Default for Format {
    fn default() -> Self {
        Self { provider: "parquet".to_owned(), options: BTreeMap::new() }
    }
}

impl Metadata {
    pub(crate) fn flag(&self, key: &str) -> bool {
        self.configuration.get(key).is_some_and(|v| v.eq_ignore_ascii_case("true"))
    }

    pub(crate) fn column_mapping(&self) -> bool {
        matches!(self.configuration.get("delta.columnMapping.mode").map(String::as_str), Some("id" | "name"))
    }
}

impl Protocol {
    /// The protocol of a new table with this schema.
    pub(crate) fn for_new_table(schema: &DeltaSchema, properties: &BTreeMap<String, String>) -> Self {
        let mut features = BTreeSet::new();
        if schema.has_timestamp_ntz() {
            features.insert("timestampNtz");
        }
        let both: BTreeSet<String> = features.iter().map(|f| (*f).to_owned()).collect();
        if both.is_empty() {
            // Version 2 brings appendOnly and invariants; more is asked of readers and writers only where it is used.
            let cdf = properties.get(CHANGE_FEED).is_some_and(|v| v.eq_ignore_ascii_case("true"));
            let min_writer_version = if cdf { 4 } else { 2 };
            return Self { min_reader_version: 1, min_writer_version, reader_features: None, writer_features: None };
        }
        let mut writer = both.clone();
        writer.extend(["appendOnly", "invariants"].map(str::to_owned));
        if properties.contains_key(CHANGE_FEED) {
            writer.insert("changeDataFeed".to_owned());
        }
        Self {
            min_reader_version: 3,
            min_writer_version: 7,
            reader_features: Some(both),
            writer_features: Some(writer),
        }
    }

    /// The protocol with what a new schema needs, or `None` where the present one will do.
    pub(crate) fn upgraded_for(&self, schema: &DeltaSchema) -> Option<Self> {
        let has = |set: &Option<BTreeSet<String>>| set.as_ref().is_some_and(|s| s.contains("timestampNtz"));
        if !schema.has_timestamp_ntz() || (has(&self.reader_features) && has(&self.writer_features)) {
            return None;
        }
        let mut writer = self.writer_features.clone().unwrap_or_default();
        let mut reader = self.reader_features.clone().unwrap_or_default();
        // A table of an old version gets every feature that its version implied (protocol, "Table Features").
        for (version, feature) in [
            (2, "appendOnly"),
            (2, "invariants"),
            (3, "checkConstraints"),
            (4, "changeDataFeed"),
            (4, "generatedColumns"),
            (5, "columnMapping"),
        ] {
            if (version..7).contains(&self.min_writer_version) {
                writer.insert(feature.to_owned());
            }
        }
        if self.min_reader_version == 2 {
            reader.insert("columnMapping".to_owned());
        }
        reader.insert("timestampNtz".to_owned());
        writer.insert("timestampNtz".to_owned());
        Some(Self {
            min_reader_version: 3,
            min_writer_version: 7,
            reader_features: Some(reader),
            writer_features: Some(writer),
        })
    }

    /// Fails with the feature's name where rows could be misread.
    pub(crate) fn check_readable(&self) -> Result<()> {
        if self.min_reader_version > 3 {
            return Err(Error::unsupported(format!(
                "reader version {} is newer than this library",
                self.min_reader_version
            )));
        }
        refuse_unknown(self.reader_features.as_ref(), READABLE, "read")
    }

    /// Fails with the feature's name where files cannot be rewritten with the same rows. What constrains rows needs no check then.
    pub(crate) fn check_rewritable(&self) -> Result<()> {
        self.check_readable()?;
        if self.min_writer_version > 7 {
            return Err(Error::unsupported(format!(
                "writer version {} is newer than this library",
                self.min_writer_version
            )));
        }
        refuse_unknown(self.writer_features.as_ref(), WRITABLE, "written")
    }

    /// Fails with the feature's name where a write could break what the table promises.
    /// `removes` says that rows go; `checks` are what the written rows are held to, `None` while nobody asks yet (files are
    /// written before their commit, which asks).
    pub(crate) fn check_writable(
        &self,
        metadata: &Metadata,
        schema: &DeltaSchema,
        removes: bool,
        checks: Option<&[Check]>,
    ) -> Result<()> {
        let holds = |check: &Check, constraint: &str| matches!(check, Check::Holds { name, .. } if name == constraint);
        let checked = |constraint: &str| checks.is_none_or(|checks| checks.iter().any(|c| holds(c, constraint)));
        self.check_readable()?;
        if self.min_writer_version > 7 {
            return Err(Error::unsupported(format!(
                "writer version {} is newer than this library",
                self.min_writer_version
            )));
        }
        if matches!(self.min_writer_version, 6) {
            // Version 6 adds identity columns; harmless where no column is one.
            if schema.has_metadata("delta.identity.start") {
                return Err(Error::unsupported("the table feature identityColumns is not written"));
            }
        }
        refuse_unknown(self.writer_features.as_ref(), WRITABLE, "written")?;
        check_feed(metadata, schema)?;
        if removes && metadata.flag("delta.appendOnly") {
            return Err(Error::invalid(
                "the table is append-only (delta.appendOnly): rows cannot be replaced or deleted",
            ));
        }
        if schema.has_metadata("delta.invariants") {
            return Err(Error::unsupported("the table feature invariants is used by a column and is not written"));
        }
        if schema.has_metadata("delta.generationExpression") {
            return Err(Error::unsupported(
                "the table feature generatedColumns is used by a column and is not written",
            ));
        }
        if let Some(name) = metadata
            .configuration
            .keys()
            .filter_map(|k| k.strip_prefix("delta.constraints."))
            .find(|name| !checked(name))
        {
            return Err(Error::unsupported(format!(
                "the table feature checkConstraints is in use (constraint {name:?}) and is not written"
            )));
        }
        Ok(())
    }
}

/// Fails with the column's name where a table with a change feed has a column of the feed's own.
pub(crate) fn check_feed(metadata: &Metadata, schema: &DeltaSchema) -> Result<()> {
    let names = schema.fields.iter().map(|f| f.name.as_str());
    match reserved(names).filter(|_| metadata.flag(CHANGE_FEED)) {
        Some(name) => Err(feed_column(name)),
        None => Ok(()),
    }
}

/// The error for a column of a table with a change feed that the feed has too.
pub(crate) fn feed_column(name: &str) -> Error {
    Error::invalid(format!(
        "the column {name:?} is called as one of the change data feed ({CHANGE_FEED}), which the table keeps: rename it"
    ))
}

fn refuse_unknown(features: Option<&BTreeSet<String>>, known: &[&str], verb: &str) -> Result<()> {
    let unknown: Vec<_> =
        features.into_iter().flatten().filter(|f| !known.contains(&f.as_str())).map(String::as_str).collect();
    match unknown.as_slice() {
        [] => Ok(()),
        [one] => Err(Error::unsupported(format!("the table feature {one} is not {verb}"))),
        many => Err(Error::unsupported(format!("the table features {} are not {verb}", many.join(", ")))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_features_are_refused_by_name() {
        let p = Protocol {
            min_reader_version: 3,
            min_writer_version: 7,
            reader_features: Some(["deletionVectors", "typeWidening"].map(str::to_owned).into()),
            writer_features: None,
        };
        assert!(p.check_readable().unwrap_err().message().contains("typeWidening"));
    }

    #[test]
    fn an_old_table_keeps_what_its_version_implied() {
        let ntz = DeltaSchema::parse(
            r#"{"type":"struct","fields":[{"name":"t","type":"timestamp_ntz","nullable":true,"metadata":{}}]}"#,
        )
        .unwrap();
        let old =
            Protocol { min_reader_version: 1, min_writer_version: 2, reader_features: None, writer_features: None };
        let new = old.upgraded_for(&ntz).unwrap();
        let writer = new.writer_features.clone().unwrap();
        assert_eq!(writer.into_iter().collect::<Vec<_>>(), ["appendOnly", "invariants", "timestampNtz"]);
        assert!(new.upgraded_for(&ntz).is_none());
        assert_eq!(Protocol::for_new_table(&ntz, &BTreeMap::new()).min_reader_version, 3);
    }
}
