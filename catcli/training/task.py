"""What a training is given, and how it reports its progress."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from catcli.arrays import IntArray
from catcli.data.dataset.examples import UNLABELED, Examples
from catcli.evaluation.calibration import class_shares
from catcli.export.torch_inference import Advance
from catcli.models.losses import TeacherTargets
from catcli.training.base_features import BaseFeatures


@dataclass(frozen=True)
class TrainingMessages:
    """How a training speaks: ``advance`` with what is being done, how many rows of it, and of how many; ``say`` with a sentence."""

    advance: Advance = lambda *_: None
    say: Callable[[str], None] = lambda _: None


@dataclass(frozen=True)
class TrainingTask:
    """What a training is given: the texts of a run, which of them it learns from, and which validation rows it looks at.

    ``learn`` and ``held`` are row numbers of ``examples``, whose texts are those of ``reading``; ``count`` is how many classes there are,
    ``seconds`` what the training may take, None without a limit. ``targets`` are what a teacher says of the examples; those that have no
    class but `UNLABELED` are learned from it alone.
    """

    reading: BaseFeatures
    examples: Examples
    learn: IntArray
    held: IntArray
    count: int
    seconds: float | None = None
    targets: TeacherTargets | None = None

    @property
    def labeled(self) -> IntArray:
        """Those of the rows that are learned from that have a class."""
        found: IntArray = self.learn[self.examples.classes[self.learn] != UNLABELED]
        return found

    @property
    def shares(self) -> npt.NDArray[np.float64]:
        """Each class's share of the labeled rows that are learned from *(classes,)*."""
        return class_shares(self.examples.classes[self.labeled], self.examples.weights[self.labeled], self.count)
