"""Rows on their way from a file to a file, in the form in which they came."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import polars as pl

from catcli.errors import ProductsError, listed, reason

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True)
class Batch:
    """Some rows, and the share of the whole input (0 to 1) that has been read with them.

    ``rows`` is a polars frame, or the Arrow table that a Parquet or Arrow file gave: a table goes out again with types that polars has no
    name for. ``lines`` are the rows as JSON text where they came so, without what ends a line. ``short`` counts rows of CSV that had fewer
    cells than the header, ``part`` is the number of the file they came from, ``where`` its name, and ``note`` says what had to be
    guessed.
    """

    rows: pl.DataFrame | pa.Table
    share: float
    short: int = 0
    lines: Sequence[bytes] | None = None
    part: int = 0
    note: str = ""
    where: str = "the input"

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
        return pl.DataFrame([_series(name, self.rows.column(name), self.where) for name in columns])

    def only(self, columns: Sequence[str]) -> pl.DataFrame | pa.Table:
        """Some columns in the form in which they came."""
        return self.select(columns) if isinstance(self.rows, pl.DataFrame) else self.rows.select(list(columns))

    @cached_property
    def types(self) -> Mapping[str, pl.DataType]:
        """The columns' types; `polars.Object` where polars knows none."""
        if isinstance(self.rows, pl.DataFrame):
            return dict(zip(self.rows.columns, self.rows.dtypes, strict=True))
        return {field.name: _type_of(field, self.where) for field in self.rows.schema}

    def take(self, rows: npt.NDArray[np.int64]) -> Batch:
        """Some of the rows, by number; what was counted or noted stays behind."""
        lines = None if self.lines is None else [self.lines[row] for row in rows]
        taken = self.rows[rows] if isinstance(self.rows, pl.DataFrame) else _taken(self.rows, rows)
        return replace(self, rows=taken, lines=lines, short=0, note="")

    def slice(self, start: int, count: int | None = None) -> Batch:
        """The rows from number ``start`` on, at most ``count``; what was counted or noted goes with the first row."""
        lines = None if self.lines is None else self.lines[start:][:count]
        rows = self.rows.slice(start, count)
        return replace(self, rows=rows, lines=lines, short=0 if start else self.short, note="" if start else self.note)


def _taken(table: pa.Table, rows: npt.NDArray[np.int64]) -> pa.Table:
    """Some rows of a table; of text in views, which Arrow cannot take rows of, by way of plain text."""
    import pyarrow as pa

    plain = {pa.string_view(): pa.large_string(), pa.binary_view(): pa.large_binary()}
    fields = [field.with_type(plain.get(field.type, field.type)) for field in table.schema]
    found = table.cast(pa.schema(fields, table.schema.metadata)).take(rows)
    return found.cast(table.schema)


def _type_of(field: pa.Field, where: str) -> pl.DataType:
    import pyarrow as pa

    return _series(field.name, pa.chunked_array([], field.type), where).dtype if _known(field.type) else pl.Object()


def _known(kind: pa.DataType) -> bool:
    """Whether polars has a type for one of Arrow's: asked beforehand, since it panics where it has none."""
    import pyarrow as pa

    unknown = pa.types.is_decimal256(kind) or pa.types.is_union(kind) or pa.types.is_interval(kind)
    parts = [kind.field(number).type for number in range(kind.num_fields)] if not unknown else []
    return not unknown and all(map(_known, parts))


def _series(name: str, column: pa.ChunkedArray, where: str) -> pl.Series:
    import pyarrow as pa

    odd = (
        f"{where}: the column {name!r} is of the Arrow type {column.type}, which only Parquet and Arrow files hold; write one of these, or "
        "leave the column out of the file."
    )
    if not _known(column.type):
        raise ProductsError(odd)
    try:
        column.validate(full=True)  # polars believes that text is UTF-8, and is lost where it is not
        return pl.Series(name, column)
    except (pa.ArrowInvalid, UnicodeError) as error:
        raise ProductsError(
            f"{where}: the column {name!r} is damaged ({reason(error)[:200]}): text has to be UTF-8; export the file again."
        ) from error
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, TypeError, ValueError) as error:
        raise ProductsError(odd) from error


def check_names(where: str, names: Sequence[str]) -> None:
    """Stop at a column that is there twice, or that no other file could name."""
    nameless = [name for name in names if "\0" in name]
    if nameless:
        raise ProductsError(f"{where} has the column {listed(nameless[:1])}, with a NUL in its name; rename it.")
    twice = sorted(name for name, times in Counter(names).items() if times > 1)
    if twice:
        raise ProductsError(
            f"{where} has the column {listed(twice[:1])} {names.count(twice[0])} times; give each column a name of its own."
        )


def check_alike(first: Sequence[str], other: Sequence[str], where: str, first_where: str) -> None:
    """Stop where two files of one run have other columns."""
    odd = sorted(set(first) ^ set(other))
    if odd:
        raise ProductsError(f"{where} and {first_where} differ in columns {listed(odd)}; give files of one layout a run.")
