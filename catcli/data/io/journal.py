"""What a stopped run left: the journal of its finished parts, and its state after the last of them."""

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

Arrays = Mapping[str, npt.NDArray[Any]]

ON_BAD_ROW = "--on-bad-row"
"""The name in a fingerprint of the policy for bad rows."""

READ_ERRORS = (ValueError, KeyError, OSError, EOFError, MemoryError, zipfile.BadZipFile)
"""What reading a run's saved state raises where it is damaged or cannot be read."""

STATE = "state"
"""The array among a run's memory that holds its counts, as JSON."""


@dataclass(frozen=True)
class PartRecord:
    """A finished part: its file, the number of the input that its rows came from, and how many they are.

    ``memory`` is the file of what was known after it, if it was the last of those that were kept together.
    """

    file: str
    input: int
    rows: int
    memory: str = ""


@dataclass
class StoppedRun:
    """What an earlier run left: its finished parts and its state after them."""

    parts: list[PartRecord] = field(default_factory=list)
    state: dict[str, Any] = field(default_factory=dict)
    arrays: Arrays = field(default_factory=dict)

    @property
    def keeps(self) -> int:
        """How often parts were kept."""
        return sum(bool(part.memory) for part in self.parts)


MAX_JOURNAL_BYTES, MAX_MEMORY_BYTES = 2**28, 2**31
"""Bytes of a journal, a line of some hundred bytes for each part, and of what a run knows, which `catcli.inference.label_cache` bounds."""

_PART, _MEMORY = re.compile(r"\d{6}"), re.compile(r"(memory-\d{6}\.npz)?")


def read_journal(journal: Path, inputs: int) -> tuple[dict[str, str], list[PartRecord]]:
    """What the first line of a journal says the output is made from, and the parts of the other lines.

    Raises:
        ValueError, TypeError, KeyError: it is none that `Parts` wrote. The last line may have been cut short by a kill, and is not a fault.
    """
    if journal.stat().st_size > MAX_JOURNAL_BYTES:
        raise ValueError(f"it has more than {MAX_JOURNAL_BYTES:,} bytes")
    first, *lines = journal.read_text(encoding="utf-8").splitlines() or ["{}"]
    made_from = {str(name): str(value) for name, value in dict(json.loads(first)["mark"]).items()}
    parts = []
    for number, line in enumerate(lines):
        try:
            part = PartRecord(**json.loads(line))
        except ValueError:
            if number == len(lines) - 1:
                break
            raise
        counts = (part.input, part.rows)
        named = _PART.fullmatch(part.file) and _MEMORY.fullmatch(part.memory)  # a TypeError of what is no text
        if not (named and all(type(count) is int and count >= 0 for count in counts) and part.input < inputs):
            raise ValueError(f"line {number + 2} is not a part of this output")
        parts.append(part)
    return made_from, parts


def read_arrays(memory: Path) -> dict[str, npt.NDArray[Any]]:
    """The arrays of a file that `Parts.keep` wrote; nothing in it is compressed, so that none is larger than the file."""
    with zipfile.ZipFile(memory) as packed:
        if memory.stat().st_size > MAX_MEMORY_BYTES or any(entry.compress_type != zipfile.ZIP_STORED for entry in packed.infolist()):
            raise ValueError("it is larger than what a run keeps, or compressed")
    with np.load(memory, allow_pickle=False) as saved:
        return dict(saved)
