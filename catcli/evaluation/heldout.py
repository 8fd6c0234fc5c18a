"""``heldout.parquet``: the rows that no model learned from, with what each model made of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import numpy.typing as npt
import polars as pl

from catcli.errors import AdapterError
from catcli.products.categories import UNKNOWN, Categories
from catcli.products.stored import stored_frame
from catcli.runtime.blend import Array

MOST_ROWS = 1_000_000
"""Rows that no fit holds out: see `catcli.products.split.MOST_HELD`."""


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

    @property
    def has_texts(self) -> bool:
        """Whether the rows' texts are there; `catcli adapters export --without-rows` leaves them empty."""
        return any(self.texts)

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
        """What `save` wrote.

        Raises:
            AdapterError: the file holds something else.
        """
        logits_of_one = pl.Array(pl.Float32, len(names))
        text = dict.fromkeys(("text", "part", "category"), pl.String())
        schema = {**text, "product": pl.UInt64(), "lora_logits": logits_of_one, "linear_logits": logits_of_one}
        frame = stored_frame(file, schema, MOST_ROWS)
        classes = Categories(tuple(names)).numbers(frame["category"].to_list())
        if (classes == UNKNOWN).any() or not set(frame["part"]) == {"validation", "test"}:
            raise AdapterError(f"{file} has rows of other categories or parts than its adapter; copy the adapter again or fit anew.")
        logits = (frame["lora_logits"].to_numpy(), frame["linear_logits"].to_numpy())
        return cls(frame["text"].to_list(), frame["part"].to_list(), frame["product"].to_numpy(), classes, *logits)

    def part(self, name: str) -> Self:
        """The rows of one part."""
        rows = np.flatnonzero(np.array(self.parts) == name)
        texts, parts = [self.texts[row] for row in rows], [name] * len(rows)
        return type(self)(texts, parts, self.products[rows], self.classes[rows], self.lora[rows], self.linear[rows])
