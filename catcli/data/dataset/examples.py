"""Training examples: texts with their classes, and the categories' own names as examples."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt

from catcli.arrays import IntArray

NAME_WEIGHT = 0.3
"""What a category's name counts as a row of that category. Measured in tests/bench/README.md, with 0, .1 and 1."""

UNLABELED = -1
"""The class number of a row without a category, which a teacher labels."""

_SEPARATORS = re.compile(r"[>/|_\\]+")


@dataclass(frozen=True)
class Examples:
    """Examples: ``texts``, class numbers ``classes`` *(rows,)* and ``weights`` *(rows,)*."""

    texts: list[str]
    classes: IntArray
    weights: npt.NDArray[np.float32]

    @classmethod
    def of(cls, texts: Sequence[str], classes: IntArray) -> Self:
        """Examples of weight 1."""
        return cls(list(texts), classes, np.ones(len(texts), np.float32))

    @classmethod
    def without_classes(cls, texts: Sequence[str]) -> Self:
        """Rows that have no category."""
        return cls.of(texts, np.full(len(texts), UNLABELED, np.int64))

    def __len__(self) -> int:
        """How many rows there are."""
        return len(self.texts)

    def take(self, rows: IntArray) -> Self:
        """The chosen rows."""
        return type(self)([self.texts[row] for row in rows], self.classes[rows], self.weights[rows])

    def plus(self, other: Examples) -> Self:
        """These rows, then the others."""
        classes, weights = np.concatenate((self.classes, other.classes)), np.concatenate((self.weights, other.weights))
        return type(self)([*self.texts, *other.texts], classes, weights)


def category_name_examples(names: Sequence[str]) -> Examples:
    """Every category's name as a text of it: "Toys > Puzzles" says "toys puzzles" before the first row has.

    What merchants have most of are categories with few rows, and there the name is the better half of the evidence. Names without a letter,
    which are codes, say nothing and are left out.
    """
    words = [" ".join(_SEPARATORS.sub(" ", name).split()) for name in names]
    telling = np.array([number for number, text in enumerate(words) if re.search(r"[^\W\d_]", text)], dtype=np.int64)
    return Examples([words[number] for number in telling], telling, np.full(len(telling), NAME_WEIGHT, np.float32))


MIN_PER_CATEGORY = 5
"""Rows of a category that a sample takes before it takes in proportion."""


def ranks_within_classes(ordered: IntArray) -> tuple[IntArray, IntArray]:
    """Of class numbers in order: each row's place among those of its class, from 0, and how many these are; both *(rows,)*."""
    _, first, sizes = np.unique(ordered, return_index=True, return_counts=True)
    return np.arange(len(ordered)) - np.repeat(first, sizes), np.repeat(sizes, sizes)


def stratified_sample(classes: IntArray, rows: IntArray, limit: int, seed: int) -> IntArray:
    """At most ``limit`` of ``rows``, in their order: some of every category, the rest in proportion. ``classes`` are those of all rows."""
    if len(rows) <= limit:
        return rows
    shuffled = np.random.default_rng(seed).permutation(rows)
    by_class = shuffled[np.argsort(classes[shuffled], kind="stable")]
    rank, sizes = ranks_within_classes(classes[by_class])
    turn = np.where(rank < MIN_PER_CATEGORY, rank / MIN_PER_CATEGORY - 1, (rank + 0.5) / sizes)
    return np.sort(by_class[np.argsort(turn, kind="stable")[:limit]])
