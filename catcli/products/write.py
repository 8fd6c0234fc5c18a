"""Batches of rows → one file: whole or not at all."""

from __future__ import annotations

import base64
import errno
import json
import os
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, Literal, Protocol, get_args

import polars as pl

from catcli import places
from catcli.errors import OutputError, UsageError
from catcli.products.read import ENDINGS
from catcli.products.text import cells_of

OutputFormat = Literal["csv", "tsv", "jsonl", "parquet"]

ROW_GROUP = 65_536
"""Rows that are gathered for one Parquet row group; many small groups would make the file slow to read."""


class Sink(Protocol):
    """Takes frames of one layout, in order."""

    def write(self, frame: pl.DataFrame) -> None:
        """Add rows."""

    def close(self) -> None:
        """Write what is still held; the bytes are complete after it."""

    def abandon(self) -> None:
        """Let go of the file, which nobody will read."""


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

    A pipe or a device, standard output among them, is written as the rows come.

    Raises:
        OutputError: the place cannot be written, or the format cannot hold a column.
    """
    path = Path(os.path.realpath(out))  # through a link, so that what it points to is replaced and not the link
    try:
        if out == "-":
            if sys.stdout is None:
                raise OutputError("-o -: standard output is closed; name a file.")
            with _filled(sys.stdout.buffer, form) as sink:
                yield sink
        elif path.exists() and not path.is_file() and not path.is_dir():
            with path.open("wb") as pipe, _filled(pipe, form) as sink:
                yield sink
        else:
            with _replacing(path, out) as file, _filled(file, form) as sink:
                yield sink
    except BrokenPipeError:
        raise
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise OutputError(f"-o {out}: the disk is full; free some space and run the same line again.") from error
        raise OutputError(f"-o {out} cannot be written: {error.strerror or error}.") from error
    except pl.exceptions.PanicException as error:  # how polars' writers meet a type that they do not know
        raise OutputError(
            f"-o {out}: {form} cannot hold a column of this type ({error}); write Parquet, or leave the column out."
        ) from error


@contextmanager
def _replacing(path: Path, out: str) -> Iterator[BinaryIO]:
    """A file beside ``path`` that takes its place, and its permissions, when the block ends well."""
    if path.is_dir():
        raise OutputError(f"-o {out} is a folder; name a file in it, for example {Path(out) / 'labeled.parquet'}.")
    if not path.parent.is_dir():
        raise OutputError(f"-o {out}: there is no folder {Path(out).parent}; make it with 'mkdir -p {Path(out).parent}'.")
    beside = places.beside(path)
    try:
        with beside.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        if path.exists():
            beside.chmod(stat.S_IMODE(path.stat().st_mode))
        beside.replace(path)
    finally:
        places.remove(beside)


@contextmanager
def _filled(file: BinaryIO, form: OutputFormat) -> Iterator[Sink]:
    sink = _Parquet(file) if form == "parquet" else _Lines(file, form)
    try:
        yield sink
    except BaseException:
        sink.abandon()
        raise
    sink.close()
    file.flush()


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

    def abandon(self) -> None:
        if self._writer is not None:
            with suppress(Exception):  # pyarrow writes its footer even now, and the disk may be the reason for this
                self._writer.close()

    def _flush(self) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        if not self._held:
            return
        frame, self._held = pl.concat(self._held), []
        try:
            table = frame.to_arrow()
            if self._writer is None:
                self._writer = pq.ParquetWriter(self._file, table.schema, compression="zstd")
            self._writer.write_table(table)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            types = ", ".join(f"{name} ({dtype})" for name, dtype in frame.schema.items() if dtype.is_nested() or dtype.is_integer())
            raise OutputError(f"Parquet cannot hold one of the columns {types}: {error}; write JSON Lines or CSV instead.") from error


class _Lines:
    """CSV, TSV or JSON Lines; the header comes with the first frame."""

    def __init__(self, file: BinaryIO, form: OutputFormat) -> None:
        self._file = file
        self._form = form
        self._first = True

    def write(self, frame: pl.DataFrame) -> None:
        if self._form == "jsonl":
            self._file.write(without_bytes(frame).write_ndjson().encode())
            return
        separator = "\t" if self._form == "tsv" else ","
        self._file.write(flat(frame).write_csv(include_header=self._first, separator=separator).encode())
        self._first = False

    def close(self) -> None:
        """Nothing is held back."""

    def abandon(self) -> None:
        """Nothing is held back."""


def flat(frame: pl.DataFrame) -> pl.DataFrame:
    """The frame with nested cells as JSON text and bytes as base64, since CSV knows neither."""
    changed = []
    for name, dtype in frame.schema.items():
        if dtype.is_nested():
            cells = [None if cell is None else json.dumps(cell, ensure_ascii=False, default=_as_json) for cell in frame[name].to_list()]
            changed.append(pl.Series(name, cells, dtype=pl.String))
    return without_bytes(frame.with_columns(changed))


def without_bytes(frame: pl.DataFrame) -> pl.DataFrame:
    """The frame with columns of bytes as base64."""
    return frame.with_columns(
        [cells_of(frame, name).bin.encode("base64").alias(name) for name, dtype in frame.schema.items() if dtype == pl.Binary]
    )


def _as_json(value: object) -> str:
    """What JSON has no form for: bytes as base64, dates and decimals as they print."""
    return base64.b64encode(value).decode() if isinstance(value, bytes) else str(value)
