"""``catcli tune``: folds, trials, a search that survives a kill, and what it writes."""

from __future__ import annotations

import json
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from conftest import SHELVES, Shop, catcli
from small_bases import save_base
from test_places import run
from tiny import tiny_products

from catcli.config import Recipe
from catcli.data.dataset.prepare import load_training_data
from catcli.data.dataset.split import assign_folds
from catcli.data.io.input_options import InputOptions
from catcli.errors import CatcliError, OutputError, ProductsError, UsageError
from catcli.evaluation.calibration import BlendCalibration
from catcli.evaluation.studies import TuneResult
from catcli.export.trained_model import TrainedModel
from catcli.training import cross_validation as trials_module
from catcli.training.cross_validation import CrossValidation
from catcli.training.loop import train_classifier as train_of_models
from catcli.training.search import Search, open_study
from catcli.training.search_options import SearchOptions
from catcli.training.setup import Setup
from catcli.training.task import TrainingTask
from catcli.training.tune import tune

pytestmark = pytest.mark.slow

SMALL = Recipe(folds=0, max_tokens=16, device="cpu", epochs=1)
OPTIONS = ("--recipe", "small.json", "--folds", "2")


def small_recipe(folder: Path) -> None:
    (folder / "small.json").write_text(SMALL.model_dump_json(exclude_unset=True))


# --- folds ---------------------------------------------------------------------------------------------------------------------------


def test_folds_keep_products_together_and_hold_as_much_of_each_category() -> None:
    random = np.random.default_rng(0)
    classes = random.choice(4, 600, p=(0.6, 0.3, 0.08, 0.02))
    keys = [f"{number}-{random.integers(0, 60)}" for number in classes]
    found = assign_folds(keys, classes, 3, seed=0)
    for key in set(keys):
        assert len({fold for fold, other in zip(found, keys, strict=True) if other == key}) == 1
    for number in range(4):
        of = [{key for key, fold in zip(keys, found, strict=True) if fold == part} for part in range(3)]
        products = [sum(key.startswith(f"{number}-") for key in part) for part in of]
        assert max(products) - min(products) <= 1
    assert (found == assign_folds(keys, classes, 3, seed=0)).all()
    assert (found != assign_folds(keys, classes, 3, seed=1)).any()
    order = random.permutation(600)
    assert (found[order] == assign_folds([keys[row] for row in order], classes[order], 3, seed=0)).all()


def test_the_only_product_of_a_category_always_teaches() -> None:
    assert assign_folds(["a", "b", "c", "c"], np.array([0, 0, 1, 1]), 2, seed=0).tolist()[2:] == [-1, -1]
    assert sorted(assign_folds(["x", "a", "b", "c", "d"], np.array([0, 1, 1, 1, 1]), 4, seed=0).tolist()) == [-1, 0, 1, 2, 3]


# --- one trial -----------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trials(shop: Shop) -> CrossValidation:
    ready = load_training_data(InputOptions().open([str(shop.products)]), SMALL)
    return CrossValidation.of(Setup.of(ready, time.perf_counter()), 2, 1)


def test_no_trial_sees_a_row_that_scores(trials: CrossValidation) -> None:
    parts = trials.setup.split
    assert not set(trials.rows) & set(parts.test)
    assert set(trials.rows) == set(parts.train) | set(parts.validation)


def test_a_trial_is_scored_on_every_fold_by_a_model_that_has_not_seen_it(trials: CrossValidation, tmp_path: Path) -> None:
    told: list[tuple[int, float]] = []

    def after(fold: int, score: float) -> bool:
        told.append((fold, score))
        return True

    score = trials.score(trials.setup.recipe, tmp_path / "state", after, "accuracy")
    assert [fold for fold, _ in told] == [0, 1]
    assert score == told[-1][1]
    assert 0.5 < (score or 0) <= 1
    assert trials.score(trials.setup.recipe, tmp_path / "state", after, "accuracy") == score  # from what it kept, as after a kill
    truth = trials.inputs.examples.classes[: len(trials.rows)]
    assert (trials.linear.argmax(1) == truth).mean() > 0.5  # and so is the linear model, once for all trials


def test_the_rows_of_a_fold_choose_nothing_of_what_scores_them(
    trials: CrossValidation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tasks: list[TrainingTask] = []
    chosen: list[int] = []
    real_train, real_fit = train_of_models, BlendCalibration.fit

    def train(task: TrainingTask, *rest: Any, **named: Any) -> TrainedModel:  # noqa: ANN401
        tasks.append(task)
        return real_train(task, *rest, **named)

    def fit(variants: Any, linear: Any, truth: Any, shares: Any) -> BlendCalibration:  # noqa: ANN401
        chosen.append(len(truth))
        return real_fit(variants, linear, truth, shares)

    monkeypatch.setattr(trials_module, "train_classifier", train)
    monkeypatch.setattr(BlendCalibration, "fit", fit)
    trials.score(trials.setup.recipe, tmp_path / "state", lambda *_: True, "accuracy")
    keys = np.array([trials.setup.labeled.keys[row] for row in trials.rows])
    for number, task in enumerate(tasks):
        inside = np.flatnonzero(trials.fold == number)
        learned = task.train[task.train < len(trials.rows)]
        assert not set(keys[inside]) & set(keys[task.validation])
        assert not set(keys[inside]) & set(keys[learned])
        assert not set(keys[task.validation]) & set(keys[learned])
        assert 0 < len(task.validation) < len(learned)
    assert chosen == [len(task.validation) for task in tasks]


def test_a_trial_that_is_not_worth_it_ends_after_a_fold(trials: CrossValidation, tmp_path: Path) -> None:
    told: list[int] = []

    def after(fold: int, _: float) -> bool:
        told.append(fold)
        return False

    assert trials.score(trials.setup.recipe, tmp_path / "state", after, "log_loss") is None
    assert told == [0]


# --- the search ----------------------------------------------------------------------------------------------------------------------


def test_a_killed_search_goes_on_to_the_trials_of_one_that_was_not(shop: Shop, tmp_path: Path) -> None:
    small_recipe(tmp_path)
    arguments = ["tune", str(shop.products), *OPTIONS, "--trials", "6"]
    through = catcli(*arguments, "-o", "through.json", "--json", cwd=tmp_path, check=True)
    command = [sys.executable, "-m", "catcli", *arguments, "-o", "killed.json"]
    running = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    assert running.stderr
    for line in running.stderr:
        if line.startswith("trial 2 of 6"):
            break
    running.send_signal(signal.SIGKILL)
    running.communicate()
    assert not (tmp_path / "killed.json").exists()
    refused = catcli(*arguments, "-o", "killed.json", cwd=tmp_path)
    assert refused.returncode == 1
    assert "killed.study exists; pass --resume to go on with that search" in refused.stderr
    again = catcli(*arguments, "-o", "killed.json", "--resume", "--json", cwd=tmp_path, check=True)
    assert "going on after 2 trials that are done" in again.stderr
    one, other = (TuneResult.model_validate_json(ran.stdout) for ran in (through, again))
    alike = [[(trial.settings, trial.score, trial.by_fold) for trial in told.trials] for told in (one, other)]
    assert alike[0] == alike[1]
    assert (one.best, one.test, one.importances) == (other.best, other.test, other.importances)
    assert len(one.trials) == 6
    assert one.trials[0].settings["lr"] == pytest.approx(2e-3)
    assert (tmp_path / "through.json").read_text() == (tmp_path / "killed.json").read_text()
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {"small.json", "killed.json", "killed.study", "through.json", "through.study"}
    # The test rows are not looked at again where nothing has changed since.
    rows = sqlite3.connect(tmp_path / "through.study").execute("select count(*) from trials").fetchone()
    once_more = catcli(*arguments, "-o", "through.json", "--resume", cwd=tmp_path, check=True)
    assert "scoring" not in once_more.stderr
    assert rows == sqlite3.connect(tmp_path / "through.study").execute("select count(*) from trials").fetchone()
    assert f"next:    catcli fit {shop.products} --recipe through.json" in once_more.stdout
    for title in ("Trials", "Importance of the settings", f"On {one.test_rows} test rows"):
        assert title in once_more.stdout, once_more.stdout
    fitted = catcli("fit", shop.products, "--recipe", "through.json", "-o", "tuned", "--json", cwd=tmp_path, check=True)
    best = one.trials[one.best - 1].settings
    recipe = json.loads((tmp_path / "tuned" / "recipe.json").read_text())
    assert {name: recipe[name] for name in best} == best
    assert json.loads(fitted.stdout)["adapter"] == "tuned"


def test_a_search_of_other_rows_or_settings_is_not_gone_on_with(shop: Shop, tmp_path: Path) -> None:
    products = tmp_path / "products.csv"
    products.write_bytes(shop.products.read_bytes())
    file, search = tmp_path / "a.study", SearchOptions(trials=1, folds=2)
    ready = load_training_data(InputOptions().open([str(products)]), SMALL)
    open_study(file, ready, search, {"the teacher": "one"})
    open_study(file, ready, search, {"the teacher": "one"})
    with pytest.raises(UsageError, match="the teacher changed"):
        open_study(file, ready, search, {"the teacher": "another"})
    with pytest.raises(UsageError, match="--folds changed"):
        open_study(file, ready, SearchOptions(trials=1, folds=3), {})
    with products.open("a") as more:
        more.write(f"0001,One mug more,Acme,,1.00,{SHELVES[3]}\n")
    other = load_training_data(InputOptions().open([str(products)]), SMALL)
    with pytest.raises(UsageError, match=r"the rows changed; take back the change, pass --force"):
        open_study(file, other, search, {})
    (tmp_path / "b.study").write_text("no database")
    with pytest.raises(OutputError, match="is not a study of catcli tune"):
        open_study(tmp_path / "b.study", ready, search, {})


def test_what_is_searched_for_hangs_on_the_method_and_has_the_recipes_own_values(shop: Shop, tmp_path: Path) -> None:
    def searcher(**options: object) -> Search:
        ready = load_training_data(InputOptions().open([str(shop.products)]), SMALL.but(options))
        study = optuna.create_study()
        return Search(study, ready, SearchOptions(), tmp_path / "state", lambda *_: None)

    lora = searcher(rank=12, weight_decay=0.05)
    assert lora.choices()["rank"] == [2, 4, 8, 12, 16, 32]
    assert 0.05 in lora.choices()["weight_decay"]
    assert lora.recipe_of(lora.beginning()) == lora.start
    full = searcher(method="full")
    assert set(full.beginning()) == {"lr", "epochs", "batch_size", "weight_decay"}


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        (["--trials", "0"], 2, "--trials 0: a whole number above 0."),
        (["--folds", "1"], 2, "--folds 1: a whole number from 2 to 20."),
        (["--metric", "beauty"], 2, "--metric beauty: choose one of accuracy"),
        (["--timeout", "soon"], 2, "--timeout soon: write a time such as 90s"),
        (["--resume", "--force"], 2, "leave out one"),
        (["-o", "best.txt"], 2, "name a .json file"),
        (["-o", "nowhere/best.json"], 1, "there is no folder nowhere"),
    ],
)
def test_what_cannot_be_is_told_in_a_sentence(shop: Shop, tmp_path: Path, options: list[str], code: int, said: str) -> None:
    told = catcli("tune", shop.products, *options, cwd=tmp_path)
    assert (told.returncode, told.stderr.count("\n")) == (code, 1)
    assert said in told.stderr
    assert list(tmp_path.iterdir()) == []


def test_more_folds_than_products_are_told(shop: Shop, tmp_path: Path) -> None:
    lines = shop.products.read_text().splitlines(keepends=True)
    (tmp_path / "few.csv").write_text("".join(lines[:33]))
    base = save_base("bert", tmp_path / "base")
    told = catcli("tune", "few.csv", "--folds", "20", "--trials", "1", "--base", base, "--method", "head", cwd=tmp_path)
    assert told.returncode in (0, 1), told.stderr
    assert "Traceback" not in told.stderr
    ready = load_training_data(InputOptions().open([str(shop.products)]), SMALL)
    learner = Setup.of(ready, time.perf_counter())
    with pytest.raises(ProductsError, match="rows give .* folds, since products stay together"):
        CrossValidation.of(learner, 500, 1)


def test_what_is_not_of_a_search_is_not_replaced(shop: Shop, tmp_path: Path) -> None:
    (tmp_path / "package.json").write_text('{"name": "mine"}')
    for option in ([], ["--resume"], ["--force"]):
        told = catcli("tune", shop.products, "-o", "package.json", *option, cwd=tmp_path)
        assert told.returncode == 1
        assert "package.json" in told.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["package.json"]
    assert (tmp_path / "package.json").read_text() == '{"name": "mine"}'


def test_without_optuna_the_line_that_installs_it_is_told(shop: Shop, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(CatcliError, match=r"pip install 'catcli\[tune\]'"):
        tune([str(shop.products)], recipe=SMALL, output=tmp_path / "a.json")


@pytest.mark.parametrize(("name", "value"), [("made from", 7), ("made from", ["x"]), ("tested", 3), ("tested", "x")])
def test_a_study_whose_notes_are_of_another_kind_is_named(tmp_path: Path, name: str, value: object) -> None:
    tiny_products().write_csv(tmp_path / "products.csv")
    base = save_base("bert", tmp_path / "base")
    line = ("tune", tmp_path / "products.csv", "-o", tmp_path / "best.json", "--base", base, "--trials", 1, "--folds", 2, "--device", "cpu")
    assert run(*line).exit_code == 0
    study = optuna.load_study(study_name="catcli tune", storage=f"sqlite:///{tmp_path / 'best.study'}")
    study.set_user_attr(name, value)
    refused = run(*line, "--resume")
    assert (refused.exit_code, refused.stderr.count("error: ")) == (1, 1), refused.stderr
    assert "best.study is not a study of catcli tune: its notes are of another kind" in refused.stderr
