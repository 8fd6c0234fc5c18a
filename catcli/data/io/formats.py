"""The formats of files of rows, and the extensions that name them."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from catcli.data.io.buckets import Location

Format = Literal["csv", "tsv", "jsonl", "parquet", "arrow", "excel"]

EXTENSIONS: dict[str, Format] = {
    ".csv": "csv",
    ".tsv": "tsv",
    ".tab": "tsv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".parquet": "parquet",
    ".pq": "parquet",
    ".arrow": "arrow",
    ".ipc": "arrow",
    ".feather": "arrow",
    ".xlsx": "excel",
}

COMPRESSIONS = (".gz", ".zst")
"""Endings of compression, behind the one that says the format."""


def without_compression(path: Path) -> Path:
    """A file's name without the ending that says how it is compressed."""
    return path.with_suffix("") if path.suffix.lower() in COMPRESSIONS else path


def extension_of(path: Location) -> str:
    """The extension that says the format, in lower case."""
    return without_compression(Path(path.name)).suffix.lower()
