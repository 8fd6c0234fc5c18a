"""Labels of texts that need no model any more: those of an earlier output, and those of the first shard of a span of rows."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import polars as pl

from catcli.arrays import FloatArray, HashArray, IntArray
from catcli.data.io.journal import read_arrays
from catcli.data.io.part_file import new_file

Classes = npt.NDArray[np.int32]


def text_hashes(texts: pl.Series) -> HashArray:
    """64-bit hashes that stand for texts. Two of a hundred million different ones share one with a probability of 3e-4 (birthday bound)."""
    return texts.hash(7).to_numpy()


class KnownLabels:
    """Labels by text: 8 bytes for each different text, and 8 for each of its ``k`` labels."""

    def __init__(self, hashes: HashArray, classes: Classes, confidences: FloatArray) -> None:
        """``hashes`` *(texts,)* rise; ``classes`` and ``confidences`` have shape *(texts, k)*."""
        self.hashes, self.classes, self.confidences = hashes, classes, confidences

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
        labels = cls(np.empty(count, np.uint64), np.empty((count, 1), np.int32), np.empty((count, 1), np.float32))
        start = 0
        for bucket_number, bucket in enumerate(buckets):
            hashes, classes, confidences = bucket.shrunk()
            span = slice(start, start + len(hashes))
            labels.hashes[span], labels.classes[span, 0], labels.confidences[span, 0] = hashes, classes, confidences
            start, buckets[bucket_number] = span.stop, _Bucket()
        return labels

    @classmethod
    def merge(cls, several: Sequence[KnownLabels]) -> KnownLabels:
        """Those of all; of equal texts the first counts."""
        if len(several) == 1:
            return several[0]
        hashes, first = np.unique(np.concatenate([labels.hashes for labels in several]), return_index=True)
        classes, confidences = (np.concatenate([getattr(labels, name) for labels in several]) for name in ("classes", "confidences"))
        return cls(hashes, classes[first], confidences[first])

    def __len__(self) -> int:
        """The number of different texts."""
        return len(self.hashes)

    def find(self, hashes: HashArray) -> IntArray:
        """The place of each text among these *(texts,)*; -1 where it is not among them."""
        if not len(self.hashes):
            return np.full(len(hashes), -1)
        places = np.minimum(np.searchsorted(self.hashes, hashes), len(self.hashes) - 1)
        return np.where(self.hashes[places] == hashes, places, -1)

    def save(self, path: Path) -> None:
        """Write them to a file, to the disk itself, complete or not at all."""
        with new_file(path) as saved:
            np.savez(saved, **vars(self))  # nothing is compressed: no array is larger than the file

    @classmethod
    def load(cls, path: Path, width: int, class_count: int) -> Self:
        """Those of a file that `save` wrote.

        Raises:
            ValueError: they are not ``width`` of ``class_count`` labels for each text.
            catcli.data.io.journal.READ_ERRORS: the file is damaged or not there.
        """
        arrays: dict[str, npt.NDArray[Any]] = read_arrays(path)
        labels = cls(arrays["hashes"], arrays["classes"], arrays["confidences"])
        shape = (len(labels.hashes), width)
        kinds = [(str(array.dtype), array.shape) for array in (labels.hashes, labels.classes, labels.confidences)]
        if kinds != [("uint64", shape[:1]), ("int32", shape), ("float32", shape)]:
            raise ValueError("its arrays have other types or shapes")
        if len(labels) and not (labels.classes.min() >= 0 and labels.classes.max() < class_count):
            raise ValueError("its classes are not the adapter's")
        return labels


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
