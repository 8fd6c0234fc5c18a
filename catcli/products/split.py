"""Which rows train, which choose, which score: by product, stratified by category, steady as rows are added."""

from __future__ import annotations

import hashlib
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

FEWEST = 5
"""Products that a category needs to be in all three parts; with fewer it is trained on and not scored."""

Rows = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Split:
    """Row numbers of each part, and the classes with too few products to be held out."""

    train: Rows
    validation: Rows
    test: Rows
    rare: tuple[int, ...]

    @property
    def held_out(self) -> Rows:
        """Validation rows, then test rows."""
        return np.concatenate((self.validation, self.test))


def text_key(text: str) -> str:
    """What makes two texts one product where no column does: the text in lower case without punctuation."""
    return " ".join(re.sub(r"[\W_]+", " ", text.lower()).split())


def split(keys: Sequence[str], classes: npt.NDArray[np.int64], shares: tuple[int, int, int], seed: int) -> Split:
    """Rows by product key: within each category the keys are ranked by a hash of key and ``seed`` and cut in ``shares`` per cent.

    All rows of a key fall in one part; a key with rows of several categories ranks in the one that most of them name. Every part of a
    category with at least `FEWEST` keys gets one key or more; keys with a row of a rarer category train. Since a rank depends on the keys'
    own hashes alone, new rows move few old ones.
    """
    rows_of: dict[str, list[int]] = defaultdict(list)
    for row, key in enumerate(keys):
        rows_of[key].append(row)
    named = {key: set(classes[rows].tolist()) for key, rows in rows_of.items()}
    keys_of: dict[int, list[str]] = {number: [] for number in set(classes.tolist())}
    for key, rows in rows_of.items():
        keys_of[int(np.bincount(classes[rows]).argmax())].append(key)
    rare: set[int] = set()
    while True:  # a key kept back for a rare category can leave another with too few: until nothing changes
        free = {number: [key for key in members if rare.isdisjoint(named[key])] for number, members in keys_of.items()}
        found = {number for number, members in free.items() if len(members) < FEWEST}
        if found == rare:
            break
        rare = found
    part_of = dict.fromkeys(rows_of, 0)
    for number in sorted(set(free) - rare):
        ranked = sorted(free[number], key=lambda key: _rank(key, seed))
        test, validation = _held_out(len(ranked), shares)
        part_of.update(dict.fromkeys(ranked[:test], 2) | dict.fromkeys(ranked[test : test + validation], 1))
    owner = np.array([part_of[key] for key in keys], dtype=np.int64)
    train, choose, score = (np.flatnonzero(owner == part) for part in range(3))
    return Split(train, choose, score, tuple(sorted(rare)))


def _held_out(count: int, shares: tuple[int, int, int]) -> tuple[int, int]:
    """How many of a category's keys score, and how many choose; at least one is left to train."""
    test = min(max(1, round(count * shares[2] / 100)), count - 2)
    return test, min(max(1, round(count * shares[1] / 100)), count - test - 1)


def _rank(key: str, seed: int) -> bytes:
    return hashlib.blake2b(key.encode("utf-8", "surrogatepass"), digest_size=16, salt=seed.to_bytes(8, "little")).digest()
