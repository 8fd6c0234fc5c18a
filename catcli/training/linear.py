"""The linear model beside LoRA: one-vs-rest support vector machines over words and character n-grams.

On product data it trains in seconds and is hard to beat, and it knows what a subword model blurs: the exact spelling of brands and part
numbers. One-vs-rest with hinge loss rather than multinomial logistic regression, which at hundreds of categories takes many times longer.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from scipy import sparse
from sklearn.exceptions import ConvergenceWarning
from sklearn.svm import LinearSVC

from catcli.arrays import IntArray
from catcli.config import Balance
from catcli.data.dataset.examples import Examples
from catcli.evaluation.blend import softmax
from catcli.evaluation.calibration import class_shares, fit_logit_weights
from catcli.inference.ngrams import LinearModel, Ngrams
from catcli.models.losses import FOCAL_GAMMA, class_weights

MIN_WEIGHT = 0.01
"""Weights nearer to zero than this are dropped. On flipkart (189 categories) 2.4 % remain, 4 MB for 123, and accuracy moves by .0003."""

TOLERANCE = 0.01
"""liblinear's stopping tolerance, in place of scikit-learn's .0001: a third less time, the same accuracy (tests/bench/README.md)."""

CLASSES_PER_CALL = 8
"""Classes that one call fits. Each call holds classes x features dense, and its rows a second time."""

MAX_ROW_CLASS_PAIRS = 20_000_000
"""Rows times classes up to which every class is set against all rows; above, against its share of this many and all of its own.

3 to 5 minutes or so. At 189 classes it is reached with 106,000 rows, at 5,000 with 4,000.
"""

MIN_OTHER_ROWS = 4_000
"""Rows of other classes that a class is set against at least."""

FOLDS = 5

MIN_FOCAL_WEIGHT = 0.1
"""What a row counts at least under focal loss. Without it the common categories were lost: .43 of flipkart's rows right for .88."""


def fit_linear(examples: Examples, count: int, seed: int, advance: Callable[[float, float], None] = lambda *_: None) -> LinearModel:
    """Fit on ``examples`` with class numbers below ``count``, at least two of which occur; ``advance`` hears of classes done."""
    ngrams = Ngrams.fit(examples.texts)
    matrix = ngrams.transform(examples.texts)
    present = np.unique(examples.classes)
    groups = (
        [present]
        if len(present) == 2
        else [present[start : start + CLASSES_PER_CALL] for start in range(0, len(present), CLASSES_PER_CALL)]
    )
    machines = _OneVsRest(matrix, examples, len(present), seed)
    columns, rows, values = [], [], []
    # A category without a training row is possible but never favored.
    bias = np.full(count, np.nan, np.float32)
    # One after another: liblinear draws its rows by one generator for the whole process, so two at once would never fit alike again.
    for done, fitted in enumerate(map(machines.fit, groups), 1):
        bias[fitted.classes] = fitted.bias
        columns.append(fitted.classes[fitted.weights.row])
        rows.append(fitted.weights.col)
        values.append(fitted.weights.data)
        advance(min(done * CLASSES_PER_CALL, len(present)), len(present))
    bias[np.isnan(bias)] = np.nanmin(bias) - 1
    weights = sparse.csr_matrix((np.concatenate(values), (np.concatenate(rows), np.concatenate(columns))), (matrix.shape[1], count))
    return LinearModel(ngrams, weights, bias)


@dataclass(frozen=True)
class _ClassWeights:
    """Weights *(classes, features)*, sparse, and bias *(classes,)* of some classes."""

    classes: IntArray
    weights: sparse.coo_matrix
    bias: npt.NDArray[np.float32]


@dataclass(frozen=True)
class _OneVsRest:
    """One support vector machine for each of ``present`` classes, fitted a few at a time."""

    matrix: sparse.csr_matrix
    examples: Examples
    present: int
    seed: int

    def fit(self, group: IntArray) -> _ClassWeights:
        """Those of the classes ``group``, each against all other rows, or a sample of them."""
        of_group = np.isin(self.examples.classes, group)
        rows = np.flatnonzero(of_group | self._others(of_group, group))
        truth = np.where(of_group[rows], self.examples.classes[rows], -1)
        machine = LinearSVC(random_state=self.seed, tol=TOLERANCE)
        with warnings.catch_warnings():
            # Where liblinear stops after its thousand rounds the decisions have long settled; only the last digits have not.
            warnings.simplefilter("ignore", ConvergenceWarning)
            machine.fit(self.matrix[rows], truth, sample_weight=self.examples.weights[rows])
        coefficients, intercepts, classes = machine.coef_, machine.intercept_, machine.classes_
        if len(classes) == 2:  # scikit-learn keeps one vector for two classes: the second against the first
            coefficients, intercepts = np.concatenate((-coefficients, coefficients)), np.concatenate((-intercepts, intercepts))
        named = classes >= 0
        weights = np.where(np.abs(coefficients[named]) >= MIN_WEIGHT, coefficients[named], 0).astype(np.float32)
        return _ClassWeights(classes[named], sparse.coo_matrix(weights), intercepts[named].astype(np.float32))

    def _others(self, of_group: npt.NDArray[np.bool_], group: IntArray) -> npt.NDArray[np.bool_]:
        """Which rows of other classes the group is set against."""
        limit = max(MIN_OTHER_ROWS, MAX_ROW_CLASS_PAIRS // self.present)
        others = np.flatnonzero(~of_group)
        if len(others) <= limit:
            return ~of_group
        sampled = np.zeros(len(of_group), np.bool_)
        sampled[np.random.default_rng((self.seed, int(group[0]))).choice(others, limit, replace=False)] = True
        return sampled


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


def out_of_fold_logits(
    examples: Examples,
    folds: IntArray,
    names: Examples,
    count: int,
    seed: int,
    complete: Callable[[LinearModel], LinearModel] = lambda model: model,
) -> tuple[npt.NDArray[np.float32], IntArray]:
    """Logits *(rows, classes)* of ``examples`` by models that have not seen them, and the numbers of those rows.

    Fold ``folds[row]``, counted from 0, is scored by a model of the others and of the categories' ``names``. A row whose category has no
    other row is left out: what it would be taken for says nothing of a model that knows it. ``complete`` gives a model further classes.
    """
    scored, logits = [], []
    for fold in range(int(folds.max(initial=-1)) + 1):
        inside, outside = np.flatnonzero(folds == fold), np.flatnonzero(folds != fold)
        inside = inside[np.isin(examples.classes[inside], examples.classes[outside])]
        if len(inside) and len(np.unique(examples.classes[outside])) > 1:
            model = complete(fit_linear(examples.take(outside).plus(names), count, seed))
            scored.append(inside)
            logits.append(model.logits([examples.texts[row] for row in inside]))
    if not scored:
        return np.empty((0, count), np.float32), np.empty(0, np.int64)
    return np.concatenate(logits), np.concatenate(scored)
