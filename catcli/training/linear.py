"""The linear model beside LoRA: one-vs-rest support vector machines over words and character n-grams.

On product data it trains in seconds and is hard to beat, and it knows what a subword model blurs: the exact spelling of brands and part
numbers. One-vs-rest with hinge loss rather than multinomial logistic regression, which at hundreds of categories takes many times longer.

A fit has many such models: of folds, of parts of the rows, of all rows. liblinear draws its rows by one generator for the whole process, so
two at once would never fit alike again: several models at once are fitted in several processes, which import no torch.
"""

from __future__ import annotations

import os
import queue
import time
import warnings
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import sparse
from sklearn.exceptions import ConvergenceWarning
from sklearn.svm import LinearSVC

from catcli.arrays import FloatArray, IntArray
from catcli.child_process import ChildProcess, ProcessEndedError
from catcli.data.dataset.examples import Examples
from catcli.errors import reason
from catcli.inference.ngrams import LinearModel, Ngrams, Vocabulary
from catcli.logs import LOGGER
from catcli.memory import peak_memory

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

MAX_LINEAR_CHARACTERS = 12_000_000
"""Characters of text that models learn from at once, some 1.2 GB of n-grams: of more a single one takes a sample."""

MIN_PARALLEL_SECONDS = 6.0
"""Seconds that models have to take one after another for processes to be worth their start, which takes two."""

MAX_PROCESSES = 8
"""Processes that fit linear models at once: each takes some 190 MB before it has a row."""

FOLDS = 5

Progress = Callable[[float, float], None]
"""Called with what is done, and of how much."""


@dataclass(frozen=True)
class LinearFit:
    """A model to fit on ``examples`` of ``count`` classes, and the texts that it is to score.

    ``without_rows`` are the names of further classes, which no example has. ``keep`` says whether the model itself is wanted.
    """

    examples: Examples
    count: int
    seed: int
    scored: Sequence[str] = ()
    without_rows: Sequence[str] = ()
    keep: bool = False

    def run(self, advance: Progress = lambda *_: None) -> FittedLinear:
        """Fit it, and score the texts."""
        model = add_to_linear(fit_linear(self.examples, self.count, self.seed, advance), self.without_rows)
        logits = model.logits(self.scored) if self.scored else np.empty((0, len(model.bias)), np.float32)
        return FittedLinear(model if self.keep else None, logits, os.getpid(), peak_memory())

    @property
    def characters(self) -> int:
        """How much text there is to learn from."""
        return sum(map(len, self.examples.texts))


@dataclass(frozen=True)
class FittedLinear:
    """What a `LinearFit` gave: the model if it was to be kept, and the ``logits`` *(scored texts, classes)*.

    ``process`` is the number of the process that fitted it, and ``peak_memory`` the bytes that this one had held at most.
    """

    kept: LinearModel | None
    logits: FloatArray
    process: int
    peak_memory: int

    @property
    def model(self) -> LinearModel:
        """The model."""
        if self.kept is None:
            raise ValueError("the model was not kept")
        return self.kept


def fit_all(fits: Sequence[LinearFit], advance: Progress = lambda *_: None) -> list[FittedLinear]:
    """Fit all models, and as many at once as there are cores and memory for where that takes less time; they are the same either way."""
    fitted: list[FittedLinear] = []

    def part_of_one(done: float, of: float) -> None:
        advance(len(fitted) + done / of, len(fits))

    while len(fitted) < len(fits):
        start = time.perf_counter()
        fitted.append(fits[len(fitted)].run(part_of_one))
        seconds, waiting = time.perf_counter() - start, fits[len(fitted) :]
        if seconds * len(waiting) >= MIN_PARALLEL_SECONDS and (processes := _affordable_processes(waiting)) > 1:
            for one in _fit_in_processes(waiting, processes):
                fitted.append(one)
                advance(len(fitted), len(fits))
    return fitted


def _affordable_processes(fits: Sequence[LinearFit]) -> int:
    from catcli.inference.session import available_cores  # imports ONNX Runtime, which a process that fits need not

    return min(MAX_PROCESSES, available_cores(), len(fits), MAX_LINEAR_CHARACTERS // max(1, *(fit.characters for fit in fits)))


def _fit_in_processes(fits: Sequence[LinearFit], processes: int) -> Generator[FittedLinear, None, None]:
    """Fit models in so many processes. What these cannot do, for want of memory or where none can be started, this one does."""
    done, children, idle = 0, list[ChildProcess](), queue.SimpleQueue[ChildProcess]()

    def fit_elsewhere(fit: LinearFit) -> FittedLinear:
        child = idle.get()
        try:
            fitted: FittedLinear = child.call("fit", fit)
            return fitted
        finally:
            idle.put(child)

    failed: BaseException | None = None
    with ThreadPoolExecutor(processes) as threads:
        try:
            for _ in range(processes):
                children.append(ChildProcess("catcli.training.linear:FitWorker", purpose="fits linear models"))
                idle.put(children[-1])
            for fitted in threads.map(fit_elsewhere, fits):
                yield fitted
                done += 1
        except (ProcessEndedError, MemoryError, OSError) as error:
            failed = error
        finally:
            for child in children:  # also one that another thread waits for
                child.end()
    if failed:
        LOGGER.info(f"linear models are fitted one after another from here on: {reason(failed)[:200]}")
        yield from (fit.run() for fit in fits[done:])


class FitWorker:
    """What a process that fits models does."""

    def fit(self, fit: LinearFit) -> FittedLinear:
        """Fit one."""
        return fit.run()


def fit_linear(examples: Examples, count: int, seed: int, advance: Progress = lambda *_: None) -> LinearModel:
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
    for done, fitted in enumerate(map(machines.fit, groups), 1):
        bias[fitted.classes] = fitted.bias
        columns.append(fitted.classes[fitted.weights.row])
        rows.append(fitted.weights.col)
        values.append(fitted.weights.data)
        advance(min(done * CLASSES_PER_CALL, len(present)), len(present))
    bias[np.isnan(bias)] = np.nanmin(bias) - 1
    weights = sparse.csr_matrix((np.concatenate(values), (np.concatenate(rows), np.concatenate(columns))), (matrix.shape[1], count))
    return LinearModel(ngrams, weights, bias)


def add_to_linear(model: LinearModel, names: Sequence[str]) -> LinearModel:
    """The model with a class more for each of ``names``; their n-grams join its vocabulary."""
    if not names:
        return model
    ngrams = Ngrams.fit(names)
    merged, places, width = [], [], 0
    for known, new in zip(model.ngrams.vocabularies, ngrams.vocabularies, strict=True):
        hashes = np.union1d(known.hashes, new.hashes)
        place = np.searchsorted(hashes, known.hashes)
        # One that no labeled row has is as rare as the rarest.
        idf = np.full(len(hashes), known.idf.max(initial=1), np.float32)
        idf[place] = known.idf
        merged.append(Vocabulary(hashes, idf))
        places.append(width + place)
        width += len(hashes)
    vocabulary = Ngrams(tuple(merged))
    old = model.weights.tocoo()
    kept = sparse.csr_matrix((old.data, (np.concatenate(places)[old.row], old.col)), shape=(width, model.weights.shape[1]))
    weights = sparse.hstack([kept, vocabulary.transform(names).T], format="csr", dtype=np.float32)
    return LinearModel(vocabulary, weights, np.concatenate((model.bias, np.zeros(len(names), np.float32))))


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


def out_of_fold_logits(
    examples: Examples, folds: IntArray, names: Examples, count: int, seed: int, without_rows: Sequence[str] = ()
) -> tuple[FloatArray, IntArray]:
    """Logits *(rows, classes)* of ``examples`` by models that have not seen them, and the numbers of those rows.

    Fold ``folds[row]``, counted from 0, is scored by a model of the others and of the categories' ``names``. A row whose category has no
    other row is left out: what it would be taken for says nothing of a model that knows it. ``without_rows`` are names of further classes.
    """
    scored, fits = [], []
    for fold in range(int(folds.max(initial=-1)) + 1):
        inside, outside = np.flatnonzero(folds == fold), np.flatnonzero(folds != fold)
        inside = inside[np.isin(examples.classes[inside], examples.classes[outside])]
        if len(inside) and len(np.unique(examples.classes[outside])) > 1:
            scored.append(inside)
            fits.append(LinearFit(examples.take(outside).plus(names), count, seed, [examples.texts[row] for row in inside], without_rows))
    if not scored:
        return np.empty((0, count), np.float32), np.empty(0, np.int64)
    return np.concatenate([fitted.logits for fitted in fit_all(fits)]), np.concatenate(scored)
