"""What the models learn from, the linear model in parts, and how a fit shares out rows and time."""

from __future__ import annotations

import time
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
from catcli.training import linear
from catcli.training.encoder_training import EncoderTraining
from catcli.training.linear import FOLDS, fit_linear, out_of_fold_logits
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
