"""Logits of several voices → probabilities."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float32]


def blend(voices: Sequence[Array], weights: Sequence[float], temperature: float = 1.0) -> Array:
    """Probabilities *(rows, classes)* of the logarithmic opinion pool: softmax((w1 z1 + w2 z2 + …) / temperature).

    ``voices`` are logits, each *(rows, classes)*. The pool multiplies the voices' distributions, each raised to its weight (Genest & Zidek
    1986, "Combining Probability Distributions"), so a category has to please all of them; temperature scaling is Guo et al. 2017.
    """
    scores = sum(np.float32(weight / temperature) * voice for weight, voice in zip(weights, voices, strict=True))
    return softmax(np.asarray(scores, dtype=np.float32))


def softmax(scores: Array) -> Array:
    """Each row's exponentials, divided by their sum; shifted by the row's maximum so that none overflows."""
    raised = np.exp(scores - scores.max(axis=1, keepdims=True))
    result: Array = raised / raised.sum(axis=1, keepdims=True)
    return result
