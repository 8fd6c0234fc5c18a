"""Parquet files of an adapter ↔ columns: of those that they have to have, with no more rows and bytes than they can.

Read by pyarrow and not by polars: texts stay dictionary-encoded until their size is known, since some hundred bytes of Parquet can stand
for a text of a megabyte in each of a hundred thousand rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from catcli.errors import AdapterError, reason

TEXT_TYPE = pa.string()
HASH_TYPE = pa.uint64()

MAX_TEXT_BYTES, MAX_NUMBER_BYTES = 2**27, 2**29
"""Bytes of all texts of a file, and of all its numbers: a fit holds out 5,000 rows, and 20 million logits, of each part at most."""


def matrix_type(element: pa.DataType, width: int) -> pa.DataType:
    """The type of a column *(rows, width)* of numbers."""
    return pa.list_(pa.field("element", element), width)


def logits_type(classes: int) -> pa.DataType:
    """The type of a column of logits *(rows, classes)*, float32."""
    return matrix_type(pa.float32(), classes)


@dataclass(frozen=True)
class StoredColumns:
    """The columns of a file: ``texts`` by name, and ``numbers`` *(rows,)* or *(rows, classes)* by name."""

    texts: Mapping[str, list[str]]
    numbers: Mapping[str, npt.NDArray[Any]]


def column_names(file: Path) -> list[str]:
    """The names of its columns.

    Raises:
        AdapterError: the file is not Parquet.
    """
    try:
        return list(pq.read_schema(file).names)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise _unreadable(file, error) from error


def read_columns(file: Path, types: Mapping[str, pa.DataType], max_rows: int) -> StoredColumns:
    """The columns ``types`` of ``file``, no cell of them null and no number infinite; others are not read.

    Raises:
        AdapterError: the file is not Parquet, lacks a column or has one of another type, or is larger than an adapter's can be.
    """
    names = [name for name, kind in types.items() if kind == TEXT_TYPE]
    try:
        with pq.ParquetFile(file) as plain:  # names of columns that are not there would be a KeyError
            metadata = plain.metadata
            _check_size(file, plain, types, max_rows)
        with pq.ParquetFile(file, metadata=metadata, read_dictionary=names, pre_buffer=False) as stored:
            tables = stored.iter_batches(batch_size=max(1, min(max_rows, 4096)), columns=list(types))
            parts = [_checked(file, batch, names) for batch in tables]
            table = pa.Table.from_batches(parts, schema=parts[0].schema if parts else stored.schema_arrow)
            if len(table) != stored.metadata.num_rows or sum(map(_text_bytes, map(table.column, names))) > MAX_TEXT_BYTES:
                raise _damaged(file, "has other rows than it says, or more text than any adapter's")
    except (pa.ArrowException, OSError, KeyError, ValueError, OverflowError) as error:
        raise _unreadable(file, error) from error
    numbers = {name: _numbers(table.column(name)) for name in types if name not in names}
    if not all(np.isfinite(values).all() for values in numbers.values()):
        raise _damaged(file, "has cells without a value")
    return StoredColumns({name: table.column(name).cast(TEXT_TYPE).to_pylist() for name in names}, numbers)


def _unreadable(file: Path, error: Exception) -> AdapterError:
    return AdapterError(f"{file} cannot be read as Parquet: {reason(error)[:300]}; copy the adapter again, or fit a new one.")


def _damaged(file: Path, problem: str) -> AdapterError:
    return AdapterError(f"{file} {problem}; copy the adapter again, or fit a new one.")


def _check_size(file: Path, stored: pq.ParquetFile, types: Mapping[str, pa.DataType], max_rows: int) -> None:
    """What the footer says, before a page is read."""
    rows, schema = stored.metadata.num_rows, stored.schema_arrow
    if rows > max_rows:
        raise AdapterError(
            f"{file} has {rows:,} rows, and no adapter's has more than {max_rows:,}; copy the adapter again, or fit a new one."
        )
    for name, wanted in types.items():
        fields = schema.get_all_field_indices(name)
        column_type = schema.field(fields[0]).type if len(fields) == 1 else None
        if column_type != wanted and not (wanted == TEXT_TYPE and column_type == pa.large_string()):
            actual = "not there" if column_type is None else column_type
            raise AdapterError(f"{file}: the column {name!r} is {actual}, not {wanted}; copy the adapter again, or fit a new one.")
    width = sum(kind.list_size if pa.types.is_fixed_size_list(kind) else 2 for kind in types.values() if kind != TEXT_TYPE)
    if 4 * rows * width > MAX_NUMBER_BYTES:
        raise _damaged(file, f"says that it holds {4 * rows * width:,} bytes of numbers, more than any adapter's")


def _checked(file: Path, batch: pa.RecordBatch, names: Sequence[str]) -> pa.RecordBatch:
    """A batch without a null, of not too much text."""
    nulls = sum(
        column.null_count + (column.flatten().null_count if pa.types.is_fixed_size_list(column.type) else 0) for column in batch.columns
    )
    if nulls or sum(_text_bytes(batch.column(name)) for name in names) > MAX_TEXT_BYTES:
        raise _damaged(file, "has cells without a value, or more text than any adapter's")
    return batch


def _text_bytes(column: pa.Array | pa.ChunkedArray) -> int:
    """Bytes that dictionary-encoded texts take once they are decoded."""
    chunks = column.chunks if isinstance(column, pa.ChunkedArray) else [column]
    return sum(int(pc.sum(pc.binary_length(chunk.dictionary).take(chunk.indices).cast(pa.int64())).as_py() or 0) for chunk in chunks)


def _numbers(column: pa.ChunkedArray) -> npt.NDArray[Any]:
    array = column.combine_chunks() if column.num_chunks != 1 else column.chunk(0)
    # By the buffer itself: pyarrow's own way to numpy imports pandas where that is installed.
    if not pa.types.is_fixed_size_list(column.type):
        return np.frombuffer(array.buffers()[1] or b"", np.uint64)[array.offset :][: len(array)]
    flat = array.flatten()
    values = np.frombuffer(flat.buffers()[1] or b"", flat.type.to_pandas_dtype())[flat.offset :][: len(flat)]
    return values.reshape(len(array), column.type.list_size)


def write_columns(file: Path, texts: Mapping[str, Sequence[str]], numbers: Mapping[str, npt.NDArray[Any]]) -> None:
    """Write what `read_columns` reads: ``numbers`` are *(rows,)* uint64, or *(rows, width)* of any type."""
    columns: dict[str, pa.Array] = {name: pa.array(cells, TEXT_TYPE) for name, cells in texts.items()}
    for name, values in numbers.items():
        if values.ndim == 1:
            columns[name] = pa.array(values, HASH_TYPE)
        else:
            flat = pa.array(np.ascontiguousarray(values).ravel())
            columns[name] = pa.FixedSizeListArray.from_arrays(flat, type=matrix_type(flat.type, values.shape[1]))
    pq.write_table(pa.table(columns), file, compression="zstd")
