//! What one write knows before its first row: the columns of the files and their parquet schema, the partition columns,
//! and which leaves get statistics.
//!
//! The invariant: a parquet leaf's index is its position in the depth-first walk over [`Layout::columns`], here, in the
//! encoder and in the statistics alike.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, FieldRef, Fields, Schema, SchemaRef, TimeUnit};
use duckrun_core::{Error, ErrorKind, FileOptions, Result, WriteSpec};
use parquet::arrow::{ArrowSchemaConverter, PARQUET_FIELD_ID_META_KEY};
use parquet::schema::types::SchemaDescriptor;

use super::PhysicalColumn;
use super::stats::{Measure, StatColumn, StatKind};

/// A column that is stored in the files.
#[derive(Debug)]
pub(crate) struct Column {
    /// The logical name, for messages.
    pub(crate) name: String,
    /// Its position in the incoming batches.
    pub(crate) position: usize,
    /// The field as it stands in the file: physical names, field ids, nullability.
    pub(crate) field: FieldRef,
    /// How many parquet leaves it has.
    pub(crate) leaves: usize,
    /// How many counters of its own it needs (lists and maps count their NULLs themselves).
    pub(crate) counters: usize,
}

/// A partition column: its value is in the log and in the path, not in the files.
#[derive(Debug)]
pub(crate) struct PartitionColumn {
    pub(crate) name: String,
    pub(crate) physical: String,
    pub(crate) position: usize,
}

/// Everything that is the same for every file of one write.
#[derive(Debug)]
pub(crate) struct Layout {
    pub(crate) columns: Vec<Column>,
    pub(crate) partitions: Vec<PartitionColumn>,
    /// The columns of the files, in arrow's terms.
    pub(crate) file_schema: SchemaRef,
    pub(crate) parquet: SchemaDescriptor,
    pub(crate) stats: Vec<StatColumn>,
    /// Columns that must not be NULL: name and position in the incoming batches.
    pub(crate) required: Vec<(String, usize)>,
    pub(crate) leaves: usize,
    pub(crate) counters: usize,
}

impl Layout {
    /// Lays out a write of rows with the schema `incoming`; columns are matched by name.
    pub(crate) fn new(spec: &WriteSpec, columns: &[PhysicalColumn], incoming: &Schema) -> Result<Self> {
        let physical: HashMap<&str, &PhysicalColumn> = columns.iter().map(|c| (c.logical.as_str(), c)).collect();
        let mut layout = Self {
            columns: Vec::new(),
            partitions: Vec::new(),
            file_schema: Arc::new(Schema::empty()),
            parquet: ArrowSchemaConverter::new().convert(&Schema::empty()).map_err(schema_error)?,
            stats: Vec::new(),
            required: Vec::new(),
            leaves: 0,
            counters: 0,
        };
        let chosen = Chosen::of(&spec.files, &spec.properties)?;
        let mut walk = StatWalk { chosen, seen: 0, leaf: 0, counter: 0, out: Vec::new() };
        for name in &spec.partition_columns {
            let position = position_of(incoming, name)?;
            layout.partitions.push(PartitionColumn {
                name: name.clone(),
                physical: physical.get(name.as_str()).map_or_else(|| name.clone(), |c| c.physical.clone()),
                position,
            });
        }
        for field in spec.schema.fields() {
            if !field.is_nullable() {
                layout.required.push((field.name().clone(), position_of(incoming, field.name())?));
            }
            if spec.partition_columns.contains(field.name()) {
                continue;
            }
            let stored = stored_field(field, physical.get(field.name().as_str()).copied(), field.name())?;
            let (leaf, counter) = (walk.leaf, walk.counter);
            walk.column(field, &stored, &mut Vec::new(), &mut Vec::new());
            layout.columns.push(Column {
                name: field.name().clone(),
                position: position_of(incoming, field.name())?,
                field: Arc::new(stored),
                leaves: walk.leaf - leaf,
                counters: walk.counter - counter,
            });
        }
        if layout.columns.is_empty() {
            return Err(Error::invalid("every column is a partition column; parquet files need at least one other"));
        }
        let fields: Fields = layout.columns.iter().map(|c| Arc::clone(&c.field)).collect();
        layout.file_schema = Arc::new(Schema::new(fields));
        layout.parquet =
            ArrowSchemaConverter::new().schema_root("schema").convert(&layout.file_schema).map_err(schema_error)?;
        (layout.leaves, layout.counters, layout.stats) = (walk.leaf, walk.counter, walk.out);
        Ok(layout)
    }
}

fn schema_error(e: parquet::errors::ParquetError) -> Error {
    Error::new(ErrorKind::Unsupported, format!("the columns have no parquet schema: {e}")).with_source(e)
}

fn missing(name: &str) -> Error {
    Error::internal(format!("column {name:?} is in the plan but not among the incoming columns"))
}

fn position_of(incoming: &Schema, name: &str) -> Result<usize> {
    incoming.index_of(name).map_err(|_| missing(name))
}

/// The field as it is stored: physical names and ids, the child names that the parquet format prescribes.
fn stored_field(field: &Field, physical: Option<&PhysicalColumn>, path: &str) -> Result<Field> {
    let child = |f: &FieldRef, name: &str, key: &str| -> Result<FieldRef> {
        let stored = stored_field(f, None, &format!("{path}.{key}"))?;
        // Only struct members carry names of the table's own; elements, keys and values are named by the format.
        Ok(Arc::new(if name.is_empty() { stored } else { stored.with_name(name) }))
    };
    let data_type = match field.data_type() {
        DataType::Struct(fields) => {
            DataType::Struct(fields.iter().map(|f| child(f, "", f.name())).collect::<Result<Vec<_>>>()?.into())
        }
        DataType::List(f) => DataType::List(child(f, "element", "element")?),
        DataType::LargeList(f) => DataType::LargeList(child(f, "element", "element")?),
        DataType::FixedSizeList(f, n) => DataType::FixedSizeList(child(f, "element", "element")?, *n),
        DataType::Map(entries, sorted) => match entries.data_type() {
            DataType::Struct(kv) if kv.len() == 2 => {
                let fields: Fields = vec![child(&kv[0], "key", "key")?, child(&kv[1], "value", "value")?].into();
                let entries = Field::new("key_value", DataType::Struct(fields), false);
                DataType::Map(Arc::new(entries), *sorted)
            }
            _ => return Err(refused(path, field.data_type())),
        },
        flat => {
            storable(flat).then_some(()).ok_or_else(|| refused(path, flat))?;
            flat.clone()
        }
    };
    let name = physical.map_or(field.name().as_str(), |p| p.physical.as_str());
    let stored = Field::new(name, data_type, field.is_nullable());
    Ok(match physical.and_then(|p| p.field_id) {
        Some(id) => stored.with_metadata(HashMap::from([(PARQUET_FIELD_ID_META_KEY.to_owned(), id.to_string())])),
        None => stored,
    })
}

fn refused(path: &str, data_type: &DataType) -> Error {
    Error::unsupported(format!("column {path:?} has the arrow type {data_type}, which no Delta type stores; cast it"))
}

/// Whether a flat arrow type is one of Delta's. Anything else would be readable as something that it is not.
fn storable(data_type: &DataType) -> bool {
    use DataType as T;
    match data_type {
        T::Boolean | T::Int8 | T::Int16 | T::Int32 | T::Int64 | T::Float32 | T::Float64 | T::Date32 => true,
        T::Utf8 | T::LargeUtf8 | T::Utf8View | T::Binary | T::LargeBinary | T::BinaryView => true,
        T::Decimal128(p, s) => *p <= 38 && *s >= 0 && *s as u8 <= *p,
        T::Timestamp(TimeUnit::Microsecond, zone) => zone.as_deref().is_none_or(is_utc),
        _ => false,
    }
}

/// The names under which DuckDB and arrow spell UTC.
pub(crate) fn is_utc(zone: &str) -> bool {
    matches!(zone, "UTC" | "Etc/UTC" | "+00:00" | "Z" | "GMT")
}

/// Which leaves get statistics.
#[derive(Debug)]
enum Chosen {
    /// The first so many.
    First(usize),
    /// These columns (logical paths); a struct stands for everything in it.
    Named(Vec<Vec<String>>),
}

impl Chosen {
    fn of(files: &FileOptions, properties: &BTreeMap<String, String>) -> Result<Self> {
        if let Some(n) = files.stats_columns {
            return Ok(Self::First(n));
        }
        if let Some(list) = properties.get("delta.dataSkippingStatsColumns") {
            return Ok(Self::Named(column_list(list)));
        }
        match properties.get("delta.dataSkippingNumIndexedCols").map(|v| (v, v.trim().parse::<i64>())) {
            None => Ok(Self::First(32)),
            Some((_, Ok(-1))) => Ok(Self::First(usize::MAX)),
            Some((_, Ok(n))) if n >= 0 => Ok(Self::First(usize::try_from(n).unwrap_or(usize::MAX))),
            Some((v, _)) => Err(Error::invalid(format!(
                "delta.dataSkippingNumIndexedCols is {v:?}; it must be a whole number from -1 (all columns)"
            ))),
        }
    }

    fn has(&self, index: usize, path: &[String]) -> bool {
        match self {
            Self::First(n) => index < *n,
            Self::Named(list) => list.iter().any(|named| {
                path.len() >= named.len() && named.iter().zip(path).all(|(a, b)| a.eq_ignore_ascii_case(b))
            }),
        }
    }
}

/// Parses `a, b.c, `strange.name`` as Spark writes it.
fn column_list(text: &str) -> Vec<Vec<String>> {
    let (mut all, mut path, mut part, mut quoted) = (Vec::new(), Vec::new(), String::new(), false);
    for c in text.chars().chain([',']) {
        match c {
            '`' => quoted = !quoted,
            '.' if !quoted => path.push(std::mem::take(&mut part).trim().to_owned()),
            ',' if !quoted => {
                path.push(std::mem::take(&mut part).trim().to_owned());
                all.push(std::mem::take(&mut path));
            }
            c => part.push(c),
        }
    }
    all.retain(|path| path.iter().all(|p| !p.is_empty()));
    all
}

/// The walk that numbers parquet leaves and counters and decides what is measured where.
struct StatWalk {
    chosen: Chosen,
    seen: usize,
    leaf: usize,
    counter: usize,
    out: Vec<StatColumn>,
}

impl StatWalk {
    fn column(&mut self, logical: &Field, stored: &Field, path: &mut Vec<String>, keys: &mut Vec<String>) {
        path.push(logical.name().clone());
        keys.push(stored.name().clone());
        match (logical.data_type(), stored.data_type()) {
            (DataType::Struct(logical), DataType::Struct(stored)) => {
                for (l, s) in logical.iter().zip(stored) {
                    self.column(l, s, path, keys);
                }
            }
            (_, nested) if nested.is_nested() => {
                self.leaf += leaves_of(nested);
                self.counter += 1;
                self.push(path, keys, Measure::Counter(self.counter - 1), StatKind::NullsOnly);
            }
            (_, flat) => {
                self.leaf += 1;
                self.push(path, keys, Measure::Leaf(self.leaf - 1), StatKind::of(flat));
            }
        }
        path.pop();
        keys.pop();
    }

    fn push(&mut self, path: &[String], keys: &[String], measure: Measure, kind: StatKind) {
        if self.chosen.has(self.seen, path) {
            self.out.push(StatColumn { keys: keys.to_vec(), measure, kind });
        }
        self.seen += 1;
    }
}

/// The parquet leaves below a type.
pub(crate) fn leaves_of(data_type: &DataType) -> usize {
    match data_type {
        DataType::Struct(fields) => fields.iter().map(|f| leaves_of(f.data_type())).sum(),
        DataType::List(f) | DataType::LargeList(f) | DataType::FixedSizeList(f, _) | DataType::Map(f, _) => {
            leaves_of(f.data_type())
        }
        _ => 1,
    }
}

#[cfg(test)]
mod tests {
    use super::column_list;

    #[test]
    fn column_lists_are_read_as_spark_writes_them() {
        assert_eq!(column_list("a, b.c ,`x.y,z`.d"), vec![vec!["a"], vec!["b", "c"], vec!["x.y,z", "d"]]);
        assert!(column_list(" ").is_empty());
    }
}
