"""Logits of two models → scores → probabilities."""

from __future__ import annotations

import numpy as np

from catcli.adapter.manifest import BlendWeights, CalibrationParameters
from catcli.arrays import BoolArray, DoubleArray, FloatArray


def blend_logits(lora: FloatArray, linear: FloatArray, blend: BlendWeights) -> FloatArray:
    """Scores *(rows, classes)* of the logarithmic opinion pool, before they are calibrated: w1 z1 + w2 z2 + offset.

    ``lora`` and ``linear`` are logits *(rows, classes)*. The pool multiplies the models' distributions, each raised to its weight (Genest &
    Zidek 1986, "Combining Probability Distributions"), so a category has to please both.
    """
    scores = np.float32(blend.lora) * lora + np.float32(blend.linear) * linear
    if blend.offset:
        scores += np.asarray(blend.offset, dtype=np.float32)
    return np.asarray(scores, dtype=np.float32)


def margins(logits: FloatArray) -> FloatArray:
    """How far the two largest of each row's logits *(rows, classes)* are apart *(rows,)*."""
    largest = np.partition(logits, -2, axis=1)[:, -2:]
    return np.asarray(largest[:, 1] - largest[:, 0], dtype=np.float32)


def decided_alone(linear: FloatArray, margin: float) -> BoolArray:
    """Which rows *(rows,)* the linear model decides alone, by its logits *(rows, classes)*."""
    decided: BoolArray = margins(linear) >= np.float32(margin)
    return decided


def softmax(scores: FloatArray) -> FloatArray:
    """Each row's exponentials, divided by their sum; shifted by the row's maximum so that none overflows."""
    raised = np.exp(scores - scores.max(axis=1, keepdims=True))
    result: FloatArray = raised / raised.sum(axis=1, keepdims=True)
    return result


def log_odds(probabilities: FloatArray) -> DoubleArray:
    """The logarithm of p / (1 - p); of 0 and 1 what float32 can still tell from them."""
    wide = probabilities.astype(np.float64)
    odds: DoubleArray = np.log(np.maximum(wide, 1e-9)) - np.log(np.maximum(1 - wide, 1e-7))
    return odds


def calibrate(scores: FloatArray, confidence: CalibrationParameters) -> FloatArray:
    """Probabilities *(rows, classes)* of scores: their softmax under the temperature, the best then corrected and the others scaled to fit.

    The correction is Platt's (1999, "Probabilistic Outputs for Support Vector Machines") on the log-odds of the best category alone
    (top-label calibration: Gupta & Ramdas 2022). One temperature cannot give it: among hundreds of categories a low probability is spread
    over the many improbable ones, and is too low, while a high one is too high. The best stays the best.
    """
    tempered = scores / np.float32(confidence.temperature)
    rows, best = np.arange(len(tempered)), tempered.argmax(axis=1)
    raised = np.exp(tempered - tempered[rows, best][:, None])
    raised[rows, best] = 0
    # Without the best: what is left of 1 would be lost to rounding.
    others = np.maximum(raised.sum(axis=1, dtype=np.float64), 1e-30)
    odds = -np.log(others)
    top = 1 / (1 + np.exp(-np.clip(confidence.slope * odds + confidence.shift, -80, 80)))
    raised *= ((1 - top) / others).astype(np.float32)[:, None]
    np.minimum(raised, (top * (1 - 1e-6)).astype(np.float32)[:, None], out=raised)
    raised[rows, best] = top
    result: FloatArray = raised
    return result
