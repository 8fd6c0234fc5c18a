"""Confidences and what became of them → calibration error and the reliability diagram."""

from __future__ import annotations

import numpy as np

from catcli.adapter.manifest import CalibrationParameters
from catcli.arrays import BoolArray, FloatArray, IntArray
from catcli.evaluation.blend import softmax
from catcli.evaluation.metrics import Bin, Calibration

BINS = 15

SIMULATIONS = 200
"""Times that exact confidences are simulated, to see what error so few rows show by chance."""


def reliability_bins(confidence: FloatArray, right: BoolArray) -> tuple[Bin, ...]:
    """Rows by rising ``confidence`` *(rows,)* in at most `BINS` bins of as many rows each; ``right`` *(rows,)* says which were."""
    order = np.argsort(confidence, kind="stable")
    return tuple(
        Bin(confidence=float(confidence[rows].mean()), accuracy=float(right[rows].mean()), rows=len(rows))
        for rows in np.array_split(order, min(BINS, len(order)))
    )


def calibration_error(confidence: FloatArray, right: BoolArray) -> float:
    """Expected calibration error: |accuracy - confidence|, averaged over the rows of `reliability_bins`.

    Naeini et al. 2015, "Obtaining Well Calibrated Probabilities Using Bayesian Binning"; bins of equal mass as in Nixon et al. 2019,
    "Measuring Calibration in Deep Learning", since most confidences of a good model lie in the last of equal widths.
    """
    return sum(bin_.rows * abs(bin_.accuracy - bin_.confidence) for bin_ in reliability_bins(confidence, right)) / len(confidence)


def measure_calibration(scores: FloatArray, probabilities: FloatArray, truth: IntArray, confidence: CalibrationParameters) -> Calibration:
    """Of ``scores`` before and ``probabilities`` after calibration, each *(rows, classes)*, against class numbers *(rows,)*.

    ``confidence`` is what calibrates the saved model.
    """
    after, right = probabilities.max(1), probabilities.argmax(1) == truth
    return Calibration(
        confidence=confidence,
        error_before=calibration_error(softmax(scores).max(1), scores.argmax(1) == truth),
        error_after=calibration_error(after, right),
        by_chance=_error_by_chance(after),
        bins=reliability_bins(after, right),
    )


def _error_by_chance(confidence: FloatArray) -> float:
    random = np.random.default_rng(0)
    simulated = [calibration_error(confidence, random.random(len(confidence)) < confidence) for _ in range(SIMULATIONS)]
    return float(np.mean(simulated))
