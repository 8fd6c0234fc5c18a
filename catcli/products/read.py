"""Files of products → batches of rows, in order, with memory set by the batch and not by the file.

CSV goes through `catcli.products.delimited`, its cells staying the text they are; JSON Lines and Parquet go through polars' streaming
engine with their types.
"""

from __future__ import annotations

import codecs
import glob
import re
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import polars as pl

from catcli.errors import ProductsError, UsageError, listed
from catcli.products import delimited
from catcli.products.delimited import check_signature

Format = Literal["csv", "tsv", "jsonl", "parquet"]

ENDINGS: dict[str, Format] = {
    ".csv": "csv",
    ".tsv": "tsv",
    ".tab": "tsv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".parquet": "parquet",
    ".pq": "parquet",
}

ROWS = 65_536
"""Rows of a batch where nobody asks for another number."""


@dataclass(frozen=True)
class Batch:
    """Some rows, and the share of the whole input (0 to 1) that has been read with them."""

    frame: pl.DataFrame
    share: float


@dataclass(frozen=True)
class Source:
    """Files of one format, read one after the other as if they were one."""

    paths: tuple[Path, ...]
    format: Format
    delimiter: str | None = None
    encoding: str | None = None

    @property
    def name(self) -> str:
        """How sentences call it."""
        first = "standard input" if self.paths[0].name.startswith(_SPOOLED) else str(self.paths[0])
        return first if len(self.paths) == 1 else f"{first} and {len(self.paths) - 1} more"

    @property
    def stem(self) -> str:
        """The first file's name without its endings, in letters that a shell takes without quotes."""
        name = "" if self.paths[0].name.startswith(_SPOOLED) else self.paths[0].name.split(".")[0]
        return re.sub(r"[^\w-]+", "-", name).strip("-") or "products"

    def batches(self, rows: int = ROWS) -> Iterator[Batch]:
        """All rows in order, about ``rows`` at a time; where there are none, one batch that has the columns and no row."""
        if self.format in ("csv", "tsv"):
            yield from _csv_batches(self, rows)
        else:
            yield from _polars_batches(self, rows)

    def read(self) -> pl.DataFrame:
        """All rows at once."""
        return pl.concat([batch.frame for batch in self.batches()], rechunk=True)


def open_source(
    patterns: Sequence[str], *, input_format: str | None = None, delimiter: str | None = None, encoding: str | None = None
) -> Source:
    """The files that ``patterns`` name; a pattern may be a glob, or ``-`` for standard input (CSV unless ``input_format`` says other).

    Raises:
        ProductsError: a file is not there, or the format cannot be told from its name.
        UsageError: a delimiter or an encoding that is none.
    """
    if input_format is not None and input_format not in get_args(Format):
        raise UsageError(f"--input-format {input_format}: choose one of {', '.join(get_args(Format))}.")
    if delimiter is not None:
        delimiter = {"\\t": "\t", "tab": "\t"}.get(delimiter, delimiter)
        if len(delimiter) != 1:
            raise UsageError(f"--delimiter {delimiter!r}: one character, or 'tab'.")
    if encoding is not None:
        try:
            codecs.lookup(encoding)
        except LookupError as error:
            raise UsageError(f"--encoding {encoding}: Python knows no such encoding; try utf-8, latin-1, cp1252 or utf-16.") from error
    paths = [path for pattern in patterns for path in _expand(pattern)]
    formats = {path: input_format or ("csv" if path.name.startswith(_SPOOLED) else _format_of(path)) for path in paths}
    if len(set(formats.values())) > 1:
        raise ProductsError(f"the inputs are of several formats ({', '.join(sorted(set(formats.values())))}); give one format a run.")
    return Source(tuple(paths), formats[paths[0]], delimiter, encoding)  # type: ignore[arg-type]  # checked above


_SPOOLED = "catcli-standard-input-"


def _expand(pattern: str) -> list[Path]:
    if pattern == "-":
        return [_spooled()]
    path = Path(pattern)
    if path.is_dir():
        raise ProductsError(f"{pattern} is a folder; name its files, for example '{pattern.rstrip('/')}/*.parquet'.")
    if path.exists():
        return [path]
    # glob.glob, since a pattern may be absolute and Path.glob takes none that is.
    matches = sorted(match for match in map(Path, glob.glob(pattern, recursive=True)) if match.is_file())  # noqa: PTH207
    if not matches:
        near = sorted(path.parent.glob("*")) if path.parent.is_dir() else []
        there = [entry.name for entry in near if entry.suffix in ENDINGS]
        have = f"{path.parent} holds {listed(there)}" if there else f"{path.parent.absolute()} holds no products"
        raise ProductsError(f"there is no file {pattern}; {have}.")
    return matches


def _spooled() -> Path:
    """Standard input as a file that is gone when the process is: the readers below want to go back to its beginning."""
    import atexit

    with tempfile.NamedTemporaryFile(prefix=_SPOOLED, delete=False) as file:
        atexit.register(Path(file.name).unlink, missing_ok=True)
        while block := sys.stdin.buffer.read(1 << 20):
            file.write(block)
    return Path(file.name)


def _format_of(path: Path) -> Format:
    found = ENDINGS.get(path.suffix.lower())
    if found is None:
        raise ProductsError(
            f"{path}: the ending {path.suffix or '(none)'!r} names no format that catcli reads ({', '.join(ENDINGS)}); "
            "rename it or pass --input-format."
        )
    return found


def _polars_batches(source: Source, rows: int) -> Iterator[Batch]:
    wanted = {"jsonl": "JSON Lines", "parquet": "Parquet"}[source.format]
    for path in source.paths:
        try:
            if path.stat().st_size == 0:
                raise ProductsError(f"{path} is empty: it has no {wanted} in it.")
            with path.open("rb") as file:
                head = file.read(8)
        except OSError as error:
            raise ProductsError(f"{path} cannot be read: {error.strerror or error}.") from error
        if source.format == "parquet" and not head.startswith(b"PAR1"):
            raise ProductsError(f"{path} is no Parquet file: it does not begin with PAR1; if it is text, pass --input-format csv.")
        if source.format == "jsonl":
            check_signature(path, wanted, head)
    try:
        if source.format == "parquet":
            frame = pl.scan_parquet(list(source.paths), glob=False)
        else:
            # Types are looked for in all rows: with a sample, a price that turns into "n/a" at row 90,000 would stop the run there.
            frame = pl.scan_ndjson(list(source.paths), infer_schema_length=None)
        total = int(frame.select(pl.len()).collect().item())
        empty = frame.collect_schema().to_frame()
        if total == 0:
            yield Batch(empty, 1.0)
        done = 0
        for batch in frame.collect_batches(chunk_size=rows, maintain_order=True, lazy=True):
            done += len(batch)
            yield Batch(batch, done / max(total, 1))
    except (pl.exceptions.PolarsError, OSError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ProductsError(f"{source.name} cannot be read as {wanted}: {reason}; is it whole? Export or copy it again.") from error


def _csv_batches(source: Source, rows: int) -> Iterator[Batch]:
    sizes = [path.stat().st_size for path in source.paths]
    layout = delimited.Layout("\t" if source.format == "tsv" and not source.delimiter else source.delimiter, source.encoding)
    header: list[str] | None = None
    for number, path in enumerate(source.paths):
        try:
            for frame, read in delimited.frames(path, layout, rows):
                if header is None:
                    header = frame.columns
                elif set(frame.columns) != set(header):
                    odd = sorted(set(frame.columns) ^ set(header))
                    raise ProductsError(f"{path} and {source.paths[0]} differ in columns {listed(odd)}; give files of one layout a run.")
                yield Batch(frame.select(header), (sum(sizes[:number]) + min(read, sizes[number])) / max(sum(sizes), 1))
        except OSError as error:
            raise ProductsError(f"{path} cannot be read: {error.strerror or error}.") from error
