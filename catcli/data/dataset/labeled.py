"""Labeled rows as texts, class numbers and product keys."""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from catcli.data.dataset.categories import Categories
from catcli.data.dataset.split import key_hash, text_key


@dataclass(frozen=True)
class LabeledRows:
    """One text, one class number and one product key a row; ``read`` rows there were, of which ``unlabeled`` had no category.

    ``unlabeled_texts`` are of some of the latter, one of each product that no labeled row is of, in a random order. The last ``taught``
    rows are corrections, of products of their own: they train and are never scored.
    """

    texts: list[str]
    classes: npt.NDArray[np.int64]
    keys: list[str]
    categories: Categories
    read: int
    unlabeled: int
    unlabeled_texts: Sequence[str] = ()
    taught: int = 0

    def products(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.uint64]:
        """Hashes of the product keys of some rows."""
        return np.array([key_hash(self.keys[row]) for row in rows], np.uint64)


def conflicting_labels(texts: Sequence[str], classes: npt.NDArray[np.int64]) -> Mapping[tuple[int, int], int]:
    """For two classes, the smaller first: how many texts have rows of both, alike but for case, punctuation, numbers and word order."""
    named: defaultdict[str, set[int]] = defaultdict(set)
    for text, number in zip(texts, classes.tolist(), strict=True):
        named[" ".join(sorted({word for word in text_key(text).split() if not word.isdecimal()}))].add(number)
    return Counter(
        pair
        for classes_of_text in named.values()
        if len(classes_of_text) > 1
        for pair in itertools.combinations(sorted(classes_of_text), 2)
    )
