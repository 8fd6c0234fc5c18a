"""Training, validation and test rows, or folds: split by product, stratified by category, stable when rows are added."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import numpy.typing as npt
import polars as pl
from scipy import sparse
from scipy.sparse import csgraph

from catcli.arrays import IntArray
from catcli.data.dataset.examples import ranks_within_classes
from catcli.data.dataset.text import is_price_word

MIN_PRODUCTS = 5
"""Products that some category needs, for any to be held out."""

MAX_HELD_OUT = 5_000
"""Rows of each held-out part, about: an accuracy of .9 is then known to within .008. More of them learn more than they tell."""

MAX_LOGITS = 20_000_000
"""Rows times classes of each held-out part, about: 80 MB of logits for each model."""


@dataclass(frozen=True)
class Split:
    """Row numbers of each part, and the ``rare`` classes: those with fewer products than ``fewest``, which is what all three parts need.

    The last rows may be in training alone: see `with_taught`.
    """

    train: IntArray
    validation: IntArray
    test: IntArray
    rare: tuple[int, ...]
    fewest: int

    @property
    def held_out(self) -> IntArray:
        """Validation rows, then test rows."""
        return np.concatenate((self.validation, self.test))

    @property
    def choosing(self) -> IntArray:
        """The rows that choose blend, calibration and thresholds: the first of `held_out`."""
        return self.validation

    def with_taught(self, count: int) -> Self:
        """This split with ``count`` rows more, of other products, that train and are never held out."""
        rows = len(self.train) + len(self.validation) + len(self.test)
        return replace(self, train=np.concatenate((self.train, np.arange(rows, rows + count))))


@dataclass(frozen=True)
class FoldSplit(Split):
    """A split into folds: all rows are training rows, but for the models that score their own fold.

    ``fold`` *(rows,)* is the fold of every row, -1 of one that is in no fold and trains all models. ``test`` are the rows of a class that
    is in another fold too: they are scored. ``rare`` are the classes that have none of them.
    """

    fold: IntArray

    @property
    def count(self) -> int:
        """How many folds."""
        return int(self.fold.max()) + 1

    @property
    def unknown(self) -> IntArray:
        """The rows that models of the other folds know by the category's name alone."""
        return np.setdiff1d(np.flatnonzero(self.fold >= 0), self.test)

    @property
    def choosing(self) -> IntArray:
        """The rows that choose blend and calibration: those that are scored, and every second of the `unknown` ones.

        How many rows of such categories a catalog has is not known: hardly any, where each category was labeled once on purpose, or as
        large a share as here. Half of them is the least wrong of both: see tests/bench/README.md.
        """
        return np.concatenate((self.test, self.unknown[::2]))

    @property
    def held_out(self) -> IntArray:
        """All rows of the folds, those that choose first, and of these those that are scored."""
        return np.concatenate((self.choosing, self.unknown[1::2]))

    def with_taught(self, count: int) -> Self:
        """This split with ``count`` rows more, of other products, that are in no fold."""
        fold = np.concatenate((self.fold, np.full(count, -1)))
        return replace(self, train=np.arange(len(fold)), fold=fold)


def text_key(text: str) -> str:
    """What makes two texts one product where no column does: the text in lower case without punctuation and the band of its price."""
    words = re.sub(r"[\W_]+", " ", text.lower()).split()
    return " ".join(word for word in words if not is_price_word(word))


def product_keys(texts: Sequence[str], group: pl.Series | None) -> list[str]:
    """What tells each row's product: its cell of the column ``group``, else its text.

    Groups that have a text in common are one product, under the name of the first by code points: a training text must not be a test text.
    """
    keys = [text_key(text) for text in texts]
    if group is None:
        return keys
    named = [key if name is None else f"group {name}" for name, key in zip(group.cast(pl.String).to_list(), keys, strict=True)]
    first = _connected_groups([(name, f"text {key}") for name, key in zip(named, keys, strict=True) if key])
    return [first.get(name, name) for name in named]


def _connected_groups(pairs: Sequence[tuple[str, str]]) -> dict[str, str]:
    """For each left name the first of those that pairs connect it with, through any number of names on the right."""
    number: dict[str, int] = {}
    edges = np.array([[number.setdefault(name, len(number)) for name in pair] for pair in pairs], np.int64).reshape(-1, 2)
    graph = sparse.coo_array((np.ones(len(edges), np.bool_), (edges[:, 0], edges[:, 1])), shape=(len(number), len(number)))
    component = csgraph.connected_components(graph, directed=False)[1]
    first: dict[int, str] = {}
    for name in sorted({first_group for first_group, _ in pairs}):
        first.setdefault(int(component[number[name]]), name)
    return {name: first[int(component[number[name]])] for name, _ in pairs}


def split_rows(
    keys: Sequence[str], classes: npt.NDArray[np.int64], shares: tuple[int, int, int], seed: int, limit: int = MAX_HELD_OUT
) -> Split:
    """Rows by product key: within each category the keys are ranked by a hash of key and ``seed`` and cut in ``shares`` per cent.

    All rows of a key fall in one part; a key with rows of several categories ranks in the one that most of them name. A category whose
    share of a held-out part is less than a key is rare. Those are cut as if they were one category, each keeping a key to train: with a
    key each they would be too many of the held-out rows, and left out they would be missing from every score, threshold and confidence,
    and a merchant's catalog has them. Since a rank depends on the keys' own hashes alone, new rows move few old ones. Of very many rows no
    more than about ``limit`` are held out for each part.
    """
    count = int(classes.max()) + 1
    key_of, named_key, named_class, major = _number_keys(keys, classes, count, seed)
    validation_share, test_share = (_held_out_share(share, len(keys), count, limit) for share in shares[1:])
    fewest = max(MIN_PRODUCTS, math.ceil(1 / min(validation_share, test_share)))
    blocked, rare = _find_rare(named_key, named_class, major, np.unique(classes), count, fewest)
    free = np.flatnonzero(~blocked)
    order = free[np.argsort(major[free], kind="stable")]
    within, sizes = ranks_within_classes(major[order])
    test = np.minimum(np.maximum(1, np.rint(sizes * test_share)), sizes - 2)
    validation = np.minimum(np.maximum(1, np.rint(sizes * validation_share)), sizes - test - 1)
    part = np.zeros(len(major), np.int64)
    part[order] = np.where(within < test, 2, np.where(within < test + validation, 1, 0))
    if np.bincount(major).max() >= MIN_PRODUCTS:
        pool, blocked_count = _pool(named_key, named_class, blocked), int(blocked.sum())
        tested, validated = (min(round(share * blocked_count), len(pool) // 3) for share in (test_share, validation_share))
        part[pool[:tested]], part[pool[tested : tested + validated]] = 2, 1
    train, validation_rows, test_rows = (np.flatnonzero(part[key_of] == number) for number in range(3))
    return Split(train, validation_rows, test_rows, tuple(int(number) for number in rare), fewest)


def split_into_folds(keys: Sequence[str], classes: IntArray, count: int, seed: int) -> FoldSplit:
    """All rows in ``count`` folds by product key, dealt out as by `assign_folds`.

    Rows of classes that no other fold has are not scored, so that scores are of categories that the models know. But thresholds are tested
    on them, too: a catalog has rows of categories that were labeled once or never, and they are what a confident model gets wrong.
    """
    fold, everything = assign_folds(keys, classes, count, seed, single_keys=True), np.arange(len(classes))
    folds_of_class = np.bincount(np.unique(np.stack((classes, fold)), axis=1)[0], minlength=int(classes.max()) + 1)
    scored = np.flatnonzero(folds_of_class[classes] > 1)
    rare = np.setdiff1d(classes, classes[scored])
    return FoldSplit(everything, everything[:0], scored, tuple(int(number) for number in rare), 2, fold)


def assign_folds(keys: Sequence[str], classes: IntArray, count: int, seed: int, *, single_keys: bool = False) -> IntArray:
    """A fold for every row *(rows,)*, from 0 to ``count`` - 1, by product key and stratified by category.

    -1 is for rows that are always training rows.

    The keys are dealt out one category after another, within it in the order of their hashes, so that folds have as many of each and as
    many in all but for one. A key with rows of several categories goes with the one that most of them name; the only key of a category is
    in no fold, since no model that has not seen it could name it, but for ``single_keys``.
    """
    key_of, _, _, major = _number_keys(keys, classes, int(classes.max()) + 1, seed)
    order = np.argsort(major, kind="stable")
    dealt = order if single_keys else order[ranks_within_classes(major[order])[1] > 1]
    fold = np.full(len(major), -1, np.int64)
    fold[dealt] = np.arange(len(dealt)) % count
    return fold[key_of]


def _number_keys(keys: Sequence[str], classes: IntArray, count: int, seed: int) -> tuple[IntArray, IntArray, IntArray, IntArray]:
    """The number of each row's key *(rows,)*, which is its rank; which key has rows of which class, two arrays *(pairs,)*; major classes.

    The last *(keys,)* has the class of each key that most of its rows have, of several the first.
    """
    # Equal keys have equal hashes; of different ones, 64 bits make two alike once in ten million runs of two million keys.
    hashes = np.fromiter((key_hash(key, seed) for key in keys), dtype=np.uint64, count=len(keys))
    key_of = np.unique(hashes, return_inverse=True)[1]
    pairs, times = np.unique(key_of * count + classes, return_counts=True)
    named_key, named_class = np.divmod(pairs, count)
    first = np.lexsort((named_class, -times, named_key))
    return key_of, named_key, named_class, named_class[first[np.unique(named_key[first], return_index=True)[1]]]


def _find_rare(
    keys: IntArray, classes: IntArray, major: IntArray, present: IntArray, count: int, fewest: int
) -> tuple[npt.NDArray[np.bool_], IntArray]:
    """Which keys train whatever their rank, since a rare class has a row of them, and the rare classes.

    ``keys`` and ``classes`` say which key has rows of which class. A key kept back for a rare class can leave another with too few: until
    nothing changes.
    """
    rare = np.zeros(count, np.bool_)
    while True:
        blocked = np.zeros(len(major), np.bool_)
        blocked[keys[rare[classes]]] = True
        is_rare = np.zeros(count, np.bool_)
        is_rare[present] = np.bincount(major[~blocked], minlength=count)[present] < fewest
        if (is_rare == rare).all():
            return blocked, np.flatnonzero(rare)
        rare = is_rare


def _pool(keys: IntArray, classes: IntArray, blocked: npt.NDArray[np.bool_]) -> IntArray:
    """The keys of rare classes that may be held out, by rank: those of one class alone, and not the last that it has."""
    alone = np.bincount(keys, minlength=len(blocked)) == 1
    candidates = np.flatnonzero(blocked[keys] & alone[keys])
    order = candidates[np.lexsort((keys[candidates], classes[candidates]))]
    last = np.append(classes[order][1:] != classes[order][:-1], True)[: len(order)]
    return np.sort(keys[order[~last]])


def _held_out_share(share: int, rows: int, classes: int, limit: int) -> float:
    """The share of a category's keys that is held out."""
    return min(share / 100, limit / rows, MAX_LOGITS / (rows * classes))


def key_hash(key: str, seed: int = 0) -> int:
    """64 bits that stand for a product's key."""
    digest = hashlib.blake2b(key.encode("utf-8", "surrogatepass"), digest_size=16, salt=seed.to_bytes(8, "little")).digest()
    return int.from_bytes(digest[:8], "big")
