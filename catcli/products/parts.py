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
import zipfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import polars as pl

from catcli import atomic, places
from catcli.errors import CatcliError, OutputError, reason
from catcli.places import is_bucket
from catcli.products.batch import Batch
from catcli.products.buckets import below, upload
from catcli.products.read import ENDINGS, unpacked
from catcli.products.write import Form, Sink, filled, is_folder, joined, writing

Arrays = Mapping[str, npt.NDArray[Any]]

ON_BAD_ROW = "--on-bad-row"
"""The name in a mark of what becomes of rows that cannot be read."""

UNREADABLE = (ValueError, KeyError, OSError, EOFError, MemoryError, zipfile.BadZipFile)
"""What reading a run's memory raises where it is damaged or cannot be read."""

_STATE = "state"
"""The array among a run's memory that holds its counts, as JSON."""


@dataclass(frozen=True)
class Record:
    """A finished part: its file, the number of the input that its rows came from, and how many they are.

    ``memory`` is the file of what was known after it, if it was the last of those that were kept together.
    """

    file: str
    input: int
    rows: int
    memory: str = ""


@dataclass
class Left:
    """What an earlier run left: how far it came, and what it knew there."""

    parts: list[Record] = field(default_factory=list)
    state: dict[str, Any] = field(default_factory=dict)
    arrays: Arrays = field(default_factory=dict)

    @property
    def keeps(self) -> int:
        """How often parts were kept."""
        return sum(bool(part.memory) for part in self.parts)


class Parts:
    """Takes rows and writes them to parts; a part that is finished survives a kill."""

    def __init__(
        self, out: str, form: Form, places_in: Sequence[Path], mark: Mapping[str, str], *, resume: bool, keep: bool = True
    ) -> None:
        """``places_in`` are the inputs' places, which name the files of an output folder; ``mark`` says what the output is made from.

        What a stopped run left of the same output is gone on from. What it left of another, with other options say, stops a run that
        is to ``resume``, and makes room for one that is not; ``discarded`` counts those rows and ``changed`` says what is another.

        Without ``keep`` nothing stays of a run that ends early: its input came through a pipe and will not come again.

        Raises:
            OutputError: the place cannot be written.
        """
        self.out, self.form = out, form
        self._target = place_for(out)
        self.by_input = is_folder(out)
        self._places = [_renamed(place, form) for place in places_in]
        self._check()
        self._mark, self._resume, self._keep = dict(mark), resume, keep
        self.left = Left()
        self.beside = places.hidden(self._target, "catcli-parts")
        self._stack = ExitStack()
        self._part: tuple[int, _Part] | None = None
        self._waiting: list[Record] = []
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
            with writing(self.out):
                self._lock()
                self._restore()
                self.left = self._find(self._mark, self._resume)
                # Written anew, since a kill may have cut the last line short.
                self._journal = self._stack.enter_context((self.beside / "journal.new").open("w", encoding="utf-8"))
                self._begun = {self._place(part.input) for part in self.left.parts}
                for record in ({"mark": self._mark}, *map(asdict, self.left.parts)):
                    self._note(record)
                (self.beside / "journal.new").replace(self.beside / "journal.jsonl")
                atomic.sync(self.beside)
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
        others = [one.url for one in below(self.out) if one.url not in ours] if self.by_input else []
        if others:
            raise OutputError(f"-o {self.out} holds {others[0]!r}, which this run would not write; give a new prefix.")

    def _lock(self) -> None:
        atomic.claim(self.beside)
        try:
            alone = self._stack.enter_context(atomic.file_lock(self.beside / "lock"))
        except FileNotFoundError:  # the run that had the folder has just ended, and taken it away
            alone = False
        if not alone:
            raise OutputError(f"-o {self.out} is being written by another run; wait for it, or write to another file.")
        self._alone = True

    def _restore(self) -> None:
        """A run that was killed between the two renames that replace a folder left the old one here."""
        atomic.restore(self._target, self.beside / "old")

    def _find(self, mark: Mapping[str, str], resume: bool) -> Left:
        made_from, parts = self._read_journal()
        while parts and not parts[-1].memory:  # a kill came between the lines of parts that were to be kept together
            parts.pop()
        files = [part.file for part in parts] + [part.memory for part in parts[-1:]]
        changed = sorted(name for name in {*mark, *made_from} if mark.get(name) != made_from.get(name))
        if changed == [ON_BAD_ROW] and parts and not self._state_of(parts).get("bad"):
            changed = []  # up to the first bad row all is alike, whatever becomes of such rows
        if not parts or not all((self.beside / file).exists() for file in files) or (changed and not resume):
            return self._anew(parts, changed)
        if changed:
            raise OutputError(
                f"--resume: {' and '.join(changed)} changed since the run that was stopped, so its {sum(p.rows for p in parts):,} rows "
                f"cannot be gone on from; run without --resume to start anew."
            )
        memory = self.beside / parts[-1].memory
        try:
            arrays = _arrays(memory)
            return Left(parts, json.loads(bytes(arrays.pop(_STATE))), arrays)
        except UNREADABLE as error:
            if not resume and not isinstance(error, OSError | MemoryError):  # which may have passed the next time
                return self._anew(parts, [])
            raise self._damaged(memory, error) from error

    def _state_of(self, parts: Sequence[Record]) -> Mapping[str, Any]:
        """What the last of some parts was kept with; that something is bad where it cannot be read."""
        try:
            found: dict[str, Any] = json.loads(bytes(_arrays(self.beside / parts[-1].memory)[_STATE]))
        except UNREADABLE:
            return {"bad": True}
        return found

    def _anew(self, parts: Sequence[Record], changed: list[str]) -> Left:
        """Make room for a run that begins anew."""
        self.discarded, self.changed = sum(part.rows for part in parts), changed
        atomic.clear(self.beside, keep=("lock",))
        return Left()

    def _read_journal(self) -> tuple[dict[str, str], list[Record]]:
        """What an earlier run's output was made from, and its parts; nothing where no run left a journal."""
        journal = self.beside / "journal.jsonl"
        if not journal.exists():
            return {}, []
        try:
            return _journal_of(journal, len(self._places))
        except (ValueError, TypeError, KeyError) as error:
            if not self._resume:
                return {}, []  # it is about to be cleared away
            raise self._damaged(journal, error) from error

    def _damaged(self, file: Path, error: BaseException) -> OutputError:
        return OutputError(f"--resume: {file} is damaged ({reason(error)[:200]}); run without --resume to start anew.")

    @property
    def kept(self) -> int:
        """Rows that a run which ends now leaves for the next."""
        return sum(part.rows for part in self.left.parts) if self._keep else 0

    def discard(self) -> None:
        """Leave nothing for the next run: what was done is of no use to it."""
        self._keep = False

    # --- during -------------------------------------------------------------------------------------------------------------------------

    def write(self, rows: Batch, keep: Sequence[str], added: pl.DataFrame) -> None:
        """Add rows to the part at hand."""
        with writing(self.out):
            if self._part is None:
                place, number = self._place(rows.part), len(self.left.parts) + len(self._waiting)
                self._part = (rows.part, _Part(self.beside / f"{number:06}", self.form, place not in self._begun))
                self._begun.add(place)
            self._part[1].sink.write(rows, keep, added)

    def finish_part(self, rows: int) -> None:
        """Complete the part of the ``rows`` written since the last call."""
        if self._part is not None:
            (number, part), self._part = self._part, None
            with writing(self.out):
                part.finish()
            self._waiting.append(Record(part.path.name, number, rows))

    def keep(self, state: Mapping[str, Any], arrays: Arrays) -> None:
        """Make the parts that are complete survive a kill, with what the run knows now."""
        if not self._waiting:
            return
        with writing(self.out):
            memory = f"memory-{self._waiting[-1].file}.npz"
            told = np.frombuffer(json.dumps(dict(state)).encode(), np.uint8)
            with (self.beside / memory).open("wb") as saved:
                np.savez(saved, **{**arrays, _STATE: told})  # type: ignore[arg-type]  # its stubs take every keyword for allow_pickle
                saved.flush()
                os.fsync(saved.fileno())
            atomic.sync(self.beside)
            kept = [*self._waiting[:-1], replace(self._waiting[-1], memory=memory)]
            self._waiting = []
            for record in kept:
                self._note(asdict(record))
            for earlier in self.left.parts[-1:]:
                (self.beside / earlier.memory).unlink()
            self.left.parts.extend(kept)

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
        with writing(self.out):
            whole = self.beside / "whole"
            atomic.clear(self.beside, names=re.compile(whole.name))
            if self.by_input:
                whole.mkdir()
            by_place: dict[Path, list[Path]] = {}
            for part in self.left.parts:
                by_place.setdefault(self._place(part.input), []).append(self.beside / part.file)
            for place, parts in by_place.items():
                target = whole / place if self.by_input else whole
                target.parent.mkdir(parents=True, exist_ok=True)
                if len(parts) == 1:
                    _linked(parts[0], target)
                else:
                    joined(parts, target, self.form)
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
                atomic.take_over(whole, self._target)
            atomic.replace(whole, self._target, self.beside / "old")
        else:
            atomic.take_over(whole, self._target)
            whole.rename(self._target)
            atomic.sync(self._target.parent)

    def close(self) -> None:
        """Let go of the files; finished parts stay."""
        if self._part is not None:
            self._part[1].abandon()
            self._part = None
        if self._alone and not (self._keep and self.left.parts):
            atomic.discard(self.beside)  # while it is locked: another run must not begin in what is about to go
        self._alone = False
        self._stack.close()


def place_for(out: str) -> Path:
    """Where an output is on its way: its own place, or for a bucket one in the working directory that is this bucket's alone."""
    if not is_bucket(out):
        # Through a link, so that what it points to is replaced and not the link.
        return atomic.followed(Path(out))
    return Path.cwd() / f"{Path(out).name}-{hashlib.sha256(out.encode('utf-8', 'surrogateescape')).hexdigest()[:8]}"


class _Part:
    """One file that is being written."""

    def __init__(self, path: Path, form: Form, header: bool) -> None:
        self.path = path
        self._stack = ExitStack()
        file = self._stack.enter_context(path.open("wb"))
        self.sink: Sink = self._stack.enter_context(filled(file, form, header=header))

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


def _linked(part: Path, target: Path) -> None:
    """The part under another name too: where a kill comes before the output stands, the next run finds all parts."""
    try:
        os.link(part, target)
    except OSError:  # a disk without such links
        shutil.copyfile(part, target)


def _renamed(place: Path, form: Form) -> Path:
    """A file's name with the ending of ``form``."""
    stem = unpacked(place)
    stem = stem.with_suffix("") if stem.suffix.lower() in ENDINGS else stem
    ending = next(ending for ending, kind in ENDINGS.items() if kind == form.format)
    return stem.with_name(stem.name + ending + form.packing)


MAX_JOURNAL, MAX_MEMORY = 2**28, 2**31
"""Bytes of a journal, a line of some hundred bytes for each part, and of what a run knows, which `catcli.runtime.recall` bounds."""

_PART, _MEMORY = re.compile(r"\d{6}"), re.compile(r"(memory-\d{6}\.npz)?")


def _journal_of(journal: Path, inputs: int) -> tuple[dict[str, str], list[Record]]:
    """What the first line of a journal says the output is made from, and the parts of the other lines.

    Raises:
        ValueError, TypeError, KeyError: it is none that `Parts` wrote. The last line may have been cut short by a kill, and is no fault.
    """
    if journal.stat().st_size > MAX_JOURNAL:
        raise ValueError(f"it has more than {MAX_JOURNAL:,} bytes")
    first, *lines = journal.read_text(encoding="utf-8").splitlines() or ["{}"]
    made_from = {str(name): str(value) for name, value in dict(json.loads(first)["mark"]).items()}
    parts = []
    for number, line in enumerate(lines):
        try:
            part = Record(**json.loads(line))
        except ValueError:
            if number == len(lines) - 1:
                break
            raise
        counts = (part.input, part.rows)
        named = _PART.fullmatch(part.file) and _MEMORY.fullmatch(part.memory)  # a TypeError of what is no text
        if not (named and all(type(count) is int and count >= 0 for count in counts) and part.input < inputs):
            raise ValueError(f"line {number + 2} is no part of this output")
        parts.append(part)
    return made_from, parts


def _arrays(memory: Path) -> dict[str, npt.NDArray[Any]]:
    """The arrays of a file that `Parts.keep` wrote; nothing in it is compressed, so that none is larger than the file."""
    with zipfile.ZipFile(memory) as packed:
        if memory.stat().st_size > MAX_MEMORY or any(entry.compress_type != zipfile.ZIP_STORED for entry in packed.infolist()):
            raise ValueError("it is larger than what a run keeps, or compressed")
    with np.load(memory, allow_pickle=False) as saved:
        return dict(saved)
