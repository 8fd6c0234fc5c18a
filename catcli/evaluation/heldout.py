"""``heldout.parquet``: the held-out rows with each model's logits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import numpy.typing as npt

from catcli.adapter.parquet import HASH_TYPE, TEXT_TYPE, logits_type, read_columns, write_columns
from catcli.arrays import FloatArray
from catcli.data.dataset.categories import UNKNOWN, Categories
from catcli.errors import AdapterError

MAX_ROWS = 1_000_000
"""Rows that no fit holds out: see `catcli.data.dataset.split.MAX_HELD_OUT`."""


@dataclass(frozen=True)
class HeldOutRows:
    """Held-out rows.

    ``parts`` says ``validation`` or ``test`` of each, ``products`` *(rows,)* holds hashes of their products' keys. ``lora`` and ``linear``
    are logits *(rows, classes)*, the former those of the variant that serves.
    """

    texts: list[str]
    parts: list[str]
    products: npt.NDArray[np.uint64]
    classes: npt.NDArray[np.int64]
    lora: FloatArray
    linear: FloatArray

    @property
    def has_texts(self) -> bool:
        """Whether the rows' texts are there; `catcli adapters export --without-rows` leaves them empty."""
        return any(self.texts)

    def save(self, file: Path, names: Sequence[str]) -> None:
        """As Parquet, categories by name."""
        write_columns(
            file,
            {"text": self.texts, "part": self.parts, "category": [names[number] for number in self.classes]},
            {"product": self.products, "lora_logits": self.lora, "linear_logits": self.linear},
        )

    @classmethod
    def load(cls, file: Path, names: Sequence[str]) -> Self:
        """What `save` wrote.

        Raises:
            AdapterError: the file holds something else.
        """
        logits = logits_type(len(names))
        types = {
            **dict.fromkeys(("text", "part", "category"), TEXT_TYPE),
            "product": HASH_TYPE,
            "lora_logits": logits,
            "linear_logits": logits,
        }
        stored = read_columns(file, types, MAX_ROWS)
        texts, numbers = stored.texts, stored.numbers
        classes = Categories(tuple(names)).numbers(texts["category"])
        if (classes == UNKNOWN).any() or set(texts["part"]) != {"validation", "test"}:
            raise AdapterError(f"{file} has rows of other categories or parts than its adapter; copy the adapter again, or fit a new one.")
        return cls(texts["text"], texts["part"], numbers["product"], classes, numbers["lora_logits"], numbers["linear_logits"])

    def part(self, name: str) -> Self:
        """The rows of one part."""
        rows = np.flatnonzero(np.array(self.parts) == name)
        texts, parts = [self.texts[row] for row in rows], [name] * len(rows)
        return type(self)(texts, parts, self.products[rows], self.classes[rows], self.lora[rows], self.linear[rows])
