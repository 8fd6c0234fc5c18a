"""``heldout.parquet``: the held-out rows with each model's logits."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import numpy.typing as npt

from catcli.adapter.parquet import HASH_TYPE, TEXT_TYPE, logits_type, read_columns, write_columns
from catcli.arrays import BoolArray, FloatArray
from catcli.data.dataset.categories import UNKNOWN, Categories
from catcli.errors import AdapterError
from catcli.evaluation.fold_roles import FoldRoles

MAX_ROWS = 1_000_000
"""Rows that no fit holds out: see `catcli.data.dataset.split.MAX_HELD_OUT`."""


FOLD_PART = re.compile(r"fold ([0-9]{1,4})(, not scored)?(, tested alone)?")
"""The part of an out-of-fold row; see `fold_part`."""


def fold_part(fold: int, *, scored: bool, choosing: bool) -> str:
    """The part of an out-of-fold row: its fold, and whether scores, blend and calibration do without it."""
    return f"fold {fold}{'' if scored else ', not scored'}{'' if choosing else ', tested alone'}"


@dataclass(frozen=True)
class HeldOutRows:
    """Held-out rows.

    ``parts`` says ``validation`` or ``test`` of each, or the `fold_part`; ``products`` *(rows,)* holds hashes of their products' keys.
    ``lora`` and ``linear`` are logits *(rows, classes)*, the former those of the variant that serves.
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

    @property
    def roles(self) -> FoldRoles | None:
        """What out-of-fold rows are for; None where there are validation and test rows."""
        matched = [FOLD_PART.fullmatch(part) for part in self.parts]
        if not all(matched):
            return None
        fields = [part.groups() for part in matched if part]
        folds = np.array([int(fold or 0) for fold, _, _ in fields], np.int64)
        return FoldRoles(folds, *(np.array([not flag[number] for flag in fields]) for number in (1, 2)))

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
        if (classes == UNKNOWN).any() or not _are_parts(set(texts["part"])):
            raise AdapterError(f"{file} has rows of other categories or parts than its adapter; copy the adapter again, or fit a new one.")
        return cls(texts["text"], texts["part"], numbers["product"], classes, numbers["lora_logits"], numbers["linear_logits"])

    def part(self, name: str) -> Self:
        """The rows of one part."""
        return self.take(np.array(self.parts) == name)

    def take(self, chosen: BoolArray) -> Self:
        """Some of the rows."""
        rows = np.flatnonzero(chosen)
        texts, parts = [self.texts[row] for row in rows], [self.parts[row] for row in rows]
        return type(self)(texts, parts, self.products[rows], self.classes[rows], self.lora[rows], self.linear[rows])

    @property
    def scored(self) -> Self:
        """The rows that the scores are of: test rows, or most of the out-of-fold rows."""
        roles = self.roles
        return self.part("test") if roles is None else self.take(roles.scored)


def _are_parts(parts: set[str]) -> bool:
    """Whether a fit names its parts so, and some rows are scored: a holdout has two parts, folds are numbered."""
    matched = [FOLD_PART.fullmatch(part) for part in parts]
    return parts == {"validation", "test"} or (all(matched) and any(part is not None and not part[2] for part in matched))
