//! The incoming rows, laid by in the engine: computed once, checked for what a merge cannot decide, asked for their ranges.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::compute::concat_batches;
use arrow::datatypes::{DataType, Field, Int64Type, Schema, SchemaRef};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use duckrun_core::{
    BatchStream, ColumnRange, Duplicates, EngineSession, Error, ErrorKind, NullKeys, Query, RelationName, Result,
    quote_ident,
};

use super::sql::SOURCE;
use super::unique;

/// What is done to the incoming rows before anything is joined.
#[derive(Debug)]
pub(crate) struct Rules<'a> {
    /// The key columns; none for strategies without a key.
    pub(crate) keys: &'a [String],
    pub(crate) null_keys: NullKeys,
    pub(crate) duplicates: &'a Duplicates,
}

impl Rules<'_> {
    fn columns(&self) -> Vec<String> {
        self.keys.iter().map(|k| quote_ident(k)).collect()
    }

    fn any_null(&self) -> String {
        self.columns().iter().map(|k| format!("{k} IS NULL")).collect::<Vec<_>>().join(" OR ")
    }

    /// The condition that a row's key may be that of another row.
    fn equal_to_others(&self) -> String {
        match self.null_keys {
            NullKeys::Equal => "true".to_owned(),
            _ => format!("NOT ({})", self.any_null()),
        }
    }
}

/// Runs the query into the session's table of incoming rows, under the names and types of `incoming`, and applies the rules.
/// Returns the rows that are left.
///
/// # Errors
/// [`ErrorKind::InvalidData`] for a NULL key (with the number of rows) and for two rows with one key (with the key and the
/// count), before anything was written.
pub(crate) async fn stage(
    engine: &dyn EngineSession,
    query: &Query,
    incoming: &SchemaRef,
    rules: &Rules<'_>,
) -> Result<u64> {
    let name = RelationName::bare(SOURCE)?;
    let mut rows = engine.materialize(&name, &query.clone().with_output(nullable(incoming))).await?;
    if rules.keys.is_empty() || rows == 0 {
        return Ok(rows);
    }
    let any_null = rules.any_null();
    if rules.null_keys == NullKeys::Refuse {
        let nulls = count(engine, &format!("SELECT count(*)::BIGINT AS n FROM {SOURCE} WHERE {any_null}")).await?;
        if nulls > 0 {
            return Err(Error::new(
                ErrorKind::InvalidData,
                format!(
                    "{nulls} incoming rows have a NULL in the unique key ({}), which would be inserted again by every run; \
                     filter them, or say what a NULL key means (null_keys: distinct or equal)",
                    rules.keys.join(", ")
                ),
            ));
        }
    }
    match rules.duplicates {
        Duplicates::Allow => {}
        Duplicates::KeepFirst(order) => {
            // A row with a NULL key has no equal, unless NULL equals NULL.
            let sql = format!(
                "SELECT * EXCLUDE (__duckrun_rank) FROM (SELECT *, row_number() OVER (PARTITION BY {} ORDER BY {order}) \
                 AS __duckrun_rank FROM {SOURCE} AS source) WHERE __duckrun_rank = 1 OR NOT ({})",
                rules.columns().join(", "),
                rules.equal_to_others()
            );
            let first = RelationName::bare("__duckrun_first")?;
            rows = engine.materialize(&first, &Query::new(sql).with_output(nullable(incoming))).await?;
            engine.execute(&format!("DROP TABLE {SOURCE}; ALTER TABLE __duckrun_first RENAME TO {SOURCE}")).await?;
        }
        _ => check_all(engine, rules, incoming, rows).await?,
    }
    Ok(rows)
}

/// Refuses two incoming rows with one key. `rows` is how many there are.
///
/// # Errors
/// As [`check`].
pub(crate) async fn check_all(
    engine: &dyn EngineSession,
    rules: &Rules<'_>,
    incoming: &Schema,
    rows: u64,
) -> Result<()> {
    match unique::certainly(engine, incoming, rules.keys, rows).await? {
        true => Ok(()),
        false => check(engine, rules, SOURCE).await,
    }
}

/// Refuses two rows with one key among those of a relation of incoming rows, all of them or some.
///
/// # Errors
/// [`ErrorKind::InvalidData`] with the key and the count.
pub(crate) async fn check(engine: &dyn EngineSession, rules: &Rules<'_>, relation: &str) -> Result<()> {
    let (keys, groups) = (rules.columns().join(", "), rules.equal_to_others());
    // Half the time of counting each key's rows, which is for the message alone.
    let repeated = format!(
        "SELECT ((SELECT count(*) FROM {relation} WHERE {groups}) \
         - (SELECT count(*) FROM (SELECT DISTINCT {keys} FROM {relation} WHERE {groups})))::BIGINT AS n"
    );
    if count(engine, &repeated).await? == 0 {
        return Ok(());
    }
    let twice = format!(
        "SELECT {keys}, count(*)::BIGINT AS __duckrun_count FROM {SOURCE} WHERE {groups} GROUP BY {keys} HAVING count(*) > 1"
    );
    let sql = format!("{twice} ORDER BY __duckrun_count DESC LIMIT 1");
    let found = collected(engine.query(&Query::new(sql)).await?).await?;
    if found.num_rows() == 0 {
        return Ok(());
    }
    let all = count(engine, &format!("SELECT count(*)::BIGINT AS n FROM ({twice})")).await?;
    let key: Vec<String> = rules
        .keys
        .iter()
        .zip(found.columns())
        .map(|(name, values)| Ok(format!("{name} = {}", shown(values)?)))
        .collect::<Result<_>>()?;
    let times = found.columns().last().map_or(0, |n| n.as_primitive::<Int64Type>().value(0));
    Err(Error::new(
        ErrorKind::InvalidData,
        format!(
            "{times} incoming rows have the key ({}), and {all} keys occur more than once; aggregate the rows, or name an \
             order that keeps one of them (dedup_by)",
            key.join(", ")
        ),
    ))
}

fn shown(values: &ArrayRef) -> Result<String> {
    let options = FormatOptions::default().with_null("NULL");
    let formatter = ArrayFormatter::try_new(values.as_ref(), &options)
        .map_err(|e| Error::internal("a key cannot be shown").with_source(e))?;
    Ok(formatter.value(0).to_string())
}

/// What the keys of the incoming rows are like.
#[derive(Debug, Default)]
pub(crate) struct KeyFacts {
    /// Their ranges. Columns whose order a file's statistics do not follow are left out.
    pub(crate) ranges: Vec<ColumnRange>,
    /// How many values each column has, more or less, where the key has several.
    pub(crate) distinct: Vec<(String, u64)>,
}

/// Asks for the facts of the keys, in one pass.
pub(crate) async fn facts(
    engine: &dyn EngineSession,
    incoming: &Schema,
    keys: &[String],
    null_keys: NullKeys,
) -> Result<KeyFacts> {
    let ordered = |ty: &DataType| {
        ty.is_signed_integer()
            || matches!(ty, DataType::Decimal128(..) | DataType::Date32 | DataType::Timestamp(..) | DataType::Utf8)
    };
    let columns: Vec<&Field> =
        keys.iter().filter_map(|k| incoming.field_with_name(k).ok()).filter(|f| ordered(f.data_type())).collect();
    if columns.is_empty() {
        return Ok(KeyFacts::default());
    }
    let several = keys.len() > 1;
    let (mut list, mut fields) = (Vec::new(), Vec::new());
    for (n, field) in columns.iter().enumerate() {
        let name = quote_ident(field.name());
        let distinct = if several { format!("approx_count_distinct({name})") } else { "0".to_owned() };
        list.push(format!(
            "min({name}) AS a{n}, max({name}) AS b{n}, (count(*) - count({name}))::BIGINT AS n{n}, {distinct}::BIGINT AS d{n}"
        ));
        fields.push(Field::new(format!("a{n}"), field.data_type().clone(), true));
        fields.push(Field::new(format!("b{n}"), field.data_type().clone(), true));
        fields.push(Field::new(format!("n{n}"), DataType::Int64, true));
        fields.push(Field::new(format!("d{n}"), DataType::Int64, true));
    }
    let query = Query::new(format!("SELECT {} FROM {SOURCE}", list.join(", ")))
        .with_output(Arc::new(Schema::new(fields)))
        .with_text_as_is(true);
    let found = collected(engine.query(&query).await?).await?;
    let mut facts = KeyFacts::default();
    if found.num_rows() == 0 {
        return Ok(facts);
    }
    for (n, field) in columns.iter().enumerate() {
        let number = |at: usize| found.column(4 * n + at).as_primitive::<Int64Type>().value(0).unsigned_abs();
        let edge = |at: usize| {
            let values = found.column(4 * n + at);
            values.is_valid(0).then(|| values.slice(0, 1))
        };
        if several {
            facts.distinct.push((field.name().clone(), number(3)));
        }
        let (min, max) = (edge(0), edge(1));
        let matched_nulls = number(2) > 0 && null_keys == NullKeys::Equal;
        if min.is_none() && matched_nulls {
            // Only NULLs: no value bounds them.
            continue;
        }
        facts.ranges.push(ColumnRange::new(field.name(), min, max).with_nulls(matched_nulls));
    }
    Ok(facts)
}

/// How often a value may occur among the incoming rows, on average, for a column that is to filter.
const REPEATED: u64 = 8;

/// The key column whose values alone leave the fewest rows of the table to be looked up, where one may pay: DuckDB filters a
/// scan by the values of a join's only column, and looks every row up where there are several. For 60,000 keys of two columns in six
/// million rows that is 0.08 CPU seconds instead of 0.13, for 300,000 that match nothing 0.07 instead of 0.14 (DuckDB 2.0.0 in its
/// Python package, two threads, 0.06 of it the scan).
pub(crate) fn filtering(keys: &[String], distinct: Vec<(String, u64)>, rows: u64) -> Option<String> {
    if let [only] = keys {
        return Some(only.clone());
    }
    let (column, values) = distinct.into_iter().max_by_key(|(_, values)| *values)?;
    // With few values for many rows the table's rows have these values, too.
    (values.saturating_mul(REPEATED) >= rows).then_some(column)
}

/// A small result of whole numbers, in one batch. `columns` are all of its columns, each a BIGINT. Joins run as they are written.
pub(crate) async fn numbers(engine: &dyn EngineSession, sql: &str, columns: &[&str]) -> Result<RecordBatch> {
    let fields: Vec<Field> = columns.iter().map(|name| Field::new(*name, DataType::Int64, true)).collect();
    let query = Query::new(sql).with_output(Arc::new(Schema::new(fields))).with_text_as_is(true);
    collected(engine.query(&query.with_joins_as_written(sql.contains(" JOIN "))).await?).await
}

/// The one number of a result, a BIGINT named `n`.
pub(crate) async fn count(engine: &dyn EngineSession, sql: &str) -> Result<u64> {
    let found = numbers(engine, sql, &["n"]).await?;
    if found.num_rows() == 0 || found.column(0).is_null(0) {
        return Ok(0);
    }
    Ok(found.column(0).as_primitive::<Int64Type>().value(0).unsigned_abs())
}

async fn collected(stream: BatchStream) -> Result<RecordBatch> {
    let schema = stream.schema().clone();
    let batches = stream.collect().await?;
    concat_batches(&schema, &batches).map_err(|e| Error::internal("a small result").with_source(e))
}

/// NOT NULL is checked where rows are written, by column and number of rows, not while they are laid by.
pub(crate) fn nullable(schema: &SchemaRef) -> SchemaRef {
    Arc::new(Schema::new(schema.fields().iter().map(|f| f.as_ref().clone().with_nullable(true)).collect::<Vec<_>>()))
}
