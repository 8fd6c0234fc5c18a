"""Seals: which adapters were fitted on this machine and not changed since."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

from catcli.adapter.folder import Adapter, file_sha256
from catcli.adapter.manifest import MANIFEST, Manifest
from catcli.atomic import fsync

SEAL_FILE, MAX_SEAL_BYTES = ".made-here", 2**20
"""The file in the folder of an adapter that was fitted on this machine, and the bytes that it may have."""


def is_sealed(adapter: Adapter) -> bool:
    """Whether the adapter was fitted on this machine and no file of it was touched since, so that its models need not be tried out.

    Its seal has each file's inode and the time of its last change of any kind, which the system sets and no archive or copy can bring.
    """
    seal = adapter.folder / SEAL_FILE
    try:
        status = seal.lstat()
        is_private = status.st_uid == os.geteuid() and not status.st_mode & 0o022
        if not stat.S_ISREG(status.st_mode) or status.st_size > MAX_SEAL_BYTES or not is_private:
            return False
        return bool(json.loads(seal.read_bytes()) == _file_marks(adapter.folder, adapter.manifest, adapter.fingerprint))
    except (OSError, ValueError, AttributeError):  # no seal, another one, or no such thing as owners
        return False


def write_seal(folder: Path, manifest: Manifest) -> None:
    """Seal the adapter in ``folder``."""
    path = folder / SEAL_FILE
    path.touch(mode=0o600, exist_ok=False)  # whoever else may write the folder's files may not write this one
    path.write_text(json.dumps(_file_marks(folder, manifest, file_sha256(folder / MANIFEST))), encoding="utf-8")
    fsync(path)


def _file_marks(folder: Path, manifest: Manifest, fingerprint: str) -> dict[str, object]:
    stats = {name: (folder / name).lstat() for name in sorted({MANIFEST, *manifest.files})}
    files = {name: [status.st_ino, status.st_ctime_ns, status.st_size] for name, status in stats.items()}
    return {"manifest": fingerprint, "files": files}
