"""Rows on their way from a file to a file, in the form in which they came."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import polars as pl

from catcli.errors import ProductsError, listed

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True)
class Batch:
    """Some rows, and the share of the whole input (0 to 1) that has been read with them.

    ``rows`` is a polars frame, or the Arrow table that a Parquet or Arrow file gave: a table goes out again with types that polars has no
    name for. ``lines`` are the rows as JSON text where they came so, without what ends a line. ``short`` counts rows of CSV that had fewer
    cells than the header, ``part`` is the number of the file they came from, and ``note`` says what the reader had to guess.
    """

    rows: pl.DataFrame | pa.Table
    share: float
    short: int = 0
    lines: Sequence[bytes] | None = None
    part: int = 0
    note: str = ""

    def __len__(self) -> int:
        """The number of rows."""
        return len(self.rows)

    @property
    def columns(self) -> list[str]:
        """The names of the columns, in order."""
        return self.rows.columns if isinstance(self.rows, pl.DataFrame) else self.rows.column_names

    @property
    def table_types(self) -> Mapping[str, object]:
        """The Arrow types of a table's columns; nothing of a frame, whose types its reader settles for all files."""
        return {} if isinstance(self.rows, pl.DataFrame) else {field.name: field.type for field in self.rows.schema}

    @cached_property
    def frame(self) -> pl.DataFrame:
        """All columns as polars has them."""
        return self.select(self.columns)

    def select(self, columns: Sequence[str]) -> pl.DataFrame:
        """Some columns as polars has them.

        Raises:
            ProductsError: polars has no type for one of them.
        """
        if isinstance(self.rows, pl.DataFrame):
            return self.rows if list(columns) == self.rows.columns else pl.DataFrame([self.rows.get_column(name) for name in columns])
        return pl.DataFrame([_series(name, self.rows.column(name)) for name in columns])

    def only(self, columns: Sequence[str]) -> pl.DataFrame | pa.Table:
        """Some columns in the form in which they came."""
        return self.select(columns) if isinstance(self.rows, pl.DataFrame) else self.rows.select(list(columns))

    def type_of(self, column: str) -> pl.DataType:
        """The column's type; `polars.Object` where polars knows none."""
        if isinstance(self.rows, pl.DataFrame):
            return self.rows.schema[column]
        try:
            return _series(column, self.rows.column(column).slice(0, 0)).dtype
        except ProductsError:
            return pl.Object()

    def take(self, rows: npt.NDArray[np.int64]) -> Batch:
        """Some of the rows, by number; what was counted or noted stays behind."""
        lines = None if self.lines is None else [self.lines[row] for row in rows]
        taken = self.rows[rows] if isinstance(self.rows, pl.DataFrame) else self.rows.take(rows)
        return replace(self, rows=taken, lines=lines, short=0, note="")

    def slice(self, start: int, count: int | None = None) -> Batch:
        """The rows from number ``start`` on, at most ``count``; what was counted or noted goes with the first row."""
        lines = None if self.lines is None else self.lines[start:][:count]
        rows = self.rows.slice(start, count)
        return replace(self, rows=rows, lines=lines, short=0 if start else self.short, note="" if start else self.note)


def _series(name: str, column: pa.ChunkedArray) -> pl.Series:
    try:
        return pl.Series(name, column)
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, TypeError, ValueError) as error:
        raise ProductsError(
            f"the column {name!r} is of the Arrow type {column.type}, which only Parquet and Arrow files hold; write one of these."
        ) from error


def check_names(where: str, names: Sequence[str]) -> None:
    """Stop at a column that is there twice."""
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ProductsError(f"{where} has the column {twice[0]!r} {names.count(twice[0])} times; give each column a name of its own.")


def check_alike(first: Sequence[str], other: Sequence[str], where: str, first_where: str) -> None:
    """Stop where two files of one run have other columns."""
    odd = sorted(set(first) ^ set(other))
    if odd:
        raise ProductsError(f"{where} and {first_where} differ in columns {listed(odd)}; give files of one layout a run.")
