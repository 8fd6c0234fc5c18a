"""Excel workbooks → rows: the first sheet, checked for size before it is read."""

from __future__ import annotations

import io
import logging
import re
import zipfile
import zlib
from collections.abc import Iterator

import polars as pl

from catcli.data.io.batch import Batch
from catcli.data.io.buckets import BucketObject, Location
from catcli.data.io.streams import (
    open_bytes,
)
from catcli.errors import ProductsError, reason

MAX_WORKBOOK_BYTES = 2**30
"""Bytes that a workbook may have once it is unpacked: it is read whole."""

MAX_SHEET_CELLS = 50_000_000
"""Cells of a sheet up to its last row and column: the reader makes room for all of them, filled or not."""

_CELL = re.compile(rb'\br="([A-Z]{1,3})(\d{1,7})"')


def _column_number(column: bytes) -> int:
    """The number of a column by its letters: 1 of A, 28 of AB."""
    number = 0
    for letter in column:
        number = 26 * number + letter - 64
    return number


def _check_workbook(path: Location) -> None:
    """Unpack a workbook once, to nowhere: what its directory says of sizes need not be true."""
    size = 0
    with path.opened() if isinstance(path, BucketObject) else path.open("rb") as file:
        try:
            with zipfile.ZipFile(file) as packed:
                for entry in packed.infolist():
                    size += _check_member(path, packed, entry, MAX_WORKBOOK_BYTES - size)
        except (zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError, EOFError, OSError) as error:
            raise ProductsError(f"{path} cannot be read as an Excel workbook: {reason(error)}; save it again, or as CSV.") from error


def _check_member(path: Location, packed: zipfile.ZipFile, entry: zipfile.ZipInfo, room: int) -> int:
    """The bytes of one file of a workbook, for which there is ``room``; of a sheet, its last row and column are looked at too."""
    is_sheet = entry.filename.startswith("xl/worksheets/")
    size, columns, rows, rest = 0, 0, 0, b""
    with packed.open(entry) as member:
        while block := member.read(2**20):
            size += len(block)
            for column, row in _CELL.findall(rest + block) if is_sheet else ():
                columns, rows = max(columns, _column_number(column)), max(rows, int(row))
            rest = block[-32:]
            if columns * rows > MAX_SHEET_CELLS:
                raise ProductsError(
                    f"{path} has a sheet of {rows:,} rows and {columns:,} columns, and the most cells that are read are "
                    f"{MAX_SHEET_CELLS:,}; save it as CSV."
                )
            if size > room:
                raise ProductsError(
                    f"{path} unpacks to more than the {MAX_WORKBOOK_BYTES:,} bytes that are read of a workbook; save it as CSV."
                )
    return size


def read_workbook(path: Location) -> Iterator[Batch]:
    """The first sheet of a workbook; a sheet holds a million rows at most, so it is read whole."""
    with open_bytes(path) as stream:
        if not stream.head.startswith(b"PK\x03\x04"):
            raise ProductsError(f"{path} is not an Excel workbook (.xlsx); if it is text, pass --input-format csv.")
    _check_workbook(path)
    # It logs each column without a type, where there is no other log to standard error; such a column is text here.
    logging.getLogger("fastexcel").setLevel(logging.ERROR)
    try:
        frame = pl.read_excel(
            io.BytesIO(path.opened().read()) if isinstance(path, BucketObject) else path, engine="calamine", infer_schema_length=None
        )
    except ModuleNotFoundError as error:
        raise ProductsError(f"reading {path} takes one package more: pip install 'catcli[excel]'.") from error
    except Exception as error:  # calamine's errors are of a class of their own, which is not here without it
        problem = "it has no sheet" if isinstance(error, IndexError) else reason(error)
        raise ProductsError(f"{path} cannot be read as an Excel workbook: {problem}; save it again, or as CSV.") from error
    yield Batch(frame, 1.0)
