"""Files of products → batches of rows, in order, with memory set by the batch and not by the file.

CSV goes through `catcli.products.delimited`, its cells staying the text they are; JSON Lines and Parquet go through polars' streaming
engine with their types.
"""

from __future__ import annotations

import atexit
import glob
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import IO, Literal, get_args

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
    """Some rows, and the share of the whole input (0 to 1) that has been read with them.

    ``short`` counts those of CSV that had fewer cells than the header.
    """

    frame: pl.DataFrame
    share: float
    short: int = 0


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

    @cached_property
    def scanned(self) -> tuple[pl.LazyFrame, int]:
        """Parquet or JSON Lines as polars will stream it, and how many rows that gives; JSON Lines are read through for both, so once."""
        frame = _scan_parquet(self) if self.format == "parquet" else _scan_json_lines(self)
        return frame, int(frame.select(pl.len()).collect().item())

    def batches(self, rows: int = ROWS) -> Iterator[Batch]:
        """All rows in order, about ``rows`` at a time; where there are none, one batch that has the columns and no row."""
        if self.format in ("csv", "tsv"):
            yield from _csv_batches(self, rows)
        else:
            yield from _polars_batches(self, rows)

    def read(self) -> Batch:
        """All rows as one batch."""
        batches = list(self.batches())
        return Batch(pl.concat([batch.frame for batch in batches], rechunk=True), 1.0, sum(batch.short for batch in batches))


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
            "".encode(encoding)  # refuses what is no encoding, and codecs such as hex that are none of text
        except LookupError as error:
            raise UsageError(f"--encoding {encoding}: Python knows no such encoding; try utf-8, latin-1, cp1252 or utf-16.") from error
    if list(patterns).count("-") > 1:
        raise UsageError("standard input (-) can be read only once.")
    paths = [path for pattern in patterns for path in _expand(pattern)]
    formats = {path: input_format or ("csv" if path.name.startswith(_SPOOLED) else _format_of(path)) for path in paths}
    if len(set(formats.values())) > 1:
        raise ProductsError(f"the inputs are of several formats ({', '.join(sorted(set(formats.values())))}); give one format a run.")
    return Source(tuple(paths), formats[paths[0]], delimiter, encoding)  # type: ignore[arg-type]  # checked above


_SPOOLED = "catcli-standard-input-"


def _expand(pattern: str) -> list[Path]:
    if pattern == "-":
        if sys.stdin is None:
            raise ProductsError("standard input (-) is closed; pipe rows into it or name a file.")
        return [_spooled(sys.stdin.buffer)]
    path = Path(pattern)
    if path.is_dir():
        raise ProductsError(f"{pattern} is a folder; name its files, for example '{pattern.rstrip('/')}/*.parquet'.")
    if path.exists() and not path.is_file():
        with path.open("rb") as pipe:
            return [_spooled(pipe)]
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


def _spooled(stream: IO[bytes]) -> Path:
    """What comes through a pipe as a file that is gone when the process is: the readers below want to go back to its beginning."""
    with tempfile.NamedTemporaryFile(prefix=_SPOOLED, delete=False) as file:
        atexit.register(Path(file.name).unlink, missing_ok=True)
        shutil.copyfileobj(stream, file, 1 << 20)
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
    done = 0
    try:
        frame, total = source.scanned
        if total == 0:
            yield Batch(frame.collect_schema().to_frame(), 1.0)
        for batch in frame.collect_batches(chunk_size=rows, maintain_order=True, lazy=True):
            done += len(batch)
            yield Batch(batch, done / max(total, 1))
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ProductsError(f"{source.name} cannot be read as {wanted}: {reason}; is it whole? Export or copy it again.") from error
    if done != total:
        # A damaged page can end polars' stream early without an error.
        raise ProductsError(f"{source.name} gave {done:,} of its {total:,} rows: it is damaged; export or copy it again.")


def _scan_parquet(source: Source) -> pl.LazyFrame:
    first, *others = (pl.read_parquet_schema(path) for path in source.paths)
    for path, schema in zip(source.paths[1:], others, strict=True):
        odd = sorted(name for name in {*first, *schema} if first.get(name) != schema.get(name))
        if odd:
            raise ProductsError(
                f"{path} and {source.paths[0]} differ in columns {listed(odd)} or their types; give files of one layout a run."
            )
    return pl.scan_parquet(list(source.paths), glob=False, missing_columns="raise").select(pl.all())


def _scan_json_lines(source: Source) -> pl.LazyFrame:
    """All files with the columns of any; a column whose types differ becomes text.

    Types are looked for in all rows: with a sample, a price that turns into "n/a" at row 90,000 would stop the run there.
    """
    schema: dict[str, pl.DataType] = {}
    # polars takes every path of JSON Lines for a pattern.
    paths = [glob.escape(str(path)) for path in source.paths]
    for path in paths:
        for name, dtype in pl.scan_ndjson(path, infer_schema_length=None).collect_schema().items():
            known = schema.get(name)
            schema[name] = dtype if known is None or known in (dtype, pl.Null) else known if dtype == pl.Null else pl.String()
    return pl.scan_ndjson(paths, schema=schema)


def _csv_batches(source: Source, rows: int) -> Iterator[Batch]:
    sizes = [path.stat().st_size for path in source.paths]
    layout = delimited.Layout("\t" if source.format == "tsv" and not source.delimiter else source.delimiter, source.encoding)
    header: list[str] | None = None
    for number, path in enumerate(source.paths):
        try:
            for found in delimited.rows_of(path, layout, rows):
                header = header or found.frame.columns
                if set(found.frame.columns) != set(header):
                    odd = sorted(set(found.frame.columns) ^ set(header))
                    raise ProductsError(f"{path} and {source.paths[0]} differ in columns {listed(odd)}; give files of one layout a run.")
                share = (sum(sizes[:number]) + min(found.read, sizes[number])) / max(sum(sizes), 1)
                yield Batch(found.frame[header], share, found.short)
        except OSError as error:
            raise ProductsError(f"{path} cannot be read: {error.strerror or error}.") from error
