//! Plans as values: no table, no engine.

use super::*;
use arrow::datatypes::{Field, TimeUnit};
use duckrun_core::SchemaChange;

fn schema(columns: &[(&str, DataType)]) -> SchemaRef {
    Arc::new(Schema::new(columns.iter().map(|(n, t)| Field::new(*n, t.clone(), true)).collect::<Vec<_>>()))
}

fn table(columns: &[(&str, DataType)], partitions: &[&str]) -> TableFacts {
    TableFacts::new(4, schema(columns), partitions.iter().map(|p| (*p).to_owned()).collect(), BTreeMap::new())
}

fn state(existing: Option<TableFacts>, options: TableOptions) -> TableState {
    TableState::new(existing, false, options)
}

#[test]
fn a_first_run_creates_under_every_strategy() {
    let incoming = schema(&[("a", DataType::Int64)]);
    for name in ["overwrite", "append", "safeappend"] {
        let plan = strategy_by_name(name).unwrap().plan(&state(None, TableOptions::default()), &incoming).unwrap();
        assert_eq!(plan.metadata.schema.as_ref(), Some(&incoming), "{name}");
        assert_eq!(plan.metadata.properties["delta.checkpointInterval"], "10");
    }
}

#[test]
fn append_is_fenced_by_itself_when_the_target_is_read() {
    let incoming = schema(&[("a", DataType::Int64)]);
    let mut state = state(Some(table(&[("a", DataType::Int64)], &[])), TableOptions::default());
    assert_eq!(Append::default().plan(&state, &incoming).unwrap().conflict, ConflictPolicy::Blind);
    assert_eq!(Append::default().fenced().plan(&state, &incoming).unwrap().conflict, ConflictPolicy::CompareAndSwap);
    state.reads_target = true;
    assert_eq!(Append::default().plan(&state, &incoming).unwrap().conflict, ConflictPolicy::CompareAndSwap);
}

#[test]
fn columns_fit_by_name_and_widen() {
    let t = table(&[("A", DataType::Int64), ("b", DataType::Utf8)], &[]);
    let f = fit(&t.schema, &schema(&[("b", DataType::Utf8), ("a", DataType::Int32)]), SchemaChange::Ignore).unwrap();
    assert_eq!(f.schema, t.schema);
    assert!(f.warnings.is_empty() && f.added.is_none());
    let e = fit(&t.schema, &schema(&[("a", DataType::Float64)]), SchemaChange::Ignore).unwrap_err();
    assert!(e.message().contains("\"A\"") && e.message().contains("Float64"), "{e}");
    let micros = DataType::Timestamp(TimeUnit::Microsecond, None);
    assert!(fit(&t.schema, &schema(&[("b", micros)]), SchemaChange::Ignore).is_err());
}

#[test]
fn every_mode_of_schema_change() {
    let t = schema(&[("a", DataType::Int64), ("b", DataType::Utf8)]);
    let incoming = schema(&[("a", DataType::Int64), ("c", DataType::Date32)]);
    let mut ignored = fit(&t, &incoming, SchemaChange::Ignore).unwrap();
    assert_eq!(ignored.dropped, ["c"]);
    ignored.warn_dropped(|_| false);
    assert_eq!((ignored.schema.fields().len(), ignored.warnings.len()), (2, 1));
    let added = fit(&t, &incoming, SchemaChange::AppendNewColumns).unwrap();
    assert_eq!(added.added.unwrap().field(2).name(), "c");
    let synced = fit(&t, &incoming, SchemaChange::SyncAllColumns).unwrap();
    assert!(synced.warnings[0].contains("\"b\"") && synced.warnings[0].contains("never dropped"));
    let e = fit(&t, &incoming, SchemaChange::Fail).unwrap_err();
    assert!(e.message().contains("added [c], missing [b], retyped []"), "{e}");
}

#[test]
fn what_cannot_fit_is_listed_at_once() {
    let t = schema(&[("a", DataType::Int32), ("b", DataType::Int32), ("c", DataType::Utf8)]);
    let both = schema(&[("a", DataType::Float64), ("b", DataType::Utf8), ("c", DataType::Utf8)]);
    let e = fit(&t, &both, SchemaChange::AppendNewColumns).unwrap_err();
    assert!(e.message().contains("\"a\" is Float64") && e.message().contains("\"b\" is Utf8"), "{e}");
    let twins = schema(&[("a", DataType::Int32), ("A", DataType::Int32)]);
    assert!(fit(&t, &twins, SchemaChange::Ignore).unwrap_err().message().contains("differ only in case"));
    let table = Schema::new(vec![Field::new("a", DataType::Int32, false), Field::new("b", DataType::Int32, true)]);
    let f = fit(&table, &schema(&[("B", DataType::Int16)]), SchemaChange::Ignore).unwrap();
    assert!(f.check_required().unwrap_err().message().contains("\"a\" must not be NULL"));
    assert_eq!((f.incoming.field(0).name().as_str(), f.incoming.field(0).data_type()), ("b", &DataType::Int32));
}

#[test]
fn partitions_are_checked() {
    let incoming = schema(&[("a", DataType::Int64), ("p", DataType::Utf8)]);
    let by = |columns: &[&str]| TableOptions {
        partition_by: Some(columns.iter().map(|c| (*c).to_owned()).collect()),
        ..TableOptions::default()
    };
    let plan = Append::default().plan(&state(None, by(&["P"])), &incoming).unwrap();
    assert_eq!(plan.partition_columns, ["p"]);
    for bad in [&["x"][..], &["a", "p"]] {
        assert!(Append::default().plan(&state(None, by(bad)), &incoming).is_err(), "{bad:?}");
    }
    assert_eq!(Append::default().validate(&by(&["p", "P"])).len(), 1);
    let t = table(&[("a", DataType::Int64), ("p", DataType::Utf8)], &["p"]);
    assert!(Append::default().plan(&state(Some(t.clone()), by(&["a"])), &incoming).is_err());
    assert!(Append::default().plan(&state(Some(t), by(&["p"])), &incoming).is_ok());
}

#[test]
fn a_refresh_replaces_schema_and_partitioning() {
    let t = table(&[("a", DataType::Int32), ("p", DataType::Utf8)], &["p"]);
    let incoming = schema(&[("a", DataType::Int64), ("q", DataType::Utf8)]);
    let options = TableOptions { full_refresh: true, partition_by: Some(vec!["q".into()]), ..TableOptions::default() };
    let plan = SafeAppend.plan(&state(Some(t.clone()), options), &incoming).unwrap();
    assert_eq!(plan.action, WriteAction::Overwrite);
    assert_eq!(plan.metadata.partition_columns.as_deref(), Some(&["q".to_owned()][..]));
    assert!(Overwrite::default().plan(&state(Some(t), TableOptions::default()), &incoming).is_err());
}

#[test]
fn all_problems_at_once() {
    let options = TableOptions {
        full_refresh: true,
        partition_by: Some(vec![String::new()]),
        properties: BTreeMap::from([("delta.checkpointInterval".to_owned(), "0".to_owned())]),
        ..TableOptions::default()
    };
    assert_eq!(Overwrite::default().keep_schema().validate(&options).len(), 3);
}
