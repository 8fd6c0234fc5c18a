"""Temporary places beside a target: written there, then renamed, so that the target is whole or not there at all."""

from __future__ import annotations

import os
import shutil
from pathlib import Path


def beside(target: Path) -> Path:
    """A hidden path in the target's folder that no other running process uses.

    What killed runs left behind there for the same target is removed.
    """
    for left in target.parent.glob(f".{_literal(target.name)}.*.part"):
        owner = left.name.removesuffix(".part").rpartition(".")[2]
        if not owner.isdigit() or int(owner) == os.getpid() or not _runs(int(owner)):
            remove(left)
    return target.with_name(f".{target.name}.{os.getpid()}.part")


def remove(place: Path) -> None:
    """Delete a file or a folder, if it is there."""
    if place.is_dir() and not place.is_symlink():
        shutil.rmtree(place, ignore_errors=True)
    else:
        place.unlink(missing_ok=True)


def _literal(name: str) -> str:
    return "".join(f"[{letter}]" if letter in "*?[" else letter for letter in name)


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True
