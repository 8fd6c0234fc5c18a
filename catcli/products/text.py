"""The text columns of a row → one text."""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl


def compose(frame: pl.DataFrame, columns: Sequence[str]) -> list[str]:
    """The cells of ``columns``, in that order, joined by a blank; empty ones left out, runs of white space folded.

    A list (Amazon Reviews 2023: ``features``, ``description``) is its members joined; numbers and dates stand as polars writes them.
    """
    parts = {str(number): _as_text(cells_of(frame, column)) for number, column in enumerate(columns)}
    joined = pl.concat_str(pl.all(), separator=" ", ignore_nulls=True)
    return pl.DataFrame(parts).select(text=joined.str.replace_all(r"\s+", " ").str.strip_chars().fill_null(""))["text"].to_list()


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
