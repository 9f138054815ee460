//! Delta's schema JSON and Arrow, both ways, with everything a writer must hand on unchanged (field metadata, column mapping).
//!
//! Source: the Delta protocol, "Schema Serialization Format" and "Column Mapping".

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Fields, Schema, SchemaRef, TimeUnit};
use duckrun_core::{Error, Result};
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

/// Column mapping: the key of a field's physical name.
const PHYSICAL_NAME: &str = "delta.columnMapping.physicalName";
/// Column mapping: the key of a field's id.
const COLUMN_ID: &str = "delta.columnMapping.id";
/// The key of a field's comment.
const COMMENT: &str = "comment";

/// A table's schema as the log holds it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct DeltaSchema {
    #[serde(rename = "type")]
    tag: StructTag,
    pub(crate) fields: Vec<DeltaField>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum StructTag {
    Struct,
}

/// One field.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct DeltaField {
    pub(crate) name: String,
    #[serde(rename = "type")]
    pub(crate) data_type: DeltaType,
    pub(crate) nullable: bool,
    #[serde(default)]
    pub(crate) metadata: BTreeMap<String, Json>,
}

/// A type: a name, or a nested definition.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub(crate) enum DeltaType {
    Primitive(String),
    Nested(Box<Nested>),
}

/// A nested type.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "lowercase", rename_all_fields = "camelCase")]
pub(crate) enum Nested {
    Struct { fields: Vec<DeltaField> },
    Array { element_type: DeltaType, contains_null: bool },
    Map { key_type: DeltaType, value_type: DeltaType, value_contains_null: bool },
}

impl DeltaField {
    /// The name in the files.
    pub(crate) fn physical_name(&self, mapped: bool) -> &str {
        let physical = if mapped { self.metadata.get(PHYSICAL_NAME).and_then(Json::as_str) } else { None };
        physical.unwrap_or(&self.name)
    }

    /// The id in the files, with column mapping.
    pub(crate) fn id(&self) -> Option<i32> {
        self.metadata.get(COLUMN_ID).and_then(Json::as_i64).and_then(|id| i32::try_from(id).ok())
    }

    /// The comment.
    pub(crate) fn comment(&self) -> Option<&str> {
        self.metadata.get(COMMENT).and_then(Json::as_str)
    }

    /// Sets the comment.
    pub(crate) fn set_comment(&mut self, comment: &str) {
        self.metadata.insert(COMMENT.to_owned(), Json::String(comment.to_owned()));
    }

    fn arrow(&self, names: Names) -> Result<Field> {
        let name = match names {
            Names::Logical => &self.name,
            Names::Physical => self.physical_name(true),
        };
        Ok(Field::new(name, self.data_type.arrow(names)?, self.nullable))
    }
}

/// Which names an Arrow schema gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Names {
    Logical,
    Physical,
}

impl DeltaSchema {
    pub(crate) fn parse(json: &str) -> Result<Self> {
        serde_json::from_str(json).map_err(|e| Error::corrupt("the table's schema is not valid JSON").with_source(e))
    }

    pub(crate) fn to_json(&self) -> Result<String> {
        serde_json::to_string(self).map_err(|e| Error::internal("a schema cannot be serialised").with_source(e))
    }

    /// The logical Arrow schema.
    pub(crate) fn arrow(&self) -> Result<SchemaRef> {
        let fields: Vec<Field> = self.fields.iter().map(|f| f.arrow(Names::Logical)).collect::<Result<_>>()?;
        Ok(Arc::new(Schema::new(fields)))
    }

    /// The schema for Arrow columns; fields that `previous` has under the same name keep their metadata.
    pub(crate) fn from_arrow(schema: &Schema, previous: Option<&Self>) -> Result<Self> {
        let fields = schema
            .fields()
            .iter()
            .map(|field| {
                let metadata = previous
                    .and_then(|p| p.fields.iter().find(|f| f.name == *field.name()))
                    .map(|f| f.metadata.clone())
                    .unwrap_or_default();
                Ok(DeltaField {
                    name: field.name().clone(),
                    data_type: DeltaType::from_arrow(field.data_type())?,
                    nullable: field.is_nullable(),
                    metadata,
                })
            })
            .collect::<Result<_>>()?;
        Ok(Self { tag: StructTag::Struct, fields })
    }

    /// The same schema with the columns of `schema` that it lacks appended, nullable.
    pub(crate) fn with_added(&self, schema: &Schema) -> Result<Self> {
        let mut added = self.clone();
        for field in schema.fields() {
            if !self.fields.iter().any(|f| f.name == *field.name()) {
                added.fields.push(DeltaField {
                    name: field.name().clone(),
                    data_type: DeltaType::from_arrow(field.data_type())?,
                    nullable: true,
                    metadata: BTreeMap::new(),
                });
            }
        }
        Ok(added)
    }

    /// Whether a timestamp without zone occurs, which needs a table feature.
    pub(crate) fn has_timestamp_ntz(&self) -> bool {
        fn any(ty: &DeltaType) -> bool {
            match ty {
                DeltaType::Primitive(name) => name == "timestamp_ntz",
                DeltaType::Nested(nested) => match nested.as_ref() {
                    Nested::Struct { fields } => fields.iter().any(|f| any(&f.data_type)),
                    Nested::Array { element_type, .. } => any(element_type),
                    Nested::Map { key_type, value_type, .. } => any(key_type) || any(value_type),
                },
            }
        }
        self.fields.iter().any(|f| any(&f.data_type))
    }

    /// Whether any field carries a metadata key, nested fields included.
    pub(crate) fn has_metadata(&self, key: &str) -> bool {
        fn any(fields: &[DeltaField], key: &str) -> bool {
            fields.iter().any(|f| f.metadata.contains_key(key) || inside(&f.data_type, key))
        }
        fn inside(ty: &DeltaType, key: &str) -> bool {
            let DeltaType::Nested(nested) = ty else { return false };
            match nested.as_ref() {
                Nested::Struct { fields } => any(fields, key),
                Nested::Array { element_type, .. } => inside(element_type, key),
                Nested::Map { key_type, value_type, .. } => inside(key_type, key) || inside(value_type, key),
            }
        }
        any(&self.fields, key)
    }
}

impl DeltaType {
    pub(crate) fn arrow(&self, names: Names) -> Result<DataType> {
        Ok(match self {
            Self::Primitive(name) => primitive(name)?,
            Self::Nested(nested) => match nested.as_ref() {
                Nested::Struct { fields } => {
                    DataType::Struct(fields.iter().map(|f| f.arrow(names).map(Arc::new)).collect::<Result<Fields>>()?)
                }
                Nested::Array { element_type, contains_null } => {
                    DataType::List(Arc::new(Field::new("element", element_type.arrow(names)?, *contains_null)))
                }
                Nested::Map { key_type, value_type, value_contains_null } => {
                    let entries = Fields::from(vec![
                        Field::new("key", key_type.arrow(names)?, false),
                        Field::new("value", value_type.arrow(names)?, *value_contains_null),
                    ]);
                    DataType::Map(Arc::new(Field::new("key_value", DataType::Struct(entries), false)), false)
                }
            },
        })
    }

    fn from_arrow(ty: &DataType) -> Result<Self> {
        let name = match ty {
            DataType::Boolean => "boolean".to_owned(),
            DataType::Int8 => "byte".to_owned(),
            DataType::Int16 => "short".to_owned(),
            DataType::Int32 => "integer".to_owned(),
            DataType::Int64 => "long".to_owned(),
            DataType::Float32 => "float".to_owned(),
            DataType::Float64 => "double".to_owned(),
            DataType::Utf8 => "string".to_owned(),
            DataType::Binary => "binary".to_owned(),
            DataType::Date32 => "date".to_owned(),
            DataType::Timestamp(TimeUnit::Microsecond, None) => "timestamp_ntz".to_owned(),
            DataType::Timestamp(TimeUnit::Microsecond, Some(zone)) if zone.as_ref() == "UTC" => "timestamp".to_owned(),
            DataType::Decimal128(precision, scale) if *scale >= 0 => format!("decimal({precision},{scale})"),
            DataType::Struct(fields) => {
                let fields = fields
                    .iter()
                    .map(|f| {
                        Ok(DeltaField {
                            name: f.name().clone(),
                            data_type: Self::from_arrow(f.data_type())?,
                            nullable: f.is_nullable(),
                            metadata: BTreeMap::new(),
                        })
                    })
                    .collect::<Result<_>>()?;
                return Ok(Self::Nested(Box::new(Nested::Struct { fields })));
            }
            DataType::List(element) => {
                return Ok(Self::Nested(Box::new(Nested::Array {
                    element_type: Self::from_arrow(element.data_type())?,
                    contains_null: element.is_nullable(),
                })));
            }
            DataType::Map(entries, _) => {
                let DataType::Struct(kv) = entries.data_type() else {
                    return Err(Error::internal("a map without entries"));
                };
                return Ok(Self::Nested(Box::new(Nested::Map {
                    key_type: Self::from_arrow(kv[0].data_type())?,
                    value_type: Self::from_arrow(kv[1].data_type())?,
                    value_contains_null: kv[1].is_nullable(),
                })));
            }
            other => return Err(Error::unsupported(format!("Delta has no type for Arrow's {other}"))),
        };
        Ok(Self::Primitive(name))
    }
}

fn primitive(name: &str) -> Result<DataType> {
    Ok(match name {
        "boolean" => DataType::Boolean,
        "byte" => DataType::Int8,
        "short" => DataType::Int16,
        "integer" => DataType::Int32,
        "long" => DataType::Int64,
        "float" => DataType::Float32,
        "double" => DataType::Float64,
        "string" => DataType::Utf8,
        "binary" => DataType::Binary,
        "date" => DataType::Date32,
        "timestamp" => DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
        "timestamp_ntz" => DataType::Timestamp(TimeUnit::Microsecond, None),
        decimal => decimal
            .strip_prefix("decimal(")
            .and_then(|rest| rest.strip_suffix(')'))
            .and_then(|args| args.split_once(','))
            .and_then(|(p, s)| Some((p.trim().parse().ok()?, s.trim().parse().ok()?)))
            .filter(|(p, s): &(u8, i8)| (1..=38).contains(p) && (0..=38).contains(s))
            .map(|(p, s)| DataType::Decimal128(p, s))
            .ok_or_else(|| Error::unsupported(format!("the table has a column of the type {name:?}")))?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_nested_schema_survives_both_ways() {
        let json = r#"{"type":"struct","fields":[
            {"name":"a","type":"long","nullable":false,"metadata":{"comment":"x","delta.columnMapping.id":1}},
            {"name":"d","type":"decimal(20,3)","nullable":true,"metadata":{}},
            {"name":"s","type":{"type":"struct","fields":[{"name":"t","type":"timestamp_ntz","nullable":true,"metadata":{}}]},"nullable":true,"metadata":{}},
            {"name":"l","type":{"type":"array","elementType":"string","containsNull":true},"nullable":true,"metadata":{}},
            {"name":"m","type":{"type":"map","keyType":"string","valueType":"date","valueContainsNull":true},"nullable":true,"metadata":{}}
        ]}"#;
        let schema = DeltaSchema::parse(json).unwrap();
        assert!(schema.has_timestamp_ntz());
        let arrow = schema.arrow().unwrap();
        assert_eq!(DeltaSchema::from_arrow(&arrow, Some(&schema)).unwrap(), schema);
        let text: Json = serde_json::from_str(&schema.to_json().unwrap()).unwrap();
        assert_eq!(text, serde_json::from_str::<Json>(json).unwrap());
    }

    #[test]
    fn unknown_types_are_refused_by_name() {
        for ty in ["void", "decimal(39,0)", "variant", "interval"] {
            let json = format!(
                r#"{{"type":"struct","fields":[{{"name":"a","type":"{ty}","nullable":true,"metadata":{{}}}}]}}"#
            );
            let e = DeltaSchema::parse(&json).unwrap().arrow().unwrap_err();
            assert!(e.message().contains(ty), "{e}");
        }
    }
}
