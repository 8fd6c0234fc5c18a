"""What a recipe's balance does to the linear model: rows weigh more or less, or logits are moved."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from catcli.config import Balance
from catcli.data.dataset.examples import Examples
from catcli.evaluation.blend import softmax
from catcli.evaluation.calibration import class_shares, fit_logit_weights
from catcli.models.losses import FOCAL_GAMMA, class_weights
from catcli.training.linear import out_of_fold_logits

MIN_FOCAL_WEIGHT = 0.1
"""What a row counts at least under focal loss. Without it the common categories were lost: .43 of flipkart's rows right for .88."""


def balance_weights(examples: Examples, count: int, balance: Balance, seed: int) -> Examples:
    """``examples`` with the weights that ``balance`` gives them: what `make_row_loss` does to LoRA's rows, done to these.

    ``focal`` takes how sure a model is of a row from one that has not seen it, of the other half of the rows: a support vector machine is
    sure of all that it has seen. A row never counts less than `MIN_FOCAL_WEIGHT`: the loss itself gives a row its weight back as soon as it
    is forgotten, and these weights stay. ``logit-adjust`` weighs no row; what the fitted model says is moved, by `logit_adjustment`.
    """
    if balance == "weights":
        weights = class_weights(class_shares(examples.classes, examples.weights, count))[examples.classes]
    elif balance == "focal":
        halves = np.random.default_rng(seed).permutation(len(examples)) % 2
        logits, scored = out_of_fold_logits(examples, halves, examples.take(halves[:0]), count, seed)
        weights = np.ones(len(examples), np.float32)
        if len(scored):
            (scale,) = fit_logit_weights([logits], examples.classes[scored])
            right = softmax(np.float32(scale) * logits)[np.arange(len(scored)), examples.classes[scored]]
            weights[scored] = np.maximum((1 - right) ** FOCAL_GAMMA, MIN_FOCAL_WEIGHT)
    else:
        return examples
    return replace(examples, weights=examples.weights * weights / np.average(weights, weights=examples.weights).astype(np.float32))


def logit_adjustment(shares: npt.NDArray[np.float64], scale: float) -> npt.NDArray[np.float32]:
    """What to add to logits *(classes,)* so that they do without the classes' ``shares``; times ``scale`` they are those of probabilities.

    Menon et al. 2021, "Long-Tail Learning via Logit Adjustment", equation 9, with tau = 1.
    """
    return np.asarray(-np.log(shares) / max(scale, 1e-3), np.float32)
