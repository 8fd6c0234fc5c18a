"""Delimited text → frames, by polars where it reads the same cells as Python's ``csv``, and by the latter elsewhere.

Shops' exports hold unescaped inch marks (``55" TV``) that polars' and Arrow's readers stop at and Python's takes as they are meant, rows
with too few cells, and quotes that are not closed. Cells stay the text they are, so that the SKU ``00123`` remains one.
"""

from __future__ import annotations

import csv
import functools
import io
import itertools
import re
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import polars as pl

from catcli.data.io.batch import BadRow, BadRowPolicy, Batch, check_column_names, escape_undecodable
from catcli.data.io.buckets import Location
from catcli.data.io.csv_blocks import BLOCK_CHARACTERS, parse_block
from catcli.data.io.streams import (
    ByteStream,
    check_signature,
    decode_error,
    detect_encoding,
    display_name,
    encoding_note,
    open_bytes,
    split_encoding,
)
from catcli.errors import ProductsError, RowError
from catcli.logs import LOGGER

_EXCEL = re.compile(r"sep=(.)\r?\n?$")

MAX_BATCH_CHARACTERS = 8 * 2**20
"""A batch ends early once it holds so many characters."""

MAX_BATCH_CELLS = 2**21
"""Cells of a batch: a row that lacks cells is filled up with empty ones, and a header may have thousands."""

MAX_RECORD = 2**24
"""Characters of a row, header or cell; a file of two megabytes can unpack to one of two gigabytes."""

MAX_REREAD_CHARACTERS = 2**18
"""Characters of several lines after which a quote counts as not closed, where this does not stop the run and the lines are read again."""


class _UnclosedError(RowError):
    """A quote that opens a cell is not closed."""


@dataclass(frozen=True)
class CsvOptions:
    """The delimiter and the encoding as asked for, None having them found, and what becomes of a row that cannot be read."""

    delimiter: str | None = None
    encoding: str | None = None
    on_bad_row: BadRowPolicy = "stop"


class _RecordLines:
    """The lines of a file, remembering those of the record at hand and counting characters."""

    def __init__(self, path: Location, text: io.TextIOWrapper, limit: int, *, in_blocks: bool) -> None:
        self._path = path
        self._text = text
        self._waiting: deque[str] = deque()
        self._limit, self._in_blocks = limit, in_blocks
        self._size = 0
        self.record: list[str] = []
        self.characters = 0
        self.number = 0

    def __iter__(self) -> Iterator[str]:
        return self

    def back(self, lines: list[str]) -> None:
        """Have lines come again."""
        self._waiting.extendleft(reversed(lines))
        self.number -= len(lines)

    def block(self) -> str:
        """So much text as `BLOCK_CHARACTERS`, to the end of a line; nothing where lines are to come again, and at the end."""
        if self._waiting or not self._in_blocks:
            return ""
        text = self._text.read(BLOCK_CHARACTERS)
        if text and not text.endswith("\n"):
            text += self._text.readline(MAX_RECORD + 1)
        self.characters += len(text)
        return text

    def divide(self, text: str, rest: str) -> None:
        """Of a block's ``text`` the ``rest`` is to come as lines; the lines before it have been read."""
        passed = text[: len(text) - len(rest)]
        self.number += passed.count("\n") + (passed.count("\r") - passed.count("\r\n") if "\r" in passed else 0)
        self._waiting.extend(io.StringIO(rest, newline=""))

    def taken(self) -> list[str]:
        """The lines of the record that was just read; the next one starts empty."""
        record, self.record, self._size = self.record, [], 0
        return record

    def __next__(self) -> str:
        if self._waiting:
            line = self._waiting.popleft()
        else:
            line = self._text.readline(MAX_RECORD + 1)
            self.characters += len(line)
        if not line:
            raise StopIteration
        self.record.append(line)
        self._size += len(line)
        self.number += 1
        if self._size > (self._limit if len(self.record) > 1 else MAX_RECORD):
            first = self.number - len(self.record) + 1
            advice = "is a quote in it not closed?" if len(self.record) > 1 else "is it a table, and not cut by other ends of line?"
            sentence = (
                f"{display_name(self._path)}: the row that begins in line {first}, {self.record[0][:60].strip()!r}, has more than the "
                f"{self._limit if len(self.record) > 1 else MAX_RECORD:,} characters that are read; {advice}"
            )
            if len(self.record) > 1:
                raise _UnclosedError(sentence)
            while not line.endswith("\n") and line:  # the rest of it is not a row
                line = self._text.readline(MAX_RECORD)
            raise RowError(sentence)
        return line


def read_rows(path: Location, layout: CsvOptions, count: int) -> Iterator[Batch]:
    """The rows of a file in order, about ``count`` at a time; where there are none, the columns alone. A cell is text, an empty one null.

    Raises:
        ProductsError: the file is empty, no text, of another encoding, or a row does not fit the header.
    """
    with _open_table(path, layout) as (table, stream, note):
        for number, batch in enumerate(table.batches(count)):
            yield replace(batch, share=stream.share, note="" if number else note)


def read_header(path: Location, layout: CsvOptions) -> list[str]:
    """The names of a file's columns, of which the first bytes are read; none where these do not say what letters they are.

    Raises:
        ProductsError: the file is empty, or no text.
    """
    with _open_table(path, layout, whole=False) as (table, _, _):
        return [] if any(_ESCAPED.search(name) for name in table.header) else table.header


@contextmanager
def _open_table(path: Location, layout: CsvOptions, *, whole: bool = True) -> Iterator[tuple[_Table, ByteStream, str]]:
    """A file whose header has been read, and what had to be guessed; its encoding by the ``whole`` of it, or by its first bytes."""
    csv.field_size_limit(2**31 - 1)
    with open_bytes(path) as stream:
        check_signature(path, "CSV text", stream.head)
        stops = layout.on_bad_row == "stop"
        encoding = layout.encoding or detect_encoding(stream, damaged=not stops, whole=whole)
        name, errors = split_encoding(encoding)
        wide = name.lower().replace("_", "-").startswith(("utf-16", "utf-32"))
        if not (stops and whole) and errors == "strict" and not wide:
            errors = "surrogateescape"  # so that the rows with such bytes can be told, and a header be read without the rows behind it
        with io.TextIOWrapper(stream.file, name, errors, newline="") as text:
            # A file of UTF-16 that breaks off in mid-character has an error behind its last line, which a block would hide.
            lines = _RecordLines(path, text, MAX_RECORD if stops else MAX_REREAD_CHARACTERS, in_blocks=not wide)
            try:
                first = next((line for line in lines if line.strip("\r\n")), None)
                match = _EXCEL.match(first or "")
                if match:  # Excel's own line, which says how the file is delimited
                    first = next((line for line in lines if line.strip("\r\n")), None)
                if first is None:
                    raise ProductsError(f"{display_name(path)} is empty: a header line with column names has to come first.")
                delimiter = layout.delimiter or (match[1] if match else _detect_delimiter(first))
                table = _Table(display_name(path), lines, first, delimiter, layout.on_bad_row)
                yield table, stream, encoding_note(path, encoding, layout.encoding)
            except UnicodeError as error:
                raise decode_error(error, path, encoding, lines.number) from error
            except csv.Error as error:
                raise RowError(f"{display_name(path)} line {lines.number} is not CSV: {error}.") from error


class _BatchRows:
    """The rows of a batch, while they are read."""

    def __init__(self, header: list[str]) -> None:
        self._header, self._frames, self._records = header, list[pl.DataFrame](), list[list[str]]()
        self._rows = self._short = 0
        self.bad: list[BadRow] = []
        self._nulls: list[int] = []

    def __len__(self) -> int:
        return self._rows

    def add(self, record: list[str] | BadRow, *, null: bool) -> None:
        """Add a row; one that could not be read as a row of empty cells, with ``null``."""
        width = len(self._header)
        if isinstance(record, BadRow):
            self.bad.append(record)
            if not null:
                return
            self._nulls.append(self._rows)
            record = [""] * width
        else:
            self._short += len(record) < width
        self._records.append(record if len(record) == width else (record + [""] * width)[:width])
        self._rows += 1

    def add_frame(self, frame: pl.DataFrame, limit: int) -> pl.DataFrame | None:
        """Add rows until there are ``limit``; the others come back, None if there are none."""
        if self._records:
            self._flush()
        taken = frame.head(limit - self._rows)
        self._frames.append(taken)
        self._rows += len(taken)
        return frame.slice(len(taken)) if len(frame) > len(taken) else None

    def batch(self) -> Batch:
        """The batch of these rows."""
        if self._records or not self._frames:
            self._flush()
        return Batch(pl.concat(self._frames, rechunk=True), 0.0, self._short, bad=tuple(self.bad), nulls=tuple(self._nulls))

    def _flush(self) -> None:
        """The records as a frame behind the others."""
        columns = zip(*self._records, strict=True) if self._records else ((),) * len(self._header)
        named = zip(self._header, columns, strict=True)
        self._frames.append(pl.DataFrame([pl.Series(name, [cell or None for cell in cells], dtype=pl.String) for name, cells in named]))
        self._records = []


class _Table:
    """Records under a header."""

    def __init__(self, path: str, lines: _RecordLines, first: str, delimiter: str, on_bad_row: BadRowPolicy) -> None:
        self._path = path
        self._lines = lines
        self._delimiter = delimiter
        self._on_bad_row = on_bad_row
        self._ahead: pl.DataFrame | None = None
        self._by_polars = 0
        lines.record = [first]
        self._reader = csv.reader(itertools.chain([first], lines), delimiter=delimiter)
        self.header = next(self._reader)
        raw = lines.taken()
        self._check_closed(raw)
        if on_bad_row != "stop" and _ESCAPED.search("".join(raw)):
            raise ProductsError(f"{path}: the header holds bytes that are not of its encoding; say what it is with --encoding.")
        check_column_names(path, self.header)

    def batches(self, count: int) -> Iterator[Batch]:
        width, given = len(self.header), False
        limit = min(count, max(1, MAX_BATCH_CELLS // width))
        rows = _BatchRows(self.header)
        one_by_one = self._records()
        while True:
            frame = self._block()
            if frame is not None:
                self._ahead = rows.add_frame(frame, limit)
            else:
                record = next(one_by_one, None)
                if record is None:
                    break
                rows.add(record, null=self._on_bad_row == "null")
            if len(rows) >= limit or self._lines.characters >= MAX_BATCH_CHARACTERS:
                given = True
                yield rows.batch()
                rows, self._lines.characters = _BatchRows(self.header), 0
        if len(rows) or rows.bad or not given:
            yield rows.batch()
        LOGGER.debug(f"{self._path}: polars read {self._by_polars:,} rows, and Python's csv those that polars would read otherwise")

    def _block(self) -> pl.DataFrame | None:
        """Rows that polars has read; None where the next one is to be read by ``csv``."""
        if self._ahead is not None:
            return self._ahead
        text = self._lines.block()
        parsed = parse_block(text, self._delimiter, len(self.header)) if text else None
        frame, rest = parsed or (None, text)
        self._lines.divide(text, rest)
        if frame is not None:
            frame.columns = self.header
            self._by_polars += len(frame)
        return frame

    def _records(self) -> Iterator[list[str] | BadRow]:
        """The cells of each row, or why they cannot be had where that does not stop the run."""
        while True:
            try:
                record = next(self._reader, None)
            except (RowError, csv.Error) as error:
                if self._on_bad_row == "stop":
                    raise
                yield self._bad(error, self._lines.taken())
                continue
            if record is None:
                return
            raw = self._lines.taken()
            try:
                cells = self._cells(record, raw)
                self._check_whole(raw, cells)
            except RowError as error:
                if self._on_bad_row == "stop":
                    raise
                yield self._bad(error, raw)
                continue
            if cells is not None:
                yield cells

    def _bad(self, error: Exception, raw: list[str]) -> BadRow:
        """A row that cannot be read. Of lines that a quote which is not closed has made one the first is bad; the others are read again."""
        first, reason = self._lines.number - len(raw) + 1, str(error)
        if len(raw) > 1 and isinstance(error, _UnclosedError | csv.Error):
            self._lines.back(raw[1:])
            raw = raw[:1]
        self._reader = csv.reader(self._lines, delimiter=self._delimiter)
        problem = reason.removeprefix(f"{self._path}: ").removeprefix(self._path).strip()
        return BadRow(self._path, first, problem, escape_undecodable("".join(raw).strip("\r\n")))

    def _cells(self, record: list[str], raw: list[str]) -> list[str] | None:
        """The cells of a row as they are meant; None of a blank line.

        Raises:
            RowError: it has more of them than the header, or a quote in it is not closed.
        """
        width = len(self.header)
        if len(raw) > 1:
            self._check_closed(raw)
        elif raw and '"' in raw[0]:
            record = self._literal(raw[0], record)
        if (not record and width > 1) or record == [_END_OF_DOS]:
            return None
        if any(record[width:]):
            above = ", or remove what stands above the header" if width == 1 else ""
            raise RowError(
                f"{self._path} line {self._lines.number} has {len(record)} cells where the header has {width}; "
                f"quote the cell that holds the delimiter, or pass --delimiter{above}."
            )
        if self._on_bad_row != "stop" and any(not line.isascii() and _ESCAPED.search(line) for line in raw):
            raise RowError(f"line {self._lines.number} holds bytes that are not of its encoding")
        return record

    def _literal(self, line: str, record: list[str]) -> list[str]:
        """The cells of a line; where a quote that opens a cell is closed before its end, quotes inside the cell are letters.

        Those of ``"13 inch" TV``, and the middle one of ``"tv 32" lcd"``, which is quoted as a whole. Python's csv would take them
        away, and a title would not come out as it came in.
        """
        if _opening_quote(self._delimiter).search(line) is None:
            return record
        try:
            return next(csv.reader([line], delimiter=self._delimiter, strict=True), record)
        except csv.Error:
            cells = next(csv.reader([line], delimiter=self._delimiter, quoting=csv.QUOTE_NONE), record)
            return list(map(_strip_quotes, cells)) if len(cells) == len(self.header) else record

    def _check_closed(self, raw: list[str]) -> None:
        """Python's csv takes a quote that is not closed as the start of a cell that runs on over the next lines: rows would be lost."""
        try:
            list(csv.reader(raw, delimiter=self._delimiter, strict=True))
        except csv.Error as error:
            first = self._lines.number - len(raw) + 1
            raise _UnclosedError(
                f"{self._path}: the quote that opens a cell in line {first}, {raw[0].strip()[:60]!r}, is not closed properly; "
                "close it, or double the quotes inside the cell."
            ) from error

    def _check_whole(self, raw: list[str], record: list[str] | None) -> None:
        """A last line that breaks off in mid-row, or in a quoted cell, is a file that was not copied whole."""
        if record is not None and raw and not raw[-1].endswith(("\n", "\r")):
            cells = len(next(csv.reader(raw, delimiter=self._delimiter), []))
            quoted = False
            try:
                list(csv.reader(raw, delimiter=self._delimiter, strict=True))
            except csv.Error as error:
                quoted = "unexpected end of data" in str(error)
            if cells < len(self.header) or quoted:
                position = f"in line {self._lines.number}, " + (
                    "within a quoted cell" if quoted else f"after {cells} of {len(self.header)} cells"
                )
                raise RowError(f"{self._path} is truncated: it ends {position}; copy the file again.")


_ESCAPED = re.compile("[\udc80-\udcff]")
"""A byte that is not a letter of the encoding, as Python keeps it in text (``surrogateescape``)."""

_END_OF_DOS = "\x1a"
"""What some old programs end a file with."""


@functools.cache
def _opening_quote(delimiter: str) -> re.Pattern[str]:
    """A quote that opens a cell."""
    return re.compile(rf'(?:^|{re.escape(delimiter)})"')


def _strip_quotes(cell: str) -> str:
    """A cell without the quotes around it."""
    return cell[1:-1].replace('""', '"') if len(cell) > 1 and cell[0] == cell[-1] == '"' else cell


def _detect_delimiter(header: str) -> str:
    """The one of comma, semicolon, tab and bar that parts the header into the most cells."""
    return max(",;\t|", key=lambda delimiter: len(next(csv.reader([header], delimiter=delimiter), [])))
