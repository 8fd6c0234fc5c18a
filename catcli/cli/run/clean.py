"""``catcli clean``: kept parts and checkpoints of stopped runs."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.text import Text

from catcli.atomic import is_leftover
from catcli.cli.console import Console
from catcli.errors import OutputError, UsageError
from catcli.file_lock import file_lock
from catcli.logs import LOGGER
from catcli.paths import display_path, store_folder
from catcli.private_folder import claim, delete_private_folder
from catcli.reporting import tables

KINDS = {"catcli-parts": "labeled rows of a predict", "catcli-resume": "the training of a fit or tune"}
"""What hidden folders hold, by the ending of their names."""

_LEFT = re.compile(r"\..+\.(catcli-parts|catcli-resume)")


@dataclass(frozen=True)
class Leftover:
    """What a run left: where, what it holds, its bytes, when it was written to last, whether a run is at work there, and if it is gone."""

    path: str
    holds: str
    bytes: int
    hours_ago: float
    in_use: bool
    removed: bool


def clean(folder: Path | None = None, *, yes: bool = False, as_json: bool = False, console: Console) -> list[Leftover]:
    """List what stopped runs left in ``folder``, or in the working folder and the store; with ``yes``, remove it.

    What a run is at work on stays, and so does what catcli did not make.

    Raises:
        UsageError: there is no such folder.
    """
    if folder is not None and not folder.is_dir():
        raise UsageError(f"{folder} is not a folder; name one in which runs were stopped.")
    if yes and os.name != "posix":
        raise UsageError("--yes: this system does not say whether a run is at work on what is listed; remove it by hand.")
    folders = [folder] if folder is not None else [Path(), *(store for store in [store_folder()] if store.is_dir())]
    leftovers = [leftover for searched in folders for path in sorted(searched.iterdir()) for leftover in _looked_at(path, yes)]
    _show(leftovers, as_json, console)
    return leftovers


def _looked_at(path: Path, yes: bool) -> Iterator[Leftover]:
    """What a stopped run left at a path, if anything; removed where ``yes`` is set and no run uses it."""
    kind = _LEFT.fullmatch(path.name)
    if kind is None and not is_leftover(path):
        return
    try:
        if path.is_symlink() or not path.is_file():
            claim(path)
        if (path / "old").exists():
            LOGGER.warning(f"{path} holds what a run was replacing as it was stopped; run its line once more, which puts that back.")
            return
        with _free(path, kind) as free:
            size, last = _measured(path)
            if yes and free:
                _remove(path)
    except (OutputError, OSError) as error:
        LOGGER.warning(f"{path} is left alone: {error}")
        return
    holds = KINDS[kind[1]] if kind else "a file that was not finished"
    hours = max(0.0, (time.time() - last) / 3600)
    yield Leftover(display_path(path), holds, size, hours, not free, removed=not os.path.lexists(path))


@contextmanager
def _free(path: Path, kind: re.Match[str] | None) -> Iterator[bool]:
    """Whether no run is at work there, and none begins to be while the block runs."""
    if kind is None:
        yield True
        return
    parts = kind[1] == "catcli-parts"
    lock = path / "lock" if parts else path.with_name(path.name.removesuffix("catcli-resume") + "lock")
    with file_lock(lock) as alone:
        yield alone


def _measured(path: Path) -> tuple[int, float]:
    """Bytes of what is at a path, and when it was written to last."""
    size, last = 0, 0.0
    for file in (path, *path.rglob("*")):
        with suppress(OSError):
            status = file.lstat()
            size, last = size + status.st_size, max(last, status.st_mtime)
    return size, last


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        delete_private_folder(path)
    else:
        path.unlink(missing_ok=True)


def _show(leftovers: list[Leftover], as_json: bool, console: Console) -> None:
    if as_json:
        console.print_json(json.dumps([asdict(leftover) for leftover in leftovers]))
        return
    if not leftovers:
        console.info("there is nothing to clean.")
        return
    listing = tables.table("Left by stopped runs", "path", "what", "MiB", "hours ago", "")
    for leftover in leftovers:
        state = "in use" if leftover.in_use else "removed" if leftover.removed else ""
        listing.add_row(Text(leftover.path), leftover.holds, f"{leftover.bytes / 2**20:,.1f}", f"{leftover.hours_ago:,.1f}", state)
    console.print(listing)
    if not any(leftover.in_use or leftover.removed for leftover in leftovers):
        console.info("--yes removes what is not in use; until then the lines that left it go on from it.")
