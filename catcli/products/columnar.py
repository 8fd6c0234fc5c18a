"""Parquet and Arrow IPC → tables, some rows at a time, whatever the size of a row group.

pyarrow reads both page by page. polars' streaming engine decodes a row group at once: one of 116 MiB took 303 MiB of memory, and exports
exist that hold all rows in one.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from catcli.errors import ProductsError

BATCH_BYTES = 8 * 2**20
"""Bytes of a batch, where the file says how long its rows are."""

PAGE = 2**20
"""Bytes of a column chunk that are read at once."""


@contextmanager
def _sentences(path: Path, wanted: str) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowException, OSError, EOFError, UnicodeError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ProductsError(f"{path} cannot be read as {wanted}: {reason}; is it whole? Export or copy it again.") from error


def parquet_schema(path: Path) -> pa.Schema:
    """The columns of a Parquet file and their types."""
    with _sentences(path, "Parquet"), pq.ParquetFile(path) as file:
        return file.schema_arrow


def parquet_rows(path: Path) -> int:
    """How many rows a Parquet file says it has."""
    with _sentences(path, "Parquet"), pq.ParquetFile(path) as file:
        return int(file.metadata.num_rows)


def parquet_tables(path: Path, rows: int) -> Iterator[pa.Table]:
    """The rows of a Parquet file in order, at most ``rows`` at a time.

    Raises:
        ProductsError: it cannot be read, or gives another number of rows than it says it has.
    """
    with _sentences(path, "Parquet"), pq.ParquetFile(path, buffer_size=PAGE, pre_buffer=False) as file:
        said, done = file.metadata.num_rows, 0
        size = sum(file.metadata.row_group(group).total_byte_size for group in range(file.metadata.num_row_groups))
        step = max(1, min(rows, BATCH_BYTES * said // max(size, 1)))
        for batch in file.iter_batches(batch_size=step):
            done += len(batch)
            yield pa.Table.from_batches([batch], file.schema_arrow)
    if done != said:
        raise ProductsError(f"{path} gave {done:,} of its {said:,} rows: it is damaged; export or copy it again.")


def arrow_schema(path: Path) -> pa.Schema:
    """The columns of an Arrow IPC file or stream and their types."""
    with _sentences(path, "Arrow IPC"), pa.memory_map(str(path)) as file:
        return _ipc(file).schema


def arrow_tables(path: Path, rows: int) -> Iterator[pa.Table]:
    """The rows of an Arrow IPC file or stream in order, at most ``rows`` at a time; the file is mapped, not loaded."""
    with _sentences(path, "Arrow IPC"), pa.memory_map(str(path)) as file:
        reader = _ipc(file)
        batches = (reader.get_batch(n) for n in range(reader.num_record_batches)) if hasattr(reader, "num_record_batches") else reader
        for batch in batches:
            step = max(1, min(rows, BATCH_BYTES * len(batch) // max(batch.nbytes, 1)))
            for start in range(0, len(batch), step):
                yield pa.Table.from_batches([batch.slice(start, step)])


def _ipc(file: pa.NativeFile) -> pa.ipc.RecordBatchFileReader | pa.ipc.RecordBatchStreamReader:
    head = file.read(6)
    file.seek(0)
    return pa.ipc.open_file(file) if head == b"ARROW1" else pa.ipc.open_stream(file)
