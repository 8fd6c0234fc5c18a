"""The data of one training."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from catcli.arrays import IntArray
from catcli.data.dataset.examples import UNLABELED, Examples
from catcli.evaluation.calibration import class_shares
from catcli.models.losses import TeacherTargets
from catcli.training.base_features import BaseFeatures


@dataclass(frozen=True)
class TrainingTask:
    """The data of one training: examples with the base's features, which of them are training rows and which validation rows.

    ``train`` and ``validation`` are row numbers of ``examples``; ``classes`` is how many there are, ``seconds`` what the training may take,
    None without a limit. ``targets`` are a teacher's probabilities for the examples; examples of the class `UNLABELED` have only these.
    """

    features: BaseFeatures
    examples: Examples
    train: IntArray
    validation: IntArray
    classes: int
    seconds: float | None = None
    targets: TeacherTargets | None = None

    @property
    def labeled(self) -> IntArray:
        """The training rows that have a class."""
        rows: IntArray = self.train[self.examples.classes[self.train] != UNLABELED]
        return rows

    @property
    def shares(self) -> npt.NDArray[np.float64]:
        """Each class's share of the labeled training rows *(classes,)*."""
        return class_shares(self.examples.classes[self.labeled], self.examples.weights[self.labeled], self.classes)
