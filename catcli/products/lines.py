"""JSON Lines → frames, and the lines themselves, so that JSON Lines come out again as they came in."""

from __future__ import annotations

import functools
import io
import json
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar

import polars as pl

from catcli.errors import ProductsError, listed, reason
from catcli.products.buckets import Place
from catcli.products.streams import Bytes, check_signature, codec_of, encoding_of, opened, shown, undecodable

BATCH_BYTES = 8 * 2**20
"""Bytes of lines of a batch."""

MAX_LINE = 2**24
"""Bytes of a line, or characters where the encoding is none of UTF-8's."""

MOST_KEYS, LOOKED_AT = 100, 200
"""Keys that a mapping may have to be a type of its own, and lines of a block in which they are counted."""

MAX_COLUMNS, CELLS = 20_000, 2**22
"""Columns of a file, and cells of a batch."""

if TYPE_CHECKING:
    from polars.datatypes import DataTypeClass

Schema = dict[str, pl.DataType]
Text = TypeVar("Text", str, bytes)


@dataclass(frozen=True)
class Lines:
    """Some lines without their ends, their numbers in the file, and how much of it has been read with them."""

    lines: list[bytes]
    numbers: list[int]
    share: float


def checked(path: Place, encoding: str | None) -> str:
    """The encoding of a file: the one asked for, or found.

    Raises:
        ProductsError: it is empty, or of another format or encoding.
    """
    with opened(path) as stream:
        if not stream.head:
            raise ProductsError(f"{shown(path)} is empty: it has no JSON Lines in it.")
        check_signature(path, "JSON Lines", stream.head)
        return encoding or encoding_of(stream)


def blocks_of(path: Place, encoding: str, count: int) -> Iterator[Lines]:
    """The lines of a file that are not blank, at most ``count`` at a time.

    Raises:
        ProductsError: it is of another encoding.
    """
    with opened(path) as stream:
        held: list[bytes] = []
        numbers: list[int] = []
        size = 0
        for number, line in enumerate(_utf8(stream, encoding), 1):
            kept = line.strip(b" \t\r\n")
            if not kept:
                continue
            held.append(kept)
            numbers.append(number)
            size += len(kept)
            if len(held) >= count or size >= BATCH_BYTES:
                yield Lines(held, numbers, stream.share)
                held, numbers, size = [], [], 0
        if held:
            yield Lines(held, numbers, 1.0)


def _utf8(stream: Bytes, encoding: str) -> Iterator[bytes]:
    if encoding in ("utf-8", "utf-8-sig"):
        for number, line in enumerate(_bounded(stream, stream.file.readline, b"")):
            yield line.removeprefix(b"\xef\xbb\xbf") if number == 0 else line
        return
    done = 0
    try:
        with io.TextIOWrapper(stream.file, *codec_of(encoding), newline="\n") as text:
            for row in _bounded(stream, text.readline, ""):
                done += 1
                yield row.encode("utf-8", "surrogatepass")
    except UnicodeError as error:
        raise undecodable(error, stream.path, encoding, done) from error


def _bounded(stream: Bytes, readline: Callable[[int], Text], end: Text) -> Iterator[Text]:
    """The lines of a file, none longer than `MAX_LINE`."""
    for number, line in enumerate(iter(functools.partial(readline, MAX_LINE + 1), end), 1):
        if len(line) > MAX_LINE:
            raise ProductsError(
                f"{shown(stream.path)}: line {number} has more than the {MAX_LINE:,} characters that are read; is it JSON Lines, one "
                "object a line?"
            )
        yield line


def schema_of(path: Place, encoding: str, rows: int) -> Schema:
    """The columns that any line has, in the order in which they first come, with a type that holds them all.

    All lines are looked at: with a sample, a price that turns into "n/a" at row 90,000 would stop the run there. A mapping whose keys are
    other ones in every line (Amazon Reviews 2023: ``details``) is text, its JSON: as a type it would have a field for each of them.
    """
    schema: Schema = {}
    open_ended: set[str] = set()
    for whole in blocks_of(path, encoding, rows):
        for block in _pieces(whole, _columns(path, whole, schema)):
            open_ended |= _open_ended(path, block)
            for name, dtype in _frame(path, _without(path, block, open_ended), None).schema.items():
                found = pl.String() if name in open_ended else dtype
                schema[name] = wider(schema[name], found) if name in schema else found
    return schema


def _columns(path: Place, block: Lines, schema: Schema) -> int:
    """About how many columns the lines of a block have, and all of them if they are many.

    Raises:
        ProductsError: they are more than `MAX_COLUMNS`, as where a key is not a name but a value.
    """
    sampled = {name for row in _rows(path, block, slice(None, None, max(1, len(block.lines) // LOOKED_AT))) for name in row}
    if len(sampled) <= MOST_KEYS:
        return MOST_KEYS
    names = {*schema, *(name for row in _rows(path, block, slice(None)) for name in row)}
    if len(names) > MAX_COLUMNS:
        raise ProductsError(
            f"{shown(path)} has more than {MAX_COLUMNS:,} different keys, {listed(sorted(names), 3)} among them; write what differs from "
            "row to row as values, not as keys."
        )
    return len(names)


def _pieces(block: Lines, columns: int) -> Iterator[Lines]:
    """A block in pieces of at most `CELLS` cells, or of one line."""
    step = max(1, CELLS // columns)
    for start in range(0, len(block.lines), step):
        yield Lines(block.lines[start : start + step], block.numbers[start : start + step], block.share)


def _open_ended(path: Place, block: Lines) -> set[str]:
    """The columns whose mappings have more than `MOST_KEYS` keys in some lines of a block."""
    keys: defaultdict[str, set[str]] = defaultdict(set)
    stride = max(1, len(block.lines) // LOOKED_AT)
    for row in _rows(path, block, slice(None, None, stride)):
        for name, cell in row.items():
            if isinstance(cell, dict):
                keys[name].update(cell)
    return {name for name, found in keys.items() if len(found) > MOST_KEYS}


def _without(path: Place, block: Lines, columns: set[str]) -> Lines:
    """The lines with null in some columns."""
    if not columns:
        return block
    rows = _rows(path, block, slice(None))
    return replace(block, lines=[json.dumps({**row, **dict.fromkeys(columns & row.keys())}).encode() for row in rows])


def _rows(path: Place, block: Lines, chosen: slice) -> Iterator[dict[str, Any]]:
    for line in block.lines[chosen]:
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            row = None
        if not isinstance(row, dict):
            raise ProductsError(_reason(path, block) or f"{shown(path)} cannot be read as JSON Lines; export it again.")
        yield row


def wider(one: pl.DataType, other: pl.DataType) -> pl.DataType:
    """A type that holds both: text, where nothing narrower does."""
    if other in (one, pl.Null):
        return one
    if one == pl.Null:
        return other
    if one.is_numeric() and other.is_numeric():
        return pl.Float64()
    if isinstance(one, pl.List) and isinstance(other, pl.List):
        return pl.List(wider(_type(one.inner), _type(other.inner)))
    if isinstance(one, pl.Struct) and isinstance(other, pl.Struct):
        fields = {field.name: _type(field.dtype) for field in one.fields}
        for field in other.fields:
            fields[field.name] = wider(fields[field.name], _type(field.dtype)) if field.name in fields else _type(field.dtype)
        return pl.Struct(fields)
    return pl.String()


def _type(dtype: pl.DataType | DataTypeClass) -> pl.DataType:
    """Polars lets a nested type hold the class of another in place of the type itself."""
    return dtype if isinstance(dtype, pl.DataType) else dtype()


def frames_of(path: Place, encoding: str, count: int, schema: Mapping[str, pl.DataType]) -> Iterator[tuple[pl.DataFrame, Lines]]:
    """The lines as frames of ``schema``, and as they stand."""
    for whole in blocks_of(path, encoding, count):
        for block in _pieces(whole, max(1, len(schema))):
            yield _frame(path, block, schema), block


def _frame(path: Place, block: Lines, schema: Mapping[str, pl.DataType] | None) -> pl.DataFrame:
    try:
        frame = pl.read_ndjson(io.BytesIO(b"\n".join(block.lines)), schema=schema, infer_schema_length=None)
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
        raise ProductsError(_reason(path, block) or f"{shown(path)} cannot be read as JSON Lines: {error}; export it again.") from error
    if len(frame) != len(block.lines):
        raise ProductsError(_reason(path, block) or f"{shown(path)}: {len(block.lines)} lines gave {len(frame)} rows; export it again.")
    return frame


def _reason(path: Place, block: Lines) -> str | None:
    """What is wrong with the first line that is; None where none is found."""
    for number, line in zip(block.numbers, block.lines, strict=True):
        where = f"{shown(path)} line {number}"
        try:
            found = json.loads(line, parse_constant=_no_json)
        except RecursionError:
            return f"{where} is nested too deeply; leave that column out when exporting."
        except ValueError as error:
            return f"{where} is no JSON: {error}; is the file whole? Export or copy it again."
        if not isinstance(found, dict):
            return f"{where} is no JSON object but {type(found).__name__}; every line has to be one row, {{...}}."
        try:
            pl.read_ndjson(io.BytesIO(line))
        except (pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
            return f"{where} cannot be read: {reason(error)}; numbers beyond 64 bits have to be text, in quotes."
    return None


def _no_json(word: str) -> None:
    raise ValueError(f"{word} is no number of JSON, write null")
