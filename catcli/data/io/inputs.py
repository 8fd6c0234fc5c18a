"""Names on the command line → files: files, folders, globs, buckets and standard input."""

from __future__ import annotations

import atexit
import glob
import re
import shutil
import sys
import tempfile
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO
from urllib.parse import unquote

from catcli.data.io.buckets import GLOB_CHARACTERS, Location, describe_neighbors, find_object, list_objects, match_objects
from catcli.data.io.formats import COMPRESSIONS, EXTENSIONS, Format, extension_of
from catcli.data.io.streams import (
    STANDARD_INPUT,
)
from catcli.errors import ProductsError, name_list
from catcli.paths import is_bucket

HIVE_NULL = "__HIVE_DEFAULT_PARTITION__"


@dataclass(frozen=True)
class InputFile:
    """One file: where it is, its place below the folder that was named, and the columns that its path spells (``year=2026``)."""

    path: Location
    place: Path
    spelled: tuple[tuple[str, str | None], ...] = ()


SPOOL_PREFIX = "catcli-standard-input-"


def expand(pattern: str, input_format: str | None) -> list[InputFile]:
    """The files that a name on the command line means.

    Raises:
        ProductsError: there are none.
    """
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
            return [_spool_to_file(pipe)]
    if path.exists():
        return [InputFile(path, Path(path.name))]
    # glob.glob, since a pattern may be absolute and Path.glob takes none that is.
    matches = sorted(match for match in map(Path, glob.glob(pattern, recursive=True)) if match.is_file())  # noqa: PTH207
    if not matches and path.is_symlink():
        raise ProductsError(f"{pattern} is a link to {path.readlink()}, which is not there or is the link itself; name the file.")
    if not matches:
        raise ProductsError(f"there is no file {pattern}; {_describe_folder(path)}.")
    root = Path(*_fixed_parts(path.parts))
    return [InputFile(match, match.relative_to(root), _hive_columns(match.relative_to(root))) for match in matches]


def _describe_folder(path: Path) -> str:
    """What there is in the place of a file that is not there."""
    if not path.parent.is_dir():
        return f"there is no folder {path.parent} either"
    near = sorted(path.parent.glob("*"))
    for entry in near:
        if entry.name != path.name and unicodedata.normalize("NFC", entry.name) == unicodedata.normalize("NFC", path.name):
            return f"{entry.name!a} has the same letters, encoded otherwise (Unicode NFC and NFD): name it by a glob, with * for them"
    names = [entry.name for entry in near if extension_of(entry) in EXTENSIONS]
    return f"{path.parent} holds {name_list(names)}" if names else f"{path.parent.absolute()} holds no products"


def _in_bucket(pattern: str, input_format: str | None) -> list[InputFile]:
    """The objects of this name, of this pattern, or below this prefix."""
    entry = None if pattern.endswith("/") else find_object(pattern)
    if entry is not None:
        return [InputFile(entry, Path(entry.name))]
    root, objects = match_objects(pattern) if GLOB_CHARACTERS.search(pattern) else (pattern.rstrip("/"), list_objects(pattern))
    placed = ((entry, Path(entry.url.removeprefix(root).lstrip("/"))) for entry in objects)
    files = [
        InputFile(entry, relative, _hive_columns(relative))
        for entry, relative in placed
        if GLOB_CHARACTERS.search(pattern) or (_is_visible(relative) and (input_format is not None or extension_of(entry) in EXTENSIONS))
    ]
    if not files:
        raise ProductsError(f"there is no object {pattern} that holds products; {describe_neighbors(pattern.rstrip('/'))}.")
    return files


def _is_visible(relative: Path) -> bool:
    """Whether no part of a path begins with a dot or an underscore: those are other programs' notes."""
    return not any(part.startswith((".", "_")) for part in relative.parts)


def _fixed_parts(parts: Sequence[str]) -> Iterator[str]:
    """The parts of a pattern before the first that stands for several names."""
    for part in parts[:-1]:
        if glob.has_magic(part):
            return
        yield part


def _in_folder(folder: Path, input_format: str | None) -> list[InputFile]:
    """The files of a folder and of those below it; a link that leads out of it is not followed.

    Raises:
        ProductsError: it holds none, or such a link.
    """
    files, root = [], folder.resolve()
    for path in sorted(folder.rglob("*")):
        relative = path.relative_to(folder)
        if path.is_symlink() and _is_visible(relative) and not path.resolve().is_relative_to(root):
            raise ProductsError(
                f"the folder {folder} holds the link {relative}, which leads out of it to {path.readlink()}; name that file itself, or "
                "remove the link."
            )
        if path.is_file() and _is_visible(relative) and (input_format is not None or extension_of(path) in EXTENSIONS):
            files.append(InputFile(path, relative, _hive_columns(relative)))
    if not files:
        raise ProductsError(f"the folder {folder} holds no products: no file in it ends in {', '.join(EXTENSIONS)}.")
    return files


def _hive_columns(relative: Path) -> tuple[tuple[str, str | None], ...]:
    """The columns that a path spells as Hive writes them: ``country=de/year=2026/part.parquet``."""
    pairs = (part.partition("=") for part in relative.parts[:-1])
    return tuple((unquote(name), None if value == HIVE_NULL else unquote(value)) for name, equals, value in pairs if equals and name)


def _standard_input(input_format: str | None) -> InputFile:
    if sys.stdin is None:
        raise ProductsError("standard input (-) is closed; pipe rows into it or name a file.")
    if input_format in (None, "csv", "tsv"):
        return InputFile(STANDARD_INPUT, Path("standard-input.csv"))
    return _spool_to_file(sys.stdin.buffer)


def _spool_to_file(stream: IO[bytes]) -> InputFile:
    """What comes through a pipe as a file that is gone when the process is: most readers want to go back to its beginning."""
    with tempfile.NamedTemporaryFile(prefix=SPOOL_PREFIX, delete=False) as file:
        atexit.register(Path(file.name).unlink, missing_ok=True)
        shutil.copyfileobj(stream, file, 1 << 20)
    return InputFile(Path(file.name), Path("standard-input"))


def format_of(path: Location) -> Format:
    """The format of a file by its extension; CSV on standard input.

    Raises:
        ProductsError: the extension names none.
    """
    if path == STANDARD_INPUT or path.name.startswith(SPOOL_PREFIX):
        return "csv"
    extension = EXTENSIONS.get(extension_of(path))
    if extension is None:
        raise ProductsError(
            f"{path}: the ending {path.suffix or '(none)'!r} names no format that catcli reads ({', '.join(EXTENSIONS)}, the first five "
            "also with .gz or .zst behind them); rename it or pass --input-format."
        )
    if path.suffix.lower() in COMPRESSIONS and extension not in ("csv", "tsv", "jsonl"):
        raise ProductsError(f"{path}: {extension} files are compressed inside; unpack it first.")
    return extension
