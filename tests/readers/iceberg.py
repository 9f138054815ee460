"""Writes Iceberg tables with pyiceberg, and prints what pyiceberg reads of them as JSON.

    python iceberg.py FOLDER [WAREHOUSE ENDPOINT]

The tables go below FOLDER, or below the WAREHOUSE (s3://..) of the S3 at ENDPOINT. Standard output gets, per table and snapshot, the metadata file, the snapshot's id (null for the
current one) and the rows as texts. Manifests of deletes are made here: pyiceberg reads position deletes, but writes none.
"""

import io
import json
import sys
import uuid
from datetime import date, datetime, time, timezone
from decimal import Decimal
from pathlib import Path

import duckdb
import fastavro
import pyarrow as pa
import pyarrow.parquet as pq
from pyiceberg.catalog.sql import SqlCatalog
from pyiceberg.partitioning import PartitionField, PartitionSpec
from pyiceberg.schema import Schema
from pyiceberg.table.name_mapping import create_mapping_from_schema
from pyiceberg.transforms import IdentityTransform
from pyiceberg.types import (
    BinaryType,
    BooleanType,
    DateType,
    DecimalType,
    DoubleType,
    FixedType,
    FloatType,
    IntegerType,
    ListType,
    LongType,
    MapType,
    NestedField,
    StringType,
    StructType,
    TimestampType,
    TimestamptzType,
    TimeType,
)


def every_type(catalog):
    """Every type, NULLs, two files, one of them rewritten by a delete."""
    inner = StructType(NestedField(30, "x", IntegerType()), NestedField(31, "y", StringType()))
    types = [
        BooleanType(), IntegerType(), LongType(), FloatType(), DoubleType(), DecimalType(20, 3), DateType(), TimeType(),
        TimestampType(), TimestamptzType(), StringType(), BinaryType(), FixedType(4), inner,
        ListType(40, StringType(), element_required=False), MapType(50, StringType(), 51, LongType(), value_required=False),
    ]  # fmt: skip
    names = "b i l f d n day t ts tz s bin fix st li m".split()
    fields = [NestedField(k + 1, name, ty) for k, (name, ty) in enumerate(zip(names, types))]
    table = catalog.create_table("n.every_type", Schema(*fields))
    arrow = table.schema().as_arrow()
    row = {
        "b": True, "i": -(2**31), "l": 2**62, "f": 1.5, "d": -0.1, "n": Decimal("12345678901234567.125"),
        "day": date(2020, 2, 29), "t": time(23, 59, 59, 999999), "ts": datetime(2020, 1, 1, 0, 0, 0, 1),
        "tz": datetime(2020, 1, 1, tzinfo=timezone.utc), "s": "it's", "bin": b"\x00\xff", "fix": b"abcd",
        "st": {"x": 1, "y": None}, "li": ["a", None], "m": {"k": 1},
    }  # fmt: skip
    table.append(pa.Table.from_pylist([row, {}, {"l": 7}], schema=arrow))
    table.append(pa.Table.from_pylist([{"l": 8}, {"l": 9}], schema=arrow))
    table.delete("l = 7")
    return table, [None]


def partitioned(catalog):
    """Partition values that need escaping in paths, and a partitioning that changed."""
    schema = Schema(
        NestedField(1, "id", LongType()), NestedField(2, "city", StringType()), NestedField(3, "at", TimestampType())
    )
    spec = PartitionSpec(PartitionField(2, 1000, IdentityTransform(), "city"))
    table = catalog.create_table("n.partitioned", schema, partition_spec=spec)
    arrow = table.schema().as_arrow()
    cities = ["New York", "x/y=1", "100%", "São", None]
    rows = [{"id": n, "city": city, "at": datetime(2020, 1, n + 1)} for n, city in enumerate(cities)]
    table.append(pa.Table.from_pylist(rows, schema=arrow))
    with table.update_spec() as update:
        update.remove_field("city")
        update.add_field("id", IdentityTransform(), "id_part")
    table.append(pa.Table.from_pylist([{"id": 10, "city": "Rome", "at": datetime(2021, 1, 1)}], schema=arrow))
    return table, [None]


def evolved(catalog):
    """Columns added, dropped, renamed (one to a dropped one's name), widened; read at every snapshot."""
    schema = Schema(NestedField(1, "id", IntegerType()), NestedField(2, "a", StringType()), NestedField(3, "b", StringType()))
    table = catalog.create_table("n.evolved", schema)
    table.append(pa.table({"id": pa.array([1], pa.int32()), "a": ["a1"], "b": ["b1"]}))
    with table.update_schema() as update:
        update.delete_column("b")
        update.add_column("c", DoubleType())
        update.update_column("id", LongType())
    with table.update_schema() as update:
        update.rename_column("a", "b")
    table.append(pa.table({"id": [2**40], "b": ["a2"], "c": [0.5]}))
    return table, [None, *[s.snapshot_id for s in table.snapshots()]]


def version_1(catalog):
    """The older format."""
    schema = Schema(NestedField(1, "id", LongType()))
    table = catalog.create_table("n.version_1", schema, properties={"format-version": "1"})
    table.append(pa.table({"id": [1, 2]}))
    table.append(pa.table({"id": [3]}))
    return table, [None, table.snapshots()[0].snapshot_id]


def empty(catalog):
    """No snapshot yet."""
    return catalog.create_table("n.empty", Schema(NestedField(1, "id", LongType()))), [None]


def deletes(catalog):
    """Rows deleted by position."""
    table = catalog.create_table("n.deletes", Schema(NestedField(1, "id", LongType())))
    table.append(pa.table({"id": list(range(100))}))
    table.append(pa.table({"id": [100, 101]}))
    files = sorted(task.file.file_path for task in table.scan().plan_files())
    positions = {"file_path": [files[0], files[0], files[1]], "pos": [0, 1, 1]}
    with_delete_file(table, 1, positions, [(2147483546, pa.string()), (2147483545, pa.int64())])
    return table, [None]


def equality(catalog):
    """Rows deleted by value."""
    table = catalog.create_table("n.equality", Schema(NestedField(1, "id", LongType())))
    table.append(pa.table({"id": [1, 2]}))
    with_delete_file(table, 2, {"id": [1]}, [(1, pa.int64())])
    return table, []


def mapped(catalog):
    """Files may be without field ids."""
    schema = Schema(NestedField(1, "id", LongType()))
    table = catalog.create_table("n.mapped", schema)
    with table.transaction() as change:
        change.set_properties({"schema.name-mapping.default": create_mapping_from_schema(schema).model_dump_json()})
    return table, []


def version_3(catalog):
    """A newer format; the number alone must do."""
    table = catalog.create_table("n.version_3", Schema(NestedField(1, "id", LongType())))
    file = table.metadata_location
    write(table, file, json.dumps({**json.loads(read(table, file)), "format-version": 3}).encode())
    return table, []


def read(table, place):
    """The bytes of a file of the table."""
    with table.io.new_input(place).open() as f:
        return f.read()


def write(table, place, content):
    """Makes or replaces a file of the table."""
    with table.io.new_output(place).create(overwrite=True) as f:
        f.write(content)


def with_delete_file(table, content, columns, types):
    """Adds a delete file to the newest snapshot: the parquet file, its manifest, and its entry in the manifest list."""
    fields = [
        pa.field(name, ty, metadata={"PARQUET:field_id": str(id)}) for name, (id, ty) in zip(columns, types)
    ]
    data = f"{table.location()}/data/{uuid.uuid4()}-deletes.parquet"
    parquet = io.BytesIO()
    pq.write_table(pa.table(columns, schema=pa.schema(fields)), parquet)
    write(table, data, parquet.getvalue())
    list_file = table.current_snapshot().manifest_list
    reader = fastavro.reader(io.BytesIO(read(table, list_file)))
    list_schema, list_meta, manifests = reader.writer_schema, reader.metadata, list(reader)
    reader = fastavro.reader(io.BytesIO(read(table, manifests[0]["manifest_path"])))
    schema, meta, entries = reader.writer_schema, reader.metadata, list(reader)
    entry = entries[0]
    entry.update(status=1, snapshot_id=table.current_snapshot().snapshot_id, sequence_number=99, file_sequence_number=99)
    entry["data_file"].update(
        content=content,
        file_path=data,
        record_count=len(next(iter(columns.values()))),
        file_size_in_bytes=len(parquet.getvalue()),
        equality_ids=[1] if content == 2 else None,
    )
    for statistics in ["column_sizes", "value_counts", "null_value_counts", "nan_value_counts", "lower_bounds", "upper_bounds"]:
        entry["data_file"][statistics] = None
    manifest, avro = f"{table.location()}/metadata/{uuid.uuid4()}-m0.avro", io.BytesIO()
    kept = {k: v for k, v in meta.items() if not k.startswith("avro.")}
    fastavro.writer(avro, schema, [entry], codec="deflate", metadata={**kept, "content": "deletes"})
    write(table, manifest, avro.getvalue())
    added = {**manifests[0], "manifest_path": manifest, "manifest_length": len(avro.getvalue())}
    added.update(content=1, sequence_number=99, min_sequence_number=99)
    avro = io.BytesIO()
    kept = {k: v for k, v in list_meta.items() if not k.startswith("avro.")}
    fastavro.writer(avro, list_schema, [*manifests, added], codec="null", metadata=kept)
    write(table, list_file, avro.getvalue())


def rows(table, snapshot):
    """The rows as DuckDB prints them."""
    seen = table.scan(snapshot_id=snapshot).to_arrow()
    con = duckdb.connect()
    con.execute("set timezone = 'UTC'")
    con.register("seen", seen)
    texts = con.execute("select columns(*)::varchar from seen").fetchall()
    return sorted("|".join("NULL" if v is None else v for v in row) for row in texts)


def main():
    root = Path(sys.argv[1])
    options = {"warehouse": f"file://{root}"}
    if len(sys.argv) > 2:
        options = {
            "warehouse": sys.argv[2],
            "s3.endpoint": sys.argv[3],
            "s3.region": "us-east-1",
            "s3.access-key-id": "somebody",
            "s3.secret-access-key": "secret",
        }
    catalog = SqlCatalog("c", uri=f"sqlite:///{root}/catalog.db", **options)
    catalog.create_namespace("n")
    seen = []
    for make in [every_type, partitioned, evolved, version_1, empty, deletes, equality, mapped, version_3]:
        table, snapshots = make(catalog)
        for snapshot in snapshots:
            seen.append(
                {
                    "name": make.__name__,
                    "metadata": table.metadata_location.removeprefix("file://"),
                    "snapshot": snapshot,
                    "rows": rows(table, snapshot),
                }
            )
    json.dump(seen, sys.stdout, ensure_ascii=False)


if __name__ == "__main__":
    main()
