//! The SQL that turns a column into a Delta type. What cannot be decided from the types alone is checked per value.

use arrow::datatypes::{DataType, Fields};

use super::decide::{delta_type, refusal};
use super::delta::{map_fields, of_delta, timestamp_utc};
use super::widen::leaf_widens;
use super::{DuckType, names, sql_type};
use crate::{Error, ErrorKind, Result, TimestampMode, quote_ident, quote_literal};

/// How the text of an `error(...)` begins that a value raised because it has no exact counterpart. DuckDB puts its own
/// words before it; an engine that finds it in a message reports [`ErrorKind::InvalidData`].
pub const LOSS: &str = "a value would be lost: ";

/// SQL that casts a result's column to the type of a table's column.
///
/// Run-time checks are those of [`decide`](super::decide). A column that is a bare NULL fits any type. Whether NULL is
/// allowed where the table says NOT NULL is not checked here.
///
/// # Errors
/// [`ErrorKind::InvalidData`], naming the column, where the types are such that a value could be lost
/// ([`widens`](super::widens) is false; under [`TimestampMode::Utc`] the two timestamps count as one type);
/// [`ErrorKind::Unsupported`] as for [`decide`](super::decide).
pub fn cast_expr(column: &str, from: &DuckType, to: &DataType, timestamps: TimestampMode) -> Result<String> {
    let quoted = quote_ident(column);
    let cast = Cast { column, from, timestamps };
    match cast.step(&quoted, &quoted, from, to, 0)? {
        Step::Keep => Ok(quoted),
        Step::Cast => Ok(plain(&quoted, &sql_type(to)?)),
        Step::Build(sql) => Ok(sql),
    }
}

/// What a value of one type needs to become another one.
enum Step {
    /// Nothing: DuckDB exports the one exactly as the other.
    Keep,
    /// A cast, which can as well be part of a cast of what is around it.
    Cast,
    /// An expression of its own, so that what is around it is built anew too.
    Build(String),
}

struct Cast<'a> {
    column: &'a str,
    from: &'a DuckType,
    timestamps: TimestampMode,
}

fn plain(value: &str, ty: &str) -> String {
    format!("CAST({value} AS {ty})")
}

impl Cast<'_> {
    /// `path` names the value in messages, `value` in SQL.
    fn step(&self, path: &str, value: &str, from: &DuckType, to: &DataType, depth: usize) -> Result<Step> {
        let item = format!("e{depth}");
        match (from, to) {
            (DuckType::Null, _) => sql_type(to).map(|_| Step::Cast),
            (DuckType::List(element) | DuckType::Array(element, _), DataType::List(field)) => {
                let inner = self.step(&format!("{path}[]"), &item, element, field.data_type(), depth + 1)?;
                Ok(match (from, inner) {
                    (DuckType::List(_), Step::Keep) => Step::Keep,
                    (_, Step::Keep | Step::Cast) => Step::Cast,
                    (_, Step::Build(sql)) => Step::Build(format!("list_transform({value}, lambda {item}: {sql})")),
                })
            }
            (DuckType::Map(from_key, from_value), DataType::Map(entries, _)) => {
                let Some((to_key, to_value)) = map_fields(entries) else { return Err(self.misfit(path, from, to)) };
                let key_sql = format!("struct_extract({item}, 'key')");
                let value_sql = format!("struct_extract({item}, 'value')");
                let key = self.step(&format!("{path}[key]"), &key_sql, from_key, to_key.data_type(), depth + 1)?;
                let val =
                    self.step(&format!("{path}[value]"), &value_sql, from_value, to_value.data_type(), depth + 1)?;
                Ok(match (key, val) {
                    (Step::Keep, Step::Keep) => Step::Keep,
                    (Step::Keep | Step::Cast, Step::Keep | Step::Cast) => Step::Cast,
                    (key, val) => {
                        let key = part(key, key_sql, to_key.data_type())?;
                        let val = part(val, value_sql, to_value.data_type())?;
                        let pair = format!("struct_pack(\"key\" := {key}, \"value\" := {val})");
                        let pairs = format!("list_transform(map_entries({value}), lambda {item}: {pair})");
                        Step::Build(format!("map_from_entries({pairs})"))
                    }
                })
            }
            (DuckType::Struct(fields), DataType::Struct(targets)) if !fields.is_empty() => {
                self.fields(path, value, from, fields, targets, depth)
            }
            _ => self.leaf(path, value, from, to),
        }
    }

    fn fields(
        &self,
        path: &str,
        value: &str,
        from: &DuckType,
        fields: &[(String, DuckType)],
        targets: &Fields,
        depth: usize,
    ) -> Result<Step> {
        let find = |name: &str| names::find(fields, name, |(name, _)| name);
        names::check(&format!("column {path}"), fields.iter().map(|(name, _)| name.as_str()))?;
        if let Some((extra, _)) = fields.iter().find(|(name, _)| names::find(targets, name, |f| f.name()).is_none()) {
            let why = format!("the table's struct has no field {}", quote_ident(extra));
            return Err(self.refuse(path, from, &DataType::Struct(targets.clone()), &why));
        }
        let same = fields.iter().map(|(name, _)| name).eq(targets.iter().map(|f| f.name()));
        let (mut keep, mut build) = (same, false);
        let mut steps = Vec::with_capacity(targets.len());
        for target in targets {
            let inner_path = format!("{path}.{}", quote_ident(target.name()));
            let (inner_value, step) = match find(target.name()) {
                Some((name, ty)) => {
                    let inner_value = format!("struct_extract({value}, {})", quote_literal(name));
                    let step = self.step(&inner_path, &inner_value, ty, target.data_type(), depth)?;
                    (inner_value, step)
                }
                None if target.is_nullable() => ("NULL".to_owned(), Step::Cast),
                None => {
                    let why = "the field is missing and must not be NULL";
                    return Err(self.refuse(&inner_path, from, &DataType::Struct(targets.clone()), why));
                }
            };
            keep &= matches!(step, Step::Keep);
            build |= matches!(step, Step::Build(_));
            steps.push((target, inner_value, step));
        }
        if !build {
            return Ok(if keep { Step::Keep } else { Step::Cast });
        }
        let parts = steps.into_iter().map(|(target, inner_value, step)| {
            Ok(format!("{} := {}", quote_ident(target.name()), part(step, inner_value, target.data_type())?))
        });
        let parts = parts.collect::<Result<Vec<_>>>()?.join(", ");
        Ok(Step::Build(format!("CASE WHEN {value} IS NOT NULL THEN struct_pack({parts}) END")))
    }

    fn leaf(&self, path: &str, value: &str, from: &DuckType, to: &DataType) -> Result<Step> {
        let own = delta_type(from, self.timestamps).map_err(|refused| refusal(self.column, self.from, &refused))?;
        if !leaf_widens(&own, to, self.timestamps) {
            return Err(self.misfit(path, from, to));
        }
        if of_delta(to).as_ref() == Some(from) {
            return Ok(Step::Keep);
        }
        let ty = sql_type(to)?;
        let to_utc = *to == timestamp_utc();
        Ok(match from {
            DuckType::HugeInt | DuckType::UHugeInt => Step::Build(checked(path, value, from, &ty)),
            DuckType::TimestampS | DuckType::TimestampMs | DuckType::Date => {
                let micros = checked(path, value, from, "TIMESTAMP");
                Step::Build(if to_utc { plain(&micros, &ty) } else { micros })
            }
            DuckType::TimestampNs | DuckType::TimestampTzNs => {
                let (near, same) = match from {
                    DuckType::TimestampNs => ("TIMESTAMP", !to_utc),
                    _ => ("TIMESTAMP WITH TIME ZONE", to_utc),
                };
                let micros = without_nanoseconds(path, value, from, near);
                Step::Build(if same { micros } else { plain(&micros, &ty) })
            }
            _ => Step::Cast,
        })
    }

    /// The error for a pair of types in which values could be lost.
    fn misfit(&self, path: &str, from: &DuckType, to: &DataType) -> Error {
        let why = match (from, to) {
            (DuckType::Timestamp | DuckType::TimestampTz, DataType::Timestamp(..)) => {
                "one of them has a time zone; TimestampMode::Utc takes the values as UTC"
            }
            _ => "not every value has an exact counterpart",
        };
        self.refuse(path, from, to, why)
    }

    fn refuse(&self, path: &str, from: &DuckType, to: &DataType, why: &str) -> Error {
        let to = sql_type(to).unwrap_or_else(|_| to.to_string());
        let place = if path == quote_ident(self.column) { String::new() } else { format!(" (at {path})") };
        Error::new(
            ErrorKind::InvalidData,
            format!(
                "column {}{place} is {from} in the result and {to} in the table, and {why}; cast it in the SQL if that is meant",
                quote_ident(self.column)
            ),
        )
    }
}

/// A field of something that is built anew.
fn part(step: Step, value: String, ty: &DataType) -> Result<String> {
    Ok(match step {
        Step::Keep => value,
        Step::Cast => plain(&value, &sql_type(ty)?),
        Step::Build(sql) => sql,
    })
}

/// A cast that fails with the column's name. Only a value whose cast yields NULL is looked at twice.
fn checked(path: &str, value: &str, from: &DuckType, ty: &str) -> String {
    let text = format!("{LOSS}a {from} of column {path} is out of the range of {ty}");
    format!(
        "coalesce(TRY_CAST({value} AS {ty}), CASE WHEN {value} IS NOT NULL THEN error({}) END)",
        quote_literal(&text)
    )
}

/// A cast to microseconds. DuckDB's own would round; infinities have no `epoch_ns` and pass, to be refused in the batch.
fn without_nanoseconds(path: &str, value: &str, from: &DuckType, ty: &str) -> String {
    let text = format!("{LOSS}a {from} of column {path} has nanoseconds; CAST it AS {ty} in the SQL to round it");
    format!(
        "CASE WHEN epoch_ns({value}) % 1000 <> 0 THEN error({}) ELSE CAST({value} AS {ty}) END",
        quote_literal(&text)
    )
}
