"""Parquet and Arrow IPC → tables, some rows at a time, whatever the size of a row group.

pyarrow reads both page by page. polars' streaming engine decodes a row group at once: one of 116 MiB took 303 MiB of memory, and exports
exist that hold all rows in one.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import pyarrow as pa
import pyarrow.parquet as pq

from catcli.errors import ChangedError, ProductsError, reason
from catcli.products.buckets import Object, Place, Range
from catcli.products.streams import size_of

BATCH_BYTES = 8 * 2**20
"""Bytes of a batch, where the file says how long its rows are."""

PAGE, FAR_PAGE = 2**20, 4 * 2**20
"""Bytes of a column chunk that are read at once, from a disk and from a bucket."""


@contextmanager
def _sentences(path: Place, wanted: str) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowException, OSError, EOFError, UnicodeError) as error:
        raise ProductsError(f"{path} cannot be read as {wanted}: {reason(error)}; is it whole? Export or copy it again.") from error


def _opened(path: Place) -> pa.NativeFile:
    if isinstance(path, Object):
        return pa.PythonFile(Range(path), mode="r")
    return pa.OSFile(os.fsencode(path))  # a name is bytes, which need not be UTF-8


def _mapped(path: Place) -> pa.NativeFile:
    return _opened(path) if isinstance(path, Object) else pa.memory_map(os.fsencode(path))


def parquet_rows(path: Place) -> int:
    """How many rows a Parquet file says it has."""
    with _sentences(path, "Parquet"), pq.ParquetFile(_opened(path)) as file:
        return int(file.metadata.num_rows)


def parquet_tables(path: Place, rows: int) -> Iterator[tuple[pa.Table, float]]:
    """The rows of a Parquet file in order, at most ``rows`` at a time, and the share that has been read; the columns alone if it has none.

    Raises:
        ProductsError: it cannot be read, or gives another number of rows than it says it has.
    """
    page = FAR_PAGE if isinstance(path, Object) else PAGE
    with _sentences(path, "Parquet"), pq.ParquetFile(_opened(path), buffer_size=page, pre_buffer=False) as file:
        said, done, schema = file.metadata.num_rows, 0, file.schema_arrow
        size = sum(file.metadata.row_group(group).total_byte_size for group in range(file.metadata.num_row_groups))
        for batch in file.iter_batches(batch_size=_step(rows, said, size)):
            done += len(batch)
            yield pa.Table.from_batches([batch], schema), done / max(said, 1)
    if done != said:
        raise ProductsError(f"{path} gave {done:,} of its {said:,} rows: it is damaged; export or copy it again.")
    if not said:
        yield schema.empty_table(), 1.0


def arrow_tables(path: Place, rows: int) -> Iterator[tuple[pa.Table, float]]:
    """The same of an Arrow IPC file or stream, which is mapped and not loaded; what share has been read it does not say.

    Raises:
        ChangedError: it has another size than it had. What is mapped and no longer there would end the process, so each piece is copied as
            soon as the size was looked at.
    """
    with _sentences(path, "Arrow IPC"), _mapped(path) as file:
        size = file.size()
        head = file.read(6)
        file.seek(0)
        reader = pa.ipc.open_file(file) if head == b"ARROW1" else pa.ipc.open_stream(file)
        batches = (reader.get_batch(n) for n in range(reader.num_record_batches)) if head == b"ARROW1" else reader
        done = 0
        for batch in batches:
            step = _step(rows, len(batch), batch.nbytes)
            for start in range(0, len(batch), step):
                if size_of(path) != size:
                    raise ChangedError(f"{path} was changed while it was read; run the same line again once it is finished.")
                piece = batch.slice(start, step)
                piece.validate(full=True)  # a stranger's offsets may lead out of their buffers
                done += len(piece)
                yield _copied(piece), 1.0
        if not done:
            yield reader.schema.empty_table(), 1.0


def _copied(batch: pa.RecordBatch) -> pa.Table:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    return pa.ipc.open_stream(sink.getvalue()).read_all()


TABLES = {"parquet": parquet_tables, "arrow": arrow_tables}
"""What reads each format of tables."""


def _step(rows: int, count: int, size: int) -> int:
    """At most ``rows``, and no more than fit in `BATCH_BYTES` where ``count`` rows are ``size`` bytes."""
    return max(1, min(rows, BATCH_BYTES * count // max(size, 1)))
