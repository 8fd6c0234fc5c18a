"""The cascade: rows that the linear model decides alone, how they are found, served, counted and reported."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from conftest import FIXTURE, catcli, fit, small_shards
from scipy.stats import binomtest
from small_bases import save_base
from tiny import tiny_products

from catcli.adapter.folder import load_adapter
from catcli.adapter.manifest import FORMAT, CalibrationParameters, Cascade
from catcli.cli.predict import cascade_outcome
from catcli.config import Recipe
from catcli.data.dataset.columns import choose_columns
from catcli.data.dataset.gather import GatheredRows
from catcli.data.dataset.prepare import select_labeled_rows
from catcli.errors import AdapterError, UsageError
from catcli.evaluation.blend import calibrate, margins
from catcli.evaluation.bootstrap import lower_bound
from catcli.evaluation.cascade import ChangeSample, find_margin, fit_cascades, serve
from catcli.evaluation.fold_roles import FoldRoles
from catcli.evaluation.heldout import HeldOutRows
from catcli.evaluation.label_choice import LabelChoice
from catcli.inference.adapter_copy import copy_adapter
from catcli.inference.labeler import Labeler
from catcli.inference.predict import predict
from catcli.inference.predict_options import PredictOptions
from catcli.inference.summary import PredictSummary
from catcli.reporting.scoring import report_held_out

# --- how it is found -----------------------------------------------------------------------------------------------------------------


def test_the_margin_is_the_smallest_whose_exact_bound_holds() -> None:
    margin = np.linspace(1, 0, 2_000, dtype=np.float32)
    changed = np.arange(2_000) >= 1_500  # the least sure quarter changes
    found = find_margin(margin, changed, 0.005)
    assert found is not None
    cutoff = round(found[1] * 2_000)
    # 1,500 rows and one in a hundred more: 4 of 2,000 may change, 20 may not.
    assert cutoff == 1_500
    assert found[0] == margin[1_499]
    assert 1 - lower_bound(2_000 - 4, 2_000, 0.05) <= 0.005 < 1 - lower_bound(2_000 - 20, 2_000, 0.05)


def test_too_few_products_show_nothing() -> None:
    margin = np.linspace(1, 0, 597, dtype=np.float32)
    assert find_margin(margin, np.zeros(597, np.bool_), 0.005) is None
    assert find_margin(np.append(margin, -1).astype(np.float32), np.zeros(598, np.bool_), 0.005) == (-1.0, 1.0)


def test_equal_margins_are_decided_together() -> None:
    margin = np.repeat(np.array([3, 2, 1], np.float32), 500)
    found = find_margin(margin, margin == 1, 0.005)
    assert found == (2.0, 1_000 / 1_500)


def test_the_first_cutoff_that_fails_ends_the_search() -> None:
    margin = np.linspace(1, 0, 2_000, dtype=np.float32)
    changed = np.zeros(2_000, np.bool_)
    changed[:10] = True  # the surest rows change: later shares are not looked at
    assert find_margin(margin, changed, 0.005) is None


def sample(rows: int = 1_200) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The linear model's logits, the blend's probabilities, and classes."""
    random = np.random.default_rng(0)
    truth = random.integers(0, 4, rows)
    linear = random.normal(0, 0.3, (rows, 4)).astype(np.float32)
    linear[np.arange(rows), truth] += random.random(rows).astype(np.float32) * 3
    blend = calibrate(2 * linear + random.normal(0, 0.1, linear.shape).astype(np.float32), CalibrationParameters(temperature=1.0))
    return linear, blend, truth


def test_cascades_of_rising_change_decide_rising_shares() -> None:
    linear, blend, truth = sample()
    rows = np.arange(len(truth))
    cascades = fit_cascades(linear, blend, rows, truth, rows < 600)
    assert [cascade.max_change for cascade in cascades] == [0.005, 0.01, 0.02]  # 1,200 rows show no .002
    decided = [cascade.decided for cascade in cascades]
    assert decided == sorted(decided)
    for cascade in cascades:
        alone = margins(linear) >= np.float32(cascade.margin)
        changed = (alone & (linear.argmax(1) != blend.argmax(1))).sum()
        assert 1 - lower_bound(len(rows) - int(changed), len(rows), 0.05) <= cascade.max_change


def test_rows_without_a_category_show_cutoffs_that_labeled_rows_are_too_few_for() -> None:
    linear, blend, truth = sample(500)
    rows, none = np.arange(500), np.empty((0, 4), np.float32)
    assert 0.005 not in [cascade.max_change for cascade in fit_cascades(linear, blend, rows, truth, rows < 500)]
    same = fit_cascades(linear, blend, rows, truth, rows < 500, ChangeSample.of(none, none))
    assert same == fit_cascades(linear, blend, rows, truth, rows < 500)
    more = ChangeSample.of(*sample(1_500)[:2])
    cascade = next(cascade for cascade in fit_cascades(linear, blend, rows, truth, rows < 500, more) if cascade.max_change == 0.005)
    together = ChangeSample.of(linear, blend).plus(more)
    assert (cascade.margin, cascade.decided) == find_margin(together.margin, together.changed, 0.005)
    worse = replace(more, changed=np.ones(1_500, np.bool_))
    assert 0.005 not in [cascade.max_change for cascade in fit_cascades(linear, blend, rows, truth, rows < 500, worse)]


def test_unlabeled_texts_are_one_of_each_product_that_no_labeled_row_is_of() -> None:
    rows = [
        ("red mug", "g1", "Mugs"),
        ("blue drill", "g2", "Drills"),
        ("RED mug!", "g9", None),  # the text of a labeled row
        ("red mug XL", "g1", ""),  # the group of one
        ("lamp", "g3", None),
        ("lamp, small", "g3", " "),  # the group of the lamp
        ("", "g4", None),
        ("sofa", None, None),
    ]
    frame = pl.DataFrame(rows, schema=["title", "group", "category"], orient="row")
    for group, texts in (("group", {"lamp", "sofa"}), (None, {"red mug XL", "lamp", "lamp, small", "sofa"})):
        columns = choose_columns(frame, "category", ["title"], group, "products.csv")
        labeled = select_labeled_rows(GatheredRows(frame, len(frame)), columns, "products.csv")
        found = {"lamp" if group and text == "lamp, small" else text for text in labeled.unlabeled_texts}  # either of the two
        assert (found, len(labeled.unlabeled_texts), labeled.unlabeled) == (texts, len(texts), 6)


def test_a_fit_chooses_its_cascade_by_rows_without_a_category_too(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    save_base("bert", tmp_path / "base")
    unlabeled = pl.DataFrame({"title": [f"{color} {thing} of 2 {number}" for color in "abcde" for thing in "xyz" for number in range(60)]})
    frame = pl.concat([tiny_products(), unlabeled], how="diagonal")
    recipe = Recipe(base=str(tmp_path / "base"), epochs=1, max_tokens=16, rank=2, device="cpu", text=("title",))
    frame.write_csv(tmp_path / "products.csv")
    unlabeled.with_columns(pl.col("title") + " more").write_csv(tmp_path / "catalog.csv")
    with caplog.at_level("INFO"):
        fit([str(tmp_path / "products.csv")], recipe=recipe, output=tmp_path / "one")
        assert "900 texts without a category, which no model learns from, take part in choosing the cascade" in caplog.text
        fit([str(tmp_path / "products.csv")], recipe=recipe.but({"unlabeled": str(tmp_path / "catalog.csv")}), output=tmp_path / "two")
        assert "1,800 texts without a category" in caplog.text
    one, two = (load_adapter(tmp_path / name) for name in ("one", "two"))
    assert (one.folder / "linear.safetensors").read_bytes() == (two.folder / "linear.safetensors").read_bytes()
    shown = [{cascade.max_change for cascade in adapter.manifest.variants["fp32"].cascades} for adapter in (one, two)]
    # 120 products alone show no share below .025; .005 takes 598 of them, and .002 takes 1,497.
    assert 0.005 in shown[0]
    assert 0.002 not in shown[0]
    assert 0.002 in shown[1]


def test_rows_that_it_decides_get_the_linear_model_s_confidence_and_others_the_blend_s() -> None:
    linear, blend, truth = sample()
    cascade = Cascade(max_change=0.01, margin=1.5, decided=0.5, confidence=CalibrationParameters(temperature=0.4, slope=1.1, shift=0.2))
    served, alone = serve(linear, blend, cascade, truth, None), margins(linear) >= np.float32(1.5)
    assert 0.2 < alone.mean() < 0.8
    assert (served[~alone] == blend[~alone]).all()
    assert (served[alone] == calibrate(linear[alone], cascade.confidence)).all()


def test_a_fold_s_confidences_are_calibrated_by_the_other_folds() -> None:
    linear, blend, truth = sample()
    cascade = Cascade(max_change=0.01, margin=1.5, decided=0.5, confidence=CalibrationParameters(temperature=1.0))
    folds = np.arange(len(truth)) % 3
    served = serve(linear, blend, cascade, truth, FoldRoles.of(folds))
    other = truth.copy()
    other[folds == 0] = (other[folds == 0] + 1) % 4  # a fold's own classes change nothing for it
    again = serve(linear, blend, cascade, other, FoldRoles.of(folds))
    assert (served[folds == 0] == again[folds == 0]).all()
    assert (served[folds == 1] != again[folds == 1]).any()


# --- how it serves -------------------------------------------------------------------------------------------------------------------


def cascaded(folder: Path, margin: float, max_change: float = 0.005) -> Path:
    """The fixture with a cascade that decides from this margin on."""
    shutil.copytree(FIXTURE, folder)
    facts = json.loads((folder / "adapter.json").read_text())
    facts["format"] = FORMAT
    for info in facts["variants"].values():
        info["cascades"] = [
            {
                "max_change": max_change,
                "margin": margin,
                "decided": 0.5,
                "confidence": {"temperature": 0.5},
                "thresholds": info["thresholds"],
            }
        ]
    (folder / "adapter.json").write_text(json.dumps(facts))
    return folder


@pytest.fixture(scope="module")
def texts() -> list[str]:
    colors, things = ("red", "blue", "green", "black"), ("coffee mug", "shampoo", "hammer drill", "ground coffee", "oak chair")
    return [f"{color} {thing} {size}" for color in colors for thing in things for size in range(30)]


@pytest.fixture(scope="module")
def middle(texts: list[str]) -> float:
    """The median margin of the texts."""
    return float(np.median(margins(Labeler(load_adapter(FIXTURE), "cpu", "fp32").linear(texts))))


def test_texts_that_the_linear_model_decides_are_not_read_by_the_encoder(tmp_path: Path, texts: list[str], middle: float) -> None:
    folder = cascaded(tmp_path / "adapter", middle)
    labeler, exact = (Labeler(load_adapter(folder), "cpu", "fp32", max_change=share) for share in (0.005, 0))
    assert exact.cascade is None
    assert labeler.cascade is not None
    linear = labeler.linear(texts)
    alone = margins(linear) >= np.float32(middle)
    labels, both = (single.label(texts, LabelChoice(2)) for single in (labeler, exact))
    assert (labels.decided, both.decided) == (int(alone.sum()), 0)
    assert (labels.classes[alone, 0] == linear[alone].argmax(1)).all()
    confidence = calibrate(linear[alone], labeler.cascade.confidence).max(1)
    assert (labels.confidences[alone, 0] == confidence).all()
    assert (labels.classes[~alone] == both.classes[~alone]).all()
    assert np.allclose(labels.confidences[~alone], both.confidences[~alone], atol=1e-5)
    assert 0 < labels.checked < labels.decided
    assert labels.changed <= labels.checked
    assert np.allclose(labeler.probabilities(texts).max(1), labels.confidences[:, 0])


def test_a_cascade_that_changes_more_than_is_allowed_is_not_used(tmp_path: Path, middle: float) -> None:
    adapter = load_adapter(cascaded(tmp_path / "adapter", middle, 0.01))
    assert Labeler(adapter, "cpu").cascade is None
    assert Labeler(adapter, "cpu", max_change=0.01).cascade is not None


def test_a_run_says_what_the_linear_model_decided(tmp_path: Path, texts: list[str], middle: float) -> None:
    cascaded(tmp_path / "adapter", middle)
    pl.DataFrame({"title": texts}).write_csv(tmp_path / "catalog.csv")
    line = ["predict", "catalog.csv", "--adapter", "adapter", "--device", "cpu", "--variant", "fp32"]
    shown = catcli(*line, "-o", "out.csv", cwd=tmp_path, check=True).stderr
    assert "of 600 texts decided by the linear model alone" in shown
    assert "both models labeled" not in shown  # too few are checked to say more
    facts = json.loads(catcli(*line, "-o", "out.csv", "--json", cwd=tmp_path, check=True).stdout)
    assert facts["max_change"] == 0.005
    assert 250 < facts["decided"] < 350
    exact = json.loads(catcli(*line, "-o", "exact.csv", "--exact", "--json", cwd=tmp_path, check=True).stdout)
    assert (exact["max_change"], exact["decided"]) == (0.0, 0)
    assert (tmp_path / "out.csv").read_bytes() != (tmp_path / "exact.csv").read_bytes()
    shown = catcli(*line, "-o", "none.csv", "--max-change", "0.001", cwd=tmp_path, check=True).stderr
    assert "decided by the linear model alone" not in shown
    assert (tmp_path / "none.csv").read_bytes() == (tmp_path / "exact.csv").read_bytes()
    estimate = catcli(*line, "-o", "dry.csv", "--dry-run", cwd=tmp_path, check=True).stderr
    assert "of texts decided by the linear model alone" in estimate


def test_workers_change_no_byte(tmp_path: Path, texts: list[str], middle: float) -> None:
    adapter = cascaded(tmp_path / "adapter", middle)
    pl.DataFrame({"title": [f"{text} {number}" for number in range(8) for text in texts]}).write_csv(tmp_path / "catalog.csv")
    for workers in (1, 3):
        options = PredictOptions(str(tmp_path / f"out-{workers}.csv"), str(adapter), device="cpu", workers=workers)
        assert predict([str(tmp_path / "catalog.csv")], options).decided
    assert (tmp_path / "out-1.csv").read_bytes() == (tmp_path / "out-3.csv").read_bytes()


def test_a_catalog_that_is_unlike_the_labeled_products_is_warned_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, texts: list[str]
) -> None:
    monkeypatch.setattr("catcli.inference.labeler.CHECKED_SHARE", 1)
    adapter = cascaded(tmp_path / "adapter", 0.0, 0.0005)
    words = [f"{text} qzx{number % 7}w vv{number}" for number, text in enumerate(reversed(texts))]
    pl.DataFrame({"title": words}).write_csv(tmp_path / "catalog.csv")
    options = PredictOptions(str(tmp_path / "out.csv"), str(adapter), device="cpu", max_change=0.0005)
    summary = predict([str(tmp_path / "catalog.csv")], options)
    assert summary.checked == summary.decided == summary.labeled
    share, low, high = summary.changed_share()
    assert 0.0005 < low < share < high
    assert "the catalog is unlike the labeled products: the linear model alone gives" in caplog.text


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        ({"max_change": 1.0}, "--max-change 1: a share from 0 to below 1"),
        ({"max_change": -0.1}, "--max-change -0.1: a share from 0 to below 1"),
        ({"max_change": 0.01, "exact": True}, "--exact and --max-change exclude each other"),
    ],
)
def test_wrong_shares_are_named(flags: dict[str, float], sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        PredictOptions("out.csv", **flags).check()  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "value"),
    [("margin", "-0.5"), ("margin", "NaN"), ("margin", "1e300"), ("margin", '"wide"'), ("max_change", "0"), ("max_change", "1")],
)
def test_a_crafted_cascade_is_refused(tmp_path: Path, name: str, value: str) -> None:
    folder = cascaded(tmp_path / "adapter", 0.5)
    text = (folder / "adapter.json").read_text()
    before = {"margin": "0.5", "max_change": "0.005"}[name]
    assert f'"{name}": {before}' in text
    (folder / "adapter.json").write_text(text.replace(f'"{name}": {before}', f'"{name}": {value}'))
    with pytest.raises(AdapterError):
        load_adapter(folder)


def test_a_cascade_s_thresholds_are_of_the_adapter_s_categories(tmp_path: Path) -> None:
    folder = cascaded(tmp_path / "adapter", 0.5)
    facts = json.loads((folder / "adapter.json").read_text())
    facts["variants"]["fp32"]["cascades"][0]["category_thresholds"] = [{"category": "Unheard of", "thresholds": []}]
    (folder / "adapter.json").write_text(json.dumps(facts))
    with pytest.raises(AdapterError, match="thresholds of a category that it does not have"):
        load_adapter(folder)


def test_a_run_that_goes_on_counts_what_the_one_before_decided(tmp_path: Path, texts: list[str], middle: float) -> None:
    adapter = cascaded(tmp_path / "adapter", middle)
    pl.DataFrame({"title": texts}).write_csv(tmp_path / "catalog.csv")
    options = PredictOptions(str(tmp_path / "out.csv"), str(adapter), device="cpu")
    whole = predict([str(tmp_path / "catalog.csv")], options)
    expected = (tmp_path / "out.csv").read_bytes()
    with pytest.MonkeyPatch.context() as patch:
        # Shards of 64 rows; the run is stopped after some of them.
        patch.setattr(Labeler, "texts_per_call", 8)
        small_shards(patch, 64)
        small = predict([str(tmp_path / "catalog.csv")], replace(options, output=str(tmp_path / "small.csv")))

        def stop(_: str, done: float, __: float) -> None:
            if done >= 400:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            predict([str(tmp_path / "catalog.csv")], replace(options, output=str(tmp_path / "stopped.csv")), advance=stop)
        resumed = predict([str(tmp_path / "catalog.csv")], replace(options, output=str(tmp_path / "stopped.csv")))
    assert resumed.resumed
    counts = [(run.decided, run.checked, run.changed) for run in (whole, small, resumed)]
    assert counts[0] == counts[1] == counts[2]
    assert (tmp_path / "stopped.csv").read_bytes() == (tmp_path / "small.csv").read_bytes()
    assert len(expected.splitlines()) == len((tmp_path / "stopped.csv").read_bytes().splitlines())


def test_labels_of_exact_runs_are_not_taken_for_those_of_a_cascade(tmp_path: Path, texts: list[str]) -> None:
    adapter = cascaded(tmp_path / "adapter", 0.0)
    pl.DataFrame({"title": texts}).write_csv(tmp_path / "catalog.csv")
    line = ["predict", "catalog.csv", "--adapter", str(adapter), "--device", "cpu", "--variant", "fp32"]
    catcli(*line, "-o", "exact.csv", "--exact", cwd=tmp_path, check=True)
    refused = catcli(*line, "-o", "next.csv", "--previous", "exact.csv", cwd=tmp_path, check=True).stderr
    assert "from other text or with other options, such as --max-change" in " ".join(refused.split())
    kept = catcli(*line, "-o", "again.csv", "--exact", "--previous", "exact.csv", "--json", cwd=tmp_path, check=True)
    assert json.loads(kept.stdout)["taken_over"] == 600


def test_an_explicit_share_without_a_cascade_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    pl.DataFrame({"title": ["blue mug"]}).write_csv(tmp_path / "catalog.csv")
    predict([str(tmp_path / "catalog.csv")], PredictOptions(str(tmp_path / "out.csv"), str(FIXTURE), device="cpu", max_change=0.01))
    assert "has no cascade that changes so few; both models label all rows" in caplog.text


def test_a_copy_without_rows_of_an_older_adapter_is_of_the_format_that_it_is_written_in(tmp_path: Path) -> None:
    copy_adapter(str(FIXTURE), tmp_path / "copy", without_rows=True)
    copy = load_adapter(tmp_path / "copy")
    assert copy.manifest.format == FORMAT
    HeldOutRows.load(copy.file("heldout.parquet"), copy.manifest.categories)


# --- from a fit ----------------------------------------------------------------------------------------------------------------------


def test_a_fit_finds_a_cascade_with_thresholds_of_its_own_and_scores_what_serves(tmp_path: Path) -> None:
    things = {"Mugs": "coffee mug", "Tools > Drills": "hammer drill", "Shampoo": "hair shampoo", "Chairs": "oak chair"}
    colors = ("red", "blue", "green", "black", "white", "grey")
    rows = [(f"{color} {thing} {size} cm", name) for color in colors for size in range(30) for name, thing in things.items()]
    pl.DataFrame(rows, schema=["title", "category"], orient="row").write_csv(tmp_path / "products.csv")
    save_base("bert", tmp_path / "tiny-bert")
    recipe = Recipe(base=str(tmp_path / "tiny-bert"), epochs=1, max_tokens=16, rank=2, device="cpu")
    fitted = fit([str(tmp_path / "products.csv")], recipe=recipe, output=tmp_path / "shop")
    manifest, metrics = fitted.adapter.manifest, fitted.metrics
    cascade = manifest.variants[metrics.variant].cascade(0.005)
    assert cascade is not None
    assert cascade.decided > 0.5
    assert [threshold.precision for threshold in cascade.thresholds] == [0.9, 0.95, 0.98, 0.99]
    assert metrics.cascade is not None
    assert metrics.cascade.max_change == 0.005
    assert metrics.cascade.changed <= 0.005
    assert metrics.promises[0].threshold == cascade.thresholds[0].threshold
    view = report_held_out(fitted.adapter)
    assert view.outcomes.right.mean() == pytest.approx(metrics.blend.accuracy.value, abs=1e-6)
    shown = " ".join(catcli("report", "shop", cwd=tmp_path, check=True).stdout.split())
    assert "of rows are decided by the linear model alone" in shown
    assert "of rows are decided by the linear model alone" in (fitted.adapter.folder / "README.md").read_text()
    line = ["predict", "products.csv", "-o", "strict.csv", "--adapter", "shop", "--precision", "0.9", "--by-category", "--json"]
    assert json.loads(catcli(*line, cwd=tmp_path, check=True).stdout)["below"] < 720
    more = [*rows[:300], *[(f"brass lamp {number}", "Lamps") for number in range(9)]]
    pl.DataFrame(more, schema=["title", "category"], orient="row").write_csv(tmp_path / "more.csv")
    fresh = json.loads(catcli("report", "shop", "--on", "more.csv", "--json", cwd=tmp_path, check=True).stdout)
    assert [unknown["category"] for unknown in fresh["unknown_categories"]] == ["Lamps"]
    assert fresh["cascade"]["decided"] > 0.5
    run = catcli("predict", "products.csv", "-o", "out.csv", "--adapter", "shop", "--precision", "0.95", "--json", cwd=tmp_path, check=True)
    assert json.loads(run.stdout)["decided"] > 300


def test_a_holdout_finds_a_cascade_by_validation_and_test_rows(tmp_path: Path) -> None:
    things = {"Mugs": "coffee mug", "Tools > Drills": "hammer drill", "Shampoo": "hair shampoo", "Chairs": "oak chair"}
    colors = ("red", "blue", "green", "black", "white", "grey")
    sizes = [f"{chr(97 + size % 26)}{size}" for size in range(50)]
    rows = [(f"{color} {thing} {size}", name) for color in colors for size in sizes for name, thing in things.items()]
    pl.DataFrame(rows, schema=["title", "category"], orient="row").write_csv(tmp_path / "products.csv")
    save_base("bert", tmp_path / "tiny-bert")
    recipe = Recipe(base=str(tmp_path / "tiny-bert"), epochs=1, max_tokens=16, rank=2, device="cpu", folds=0, split=(40, 30, 30))
    fitted = fit([str(tmp_path / "products.csv")], recipe=recipe, output=tmp_path / "shop")
    assert fitted.metrics.rows.folds == 0
    assert fitted.metrics.rows.validation < 598 <= fitted.metrics.rows.validation + fitted.metrics.rows.test
    assert fitted.metrics.cascade is not None
    assert fitted.metrics.catalog is None


def test_the_share_of_changed_texts_is_shown_with_its_interval() -> None:
    summary = PredictSummary(labeled=100_000, decided=90_000, checked=700, changed=2)
    low, high = binomtest(2, 700).proportion_ci(0.95, "exact")
    assert summary.changed_share() == pytest.approx((0.9 * 2 / 700, 0.9 * low, 0.9 * high))
    assert cascade_outcome(summary) == (
        "90.0 % of 100,000 texts decided by the linear model alone; both models labeled 700 of these, too: 0.26 % of all texts have "
        "another category than by both (95 % interval 0.03 % to 0.93 %)"
    )
