"""The text columns of a row → one text."""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

LONGEST = 20_000
"""Characters of a text that are looked at, some ten pages. Without a limit, a damaged cell of megabytes costs what a thousand rows do."""


def compose(frame: pl.DataFrame, columns: Sequence[str]) -> list[str]:
    """The cells of ``columns``, in that order, joined by a blank; empty ones left out, runs of white space folded, cut at `LONGEST`.

    A list (Amazon Reviews 2023: ``features``, ``description``) is its members joined; numbers and dates stand as polars writes them.
    """
    return composed(frame, columns).to_list()


def composed(frame: pl.DataFrame, columns: Sequence[str]) -> pl.Series:
    """`compose`, as a series of strings."""
    parts = {str(number): _as_text(cells_of(frame, column)).str.slice(0, LONGEST) for number, column in enumerate(columns)}
    joined = pl.concat_str(pl.all(), separator=" ", ignore_nulls=True)
    folded = joined.str.replace_all(r"\s+", " ").str.strip_chars().str.slice(0, LONGEST).fill_null("")
    return pl.DataFrame(parts).select(text=folded)["text"]


def cells_of(frame: pl.DataFrame, column: str) -> pl.Series:
    """A column by its very name, under the name ``cells``.

    polars takes a name such as ``*`` or ``^a.*$`` for a pattern, in most methods of a series too.
    """
    return frame.get_column(column).alias("cells")


def _as_text(cells: pl.Series) -> pl.Series:
    if isinstance(cells.dtype, pl.Array):
        cells = cells.arr.to_list()
    if isinstance(cells.dtype, pl.List):
        return cells.list.eval(pl.element().cast(pl.String)).list.join(" ", ignore_nulls=True)
    return cells.cast(pl.String)


def is_textual(dtype: pl.DataType) -> bool:
    """Whether `compose` can turn a column of this type into text: text, numbers, dates, categories, and lists of them."""
    inner = dtype.inner if isinstance(dtype, pl.List | pl.Array) else dtype
    return not (inner.is_nested() or inner in (pl.Binary, pl.Object, pl.Duration))


def is_plain(dtype: pl.DataType) -> bool:
    """Whether a cell of this type is one name or number: what a label and a group have to be."""
    return is_textual(dtype) and not dtype.is_nested()
