"""Logits of two models → scores → probabilities."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from catcli.adapter import Blend

Array = npt.NDArray[np.float32]


def mix(lora: Array, linear: Array, blend: Blend) -> Array:
    """Scores *(rows, classes)* of the logarithmic opinion pool, before the temperature: w1 z1 + w2 z2 + offset.

    ``lora`` and ``linear`` are logits *(rows, classes)*. The pool multiplies the models' distributions, each raised to its weight (Genest &
    Zidek 1986, "Combining Probability Distributions"), so a category has to please both.
    """
    scores = np.float32(blend.lora) * lora + np.float32(blend.linear) * linear
    if blend.offset:
        scores += np.asarray(blend.offset, dtype=np.float32)
    return np.asarray(scores, dtype=np.float32)


def softmax(scores: Array) -> Array:
    """Each row's exponentials, divided by their sum; shifted by the row's maximum so that none overflows."""
    raised = np.exp(scores - scores.max(axis=1, keepdims=True))
    result: Array = raised / raised.sum(axis=1, keepdims=True)
    return result
