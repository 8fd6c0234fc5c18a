"""Rows for a person to review: collected while a run goes on, sorted by confidence at its end.

They are written in two steps, so that memory does not grow with them: to spills beside the output as they come, one for each part of it,
and at the end by ranges of confidence, each of which is sorted by itself.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

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


class ReviewFile:
    """A file that gets its rows at the end of a run, by rising values of the column ``by``."""

    def __init__(self, file: str, form: FileFormat, by: str, spills: Path, done: int = 0) -> None:
        """``spills`` is the folder for what waits, ``done`` the parts that an earlier run has finished there; those after them go."""
        self._file, self._form, self._by, self._spills = file, form, by, spills
        self.parts = done
        self._writer: Any = None
        for path in self._found():
            if int(path.name.removeprefix("review-")) >= done:
                path.unlink()

    def _found(self) -> list[Path]:
        return sorted(self._spills.glob("review-*"))

    def write(self, rows: Batch, keep: Sequence[str], added: pl.DataFrame) -> None:
        """Collect rows; ``added`` has the column that they are sorted by."""
        if not len(rows):
            return
        if rows.lines is not None and self._form.format == "jsonl":
            lines = pa.array(splice_json_lines(rows, keep, added).splitlines(), pa.binary())
            table = pa.table({LINE: lines, self._by: added.get_column(self._by).to_arrow()})
        else:
            table = plain_types(arrow_table(rows, keep, added))
        with write_errors(self._file, "--review"):
            if self._writer is None:
                self._writer = _open_spill(self._spills / f"review-{self.parts:06}", table.schema)
            self._writer.write_table(table)

    def finish_part(self) -> None:
        """Make the rows since the last call survive a kill."""
        with write_errors(self._file, "--review"):
            if self._writer is not None:
                self._writer.close()
                self._writer = None
                with (self._spills / f"review-{self.parts:06}").open("rb") as spill:
                    os.fsync(spill.fileno())
            self.parts += 1

    def finish(self, keep: Sequence[str], nothing: Batch, added: pl.DataFrame) -> None:
        """Write the file. Without any rows it has the columns ``keep`` of ``nothing`` and those of ``added``."""
        target = self._spills / "whole-review" if is_bucket(self._file) else Path(self._file)
        with ExitStack() as opened:
            opened.enter_context(write_errors(self._file, "--review"))
            file = opened.enter_context(opened.enter_context(atomic_write(target)).open("wb"))
            sink = opened.enter_context(open_writer(file, self._form))
            empty = True
            for table in self._sorted():
                empty = False
                if nothing.lines is not None and self._form.format == "jsonl":
                    sink.write(Batch(pl.DataFrame(), 1.0, lines=table.column(LINE).to_pylist()), (), pl.DataFrame())
                else:
                    sink.write(Batch(table, 1.0), table.column_names, pl.DataFrame())
            if empty:
                sink.write(nothing, keep, added)
        if is_bucket(self._file):
            upload(target, self._file, "--review")

    def _sorted(self) -> Iterator[pa.Table]:
        """All rows, sorted; of equal ones the earlier first."""
        spills = self._found()
        edges = self._edges(spills)
        if edges is None:
            return
        ranges = [self._spills / f"range-{number:03}" for number in range(len(edges) + 1)]
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
