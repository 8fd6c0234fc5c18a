"""A taxonomy as a file: as published, checked against the labels, its identifiers, and its categories without a row."""

from __future__ import annotations

import itertools
import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from conftest import fit
from small_bases import save_base
from test_real_data import DATA

from catcli.adapter.manifest import LevelCalibration
from catcli.config import Recipe
from catcli.data.dataset.examples import Examples
from catcli.data.dataset.taxonomy import CategoryTree
from catcli.data.dataset.taxonomy_file import Taxonomy
from catcli.errors import ProductsError, UsageError
from catcli.evaluation.calibration import BlendCalibration
from catcli.evaluation.climb import BackOffRule, climb
from catcli.evaluation.fold_roles import FoldRoles
from catcli.evaluation.without_rows import MAX_SHARE, bounding_offset, widened
from catcli.inference.labeler import Labeler
from catcli.inference.predict import predict
from catcli.inference.predict_options import PredictOptions
from catcli.reporting.report import report
from catcli.reporting.report_options import ReportOptions
from catcli.training.fit import FitResult
from catcli.training.linear import add_to_linear, fit_linear

PATHS = ("Home", "Home > Mugs", "Home > Pans", "Tools", "Tools > Drills")

NUMBERED = list(enumerate(PATHS, 11))


def gpc(level: int, code: int, title: str, *below: object) -> dict[str, object]:
    """A node as GS1 publishes it."""
    return {"Level": level, "Code": code, "Title": title, "Childs": list(below)}


SCHEMA = [
    gpc(1, 11, "Home", gpc(2, 12, "Mugs"), gpc(2, 13, "Pans")),
    gpc(1, 14, "Tools", gpc(2, 15, "Drills", gpc(5, 9, "an attribute"))),
]

TEXTS = {
    "plain.txt": "\n".join(["# of the shop", "", *PATHS]),
    "google.txt": "\n".join(["# Google_Product_Taxonomy_Version: 2021-09-21", *(f"{number} - {path}" for number, path in NUMBERED)]),
    "shopify.txt": "\n".join(["# Format: {GID} : path", "", *(f"gid://s/C/{number:<9} : {path}" for number, path in NUMBERED)]),
    "shopify.json": json.dumps(
        {"verticals": [{"name": "x", "categories": [{"id": f"gid://s/C/{number}", "full_name": path} for number, path in NUMBERED]}]}
    ),
    "gs1.json": json.dumps({"LanguageCode": "EN", "Schema": SCHEMA}),
    "gs1.csv": "SegmentCode,SegmentTitle,FamilyCode,FamilyTitle\n11,Home,12,Mugs\n11,Home,13,Pans\n14,Tools,15,Drills\n",
    "table.csv": "\n".join(["id,path", *(f"{number},{path}" for number, path in NUMBERED)]),
}


@pytest.mark.parametrize("name", TEXTS)
def test_taxonomies_are_read_as_they_are_published(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text(TEXTS[name])
    taxonomy = Taxonomy.read(str(tmp_path / name))
    assert taxonomy.paths == PATHS
    assert taxonomy.separator == " > "
    identifiers = [] if name == "plain.txt" else [f"gid://s/C/{n}" if "shopify" in name else str(n) for n in range(11, 16)]
    assert list(taxonomy.ids.items()) == list(zip(PATHS, identifiers, strict=False))
    for identifier, path in zip(identifiers, PATHS, strict=False):
        assert taxonomy.path_of(identifier) == taxonomy.path_of(path) == path
    assert taxonomy.path_of("Homes") is None


def test_a_sign_within_a_name_is_no_separator(tmp_path: Path) -> None:
    nodes = [{"Level": 1, "Title": "Sizes", "Childs": [{"Level": 2, "Title": "Big > Small"}, {"Level": 2, "Title": "Small"}]}]
    (tmp_path / "gpc.json").write_text(json.dumps({"Schema": nodes}))
    taxonomy = Taxonomy.read(str(tmp_path / "gpc.json"))
    assert taxonomy.paths == ("Sizes", r"Sizes > Big \> Small", "Sizes > Small")
    assert CategoryTree.of(taxonomy.paths, " > ").depth == 2


@pytest.mark.parametrize(
    ("content", "name", "sentence"),
    [
        (b"", "x.txt", "it has 0 paths; give one path a line"),
        (b"Caf\xe9\nB\n", "x.txt", "it is not UTF-8 at byte 3"),
        (b'{"a": 1', "x.json", "it begins like JSON and is none"),
        (b'{"a": 1}', "x.json", "neither Shopify's 'full_name' nor GS1's 'Schema'"),
        (b'{"Schema": [1, {"Level": "x", "Title": 3}]}', "x.json", "it has 0 paths"),
        (b'{"verticals": [{"categories": 3}, 7]}', "x.json", "neither Shopify's"),
        (b"[" * 200_000, "x.json", "it begins like JSON and is none"),
        (b"a,b\n1,2\n", "x.csv", "name the one with the paths 'path', and one with identifiers 'id'"),
        (b'{"verticals": [{"full_name": "A > \\ud800B"}, {"full_name": "C"}]}', "x.json", "holds half a character"),
        (b"A\n" + b"B" * 10_001, "x.txt", "it has a path or identifier of 10,001 characters"),
        (b"id,path\n1,A\n1,B\n", "x.csv", "'1' is the identifier of 'A', 'B'; give each its own"),
        (b'{"path": ["A", "B"]}\n{"path": ["C"]}\n', "x.jsonl", "the cells of 'path' are List(String), not names"),
        (b"\x1f\x8b\x08\xff", "x.txt.gz", "decompress it"),
        (None, "gone.txt", "cannot be read: No such file or directory"),
    ],
)
def test_what_is_no_taxonomy_gets_a_sentence(tmp_path: Path, content: bytes | None, name: str, sentence: str) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ProductsError, match=re.escape(sentence)) as caught:
        Taxonomy.read(str(tmp_path / name))
    assert name in str(caught.value) or "List" in sentence


@pytest.mark.parametrize(("separator", "sentence"), [(" ", "--separator is blank"), ("|", "no category has it")])
def test_a_separator_that_no_path_has(tmp_path: Path, separator: str, sentence: str) -> None:
    (tmp_path / "x.txt").write_text(TEXTS["plain.txt"])
    with pytest.raises(UsageError, match=sentence):
        Taxonomy.read(str(tmp_path / "x.txt"), separator)


def test_what_looks_like_an_identifier_may_be_a_name(tmp_path: Path) -> None:
    (tmp_path / "x.txt").write_text("100 - Piece Puzzles\nToys\n[old] > B\n")
    assert Taxonomy.read(str(tmp_path / "x.txt")).paths == ("100 - Piece Puzzles", "Toys", "[old] > B")
    (tmp_path / "y.txt").write_text("[old] > B\nToys\n")
    assert Taxonomy.read(str(tmp_path / "y.txt")).paths == ("[old] > B", "Toys")
    pl.DataFrame({"id": [11.0, None, 13.0], "path": ["A", "B", "C"]}).write_parquet(tmp_path / "z.parquet")
    assert Taxonomy.read(str(tmp_path / "z.parquet")).ids == {"A": "11", "C": "13"}


def test_labels_outside_are_named_with_what_is_near() -> None:
    taxonomy = Taxonomy("t.txt", PATHS, " > ", {"Home > Mugs": "7"})
    taxonomy.check({"Home": 1, "7": 2, "Tools > Drills": 3}, "products.csv")
    labels = {"Home > Mug": 3, "Kitchen > Pans": 2, "Toys": 9, "x": 1, "y": 1}
    with pytest.raises(ProductsError) as caught:
        taxonomy.check(labels, "products.csv")
    assert str(caught.value) == (
        "products.csv has 5 labels that --taxonomy t.txt has not: 'Toys' (9 rows); 'Home > Mug' (3 rows), near to 'Home > Mugs'; "
        "'Kitchen > Pans' (2 rows), near to 'Home > Pans'; and 2 more. Correct these labels, or add the categories to the taxonomy."
    )


def test_categories_without_rows_are_those_that_a_row_may_have() -> None:
    published = Taxonomy("t", ("A", "A > B", "A > B > C", "A > B > D", "E", "E > F", "E > F > G", "H"), " > ")
    assert published.without_rows(["A > B > C", "E > F"]) == ["A > B > D", "H"]  # not A, which stands above, nor what is below E > F
    in_use = Taxonomy("t", ("A > B", "A > B > C", "X > Y"), " > ")
    assert in_use.without_rows(["A > B > C"]) == ["A > B", "X > Y"]
    assert Taxonomy("t", ("A", "B", "C"), None).without_rows(["B"]) == ["A", "C"]


@pytest.mark.parametrize("name", ["shopify-2025-08.txt", "google-2021-09-21.txt"])
def test_published_files(name: str) -> None:
    file = DATA.parent / "taxonomy" / name
    if not file.is_file():
        pytest.skip(f"there are no published taxonomies: {file} is not there")
    taxonomy = Taxonomy.read(str(file))
    assert len(taxonomy.ids) == len(taxonomy.paths) > 5_000
    without = taxonomy.without_rows(["Toys & Games > Puzzles"])
    assert without[0].startswith("Toys & Games > ")
    assert not any(path.startswith("Toys & Games > Puzzles") for path in without)
    assert taxonomy.nearest("Toys > Puzzles")


# --- what models say of them ----------------------------------------------------------------------------------------------------------


def test_few_rows_get_a_category_without_rows() -> None:
    """Of names that are like many titles, too."""
    random = np.random.default_rng(0)
    logits = random.normal(size=(4_000, 60)).astype(np.float32)
    logits[:, 20:] += random.normal(0, 3, 40)
    offset = bounding_offset(logits, 20)
    best = (logits + widened(offset, 20)).argmax(1)
    assert 0.8 * MAX_SHARE <= (best >= 20).mean() <= MAX_SHARE
    assert len(np.unique(best[best >= 20])) > 10
    assert bounding_offset(logits[:, :20], 20).shape == (0,)
    assert (bounding_offset(logits[:0], 20) == 0).all()


def test_out_of_fold_rows_are_bounded_as_all_are() -> None:
    """What the other folds choose is chosen as the blend that ships was."""
    random = np.random.default_rng(0)
    truth = random.integers(0, 6, 3_000)
    lora, linear = (random.normal(size=(3_000, 16)).astype(np.float32) for _ in range(2))
    lora[np.arange(3_000), truth] += 4
    linear[np.arange(3_000), truth] += 3
    linear[:, 6:] -= 2
    shares = np.array([0.5, 0.2, 0.1, 0.1, 0.05, 0.05, *[0.05] * 10])
    calibration = BlendCalibration.fit({"fp32": lora}, linear, truth, shares, with_rows=6)
    np.testing.assert_allclose(calibration._shares(16) / calibration._shares(16).sum(), shares / shares.sum(), rtol=1e-3)
    roles = FoldRoles(random.integers(0, 3, 3_000), np.ones(3_000, np.bool_), np.ones(3_000, np.bool_))
    probabilities = calibration.cross_fitted(lora, linear, truth, roles)["blend"]
    assert 0.3 * MAX_SHARE <= (probabilities.argmax(1) >= 6).mean() <= 2 * MAX_SHARE
    whole = calibration.probabilities(lora, linear, "fp32")
    assert (whole.argmax(1) == probabilities.argmax(1)).mean() > 0.99


def test_a_linear_model_says_of_the_others_what_it_said() -> None:
    texts = [f"{color} {thing}" for color in ("red", "blue", "green") for thing in ("mug", "drill", "pan")]
    model = fit_linear(Examples.of(texts, np.arange(9) % 3), 3, 0)
    more = add_to_linear(model, ["Garden Hoses", "Kites"])
    asked = ["red mug", "drill", "kites", "a garden hose of rubber", "zzz"]
    before, after = model.logits(asked), more.logits(asked)
    assert after.shape == (5, 5)
    np.testing.assert_allclose(after[[0, 1, 4], :3], before[[0, 1, 4]], atol=1e-6)  # no n-gram of theirs is new
    assert after[:, 3:].argmax(1)[2:4].tolist() == [1, 0]
    assert (np.abs(after[:, 3:]) <= np.sqrt(2) * np.sqrt(2) + 1e-5).all()  # two vectors of unit length each, words and characters
    assert add_to_linear(model, []) is model


SHELVES = {"Home > Mugs": "coffee mug", "Tools > Drills": "cordless drill", "Home > Pans": "frying pan", "Food > Coffee": "espresso beans"}
COLORS, SIZES = ("blue", "red", "dark green", "steel", "black"), ("500 ml", "18V", "250 g", "XL", "2.0Ah", "small")
NODES = ["Home", "Tools", "Food", *SHELVES, "Garden", "Garden > Hoses", "Tools > Saws"]
TAXONOMY = "\n".join(f"{number} - {path}" for number, path in enumerate(NODES, 1))


@pytest.fixture(scope="module", params=["folds", "holdout"])
def fitted(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> FitResult:
    """A very small adapter of four categories with rows and two without."""
    folder = tmp_path_factory.mktemp("taxonomy")
    rows = [(f"{color} {thing} {size}", shelf) for color, size, (shelf, thing) in itertools.product(COLORS, SIZES, SHELVES.items())]
    pl.DataFrame(rows, schema=["title", "category"], orient="row").sample(fraction=1, shuffle=True, seed=0).write_csv(
        folder / "products.csv"
    )
    (folder / "google.txt").write_text(TAXONOMY)
    torch.manual_seed(0)  # the base's weights are random
    recipe = Recipe(
        base=str(save_base("bert", folder / "base")), epochs=1, max_tokens=16, rank=2, device="cpu", taxonomy=str(folder / "google.txt")
    ).but({"folds": 0, "split": (40, 30, 30)} if request.param == "holdout" else {"folds": 3})
    return fit([str(folder / "products.csv")], recipe=recipe, output=folder / "adapter")


@pytest.mark.slow
def test_a_fit_with_a_taxonomy(fitted: FitResult, tmp_path: Path) -> None:
    manifest, metrics = fitted.adapter.manifest, fitted.metrics
    assert manifest.categories == (*sorted(SHELVES), "Tools > Saws", "Garden > Hoses")
    assert manifest.without_rows == 2
    assert manifest.category_ids["Tools"] == "2"
    assert set(manifest.category_ids) == {*SHELVES, "Home", "Tools", "Food", "Garden", "Garden > Hoses", "Tools > Saws"}
    assert metrics.blend.accuracy.value >= 0.9  # of 36 rows in the holdout
    labeler = Labeler(fitted.adapter, "cpu")
    titles = ["green garden hose", "blue coffee mug", "hand saws for tools"]
    best = labeler.probabilities(titles).argmax(1)
    assert [manifest.categories[number] for number in best] == ["Garden > Hoses", "Home > Mugs", "Tools > Saws"]
    pl.DataFrame({"title": titles * 20}).write_csv(tmp_path / "catalog.csv")

    def labels(**more: object) -> pl.DataFrame:
        options = PredictOptions(str(tmp_path / "out.csv"), str(fitted.adapter.folder), device="cpu")
        predict([str(tmp_path / "catalog.csv")], replace(options, **more))  # type: ignore[arg-type]
        return pl.read_csv(tmp_path / "out.csv", infer_schema=False)

    every = labels()
    assert every.columns == ["title", "predicted_category", "predicted_category_id", "confidence"]
    assert every["predicted_category_id"].to_list()[:3] == ["9", "4", "10"]
    sure = labels(precision=0.9, replace_columns=True, review=str(tmp_path / "review.csv"))
    assert sure["predicted_category"].to_list()[:3] == [None, "Home > Mugs", None]  # no row shows how sure names alone are
    assert sure["predicted_category_id"].to_list()[:3] == [None, "4", None]
    reviewed = pl.read_csv(tmp_path / "review.csv", infer_schema=False)
    assert set(reviewed["predicted_category_id"].to_list()) == {"9", "10"}


@pytest.mark.slow
def test_labels_of_new_rows_may_be_identifiers(fitted: FitResult, tmp_path: Path) -> None:
    rows = [(f"{color} {thing}", shelf) for color, (shelf, thing) in itertools.product(COLORS, SHELVES.items())]
    views = []
    for name, ids in (("paths", {}), ("ids", fitted.adapter.manifest.category_ids)):
        frame = pl.DataFrame([(title, ids.get(shelf, shelf)) for title, shelf in rows], schema=["title", "category"], orient="row")
        frame.write_csv(tmp_path / f"{name}.csv")
        views.append(report([str(fitted.adapter.folder)], ReportOptions(on=str(tmp_path / f"{name}.csv"), label="category", device="cpu")))
    assert views[0].blend == views[1].blend  # type: ignore[union-attr]
    assert not views[1].unknown_categories  # type: ignore[union-attr]


def test_a_category_without_rows_gives_way_to_what_stands_above_it() -> None:
    tree = CategoryTree.of(("A > B", "C", "A > D", "E"), " > ")
    levels = (LevelCalibration(slope=1.0, shift=0.0),) * 2
    probabilities = np.array([[0.05, 0.02, 0.9, 0.03], [0.9, 0.02, 0.05, 0.03], [0.01, 0.01, 0.01, 0.97]], np.float32)
    nodes, confidences = climb(BackOffRule(tree, levels, 0.8, 2), probabilities)
    assert [tree.paths[node] for node in nodes] == ["A", "A > B", "E"]
    assert (confidences[:2] >= 0.8).all()
    assert confidences[2] < 0.8  # nothing stands above it
    assert [tree.paths[node] for node in climb(BackOffRule(tree, levels, 0.8), probabilities)[0]] == ["A > D", "A > B", "E"]


@pytest.mark.slow
def test_a_label_outside_stops_the_fit(tmp_path: Path) -> None:
    (tmp_path / "products.csv").write_text("title,category\n" + "".join(f"mug {n},Mugs\ndrill {n},Drill\n" for n in range(20)))
    (tmp_path / "all.txt").write_text("Mugs\nDrills\n")
    recipe = Recipe(taxonomy=str(tmp_path / "all.txt"), device="cpu")
    with pytest.raises(ProductsError, match=r"has 1 label that --taxonomy .* has not: 'Drill' \(20 rows\), near to 'Drills'"):
        fit([str(tmp_path / "products.csv")], recipe=recipe, output=tmp_path / "adapter")
    assert not (tmp_path / "adapter").exists()


def test_a_manifest_of_names_alone_is_refused(fitted: FitResult) -> None:
    manifest = fitted.adapter.manifest
    with pytest.raises(ValueError, match="fewer than two categories with rows"):
        type(manifest).model_validate({**manifest.model_dump(), "without_rows": 5})
