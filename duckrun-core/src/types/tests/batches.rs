//! What happens to batches: labels change, buffers do not; infinities are found where a value is one; names collide.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, Date32Array, Int32Array, LargeListArray, ListArray, MapArray, RecordBatch, StringArray,
    StringViewArray, StructArray, TimestampMicrosecondArray,
};
use arrow::buffer::{NullBuffer, OffsetBuffer};
use arrow::datatypes::{DataType, Field, Fields, Schema, SchemaRef, TimeUnit, TimestampMicrosecondType};

use crate::ErrorKind;
use crate::types::{
    BatchCheck, check_batch, check_names, common_type, conform, is_delta_type, list_of, map_of, sql_type, widens,
};

fn instant(zone: &str) -> DataType {
    DataType::Timestamp(TimeUnit::Microsecond, Some(zone.into()))
}

fn schema(name: &str, ty: DataType, nullable: bool) -> SchemaRef {
    Arc::new(Schema::new(vec![Field::new(name, ty, nullable)]))
}

fn batch(array: ArrayRef) -> RecordBatch {
    RecordBatch::try_new(schema("c", array.data_type().clone(), true), vec![array]).unwrap()
}

fn instants(values: Vec<Option<i64>>, zone: &str) -> ArrayRef {
    Arc::new(TimestampMicrosecondArray::from(values).with_timezone(zone))
}

/// A list whose child has DuckDB's name.
fn duck_list(values: ArrayRef, lengths: &[usize], nulls: Option<NullBuffer>) -> ArrayRef {
    let field = Arc::new(Field::new("l", values.data_type().clone(), true));
    let offsets = OffsetBuffer::from_lengths(lengths.iter().copied());
    Arc::new(ListArray::new(field, offsets, values, nulls))
}

#[test]
fn conforming_copies_nothing() {
    let stamps = instants(vec![Some(1), None, Some(3)], "Etc/UTC");
    let address = |array: &dyn Array| array.as_primitive::<TimestampMicrosecondType>().values().as_ptr();
    let before = address(&stamps);
    let list = duck_list(stamps, &[2, 1], None);
    let fields: Fields =
        vec![Field::new("key", DataType::Utf8, false), Field::new("value", list.data_type().clone(), true)].into();
    let keys: ArrayRef = Arc::new(StringArray::from(vec!["a", "b"]));
    let text = keys.as_string::<i32>().values().as_ptr();
    let entries = StructArray::new(fields.clone(), vec![keys, list], None);
    let entry = Arc::new(Field::new("entries", DataType::Struct(fields), false));
    let map: ArrayRef = Arc::new(MapArray::new(entry, OffsetBuffer::from_lengths([1, 1]), entries, None, false));
    let whole = StructArray::from(vec![(Arc::new(Field::new("m", map.data_type().clone(), true)), map)]);

    let want = DataType::Struct(vec![Field::new("m", map_of(DataType::Utf8, list_of(instant("UTC"))), true)].into());
    let got = conform(batch(Arc::new(whole)), &schema("c", want.clone(), true)).unwrap();
    assert_eq!(got.column(0).data_type(), &want);
    let map = got.column(0).as_struct().column(0).as_map();
    assert_eq!(map.keys().as_string::<i32>().values().as_ptr(), text);
    assert_eq!(address(map.values().as_list::<i32>().values()), before);
}

#[test]
fn other_layouts_of_the_same_values_are_accepted() {
    let field = Arc::new(Field::new("l", DataType::Utf8View, true));
    let values = Arc::new(StringViewArray::from(vec![Some("a"), None, Some("a text longer than a view")]));
    let list = LargeListArray::new(field, OffsetBuffer::from_lengths([1, 2]), values, None);
    let got = conform(batch(Arc::new(list)), &schema("c", list_of(DataType::Utf8), true)).unwrap();
    assert_eq!(got.column(0).as_list::<i32>().value(1).as_string::<i32>().value(1), "a text longer than a view");
}

#[test]
fn real_differences_are_errors() {
    let int = || batch(Arc::new(Int32Array::from(vec![Some(1), None])));
    for want in [
        schema("c", DataType::Int64, true),
        schema("C", DataType::Int32, true),
        schema("c", list_of(DataType::Int32), true),
        Arc::new(Schema::empty()),
    ] {
        assert_eq!(conform(int(), &want).unwrap_err().kind(), ErrorKind::Internal);
    }
    let e = conform(int(), &schema("c", DataType::Int32, false)).unwrap_err();
    assert_eq!(
        (e.kind(), e.message()),
        (ErrorKind::InvalidData, "column \"c\" must not be NULL, and has 1 NULLs in a batch")
    );

    let naive: ArrayRef = Arc::new(TimestampMicrosecondArray::from(vec![1]));
    assert!(conform(batch(naive), &schema("c", instant("UTC"), true)).is_err(), "a zone is not a label");
    let berlin = instants(vec![Some(1)], "Europe/Berlin");
    assert!(conform(batch(berlin), &schema("c", instant("UTC"), true)).is_err());
}

#[test]
fn a_required_field_is_checked_inside() {
    let ints: ArrayRef = Arc::new(Int32Array::from(vec![Some(1), None]));
    let part = |nulls| {
        let fields: Fields = vec![Field::new("a", DataType::Int32, true)].into();
        batch(Arc::new(StructArray::new(fields, vec![ints.clone()], nulls)))
    };
    let want = schema("c", DataType::Struct(vec![Field::new("a", DataType::Int32, false)].into()), true);
    let e = conform(part(None), &want).unwrap_err();
    assert!(e.kind() == ErrorKind::InvalidData && e.message().contains(r#""c"."a""#), "{e}");
    assert!(conform(part(Some(NullBuffer::from(vec![true, false]))), &want).is_ok(), "a NULL struct has no fields");

    let want = schema("c", DataType::List(Arc::new(Field::new("element", DataType::Int32, false))), true);
    let e = conform(batch(duck_list(ints.clone(), &[2], None)), &want).unwrap_err();
    assert!(e.kind() == ErrorKind::InvalidData && e.message().contains(r#""c"[]"#), "{e}");
}

#[test]
fn infinities_behind_nulls_do_not_count() {
    let days: ArrayRef = Arc::new(Date32Array::new(vec![0, i32::MAX].into(), Some(vec![true, false].into())));
    assert!(check_batch(&batch(days.clone())).is_ok());
    let far: ArrayRef = Arc::new(Date32Array::from(vec![i32::MAX, 5, -i32::MAX, i32::MIN]));
    let e = check_batch(&batch(far.clone())).unwrap_err();
    assert!(e.message().contains("column \"c\"") && e.message().contains("2 of the 4 rows"), "{e}");
    // The infinities belong to a NULL list and to elements before a slice.
    let list = duck_list(far, &[1, 1, 2], Some(vec![false, true, true].into()));
    assert!(check_batch(&batch(list.clone())).is_err());
    assert!(check_batch(&batch(list.slice(0, 2))).is_ok());

    let none = BatchCheck::new(&schema("c", list_of(DataType::Int32), true));
    assert!(none.is_empty());
}

#[test]
fn names_that_collide_are_all_reported() {
    assert!(check_names(&["a", "b", "ab"]).is_ok());
    let e = check_names(&["Id", "x", "ID", "x", "É", "é", ""]).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::InvalidInput);
    for part in [r#""Id" and "ID" differ only in case"#, r#""x" occurs twice"#, r#""É" and "é""#, "empty"] {
        assert!(e.message().contains(part), "{e}");
    }
    let inner = crate::types::DuckType::parse("STRUCT(a STRUCT(É INTEGER, é INTEGER)[])").unwrap();
    let e = crate::types::decide("s", &inner, crate::TimestampMode::Ntz).unwrap_err();
    assert!(e.kind() == ErrorKind::InvalidInput && e.message().contains("column \"s\""), "{e}");
}

#[test]
fn structs_widen_by_name() {
    let of = |fields: &[(&str, DataType, bool)]| {
        DataType::Struct(fields.iter().map(|(n, ty, null)| Field::new(*n, ty.clone(), *null)).collect())
    };
    let small = of(&[("a", DataType::Int16, true), ("b", DataType::Utf8, true)]);
    assert!(widens(
        &small,
        &of(&[("B", DataType::Utf8, false), ("a", DataType::Int64, true), ("c", DataType::Utf8, true)])
    ));
    assert!(!widens(&small, &of(&[("a", DataType::Int16, true)])));
    assert!(!widens(&small, &of(&[("a", DataType::Int8, true), ("b", DataType::Utf8, true)])));
    assert!(!widens(
        &small,
        &of(&[("a", DataType::Int16, true), ("b", DataType::Utf8, true), ("c", DataType::Utf8, false)])
    ));
    let other = of(&[("c", DataType::Int8, true), ("a", DataType::Decimal128(9, 2), true)]);
    let common = common_type(&list_of(small.clone()), &list_of(other.clone())).unwrap();
    assert_eq!(sql_type(&common).unwrap(), r#"STRUCT("a" DECIMAL(9,2), "b" VARCHAR, "c" TINYINT)[]"#);
    assert!(widens(&list_of(small), &common) && widens(&list_of(other), &common));
    assert_eq!(common_type(&DataType::Utf8, &DataType::Int8), None);
    assert_eq!(common_type(&DataType::Int64, &DataType::Decimal128(38, 30)), None);
}

#[test]
fn only_deltas_types_are_deltas_types() {
    for ty in [
        DataType::UInt8,
        DataType::Float16,
        DataType::Null,
        DataType::LargeUtf8,
        DataType::Date64,
        DataType::Decimal128(5, -1),
        DataType::Decimal256(40, 2),
        DataType::Timestamp(TimeUnit::Nanosecond, None),
        instant("Etc/UTC"),
        instant("+00:00"),
        DataType::Struct(Fields::empty()),
        list_of(DataType::UInt8),
    ] {
        assert!(!is_delta_type(&ty), "{ty}");
        assert_eq!(sql_type(&ty).unwrap_err().kind(), ErrorKind::Unsupported);
        assert!(!widens(&ty, &ty), "{ty}");
    }
    let nested = map_of(DataType::Utf8, list_of(instant("UTC")));
    assert!(is_delta_type(&nested));
    assert_eq!(sql_type(&nested).unwrap(), "MAP(VARCHAR, TIMESTAMP WITH TIME ZONE[])");
}
