"""The journal of an output that is being written: what it is made from, and its finished parts."""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

ON_BAD_ROW = "--on-bad-row"
"""The name in a fingerprint of the policy for bad rows."""

READ_ERRORS = (ValueError, KeyError, OSError, EOFError, MemoryError, zipfile.BadZipFile)
"""What reading a run's saved arrays raises where they are damaged or cannot be read."""

MAX_JOURNAL_BYTES, MAX_ARRAY_BYTES = 2**30, 2**31
"""Bytes of a journal, a line of some hundred bytes for each part, and of a file of arrays."""

PART_NAME = re.compile(r"([0-9a-f]{12})-(\d{6})-(\d{6})")
"""The name of a part: its file's identity, its span and its index there."""


@dataclass(frozen=True)
class PartRecord:
    """A finished part: its name, and the counts of its rows, ``rows`` and ``bad`` among them."""

    part: str
    counts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def rows(self) -> int:
        """The number of its rows."""
        return int(self.counts.get("rows", 0))

    @property
    def bad(self) -> int:
        """How many rows of it could not be read."""
        return int(self.counts.get("bad", 0))

    @property
    def place(self) -> tuple[str, int, int]:
        """The identity of its file, its span and its index there."""
        identity, span, index = self.part.split("-")
        return identity, int(span), int(index)


def read_journal(journal: Path) -> tuple[dict[str, str], dict[str, str], list[PartRecord]]:
    """What the first line of a journal says the output is made from and how its files are called, and the parts of the other lines.

    Raises:
        ValueError, TypeError, KeyError: it is none that `Parts` wrote. The last line may have been cut short by a kill, and is not a fault.
    """
    if journal.stat().st_size > MAX_JOURNAL_BYTES:
        raise ValueError(f"it has more than {MAX_JOURNAL_BYTES:,} bytes")
    first, *lines = journal.read_text(encoding="utf-8").splitlines() or ["{}"]
    head = json.loads(first)
    made_from, files = ({str(name): str(value) for name, value in dict(head[part]).items()} for part in ("made_from", "files"))
    parts = []
    for number, line in enumerate(lines):
        try:
            record = json.loads(line)
        except ValueError:
            if number == len(lines) - 1:
                break
            raise
        part = PartRecord(**record)
        if not (PART_NAME.fullmatch(part.part) and _are_counts(part.counts)):  # a TypeError of what is no text
            raise ValueError(f"line {number + 2} is not a part of this output")
        parts.append(part)
    return made_from, files, parts


def _are_counts(counts: object) -> bool:
    """Whether these are counts of a part: whole numbers from 0 on by name, or by name and category."""
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
