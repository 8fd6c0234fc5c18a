"""Private folders beside a target, which hold what catcli keeps while it works.

Their names can be guessed, so somebody else may have put something there: a link into another folder, a FIFO that never answers, a folder
of their own. Nothing here follows a link or deletes what does not carry catcli's marker.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import stat
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from catcli.errors import OutputError

MARKER = ".made-by-catcli"
"""The file in each private folder that names the folder's inode: one that came out of an archive or was copied has another."""

PRIVATE_NAMES = re.compile(
    r"lock|journal\.(jsonl|new)|[0-9a-f]{12}-\d{6}-\d{6}(\.review|\.bad|\.known)?(\.[0-9a-f]{8}\.new)?|token|whole|new|old|range-\d{3}|whole-review|whole-bad"
    r"|rows|[a-z0-9-]+\.safetensors|tuned|first|\..+\.part"
)
"""The names that catcli gives to what it puts into a private folder. Nothing else in one is ever deleted."""

NO_FOLLOW = getattr(os, "O_NOFOLLOW", 0)

HAS_DESCRIPTORS = os.name == "posix"
"""Whether folders can be opened, and what lies in them be named relative to that. Windows has neither, nor owners of this kind."""


_created: set[tuple[int, int]] = set()
"""Device and inode of the private folders that this process made: some network disks give them to another owner."""


def claim(folder: Path) -> None:
    """Make the private folder ``folder`` (mode 0700, with a marker), or check that the one that is there is catcli's.

    Raises:
        OutputError: what is there is a link, no folder, another user's, without this folder's marker, or holds links or devices.
        OSError: it cannot be made.
    """
    is_new = False
    with suppress(FileExistsError):
        folder.mkdir(mode=0o700)
        is_new = True
    if not HAS_DESCRIPTORS:
        _check_by_name(folder)
        return
    with _descriptor(folder) as descriptor:
        if is_new:
            status = os.fstat(descriptor)
            _created.add((status.st_dev, status.st_ino))
        _check(folder, descriptor)
        _mark(descriptor)


def clear(folder: Path, keep: Collection[str] = (), names: re.Pattern[str] = PRIVATE_NAMES) -> None:
    """Delete what catcli put into the private folder ``folder``: its ``names``, except those in ``keep``.

    Raises:
        OutputError: it is not catcli's; see `claim`.
    """
    if not HAS_DESCRIPTORS:
        _check_by_name(folder)
        for path in folder.iterdir():
            if path.name not in keep and names.fullmatch(path.name):
                shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)
        return
    with _descriptor(folder) as descriptor:
        _check(folder, descriptor)
        for name in _list_names(descriptor):
            if name not in keep and names.fullmatch(name):
                _delete(name, descriptor)


def delete_private_folder(folder: Path) -> None:
    """Delete the private folder ``folder`` if it is there; a file in it that catcli did not make stays, and so does the folder then.

    Raises:
        OutputError: it is not catcli's; see `claim`.
    """
    if not os.path.lexists(folder):
        return
    with suppress(FileNotFoundError):  # another process deleted it in between
        clear(folder)
        if {path.name for path in folder.iterdir()} <= {MARKER}:
            with suppress(FileNotFoundError):  # another process deleted the marker, and deletes the folder next
                (folder / MARKER).unlink()
            try:
                folder.rmdir()  # which fails on what is not an empty folder, a link in its place among them
            except OSError as error:
                if error.errno != errno.ENOTEMPTY:  # another process has just claimed it
                    raise


@contextmanager
def persistent_folder(folder: Path) -> Iterator[Path]:
    """The private folder ``folder``, made or checked as by `claim`; what is in it when the block ends stays, an empty one goes."""
    claim(folder)
    try:
        yield folder
    finally:
        with suppress(OSError):
            if [path.name for path in folder.iterdir()] == [MARKER]:
                delete_private_folder(folder)


@contextmanager
def _descriptor(folder: Path) -> Iterator[int]:
    """The folder, open, and surely no link."""
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | NO_FOLLOW)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENOTDIR):
            raise not_ours(folder) from error
        raise
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _check(folder: Path, descriptor: int) -> None:
    status = os.fstat(descriptor)
    if status.st_uid != os.geteuid() and (status.st_dev, status.st_ino) not in _created:
        raise OutputError(
            f"{folder} belongs to another user (uid {status.st_uid}), and catcli keeps its own files there; remove it or write elsewhere."
        )
    # Another process may make or delete the folder at this moment: the marker is written first and deleted last, hence the second look.
    if not (_is_marked(descriptor) or _is_unfinished(descriptor) or _is_marked(descriptor)):
        raise not_ours(folder)
    with suppress(OSError):  # a disk without modes
        os.fchmod(descriptor, 0o700)
    for name in _list_names(descriptor):
        with suppress(FileNotFoundError):
            mode = os.stat(name, dir_fd=descriptor, follow_symlinks=False).st_mode
            if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
                raise OutputError(
                    f"{folder / name} is {file_kind(mode)}, which catcli does not put there; remove it and run the same command again."
                )


def _marker(descriptor: int) -> bytes:
    return f"catcli made this folder; its inode is {os.fstat(descriptor).st_ino}\n".encode()


def _is_marked(descriptor: int) -> bool:
    return _first_bytes(MARKER, descriptor) == _marker(descriptor)


def _is_unfinished(descriptor: int) -> bool:
    """Whether an open folder is empty, or holds the beginning of its marker: what a process leaves that is stopped while it makes one."""
    names = _list_names(descriptor)
    content = _first_bytes(MARKER, descriptor)
    return set(names) <= {MARKER} and content is not None and _marker(descriptor).startswith(content)


def _mark(descriptor: int) -> None:
    """Write the marker into an open folder that passed `_check`, unless it is there."""
    if not _is_marked(descriptor):
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | NO_FOLLOW
        with os.fdopen(os.open(MARKER, flags, 0o600, dir_fd=descriptor), "wb") as marker:
            marker.write(_marker(descriptor))


def _check_by_name(folder: Path) -> None:
    """The same where folders cannot be opened: a link is refused, and a folder that holds something and no marker."""
    names = [path.name for path in folder.iterdir()] if folder.is_dir() and not folder.is_symlink() else None
    if names is None or (names and MARKER not in names):
        raise not_ours(folder)
    if not names:
        (folder / MARKER).write_text("catcli made this folder\n", encoding="utf-8")


def _list_names(descriptor: int) -> list[str]:
    """What lies in an open folder."""
    return os.listdir(descriptor)  # a Path has no descriptor


def _first_bytes(name: str, descriptor: int) -> bytes | None:
    """The first bytes of a small file in an open folder: none of what is not there, and None of what is not a regular file."""
    try:
        file = os.open(name, os.O_RDONLY | os.O_NONBLOCK | NO_FOLLOW, dir_fd=descriptor)
    except FileNotFoundError:
        return b""
    except OSError:
        return None
    try:
        return os.read(file, 256) if stat.S_ISREG(os.fstat(file).st_mode) else None
    finally:
        os.close(file)


def not_ours(folder: Path) -> OutputError:
    """The error that stops at what catcli did not make."""
    actual = f"a link to {folder.readlink()}" if folder.is_symlink() else "something" if not folder.is_dir() else "a folder"
    return OutputError(
        f"{folder} is {actual} that catcli did not make, in the place where it keeps its own files; look at it, move it away, and run the "
        "same command again."
    )


def file_kind(mode: int) -> str:
    """What a file is, by its mode."""
    kinds = {
        stat.S_IFLNK: "a link",
        stat.S_IFIFO: "a FIFO",
        stat.S_IFSOCK: "a socket",
        stat.S_IFDIR: "a folder",
        stat.S_IFBLK: "a device",
        stat.S_IFCHR: "a device",
    }
    return kinds.get(stat.S_IFMT(mode), "no regular file")


def _delete(name: str, descriptor: int) -> None:
    """Delete a file or folder of an open folder; of a link, the link."""
    with suppress(FileNotFoundError):  # another process was sooner
        if stat.S_ISDIR(os.stat(name, dir_fd=descriptor, follow_symlinks=False).st_mode):
            shutil.rmtree(name, ignore_errors=True, dir_fd=descriptor)
        else:
            os.unlink(name, dir_fd=descriptor)
