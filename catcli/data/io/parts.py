"""An output that is being written: finished parts beside its place, until it can appear there complete.

    .labeled.parquet.catcli-parts/
    ├── journal.jsonl     what the output is made from, then a line for each part that is kept
    ├── lock              held while a run writes here
    ├── 0123456789ab-000000-000000 …  the parts, named by the identity of their file, their span and their index there
    └── whole             what will be renamed to the output: a file, or a folder of them

Of an output in a bucket, workers without this disk put the parts beside it there; see `catcli.data.io.uploaded_parts`.

A run that is killed leaves this folder; the same command labels what is not in its journal. A part is of its file as it was: of a file that
was changed since, no part is taken.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import re
import secrets
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from catcli.atomic import copy_mode_and_owner, fsync, replace_folder, resolve_link, restore_folder
from catcli.data.io.batch import Batch
from catcli.data.io.buckets import BucketObject, list_objects, upload
from catcli.data.io.inputs import InputFile
from catcli.data.io.journal import ON_BAD_ROW, JournalHead, PartRecord, journal_line, read_journal, read_parts
from catcli.data.io.output import FileFormat, write_errors
from catcli.data.io.part_file import SIDE_FILES, with_extension
from catcli.data.io.streams import display_name, file_state
from catcli.data.io.uploaded_parts import UploadedParts, parts_prefix
from catcli.data.io.writers import concatenate_files
from catcli.errors import CatcliError, OutputError, reason
from catcli.file_lock import file_lock
from catcli.paths import hidden_path, is_bucket, is_folder
from catcli.private_folder import claim, clear, delete_private_folder

JOURNAL = "journal.jsonl"

COMMIT_ROWS, COMMIT_PARTS = 16_384, 1_000
"""Parts are noted in the journal together, once they have so many rows or are so many: files of a hundred rows are thousands of parts."""

UPLOAD_BYTES, UPLOAD_FILES = 64 * 2**20, 1_000
"""Files are uploaded together, once they have so many bytes or are so many: what waits for that is on this machine's disk."""


@dataclass(frozen=True)
class PartsInput:
    """An input of an output: its place, which names its file in a folder, its identity as it is now, and its name in sentences."""

    place: Path
    identity: str
    name: str

    @classmethod
    def of(cls, files: Sequence[InputFile], fingerprint: Mapping[str, str]) -> tuple[Self, ...]:
        """Those of some files: where each is, its size and time, and how often it was there before in the same run.

        The ``fingerprint`` of the run is in them, too: a worker that outlives its run writes no part of another's.
        """
        seen: Counter[str] = Counter()
        inputs = []
        made_from = [value for name, value in sorted(fingerprint.items()) if name != ON_BAD_ROW]
        for file in files:
            path = str(file.path if isinstance(file.path, BucketObject) else file.path.resolve())
            facts = json.dumps([path, (file_state(file.path) or ())[:2], file.spelled, seen[path], made_from])
            seen[path] += 1
            identity = hashlib.sha256(facts.encode("utf-8", "surrogatepass")).hexdigest()[:12]
            inputs.append(cls(file.place, identity, display_name(file.path)))
        return tuple(inputs)


class Parts:
    """Takes parts of an output, keeps them through a kill, and puts them together at the end."""

    def __init__(
        self,
        out: str,
        form: FileFormat,
        inputs: Sequence[PartsInput],
        fingerprint: Mapping[str, str],
        *,
        resume: bool,
        keep: bool = True,
        on_resumed: Callable[[Mapping[str, Any]], None] = lambda _: None,
    ) -> None:
        """``fingerprint`` hashes what the output is made from besides ``inputs``, by the names that sentences use.

        The parts that a stopped run left of the same output are kept. Where they were made from something else, they stop a run that is to
        ``resume``, and make room for one that is not; ``discarded`` counts those rows and ``changed`` says what is another.

        ``on_resumed`` gets the counts of each part that is kept.

        Without ``keep`` nothing stays of a run that ends early: its input came through a pipe and will not come again.

        Raises:
            OutputError: the place cannot be written.
        """
        self.out, self.form = out, form
        self._target = staging_path(out)
        self.by_input = is_folder(out)
        self._inputs = {entry.identity: number for number, entry in enumerate(inputs)}
        self._names = [entry.name for entry in inputs]
        self._places = [with_extension(entry.place, form) for entry in inputs]
        self._check()
        self._fingerprint, self._resume, self._keep, self._on_resumed = dict(fingerprint), resume, keep, on_resumed
        self.done: dict[tuple[str, int, int], PartRecord] = {}
        self._run = secrets.token_hex(8)
        self._has_uploaded = False
        self.folder = hidden_path(self._target, "catcli-parts")
        self._stack = ExitStack()
        self._waiting: list[tuple[PartRecord, Mapping[str, Any]]] = []
        self._may_delete = False
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
                head, records = self._read_journal()
                new, self._run = self._run, head.run or self._run
                self.done = {record.place: record for record in self._usable(head, records)}
                if not self.done:  # a worker of the earlier run may still be at work on parts of the same names
                    if self._has_uploaded:
                        UploadedParts(self.uploads).clear()
                    self._run = new
                kept = {f"{record.part}{ending}" for record in self.done.values() for ending in ("", *SIDE_FILES)}
                clear(self.folder, keep={"lock", JOURNAL, *kept})
                self._write_journal()
        except CatcliError:
            self._stack.close()
            raise
        except BaseException:
            self.close()
            raise
        self._may_delete = True
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
        self._may_delete = not (self.folder / JOURNAL).exists()  # else once it was read, and is of no use
        self._alone = True

    def _usable(self, head: JournalHead, records: Sequence[PartRecord]) -> list[PartRecord]:
        """The parts that this run can take.

        Raises:
            OutputError: there are some, they were made from something else, and the run is to go on from them.
        """
        if not records:
            return []
        names = {*self._fingerprint, *head.made_from}
        changed = sorted(name for name in names if self._fingerprint.get(name) != head.made_from.get(name))
        usable = list(records)
        if changed == [ON_BAD_ROW]:
            usable = _before_bad_rows(records)  # up to the first bad row all is alike, whatever becomes of such rows
            changed = [] if len(usable) == len(records) else changed
        if changed and self._resume and (changed != [ON_BAD_ROW] or not usable):
            raise OutputError(
                f"--resume: {' and '.join(changed)} changed since the run that was stopped, so its {_count_rows(records):,} rows "
                f"cannot be continued; run without --resume to start again."
            )
        if changed not in ([], [ON_BAD_ROW]):
            usable = []
        uploaded, here = UploadedParts(self.uploads), {record.part for record in records if (self.folder / record.part).exists()}
        self._has_uploaded = bool(self.uploads) and len(here) < len(records)
        complete = [record for record in usable if record.place[0] in self._inputs and (record.part in here or record.part in uploaded)]
        # Rows of a file that is no longer in the catalog are not labeled again.
        names_now = set(self._names)
        there = [record for record in records if head.files.get(record.place[0]) in names_now]
        mended = {head.files[record.place[0]] for record in there if record.place[0] not in self._inputs}
        self.changed = changed or sorted(mended)
        self.discarded = _count_rows(there) - _count_rows(complete)
        return complete

    @property
    def uploads(self) -> str:
        """The prefix below which workers without this disk put the parts of an output in a bucket; empty where it is in none."""
        return parts_prefix(self.out, self._run) if is_bucket(self.out) else ""

    def _read_journal(self) -> tuple[JournalHead, list[PartRecord]]:
        """The head and the parts of an earlier run's journal; nothing where no run left one."""
        journal = self.folder / JOURNAL
        if not journal.exists():
            return JournalHead(), []
        try:
            return read_journal(journal)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            if not self._resume:
                return JournalHead(), []  # it is about to be cleared away
            raise OutputError(f"--resume: {journal} is damaged ({reason(error)[:200]}); run without --resume to start again.") from error

    def _write_journal(self) -> None:
        """Begin the journal of this run with the parts that it takes over, whose counts are added up."""
        new = self._stack.enter_context((self.folder / "journal.new").open("w", encoding="utf-8"))
        head = JournalHead(self._fingerprint, dict(zip(self._inputs, self._names, strict=False)), self._run)
        new.write(json.dumps(asdict(head)) + "\n")
        if self.done:
            taken = {record.part for record in self.done.values()}
            for part, counts in read_parts(self.folder / JOURNAL):
                if part in taken:
                    new.write(journal_line(part, counts))
                    self._on_resumed(counts)
        new.flush()
        os.fsync(new.fileno())
        (self.folder / "journal.new").replace(self.folder / JOURNAL)
        fsync(self.folder)
        self._journal = new

    def shards(self) -> dict[tuple[int, int, int], int]:
        """The shards that are done, and their rows: by the number of the file, of the span in it, and of the shard in that."""
        return {(self._inputs[identity], span, index): record.rows for (identity, span, index), record in self.done.items()}

    @property
    def kept(self) -> int:
        """Rows that a run which ends now leaves for the next."""
        return _count_rows(self.done.values()) if self._keep else 0

    def discard_changed(self, inputs: Sequence[PartsInput]) -> None:
        """Keep no part of an input that is not among ``inputs`` as it was: the next run could not use it."""
        now = {entry.identity for entry in inputs}
        self.done = {place: record for place, record in self.done.items() if place[0] in now}

    # --- during -------------------------------------------------------------------------------------------------------------------------

    def add(self, part: str, counts: Mapping[str, Any]) -> None:
        """Take in a part, which lies in the folder or was uploaded, and the counts of its rows; soon it survives a kill."""
        self._has_uploaded |= bool(self.uploads) and not (self.folder / part).exists()
        self._waiting.append((PartRecord(part, counts.get("rows", 0), counts.get("bad", 0)), counts))
        if len(self._waiting) >= COMMIT_PARTS or sum(record.rows for record, _ in self._waiting) >= COMMIT_ROWS:
            self.commit()

    def commit(self) -> None:
        """Make all parts survive a kill."""
        if self._waiting:
            with write_errors(self.out):
                fsync(self.folder)
                self._journal.writelines(journal_line(record.part, counts) for record, counts in self._waiting)
                self._journal.flush()
                os.fsync(self._journal.fileno())
                self.done.update((record.place, record) for record, _ in self._waiting)
                self._waiting = []

    # --- after --------------------------------------------------------------------------------------------------------------------------

    def beside(self, ending: str) -> list[Path]:
        """The files of this ``ending`` beside the parts, in the order of the rows."""
        paths = (self.folder / f"{record.part}{ending}" for record in self._in_order())
        return [path for path in paths if path.exists()]

    def _in_order(self) -> list[PartRecord]:
        return sorted(self.done.values(), key=lambda record: (self._inputs[record.place[0]], *record.place[1:]))

    def finish(self, columns: Batch) -> None:
        """Put the parts together and give the output its name; ``columns`` are those of the output, without a row."""
        self.commit()
        with write_errors(self.out):
            complete = self.folder / "whole"
            clear(self.folder, names=re.compile(complete.name))
            if self.by_input or is_bucket(self.out):
                complete.mkdir()
            by_place: dict[Path, list[str]] = {}
            for record in self._in_order():
                place = self._places[self._inputs[record.place[0]]] if self.by_input else Path()
                by_place.setdefault(place, []).append(record.part)
            if is_bucket(self.out):
                self._upload(by_place, complete, columns)
            else:
                for path, parts in by_place.items():
                    target = complete / path if self.by_input else complete
                    target.parent.mkdir(parents=True, exist_ok=True)
                    concatenate_files([self.folder / part for part in parts], target, self.form, columns)
                self._replace(complete)
        self._keep = False
        self.close()

    def _upload(self, by_place: Mapping[Path, Sequence[str]], folder: Path, columns: Batch) -> None:
        """Put the files together in ``folder``, some at a time, and upload them."""
        waiting: dict[str, Path] = {}
        uploaded = UploadedParts(self.uploads)
        for number, (place, parts) in enumerate(by_place.items(), 1):
            fetched = {part for part in parts if not (self.folder / part).exists()}
            for part in fetched:
                uploaded.fetch(part, folder / part)
            target = folder / f"{number}"
            concatenate_files([(folder if part in fetched else self.folder) / part for part in parts], target, self.form, columns)
            for part in fetched:
                (folder / part).unlink()
            waiting[self.out + (place.as_posix() if self.by_input else "")] = target
            size = sum(file.stat().st_size for file in waiting.values())
            if size >= UPLOAD_BYTES or len(waiting) >= UPLOAD_FILES or number == len(by_place):
                upload(waiting)
                for file in waiting.values():
                    file.unlink()
                waiting = {}

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
        """Close the journal; finished parts stay."""
        if self._alone and self._may_delete and not (self._keep and self.done):
            if self._has_uploaded:
                UploadedParts(self.uploads).clear()
            delete_private_folder(self.folder)  # while it is locked: another run must not begin in what is about to go
        self._alone = False
        self._stack.close()


def _count_rows(records: Iterable[PartRecord]) -> int:
    return sum(record.rows for record in records)


def _before_bad_rows(records: Sequence[PartRecord]) -> list[PartRecord]:
    """Of each span the parts from the first on, up to one with a row that could not be read, or to one that is missing."""
    usable = []
    ordered = sorted(records, key=lambda record: record.place)
    for _, parts in itertools.groupby(ordered, key=lambda record: record.place[:2]):
        whole = itertools.takewhile(lambda pair: pair[0] == pair[1].place[2] and not pair[1].bad, enumerate(parts))
        usable += [record for _, record in whole]
    return usable


def staging_path(out: str) -> Path:
    """Where an output is on its way: its own place, or for a bucket one in the working directory that is this bucket's alone."""
    if not is_bucket(out):
        # Through a link, so that what it points to is replaced and not the link.
        return resolve_link(Path(out))
    return Path.cwd() / f"{Path(out).name}-{hashlib.sha256(out.encode('utf-8', 'surrogateescape')).hexdigest()[:8]}"
