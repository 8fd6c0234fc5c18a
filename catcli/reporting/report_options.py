"""The options of ``catcli report``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from catcli.config import COLUMN, Flag
from catcli.errors import UsageError, name_list
from catcli.inference.compute_options import ComputeOptions

ROW_OPTIONS = ("label", "text", "allow_missing", "merge_labels", "device", "variant", "input_format", "delimiter", "encoding")
"""Options that mean something for the rows of ``--on`` only."""


@dataclass(frozen=True)
class ReportOptions(ComputeOptions):
    """What is scored, and what is written beside the tables."""

    on: Annotated[str | None, Flag(metavar="LABELED")] = None
    """Score new labeled rows in place of those that the fit held out."""
    html: Annotated[Path | None, Flag(metavar="FILE")] = None
    """Write all of it as one page, too."""
    trusted_key: Annotated[Sequence[str], Flag(metavar="KEY")] = ()
    """Use the adapter only if this public key (ed25519) signed it. Repeat for several that may have."""
    require: Annotated[Sequence[str], Flag(metavar="METRIC=VALUE")] = ()
    """A score to reach, such as macro_f1=0.9; exit code 3 where it is not. Repeat for several."""
    label: Annotated[str | None, COLUMN] = None
    """With --on: the column with the true categories, where it has another name."""
    text: Annotated[Sequence[str], Flag(metavar="TRAINED=COLUMN")] = ()
    """Read the adapter's TRAINED column from COLUMN."""
    allow_missing: bool = False
    """Go on where a text column of the adapter is not in the file."""
    merge_labels: bool = False
    """Treat categories that differ only by case or blanks as those of the adapter."""

    def check(self, names: Sequence[str]) -> None:
        """Raise `UsageError` for options that contradict one another or the adapters' ``names``."""
        self.check_compute()
        if len(names) > 1 and (self.on or self.html or self.require):
            option = "--on" if self.on else "--html" if self.html else "--require"
            raise UsageError(f"{option} is of one adapter; name one of {name_list(names)}.")
        defaults = ReportOptions()
        for name in ROW_OPTIONS:
            if getattr(self, name) != getattr(defaults, name) and not self.on:
                raise UsageError(f"--{name.replace('_', '-')} is about the rows that --on gives; add --on LABELED, or leave it out.")
        if self.html:
            from catcli.data.io.output import check_folder

            check_folder(self.html, "--html")  # before the rows are scored
