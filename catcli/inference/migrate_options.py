"""The options of ``catcli migrate``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from catcli.config import COLUMN, Flag
from catcli.data.io.input_options import InputOptions
from catcli.errors import UsageError
from catcli.paths import is_folder, is_pipe


@dataclass(frozen=True, kw_only=True)
class MigrateOptions(InputOptions):
    """The new taxonomy, where the mapping or the rows go, and the mapping that is applied."""

    taxonomy: Annotated[str, Flag(metavar="FILE")] = ""
    """The new categories, one path a line, or as Shopify, Google and GS1 publish theirs."""
    output: Annotated[str | None, Flag(metavar="FILE", names=("-o", "--output"))] = None
    """A file for the mapping; with --apply one for the rows with their new categories."""
    apply: Annotated[str | None, Flag(metavar="MAPPING")] = None
    """Write the rows with the new categories of this mapping; an old category with several lines is split, row by row."""
    label: Annotated[str | None, COLUMN] = None
    """The column with the old category; found by name and content by default."""
    text: Annotated[Sequence[str], COLUMN] = ()
    """A column that tells what a row is; repeat for several."""

    def check(self) -> None:
        """Raise `UsageError` for options that are wrong."""
        if not self.taxonomy:
            raise UsageError("--taxonomy is missing; name the file with the new categories.")
        if self.apply and not self.output:
            raise UsageError("--apply: say with -o where the rows with their new categories go.")
        if self.output is not None and (is_pipe(self.output) or is_folder(self.output)):
            raise UsageError(f"-o {self.output}: name a file.")
