"""The commands on one small, really trained adapter."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from conftest import SHELVES, Shop, fit
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from catcli.adapter.folder import load_adapter
from catcli.cli.console import Console
from catcli.cli.predict import run_predict
from catcli.config import Recipe
from catcli.errors import OutputError, ProductsError, UsageError
from catcli.evaluation.bootstrap import Outcomes
from catcli.evaluation.calibration import BlendCalibration
from catcli.evaluation.heldout import HeldOutRows
from catcli.evaluation.metrics import TITLES
from catcli.evaluation.scores import score_model
from catcli.inference.predict import predict
from catcli.inference.predict_options import PredictOptions
from catcli.inference.result_columns import CONFIDENCE, PREDICTED
from catcli.reporting.scoring import report_held_out
from catcli.reporting.tables import shortened
from catcli.wording import printable

# --- fit -----------------------------------------------------------------------------------------------------------------------------


def test_a_fit_learns_and_says_what_each_model_alone_would_score(shop: Shop) -> None:
    metrics = shop.fitted.metrics
    assert metrics.rows.train + metrics.rows.validation + metrics.rows.test == metrics.rows.read
    for scores in (metrics.blend, metrics.lora, metrics.linear):
        assert scores.accuracy.value > 0.7
    assert {form.form for form in metrics.parity} == {"merged", "ONNX fp32", "ONNX int8"}
    assert all(form.agreement == 1.0 for form in metrics.parity if "int8" not in form.form)


def test_the_saved_scores_are_those_of_the_saved_rows(shop: Shop) -> None:
    manifest, metrics = shop.fitted.adapter.manifest, shop.fitted.metrics
    test = HeldOutRows.load(shop.fitted.adapter.file("heldout.parquet"), manifest.categories).part("test")
    found = BlendCalibration.of(manifest).probabilities(test.lora, test.linear, metrics.variant)
    again = score_model(found, Outcomes.of(found, test.classes, test.products), manifest.categories)
    kept = [pair.model_copy(update={"disagreeing": 0}) for pair in metrics.blend.confusions]
    assert list(again.confusions) == kept
    for metric in TITLES:  # the file has float16
        assert getattr(again, metric).value == pytest.approx(getattr(metrics.blend, metric).value, rel=1e-3), metric


def test_predict_gives_the_held_out_rows_the_probabilities_that_were_scored(shop: Shop) -> None:
    from catcli.inference.labeler import Labeler

    manifest = shop.fitted.adapter.manifest
    test = HeldOutRows.load(shop.fitted.adapter.file("heldout.parquet"), manifest.categories).part("test")
    expected = BlendCalibration.of(manifest).probabilities(test.lora, test.linear, shop.fitted.metrics.variant)
    assert np.allclose(Labeler(shop.fitted.adapter, "cpu").probabilities(test.texts), expected, atol=2e-2)


@pytest.mark.slow
def test_a_recipe_repeats_its_run(shop: Shop, tmp_path: Path) -> None:
    recipe = Recipe.load(str(Path(shop.adapter) / "recipe.json"))
    assert (recipe.label, recipe.text, recipe.epochs, recipe.max_tokens) == ("category", ("title", "brand", "description"), 1, 24)
    again = fit([str(shop.products)], recipe=recipe, output=tmp_path / "again")
    for name in ("adapter_model.safetensors", "head.safetensors", "linear.safetensors"):
        assert again.adapter.manifest.files[name] == shop.fitted.adapter.manifest.files[name]
    assert again.metrics.lora == shop.fitted.metrics.lora


def test_every_wrong_flag_is_named_in_one_error() -> None:
    with pytest.raises(UsageError) as raised:
        Recipe.make(rank=0, lr=-1.0, split="80/20", seed=None)
    assert str(raised.value) == (
        "--rank 0: at least 1; --lr -1.0: above 0; --split 80/20: three whole percentages above 0 that add up to 100, such as 80/10/10."
    )


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda frame: frame.with_columns(category=pl.lit("Mugs")), "are of one category, 'Mugs'; at least two categories are needed"),
        (lambda frame: frame.with_columns(category=pl.lit(None, dtype=pl.String)), "rows and none with a category in 'category'"),
        (
            lambda frame: frame.with_columns(title=pl.lit("")).select("title", "category"),
            "are empty in every row; choose others with --text",
        ),
        (lambda frame: frame.group_by("category").head(1), "4 rows are too few to keep any back for scoring: no category has 5 different"),
        (lambda frame: frame.clear(), "and no rows; give a file with labeled rows"),
    ],
    ids=["one category", "no label", "no text", "too few", "no rows"],
)
def test_rows_that_cannot_be_learned_from_get_a_sentence_and_write_nothing(shop: Shop, tmp_path: Path, change, sentence: str) -> None:  # type: ignore[no-untyped-def] # noqa: ANN001
    path = tmp_path / "products.parquet"
    change(pl.read_csv(shop.products, infer_schema=False)).write_parquet(path)
    with pytest.raises(ProductsError) as raised:
        fit([str(path)], recipe=Recipe(label="category", text=("title",)), output=tmp_path / "store" / "x")
    assert sentence in str(raised.value)
    assert [path.name for path in tmp_path.iterdir()] == ["products.parquet"]


def test_look_alike_categories_are_named_and_merged_where_asked(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    from catcli.data.dataset.prepare import load_training_data
    from catcli.data.io.source import open_source

    labels = ["Mugs"] * 8 + ["mugs "] * 3 + ["MUGS"] * 3 + ["Caf\u00e9"] * 3 + ["Cafe\u0301"] * 2 + ["Drills"] * 8
    pl.DataFrame({"title": [f"thing {number}" for number in range(len(labels))], "category": labels}).write_csv(tmp_path / "x.csv")
    source = open_source([str(tmp_path / "x.csv")])
    with pytest.raises(ProductsError, match="'Cafe\u0301', 'Caf\u00e9' and 1 more such group differ only by case, blanks or how"):
        load_training_data(source, Recipe())
    caplog.clear()
    merged = load_training_data(source, Recipe(merge_labels=True)).labeled
    assert merged.categories.names == ("Caf\u00e9", "Drills", "Mugs")
    assert np.bincount(merged.classes).tolist() == [5, 8, 14]
    said = caplog.text
    assert (
        "merged, since they differ only by case or blanks: 'Cafe\u0301' into 'Caf\u00e9', 'MUGS' into 'Mugs', 'mugs ' into 'Mugs'" in said
    )


def test_a_fit_says_what_encoding_it_supposed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "products.csv").write_bytes(b"title,category\ncaf\xe9 mug,Mugs\n")
    with pytest.raises(ProductsError, match="are of one category"):
        fit([str(tmp_path / "products.csv")], recipe=Recipe(), output=tmp_path / "x")
    assert "is not UTF-8 and is read as Windows-1252 (Latin-1)" in caplog.text


# --- predict -------------------------------------------------------------------------------------------------------------------------


def test_every_row_comes_out_once_in_order_with_its_columns(shop: Shop, tmp_path: Path) -> None:
    before = pl.read_csv(shop.catalog, infer_schema=False)
    summary = predict([str(shop.catalog)], PredictOptions(output=str(tmp_path / "out.csv"), adapter=shop.adapter))
    after = pl.read_csv(tmp_path / "out.csv", infer_schema=False)
    assert after.columns == [*before.columns, PREDICTED, CONFIDENCE]
    assert after.select(before.columns).equals(before)
    assert set(after[PREDICTED]) <= set(SHELVES)
    assert (summary.rows, sum(summary.categories.values())) == (len(before), len(before))


@pytest.mark.parametrize("form", ["csv", "tsv", "jsonl", "parquet"])
def test_labels_do_not_depend_on_the_formats(shop: Shop, tmp_path: Path, form: str) -> None:
    predict([str(shop.catalog)], PredictOptions(output=str(tmp_path / f"first.{form}"), adapter=shop.adapter, top_k=2))
    predict(
        [str(tmp_path / f"first.{form}")],
        PredictOptions(output=str(tmp_path / "second.parquet"), adapter=shop.adapter, top_k=2, replace_columns=True),
    )
    direct = tmp_path / "direct.parquet"
    predict([str(shop.catalog)], PredictOptions(output=str(direct), adapter=shop.adapter, top_k=2))
    first, second = pl.read_parquet(direct), pl.read_parquet(tmp_path / "second.parquet")
    assert second.select(first.columns).equals(first)


def test_alternatives_are_the_most_probable_categories(shop: Shop, tmp_path: Path) -> None:
    predict([str(shop.catalog)], PredictOptions(output=str(tmp_path / "out.jsonl"), adapter=shop.adapter, top_k=3))
    predict([str(shop.catalog)], PredictOptions(output=str(tmp_path / "out.csv"), adapter=shop.adapter, top_k=3))
    row = json.loads((tmp_path / "out.jsonl").read_text().splitlines()[0])
    assert len(row["alternatives"]) == 3
    assert (row["alternatives"][0]["category"], row["alternatives"][0]["confidence"]) == (row[PREDICTED], row[CONFIDENCE])
    text = pl.read_csv(tmp_path / "out.csv", infer_schema=False)["alternatives"][0]
    assert json.loads(text)[0]["category"] == row[PREDICTED]


def test_below_the_confidence_asked_for_the_category_is_null(shop: Shop, tmp_path: Path) -> None:
    summary = predict([str(shop.catalog)], PredictOptions(output=str(tmp_path / "out.parquet"), adapter=shop.adapter, min_confidence=0.9))
    out = pl.read_parquet(tmp_path / "out.parquet")
    assert 0 < summary.below < len(out)
    assert (out[PREDICTED].is_null() == (out[CONFIDENCE] < 0.9)).all()


def test_columns_of_other_names_are_matched_or_mapped_or_said_to_be_missing(shop: Shop, tmp_path: Path) -> None:
    catalog = tmp_path / "catalog.csv"
    pl.read_csv(shop.catalog, infer_schema=False).rename({"title": "TITLE", "brand": "Maker"}).write_csv(catalog)
    with pytest.raises(
        ProductsError, match="has no column 'brand', which the adapter reads; say which one it is with --text brand=COLUMN or"
    ):
        predict([str(catalog)], PredictOptions(output=str(tmp_path / "out.csv"), adapter=shop.adapter))
    assert not (tmp_path / "out.csv").exists()
    predict([str(catalog)], PredictOptions(output=str(tmp_path / "mapped.csv"), adapter=shop.adapter, text=["brand=maker"]))
    predict([str(shop.catalog)], PredictOptions(output=str(tmp_path / "plain.csv"), adapter=shop.adapter))
    mapped, plain = (pl.read_csv(tmp_path / name, infer_schema=False)[PREDICTED] for name in ("mapped.csv", "plain.csv"))
    assert mapped.equals(plain)
    predict([str(catalog)], PredictOptions(output=str(tmp_path / "missing.csv"), adapter=shop.adapter, allow_missing=True))
    for wrong in (["brand"], ["colour=maker"], ["brand=nothing"]):
        with pytest.raises((UsageError, ProductsError)):
            predict([str(catalog)], PredictOptions(output=str(tmp_path / "out.csv"), adapter=shop.adapter, text=wrong))


def test_columns_of_ours_in_the_input_stop_the_run(shop: Shop, tmp_path: Path) -> None:
    catalog = tmp_path / "catalog.csv"
    pl.read_csv(shop.catalog, infer_schema=False).with_columns(confidence=pl.lit("high")).write_csv(catalog)
    with pytest.raises(
        ProductsError, match="already has 'confidence', which this run would write; pass --replace-columns to drop it first"
    ):
        predict([str(catalog)], PredictOptions(output=str(tmp_path / "out.csv"), adapter=shop.adapter))


def test_an_output_that_must_not_be_written_is_left_alone(shop: Shop, tmp_path: Path) -> None:
    catalog = Path(shutil.copy(shop.catalog, tmp_path / "catalog.csv"))
    with pytest.raises(UsageError, match="is one of the inputs; write to another file"):
        predict([str(catalog)], PredictOptions(output=str(catalog), adapter=shop.adapter))
    with pytest.raises(OutputError, match="exists and --no-clobber leaves it alone"):
        predict([str(shop.catalog)], PredictOptions(output=str(catalog), adapter=shop.adapter, no_clobber=True))
    with pytest.raises(UsageError, match="--json and -o - would both write to standard output"):
        run_predict([str(shop.catalog)], PredictOptions(output="-", adapter=shop.adapter), as_json=True, console=Console())
    assert catalog.read_bytes() == shop.catalog.read_bytes()


def test_options_of_no_meaning_are_wrong_usage(shop: Shop, tmp_path: Path) -> None:
    for options in ({"device": "gpu"}, {"min_confidence": float("nan")}):
        with pytest.raises(UsageError, match="--device gpu: choose one of auto, cpu, cuda|--min-confidence nan: a probability"):
            predict([str(shop.catalog)], PredictOptions(output=str(tmp_path / "out.csv"), adapter=shop.adapter, **options))


def test_a_text_column_that_is_no_text_gets_a_sentence(shop: Shop, tmp_path: Path) -> None:
    frame = pl.DataFrame({"title": [{"en": "mug"}], "brand": ["x"], "description": ["y"]})
    frame.write_parquet(tmp_path / "in.parquet")
    with pytest.raises(ProductsError, match=r"the cells of 'title' are Struct.*, not text; map another with --text title=COLUMN"):
        predict([str(tmp_path / "in.parquet")], PredictOptions(output=str(tmp_path / "out.csv"), adapter=shop.adapter))


def test_text_may_be_read_from_a_column_that_is_replaced(shop: Shop, tmp_path: Path) -> None:
    frame = pl.DataFrame({"confidence": ["blue mug"], "brand": ["x"], "description": ["y"]})
    frame.write_csv(tmp_path / "in.csv")
    arguments = {"adapter": shop.adapter, "text": ["title=confidence"], "replace_columns": True}
    predict([str(tmp_path / "in.csv")], PredictOptions(output=str(tmp_path / "out.csv"), **arguments))  # type: ignore[arg-type]
    assert pl.read_csv(tmp_path / "out.csv").columns == ["brand", "description", PREDICTED, CONFIDENCE]


def test_a_catalog_that_breaks_off_leaves_no_output(shop: Shop, tmp_path: Path) -> None:
    catalog = tmp_path / "catalog.csv"
    catalog.write_text("title,brand,description\n" + "a mug,x,y\n" * 20_000 + "too,many,cells,here\n")
    with pytest.raises(ProductsError, match=r"line 20002 has 4 cells where the header has 3"):
        predict([str(catalog)], PredictOptions(output=str(tmp_path / "out.csv"), adapter=shop.adapter))
    assert [path.name for path in tmp_path.iterdir()] == ["catalog.csv"]


def test_a_catalog_without_rows_gives_a_file_without_rows(shop: Shop, tmp_path: Path) -> None:
    (tmp_path / "none.csv").write_text("title,brand,description\n")
    for form in ("csv", "parquet"):
        assert (
            predict([str(tmp_path / "none.csv")], PredictOptions(output=str(tmp_path / f"out.{form}"), adapter=shop.adapter, top_k=2)).rows
            == 0
        )
    assert pl.read_parquet(tmp_path / "out.parquet").columns == ["title", "brand", "description", PREDICTED, CONFIDENCE, "alternatives"]


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.one_of(st.none(), st.text(max_size=20)), st.integers()), max_size=6))
def test_any_titles_are_labeled(shop: Shop, tmp_path: Path, rows: list[tuple[str | None, int]]) -> None:
    frame = pl.DataFrame(rows, schema={"title": pl.String, "n": pl.Int128}, orient="row").with_columns(pl.col("n").cast(pl.String))
    frame.write_parquet(tmp_path / "any.parquet")
    predict([str(tmp_path / "any.parquet")], PredictOptions(output=str(tmp_path / "out.parquet"), adapter=shop.adapter, allow_missing=True))
    out = pl.read_parquet(tmp_path / "out.parquet")
    assert out.select("title", "n").equals(frame)
    assert out[PREDICTED].null_count() == 0


# --- report --------------------------------------------------------------------------------------------------------------------------


def test_confusions_have_examples_from_the_test_rows(shop: Shop) -> None:
    view = report_held_out(shop.fitted.adapter)
    for pair in view.report.blend.confusions:
        assert pair.examples
        assert set(pair.examples) <= set(view.texts)


def test_report_returns_what_fit_measured(shop: Shop) -> None:
    told = report_held_out(shop.fitted.adapter).report.model_dump(exclude={"adapter", "created", "blend"})
    assert told == shop.fitted.metrics.model_dump(exclude={"blend"})


def test_titles_cannot_move_the_cursor() -> None:
    assert printable("\x1b[31mred\x07\u202e") == "�[31mred��"


def test_a_path_is_shortened_from_its_beginning() -> None:
    assert shortened("Home > Kitchen & Dining > Mugs", 20) == "… > Mugs"
    assert shortened("Home > Mugs", 20) == "Home > Mugs"
    assert shortened("a very long single name", 10) == "a very lo…"


# --- the store -----------------------------------------------------------------------------------------------------------------------


def test_the_store_lists_shows_and_removes(
    shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    from catcli.cli.run.adapters import list_adapters, remove_adapter, show_adapter
    from catcli.errors import AdapterError

    monkeypatch.setenv("CATCLI_ADAPTERS", str(tmp_path))
    shutil.copytree(shop.adapter, tmp_path / "small")
    shutil.copytree(shop.adapter, tmp_path / "damaged")
    (tmp_path / "damaged" / "adapter.json").write_text("{")
    assert [found.name for found in list_adapters(console=Console())] == ["small"]
    assert "small" in capsys.readouterr().out
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "is damaged" in caplog.text
    assert show_adapter("small", console=Console()).name == "small"
    with pytest.raises(AdapterError, match="delete a folder elsewhere by hand"):
        remove_adapter(shop.adapter, console=Console())
    remove_adapter("small", console=Console())
    assert not (tmp_path / "small").exists()
    assert load_adapter(Path(shop.adapter)).verify() > 0
