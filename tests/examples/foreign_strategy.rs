//! Testing a strategy of one's own: `cargo run -p duckrun-testkit --example foreign_strategy`.
//!
//! [`Highest`] keeps of every key the row with the highest value: rows may come late, twice and in any order, the table ends the
//! same. It is written against the contracts of duckrun alone, as an embedder would, and held to them by the conformance suite.

use std::collections::BTreeSet;
use std::process::ExitCode;
use std::sync::Arc;

use duckrun::arrow::datatypes::{Schema, SchemaRef};
use duckrun::core::memory::Job;
use duckrun::core::{
    Assignment, Clause, ConflictPolicy, MergePlan, RowExpr, TableState, Then, When, WriteAction, WritePlan, quote_ident,
};
use duckrun::{Error, ErrorKind, Result, SchemaChange, Strategy};
use duckrun_testkit::conformance::{self, Conformance, StrategySubject};

/// Keeps of every key the row with the highest value.
#[derive(Debug, Clone)]
pub(crate) struct Highest {
    key: String,
    value: String,
}

impl Highest {
    /// By this key column and this column of values.
    pub(crate) fn of(value: impl Into<String>, key: impl Into<String>) -> Self {
        Self { key: key.into(), value: value.into() }
    }
}

/// A column of the incoming row.
fn source(column: &str) -> RowExpr {
    RowExpr::new(format!("source.{}", quote_ident(column)), BTreeSet::new(), BTreeSet::from([column.to_owned()]))
}

fn set<'a>(columns: impl Iterator<Item = &'a str>) -> Vec<Assignment> {
    columns.map(|c| Assignment::new(c, source(c))).collect()
}

impl Strategy for Highest {
    fn name(&self) -> &str {
        "highest"
    }

    fn job(&self) -> Job {
        Job::MergeDuckDb
    }

    fn plan(&self, target: &TableState, incoming: &SchemaRef) -> Result<WritePlan> {
        for column in [&self.key, &self.value] {
            incoming.field_with_name(column).map_err(|_| Error::invalid(format!("the SQL lacks {column:?}")))?;
        }
        let mut merge = MergePlan::new(vec![self.key.clone()], incoming.clone());
        let table = match &target.existing {
            Some(table) if !target.options.full_refresh => table,
            before => {
                // A new table has the incoming columns, and every row is new.
                merge.fresh = true;
                let all = incoming.fields().iter().map(|f| f.name().as_str());
                merge.clauses.push(Clause::new(When::NotMatched, None, Then::Insert(set(all))));
                let partitions = match (&target.options.partition_by, before) {
                    (Some(columns), _) => columns.clone(),
                    (None, Some(table)) => table.partition_columns.clone(),
                    (None, None) => Vec::new(),
                };
                let action = WriteAction::Merge(Box::new(merge));
                let policy = ConflictPolicy::CompareAndSwap;
                let mut plan = WritePlan::new(self.name(), action, incoming.clone(), partitions.clone(), policy);
                plan.metadata.schema = Some(incoming.clone());
                plan.metadata.partition_columns = Some(partitions);
                plan.metadata.properties.clone_from(&target.options.properties);
                return Ok(plan);
            }
        };
        let (known, more): (Vec<_>, Vec<_>) =
            incoming.fields().iter().partition(|f| table.schema.field_with_name(f.name()).is_ok());
        let more: Vec<&str> = more.iter().map(|f| f.name().as_str()).collect();
        if !more.is_empty() && target.options.on_schema_change != SchemaChange::Ignore {
            let message = format!("the table lacks the columns {}, and this strategy adds none", more.join(", "));
            return Err(Error::new(ErrorKind::InvalidData, message));
        }
        for field in &known {
            let stored = table.schema.field_with_name(field.name()).map(|f| f.data_type());
            if stored.is_ok_and(|stored| stored != field.data_type()) {
                let message =
                    format!("the column {:?} is {}, not of the table's type", field.name(), field.data_type());
                return Err(Error::new(ErrorKind::InvalidData, message));
            }
        }
        let known: Vec<&str> = known.iter().map(|f| f.name().as_str()).collect();
        let fields: Vec<_> = incoming.fields().iter().filter(|f| known.contains(&f.name().as_str())).cloned().collect();
        merge.incoming = Arc::new(Schema::new(fields));
        let value = quote_ident(&self.value);
        let both = BTreeSet::from([self.value.clone()]);
        let higher = RowExpr::new(format!("source.{value} > target.{value}"), both.clone(), both);
        let values = known.iter().copied().filter(|c| *c != self.key);
        merge.clauses = vec![
            Clause::new(When::Matched, Some(higher), Then::Update(set(values))),
            Clause::new(When::NotMatched, None, Then::Insert(set(known.iter().copied()))),
        ];
        // What was read decides what is written; if the SQL has read the table as well, nothing at all may have changed.
        let policy = if target.reads_target { ConflictPolicy::CompareAndSwap } else { ConflictPolicy::Serializable };
        let action = WriteAction::Merge(Box::new(merge));
        let partitions = table.partition_columns.clone();
        let mut plan = WritePlan::new(self.name(), action, table.schema.clone(), partitions, policy);
        plan.warnings.extend(more.iter().map(|column| format!("the column {column:?} is left out")));
        Ok(plan)
    }
}

/// The report of the suite.
pub(crate) async fn report() -> Conformance {
    conformance::strategy(|| Arc::new(Highest::of("v", "id")), StrategySubject::default()).await
}

#[tokio::main]
async fn main() -> ExitCode {
    let report = report().await;
    println!("{report}");
    if report.is_clean() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
