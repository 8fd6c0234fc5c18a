"""Atomic writes: a target is written under a temporary path beside it and then renamed, so that it is complete or not there at all.

Temporary paths are in private folders: see `catcli.private_folder` for why.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import re
import secrets
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from catcli.errors import OutputError, Terminated
from catcli.paths import hidden_path
from catcli.private_folder import HAS_DESCRIPTORS, NO_FOLLOW, claim, clear, delete_private_folder, file_kind

# --- temporary paths --------------------------------------------------------------------------------------------------------------------


def temporary_path(target: Path) -> Path:
    """A hidden path beside ``target`` that is not in use.

    What killed runs of this machine left there for the same target is removed; the machine's name is in the path, since a shared disk
    shows the files of others, whose processes cannot be looked up here.
    """
    prefix = hidden_path(target, f"catcli-{platform.node()}-").name
    for path in target.parent.iterdir():
        if path.name.startswith(prefix) and is_leftover(path):
            remove_leftover(path, target)
    return target.with_name(f"{prefix}{os.getpid()}-{secrets.token_hex(4)}.part")


def is_leftover(path: Path) -> bool:
    """Whether a path has a name of `temporary_path`, of a process of this machine that runs no more."""
    process = re.fullmatch(rf"\..+\.catcli-{re.escape(platform.node())}-(\d+)-[0-9a-f]+\.part", path.name)
    return process is not None and not is_running(int(process[1]))


def remove_leftover(path: Path, target: Path) -> None:
    """Remove what a killed process left; what it did not make stays."""
    with suppress(OSError, OutputError):
        status = path.lstat()
        if HAS_DESCRIPTORS and status.st_uid != os.geteuid():
            return
        if stat.S_ISREG(status.st_mode):
            path.unlink()
        elif stat.S_ISDIR(status.st_mode):
            clear(path, keep=("old",))
            restore_folder(target, path / "old")
            delete_private_folder(path)


@contextmanager
def temporary_folder(target: Path) -> Iterator[Path]:
    """A private folder beside ``target`` that is gone when the block ends."""
    folder = temporary_path(target)
    try:
        claim(folder)
        yield folder
    finally:
        try:
            delete_private_folder(folder)
        except (KeyboardInterrupt, Terminated):  # came within the deletion; no second signal does
            delete_private_folder(folder)
            raise


@contextmanager
def atomic_write(target: Path) -> Iterator[Path]:
    """A file to write that takes the place of ``target`` when the block ends well, and is gone when it does not.

    Where ``target`` is a link, what it leads to is replaced; mode and owner of what is replaced stay. A device or a FIFO gets the bytes.

    Raises:
        OutputError: it is a folder or a socket.
    """
    if is_stream(target):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / target.name
            yield path
            with path.open("rb") as written, target.open("wb") as stream:
                shutil.copyfileobj(written, stream)
        return
    final = resolve_link(target)
    if final.exists() and not final.is_file():
        raise OutputError(f"{target} is {file_kind(final.stat().st_mode)}, which no file replaces; name another place.")
    with temporary_folder(final) as private:  # where nobody else can put a link in the place of what is written
        path = private / "new"
        path.touch(mode=0o600, exist_ok=False)
        yield path
        copy_mode_and_owner(path, final)
        fsync(path)
        path.replace(final)
        fsync(final.parent)


def resolve_link(target: Path) -> Path:
    """Where ``target`` leads if it is a link: what a link leads to is written, and the link stays.

    Raises:
        OutputError: somebody else put the link there, into a folder that is not theirs: it may lead to a file of this user's.
    """
    if target.is_symlink() and HAS_DESCRIPTORS:
        link, folder = target.lstat(), target.absolute().parent.stat()
        if link.st_uid not in (os.geteuid(), folder.st_uid, 0):
            raise OutputError(
                f"{target} is a link to {target.readlink()} that uid {link.st_uid} put there; remove it, or name another place."
            )
    return Path(os.path.realpath(target))


def is_stream(target: Path) -> bool:
    """Whether ``target`` is a device or a FIFO, or a name below /dev or /proc: something to write to and not to replace."""
    with suppress(OSError):
        mode = target.stat().st_mode
        return stat.S_ISCHR(mode) or stat.S_ISBLK(mode) or stat.S_ISFIFO(mode) or target.absolute().parts[1:2] in (("dev",), ("proc",))
    return False


def copy_mode_and_owner(new: Path, old: Path) -> None:
    """Give ``new`` the mode and the owner of ``old``, or the mode of a new file where there is no ``old``; through no link."""
    try:
        status = old.stat()
    except FileNotFoundError:
        _set_mode(new, new_file_mode())
    else:
        _set_mode(new, stat.S_IMODE(status.st_mode), (status.st_uid, status.st_gid))


def _set_mode(path: Path, mode: int, owner: tuple[int, int] | None = None) -> None:
    if not HAS_DESCRIPTORS:
        path.chmod(mode)
        return
    descriptor = os.open(path, os.O_RDONLY | NO_FOLLOW)
    try:
        if owner is not None:
            with suppress(OSError):  # to give a file away takes root
                os.fchown(descriptor, *owner)
        with suppress(OSError):  # a disk without modes
            os.fchmod(descriptor, mode)
    finally:
        os.close(descriptor)


def new_file_mode() -> int:
    """The mode that a new file gets under this process's umask."""
    umask = os.umask(0)
    os.umask(umask)
    return 0o666 & ~umask


def fsync(path: Path) -> None:
    """Have a file's bytes, or the names in a folder, on the disk itself."""
    if os.name == "posix":
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def read_small_file(file: Path, limit: int) -> bytes:
    """The bytes of a small regular file; a FIFO without a writer would block, and a device may have no end.

    Raises:
        OSError: it cannot be read, is not a regular file, or has more than ``limit`` bytes.
    """
    descriptor = os.open(file, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    with os.fdopen(descriptor, "rb") as opened:
        mode = os.fstat(descriptor).st_mode
        if not stat.S_ISREG(mode):
            raise OSError(errno.EINVAL, f"it is {file_kind(mode)}, not a file", str(file))
        content = opened.read(limit + 1)
    if len(content) > limit:
        raise OSError(errno.EFBIG, f"it has more than {limit:,} bytes", str(file))
    return content


# --- folders that are replaced -----------------------------------------------------------------------------------------------------------


def replace_folder(new: Path, target: Path, aside: Path) -> None:
    """Put the folder ``new`` in the place of ``target``; what was there lies at ``new`` or at ``aside`` then, for the caller to delete.

    On Linux both names are exchanged at once, so ``target`` is never missing. Elsewhere a folder that is not empty cannot be replaced by a
    rename: the old one steps aside first, and `restore_folder` brings it back where a kill came between.
    """
    if not target.exists():
        new.rename(target)
    elif not _exchange_names(new, target):
        target.rename(aside)
        try:
            new.rename(target)
        except OSError:
            aside.rename(target)
            raise
    fsync(target.parent)


def restore_folder(target: Path, aside: Path) -> None:
    """Undo what a kill left half done between the two renames of `replace_folder`."""
    if not target.exists() and aside.is_dir() and not aside.is_symlink():
        aside.rename(target)


def _exchange_names(first: Path, second: Path) -> bool:
    """Whether two names were exchanged; False where the system or its disk cannot."""
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None) if sys.platform == "linux" else None
    current_folder, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE of linux/fs.h
    return rename is not None and rename(current_folder, os.fsencode(first), current_folder, os.fsencode(second), exchange) == 0


def delete_folder(folder: Path) -> None:
    """Delete a folder so that a kill midway leaves nothing of it under its name."""
    with temporary_folder(folder) as private:
        folder.rename(private / "old")


def is_running(process: int) -> bool:
    """Whether a process of this machine runs; where that cannot be asked, as on Windows, it counts as running."""
    if os.name != "posix":
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True
