"""A recipe that came by mail says how to train, and not what is read."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest
from conftest import FIXTURE
from small_bases import save_base
from test_places import run
from tiny import tiny_products


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    tiny_products().write_csv(tmp_path / "products.csv")
    (tmp_path / "private.csv").write_text("title\nan order of a customer\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


RECIPES: dict[str, tuple[dict[str, object], str]] = {
    "a private file and a teacher": ({"teacher": str(FIXTURE), "unlabeled": "private.csv"}, f"--teacher {FIXTURE} --unlabeled private.csv"),
    "a stranger's bucket": ({"teacher": "x", "unlabeled": "s3://evil/rows.csv"}, "--teacher x --unlabeled s3://evil/rows.csv"),
    "a base in a folder": ({"base": "/srv/models/secret"}, "--base /srv/models/secret"),
    "a base in the home": ({"base": "~/models/secret"}, "--base '~/models/secret'"),
}


@pytest.mark.parametrize("command", ["fit", "tune", "compare"])
@pytest.mark.parametrize("name", RECIPES)
def test_files_that_a_recipe_names_are_refused_until_they_are_typed(shop: Path, command: str, name: str) -> None:
    content, flags = RECIPES[name]
    (shop / "recipe.json").write_text(json.dumps(content))
    refused = run(command, "products.csv", "--recipe", "recipe.json", "-o", "made.json")
    assert (refused.exit_code, refused.stderr.count("error: ")) == (2, 1), refused.stderr
    assert f"--recipe recipe.json reads other files ({flags}), which a recipe cannot ask for by itself" in refused.stderr
    assert sorted(path.name for path in shop.iterdir()) == ["private.csv", "products.csv", "recipe.json"]


def test_typed_again_they_are_read(shop: Path) -> None:
    base = save_base("bert", shop / "base")
    (shop / "recipe.json").write_text(json.dumps({"base": str(base), "rank": 2, "epochs": 1, "refit": False}))
    line = ("fit", "products.csv", "-o", "made", "--recipe", "recipe.json", "--device", "cpu")
    assert run(*line).exit_code == 2
    assert run(*line, "--base", base).exit_code == 0
    assert run(*line[:3], "again", "--recipe", "made/recipe.json", "--device", "cpu", "--base", base).exit_code == 0


def test_the_recipes_that_ship_and_names_on_the_hub_are_no_files(shop: Path) -> None:
    (shop / "recipe.json").write_text(json.dumps({"base": "openai-community/gpt2", "method": "head"}))
    for recipe in ("recipe.json", "gpt2-lora"):
        refused = run("fit", "products.csv", "--recipe", recipe, "--label", "none")
        assert "--label 'none': products.csv has no such column" in refused.stderr  # it came as far as the rows


def test_what_tune_says_to_type_next_reads_the_same_base(shop: Path) -> None:
    base = save_base("bert", shop / "base")
    line = ("tune", "products.csv", "-o", "best.json", "--base", base, "--trials", 1, "--folds", 2, "--device", "cpu")
    told = run(*line)
    assert told.exit_code == 0
    (following,) = (row.removeprefix("next:    catcli ") for row in told.stdout.splitlines() if row.startswith("next:"))
    assert following == f"fit products.csv --recipe best.json --base {base}"
    assert run(*shlex.split(following), "-o", "made", "--epochs", 1, "--device", "cpu").exit_code == 0
