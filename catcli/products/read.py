"""Files of products → batches of rows, in order, with memory set by the batch and not by the file.

Each format has a reader of its own: `catcli.products.delimited` (CSV, TSV: cells stay the text they are), `catcli.products.lines` (JSON
Lines), `catcli.products.columnar` (Parquet, Arrow IPC) and polars for Excel workbooks.
"""

from __future__ import annotations

import atexit
import glob
import io
import logging
import re
import shutil
import sys
import tempfile
import unicodedata
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import IO, Any, Literal, cast, get_args
from urllib.parse import unquote

import polars as pl

from catcli.errors import ChangedError, ProductsError, UsageError, listed, reason
from catcli.places import is_bucket
from catcli.products import delimited, lines
from catcli.products.batch import Batch, Policy, check_alike, check_names
from catcli.products.buckets import MAGIC, Object, Place, below, looked_up, matching, near
from catcli.products.streams import STANDARD_INPUT, check_signature, codec_of, guess_told, opened, shown, size_of, stamp

Format = Literal["csv", "tsv", "jsonl", "parquet", "arrow", "excel"]

ENDINGS: dict[str, Format] = {
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

PACKED = (".gz", ".zst")
"""Endings of compression, behind the one that says the format."""

ROWS = 65_536
"""Rows of a batch where nobody asks for another number."""

HIVE_NULL = "__HIVE_DEFAULT_PARTITION__"


@dataclass(frozen=True)
class File:
    """One file: where it is, its place below the folder that was named, and the columns that its path spells (``year=2026``)."""

    path: Place
    place: Path
    spelled: tuple[tuple[str, str | None], ...] = ()


@dataclass(frozen=True)
class Source:
    """Files of one format, read one after the other as if they were one."""

    files: tuple[File, ...]
    format: Format
    delimiter: str | None = None
    encoding: str | None = None
    on_bad_row: Policy = "stop"

    @property
    def paths(self) -> tuple[Place, ...]:
        """Where the files are; `STANDARD_INPUT` and the copy of what came through a pipe among them."""
        return tuple(file.path for file in self.files)

    @property
    def piped(self) -> bool:
        """Whether the rows come through a pipe, and so cannot be read a second time by another run."""
        return any(path == STANDARD_INPUT or path.name.startswith(_SPOOLED) for path in self.paths)

    @property
    def name(self) -> str:
        """How sentences call it."""
        return self._named(self.paths[0]) if len(self.paths) == 1 else f"{self._named(self.paths[0])} and {len(self.paths) - 1} more"

    @staticmethod
    def _named(path: Place) -> str:
        return "standard input" if path.name.startswith(_SPOOLED) else shown(path)

    @property
    def stem(self) -> str:
        """The first file's name without its endings, in letters that a shell takes without quotes."""
        name = "" if self.piped else self.paths[0].name.split(".")[0]
        return re.sub(r"[^\w-]+", "-", name).strip("-") or "products"

    @cached_property
    def line_encodings(self) -> Mapping[Place, str]:
        """Of JSON Lines: each file's encoding, for which a plain file is looked through once."""
        return {path: lines.checked(path, self.encoding, self.on_bad_row) for path in self.paths}

    @cached_property
    def lines_schema(self) -> lines.Schema:
        """Of JSON Lines: the columns of all files with types that hold all their cells; the files are read through for it, so once."""
        schema: lines.Schema = {}
        for path in self.paths:
            for name, dtype in lines.schema_of(path, self.line_encodings[path], ROWS, self.on_bad_row).items():
                schema[name] = lines.wider(schema[name], dtype) if name in schema else dtype
        return schema

    def batches(self, rows: int = ROWS) -> Iterator[Batch]:
        """All rows in order, about ``rows`` at a time; where there are none, one batch that has the columns and no row.

        Standard input can be read once only.
        """
        self._check_layouts()
        sizes = list(map(size_of, self.paths))
        columns: list[str] | None = None
        types: Mapping[str, object] = {}
        for number, file in enumerate(self.files):
            for batch in unchanged(file.path, self._of(file, rows)):
                if columns is None:
                    columns, types = batch.columns, batch.table_types
                self._check_layout(file, batch.columns, batch.table_types, columns, types)
                if batch.columns != columns:
                    batch = replace(batch, rows=batch.only(columns))  # noqa: PLW2901  (the same rows, their columns as in the first)
                share = (sum(sizes[:number]) + batch.share * sizes[number]) / max(sum(sizes), 1)
                yield replace(batch, share=share, part=number)

    def _check_layouts(self) -> None:
        """Compare the headers and footers of all files, before any row is read.

        Raises:
            ProductsError: a file has other columns than the first, or cannot be read.
        """
        if len(self.files) < 2 or self.format in ("jsonl", "excel") or STANDARD_INPUT in self.paths:
            return  # lines have no header, workbooks are read whole, and what comes through a pipe comes once
        first: tuple[Sequence[str], Mapping[str, object]] | None = None
        for file in self.files:
            columns, types = self._layout(file.path)
            if not columns:  # which the first bytes do not say; they are compared as its rows come
                continue
            first = first or (columns, types)
            self._check_layout(file, columns, types, *first)

    def _layout(self, path: Place) -> tuple[Sequence[str], Mapping[str, object]]:
        """The columns that a file itself has, and of tables their Arrow types."""
        if self.format in ("csv", "tsv"):
            return delimited.header_of(path, self._delimited), {}
        from catcli.products.columnar import schema_of

        _check_table(path, self.format)
        schema = schema_of(path, self.format)
        return schema.names, {field.name: field.type for field in schema}

    def _check_layout(
        self, file: File, columns: Sequence[str], types: Mapping[str, object], first: Sequence[str], first_types: Mapping[str, object]
    ) -> None:
        """Stop where a file has other columns than the first, or of other types."""
        if types != first_types:
            odd = sorted(name for name in {*first_types, *columns} if first_types.get(name) != types.get(name))
            raise ProductsError(
                f"{file.path} and {self.paths[0]} differ in columns {listed(odd)} or their types; give files of one layout a run."
            )
        check_alike(first, columns, shown(file.path), shown(self.paths[0]))

    @property
    def _delimited(self) -> delimited.Layout:
        delimiter = "\t" if self.format == "tsv" and not self.delimiter else self.delimiter
        return delimited.Layout(delimiter, self.encoding, self.on_bad_row)

    def count(self) -> int:
        """How many rows there are; all formats but Parquet are read through for it."""
        if self.format == "parquet":
            from catcli.products.columnar import parquet_rows

            return sum(map(parquet_rows, self.paths))
        return sum(map(len, self.batches()))

    def read(self) -> Batch:
        """All rows as one batch."""
        batches = list(self.batches())
        note = " ".join(batch.note for batch in batches if batch.note)
        return Batch(pl.concat([batch.frame for batch in batches], rechunk=True), 1.0, sum(batch.short for batch in batches), note=note)

    def _of(self, file: File, rows: int) -> Iterator[Batch]:
        for batch in self._readers(file.path, rows):
            check_names(shown(file.path), batch.columns)
            yield _with(batch, file.spelled, file.path)

    def _readers(self, path: Place, rows: int) -> Iterator[Batch]:
        if self.format in ("csv", "tsv"):
            yield from delimited.rows_of(path, self._delimited, rows)
        elif self.format == "jsonl":
            note = guess_told(path, self.line_encodings[path], self.encoding)
            blocks = lines.frames_of(path, self.line_encodings[path], rows, self.lines_schema, self.on_bad_row)
            yield from _json_lines(path, blocks, note)
        elif self.format == "excel":
            yield from _workbook(path)
        else:
            yield from _tables(path, self.format, rows)


def open_source(
    patterns: Sequence[str],
    *,
    input_format: str | None = None,
    delimiter: str | None = None,
    encoding: str | None = None,
    on_bad_row: str = "stop",
) -> Source:
    """The files that ``patterns`` name: files, folders, globs, or ``-`` for standard input (CSV unless ``input_format`` says other).

    Raises:
        ProductsError: a file is not there, or the format cannot be told from its name.
        UsageError: a delimiter, an encoding or a policy for bad rows that is none.
    """
    delimiter = _checked_layout(input_format, delimiter, encoding, on_bad_row)
    if list(patterns).count("-") > 1:
        raise UsageError("standard input (-) can be read only once.")
    files = [file for pattern in patterns for file in _expand(pattern, input_format)]
    formats: dict[Place, Any] = {file.path: input_format or _format_of(file.path) for file in files}
    if len(set(formats.values())) > 1:
        raise ProductsError(f"the inputs are of several formats ({', '.join(sorted(set(formats.values())))}); give one format a run.")
    spelled = [{name for name, _ in file.spelled} for file in files]
    for file, names in zip(files, spelled, strict=True):
        check_alike(sorted(spelled[0]), sorted(names), f"the path of {file.path}", f"the path of {files[0].path}")
    return Source(tuple(files), formats[files[0].path], delimiter, encoding, cast(Policy, on_bad_row))


def _checked_layout(input_format: str | None, delimiter: str | None, encoding: str | None, on_bad_row: str) -> str | None:
    """The delimiter, which can be given by name, once nothing is wrong with the options."""
    if on_bad_row not in get_args(Policy):
        raise UsageError(f"--on-bad-row {on_bad_row}: choose one of {', '.join(get_args(Policy))}.")
    if input_format is not None and input_format not in get_args(Format):
        raise UsageError(f"--input-format {input_format}: choose one of {', '.join(get_args(Format))}.")
    if delimiter is not None:
        delimiter = {"\\t": "\t", "tab": "\t"}.get(delimiter, delimiter)
        if len(delimiter) != 1:
            raise UsageError(f"--delimiter {delimiter!r}: one character, or 'tab'.")
    if encoding is not None:
        try:
            name, errors = codec_of(encoding)
            if errors not in ("strict", "replace"):
                raise UsageError(f"--encoding {encoding}: after the colon stands replace, for bytes that cannot be read, or nothing.")
            "".encode(name)  # refuses what is no encoding, and codecs such as hex that are none of text
        except LookupError as error:
            raise UsageError(f"--encoding {encoding}: Python knows no such encoding; try utf-8, latin-1, cp1252 or utf-16.") from error
    return delimiter


def unchanged(path: Place, batches: Iterator[Batch]) -> Iterator[Batch]:
    """The batches of a file, which has to be the same at their end.

    Raises:
        ChangedError: it is not.
    """
    before, changed = stamp(path), f"{shown(path)} was changed while it was read; run the same line again once it is finished."
    try:
        yield from batches
    except ProductsError as error:
        if stamp(path) != before:
            raise ChangedError(changed) from error
        raise
    if stamp(path) != before:
        raise ChangedError(changed)


# --- names → files -------------------------------------------------------------------------------------------------------------------

_SPOOLED = "catcli-standard-input-"


def _expand(pattern: str, input_format: str | None) -> list[File]:
    if pattern in ("-", "/dev/stdin"):
        return [_standard_input(input_format)]
    if re.match(r"(https?|ftps?)://", pattern):
        raise ProductsError(f"{pattern} is an address of the web, which is not read; download it and name the file.")
    if is_bucket(pattern):
        return _in_bucket(pattern, input_format)
    path = Path(pattern)
    if path.is_dir():
        return _in_folder(path, input_format)
    if path.exists() and not path.is_file():
        with path.open("rb") as pipe:
            return [_spooled(pipe)]
    if path.exists():
        return [File(path, Path(path.name))]
    # glob.glob, since a pattern may be absolute and Path.glob takes none that is.
    matches = sorted(match for match in map(Path, glob.glob(pattern, recursive=True)) if match.is_file())  # noqa: PTH207
    if not matches and path.is_symlink():
        raise ProductsError(f"{pattern} is a link to {path.readlink()}, which is not there or is the link itself; name the file.")
    if not matches:
        raise ProductsError(f"there is no file {pattern}; {_beside(path)}.")
    root = Path(*_fixed(path.parts))
    return [File(match, match.relative_to(root), _spelled(match.relative_to(root))) for match in matches]


def _beside(path: Path) -> str:
    """What there is in the place of a file that is not there."""
    if not path.parent.is_dir():
        return f"there is no folder {path.parent} either"
    near = sorted(path.parent.glob("*"))
    for entry in near:
        if entry.name != path.name and unicodedata.normalize("NFC", entry.name) == unicodedata.normalize("NFC", path.name):
            return f"{entry.name!a} has the same letters, encoded otherwise (Unicode NFC and NFD): name it by a glob, with * for them"
    there = [entry.name for entry in near if _ending(entry) in ENDINGS]
    return f"{path.parent} holds {listed(there)}" if there else f"{path.parent.absolute()} holds no products"


def _in_bucket(pattern: str, input_format: str | None) -> list[File]:
    """The objects of this name, of this pattern, or below this prefix."""
    one = None if pattern.endswith("/") else looked_up(pattern)
    if one is not None:
        return [File(one, Path(one.name))]
    root, found = matching(pattern) if MAGIC.search(pattern) else (pattern.rstrip("/"), below(pattern))
    placed = ((one, Path(one.url.removeprefix(root).lstrip("/"))) for one in found)
    files = [
        File(one, place, _spelled(place))
        for one, place in placed
        if MAGIC.search(pattern) or (_is_visible(place) and (input_format is not None or _ending(one) in ENDINGS))
    ]
    if not files:
        raise ProductsError(f"there is no object {pattern} that holds products; {near(pattern.rstrip('/'))}.")
    return files


def _is_visible(place: Path) -> bool:
    """Whether no part of a path begins with a dot or an underscore: those are other programs' notes."""
    return not any(part.startswith((".", "_")) for part in place.parts)


def _fixed(parts: Sequence[str]) -> Iterator[str]:
    """The parts of a pattern before the first that stands for several names."""
    for part in parts[:-1]:
        if glob.has_magic(part):
            return
        yield part


def _in_folder(folder: Path, input_format: str | None) -> list[File]:
    """The files of a folder and of those below it; a link that leads out of it is not followed.

    Raises:
        ProductsError: it holds none, or such a link.
    """
    found, root = [], folder.resolve()
    for path in sorted(folder.rglob("*")):
        place = path.relative_to(folder)
        if path.is_symlink() and _is_visible(place) and not path.resolve().is_relative_to(root):
            raise ProductsError(
                f"the folder {folder} holds the link {place}, which leads out of it to {path.readlink()}; name that file itself, or remove "
                "the link."
            )
        if path.is_file() and _is_visible(place) and (input_format is not None or _ending(path) in ENDINGS):
            found.append(File(path, place, _spelled(place)))
    if not found:
        raise ProductsError(f"the folder {folder} holds no products: no file in it ends in {', '.join(ENDINGS)}.")
    return found


def _spelled(place: Path) -> tuple[tuple[str, str | None], ...]:
    """The columns that a path spells as Hive writes them: ``country=de/year=2026/part.parquet``."""
    pairs = (part.partition("=") for part in place.parts[:-1])
    return tuple((unquote(name), None if value == HIVE_NULL else unquote(value)) for name, equals, value in pairs if equals and name)


def _standard_input(input_format: str | None) -> File:
    if sys.stdin is None:
        raise ProductsError("standard input (-) is closed; pipe rows into it or name a file.")
    if input_format in (None, "csv", "tsv"):
        return File(STANDARD_INPUT, Path("standard-input.csv"))
    return _spooled(sys.stdin.buffer)


def _spooled(stream: IO[bytes]) -> File:
    """What comes through a pipe as a file that is gone when the process is: most readers want to go back to its beginning."""
    with tempfile.NamedTemporaryFile(prefix=_SPOOLED, delete=False) as file:
        atexit.register(Path(file.name).unlink, missing_ok=True)
        shutil.copyfileobj(stream, file, 1 << 20)
    return File(Path(file.name), Path("standard-input"))


def unpacked(path: Path) -> Path:
    """A file's name without the ending that says how it is compressed."""
    return path.with_suffix("") if path.suffix.lower() in PACKED else path


def _ending(path: Place) -> str:
    return unpacked(Path(path.name)).suffix.lower()


def _format_of(path: Place) -> Format:
    if path == STANDARD_INPUT or path.name.startswith(_SPOOLED):
        return "csv"
    found = ENDINGS.get(_ending(path))
    if found is None:
        raise ProductsError(
            f"{path}: the ending {path.suffix or '(none)'!r} names no format that catcli reads ({', '.join(ENDINGS)}, the first five also "
            "with .gz or .zst behind them); rename it or pass --input-format."
        )
    if path.suffix.lower() in PACKED and found not in ("csv", "tsv", "jsonl"):
        raise ProductsError(f"{path}: {found} files are compressed inside; unpack it first.")
    return found


# --- files → batches -----------------------------------------------------------------------------------------------------------------


def _with(batch: Batch, spelled: Sequence[tuple[str, str | None]], path: Place) -> Batch:
    """The rows with the columns that their path spells, as text."""
    if not spelled:
        return batch
    both = sorted({name for name, _ in spelled} & set(batch.columns))
    if both:
        raise ProductsError(
            f"{path} has the column {both[0]!r}, which its path spells too; take the files one by one, without their folder."
        )
    rows = batch.rows
    for name, value in spelled:
        column = pl.Series(name, [value], dtype=pl.String).new_from_index(0, len(batch))
        rows = rows.with_columns(column) if isinstance(rows, pl.DataFrame) else rows.append_column(name, column.to_arrow())
    return replace(batch, rows=rows, lines=None)


def _json_lines(path: Place, blocks: Iterator[tuple[pl.DataFrame, lines.Lines]], note: str) -> Iterator[Batch]:
    given = False
    for frame, block in blocks:
        yield Batch(frame, block.share, lines=block.lines, note="" if given else note, bad=block.bad, nulls=block.nulls)
        given = True
    if not given:
        raise ProductsError(f"{shown(path)} has only blank lines: it has no JSON Lines in it.")


def _tables(path: Place, form: Format, rows: int) -> Iterator[Batch]:
    from catcli.products.columnar import TABLES

    _check_table(path, form)
    for table, share in TABLES[form](path, rows):
        yield Batch(table, share, where=shown(path))


def _check_table(path: Place, form: Format) -> None:
    """Stop at a file whose first bytes are not those of its format."""
    wanted = {"parquet": "Parquet", "arrow": "Arrow IPC"}[form]
    with opened(path) as stream:
        head = stream.head[:8]
    if not head:
        raise ProductsError(f"{path} is empty: it has no {wanted} in it.")
    if form == "parquet" and not head.startswith(b"PAR1"):
        raise ProductsError(f"{path} is no Parquet file: it does not begin with PAR1; if it is text, pass --input-format csv.")
    if form == "arrow" and not head.startswith(b"ARROW1"):
        check_signature(path, wanted, head)


MAX_WORKBOOK = 2**30
"""Bytes that a workbook may have once it is unpacked: it is read whole."""


MAX_CELLS = 50_000_000
"""Cells of a sheet up to its last row and column: the reader makes room for all of them, filled or not."""

_CELL = re.compile(rb'\br="([A-Z]{1,3})(\d{1,7})"')


def _number(column: bytes) -> int:
    """The number of a column by its letters: 1 of A, 28 of AB."""
    number = 0
    for letter in column:
        number = 26 * number + letter - 64
    return number


def _check_workbook(path: Place) -> None:
    """Unpack a workbook once, to nowhere: what its directory says of sizes need not be true."""
    size = 0
    with path.opened() if isinstance(path, Object) else path.open("rb") as file:
        try:
            with zipfile.ZipFile(file) as packed:
                for entry in packed.infolist():
                    size += _check_member(path, packed, entry, MAX_WORKBOOK - size)
        except (zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError, EOFError, OSError) as error:
            raise ProductsError(f"{path} cannot be read as an Excel workbook: {reason(error)}; save it again, or as CSV.") from error


def _check_member(path: Place, packed: zipfile.ZipFile, entry: zipfile.ZipInfo, room: int) -> int:
    """The bytes of one file of a workbook, for which there is ``room``; of a sheet, its last row and column are looked at too."""
    is_sheet = entry.filename.startswith("xl/worksheets/")
    size, columns, rows, rest = 0, 0, 0, b""
    with packed.open(entry) as member:
        while block := member.read(2**20):
            size += len(block)
            for column, row in _CELL.findall(rest + block) if is_sheet else ():
                columns, rows = max(columns, _number(column)), max(rows, int(row))
            rest = block[-32:]
            if columns * rows > MAX_CELLS:
                raise ProductsError(
                    f"{path} has a sheet of {rows:,} rows and {columns:,} columns, and the most cells that are read are {MAX_CELLS:,}; "
                    "save it as CSV."
                )
            if size > room:
                raise ProductsError(f"{path} unpacks to more than the {MAX_WORKBOOK:,} bytes that are read of a workbook; save it as CSV.")
    return size


def _workbook(path: Place) -> Iterator[Batch]:
    """The first sheet of a workbook; a sheet holds a million rows at most, so it is read whole."""
    with opened(path) as stream:
        if not stream.head.startswith(b"PK\x03\x04"):
            raise ProductsError(f"{path} is no Excel workbook (.xlsx); if it is text, pass --input-format csv.")
    _check_workbook(path)
    # It logs each column without a type, where there is no other log to standard error; such a column is text here.
    logging.getLogger("fastexcel").setLevel(logging.ERROR)
    try:
        frame = pl.read_excel(
            io.BytesIO(path.opened().read()) if isinstance(path, Object) else path, engine="calamine", infer_schema_length=None
        )
    except ModuleNotFoundError as error:
        raise ProductsError(f"reading {path} takes one package more: pip install 'catcli[excel]'.") from error
    except Exception as error:  # calamine's errors are of a class of their own, which is not here without it
        why = "it has no sheet" if isinstance(error, IndexError) else reason(error)
        raise ProductsError(f"{path} cannot be read as an Excel workbook: {why}; save it again, or as CSV.") from error
    yield Batch(frame, 1.0)
