"""Which column of a file stands for each text column of an adapter."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import polars as pl

from catcli.adapter.manifest import Manifest
from catcli.data.dataset.columns import find_column, similar_columns
from catcli.data.dataset.text import is_textual
from catcli.errors import ProductsError, UsageError, name_list
from catcli.logs import LOGGER


def map_text_columns(
    source_name: str, types: Mapping[str, pl.DataType], manifest: Manifest, mappings: Sequence[str], *, allow_missing: bool
) -> tuple[str | None, ...]:
    """A column for each text column of the adapter: as ``mappings`` maps it, else of the same name but for case, blanks and punctuation.

    None stands for one that is missing, where that is allowed. ``source_name`` is the file's name, ``types`` are its columns.

    Raises:
        ProductsError: a column is missing, or is no text.
        UsageError: a mapping cannot be read.
    """
    columns, wanted = list(types), manifest.text
    mapped = _parse_mapping(mappings, wanted, columns, source_name)
    matched: list[str | None] = []
    for trained in wanted:
        same = similar_columns(trained, columns)
        column = mapped.get(trained) or (same[0] if len(same) == 1 else None)
        if column is None and not allow_missing:
            raise ProductsError(
                f"{source_name} has no column {trained!r}, which the adapter reads; say which one it is with --text {trained}=COLUMN "
                f"or pass --allow-missing; its columns are {name_list(columns, 30)}."
            )
        if column is not None and column != trained:
            LOGGER.info(f"text {trained!r} is read from {column!r}")
        if column is not None and not is_textual(types[column]):
            raise ProductsError(
                f"{source_name}: the cells of {column!r} are {types[column]}, not text; map another with --text {trained}=COLUMN."
            )
        matched.append(column)
    if not any(matched):
        raise ProductsError(
            f"{source_name} has none of the adapter's text columns {name_list(wanted)}; name them with --text TRAINED=COLUMN."
        )
    return tuple(matched)


def price_columns(manifest: Manifest, columns: Sequence[str | None]) -> frozenset[str]:
    """Those of ``columns``, which `map_text_columns` found for the manifest's text columns, that are read as bands of prices."""
    pairs = zip(manifest.text, columns, strict=True)
    return frozenset(column for trained, column in pairs if trained in manifest.prices and column is not None)


def _parse_mapping(mappings: Sequence[str], wanted: Sequence[str], columns: Sequence[str], source_name: str) -> dict[str, str]:
    mapped: dict[str, str] = {}
    for pair in mappings:
        trained, equals, column = pair.partition("=")
        if not equals:
            raise UsageError(f"--text {pair}: write TRAINED=COLUMN, for example --text {wanted[0]}={pair}.")
        name, source = find_column(trained, wanted, "--text", "the adapter"), find_column(column, columns, "--text", source_name)
        if mapped.get(name, source) != source:
            raise UsageError(f"--text {pair}: {name!r} is read from {mapped[name]!r} already; map each column once.")
        mapped[name] = source
    return mapped
