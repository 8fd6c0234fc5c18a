"""Batches of rows → one file: whole or not at all."""

from __future__ import annotations

import errno
import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Literal, Protocol, get_args

import polars as pl

from catcli import places
from catcli.errors import OutputError, UsageError
from catcli.products.read import ENDINGS

OutputFormat = Literal["csv", "tsv", "jsonl", "parquet"]

ROW_GROUP = 65_536
"""Rows that are gathered for one Parquet row group; many small groups would make the file slow to read."""


class Sink(Protocol):
    """Takes frames of one layout, in order."""

    def write(self, frame: pl.DataFrame) -> None:
        """Add rows."""

    def close(self) -> None:
        """Write what is still held; the bytes are complete after it."""


def output_format(out: str, asked: str | None) -> OutputFormat:
    """The format of ``out``: asked for, or told by its ending; CSV on standard output.

    Raises:
        UsageError: neither says.
    """
    if asked is not None:
        if asked not in get_args(OutputFormat):
            raise UsageError(f"--format {asked}: choose one of {', '.join(get_args(OutputFormat))}.")
        if out == "-" and asked == "parquet":
            raise UsageError("--format parquet needs a file to write to; standard output takes csv, tsv or jsonl.")
        return asked  # type: ignore[return-value]  # checked above
    if out == "-":
        return "csv"
    found = ENDINGS.get(Path(out).suffix.lower())
    if found is None:
        raise UsageError(f"-o {out}: the ending names no format that catcli writes ({', '.join(ENDINGS)}); rename it or pass --format.")
    return found


@contextmanager
def open_output(out: str, form: OutputFormat) -> Iterator[Sink]:
    """A sink whose rows appear under ``out`` when the block ends well; when it does not, whatever stood there still stands.

    Raises:
        OutputError: the place cannot be written.
    """
    if out == "-":
        sink = _sink(sys.stdout.buffer, form)
        yield sink
        sink.close()
        sys.stdout.buffer.flush()
        return
    path = Path(out)
    if path.is_dir():
        raise OutputError(f"-o {out} is a folder; name a file in it, for example {path / 'labeled.parquet'}.")
    if not path.parent.is_dir():
        raise OutputError(f"-o {out}: there is no folder {path.parent}; make it with 'mkdir -p {path.parent}'.")
    beside = places.beside(path)
    try:
        with beside.open("wb") as file:
            sink = _sink(file, form)
            yield sink
            sink.close()
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise OutputError(f"-o {out}: the disk is full; free some space and run the same line again.") from error
        raise OutputError(f"-o {out} cannot be written: {error.strerror or error}.") from error
    finally:
        places.remove(beside)


def _sink(file: BinaryIO, form: OutputFormat) -> Sink:
    if form == "parquet":
        return _Parquet(file)
    return _Lines(file, form)


class _Parquet:
    """Row groups as they fill; only the one at hand is in memory."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._writer: Any = None
        self._held: list[pl.DataFrame] = []

    def write(self, frame: pl.DataFrame) -> None:
        self._held.append(frame)
        if sum(map(len, self._held)) >= ROW_GROUP or self._writer is None:
            self._flush()

    def close(self) -> None:
        self._flush()
        if self._writer is not None:
            self._writer.close()

    def _flush(self) -> None:
        import pyarrow.parquet as pq

        if not self._held:
            return
        table = pl.concat(self._held).to_arrow()
        if self._writer is None:
            self._writer = pq.ParquetWriter(self._file, table.schema, compression="zstd")
        self._writer.write_table(table)
        self._held = []


class _Lines:
    """CSV, TSV or JSON Lines; the header comes with the first frame."""

    def __init__(self, file: BinaryIO, form: OutputFormat) -> None:
        self._file = file
        self._form = form
        self._first = True

    def write(self, frame: pl.DataFrame) -> None:
        if self._form == "jsonl":
            self._file.write(frame.write_ndjson().encode())
            return
        separator = "\t" if self._form == "tsv" else ","
        self._file.write(flat(frame).write_csv(include_header=self._first, separator=separator).encode())
        self._first = False

    def close(self) -> None:
        """Nothing is held back."""


def flat(frame: pl.DataFrame) -> pl.DataFrame:
    """The frame with nested cells as JSON text and bytes as base64, since CSV knows neither."""
    changed = []
    for name, dtype in frame.schema.items():
        if dtype.is_nested():
            cells = [None if cell is None else json.dumps(cell, ensure_ascii=False, default=str) for cell in frame[name].to_list()]
            changed.append(pl.Series(name, cells, dtype=pl.String))
        elif dtype == pl.Binary:
            changed.append(frame[name].bin.encode("base64"))
    return frame.with_columns(changed)
