"""How the files of rows are read: options that several commands share."""

from __future__ import annotations

import itertools
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from catcli.config import Flag

if TYPE_CHECKING:
    from catcli.data.io.source import Source


@dataclass(frozen=True, kw_only=True)
class InputOptions:
    """How the files are read, where their names and contents do not say it."""

    input_format: Annotated[str | None, Flag(metavar="FORMAT")] = None
    """csv, tsv, jsonl, parquet, arrow or excel, where the file's extension does not say."""
    delimiter: Annotated[str | None, Flag(metavar="CHARACTER")] = None
    """The character between CSV cells, where it is not found."""
    encoding: Annotated[str | None, Flag(metavar="NAME")] = None
    """The encoding of text, where it is not found: UTF-8, UTF-16 and Latin-1 are. NAME:replace reads undecodable bytes as U+FFFD."""

    def arguments(self, command: str, products: Sequence[str]) -> list[str]:
        """The arguments of a command that reads ``products`` in this way."""
        options = [(f"--{name.replace('_', '-')}", getattr(self, name)) for name in ("input_format", "delimiter", "encoding")]
        return [command, *products, *itertools.chain.from_iterable(pair for pair in options if pair[1] is not None)]

    def line(self, command: str, products: Sequence[str]) -> str:
        """What to type for such a command."""
        return shlex.join(["catcli", *self.arguments(command, products)])

    def open(self, products: Sequence[str], *, on_bad_row: str = "stop") -> Source:
        """The rows of some files.

        Raises:
            ProductsError: a file is not there, or cannot be read.
            UsageError: an option is wrong.
        """
        from catcli.data.io.source import open_source

        return open_source(
            products, input_format=self.input_format, delimiter=self.delimiter, encoding=self.encoding, on_bad_row=on_bad_row
        )
