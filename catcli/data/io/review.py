"""Rows for a person to review: collected while a run goes on, put in order at its end.

They are written in two steps, so that memory does not grow with them: to spills as they come, one beside each part of the output, and at
the end by ranges of their places, each of which is sorted by itself. Of each row some tens of bytes are in memory at the end.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import polars as pl
import pyarrow as pa

from catcli.arrays import IntArray
from catcli.atomic import atomic_write
from catcli.data.io.arrow_types import plain_types
from catcli.data.io.batch import Batch
from catcli.data.io.buckets import upload
from catcli.data.io.output import FileFormat, write_errors
from catcli.data.io.writers import arrow_table, open_writer, splice_json_lines
from catcli.paths import is_bucket

MAX_RANGE_ROWS, MAX_RANGES = 50_000, 256
"""Rows that are sorted at once, about, and files that are open at once."""

HIDDEN = "\1catcli "
"""What the names of a spill's own columns begin with."""

LINE = HIDDEN + "line"
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

    def write(self, rows: Batch, keep: Sequence[str], added: pl.DataFrame) -> None:
        """Add rows: the columns ``keep`` as they came in, and ``added``; what begins with `HIDDEN` does not come to the file."""
        if rows.lines is not None and self._form.format == "jsonl":
            hidden = [name for name in added.columns if name.startswith(HIDDEN)]
            lines = pa.array(splice_json_lines(rows, keep, added.drop(hidden)).splitlines(), pa.binary())
            table = arrow_table(Batch(pl.DataFrame(), 1.0), (), added.select(hidden)).append_column(LINE, lines)
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


@dataclass(frozen=True)
class ReviewOrder:
    """Where each row of the spills comes in the file *(rows,)*, -1 for one that does not, and what is written beside it, by column."""

    places: IntArray
    columns: Mapping[str, pl.Series]

    def of(self, start: int, count: int) -> tuple[IntArray, dict[str, pa.Array]]:
        """Those of some rows."""
        return self.places[start : start + count], {name: cells.slice(start, count).to_arrow() for name, cells in self.columns.items()}


def spilled_cells(spills: Sequence[Path], columns: Sequence[str]) -> Iterator[pl.DataFrame]:
    """Some columns of all spilled rows, part by part."""
    for spill in spills:
        for table in _tables(spill):
            yield pl.DataFrame(table.select(list(columns)))


class ReviewFile:
    """A file that gets its rows at the end of a run."""

    def __init__(self, file: str, form: FileFormat, folder: Path, choices: Mapping[str, Sequence[str]]) -> None:
        """``folder`` is a private one, for what is put together; ``choices`` are what may be filled in, by column."""
        self._file, self._form, self._folder, self._choices = file, form, folder, choices

    def finish(self, spills: Sequence[Path], order: ReviewOrder, nothing: Batch) -> None:
        """Write the file from ``spills``; ``nothing`` are its columns without a row, as the spills and the order have them."""
        target = self._folder / "whole-review" if is_bucket(self._file) else Path(self._file)
        with ExitStack() as opened:
            opened.enter_context(write_errors(self._file, "--review"))
            file = opened.enter_context(opened.enter_context(atomic_write(target)).open("wb"))
            sink = opened.enter_context(open_writer(file, self._form, choices=self._choices))
            empty = True
            for table, added in self._sorted(spills, order):
                empty = False
                if LINE in table.column_names:
                    sink.write(Batch(pl.DataFrame(), 1.0, lines=table.column(LINE).to_pylist()), (), pl.DataFrame(added))
                else:
                    shown = [name for name in table.column_names if not name.startswith(HIDDEN)]
                    sink.write(Batch(table, 1.0), shown, pl.DataFrame(added))
            if empty:
                sink.write(nothing, nothing.columns, pl.DataFrame())
        if is_bucket(self._file):
            upload({self._file: target}, "--review")

    def _sorted(self, spills: Sequence[Path], order: ReviewOrder) -> Iterator[tuple[pa.Table, pa.Table]]:
        """All rows of the file in order, and what is written beside them."""
        rows = int((order.places >= 0).sum())
        ranges = min(MAX_RANGES, math.ceil(rows / MAX_RANGE_ROWS))
        paths = [self._folder / f"range-{number:03}" for number in range(ranges)]
        writers: list[Any] = [None] * ranges
        start = 0
        for spill in spills:
            for table in _tables(spill):
                places, beside = order.of(start, len(table))
                start += len(table)
                widened = table
                for name, cells in {**beside, _PLACE: pa.array(places)}.items():
                    widened = widened.append_column(HIDDEN + name, cells)
                numbers = np.where(places >= 0, places * ranges // max(rows, 1), -1)
                for number in np.unique(numbers[numbers >= 0]):
                    selected = widened.filter(pa.array(numbers == number))
                    writers[number] = writers[number] or _open_spill(paths[number], selected.schema)
                    writers[number].write_table(selected)
        added = [HIDDEN + name for name in order.columns]
        for writer, path in zip(writers, paths, strict=True):
            writer.close()
            table = pa.concat_tables(_tables(path)).combine_chunks()
            table = table.take(pa.array(np.argsort(table.column(HIDDEN + _PLACE).to_numpy(), kind="stable")))
            yield table.drop_columns(added), table.select(added).rename_columns(list(order.columns))
            path.unlink()


_PLACE = "place"


def _open_spill(path: Path, schema: pa.Schema) -> pa.ipc.RecordBatchFileWriter:
    return pa.ipc.new_file(pa.OSFile(os.fsencode(path), "wb"), schema)  # a name is bytes, which need not be UTF-8


def _tables(path: Path) -> Iterator[pa.Table]:
    """A file's tables, mapped and not loaded."""
    with pa.memory_map(os.fsencode(path)) as file:
        reader = pa.ipc.open_file(file)
        for number in range(reader.num_record_batches):
            yield pa.Table.from_batches([reader.get_batch(number)])
