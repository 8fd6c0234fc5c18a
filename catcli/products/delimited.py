"""Delimited text → frames, by Python's ``csv``.

Shops' exports hold unescaped inch marks (``55" TV``) that polars' and Arrow's readers stop at and Python's takes as they are meant. Its
cells stay the text they are, so that the SKU ``00123`` remains one. A third of a million rows a second is more than any model labels.
"""

from __future__ import annotations

import codecs
import csv
import io
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from catcli.errors import ProductsError

CHARACTERS = 32 * 2**20
"""A batch ends early once it holds so many characters."""

_SIGNATURES = {
    b"PAR1": "a Parquet file",
    b"PK\x03\x04": "a zip archive or an Excel workbook",
    b"\x1f\x8b": "gzip-compressed",
    b"\x28\xb5\x2f\xfd": "zstd-compressed",
    b"ARROW1": "an Arrow IPC file",
    b"%PDF": "a PDF",
}


@dataclass(frozen=True)
class Layout:
    """The delimiter and the encoding as asked for; None has them found."""

    delimiter: str | None = None
    encoding: str | None = None


def check_signature(path: Path, wanted: str, head: bytes) -> None:
    """Stop at a file whose first bytes say that it is something else than ``wanted``."""
    for signature, kind in _SIGNATURES.items():
        if head.startswith(signature):
            raise ProductsError(f"{path} is {kind}, not {wanted}; unpack, rename or export it first.")


class _Lines:
    """The lines of a file, remembering those of the record at hand and counting characters."""

    def __init__(self, lines: Iterator[str]) -> None:
        self._lines = lines
        self.record: list[str] = []
        self.characters = 0
        self.number = 0

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = next(self._lines)
        self.record.append(line)
        self.characters += len(line)
        self.number += 1
        return line


def frames(path: Path, layout: Layout, rows: int) -> Iterator[tuple[pl.DataFrame, int]]:
    """The rows of a file in order, about ``rows`` at a time, and how many of its bytes have been read with them.

    Every column is text and an empty cell is null.

    Raises:
        ProductsError: the file is empty, no text, of another encoding, or a row does not fit the header.
    """
    encoding = layout.encoding or _encoding_of(path)
    csv.field_size_limit(2**31 - 1)
    with path.open("rb") as file, io.TextIOWrapper(file, encoding=encoding, newline="") as text:
        lines = _Lines(text)
        try:
            first = next((line for line in lines if line.strip("\r\n")), None)
            if first is None:
                raise ProductsError(f"{path} is empty: a header line with column names has to come first.")
            delimiter = layout.delimiter or _delimiter_of(first)
            for frame in _records(path, csv.reader(itertools.chain([first], lines), delimiter=delimiter), lines, delimiter, rows):
                yield frame, file.tell()
        except UnicodeError as error:
            at = f" (byte 0x{error.object[error.start]:02x} after line {lines.number})" if isinstance(error, UnicodeDecodeError) else ""
            raise ProductsError(f"{path} is not {encoding.removesuffix('-sig')}{at}; pass --encoding, often latin-1 or cp1252.") from error
        except csv.Error as error:
            raise ProductsError(f"{path} line {lines.number} is no CSV: {error}.") from error


def _records(path: Path, reader: Iterator[list[str]], lines: _Lines, delimiter: str, rows: int) -> Iterator[pl.DataFrame]:
    header = next(reader)
    _check_header(path, header)
    width = len(header)
    records: list[list[str]] = []
    lines.record.clear()
    last: list[str] = []
    given = False
    for record in reader:
        last, lines.record = lines.record, []
        if len(record) != width:
            if not record and width > 1:
                continue  # a blank line
            if any(record[width:]):
                raise ProductsError(
                    f"{path} line {lines.number} has {len(record)} cells where the header has {width}; "
                    "quote the cell that holds the delimiter, or pass --delimiter."
                )
        records.append((record + [""] * width)[:width] if len(record) != width else record)
        if len(records) >= rows or lines.characters >= CHARACTERS:
            given = True
            yield _frame(header, records)
            records, lines.characters = [], 0
    _check_closed(path, last, delimiter)
    if records or not given:
        yield _frame(header, records)


def _frame(header: list[str], records: list[list[str]]) -> pl.DataFrame:
    """Text columns; an empty cell is null."""
    columns = zip(*records, strict=True) if records else ((),) * len(header)
    frame = pl.DataFrame([pl.Series(name, cells, dtype=pl.String) for name, cells in zip(header, columns, strict=True)])
    return frame.with_columns(pl.when(pl.all() != "").then(pl.all()))


def _check_closed(path: Path, record: list[str], delimiter: str) -> None:
    """Python's csv takes a quote that is never closed as the start of a cell that runs to the end of the file: rows would be lost."""
    try:
        list(csv.reader(record, delimiter=delimiter, strict=True))
    except csv.Error as error:
        if "unexpected end" in str(error):
            raise ProductsError(f"{path}: a quote that opens in {record[0][:60]!r} is never closed; close or remove it.") from error


def _check_header(path: Path, header: list[str]) -> None:
    twice = sorted({name for name in header if header.count(name) > 1})
    if twice:
        raise ProductsError(f"{path} has the column {twice[0]!r} {header.count(twice[0])} times; give each column a name of its own.")


def _encoding_of(path: Path) -> str:
    with path.open("rb") as file:
        head = file.read(8)
    check_signature(path, "CSV text", head)
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    return "utf-8-sig"


def _delimiter_of(header: str) -> str:
    """The one of comma, semicolon, tab and bar that parts the header into the most cells."""
    return max(",;\t|", key=lambda delimiter: len(next(csv.reader([header], delimiter=delimiter), [])))
