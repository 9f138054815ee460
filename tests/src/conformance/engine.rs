//! What every `Engine` and its sessions must do. The SQL is what every dialect has: SELECT, WHERE, ORDER BY, aggregates.

use std::sync::Arc;
use std::time::Duration;

use duckrun::arrow::array::{Array, ArrayRef, AsArray, Int64Array, RecordBatch, StringArray};
use duckrun::arrow::datatypes::{DataType, Decimal128Type, Field, Int64Type, Schema, SchemaRef};
use duckrun::core::RelationName;
use duckrun::{BatchStream, Engine, EngineSession, Error, ErrorKind, Query, Relation, Value};
use futures::StreamExt;

use super::{Conformance, Found, Trouble, broken, context, holds, same};
use crate::generate::{arrow, edges};
use crate::model::{Column, Rows, Type, Value as Cell};

type Got<T> = Result<T, Trouble>;

/// Rows of the relation that is too large for a single batch.
const MANY: i64 = 50_000;

/// Checks an engine. `factory` makes one; sessions of one are compared with each other.
pub async fn engine<F>(factory: F) -> Conformance
where
    F: Fn() -> Arc<dyn Engine>,
{
    let engine = factory();
    let engine = engine.as_ref();
    let mut report = Conformance::of(format!("engine {}", engine.name()));
    report
        .check(
            "own_namespace",
            "`open` gives each run a namespace of its own: what one run registers is invisible to another.",
            async {
                let (one, two) = (open(engine).await?, open(engine).await?);
                register(one.as_ref(), "mine", &[1, 2]).await?;
                fails(two.as_ref(), "SELECT n FROM mine", &[ErrorKind::Query]).await?;
                register(two.as_ref(), "mine", &[7]).await?;
                same(
                    "the first session's rows",
                    ints(one.as_ref(), "SELECT n FROM mine ORDER BY n").await?,
                    vec![1, 2],
                )?;
                drop(one);
                same("the second session's rows", ints(two.as_ref(), "SELECT n FROM mine").await?, vec![7])
            },
        )
        .await;
    report
        .check(
            "registration_replaces",
            "`register` makes a relation visible under a name, replacing one of that name.",
            async {
                let session = open(engine).await?;
                register(session.as_ref(), "r", &[1]).await?;
                register(session.as_ref(), "r", &[2, 3]).await?;
                same("the rows", ints(session.as_ref(), "SELECT n FROM r ORDER BY n").await?, vec![2, 3])?;
                for _ in 0..2 {
                    session.register(&name("r")?, Relation::Sql("SELECT 5 AS n".to_owned())).await?;
                    same("the rows of a text", ints(session.as_ref(), "SELECT n FROM r").await?, vec![5])?;
                    session.materialize(&name("r")?, &Query::new("SELECT 6 AS n")).await?;
                    same("the rows of a query", ints(session.as_ref(), "SELECT n FROM r").await?, vec![6])?;
                }
                register(session.as_ref(), "r", &[8]).await?;
                same("the rows of a stream", ints(session.as_ref(), "SELECT n FROM r").await?, vec![8])
            },
        )
        .await;
    report
        .check("streams_are_laid_by", "A stream is consumed once, materialised by the engine on registration.", async {
            let session = open(engine).await?;
            register_many(session.as_ref()).await?;
            for _ in 0..2 {
                let sql = "SELECT n FROM many WHERE n >= 49998 ORDER BY n";
                same("the last rows", ints(session.as_ref(), sql).await?, vec![MANY - 2, MANY - 1])?;
            }
            Ok(())
        })
        .await;
    report
        .check(
            "no_partial_registration",
            "When the relation cannot be bound, a partial registration is not visible.",
            async {
                let session = open(engine).await?;
                let schema = numbers(&[]).schema();
                let rows = futures::stream::iter([Ok(numbers(&[1])), Err(Error::invalid("the source broke off"))]);
                let relation = Relation::Stream(BatchStream::new(schema, rows));
                let done = session.register(&name("half")?, relation).await;
                holds(done.is_err(), "a stream that fails is registered")?;
                fails(session.as_ref(), "SELECT n FROM half", &[ErrorKind::Query]).await
            },
        )
        .await;
    report
        .check("every_row_once", "The end of the stream means that every row has passed.", async {
            let session = open(engine).await?;
            register_many(session.as_ref()).await?;
            let mut seen = ints(session.as_ref(), "SELECT n FROM many").await?;
            seen.sort_unstable();
            holds(seen.iter().copied().eq(0..MANY), format_args!("{} rows of {MANY}, or other ones", seen.len()))
        })
        .await;
    report
        .check(
            "values_survive",
            "Rows are those of the relation: every type that a Delta table holds, at its edges.",
            async {
                let session = open(engine).await?;
                for ty in types() {
                    let columns = vec![Column::new("c", ty.clone())];
                    let mut cells: Vec<Vec<Cell>> = edges(&ty).into_iter().map(|v| vec![v]).collect();
                    cells.push(vec![Cell::Null]);
                    let rows = Rows::new(columns.clone(), cells);
                    let batch = arrow::batch(&rows)?;
                    let relation = Relation::Stream(BatchStream::from_batches(batch.schema(), vec![batch]));
                    session.register(&name("typed")?, relation).await?;
                    let got = arrow::rows(&columns, &all(session.as_ref(), &Query::new("SELECT c FROM typed")).await?)?;
                    holds(got == rows, format_args!("{ty:?}: got {got:?}of {rows:?}"))?;
                }
                Ok(())
            },
        )
        .await;
    report
        .check(
            "described_as_streamed",
            "`describe` is the result's schema in types that a Delta table can hold.",
            async {
                let session = open(engine).await?;
                register(session.as_ref(), "r", &[1]).await?;
                let query = Query::new("SELECT n AS a, n AS b FROM r");
                let described = session.describe(&query).await?;
                let names: Vec<&str> = described.fields().iter().map(|f| f.name().as_str()).collect();
                same("the names", names, vec!["a", "b"])?;
                let stream = session.query(&query).await?;
                same("the stream's schema", stream.schema().clone(), described.clone())?;
                for batch in stream.collect().await? {
                    same("a batch's types", types_of(&batch.schema()), types_of(&described))?;
                }
                Ok(())
            },
        )
        .await;
    report
        .check(
            "output_by_name",
            "Each output column is taken by name and cast; one that the result lacks is NULL.",
            async {
                let session = open(engine).await?;
                register(session.as_ref(), "r", &[7]).await?;
                let output: SchemaRef = Arc::new(Schema::new(vec![
                    Field::new("missing", DataType::Utf8, true),
                    Field::new("b", DataType::Decimal128(20, 0), true),
                    Field::new("a", DataType::Int64, true),
                ]));
                let query = Query::new("SELECT n AS a, n + 1 AS b FROM r").with_output(output.clone());
                let batches = all(session.as_ref(), &query).await?;
                let Some(batch) = batches.iter().find(|b| b.num_rows() > 0) else { return broken("there is no row") };
                same("the types", types_of(&batch.schema()), types_of(&output))?;
                holds(batch.column(0).is_null(0), "a column that the result lacks is not NULL")?;
                let b = batch.column(1).as_primitive_opt::<Decimal128Type>().map(|c| c.value(0));
                let a = batch.column(2).as_primitive_opt::<Int64Type>().map(|c| c.value(0));
                same("the values", (b, a), (Some(8), Some(7)))
            },
        )
        .await;
    report
        .check(
            "late_failures_are_seen",
            "Failures while running arrive in the stream; a producer that stops yields an error first.",
            async {
                let session = open(engine).await?;
                let texts: Vec<String> =
                    (0..MANY).map(|n| if n == MANY - 5 { "no number".to_owned() } else { n.to_string() }).collect();
                let column: ArrayRef = Arc::new(StringArray::from(texts));
                let batch = RecordBatch::try_from_iter([("t", column)]).map_err(|e| Error::internal(e.to_string()))?;
                let relation = Relation::Stream(BatchStream::from_batches(batch.schema(), vec![batch]));
                session.register(&name("texts")?, relation).await?;
                match session.query(&Query::new("SELECT CAST(t AS BIGINT) AS n FROM texts")).await {
                    Err(_) => {}
                    Ok(stream) => holds(stream.collect().await.is_err(), "the stream ends as if every row had passed")?,
                }
                register(session.as_ref(), "r", &[1]).await?;
                same("a later query", ints(session.as_ref(), "SELECT n FROM r").await?, vec![1])
            },
        )
        .await;
    report
        .check(
            "queries_are_judged",
            "`Query` where it cannot be planned, or where the text is not exactly one query.",
            async {
                let session = open(engine).await?;
                for sql in ["SELEC 1", "SELECT n FROM nowhere", "SELECT 1 AS a; SELECT 2 AS a"] {
                    fails(session.as_ref(), sql, &[ErrorKind::Query]).await?;
                    let described = session.describe(&Query::new(sql)).await;
                    holds(described.is_err(), format_args!("{sql} is described"))?;
                }
                let two = session.references("SELECT 1 AS a; SELECT 2 AS a").await;
                holds(matches!(two, Err(e) if e.kind() == ErrorKind::Query), "the references of two queries are told")
            },
        )
        .await;
    report
        .check(
            "references_are_found",
            "The tables that a query names, as written; those behind views of the session are included.",
            async {
                let session = open(engine).await?;
                let sql = "WITH c AS (SELECT * FROM s.inside) SELECT * FROM c JOIN other ON true \
                       WHERE EXISTS (SELECT 1 FROM deep.er)";
                let found = session.references(sql).await?;
                for (schema, table) in [(Some("s"), "inside"), (None, "other"), (Some("deep"), "er")] {
                    let named = found.iter().any(|r| r.schema.as_deref() == schema && r.table == table);
                    holds(named, format_args!("{schema:?}.{table} is not among {found:?}"))?;
                }
                Ok(())
            },
        )
        .await;
    report
        .check("a_dropped_stream_frees", "Dropping cancels what still runs and releases everything.", async {
            let session = open(engine).await?;
            register_many(session.as_ref()).await?;
            let sql = "SELECT a.n AS n FROM many a, many b";
            let mut stream = session.query(&Query::new(sql)).await?;
            let first = stream.next().await;
            holds(matches!(first, Some(Ok(_))), "a query of many rows yields none")?;
            drop(stream);
            let quick = tokio::time::timeout(Duration::from_secs(20), ints(session.as_ref(), "SELECT 42 AS n"));
            match quick.await {
                Ok(rows) => same("a later query", rows?.len(), 1),
                Err(_) => broken("the session is busy for another 20 seconds"),
            }
        })
        .await;
    report
        .check(
            "interrupt_is_an_error",
            "`interrupt` stops whatever runs, at once; streams yield an error. Safe at any time.",
            async {
                let session = open(engine).await?;
                // Of a session that does nothing; whether it goes on afterwards is its own business.
                open(engine).await?.interrupt();
                register_many(session.as_ref()).await?;
                let mut stream = session.query(&Query::new("SELECT a.n AS n FROM many a, many b")).await?;
                let first = stream.next().await;
                holds(matches!(first, Some(Ok(_))), "after an interrupt of another session, a query yields no row")?;
                session.interrupt();
                let mut batches = 0_u64;
                loop {
                    match stream.next().await {
                        Some(Ok(_)) => batches += 1,
                        Some(Err(_)) => return Ok(()),
                        None => return broken(format_args!("the stream ends as if whole, {batches} batches later")),
                    }
                }
            },
        )
        .await;
    report
        .check(
            "materialised_whole_or_not",
            "`materialize` returns the rows; there is no table after an error.",
            async {
                let session = open(engine).await?;
                register_many(session.as_ref()).await?;
                let rows = session.materialize(&name("kept")?, &Query::new("SELECT n FROM many WHERE n < 100")).await?;
                same("the rows", rows, 100)?;
                same(
                    "the table",
                    ints(session.as_ref(), "SELECT n FROM kept WHERE n > 97 ORDER BY n").await?,
                    vec![98, 99],
                )?;
                let failed = session.materialize(&name("broken")?, &Query::new("SELECT n FROM nowhere")).await;
                holds(failed.is_err(), "a query that cannot be planned is materialised")?;
                fails(session.as_ref(), "SELECT * FROM broken", &[ErrorKind::Query]).await
            },
        )
        .await;
    report
        .check("parameters_are_bound", "A query: one SELECT, its parameters.", async {
            let session = open(engine).await?;
            register(session.as_ref(), "r", &[1, 2, 3]).await?;
            let query = Query::new("SELECT n FROM r WHERE n > ? ORDER BY n").with_params(vec![Value::Int(1)]);
            same("the rows", numbers_of(&all(session.as_ref(), &query).await?)?, vec![2, 3])
        })
        .await;
    report
        .check("variables", "Sets a session variable that SQL reads back.", async {
            if !engine.capabilities().variables {
                return Err(Trouble::Lacking("it has no variables".to_owned()));
            }
            let (one, two) = (open(engine).await?, open(engine).await?);
            one.set_variable("number", &Value::Int(5)).await?;
            two.set_variable("number", &Value::Int(6)).await?;
            one.set_variable("text", &Value::Text("it's".to_owned())).await?;
            Ok(())
        })
        .await;
    report
        .check("settings_are_told", "The settings in force, as the engine itself reports them.", async {
            let settings = open(engine).await?.settings().await?;
            holds(!settings.engine.is_empty() && settings.threads > 0, format_args!("{settings:?}"))
        })
        .await;
    report
}

async fn open(engine: &dyn Engine) -> Got<Box<dyn EngineSession>> {
    Ok(engine.open(&context()?).await?)
}

fn name(text: &str) -> Got<RelationName> {
    Ok(RelationName::bare(text)?)
}

fn numbers(values: &[i64]) -> RecordBatch {
    let schema: SchemaRef = Arc::new(Schema::new(vec![Field::new("n", DataType::Int64, true)]));
    let column: ArrayRef = Arc::new(Int64Array::from(values.to_vec()));
    // One column of the one type.
    RecordBatch::try_new(schema.clone(), vec![column]).unwrap_or_else(|_| RecordBatch::new_empty(schema))
}

async fn register(session: &dyn EngineSession, relation: &str, values: &[i64]) -> Found {
    let batch = numbers(values);
    let rows = BatchStream::from_batches(batch.schema(), vec![batch]);
    Ok(session.register(&name(relation)?, Relation::Stream(rows)).await?)
}

async fn register_many(session: &dyn EngineSession) -> Found {
    let batches: Vec<RecordBatch> =
        (0..10).map(|n| numbers(&(n * MANY / 10..(n + 1) * MANY / 10).collect::<Vec<_>>())).collect();
    let rows = BatchStream::from_batches(batches[0].schema(), batches);
    Ok(session.register(&name("many")?, Relation::Stream(rows)).await?)
}

async fn all(session: &dyn EngineSession, query: &Query) -> Got<Vec<RecordBatch>> {
    Ok(session.query(query).await?.collect().await?)
}

fn numbers_of(batches: &[RecordBatch]) -> Got<Vec<i64>> {
    let mut out = Vec::new();
    for batch in batches {
        let column = duckrun::arrow::compute::cast(batch.column(0), &DataType::Int64)
            .map_err(|e| Trouble::Broken(format!("no numbers: {e}")))?;
        out.extend(column.as_primitive::<Int64Type>().iter().flatten());
    }
    Ok(out)
}

async fn ints(session: &dyn EngineSession, sql: &str) -> Got<Vec<i64>> {
    numbers_of(&all(session, &Query::new(sql)).await?)
}

/// A query that must fail with one of these kinds, at once or in its stream.
async fn fails(session: &dyn EngineSession, sql: &str, kinds: &[ErrorKind]) -> Found {
    let error = match session.query(&Query::new(sql)).await {
        Err(e) => e,
        Ok(stream) => match stream.collect().await {
            Err(e) => e,
            Ok(rows) => return broken(format_args!("{sql} yields {} batches", rows.len())),
        },
    };
    holds(kinds.contains(&error.kind()), format_args!("{sql} fails with {error}, not with one of {kinds:?}"))
}

fn types_of(schema: &Schema) -> Vec<(String, DataType)> {
    schema.fields().iter().map(|f| (f.name().clone(), f.data_type().clone())).collect()
}

fn types() -> Vec<Type> {
    vec![
        Type::Bool,
        Type::Byte,
        Type::Short,
        Type::Int,
        Type::Long,
        Type::Float,
        Type::Double,
        Type::Decimal(9, 2),
        Type::Decimal(38, 10),
        Type::Text,
        Type::Binary,
        Type::Date,
        Type::Timestamp,
        Type::TimestampNtz,
        Type::List(Box::new(Type::Text)),
        Type::Struct(vec![("a".to_owned(), Type::Long), ("b".to_owned(), Type::Text)]),
    ]
}
