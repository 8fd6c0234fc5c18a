"""The options of ``catcli audit``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from catcli.config import COLUMN, Flag
from catcli.data.io.input_options import InputOptions
from catcli.errors import UsageError
from catcli.paths import is_folder, is_pipe


@dataclass(frozen=True, kw_only=True)
class AuditOptions(InputOptions):
    """Which labels are looked at, by what, and where the file to fill in goes."""

    adapter: Annotated[str | None, Flag(metavar="FOLDER")] = None
    """Ask what the models of this adapter's fit said of the rows that they had not seen; by default a linear model is trained for it."""
    output: Annotated[str | None, Flag(metavar="FILE", names=("-o", "--output"))] = None
    """A file of the rows in doubt, with a column category to fill in, for fit --corrections."""
    label: Annotated[str | None, COLUMN] = None
    """The column with the category; found by name and content by default."""
    text: Annotated[Sequence[str], COLUMN] = ()
    """A column that tells what a row is; repeat for several."""
    group: Annotated[str | None, COLUMN] = None
    """The column that is equal for all rows of one product."""
    merge_labels: bool = False
    """Treat categories that differ only by case or blanks as one."""

    def check(self, products: Sequence[str]) -> None:
        """Raise `UsageError` for options that contradict one another."""
        if not products and not self.adapter:
            raise UsageError("audit needs labeled rows, or with --adapter those that it kept; name a file.")
        if not products and (self.label or self.text or self.group):
            raise UsageError("--label, --text and --group are about labeled rows; name their file, or leave them out.")
        if self.output is not None and (is_pipe(self.output) or is_folder(self.output)):
            raise UsageError(f"-o {self.output}: name a file.")
