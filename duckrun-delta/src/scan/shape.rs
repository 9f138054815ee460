//! What a table's columns are called in its files.

use std::sync::Arc;

use arrow::datatypes::{DataType, FieldRef, Schema};
use duckrun_core::{Error, Result, Snapshot as _};

use crate::schema::Names;
use crate::snapshot::DeltaSnapshot;

/// The columns of a table as readers of its files need them.
#[derive(Debug, Clone)]
pub(crate) struct TableShape {
    pub(super) columns: Vec<ShapeColumn>,
    /// Column mapping by id: files are matched by field id, where they have any.
    pub(super) by_id: bool,
}

/// One column.
#[derive(Debug, Clone)]
pub(super) struct ShapeColumn {
    /// The table's own name and type.
    pub(super) field: FieldRef,
    /// The name in files and in partition values.
    pub(super) physical_name: String,
    /// The type with the names that struct members have in files.
    pub(super) physical_type: DataType,
    pub(super) id: Option<i32>,
    pub(super) partition: bool,
}

impl TableShape {
    /// The columns of a snapshot.
    pub(crate) fn of(snapshot: &DeltaSnapshot) -> Result<Self> {
        Self::with_schema(snapshot, &snapshot.schema())
    }

    /// The columns of `schema`, found in the files of a snapshot; one that the snapshot does not have is in no file.
    pub(crate) fn with_schema(snapshot: &DeltaSnapshot, schema: &Schema) -> Result<Self> {
        let mapped = snapshot.metadata().column_mapping();
        let by_id = snapshot.metadata().configuration.get("delta.columnMapping.mode").is_some_and(|mode| mode == "id");
        let column = |field: &FieldRef| {
            let delta = snapshot.delta_schema().fields.iter().find(|f| f.name == *field.name());
            let physical_type = match delta.filter(|_| mapped) {
                Some(delta) => delta.data_type.arrow(Names::Physical)?,
                None => field.data_type().clone(),
            };
            Ok::<_, Error>(ShapeColumn {
                physical_name: delta.map_or(field.name().as_str(), |d| d.physical_name(mapped)).to_owned(),
                physical_type,
                id: delta.filter(|_| mapped).and_then(|d| d.id()),
                partition: snapshot.partition_columns().contains(field.name()),
                field: Arc::clone(field),
            })
        };
        Ok(Self { columns: schema.fields().iter().map(column).collect::<Result<_>>()?, by_id })
    }
}
