"""The way of a row in doubt: a review, a person's decision, and back into labels or into an adapter."""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from conftest import FIXTURE, Shop, catcli

from catcli.config import Recipe
from catcli.data.dataset.corrections import Corrections, correct_rows
from catcli.data.dataset.labeled import LabeledRows
from catcli.data.dataset.near_equal import folded_texts, group_near_equal
from catcli.data.dataset.prepare import load_training_data
from catcli.data.dataset.reviewed import CATEGORY
from catcli.data.dataset.split import FoldSplit, split_into_folds, split_rows
from catcli.data.io.source import open_source
from catcli.errors import OutputError, ProductsError, UsageError
from catcli.evaluation.decisions import decision_order
from catcli.inference.dry_run import dry_run
from catcli.inference.fingerprint import predict_fingerprint
from catcli.inference.predict import open_job, predict
from catcli.inference.predict_options import PredictOptions
from catcli.inference.summary import PredictSummary
from catcli.training.cross_validation import CrossValidation
from catcli.training.setup import Setup

NAMES = ("Coffee", "Drills", "Mugs", "Shampoo")
"""The fixture's categories."""

TITLES = (
    *("ground coffee 500g", "Ground Coffee, 1 kg", "coffee mug", "coffee mug red", "hammer drill", "hair shampoo", "coffee", "mug drill"),
    *("tea cup blue", "tea cup 3 pcs", "something else", "something ELSE!"),
)

FORMATS = ("csv", "xlsx", "parquet", "jsonl", "tsv", "arrow")


@pytest.fixture
def catalog(tmp_path: Path) -> Path:
    rows = pl.DataFrame({"id": range(36), "title": TITLES * 3, "stock": [float(row) for row in range(36)]})
    rows.write_csv(tmp_path / "catalog.csv")
    return tmp_path / "catalog.csv"


def run(catalog: Path, out: str, **more: Any) -> PredictSummary:  # noqa: ANN401  # options of any type
    given = {"adapter": str(FIXTURE), "device": "cpu", "min_confidence": 0.9, **more}
    return predict([str(catalog)], PredictOptions(str(catalog.with_name(out)), **given))


def read(path: Path) -> pl.DataFrame:
    return open_source([str(path)]).read().frame.with_columns(pl.col(pl.Int64, pl.Int32, pl.Float32, pl.Float64).cast(pl.String))


def fill_in(path: Path, decided: dict[str, str], target: Path) -> None:
    """What a person does: write a category beside the first row of the group that has a title."""
    frame = read(path)
    groups: dict[str, str] = {}
    for title, name in decided.items():
        groups[frame.filter(pl.col("title") == title)["group"][0]] = name
    first = frame["group"].is_first_distinct()
    category = frame["group"].replace_strict(groups, default=None, return_dtype=pl.String).set(~first, None)
    filled = frame.with_columns(category.alias(CATEGORY))
    if target.suffix == ".xlsx":
        filled.write_excel(target)
    elif target.suffix == ".parquet":
        filled.write_parquet(target)
    else:
        filled.select(pl.exclude(pl.List)).write_csv(target)


# --- what is near-equal --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "folded"),
    [
        ("Nike Air Max 90 - White (Size L)", "air max nike"),
        ("nike AIR max, black xl", "air max nike"),
        ('55" TV', "tv"),
        ("12 cm", "12 cm"),  # nothing else is left
        ("", ""),
        ("Hemd blau Größe 42", "größe hemd"),
        ("red red wine", "wine"),
        ("लाल दाल", "दाल लाल"),
        ("cafe\u0301 noir", "café"),
    ],
)
def test_case_order_numbers_sizes_and_colors_are_folded(text: str, folded: str) -> None:
    assert folded_texts(pl.Series([text])).to_list() == [folded]


def test_texts_of_mostly_the_same_words_are_near_equal_and_no_group_drifts() -> None:
    words = [f"w{number}" for number in range(30)]
    texts = [" ".join(words[start : start + 20]) for start in range(10)]
    groups = group_near_equal(texts, np.zeros(10, np.int64))
    assert groups[0] == groups[1] == groups[2] == 0  # 18 of 22 words
    assert groups[3] == 3  # near-equal to the third, but not to the first
    sets = [set(text.split()) for text in texts]
    for number, leader in enumerate(groups.tolist()):
        assert len(sets[number] & sets[leader]) / len(sets[number] | sets[leader]) >= 0.8
    assert group_near_equal(texts, np.arange(10)).tolist() == list(range(10))  # of different kinds none is
    assert len(group_near_equal([], np.empty(0, np.int64))) == 0


def test_what_helps_most_comes_first() -> None:
    """What settles many rows before what settles one; what is in doubt before what is sure."""
    order = decision_order(np.array([0.9, 0.3, 0.3, 0.3]), np.array([1.0, 1.0, 9.0, 1.0]))
    assert order.tolist() == [2, 1, 3, 0]


# --- the file ------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", FORMATS)
def test_near_equal_rows_stand_together_with_an_empty_category(catalog: Path, ending: str) -> None:
    summary = run(catalog, "out.csv", review=str(catalog.with_name(f"review.{ending}")))
    frame, out = read(catalog.with_name(f"review.{ending}")), read(catalog.with_name("out.csv"))
    assert set(frame["id"]) == set(out.filter(pl.col("predicted_category").is_null())["id"])
    assert len(frame) == summary.below > 0
    assert frame.columns[:3] == ["id", "title", "stock"]
    assert frame.columns[-4:] == ["suggestions", "group", "group_rows", "category"]
    assert frame[CATEGORY].null_count() == len(frame)
    groups = frame["group"].cast(pl.Int64).to_list()
    assert groups == sorted(groups)
    assert set(groups) == set(range(1, max(groups) + 1))
    together = {title: set(part["group"]) for (title,), part in frame.group_by("title")}
    assert together["ground coffee 500g"] == together["Ground Coffee, 1 kg"]
    assert together["something else"] == together["something ELSE!"]
    assert together["something else"] != together["tea cup blue"]
    counts = frame.group_by("group").agg(pl.len(), pl.col("group_rows").first())
    assert counts["len"].to_list() == counts["group_rows"].cast(pl.Int64).to_list()
    sure = frame.group_by("group").agg(pl.col("confidence").cast(pl.Float64).mean(), order=pl.col("group").first().cast(pl.Int64))
    assert sure.sort("order")["confidence"].is_sorted()
    suggested = frame["suggestions"][0]
    first = suggested[0] if isinstance(suggested, pl.Series) else suggested.split(" (")[0]
    assert first == frame["predicted_category"][0]


def test_excel_offers_the_categories_and_runs_nothing(tmp_path: Path) -> None:
    rows = pl.DataFrame({"title": ['=HYPERLINK("http://x")', "http://example.org tea", "00123", "tea"]})
    rows.write_csv(tmp_path / "catalog.csv")
    run(tmp_path / "catalog.csv", "out.csv", min_confidence=1.0, review=str(tmp_path / "review.xlsx"))
    with zipfile.ZipFile(tmp_path / "review.xlsx") as book:
        sheet = book.read("xl/worksheets/sheet1.xml").decode()
        assert "<f>" not in sheet
        assert "hyperlink" not in sheet.lower().replace("=hyperlink", "")
        assert re.search(r"<dataValidation type=\"list\"[^>]*sqref=\"\w+2:\w+5\"", sheet)
        assert "$A$4" in sheet  # the four categories
    frame = pl.read_excel(tmp_path / "review.xlsx", sheet_name="review")
    assert sorted(frame["title"].to_list()) == sorted(rows["title"].to_list())
    assert pl.read_excel(tmp_path / "review.xlsx", sheet_name="category", has_header=False).to_series().to_list() == list(NAMES)


def test_a_budget_takes_whole_groups_and_a_weight_says_what_rows_count(catalog: Path) -> None:
    run(catalog, "out.csv", review=str(catalog.with_name("all.parquet")), weight="stock")
    run(catalog, "out.csv", review=str(catalog.with_name("some.parquet")), weight="stock", review_budget=2)
    everything, some = read(catalog.with_name("all.parquet")), read(catalog.with_name("some.parquet"))
    assert some["group"].unique().sort().to_list() == ["1", "2"]
    for (_,), part in some.group_by("group"):
        whole = everything.filter(pl.col("group") == everything.filter(pl.col("id") == part["id"][0])["group"][0])
        assert set(part["id"]) == set(whole["id"])
        assert float(part["group_weight"][0]) == part["stock"].cast(pl.Float64).sum()


def test_columns_of_the_catalog_with_such_names_are_called_otherwise_in_the_review(tmp_path: Path) -> None:
    for form in ("csv", "jsonl"):
        rows = pl.DataFrame({"title": ["tea", "coffee"], "category": ["x", "y"], "group": ["1", "2"], "catalog_group": ["a", "b"]})
        getattr(rows, {"csv": "write_csv", "jsonl": "write_ndjson"}[form])(tmp_path / f"catalog.{form}")
        run(tmp_path / f"catalog.{form}", f"out.{form}", min_confidence=1.0, review=str(tmp_path / f"review.{form}"))
        frame = read(tmp_path / f"review.{form}")
        assert sorted(frame["catalog_category"]) == ["x", "y"]
        assert sorted(frame["catalog_group_"]) == ["1", "2"]
        assert sorted(frame["catalog_group"]) == ["a", "b"]
        assert frame[CATEGORY].null_count() == 2
        assert read(tmp_path / f"out.{form}")["category"].to_list() == ["x", "y"]


def test_a_review_has_the_text_whatever_is_kept(catalog: Path) -> None:
    run(catalog, "out.csv", keep="id", review=str(catalog.with_name("review.csv")))
    assert read(catalog.with_name("review.csv")).columns[:2] == ["id", "title"]
    assert "title" not in read(catalog.with_name("out.csv")).columns


def test_a_review_that_somebody_filled_in_is_not_written_over(catalog: Path) -> None:
    review = catalog.with_name("review.csv")
    run(catalog, "out.csv", review=str(review))
    run(catalog, "out.csv", review=str(review))  # nobody has
    fill_in(review, {"tea cup blue": "Mugs"}, review)
    before = review.read_bytes()
    with pytest.raises(OutputError, match="somebody may have filled it in"):
        run(catalog, "out.csv", review=str(review))
    assert review.read_bytes() == before


@pytest.mark.parametrize(
    "content",
    [
        "title,group,category\na,1,Mugs\nb,1,Drills\nc,1,\n",  # a group with two names
        "title,category\na,Mugs\nb,Mugs,too many\n",  # a ragged row
        "PK\3\4 not a workbook",
    ],
)
def test_a_review_with_a_mistake_in_it_is_not_written_over(catalog: Path, content: str) -> None:
    review = catalog.with_name("review.xlsx" if content.startswith("PK") else "review.csv")
    review.write_text(content)
    with pytest.raises(OutputError, match="somebody may have filled it in"):
        run(catalog, "out.csv", review=str(review))
    assert review.read_text() == content


def test_the_file_of_apply_is_no_output(catalog: Path) -> None:
    filled = catalog.with_name("filled.csv")
    pl.DataFrame({"title": ["tea cup blue"], "category": ["Mugs"]}).write_csv(filled)
    before = filled.read_bytes()
    with pytest.raises(UsageError, match="is the file of --apply"):
        run(catalog, "filled.csv", apply=str(filled))
    assert filled.read_bytes() == before


def test_a_weight_that_is_no_number_is_refused(tmp_path: Path) -> None:
    for cell, problem in (("-5", "has '-5', no number from 0 on"), ("abc", "has 'abc', no number from 0 on")):
        pl.DataFrame({"title": ["tea"], "weight": [cell]}).write_csv(tmp_path / "catalog.csv")
        with pytest.raises(ProductsError, match=problem):
            run(tmp_path / "catalog.csv", "out.csv", min_confidence=1.0, review=str(tmp_path / "review.csv"), weight="weight")
    pl.DataFrame({"title": ["tea"], "weight": [[1, 2]]}).write_parquet(tmp_path / "catalog.parquet")
    with pytest.raises(ProductsError, match=r"--weight 'weight': its cells are List"):
        run(tmp_path / "catalog.parquet", "out.csv", min_confidence=1.0, review=str(tmp_path / "review.csv"), weight="weight")


def test_another_name_for_the_review_labels_nothing_again(catalog: Path) -> None:
    def fingerprint(**more: Any) -> dict[str, str]:  # noqa: ANN401
        given = PredictOptions(str(catalog.with_name("out.csv")), str(FIXTURE), device="cpu", min_confidence=0.9, **more)
        with open_job([str(catalog)], given) as job:
            return predict_fingerprint(job)

    first = fingerprint(review="a.csv", review_budget=5)
    assert first == fingerprint(review="b.xlsx")  # as where a sheet of Excel has too little room
    assert first != fingerprint(review="b.parquet")
    assert first != fingerprint()


def test_options_without_a_review_are_refused(catalog: Path) -> None:
    for more, option in (({"review_budget": 3}, "--review-budget"), ({"weight": "stock"}, "--weight")):
        with pytest.raises(UsageError, match=f"{option} orders what comes to a review"):
            run(catalog, "out.csv", **more)
    with pytest.raises(ProductsError, match="--weight 'price'"):
        run(catalog, "out.csv", review=str(catalog.with_name("review.csv")), weight="price")


# --- predict --apply -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", ["csv", "xlsx", "parquet"])
def test_a_decision_counts_for_its_group(catalog: Path, ending: str) -> None:
    review, filled = catalog.with_name(f"review.{ending}"), catalog.with_name(f"filled.{ending}")
    run(catalog, "before.parquet", review=str(review))
    fill_in(review, {"ground coffee 500g": "Coffee", "something else": "Drills"}, filled)
    summary = run(catalog, "after.parquet", apply=str(filled), review=str(catalog.with_name("rest.csv")))
    before, after = read(catalog.with_name("before.parquet")), read(catalog.with_name("after.parquet"))
    expected = {"ground coffee 500g": "Coffee", "Ground Coffee, 1 kg": "Coffee", "something else": "Drills", "something ELSE!": "Drills"}
    for old, new in zip(before.iter_rows(named=True), after.iter_rows(named=True), strict=True):
        if old["title"] in expected:
            assert (new["predicted_category"], float(new["confidence"])) == (expected[old["title"]], 1.0)
        else:
            assert new == old
    assert summary.applied == 12
    assert not set(read(catalog.with_name("rest.csv"))["title"]) & set(expected)


@pytest.mark.parametrize(("form", "safe"), [("parquet", False), ("csv", True)])
def test_text_that_a_format_cannot_give_again_stands_beside_it(tmp_path: Path, form: str, safe: bool) -> None:
    title: list[object] = ["=tea cup", "+coffee"] if form == "csv" else [["tea cup", "blue"], ["coffee", "1 kg"]]
    rows = pl.DataFrame({"title": title})
    getattr(rows, f"write_{form}")(tmp_path / f"catalog.{form}")
    review, catalog = tmp_path / "review.csv", tmp_path / f"catalog.{form}"
    run(catalog, f"out.{form}", min_confidence=1.0, review=str(review), safe_csv=safe)
    frame = pl.read_csv(review, infer_schema=False)
    assert "read_text" in frame.columns
    frame.with_columns(category=pl.lit("Drills")).write_csv(tmp_path / "filled.csv")
    assert run(catalog, f"out.{form}", min_confidence=1.0, apply=str(tmp_path / "filled.csv")).applied == 2


def test_a_decision_is_one_alternative_and_says_nothing_of_rows_without_text(catalog: Path, tmp_path: Path) -> None:
    pl.DataFrame({"title": ["tea cup blue", ""], "category": ["Mugs", "Drills"]}).write_csv(tmp_path / "filled.csv")
    pl.DataFrame({"title": ["tea cup blue", "", "coffee"]}).write_csv(catalog)
    summary = run(catalog, "out.parquet", apply=str(tmp_path / "filled.csv"), top_k=3, on_bad_row="null")
    frame = pl.read_parquet(tmp_path / "out.parquet")
    assert frame["alternatives"][0].to_list() == [{"category": "Mugs", "confidence": 1.0}]
    assert len(frame["alternatives"][2]) == 3
    assert summary.applied == 1


def test_an_output_with_decisions_serves_as_an_earlier_one(catalog: Path, caplog: pytest.LogCaptureFixture) -> None:
    review, filled = catalog.with_name("review.csv"), catalog.with_name("filled.csv")
    run(catalog, "out.csv", review=str(review))
    fill_in(review, {"tea cup blue": "Drills", "something else": "Drills", "ground coffee 500g": "Drills"}, filled)
    first = run(catalog, "first.csv", apply=str(filled))
    second = run(catalog, "second.csv", previous=str(catalog.with_name("first.csv")))
    assert second.taken_over == first.rows - first.below
    assert "another adapter" not in caplog.text


def test_a_dry_run_says_what_is_wrong_with_decisions(catalog: Path, tmp_path: Path) -> None:
    pl.DataFrame({"title": ["tea"], "category": ["Mugz"]}).write_csv(tmp_path / "filled.csv")
    options = PredictOptions(str(tmp_path / "out.csv"), str(FIXTURE), device="cpu", apply=str(tmp_path / "filled.csv"))
    with pytest.raises(ProductsError, match="'Mugz'"):
        dry_run([str(catalog)], options)


def test_a_decision_wins_over_an_earlier_output_and_a_category_that_is_never_accepted(catalog: Path) -> None:
    review, filled = catalog.with_name("review.csv"), catalog.with_name("filled.csv")
    run(catalog, "first.csv", review=str(review))
    fill_in(review, {"tea cup blue": "Mugs"}, filled)
    first = catalog.with_name("first.csv")
    summary = run(catalog, "second.csv", apply=str(filled), previous=str(first))
    second = read(catalog.with_name("second.csv"))
    assert set(second.filter(pl.col("title").str.contains("tea cup"))["predicted_category"]) == {"Mugs"}
    assert summary.taken_over == 36 - summary.below - summary.applied


def test_what_cannot_be_applied_is_said_in_a_sentence(catalog: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def apply(*rows: tuple[str, str, str | None]) -> None:
        frame = pl.DataFrame(rows, schema={"title": pl.String, "group": pl.String, "category": pl.String}, orient="row")
        frame.write_csv(tmp_path / "filled.csv")
        run(catalog, "out.csv", apply=str(tmp_path / "filled.csv"))

    with pytest.raises(ProductsError, match=r"1 unknown category: 'Cofee' \(row 2\), near to 'Coffee'\. Correct these cells"):
        apply(("tea", "1", "Mugs"), ("coffee", "2", "Cofee"))
    with pytest.raises(ProductsError, match=r"group 1 \(from row 1\) has 'Mugs', 'Coffee' and 1 row without a category"):
        apply(("a", "1", "Mugs"), ("b", "1", "Coffee"), ("c", "1", None))
    apply(("a", "1", "Mugs"), ("b", "1", "Coffee"))  # each has its own
    with pytest.raises(ProductsError, match="no cell of 'category' is filled in"):
        apply(("a", "1", " "), ("b", "1", None))
    with pytest.raises(ProductsError, match="rows 1 and 2 are the same text, and one is 'Mugs', the other 'Coffee'"):
        apply(("a", "1", "Mugs"), ("a", "2", "Coffee"))
    with pytest.raises(ProductsError, match="has no column 'category'; give a file that predict --review or audit -o wrote"):
        run(catalog, "out.csv", apply=str(catalog))
    pl.DataFrame({"name": ["a"], "category": ["Mugs"]}).write_csv(tmp_path / "other.csv")
    with pytest.raises(ProductsError, match="has no column 'title', which is read as text"):
        run(catalog, "out.csv", apply=str(tmp_path / "other.csv"))
    apply(("of another catalog", "1", "Mugs"))
    assert "catalog.csv has a text of it; is it of another catalog?" in caplog.text


def test_a_stopped_run_goes_on_only_with_the_same_decisions(catalog: Path, tmp_path: Path) -> None:
    def fingerprint(category: str) -> dict[str, str]:
        pl.DataFrame({"title": ["tea"], "category": [category]}).write_csv(tmp_path / "filled.csv")
        given = PredictOptions(str(tmp_path / "out.csv"), str(FIXTURE), device="cpu", apply=str(tmp_path / "filled.csv"))
        with open_job([str(catalog)], given) as job:
            return predict_fingerprint(job)

    first = fingerprint("Mugs")
    assert first.keys() == fingerprint("Coffee").keys()
    assert first["the file of --apply"] != fingerprint("Shampoo")["the file of --apply"]


# --- fit --corrections ---------------------------------------------------------------------------------------------------------------


def decided(*rows: tuple[str, str]) -> Corrections:
    return Corrections([text for text, _ in rows], [label for _, label in rows], [None] * len(rows), ["r.csv, row 1"] * len(rows))


def test_a_decision_wins_over_the_labels_of_its_product_and_others_are_added() -> None:
    texts, labels = ["Red mug", "red MUG!", "drill", "coffee"], ["Cups", "Mugs", "Drills", "Coffee"]
    corrected = correct_rows(texts, labels, None, decided(("red mug", "Mugs"), ("tea", "Tea"), ("tea", "Tea"), ("", "Tea")))
    assert corrected.labels == ["Mugs", "Mugs", "Drills", "Coffee", "Tea"]
    assert corrected.texts == [*texts, "tea"]
    assert corrected.taught == 1
    assert len(corrected.keys) == 5


def test_a_group_column_makes_one_product_of_rows_and_decisions() -> None:
    corrections = replace(decided(("blue mug xl", "Mugs")), groups=["p1"])
    corrected = correct_rows(["red mug", "drill"], ["Cups", "Drills"], pl.Series(["p1", "p2"]), corrections)
    assert corrected.labels == ["Mugs", "Drills"]
    assert corrected.taught == 0


def test_rows_without_a_text_are_no_product() -> None:
    corrected = correct_rows(["", "tea", "!"], ["A", "B", "C"], None, decided(("", "Mugs"), ("", "Drills"), ("?", "Mugs")))
    assert corrected.labels == ["A", "B", "C"]
    assert corrected.taught == 0


def test_the_group_of_a_decision_is_found_under_the_name_that_the_review_gives_it(tmp_path: Path) -> None:
    rows = [(f"{word} {n}", name, f"p{n // 2}{word}") for word, name in (("mug", "Mugs"), ("drill", "Drills")) for n in range(40)]
    frame = pl.DataFrame(rows, schema=["title", "category", "group"], orient="row")
    frame.write_csv(tmp_path / "products.csv")
    reviewed = pl.DataFrame({"title": ["a mug of p0"], "catalog_group": ["p0mug"], "group": ["1"], "category": ["Drills"]})
    reviewed.write_csv(tmp_path / "reviewed.csv")
    recipe = Recipe.make(corrections=(str(tmp_path / "reviewed.csv"),), group="group", label="category", text=("title",))
    labeled = load_training_data(open_source([str(tmp_path / "products.csv")]), recipe).labeled
    assert labeled.taught == 0
    assert [labeled.categories.names[number] for number in labeled.classes[:3]] == ["Drills", "Drills", "Mugs"]


def test_blanks_and_case_of_a_filled_cell_do_not_matter_where_they_are_merged(tmp_path: Path) -> None:
    assert training_data(tmp_path, pl.DataFrame({"title": ["tea pot"], "category": [" Mugs "]})).taught == 1
    reviewed = pl.DataFrame({"title": ["tea pot"], "category": ["MUGS"]})
    with pytest.raises(ProductsError, match="'MUGS'"):
        training_data(tmp_path, reviewed)
    assert training_data(tmp_path, reviewed, merge_labels=True).taught == 1


def test_reviews_of_several_formats_are_taken_together(tmp_path: Path) -> None:
    from catcli.data.dataset.prepare import fit_inputs
    from catcli.data.io.input_options import InputOptions

    reviewed = pl.DataFrame({"title": ["tea pot"], "category": ["Mugs"]})
    reviewed.write_csv(tmp_path / "a.csv")
    reviewed.write_excel(tmp_path / "b.xlsx")
    recipe = Recipe.make(corrections=(str(tmp_path / "a.csv"), str(tmp_path / "b.xlsx")))
    assert "the files of --corrections" in fit_inputs(recipe, InputOptions())


def test_one_product_decided_twice_is_refused() -> None:
    with pytest.raises(ProductsError, match="are one product, and one is 'Mugs', the other 'Cups'; fill in the same category"):
        correct_rows(["drill"], ["Drills"], None, decided(("red mug", "Mugs"), ("RED mug", "Cups")))


@pytest.mark.parametrize("folds", [True, False])
def test_added_rows_train_and_are_never_held_out(folds: bool) -> None:
    random = np.random.default_rng(0)
    classes = random.integers(0, 3, 300)
    keys = [f"product {row}" for row in range(300)]
    split = split_into_folds(keys, classes, 3, 0) if folds else split_rows(keys, classes, (80, 10, 10), 0)
    longer = split.with_taught(20)
    assert (longer.held_out == split.held_out).all()
    assert (longer.choosing == split.choosing).all()
    assert set(range(300, 320)) <= set(longer.train.tolist())
    if isinstance(longer, FoldSplit):
        assert longer.count == 3
        assert (longer.fold[300:] == -1).all()
        assert len(longer.fold) == 320


def products(path: Path, rows: Sequence[tuple[str, str]]) -> str:
    pl.DataFrame({"title": [title for title, _ in rows], "category": [label for _, label in rows]}).write_csv(path)
    return str(path)


def training_data(tmp_path: Path, reviewed: pl.DataFrame, **options: object) -> LabeledRows:
    words = {"Mugs": "mug", "Drills": "drill"}
    file = products(
        tmp_path / "products.csv", [(f"{word} number {n} of kind {n % 7}", name) for name, word in words.items() for n in range(60)]
    )
    reviewed.write_csv(tmp_path / "reviewed.csv")
    recipe = Recipe.make(**{"corrections": (str(tmp_path / "reviewed.csv"),), **options})
    return load_training_data(open_source([file]), recipe).labeled


def test_a_fit_reads_corrections_and_says_what_they_changed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "catcli")
    reviewed = pl.DataFrame(
        {"title": ["MUG number 3 of kind 3!", "tea pot", "tea pot, blue"], "group": [1, 2, 2], "category": ["Drills", "Mugs", None]}
    )
    labeled = training_data(tmp_path, reviewed)
    assert labeled.taught == 2
    assert labeled.texts[-2:] == ["tea pot", "tea pot, blue"]
    assert [labeled.categories.names[number] for number in labeled.classes[-2:]] == ["Mugs", "Mugs"]
    assert labeled.categories.names[labeled.classes[3]] == "Drills"
    assert "3 decided rows; 1 labeled row changed: 'Mugs' to 'Drills' (1 row); 2 rows added, which train and are not scored" in caplog.text


def test_a_search_scores_no_added_row(tmp_path: Path) -> None:
    rows = [(f"{word} number {n} of kind {n % 7}", name) for name, word in (("Mugs", "mug"), ("Drills", "drill")) for n in range(30)]
    file = products(tmp_path / "products.csv", rows)
    pl.DataFrame({"title": [f"tea pot {n}" for n in range(9)], "category": ["Mugs"] * 9}).write_csv(tmp_path / "reviewed.csv")
    recipe = Recipe.make(corrections=(str(tmp_path / "reviewed.csv"),), device="cpu", max_tokens=16)
    data = load_training_data(open_source([file]), recipe)
    assert data.labeled.taught == 9
    setup = Setup.of(data, 0.0)
    validation = CrossValidation.of(setup, 2, 1)
    assert (validation.fold[validation.rows >= 60] == -1).all()
    assert set(validation.fold[validation.rows < 60]) == {0, 1}


def test_a_new_category_has_to_be_in_the_taxonomy(tmp_path: Path) -> None:
    reviewed = pl.DataFrame({"title": ["tea pot"], "category": ["Tea pots"]})
    with pytest.raises(ProductsError, match=r"--corrections .*reviewed.csv has 1 unknown category: 'Tea pots' \(row 1\).*--taxonomy"):
        training_data(tmp_path, reviewed)
    (tmp_path / "all.txt").write_text("Mugs\nDrills\nTea pots\n")
    labeled = training_data(tmp_path, reviewed, taxonomy=str(tmp_path / "all.txt"))
    assert labeled.categories.names == ("Drills", "Mugs", "Tea pots")
    assert labeled.taught == 1


def test_a_recipe_in_a_file_does_not_read_a_review_by_itself(tmp_path: Path) -> None:
    (tmp_path / "recipe.json").write_text(json.dumps({"corrections": ["secret.csv"]}))
    with pytest.raises(UsageError, match="--corrections secret.csv"):
        Recipe.start(str(tmp_path / "recipe.json"), {})
    assert Recipe.start(str(tmp_path / "recipe.json"), {"corrections": ("mine.csv",)}).corrections == ("mine.csv",)


@pytest.mark.slow
def test_the_loop_from_a_review_to_a_better_adapter(shop: Shop, tmp_path: Path) -> None:
    """On the command line, the person played by a script: review in Excel, fill in, apply, correct, compare."""
    products, category = pl.read_csv(shop.products, infer_schema=False), shop.fitted.adapter.manifest.categories[1]
    titles = [f"zzqx {n} wrench torque" for n in range(12)]
    empty = dict.fromkeys((name for name in products.columns if name != "category"), [""] * len(titles))
    pl.DataFrame({**empty, "title": titles}).write_csv(tmp_path / "new.csv")
    line = ("--adapter", shop.adapter, "--device", "cpu", "--min-confidence", "1")
    catcli("predict", "new.csv", "-o", "labeled.csv", "--review", "doubt.xlsx", *line, cwd=tmp_path, check=True)
    frame = pl.read_excel(tmp_path / "doubt.xlsx", sheet_name="review", infer_schema_length=None)
    assert frame["group"].n_unique() == 1  # twelve numbers of one wrench are one decision
    frame.with_columns(category=pl.when(pl.col("group").is_first_distinct()).then(pl.lit(category))).write_excel(tmp_path / "done.xlsx")
    catcli("predict", "new.csv", "-o", "applied.csv", "--apply", "done.xlsx", *line, cwd=tmp_path, check=True)
    assert set(pl.read_csv(tmp_path / "applied.csv")["predicted_category"]) == {category}
    options = ("--corrections", "done.xlsx", "-o", "better", "--epochs", "1", "--device", "cpu", "--max-tokens", "24")
    fitted = catcli("fit", shop.products, *options, cwd=tmp_path, check=True)
    assert "12 rows added, which train and are not scored" in " ".join(fitted.stderr.split())
    catcli("predict", "new.csv", "-o", "after.csv", "--adapter", "better", "--device", "cpu", cwd=tmp_path, check=True)
    assert set(pl.read_csv(tmp_path / "after.csv")["predicted_category"]) == {category}
