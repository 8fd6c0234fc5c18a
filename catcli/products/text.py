"""The text columns of a row → one text."""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl


def compose(frame: pl.DataFrame, columns: Sequence[str]) -> list[str]:
    """The cells of ``columns``, in that order, joined by a blank; empty ones left out, runs of white space folded.

    A list (Amazon Reviews 2023: ``features``, ``description``) is its members joined; numbers and dates stand as polars writes them.
    """
    parts = [_as_text(frame.schema[column], column) for column in columns]
    joined = pl.concat_str(parts, separator=" ", ignore_nulls=True)
    return frame.select(text=joined.str.replace_all(r"\s+", " ").str.strip_chars().fill_null(""))["text"].to_list()


def _as_text(dtype: pl.DataType, column: str) -> pl.Expr:
    cell = pl.col(column)
    if isinstance(dtype, pl.List | pl.Array):
        members = cell.arr.to_list() if isinstance(dtype, pl.Array) else cell
        return members.list.eval(pl.element().cast(pl.String)).list.join(" ", ignore_nulls=True)
    return cell.cast(pl.String)


def is_textual(dtype: pl.DataType) -> bool:
    """Whether `compose` can turn a column of this type into text: anything but nested values, lists of plain ones apart, and bytes."""
    inner = dtype.inner if isinstance(dtype, pl.List | pl.Array) else dtype
    return not (inner.is_nested() or inner in (pl.Binary, pl.Object))
