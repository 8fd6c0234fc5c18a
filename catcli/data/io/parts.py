"""An output in the making: finished parts beside its place, until it can appear there whole.

    .labeled.parquet.catcli-parts/
    ├── journal.jsonl     what the output is made from, then a line for each part that is kept
    ├── lock              held while a run writes here
    ├── 000000, 000001 …  the parts
    ├── memory-….npz      what the run knew when the last of them was kept
    └── whole             what will be renamed to the output: a file, or a folder of them

A run that is killed leaves this folder; the same line goes on from the last line of its journal.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import polars as pl

from catcli.atomic import copy_mode_and_owner, fsync, replace_folder, resolve_link, restore_folder
from catcli.data.io.batch import Batch
from catcli.data.io.buckets import list_objects, upload
from catcli.data.io.formats import EXTENSIONS, without_compression
from catcli.data.io.journal import ON_BAD_ROW, READ_ERRORS, STATE, Arrays, PartRecord, StoppedRun, read_arrays, read_journal
from catcli.data.io.output import FileFormat, write_errors
from catcli.data.io.writers import RowWriter, concatenate_files, open_writer
from catcli.errors import CatcliError, OutputError, reason
from catcli.file_lock import file_lock
from catcli.paths import hidden_path, is_bucket, is_folder
from catcli.private_folder import claim, clear, delete_private_folder


class Parts:
    """Takes rows and writes them to parts; a part that is finished survives a kill."""

    def __init__(
        self, out: str, form: FileFormat, places_in: Sequence[Path], mark: Mapping[str, str], *, resume: bool, keep: bool = True
    ) -> None:
        """``places_in`` are the inputs' places, which name the files of an output folder; ``mark`` says what the output is made from.

        What a stopped run left of the same output is gone on from. What it left of another, with other options say, stops a run that
        is to ``resume``, and makes room for one that is not; ``discarded`` counts those rows and ``changed`` says what is another.

        Without ``keep`` nothing stays of a run that ends early: its input came through a pipe and will not come again.

        Raises:
            OutputError: the place cannot be written.
        """
        self.out, self.form = out, form
        self._target = staging_path(out)
        self.by_input = is_folder(out)
        self._places = [_with_extension(place, form) for place in places_in]
        self._check()
        self._mark, self._resume, self._keep = dict(mark), resume, keep
        self.stopped = StoppedRun()
        self.folder = hidden_path(self._target, "catcli-parts")
        self._stack = ExitStack()
        self._part: tuple[int, _Part] | None = None
        self._waiting: list[PartRecord] = []
        self._begun: set[Path] = set()
        self.discarded = 0
        self.changed: list[str] = []
        self._alone = False

    def __enter__(self) -> Self:
        """Take the place, and find what an earlier run left there.

        Raises:
            OutputError: the place cannot be written, another run is writing there, or what is there was made from something else.
        """
        try:
            with write_errors(self.out):
                self._lock()
                self._restore()
                self.stopped = self._find(self._mark, self._resume)
                # Written anew, since a kill may have cut the last line short.
                self._journal = self._stack.enter_context((self.folder / "journal.new").open("w", encoding="utf-8"))
                self._begun = {self._place(part.input) for part in self.stopped.parts}
                for record in ({"mark": self._mark}, *map(asdict, self.stopped.parts)):
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
        """Let go of the files; finished parts stay."""
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
            ours = {str(place) for place in self._places}
            others = sorted(
                str(path.relative_to(self._target))
                for path in self._target.rglob("*")
                if path.is_file() and str(path.relative_to(self._target)) not in ours
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
        ours = {self.out + place.as_posix() for place in self._places}
        others = [one.url for one in list_objects(self.out) if one.url not in ours] if self.by_input else []
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

    def _restore(self) -> None:
        """A run that was killed between the two renames that replace a folder left the old one here."""
        restore_folder(self._target, self.folder / "old")

    def _find(self, mark: Mapping[str, str], resume: bool) -> StoppedRun:
        made_from, parts = self._read_journal()
        while parts and not parts[-1].memory:  # a kill came between the lines of parts that were to be kept together
            parts.pop()
        files = [part.file for part in parts] + [part.memory for part in parts[-1:]]
        changed = sorted(name for name in {*mark, *made_from} if mark.get(name) != made_from.get(name))
        if changed == [ON_BAD_ROW] and parts and not self._state_of(parts).get("bad"):
            changed = []  # up to the first bad row all is alike, whatever becomes of such rows
        if not parts or not all((self.folder / file).exists() for file in files) or (changed and not resume):
            return self._anew(parts, changed)
        if changed:
            raise OutputError(
                f"--resume: {' and '.join(changed)} changed since the run that was stopped, so its {sum(p.rows for p in parts):,} rows "
                f"cannot be gone on from; run without --resume to start anew."
            )
        memory = self.folder / parts[-1].memory
        try:
            arrays = read_arrays(memory)
            return StoppedRun(parts, json.loads(bytes(arrays.pop(STATE))), arrays)
        except READ_ERRORS as error:
            if not resume and not isinstance(error, OSError | MemoryError):  # which may have passed the next time
                return self._anew(parts, [])
            raise self._damaged(memory, error) from error

    def _state_of(self, parts: Sequence[PartRecord]) -> Mapping[str, Any]:
        """What the last of some parts was kept with; that something is bad where it cannot be read."""
        try:
            found: dict[str, Any] = json.loads(bytes(read_arrays(self.folder / parts[-1].memory)[STATE]))
        except READ_ERRORS:
            return {"bad": True}
        return found

    def _anew(self, parts: Sequence[PartRecord], changed: list[str]) -> StoppedRun:
        """Make room for a run that begins anew."""
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
        return OutputError(f"--resume: {file} is damaged ({reason(error)[:200]}); run without --resume to start anew.")

    @property
    def kept(self) -> int:
        """Rows that a run which ends now leaves for the next."""
        return sum(part.rows for part in self.stopped.parts) if self._keep else 0

    def discard(self) -> None:
        """Leave nothing for the next run: what was done is of no use to it."""
        self._keep = False

    # --- during -------------------------------------------------------------------------------------------------------------------------

    def write(self, rows: Batch, keep: Sequence[str], added: pl.DataFrame) -> None:
        """Add rows to the part at hand."""
        with write_errors(self.out):
            if self._part is None:
                place, number = self._place(rows.part), len(self.stopped.parts) + len(self._waiting)
                self._part = (rows.part, _Part(self.folder / f"{number:06}", self.form, place not in self._begun))
                self._begun.add(place)
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
            told = np.frombuffer(json.dumps(dict(state)).encode(), np.uint8)
            with (self.folder / memory).open("wb") as saved:
                np.savez(saved, **{**arrays, STATE: told})  # type: ignore[arg-type]  # its stubs take every keyword for allow_pickle
                saved.flush()
                os.fsync(saved.fileno())
            fsync(self.folder)
            kept = [*self._waiting[:-1], replace(self._waiting[-1], memory=memory)]
            self._waiting = []
            for record in kept:
                self._note(asdict(record))
            for earlier in self.stopped.parts[-1:]:
                (self.folder / earlier.memory).unlink()
            self.stopped.parts.extend(kept)

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
            whole = self.folder / "whole"
            clear(self.folder, names=re.compile(whole.name))
            if self.by_input:
                whole.mkdir()
            by_place: dict[Path, list[Path]] = {}
            for part in self.stopped.parts:
                by_place.setdefault(self._place(part.input), []).append(self.folder / part.file)
            for place, parts in by_place.items():
                target = whole / place if self.by_input else whole
                target.parent.mkdir(parents=True, exist_ok=True)
                if len(parts) == 1:
                    _link_or_copy(parts[0], target)
                else:
                    concatenate_files(parts, target, self.form)
            if is_bucket(self.out):
                for place in by_place:
                    upload(whole / place if self.by_input else whole, self.out + (place.as_posix() if self.by_input else ""))
            else:
                self._replace(whole)
        self._keep = False
        self.close()

    def _replace(self, whole: Path) -> None:
        if self.by_input:
            if self._target.exists():
                copy_mode_and_owner(whole, self._target)
            replace_folder(whole, self._target, self.folder / "old")
        else:
            copy_mode_and_owner(whole, self._target)
            whole.rename(self._target)
            fsync(self._target.parent)

    def close(self) -> None:
        """Let go of the files; finished parts stay."""
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


class _Part:
    """One file that is being written."""

    def __init__(self, path: Path, form: FileFormat, header: bool) -> None:
        self.path = path
        self._stack = ExitStack()
        file = self._stack.enter_context(path.open("wb"))
        self.sink: RowWriter = self._stack.enter_context(open_writer(file, form, header=header))

    def finish(self) -> None:
        """Write the rest, to the disk itself."""
        self._stack.close()

    def abandon(self) -> None:
        """Delete it."""
        self.sink.abandon()
        with suppress(OSError):
            self._stack.__exit__(_Abandoned, _Abandoned(), None)
        self.path.unlink(missing_ok=True)


class _Abandoned(Exception):  # noqa: N818  (says to what is open that its bytes are of no use)
    pass


def _link_or_copy(part: Path, target: Path) -> None:
    """The part under another name too: where a kill comes before the output stands, the next run finds all parts."""
    try:
        os.link(part, target)
    except OSError:  # a disk without such links
        shutil.copyfile(part, target)


def _with_extension(place: Path, form: FileFormat) -> Path:
    """A file's name with the ending of ``form``."""
    stem = without_compression(place)
    stem = stem.with_suffix("") if stem.suffix.lower() in EXTENSIONS else stem
    ending = next(ending for ending, kind in EXTENSIONS.items() if kind == form.format)
    return stem.with_name(stem.name + ending + form.packing)
