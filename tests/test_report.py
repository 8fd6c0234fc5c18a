"""``catcli report``: what it prints, demands, writes, and says of new rows and of several adapters."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import jsonschema
import polars as pl
import pytest
from conftest import Shop, catcli, fit
from huggingface_hub import ModelCard, ModelCardData

from catcli.adapter.folder import load_adapter
from catcli.adapter.manifest import CategoryThresholds, Threshold
from catcli.cli.console import Console
from catcli.cli.report import print_schema
from catcli.config import Recipe
from catcli.errors import GateMissed, OutputError, ProductsError, UsageError
from catcli.evaluation.metrics import Comparison, Estimate
from catcli.evaluation.report_data import AdapterComparison, NewRowsReport
from catcli.inference.predict import predict
from catcli.inference.predict_options import PredictOptions as Predicting
from catcli.reporting import sentences
from catcli.reporting.report import report
from catcli.reporting.report_options import ReportOptions

# --- the terminal --------------------------------------------------------------------------------------------------------------------


def test_every_name_of_the_json_is_in_the_schema_and_means_something(
    shop: Shop, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    print_schema(console=Console())
    described = json.loads(capsys.readouterr().out)
    unexplained = [
        f"{kind}.{name}"
        for kind, definition in described["$defs"].items()
        for name, field in definition.get("properties", {}).items()
        if not field.get("description")
    ]
    assert unexplained == []
    (tmp_path / "new.csv").write_bytes(shop.products.read_bytes())
    for arguments in ([shop.adapter], [shop.adapter, "--on", "new.csv"], [shop.adapter, shop.adapter]):
        told = json.loads(catcli("report", *arguments, "--json", cwd=tmp_path, check=True).stdout)
        jsonschema.validate(told, described)
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate({**told, "another": 1}, described)


def comparison(macro_f1: tuple[float, float, float], accuracy: tuple[float, float, float], of: str = "blend") -> Comparison:
    made = [Estimate(value=value, low=low, high=high) for value, low, high in (macro_f1, accuracy)]
    return Comparison(of=of, against="linear", rows=100, macro_f1=made[0], accuracy=made[1], better=30, worse=9, p_value=0.00112)


def test_a_gain_is_said_with_its_interval() -> None:
    assert sentences.comparison(comparison((0.019, 0.007, 0.031), (0.01, -0.001, 0.02)), "lora") == (
        "the blend over the linear model alone: +1.9 points of macro F1, 95 % interval 0.7 to 3.1; +1.0 points of accuracy, 95 % interval "
        "-0.1 to 2.0 (products better 30, worse 9, McNemar p = 0.00112). A significant gain in macro F1."
    )


def test_where_lora_does_not_help_that_is_said_plainly() -> None:
    nothing, loss = (0.0001, -0.01, 0.01), (-0.03, -0.05, -0.01)
    assert sentences.comparison(comparison(nothing, nothing), "lora").endswith("These rows show no significant gain by LoRA.")
    assert sentences.verdict(comparison(loss, loss), "lora") == (
        "A significant loss in macro F1 and accuracy: on these rows the linear model alone is better."
    )
    assert (
        sentences.verdict(comparison((0.03, 0.01, 0.05), loss), "lora") == "Better in macro F1 and worse in accuracy, both significantly."
    )
    assert sentences.verdict(comparison(nothing, nothing, "shop"), None) == (
        "These rows show no significant difference between shop and linear."
    )


# --- --require -----------------------------------------------------------------------------------------------------------------------


def test_a_demand_that_is_not_met_ends_with_3_and_what_was_reached(shop: Shop, tmp_path: Path) -> None:
    ran = catcli("report", shop.adapter, "--require", "log_loss=0", "--require", "accuracy=0.2", cwd=tmp_path)
    reached = shop.fitted.metrics.blend.log_loss
    assert ran.returncode == 3
    said = f"log_loss is {reached.value:.3f} (95 % interval {reached.low:.3f} to {reached.high:.3f}), above the 0 that --require asks for"
    assert said in ran.stderr
    assert "accuracy" not in ran.stderr
    assert "By category" in ran.stdout
    report([shop.adapter], ReportOptions(require=("accuracy=0.2", "log_loss=5", "calibration_error=0.9")))
    with pytest.raises(GateMissed, match="log_loss is .* above the 0 that"):
        report([shop.adapter], ReportOptions(require=("log_loss=0",)))


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("macro_f2=0.9", r"'macro_f2' is not a metric \(did you mean 'macro_f1'\?\); there are 'accuracy'"),
        ("macro_f1", "write METRIC=VALUE, such as macro_f1=0.9"),
        ("macro_f1=nan", "write METRIC=VALUE"),
        ("macro_f1=high", "write METRIC=VALUE"),
    ],
)
def test_a_demand_that_cannot_be_read_is_wrong_usage(shop: Shop, text: str, sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        report([shop.adapter], ReportOptions(require=(text,)))


@pytest.mark.slow
def test_a_fit_below_what_is_required_writes_nothing_and_keeps_its_training(shop: Shop, tmp_path: Path) -> None:
    recipe = Recipe(epochs=1, max_tokens=24, device="cpu", refit=False)
    out = tmp_path / "shop"
    with pytest.raises(
        GateMissed, match=r"log_loss is .*; nothing was written, and the training is kept: the same command without --require"
    ):
        fit([str(shop.products)], recipe=recipe, output=out, require=("log_loss=0",))
    assert not out.exists()
    again = fit([str(shop.products)], recipe=recipe, output=out, resume=True)
    assert again.metrics.blend == shop.fitted.metrics.blend
    assert [path.name for path in tmp_path.iterdir()] == ["shop"]


# --- --on ----------------------------------------------------------------------------------------------------------------------------


def test_new_rows_are_scored_and_unknown_categories_named(shop: Shop, tmp_path: Path) -> None:
    frame = pl.read_csv(shop.products, infer_schema=False).head(60)
    odd = frame.head(2).with_columns(category=pl.lit("Pets > Fish"))
    none = frame.head(3).with_columns(category=pl.lit(None, pl.String))
    pl.concat((frame, odd, none)).rename({"category": "Shelf", "title": "Product Title"}).write_csv(tmp_path / "new.csv")
    told = report([shop.adapter], ReportOptions(on=str(tmp_path / "new.csv"), label="shelf", text=("title=Product Title",)))
    assert isinstance(told, NewRowsReport)
    assert (told.scored_rows, told.unlabeled, told.left_out) == (62, 3, 0)
    assert [(one.category, one.rows) for one in told.unknown_categories] == [("Pets > Fish", 2)]
    known = told.model_copy(update={"unknown_categories": ()})
    assert known.blend.accuracy.value == pytest.approx(1 - 2 / 62, abs=0.05)
    assert told.recalibrated[0].precision == 0.9
    assert told.recalibrated[0].threshold is not None
    shown = catcli("report", shop.adapter, "--on", "new.csv", "--label", "Shelf", "--text", "title=Product Title", cwd=tmp_path).stdout
    assert "of categories unknown to the adapter, counted as wrong: 2 rows, 'Pets > Fish (2)'" in " ".join(shown.split())
    assert "left out because they have no category: 3 rows" in shown
    assert "Thresholds from these rows (predict --min-confidence)" in shown


def test_new_rows_whose_categories_are_spelled_otherwise_are_told_and_merged_where_asked(shop: Shop, tmp_path: Path) -> None:
    frame = pl.read_csv(shop.products, infer_schema=False).head(60)
    frame.with_columns(category=pl.col("category").str.to_uppercase()).write_csv(tmp_path / "loud.csv")
    with pytest.raises(ProductsError, match="60 rows of --on .* differ from the adapter's only by case, blanks or how"):
        report([shop.adapter], ReportOptions(on=str(tmp_path / "loud.csv")))
    told = report([shop.adapter], ReportOptions(on=str(tmp_path / "loud.csv"), merge_labels=True))
    assert isinstance(told, NewRowsReport)
    assert told.unknown_categories == ()
    assert told.blend.accuracy.value > 0.8


def test_of_very_many_rows_a_draw_is_scored(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("catcli.reporting.scoring.MAX_SCORED_ROWS", 30)
    told = report([shop.adapter], ReportOptions(on=str(shop.products)))
    assert isinstance(told, NewRowsReport)
    assert told.scored_rows == 30
    assert told.left_out == shop.fitted.metrics.rows.read - 30


def test_rows_without_the_truth_get_a_sentence(shop: Shop, tmp_path: Path) -> None:
    with pytest.raises(ProductsError, match=r"--on .*catalog.csv has no column 'category' with the true categories; say which .* --label"):
        report([shop.adapter], ReportOptions(on=str(shop.catalog)))
    (tmp_path / "empty.csv").write_text("title,brand,description,category\na,b,c,\n")
    with pytest.raises(ProductsError, match="has 1 rows and none with a category in 'category'; choose another with --label"):
        report([shop.adapter], ReportOptions(on=str(tmp_path / "empty.csv")))


def test_rows_of_unknown_categories_alone_get_a_sentence(shop: Shop, tmp_path: Path) -> None:
    (tmp_path / "new.csv").write_text("title,brand,description,category\nmug,,,Pets\nbowl,,,Pets\n")
    with pytest.raises(ProductsError, match=r"none of its 2 labeled rows is of a category that the adapter knows \('Pets' are new to it\)"):
        report([shop.adapter], ReportOptions(on=str(tmp_path / "new.csv")))


def test_a_text_column_may_be_missing_where_that_is_allowed(shop: Shop, tmp_path: Path) -> None:
    pl.read_csv(shop.products, infer_schema=False).select("title", "category").head(20).write_csv(tmp_path / "new.csv")
    with pytest.raises(ProductsError, match="has no column 'brand', which the adapter reads; .* or pass --allow-missing"):
        report([shop.adapter], ReportOptions(on=str(tmp_path / "new.csv")))
    told = report([shop.adapter], ReportOptions(on=str(tmp_path / "new.csv"), allow_missing=True))
    assert isinstance(told, NewRowsReport)
    assert told.scored_rows == 20


def test_options_that_mean_nothing_together_are_wrong_usage(shop: Shop) -> None:
    with pytest.raises(UsageError, match="--label is about the rows that --on gives; add --on LABELED"):
        report([shop.adapter], ReportOptions(label="category"))
    with pytest.raises(UsageError, match="--html is of one adapter; name one of"):
        report([shop.adapter, shop.adapter], ReportOptions(html=Path("x.html")))


# --- several -------------------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_adapters_of_one_split_are_compared_in_pairs(shop: Shop, tmp_path: Path) -> None:
    again = fit(
        [str(shop.products)], recipe=Recipe(epochs=1, rank=2, seed=3, max_tokens=24, device="cpu", refit=False), output=tmp_path / "b"
    )
    told = report([shop.adapter, str(again.adapter.folder)])
    assert isinstance(told, AdapterComparison)
    assert told.shared_rows == shop.fitted.metrics.rows.test
    (found,) = told.comparisons
    assert (found.of, found.against) == ("b", "small")
    difference = again.metrics.blend.macro_f1.value - shop.fitted.metrics.blend.macro_f1.value
    assert found.macro_f1.value == pytest.approx(difference, abs=1e-6)
    shown = catcli("report", shop.adapter, "b", cwd=tmp_path, check=True).stdout
    assert "b over small: " in " ".join(shown.split())
    assert f"on {told.shared_rows} test rows that all share" in shown


@pytest.mark.slow
def test_adapters_of_other_rows_are_shown_and_not_compared(shop: Shop, tmp_path: Path) -> None:
    frame = pl.read_csv(shop.products, infer_schema=False).with_columns(title=pl.col("title") + " new")
    frame.write_csv(tmp_path / "other.csv")
    fit([str(tmp_path / "other.csv")], recipe=Recipe(epochs=1, max_tokens=24, device="cpu", refit=False), output=tmp_path / "other")
    told = report([shop.adapter, str(tmp_path / "other")])
    assert isinstance(told, AdapterComparison)
    assert (told.shared_rows, told.comparisons) == (0, ())
    shown = " ".join(catcli("report", shop.adapter, "other", cwd=tmp_path, check=True).stdout.split())
    assert "they share 0, too few to compare; fit them on the same file, columns and --split-seed, or score each with --on" in shown


# --- the model card ------------------------------------------------------------------------------------------------------------------


def test_the_card_s_front_matter_is_what_the_hub_reads(shop: Shop) -> None:
    card = ModelCard((Path(shop.adapter) / "README.md").read_text())
    assert isinstance(card.data, ModelCardData)
    assert card.data.base_model == "sentence-transformers/all-MiniLM-L6-v2"
    assert card.data.library_name == "peft"
    assert card.data.pipeline_tag == "text-classification"
    results = {result.metric_type: result.metric_value for result in card.data.eval_results or ()}
    assert results["accuracy"] == pytest.approx(shop.fitted.metrics.blend.accuracy.value, abs=1e-4)
    for words in ("## Scores on", "## Confidence", "## Training", "## Limits", "Versions: catcli"):
        assert words in card.text


# --- predict --precision and --review ------------------------------------------------------------------------------------------------


def threshold(precision: float, confidence: float | None) -> Threshold:
    missing = None if confidence is not None else 40
    return Threshold(precision=precision, threshold=confidence, accepted=None, products=30, missing=missing, best=None)


@pytest.fixture
def careful(shop: Shop, tmp_path: Path) -> Path:
    """The small adapter with thresholds of its own: .95 from .9 on, .98 from nowhere, and one category that holds .95 by itself."""
    folder = tmp_path / "careful"
    shutil.copytree(shop.fitted.adapter.folder, folder)
    made = load_adapter(folder).manifest
    mugs = CategoryThresholds(category="Home > Kitchen > Mugs & Cups", thresholds=(threshold(0.95, 0.6), threshold(0.98, None)))
    changes = {"thresholds": (threshold(0.9, None), threshold(0.95, 0.9), threshold(0.98, None)), "category_thresholds": (mugs,)}
    variants = {name: served.model_copy(update=changes) for name, served in made.variants.items()}
    (folder / "adapter.json").write_text(made.model_copy(update={"variants": variants}).model_dump_json())
    return folder


ADDED = ("suggestions", "group", "group_rows", "category")
"""The columns of a review that are not the output's."""


def test_precision_accepts_from_the_threshold_on_and_review_gets_the_rest(shop: Shop, careful: Path, tmp_path: Path) -> None:
    everything, out, review = (tmp_path / name for name in ("all.parquet", "out.parquet", "review.csv"))
    predict([str(shop.catalog)], Predicting(str(everything), str(careful)))
    summary = predict([str(shop.catalog)], Predicting(str(out), str(careful), precision=0.95, review=str(review)))
    whole, labeled = pl.read_parquet(everything), pl.read_parquet(out)
    assert labeled["confidence"].equals(whole["confidence"])
    assert ((labeled["confidence"] >= 0.9) == labeled["predicted_category"].is_not_null()).all()
    waiting = pl.read_csv(review, infer_schema_length=None)
    assert 0 < len(waiting) == summary.below == labeled["predicted_category"].null_count()
    assert waiting.select(pl.col("confidence").mean().over("group"))["confidence"].round(5).is_sorted()
    # With the category that each would have had, and all columns of the catalog as they were.
    doubtful = whole.filter(pl.col("confidence") < 0.9)
    told = ["title", "predicted_category"]
    assert waiting.select(told).sort(told).equals(doubtful.select(told).sort(told))
    assert waiting.columns == [*whole.columns, *ADDED]
    assert not list(tmp_path.glob(".*"))


def test_a_lower_precision_is_held_by_the_threshold_of_a_higher_one(shop: Shop, careful: Path, tmp_path: Path) -> None:
    ran = catcli("predict", shop.catalog, "-o", "out.csv", "--adapter", careful, "--precision", "0.9", cwd=tmp_path)
    assert "--precision 0.9: the threshold for 0.95 holds it" in ran.stderr
    assert "rows are accepted from a confidence of 0.900" in ran.stderr


def test_a_precision_that_was_not_shown_ends_with_3_and_what_is_attainable(shop: Shop, careful: Path, tmp_path: Path) -> None:
    ran = catcli("predict", shop.catalog, "-o", "out.csv", "--adapter", careful, "--precision", "0.98", cwd=tmp_path)
    assert ran.returncode == 3
    assert (
        f"--precision 0.98: {careful} has no threshold that holds it (too few rows to test; label at least 40 more products to "
        "find this threshold); --precision 0.95 is attainable, from a confidence of 0.900; nothing was written."
    ) in ran.stderr
    assert not (tmp_path / "out.csv").exists()
    with pytest.raises(
        UsageError, match=r"--precision 0.995: .* was made with thresholds for 0.9, 0.95, 0.98; choose one of these or a lower"
    ):
        predict([str(shop.catalog)], Predicting(str(tmp_path / "out.csv"), str(careful), precision=0.995))


def test_by_category_accepts_only_where_a_category_holds_it(shop: Shop, careful: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.parquet"
    predict([str(shop.catalog)], Predicting(str(out), str(careful), precision=0.95, by_category=True))
    accepted = pl.read_parquet(out).drop_nulls("predicted_category")
    assert accepted["predicted_category"].unique().to_list() == ["Home > Kitchen > Mugs & Cups"]
    assert accepted["confidence"].min() >= 0.6  # type: ignore[operator]  # a number, since the column is one
    with pytest.raises(GateMissed, match=r"--by-category: no category of .* holds it by itself \(1 have enough rows to be tried\)"):
        predict([str(shop.catalog)], Predicting(str(tmp_path / "o.csv"), str(careful), precision=0.98, by_category=True))


@pytest.mark.parametrize(
    ("asked", "sentence"),
    [
        ({"precision": 1.5}, "--precision 1.5: a share above 0 and below 1"),
        ({"precision": 0.95, "min_confidence": 0.5}, "leave out --min-confidence, or --precision"),
        ({"by_category": True}, "--by-category holds a precision within each category; say which with --precision"),
        ({"review": "r.csv"}, "--review gets the rows that are not accepted; say which are with --precision or --min-confidence"),
        ({"review": "-", "min_confidence": 0.5}, "--review -: name a file"),
        ({"review": "r.xyz", "min_confidence": 0.5}, "--review r.xyz: the ending names no format"),
    ],
)
def test_thresholds_that_contradict_one_another_are_wrong_usage(
    shop: Shop, tmp_path: Path, asked: dict[str, object], sentence: str
) -> None:
    with pytest.raises(UsageError, match=sentence):
        predict([str(shop.catalog)], Predicting(str(tmp_path / "out.csv"), shop.adapter, **asked))  # type: ignore[arg-type]


def test_the_review_of_a_pipe_and_of_json_lines_keeps_every_byte(shop: Shop, tmp_path: Path) -> None:
    lines = [
        json.dumps({"sku": f"00{row}", "title": title, "price": 1.50}) for row, title in enumerate(["mug", "thing", "drill", "stuff"] * 5)
    ]
    (tmp_path / "in.jsonl").write_text("\n".join(lines) + "\n")
    where = ("--adapter", shop.adapter, "--allow-missing", "--review", "doubt.jsonl")
    ran = catcli("predict", "in.jsonl", "-o", "-", "--format", "csv", "--min-confidence", "0.9999", *where, cwd=tmp_path, check=True)
    assert len(ran.stdout.splitlines()) == 21
    doubtful = (tmp_path / "doubt.jsonl").read_text().splitlines()
    assert {line[: line.index(', "predicted_category"')] + "}" for line in doubtful} <= set(lines)
    confidences = [json.loads(line)["confidence"] for line in doubtful]
    assert confidences == sorted(confidences)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["doubt.jsonl", "in.jsonl"]


def test_a_review_without_rows_has_the_columns(shop: Shop, tmp_path: Path) -> None:
    predict(
        [str(shop.catalog)], Predicting(str(tmp_path / "o.csv"), shop.adapter, min_confidence=1e-9, review=str(tmp_path / "none.parquet"))
    )
    assert pl.read_parquet(tmp_path / "none.parquet").columns == [*pl.read_csv(tmp_path / "o.csv").columns, *ADDED]


def test_a_review_that_must_not_be_written_is_left_alone(shop: Shop, tmp_path: Path) -> None:
    review = tmp_path / "review.csv"
    review.write_text("mine")
    asked = Predicting(str(tmp_path / "o.csv"), shop.adapter, min_confidence=0.5, review=str(review), no_clobber=True)
    with pytest.raises(OutputError, match=r"--review .*review.csv exists and --no-clobber leaves it alone"):
        predict([str(shop.catalog)], asked)
    with pytest.raises(UsageError, match="is the output or one of the inputs"):
        predict([str(shop.catalog)], Predicting(str(review), shop.adapter, min_confidence=0.5, review=str(review)))
    with pytest.raises(OutputError, match="there is no folder"):
        predict([str(shop.catalog)], Predicting(str(review), shop.adapter, min_confidence=0.5, review=str(tmp_path / "no" / "r.csv")))
    assert review.read_text() == "mine"


def test_talk_is_silent_unless_asked(shop: Shop, capsys: pytest.CaptureFixture[str]) -> None:
    report([shop.adapter])
    assert capsys.readouterr() == ("", "")
