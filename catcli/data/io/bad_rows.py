"""The list of rows that could not be read, beside an output."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import IO

from catcli.atomic import atomic_write
from catcli.data.io.batch import BadRow
from catcli.data.io.buckets import upload
from catcli.data.io.output import write_errors
from catcli.paths import is_bucket


def bad_rows_path(out: str) -> str:
    """Where the list for an output is."""
    return f"{out.rstrip('/')}.bad.jsonl"


class BadRowsFile:
    """The list of a run's bad rows beside its output, as JSON Lines; it appears at the end, where there are any."""

    def __init__(self, out: str, spills: Path, done: int = 0) -> None:
        """``spills`` is the folder for what waits, ``done`` the parts that an earlier run has finished there; those after them go."""
        self.file = bad_rows_path(out)
        self._spills, self._parts = spills, done
        self._open: IO[str] | None = None
        for path in self._found():
            if int(path.name.removeprefix("bad-")) >= done:
                path.unlink()

    def _found(self) -> list[Path]:
        return sorted(self._spills.glob("bad-??????"))

    def write(self, rows: Sequence[BadRow]) -> None:
        """Collect rows."""
        if not rows:
            return
        with write_errors(self.file, "--on-bad-row"):
            if self._open is None:
                self._open = (self._spills / f"bad-{self._parts:06}").open("w", encoding="utf-8", newline="\n")
            self._open.writelines(json.dumps(asdict(row), ensure_ascii=False) + "\n" for row in rows)

    def finish_part(self) -> None:
        """Make the rows since the last call survive a kill."""
        with write_errors(self.file, "--on-bad-row"):
            if self._open is not None:
                self._open.flush()
                os.fsync(self._open.fileno())
                self.close()
            self._parts += 1

    def finish(self) -> None:
        """Write the list where there are rows to list, or an empty one in the place of an earlier run's."""
        spills, in_bucket = self._found(), is_bucket(self.file)
        if not spills and (in_bucket or not Path(self.file).exists()):
            return
        target = self._spills / "whole-bad" if in_bucket else Path(self.file)
        with write_errors(self.file, "--on-bad-row"), atomic_write(target) as path, path.open("wb") as output:
            for spill in spills:
                with spill.open("rb") as part:
                    shutil.copyfileobj(part, output)
        if in_bucket:
            upload(target, self.file, "--on-bad-row")

    def close(self) -> None:
        """Close the open file, if any."""
        if self._open is not None:
            self._open.close()
            self._open = None
