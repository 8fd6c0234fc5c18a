"""Texts that were labeled before: those of this run, and those of an earlier output."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from catcli.runtime.blend import Array

Hashes = npt.NDArray[np.uint64]
Classes = npt.NDArray[np.int32]

MOST = 131_072
"""Texts that a run recalls: about 20 MB, however large the catalog."""


def hashes_of(texts: pl.Series) -> Hashes:
    """64-bit hashes that stand for texts. Two of a hundred million different ones share one with a probability of 3e-4 (birthday bound)."""
    return texts.hash(7).to_numpy()


@dataclass(frozen=True)
class Found:
    """For each of some texts: whether it is known, and if so its ``k`` classes and confidences *(texts, k)*."""

    known: npt.NDArray[np.bool_]
    classes: Classes
    confidences: Array


class Recall:
    """The labels of the last texts, oldest forgotten first."""

    def __init__(self, k: int, most: int = MOST) -> None:
        self._slots: dict[int, int] = {}
        self._hashes = np.zeros(most, np.uint64)
        self._classes = np.zeros((most, k), np.int32)
        self._confidences = np.zeros((most, k), np.float32)
        self._count = 0

    def find(self, hashes: Hashes) -> Found:
        """What is known of texts with these hashes."""
        get = self._slots.get
        slots = np.fromiter((get(number, -1) for number in hashes.tolist()), np.int64, len(hashes))
        return Found(slots >= 0, self._classes[slots], self._confidences[slots])

    def add(self, hashes: Hashes, classes: npt.NDArray[Any], confidences: Array) -> None:
        """Take in the labels of texts."""
        most = len(self._hashes)
        for number, row_classes, row_confidences in zip(hashes.tolist(), classes, confidences, strict=True):
            if number in self._slots:
                continue
            slot = self._count % most
            if self._count >= most:
                self._slots.pop(int(self._hashes[slot]), None)
            self._hashes[slot], self._classes[slot], self._confidences[slot] = number, row_classes, row_confidences
            self._slots[number] = slot
            self._count += 1

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """What a resumed run has to know to go on alike."""
        filled = min(self._count, len(self._hashes))
        return {
            "hashes": self._hashes[:filled],
            "classes": self._classes[:filled],
            "confidences": self._confidences[:filled],
            "count": np.array(self._count),
        }

    def load(self, arrays: Mapping[str, npt.NDArray[Any]]) -> None:
        """Go on from what `arrays` gave."""
        filled = len(arrays["hashes"])
        self._hashes[:filled], self._classes[:filled] = arrays["hashes"], arrays["classes"]
        self._confidences[:filled], self._count = arrays["confidences"], int(arrays["count"])
        self._slots = {number: slot for slot, number in enumerate(arrays["hashes"].tolist())}


class Previous:
    """The labels of an earlier output, by text: 16 bytes for each different text of it."""

    def __init__(self, hashes: Hashes, classes: Classes, confidences: Array) -> None:
        """Each *(texts,)*; of equal texts the first counts."""
        self._hashes, first = np.unique(hashes, return_index=True)
        self._classes, self._confidences = classes[first], confidences[first]

    def __len__(self) -> int:
        """The number of different texts."""
        return len(self._hashes)

    def find(self, hashes: Hashes) -> Found:
        """What the earlier output says of texts with these hashes."""
        if not len(self._hashes):
            return Found(np.zeros(len(hashes), np.bool_), np.zeros((len(hashes), 1), np.int32), np.zeros((len(hashes), 1), np.float32))
        places = np.minimum(np.searchsorted(self._hashes, hashes), len(self._hashes) - 1)
        return Found(self._hashes[places] == hashes, self._classes[places, None], self._confidences[places, None])
