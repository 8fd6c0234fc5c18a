"""The options of ``catcli diff``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from catcli.config import COLUMN, Flag
from catcli.errors import UsageError
from catcli.inference.compute_options import ComputeOptions
from catcli.paths import is_folder, is_pipe


@dataclass(frozen=True)
class DiffOptions(ComputeOptions):
    """What rows count by, how many may change, and where the changed rows go."""

    output: Annotated[str | None, Flag(metavar="FILE", names=("-o", "--output"))] = None
    """A file for the rows that change, with both categories and confidences."""
    weight: Annotated[str | None, COLUMN] = None
    """A column of numbers, such as revenue, that rows count by."""
    max_churn: Annotated[float | None, Flag(metavar="SHARE")] = None
    """Exit code 3 where more than this share changes."""
    text: Annotated[Sequence[str], Flag(metavar="TRAINED=COLUMN")] = ()
    """Read the adapters' TRAINED column from COLUMN."""
    allow_missing: bool = False
    """Go on where a text column of an adapter is not in the file."""

    def check(self) -> None:
        """Raise `UsageError` for options that are wrong."""
        self.check_compute()
        if self.max_churn is not None and not 0 <= self.max_churn <= 1:
            raise UsageError(f"--max-churn {self.max_churn:g}: a share from 0 to 1, such as 0.02.")
        if self.output is not None and (is_pipe(self.output) or is_folder(self.output)):
            raise UsageError(f"-o {self.output}: name a file; it gets the rows that change.")
