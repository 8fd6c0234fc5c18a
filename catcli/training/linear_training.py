"""The linear models of a fit: those that are scored, a holdout model or one for each fold, and the refit model, which is saved."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from catcli.arrays import BoolArray, FloatArray, IntArray
from catcli.data.dataset.examples import Examples, stratified_sample
from catcli.data.dataset.split import FoldSplit
from catcli.evaluation.bootstrap import Outcomes
from catcli.evaluation.calibration import OutOfFold, fit_scale
from catcli.evaluation.fit_metrics import RandomSplit, SplitScores
from catcli.evaluation.without_rows import bounding_offset
from catcli.inference.ngrams import LinearModel
from catcli.logs import LOGGER
from catcli.training.linear import FOLDS, MAX_LINEAR_CHARACTERS, FittedLinear, LinearFit, fit_all, fit_linear, out_of_fold_logits
from catcli.training.linear_balance import balance_weights, logit_adjustment
from catcli.training.setup import Setup
from catcli.training.time_budget import LINEAR_SHARE

MAX_CROSS_FIT_ROWS = 1_000
"""Validation rows below which the linear model's scale is fitted on out-of-fold rows too; with as many it is known without."""

TIMED_LINEAR_ROWS = 2_000
"""Rows on which the linear model is timed before a time budget is shared out."""

MIN_CURVE_PRODUCTS = 16
"""Products below which a learning curve would be of models of one or two."""

MAX_RANDOM_SPLIT_ROWS = 6_000
"""Rows that the linear model learns from, at most, where a split by product is compared with one at random."""


@dataclass(frozen=True)
class LinearResult:
    """``model`` ships; ``logits`` *(held-out rows, classes)* are of models that have not seen the rows.

    ``peak_memory`` is what this process and those that fitted models beside it held together at most, in bytes.
    ``out_of_fold`` are such logits of a holdout's training rows. ``by_share`` are logits of the folds' models, and of models of fewer rows,
    each behind the share of the labeled rows that they learned from; nothing for a holdout, or where there are too few products.
    """

    model: LinearModel
    logits: FloatArray
    out_of_fold: OutOfFold
    seconds: float
    peak_memory: int
    by_share: tuple[tuple[float, FloatArray], ...] = ()


class LinearTraining:
    """Fits the linear models of one fit."""

    def __init__(self, setup: Setup) -> None:
        self._setup, self._recipe = setup, setup.recipe

    def train(self) -> LinearResult:
        """Fit the holdout model or those of the folds, score the held-out rows, and refit on all rows where the recipe says so."""
        started, setup, split = time.perf_counter(), self._setup, self._setup.split
        everything = np.arange(len(setup.rows))
        refit = [self.plan(everything, (), keep=True)] if self._recipe.refit else []
        by_share: tuple[tuple[float, FloatArray], ...] = ()
        if isinstance(split, FoldSplit):
            parts = self._parts(split)
            fits = [fit for _, part in parts for fit in self._plan_folds(split, part)]
            fitted = self._fit([*fits, *refit])
            memory = _peak_memory(fitted)
            by_share = tuple((share, self._gather(split, fitted)) for share, _ in parts)
            logits, out_of_fold = by_share[0][1], self._nothing
            by_share = by_share if len(parts) > 1 else ()
        else:
            fitted = self._fit([self.plan(split.train, setup.held_out_texts, keep=not refit), *refit])
            logits, out_of_fold, memory = fitted[0].logits, self.cross_fit(), _peak_memory(fitted)
        model = fitted[-1].model
        shift = self._shift(logits, out_of_fold)
        if shift.any():
            model, logits, out_of_fold = replace(model, bias=model.bias + shift), logits + shift, (out_of_fold[0] + shift, out_of_fold[1])
            by_share = tuple((share, values + shift) for share, values in by_share)
        return LinearResult(model, logits, out_of_fold, time.perf_counter() - started, memory, by_share)

    def _shift(self, logits: FloatArray, out_of_fold: OutOfFold) -> FloatArray:
        """What the recipe's balance adds to the logits *(classes,)*, and what bounds the categories without rows."""
        setup, count = self._setup, self._setup.class_count
        shift = np.zeros(logits.shape[1], np.float32)
        if self._recipe.balance == "logit-adjust":
            truth = setup.labeled.classes[setup.split.choosing]
            shift[:count] = logit_adjustment(setup.shares, fit_scale(logits[: len(truth)], truth, out_of_fold))
        shift[count:] = bounding_offset((logits + shift)[: len(setup.split.choosing)], count)
        return shift

    def plan(self, rows: IntArray, scored: Sequence[str], *, keep: bool = False) -> LinearFit:
        """A fit on ``rows``, or a sample of them, and on the categories' names; those without rows are known by their names alone."""
        setup, sample = self._setup, self.sample(rows)
        if len(sample) < len(rows):
            LOGGER.info(f"the linear model is trained on a sample of {len(sample):,} of {len(rows):,} rows")
        examples = self.balanced(setup.rows.take(sample).plus(setup.names))
        return LinearFit(examples, setup.class_count, self._recipe.seed, scored, setup.texts_without_rows, keep)

    def _fit(self, fits: Sequence[LinearFit]) -> list[FittedLinear]:
        return fit_all(fits, lambda done, total: self._setup.advance("linear models, %", 100 * done / total, 100))

    def balanced(self, examples: Examples) -> Examples:
        """The examples with the weights that the recipe's balance gives them."""
        return balance_weights(examples, self._setup.class_count, self._recipe.balance, self._recipe.seed)

    def sample(self, rows: IntArray, fits: int | None = None) -> IntArray:
        """The rows that a model learns from: all, or a sample that memory and the time budget allow for so many ``fits``."""
        setup, budget = self._setup, self._setup.budget
        characters = sum(len(setup.rows.texts[row]) for row in rows)
        limit = int(len(rows) * min(1.0, MAX_LINEAR_CHARACTERS / max(characters, 1)))
        remaining = budget.remaining
        if remaining is not None and limit > TIMED_LINEAR_ROWS:
            if budget.linear_speed is None:
                timed = stratified_sample(setup.rows.classes, rows, TIMED_LINEAR_ROWS, self._recipe.seed)
                start = time.perf_counter()
                fit_linear(self.balanced(setup.rows.take(timed).plus(setup.names)), setup.class_count, self._recipe.seed)
                budget.linear_speed = TIMED_LINEAR_ROWS / (time.perf_counter() - start)
            fits = fits or (2 if self._recipe.refit else 1)
            seconds = max(1.0, remaining * LINEAR_SHARE / fits)
            limit = min(limit, max(TIMED_LINEAR_ROWS, int(budget.linear_speed * seconds)))
        return stratified_sample(setup.rows.classes, rows, limit, self._recipe.seed)

    def _plan_folds(self, split: FoldSplit, part: BoolArray | None) -> list[LinearFit]:
        """For each fold a model of the other folds' rows, or of their rows in a ``part`` *(rows,)*, that scores the fold's."""
        fits = []
        for number in range(split.count):
            others = split.fold != number if part is None else (split.fold != number) & part
            fits.append(self.plan(np.flatnonzero(others), [self._setup.rows.texts[row] for row in np.flatnonzero(split.fold == number)]))
        return fits

    def _gather(self, split: FoldSplit, fitted: list[FittedLinear]) -> FloatArray:
        """Logits *(held-out rows, classes)* of what the folds' models gave, which are the first and are taken off."""
        logits = np.empty((len(self._setup.rows), len(self._setup.category_names)), np.float32)
        for number in range(split.count):
            logits[split.fold == number] = fitted.pop(0).logits
        return logits[split.held_out]

    def _parts(self, split: FoldSplit) -> list[tuple[float, BoolArray | None]]:
        """The parts of the rows that the folds' models learn from, each behind its share of all: first all of the other folds' rows.

        Then halves and quarters of their products, where there are enough; two of each: one says little.
        """
        products = np.unique(np.array(self._setup.labeled.keys, dtype=object), return_inverse=True)[1]
        share = 1 - 1 / split.count
        parts: list[tuple[float, BoolArray | None]] = [(share, None)]
        if products.max() >= MIN_CURVE_PRODUCTS:
            quarter = np.random.default_rng(self._recipe.split_seed).permutation(products.max() + 1)[products] % 4
            parts += [(share * float(part.mean()), part) for part in (quarter < 2, quarter >= 2, quarter == 0, quarter == 2)]
        return parts

    @property
    def _nothing(self) -> OutOfFold:
        return np.empty((0, len(self._setup.category_names)), np.float32), self._setup.split.train[:0]

    def cross_fit(self) -> OutOfFold:
        """Out-of-fold logits of training rows, and their classes; none where the validation rows are enough."""
        setup = self._setup
        if len(setup.split.validation) >= MAX_CROSS_FIT_ROWS:
            return self._nothing
        train = self.sample(setup.split.train, FOLDS)
        keys = np.unique(np.array([setup.labeled.keys[row] for row in train], dtype=object), return_inverse=True)[1]
        folds = np.random.default_rng(self._recipe.seed).permutation(keys.max() + 1)[keys] % FOLDS
        folds[train >= len(setup.rows) - setup.labeled.taught] = -1
        # Focal loss would fit each fold three times; it moves the scale least.
        examples = setup.rows.take(train) if self._recipe.balance == "focal" else self.balanced(setup.rows.take(train))
        logits, scored = out_of_fold_logits(examples, folds, setup.names, setup.class_count, self._recipe.seed, setup.texts_without_rows)
        if not len(scored):
            return self._nothing
        return logits, setup.rows.classes[train[scored]]

    def compare_random_split(self) -> RandomSplit | None:
        """What a split that ignores products would show of the linear model; None where no product has several rows.

        Both ways it learns from as many rows and is scored on as many.
        """
        setup = self._setup
        if len(set(setup.labeled.keys)) == len(setup.labeled.keys):
            return None
        limit = TIMED_LINEAR_ROWS if self._recipe.time_budget else MAX_RANDOM_SPLIT_ROWS
        split = setup.split
        train, test = split.train, split.test
        if isinstance(split, FoldSplit):
            train, test = np.flatnonzero(split.fold != 0), test[split.fold[test] == 0]
        random = np.random.default_rng(self._recipe.split_seed)
        random_test = random.permutation(len(setup.rows) - setup.labeled.taught)[: len(test)]
        random_train = np.setdiff1d(np.arange(len(setup.rows)), random_test)
        count = min(limit, len(train), len(random_train))
        fits, of = [], (test, random_test)
        for learned, scored in zip((train, random_train), of, strict=True):
            sample = stratified_sample(setup.rows.classes, learned, count, self._recipe.seed)
            examples = self.balanced(setup.rows.take(sample).plus(setup.names))
            texts = [setup.rows.texts[row] for row in scored]
            fits.append(LinearFit(examples, setup.class_count, self._recipe.seed, texts))
        by_product, at_random = (self._scores(fitted.logits, rows) for fitted, rows in zip(fit_all(fits), of, strict=True))
        return RandomSplit(train=count, by_product=by_product, at_random=at_random)

    def _scores(self, logits: FloatArray, rows: IntArray) -> SplitScores:
        metrics = Outcomes.of(logits, self._setup.rows.classes[rows], rows).point.metrics
        return SplitScores(accuracy=float(metrics["accuracy"][0]), macro_f1=float(metrics["macro_f1"][0]))


def _peak_memory(fitted: Sequence[FittedLinear]) -> int:
    """The most bytes that the processes which fitted models can have held together."""
    peaks: dict[int, int] = {}
    for one in fitted:
        peaks[one.process] = max(one.peak_memory, peaks.get(one.process, 0))
    return sum(peaks.values())
