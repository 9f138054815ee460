//! The query of a change feed: every row that a change updates, deletes or inserts, in one pass over the files that lose rows.
//!
//! Nothing in it is computed anew but what follows from the old rows and from what was laid by, so that the feed says what was
//! written, whatever `now()` or `random()` would say by now.

use std::fmt::Write as _;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use duckrun_core::{CHANGE_DELETE, CHANGE_UPDATE, FILE_INDEX, ROW_CHANGE, ROW_NUMBER, Result, quote_ident};

use super::{CLAUSE, INSERTS, MATCHES, MergeSql, SOURCE, cast, list_of};

/// The old rows: a view over the files that lose rows, in the order in which the matches count them.
pub(in crate::change) const BEFORE: &str = "__duckrun_before";

/// In the rows of a feed's query, beside [`CHANGE_UPDATE`] and [`CHANGE_DELETE`]: the row is new.
pub(in crate::change) const CHANGE_INSERT: i8 = 3;

/// The query of a change feed. Columns: [`ROW_CHANGE`], the table's (old values of a row that was there, the values of a new
/// one), and for each column that updates set its new value.
#[derive(Debug)]
pub(in crate::change) struct FeedSql {
    pub(in crate::change) sql: String,
    pub(in crate::change) output: SchemaRef,
    /// The columns that updates set, by their positions in the table.
    pub(in crate::change) set: Vec<usize>,
}

impl MergeSql<'_> {
    /// The feed of a merge. `inserts` says whether new rows were laid by.
    pub(in crate::change) fn feed(&self, inserts: bool) -> Result<FeedSql> {
        let change = match self.updating().is_empty() {
            true => CHANGE_DELETE.to_string(),
            false => format!(
                "CASE WHEN m.{CLAUSE} IN ({}) THEN {CHANGE_UPDATE} ELSE {CHANGE_DELETE} END",
                list_of(&self.updating())
            ),
        };
        let mut set = Vec::new();
        for (at, field) in self.schema.fields().iter().enumerate() {
            let Some((n, column)) = self.set.iter().enumerate().find(|(_, s)| s.name == *field.name()) else {
                continue;
            };
            let value = match column.partition {
                // What compares as equal moves no row, whatever its sign.
                true => format!("CASE WHEN m.moved THEN m.v_{n} ELSE {} END", self.old(&column.name)),
                false => format!("m.v_{n}"),
            };
            set.push((at, cast(&value, &column.data_type)?));
        }
        let inserts = inserts.then_some((INSERTS, self.schema.as_ref()));
        rows(self.schema, self.existing, &change, &set, &self.changed(), inserts)
    }
}

/// The feed of a replacement: rows at the positions of the matches went, all rows that were laid by are new.
pub(in crate::change) fn replaced(schema: &SchemaRef, existing: &Schema, incoming: &Schema) -> Result<FeedSql> {
    rows(schema, existing, &CHANGE_DELETE.to_string(), &[], "true", Some((SOURCE, incoming)))
}

/// `change` is the kind of a row that was there, `changing` the condition of the matches (`m`) that change one, `set` the columns with
/// new values, `inserts` the relation of the new rows and its columns.
fn rows(
    schema: &SchemaRef,
    existing: &Schema,
    change: &str,
    set: &[(usize, String)],
    changing: &str,
    inserts: Option<(&str, &Schema)>,
) -> Result<FeedSql> {
    let mut fields = vec![Field::new(ROW_CHANGE, DataType::Int8, false)];
    fields.extend(schema.fields().iter().map(|f| f.as_ref().clone().with_nullable(true)));
    let (mut old, mut new) =
        (vec![format!("({change})::TINYINT AS {ROW_CHANGE}")], vec![format!("{CHANGE_INSERT}::TINYINT")]);
    for field in schema.fields() {
        let value = match existing.index_of(field.name()) {
            Ok(_) => format!("target.{}", quote_ident(field.name())),
            Err(_) => "NULL".to_owned(),
        };
        old.push(format!("{} AS {}", cast(&value, field.data_type())?, quote_ident(field.name())));
        if let Some((_, columns)) = inserts {
            let value = match columns.index_of(field.name()) {
                Ok(_) => format!("source.{}", quote_ident(field.name())),
                Err(_) => "NULL".to_owned(),
            };
            new.push(cast(&value, field.data_type())?);
        }
    }
    for (n, (at, value)) in set.iter().enumerate() {
        let data_type = schema.field(*at).data_type();
        let name = format!("__duckrun_new_{n}");
        old.push(format!("{value} AS {name}"));
        new.push(cast("NULL", data_type)?);
        fields.push(Field::new(name, data_type.clone(), true));
    }
    // The view counts its files from 0; the matches are looked up, for there are never more of them than rows in these files.
    let matches = format!(
        "SELECT m.*, t.n AS __duckrun_n FROM {MATCHES} AS m JOIN (SELECT f, (row_number() OVER (ORDER BY f) - 1)::BIGINT AS n \
         FROM (SELECT DISTINCT m.f FROM {MATCHES} AS m WHERE {changing})) AS t ON t.f = m.f WHERE {changing}"
    );
    let mut sql = format!(
        "SELECT {} FROM {BEFORE} AS target JOIN ({matches}) AS m ON target.{FILE_INDEX} = m.__duckrun_n AND target.{ROW_NUMBER} = m.r",
        old.join(", ")
    );
    if let Some((relation, _)) = inserts {
        let _ = write!(sql, "\nUNION ALL\nSELECT {} FROM {relation} AS source", new.join(", "));
    }
    let set = set.iter().map(|(at, _)| *at).collect();
    Ok(FeedSql { sql, output: Arc::new(Schema::new(fields)), set })
}
