"""Reads Delta tables with a library that is not duckrun, and prints what it saw as JSON.

    python read.py READER JOB

READER is one of the functions below that are marked as a reader; each runs in a process of its own. JOB is a JSON file
that lists tables: name, path, versions, predicates. Standard output gets, per table and version, the schema, the rows, and
the number of rows that hold each predicate (which is where wrong statistics of a file show).

Values are printed so that nothing is rounded: floats as their bits, decimals and 64-bit numbers in full, dates as days
and timestamps as microseconds. tests/integration/readers.rs prints its own side in the same form.
"""

import json
import struct
import sys
from pathlib import Path

import pyarrow as pa


def reader_datafusion(table, version):
    """delta-rs reads the log, its DataFusion the files."""
    from deltalake import DeltaTable, QueryBuilder

    opened = DeltaTable(table["path"], version=version)

    def query(sql):
        return pa.table(QueryBuilder().register("t", opened).execute(sql).read_all())

    return query("select * from t"), lambda p: query(f"select count(*) from t where {p}"), described(opened)


def reader_pyarrow(table, version):
    """delta-rs reads the log, Arrow's C++ library the files."""
    from deltalake import DeltaTable

    opened = DeltaTable(table["path"], version=version)
    return opened.to_pyarrow_table(), None, described(opened)


def reader_duckdb(table, version):
    """DuckDB's delta extension (delta-kernel-rs) reads the log, DuckDB the files."""
    import duckdb
    import duckdb_extension_delta

    folder = Path(duckdb_extension_delta.__file__).parent / "extensions" / f"v{duckdb.__version__}"
    con = duckdb.connect(config={"autoinstall_known_extensions": "false"})
    con.execute(f"load '{folder / 'delta.duckdb_extension'}'")
    con.execute("set timezone = 'UTC'")
    path = table["path"].replace("'", "''")
    at = "" if version is None else f", version => {version}"

    def query(sql):
        return con.execute(sql).to_arrow_table()

    scan = f"delta_scan('{path}'{at})"
    return query(f"from {scan}"), lambda p: query(f"select count(*) from {scan} where {p}"), {}


def described(opened):
    """What the log says beside the rows."""
    metadata = opened.metadata()
    return {
        "version": opened.version(),
        "partition_by": list(metadata.partition_columns),
        "comment": metadata.description,
    }


def type_name(t):
    """The Delta type that an Arrow type stands for."""
    if pa.types.is_dictionary(t):
        return type_name(t.value_type)
    if pa.types.is_struct(t):
        return "struct<" + ",".join(f"{f.name}:{type_name(f.type)}" for f in t) + ">"
    if pa.types.is_map(t):
        return f"map<{type_name(t.key_type)},{type_name(t.item_type)}>"
    if pa.types.is_list(t) or pa.types.is_large_list(t) or pa.types.is_list_view(t):
        return f"array<{type_name(t.value_type)}>"
    if pa.types.is_decimal(t):
        return f"decimal({t.precision},{t.scale})"
    if pa.types.is_timestamp(t):
        return ("timestamp" if t.tz else "timestamp_ntz") + ("" if t.unit == "us" else f" in {t.unit}")
    if pa.types.is_string(t) or pa.types.is_large_string(t) or pa.types.is_string_view(t):
        return "string"
    if pa.types.is_binary(t) or pa.types.is_large_binary(t) or pa.types.is_binary_view(t):
        return "binary"
    names = {
        "bool": "boolean",
        "int8": "byte",
        "int16": "short",
        "int32": "integer",
        "int64": "long",
        "float": "float",
        "double": "double",
        "date32[day]": "date",
    }
    return names.get(str(t), f"no Delta type: {t}")


def values(array):
    """The values of an array, printable and exact."""
    t = array.type
    if pa.types.is_dictionary(t):
        return values(array.dictionary_decode())
    if pa.types.is_struct(t):
        rows = [list(row) for row in zip(*map(values, array.flatten()))]
    elif pa.types.is_map(t):
        entries = [list(entry) for entry in zip(values(array.keys), values(array.items))]
        offsets = array.offsets.to_pylist()
        rows = [entries[a:b] for a, b in zip(offsets, offsets[1:])]
    elif pa.types.is_list(t) or pa.types.is_large_list(t):
        elements, offsets = values(array.values), array.offsets.to_pylist()
        rows = [elements[a:b] for a, b in zip(offsets, offsets[1:])]
    elif pa.types.is_timestamp(t):
        return array.cast(pa.int64()).to_pylist()
    elif pa.types.is_date32(t):
        return array.cast(pa.int32()).to_pylist()
    elif pa.types.is_decimal(t):
        rows = [v if v is None else format(v, "f") for v in array.to_pylist()]
    elif pa.types.is_float32(t) or pa.types.is_float64(t):
        form = ">f" if pa.types.is_float32(t) else ">d"
        rows = [v if v is None else "NaN" if v != v else struct.pack(form, v).hex() for v in array.to_pylist()]
    elif pa.types.is_binary(t) or pa.types.is_large_binary(t) or pa.types.is_binary_view(t):
        rows = [v if v is None else v.hex() for v in array.to_pylist()]
    else:
        return array.to_pylist()
    return [row if valid else None for row, valid in zip(rows, array.is_valid().to_pylist())]


def read(reader, table, version):
    """One version of a table."""
    rows, count, log = reader(table, version)
    columns = [[v for chunk in column.chunks for v in values(chunk)] for column in rows.columns]
    counts = None
    if count:
        counts = [count(p).column(0)[0].as_py() for p in table["predicates"]]
    return {
        "schema": [[f.name, type_name(f.type)] for f in rows.schema],
        "rows": [list(row) for row in zip(*columns)],
        "counts": counts,
        "log": log,
    }


def main():
    reader = globals()[f"reader_{sys.argv[1]}"]
    job = json.loads(Path(sys.argv[2]).read_text())
    seen = {}
    for table in job:
        versions = [*table["versions"], None]
        seen[table["name"]] = {"latest" if v is None else str(v): read(reader, table, v) for v in versions}
    json.dump(seen, sys.stdout, ensure_ascii=False)


if __name__ == "__main__":
    main()
