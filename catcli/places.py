"""Temporary places beside a target: written there, then renamed, so that the target is whole or not there at all."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

if sys.platform != "win32":
    import fcntl


def beside(target: Path) -> Path:
    """A hidden path in the target's folder that no other running process uses.

    What killed runs of this machine left behind there for the same target is removed; the machine's name is in the path, since a shared
    disk shows the places of others, whose processes cannot be looked up here.
    """
    prefix = f".{target.name}.catcli-{platform.node()}-"
    for left in target.parent.iterdir():
        owner = left.name.removeprefix(prefix).removesuffix(".part")
        if left.name == f"{prefix}{owner}.part" and owner.isdigit() and not _runs(int(owner)):
            remove(left)
    place = target.with_name(f"{prefix}{os.getpid()}.part")
    remove(place)
    return place


def resumable(target: Path) -> Path:
    """Where what a killed run had done for ``target`` is kept, for ``--resume``."""
    return target.with_name(f".{target.name}.catcli-resume")


@contextmanager
def whole(target: Path) -> Iterator[Path]:
    """A file to write that takes ``target``'s name when the block ends well, and is gone when it does not."""
    place = beside(target)
    try:
        yield place
        place.replace(target)
    finally:
        remove(place)


@contextmanager
def held(lock: Path) -> Iterator[bool]:
    """Whether this process alone holds ``lock``, a file that is made and left; it lets go when the block or the process ends.

    Windows has no flock: two runs are not told apart there.
    """
    with lock.open("w") as file:
        if sys.platform == "win32":
            yield True
            return
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True


def remove(place: Path) -> None:
    """Delete a file or a folder, if it is there."""
    if place.is_dir() and not place.is_symlink():
        shutil.rmtree(place, ignore_errors=True)
    else:
        place.unlink(missing_ok=True)


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True
