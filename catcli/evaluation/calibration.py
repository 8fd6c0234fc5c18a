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

WEIGHTS = (0.0, 50.0)
"""Between these a voice's weight is looked for."""


def fit_weights(voices: Sequence[Array], truth: Classes) -> tuple[float, ...]:
    """One weight per voice that minimizes the log loss of ``softmax(sum of weight * logits)``.

    ``voices`` are logits *(rows, classes)*, ``truth`` the class numbers *(rows,)*. The loss is convex in the weights. With one voice the
    weight is the inverse of its temperature (Guo et al. 2017).

    The targets are smoothed as Platt (1999, "Probabilistic Outputs for SVMs", section 2.2) does for one class: a right answer counts
    (n + 1) / (n + 2) and the rest is shared by the other classes. Without it, validation rows that are all right would ask for endless
    confidence.
    """
    rows, classes = voices[0].shape
    stacked = np.stack([voice.astype(np.float64) for voice in voices])
    targets = np.full((rows, classes), 1 / ((rows + 2) * max(classes - 1, 1)))
    targets[np.arange(rows), truth] = (rows + 1) / (rows + 2)

    def loss(weights: npt.NDArray[np.float64]) -> tuple[float, npt.NDArray[np.float64]]:
        scores = np.tensordot(weights, stacked, axes=1)
        scores -= scores.max(axis=1, keepdims=True)
        logs = scores - np.log(np.exp(scores).sum(axis=1, keepdims=True))
        gradient = np.tensordot(stacked, np.exp(logs) - targets, axes=2)
        return float(-(targets * logs).sum() / rows), gradient / rows

    start = np.full(len(voices), 1.0 / len(voices))
    result = optimize.minimize(loss, start, jac=True, method="L-BFGS-B", bounds=[WEIGHTS] * len(voices))
    return tuple(float(weight) for weight in result.x)


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
