"""``heldout.parquet``: the held-out rows with each model's logits."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from scipy import special

from catcli.adapter.manifest import BlendWeights
from catcli.adapter.parquet import HASH_TYPE, TEXT_TYPE, column_names, logits_type, matrix_type, read_columns, write_columns
from catcli.arrays import BoolArray, FloatArray, IntArray
from catcli.data.dataset.categories import UNKNOWN, Categories
from catcli.errors import AdapterError
from catcli.evaluation.blend import blend_logits
from catcli.evaluation.fold_roles import FoldRoles

MAX_ROWS = 1_000_000
"""Rows that no fit holds out: see `catcli.data.dataset.split.MAX_HELD_OUT`."""

MAX_LOGITS = 40_000_000
"""Rows times categories, of both parts together, that no fit has."""

STORED_CLASSES = 20
"""Categories of each row whose logits are stored: the true one, and those that come first by both models or by either."""

CHUNK_ROWS = 1_000
"""Rows that are packed at once: some arrays of all their logits are held besides."""

SMALLEST = -60_000.0
"""The smallest difference of logits that a float16 is given."""

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

    def save(self, file: Path, names: Sequence[str], blend: BlendWeights) -> None:
        """As Parquet, categories by name, of each row the logits of `STORED_CLASSES` categories and what stands for the others.

        So the file stays small however many categories there are. Logits are less than the row's largest one, and float16. ``blend`` says
        which categories come first where both models are blended, so that its labels are those of all logits.
        """
        chunks = [slice(start, start + CHUNK_ROWS) for start in range(0, len(self.texts), CHUNK_ROWS)]
        packed = [_packed(self.lora[rows], self.linear[rows], self.classes[rows], blend) for rows in chunks]
        write_columns(
            file,
            {"text": self.texts, "part": self.parts, "category": [names[number] for number in self.classes]},
            {
                "product": self.products,
                **{name: np.concatenate([part[name] for part in packed]) for name in ("classes", "lora_logits", "linear_logits")},
            },
        )

    @classmethod
    def load(cls, file: Path, names: Sequence[str]) -> Self:
        """What `save` wrote.

        Raises:
            AdapterError: the file holds something else.
        """
        count = len(names)
        width = min(STORED_CLASSES, count)
        is_packed = "classes" in column_names(file)  # before format 6 every logit was stored
        logits = matrix_type(pa.float16(), width + 1) if is_packed else logits_type(count)
        types = {
            **dict.fromkeys(("text", "part", "category"), TEXT_TYPE),
            "product": HASH_TYPE,
            **({"classes": matrix_type(pa.int32(), width)} if is_packed else {}),
            "lora_logits": logits,
            "linear_logits": logits,
        }
        stored = read_columns(file, types, min(MAX_ROWS, MAX_LOGITS // count))
        texts, numbers = stored.texts, stored.numbers
        classes, places = Categories(tuple(names)).numbers(texts["category"]), numbers.get("classes", np.zeros((0, 0), np.int32))
        if (classes == UNKNOWN).any() or not _are_parts(set(texts["part"])) or ((places < 0) | (places >= count)).any():
            raise AdapterError(f"{file} has rows of other categories or parts than its adapter; copy the adapter again, or fit a new one.")
        lora, linear = (
            _unpacked(numbers[name], places, count) if is_packed else numbers[name] for name in ("lora_logits", "linear_logits")
        )
        return cls(texts["text"], texts["part"], numbers["product"], classes, lora, linear)

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


def _packed(lora: FloatArray, linear: FloatArray, truth: IntArray, blend: BlendWeights) -> dict[str, npt.NDArray[Any]]:
    """The columns of rows: the classes *(rows, classes stored)* and each model's logits of them *(rows, classes stored + 1)*.

    The last logit stands for each of the other classes: it has as much probability as their mean, and less where one of them would come
    before the blend's best.
    """
    below = [logits - logits.max(1, keepdims=True) for logits in (lora, linear)]
    scores = blend_logits(below[0], below[1], blend)
    stored = _first_classes((scores, *below), truth)
    values = [np.concatenate((np.take_along_axis(logits, stored, 1), _mean_of_others(logits, stored)), 1) for logits in below]
    if stored.shape[1] < lora.shape[1]:
        offset = np.broadcast_to(np.asarray(blend.offset or np.zeros(lora.shape[1]), np.float32), lora.shape).copy()
        np.put_along_axis(offset, stored, -np.inf, 1)
        others = blend.lora * values[0][:, -1] + blend.linear * values[1][:, -1] + offset.max(1)
        excess = np.maximum(others - scores.max(1) + 1e-2, 0) / max(blend.lora + blend.linear, 1e-6)
        for model in values:
            model[:, -1] -= excess
    lora_logits, linear_logits = (np.maximum(model, SMALLEST).astype(np.float16) for model in values)
    return {"classes": stored.astype(np.int32), "lora_logits": lora_logits, "linear_logits": linear_logits}


def _first_classes(scores: Sequence[FloatArray], truth: IntArray) -> IntArray:
    """The classes *(rows, classes stored)* that come first by any of the ``scores``, each *(rows, classes)*, and the true one, rising."""
    places = np.broadcast_to(np.arange(scores[0].shape[1]), scores[0].shape)
    rank = np.full(places.shape, places.shape[1])
    for values in scores:
        order = np.argsort(-values, axis=1, kind="stable")
        np.put_along_axis(rank, order, np.minimum(np.take_along_axis(rank, order, 1), places), 1)
    rank[np.arange(len(truth)), truth] = -1
    return np.sort(np.argsort(rank, axis=1, kind="stable")[:, :STORED_CLASSES], axis=1)


def _mean_of_others(logits: FloatArray, stored: IntArray) -> FloatArray:
    """The logit *(rows, 1)* with the mean probability of the classes that are not ``stored``; 0 where all are."""
    others = logits.shape[1] - stored.shape[1]
    if not others:
        return np.zeros((len(logits), 1), np.float32)
    left = logits.copy()
    np.put_along_axis(left, stored, -np.inf, 1)
    return np.asarray(special.logsumexp(left, axis=1, keepdims=True) - np.log(others), np.float32)


def _unpacked(values: npt.NDArray[np.float16], stored: npt.NDArray[np.int32], count: int) -> FloatArray:
    """Logits *(rows, classes)* from what `_packed` gave."""
    logits = np.repeat(values[:, -1:].astype(np.float32), count, axis=1)
    np.put_along_axis(logits, stored.astype(np.int64), values[:, :-1].astype(np.float32), 1)
    return logits


def _are_parts(parts: set[str]) -> bool:
    """Whether a fit names its parts so, and some rows are scored: a holdout has two parts, folds are numbered."""
    matched = [FOLD_PART.fullmatch(part) for part in parts]
    return parts == {"validation", "test"} or (all(matched) and any(part is not None and not part[2] for part in matched))
