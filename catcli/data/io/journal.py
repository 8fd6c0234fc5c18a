"""The journal of an output that is being written: what it is made from, and its finished parts."""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

ON_BAD_ROW = "--on-bad-row"
"""The name in a fingerprint of the policy for bad rows."""

READ_ERRORS = (ValueError, KeyError, OSError, EOFError, MemoryError, zipfile.BadZipFile)
"""What reading a run's saved arrays raises where they are damaged or cannot be read."""

MAX_LINE, MAX_ARRAY_BYTES = 2**24, 2**31
"""Characters of a line of a journal, which counts the rows of each category, and bytes of a file of arrays."""

PART_NAME = re.compile(r"([0-9a-f]{12})-(\d{6})-(\d{6})")
"""The name of a part: its file's identity, its span and its index there."""

RUN_NAME = re.compile(r"[0-9a-f]{16}")
"""The name of a run."""


@dataclass(frozen=True)
class PartRecord:
    """A finished part: its name, and how many rows it has, and how many that could not be read."""

    part: str
    rows: int
    bad: int

    @property
    def place(self) -> tuple[str, int, int]:
        """The identity of its file, its span and its index there."""
        identity, span, index = self.part.split("-")
        return identity, int(span), int(index)


@dataclass(frozen=True)
class JournalHead:
    """What an output is made from, by the names that sentences use, the names of its files by their identities, and the run's own name.

    By that name other machines know what is of the run; a run that goes on from another keeps it.
    """

    made_from: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)
    run: str = ""


def journal_line(part: str, counts: Mapping[str, Any]) -> str:
    """The line of a part; ``counts`` are of its rows, ``rows`` and ``bad`` among them."""
    return json.dumps({"part": part, "counts": counts}) + "\n"


def read_journal(journal: Path) -> tuple[JournalHead, list[PartRecord]]:
    """The head of a journal, and its parts.

    Raises:
        ValueError, TypeError, KeyError: it is none that `Parts` wrote. The last line may have been cut short by a kill, and is not a fault.
    """
    with journal.open(encoding="utf-8") as lines:
        head = json.loads(_bounded(lines) or "{}")
        made_from, files = ({str(name): str(value) for name, value in dict(head[part]).items()} for part in ("made_from", "files"))
        run = str(head.get("run", ""))
        if run and not RUN_NAME.fullmatch(run):
            raise ValueError("it names a run as no run is named")
    parts = [PartRecord(part, counts.get("rows", 0), counts.get("bad", 0)) for part, counts in read_parts(journal)]
    return JournalHead(made_from, files, run), parts


def read_parts(journal: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """The names and counts of a journal's parts, line by line; raises as `read_journal` does."""
    with journal.open(encoding="utf-8") as lines:
        _bounded(lines)
        number = 1
        while line := _bounded(lines):
            number += 1
            if not line.endswith("\n"):
                return  # cut short by a kill
            part = json.loads(line)
            if set(part) != {"part", "counts"} or not (PART_NAME.fullmatch(part["part"]) and _are_counts(part["counts"])):
                raise ValueError(f"line {number} is not a part of this output")
            yield part["part"], part["counts"]


def _bounded(lines: IO[str]) -> str:
    """The next line."""
    line = lines.readline(MAX_LINE + 1)
    if len(line) > MAX_LINE:
        raise ValueError(f"a line of it has more than {MAX_LINE:,} characters")
    return line


def _are_counts(counts: object) -> bool:
    """Whether these are counts of a part: whole numbers from 0 on by name, or by name and number of a category."""
    if not isinstance(counts, dict):
        return False
    numbers = [number for value in counts.values() for number in (value.values() if isinstance(value, dict) else (value,))]
    return all(type(number) is int and number >= 0 for number in numbers)


def read_arrays(saved_file: Path) -> dict[str, npt.NDArray[Any]]:
    """The arrays of a file of ``numpy.savez``; nothing in it is compressed, so that none is larger than the file."""
    with zipfile.ZipFile(saved_file) as packed:
        if saved_file.stat().st_size > MAX_ARRAY_BYTES or any(entry.compress_type != zipfile.ZIP_STORED for entry in packed.infolist()):
            raise ValueError("it is larger than what a run keeps, or compressed")
    with np.load(saved_file, allow_pickle=False) as saved:
        return dict(saved)
