"""Batches of rows and what was added to them → a file's bytes."""

from __future__ import annotations

import base64
import gzip
import itertools
import json
import os
import shutil
import stat
import sys
import unicodedata
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Literal, Protocol, cast, get_args

import polars as pl

from catcli.errors import OutputError, UsageError, is_disk_full, listed
from catcli.places import is_bucket
from catcli.products.batch import Batch
from catcli.products.read import ENDINGS, PACKED, unpacked
from catcli.products.text import cells_of

if TYPE_CHECKING:
    import pyarrow as pa

OutputFormat = Literal["csv", "tsv", "jsonl", "parquet", "arrow"]
Packing = Literal["", ".gz", ".zst"]

ROW_GROUP = 65_536
"""Rows that are gathered for one Parquet row group; many small groups would make the file slow to read."""

GROUP_BYTES = 32 * 2**20
"""Bytes of rows after which a row group is written, however few they are."""


@dataclass(frozen=True)
class Form:
    """How rows are written: the format, what compresses it (Parquet compresses inside), and whether a spreadsheet may open it.

    With ``safe`` no cell of CSV is a formula: see `defused`.
    """

    format: OutputFormat
    packing: Packing = ""
    safe: bool = False

    @property
    def is_text(self) -> bool:
        """Whether files of it can be laid end to end."""
        return self.format in ("csv", "tsv", "jsonl")


class Sink(Protocol):
    """Takes rows of one layout, in order."""

    def write(self, rows: Batch, keep: Sequence[str], added: pl.DataFrame) -> None:
        """Add rows: the columns ``keep`` as they came in, and ``added`` after them."""

    def close(self) -> None:
        """Write what is still held; the bytes are complete after it."""

    def abandon(self) -> None:
        """Let go of the file, which nobody will read."""


def output_form(out: str, asked: str | None, beside: OutputFormat = "csv", option: str = "-o", *, safe: bool = False) -> Form:
    """The form of ``out``: asked for, or told by its ending; CSV on standard output, and ``beside`` for a folder. ``safe`` is of CSV.

    Raises:
        UsageError: neither says.
    """
    if asked is not None and asked not in get_args(OutputFormat):
        raise UsageError(f"--format {asked}: choose one of {', '.join(get_args(OutputFormat))}.")
    if not out:
        raise UsageError(f"{option}: the name is empty; name a file, a folder that ends in /, or - for standard output.")
    path = Path(out)
    packing = cast(Packing, path.suffix.lower() if out != "-" and path.suffix.lower() in PACKED else "")
    found = asked or ("csv" if out == "-" else ENDINGS.get(unpacked(path).suffix.lower()))
    if found is None and is_folder(out):
        found = beside
    if found not in get_args(OutputFormat):
        endings = ", ".join(ending for ending, kind in ENDINGS.items() if kind in get_args(OutputFormat))
        raise UsageError(f"{option} {out}: the ending names no format that catcli writes ({endings}); rename it or pass --format.")
    named = None if out == "-" or is_folder(out) else ENDINGS.get(unpacked(path).suffix.lower())
    if asked is not None and named is not None and named != asked:
        raise UsageError(f"{option} {out}: its ending says {named}, and --format {asked}; rename it or leave --format out.")
    form = Form(cast(OutputFormat, found), packing, safe and found in ("csv", "tsv"))
    if not form.is_text and out == "-":
        raise UsageError(f"--format {found} needs a file to write to; standard output takes csv, tsv or jsonl.")
    if not form.is_text and packing:
        raise UsageError(f"{option} {out}: {found} is compressed inside; leave {packing} out.")
    return form


def is_folder(out: str) -> bool:
    """Whether ``out`` means a folder: it is one, or ends like one."""
    return out != "-" and (out.endswith(("/", os.sep)) or (not is_bucket(out) and Path(out).is_dir()))


def is_pipe(out: str) -> bool:
    """Whether ``out`` is standard output, a pipe or a device, which is written as rows come and cannot be written twice."""
    path = Path(out)
    return out == "-" or (path.exists() and not path.is_file() and not path.is_dir())


def check_folder(file: Path, option: str = "-o") -> None:
    """Before the work begins: the folder that ``file`` goes to is there and can be written.

    Raises:
        OutputError: it is not.
    """
    folder = file.absolute().parent
    if is_bucket(file):
        raise OutputError(f"{option} {file}: only predict writes to a bucket; name a file, and copy it.")
    if not folder.is_dir():
        raise OutputError(f"{option} {file}: there is no folder {file.parent}; make it with 'mkdir -p {file.parent}'.")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise OutputError(f"{option} {file} cannot be written: Permission denied; choose another folder.")


@contextmanager
def writing(out: str, option: str = "-o") -> Iterator[None]:
    """Turn what a disk or a format refuses into a sentence.

    Raises:
        OutputError: the place cannot be written, or the format cannot hold a column.
    """
    try:
        yield
    except BrokenPipeError as error:
        if out == "-":  # as with | head: see `catcli.ending`
            raise
        raise OutputError(f"{option} {out}: who read it has gone before the end; run the same line again.") from error
    except OSError as error:
        if is_disk_full(error):
            raise OutputError(f"{option} {out}: the disk is full; free some space and run the same line again.") from error
        raise OutputError(f"{option} {out} cannot be written: {error.strerror or error}.") from error
    except pl.exceptions.PanicException as error:  # how polars' writers meet a type that they do not know
        raise OutputError(
            f"{option} {out}: its format cannot hold a column of this type ({error}); write Parquet, or leave the column out with --keep."
        ) from error


@contextmanager
def piped(out: str, form: Form) -> Iterator[Sink]:
    """A sink for standard output, a pipe or a device: rows go out as they come."""
    with writing(out):
        if out == "-":
            if sys.stdout is None:
                raise OutputError("-o -: standard output is closed; name a file.")
            with filled(cast(BinaryIO, _Screen(sys.stdout.buffer)) if sys.stdout.isatty() else sys.stdout.buffer, form) as sink:
                yield sink
        else:
            with Path(out).open("wb") as pipe, filled(pipe, form) as sink:
                yield sink


class _Screen:
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
def filled(file: BinaryIO, form: Form, *, header: bool = True) -> Iterator[Sink]:
    """A sink over an open file; its bytes are complete when the block ends well."""
    packed = _packed(file, form.packing)
    sink: Sink = _Lines(packed, form, header) if form.is_text else (_Parquet if form.format == "parquet" else _Arrow)(packed)
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


def _packed(file: BinaryIO, packing: Packing) -> BinaryIO:
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


def table_of(rows: Batch, keep: Sequence[str], added: pl.DataFrame) -> pa.Table:
    """The rows as an Arrow table: columns that came as Arrow keep their types, whatever they are."""
    if not keep:
        return added.to_arrow()  # a table without columns forgets how many rows it had
    kept = rows.only(keep)
    table = kept.to_arrow() if isinstance(kept, pl.DataFrame) else kept
    for name in added.columns:
        table = table.append_column(name, added.get_column(name).to_arrow())
    return table


@contextmanager
def _typed(columns: Sequence[str]) -> Iterator[None]:
    """Turn a column that a format of tables has no type for into a sentence."""
    import pyarrow as pa

    try:
        yield
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, pa.ArrowTypeError) as error:
        raise OutputError(
            f"this format cannot hold one of the columns {listed(columns)}: {error}; write JSON Lines or CSV instead, or leave that column "
            "out with --keep."
        ) from error


class _Tables:
    """Row groups as they fill; only the one at hand is in memory."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._writer: Any = None
        self._held: list[Any] = []

    def write(self, rows: Batch, keep: Sequence[str], added: pl.DataFrame) -> None:
        with _typed(rows.columns):
            table = table_of(rows, keep, added)
        self._held.append(table)
        if sum(map(len, self._held)) >= ROW_GROUP or sum(held.nbytes for held in self._held) >= GROUP_BYTES or self._writer is None:
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
        with _typed(table.schema.names):
            self._writer = self._writer or self._open(table.schema)
            self._writer.write_table(table)

    def _open(self, schema: pa.Schema) -> pa.ipc.RecordBatchFileWriter:
        raise NotImplementedError


class _Parquet(_Tables):
    def _open(self, schema: pa.Schema) -> pa.ipc.RecordBatchFileWriter:
        import pyarrow.parquet as pq

        return pq.ParquetWriter(self._file, schema, compression="zstd")


class _Arrow(_Tables):
    def write(self, rows: Batch, keep: Sequence[str], added: pl.DataFrame) -> None:
        from catcli.products.arrow_types import without_dictionaries

        with _typed(rows.columns):
            table = without_dictionaries(table_of(rows, keep, added))
        super().write(Batch(table, rows.share), table.column_names, pl.DataFrame())

    def _open(self, schema: pa.Schema) -> pa.ipc.RecordBatchFileWriter:
        import pyarrow as pa

        return pa.ipc.new_file(self._file, schema)


class _Lines:
    """CSV, TSV or JSON Lines; the header comes with the first rows."""

    def __init__(self, file: BinaryIO, form: Form, header: bool) -> None:
        self._file = file
        self._form = form
        self._header = header

    def write(self, rows: Batch, keep: Sequence[str], added: pl.DataFrame) -> None:
        if self._form.format == "jsonl":
            self._file.write(spliced(rows, keep, added) if rows.lines is not None else _json(_beside(rows, keep, added)))
            return
        separator = "\t" if self._form.format == "tsv" else ","
        frame = flat(_beside(rows, keep, added))
        frame = defused(frame) if self._form.safe else frame
        self._file.write(frame.write_csv(include_header=self._header, separator=separator).encode())
        self._header = False

    def close(self) -> None:
        """Nothing is held back."""

    def abandon(self) -> None:
        """Nothing is held back."""


def _beside(rows: Batch, keep: Sequence[str], added: pl.DataFrame) -> pl.DataFrame:
    return rows.select(keep).hstack(added) if keep else added  # a frame without columns has no rows either


def _json(frame: pl.DataFrame) -> bytes:
    return without_bytes(frame).write_ndjson().encode()


def spliced(rows: Batch, keep: Sequence[str], added: pl.DataFrame) -> bytes:
    """The lines as they came in, what was added before their closing brace: no number or key of theirs is written anew."""
    lines, dropped = rows.lines or [], set(rows.columns) - set(keep)
    if not added.columns and not dropped:
        return b"".join(line + b"\n" for line in lines)
    if dropped:
        parsed = (json.loads(line) for line in lines)
        kept = ({name: row[name] for name in row if name not in dropped} for row in parsed)
        lines = [json.dumps(row, ensure_ascii=False).encode("utf-8", "surrogatepass") for row in kept]
    ours = _json(added).splitlines() if len(added) else []
    heads = ((line[:-1].rstrip(), own) for line, own in zip(lines, ours, strict=True))
    return b"".join(head + (b"" if head == b"{" else b", ") + own[1:] + b"\n" for head, own in heads)


def flat(frame: pl.DataFrame) -> pl.DataFrame:
    """The frame with nested cells as JSON text, durations as ISO 8601 has them and bytes as base64, since CSV knows none of these."""
    changed = []
    for name, dtype in frame.schema.items():
        if dtype.is_nested():
            cells = [None if cell is None else json.dumps(cell, ensure_ascii=False, default=_as_json) for cell in frame[name].to_list()]
            changed.append(pl.Series(name, cells, dtype=pl.String))
        elif isinstance(dtype, pl.Duration):
            changed.append(cells_of(frame, name).dt.to_string("iso").alias(name))
    return without_bytes(frame.with_columns(changed))


_FORMULA = r"(^|[;\t\r\n])(\s*)([=+\-@\x{ff0b}\x{ff0d}\x{ff1d}\x{ff20}])"
"""Where a formula begins: at a cell's beginning, or behind what a spreadsheet of another language takes for the end of one. `=`, `+`, `-`
and `@` begin one, and so do their full-width forms (OWASP, "CSV Injection")."""

_NUMBER = r"^[+-]?(\d+([.,]\d+)*|[.,]\d+)([eE][+-]?\d+)?\s*%?$"


def defused(frame: pl.DataFrame) -> pl.DataFrame:
    """The frame with an apostrophe before what a spreadsheet would take for a formula, in cells and in names of columns.

    A spreadsheet shows such a cell as the text that it is. Numbers, signs and all, stay what they are.
    """
    names: list[str] = []
    for name in _defused(pl.Series(frame.columns, dtype=pl.String)):
        while name in names:
            name = f"'{name}"  # noqa: PLW2901  # "=a" and "'=a" were two columns and stay two
        names.append(name)
    return pl.DataFrame([_defused(cells).alias(name) for cells, name in zip(frame.get_columns(), names, strict=True)])


def _defused(cells: pl.Series) -> pl.Series:
    if cells.dtype in (pl.Categorical, pl.Enum):
        cells = cells.cast(pl.String)
    if cells.dtype != pl.String:
        return cells
    safe = cells.str.replace_all(_FORMULA, "${1}${2}'${3}")
    return safe.zip_with(~cells.str.contains(_NUMBER).fill_null(value=False), cells)


def without_bytes(frame: pl.DataFrame) -> pl.DataFrame:
    """The frame with columns of bytes as base64."""
    return frame.with_columns(
        [cells_of(frame, name).bin.encode("base64").alias(name) for name, dtype in frame.schema.items() if dtype == pl.Binary]
    )


def _as_json(value: object) -> str:
    """What JSON has no form for: bytes as base64, dates and decimals as they print."""
    return base64.b64encode(value).decode() if isinstance(value, bytes) else str(value)


def joined(parts: Sequence[Path], whole: Path, form: Form) -> None:
    """Lay files of one form end to end: bytes of text, row groups of tables."""
    with whole.open("wb") as file:
        if form.is_text:
            for part in parts:
                with part.open("rb") as piece:
                    shutil.copyfileobj(piece, file, 8 * 2**20)
            file.flush()
            os.fsync(file.fileno())
        else:
            from catcli.products.columnar import TABLES

            with filled(file, form) as sink:
                for table, _ in itertools.chain.from_iterable(TABLES[form.format](part, ROW_GROUP) for part in parts):
                    sink.write(Batch(table, 1.0), table.column_names, pl.DataFrame())
