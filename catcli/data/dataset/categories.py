"""Category names ↔ class numbers."""

from __future__ import annotations

import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import polars as pl

UNKNOWN = -1
"""The class number of a category that is none of the adapter's."""


@dataclass(frozen=True)
class Categories:
    """Names in class order: the name of class *i* is ``names[i]``."""

    names: tuple[str, ...]

    @classmethod
    def of(cls, labels: Sequence[str]) -> Categories:
        """The distinct labels in the order of their code points, which no locale changes."""
        return cls(tuple(sorted(set(labels))))

    def __len__(self) -> int:
        """How many there are."""
        return len(self.names)

    @cached_property
    def _numbers(self) -> dict[str, int]:
        return {name: number for number, name in enumerate(self.names)}

    def numbers(self, labels: Sequence[str]) -> npt.NDArray[np.int64]:
        """Class numbers *(labels,)*; `UNKNOWN` for a name that is not here."""
        return np.fromiter((self._numbers.get(label, UNKNOWN) for label in labels), dtype=np.int64, count=len(labels))


def has_label(cells: pl.Series) -> pl.Series:
    """Whether each cell is a label: neither null nor blank."""
    return cells.is_not_null() & (cells.cast(pl.String).str.strip_chars() != "").fill_null(value=False)


def look_alikes(names: Iterable[str]) -> list[tuple[str, ...]]:
    """Names that differ only by case, blanks or how their letters are encoded, a group each: to a merchant most likely one category."""
    groups = defaultdict(list)
    for name in sorted(names):
        groups[normalized_name(name)].append(name)
    return [tuple(group) for group in groups.values() if len(group) > 1]


def canonical_names(labels: Sequence[str]) -> dict[str, str]:
    """For each label that has a look-alike the one that most rows have; of equally frequent ones the first by code points."""
    counts = Counter(labels)
    best: dict[str, str] = {}
    for group in look_alikes(counts):
        canonical = min(group, key=lambda name: (-counts[name], name))
        best.update(dict.fromkeys(group, canonical))
    return best


def normalized_name(name: str) -> str:
    """A category's name without case, surplus blanks and variants of encoding (Unicode's NFKC)."""
    return " ".join(unicodedata.normalize("NFKC", name).casefold().split())
