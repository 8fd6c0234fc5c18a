"""File locks: two runs do not write to one target at once."""

from __future__ import annotations

import errno
import os
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from catcli.private_folder import NO_FOLLOW, not_ours

if sys.platform != "win32":
    import fcntl


@contextmanager
def file_lock(lock: Path) -> Iterator[bool]:
    """Whether this process alone has ``lock``, a file that is there while the block runs; the lock ends with the process, too.

    Where the system has no such locks (Windows, some shared disks), a second run is not noticed.

    Raises:
        OutputError: what is there is no file of this user's.
    """
    with _locked(lock) as descriptor:
        try:
            yield descriptor is not None
        finally:
            if descriptor is not None and _is_same_file(lock, descriptor):
                with suppress(OSError):  # Windows keeps what is open
                    lock.unlink()  # before it is let go: whoever opens it from now on opens another


@contextmanager
def _locked(lock: Path) -> Iterator[int | None]:
    """``lock``, open and locked; None where another process has it."""
    while True:
        try:
            # Never truncated, and never waited for: a link is refused, and a FIFO without a writer opens at once.
            descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | getattr(os, "O_NONBLOCK", 0) | NO_FOLLOW, 0o600)
        except OSError as error:
            if error.errno in (errno.ELOOP, errno.EISDIR, errno.ENXIO):
                raise not_ours(lock) from error
            raise
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode) or (hasattr(os, "geteuid") and status.st_uid != os.geteuid()):
                raise not_ours(lock)
            try:
                if sys.platform != "win32":
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield None
                return
            except OSError as error:
                if error.errno not in (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS):
                    raise
            if _is_same_file(lock, descriptor):
                yield descriptor
                return
        finally:
            os.close(descriptor)


def _is_same_file(lock: Path, descriptor: int) -> bool:
    """Whether an open file is still the one of that name: the process that had it before may have removed it in between."""
    try:
        return os.path.samestat(lock.lstat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False
