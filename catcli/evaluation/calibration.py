"""Weights of a blend and temperatures, by the log loss of validation rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt
from scipy import optimize

from catcli.adapter import Variant
from catcli.runtime.blend import Array, softmax

Classes = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

WEIGHTS = (0.0, 50.0)
"""Between these a voice's weight is looked for."""

PRIOR = 10.0
"""Strength of the draw towards equal shares: a voice left out altogether costs as much as a quarter of so many nats.

Of 0, 1, 4, 16 and 64, tried on halves of the held-out rows of three adapters, those from 4 to 16 had the lowest log loss.
"""


def fit_weights(voices: Sequence[Array], truth: Classes) -> tuple[float, ...]:
    """One weight per voice for ``softmax(sum of weight * logits)``, by the log loss.

    ``voices`` are logits *(rows, classes)*, ``truth`` the class numbers *(rows,)*. A voice's weight by itself is the inverse of its
    temperature (Guo et al. 2017). Several voices are drawn towards equal shares of their weights alone by a Gaussian prior, worth `PRIOR`
    rows: with few validation rows it decides, with many the rows do.
    """
    alone = [_minimize([voice], truth, np.zeros(1), np.zeros(1))[0] for voice in voices]
    if len(voices) == 1:
        return (float(alone[0]),)
    scale = np.maximum(alone, 1e-3)
    return tuple(float(weight) for weight in _minimize(voices, truth, scale / len(voices), PRIOR / scale**2))


def _minimize(voices: Sequence[Array], truth: Classes, center: Floats, strength: Floats) -> Floats:
    """The weights with the least log loss plus ``strength * (weight - center)**2 / rows``, which is convex.

    The targets are smoothed as Platt (1999, "Probabilistic Outputs for SVMs", section 2.2) does for one class: a right answer counts
    (n + 1) / (n + 2) and the rest is shared by the other classes. Without it, validation rows that are all right would ask for endless
    confidence.
    """
    rows, classes = voices[0].shape
    stacked = np.stack([voice.astype(np.float64) for voice in voices])
    targets = np.full((rows, classes), 1 / ((rows + 2) * max(classes - 1, 1)))
    targets[np.arange(rows), truth] = (rows + 1) / (rows + 2)

    def loss(weights: Floats) -> tuple[float, Floats]:
        scores = np.tensordot(weights, stacked, axes=1)
        scores -= scores.max(axis=1, keepdims=True)
        logs = scores - np.log(np.exp(scores).sum(axis=1, keepdims=True))
        away = weights - center
        gradient = np.tensordot(stacked, np.exp(logs) - targets, axes=2) + 2 * strength * away
        return float(-(targets * logs).sum() + (strength * away**2).sum()) / rows, gradient / rows

    start = np.full(len(voices), 1.0 / len(voices))
    found: Floats = optimize.minimize(loss, start, jac=True, method="L-BFGS-B", bounds=[WEIGHTS] * len(voices)).x
    return found


@dataclass(frozen=True)
class Blending:
    """What the validation rows chose.

    ``lora`` and ``linear`` multiply the two models' logits before they are added; ``temperatures`` divide the sum, one for each variant
    that can serve. ``lora_alone`` and ``linear_alone`` calibrate each model by itself.
    """

    lora: float
    linear: float
    lora_alone: float
    linear_alone: float
    temperatures: Mapping[Variant, float]

    @classmethod
    def fit(cls, variants: Mapping[Variant, Array], linear: Array, truth: Classes) -> Self:
        """Choose by logits of the LoRA model's ``variants``, ``fp32`` among them, and of the linear model: each *(rows, classes)*."""
        lora_weight, linear_weight = fit_weights([variants["fp32"], linear], truth)
        temperatures = {
            name: fit_temperature(np.float32(lora_weight) * logits + np.float32(linear_weight) * linear, truth)
            for name, logits in variants.items()
        }
        (lora_alone,), (linear_alone,) = fit_weights([variants["fp32"]], truth), fit_weights([linear], truth)
        return cls(lora_weight, linear_weight, lora_alone, linear_alone, temperatures)

    def scores(self, lora: Array, linear: Array, variant: Variant) -> Array:
        """The calibrated logits of the blend, from those of the LoRA model's ``variant`` and of the linear model."""
        mixed = np.float32(self.lora) * lora + np.float32(self.linear) * linear
        return np.asarray(mixed / np.float32(self.temperatures[variant]), dtype=np.float32)


def fit_temperature(scores: Array, truth: Classes) -> float:
    """The temperature that minimizes the log loss of ``softmax(scores / temperature)``, smoothed as in `fit_weights`."""
    return 1.0 / max(fit_weights([scores], truth)[0], 1e-3)


def log_loss(scores: Array, truth: Classes) -> float:
    """Mean negative logarithm, in nats, of the probability that softmax of ``scores`` *(rows, classes)* gives the truth."""
    probabilities = softmax(scores)[np.arange(len(truth)), truth]
    return float(-np.log(np.maximum(probabilities, np.finfo(np.float32).tiny)).mean())
