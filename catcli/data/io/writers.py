"""Batches of rows and what was added to them → a file's bytes."""

from __future__ import annotations

import gzip
import itertools
import json
import os
import shutil
import stat
import sys
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Protocol, cast

import polars as pl

from catcli.data.io.batch import Batch
from catcli.data.io.csv_cells import encode_bytes, escape_formulas, flatten_cells
from catcli.data.io.output import Compression, FileFormat, write_errors
from catcli.data.io.workbook import WorkbookWriter
from catcli.errors import OutputError, name_list

if TYPE_CHECKING:
    import pyarrow as pa

ROW_GROUP_ROWS = 65_536
"""Rows that are gathered for one Parquet row group; many small groups would make the file slow to read."""

ROW_GROUP_BYTES = 32 * 2**20
"""Bytes of rows after which a row group is written, however few they are."""


class RowWriter(Protocol):
    """Takes rows of one layout, in order."""

    def write(self, rows: Batch, keep: Sequence[str], added: pl.DataFrame) -> None:
        """Add rows: the columns ``keep`` as they came in, and ``added`` after them."""

    def close(self) -> None:
        """Write what is still held; the bytes are complete after it."""

    def abandon(self) -> None:
        """Close the file without completing it."""


@contextmanager
def open_pipe(out: str, form: FileFormat) -> Iterator[RowWriter]:
    """A sink for standard output, a pipe or a device: rows go out as they come."""
    with write_errors(out):
        if out == "-":
            if sys.stdout is None:
                raise OutputError("-o -: standard output is closed; name a file.")
            with open_writer(
                cast(BinaryIO, _TerminalWriter(sys.stdout.buffer)) if sys.stdout.isatty() else sys.stdout.buffer, form
            ) as sink:
                yield sink
        else:
            with Path(out).open("wb") as pipe, open_writer(pipe, form) as sink:
                yield sink


class _TerminalWriter:
    """A terminal, which shows the control characters of titles as what they are and does not obey them."""

    def __init__(self, below: BinaryIO) -> None:
        self._below = below
        self.flush = below.flush

    def write(self, data: bytes) -> int:
        """Draw some whole lines."""
        text = data.decode("utf-8", "replace")
        plain = "".join(letter if letter in "\t\n" or unicodedata.category(letter) not in ("Cc", "Cf") else "�" for letter in text)
        return self._below.write(plain.encode())

    def seekable(self) -> bool:
        """Nothing is written twice."""
        return False


@contextmanager
def open_writer(
    file: BinaryIO, form: FileFormat, *, header: bool = True, choices: Mapping[str, Sequence[str]] | None = None
) -> Iterator[RowWriter]:
    """A sink over an open file; its bytes are complete when the block ends well.

    ``choices`` are what may be filled in, by column, for a format that can list it.
    """
    packed = _compressed(file, form.packing)
    sink: RowWriter
    if form.is_text:
        sink = _TextWriter(packed, form, header)
    elif form.format == "excel":
        sink = WorkbookWriter(packed, choices or {})
    else:
        sink = (_ParquetWriter if form.format == "parquet" else _ArrowWriter)(packed)
    try:
        yield sink
    except BaseException:
        sink.abandon()
        raise
    sink.close()
    if packed is not file:
        packed.close()
    file.flush()
    if file.seekable() and stat.S_ISREG(os.fstat(file.fileno()).st_mode):  # /dev/null can be sought in, and has no disk
        os.fsync(file.fileno())


def _compressed(file: BinaryIO, packing: Compression) -> BinaryIO:
    if packing == ".gz":
        return cast(BinaryIO, gzip.GzipFile(filename="", fileobj=file, mode="wb", compresslevel=6, mtime=0))
    if packing == ".zst":
        import pyarrow as pa

        return cast(BinaryIO, pa.CompressedOutputStream(pa.PythonFile(_StaysOpen(file), "w"), "zstd"))
    return file


class _StaysOpen:
    """A file that is only flushed where its compressor would close it."""

    closed = False

    def __init__(self, file: BinaryIO) -> None:
        self.write, self.flush = file.write, file.flush
        self.close = file.flush


def arrow_table(rows: Batch, keep: Sequence[str], added: pl.DataFrame) -> pa.Table:
    """The rows as an Arrow table: columns that came as Arrow keep their types, whatever they are."""
    if not keep:
        return added.to_arrow()  # a table without columns forgets how many rows it had
    columns = rows.only(keep)
    table = columns.to_arrow() if isinstance(columns, pl.DataFrame) else columns
    for name in added.columns:
        table = table.append_column(name, added.get_column(name).to_arrow())
    return table


def output_rows(rows: Batch, keep: Sequence[str], added: pl.DataFrame) -> Batch:
    """The rows with the columns that an output has of them."""
    return Batch(_beside(rows, keep, added) if isinstance(rows.rows, pl.DataFrame) else arrow_table(rows, keep, added), rows.share)


@contextmanager
def _column_errors(columns: Sequence[str]) -> Iterator[None]:
    """Turn a column that a format of tables has no type for into a sentence."""
    import pyarrow as pa

    try:
        yield
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, pa.ArrowTypeError) as error:
        raise OutputError(
            f"this format cannot hold one of the columns {name_list(columns)}: {error}; write JSON Lines or CSV instead, or leave that "
            "column out with --keep."
        ) from error


class _TableWriter:
    """Row groups as they fill; only the one at hand is in memory."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._writer: Any = None
        self._held: list[Any] = []

    def write(self, rows: Batch, keep: Sequence[str], added: pl.DataFrame) -> None:
        with _column_errors(rows.columns):
            table = arrow_table(rows, keep, added)
        self._held.append(table)
        if (
            sum(map(len, self._held)) >= ROW_GROUP_ROWS
            or sum(waiting_table.nbytes for waiting_table in self._held) >= ROW_GROUP_BYTES
            or self._writer is None
        ):
            self._flush()

    def close(self) -> None:
        self._flush()
        if self._writer is not None:
            self._writer.close()

    def abandon(self) -> None:
        # Closing would write a footer to a file that is to be deleted, or a disk that is full.
        self._writer = None

    def _flush(self) -> None:
        import pyarrow as pa

        if not self._held:
            return
        table, self._held = pa.concat_tables(self._held), []
        with _column_errors(table.schema.names):
            self._writer = self._writer or self._open(table.schema)
            self._writer.write_table(table)

    def _open(self, schema: pa.Schema) -> pa.ipc.RecordBatchFileWriter:
        raise NotImplementedError


class _ParquetWriter(_TableWriter):
    def _open(self, schema: pa.Schema) -> pa.ipc.RecordBatchFileWriter:
        import pyarrow.parquet as pq

        return pq.ParquetWriter(self._file, schema, compression="zstd")


class _ArrowWriter(_TableWriter):
    def write(self, rows: Batch, keep: Sequence[str], added: pl.DataFrame) -> None:
        from catcli.data.io.arrow_types import decode_dictionaries

        with _column_errors(rows.columns):
            table = decode_dictionaries(arrow_table(rows, keep, added))
        super().write(Batch(table, rows.share), table.column_names, pl.DataFrame())

    def _open(self, schema: pa.Schema) -> pa.ipc.RecordBatchFileWriter:
        import pyarrow as pa

        return pa.ipc.new_file(self._file, schema)


class _TextWriter:
    """CSV, TSV or JSON Lines; the header comes with the first rows."""

    def __init__(self, file: BinaryIO, form: FileFormat, header: bool) -> None:
        self._file = file
        self._form = form
        self._header = header

    def write(self, rows: Batch, keep: Sequence[str], added: pl.DataFrame) -> None:
        if self._form.format == "jsonl":
            self._file.write(splice_json_lines(rows, keep, added) if rows.lines is not None else _json(_beside(rows, keep, added)))
            return
        separator = "\t" if self._form.format == "tsv" else ","
        frame = flatten_cells(_beside(rows, keep, added))
        frame = escape_formulas(frame) if self._form.safe else frame
        self._file.write(frame.write_csv(include_header=self._header, separator=separator).encode())
        self._header = False

    def close(self) -> None:
        """Nothing is held back."""

    def abandon(self) -> None:
        """Nothing is held back."""


def _beside(rows: Batch, keep: Sequence[str], added: pl.DataFrame) -> pl.DataFrame:
    return rows.select(keep).hstack(added) if keep else added  # a frame without columns has no rows either


def _json(frame: pl.DataFrame) -> bytes:
    return encode_bytes(frame).write_ndjson().encode()


def splice_json_lines(rows: Batch, keep: Sequence[str], added: pl.DataFrame) -> bytes:
    """The lines as they came in, what was added before their closing brace: no number or key of theirs is written again."""
    lines, dropped = rows.lines or [], set(rows.columns) - set(keep)
    if not added.columns and not dropped:
        return b"".join(line + b"\n" for line in lines)
    if dropped:
        parsed = (json.loads(line) for line in lines)
        remaining = ({name: row[name] for name in row if name not in dropped} for row in parsed)
        lines = [json.dumps(row, ensure_ascii=False).encode("utf-8", "surrogatepass") for row in remaining]
    result_lines = _json(added).splitlines() if len(added) else []
    heads = ((line[:-1].rstrip(), result) for line, result in zip(lines, result_lines, strict=True))
    return b"".join(head + (b"" if head == b"{" else b", ") + result[1:] + b"\n" for head, result in heads)


def concatenate_files(parts: Sequence[Path], target: Path, form: FileFormat, columns: Batch) -> None:
    """Lay files of one form end to end; ``columns`` are theirs, without a row. No row is decoded but those of small Parquet files."""
    with target.open("wb") as file:
        if form.format == "parquet":
            _concatenate_parquet(parts, file)
        elif form.format == "arrow":
            _encode_again(parts, file, form)
        else:
            if form.format != "jsonl":
                with open_writer(file, form) as sink:  # the header
                    sink.write(columns, columns.columns, pl.DataFrame())
            for part in parts:
                with part.open("rb") as piece:
                    shutil.copyfileobj(piece, file, 8 * 2**20)
        file.flush()
        os.fsync(file.fileno())


def _concatenate_parquet(parts: Sequence[Path], file: BinaryIO) -> None:
    from catcli.data.io.parquet_files import OtherSchemaError, concatenate_parquet

    try:
        concatenate_parquet(parts, file, ROW_GROUP_ROWS, ROW_GROUP_BYTES)
    except OtherSchemaError:
        file.seek(0)
        file.truncate()
        _encode_again(parts, file, FileFormat("parquet"))


def _encode_again(parts: Sequence[Path], file: BinaryIO, form: FileFormat) -> None:
    from catcli.data.io.columnar import read_arrow, read_parquet

    read = read_parquet if form.format == "parquet" else read_arrow
    with open_writer(file, form) as sink:
        for table, _ in itertools.chain.from_iterable(read(part, ROW_GROUP_ROWS) for part in parts):
            sink.write(Batch(table, 1.0), table.column_names, pl.DataFrame())
