"""Cells that CSV has no form for: nested values, bytes, durations, and formulas that a spreadsheet would run."""

from __future__ import annotations

import base64
import json

import polars as pl

from catcli.data.dataset.text import column_cells


def flatten_cells(frame: pl.DataFrame) -> pl.DataFrame:
    """The frame with nested cells as JSON text, durations as ISO 8601 has them and bytes as base64, since CSV knows none of these."""
    changed = []
    for name, dtype in frame.schema.items():
        if dtype.is_nested():
            cells = [None if cell is None else json.dumps(cell, ensure_ascii=False, default=_as_json) for cell in frame[name].to_list()]
            changed.append(pl.Series(name, cells, dtype=pl.String))
        elif isinstance(dtype, pl.Duration):
            changed.append(column_cells(frame, name).dt.to_string("iso").alias(name))
    return encode_bytes(frame.with_columns(changed))


_FORMULA = r"(^|[;\t\r\n])(\s*)([=+\-@\x{ff0b}\x{ff0d}\x{ff1d}\x{ff20}])"
"""Where a formula begins: at a cell's beginning, or behind what a spreadsheet of another language takes for the end of one. `=`, `+`, `-`
and `@` begin one, and so do their full-width forms (OWASP, "CSV Injection")."""

_NUMBER = r"^[+-]?(\d+([.,]\d+)*|[.,]\d+)([eE][+-]?\d+)?\s*%?$"


def escape_formulas(frame: pl.DataFrame) -> pl.DataFrame:
    """The frame with an apostrophe before what a spreadsheet would take for a formula, in cells and in names of columns.

    A spreadsheet shows such a cell as the text that it is. Numbers, signs and all, stay what they are.
    """
    names: list[str] = []
    for name in _escape_formulas(pl.Series(frame.columns, dtype=pl.String)):
        while name in names:
            name = f"'{name}"  # noqa: PLW2901  # "=a" and "'=a" were two columns and stay two
        names.append(name)
    return pl.DataFrame([_escape_formulas(cells).alias(name) for cells, name in zip(frame.get_columns(), names, strict=True)])


def _escape_formulas(cells: pl.Series) -> pl.Series:
    if cells.dtype in (pl.Categorical, pl.Enum):
        cells = cells.cast(pl.String)
    if cells.dtype != pl.String:
        return cells
    safe = cells.str.replace_all(_FORMULA, "${1}${2}'${3}")
    return safe.zip_with(~cells.str.contains(_NUMBER).fill_null(value=False), cells)


def unescape_formulas(cells: pl.Series) -> pl.Series:
    """Text without the apostrophes that `escape_formulas` put into it."""
    return cells.str.replace_all(_FORMULA.replace(r"(\s*)", r"(\s*)'"), "${1}${2}${3}")


def encode_bytes(frame: pl.DataFrame) -> pl.DataFrame:
    """The frame with columns of bytes as base64."""
    return frame.with_columns(
        [column_cells(frame, name).bin.encode("base64").alias(name) for name, dtype in frame.schema.items() if dtype == pl.Binary]
    )


def _as_json(value: object) -> str:
    """What JSON has no form for: bytes as base64, dates and decimals as they print."""
    return base64.b64encode(value).decode() if isinstance(value, bytes) else str(value)
