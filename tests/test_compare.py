"""``catcli compare``: fits side by side, and what would change between two adapters."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import polars as pl
import psutil
import pytest
from conftest import SHELVES, Shop, catcli, fit

from catcli.config import Recipe
from catcli.errors import AdapterError, GateMissed, OutputError, ProductsError, UsageError
from catcli.evaluation.bootstrap import Outcomes
from catcli.evaluation.scores import compare_models as compare_outcomes
from catcli.evaluation.scores import compare_runs
from catcli.evaluation.studies import CatalogDiff, GridResult
from catcli.inference.diff import diff
from catcli.inference.diff_options import DiffOptions
from catcli.inference.predict import predict
from catcli.inference.predict_options import PredictOptions as Predicting
from catcli.training.grid import Grid

pytestmark = pytest.mark.slow

OPTIONS = ("--epochs", "1", "--device", "cpu")

# --- the grid ------------------------------------------------------------------------------------------------------------------------


def test_every_pair_of_what_is_named_is_a_fit_of_its_own() -> None:
    grid = Grid(("minilm", "minilm-3"), ("lora", "full", "linear"), ("none", "weights"), (0, 1))
    cells = grid.runs(Recipe())
    assert len(cells) == 2 * 2 * 2 * 2
    assert {"minilm-lora", "minilm-3-full-weights-seed1"} < {cell.name for cell in cells}
    assert not any(cell.recipe.refit for cell in cells)
    assert [cell.name for cell in Grid().runs(Recipe())] == ["minilm-lora", "minilm-full", "minilm-head"]


def test_what_suits_one_base_or_method_is_not_handed_to_another() -> None:
    mine = Recipe(lr=3e-3, rank=4, targets=("dense",), max_tokens=24, epochs=3)
    told = {cell.name: cell.recipe for cell in Grid(("minilm", "minilm-3"), ("lora", "full")).runs(mine)}
    assert (told["minilm-lora"].lr, told["minilm-lora"].targets, told["minilm-lora"].rank) == (3e-3, ("dense",), 4)
    assert (told["minilm-full"].lr, told["minilm-full"].targets, told["minilm-full"].max_tokens) == (None, (), 24)
    assert (told["minilm-3-lora"].lr, told["minilm-3-lora"].targets, told["minilm-3-lora"].max_tokens) == (None, (), None)
    assert {recipe.epochs for recipe in told.values()} == {3}


@pytest.mark.parametrize(
    ("grid", "said"),
    [
        (Grid(methods=("linear",)), "leaves nothing to compare"),
        (Grid(methods=("lorra",)), r"choose among lora, .* \(did you mean 'lora'\?\)"),
        (Grid(bases=("one/bert", "other/bert")), "end in the same name"),
        (Grid(balances=("upside-down",)), "--balance"),
    ],
)
def test_a_grid_that_cannot_be_is_told(grid: Grid, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        grid.runs(Recipe())


def test_several_seeds_are_compared_by_their_mean() -> None:
    random = np.random.default_rng(0)
    truth, products = random.integers(0, 4, 300), np.arange(300) // 2

    def outcomes(right: float) -> Outcomes:
        scores = random.normal(size=(300, 4)) + right * np.eye(4)[truth]
        return Outcomes.of(np.exp(scores).astype(np.float32) / np.exp(scores).sum(1, keepdims=True).astype(np.float32), truth, products)

    one, other = [outcomes(2.0), outcomes(2.0)], [outcomes(1.0), outcomes(1.0)]
    found = compare_runs(one, other, "one", "other")
    assert found.accuracy.value == pytest.approx(np.mean([a.right.mean() for a in one]) - np.mean([b.right.mean() for b in other]))
    assert found.accuracy.low > 0
    assert found.p_value < 1e-3
    assert compare_runs(one[:1], other[:1], "one", "other") == compare_outcomes(one[0], other[0], "one", "other")
    same = compare_runs(one, one[::-1], "one", "one")
    assert (same.better, same.worse, same.p_value) == (0, 0, 1)


# --- fits side by side ---------------------------------------------------------------------------------------------------------------


def methods(*names: str) -> list[str]:
    return [part for name in names for part in ("--method", name)]


@pytest.fixture(scope="module")
def compared(shop: Shop, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two fits of the shop."""
    folder = tmp_path_factory.mktemp("compared")
    catcli(
        "compare",
        shop.products,
        "-o",
        "all",
        "--method",
        "lora",
        "--method",
        "full",
        "--method",
        "linear",
        *OPTIONS,
        cwd=folder,
        check=True,
    )
    return folder


def test_what_is_finished_is_not_fitted_again(shop: Shop, compared: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in (compared / "all").glob("*/*")}
    line: list[str | Path] = [
        "compare",
        shop.products,
        "-o",
        "all",
        "--method",
        "lora",
        "--method",
        "head",
        "--method",
        "full",
        "--method",
        "linear",
        *OPTIONS,
    ]
    told = catcli(*line, "--json", cwd=compared, check=True)
    assert told.stderr.count("is there already") == 2
    assert "fit 2 of 3: minilm-head\n" in told.stderr
    assert before == {path: path.stat().st_mtime_ns for path in (compared / "all").glob("*/*") if path.parent.name != "minilm-head"}
    found = GridResult.model_validate_json(told.stdout)
    assert [model.name for model in found.models] == ["minilm lora", "minilm head", "minilm full", "linear"]
    assert len(found.comparisons) == 6
    by_name = {model.name: model for model in found.models}
    metrics = json.loads((compared / "all" / "minilm-full" / "metrics.json").read_text())
    full = by_name["minilm full"]
    assert full.accuracy.value == metrics["lora"]["accuracy"]["value"]
    assert full.blend_macro_f1 is not None
    assert full.blend_macro_f1.value == pytest.approx(metrics["blend"]["macro_f1"]["value"])
    assert full.trained == metrics["training"]["trained"] > 20 * by_name["minilm lora"].trained
    assert full.roc_auc == pytest.approx(np.mean([one["roc_auc"] for one in metrics["lora"]["categories"] if one["roc_auc"] is not None]))
    linear = by_name["linear"]
    assert (linear.base, linear.blend_accuracy, linear.peak_memory) == (None, None, None)
    assert linear.accuracy.value == metrics["linear"]["accuracy"]["value"]
    assert linear.learned_bytes == (compared / "all" / "minilm-lora" / "linear.safetensors").stat().st_size
    assert found.best in by_name
    shown = catcli(*line, cwd=compared, check=True)
    for title in ("Each model alone", "In the blend with the linear model", "Pairs, each alone", "minilm lora over minilm full: "):
        assert title in shown.stdout
    tables = [row for row in shown.stdout.splitlines() if "over minilm" not in row and not row.startswith("next:")]
    assert all(len(row) <= 80 for row in tables)


def test_other_rows_or_settings_are_not_taken_for_what_is_there(shop: Shop, compared: Path, tmp_path: Path) -> None:
    line: list[str | Path] = ["compare", shop.products, "-o", "all", "--method", "lora", "--device", "cpu"]
    told = catcli(*line, "--epochs", "2", cwd=compared)
    assert told.returncode == 1
    assert "all/minilm-lora was fitted before the settings changed" in told.stderr
    assert "--force" in told.stderr
    other = tmp_path / "products.csv"
    other.write_text(shop.products.read_text() + f"0001,One mug more,Acme,,1.00,{SHELVES[3]}\n")
    told = catcli("compare", other, "-o", "all", "--method", "lora", *OPTIONS, cwd=compared)
    assert "was fitted before the rows changed" in told.stderr
    told = catcli("compare", shop.products, "-o", "all", "--method", "lora", *OPTIONS, "--encoding", "utf-8", cwd=compared)
    assert "was fitted before how the files are read changed" in told.stderr
    full = tmp_path / "full"
    full.mkdir()
    (full / "mine.txt").write_text("mine")
    told = catcli("compare", shop.products, "-o", full, *OPTIONS, cwd=tmp_path)
    assert "is not a folder of catcli compare and is not empty" in told.stderr
    assert [path.name for path in full.iterdir()] == ["mine.txt"]


def test_a_fit_that_fails_is_told_and_the_others_are_done(shop: Shop, tmp_path: Path) -> None:
    line: list[str | Path] = [
        "compare",
        shop.products,
        "-o",
        "all",
        "--base",
        "./nowhere",
        "--base",
        "minilm",
        "--method",
        "head",
        *OPTIONS,
    ]
    told = catcli(*line, cwd=tmp_path)
    assert told.returncode == 1
    assert "nowhere-head failed: --base ./nowhere: there is no such folder" in told.stderr
    assert "minilm head" in told.stdout
    assert "Not fitted" in (tmp_path / "all" / "compare.html").read_text()


@pytest.mark.parametrize(("stop", "seconds"), [(signal.SIGKILL, 30), (signal.SIGINT, 2)])
def test_a_fit_ends_with_the_run_that_began_it_and_is_not_taken_for_done(
    shop: Shop, tmp_path: Path, stop: signal.Signals, seconds: float
) -> None:
    """A run that is killed cannot end its fit, which has to see that by itself: else two would write to one place after the next start."""
    catcli("compare", shop.products, "-o", "all", "--method", "lora", *OPTIONS, cwd=tmp_path, check=True)
    line = ["compare", str(shop.products), "-o", "all", "--method", "lora", "--device", "cpu", "--epochs", "50"]
    command = [sys.executable, "-m", "catcli", *line, "--force"]
    running = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    kept = tmp_path / "all" / ".minilm-lora.catcli-resume" / "held-out.safetensors"
    for _ in range(1200):
        if kept.exists() or running.poll() is not None:
            break
        time.sleep(0.1)
    assert kept.exists()
    children = psutil.Process(running.pid).children(recursive=True)
    assert children
    os.kill(running.pid, stop)
    running.wait()
    _, alive = psutil.wait_procs(children, timeout=seconds)
    assert alive == []
    # What stands there is still the fit of one pass, and nothing says that it is the other.
    again = catcli(*line, cwd=tmp_path)
    assert "all/minilm-lora was fitted before the settings changed" in again.stderr
    before = catcli("compare", shop.products, "-o", "all", "--method", "lora", *OPTIONS, cwd=tmp_path, check=True)
    assert "is there already" in before.stderr


def test_rows_from_a_pipe_cannot_be_read_for_every_fit(shop: Shop, tmp_path: Path) -> None:
    command = f"cat {shop.products} | {sys.executable} -m catcli compare - -o all"
    told = subprocess.run(command, shell=True, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert told.returncode == 2
    assert "give them as a file" in told.stderr


# --- what would change ---------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def rival(shop: Shop, tmp_path_factory: pytest.TempPathFactory) -> str:
    """An adapter of the same shop that has learned its mugs as another shelf's and knows a shelf by another name."""
    folder = tmp_path_factory.mktemp("rival")
    frame = pl.read_csv(shop.products, infer_schema=False)
    renamed = frame.with_columns(pl.col("category").replace(SHELVES[2], "Tools > Drills"))
    renamed.write_csv(folder / "products.csv")
    recipe = Recipe(text=("title",), epochs=1, max_tokens=16, device="cpu", refit=False, seed=1)
    return str(fit([str(folder / "products.csv")], recipe=recipe, output=folder / "rival").adapter.folder)


def labels(shop: Shop, adapter: str, folder: Path) -> list[str]:
    file = folder / "labeled.parquet"
    predict([str(shop.catalog)], Predicting(str(file), adapter))
    return pl.read_parquet(file)["predicted_category"].to_list()


def test_what_changes_is_what_the_two_label_differently(shop: Shop, rival: str, tmp_path: Path) -> None:
    before, after = labels(shop, shop.adapter, tmp_path), labels(shop, rival, tmp_path)
    prices = pl.read_csv(shop.catalog)["price"].to_list()
    out = tmp_path / "changed.csv"
    told = diff(shop.adapter, rival, [str(shop.catalog)], DiffOptions(weight="price", output=str(out)))
    changed = [row for row, pair in enumerate(zip(before, after, strict=True)) if pair[0] != pair[1]]
    assert 0 < len(changed) < 300
    assert (told.rows, told.changed) == (300, len(changed))
    assert told.share == pytest.approx(sum(prices[row] for row in changed) / sum(prices))
    assert told.changed_weight == pytest.approx(sum(prices[row] for row in changed))
    flows = {(flow.before, flow.after): flow.rows for flow in told.flows}
    assert flows == Counter((before[row], after[row]) for row in changed)
    drills = next(one for one in told.categories if one.category == SHELVES[2])
    assert (drills.before, drills.after, drills.left, drills.joined) == (before.count(SHELVES[2]), 0, before.count(SHELVES[2]), 0)
    written = pl.read_csv(out, infer_schema=False)
    catalog = pl.read_csv(shop.catalog, infer_schema=False)
    assert written.select(catalog.columns).equals(catalog[changed])
    assert written["category_before"].to_list() == [before[row] for row in changed]
    assert written["category_after"].to_list() == [after[row] for row in changed]


def test_the_gate_ends_with_3_past_the_limit_and_with_0_below_it(shop: Shop, rival: str, tmp_path: Path) -> None:
    line: list[str | Path] = ["diff", shop.adapter, rival, shop.catalog]
    passed = catcli(*line, "--max-churn", "1", "--json", cwd=tmp_path)
    assert passed.returncode == 0
    share = CatalogDiff.model_validate_json(passed.stdout).share
    assert catcli(*line, "--max-churn", str(share), cwd=tmp_path).returncode == 0
    missed = catcli(*line, "--max-churn", str(share - 0.001), cwd=tmp_path)
    assert missed.returncode == 3
    assert "Largest changes" in missed.stdout
    assert "would change category, above the" in missed.stderr
    same = catcli("diff", shop.adapter, shop.adapter, shop.catalog, "--max-churn", "0", "-o", "changed.parquet", cwd=tmp_path, check=True)
    assert "0 rows of 300 would change category (0.0 %)." in same.stdout
    assert pl.read_parquet(tmp_path / "changed.parquet").shape == (0, 9)


@pytest.mark.parametrize(
    ("cells", "said"),
    [
        (["1.5", "many"], "'weight' of row 2 is 'many', no number from 0 on"),
        (["-1", "2"], "'weight' of row 1 is '-1'"),
        (["nan", "2"], "'weight' of row 1 is 'nan'"),
        (["inf", "2"], "'weight' of row 1 is 'inf'"),
    ],
)
def test_a_weight_that_is_no_number_is_told_before_anything_is_labeled(shop: Shop, tmp_path: Path, cells: list[str], said: str) -> None:
    file = tmp_path / "catalog.csv"
    file.write_text("title,brand,description,weight\n" + "".join(f"mug,,,{cell}\n" for cell in cells))
    with pytest.raises(ProductsError, match=said):
        diff(shop.adapter, shop.adapter, [str(file)], DiffOptions(weight="weight"))


def test_an_empty_weight_counts_nothing_and_nothing_at_all_is_no_pass(shop: Shop, rival: str, tmp_path: Path) -> None:
    file = tmp_path / "catalog.csv"
    file.write_text("title,brand,description,weight\nhammer drill 18V,,,\ncoffee mug,, ,2\n")
    told = diff(shop.adapter, rival, [str(file)], DiffOptions(weight="weight"))
    assert (told.rows, told.weight) == (2, 2.0)
    file.write_text("title,brand,description,weight\nhammer drill 18V,,,\ncoffee mug,, ,0\n")
    with pytest.raises(ProductsError, match="'weight' adds up to 0"):
        diff(shop.adapter, rival, [str(file)], DiffOptions(weight="weight", max_churn=0.5))


def test_each_adapter_gets_the_mappings_that_it_has_columns_for(shop: Shop, rival: str, tmp_path: Path) -> None:
    file = tmp_path / "catalog.csv"
    file.write_text(shop.catalog.read_text().replace("description", "Words", 1))
    with pytest.raises(ProductsError, match="has no column 'description'"):
        diff(shop.adapter, rival, [str(file)], DiffOptions())
    mapped = diff(shop.adapter, rival, [str(file)], DiffOptions(text=("description=Words",)))
    assert mapped.flows == diff(shop.adapter, rival, [str(shop.catalog)], DiffOptions()).flows
    with pytest.raises(ProductsError, match="neither adapter"):
        diff(shop.adapter, rival, [str(file)], DiffOptions(text=("colour=Words",)))


def test_a_catalog_may_come_through_a_pipe(shop: Shop, rival: str, tmp_path: Path) -> None:
    command = f"cat {shop.catalog} | {sys.executable} -m catcli diff {shop.adapter} {rival} - -o changed.jsonl --json"
    told = subprocess.run(command, shell=True, cwd=tmp_path, capture_output=True, text=True, check=True)
    found = CatalogDiff.model_validate_json(told.stdout)
    assert found.rows == 300
    assert len((tmp_path / "changed.jsonl").read_text().splitlines()) == found.changed


def test_what_the_gate_cannot_do_is_told(shop: Shop, rival: str, tmp_path: Path) -> None:
    catalog = str(shop.catalog)
    for asked, names, kind, said in [
        (DiffOptions(max_churn=2.0), [shop.adapter, rival], UsageError, "--max-churn 2"),
        (DiffOptions(output="out/"), [shop.adapter, rival], UsageError, "name a file"),
        (DiffOptions(output=catalog), [shop.adapter, rival], UsageError, "one of the inputs"),
        (DiffOptions(output=str(tmp_path / "no" / "a.csv")), [shop.adapter, rival], OutputError, "there is no folder"),
        (DiffOptions(weight="weigth"), [shop.adapter, rival], ProductsError, "--weight"),
        (DiffOptions(), [shop.adapter, "nobody"], AdapterError, "there is no adapter 'nobody'"),
        (DiffOptions(max_churn=0.0), [shop.adapter, rival], GateMissed, "--max-churn allows"),
    ]:
        with pytest.raises(kind, match=said):
            diff(names[0], names[1], [catalog], asked)
    told = catcli("compare", shop.adapter, rival, cwd=tmp_path)
    assert told.returncode == 2
    assert "these are adapters: 'catcli diff OLD NEW CATALOG' compares them on a catalog" in told.stderr


def test_keeping_no_column_of_the_catalog_leaves_ours(shop: Shop, tmp_path: Path) -> None:
    predict([str(shop.catalog)], Predicting(str(tmp_path / "a.parquet"), shop.adapter, keep=""))
    assert pl.read_parquet(tmp_path / "a.parquet").shape == (300, 2)
