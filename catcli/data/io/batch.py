"""Rows on their way from a file to a file, in the form in which they came."""

from __future__ import annotations

import signal
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt
import polars as pl

from catcli.errors import ProductsError, name_list, reason

if TYPE_CHECKING:
    import pyarrow as pa

if hasattr(signal, "siginterrupt"):  # not on Windows
    # polars takes SIGINT over when it is imported, and has the system restart what the signal interrupts: a read from a silent pipe, or a
    # wait for a thread, would outlast Ctrl-C.
    signal.siginterrupt(signal.SIGINT, True)

BadRowPolicy = Literal["stop", "skip", "null"]
"""What becomes of such a row: it stops the run, is left out, or comes out with nulls."""


@dataclass(frozen=True)
class BadRow:
    """A row that cannot be read: the file and the line in which it begins, why, and what stands there."""

    file: str
    line: int
    reason: str
    content: str


def escape_undecodable(raw: str) -> str:
    """Text in which bytes that are no letters were kept as lone surrogates, with those written out in hexadecimal."""
    return raw.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


@dataclass(frozen=True)
class Batch:
    """Some rows, and the share of the whole input (0 to 1) that has been read with them.

    ``rows`` is a polars frame, or the Arrow table that a Parquet or Arrow file gave: a table goes out again with types that polars has no
    name for. ``lines`` are the rows as JSON text where they came so, without what ends a line. ``short`` counts rows of CSV that had fewer
    cells than the header, ``where`` is the file's name, and ``note`` says what had to be guessed. ``part`` is the number of the file that
    they came from, ``span`` that of the `catcli.data.io.source.Span` of this file, and ``index`` their own within the span; of a piece of
    them ``piece_of`` is how many they were. ``bad`` are rows that could not be read; of those that stand here as rows of nulls, ``nulls``
    are the numbers.
    """

    rows: pl.DataFrame | pa.Table
    share: float
    short: int = 0
    lines: Sequence[bytes] | None = None
    part: int = 0
    span: int = 0
    index: int = 0
    piece_of: int = 0
    note: str = ""
    where: str = "the input"
    bad: tuple[BadRow, ...] = ()
    nulls: tuple[int, ...] = ()

    def __len__(self) -> int:
        """The number of rows."""
        return len(self.rows)

    @property
    def shard_rows(self) -> int:
        """The number of rows that were read together with these, these among them."""
        return self.piece_of or len(self)

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
        """Some of the rows, by number, a table's in plain types (`arrow_types`); what was counted or noted stays behind."""
        lines = None if self.lines is None else [self.lines[row] for row in rows]
        if isinstance(self.rows, pl.DataFrame):
            taken = self.rows[rows]
        else:
            from catcli.data.io.arrow_types import plain_types

            taken = plain_types(self.rows).take(rows)
        return replace(self, rows=taken, lines=lines, short=0, note="", bad=(), nulls=())

    def slice(self, start: int, count: int | None = None) -> Batch:
        """The rows from number ``start`` on, at most ``count``; what was counted or noted goes with the first row."""
        lines = None if self.lines is None else self.lines[start:][:count]
        rows = self.rows.slice(start, count)
        nulls = tuple(row - start for row in self.nulls if start <= row < start + len(rows))
        if start:
            return replace(self, rows=rows, lines=lines, short=0, note="", bad=(), nulls=nulls, piece_of=self.shard_rows)
        return replace(self, rows=rows, lines=lines, nulls=nulls, piece_of=self.shard_rows)


def _type_of(field: pa.Field, source_name: str) -> pl.DataType:
    import pyarrow as pa

    return _series(field.name, pa.chunked_array([], field.type), source_name).dtype if _known(field.type) else pl.Object()


def _known(kind: pa.DataType) -> bool:
    """Whether polars has a type for one of Arrow's: asked beforehand, since it panics where it has none."""
    import pyarrow as pa

    types = pa.types
    in_views = types.is_list_view(kind) or types.is_large_list_view(kind)
    unknown = in_views or types.is_decimal256(kind) or types.is_union(kind) or types.is_interval(kind) or types.is_run_end_encoded(kind)
    parts = [kind.field(number).type for number in range(kind.num_fields)] if not unknown else []
    return not unknown and all(map(_known, parts))


def _series(name: str, column: pa.ChunkedArray, source_name: str) -> pl.Series:
    import pyarrow as pa

    unsupported = (
        f"{source_name}: the column {name!r} is of the Arrow type {column.type}, which only Parquet and Arrow files hold; write one of "
        "these, or leave the column out with --keep."
    )
    if not _known(column.type):
        raise ProductsError(unsupported)
    try:
        column.validate(full=True)  # polars believes that text is UTF-8, and is lost where it is not
        return pl.Series(name, column)
    except (pa.ArrowInvalid, UnicodeError) as error:
        raise ProductsError(
            f"{source_name}: the column {name!r} is damaged ({reason(error)[:200]}): text has to be UTF-8; export the file again."
        ) from error
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, TypeError, ValueError) as error:
        raise ProductsError(unsupported) from error


def check_column_names(source_name: str, names: Sequence[str]) -> None:
    """Refuse a column that is there twice, or whose name other files cannot have."""
    nameless = [name for name in names if "\0" in name]
    if nameless:
        raise ProductsError(f"{source_name} has the column {name_list(nameless[:1])}, with a NUL in its name; rename it.")
    twice = sorted(name for name, times in Counter(names).items() if times > 1)
    if twice:
        raise ProductsError(
            f"{source_name} has the column {name_list(twice[:1])} {names.count(twice[0])} times; give each column a name of its own."
        )


def check_same_columns(first: Sequence[str], other: Sequence[str], source_name: str, first_where: str) -> None:
    """Refuse files of one run with different columns."""
    differing = sorted(set(first) ^ set(other))
    if differing:
        raise ProductsError(f"{source_name} and {first_where} differ in columns {name_list(differing)}; give files of one layout a run.")
