"""A finished adapter folder: its files, each checked against its SHA-256 before use."""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import stat
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

from pydantic import ValidationError

from catcli.adapter.manifest import FORMAT, MANIFEST, READABLE_FORMATS, Manifest
from catcli.errors import AdapterError
from catcli.paths import store_folder

PACKAGES = ("catcli", "torch", "transformers", "peft", "optimum-onnx", "onnxruntime-gpu", "onnxruntime", "polars", "scikit-learn")

MAX_FILE_BYTES = {MANIFEST: 2**25, "recipe.json": 2**20, "metrics.json": 2**26, "tokenizer.json": 2**26, "probe.parquet": 2**28}
"""Largest sizes of files that are read at once, far above what a fit writes: 20,000 categories take some megabytes."""


@dataclass(frozen=True)
class Adapter:
    """A finished adapter folder."""

    folder: Path
    manifest: Manifest
    fingerprint: str
    """The SHA-256 of its manifest as it was read, which has those of its files: another adapter has another."""
    _checked: set[str] = field(default_factory=set, repr=False, compare=False)

    @property
    def name(self) -> str:
        """The folder's name, which is the adapter's."""
        return self.folder.name

    def file(self, name: str) -> Path:
        """The path of one of its files, after its SHA-256 was compared.

        Raises:
            AdapterError: the file is missing, is a link, or its bytes are not those that were written.
        """
        path = self.folder / name
        if name not in self._checked:
            expected = self.manifest.files.get(name)
            if expected is None or not os.path.lexists(path):
                raise AdapterError(f"{self.folder} has no {name}; copy the folder again, or fit a new one.")
            check_file(path)
            if file_sha256(path) != expected:
                raise AdapterError(
                    f"{path} has changed since it was written (its SHA-256 is not the manifest's); copy it again, or fit a new one."
                )
            self._checked.add(name)
        return path

    def verify(self) -> int:
        """Check every file; returns their bytes in all."""
        return sum(self.file(name).stat().st_size for name in self.manifest.files)


def check_file(path: Path) -> None:
    """A file of an adapter is a file, and no larger than one of its name can be.

    Raises:
        AdapterError: it is a link, a pipe or a device, which could lead out of the folder or never end, or it is too large.
        OSError: it is not there.
    """
    status = path.lstat()
    if stat.S_ISLNK(status.st_mode):
        raise AdapterError(
            f"{path} is a link to {path.readlink()}; an adapter's files lie in its own folder: copy it with 'cp -rL', which follows links."
        )
    if not stat.S_ISREG(status.st_mode):
        raise AdapterError(f"{path} is not a regular file; copy the adapter again from where it was made.")
    limit = MAX_FILE_BYTES.get(path.name)
    if limit is not None and status.st_size > limit:
        raise AdapterError(
            f"{path} has {status.st_size:,} bytes, and no adapter's {path.name} has more than {limit:,}; copy the adapter again from where "
            "it was made."
        )


def file_sha256(path: Path) -> str:
    """Of a file's bytes, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def package_versions() -> dict[str, str]:
    """The installed versions of the packages that decide what an adapter computes."""
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions


def manifest_time() -> datetime:
    """The time of a manifest: UTC, whole seconds."""
    return datetime.now(UTC).replace(microsecond=0)


def load_adapter(folder: Path) -> Adapter:
    """The adapter in ``folder``; its files are checked as they are used.

    Raises:
        AdapterError: it is not an adapter, it is damaged, or a newer catcli wrote it.
    """
    manifest = folder / MANIFEST
    try:
        check_file(manifest)
        content = manifest.read_bytes()
    except OSError as error:
        raise AdapterError(
            f"{folder} is not an adapter: it has no {MANIFEST}; 'catcli adapters list' shows those of {store_folder()}."
        ) from error
    _check_format(folder, content)
    try:
        parsed = Manifest.model_validate_json(content)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = ".".join(str(part) for part in first["loc"]) or "the file"
        message = first["msg"].removeprefix("Value error, ")
        raise AdapterError(f"{manifest} is damaged ({field[:80]}: {message}); copy the folder again, or fit a new one.") from error
    return Adapter(folder, parsed, hashlib.sha256(content).hexdigest())


def _check_format(folder: Path, content: bytes) -> None:
    """Check the format first: a newer one may have fields that this catcli does not know."""
    try:
        version = json.loads(content).get("format")
    except (ValueError, AttributeError, RecursionError):
        return  # damaged; the caller says so
    if isinstance(version, int) and version not in READABLE_FORMATS:
        fit_line = shlex.join(["catcli", "fit", "products.csv", "--recipe", str(folder / "recipe.json"), "-o", str(folder), "--force"])
        advice = "upgrade catcli" if version > FORMAT else f"'{fit_line}' makes it again from the rows that it was fitted on"
        raise AdapterError(f"{folder} is of adapter format {version} and this catcli reads {READABLE_FORMATS[0]} to {FORMAT}; {advice}.")
