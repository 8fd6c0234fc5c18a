"""Delimited text → frames, by Python's ``csv``.

Shops' exports hold unescaped inch marks (``55" TV``) that polars' and Arrow's readers stop at and Python's takes as they are meant. Its
cells stay the text they are, so that the SKU ``00123`` remains one. Some hundred thousand rows a second are more than a
model labels.
"""

from __future__ import annotations

import csv
import functools
import io
import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass

import polars as pl

from catcli.errors import ProductsError
from catcli.products.batch import Batch, check_names
from catcli.products.buckets import Place
from catcli.products.streams import check_signature, codec_of, encoding_of, guess_told, opened, shown, undecodable

_EXCEL = re.compile(r"sep=(.)\r?\n?$")

CHARACTERS = 8 * 2**20
"""A batch ends early once it holds so many characters."""

CELLS = 2**21
"""Cells of a batch: a row that lacks cells is filled up with empty ones, and a header may have thousands."""

MAX_RECORD = 2**24
"""Characters of a row, header or cell; a file of two megabytes can unpack to one of two gigabytes."""


@dataclass(frozen=True)
class Layout:
    """The delimiter and the encoding as asked for; None has them found."""

    delimiter: str | None = None
    encoding: str | None = None


class _Lines:
    """The lines of a file, remembering those of the record at hand and counting characters."""

    def __init__(self, path: Place, text: io.TextIOWrapper) -> None:
        self._path = path
        self._lines = iter(functools.partial(text.readline, MAX_RECORD + 1), "")
        self._size = 0
        self.record: list[str] = []
        self.characters = 0
        self.number = 0

    def __iter__(self) -> Iterator[str]:
        return self

    def taken(self) -> list[str]:
        """The lines of the record that was just read; the next one starts empty."""
        record, self.record, self._size = self.record, [], 0
        return record

    def __next__(self) -> str:
        line = next(self._lines)
        self.record.append(line)
        self.characters += len(line)
        self._size += len(line)
        self.number += 1
        if self._size > MAX_RECORD:
            first = self.number - len(self.record) + 1
            way = "is a quote in it not closed?" if len(self.record) > 1 else "is it a table, and not cut by other ends of line?"
            raise ProductsError(
                f"{shown(self._path)}: the row that begins in line {first}, {self.record[0][:60].strip()!r}, has more than the "
                f"{MAX_RECORD:,} characters that are read; {way}"
            )
        return line


def rows_of(path: Place, layout: Layout, count: int) -> Iterator[Batch]:
    """The rows of a file in order, about ``count`` at a time; where there are none, the columns alone. A cell is text, an empty one null.

    Raises:
        ProductsError: the file is empty, no text, of another encoding, or a row does not fit the header.
    """
    csv.field_size_limit(2**31 - 1)
    with opened(path) as stream:
        check_signature(path, "CSV text", stream.head)
        encoding = layout.encoding or encoding_of(stream)
        note = guess_told(path, encoding, layout.encoding)
        with io.TextIOWrapper(stream.file, *codec_of(encoding), newline="") as text:
            lines = _Lines(path, text)
            try:
                first = next((line for line in lines if line.strip("\r\n")), None)
                told = _EXCEL.match(first or "")
                if told:  # Excel's own line, which says how the file is delimited
                    first = next((line for line in lines if line.strip("\r\n")), None)
                if first is None:
                    raise ProductsError(f"{shown(path)} is empty: a header line with column names has to come first.")
                delimiter = layout.delimiter or (told[1] if told else _delimiter_of(first))
                for frame, short in _Table(shown(path), lines, first, delimiter).frames(count):
                    yield Batch(frame, stream.share, short, note=note)
                    note = ""
            except UnicodeError as error:
                raise undecodable(error, path, encoding, lines.number) from error
            except csv.Error as error:
                raise ProductsError(f"{shown(path)} line {lines.number} is no CSV: {error}.") from error


class _Table:
    """Records under a header."""

    def __init__(self, path: str, lines: _Lines, first: str, delimiter: str) -> None:
        self._path = path
        self._lines = lines
        self._delimiter = delimiter
        lines.record = [first]
        self._reader = csv.reader(itertools.chain([first], lines), delimiter=delimiter)
        self._header = next(self._reader)
        self._check_closed(lines.taken())
        check_names(path, self._header)

    def frames(self, count: int) -> Iterator[tuple[pl.DataFrame, int]]:
        width, given, short = len(self._header), False, 0
        records: list[list[str]] = []
        raw: list[str] = []
        for record in self._reader:
            raw = self._lines.taken()
            if len(raw) > 1:
                self._check_closed(raw)
            elif raw and '"' in raw[0]:
                record = self._literal(raw[0], record)  # noqa: PLW2901  # as it is meant
            if (not record and width > 1) or record == [_END_OF_DOS]:
                continue  # a blank line
            if any(record[width:]):
                above = ", or remove what stands above the header" if width == 1 else ""
                raise ProductsError(
                    f"{self._path} line {self._lines.number} has {len(record)} cells where the header has {width}; "
                    f"quote the cell that holds the delimiter, or pass --delimiter{above}."
                )
            short += len(record) < width
            records.append(record if len(record) == width else (record + [""] * width)[:width])
            if len(records) >= min(count, max(1, CELLS // width)) or self._lines.characters >= CHARACTERS:
                given = True
                yield self._frame(records), short
                records, short, self._lines.characters = [], 0, 0
        self._check_whole(raw, records)
        if records or not given:
            yield self._frame(records), short

    def _literal(self, line: str, record: list[str]) -> list[str]:
        """The cells of a line; where a quote that opens a cell is closed before its end (``"13 inch" TV``), its quotes are letters.

        Python's csv would take them away, and a title would not come out as it came in.
        """
        if _opening(self._delimiter).search(line) is None:
            return record
        try:
            return next(csv.reader([line], delimiter=self._delimiter, strict=True), record)
        except csv.Error:
            cells = next(csv.reader([line], delimiter=self._delimiter, quoting=csv.QUOTE_NONE), record)
            return cells if len(cells) == len(self._header) else record

    def _frame(self, records: list[list[str]]) -> pl.DataFrame:
        columns = zip(*records, strict=True) if records else ((),) * len(self._header)
        named = zip(self._header, columns, strict=True)
        return pl.DataFrame({name: pl.Series(name, [cell or None for cell in cells], dtype=pl.String) for name, cells in named})

    def _check_closed(self, raw: list[str]) -> None:
        """Python's csv takes a quote that is not closed as the start of a cell that runs on over the next lines: rows would be lost."""
        try:
            list(csv.reader(raw, delimiter=self._delimiter, strict=True))
        except csv.Error as error:
            first = self._lines.number - len(raw) + 1
            raise ProductsError(
                f"{self._path}: the quote that opens a cell in line {first}, {raw[0].strip()[:60]!r}, is not closed properly; "
                "close it, or double the quotes inside the cell."
            ) from error

    def _check_whole(self, raw: list[str], records: list[list[str]]) -> None:
        """A last line that breaks off in mid-row is a file that was not copied whole."""
        if records and raw and raw != [_END_OF_DOS] and not raw[-1].endswith(("\n", "\r")):
            cells = len(next(csv.reader(raw, delimiter=self._delimiter), []))
            if cells < len(self._header):
                where = f"in line {self._lines.number}, after {cells} of {len(self._header)} cells"
                raise ProductsError(f"{self._path} breaks off {where}; copy the file again.")


_END_OF_DOS = "\x1a"
"""What some old programs end a file with."""


@functools.cache
def _opening(delimiter: str) -> re.Pattern[str]:
    """A quote that opens a cell."""
    return re.compile(rf'(?:^|{re.escape(delimiter)})"')


def _delimiter_of(header: str) -> str:
    """The one of comma, semicolon, tab and bar that parts the header into the most cells."""
    return max(",;\t|", key=lambda delimiter: len(next(csv.reader([header], delimiter=delimiter), [])))
