"""JSON Lines → frames, and the lines themselves, so that JSON Lines come out again as they came in."""

from __future__ import annotations

import io
import json
import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar

import polars as pl

from catcli.data.io.batch import BadRow, BadRowPolicy
from catcli.data.io.buckets import Location
from catcli.data.io.streams import (
    BLOCK_BYTES,
    ByteStream,
    check_signature,
    decode_error,
    detect_encoding,
    display_name,
    open_bytes,
    split_encoding,
)
from catcli.errors import ProductsError, RowError, name_list, reason

BATCH_BYTES = 8 * 2**20
"""Bytes of lines of a batch."""

MAX_LINE = 2**24
"""Bytes of a line, or characters where the encoding is none of UTF-8's."""

MAX_KEYS, SAMPLE_LINES = 100, 200
"""Keys that a mapping may have to be a type of its own, and lines of a block in which they are counted."""

MAX_COLUMNS, MAX_BATCH_CELLS = 20_000, 2**22
"""Columns of a file, and cells of a batch."""

if TYPE_CHECKING:
    from polars.datatypes import DataTypeClass

Schema = dict[str, pl.DataType]
Text = TypeVar("Text", str, bytes)


@dataclass(frozen=True)
class LineBlock:
    """Some lines without their ends, their numbers in the file, and how much of it has been read with them.

    ``bad`` are lines that are no JSON object; of those that stand here as empty objects ``nulls`` are the places.
    """

    lines: list[bytes]
    numbers: list[int]
    share: float
    bad: tuple[BadRow, ...] = ()
    nulls: tuple[int, ...] = ()


def file_encoding(path: Location, encoding: str | None, on_bad_row: BadRowPolicy) -> str:
    """The encoding of a file: the one asked for, or found.

    Raises:
        ProductsError: it is empty, or of another format or encoding.
    """
    with open_bytes(path) as stream:
        if not stream.head:
            raise ProductsError(f"{display_name(path)} is empty: it has no JSON Lines in it.")
        check_signature(path, "JSON Lines", stream.head)
        return encoding or detect_encoding(stream, damaged=on_bad_row != "stop")


def read_blocks(path: Location, encoding: str, count: int, on_bad_row: BadRowPolicy) -> Iterator[LineBlock]:
    """The lines of a file that are not blank, at most ``count`` at a time, without those that are no JSON where these do not stop the run.

    Raises:
        ProductsError: it is of another encoding.
    """
    for block in _all_blocks(path, encoding, count):
        yield block if on_bad_row == "stop" else _separate_bad_lines(path, block, on_bad_row)


def _separate_bad_lines(path: Location, block: LineBlock, on_bad_row: BadRowPolicy) -> LineBlock:
    """A block with its bad lines left out, or empty objects in their place."""
    lines: list[bytes] = []
    numbers: list[int] = []
    bad: list[BadRow] = []
    nulls: list[int] = []
    for number, line in zip(block.numbers, block.lines, strict=True):
        problem = _line_problem(line)
        if problem is not None:
            bad.append(BadRow(display_name(path), number, problem, line.decode("utf-8", "backslashreplace")))
            if on_bad_row == "skip":
                continue
            nulls.append(len(lines))
        lines.append(line if problem is None else b"{}")
        numbers.append(number)
    return LineBlock(lines, numbers, block.share, tuple(bad), tuple(nulls))


def _line_problem(line: bytes) -> str | None:
    """Why a line is not a row; None of one that is."""
    try:
        value = json.loads(line, parse_constant=_no_json, parse_float=_finite)
    except RecursionError:
        return "is nested too deeply; leave that column out when exporting."
    except UnicodeDecodeError as error:
        return f"holds the byte 0x{line[error.start]:02x}, which is not UTF-8; export it again, or say what it is with --encoding."
    except OverflowError as error:
        return f"has the number {error}, beyond all that can be counted with; write that cell as text, in quotes."
    except ValueError as error:
        return f"is not JSON: {error}; is the file complete? Export or copy it again."
    return None if isinstance(value, dict) else f"is not a JSON object but {type(value).__name__}; every line has to be one row, {{...}}."


def _all_blocks(path: Location, encoding: str, count: int) -> Iterator[LineBlock]:
    with open_bytes(path) as stream:
        lines: list[bytes] = []
        numbers: list[int] = []
        size = done = 0
        for chunk in _utf8_lines(stream, encoding):
            stripped = [line.strip(b" \t\r\n") for line in chunk]
            numbers += [done + number for number, line in enumerate(stripped, 1) if line]
            lines += [line for line in stripped if line]
            size += sum(map(len, chunk))
            done += len(chunk)
            while len(lines) >= count or size >= BATCH_BYTES:
                yield LineBlock(lines[:count], numbers[:count], stream.share)
                lines, numbers, size = lines[count:], numbers[count:], 0
        if lines:
            yield LineBlock(lines, numbers, 1.0)


def _utf8_lines(stream: ByteStream, encoding: str) -> Iterator[list[bytes]]:
    """The lines of a file as UTF-8, some at a time."""
    if encoding in ("utf-8", "utf-8-sig"):
        for number, lines in enumerate(_bounded_lines(stream, stream.file.read1, b"\n")):
            if number == 0:
                lines[0] = lines[0].removeprefix(b"\xef\xbb\xbf")
            yield lines
        return
    done = 0
    try:
        with io.TextIOWrapper(stream.file, *split_encoding(encoding), newline="\n") as text:
            for rows in _bounded_lines(stream, text.read, "\n"):
                done += len(rows)
                yield [row.encode("utf-8", "surrogatepass") for row in rows]
    except UnicodeError as error:
        raise decode_error(error, stream.path, encoding, done) from error


def _bounded_lines(stream: ByteStream, read: Callable[[int], Text], end: Text) -> Iterator[list[Text]]:
    """The lines of a file without their ends, some at a time, none longer than `MAX_LINE`."""
    rest, done = end[:0], 0
    while data := read(BLOCK_BYTES):
        lines = (rest + data).split(end)
        if any(len(line) > MAX_LINE for line in lines):
            number = done + 1 + next(place for place, line in enumerate(lines) if len(line) > MAX_LINE)
            raise ProductsError(
                f"{display_name(stream.path)}: line {number} has more than the {MAX_LINE:,} characters that are read; is it JSON Lines, "
                "one object a line?"
            )
        rest = lines.pop()
        done += len(lines)
        if lines:
            yield lines
    if rest:
        yield [rest]


def infer_schema(path: Location, encoding: str, rows: int, on_bad_row: BadRowPolicy) -> Schema:
    """The columns that any line has, in the order in which they first come, with a type that holds them all.

    All lines are looked at: with a sample, a price that turns into "n/a" at row 90,000 would stop the run there. A mapping whose keys are
    other ones in every line (Amazon Reviews 2023: ``details``) is text, its JSON: as a type it would have a field for each of them. So is
    a column whose lists hold what no type holds together.
    """
    schema: Schema = {}
    as_text: set[str] = set()
    for large_block in read_blocks(path, encoding, rows, on_bad_row):
        for block in _split_by_cells(large_block, _count_columns(path, large_block, schema)):
            as_text |= _mapping_columns(path, block)
            try:
                inferred = _parse(_without_columns(path, block, as_text), None).schema
            except POLARS_ERRORS:
                as_text |= _mixed_columns(path, block, as_text)
                inferred = _frame(path, _without_columns(path, block, as_text), None).schema
            for name, dtype in inferred.items():
                settled = pl.String() if name in as_text else dtype
                schema[name] = common_type(schema[name], settled) if name in schema else settled
    return schema


def _mixed_columns(path: Location, block: LineBlock, as_text: set[str]) -> set[str]:
    """The columns of a block whose cells have no type in common."""
    rows = list(_rows(path, block, slice(None)))
    mixed = set()
    for name in {name for row in rows for name in row} - as_text:
        cells = [json.dumps({name: row[name]}).encode() for row in rows if name in row]
        try:
            pl.read_ndjson(io.BytesIO(b"\n".join(cells)), infer_schema_length=None)
        except POLARS_ERRORS:
            mixed.add(name)
    return mixed


def _count_columns(path: Location, block: LineBlock, schema: Schema) -> int:
    """About how many columns the lines of a block have, and all of them if they are many.

    Raises:
        ProductsError: they are more than `MAX_COLUMNS`, as where a key is not a name but a value.
    """
    sampled = {name for row in _rows(path, block, slice(None, None, max(1, len(block.lines) // SAMPLE_LINES))) for name in row}
    if len(sampled) <= MAX_KEYS:
        return MAX_KEYS
    names = {*schema, *(name for row in _rows(path, block, slice(None)) for name in row)}
    if len(names) > MAX_COLUMNS:
        raise ProductsError(
            f"{display_name(path)} has more than {MAX_COLUMNS:,} different keys, {name_list(sorted(names), 3)} among them; write what "
            "differs from row to row as values, not as keys."
        )
    return len(names)


def _split_by_cells(block: LineBlock, columns: int) -> Iterator[LineBlock]:
    """A block in pieces of at most `MAX_BATCH_CELLS` cells, or of one line."""
    step = max(1, MAX_BATCH_CELLS // columns)
    for start in range(0, max(1, len(block.lines)), step):
        nulls = tuple(null - start for null in block.nulls if start <= null < start + step)
        part = slice(start, start + step)
        yield LineBlock(block.lines[part], block.numbers[part], block.share, () if start else block.bad, nulls)


def _mapping_columns(path: Location, block: LineBlock) -> set[str]:
    """The columns whose mappings have more than `MAX_KEYS` keys in some lines of a block."""
    keys: defaultdict[str, set[str]] = defaultdict(set)
    stride = max(1, len(block.lines) // SAMPLE_LINES)
    for row in _rows(path, block, slice(None, None, stride)):
        for name, cell in row.items():
            if isinstance(cell, dict):
                keys[name].update(cell)
    return {name for name, keys_of_column in keys.items() if len(keys_of_column) > MAX_KEYS}


def _without_columns(path: Location, block: LineBlock, columns: set[str]) -> LineBlock:
    """The lines with null in some columns."""
    if not columns:
        return block
    rows = _rows(path, block, slice(None))
    return replace(block, lines=[json.dumps({**row, **dict.fromkeys(columns & row.keys())}).encode() for row in rows])


def _rows(path: Location, block: LineBlock, span: slice) -> Iterator[dict[str, Any]]:
    for line in block.lines[span]:
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            row = None
        if not isinstance(row, dict):
            raise RowError(_first_problem(path, block) or f"{display_name(path)} cannot be read as JSON Lines; export it again.")
        yield row


def common_type(first: pl.DataType, second: pl.DataType) -> pl.DataType:
    """A type that holds both: text, where nothing narrower does."""
    if second in (first, pl.Null):
        return first
    if first == pl.Null:
        return second
    if first.is_numeric() and second.is_numeric():
        return pl.Float64()
    if isinstance(first, pl.List) and isinstance(second, pl.List):
        return pl.List(common_type(_type(first.inner), _type(second.inner)))
    if isinstance(first, pl.Struct) and isinstance(second, pl.Struct):
        fields = {field.name: _type(field.dtype) for field in first.fields}
        for field in second.fields:
            fields[field.name] = common_type(fields[field.name], _type(field.dtype)) if field.name in fields else _type(field.dtype)
        return pl.Struct(fields)
    return pl.String()


def _type(dtype: pl.DataType | DataTypeClass) -> pl.DataType:
    """Polars lets a nested type hold the class of another in place of the type itself."""
    return dtype if isinstance(dtype, pl.DataType) else dtype()


def read_frames(
    path: Location, encoding: str, count: int, schema: Mapping[str, pl.DataType], on_bad_row: BadRowPolicy
) -> Iterator[tuple[pl.DataFrame, LineBlock]]:
    """The lines as frames of ``schema``, and as they stand."""
    for large_block in read_blocks(path, encoding, count, on_bad_row):
        for block in _split_by_cells(large_block, max(1, len(schema))):
            frame = _frame_of_unique_keys(block, schema)
            yield (_frame(path, _drop_duplicate_keys(block), schema) if frame is None else frame), block


_ESCAPED_KEY = re.compile(rb'\\[^"\\]*"\s*:')
"""A key with an escape, from its last backslash on: from the first, a run of n backslashes would take n squared steps."""


def _frame_of_unique_keys(block: LineBlock, schema: Mapping[str, pl.DataType]) -> pl.DataFrame | None:
    """The lines as a frame where surely no key comes twice in one of them; None where one may, or they cannot be read.

    Each name stands in the lines as often as the frame has cells that are not null, and once for each null that is written out. Names
    elsewhere, as keys below or as cells, only cost the time of another look. Of a null and a cell under one key polars has the last, too.
    """
    content = b"\n".join(block.lines)
    if _ESCAPED_KEY.search(content):
        return None
    try:
        frame = _parse(block, schema, content)
    except POLARS_ERRORS:
        return None
    if len(frame) != len(block.lines):
        return None
    for name, nulls in zip(frame.columns, frame.null_count().row(0), strict=True):
        key = json.dumps(name, ensure_ascii=False).encode("utf-8", "surrogatepass")
        more = content.count(key) - (len(frame) - nulls)
        if more and more != content.count(key + b":null") + content.count(key + b": null"):
            return None
    return frame


def _drop_duplicate_keys(block: LineBlock) -> LineBlock:
    """The lines with one cell for a key that comes twice, the last, as every reader of JSON but polars has it."""
    twice = False

    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        nonlocal twice
        unique = dict(items)
        twice = twice or len(unique) < len(items)
        return unique

    lines = list(block.lines)
    for index, line in enumerate(lines):
        twice = False
        with suppress(ValueError, RecursionError):  # what is not JSON gets its sentence where it is parsed
            row = json.loads(line, object_pairs_hook=pairs)
            if twice:
                lines[index] = json.dumps(row).encode()
    return replace(block, lines=lines)


POLARS_ERRORS = (pl.exceptions.PolarsError, pl.exceptions.PanicException)


def _parse(block: LineBlock, schema: Mapping[str, pl.DataType] | None, content: bytes | None = None) -> pl.DataFrame:
    """The lines as a frame; ``content`` are the same as one text, where there is one already."""
    if not block.lines:
        return pl.DataFrame(schema=schema)
    return pl.read_ndjson(content or b"\n".join(block.lines), schema=schema, infer_schema_length=None)


def _frame(path: Location, block: LineBlock, schema: Mapping[str, pl.DataType] | None) -> pl.DataFrame:
    try:
        frame = _parse(block, schema)
    except POLARS_ERRORS as error:
        raise RowError(
            _first_problem(path, block) or f"{display_name(path)} cannot be read as JSON Lines: {error}; export it again."
        ) from error
    if len(frame) != len(block.lines):
        raise ProductsError(
            _first_problem(path, block) or f"{display_name(path)}: {len(block.lines)} lines gave {len(frame)} rows; export it again."
        )
    return frame


def _first_problem(path: Location, block: LineBlock) -> str | None:
    """What is wrong with the first line that is; None where none is found."""
    for number, line in zip(block.numbers, block.lines, strict=True):
        line_name = f"{display_name(path)} line {number}"
        problem = _line_problem(line)
        if problem is not None:
            return f"{line_name} {problem}"
        try:
            pl.read_ndjson(io.BytesIO(line))
        except POLARS_ERRORS as error:
            return f"{line_name} cannot be read: {reason(error)}; write that cell as text, in quotes."
    return None


def _finite(word: str) -> float:
    number = float(word)
    if number in (float("inf"), float("-inf")):
        raise OverflowError(word[:40])
    return number


def _no_json(word: str) -> None:
    raise ValueError(f"{word} is not a number of JSON, write null")
