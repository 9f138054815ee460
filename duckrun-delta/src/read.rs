//! A snapshot's files as an engine reads them: typed partition values, physical names, deleted rows.

use std::sync::Arc;

use arrow::array::{ArrayRef, BinaryArray, StringArray};
use arrow::compute::{CastOptions, cast_with_options};
use arrow::datatypes::DataType;
use arrow::util::display::FormatOptions;
use duckrun_core::{ColumnSource, DataFile, Error, FileColumn, FileSet, Result, Snapshot as _};
use futures::{StreamExt, TryStreamExt};
use percent_encoding::percent_decode_str;
use url::Url;

use crate::schema::Names;
use crate::snapshot::{DeltaSnapshot, LiveFile};

/// Deletion vectors read at a time.
const CONCURRENT_READS: usize = 16;

/// The files as a relation.
pub(crate) async fn file_set(snapshot: &DeltaSnapshot, files: Vec<LiveFile>) -> Result<FileSet> {
    let mapped = snapshot.metadata().column_mapping();
    let schema = snapshot.schema();
    let partition_columns = snapshot.partition_columns();
    let mut columns = Vec::with_capacity(schema.fields().len());
    for (field, delta) in schema.fields().iter().zip(&snapshot.delta_schema().fields) {
        let source = match partition_columns.iter().position(|p| p == field.name()) {
            Some(i) => ColumnSource::Partition(i),
            None => ColumnSource::File { physical_name: delta.physical_name(mapped).to_owned() },
        };
        let physical_type = if mapped { Some(delta.data_type.arrow(Names::Physical)?) } else { None };
        columns.push(FileColumn {
            name: field.name().clone(),
            data_type: field.data_type().clone(),
            physical_type,
            source,
        });
    }
    let partition_values = partition_columns
        .iter()
        .map(|name| {
            let at = schema
                .index_of(name)
                .map_err(|_| Error::corrupt(format!("the partition column {name:?} is not in the schema")))?;
            let physical = snapshot.delta_schema().fields[at].physical_name(mapped);
            let texts: Vec<Option<&str>> =
                files.iter().map(|f| f.partition_values.get(physical).and_then(|v| v.as_deref())).collect();
            parse_values(name, texts, schema.field(at).data_type())
        })
        .collect::<Result<_>>()?;
    let location = snapshot.location();
    let data_files = futures::stream::iter(files)
        .map(|file| async move {
            let deleted = match &file.deletion_vector {
                Some(vector) => Some(Arc::new(vector.rows(location.store().as_ref()).await?)),
                None => None,
            };
            Ok::<_, Error>(DataFile {
                path: file.path.clone(),
                url: file_url(location.url(), &file.path)?,
                size: file.size,
                rows: file.rows(),
                deleted,
            })
        })
        .buffered(CONCURRENT_READS)
        .try_collect()
        .await?;
    let store = location.local_path().is_none().then(|| location.store().clone());
    Ok(FileSet { schema, columns, files: data_files, partition_values, positions: false, store })
}

/// A path of the log as a URL.
fn file_url(table: &Url, path: &str) -> Result<Url> {
    let decoded = decoded_path(path)?;
    let mut url = table.clone();
    {
        let bad = |()| Error::corrupt(format!("the log names the file {path:?}, which is not a path"));
        let mut segments = url.path_segments_mut().map_err(bad)?;
        segments.pop_if_empty();
        // `extend` encodes each part: the decoded name is the name of the object.
        segments.extend(decoded.split('/'));
    }
    Ok(url)
}

/// A path of the log, decoded: the name of the file below the table. A URL of its own is a shallow clone's.
pub(crate) fn decoded_path(path: &str) -> Result<String> {
    let bad = || Error::corrupt(format!("the log names the file {path:?}, which is not a path"));
    if path.contains("://") || path.starts_with('/') {
        return Err(Error::unsupported(format!(
            "the log names the file {path:?} outside the table (a shallow clone?), which is not read"
        )));
    }
    let decoded = percent_decode_str(path).decode_utf8().map_err(|_| bad())?;
    if decoded.split('/').any(|part| part == "..") {
        return Err(bad());
    }
    Ok(decoded.into_owned())
}

/// Partition values as the protocol serialises them ("Partition Value Serialization"), typed. An empty string is NULL.
pub(crate) fn parse_values(column: &str, texts: Vec<Option<&str>>, ty: &DataType) -> Result<ArrayRef> {
    let bad = |value: &str| {
        Error::corrupt(format!("the partition column {column:?} has the value {value:?}, which is no {ty}"))
    };
    let texts: Vec<Option<&str>> = texts.into_iter().map(|t| t.filter(|t| !t.is_empty())).collect();
    if *ty == DataType::Binary {
        // Binary is serialised as escaped code points, one per byte.
        let bytes: Vec<Option<Vec<u8>>> =
            texts.iter().map(|t| t.map(|t| unescape(t).ok_or_else(|| bad(t))).transpose()).collect::<Result<_>>()?;
        return Ok(Arc::new(BinaryArray::from_iter(bytes)));
    }
    let strings: ArrayRef = Arc::new(StringArray::from(texts.clone()));
    let options = CastOptions { safe: true, format_options: FormatOptions::default() };
    let typed = cast_with_options(&strings, ty, &options)
        .map_err(|e| Error::unsupported(format!("partition columns of the type {ty}")).with_source(e))?;
    for (i, text) in texts.iter().enumerate() {
        if let Some(text) = text
            && typed.is_null(i)
        {
            return Err(bad(text));
        }
    }
    Ok(typed)
}

fn unescape(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        if let Some(after) = rest.strip_prefix("\\u") {
            let (hex, tail) = after.split_at_checked(4)?;
            bytes.push(u8::try_from(u16::from_str_radix(hex, 16).ok()?).ok()?);
            rest = tail;
        } else {
            let c = rest.chars().next()?;
            bytes.push(u8::try_from(u32::from(c)).ok()?);
            rest = &rest[c.len_utf8()..];
        }
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{AsArray, Decimal128Array};
    use arrow::datatypes::{Date32Type, TimeUnit, TimestampMicrosecondType};

    #[test]
    fn values_of_every_type_parse_and_others_are_refused() {
        let date = parse_values("d", vec![Some("2020-02-29"), None, Some("")], &DataType::Date32).unwrap();
        assert_eq!(date.as_primitive::<Date32Type>().value(0), 18_321);
        assert_eq!(date.null_count(), 2);
        let utc = DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
        for text in ["2020-01-01 00:00:00.000001", "2020-01-01T00:00:00.000001Z"] {
            let t = parse_values("t", vec![Some(text)], &utc).unwrap();
            assert_eq!(t.as_primitive::<TimestampMicrosecondType>().value(0), 1_577_836_800_000_001);
        }
        let d = parse_values("x", vec![Some("-1.50")], &DataType::Decimal128(10, 2)).unwrap();
        assert_eq!(d.as_any().downcast_ref::<Decimal128Array>().unwrap().value(0), -150);
        let b = parse_values("b", vec![Some("\\u0001\\u00ffA")], &DataType::Binary).unwrap();
        assert_eq!(b.as_binary::<i32>().value(0), [1, 255, b'A']);
        assert!(parse_values("i", vec![Some("x")], &DataType::Int32).is_err());
        assert!(parse_values("i", vec![Some("300")], &DataType::Int8).is_err());
        assert!(parse_values("b", vec![Some("true")], &DataType::Boolean).unwrap().as_boolean().value(0));
    }

    #[test]
    fn paths_are_decoded_once_and_stay_inside() {
        let table = Url::parse("file:///lake/t/").unwrap();
        let url = file_url(&table, "p=a%2520b/f%20x.parquet").unwrap();
        assert_eq!(url.to_file_path().unwrap().to_str().unwrap(), "/lake/t/p=a%20b/f x.parquet");
        assert!(file_url(&table, "../x").is_err());
        assert!(file_url(&table, "s3://b/x").is_err());
    }
}
