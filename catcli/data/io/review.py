"""Rows for a person to review: collected while a run goes on, sorted by confidence at its end.

They are written in two steps, so that memory does not grow with them: to spills as they come, one beside each part of the output, and at
the end by ranges of confidence, each of which is sorted by itself.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa

from catcli.atomic import atomic_write
from catcli.data.io.arrow_types import plain_types
from catcli.data.io.batch import Batch
from catcli.data.io.buckets import upload
from catcli.data.io.output import FileFormat, write_errors
from catcli.data.io.writers import arrow_table, open_writer, splice_json_lines
from catcli.paths import is_bucket

MAX_RANGE_ROWS, MAX_RANGES = 50_000, 256
"""Rows that are sorted at once, about, and files that are open at once."""

BINS = 2**14
"""Bins in which confidences are counted to cut them into ranges of as many rows each."""

LINE = "line"
"""The column of a spill that holds a finished line of JSON."""


class ReviewSpill:
    """Rows that wait for the end of the run, in a file of their own; it is complete where the block ends."""

    def __init__(self, path: Path, form: FileFormat) -> None:
        """``form`` is that of the review."""
        self._path, self._form = path, form
        self._writer: Any = None

    def __enter__(self) -> Self:
        """The file is made with its first rows, whose columns it has."""
        return self

    def write(self, rows: Batch, keep: Sequence[str], added: pl.DataFrame, by: str) -> None:
        """Add rows; ``added`` has the column ``by``, which they are sorted by."""
        if rows.lines is not None and self._form.format == "jsonl":
            lines = pa.array(splice_json_lines(rows, keep, added).splitlines(), pa.binary())
            table = pa.table({LINE: lines, by: added.get_column(by).to_arrow()})
        else:
            table = plain_types(arrow_table(rows, keep, added))
        if self._writer is None:
            self._writer = _open_spill(self._path, table.schema)
        self._writer.write_table(table)

    def __exit__(self, *_: object) -> None:
        """Write it to the disk itself."""
        if self._writer is not None:
            self._writer.close()
            with self._path.open("rb") as spill:
                os.fsync(spill.fileno())


class ReviewFile:
    """A file that gets its rows at the end of a run, by rising values of the column ``by``."""

    def __init__(self, file: str, form: FileFormat, by: str, folder: Path) -> None:
        """``folder`` is a private one, for what is put together."""
        self._file, self._form, self._by, self._folder = file, form, by, folder

    def finish(self, spills: Sequence[Path], keep: Sequence[str], nothing: Batch, added: pl.DataFrame) -> None:
        """Write the file from ``spills``. Without any rows it has the columns ``keep`` of ``nothing`` and those of ``added``."""
        target = self._folder / "whole-review" if is_bucket(self._file) else Path(self._file)
        with ExitStack() as opened:
            opened.enter_context(write_errors(self._file, "--review"))
            file = opened.enter_context(opened.enter_context(atomic_write(target)).open("wb"))
            sink = opened.enter_context(open_writer(file, self._form))
            empty = True
            for table in self._sorted(spills):
                empty = False
                if nothing.lines is not None and self._form.format == "jsonl":
                    sink.write(Batch(pl.DataFrame(), 1.0, lines=table.column(LINE).to_pylist()), (), pl.DataFrame())
                else:
                    sink.write(Batch(table, 1.0), table.column_names, pl.DataFrame())
            if empty:
                sink.write(nothing, keep, added)
        if is_bucket(self._file):
            upload({self._file: target}, "--review")

    def _sorted(self, spills: Sequence[Path]) -> Iterator[pa.Table]:
        """All rows, sorted; of equal ones the earlier first."""
        edges = self._edges(spills)
        if edges is None:
            return
        ranges = [self._folder / f"range-{number:03}" for number in range(len(edges) + 1)]
        writers: list[Any] = [None] * len(ranges)
        for spill in spills:
            for table in _tables(spill):
                numbers = np.searchsorted(edges, _values(table, self._by), side="right")
                for number in np.unique(numbers):
                    selected = table.filter(pa.array(numbers == number))
                    writers[number] = writers[number] or _open_spill(ranges[number], table.schema)
                    writers[number].write_table(selected)
        for writer, path in zip(writers, ranges, strict=True):
            if writer is None:
                continue
            writer.close()
            table = pa.concat_tables(_tables(path)).combine_chunks()
            yield table.take(pa.array(np.argsort(_values(table, self._by), kind="stable")))
            path.unlink()

    def _edges(self, spills: Sequence[Path]) -> npt.NDArray[np.float64] | None:
        """Confidences that cut the rows into ranges of about `MAX_RANGE_ROWS`; None where there are no rows."""
        counts = np.zeros(BINS, np.int64)
        for spill in spills:
            for table in _tables(spill):
                counts += np.histogram(_values(table, self._by), BINS, (0.0, 1.0))[0]
        rows = int(counts.sum())
        if not rows:
            return None
        ranges = min(MAX_RANGES, math.ceil(rows / MAX_RANGE_ROWS))
        positions = np.searchsorted(np.cumsum(counts), rows * np.arange(1, ranges) / ranges)
        return np.unique((positions + 1) / BINS)


def _open_spill(path: Path, schema: pa.Schema) -> pa.ipc.RecordBatchFileWriter:
    return pa.ipc.new_file(pa.OSFile(os.fsencode(path), "wb"), schema)  # a name is bytes, which need not be UTF-8


def _tables(path: Path) -> Iterator[pa.Table]:
    """A file's tables, mapped and not loaded."""
    with pa.memory_map(os.fsencode(path)) as file:
        reader = pa.ipc.open_file(file)
        for number in range(reader.num_record_batches):
            yield pa.Table.from_batches([reader.get_batch(number)])


def _values(table: pa.Table, column: str) -> npt.NDArray[np.float64]:
    return np.asarray(table.column(column).to_numpy(), np.float64)
