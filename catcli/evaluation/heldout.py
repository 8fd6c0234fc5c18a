"""``heldout.parquet``: the rows that no model learned from, with what each model made of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import numpy.typing as npt
import polars as pl

from catcli.products.categories import Categories
from catcli.runtime.blend import Array


@dataclass(frozen=True)
class HeldOut:
    """Held-out rows.

    ``parts`` says ``validation`` or ``test`` of each, ``products`` *(rows,)* holds hashes of their products' keys. ``lora`` and ``linear``
    are logits *(rows, classes)*, the former those of the variant that serves.
    """

    texts: list[str]
    parts: list[str]
    products: npt.NDArray[np.uint64]
    classes: npt.NDArray[np.int64]
    lora: Array
    linear: Array

    def save(self, file: Path, names: Sequence[str]) -> None:
        """As Parquet, categories by name."""
        logits = pl.Array(pl.Float32, len(names))
        pl.DataFrame(
            {
                "text": self.texts,
                "part": self.parts,
                "product": pl.Series(self.products, dtype=pl.UInt64),
                "category": [names[number] for number in self.classes],
                "lora_logits": pl.Series(self.lora, dtype=logits),
                "linear_logits": pl.Series(self.linear, dtype=logits),
            }
        ).write_parquet(file)

    @classmethod
    def load(cls, file: Path, names: Sequence[str]) -> Self:
        """What `save` wrote."""
        frame = pl.read_parquet(file)
        classes = Categories(tuple(names)).numbers(frame["category"].to_list())
        logits = (frame["lora_logits"].to_numpy(), frame["linear_logits"].to_numpy())
        return cls(frame["text"].to_list(), frame["part"].to_list(), frame["product"].to_numpy(), classes, *logits)

    def part(self, name: str) -> Self:
        """The rows of one part."""
        rows = np.flatnonzero(np.array(self.parts) == name)
        texts, parts = [self.texts[row] for row in rows], [name] * len(rows)
        return type(self)(texts, parts, self.products[rows], self.classes[rows], self.lora[rows], self.linear[rows])
