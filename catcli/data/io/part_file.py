"""One part of an output: a file that is written, kept or abandoned."""

from __future__ import annotations

import os
import shutil
from contextlib import ExitStack, suppress
from pathlib import Path

from catcli.data.io.formats import EXTENSIONS, without_compression
from catcli.data.io.output import FileFormat
from catcli.data.io.writers import RowWriter, open_writer


class PartFile:
    """One file that is being written."""

    def __init__(self, path: Path, form: FileFormat, header: bool) -> None:
        self.path = path
        self._stack = ExitStack()
        file = self._stack.enter_context(path.open("wb"))
        self.sink: RowWriter = self._stack.enter_context(open_writer(file, form, header=header))

    def finish(self) -> None:
        """Write the rest, to the disk itself."""
        self._stack.close()

    def abandon(self) -> None:
        """Delete it."""
        self.sink.abandon()
        with suppress(OSError):
            self._stack.__exit__(_Abandoned, _Abandoned(), None)
        self.path.unlink(missing_ok=True)


class _Abandoned(Exception):  # noqa: N818  (says to what is open that its bytes are of no use)
    pass


def link_or_copy(part: Path, target: Path) -> None:
    """The part under another name too: where a kill comes before the output stands, the next run finds all parts."""
    try:
        os.link(part, target)
    except OSError:  # a disk without such links
        shutil.copyfile(part, target)


def with_extension(path: Path, form: FileFormat) -> Path:
    """A file's name with the ending of ``form``."""
    stem = without_compression(path)
    stem = stem.with_suffix("") if stem.suffix.lower() in EXTENSIONS else stem
    ending = next(ending for ending, kind in EXTENSIONS.items() if kind == form.format)
    return stem.with_name(stem.name + ending + form.packing)
