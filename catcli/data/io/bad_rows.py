"""The list of rows that could not be read, beside an output."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from catcli.atomic import atomic_write
from catcli.data.io.buckets import upload
from catcli.data.io.output import write_errors
from catcli.paths import is_bucket


def bad_rows_path(out: str) -> str:
    """Where the list for an output is."""
    return f"{out.rstrip('/')}.bad.jsonl"


def write_bad_rows(out: str, lists: Sequence[Path], folder: Path) -> None:
    """Lay the ``lists`` of parts end to end beside the output ``out``; an empty one takes the place of an earlier run's.

    Each is JSON Lines of `catcli.data.io.batch.BadRow`; ``folder`` is a private one, for what goes to a bucket.
    """
    file = bad_rows_path(out)
    in_bucket = is_bucket(file)
    if not lists and (in_bucket or not Path(file).exists()):
        return
    target = folder / "whole-bad" if in_bucket else Path(file)
    with write_errors(file, "--on-bad-row"), atomic_write(target) as path, path.open("wb") as output:
        for part in lists:
            with part.open("rb") as rows:
                shutil.copyfileobj(rows, output)
    if in_bucket:
        upload({file: target}, "--on-bad-row")
