"""An output that is being written: finished parts beside its place, until it can appear there complete.

    .labeled.parquet.catcli-parts/
    ├── journal.jsonl     what the output is made from, then a line for each part that is kept
    ├── lock              held while a run writes here
    ├── 000000, 000001 …  the parts
    ├── memory-….npz      what the run knew when the last of them was kept
    └── whole             what will be renamed to the output: a file, or a folder of them

A run that is killed leaves this folder; the same command continues from the last line of its journal.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import polars as pl

from catcli.atomic import copy_mode_and_owner, fsync, replace_folder, resolve_link, restore_folder
from catcli.data.io.batch import Batch
from catcli.data.io.buckets import list_objects, upload
from catcli.data.io.journal import ON_BAD_ROW, READ_ERRORS, STATE, Arrays, PartRecord, StoppedRun, read_arrays, read_journal
from catcli.data.io.output import FileFormat, write_errors
from catcli.data.io.part_file import PartFile, link_or_copy, with_extension
from catcli.data.io.writers import concatenate_files
from catcli.errors import CatcliError, OutputError, reason
from catcli.file_lock import file_lock
from catcli.paths import hidden_path, is_bucket, is_folder
from catcli.private_folder import claim, clear, delete_private_folder


class Parts:
    """Takes rows and writes them to parts; a part that is finished survives a kill."""

    def __init__(
        self, out: str, form: FileFormat, places_in: Sequence[Path], fingerprint: Mapping[str, str], *, resume: bool, keep: bool = True
    ) -> None:
        """``places_in`` are the inputs' places, which name the files of an output folder; ``fingerprint`` hashes what it is made from.

        The parts that a stopped run left of the same output are kept. What it left of another, with other options say, stops a run that is
        to ``resume``, and makes room for one that is not; ``discarded`` counts those rows and ``changed`` says what is another.

        Without ``keep`` nothing stays of a run that ends early: its input came through a pipe and will not come again.

        Raises:
            OutputError: the place cannot be written.
        """
        self.out, self.form = out, form
        self._target = staging_path(out)
        self.by_input = is_folder(out)
        self._places = [with_extension(path, form) for path in places_in]
        self._check()
        self._fingerprint, self._resume, self._keep = dict(fingerprint), resume, keep
        self.stopped = StoppedRun()
        self.folder = hidden_path(self._target, "catcli-parts")
        self._stack = ExitStack()
        self._part: tuple[int, PartFile] | None = None
        self._waiting: list[PartRecord] = []
        self._begun: set[Path] = set()
        self.discarded = 0
        self.changed: list[str] = []
        self._alone = False

    def __enter__(self) -> Self:
        """Lock the place, and read what an earlier run left there.

        Raises:
            OutputError: the place cannot be written, another run is writing there, or what is there was made from something else.
        """
        try:
            with write_errors(self.out):
                self._lock()
                restore_folder(self._target, self.folder / "old")  # of a run that was killed between the two renames that replace a folder
                self.stopped = self._find(self._fingerprint, self._resume)
                # Written again, since a kill may have cut the last line short.
                self._journal = self._stack.enter_context((self.folder / "journal.new").open("w", encoding="utf-8"))
                self._begun = {self._place(part.input) for part in self.stopped.parts}
                for record in ({"mark": self._fingerprint}, *map(asdict, self.stopped.parts)):
                    self._note(record)
                (self.folder / "journal.new").replace(self.folder / "journal.jsonl")
                fsync(self.folder)
        except CatcliError:
            self._stack.close()
            raise
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        """Close the files; finished parts stay."""
        self.close()

    # --- before -------------------------------------------------------------------------------------------------------------------------

    def _check(self) -> None:
        parent = self._target.parent
        if is_bucket(self.out):
            self._check_bucket()
            return
        if not parent.is_dir():
            raise OutputError(f"-o {self.out}: there is no folder {parent}; make it with 'mkdir -p {parent}'.")
        if self.by_input and len(set(self._places)) < len(self._places):
            raise OutputError(f"-o {self.out}: several inputs would have the same name there; write them to folders of their own.")
        if self.by_input and self._target.exists():
            own_files = {str(place_in_folder) for place_in_folder in self._places}
            others = sorted(
                str(path.relative_to(self._target))
                for path in self._target.rglob("*")
                if path.is_file() and str(path.relative_to(self._target)) not in own_files
            )
            if others:
                raise OutputError(
                    f"-o {self.out} holds {others[0]!r}, which this run would not write; a folder is replaced whole, so give a new one."
                )

    def _check_bucket(self) -> None:
        if not os.access(self._target.parent, os.W_OK | os.X_OK):
            raise OutputError(
                f"-o {self.out}: its parts are kept in {self._target.parent}, which cannot be written; run from another folder."
            )
        own_urls = {self.out + path.as_posix() for path in self._places}
        others = [entry.url for entry in list_objects(self.out) if entry.url not in own_urls] if self.by_input else []
        if others:
            raise OutputError(f"-o {self.out} holds {others[0]!r}, which this run would not write; give a new prefix.")

    def _lock(self) -> None:
        claim(self.folder)
        try:
            alone = self._stack.enter_context(file_lock(self.folder / "lock"))
        except FileNotFoundError:  # the run that had the folder has just ended, and taken it away
            alone = False
        if not alone:
            raise OutputError(f"-o {self.out} is being written by another run; wait for it, or write to another file.")
        self._alone = True

    def _find(self, fingerprint: Mapping[str, str], resume: bool) -> StoppedRun:
        made_from, parts = self._read_journal()
        while parts and not parts[-1].memory:  # a kill came between the lines of parts that were to be kept together
            parts.pop()
        files = [part.file for part in parts] + [part.memory for part in parts[-1:]]
        changed = sorted(name for name in {*fingerprint, *made_from} if fingerprint.get(name) != made_from.get(name))
        if changed == [ON_BAD_ROW] and parts and not self._state_of(parts).get("bad"):
            changed = []  # up to the first bad row all is alike, whatever becomes of such rows
        if not parts or not all((self.folder / file).exists() for file in files) or (changed and not resume):
            return self._discard_parts(parts, changed)
        if changed:
            raise OutputError(
                f"--resume: {' and '.join(changed)} changed since the run that was stopped, so its {sum(p.rows for p in parts):,} rows "
                f"cannot be continued; run without --resume to start again."
            )
        memory = self.folder / parts[-1].memory
        try:
            arrays = read_arrays(memory)
            return StoppedRun(parts, json.loads(bytes(arrays.pop(STATE))), arrays)
        except READ_ERRORS as error:
            if not resume and not isinstance(error, OSError | MemoryError):  # which may have passed the next time
                return self._discard_parts(parts, [])
            raise self._damaged(memory, error) from error

    def _state_of(self, parts: Sequence[PartRecord]) -> Mapping[str, Any]:
        """What the last of some parts was kept with; that something is bad where it cannot be read."""
        try:
            state: dict[str, Any] = json.loads(bytes(read_arrays(self.folder / parts[-1].memory)[STATE]))
        except READ_ERRORS:
            return {"bad": True}
        return state

    def _discard_parts(self, parts: Sequence[PartRecord], changed: list[str]) -> StoppedRun:
        """Discard the parts of an earlier run."""
        self.discarded, self.changed = sum(part.rows for part in parts), changed
        clear(self.folder, keep=("lock",))
        return StoppedRun()

    def _read_journal(self) -> tuple[dict[str, str], list[PartRecord]]:
        """What an earlier run's output was made from, and its parts; nothing where no run left a journal."""
        journal = self.folder / "journal.jsonl"
        if not journal.exists():
            return {}, []
        try:
            return read_journal(journal, len(self._places))
        except (ValueError, TypeError, KeyError) as error:
            if not self._resume:
                return {}, []  # it is about to be cleared away
            raise self._damaged(journal, error) from error

    def _damaged(self, file: Path, error: BaseException) -> OutputError:
        return OutputError(f"--resume: {file} is damaged ({reason(error)[:200]}); run without --resume to start again.")

    @property
    def kept(self) -> int:
        """Rows that a run which ends now leaves for the next."""
        return sum(part.rows for part in self.stopped.parts) if self._keep else 0

    def discard(self) -> None:
        """Keep nothing for the next run, which could not use it."""
        self._keep = False

    # --- during -------------------------------------------------------------------------------------------------------------------------

    def write(self, rows: Batch, keep: Sequence[str], added: pl.DataFrame) -> None:
        """Add rows to the part at hand."""
        with write_errors(self.out):
            if self._part is None:
                path, number = self._place(rows.part), len(self.stopped.parts) + len(self._waiting)
                self._part = (rows.part, PartFile(self.folder / f"{number:06}", self.form, path not in self._begun))
                self._begun.add(path)
            self._part[1].sink.write(rows, keep, added)

    def finish_part(self, rows: int) -> None:
        """Complete the part of the ``rows`` written since the last call."""
        if self._part is not None:
            (number, part), self._part = self._part, None
            with write_errors(self.out):
                part.finish()
            self._waiting.append(PartRecord(part.path.name, number, rows))

    def keep(self, state: Mapping[str, Any], arrays: Arrays) -> None:
        """Make the parts that are complete survive a kill, with what the run knows now."""
        if not self._waiting:
            return
        with write_errors(self.out):
            memory = f"memory-{self._waiting[-1].file}.npz"
            encoded = np.frombuffer(json.dumps(dict(state)).encode(), np.uint8)
            with (self.folder / memory).open("wb") as saved:
                np.savez(saved, **{**arrays, STATE: encoded})  # type: ignore[arg-type]  # its stubs take every keyword for allow_pickle
                saved.flush()
                os.fsync(saved.fileno())
            fsync(self.folder)
            finished = [*self._waiting[:-1], replace(self._waiting[-1], memory=memory)]
            self._waiting = []
            for record in finished:
                self._note(asdict(record))
            for earlier in self.stopped.parts[-1:]:
                (self.folder / earlier.memory).unlink()
            self.stopped.parts.extend(finished)

    def _place(self, number: int) -> Path:
        """The file that the rows of an input go to: one for all, or one each in a folder."""
        return self._places[number] if self.by_input else Path()

    def _note(self, record: Mapping[str, Any]) -> None:
        self._journal.write(json.dumps(record) + "\n")
        self._journal.flush()
        os.fsync(self._journal.fileno())

    # --- after --------------------------------------------------------------------------------------------------------------------------

    def finish(self) -> None:
        """Put the parts together and give the output its name."""
        with write_errors(self.out):
            complete = self.folder / "whole"
            clear(self.folder, names=re.compile(complete.name))
            if self.by_input:
                complete.mkdir()
            by_place: dict[Path, list[Path]] = {}
            for part in self.stopped.parts:
                by_place.setdefault(self._place(part.input), []).append(self.folder / part.file)
            for path, parts in by_place.items():
                target = complete / path if self.by_input else complete
                target.parent.mkdir(parents=True, exist_ok=True)
                if len(parts) == 1:
                    link_or_copy(parts[0], target)
                else:
                    concatenate_files(parts, target, self.form)
            if is_bucket(self.out):
                for path in by_place:
                    upload(complete / path if self.by_input else complete, self.out + (path.as_posix() if self.by_input else ""))
            else:
                self._replace(complete)
        self._keep = False
        self.close()

    def _replace(self, complete: Path) -> None:
        if self.by_input:
            if self._target.exists():
                copy_mode_and_owner(complete, self._target)
            replace_folder(complete, self._target, self.folder / "old")
        else:
            copy_mode_and_owner(complete, self._target)
            complete.rename(self._target)
            fsync(self._target.parent)

    def close(self) -> None:
        """Close the files; finished parts stay."""
        if self._part is not None:
            self._part[1].abandon()
            self._part = None
        if self._alone and not (self._keep and self.stopped.parts):
            delete_private_folder(self.folder)  # while it is locked: another run must not begin in what is about to go
        self._alone = False
        self._stack.close()


def staging_path(out: str) -> Path:
    """Where an output is on its way: its own place, or for a bucket one in the working directory that is this bucket's alone."""
    if not is_bucket(out):
        # Through a link, so that what it points to is replaced and not the link.
        return resolve_link(Path(out))
    return Path.cwd() / f"{Path(out).name}-{hashlib.sha256(out.encode('utf-8', 'surrogateescape')).hexdigest()[:8]}"
