"""Temporary places beside a target: written there, then renamed, so that the target is whole or not there at all."""

from __future__ import annotations

import ctypes
import errno
import hashlib
import os
import platform
import re
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

if sys.platform != "win32":
    import fcntl


def beside(target: Path) -> Path:
    """A hidden path in the target's folder that no other running process uses.

    What killed runs of this machine left behind there for the same target is removed; the machine's name is in the path, since a shared
    disk shows the places of others, whose processes cannot be looked up here.
    """
    prefix = hidden(target, f"catcli-{platform.node()}-").name
    for left in target.parent.iterdir():
        owner = left.name.removeprefix(prefix).removesuffix(".part")
        if left.name == f"{prefix}{owner}.part" and owner.isdigit() and not _runs(int(owner)):
            remove(left)
    place = target.with_name(f"{prefix}{os.getpid()}.part")
    remove(place)
    return place


BUCKETS = ("s3", "s3a", "gs", "az", "abfs", "abfss")
"""What addresses of object stores begin with."""


def is_bucket(place: str | Path) -> bool:
    """Whether a name is of a bucket; a `Path` of one has lost one of its two slashes."""
    return re.match(rf"({'|'.join(BUCKETS)}):/", str(place)) is not None


def spoken(path: Path | str) -> str:
    """A path as files and pages tell it: names are bytes, and those that are no UTF-8 are shown as what they are."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def resumable(target: Path) -> Path:
    """Where what a killed run had done for ``target`` is kept, for ``--resume``."""
    return hidden(target, "catcli-resume")


LONGEST = 120
"""Bytes of a name that a hidden one beside it begins with; most disks take 255 in all."""


def hidden(target: Path, ending: str) -> Path:
    """A hidden path beside ``target`` that is its own."""
    name = os.fsencode(target.name)
    if len(name) > LONGEST:
        name = name[: LONGEST - 20] + hashlib.sha256(name).hexdigest()[:16].encode()
    return target.with_name(f".{os.fsdecode(name)}.{ending}")


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
    """Whether this process alone holds ``lock``, a file that is there while the block runs; it lets go when the process ends, too.

    Where the system has no such locks (Windows, some shared disks), two runs are not told apart.
    """
    with _locked(lock) as file:
        if file is None:
            yield False
            return
        try:
            yield True
        finally:
            with suppress(OSError):  # Windows keeps what is open
                lock.unlink()  # before it is let go: whoever opens it from now on opens another


@contextmanager
def _locked(lock: Path) -> Iterator[IO[str] | None]:
    """``lock``, open and locked; None where another process has it."""
    while True:
        with lock.open("w") as file:
            try:
                if sys.platform != "win32":
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield None
                return
            except OSError as error:
                if error.errno not in (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS):
                    raise
            if _is(lock, file):
                yield file
                return


def _is(place: Path, file: IO[str]) -> bool:
    """Whether an open file is still the one of that name: who held it before may have removed it in between."""
    try:
        return os.path.samestat(place.stat(), os.fstat(file.fileno()))
    except FileNotFoundError:
        return False


def replace(new: Path, target: Path, aside: Path) -> None:
    """Put the folder ``new`` in the place of ``target``; what was there is deleted.

    On Linux both names are exchanged at once, so ``target`` is never missing. Elsewhere a folder that is not empty cannot be replaced by a
    rename: the old one steps aside first, and `restore` brings it back where a kill came between.
    """
    if not target.exists():
        new.rename(target)
    elif _exchanged(new, target):
        remove(new)
    else:
        target.rename(aside)
        try:
            new.rename(target)
        except OSError:
            aside.rename(target)
            raise
        remove(aside)


def restore(target: Path, aside: Path) -> None:
    """Undo what a kill left half done between the two renames of `replace`."""
    if target.exists():
        remove(aside)
    elif aside.exists():
        aside.rename(target)


def _exchanged(one: Path, other: Path) -> bool:
    """Whether two names were exchanged; False where the system or its disk cannot."""
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None) if sys.platform == "linux" else None
    here, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE of linux/fs.h
    return rename is not None and rename(here, os.fsencode(one), here, os.fsencode(other), exchange) == 0


def delete(folder: Path) -> None:
    """Delete a folder so that a kill midway leaves nothing of it under its name."""
    place = beside(folder)
    folder.rename(place)
    shutil.rmtree(place)


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
