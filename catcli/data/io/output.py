"""Where rows are written and in what format: what the options and the extension say, and what is wrong with them."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast

import polars as pl

from catcli.data.io.formats import COMPRESSIONS, EXTENSIONS, without_compression
from catcli.errors import OutputError, UsageError, is_disk_full
from catcli.paths import is_bucket, is_folder

OutputFormat = Literal["csv", "tsv", "jsonl", "parquet", "arrow", "excel"]

CATALOG_FORMATS = ("csv", "tsv", "jsonl", "parquet", "arrow")
"""The formats that a catalog is written in; a workbook is for what a person fills in."""

Compression = Literal["", ".gz", ".zst"]


@dataclass(frozen=True)
class FileFormat:
    """How rows are written: the format, what compresses it (Parquet compresses inside), and whether a spreadsheet may open it.

    With ``safe`` no cell of CSV is a formula: see `catcli.data.io.csv_cells.escape_formulas`.
    """

    format: OutputFormat
    packing: Compression = ""
    safe: bool = False

    @property
    def is_spreadsheet(self) -> bool:
        """Whether a spreadsheet opens it, whose cells are text."""
        return self.format in ("csv", "tsv", "excel")

    @property
    def is_text(self) -> bool:
        """Whether files of it can be laid end to end."""
        return self.format in ("csv", "tsv", "jsonl")


def file_format(
    out: str,
    name: str | None,
    in_folder: OutputFormat = "csv",
    option: str = "-o",
    *,
    safe: bool = False,
    formats: Sequence[str] = CATALOG_FORMATS,
) -> FileFormat:
    """The format of ``out``: ``name``, else by its extension; CSV on standard output, and ``in_folder`` for a folder.

    ``formats`` are those that may be.

    Raises:
        UsageError: neither says.
    """
    if name is not None and name not in formats:
        raise UsageError(f"--format {name}: choose one of {', '.join(formats)}.")
    if not out:
        raise UsageError(f"{option}: the name is empty; name a file, a folder that ends in /, or - for standard output.")
    path = Path(out)
    packing = cast(Compression, path.suffix.lower() if out != "-" and path.suffix.lower() in COMPRESSIONS else "")
    format_name = name or ("csv" if out == "-" else EXTENSIONS.get(without_compression(path).suffix.lower()))
    if format_name is None and is_folder(out):
        format_name = in_folder
    if format_name not in formats:
        endings = ", ".join(ending for ending, kind in EXTENSIONS.items() if kind in formats)
        raise UsageError(f"{option} {out}: the ending names no format that catcli writes ({endings}); rename it or pass --format.")
    named = None if out == "-" or is_folder(out) else EXTENSIONS.get(without_compression(path).suffix.lower())
    if name is not None and named is not None and named != name:
        raise UsageError(f"{option} {out}: its ending says {named}, and --format {name}; rename it or leave --format out.")
    form = FileFormat(cast(OutputFormat, format_name), packing, safe and format_name in ("csv", "tsv"))
    if not form.is_text and out == "-":
        raise UsageError(f"--format {format_name} needs a file to write to; standard output takes csv, tsv or jsonl.")
    if not form.is_text and packing:
        raise UsageError(f"{option} {out}: {format_name} is compressed inside; leave {packing} out.")
    return form


def check_folder(file: Path, option: str = "-o") -> None:
    """Before the work begins: the folder that ``file`` goes to is there and can be written.

    Raises:
        OutputError: it is not.
    """
    folder = file.absolute().parent
    if is_bucket(file):
        raise OutputError(f"{option} {file}: only predict writes to a bucket; name a file, and copy it.")
    if not folder.is_dir():
        raise OutputError(f"{option} {file}: there is no folder {file.parent}; make it with 'mkdir -p {file.parent}'.")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise OutputError(f"{option} {file} cannot be written: Permission denied; choose another folder.")


@contextmanager
def write_errors(out: str, option: str = "-o") -> Iterator[None]:
    """Turn what a disk or a format refuses into a sentence.

    Raises:
        OutputError: the place cannot be written, or the format cannot hold a column.
    """
    try:
        yield
    except BrokenPipeError as error:
        if out == "-":  # as with | head: see `catcli.cli.lifecycle`
            raise
        raise OutputError(f"{option} {out}: the reader closed it before the end; run the same command again.") from error
    except OSError as error:
        if is_disk_full(error):
            raise OutputError(f"{option} {out}: the disk is full; free some space and run the same command again.") from error
        raise OutputError(f"{option} {out} cannot be written: {error.strerror or error}.") from error
    except pl.exceptions.PanicException as error:  # how polars' writers meet a type that they do not know
        raise OutputError(
            f"{option} {out}: its format cannot hold a column of this type ({error}); write Parquet, or leave the column out with --keep."
        ) from error
