"""Labels that are probably wrong: found by models of other rows, corrected in a file."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from conftest import Shop, catcli

from catcli.arrays import FloatArray, IntArray
from catcli.config import Recipe
from catcli.data.dataset.prepare import load_training_data
from catcli.data.io.source import open_source
from catcli.errors import OutputError, ProductsError, UsageError
from catcli.evaluation.label_errors import find_label_errors, find_overlaps
from catcli.evaluation.studies import Audit
from catcli.reporting.audit import audit
from catcli.reporting.audit_options import AuditOptions
from catcli.reporting.report_page import report_page
from catcli.reporting.scoring import report_held_out


def drawn(rows: int, classes: int, sharpness: float, seed: int = 0) -> tuple[FloatArray, IntArray]:
    """Exactly calibrated probabilities, and classes that are drawn by them."""
    random = np.random.default_rng(seed)
    scores = random.normal(size=(rows, classes)) * sharpness
    probabilities = np.exp(scores) / np.exp(scores).sum(1, keepdims=True)
    truth = (random.random((rows, 1)) > probabilities.cumsum(1)).sum(1).clip(0, classes - 1)
    return probabilities.astype(np.float32), truth


def test_planted_errors_come_first_and_are_about_as_many_as_expected() -> None:
    probabilities, truth = drawn(4_000, 6, 8.0)
    labels, wrong = truth.copy(), np.random.default_rng(1).choice(4_000, 200, replace=False)
    labels[wrong] = (labels[wrong] + 1 + np.arange(200) % 5) % 6
    found = find_label_errors(probabilities, labels)
    assert np.isin(found.order[:200], wrong).mean() > 0.6
    natural = find_label_errors(probabilities, truth).expected
    assert 120 <= found.expected - natural <= 280
    assert len(found.suspects) == found.expected
    assert (found.suggested[found.suspects] != labels[found.suspects]).all()


def test_sure_right_labels_are_no_suspects() -> None:
    labels = np.array([0, 1, 2] * 10)
    probabilities = np.full((30, 4), 0.01, np.float32)
    probabilities[np.arange(30), labels] = 0.97
    found = find_label_errors(probabilities, labels)
    assert found.expected == 0
    assert not len(found.suspects)
    assert find_overlaps(probabilities, labels) == []


def test_categories_that_nothing_tells_apart_overlap() -> None:
    random = np.random.default_rng(0)
    labels = np.array([0, 1, 2] * 100)
    probabilities = np.full((300, 3), 0.02, np.float32)
    for row, label in enumerate(labels):
        if label == 2:
            probabilities[row] = (0.01, 0.01, 0.98)
        else:
            first = random.uniform(0.3, 0.7)
            probabilities[row, :2] = first, 1 - first
    (pair,) = find_overlaps(probabilities, labels)
    assert (pair.first, pair.second, pair.rows) == (0, 1, 200)
    assert pair.overlap > 0.8


# --- on a file -----------------------------------------------------------------------------------------------------------------------

WORDS = {
    "Mugs": "mug cup ceramic handle glazed espresso",
    "Drills": "drill hammer cordless torque chuck bits",
    "Coffee": "arabica roasted ground beans robusta crema",
}


@pytest.fixture
def products(tmp_path: Path) -> Path:
    """Rows of three categories, of which ten mugs are labeled as drills, and two near-equal rows have two labels."""
    random = np.random.default_rng(0)
    rows = []
    for name, words in WORDS.items():
        for number in range(60):
            title = " ".join(random.permutation(words.split())[:4]) + f" model{number}"
            rows.append((title, "Drills" if name == "Mugs" and number < 10 else name))
    rows += [("porcelain travel beaker 300ml", "Mugs"), ("Porcelain travel beaker, 500 ml", "Coffee")]
    frame = pl.DataFrame(rows, schema=["title", "category"], orient="row").with_row_index("sku")
    frame.write_csv(tmp_path / "products.csv")
    return tmp_path / "products.csv"


@pytest.mark.parametrize("ending", ["csv", "xlsx", "parquet", "jsonl"])
def test_wrong_labels_are_listed_first_and_corrected_in_the_file(products: Path, tmp_path: Path, ending: str) -> None:
    out = tmp_path / f"suspects.{ending}"
    result = audit([str(products)], AuditOptions(output=str(out)))
    planted = [suspect for suspect in result.suspects if suspect.row <= 10]
    assert len(planted) >= 9
    assert all((suspect.label, suspect.suggested) == ("Drills", "Mugs") for suspect in planted)
    assert all(" ".join(suspect.similar) for suspect in planted)
    assert 9 <= result.expected == len(result.suspects) <= 14
    conflict = next(conflict for conflict in result.conflicts if 181 in conflict.rows)
    assert conflict.rows == (181, 182)
    assert dict(conflict.labels) == {"Mugs": 1, "Coffee": 1}
    frame = open_source([str(out)]).read().frame
    assert frame.columns[:3] == ["sku", "title", "catalog_category"]
    assert frame["category"].null_count() == len(frame)
    beakers = frame.filter(pl.col("title").str.to_lowercase().str.contains("beaker"))
    assert beakers["group"].n_unique() == 1
    assert beakers["group_rows"].cast(pl.Int64).to_list() == [2, 2]
    wrong = pl.col("sku").cast(pl.Int64) < 10
    first = pl.col("title").str.to_lowercase().str.contains("beaker") & pl.col("group").is_first_distinct()
    filled = frame.with_columns(category=pl.when(wrong | first).then(pl.lit("Mugs")))
    filled.select(pl.exclude(pl.List)).write_csv(tmp_path / "filled.csv")
    recipe = Recipe.make(corrections=(str(tmp_path / "filled.csv"),))
    labeled = load_training_data(open_source([str(products)]), recipe).labeled
    names = [labeled.categories.names[number] for number in labeled.classes]
    assert all(names[suspect.row - 1] == "Mugs" for suspect in planted)
    assert names[10:180] == [name for name in WORDS for _ in range(60)][10:]
    assert names[180:] == ["Mugs", "Mugs"]
    assert labeled.taught == 0


def test_a_file_that_somebody_filled_in_is_not_written_over(products: Path, tmp_path: Path) -> None:
    out = tmp_path / "suspects.csv"
    audit([str(products)], AuditOptions(output=str(out)))
    pl.read_csv(out, infer_schema=False).with_columns(category=pl.lit("Mugs")).write_csv(out)
    before = out.read_bytes()
    with pytest.raises(OutputError, match="somebody may have filled it in; use it with fit --corrections"):
        audit([str(products)], AuditOptions(output=str(out)))
    assert out.read_bytes() == before


def test_what_cannot_be_audited_is_said_in_a_sentence(products: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="audit needs labeled rows, or with --adapter those that it kept"):
        audit([], AuditOptions())
    with pytest.raises(UsageError, match="--label, --text and --group are about labeled rows"):
        audit([], AuditOptions(adapter="x", label="category"))
    with pytest.raises(UsageError, match="is read by this run"):
        audit([str(products)], AuditOptions(output=str(products)))
    with pytest.raises(UsageError, match="name a file"):
        audit([str(products)], AuditOptions(output="-"))
    pl.DataFrame({"title": [f"thing {n}" for n in range(6)], "category": list("abcdef")}).write_csv(tmp_path / "single.csv")
    with pytest.raises(ProductsError, match="can be held against other rows of its category"):
        audit([str(tmp_path / "single.csv")], AuditOptions(label="category", text=("title",)))


def test_rows_are_numbered_as_in_the_file_and_blank_ones_are_no_product(products: Path, tmp_path: Path) -> None:
    frame = pl.read_csv(products, infer_schema=False)
    unlabeled = frame.head(5).with_columns(category=pl.lit(None, pl.String), sku=pl.lit("none"))
    blank = frame.head(4).with_columns(title=pl.lit(""), category=pl.Series(["Mugs", "Coffee", "Mugs", "Drills"]))
    pl.concat((unlabeled, frame, blank)).write_csv(tmp_path / "shifted.csv")
    before = audit([str(products)], AuditOptions())
    after = audit([str(tmp_path / "shifted.csv")], AuditOptions(output=str(tmp_path / "suspects.csv")))
    assert {suspect.row for suspect in before.suspects} <= {suspect.row - 5 for suspect in after.suspects}
    assert {conflict.rows for conflict in before.conflicts} == {tuple(row - 5 for row in conflict.rows) for conflict in after.conflicts}
    written = pl.read_csv(tmp_path / "suspects.csv", infer_schema=False)
    assert (written.filter(pl.col("title").is_null() | (pl.col("title") == ""))["group_rows"] == "1").all()


def test_of_very_many_rows_a_sample_is_looked_at(products: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr("catcli.reporting.audit.MAX_ROWS", 100)
    result = audit([str(products)], AuditOptions())
    assert result.rows == 100
    assert "a random sample of 100 of 182 labeled rows" in caplog.text
    titles = pl.read_csv(products)["title"].to_list()
    assert all(titles[suspect.row - 1] == suspect.text for suspect in result.suspects)


# --- by an adapter -------------------------------------------------------------------------------------------------------------------


def test_an_adapter_says_what_its_folds_said(shop: Shop, tmp_path: Path) -> None:
    kept = audit([], AuditOptions(adapter=shop.adapter, output=str(tmp_path / "kept.csv")))
    assert kept.scored == kept.rows == len(report_held_out(shop.fitted.adapter).texts)
    frame = pl.read_csv(shop.products, infer_schema=False)
    names = shop.fitted.adapter.manifest.categories
    wrong = frame.with_columns(category=pl.col("category").replace(dict(zip(names, (*names[1:], names[0]), strict=True))))
    wrong.write_csv(tmp_path / "wrong.csv")
    found = audit([str(tmp_path / "wrong.csv")], AuditOptions(adapter=shop.adapter))
    assert found.rows == len(frame)
    assert 0 < found.scored < len(frame)  # of the others the fit has no scores
    right = dict(zip(wrong["title"], frame["category"], strict=True))
    assert len(found.suspects) > found.scored / 2
    matched = [suspect.suggested == right[frame["title"][suspect.row - 1]] for suspect in found.suspects]
    assert np.mean(matched) > 0.8


def test_an_adapter_without_its_rows_is_refused(shop: Shop, tmp_path: Path) -> None:
    catcli("adapters", "export", shop.adapter, "-o", tmp_path / "bare", "--without-rows", cwd=tmp_path, check=True)
    with pytest.raises(UsageError, match="was exported without its rows"):
        audit([], AuditOptions(adapter=str(tmp_path / "bare")))


def test_the_page_lists_labels_to_look_at(shop: Shop) -> None:
    view = report_held_out(shop.fitted.adapter)
    page = report_page("shop", view.report, view.names, view.texts, view.probabilities, view.outcomes)
    assert 'id="labels"' in page
    truth = (view.outcomes.truth + np.arange(len(view.texts)) % 2) % len(view.names)
    page = report_page("shop", view.report, view.names, view.texts, view.probabilities, replace(view.outcomes, truth=truth))
    assert "its probability" in page


def test_the_command_prints_tables_or_json(products: Path, tmp_path: Path) -> None:
    shown = catcli("audit", products, "-o", "suspects.csv", cwd=tmp_path, check=True)
    assert "Labels that are probably wrong" in shown.stdout
    assert "Near-equal rows with different labels" in shown.stdout
    assert "the rows in doubt: suspects.csv" in " ".join(shown.stdout.split())
    told = Audit.model_validate(json.loads(catcli("audit", products, "--json", cwd=tmp_path, check=True).stdout))
    assert told.output is None
    assert told.suspects
