"""Parquet files → one, without decoding a row: row groups are copied as they are, and the footers become one footer.

A footer is a struct of Thrift's compact protocol (https://github.com/apache/thrift/blob/master/doc/specs/thrift-compact-protocol.md), whose
fields `parquet.thrift` of apache/parquet-format names. It is read and written again field by field, so that nothing in it is lost; only
offsets change. No library of catcli's does this: pyarrow lays footers together, but leaves their offsets as they are.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

MAGIC = b"PAR1"

COPY_BYTES = 8 * 2**20

Struct = dict[int, tuple[int, Any]]
"""A Thrift struct: type and value of each field, by its number, in the order of the file."""

_TRUE, _FALSE, _BYTE, _I16, _I32, _I64, _DOUBLE, _BINARY, _LIST, _SET, _MAP, _STRUCT = range(1, 13)

_SCHEMA, _NUM_ROWS, _ROW_GROUPS, _KEY_VALUES = 2, 3, 4, 5
"""Fields of FileMetaData."""

_COLUMNS, _GROUP_OFFSET, _ORDINAL = 1, 5, 7
"""Fields of RowGroup."""

_CHUNK_OFFSET, _CHUNK_METADATA = 2, 3
_CHUNK_INDEXES = (4, 5, 6, 7)
"""Fields of ColumnChunk. Its page indexes hold offsets of their own, so they are left out; readers do without."""

_PAGE_OFFSETS = (9, 10, 11, 14)
"""Fields of ColumnMetaData that say where in the file something is."""


class OtherSchemaError(Exception):
    """Files have other columns or types than the first, or other metadata."""


MIN_ROWS, MIN_BYTES = 16_384, 2**20
"""Rows or bytes of a file, from which on its row groups are copied as they are."""


def concatenate_parquet(parts: Sequence[Path], file: BinaryIO, max_rows: int, max_bytes: int) -> None:
    """Lay Parquet files end to end in ``file``; consecutive small ones become row groups of about ``max_rows`` or ``max_bytes``.

    Raises:
        OtherSchemaError: they cannot be one file.
    """
    file.write(MAGIC)
    position = len(MAGIC)
    with parts[0].open("rb") as first:
        merged, _ = _read_footer(first)
    groups: list[Struct] = []
    for data in _in_large_pieces(parts, max_rows, max_bytes):
        with data.open("rb") if isinstance(data, Path) else data as part:
            footer, end = _read_footer(part)
            # What was encoded again notes the numbers of its columns besides.
            if footer[_SCHEMA] != merged[_SCHEMA] or (isinstance(data, Path) and footer.get(_KEY_VALUES) != merged.get(_KEY_VALUES)):
                raise OtherSchemaError
            part.seek(len(MAGIC))
            _copy(part, file, end - len(MAGIC))
        for group in footer[_ROW_GROUPS][1][1]:
            groups.append(_moved(group, position - len(MAGIC), len(groups)))
        position += end - len(MAGIC)
    rows = sum(int(group[3][1]) for group in groups)
    merged[_NUM_ROWS], merged[_ROW_GROUPS] = (_I64, rows), (_LIST, (_STRUCT, groups))
    content = bytearray()
    _write_struct(content, merged)
    file.write(bytes(content) + struct.pack("<I", len(content)) + MAGIC)


def _in_large_pieces(parts: Sequence[Path], max_rows: int, max_bytes: int) -> Iterator[Path | BinaryIO]:
    """The files, with runs of small ones encoded again as one, so that readers do not meet thousands of small row groups."""
    small: list[pa.Table] = []
    rows = size = 0
    for path in parts:
        with pq.ParquetFile(path) as opened:
            large = opened.metadata.num_rows >= MIN_ROWS or path.stat().st_size >= MIN_BYTES
            if not large:
                table = opened.read()
                if small and table.schema != small[0].schema:
                    raise OtherSchemaError
                small.append(table)
                rows, size = rows + len(table), size + table.nbytes
        if small and (large or rows >= max_rows or size >= max_bytes):
            yield _encoded(small)
            small, rows, size = [], 0, 0
        if large:
            yield path
    if small:
        yield _encoded(small)


def _encoded(tables: Sequence[pa.Table]) -> BinaryIO:
    packed = io.BytesIO()
    table = pa.concat_tables(tables)
    with pq.ParquetWriter(packed, table.schema, compression="zstd") as writer:
        writer.write_table(table, row_group_size=max(len(table), 1))
    return packed


def _copy(source: BinaryIO, target: BinaryIO, count: int) -> None:
    """Copy ``count`` bytes."""
    while count:
        block = source.read(min(count, COPY_BYTES))
        if not block:
            raise OSError("a part of the output is shorter than it was")
        target.write(block)
        count -= len(block)


def _read_footer(file: BinaryIO) -> tuple[Struct, int]:
    """The footer of a Parquet file, and where it begins."""
    end = file.seek(0, io.SEEK_END)
    file.seek(end - 8)
    (length,) = struct.unpack("<I", file.read(4))
    file.seek(end - 8 - length)
    return _Reader(file.read(length)).struct(), end - 8 - length


def _moved(group: Struct, by: int, ordinal: int) -> Struct:
    """A row group that lies so many bytes further back."""
    columns = []
    for chunk in group[_COLUMNS][1][1]:
        chunk = {field: value for field, value in chunk.items() if field not in _CHUNK_INDEXES}  # noqa: PLW2901  (the same chunk)
        metadata = {
            field: (kind, value + by if field in _PAGE_OFFSETS else value) for field, (kind, value) in chunk[_CHUNK_METADATA][1].items()
        }
        kind, offset = chunk[_CHUNK_OFFSET]
        # A deprecated field, 0 in files of today.
        columns.append({**chunk, _CHUNK_OFFSET: (kind, offset + by if offset else 0), _CHUNK_METADATA: (_STRUCT, metadata)})
    moved = {**group, _COLUMNS: (_LIST, (_STRUCT, columns))}
    if _GROUP_OFFSET in moved:
        moved[_GROUP_OFFSET] = (_I64, moved[_GROUP_OFFSET][1] + by)
    if _ORDINAL in moved:  # 16 bits, and optional
        moved[_ORDINAL] = (_I16, ordinal)
        if ordinal >= 2**15:
            del moved[_ORDINAL]
    return moved


class _Reader:
    """Reads the compact protocol."""

    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0

    def _byte(self) -> int:
        self._at += 1
        return self._data[self._at - 1]

    def _bytes(self, count: int) -> bytes:
        self._at += count
        return self._data[self._at - count : self._at]

    def _varint(self) -> int:
        result = shift = 0
        while True:
            byte = self._byte()
            result |= (byte & 0x7F) << shift
            if byte < 0x80:
                return result
            shift += 7

    def _zigzag(self) -> int:
        number = self._varint()
        return (number >> 1) ^ -(number & 1)

    def struct(self) -> Struct:
        fields: Struct = {}
        number = 0
        while header := self._byte():
            kind = header & 0x0F
            number = number + (header >> 4) if header >> 4 else self._zigzag()
            fields[number] = (kind, None if kind in (_TRUE, _FALSE) else self._value(kind))
        return fields

    def _value(self, kind: int) -> Any:  # noqa: ANN401  # whatever the type says
        if kind in (_TRUE, _FALSE, _BYTE):  # booleans of a list
            return self._byte()
        if kind in (_I16, _I32, _I64):
            return self._zigzag()
        if kind == _DOUBLE:
            return self._bytes(8)
        if kind == _BINARY:
            return self._bytes(self._varint())
        if kind in (_LIST, _SET):
            header = self._byte()
            count = self._varint() if header >> 4 == 15 else header >> 4
            return header & 0x0F, [self._value(header & 0x0F) for _ in range(count)]
        if kind == _STRUCT:
            return self.struct()
        raise ValueError(f"a footer holds the Thrift type {kind}")  # maps: parquet.thrift has none


def _write_varint(out: bytearray, number: int) -> None:
    while number >= 0x80:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)


def _write_struct(out: bytearray, fields: Struct) -> None:
    last = 0
    for number, (kind, value) in sorted(fields.items()):
        if 0 < number - last < 16:
            out.append((number - last) << 4 | kind)
        else:
            out.append(kind)
            _write_varint(out, number << 1)
        last = number
        if kind not in (_TRUE, _FALSE):
            _write_value(out, kind, value)
    out.append(0)


def _write_value(out: bytearray, kind: int, value: Any) -> None:  # noqa: ANN401  # whatever the type says
    if kind in (_TRUE, _FALSE, _BYTE):
        out.append(value)
    elif kind in (_I16, _I32, _I64):
        _write_varint(out, value << 1 if value >= 0 else (-value << 1) - 1)
    elif kind == _DOUBLE:
        out += value
    elif kind == _BINARY:
        _write_varint(out, len(value))
        out += value
    elif kind == _STRUCT:
        _write_struct(out, value)
    else:
        element, values = value
        out.append(min(len(values), 15) << 4 | element)
        if len(values) >= 15:
            _write_varint(out, len(values))
        for entry in values:
            _write_value(out, element, entry)
