"""The column that says what a row counts: revenue, pieces in stock."""

from __future__ import annotations

import polars as pl


def parse_weights(cells: pl.Series) -> tuple[pl.Series, pl.Series]:
    """What each row counts, and which cells are no number from 0 on; an empty cell counts nothing, and so does such a one."""
    written = cells.cast(pl.String).str.strip_chars().fill_null("")
    weights = written.cast(pl.Float64, strict=False)
    is_weight = (weights.is_not_nan() & weights.is_between(0, 1e300)).fill_null(value=False)
    return weights.set(~is_weight, 0.0), (written != "") & ~is_weight
