"""Parquet files of an adapter → frames: of the columns that they have to have, and of no more rows than they can."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import polars as pl

from catcli.errors import AdapterError, reason


def stored_frame(file: Path, schema: Mapping[str, pl.DataType], most: int) -> pl.DataFrame:
    """The columns of ``schema``, no cell of them null and no number without a value.

    Raises:
        AdapterError: the file is no Parquet, lacks a column or has one of another type, or has more than ``most`` rows.
    """
    try:
        rows = int(pl.scan_parquet(file, glob=False).select(pl.len()).collect().item())
        if rows > most:
            raise AdapterError(f"{file} has {rows:,} rows, and no adapter's has more than {most:,}; copy the adapter again or fit anew.")
        frame = pl.read_parquet(file, glob=False)
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError) as error:
        raise AdapterError(f"{file} cannot be read as Parquet: {reason(error)}; copy the adapter again or fit anew.") from error
    odd = [name for name, dtype in schema.items() if frame.schema.get(name) != dtype]
    if odd:
        has = frame.schema.get(odd[0], "not there")
        raise AdapterError(f"{file}: the column {odd[0]!r} is {has}, not {schema[odd[0]]}; copy the adapter again or fit anew.")
    found = frame.select(schema.keys())
    numbers = (found.get_column(name).arr.explode() for name, dtype in schema.items() if isinstance(dtype, pl.Array))
    if any(found.null_count().row(0)) or not all(column.is_finite().all() for column in numbers):
        raise AdapterError(f"{file} has cells without a value; copy the adapter again or fit anew.")
    return found
