"""What out-of-fold rows are for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np

from catcli.arrays import BoolArray, IntArray


@dataclass(frozen=True)
class FoldRoles:
    """The fold of each out-of-fold row, whether it is scored, and whether it chooses blend and calibration; each array *(rows,)*.

    Thresholds are tested on all of them.
    """

    folds: IntArray
    scored: BoolArray
    choosing: BoolArray

    @classmethod
    def of(cls, folds: IntArray) -> Self:
        """Of rows that are all scored and all choose."""
        every = np.ones(len(folds), np.bool_)
        return cls(folds, every, every)

    def take(self, rows: IntArray) -> Self:
        """Those of some of the rows."""
        return type(self)(self.folds[rows], self.scored[rows], self.choosing[rows])
