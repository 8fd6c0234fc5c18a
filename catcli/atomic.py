"""Atomic writes, temporary paths and file locks beside a target, and reading of small files.

A target is written under a temporary name beside it and then renamed, so that it is whole or not there at all. Hidden names beside a target
can be guessed, so somebody else may have put something there: a link into another folder, a FIFO that never answers, a folder of their own.
Nothing here follows a link, truncates a lock, or deletes what does not carry catcli's marker.
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
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from catcli.errors import OutputError
from catcli.places import hidden

if sys.platform != "win32":
    import fcntl

MARKER = ".made-by-catcli"
"""The file in each private folder that names the folder's inode: one that came out of an archive or was copied has another."""

OURS = re.compile(
    r"lock|journal\.(jsonl|new)|\d{6}|memory-\d{6}\.npz|whole|new|old|review-\d{6}|range-\d{3}|whole-review|bad-\d{6}|whole-bad"
    r"|rows|[a-z0-9-]+\.safetensors|tuned|first|\..+\.part"
)
"""The names that catcli gives to what it puts into a private folder. Nothing else in one is ever deleted."""

_NO_FOLLOW = getattr(os, "O_NOFOLLOW", 0)

_HAS_DESCRIPTORS = os.name == "posix"
"""Whether folders can be opened, and what lies in them be named relative to that. Windows has neither, nor owners of this kind."""

_made: set[tuple[int, int]] = set()
"""Device and inode of the private folders that this process made: some network disks give them to another owner."""


# --- private folders -------------------------------------------------------------------------------------------------------------------


def claim(folder: Path) -> None:
    """Make the private folder ``folder`` (mode 0700, with a marker), or check that the one that is there is catcli's.

    Raises:
        OutputError: what is there is a link, no folder, another user's, without this folder's marker, or holds links or devices.
        OSError: it cannot be made.
    """
    made = False
    with suppress(FileExistsError):
        folder.mkdir(mode=0o700)
        made = True
    if not _HAS_DESCRIPTORS:
        _check_by_name(folder)
        return
    with _descriptor(folder) as descriptor:
        if made:
            status = os.fstat(descriptor)
            _made.add((status.st_dev, status.st_ino))
        _check(folder, descriptor)
        _mark(descriptor)


def clear(folder: Path, keep: Collection[str] = (), names: re.Pattern[str] = OURS) -> None:
    """Delete what catcli put into the private folder ``folder``: its ``names``, except those in ``keep``.

    Raises:
        OutputError: it is not catcli's; see `claim`.
    """
    if not _HAS_DESCRIPTORS:
        _check_by_name(folder)
        for path in folder.iterdir():
            if path.name not in keep and names.fullmatch(path.name):
                shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)
        return
    with _descriptor(folder) as descriptor:
        _check(folder, descriptor)
        for name in _names(descriptor):
            if name not in keep and names.fullmatch(name):
                _delete(name, descriptor)


def discard(folder: Path) -> None:
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
                folder.rmdir()  # which fails on what is no empty folder, a link in its place among them
            except OSError as error:
                if error.errno != errno.ENOTEMPTY:  # another process has just claimed it
                    raise


@contextmanager
def claimed(folder: Path) -> Iterator[Path]:
    """The private folder ``folder``, made or checked as by `claim`; what is in it when the block ends stays, an empty one goes."""
    claim(folder)
    try:
        yield folder
    finally:
        with suppress(OSError):
            if [path.name for path in folder.iterdir()] == [MARKER]:
                discard(folder)


@contextmanager
def _descriptor(folder: Path) -> Iterator[int]:
    """The folder, open, and surely no link."""
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | _NO_FOLLOW)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENOTDIR):
            raise _foreign(folder) from error
        raise
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _check(folder: Path, descriptor: int) -> None:
    status = os.fstat(descriptor)
    if status.st_uid != os.geteuid() and (status.st_dev, status.st_ino) not in _made:
        raise OutputError(
            f"{folder} belongs to another user (uid {status.st_uid}), and catcli keeps its own files there; remove it or write elsewhere."
        )
    # Another process may make or delete the folder at this moment: the marker is written first and deleted last, hence the second look.
    if not (_is_marked(descriptor) or _holds_nothing(descriptor) or _is_marked(descriptor)):
        raise _foreign(folder)
    with suppress(OSError):  # a disk without modes
        os.fchmod(descriptor, 0o700)
    for name in _names(descriptor):
        with suppress(FileNotFoundError):
            mode = os.stat(name, dir_fd=descriptor, follow_symlinks=False).st_mode
            if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
                raise OutputError(
                    f"{folder / name} is {_kind(mode)}, which catcli does not put there; remove it and run the same line again."
                )


def _marker(descriptor: int) -> bytes:
    return f"catcli made this folder; its inode is {os.fstat(descriptor).st_ino}\n".encode()


def _is_marked(descriptor: int) -> bool:
    return _content(MARKER, descriptor) == _marker(descriptor)


def _holds_nothing(descriptor: int) -> bool:
    """Whether an open folder is empty, or holds the beginning of its marker: what a process leaves that is stopped while it makes one."""
    names = _names(descriptor)
    content = _content(MARKER, descriptor)
    return set(names) <= {MARKER} and content is not None and _marker(descriptor).startswith(content)


def _mark(descriptor: int) -> None:
    """Write the marker into an open folder that passed `_check`, unless it is there."""
    if not _is_marked(descriptor):
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | _NO_FOLLOW
        with os.fdopen(os.open(MARKER, flags, 0o600, dir_fd=descriptor), "wb") as marker:
            marker.write(_marker(descriptor))


def _check_by_name(folder: Path) -> None:
    """The same where folders cannot be opened: a link is refused, and a folder that holds something and no marker."""
    names = [path.name for path in folder.iterdir()] if folder.is_dir() and not folder.is_symlink() else None
    if names is None or (names and MARKER not in names):
        raise _foreign(folder)
    if not names:
        (folder / MARKER).write_text("catcli made this folder\n", encoding="utf-8")


def _names(descriptor: int) -> list[str]:
    """What lies in an open folder."""
    return os.listdir(descriptor)  # a Path has no descriptor


def _content(name: str, descriptor: int) -> bytes | None:
    """The first bytes of a small file in an open folder: none of what is not there, and None of what is no regular file."""
    try:
        file = os.open(name, os.O_RDONLY | os.O_NONBLOCK | _NO_FOLLOW, dir_fd=descriptor)
    except FileNotFoundError:
        return b""
    except OSError:
        return None
    try:
        return os.read(file, 256) if stat.S_ISREG(os.fstat(file).st_mode) else None
    finally:
        os.close(file)


def _foreign(folder: Path) -> OutputError:
    what = f"a link to {folder.readlink()}" if folder.is_symlink() else "something" if not folder.is_dir() else "a folder"
    return OutputError(
        f"{folder} is {what} that catcli did not make, in the place where it keeps its own files; look at it, move it away, and run the "
        "same line again."
    )


def _kind(mode: int) -> str:
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


# --- temporary paths --------------------------------------------------------------------------------------------------------------------


def temporary(target: Path) -> Path:
    """A hidden path beside ``target`` that nobody uses.

    What killed runs of this machine left there for the same target is removed; the machine's name is in the path, since a shared disk
    shows the files of others, whose processes cannot be looked up here.
    """
    prefix = hidden(target, f"catcli-{platform.node()}-").name
    for path in target.parent.iterdir():
        if path.name.startswith(prefix) and is_leftover(path):
            _remove_leftover(path, target)
    return target.with_name(f"{prefix}{os.getpid()}-{secrets.token_hex(4)}.part")


def is_leftover(path: Path) -> bool:
    """Whether a path has a name of `temporary`, of a process of this machine that runs no more."""
    process = re.fullmatch(rf"\..+\.catcli-{re.escape(platform.node())}-(\d+)-[0-9a-f]+\.part", path.name)
    return process is not None and not is_running(int(process[1]))


def _remove_leftover(path: Path, target: Path) -> None:
    """Remove what a killed process left; what it did not make stays."""
    with suppress(OSError, OutputError):
        status = path.lstat()
        if _HAS_DESCRIPTORS and status.st_uid != os.geteuid():
            return
        if stat.S_ISREG(status.st_mode):
            path.unlink()
        elif stat.S_ISDIR(status.st_mode):
            clear(path, keep=("old",))
            restore(target, path / "old")
            discard(path)


@contextmanager
def private_folder(target: Path) -> Iterator[Path]:
    """A private folder beside ``target`` that is gone when the block ends."""
    folder = temporary(target)
    try:
        claim(folder)
        yield folder
    finally:
        discard(folder)


@contextmanager
def atomic_write(target: Path) -> Iterator[Path]:
    """A file to write that takes the place of ``target`` when the block ends well, and is gone when it does not.

    Where ``target`` is a link, what it leads to is replaced; mode and owner of what is replaced stay. A device or a FIFO gets the bytes.

    Raises:
        OutputError: it is a folder or a socket.
    """
    if is_stream(target):
        with tempfile.TemporaryDirectory() as folder:
            place = Path(folder) / target.name
            yield place
            with place.open("rb") as written, target.open("wb") as stream:
                shutil.copyfileobj(written, stream)
        return
    final = followed(target)
    if final.exists() and not final.is_file():
        raise OutputError(f"{target} is {_kind(final.stat().st_mode)}, which no file replaces; name another place.")
    with private_folder(final) as private:  # where nobody else can put a link in the place of what is written
        place = private / "new"
        place.touch(mode=0o600, exist_ok=False)
        yield place
        take_over(place, final)
        sync(place)
        place.replace(final)
        sync(final.parent)


def followed(target: Path) -> Path:
    """Where ``target`` leads if it is a link: what a link leads to is written, and the link stays.

    Raises:
        OutputError: somebody else put the link there, into a folder that is not theirs: it may lead to a file of this user's.
    """
    if target.is_symlink() and _HAS_DESCRIPTORS:
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


def take_over(new: Path, old: Path) -> None:
    """Give ``new`` the mode and the owner of ``old``, or the mode of a new file where there is no ``old``; through no link."""
    try:
        status = old.stat()
    except FileNotFoundError:
        _set_mode(new, new_file_mode())
    else:
        _set_mode(new, stat.S_IMODE(status.st_mode), (status.st_uid, status.st_gid))


def _set_mode(path: Path, mode: int, owner: tuple[int, int] | None = None) -> None:
    if not _HAS_DESCRIPTORS:
        path.chmod(mode)
        return
    descriptor = os.open(path, os.O_RDONLY | _NO_FOLLOW)
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


def sync(path: Path) -> None:
    """Have a file's bytes, or the names in a folder, on the disk itself."""
    if os.name == "posix":
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def read_bounded(file: Path, most: int) -> bytes:
    """The bytes of a small regular file; a FIFO that nobody writes to would be waited for, and a device may have no end.

    Raises:
        OSError: it cannot be read, is no regular file, or has more than ``most`` bytes.
    """
    descriptor = os.open(file, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    with os.fdopen(descriptor, "rb") as opened:
        mode = os.fstat(descriptor).st_mode
        if not stat.S_ISREG(mode):
            raise OSError(errno.EINVAL, f"it is {_kind(mode)}, not a file", str(file))
        content = opened.read(most + 1)
    if len(content) > most:
        raise OSError(errno.EFBIG, f"it has more than {most:,} bytes", str(file))
    return content


# --- file locks -------------------------------------------------------------------------------------------------------------------------


@contextmanager
def file_lock(lock: Path) -> Iterator[bool]:
    """Whether this process alone has ``lock``, a file that is there while the block runs; the lock ends with the process, too.

    Where the system has no such locks (Windows, some shared disks), two runs are not told apart.

    Raises:
        OutputError: what is there is no file of this user's.
    """
    with _locked(lock) as descriptor:
        try:
            yield descriptor is not None
        finally:
            if descriptor is not None and _is(lock, descriptor):
                with suppress(OSError):  # Windows keeps what is open
                    lock.unlink()  # before it is let go: whoever opens it from now on opens another


@contextmanager
def _locked(lock: Path) -> Iterator[int | None]:
    """``lock``, open and locked; None where another process has it."""
    while True:
        try:
            # Never truncated, and never waited for: a link is refused, and a FIFO without a writer opens at once.
            descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | getattr(os, "O_NONBLOCK", 0) | _NO_FOLLOW, 0o600)
        except OSError as error:
            if error.errno in (errno.ELOOP, errno.EISDIR, errno.ENXIO):
                raise _foreign(lock) from error
            raise
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode) or (hasattr(os, "geteuid") and status.st_uid != os.geteuid()):
                raise _foreign(lock)
            try:
                if sys.platform != "win32":
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield None
                return
            except OSError as error:
                if error.errno not in (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS):
                    raise
            if _is(lock, descriptor):
                yield descriptor
                return
        finally:
            os.close(descriptor)


def _is(lock: Path, descriptor: int) -> bool:
    """Whether an open file is still the one of that name: the process that had it before may have removed it in between."""
    try:
        return os.path.samestat(lock.lstat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


# --- folders that are replaced -----------------------------------------------------------------------------------------------------------


def replace(new: Path, target: Path, aside: Path) -> None:
    """Put the folder ``new`` in the place of ``target``; what was there lies at ``new`` or at ``aside`` then, for the caller to delete.

    On Linux both names are exchanged at once, so ``target`` is never missing. Elsewhere a folder that is not empty cannot be replaced by a
    rename: the old one steps aside first, and `restore` brings it back where a kill came between.
    """
    if not target.exists():
        new.rename(target)
    elif not _exchanged(new, target):
        target.rename(aside)
        try:
            new.rename(target)
        except OSError:
            aside.rename(target)
            raise
    sync(target.parent)


def restore(target: Path, aside: Path) -> None:
    """Undo what a kill left half done between the two renames of `replace`."""
    if not target.exists() and aside.is_dir() and not aside.is_symlink():
        aside.rename(target)


def _exchanged(one: Path, other: Path) -> bool:
    """Whether two names were exchanged; False where the system or its disk cannot."""
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None) if sys.platform == "linux" else None
    here, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE of linux/fs.h
    return rename is not None and rename(here, os.fsencode(one), here, os.fsencode(other), exchange) == 0


def delete(folder: Path) -> None:
    """Delete a folder so that a kill midway leaves nothing of it under its name."""
    with private_folder(folder) as private:
        folder.rename(private / "old")


def is_running(process: int) -> bool:
    """Whether a process of this machine runs; where signals are not to be had for asking, as on Windows, it counts as one that does."""
    if os.name != "posix":
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True
