"""Categories that are paths: the tree that they spell, labels at any of its levels, and scores on it."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from conftest import DEMO, FIXTURE, Shop
from rich.console import Console

from catcli.adapter.manifest import FORMAT, Cascade, LevelCalibration, Threshold, VariantInfo
from catcli.adapter.store import find_adapter
from catcli.arrays import FloatArray
from catcli.config import MAX_LEVELS, Recipe
from catcli.data.dataset.taxonomy import CategoryTree, chosen_separator, find_separator, split_path
from catcli.errors import AdapterError, GateMissed, ProductsError, UsageError
from catcli.evaluation.back_off import LevelLabels, find_back_off_threshold, fit_back_off, fit_levels, level_labels
from catcli.evaluation.bootstrap import Outcomes
from catcli.evaluation.climb import BackOffRule, climb
from catcli.evaluation.fit_metrics import FitMetrics
from catcli.evaluation.hierarchy import NOWHERE, lineage, score_tree
from catcli.evaluation.requirements import Requirement, check_requirements
from catcli.evaluation.selective import ProductSample, find_threshold
from catcli.inference.labeler import Labeler
from catcli.inference.predict import predict
from catcli.inference.predict_options import PredictOptions
from catcli.inference.result_columns import LEVEL, PREDICTED
from catcli.inference.summary import PredictSummary
from catcli.reporting.model_card import model_card
from catcli.reporting.report import report_tables
from catcli.reporting.report_page import nested, report_page
from catcli.reporting.scoring import report_held_out
from catcli.training.fit import fit

PATHS = ("Home", "Home > Kitchen > Mugs", "Home > Kitchen > Pans", "Tools > Drills", "Toys")
"""A category that is above others, paths of several depths, and one that stands alone."""

TREE = CategoryTree.of(PATHS, " > ")


# --- names → tree --------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "separator", "parts"),
    [
        ("A > B > C", " > ", ("A", "B", "C")),
        (r"TV\/Video/Cables", "/", (r"TV\/Video", "Cables")),
        (r"Size \> 5 > Big", " > ", (r"Size \> 5", "Big")),
        ("Size >5 > Big", " > ", ("Size >5", "Big")),
        ("A >> B", " >> ", ("A", "B")),
        ("A >> B", " > ", ("A >> B",)),
        ("A|B", "|", ("A", "B")),
        ("alone", "/", ("alone",)),
    ],
)
def test_a_path_has_parts(name: str, separator: str, parts: tuple[str, ...]) -> None:
    assert split_path(name, separator) == parts


@pytest.mark.parametrize(
    ("names", "separator"),
    [
        (["A > B", "A > C", "D"], " > "),
        (["A >> B", "A >> C", "D >> E"], " >> "),
        (["A|B", "A|C", "D|E"], "|"),
        (["A/B", "A/C", "D/E"], "/"),
        (["Watches/Jewelry", "TV/Video", "Mugs"], None),  # names, not paths
        (["A > B", "C > D"], None),  # nothing that two of them share
        (["Mugs", "Pans"], None),
        (["A >", "A > "], None),
        (["All > A", "All > B"], None),  # a root that all share tells nothing
        (["All > A > C", "All > A > D", "All > B"], " > "),
        (["/A/B", "/A/C", "/D/E"], "/"),
    ],
)
def test_the_separator_is_found(names: list[str], separator: str | None) -> None:
    assert find_separator(names) == separator


def test_a_separator_that_is_given_has_to_be_there() -> None:
    assert chosen_separator(["A:B", "A:C"], ":") == ":"
    assert chosen_separator(["A > B", "A > C"], "") is None
    with pytest.raises(UsageError, match="no category has it, the first is 'A > B'"):
        chosen_separator(["A > B"], "|")
    with pytest.raises(UsageError, match="blank"):
        chosen_separator(["A > B"], "  ")


def test_nodes_of_the_tree() -> None:
    assert TREE.paths == (*PATHS, "Home > Kitchen", "Tools")
    assert TREE.levels.tolist() == [1, 3, 3, 2, 1, 2, 1]
    assert TREE.parents.tolist() == [-1, 5, 5, 6, -1, 0, -1]
    assert TREE.ancestors[1].tolist() == [0, 5, 1]
    assert TREE.ancestors[3].tolist() == [6, 3, 3]  # below its own level itself


def test_equal_names_under_other_parents_are_other_nodes() -> None:
    tree = CategoryTree.of(("Men > Shoes > Boots", "Women > Shoes > Boots"), " > ")
    assert {"Men > Shoes", "Women > Shoes"} < set(tree.paths)
    assert tree.ancestors[0, 1] != tree.ancestors[1, 1]


def test_a_path_of_too_many_levels_is_cut_into_as_many_as_count() -> None:
    tree = CategoryTree.of((" > ".join("x" * 300), "x > y"), " > ")
    assert tree.depth == MAX_LEVELS


def test_a_node_has_the_sum_of_its_classes() -> None:
    probabilities = np.array([[0.1, 0.2, 0.3, 0.15, 0.25]], np.float32)
    cuts = [TREE.sums(TREE.ordered(probabilities), level) for level in (1, 2, 3)]
    sums = [dict(zip(nodes.tolist(), values[0].tolist(), strict=True)) for nodes, values in cuts]
    assert sums[0] == pytest.approx({0: 0.6, 4: 0.25, 6: 0.15})
    assert sums[1] == pytest.approx({0: 0.1, 3: 0.15, 4: 0.25, 5: 0.5})
    assert sums[2] == pytest.approx({0: 0.1, 1: 0.2, 2: 0.3, 3: 0.15, 4: 0.25})


def test_a_root_that_all_share_is_no_node() -> None:
    plain = CategoryTree.of(("Home > Pans", "Home > Mugs", "Toys"), " > ")
    rooted = CategoryTree.of(("All > Home > Pans", "All > Home > Mugs", "All > Toys"), " > ")
    assert rooted.paths == tuple(f"All > {path}" for path in plain.paths)
    assert (rooted.levels == plain.levels).all()
    assert (rooted.ancestors == plain.ancestors).all()
    slashed = CategoryTree.of(("/Home/Pans", "/Home/Mugs", "/Toys"), "/")
    assert slashed.paths[3:] == ("Home",)
    assert (slashed.ancestors == plain.ancestors).all()
    names = ("All > Home > Pans", "All > Home > Mugs", "All > Toys", "All > Home > Knives", "Elsewhere > Home")
    assert lineage(rooted, names, np.array([0, 3, 4])).tolist() == [[3, 0], [3, NOWHERE], [NOWHERE, NOWHERE]]


def test_paths_of_more_nodes_than_are_read_are_refused() -> None:
    with pytest.raises(ProductsError, match="more than the 500,000 nodes"):
        CategoryTree.of([" > ".join(f"{row}-{level}" for level in range(20)) for row in range(30_000)], " > ")


# --- scores --------------------------------------------------------------------------------------------------------------------------


def outcomes(truth: list[int], predicted: list[int]) -> Outcomes:
    probabilities = np.full((len(truth), len(PATHS)), 0.01, np.float32)
    probabilities[np.arange(len(truth)), predicted] = 0.9
    return Outcomes.of(probabilities, np.array(truth), np.arange(len(truth)))


def test_scores_on_the_tree_by_hand() -> None:
    """Mugs as Mugs, Pans as Mugs, Drills as Toys, and one unknown below Kitchen as Pans."""
    names = (*PATHS, "Home > Kitchen > Knives")
    scores = score_tree(TREE, outcomes([1, 2, 3, 5], [1, 1, 4, 2]), names)
    shared, predicted, true = 3 + 2 + 0 + 2, 3 + 3 + 1 + 3, 3 + 3 + 2 + 3
    assert scores.hierarchical_precision.value == pytest.approx(shared / predicted)
    assert scores.hierarchical_recall.value == pytest.approx(shared / true)
    assert scores.hierarchical_f1.value == pytest.approx(2 * shared / (predicted + true))
    assert scores.distance.value == pytest.approx((0 + 2 + 3 + 2) / 4)
    assert [(level.level, level.rows) for level in scores.levels] == [(1, 4), (2, 4), (3, 3)]
    assert [level.accuracy.value for level in scores.levels] == pytest.approx([3 / 4, 3 / 4, 1 / 3])
    kitchen = next(branch for branch in scores.branches if branch.path == "Home > Kitchen")
    assert (kitchen.support, kitchen.precision, kitchen.recall) == (3, 1.0, 1.0)
    assert kitchen.coverage == ()


def test_the_coverage_of_a_branch_by_hand() -> None:
    """Of six rows labeled below Home four are of it; the threshold accepts three, two of which are."""
    predicted, truth = np.array([1, 1, 2, 2, 1, 2, 4]), np.array([1, 2, 4, 1, 3, 2, 4])
    confidence = np.array([0.9, 0.5, 0.9, 0.8, 0.4, 0.3, 0.6])
    probabilities = np.zeros((7, len(PATHS)), np.float32)
    probabilities[np.arange(7), predicted] = confidence
    thresholds = [
        Threshold(precision=precision, threshold=value, accepted=0.5, products=7, missing=None, best=0.9)
        for precision, value in ((0.8, 0.7), (0.9, 0.95), (0.95, None))
    ]
    scores = score_tree(TREE, Outcomes.of(probabilities, truth, np.arange(7)), PATHS, thresholds)
    coverage = {branch.path: [single.model_dump() for single in branch.coverage] for branch in scores.branches}
    home = [{"precision": 0.8, "accepted": 0.5, "right": pytest.approx(2 / 3)}, {"precision": 0.9, "accepted": 0.0, "right": None}]
    assert coverage["Home"] == coverage["Home > Kitchen"] == home
    assert coverage["Tools"] == []  # no row was labeled so


def test_the_lineage_of_an_unknown_category_is_known_as_far_as_the_tree_goes() -> None:
    names = (*PATHS, "Home > Kitchen > Knives", "Garden > Hoses")
    assert lineage(TREE, names, np.array([1, 5, 6, 0])).tolist() == [
        [0, 5, 1],
        [0, 5, NOWHERE],
        [NOWHERE, NOWHERE, NOWHERE],
        [0, NOWHERE, NOWHERE],
    ]


# --- thresholds ----------------------------------------------------------------------------------------------------------------------


def drawn(seed: int, rows: int, sharpness: float = 2.0) -> tuple[FloatArray, np.ndarray[tuple[int], np.dtype[np.int64]]]:
    """Probabilities of the classes, and classes that are drawn by them: exactly calibrated."""
    random = np.random.default_rng(seed)
    scores = random.normal(size=(rows, len(PATHS))) * sharpness
    probabilities = np.exp(scores) / np.exp(scores).sum(1, keepdims=True)
    truth = (random.random((rows, 1)) > probabilities.cumsum(1)).sum(1).clip(0, len(PATHS) - 1)
    return probabilities.astype(np.float32), truth


@pytest.mark.parametrize("precision", [0.8, 0.9, 0.95])
def test_a_threshold_holds_its_precision_on_other_rows(precision: float) -> None:
    """In all but at most as many of 40 draws as the risk of one in twenty leaves room for."""
    missed = accepted = accepted_leaves = 0
    for seed in range(40):
        probabilities, truth = drawn(seed, 1_000)
        found = fit_back_off(TREE, probabilities, lineage(TREE, PATHS, truth), np.arange(len(truth)), [precision])
        threshold = found.thresholds[0].threshold
        if threshold is None:
            continue
        fresh, fresh_truth = drawn(1_000 + seed, 4_000)
        labels = level_labels(TREE, fresh, lineage(TREE, PATHS, fresh_truth), found.levels)
        chosen = labels.chosen(threshold)
        rows = np.flatnonzero(chosen >= 0)
        missed += labels.right[rows, chosen[rows]].mean() < precision
        accepted += len(rows)
        accepted_leaves += int((chosen == TREE.depth - 1).sum())
    assert missed <= 5
    assert accepted > accepted_leaves > 0


def test_rows_are_labeled_as_the_thresholds_were_tested() -> None:
    """`climb`, which looks no further than it has to, gives what the table of all levels gives."""
    probabilities, truth = drawn(0, 500)
    nodes = lineage(TREE, PATHS, truth)
    levels = fit_levels(TREE, probabilities, nodes)
    labels = level_labels(TREE, probabilities, nodes, levels)
    for threshold in (0.3, 0.7, 0.9, 0.99):
        found, confidence = climb(BackOffRule(TREE, levels, threshold), probabilities)
        chosen = labels.chosen(threshold)
        rows = np.arange(len(truth))
        assert (found == labels.nodes[rows, chosen]).all()  # -1 is the deepest level, too
        assert (confidence == labels.confidence[rows, chosen]).all()
        assert ((confidence >= np.float32(threshold)) == (chosen >= 0)).all()
    nothing, _ = climb(BackOffRule(TREE, levels, 0.5), probabilities[:0])
    assert len(nothing) == 0


def test_where_all_rows_are_labeled_they_are_labeled_as_deep_as_the_precision_allows() -> None:
    """Level 1 is sure of every row; the lowest threshold is not that of its least sure row."""
    random = np.random.default_rng(0)
    count = 3_000
    leaf = random.uniform(0.5, 1.0, count)
    confidence = np.stack([np.full(count, 0.999), leaf], axis=1).astype(np.float32)
    right = np.stack([np.ones(count, np.bool_), random.random(count) < leaf], axis=1)
    labels = LevelLabels(np.zeros((count, 2), np.int64), confidence, right)
    found = find_back_off_threshold(labels, 0.9)
    assert found.threshold is not None
    chosen = labels.chosen(found.threshold)
    assert (chosen == 1).mean() > 0.5
    assert labels.right[np.arange(count), chosen].mean() >= 0.9


def test_equal_confidences_count_once_in_what_is_missing() -> None:
    random = np.random.default_rng(0)
    confidence = np.where(np.arange(200) < 80, 0.99, random.uniform(0.3, 0.9, 200)).astype(np.float32)[:, None]
    right = (random.random(200) < 0.8)[:, None]
    nodes = np.zeros((200, 1), np.int64)
    sample = ProductSample(confidence[:, 0], right[:, 0], nodes[:, 0])
    for precision in (0.9, 0.95):
        flat, climbed = find_threshold(sample, precision), find_back_off_threshold(LevelLabels(nodes, confidence, right), precision)
        assert climbed == flat


def test_too_few_rows_show_no_threshold_and_say_how_many_are_missing() -> None:
    probabilities, truth = drawn(0, 30)
    nodes = lineage(TREE, PATHS, truth)
    found = find_back_off_threshold(level_labels(TREE, probabilities, nodes, fit_levels(TREE, probabilities, nodes)), 0.95)
    assert found.threshold is None
    assert "rows" in found.shortfall or "product" in found.shortfall


# --- predict -------------------------------------------------------------------------------------------------------------------------

SHELVES = ("Home > Drinks > Coffee", "Tools > Drills", "Home > Kitchen > Mugs", "Beauty > Shampoo")
"""The fixture's categories as paths, in their order."""


def with_tree(folder: Path, threshold: float | None = 0.8, levels: int = 3) -> Path:
    """The fixture with paths in the place of its categories, and a threshold for labels at any level."""
    shutil.copytree(FIXTURE, folder)
    facts = json.loads((folder / "adapter.json").read_text())
    facts |= {"format": FORMAT, "categories": list(SHELVES), "separator": " > "}
    for info in facts["variants"].values():
        single = {"precision": 0.9, "threshold": threshold, "accepted": 0.5, "products": 100, "missing": None, "best": 0.8}
        info["back_off"] = {"levels": [{"slope": 1.0, "shift": 0.0}] * levels, "thresholds": [single]}
        info["category_thresholds"] = []
    (folder / "adapter.json").write_text(json.dumps(facts))
    return folder


@pytest.fixture
def catalog(tmp_path: Path) -> Path:
    titles = ["ground coffee", "coffee mug", "hammer drill", "hair shampoo", "", "coffee", "mug drill", "tea cup", "something else"]
    pl.DataFrame({"title": titles * 40}).write_csv(tmp_path / "catalog.csv")
    return tmp_path / "catalog.csv"


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_rows_get_the_deepest_node_that_is_sure_enough(tmp_path: Path, catalog: Path, ending: str) -> None:
    adapter = with_tree(tmp_path / "tree")
    options = PredictOptions(str(tmp_path / f"out.{ending}"), str(adapter), device="cpu", precision=0.9, back_off=True)
    summary = predict([str(catalog)], options)
    read = pl.read_csv if ending == "csv" else pl.read_parquet
    frame = read(tmp_path / f"out.{ending}")
    tree = CategoryTree.of(SHELVES, " > ")
    labeler = Labeler(find_adapter(str(adapter)), "cpu")
    calibration = (LevelCalibration(slope=1.0, shift=0.0),) * 3
    texts = pl.read_csv(catalog)["title"].fill_null("").to_list()
    nodes, confidences = climb(BackOffRule(tree, calibration, 0.8), labeler.probabilities(texts))
    accepted = confidences >= np.float32(0.8)
    levels = tree.levels.tolist()
    assert frame[PREDICTED].to_list() == [tree.paths[node] if ok else None for node, ok in zip(nodes, accepted, strict=True)]
    assert frame[LEVEL].to_list() == [levels[node] if ok else None for node, ok in zip(nodes, accepted, strict=True)]
    assert frame["confidence"].to_numpy() == pytest.approx(confidences, abs=1e-5)
    assert {1, 3} <= {level for level in frame[LEVEL].to_list() if level is not None}  # some are labeled above the categories
    assert sum(summary.categories.values()) == int(accepted.sum())
    assert summary.below == int((~accepted).sum())


def test_what_no_level_is_sure_of_comes_to_the_review_with_its_category(tmp_path: Path, catalog: Path) -> None:
    adapter = with_tree(tmp_path / "tree", threshold=0.97)
    review = tmp_path / "review.csv"
    options = PredictOptions(
        str(tmp_path / "out.csv"), str(adapter), device="cpu", precision=0.9, back_off=True, review=str(review), dedupe=False
    )
    summary = predict([str(catalog)], options)
    reviewed = pl.read_csv(review)
    assert len(reviewed) == summary.below > 0
    assert set(reviewed[PREDICTED].to_list()) <= set(SHELVES)
    levels = dict(zip(SHELVES, (3, 2, 3, 2), strict=True))
    assert [levels[name] for name in reviewed[PREDICTED].to_list()] == reviewed[LEVEL].to_list()


def test_earlier_labels_at_any_level_are_taken_over(tmp_path: Path, catalog: Path, caplog: pytest.LogCaptureFixture) -> None:
    adapter = with_tree(tmp_path / "tree")
    catalog_columns = pl.read_csv(catalog)

    def run(name: str, folder: Path = adapter, **more: object) -> PredictSummary:
        given: dict[str, object] = {"adapter": str(folder), "device": "cpu", "precision": 0.9, "back_off": True, **more}
        return predict([str(catalog)], PredictOptions(str(tmp_path / name), **given))  # type: ignore[arg-type]

    first = run("first.parquet")
    before = pl.read_parquet(tmp_path / "first.parquet")
    second = run("second.parquet", previous=str(tmp_path / "first.parquet"))
    assert pl.read_parquet(tmp_path / "second.parquet").equals(before)
    assert second.taken_over == first.rows - first.below > 0
    assert second.categories == first.categories

    # a higher threshold: what does not reach it is labeled again, and may get a node above
    strict = with_tree(tmp_path / "strict", threshold=0.93)
    run("direct.parquet", strict)
    taken = run("taken.parquet", strict, previous=str(tmp_path / "first.parquet"))
    assert pl.read_parquet(tmp_path / "taken.parquet").equals(pl.read_parquet(tmp_path / "direct.parquet"))
    assert 0 < taken.taken_over < second.taken_over

    # labels that a lower one would give another node are not those of this run
    pl.concat((catalog_columns, before.select(PREDICTED, "confidence", LEVEL).reverse()), how="horizontal").write_parquet(
        tmp_path / "other.parquet"
    )
    assert run("again.parquet", previous=str(tmp_path / "other.parquet")).taken_over == 0
    assert "was labeled by another adapter" in caplog.text


def test_an_earlier_output_has_to_be_of_the_same_kind(tmp_path: Path, catalog: Path) -> None:
    adapter = str(with_tree(tmp_path / "tree"))
    climbed, flat = str(tmp_path / "climbed.csv"), str(tmp_path / "flat.csv")
    predict([str(catalog)], PredictOptions(climbed, adapter, device="cpu", precision=0.9, back_off=True))
    predict([str(catalog)], PredictOptions(flat, adapter, device="cpu"))
    with pytest.raises(ProductsError, match=r"labeled with --back-off \(it has a column 'predicted_level'\)"):
        predict([str(catalog)], PredictOptions(str(tmp_path / "next.csv"), adapter, device="cpu", previous=climbed))
    with pytest.raises(ProductsError, match=r"labeled without --back-off \(it has no column 'predicted_level'\)"):
        predict(
            [str(catalog)],
            PredictOptions(str(tmp_path / "next.csv"), adapter, device="cpu", precision=0.9, back_off=True, previous=flat),
        )


@pytest.mark.parametrize(("top_k", "listed"), [(2, 2), (9, 4)])
def test_alternatives_are_categories_beside_a_label_at_any_level(tmp_path: Path, catalog: Path, top_k: int, listed: int) -> None:
    adapter, climbed, flat = str(with_tree(tmp_path / "tree")), tmp_path / "climbed.parquet", tmp_path / "flat.parquet"
    alone = tmp_path / "alone.parquet"
    predict([str(catalog)], PredictOptions(str(climbed), adapter, device="cpu", precision=0.9, back_off=True, top_k=top_k))
    predict([str(catalog)], PredictOptions(str(flat), adapter, device="cpu", top_k=top_k))
    predict([str(catalog)], PredictOptions(str(alone), adapter, device="cpu", precision=0.9, back_off=True))
    frame = pl.read_parquet(climbed)
    assert frame["alternatives"].equals(pl.read_parquet(flat)["alternatives"])
    assert frame.drop("alternatives").equals(pl.read_parquet(alone))
    assert frame["alternatives"].list.len().unique().to_list() == [listed]
    assert set(frame["alternatives"].explode().struct.field("category").unique()) <= set(SHELVES)
    assert not set(frame[PREDICTED].drop_nulls()) <= set(SHELVES)


def test_other_options_that_do_not_go_with_it(tmp_path: Path, catalog: Path) -> None:
    def run(**more: object) -> None:
        given: dict[str, object] = {"adapter": str(FIXTURE), "device": "cpu", "precision": 0.9, "back_off": True, **more}
        predict([str(catalog)], PredictOptions(str(tmp_path / "out.csv"), **given))  # type: ignore[arg-type]

    with pytest.raises(UsageError, match="say which with --precision"):
        run(precision=None)
    with pytest.raises(UsageError, match="leave out --by-category"):
        run(by_category=True)
    with pytest.raises(UsageError, match="takes its categories as flat names, the first is 'Coffee'"):
        run()
    with pytest.raises(GateMissed, match="--precision 0.9 --back-off"):
        run(adapter=str(with_tree(tmp_path / "none", threshold=None)))
    with pytest.raises(AdapterError, match="calibrates 2 levels and its categories have 3"):
        run(adapter=str(with_tree(tmp_path / "crafted", levels=2)))


def test_a_manifest_with_a_back_off_and_no_tree_is_refused(tmp_path: Path) -> None:
    folder = with_tree(tmp_path / "tree")
    facts = json.loads((folder / "adapter.json").read_text())
    del facts["separator"]
    (folder / "adapter.json").write_text(json.dumps(facts))
    with pytest.raises(AdapterError, match="a back-off without a separator"):
        find_adapter(str(folder))


# --- fit and report ------------------------------------------------------------------------------------------------------------------


def test_a_score_on_the_tree_can_be_required(shop: Shop) -> None:
    flat = FitMetrics.of(shop.fitted.adapter)
    with pytest.raises(UsageError, match="--require hierarchical_f1: the categories are taken as flat names"):
        check_requirements(flat, (Requirement.of("hierarchical-f1=0.8"),), "nothing was written")
    scores = score_tree(TREE, outcomes([1, 2, 3, 4], [1, 1, 4, 4]), PATHS)
    with_scores = flat.model_copy(update={"tree": scores})
    check_requirements(with_scores, (Requirement.of("hierarchical_f1=0.5"),), "nothing was written")
    with pytest.raises(GateMissed, match=r"hierarchical_f1 is 0\.\d+ .*below the 0.9 that --require asks for"):
        check_requirements(with_scores, (Requirement.of("hierarchical_f1=0.9"),), "nothing was written")


def test_the_page_has_each_node_below_the_one_above_it() -> None:
    scores = score_tree(TREE, outcomes([1, 2, 3, 4, 0], [1, 1, 4, 4, 0]), PATHS)
    top = nested(scores)
    assert [node["name"] for node in top] == ["Home", "Tools", "Toys"]
    (kitchen,) = top[0]["below"]
    assert [node["name"] for node in kitchen["below"]] == ["Mugs", "Pans"]


def test_names_that_begin_like_a_node_do_not_come_below_it() -> None:
    paths = ("Home > Pans", "Home & Garden > Hoses", "Home > Mugs")
    tree = CategoryTree.of(paths, " > ")
    probabilities = np.eye(3, dtype=np.float32)
    top = nested(score_tree(tree, Outcomes.of(probabilities, np.arange(3), np.arange(3)), paths))
    assert [(node["name"], [below["name"] for below in node["below"]]) for node in top] == [
        ("Home", ["Mugs", "Pans"]),
        ("Home & Garden", ["Hoses"]),
    ]


@pytest.mark.slow
def test_a_fit_finds_the_tree_and_the_report_shows_it(tmp_path: Path) -> None:
    frame = pl.read_csv(DEMO / "products.csv", infer_schema=False)
    frame.filter(pl.col("category").str.contains("^Home")).write_csv(tmp_path / "products.csv")
    recipe = Recipe(epochs=1, max_tokens=24, device="cpu", refit=False)
    fitted = fit([str(tmp_path / "products.csv")], recipe=recipe, output=tmp_path / "home", model_card=model_card)
    manifest, metrics = fitted.adapter.manifest, fitted.metrics
    assert manifest.separator == " > "
    assert metrics.tree is not None
    assert metrics.tree.levels[0].accuracy.value == 1.0  # all are of one branch
    assert metrics.tree.hierarchical_f1.value >= metrics.blend.accuracy.value
    for info in manifest.variants.values():
        ways: list[VariantInfo | Cascade] = [info, *info.cascades]
        for way in ways:
            assert way.back_off is not None
            assert len(way.back_off.levels) == CategoryTree.of(manifest.categories, " > ").depth
    assert len(metrics.back_off) == len(manifest.variants["fp32"].thresholds)
    view = report_held_out(fitted.adapter)
    page = report_page("home", view.report, view.names, view.texts, view.probabilities, view.outcomes)
    assert 'id="tree"' in page
    assert "<summary>Kitchen " in page
    console = Console(width=80, record=True, file=io.StringIO())
    for part in report_tables(view.report):
        console.print(part)
    text = console.export_text()
    assert "hierarchical F1" in text
    assert "Labels at any level" in text
    flat = fit([str(tmp_path / "products.csv")], recipe=recipe.but({"separator": ""}), output=tmp_path / "flat", model_card=model_card)
    assert flat.adapter.manifest.separator is None
    assert flat.metrics.tree is None
    assert flat.metrics.blend.accuracy.value == metrics.blend.accuracy.value
