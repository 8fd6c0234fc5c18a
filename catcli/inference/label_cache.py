"""Texts that were labeled before: those of this run, and those of an earlier output."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import polars as pl

from catcli.arrays import FloatArray, HashArray

Classes = npt.NDArray[np.int32]

MAX_CACHED_TEXTS = 131_072
"""Texts whose labels a run caches: about 20 MB, however large the catalog."""


def text_hashes(texts: pl.Series) -> HashArray:
    """64-bit hashes that stand for texts. Two of a hundred million different ones share one with a probability of 3e-4 (birthday bound)."""
    return texts.hash(7).to_numpy()


class CacheSlots:
    """Which texts are among the last ones, and where their labels are kept: the oldest text gives its slot to the newest.

    It knows a text from when it is to be labeled on, so which texts are cached depends on the rows alone and not on when labels come.
    """

    def __init__(self, limit: int = MAX_CACHED_TEXTS) -> None:
        self._slots: dict[int, int] = {}
        self._hashes = np.zeros(limit, np.uint64)
        self._count = 0

    def find(self, hashes: HashArray) -> npt.NDArray[np.int64]:
        """The slot of each text *(texts,)*; -1 where it is not among the last."""
        get = self._slots.get
        return np.fromiter((get(number, -1) for number in hashes.tolist()), np.int64, len(hashes))

    def add(self, hashes: HashArray) -> None:
        """Take in texts that were not known."""
        for number in hashes.tolist():
            slot = self._count % len(self._hashes)
            if self._count >= len(self._hashes):
                self._slots.pop(int(self._hashes[slot]), None)
            self._hashes[slot] = number
            self._slots[number] = slot
            self._count += 1

    def load(self, arrays: Mapping[str, npt.NDArray[Any]]) -> None:
        """Restore what `LabelCache.arrays` gave."""
        hashes = arrays["hashes"]
        self._hashes[: len(hashes)], self._count = hashes, int(arrays["count"])
        self._slots = {number: slot for slot, number in enumerate(hashes.tolist())}


class LabelCache:
    """The labels of the last texts, in the slots that `CacheSlots` gives them."""

    def __init__(self, k: int, limit: int = MAX_CACHED_TEXTS) -> None:
        self._hashes = np.zeros(limit, np.uint64)
        self._classes = np.zeros((limit, k), np.int32)
        self._confidences = np.zeros((limit, k), np.float32)
        self._count = 0

    def get(self, slots: npt.NDArray[np.int64]) -> tuple[Classes, FloatArray]:
        """Classes and confidences in some slots, each *(slots, k)*."""
        return self._classes[slots], self._confidences[slots]

    def add(self, hashes: HashArray, classes: npt.NDArray[Any], confidences: FloatArray) -> None:
        """Take in the labels of texts, in the order in which `CacheSlots` took in the texts."""
        slot_count = len(self._hashes)
        # Of more texts than there are slots the last have them.
        hashes, classes, confidences, first = (
            hashes[-slot_count:],
            classes[-slot_count:],
            confidences[-slot_count:],
            max(0, len(hashes) - slot_count),
        )
        slots = (self._count + first + np.arange(len(hashes))) % slot_count
        self._hashes[slots], self._classes[slots], self._confidences[slots] = hashes, classes, confidences
        self._count += first + len(hashes)

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """The state that a resumed run needs to give the same output."""
        filled = min(self._count, len(self._hashes))
        return {
            "hashes": self._hashes[:filled].copy(),
            "classes": self._classes[:filled].copy(),
            "confidences": self._confidences[:filled].copy(),
            "count": np.array(self._count),
        }

    def load(self, arrays: Mapping[str, npt.NDArray[Any]]) -> None:
        """Restore what `arrays` gave."""
        filled = len(arrays["hashes"])
        self._hashes[:filled], self._classes[:filled] = arrays["hashes"], arrays["classes"]
        self._confidences[:filled], self._count = arrays["confidences"], int(arrays["count"])


class PreviousLabels:
    """The labels of an earlier output, by text: 16 bytes for each different text of it."""

    def __init__(self, hashes: HashArray, classes: Classes, confidences: FloatArray) -> None:
        """Each *(texts,)*, the hashes rising."""
        self.hashes, self._classes, self._confidences = hashes, classes, confidences

    @classmethod
    def of(cls, rows: Iterable[tuple[HashArray, Classes, FloatArray]]) -> Self:
        """From some rows after the other, each array *(rows,)*; of equal texts the first counts.

        It takes some 45 bytes a different text on the way, however often texts come again: rows lie in `BUCKETS` by their hash, and a
        bucket is rid of repeats as soon as it has grown to twice what it was without them.
        """
        buckets = [_Bucket() for _ in range(BUCKETS)]
        for hashes, classes, confidences in rows:
            number = (hashes >> np.uint64(64 - BITS)).astype(np.int64)
            order = np.argsort(number, kind="stable")
            ends = np.cumsum(np.bincount(number, minlength=BUCKETS))
            for bucket_number in np.unique(number).tolist():
                selected = order[ends[bucket_number - 1] if bucket_number else 0 : ends[bucket_number]]
                buckets[bucket_number].add(hashes[selected], classes[selected], confidences[selected])
        count = sum(len(bucket.shrunk()[0]) for bucket in buckets)
        labels = cls(np.empty(count, np.uint64), np.empty(count, np.int32), np.empty(count, np.float32))
        start = 0
        for bucket_number, bucket in enumerate(buckets):
            hashes, classes, confidences = bucket.shrunk()
            span = slice(start, start + len(hashes))
            labels.hashes[span], labels._classes[span], labels._confidences[span] = hashes, classes, confidences
            start, buckets[bucket_number] = span.stop, _Bucket()
        return labels

    def __len__(self) -> int:
        """The number of different texts."""
        return len(self.hashes)

    def get(self, hashes: HashArray) -> tuple[Classes, FloatArray]:
        """Classes and confidences *(texts, 1)* of texts that are among them."""
        places = np.searchsorted(self.hashes, hashes)
        return self._classes[places, None], self._confidences[places, None]


BITS = 8
BUCKETS = 2**BITS
"""Buckets of texts, by the first bits of their hashes."""


class _Bucket:
    """Texts whose hashes begin alike."""

    def __init__(self) -> None:
        self._parts: list[tuple[HashArray, Classes, FloatArray]] = []
        self._rows = self._kept = 0

    def add(self, hashes: HashArray, classes: Classes, confidences: FloatArray) -> None:
        self._parts.append((hashes, classes, confidences))
        self._rows += len(hashes)
        if self._rows > 2 * self._kept + 1024:
            self.shrunk()

    def shrunk(self) -> tuple[HashArray, Classes, FloatArray]:
        """Each text once, by rising hashes."""
        if len(self._parts) != 1 or self._rows != self._kept:
            nothing = (np.empty(0, np.uint64), np.empty(0, np.int32), np.empty(0, np.float32))
            hashes, classes, confidences = (np.concatenate(arrays) for arrays in zip(nothing, *self._parts, strict=True))
            hashes, first = np.unique(hashes, return_index=True)
            self._parts = [(hashes, classes[first].astype(np.int32), confidences[first].astype(np.float32))]
            self._rows = self._kept = len(hashes)
        return self._parts[0]


def is_among(hashes: HashArray, sorted_hashes: HashArray) -> npt.NDArray[np.bool_]:
    """Whether each of ``hashes`` is in an array of rising ones."""
    if not len(sorted_hashes):
        return np.zeros(len(hashes), np.bool_)
    is_equal: npt.NDArray[np.bool_] = sorted_hashes[np.minimum(np.searchsorted(sorted_hashes, hashes), len(sorted_hashes) - 1)] == hashes
    return is_equal
