"""What the models learn from, the linear model in parts, and how a fit shares out rows and time."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from sklearn.svm import LinearSVC

from catcli.config import Recipe
from catcli.data.dataset.categories import Categories
from catcli.data.dataset.columns import ColumnRoles
from catcli.data.dataset.examples import NAME_WEIGHT, Examples, category_name_examples, stratified_sample
from catcli.data.dataset.labeled import LabeledRows
from catcli.data.dataset.prepare import TrainingData
from catcli.data.dataset.split import split_rows
from catcli.logs import LOGGER
from catcli.training import linear
from catcli.training.encoder_training import EncoderTraining
from catcli.training.linear import FOLDS, FittedLinear, LinearFit, Progress, fit_all, fit_linear, out_of_fold_logits
from catcli.training.setup import Setup

WORDS = ["mug", "drill", "lamp", "puzzle", "soap", "tent", "chair", "knife", "clock", "vase", "glove"]


def examples(rows: int = 220, classes: int = 11) -> Examples:
    random = np.random.default_rng(0)
    truth = np.arange(rows) % classes
    colors = random.choice(["red", "blue", "green"], rows)
    return Examples.of([f"{color} {WORDS[number]} {row}" for row, (number, color) in enumerate(zip(truth, colors, strict=True))], truth)


def test_names_say_what_rows_do_not() -> None:
    names = category_name_examples(["Toys > Puzzles & Games", "home/kitchen_tools", "4711", "Küche"])
    assert names.texts == ["Toys Puzzles & Games", "home kitchen tools", "Küche"]
    assert names.classes.tolist() == [0, 1, 3]
    assert set(names.weights.tolist()) == {np.float32(NAME_WEIGHT)}


def test_a_category_is_found_by_its_name_alone() -> None:
    rows = examples(20, 2)
    model = fit_linear(rows.plus(category_name_examples(["mug", "drill", "watering can"])), 3, seed=0)
    assert model.logits(["green watering can 7"]).argmax() == 2


def test_classes_fitted_in_groups_are_those_fitted_together() -> None:
    rows = examples()
    model = fit_linear(rows, 12, seed=0)
    whole = LinearSVC(random_state=0).fit(model.ngrams.transform(rows.texts), rows.classes)
    expected = whole.decision_function(model.ngrams.transform(rows.texts))
    found = model.logits(rows.texts)
    assert np.abs(found[:, :11] - expected).max() < 0.1  # small weights are dropped
    assert (found.argmax(1) == rows.classes).all()
    assert (found[:, 11] < found[:, :11].min(1)).any()  # a category without a row is never favored


@dataclass(frozen=True)
class EndedElsewhere(LinearFit):
    """A fit that kills the process that it runs in, unless that is the test's own."""

    home: int = 0

    def run(self, advance: Progress = lambda *_: None) -> FittedLinear:
        if os.getpid() != self.home:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().run(advance)


def test_models_that_are_fitted_in_processes_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = examples()
    names = ["watering can"]
    fits = [LinearFit(rows.take(np.flatnonzero(np.arange(220) % 4 != part)), 11, 0, rows.texts, names, part == 3) for part in range(4)]
    progress: list[tuple[float, float]] = []
    alone = fit_all(fits, lambda *done: progress.append(done))
    assert list(progress[-1]) == [4, 4]
    monkeypatch.setattr(linear, "MIN_PARALLEL_SECONDS", 0.0)
    monkeypatch.setattr(linear, "_affordable_processes", lambda fits: len(fits) - 1)
    used: list[int] = []
    in_processes = linear._fit_in_processes

    def counted(fits: Sequence[LinearFit], processes: int) -> Iterator[FittedLinear]:
        used.append(processes)
        return in_processes(fits, processes)

    monkeypatch.setattr(linear, "_fit_in_processes", counted)
    together = fit_all(fits)
    assert used == [2]
    for one, other in zip(alone, together, strict=True):
        assert np.array_equal(one.logits, other.logits)
        assert one.logits.shape == (220, 12)
    assert together[0].kept is None
    assert np.array_equal(alone[3].model.weights.toarray(), together[3].model.weights.toarray())
    with pytest.raises(ValueError, match="the model was not kept"):
        _ = together[0].model


def test_where_a_process_that_fits_is_killed_this_one_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr(LOGGER, "info", said.append)
    rows = examples()
    monkeypatch.setattr(linear, "MIN_PARALLEL_SECONDS", 0.0)
    monkeypatch.setattr(linear, "_affordable_processes", lambda _: 2)
    fits = [EndedElsewhere(rows, 11, seed, rows.texts, home=os.getpid()) for seed in range(3)]
    expected = [fit.run().logits for fit in fits]
    assert all(np.array_equal(one.logits, other) for one, other in zip(fit_all(fits), expected, strict=True))
    assert [line[:42] for line in said] == ["linear models are fitted one after another"]


def test_where_no_process_can_be_started_this_one_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object, **__: object) -> None:
        raise OSError("no process can be started")

    monkeypatch.setattr(linear, "ChildProcess", refused)
    fits = [LinearFit(examples(), 11, 0, ["a red mug"])] * 2
    assert len(list(linear._fit_in_processes(fits, 2))) == 2


def test_processes_that_are_not_waited_for_are_ended() -> None:
    """As by Ctrl-C: with many models still to be fitted. A thread that failed meanwhile would fail this test."""
    fitting = linear._fit_in_processes([LinearFit(examples(), 11, 0, ["a red mug"])] * 16, 2)
    process = next(fitting).process
    assert process != os.getpid()
    fitting.close()
    with pytest.raises(ProcessLookupError):
        os.kill(process, 0)


def test_only_so_many_models_are_fitted_at_once_as_memory_allows(monkeypatch: pytest.MonkeyPatch) -> None:
    fits = [LinearFit(examples(), 11, 0)] * 5
    monkeypatch.setattr("catcli.inference.session.available_cores", lambda: 16)
    assert linear._affordable_processes(fits) == 5
    monkeypatch.setattr(linear, "MAX_LINEAR_CHARACTERS", 3 * fits[0].characters)
    assert linear._affordable_processes(fits) == 3
    monkeypatch.setattr(linear, "MAX_LINEAR_CHARACTERS", fits[0].characters - 1)
    assert linear._affordable_processes(fits) == 0


def test_a_process_that_fits_linear_models_loads_no_torch() -> None:
    code = """
import sys
import numpy as np
from catcli.data.dataset.examples import Examples
from catcli.training.linear import LinearFit
LinearFit(Examples.of(["a mug", "a drill"] * 5, np.array([0, 1] * 5)), 2, 0, ["a mug"], ["watering can"]).run()
print([name for name in ("torch", "transformers", "onnxruntime") if name in sys.modules])
"""
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_the_same_rows_and_seed_give_the_same_model() -> None:
    rows = examples(1100, 11)  # more classes than are fitted together: liblinear's generator is one for all of a process
    first, *others = (fit_linear(rows, 11, seed=0) for _ in range(3))
    for other in others:
        assert (first.weights != other.weights).nnz == 0
        assert first.bias.tolist() == other.bias.tolist()


def test_many_rows_and_classes_are_set_against_a_draw_of_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linear, "MAX_ROW_CLASS_PAIRS", 0)
    monkeypatch.setattr(linear, "MIN_OTHER_ROWS", 30)
    rows = examples()
    seen: list[int] = []

    class Counting(LinearSVC):  # type: ignore[misc]  # scikit-learn is untyped
        def fit(self, X: object, y: object, sample_weight: object = None) -> Counting:  # noqa: N803  # scikit-learn's name
            seen.append(X.shape[0])  # type: ignore[attr-defined]
            super().fit(X, y, sample_weight)
            return self

    monkeypatch.setattr(linear, "LinearSVC", Counting)
    model = fit_linear(rows, 11, seed=0)
    assert sorted(seen) == [60 + 30, 160 + 30]
    assert (model.logits(rows.texts).argmax(1) == rows.classes).mean() > 0.95


def test_out_of_fold_scores_come_from_models_that_have_not_seen_the_row() -> None:
    rows = examples(60, 3)
    shuffled = Examples.of(rows.texts, np.random.default_rng(1).permutation(rows.classes))  # nothing to learn but by heart
    folds = np.arange(60) % FOLDS
    logits, scored = out_of_fold_logits(shuffled, folds, category_name_examples([]), 3, seed=0)
    assert sorted(scored.tolist()) == list(range(60))
    assert (fit_linear(shuffled, 3, seed=0).logits(shuffled.texts).argmax(1) == shuffled.classes).mean() > 0.95
    assert (logits.argmax(1) == shuffled.classes[scored]).mean() < 0.6


def test_a_row_whose_category_has_no_other_is_not_scored_out_of_fold() -> None:
    rows = examples(20, 2).plus(Examples.of(["a lonely tent"], np.array([2])))
    _, scored = out_of_fold_logits(rows, np.arange(21) % FOLDS, category_name_examples([]), 3, seed=0)
    assert 20 not in scored


def test_a_draw_has_every_category_and_the_rest_in_proportion() -> None:
    classes = np.array([0] * 8000 + [1] * 1900 + [2] * 90 + [3] * 7 + [4] * 3)
    rows = np.flatnonzero(classes >= 0)
    drawn = stratified_sample(classes, rows, 1000, seed=0)
    counts = np.bincount(classes[drawn])
    assert len(drawn) == 1000 == len(set(drawn.tolist()))
    assert counts[4] == 3
    assert counts[3] == 5
    assert abs(counts[0] - 800) < 12
    assert abs(counts[1] - 190) < 12
    assert drawn.tolist() == sorted(drawn.tolist()) == stratified_sample(classes, rows, 1000, seed=0).tolist()
    assert drawn.tolist() != stratified_sample(classes, rows, 1000, seed=1).tolist()
    assert stratified_sample(classes, rows[:5], 1000, seed=0).tolist() == [0, 1, 2, 3, 4]


def test_a_fit_that_goes_on_takes_the_rows_it_had_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = examples(440, 11)
    labeled = LabeledRows(rows.texts, rows.classes, rows.texts, Categories(tuple(WORDS)), len(rows), 0)
    parts = split_rows(labeled.keys, labeled.classes, (80, 10, 10), 0)
    recipe = Recipe(device="cpu", time_budget=60.0)
    ready = TrainingData(labeled, parts, ColumnRoles("category", ("title",), None), recipe)
    training = EncoderTraining(Setup.of(ready, time.perf_counter()))
    taken = []
    for affordable in (200, 300):  # a slower machine, a faster one
        monkeypatch.setattr(training, "affordable_rows", lambda _, most=affordable: most)
        taken.append(training.select_rows(tmp_path / "checkpoints")[0])
    assert taken[0].tolist() == taken[1].tolist()
    assert len(taken[0]) == 200 + len(parts.validation)


@pytest.mark.parametrize(("told", "seconds"), [("90s", 90), ("10m", 600), ("1.5h", 5400)])
def test_a_time_budget_is_told_in_seconds_minutes_or_hours(told: str, seconds: float) -> None:
    assert Recipe.make(time_budget=told).time_budget == seconds
