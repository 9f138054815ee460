//! Plans of the strategies that replace, close or change rows, as values; their configuration; contracts and constraints.

use arrow::datatypes::{Field, TimeUnit};
use chrono::{DateTime, Utc};
use duckrun_core::{
    Bound, Check, Comparison, Contract, ErrorKind, MergePlan, ReplacePlan, Replaced, SchemaChange, Then, Value, When,
};

use super::*;

const MICROS: DataType = DataType::Timestamp(TimeUnit::Microsecond, None);

fn schema(columns: &[(&str, DataType)]) -> SchemaRef {
    Arc::new(Schema::new(columns.iter().map(|(n, t)| Field::new(*n, t.clone(), true)).collect::<Vec<_>>()))
}

fn events() -> SchemaRef {
    schema(&[("id", DataType::Int64), ("At", MICROS), ("day", DataType::Date32)])
}

fn state(existing: Option<SchemaRef>, partitions: &[&str]) -> TableState {
    let partitions: Vec<String> = partitions.iter().map(|p| (*p).to_owned()).collect();
    let facts = existing.map(|schema| TableFacts::new(7, schema, partitions, BTreeMap::new()));
    TableState::new(facts, false, TableOptions::default())
}

fn replace(plan: &WritePlan) -> &ReplacePlan {
    match &plan.action {
        WriteAction::Replace(plan) => plan,
        other => panic!("{other:?}"),
    }
}

fn merge(plan: &WritePlan) -> &MergePlan {
    match &plan.action {
        WriteAction::Merge(plan) => plan,
        other => panic!("{other:?}"),
    }
}

fn at(text: &str) -> DateTime<Utc> {
    text.parse().unwrap()
}

fn labels(batches: &Microbatch, now: &str, fresh: bool) -> Vec<String> {
    batches.runs(at(now), fresh).unwrap().unwrap().into_iter().map(|run| run.label).collect()
}

#[test]
fn windows_follow_dbt() {
    // The steps of dbt's own test (microbatch_daily): begin 2020-01-01, a lookback of one day.
    let daily = Microbatch::new("at", BatchSize::Day).begin(at("2020-01-01T10:00:00Z")).lookback(1);
    assert_eq!(labels(&daily, "2020-01-03T13:57:00Z", true), ["2020-01-01", "2020-01-02", "2020-01-03"]);
    assert_eq!(labels(&daily, "2020-01-04T14:57:00Z", false), ["2020-01-03", "2020-01-04"]);
    let monthly = Microbatch::new("at", BatchSize::Month).lookback(2);
    assert_eq!(labels(&monthly, "2024-03-31T23:59:59Z", false), ["2024-01", "2024-02", "2024-03"]);
    let yearly = Microbatch::new("at", BatchSize::Year).lookback(0);
    assert_eq!(labels(&yearly, "2024-02-29T00:00:00Z", false), ["2024"]);
    let hourly =
        Microbatch::new("at", BatchSize::Hour).begin(at("2024-02-28T22:30:00Z")).end(at("2024-02-29T00:15:00Z"));
    let runs = hourly.runs(at("2030-01-01T00:00:00Z"), true).unwrap().unwrap();
    assert_eq!(
        runs.iter().map(|r| r.label.as_str()).collect::<Vec<_>>(),
        ["2024-02-28T22", "2024-02-28T23", "2024-02-29T00"]
    );
    assert_eq!(runs[0].variables["batch_start"], Value::Text("2024-02-28 22:00:00".into()));
    assert_eq!(runs[2].variables["batch_end"], Value::Text("2024-02-29 00:15:00".into()));
    let unknown = Microbatch::new("at", BatchSize::Day);
    assert!(unknown.runs(at("2024-01-01T00:00:00Z"), true).unwrap_err().message().contains("begin"));
    let long = Microbatch::new("at", BatchSize::Hour).begin(at("1900-01-01T00:00:00Z"));
    assert!(long.runs(at("2024-01-01T00:00:00Z"), true).unwrap_err().message().contains("larger batches"));
    let backwards =
        Microbatch::new("", BatchSize::Day).begin(at("2024-01-02T00:00:00Z")).end(at("2024-01-01T00:00:00Z"));
    assert_eq!(backwards.validate(&TableOptions::default()).len(), 2);
}

#[test]
fn a_window_is_a_range_in_the_columns_own_type() {
    let window = |column: &str| MicrobatchWindow::new(column, at("2024-03-01T00:00:00Z"), at("2024-03-01T12:00:00Z"));
    let plan = window("AT").plan(&state(Some(events()), &[]), &events()).unwrap();
    let replace = replace(&plan);
    let Replaced::Where(rows) = &replace.rows else { panic!("{replace:?}") };
    assert_eq!(
        rows.sql,
        "target.\"At\" >= TIMESTAMP '2024-03-01 00:00:00.000000' AND target.\"At\" < TIMESTAMP '2024-03-01 12:00:00.000000'"
    );
    assert_eq!(rows.bounds[1], Bound::new("At", Comparison::Less, "TIMESTAMP '2024-03-01 12:00:00.000000'"));
    assert_eq!(replace.check.as_ref().unwrap().sql, "source.\"At\" IS NOT NULL");
    assert!(replace.keep.as_ref().unwrap().sql.starts_with("source.\"At\" >= "));
    assert_eq!(plan.conflict, ConflictPolicy::Serializable);
    // Half a day is a whole one to a column of days: `day < noon` is `day < tomorrow`.
    let plan = window("day").plan(&state(Some(events()), &[]), &events()).unwrap();
    let Replaced::Where(rows) = &super::changes_tests::replace(&plan).rows else { panic!() };
    assert_eq!(rows.sql, "target.\"day\" >= DATE '2024-03-01' AND target.\"day\" < DATE '2024-03-02'");
    assert!(
        window("id").plan(&state(Some(events()), &[]), &events()).unwrap_err().message().contains("must be a date")
    );
    assert!(window("nope").plan(&state(Some(events()), &[]), &events()).is_err());
    let fresh = window("at").plan(&state(None, &[]), &events()).unwrap();
    assert!(super::changes_tests::replace(&fresh).fresh && fresh.metadata.schema.is_some());
}

#[test]
fn replaced_rows_are_those_of_the_predicate_and_new_ones_must_fulfil_it() {
    let strategy = ReplaceWhere::new("target.day >= '2024-03-01' and ID > 0");
    let plan = strategy.plan(&state(Some(events()), &[]), &events()).unwrap();
    let replace = replace(&plan);
    let Replaced::Where(rows) = &replace.rows else { panic!("{replace:?}") };
    assert_eq!(rows.sql, r#"target."day" >= '2024-03-01' and target."id" > 0"#);
    assert_eq!(rows.bounds.len(), 2);
    assert_eq!(replace.check.as_ref().unwrap().sql, r#"source."day" >= '2024-03-01' and source."id" > 0"#);
    assert_eq!(plan.conflict, ConflictPolicy::CompareAndSwap);
    assert_eq!(strategy.plan(&state(None, &[]), &events()).unwrap().action, WriteAction::Append);
    assert_eq!(ReplaceWhere::new("day >").validate(&TableOptions::default()).len(), 1);
}

#[test]
fn overwritten_partitions_need_partitions() {
    let plan = InsertOverwrite.plan(&state(Some(events()), &["day"]), &events()).unwrap();
    assert_eq!(replace(&plan).rows, Replaced::Partitions);
    for state in [state(Some(events()), &[]), state(None, &[])] {
        assert!(InsertOverwrite.plan(&state, &events()).unwrap_err().message().contains("partition_by"));
    }
}

#[test]
fn a_delete_insert_tolerates_duplicates() {
    let strategy = DeleteInsert::on(["ID"]).predicate("id != 2").null_keys(duckrun_core::NullKeys::Equal);
    let plan = strategy.plan(&state(Some(events()), &[]), &events()).unwrap();
    let Replaced::Keys { keys, null_keys, predicates } = &replace(&plan).rows else { panic!("{plan:?}") };
    assert_eq!((keys[0].as_str(), *null_keys), ("id", duckrun_core::NullKeys::Equal));
    assert_eq!(predicates[0].sql, r#"target."id" != 2"#);
    assert!(replace(&strategy.plan(&state(None, &[]), &events()).unwrap()).fresh);
    let strategy = DeleteInsert::on(["id"]).predicate("source.id = 1");
    assert!(strategy.plan(&state(Some(events()), &[]), &events()).is_err());
}

fn history() -> SchemaRef {
    let mut fields: Vec<Field> = events().fields().iter().map(|f| f.as_ref().clone()).collect();
    fields.push(Field::new("dbt_scd_id", DataType::Utf8, true));
    fields.extend(["dbt_updated_at", "dbt_valid_from", "dbt_valid_to"].map(|name| Field::new(name, MICROS, true)));
    Arc::new(Schema::new(fields))
}

#[test]
fn a_history_has_dbts_columns_and_closes_changed_rows() {
    let strategy = Scd2::on(["id"]).updated_at("at").invalidate_hard_deletes();
    let fresh = strategy.plan(&state(None, &[]), &events()).unwrap();
    assert_eq!(fresh.schema, history());
    let Then::Insert(row) = &merge(&fresh).clauses[0].then else { panic!("{fresh:?}") };
    let value = |column: &str| row.iter().find(|a| a.column == column).unwrap().value.sql.clone();
    assert_eq!(
        value("dbt_scd_id"),
        r#"md5(coalesce(CAST(source."id" AS VARCHAR), '') || '|' || coalesce(CAST(source."At" AS VARCHAR), ''))"#
    );
    assert_eq!((value("dbt_valid_from"), value("dbt_valid_to")), (r#"source."At""#.to_owned(), "NULL".to_owned()));

    let plan = strategy.plan(&state(Some(history()), &[]), &events()).unwrap();
    let merge = merge(&plan);
    assert_eq!(merge.predicates[0].sql, r#"target."dbt_valid_to" IS NULL"#);
    assert_eq!(merge.incoming, events());
    let [close, open, gone] = merge.clauses.as_slice() else { panic!("{merge:?}") };
    assert_eq!(close.condition.as_ref().unwrap().sql, r#"target."dbt_valid_from" < source."At""#);
    assert!(close.also_insert && open.when == When::NotMatched && gone.when == When::NotMatchedBySource);
    assert_eq!(gone.condition.as_ref().unwrap().sql, r#"target."dbt_valid_to" IS NULL"#);
    let Then::Update(set) = &gone.then else { panic!("{gone:?}") };
    assert_eq!(
        (set[0].column.as_str(), set[0].value.sql.as_str()),
        ("dbt_valid_to", "CAST(getvariable('duckrun_now') AS TIMESTAMP)")
    );
    assert!(plan.warnings.is_empty() && plan.metadata.is_empty());
}

#[test]
fn a_history_compares_columns() {
    let changed = |strategy: Scd2, rows: SchemaRef, change: SchemaChange| {
        let mut state = state(Some(history()), &[]);
        state.options.on_schema_change = change;
        strategy.plan(&state, &rows).map(|plan| merge(&plan).clauses[0].condition.clone().unwrap().sql)
    };
    let all = changed(Scd2::on(["id"]).check_all(), events(), SchemaChange::Ignore).unwrap();
    assert_eq!(all, r#"target."At" IS DISTINCT FROM source."At" OR target."day" IS DISTINCT FROM source."day""#);
    let day = changed(Scd2::on(["id"]).check(["DAY"]), events(), SchemaChange::Ignore).unwrap();
    assert_eq!(day, r#"target."day" IS DISTINCT FROM source."day""#);
    let wide = schema(&[("id", DataType::Int64), ("day", DataType::Date32), ("new", DataType::Utf8)]);
    assert!(changed(Scd2::on(["id"]).check(["new"]), wide.clone(), SchemaChange::Ignore).is_err());
    assert_eq!(changed(Scd2::on(["id"]).check_all(), wide.clone(), SchemaChange::AppendNewColumns).unwrap(), "TRUE");
    let kept = changed(Scd2::on(["id"]).check_all(), wide, SchemaChange::Ignore).unwrap();
    assert_eq!(kept, r#"target."day" IS DISTINCT FROM source."day""#);
    let own = schema(&[("id", DataType::Int64), ("dbt_valid_to", DataType::Date32)]);
    assert!(
        changed(Scd2::on(["id"]).check_all(), own, SchemaChange::Ignore)
            .unwrap_err()
            .message()
            .contains("dbt_valid_to")
    );
    let e = Scd2::on(["id"]).check_all().plan(&state(Some(events()), &[]), &events()).unwrap_err();
    assert!(e.message().contains("no history"), "{e}");
    assert_eq!(Scd2::on(["id"]).validate(&TableOptions::default()).len(), 1);
}

#[test]
fn deletes_and_updates_need_a_table_and_no_rows() {
    let none = Arc::new(Schema::empty());
    let plan = Delete::rows_where("day < '2020-01-01'").plan(&state(Some(events()), &[]), &none).unwrap();
    let clause = &merge(&plan).clauses[0];
    assert_eq!((clause.when, &clause.then), (When::NotMatchedBySource, &Then::Delete));
    assert_eq!(clause.condition.as_ref().unwrap().bounds.len(), 1);
    assert!(!merge(&plan).source && merge(&plan).keys.is_empty());
    assert!(merge(&Delete::all().plan(&state(Some(events()), &[]), &none).unwrap()).clauses[0].condition.is_none());
    let update = Update::new([("ID", "id + 1")]).rows_where("id > 0");
    let plan = update.plan(&state(Some(events()), &[]), &none).unwrap();
    let Then::Update(set) = &merge(&plan).clauses[0].then else { panic!("{plan:?}") };
    assert_eq!((set[0].column.as_str(), set[0].value.sql.as_str()), ("id", r#"target."id" + 1"#));
    for strategy in [&Delete::all() as &dyn Strategy, &update] {
        assert!(!strategy.has_source());
        assert_eq!(strategy.plan(&state(None, &[]), &none).unwrap_err().kind(), ErrorKind::NotFound);
    }
    let bad = Update::new([("a", "1"), ("A", "(select 1)")]).rows_where(";");
    assert_eq!(bad.validate(&TableOptions { full_refresh: true, ..TableOptions::default() }).len(), 4);
}

#[test]
fn configurations_make_strategies() {
    let built = |json: &str| serde_json::from_str::<StrategyConfig>(json).unwrap().build();
    for (json, name) in [
        ("{}", "append"),
        (r#"{"unique_key": "id"}"#, "merge"),
        (r#"{"unique_key": ""}"#, "append"),
        (r#"{"unique_key": []}"#, "append"),
        (
            r#"{"unique_key": ["id", "id"], "merge_exclude_columns": ["msg"], "incremental_predicates": "id > 2"}"#,
            "merge",
        ),
        (r#"{"incremental_strategy": "delete+insert", "unique_key": "id"}"#, "delete_insert"),
        (
            r#"{"strategy": "microbatch", "event_time": "at", "batch_size": "day", "begin": "2024-01-01", "lookback": 3}"#,
            "microbatch",
        ),
        (r#"{"strategy": "snapshot", "unique_key": "id", "check_cols": "all"}"#, "scd2"),
        (r#"{"strategy": "full_sync", "unique_key": "id", "delete_missing_where": "x > 1"}"#, "full_sync"),
        (r#"{"strategy": "insert", "unique_key": "id", "dedup_by": "at desc"}"#, "insert"),
        (r#"{"strategy": "replace_where", "replace_where": "x > 1"}"#, "replace_where"),
        (r#"{"strategy": "insert_overwrite"}"#, "insert_overwrite"),
        (r#"{"strategy": "overwrite", "keep_schema": true}"#, "overwrite"),
    ] {
        let strategy = built(json).unwrap();
        assert_eq!(strategy.name(), name, "{json}");
        assert_eq!(strategy.validate(&TableOptions::default()), Vec::<String>::new(), "{json}");
    }
    let clauses = r#"{"unique_key": "id", "clauses": [
        {"when": "matched", "then": "delete", "condition": "source.gone"},
        {"when": "not_matched", "then": "insert", "set": [["id", "id"]]}]}"#;
    assert_eq!(built(clauses).unwrap().name(), "merge");
    let e = built(r#"{"strategy": "microbatch", "unique_key": "id", "fenced": true, "event_time": "at"}"#).unwrap_err();
    for expected in ["3 problems", "does not take unique_key", "does not take fenced", "needs batch_size"] {
        assert!(e.message().contains(expected), "{expected}: {e}");
    }
    assert!(built(r#"{"strategy": "upsert"}"#).unwrap_err().message().contains("delete_insert, replace_where"));
    let wrong = built(r#"{"unique_key": "id", "clauses": [{"when": "matched", "then": "insert"}]}"#).unwrap_err();
    assert!(wrong.message().contains("Matched and Insert"), "{wrong}");
    assert!(serde_json::from_str::<StrategyConfig>(r#"{"unique_keys": "id"}"#).is_err());
    let config: StrategyConfig =
        serde_json::from_str(r#"{"begin": "2024-01-31 12:00:00", "check_cols": ["a"]}"#).unwrap();
    assert_eq!(config.begin, Some(at("2024-01-31T12:00:00Z")));
    let again: StrategyConfig = serde_json::from_str(&serde_json::to_string(&config).unwrap()).unwrap();
    assert_eq!(again, config);
}

#[test]
fn a_contract_names_types_and_holds_the_written_rows() {
    let contract = Contract::default().column("ID", "bigint").column("at", "timestamp").column("day", "DATE");
    let mut state = state(Some(events()), &[]);
    state.options.contract = Some(contract.clone().not_null("day").unique(["id", "DAY"]));
    assert_eq!(validate_options(&state.options), Vec::<String>::new());
    let plan = Append::default().plan(&state, &events()).unwrap();
    assert_eq!(plan.checks, [Check::Unique(vec!["id".to_owned(), "day".to_owned()])]);
    assert!(!plan.schema.field(2).is_nullable() && plan.metadata.is_empty());
    state.existing = None;
    let plan = Merge::on(["id"]).plan(&state, &events()).unwrap();
    assert!(!plan.metadata.schema.as_ref().unwrap().field(2).is_nullable());
    let other = schema(&[("id", DataType::Int32), ("at", MICROS), ("more", DataType::Utf8)]);
    let e = Append::default().plan(&state, &other).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::InvalidData);
    for expected in ["\"ID\" is Int32 instead of bigint", "\"day\" is missing", "\"more\" is not in it"] {
        assert!(e.message().contains(expected), "{expected}: {e}");
    }
    state.options.contract = Some(Contract::default().not_null("id"));
    Append::default().plan(&state, &other).unwrap();
    state.options.contract = Some(contract.column("x", "TIME").column("id", "INT").unique(Vec::<String>::new()));
    assert_eq!(validate_options(&state.options).len(), 3, "{:?}", validate_options(&state.options));
    for (text, expected) in
        [("string", DataType::Utf8), ("numeric(9,2)", DataType::Decimal128(9, 2)), ("TIMESTAMP", MICROS)]
    {
        let contract = Contract::default().column("c", text);
        let mut state = super::changes_tests::state(None, &[]);
        state.options.contract = Some(contract);
        Append::default().plan(&state, &schema(&[("c", expected)])).unwrap();
    }
}

#[test]
fn constraints_of_the_table_are_checked_or_refused_by_name() {
    let mut facts = TableFacts::new(1, events(), Vec::new(), BTreeMap::new());
    facts.properties.insert("delta.constraints.positive".into(), "ID > 0 AND `day` IS NOT NULL".into());
    let mut state = TableState::new(Some(facts), false, TableOptions::default());
    let none = Arc::new(Schema::empty());
    for plan in [
        Append::default().plan(&state, &events()).unwrap(),
        Merge::on(["id"]).plan(&state, &events()).unwrap(),
        Overwrite::default().plan(&state, &events()).unwrap(),
        Update::new([("id", "1")]).plan(&state, &none).unwrap(),
    ] {
        let [Check::Holds { name, condition }] = plan.checks.as_slice() else { panic!("{plan:?}") };
        assert_eq!((name.as_str(), condition.sql.as_str()), ("positive", r#""id" > 0 AND "day" IS NOT NULL"#));
    }
    let table = state.existing.as_mut().unwrap();
    table.properties.insert("delta.constraints.odd".into(), "id IN (SELECT 1)".into());
    let e = Append::default().plan(&state, &events()).unwrap_err();
    assert!(e.kind() == ErrorKind::Unsupported && e.message().contains("\"odd\""), "{e}");
}
