"""Parquet and Arrow IPC → tables, some rows at a time, whatever the size of a row group.

pyarrow reads both page by page. polars' streaming engine decodes a row group at once: one of 116 MiB took 303 MiB of memory, and exports
exist that hold all rows in one.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from catcli.data.io.buckets import BucketObject, Location, RangeReader
from catcli.data.io.streams import file_size
from catcli.errors import ChangedError, ProductsError, reason

BATCH_BYTES, DECODED_BYTES = 8 * 2**20, 32 * 2**20
"""Bytes of a batch as the file says how long its rows are, and at most once repeated cells are written out."""

MAX_CELL = 2**24
"""Bytes of a cell."""

PAGE_BYTES, REMOTE_PAGE_BYTES = 2**20, 4 * 2**20
"""Bytes of a column chunk that are read at once, from a disk and from a bucket."""


@contextmanager
def _translate_errors(path: Location, wanted: str) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowException, OSError, EOFError, UnicodeError) as error:
        raise ProductsError(f"{path} cannot be read as {wanted}: {reason(error)}; is it complete? Export or copy it again.") from error


def _open(path: Location) -> pa.NativeFile:
    if isinstance(path, BucketObject):
        return pa.PythonFile(RangeReader(path), mode="r")
    return pa.OSFile(os.fsencode(path))  # a name is bytes, which need not be UTF-8


def _open_mapped(path: Location) -> pa.NativeFile:
    return _open(path) if isinstance(path, BucketObject) else pa.memory_map(os.fsencode(path))


@dataclass(frozen=True)
class RowGroupRun:
    """Consecutive row groups of a Parquet file, their rows, and the bytes that these decode to."""

    groups: range
    rows: int
    bytes: int


def read_arrow_schema(path: Location) -> pa.Schema:
    """The columns of an Arrow file and their types, without its rows.

    Raises:
        ProductsError: it cannot be read.
    """
    with _translate_errors(path, "Arrow IPC"), _open(path) as opened:
        head = opened.read(6)
        opened.seek(0)
        return (pa.ipc.open_file(opened) if head == b"ARROW1" else pa.ipc.open_stream(opened)).schema


def read_footer(path: Location, rows: int) -> tuple[pa.Schema, list[RowGroupRun]]:
    """The columns of a Parquet file and their types, and its row groups in runs of at least ``rows`` rows, the last of fewer.

    Raises:
        ProductsError: it cannot be read.
    """
    runs, start, count, size = list[RowGroupRun](), 0, 0, 0
    with _translate_errors(path, "Parquet"), pq.ParquetFile(_open(path)) as file:
        group_count, schema = file.metadata.num_row_groups, file.schema_arrow
        for number in range(group_count):
            group = file.metadata.row_group(number)
            count, size = count + group.num_rows, size + group.total_byte_size
            if count >= rows or number == group_count - 1:
                runs.append(RowGroupRun(range(start, number + 1), count, size))
                start, count, size = number + 1, 0, 0
    return schema, runs or [RowGroupRun(range(0), 0, 0)]


def read_parquet(path: Location, rows: int, groups: range | None = None) -> Iterator[tuple[pa.Table, float]]:
    """The rows of a Parquet file, or of some of its row ``groups``, in order, at most ``rows`` at a time; the columns alone if it has none.

    With each table comes the share of these rows that has been read.

    Raises:
        ProductsError: it cannot be read, or gives another number of rows than it says it has.
    """
    page = REMOTE_PAGE_BYTES if isinstance(path, BucketObject) else PAGE_BYTES
    with _translate_errors(path, "Parquet"), pq.ParquetFile(_open(path), buffer_size=page, pre_buffer=False) as file:
        done, schema = 0, file.schema_arrow
        row_count = file.metadata.num_rows
        if groups is None:
            groups = range(file.metadata.num_row_groups)
        else:
            row_count = sum(file.metadata.row_group(group).num_rows for group in groups)
        step = _batch_rows(rows, row_count, sum(file.metadata.row_group(group).total_byte_size for group in groups))
        steps = ((_decoded_batch_rows(path, file, group, step), group) for group in groups)
        for size, run in itertools.groupby(steps, lambda pair: pair[0]):
            batches = file.iter_batches(batch_size=size, row_groups=[group for _, group in run])
            for table in _coalesce((pa.Table.from_batches([batch], schema) for batch in batches), size, step):
                done += len(table)
                yield table, done / max(row_count, 1)
    if done != row_count:
        raise ProductsError(f"{path} gave {done:,} of its {row_count:,} rows: it is damaged; export or copy it again.")
    if not row_count:
        yield schema.empty_table(), 1.0


def _decoded_batch_rows(path: Location, file: pq.ParquetFile, group: int, step: int) -> int:
    """At most ``step`` rows, so few that a row group's repeated cells, which its columns hold once, stay within `DECODED_BYTES`.

    A column of 479 bytes can stand for a text of a megabyte in each of a hundred thousand rows.
    """
    row_group = file.metadata.row_group(group)
    columns = [row_group.column(number) for number in range(row_group.num_columns)]
    step = min(step, max(1, DECODED_BYTES // max(1, sum(_width(file, number, row_group) for number in range(row_group.num_columns)))))
    if any("DELTA_BYTE_ARRAY" in column.encodings and column.total_uncompressed_size * step > DECODED_BYTES for column in columns):
        step = min(step, DELTA_ROWS)  # each cell may be all but the same as the one before, and is held as what is new of it
    texts = [
        column for column in columns if column.physical_type == "BYTE_ARRAY" and any("DICTIONARY" in kind for kind in column.encodings)
    ]
    large = [column for column in texts if column.total_uncompressed_size * min(step, max(column.num_values, 1)) > DECODED_BYTES]
    if not large:
        return step
    names = [column.path_in_schema for column in large]
    with pq.ParquetFile(_open(path), metadata=file.metadata, read_dictionary=names, pre_buffer=False) as encoded:
        first = next(encoded.iter_batches(batch_size=1, row_groups=[group], columns=names), None)
    longest = [] if first is None else [_checked_length(path, name, length) for name, length in _longest_cells(first)]
    values = max(int(column.num_values) for column in large) // max(int(row_group.num_rows), 1) + 1  # of a cell that is a list
    return max(1, min(step, DECODED_BYTES // max(1, values * sum(longest))))


DELTA_ROWS = 32
"""Rows that are decoded at once where each cell may be as long as all of its column's data."""


def _coalesce(tables: Iterator[pa.Table], size: int, step: int) -> Iterator[pa.Table]:
    """Tables of ``size`` rows, laid together to about ``step`` rows as far as `BATCH_BYTES` allow."""
    waiting: list[pa.Table] = []
    for table in tables:
        waiting.append(table)
        if size >= step or sum(map(len, waiting)) >= step or sum(batch.nbytes for batch in waiting) >= BATCH_BYTES:
            yield pa.concat_tables(waiting)
            waiting = []
    if waiting:
        yield pa.concat_tables(waiting)


def _width(file: pq.ParquetFile, number: int, group: pq.RowGroupMetaData) -> int:
    """Bytes of a row's cells in a column of a fixed width; a cell that is missing takes as many once it is read."""
    column, values = file.schema.column(number), -(-int(group.column(number).num_values) // max(int(group.num_rows), 1))
    width = {"BYTE_ARRAY": 16, "FIXED_LEN_BYTE_ARRAY": int(column.length)}.get(column.physical_type, 8)
    return width * max(1, values)


def _longest_cells(batch: pa.RecordBatch) -> Iterator[tuple[str, int]]:
    """The longest cell of each column's dictionaries, of lists and structs too."""
    waiting = list(zip(batch.schema.names, batch.columns, strict=True))
    while waiting:
        name, array = waiting.pop()
        if pa.types.is_dictionary(array.type):
            yield name, int(pc.max(pc.binary_length(array.dictionary)).as_py() or 0)
        elif pa.types.is_struct(array.type):
            waiting += [(f"{name}.{array.type.field(number).name}", array.field(number)) for number in range(array.type.num_fields)]
        elif pa.types.is_list(array.type) or pa.types.is_large_list(array.type) or pa.types.is_map(array.type):
            waiting.append((f"{name}.element", array.values))


def read_arrow(path: Location, rows: int) -> Iterator[tuple[pa.Table, float]]:
    """The same of an Arrow IPC file or stream, which is mapped and not loaded; what share has been read it does not say.

    Raises:
        ChangedError: it has another size than it had. What is mapped and no longer there would end the process, so each piece is copied as
            soon as the size was looked at.
    """
    with _translate_errors(path, "Arrow IPC"), _open_mapped(path) as file:
        size = file.size()
        head = file.read(6)
        file.seek(0)
        reader = pa.ipc.open_file(file) if head == b"ARROW1" else pa.ipc.open_stream(file)
        batches = (reader.get_batch(n) for n in range(reader.num_record_batches)) if head == b"ARROW1" else reader
        done = 0
        for batch in batches:
            step = _batch_rows(rows, len(batch), max(batch.nbytes, _decoded_bytes(path, batch)))
            for start in range(0, len(batch), step):
                if file_size(path) != size:
                    raise ChangedError(f"{path} was changed while it was read; run the same command again once it is finished.")
                piece = batch.slice(start, step)
                piece.validate(full=True)  # a stranger's offsets may lead out of their buffers
                done += len(piece)
                yield _copy(piece), 1.0
        if not done:
            yield reader.schema.empty_table(), 1.0


def _decoded_bytes(path: Location, batch: pa.RecordBatch) -> int:
    """Bytes of a batch, on the scale of `BATCH_BYTES`, once repeated cells are written out, were all as long as the longest.

    A dictionary holds a repeated cell once, and so do views, which may all lead to the same bytes.
    """
    longest = 0
    for name, array in zip(batch.schema.names, batch.columns, strict=True):
        words = array.dictionary if pa.types.is_dictionary(array.type) else array
        is_view = pa.types.is_string_view(words.type) or pa.types.is_binary_view(words.type)
        if is_view or (words is not array and _is_bytes(words.type)):
            longest += _checked_length(path, name, _longest_view(words) if is_view else int(pc.max(pc.binary_length(words)).as_py() or 0))
    return longest * len(batch) * BATCH_BYTES // DECODED_BYTES


def _longest_view(array: pa.Array) -> int:
    """The longest of texts or bytes in views, each of which begins with its length (Arrow Columnar Format, "Binary View")."""
    lengths = np.frombuffer(array.buffers()[1] or b"", np.int32)[::4][array.offset :][: len(array)]
    return int(lengths.max(initial=0))


def _is_bytes(kind: pa.DataType) -> bool:
    types = pa.types
    return bool(types.is_string(kind) or types.is_large_string(kind) or types.is_binary(kind) or types.is_large_binary(kind))


def _checked_length(path: Location, name: str, length: int) -> int:
    """The length of a cell that is not too long to be read."""
    if length > MAX_CELL:
        raise ProductsError(
            f"{path}: a cell of the column {name!r} has {length:,} bytes, and the most that are read are {MAX_CELL:,}; leave that column "
            "out of the file."
        )
    return length


def _copy(batch: pa.RecordBatch) -> pa.Table:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    return pa.ipc.open_stream(sink.getvalue()).read_all()


def _batch_rows(rows: int, count: int, size: int) -> int:
    """At most ``rows``, and no more than fit in `BATCH_BYTES` where ``count`` rows are ``size`` bytes."""
    return max(1, min(rows, BATCH_BYTES * count // max(size, 1)))
