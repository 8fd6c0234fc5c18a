"""The head's first weights: what a logistic regression makes of the untouched base's vectors."""

from __future__ import annotations

import os
import warnings

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_limits

from catcli.arrays import FloatArray
from catcli.data.dataset.examples import Examples

INITIAL_HEAD_C = 0.05
"""Inverse strength of the L2 penalty; MiniLM's vectors are 3 to 5 long.

Weak on purpose: a probe that fits the training rows leaves LoRA no loss to learn from (tests/bench/README.md).
"""

MAX_OPERATIONS = 8e12
"""Floating-point operations that the probe may take, a minute of two cores: 52 rounds with 20,000 rows of 5,000 classes."""

MAX_THREADS = 4
"""Threads of its matrix products, which are too small for more: on a host of 16 cores all of them took eight times as long as four."""

VECTOR_LENGTHS = (3.0, 5.0)
"""The mean length of vectors that `INITIAL_HEAD_C` is for; those of other bases, GPT-2's are a hundred long, are scaled to it."""


def fit_initial_head(vectors: FloatArray, examples: Examples, count: int) -> tuple[FloatArray, FloatArray]:
    """Weight *(count, hidden)* and bias *(count,)* of the logistic regression of the examples' classes on ``vectors`` *(rows, hidden)*.

    A random head's first gradients distort what the base knows; a fitted one leaves it in place (LP-FT: Kumar et al. 2022, "Fine-Tuning can
    Distort Pretrained Features and Underperform Out-of-Distribution").
    """
    length = float(np.linalg.norm(vectors, axis=1).mean())
    scale = np.float32(np.clip(length, *VECTOR_LENGTHS) / max(length, 1e-6))
    rounds = int(np.clip(MAX_OPERATIONS / (4 * vectors.size * count), 15, 300))
    with warnings.catch_warnings(), threadpool_limits(limits=min(MAX_THREADS, os.cpu_count() or 1)):
        # Where the rounds do not suffice the head starts a little short of the best; the training continues from there anyway.
        warnings.simplefilter("ignore", ConvergenceWarning)
        # With thousands of categories of a few rows each, scikit-learn takes class numbers for measurements.
        warnings.filterwarnings("ignore", message="The number of unique classes is greater than 50%")
        probe = LogisticRegression(C=INITIAL_HEAD_C, max_iter=rounds).fit(vectors * scale, examples.classes, sample_weight=examples.weights)
    found_weight, found_bias = probe.coef_, probe.intercept_
    if len(probe.classes_) == 2:  # scikit-learn gives one row for two classes: the log-odds of the second
        found_weight, found_bias = (np.concatenate((-weights, weights)) / 2 for weights in (found_weight, found_bias))
    weight = np.zeros((count, vectors.shape[1]), np.float32)
    # A category without training rows keeps the lowest bias: possible, never favored.
    bias = np.full(count, found_bias.min() - 1.0, np.float32)
    weight[probe.classes_], bias[probe.classes_] = found_weight * scale, found_bias
    return weight, bias
