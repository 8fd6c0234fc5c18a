"""Names of places: those of buckets, those that are shown, and the hidden ones beside a target."""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path

BUCKET_SCHEMES = ("s3", "s3a", "gs", "az", "abfs", "abfss")
"""What addresses of object stores begin with."""


def is_bucket(name: str | Path) -> bool:
    """Whether a name is of a bucket; a `Path` of one has lost one of its two slashes."""
    return re.match(rf"({'|'.join(BUCKET_SCHEMES)}):/", str(name)) is not None


def display_path(path: Path | str) -> str:
    """A path as files and pages tell it: names are bytes, and those that are no UTF-8 are shown as what they are."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def resume_folder(target: Path) -> Path:
    """Where what a killed run had done for ``target`` is kept, for the same command to go on from."""
    return hidden_path(target, "catcli-resume")


MAX_NAME_BYTES = 120
"""Bytes of a name that a hidden one beside it begins with; most disks take 255 in all."""


def hidden_path(target: Path, ending: str) -> Path:
    """A hidden path beside ``target`` that is its own."""
    name = os.fsencode(target.name)
    if len(name) > MAX_NAME_BYTES:
        name = name[: MAX_NAME_BYTES - 20] + hashlib.sha256(name).hexdigest()[:16].encode()
    return target.with_name(f".{os.fsdecode(name)}.{ending}")


def is_folder(out: str) -> bool:
    """Whether ``out`` means a folder: it is one, or ends like one."""
    return out != "-" and (out.endswith(("/", os.sep)) or (not is_bucket(out) and Path(out).is_dir()))


def is_pipe(out: str) -> bool:
    """Whether ``out`` is standard output, a pipe or a device, which is written as rows come and cannot be written twice."""
    path = Path(out)
    return out == "-" or (path.exists() and not path.is_file() and not path.is_dir())


def store_folder() -> Path:
    """Where adapters are looked for by name: ``./adapters``, or the folder that ``CATCLI_ADAPTERS`` names."""
    return Path(os.environ.get("CATCLI_ADAPTERS") or "adapters")
