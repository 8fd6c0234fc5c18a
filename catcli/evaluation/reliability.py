"""Confidences and what became of them → calibration error and the reliability diagram."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from catcli.adapter.manifest import CalibrationParameters
from catcli.evaluation.metrics import Bin, Calibration
from catcli.evaluation.resampling import Classes, Floats
from catcli.runtime.blend import Array, calibrated, softmax

BINS = 15

TRIALS = 200
"""Times that exact confidences are drawn anew, to see what error so few rows show by chance."""

Right = npt.NDArray[np.bool_]


def bins_of(confidence: Array, right: Right) -> tuple[Bin, ...]:
    """Rows by rising ``confidence`` *(rows,)* in at most `BINS` bins of as many rows each; ``right`` *(rows,)* says which were."""
    order = np.argsort(confidence, kind="stable")
    return tuple(
        Bin(confidence=float(confidence[rows].mean()), accuracy=float(right[rows].mean()), rows=len(rows))
        for rows in np.array_split(order, min(BINS, len(order)))
    )


def calibration_error(confidence: Array, right: Right) -> float:
    """Expected calibration error: |accuracy - confidence|, averaged over the rows of `bins_of`.

    Naeini et al. 2015, "Obtaining Well Calibrated Probabilities Using Bayesian Binning"; bins of equal mass as in Nixon et al. 2019,
    "Measuring Calibration in Deep Learning", since most confidences of a good model lie in the last of equal widths.
    """
    return sum(found.rows * abs(found.accuracy - found.confidence) for found in bins_of(confidence, right)) / len(confidence)


def calibration(scores: Array, truth: Classes, confidence: CalibrationParameters) -> Calibration:
    """Of ``scores`` *(rows, classes)* before they are calibrated, against class numbers *(rows,)*."""
    right = scores.argmax(1) == truth
    before, after = softmax(scores).max(1), calibrated(scores, confidence).max(1)
    return Calibration(
        confidence=confidence,
        error_before=calibration_error(before, right),
        error_after=calibration_error(after, right),
        by_chance=_by_chance(after),
        bins=bins_of(after, right),
    )


def _by_chance(confidence: Array) -> float:
    random = np.random.default_rng(0)
    drawn: Floats = np.array([calibration_error(confidence, random.random(len(confidence)) < confidence) for _ in range(TRIALS)])
    return float(drawn.mean())
