"""Weights of a blend and temperatures, by the log loss of validation rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from scipy import optimize

from catcli.adapter.manifest import BlendWeights, CalibrationParameters, Manifest, Variant
from catcli.arrays import BoolArray, DoubleArray, FloatArray, IntArray
from catcli.evaluation.blend import blend_logits, calibrate, log_odds, softmax
from catcli.evaluation.fold_roles import FoldRoles
from catcli.evaluation.without_rows import bounding_offset, widened

OutOfFold = tuple[FloatArray, IntArray]

WEIGHT_BOUNDS = (0.0, 50.0)
"""The bounds of a model's weight."""

MIN_SCALE = 1e-3
"""A weight counts as this much where it divides."""

PRIOR_STRENGTH = 10.0
"""Strength of the prior towards the usual shares: a weight that is off by all of ``alone`` costs as much as so many nats.

Of 0, 1, 4, 16 and 64, tried on halves of the held-out rows of three adapters, those from 4 to 16 had the lowest log loss.
"""

PRIOR_ROW_STRENGTH = 0.15
"""The same for each row, where that is more: the margins of support vector machines are no log-probabilities, and the weights of the lowest
log loss do not label the most rows right, however many rows choose them; see tests/bench/README.md.
"""

PRIOR_LORA_SHARE = 0.3
"""LoRA's usual share of a blend, the linear model's being the rest; see tests/bench/README.md."""


def fit_logit_weights(logits: Sequence[FloatArray], truth: IntArray) -> tuple[float, ...]:
    """One weight per model for ``softmax(sum of weight * logits)``, by the log loss.

    ``logits`` *(rows, classes)* are those of each model, ``truth`` the class numbers *(rows,)*. The weight of a single model is the inverse
    of its temperature (Guo et al. 2017).
    """
    nothing = np.zeros(len(logits))
    return tuple(float(weight) for weight in _minimize(logits, truth, nothing, nothing))


def fit_scale(linear: FloatArray, truth: IntArray, out_of_fold: OutOfFold | None = None) -> float:
    """The weight of the linear model alone, by its logits for validation rows and, where there are such, its out-of-fold ones."""
    more, more_truth = out_of_fold or (linear[:0], truth[:0])
    return fit_logit_weights([np.concatenate((linear, more))], np.concatenate((truth, more_truth)))[0]


def fit_blend_weights(logits: Sequence[FloatArray], truth: IntArray, alone: Sequence[float], shares: Sequence[float]) -> tuple[float, ...]:
    """As `fit_logit_weights`, with a Gaussian prior that pulls each weight to its share of ``alone``.

    It is as strong as `PRIOR_STRENGTH` and `PRIOR_ROW_STRENGTH` say: with few rows it decides, with many the rows do for the most part.
    """
    scale, strength = np.maximum(alone, MIN_SCALE), max(PRIOR_STRENGTH, PRIOR_ROW_STRENGTH * len(truth))
    return tuple(float(weight) for weight in _minimize(logits, truth, scale * np.asarray(shares), strength / scale**2))


def _minimize(logits: Sequence[FloatArray], truth: IntArray, center: DoubleArray, strength: DoubleArray) -> DoubleArray:
    """The weights with the least log loss plus ``strength * (weight - center)**2 / rows``, which is convex.

    The targets are smoothed as Platt (1999, "Probabilistic Outputs for SVMs", section 2.2) does for one class: a right answer counts
    (n + 1) / (n + 2) and the rest is shared by the other classes. Without it, validation rows that are all right would ask for endless
    confidence.
    """
    rows, classes = logits[0].shape
    if not rows:
        raise ValueError("no rows to choose weights by")
    stacked = np.stack([model.astype(np.float64) for model in logits])
    targets = np.full((rows, classes), 1 / ((rows + 2) * max(classes - 1, 1)))
    targets[np.arange(rows), truth] = (rows + 1) / (rows + 2)

    def loss(weights: DoubleArray) -> tuple[float, DoubleArray]:
        scores = np.tensordot(weights, stacked, axes=1)
        scores -= scores.max(axis=1, keepdims=True)
        logs = scores - np.log(np.exp(scores).sum(axis=1, keepdims=True))
        away = weights - center
        gradient = np.tensordot(stacked, np.exp(logs) - targets, axes=2) + 2 * strength * away
        return float(-(targets * logs).sum() + (strength * away**2).sum()) / rows, gradient / rows

    start = np.full(len(logits), 1.0 / len(logits))
    solution: DoubleArray = optimize.minimize(loss, start, jac=True, method="L-BFGS-B", bounds=[WEIGHT_BOUNDS] * len(logits)).x
    return solution


@dataclass(frozen=True)
class BlendCalibration:
    """What the validation rows, or the out-of-fold rows, chose.

    ``blend`` mixes the two models' logits; ``confidences`` calibrate what comes out, one for each variant that can serve. ``lora_alone``
    and ``linear_alone`` calibrate each model by itself. Of the classes after the first ``with_rows``, where that is given, no row is known.
    """

    blend: BlendWeights
    lora_alone: float
    linear_alone: float
    confidences: Mapping[Variant, CalibrationParameters]
    with_rows: int | None = None

    @classmethod
    def fit(
        cls,
        variants: Mapping[Variant, FloatArray],
        linear: FloatArray,
        truth: IntArray,
        shares: DoubleArray,
        out_of_fold: OutOfFold | None = None,
        with_rows: int | None = None,
    ) -> Self:
        """Choose by logits of the LoRA model's ``variants``, ``fp32`` among them, and of the linear model: each *(rows, classes)*.

        ``shares`` *(classes,)* is each class's share of LoRA's training rows: in the blend LoRA's logits do without its logarithm (logit
        adjustment: Menon et al. 2021, "Long-Tail Learning via Logit Adjustment", section 4.1). Alone that would name rare categories too
        often; here it makes up for the linear model's reluctance to name them. ``out_of_fold`` are the linear model's out-of-fold logits
        for training rows, and their classes: with few validation rows they know its scale better. Of the classes after the first
        ``with_rows`` no row is known, so few rows may get them.
        """
        (lora_alone,) = fit_logit_weights([variants["fp32"]], truth)
        linear_alone = fit_scale(linear, truth, out_of_fold)
        adjustment = np.asarray(-np.log(shares) / max(lora_alone, MIN_SCALE), dtype=np.float32)
        alone, usual = (lora_alone, linear_alone), (PRIOR_LORA_SHARE, 1 - PRIOR_LORA_SHARE)
        lora_weight, linear_weight = fit_blend_weights([variants["fp32"] + adjustment, linear], truth, alone, usual)
        offset = lora_weight * adjustment
        if with_rows is not None:
            scores = np.float32(lora_weight) * variants["fp32"] + np.float32(linear_weight) * linear + offset
            offset = offset + widened(bounding_offset(scores, with_rows), with_rows)
        rounded = tuple(round(float(value), 6) for value in offset)
        blend = BlendWeights(lora=lora_weight, linear=linear_weight, offset=rounded)
        confidences = {name: fit_calibration(blend_logits(logits, linear, blend), truth) for name, logits in variants.items()}
        return cls(blend, lora_alone, linear_alone, confidences, with_rows)

    @classmethod
    def of(cls, manifest: Manifest) -> Self:
        """What an adapter was written with."""
        confidences = {variant: served.confidence for variant, served in manifest.variants.items()}
        with_rows = len(manifest.categories) - manifest.without_rows if manifest.without_rows else None
        return cls(manifest.blend, manifest.alone.lora, manifest.alone.linear, confidences, with_rows)

    def probabilities(self, lora: FloatArray, linear: FloatArray, variant: Variant) -> FloatArray:
        """The calibrated probabilities of the blend *(rows, classes)*, from logits of the LoRA model's ``variant`` and the linear model."""
        return calibrate(blend_logits(lora, linear, self.blend), self.confidences[variant])

    def probabilities_of_all(self, lora: FloatArray, linear: FloatArray, variant: Variant) -> dict[str, FloatArray]:
        """`probabilities` of the blend, and those of each model alone, calibrated by itself, by the names of `Evaluation`."""
        return {
            "blend": self.probabilities(lora, linear, variant),
            "lora": softmax(np.float32(self.lora_alone) * lora),
            "linear": softmax(np.float32(self.linear_alone) * linear),
        }

    def cross_fitted(self, lora: FloatArray, linear: FloatArray, truth: IntArray, roles: FoldRoles) -> dict[str, FloatArray]:
        """`probabilities_of_all`, of rows by which nothing was chosen.

        ``lora`` and ``linear`` are logits *(rows, classes)*. The rows of each fold are scored with the weights and the calibration that
        the choosing rows of the others ask for. To choose among models by rows that also weighed them would favor what fits these rows
        best. The classes' shares among training rows are those that this one was fitted with.
        """
        probabilities = {name: np.empty_like(linear) for name in ("blend", "lora", "linear")}
        shares = self._shares(linear.shape[1])
        for fold in np.unique(roles.folds):
            fitting, scored = np.flatnonzero((roles.folds != fold) & roles.choosing), np.flatnonzero(roles.folds == fold)
            if not len(fitting):  # one product alone
                fitting = scored
            chosen = type(self).fit({"fp32": lora[fitting]}, linear[fitting], truth[fitting], shares, with_rows=self.with_rows)
            for name, values in chosen.probabilities_of_all(lora[scored], linear[scored], "fp32").items():
                probabilities[name][scored] = values
        return probabilities

    def _shares(self, classes: int) -> DoubleArray:
        """The classes' shares *(classes,)*, but for a factor, from the offset that they gave; see `fit`."""
        if not self.blend.offset or self.blend.lora < MIN_SCALE:
            return np.ones(classes)
        shares = np.exp(-np.asarray(self.blend.offset) * max(self.lora_alone, MIN_SCALE) / self.blend.lora)
        if self.with_rows is not None:  # the others' offset holds what bounds them, too
            shares[self.with_rows :] = shares[: self.with_rows].min()
        return shares


def log_losses(probabilities: FloatArray, truth: IntArray) -> DoubleArray:
    """The negative logarithm *(rows,)*, in nats, of the probability of each row's class."""
    right = probabilities[np.arange(len(truth)), truth]
    return np.asarray(-np.log(np.maximum(right, np.finfo(np.float32).tiny)), np.float64)


def class_shares(classes: IntArray, weights: FloatArray, count: int) -> DoubleArray:
    """Each class's share of the rows *(classes,)*; one without rows counts as the rarest of the others."""
    sums = np.bincount(classes, weights, count)
    sums = np.maximum(sums, sums[sums > 0].min())
    return np.asarray(sums / sums.sum())


def fit_temperature(scores: FloatArray, truth: IntArray) -> float:
    """The temperature that minimizes the log loss of ``softmax(scores / temperature)``, smoothed as in `fit_logit_weights`."""
    return 1.0 / max(fit_logit_weights([scores], truth)[0], MIN_SCALE)


PRIOR_SHIFT = 0.25
"""Usual shift of `fit_calibration`: on the test files of four shops' products it was -.5 to .8."""

SLOPE_STRENGTH, SHIFT_STRENGTH = 16.0, 4.0
"""How strongly few rows are pulled to them: off by 1, the one costs 16 nats and the other 4."""


def fit_calibration(scores: FloatArray, truth: IntArray) -> CalibrationParameters:
    """What calibrates ``scores`` *(rows, classes)*: the temperature first, then slope and shift of the best category's log-odds."""
    temperature = fit_temperature(scores, truth)
    top = calibrate(scores, CalibrationParameters(temperature=temperature)).max(1)
    slope, shift = fit_odds(top, scores.argmax(1) == truth, (prior_slope(scores.shape[1]), PRIOR_SHIFT))
    return CalibrationParameters(temperature=temperature, slope=slope, shift=shift)


def fit_odds(top: FloatArray, right: BoolArray, usual: tuple[float, float]) -> tuple[float, float]:
    """Slope and shift for the log-odds of ``top``, the probabilities *(rows,)* of labels that are ``right`` *(rows,)* or not.

    They have the least log loss of "right" and "wrong", smoothed as in `fit_logit_weights`, with a Gaussian prior around the ``usual``.
    """
    odds = log_odds(top)
    count = int(right.sum())
    targets = np.where(right, (count + 1) / (count + 2), 1 / (len(right) - count + 2))

    def loss(line: DoubleArray) -> tuple[float, DoubleArray]:
        z = line[0] * odds + line[1]
        away = line - usual
        strength = np.array((SLOPE_STRENGTH, SHIFT_STRENGTH))
        off = 1 / (1 + np.exp(-z)) - targets
        value = float((np.logaddexp(0, z) - targets * z).sum() + (strength * away**2).sum())
        return value, np.array((off @ odds, off.sum())) + 2 * strength * away

    slope, shift = optimize.minimize(loss, np.array(usual), jac=True, method="L-BFGS-B", bounds=[(0.05, 20), (-20, 20)]).x
    return round(float(slope), 6), round(float(shift), 6)


def prior_slope(classes: int) -> float:
    """The more categories there are, the more probability lies with improbable ones.

    A line through the slopes that test files ask for: .84 and .97 with 10 categories, .34 to .63 with some 200.
    """
    return float(np.clip(1.2 - 0.13 * np.log(classes), 0.3, 1.0))
