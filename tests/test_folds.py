"""Out-of-fold rows: which rows are in which fold, what is chosen and measured by them, and a fit with folds."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from conftest import catcli, fit, killed_once
from hypothesis import given
from hypothesis import strategies as st
from small_bases import save_base
from tiny import tiny_products

from catcli.adapter.folder import load_adapter
from catcli.adapter.manifest import FORMAT, Threshold
from catcli.config import Recipe
from catcli.data.dataset.prepare import load_training_data
from catcli.data.dataset.split import FoldSplit, split_into_folds
from catcli.data.io.input_options import InputOptions
from catcli.errors import ProductsError, UsageError
from catcli.evaluation.bootstrap import Outcomes
from catcli.evaluation.calibration import BlendCalibration
from catcli.evaluation.fit_metrics import FitMetrics
from catcli.evaluation.fold_roles import FoldRoles
from catcli.evaluation.heldout import HeldOutRows, fold_part
from catcli.evaluation.metrics import MeasuredThreshold, RowsNeeded
from catcli.evaluation.selective import ProductSample, find_threshold, measure_threshold
from catcli.inference.labeler import Labeler
from catcli.reporting.scoring import report_held_out, scored_rows
from catcli.reporting.sentences import catalog_scores, rows_needed, threshold_outcome
from catcli.training.encoder_training import EncoderTraining
from catcli.training.fit import FitResult
from catcli.training.setup import Setup

OPTIONS = ("--base", "tiny-bert", "--epochs", "2", "--max-tokens", "16", "--rank", "2", "--device", "cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Products, one of them the only one of its category, and a very small base."""
    folder = tmp_path_factory.mktemp("folds")
    only = pl.DataFrame([("oak vase 30 cm", "Vases")], schema=["title", "category"], orient="row")
    pl.concat([tiny_products(), only]).write_csv(folder / "products.csv")
    save_base("bert", folder / "tiny-bert")
    return folder


@pytest.fixture(scope="module")
def fitted(folder: Path) -> FitResult:
    """A fit of them with the default of folds."""
    recipe = Recipe(base=str(folder / "tiny-bert"), epochs=2, max_tokens=16, rank=2, device="cpu")
    return fit([str(folder / "products.csv")], recipe=recipe, output=folder / "adapters" / "folded")


# --- which rows are in which fold ----------------------------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.integers(0, 12), st.integers(0, 4)), min_size=4, max_size=60), st.integers(2, 5), st.integers(0, 3))
def test_a_product_is_in_one_fold_and_a_scored_row_has_its_class_in_another(rows: list[tuple[int, int]], count: int, seed: int) -> None:
    keys, classes = [f"product {key}" for key, _ in rows], np.array([number for _, number in rows])
    parts = split_into_folds(keys, classes, count, seed)
    assert len({(key, int(fold)) for key, fold in zip(keys, parts.fold, strict=True)}) == len(set(keys))
    assert parts.train.tolist() == list(range(len(rows)))
    assert not len(parts.validation)
    for row in range(len(rows)):
        others = classes[parts.fold != parts.fold[row]]
        assert (row in parts.test) == (classes[row] in others)
    assert sorted(parts.held_out) == sorted(parts.train)
    assert parts.held_out[: len(parts.choosing)].tolist() == parts.choosing.tolist()
    assert set(parts.rare) == set(classes.tolist()) - set(classes[parts.test].tolist())


def test_folds_have_as_many_rows_of_each_category() -> None:
    classes = np.repeat(np.arange(7), 30)
    parts = split_into_folds([f"product {row}" for row in range(len(classes))], classes, 3, 0)
    assert {int(size) for number in range(7) for size in np.bincount(parts.fold[classes == number])} == {10}


def test_of_categories_of_a_single_product_every_second_chooses_and_all_are_tested() -> None:
    classes = np.array([*np.repeat(np.arange(3), 4), 3, 4, 5, 6])
    parts = split_into_folds([f"product {row}" for row in range(len(classes))], classes, 3, 0)
    assert parts.rare == (3, 4, 5, 6)
    assert parts.test.tolist() == list(range(12))
    assert parts.choosing.tolist() == [*range(12), 12, 14]
    assert parts.held_out.tolist() == [*range(12), 12, 14, 13, 15]


def test_the_parts_of_held_out_rows_say_what_they_are_for() -> None:
    cases = [(0, True, True), (1, False, True), (2, False, False)]
    parts = [fold_part(fold, scored=scored, choosing=choosing) for fold, scored, choosing in cases]
    logits = np.zeros((3, 2), np.float32)
    rows = HeldOutRows(["a", "b", "c"], parts, np.arange(3, dtype=np.uint64), np.zeros(3, np.int64), logits, logits)
    assert rows.roles is not None
    assert list(zip(*(values.tolist() for values in (rows.roles.folds, rows.roles.scored, rows.roles.choosing)), strict=True)) == cases
    assert rows.scored.texts == ["a"]
    held_out = HeldOutRows(["a", "b"], ["validation", "test"], rows.products[:2], rows.classes[:2], logits[:2], logits[:2])
    assert held_out.roles is None
    assert held_out.scored.texts == ["b"]


# --- what is chosen and measured -----------------------------------------------------------------------------------------------------


def scores(rows: int, classes: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Logits of two models, right two times in three, and the classes."""
    random = np.random.default_rng(seed)
    truth = random.integers(0, classes, rows)
    logits = [random.normal(size=(rows, classes)).astype(np.float32) for _ in range(2)]
    for values in logits:
        values[np.arange(rows), truth] += 2
    return logits[0], logits[1], truth


def test_what_is_said_of_a_row_is_chosen_without_it() -> None:
    lora, linear, truth = scores(300, 5, 0)
    folds = np.arange(300) % 3
    blend = BlendCalibration.fit({"fp32": lora}, linear, truth, np.full(5, 0.2))
    roles = FoldRoles.of(folds)
    before = blend.cross_fitted(lora, linear, truth, roles)
    # Other classes for the rows of fold 0: it is scored by what the others chose, and so as before; the others are not.
    changed = np.where(folds == 0, (truth + 1) % 5, truth)
    after = blend.cross_fitted(lora, linear, changed, roles)
    for name in before:
        assert np.array_equal(before[name][folds == 0], after[name][folds == 0])
        assert not np.array_equal(before[name][folds == 1], after[name][folds == 1])
        assert np.allclose(before[name].sum(1), 1, atol=1e-5)
    # Rows that do not choose change nothing but what is said of themselves.
    silent = FoldRoles(folds, np.ones(300, np.bool_), np.arange(300) >= 30)
    changed = np.where(silent.choosing, truth, (truth + 1) % 5)
    first, second = (blend.cross_fitted(lora, linear, given, silent)["blend"] for given in (truth, changed))
    assert np.array_equal(first, second)


def test_a_threshold_is_measured_by_those_of_the_other_folds() -> None:
    random = np.random.default_rng(0)
    confidence = random.random(3_000).astype(np.float32)
    right = random.random(3_000) < confidence
    probabilities = np.stack((confidence, 1 - confidence), axis=1)
    probabilities[:, 1] = np.minimum(probabilities[:, 1], probabilities[:, 0] - 1e-3)
    outcomes = Outcomes.of(probabilities, np.where(right, 0, 1), np.arange(3_000))
    folds = np.arange(3_000) % 3
    found = find_threshold(ProductSample.of(outcomes), 0.9)
    assert found.threshold is not None
    measured = measure_threshold(found, outcomes, FoldRoles.of(folds))
    assert measured.reached_in_test is not None
    assert measured.accepted_in_test == pytest.approx((confidence >= found.threshold).mean())
    # Each fold by hand: the threshold of the rows of the two others.
    accepted = np.zeros(3_000, np.bool_)
    for fold in range(3):
        others = outcomes.take(np.flatnonzero(folds != fold))
        own = find_threshold(ProductSample.of(others), 0.9).threshold
        assert own is not None
        accepted |= (folds == fold) & (confidence >= np.float32(own))
    assert measured.reached_in_test.value == pytest.approx(right[accepted].mean())
    none = Threshold(precision=0.99, threshold=None, accepted=None, products=9, missing=290, best=None)
    assert measure_threshold(none, outcomes, FoldRoles.of(folds)).reached_in_test is None


def test_a_threshold_that_the_other_folds_cannot_show_says_so() -> None:
    probabilities = np.stack((np.linspace(0.992, 0.999, 380), np.linspace(0.008, 0.001, 380)), axis=1).astype(np.float32)
    outcomes = Outcomes.of(probabilities, np.zeros(380, np.int64), np.arange(380))
    found = find_threshold(ProductSample.of(outcomes), 0.99)
    assert found.threshold is not None  # 299 products show .99 without an error, and two folds of three have 253
    measured = measure_threshold(found, outcomes, FoldRoles.of(np.arange(380) % 3))
    assert (measured.accepted_in_test, measured.reached_in_test) == (1.0, None)
    assert threshold_outcome(measured) == "too few rows to measure it"


def test_a_threshold_is_measured_on_scored_rows_and_found_on_all() -> None:
    random = np.random.default_rng(1)
    confidence = np.sort(random.random(3_000).astype(np.float32))
    probabilities = np.stack((confidence, np.minimum(1 - confidence, confidence - 1e-3)), axis=1)
    truth = np.where(random.random(3_000) < confidence, 0, 1)
    outcomes, folds = Outcomes.of(probabilities, truth, np.arange(3_000)), np.arange(3_000) % 3
    found = find_threshold(ProductSample.of(outcomes), 0.9)
    scored = np.arange(3_000) % 5 > 0
    # The rows that are not scored are all right here: left out of the folds' thresholds, these would be others.
    measured = measure_threshold(found, outcomes, FoldRoles(folds, scored, scored))
    accepted = np.zeros(3_000, np.bool_)
    for fold in range(3):
        own = find_threshold(ProductSample.of(outcomes.take(np.flatnonzero(folds != fold))), 0.9).threshold
        accepted |= (folds == fold) & (confidence >= np.float32(own or 2))
    assert measured.reached_in_test is not None
    assert measured.reached_in_test.value == pytest.approx((truth == 0)[accepted & scored].mean())


def test_rows_needed_are_said_where_too_few_are_accepted(fitted: FitResult) -> None:
    needed = [
        RowsNeeded(precision=0.9, coverage=0.8, rows=0, low=0, high=0),
        RowsNeeded(precision=0.95, coverage=0.8, rows=0, low=0, high=60),
        RowsNeeded(precision=0.98, coverage=0.8, rows=1_100, low=220, high=None),
        RowsNeeded(precision=0.99, coverage=0.8, rows=None, low=None, high=None),
    ]
    none = Threshold(precision=0.95, threshold=None, accepted=None, products=9, missing=290, best=None)
    promises = [MeasuredThreshold(**{**none.model_dump(), "precision": single.precision}) for single in needed]
    metrics = fitted.metrics.model_copy(update={"promises": tuple(promises), "rows_needed": tuple(needed)})
    assert rows_needed(metrics) == (
        "To accept 80 % of rows, label more of the same kind; estimates and 95 % intervals: at 95 % 0 (0 to 60), at 98 % 1,100 (220 to "
        "more than 3,509), at 99 % more than 3,509 rows."
    )
    accepted = tuple(promise.model_copy(update={"accepted_in_test": 0.81}) for promise in promises)
    assert rows_needed(metrics.model_copy(update={"promises": accepted})) == ""
    assert rows_needed(metrics.model_copy(update={"rows_needed": ()})) == ""
    assert catalog_scores(metrics.model_copy(update={"catalog": None})) == ""


# --- a fit ---------------------------------------------------------------------------------------------------------------------------


def test_every_row_but_the_only_one_of_a_category_is_scored(fitted: FitResult, folder: Path) -> None:
    rows, metrics = fitted.metrics.rows, fitted.metrics
    assert (rows.read, rows.train, rows.validation, rows.test, rows.folds, rows.labeled) == (121, 121, 0, 120, 3, 121)
    assert metrics.scored_rows == 120
    assert metrics.rare_categories == ("Vases",)
    assert metrics.training.refit
    assert metrics.training.lora_rows == 121
    manifest = fitted.adapter.manifest
    assert manifest.format == FORMAT
    held = HeldOutRows.load(fitted.adapter.file("heldout.parquet"), manifest.categories)
    assert sorted(set(held.scored.parts)) == ["fold 0", "fold 1", "fold 2"]
    others = [(text, part[6:]) for text, part in zip(held.texts, held.parts, strict=True) if len(part) > len("fold 0")]
    assert others == [("oak vase 30 cm", ", not scored")]
    # A threshold is tested on that row, too.
    assert all(single.products == 121 for single in manifest.variants["fp32"].thresholds)
    told = catcli("report", str(fitted.adapter.folder), cwd=folder).stdout
    assert "each scored by models of the other 2 of 3 folds; categories with products in one fold only" in " ".join(told.split())
    assert metrics.catalog is not None
    assert metrics.catalog.unscored_categories == 1
    assert [needed.precision for needed in metrics.rows_needed] == [0.9, 0.95, 0.98, 0.99]
    expected = "A fresh file of 121 products, labeled by the saved model, is expected to show accuracy"
    assert expected in " ".join(told.split())
    assert "In it the 1 category that is not scored counts as much as the smallest that are." in " ".join(told.split())
    page = folder / "page.html"
    catcli("report", str(fitted.adapter.folder), "--html", str(page), cwd=folder, check=True)
    for sentence in (catalog_scores(metrics), rows_needed(metrics)):
        assert sentence in page.read_text()
    card = (fitted.adapter.folder / "README.md").read_text()
    assert expected in card
    assert "divided into 3 folds by product" in card
    assert "Categories with products in one fold only, which are not scored: 1." in card


def test_a_report_shows_the_rows_as_the_fit_scored_them(fitted: FitResult) -> None:
    metrics = FitMetrics.of(fitted.adapter)
    view = report_held_out(fitted.adapter)
    assert view.outcomes.right.mean() == pytest.approx(metrics.blend.accuracy.value, abs=1e-6)
    held, probabilities = scored_rows(fitted.adapter, metrics.variant)
    assert len(held.texts) == metrics.scored_rows
    for name, scored in (("lora", metrics.lora), ("linear", metrics.linear), ("blend", metrics.blend)):
        outcomes = Outcomes.of(probabilities[name], held.classes, held.products)
        assert outcomes.point.metrics["log_loss"][0] == pytest.approx(scored.log_loss.value, rel=1e-3), name


def test_an_adapter_of_more_rows_than_its_variants_are_tried_on_loads(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("catcli.training.fit.MAX_VARIANT_ROWS", 60)
    recipe = Recipe(base=str(folder / "tiny-bert"), epochs=1, max_tokens=16, rank=2, device="cpu")
    fitted = fit([str(folder / "products.csv")], recipe=recipe, output=folder / "adapters" / "sampled")
    # The probe's texts are those that its logits are of: it is computed again wherever the adapter is loaded.
    assert Labeler(fitted.adapter, "cpu").label(["red coffee mug"]).classes.shape == (1, 1)


def test_fewer_scored_rows_than_a_probe_has_are_enough(folder: Path, tmp_path: Path) -> None:
    rows = [(f"{thing} {color}", thing) for thing in ("mug", "drill", "lamp", "vase") for color in ("red", "blue")]
    rows += [(f"single thing {number}", f"category {number}") for number in range(10)]
    pl.DataFrame(rows, schema=["title", "category"], orient="row").write_csv(tmp_path / "few.csv")
    recipe = Recipe(label="category", text=("title",), base=str(folder / "tiny-bert"), epochs=1, max_tokens=16, rank=2, device="cpu")
    fitted = fit([str(tmp_path / "few.csv")], recipe=recipe, output=tmp_path / "few")
    assert fitted.metrics.rows.folds == 3
    assert Labeler(fitted.adapter, "cpu").label(["red mug"]).classes.shape == (1, 1)


def test_where_folds_are_impossible_and_nobody_asked_for_them_a_part_is_held_out(tmp_path: Path) -> None:
    rows = [(f"mug number {'abcdefghij'[number % 10]}{'klmno'[number // 10]}", "Mugs") for number in range(50)] + [("an oak vase", "Vases")]
    pl.DataFrame(rows, schema=["title", "category"], orient="row").write_csv(tmp_path / "two.csv")
    source = InputOptions().open([str(tmp_path / "two.csv")])
    recipe = Recipe(label="category", text=("title",))
    assert not isinstance(load_training_data(source, recipe).split, FoldSplit)
    with pytest.raises(ProductsError, match=r"--folds 3: 51 different products of 2 categories are too few, .* --folds 0"):
        load_training_data(source, recipe.but({"folds": 3}))


def test_a_checkpoint_of_other_products_is_not_resumed(folder: Path) -> None:
    data = load_training_data(InputOptions().open([str(folder / "products.csv")]), Recipe(base=str(folder / "tiny-bert"), device="cpu"))
    rows = np.arange(len(data.labeled.texts))
    other = replace(data, labeled=replace(data.labeled, keys=[f"group {row % 7}" for row in rows]))
    first, second = (EncoderTraining(Setup.of(each, 0.0)).fingerprint(rows, []) for each in (data, other))
    assert first != second


@pytest.mark.slow
def test_a_fit_that_was_killed_after_a_fold_goes_on_to_the_very_same_adapter(folder: Path) -> None:
    catcli("fit", "products.csv", "-o", "through", *OPTIONS, cwd=folder, check=True)
    kept = folder / ".killed.catcli-resume" / "fold-0-logits.safetensors"
    killed_once(kept, "fit", "products.csv", "-o", "killed", *OPTIONS, cwd=folder)
    assert not (folder / "killed").exists()
    # The fold that was done is read and not trained again.
    again = catcli("fit", "products.csv", "-o", "killed", *OPTIONS, cwd=folder, check=True)
    assert "training: up to" not in again.stderr
    manifests = [load_adapter(folder / made).manifest for made in ("killed", "through")]
    hashes = [{name: sha for name, sha in made.files.items() if name == "model.onnx" or name.endswith("safetensors")} for made in manifests]
    assert hashes[0] == hashes[1]
    if set(manifests[0].variants) == set(manifests[1].variants):  # whether int8 is faster is measured, and a busy machine may say no
        held = [HeldOutRows.load(folder / made / "heldout.parquet", manifests[0].categories) for made in ("killed", "through")]
        assert np.array_equal(held[0].lora, held[1].lora)


@pytest.mark.slow
def test_two_processes_train_folds_as_one(folder: Path) -> None:
    options = [*OPTIONS, "--dropout", "0"]
    catcli("fit", "products.csv", "-o", "alone", *options, cwd=folder, check=True)
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2", "--num_machines", "1"]
    launch += ["--mixed_precision", "no", "--dynamo_backend", "no", "-m", "catcli", "fit", "products.csv", "-o", "together", *options]
    ran = subprocess.run(launch, cwd=folder, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    alone, together = (
        HeldOutRows.load(folder / name / "heldout.parquet", load_adapter(folder / name).manifest.categories)
        for name in ("alone", "together")
    )
    assert alone.parts == together.parts
    assert np.abs(alone.lora - together.lora).max() < 0.05


@pytest.mark.slow
def test_without_folds_a_part_is_held_out(folder: Path) -> None:
    catcli("fit", "products.csv", "-o", "held", *OPTIONS, "--folds", "0", cwd=folder, check=True)
    rows = FitMetrics.of(load_adapter(folder / "held")).rows
    assert rows.folds == 0
    assert rows.train + rows.validation + rows.test == rows.labeled == 121
    assert rows.validation
    # Rows by rows the same in both, so adapters of the two kinds can be compared.
    compared = catcli("report", "held", "adapters/folded", cwd=folder, check=True)
    assert "that all share" in compared.stdout or "each on its own test rows" in compared.stdout


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"folds": 1}, "at least 2 folds, or 0 for rows that are held out"),
        ({"folds": 3, "refit": False}, "--folds and --no-refit exclude each other"),
        ({"folds": 3, "time_budget": "10m"}, "--folds and --time-budget exclude each other"),
        ({"folds": 3, "teacher": "adapters/shop"}, "--folds and --teacher exclude each other.*choose --folds 0"),
        ({"folds": 21}, "at most 20"),
    ],
)
def test_folds_that_make_no_sense_are_refused(options: dict[str, object], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        Recipe.make(**options)


def test_more_rows_than_folds_are_for_are_refused_with_what_to_type(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("catcli.data.dataset.prepare.MAX_FOLD_ROWS", 100)
    with pytest.raises(UsageError, match=r"--folds 4: 121 labeled rows of 5 categories are more than the 100 that .* choose --folds 0\."):
        fit([str(folder / "products.csv")], recipe=Recipe(folds=4), output=folder / "refused")


def test_too_few_products_for_so_many_folds_are_refused(tmp_path: Path) -> None:
    rows = [(f"mug {size}", "Mugs") for size in range(3)] + [(f"drill {size}", "Drills") for size in range(3)]
    pl.DataFrame(rows, schema=["title", "category"], orient="row").write_csv(tmp_path / "few.csv")
    refused = catcli("fit", "few.csv", "--folds", "8", cwd=tmp_path)
    assert refused.returncode == 1
    assert "error: --folds 8: 6 different products of 2 categories are too few" in " ".join(refused.stderr.split())
