"""How an adapter folder is written: beside its place, and renamed once it is complete."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from catcli.adapter.folder import file_sha256
from catcli.adapter.manifest import MANIFEST, Manifest
from catcli.adapter.seal import write_seal
from catcli.atomic import fsync, new_file_mode, replace_folder, temporary_folder
from catcli.errors import AdapterError, OutputError, is_disk_full
from catcli.file_lock import file_lock
from catcli.paths import display_path, hidden_path, is_bucket


def check_target(folder: Path, force: bool) -> None:
    """Before the work begins: ``folder`` may be written.

    Raises:
        AdapterError: something is there and ``force`` was not given, or it is not an adapter and would be lost.
        OutputError: the place above cannot be written.
    """
    if is_bucket(folder):
        raise OutputError(f"-o {folder}: an adapter is made on a disk; name a folder, and copy it.")
    if folder.exists() and not force:
        raise AdapterError(f"{folder} exists; pass --force to replace it, or -o for another folder.")
    if folder.exists() and not (folder / MANIFEST).exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise AdapterError(f"{folder} is not an adapter, so --force does not replace it; choose another folder with -o.")
    if display_path(folder) != str(folder):
        raise OutputError(f"-o {display_path(folder)}: this name is not UTF-8, and safetensors writes no other; choose another.")
    above = next(parent for parent in folder.absolute().parents if parent.exists())
    if not above.is_dir() or not os.access(above, os.W_OK | os.X_OK):
        raise OutputError(f"-o {folder}: {above} cannot be written; choose another folder with -o.")


@contextmanager
def fit_lock(target: Path) -> Iterator[None]:
    """While open, only this process fits ``target``: two fits would continue from one another's checkpoints.

    Raises:
        AdapterError: another process is fitting it.
        OutputError: the place above cannot be written.
    """
    with ExitStack() as opened:
        try:
            target.absolute().parent.mkdir(parents=True, exist_ok=True)
            lock = opened.enter_context(file_lock(hidden_path(target.absolute(), "lock")))
        except OSError as error:
            raise _write_error(target, error) from error
        if not lock:
            raise AdapterError(f"another catcli is fitting {target}; wait until it has ended, or choose another folder with -o.")
        yield


def _write_error(target: Path, error: OSError) -> OutputError:
    return OutputError(f"-o {target} cannot be written: {error.strerror or error}; free the place or choose another with -o.")


@dataclass
class AdapterDraft:
    """An adapter folder that is being written: files go to ``folder``; setting the manifest finishes it."""

    name: str
    folder: Path
    manifest: Manifest | None = None
    finish: Callable[[Path], None] | None = None
    """Called with the folder once its manifest is written: for what is made of the manifest itself, a signature."""


@contextmanager
def adapter_draft(target: Path, *, sealed: bool = False) -> Iterator[AdapterDraft]:
    """A draft beside ``target`` that takes its place when the block ends well, and is gone when it does not.

    ``sealed`` says that its models were fitted here: see `is_sealed`.
    """
    target = target.absolute()  # "." has a name then
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with temporary_folder(target) as private:
            folder = private / "new"
            folder.mkdir()
            draft = AdapterDraft(display_path(target.name), folder)
            yield draft
            if draft.manifest is None:
                raise AssertionError("a draft ends with its manifest set")
            files = {path.name: file_sha256(path) for path in sorted(folder.iterdir())}
            manifest = draft.manifest.model_copy(update={"files": files})
            (folder / MANIFEST).write_text(manifest.model_dump_json(indent=2) + "\n", encoding="utf-8")
            if draft.finish is not None:
                draft.finish(folder)
            for path in folder.iterdir():
                path.chmod(new_file_mode())  # safetensors writes for the owner alone; a pipeline's other users read adapters too
                fsync(path)  # what is replaced is gone at once, so the new one has to be on the disk
            if sealed:
                write_seal(folder, manifest)
            fsync(folder)
            replace_folder(folder, target, private / "old")
    except Exception as error:
        if is_disk_full(error):
            raise OutputError(f"-o {target}: the disk is full; free some space and run the same command again.") from error
        if isinstance(error, OSError):
            raise _write_error(target, error) from error
        raise
