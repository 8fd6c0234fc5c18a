"""The files of a part of an output: the rows of a shard in the output's format, and beside it what else is kept of them.

0123456789ab-000000-000002           the rows; CSV without its header
0123456789ab-000000-000002.review    those that are not accepted, as an Arrow file, where there is a review
0123456789ab-000000-000002.bad       rows that could not be read, as JSON Lines, where these are listed
0123456789ab-000000-000000.known     the labels of its texts, which the later parts of its span take over
"""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO, Self

import polars as pl

from catcli.data.io.batch import BadRow, Batch
from catcli.data.io.formats import EXTENSIONS, without_compression
from catcli.data.io.output import FileFormat
from catcli.data.io.review import ReviewSpill
from catcli.data.io.writers import open_writer

REVIEW, BAD, KNOWN = SIDE_FILES = (".review", ".bad", ".known")
"""The endings of the files beside a part."""


@dataclass(frozen=True)
class PartOptions:
    """How parts are written: of what output, into which folder, in what format, and in that of the review, None where there is none.

    ``identities`` are those of the inputs, by number, and ``uploads`` is the prefix in a bucket below which a worker that does not see
    ``folder`` puts the rows; see `catcli.data.io.parts.Parts`.
    """

    out: str
    folder: Path
    format: FileFormat
    identities: Sequence[str]
    review: FileFormat | None = None
    uploads: str = ""

    def path(self, file: int, span: int, index: int = 0) -> Path:
        """Where the part of a shard is: by the number of its file, of the span in it, and of the shard in that."""
        return self.folder / f"{self.identities[file]}-{span:06}-{index:06}"


class PartFile:
    """A part that is being written: complete under its name, on the disk itself, where the block ends well, and not there otherwise.

    It is written under a name of its own: a worker whose run was killed may still be at work on the same part.
    """

    def __init__(self, path: Path, options: PartOptions) -> None:
        self._path, self._options, self._suffix = path, options, new_suffix()
        self._stack = ExitStack()
        self._bad: list[BadRow] = []
        self._review: ReviewSpill | None = None

    def __enter__(self) -> Self:
        """Begin it."""
        file = self._stack.enter_context(self._new("").open("wb"))
        self._rows = self._stack.enter_context(open_writer(file, self._options.format, header=False))
        return self

    def write(self, rows: Batch, keep: Sequence[str], added: pl.DataFrame) -> None:
        """Add rows: the columns ``keep`` as they came in, and ``added`` after them."""
        self._rows.write(rows, keep, added)
        self._bad += rows.bad

    def review(self, rows: Batch, keep: Sequence[str], added: pl.DataFrame) -> None:
        """Add rows that are to be reviewed."""
        if len(rows) and self._options.review is not None:
            if self._review is None:
                self._review = self._stack.enter_context(ReviewSpill(self._new(REVIEW), self._options.review))
            self._review.write(rows, keep, added)

    def _new(self, ending: str) -> Path:
        return self._path.with_name(self._path.name + ending + self._suffix)

    def __exit__(self, *error: Any) -> None:  # noqa: ANN401  # the type, the value and the traceback
        """Complete it, or take it away."""
        try:
            self._stack.__exit__(*error)
            if error[0] is None:
                self._list_bad_rows()
                for ending in (REVIEW, BAD, ""):  # the rows last: where they are, all is
                    with suppress(FileNotFoundError):
                        self._new(ending).replace(self._path.with_name(self._path.name + ending))
        finally:
            for ending in (REVIEW, BAD, ""):
                with suppress(OSError):
                    self._new(ending).unlink(missing_ok=True)

    def _list_bad_rows(self) -> None:
        if self._bad:
            with self._new(BAD).open("w", encoding="utf-8", newline="\n") as listed:
                listed.writelines(json.dumps(asdict(row), ensure_ascii=False) + "\n" for row in self._bad)
                listed.flush()
                os.fsync(listed.fileno())


@contextmanager
def new_file(path: Path) -> Iterator[BinaryIO]:
    """A file of the folder of the parts, open under a name of its own: complete under its name where the block ends well."""
    new = path.with_name(path.name + new_suffix())
    with new.open("wb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())
    new.replace(path)


def new_suffix() -> str:
    """The ending of a name that no other worker gives to what it is writing."""
    return f".{secrets.token_hex(4)}.new"


def write_part(path: Path, files: Mapping[str, bytes]) -> None:
    """Write a part that was made elsewhere, by the endings of its files' names: the rows last, each complete and on the disk itself."""
    for ending in (*SIDE_FILES, ""):
        if ending in files:
            with new_file(path.with_name(path.name + ending)) as file:
                file.write(files[ending])


def with_extension(path: Path, form: FileFormat) -> Path:
    """A file's name with the ending of ``form``."""
    stem = without_compression(path)
    stem = stem.with_suffix("") if stem.suffix.lower() in EXTENSIONS else stem
    ending = next(ending for ending, kind in EXTENSIONS.items() if kind == form.format)
    return stem.with_name(stem.name + ending + form.packing)
