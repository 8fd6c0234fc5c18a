"""A whole fit: refit, time budget, resuming after a kill, several processes, few rows."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from conftest import Shop, catcli, fit, killed_once

from catcli.adapter.folder import load_adapter
from catcli.config import Recipe
from catcli.evaluation.fit_metrics import FitMetrics
from catcli.evaluation.heldout import HeldOutRows
from catcli.inference.labeler import Labeler
from catcli.training.schedule import default_epochs

pytestmark = pytest.mark.slow

SMALL = {"epochs": 2, "max_tokens": 16, "rank": 2, "device": "cpu"}


def files(folder: Path) -> dict[str, str]:
    """The hashes of what was trained."""
    found = load_adapter(folder).manifest.files
    return {name: found[name] for name in ("adapter_model.safetensors", "head.safetensors", "linear.safetensors")}


def test_what_is_shipped_has_learned_from_all_rows_and_the_scores_are_those_before(shop: Shop, tmp_path: Path) -> None:
    recipe = Recipe.model_validate({**SMALL, "epochs": 1, "max_tokens": 24, "rank": 8, "folds": 0})
    refitted = fit([str(shop.products)], recipe=recipe, output=tmp_path / "refitted")
    assert refitted.metrics.training.refit
    # The same training rows, so the same scores as the fit without a refit; other models in the folder.
    assert refitted.metrics.lora == shop.fitted.metrics.lora
    assert refitted.metrics.linear == shop.fitted.metrics.linear
    shipped, scored = files(tmp_path / "refitted"), files(Path(shop.adapter))
    assert all(shipped[name] != scored[name] for name in shipped)
    # It knows its held-out rows now: the linear model is surer of them than it was.
    manifest = refitted.adapter.manifest
    held = HeldOutRows.load(refitted.adapter.file("heldout.parquet"), manifest.categories)
    now = Labeler(refitted.adapter, "cpu").logits(held.texts).linear
    rows = np.arange(len(held.classes))
    assert now[rows, held.classes].mean() > held.linear[rows, held.classes].mean() + 0.05
    assert "\nthe saved model was then refitted on all rows" in catcli("report", tmp_path / "refitted", cwd=tmp_path).stdout


def test_a_killed_fit_goes_on_to_the_very_same_adapter(shop: Shop, tmp_path: Path) -> None:
    options = ["--epochs", "2", "--max-tokens", "16", "--rank", "2", "--device", "cpu", "--folds", "0"]
    catcli("fit", shop.products, "-o", "through", *options, cwd=tmp_path, check=True)
    kept = tmp_path / ".killed.catcli-resume" / "held-out.safetensors"
    killed_once(kept, "fit", shop.products, "-o", "killed", *options, cwd=tmp_path)
    assert not (tmp_path / "killed").exists()
    again = catcli("fit", shop.products, "-o", "killed", *options, "--resume", cwd=tmp_path, check=True)
    assert "going on from step" in again.stderr
    assert files(tmp_path / "killed") == files(tmp_path / "through")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["killed", "through"]


def test_nothing_to_resume_is_said_and_the_fit_begins_anew(shop: Shop, tmp_path: Path) -> None:
    told = catcli("fit", shop.products, "-o", "a", "--epochs", "1", "--max-tokens", "8", "--no-refit", "--resume", cwd=tmp_path, check=True)
    assert "there is nothing to resume; the fit starts from the beginning." in told.stderr
    assert "training: " in told.stderr


def test_a_time_budget_is_kept_and_told(shop: Shop, tmp_path: Path) -> None:
    recipe = Recipe.model_validate({**SMALL, "epochs": 400, "time_budget": 1.0})
    start = time.perf_counter()
    fitted = fit([str(shop.products)], recipe=recipe, output=tmp_path / "a")
    assert time.perf_counter() - start < 120  # 400 passes take half an hour; loading and exporting take what they take
    assert sum(epoch.seconds for epoch in fitted.metrics.training.epochs) < 20
    assert json.loads((tmp_path / "a" / "recipe.json").read_text())["time_budget"] == 1.0


def test_of_more_rows_than_there_is_time_for_a_draw_is_taken_and_told(
    shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "catcli")
    monkeypatch.setattr("catcli.training.encoder_training.MAX_ROW_PASSES", {"cpu": 400})
    monkeypatch.setattr("catcli.training.linear_training.MAX_LINEAR_CHARACTERS", 3_000)
    recipe = Recipe.model_validate({**SMALL, "epochs": 1, "refit": False})
    fitted = fit([str(shop.products)], recipe=recipe, output=tmp_path / "a")
    rows = fitted.metrics.rows.train
    assert fitted.metrics.training.lora_rows == 400 // default_epochs(rows) < rows
    told = caplog.text
    assert f"LoRA is trained on a sample of {fitted.metrics.training.lora_rows} of {rows} rows; a longer --time-budget takes more" in told
    assert f" of {rows} rows" in told.split("the linear model is trained on a sample of ")[1]


def test_two_processes_train_as_one(shop: Shop, tmp_path: Path) -> None:
    options = ["--epochs", "1", "--max-tokens", "16", "--dropout", "0", "--no-refit", "--device", "cpu"]
    catcli("fit", shop.products, "-o", "one", *options, cwd=tmp_path, check=True)
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2", "--num_machines", "1"]
    launch += ["--mixed_precision", "no", "--dynamo_backend", "no", "-m", "catcli", "fit", str(shop.products), "-o", "two", *options]
    ran = subprocess.run(launch, cwd=tmp_path, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.count("adapter: two") == 1  # one process speaks
    assert ran.stderr.count("columns: label") == 1  # and logs
    one, two = (
        HeldOutRows.load(tmp_path / name / "heldout.parquet", load_adapter(tmp_path / name).manifest.categories) for name in ("one", "two")
    )
    assert np.abs(one.lora - two.lora).max() < 0.05
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one", "two"]


def test_twenty_rows_and_a_category_of_one_are_enough(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = [(f"{color} mug {size}", "Mugs") for color in ("red", "blue") for size in range(5)]
    rows += [(f"{kind} drill {size}", "Drills") for kind in ("cordless", "hammer") for size in range(5)]
    frame = pl.DataFrame([*rows, ("oak vase", "Vases")], schema=["title", "category"], orient="row")
    frame.write_csv(tmp_path / "few.csv")
    fitted = fit([str(tmp_path / "few.csv")], recipe=Recipe.model_validate(SMALL), output=tmp_path / "few")
    told = caplog.text
    assert "only 20 test rows: with more rows the scores can change" in told
    assert "1 category has products in one fold only, which train and are not scored: 'Vases'" in told
    labeler = Labeler(fitted.adapter, "cpu")
    labels = labeler.label(["oak vase", "green mug 9", "hammer drill 2"])
    assert [fitted.adapter.manifest.categories[number] for number in labels.classes[:, 0]] == ["Vases", "Mugs", "Drills"]


def test_a_fit_tells_what_training_took(shop: Shop) -> None:
    training = FitMetrics.of(shop.fitted.adapter).training
    assert not training.refit
    assert 0 < training.passes <= 1
    assert training.lora_rows == shop.fitted.metrics.rows.train
