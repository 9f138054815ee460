//! Plans of merges, as values.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use duckrun_core::{
    Assignment, Clause, ConflictPolicy, Duplicates, MergePlan, NullKeys, SchemaChange, Strategy, TableFacts,
    TableOptions, TableState, Then, WriteAction, WritePlan,
};

use super::*;
use crate::strategy::Insert;

fn schema(columns: &[(&str, DataType)]) -> SchemaRef {
    Arc::new(Schema::new(columns.iter().map(|(n, t)| Field::new(*n, t.clone(), true)).collect::<Vec<_>>()))
}

fn table() -> TableFacts {
    let schema =
        schema(&[("Id", DataType::Int64), ("name", DataType::Utf8), ("price", DataType::Int64), ("p", DataType::Utf8)]);
    TableFacts::new(4, schema, vec!["p".to_owned()], BTreeMap::new())
}

fn incoming() -> SchemaRef {
    schema(&[("id", DataType::Int32), ("name", DataType::Utf8), ("price", DataType::Int64), ("op", DataType::Utf8)])
}

fn planned(strategy: &impl Strategy, options: TableOptions) -> Result<WritePlan> {
    assert_eq!(strategy.validate(&options), Vec::<String>::new());
    strategy.plan(&TableState::new(Some(table()), false, options), &incoming())
}

fn merge(plan: &WritePlan) -> &MergePlan {
    match &plan.action {
        WriteAction::Merge(plan) => plan,
        other => panic!("{other:?}"),
    }
}

/// A clause in one line: `Matched [condition] update a = .., b = ..`.
fn line(clause: &Clause) -> String {
    let set = |list: &[Assignment]| {
        list.iter().map(|a| format!("{}={}", a.column, a.value.sql)).collect::<Vec<_>>().join(", ")
    };
    let then = match &clause.then {
        Then::Update(list) => format!("update {}", set(list)),
        Then::Insert(list) => format!("insert {}", set(list)),
        Then::Delete => "delete".to_owned(),
        _ => "nothing".to_owned(),
    };
    let condition = clause.condition.as_ref().map_or_else(String::new, |c| format!(" [{}]", c.sql));
    format!("{:?}{condition} {then}", clause.when)
}

fn lines(plan: &WritePlan) -> Vec<String> {
    merge(plan).clauses.iter().map(line).collect()
}

const ALL: &str = r#"insert Id=source."Id", name=source."name", price=source."price""#;

#[test]
fn an_upsert_keeps_stored_keys_and_columns_that_the_source_lacks() {
    let plan = planned(&Merge::on(["ID"]), TableOptions::default()).unwrap();
    assert_eq!(
        lines(&plan),
        [r#"Matched update name=source."name", price=source."price""#.to_owned(), format!("NotMatched {ALL}")]
    );
    let merge = merge(&plan);
    assert_eq!((merge.keys.as_slice(), merge.null_keys), (&["Id".to_owned()][..], NullKeys::Refuse));
    assert!(merge.source && merge.skip_unchanged && !merge.fresh);
    // The incoming columns have the table's spelling and types; those of their own are kept for conditions.
    assert_eq!(merge.incoming.field(0).data_type(), &DataType::Int64);
    assert_eq!(
        merge.incoming.fields().iter().map(|f| f.name().as_str()).collect::<Vec<_>>(),
        ["Id", "name", "price", "op"]
    );
    assert_eq!(plan.conflict, ConflictPolicy::Serializable);
    assert_eq!(plan.schema, table().schema);
    assert_eq!(plan.partition_columns, ["p"]);
    assert!(plan.warnings[0].contains("\"op\""));
}

#[test]
fn a_sql_that_reads_the_table_is_compared_and_swapped() {
    let state = TableState::new(Some(table()), true, TableOptions::default());
    assert_eq!(Merge::on(["id"]).plan(&state, &incoming()).unwrap().conflict, ConflictPolicy::CompareAndSwap);
}

#[test]
fn short_options_become_clauses() {
    let strategy = Merge::on(["id"])
        .exclude_columns(["NAME"])
        .set("price", "source.price + target.price")
        .update_condition("source.name <> target.name")
        .insert_condition("price > 0")
        .delete_when("op = 'D'")
        .predicate("p = 'x' and target.price > 3")
        .update_missing([("price", "price - 1")], Some("p <> 'y'"))
        .delete_missing()
        .dedup_by("op desc")
        .null_keys(NullKeys::Equal)
        .skip_unchanged(false);
    let plan = planned(&strategy, TableOptions::default()).unwrap();
    assert_eq!(
        lines(&plan),
        [
            r#"Matched [source."op" = 'D'] delete"#.to_owned(),
            r#"Matched [source."name" <> target."name"] update price=source."price" + target."price""#.to_owned(),
            format!(r#"NotMatched [(source."price" > 0) AND ((source."op" = 'D') IS NOT TRUE)] {ALL}"#),
            r#"NotMatchedBySource [target."p" <> 'y'] update price=target."price" - 1"#.to_owned(),
            "NotMatchedBySource delete".to_owned(),
        ]
    );
    let merge = merge(&plan);
    assert_eq!(merge.predicates[0].sql, r#"target."p" = 'x' and target."price" > 3"#);
    assert_eq!(merge.predicates[0].bounds.len(), 2);
    assert_eq!(merge.duplicates, Duplicates::KeepFirst(r#"source."op" desc"#.to_owned()));
    assert!(!merge.skip_unchanged);
    assert!(plan.warnings.is_empty(), "a column that a condition uses is not dropped: {:?}", plan.warnings);
}

#[test]
fn update_columns_are_exactly_those() {
    let plan = planned(&Merge::on(["id"]).update_columns(["price"]), TableOptions::default()).unwrap();
    assert_eq!(lines(&plan)[0], r#"Matched update price=source."price""#);
    let e = planned(&Merge::on(["id"]).update_columns(["p"]), TableOptions::default()).unwrap_err();
    assert!(e.message().contains("\"p\", which the SQL's result lacks"), "{e}");
    let e = planned(&Merge::on(["id"]).exclude_columns(["nope"]), TableOptions::default()).unwrap_err();
    assert!(e.message().contains("\"nope\"") && e.message().contains("Id, name, price, p"), "{e}");
}

#[test]
fn clauses_say_everything() {
    let strategy = Merge::on(["id"])
        .aliases("t", "s")
        .clause(MergeClause::matched_delete().when("s.op = 'D'"))
        .clause(MergeClause::matched_do_nothing().when("t.price > s.price"))
        .clause(MergeClause::matched_update_set([("name", "upper(s.name)"), ("p", "'new'")]).when("t.p = 'old'"))
        .clause(MergeClause::matched_update())
        .clause(MergeClause::not_matched_insert_values([("id", "id + 1"), ("p", "op")]).when("op is not null"))
        .clause(MergeClause::not_matched_insert())
        .clause(MergeClause::not_matched_by_source_delete().when("t.p = 'z'"))
        .clause(MergeClause::not_matched_by_source_update([("name", "name || '!'")]));
    let plan = planned(&strategy, TableOptions::default()).unwrap();
    assert_eq!(
        lines(&plan),
        [
            r#"Matched [source."op" = 'D'] delete"#,
            r#"Matched [target."price" > source."price"] nothing"#,
            r#"Matched [target."p" = 'old'] update name=upper(source."name"), p='new'"#,
            r#"Matched update name=source."name", price=source."price""#,
            r#"NotMatched [source."op" is not null] insert Id=source."Id" + 1, p=source."op""#,
            &format!("NotMatched {ALL}"),
            r#"NotMatchedBySource [target."p" = 'z'] delete"#,
            r#"NotMatchedBySource update name=target."name" || '!'"#,
        ]
    );
}

#[test]
fn all_problems_at_once_before_anything_is_read() {
    let strategy = Merge::on(["id", "ID", ""])
        .update_columns(["a"])
        .exclude_columns(Vec::<String>::new())
        .update_condition("a = ")
        .predicate("(select 1) = 1")
        .set("a", "1; drop table x")
        .dedup_by("a b")
        .aliases("t", "T")
        .clause(MergeClause::matched_update())
        .clause(MergeClause::matched_delete())
        .clause(MergeClause::not_matched_by_source_update(Vec::<(String, String)>::new()));
    let problems = strategy.validate(&TableOptions::default());
    for expected in [
        "names \"ID\" twice",
        "without a name",
        "update_columns and exclude_columns contradict",
        "exclude_columns names no column",
        "the update condition \"a = \"",
        "a subquery is not allowed",
        "it must be one expression",
        "dedup_by \"a b\"",
        "two names",
        "clauses say everything: update_columns, exclude_columns, update_condition, set cannot",
        "clause 2 can never apply",
        "clause 3 sets no column",
    ] {
        assert!(problems.iter().any(|p| p.contains(expected)), "{expected}: {problems:#?}");
    }
    let swapped = Merge::on(["id"]).aliases("source", "x").validate(&TableOptions::default());
    assert!(swapped[0].contains("two names"), "{swapped:?}");
    assert!(Merge::on(Vec::<String>::new()).validate(&TableOptions::default())[0].contains("names no column"));
}

#[test]
fn what_the_schemas_show_is_refused_by_name() {
    let refused = |strategy: Merge| planned(&strategy, TableOptions::default()).unwrap_err().message().to_owned();
    assert!(refused(Merge::on(["id", "thisisnotacolumn"])).contains("thisisnotacolumn"));
    assert!(refused(Merge::on(["p"])).contains("which the SQL's result lacks"));
    assert!(refused(Merge::on(["id"]).update_condition("name = 'x'")).contains("write target.name or source.name"));
    assert!(refused(Merge::on(["id"]).insert_condition("target.name = 'x'")).contains("only incoming rows"));
    assert!(refused(Merge::on(["id"]).delete_when("op")).contains("not a BOOLEAN"));
    assert!(refused(Merge::on(["id"]).set("nope", "1")).contains("\"nope\""));
    assert!(refused(Merge::on(["id"]).delete_missing_where("op = 'x'")).contains("\"op\""));
}

#[test]
fn a_first_run_inserts_everything_but_what_is_marked_as_deleted() {
    let strategy =
        Merge::on(["ID"]).delete_when("op = 'D'").update_condition("source.price > target.price").dedup_by("op");
    let refresh = TableOptions { full_refresh: true, partition_by: Some(vec![]), ..TableOptions::default() };
    for (existing, options) in [(None, TableOptions::default()), (Some(table()), refresh)] {
        let plan = strategy.plan(&TableState::new(existing, false, options), &incoming()).unwrap();
        let merge = merge(&plan);
        assert!(merge.fresh && merge.predicates.is_empty());
        assert_eq!((merge.keys[0].as_str(), &merge.incoming), ("id", &incoming()));
        assert_eq!(plan.metadata.schema.as_ref().map(|s| s.fields().len()), Some(4));
        assert_eq!(plan.conflict, ConflictPolicy::CompareAndSwap);
        assert_eq!(merge.duplicates, Duplicates::KeepFirst(r#"source."op""#.to_owned()));
        let insert = line(&merge.clauses[0]);
        assert!(
            insert.starts_with(r#"NotMatched [(source."op" = 'D') IS NOT TRUE] insert id=source."id""#),
            "{insert}"
        );
        assert_eq!(merge.clauses.len(), 1);
    }
}

#[test]
fn schema_changes_reach_only_what_the_update_sets() {
    let options = |change| TableOptions { on_schema_change: change, ..TableOptions::default() };
    let plan = planned(&Merge::on(["id"]), options(SchemaChange::AppendNewColumns)).unwrap();
    assert_eq!(plan.metadata.schema.as_ref().unwrap().field(4).name(), "op");
    assert!(lines(&plan)[0].contains(r#"op=source."op""#) && lines(&plan)[1].contains(r#"op=source."op""#));
    let only = Merge::on(["id"]).update_columns(["price"]);
    let plan = planned(&only, options(SchemaChange::SyncAllColumns)).unwrap();
    assert!(!lines(&plan)[0].contains("op") && lines(&plan)[1].contains(r#"op=source."op""#));
    assert!(plan.warnings.iter().any(|w| w.contains("\"p\"") && w.contains("never dropped")));
    assert!(planned(&Merge::on(["id"]), options(SchemaChange::Fail)).is_err());
}

#[test]
fn a_column_that_must_not_be_null_matters_only_where_rows_are_inserted() {
    let strict = Schema::new(vec![Field::new("id", DataType::Int64, true), Field::new("must", DataType::Int64, false)]);
    let facts = TableFacts::new(1, Arc::new(strict), Vec::new(), BTreeMap::new());
    let state = TableState::new(Some(facts), false, TableOptions::default());
    let rows = schema(&[("id", DataType::Int64)]);
    assert!(Merge::on(["id"]).plan(&state, &rows).unwrap_err().message().contains("\"must\""));
    let updates = Merge::on(["id"]).clause(MergeClause::matched_update_set([("must", "must + 1")]));
    updates.plan(&state, &rows).unwrap();
    let given = Merge::on(["id"]).clause(MergeClause::not_matched_insert_values([("id", "id"), ("must", "7")]));
    given.plan(&state, &rows).unwrap();
}

#[test]
fn an_insert_has_no_other_clause_and_a_sync_deletes() {
    let plan = planned(&Insert::on(["id"]).insert_condition("price > 1"), TableOptions::default()).unwrap();
    assert_eq!(
        (plan.strategy.as_str(), lines(&plan)),
        ("insert", vec![format!(r#"NotMatched [source."price" > 1] {ALL}"#)])
    );
    assert!(!plan.action.removes());
    let sync = FullSync::on(["id"]).merge(|m| m.update_columns(["name"])).delete_where("p = 'x'");
    let plan = planned(&sync, TableOptions::default()).unwrap();
    assert_eq!(plan.strategy, "full_sync");
    assert_eq!(lines(&plan)[2], r#"NotMatchedBySource [target."p" = 'x'] delete"#);
}
