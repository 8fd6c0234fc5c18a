"""Files and pipes → plain bytes: gzip and zstd are recognized by their first bytes, whatever a file is called."""

from __future__ import annotations

import codecs
import gzip
import io
import itertools
import os
import re
import sys
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

from catcli.data.io.buckets import BucketObject, Location, find_object
from catcli.errors import ProductsError, RowError
from catcli.paths import display_path

STANDARD_INPUT = Path("-")
"""Stands for standard input among paths."""

GZIP, ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"

BZIP2, XZ = b"BZh", b"\xfd7zXZ\x00"

SIGNATURES = {
    b"PAR1": "a Parquet file",
    b"PK\x03\x04": "a zip archive or an Excel workbook",
    b"\xd0\xcf\x11\xe0": "an Office document of the old kind",
    GZIP: "gzip-compressed twice",
    ZSTD: "zstd-compressed twice",
    BZIP2: "bzip2-compressed",
    XZ: "xz-compressed",
    b"7z\xbc\xaf": "a 7z archive",
    b"ARROW1": "an Arrow IPC file",
    b"FEA1": "a Feather file of the first version",
    b"%PDF": "a PDF",
    b"\x89PNG": "a picture",
    b"\xff\xd8\xff": "a picture",
    b"GIF8": "a picture",
    b"SQLite format 3": "a database of SQLite",
}

MARKUP = {b"<!doctype html": "a web page", b"<html": "a web page", b"<?xml": "XML", b"[{": "JSON", b'{"': "JSON"}
"""What text of other kinds begins with, after blanks."""

HEAD_BYTES = 4096
"""Bytes that are looked at before anything is read."""

BLOCK_BYTES = 2**20

MAX_INSPECTED_BYTES = 16 * 2**20
"""Bytes of a compressed file, or of one in a bucket, that are looked at to tell its encoding. Of a plain one on a disk all are: a second a
gigabyte."""

# Bytes that Windows-1252 leaves undefined: where they stand, the text is of neither that encoding nor Latin-1.
_UNDEFINED = (b"\x81", b"\x8d", b"\x8f", b"\x90", b"\x9d")


@dataclass(frozen=True)
class ByteStream:
    """A stream of plain bytes, and how much of the file below it has been read."""

    file: io.BufferedReader
    path: Location
    _below: IO[bytes]
    _size: int

    @property
    def packed(self) -> bool:
        """Whether the file below is compressed."""
        return self.file is not self._below

    @property
    def is_cheap(self) -> bool:
        """Whether it can be read a second time at the cost of a disk."""
        return not self.packed and isinstance(self.path, Path)

    @property
    def head(self) -> bytes:
        """The first bytes, without taking them."""
        return self.file.peek(HEAD_BYTES)[:HEAD_BYTES]

    @property
    def share(self) -> float:
        """How much of the file has been read, 0 to 1; 0 where that is not known."""
        if not self._size:
            return 0.0
        return min(1.0, self._below.tell() / self._size)


def display_name(path: Location) -> str:
    """A path as sentences call it."""
    return "standard input" if path == STANDARD_INPUT else display_path(str(path))


def file_size(path: Location) -> int:
    """Bytes of a file; 0 of standard input, whose size is not known."""
    if isinstance(path, BucketObject):
        return path.size
    return 0 if path == STANDARD_INPUT else path.stat().st_size


def file_state(path: Location) -> tuple[object, ...] | None:
    """What tells a file from what it becomes when somebody writes to it or puts another in its place; None where there is none."""
    if isinstance(path, BucketObject):
        current = find_object(path.url)
        return None if current is None else (current.size, current.etag)
    try:
        status = path.stat()
    except FileNotFoundError:  # standard input, or gone
        return None
    return status.st_size, status.st_mtime_ns, status.st_ino


@contextmanager
def open_bytes(path: Location) -> Iterator[ByteStream]:
    """The bytes of a file, or of standard input, unpacked.

    Raises:
        ProductsError: it cannot be read, or its compression is damaged.
    """
    try:
        with _open_raw(path) as below:
            head = below.peek(4)
            size = file_size(path)
            file = below
            if head.startswith(GZIP):
                file = io.BufferedReader(cast(Any, gzip.GzipFile(fileobj=below)), BLOCK_BYTES)
            elif head.startswith(ZSTD):
                import pyarrow as pa

                file = io.BufferedReader(cast(Any, pa.CompressedInputStream(pa.PythonFile(below, "r"), "zstd")), BLOCK_BYTES)
            yield ByteStream(file, path, below, size)
    except EOFError as error:
        raise ProductsError(f"{display_name(path)} is truncated: the gzip stream ends early; copy it again.") from error
    except (zlib.error, gzip.BadGzipFile) as error:
        raise ProductsError(f"{display_name(path)} is damaged: its gzip stream is not valid ({error}); copy it again.") from error
    except UnicodeError:
        raise
    except OSError as error:
        raise ProductsError(
            f"{display_name(path)} cannot be read: {error.strerror or error}; is it complete, and may you read it?"
        ) from error


@contextmanager
def _open_raw(path: Location) -> Iterator[io.BufferedReader]:
    if path == STANDARD_INPUT:
        if sys.stdin is None:
            raise ProductsError("standard input (-) is closed; pipe rows into it or name a file.")
        stream = sys.stdin.buffer
        try:
            # A reader of its own: a thread that waits in the one of sys.stdin would hold its lock when the process ends.
            duplicate: Any = os.fdopen(os.dup(stream.fileno()), "rb", buffering=BLOCK_BYTES)
        except io.UnsupportedOperation:  # no file of the system's, as where Python calls Python
            yield stream if isinstance(stream, io.BufferedReader) else io.BufferedReader(cast(Any, stream))
        else:
            with duplicate as file:
                yield file
        return
    with path.opened() if isinstance(path, BucketObject) else path.open("rb", buffering=BLOCK_BYTES) as file:
        yield cast(io.BufferedReader, file)


def check_signature(path: Location, wanted: str, head: bytes) -> None:
    """Refuse a file whose first bytes say that it is something else than ``wanted``."""
    begins = head.removeprefix(codecs.BOM_UTF8).lstrip()[:20].lower()
    kinds = [kind for signature, kind in SIGNATURES.items() if head.startswith(signature)]
    kinds += [kind for signature, kind in MARKUP.items() if begins.startswith(signature) and kind not in wanted]
    if kinds:
        advice = "pass --input-format jsonl if every line is one row" if kinds[0] == "JSON" else "unpack, rename or export it first"
        raise ProductsError(f"{display_name(path)} is {kinds[0]}, not {wanted}; {advice}.")


def detect_encoding(stream: ByteStream, *, damaged: bool = False, whole: bool = True) -> str:
    """The encoding of a text: UTF-8, UTF-16, or Windows-1252, of which Latin-1 is a part.

    A plain file is looked at to its end, so that the first letter with an accent in its last row does not stop a run after hours; of what
    is compressed or in a bucket the first `MAX_INSPECTED_BYTES` bytes are, and of standard input what has arrived. UTF-8 with a few bytes
    that are not is UTF-8 where ``damaged`` text can be read. Without ``whole`` the first bytes alone are looked at.

    Raises:
        ProductsError: it is of none of these.
    """
    head, path = stream.head, stream.path
    if head.startswith((codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)):
        return "utf-32"
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    zeros = head[::2].count(0), head[1::2].count(0)
    if max(zeros) > len(head) // 4 > min(zeros):
        return "utf-16-le" if zeros[1] > zeros[0] else "utf-16-be"
    if sum(zeros) > max(64, len(head) // 10):
        raise ProductsError(
            f"{display_name(path)} holds NUL bytes and is no text; is it of another format, or was it cut by a crash? Export it again."
        )
    if path == STANDARD_INPUT or not whole:
        return _detect(path, [head])
    with open_bytes(path) as reopened:
        blocks = iter(lambda: reopened.file.read(BLOCK_BYTES), b"")
        encoding = _detect(path, itertools.islice(blocks, None if reopened.is_cheap else MAX_INSPECTED_BYTES // BLOCK_BYTES))
    damage = _first_damage(path) if encoding == "cp1252" else None
    if damage is None:
        return encoding
    if damaged:
        return "utf-8-sig"
    line, byte = damage
    raise ProductsError(
        f"{display_name(path)} is UTF-8 but for byte 0x{byte:02x} in line {line:,}; export it again, pass --encoding utf-8:replace to read "
        "such bytes as U+FFFD, or --encoding cp1252 if it is Windows-1252 all the same."
    )


def split_encoding(encoding: str) -> tuple[str, str]:
    """The name of an encoding, and what is done with bytes that it cannot read: ``utf-8:replace`` has them replaced by U+FFFD."""
    name, _, errors = encoding.partition(":")
    return name, errors or "strict"


def decode_error(error: UnicodeError, path: Location, encoding: str, after: int) -> ProductsError:
    """What is wrong with a text that cannot be decoded; ``after`` lines could, or more: text is decoded ahead of its lines."""
    name = encoding.removesuffix("-sig")
    position = _first_undecodable(path, encoding) if isinstance(error, UnicodeDecodeError) else None
    if position is not None:
        line, byte = position
        return RowError(
            f"{display_name(path)} is not {name}: byte 0x{byte:02x} in line {line:,}; pass another --encoding, often latin-1 or "
            f"cp1252, or --encoding {name}:replace to read such bytes as U+FFFD."
        )
    if isinstance(error, UnicodeDecodeError) and error.end >= len(error.object) and "truncated" in error.reason:
        return ProductsError(
            f"{display_name(path)} is truncated: it ends within a character of {name} after line {after}; copy the file again."
        )
    at = f" (byte 0x{error.object[error.start]:02x} after line {after})" if isinstance(error, UnicodeDecodeError) else ""
    return ProductsError(f"{display_name(path)} is not {name}{at}; pass another --encoding, often latin-1 or cp1252.")


def _first_undecodable(path: Location, encoding: str) -> tuple[int, int] | None:
    """The first line with a byte that is not of an encoding, and that byte; None where lines cannot be told by their bytes."""
    if path == STANDARD_INPUT or encoding.startswith(("utf-16", "utf-32", "utf-7")):
        return None
    with open_bytes(path) as stream:
        for number, line in enumerate(iter(lambda: stream.file.readline(2**24), b""), 1):
            try:
                line.decode(encoding)
            except UnicodeDecodeError as error:
                if error.start >= len(line) - 4 and not line.endswith(b"\n"):
                    return None  # the file breaks off in mid-character
                return number, line[error.start]
    return None


_WELL_FORMED = re.compile(rb"[\xc2-\xdf][\x80-\xbf]|[\xe0-\xef][\x80-\xbf]{2}|[\xf0-\xf4][\x80-\xbf]{3}")
"""A letter of UTF-8 beyond ASCII."""

_HIGH = re.compile(rb"[\x80-\xff]")

MIN_UTF8_LETTERS, MAX_DAMAGE = 10, 0.1
"""Letters of UTF-8 that a damaged file of it has at least, and bytes beside them, as a share of these letters, that it has at most."""


def _first_damage(path: Location) -> tuple[int, int] | None:
    """The first line and byte of UTF-8 with a few bytes that are not: read as Windows-1252, all of its letters would be two."""
    letters = high = inside = 0
    with open_bytes(path) as stream:
        blocks = iter(lambda: stream.file.read(BLOCK_BYTES), b"")
        for block in itertools.islice(blocks, None if stream.is_cheap else MAX_INSPECTED_BYTES // BLOCK_BYTES):
            well_formed = _WELL_FORMED.findall(block)
            letters, inside, high = letters + len(well_formed), inside + sum(map(len, well_formed)), high + len(_HIGH.findall(block))
    return _first_undecodable(path, "utf-8") if letters >= MIN_UTF8_LETTERS and high - inside <= MAX_DAMAGE * letters else None


def encoding_note(path: Location, encoding: str, given: str | None) -> str:
    """What is to be said where `detect_encoding` can only suppose; nothing where it knows or was told."""
    if given or encoding != "cp1252":
        return ""
    return f"{display_name(path)} is not UTF-8 and is read as Windows-1252 (Latin-1); --encoding says otherwise."


def _detect(path: Location, blocks: Iterable[bytes]) -> str:
    utf8, is_utf8, undefined = codecs.getincrementaldecoder("utf-8")(), True, False
    for block in blocks:
        undefined = undefined or any(byte in block for byte in _UNDEFINED)
        if is_utf8:
            try:
                utf8.decode(block)
            except UnicodeDecodeError:
                is_utf8 = False
        if undefined and not is_utf8:
            raise ProductsError(
                f"{display_name(path)} is neither UTF-8, UTF-16 nor Latin-1; say what it is with --encoding, such as cp1250, "
                f"shift_jis or gb18030."
            )
    return "utf-8-sig" if is_utf8 else "cp1252"
