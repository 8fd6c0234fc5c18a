"""``catcli migrate``: a mapping from old categories to a new taxonomy, confirmed by a person, and applied."""

from __future__ import annotations

import json
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import catcli
from test_real_data import DATA

from catcli.data.dataset.taxonomy_file import Taxonomy
from catcli.errors import OutputError, ProductsError, UsageError
from catcli.inference.migrate_options import MigrateOptions
from catcli.inference.migration import migrate, suggest

ROWS = [
    ("001", "blue coffee mug", "Kitchen > Mugs", "3.50"),
    ("002", "red tea cup", "Kitchen > Mugs", "2"),
    ("003", "cordless drill", "Tools > Drill", "50"),
    ("004", "hand saw", "Tools > Saws", "9"),
    ("005", "nothing", None, "1"),
]
COLUMNS = ["sku", "title", "category", "price"]
NEW = ("Home > Kitchen > Coffee Mugs", "Home > Kitchen > Tea Cups", "Tools > Drills", "Tools > Saws")
FULL = "old,new\nTools > Drill,Tools > Drills\nTools > Saws,Tools > Saws\n"
NAMED = {"label": "category", "text": ("title",)}


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    pl.DataFrame(ROWS, schema=COLUMNS, orient="row").write_csv(tmp_path / "products.csv")
    (tmp_path / "new.txt").write_text("\n".join(NEW))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def categories(file: str) -> list[str | None]:
    return pl.read_csv(file, infer_schema=False)["category"].to_list()


@pytest.mark.usefixtures("shop")
def test_a_mapping_is_suggested_corrected_and_applied() -> None:
    result = migrate(["products.csv"], MigrateOptions(taxonomy="new.txt", output="mapping.csv", **NAMED))  # type: ignore[arg-type]
    mapping = pl.read_csv("mapping.csv")
    assert mapping.columns == ["old", "rows", "new", "confidence", "second", "third"]
    assert mapping["old"].to_list() == ["Kitchen > Mugs", "Tools > Drill", "Tools > Saws"]
    assert mapping["new"].to_list() == [NEW[0], NEW[2], NEW[3]]
    assert mapping["rows"].to_list() == [2, 1, 1]
    assert (mapping["confidence"] > 0.9).all()
    assert result.rows == 4
    with pytest.raises(OutputError, match="somebody may have corrected it"):
        migrate(["products.csv"], MigrateOptions(taxonomy="new.txt", output="mapping.csv", **NAMED))  # type: ignore[arg-type]
    split = pl.DataFrame({"old": ["Kitchen > Mugs"], "new": [NEW[1]]})
    pl.concat([mapping.select("old", "new"), split]).write_csv("corrected.csv")
    options = MigrateOptions(taxonomy="new.txt", apply="corrected.csv", output="out.csv", **NAMED)  # type: ignore[arg-type]
    applied = migrate(["products.csv"], options)
    assert categories("out.csv") == [NEW[0], NEW[1], NEW[2], NEW[3], None]  # the split by what the rows are
    before, after = (pl.read_csv(file, infer_schema=False).drop("category") for file in ("products.csv", "out.csv"))
    assert after.equals(before)
    assert [(entry.old, entry.new, entry.rows) for entry in applied.suggestions] == [
        ("Kitchen > Mugs", NEW[0], 1),
        ("Kitchen > Mugs", NEW[1], 1),
        ("Tools > Drill", NEW[2], 1),
        ("Tools > Saws", NEW[3], 1),
    ]


def test_other_columns_keep_their_types(shop: Path) -> None:
    table = pa.table(
        {"category": pa.array(["A", "B", None]).dictionary_encode(), "title": ["a", "b", "c"], "n": pa.array([1, 2, 3], pa.uint8())}
    )
    pq.write_table(table, "in.parquet")
    (shop / "map.csv").write_text("old,new\nA,Tools > Saws\nB,Tools > Drills\n")
    migrate(["in.parquet"], MigrateOptions(taxonomy="new.txt", apply="map.csv", output="out.parquet", **NAMED))  # type: ignore[arg-type]
    written = pq.read_table("out.parquet")
    assert written.column_names == table.column_names
    assert written.schema.field("n").type == pa.uint8()
    assert written.column("category").to_pylist() == ["Tools > Saws", "Tools > Drills", None]


@pytest.mark.usefixtures("shop")
def test_of_lines_and_cells_nothing_else_is_written_again() -> None:
    lines = [
        '{"title":"a", "category" : "A","ean":9007199254740993,"p":1.10}',
        '{"category":"B","category":"A","title":"ü \\u00e4"}',
        '{"title":"c"}',
    ]
    Path("in.jsonl").write_text("\n".join(lines) + "\n")
    Path("map.csv").write_text("old,new\nA,Tools > Saws\n")
    migrate(["in.jsonl"], MigrateOptions(taxonomy="new.txt", apply="map.csv", output="out.jsonl", **NAMED))  # type: ignore[arg-type]
    expected = [lines[0].replace('"A"', '"Tools > Saws"'), lines[1].replace('"A"', '"Tools > Saws"'), lines[2]]
    assert Path("out.jsonl").read_text().splitlines() == expected
    Path("in.csv").write_text('title,category\na,A\nb,"  "\n')
    migrate(["in.csv"], MigrateOptions(taxonomy="new.txt", apply="map.csv", output="out.csv", **NAMED))  # type: ignore[arg-type]
    assert categories("out.csv") == ["Tools > Saws", "  "]


@pytest.mark.usefixtures("shop")
def test_an_empty_file_before_others_and_lists_in_a_mapping() -> None:
    Path("empty.csv").write_text("sku,title,category,price\n")
    assert migrate(["empty.csv", "products.csv"], MigrateOptions(taxonomy="new.txt", **NAMED)).rows == 4  # type: ignore[arg-type]
    Path("map.jsonl").write_text('{"old": ["A"], "new": "B"}\n')
    with pytest.raises(ProductsError, match="the cells of 'old' are List"):
        migrate(["products.csv"], MigrateOptions(taxonomy="new.txt", apply="map.jsonl", output="out.csv", **NAMED))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("mapping", "sentence"),
    [
        ("a,b\n1,2\n", "has no column 'old'; give what migrate -o wrote"),
        ("old,new\nTools > Drill,Tools > Drills\n", "has no new category for 'Kitchen > Mugs', 'Tools > Saws'"),
        ("old,new\nKitchen > Mugs,\nTools > Drill,Tools > Drills\nTools > Saws,x\n", "has no new category for 'Kitchen > Mugs'"),
        (f"{FULL}Kitchen > Mugs,Tools > Saw\n", r"'Tools > Saw' \(1 row\), near to 'Tools > Saws'"),
    ],
)
def test_a_mapping_that_does_not_fit_gets_a_sentence(shop: Path, mapping: str, sentence: str) -> None:
    (shop / "map.csv").write_text(mapping)
    with pytest.raises(ProductsError, match=sentence):
        migrate(["products.csv"], MigrateOptions(taxonomy="new.txt", apply="map.csv", output="out.csv", **NAMED))  # type: ignore[arg-type]
    assert not Path("out.csv").exists()


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({}, "--taxonomy is missing"),
        ({"taxonomy": "new.txt", "apply": "map.csv"}, "say with -o where"),
        ({"taxonomy": "new.txt", "output": "products.csv"}, "is read by this run"),
        ({"taxonomy": "new.txt", "output": "new.txt"}, "is read by this run"),
        ({"taxonomy": "new.txt", "output": "out/"}, "name a file"),
    ],
)
def test_options_that_are_wrong(shop: Path, options: dict[str, str], sentence: str) -> None:
    before = (shop / "products.csv").read_bytes(), (shop / "new.txt").read_bytes()
    with pytest.raises(UsageError, match=sentence):
        migrate(["products.csv"], MigrateOptions(**options, **NAMED))  # type: ignore[arg-type]
    assert before == ((shop / "products.csv").read_bytes(), (shop / "new.txt").read_bytes())


def test_rows_tell_what_a_code_stands_for() -> None:
    taxonomy = Taxonomy("t", NEW, " > ")
    texts = [["a tea cup", "cups for tea"], ["cordless drills"]]
    assert [news[0] for news, _ in suggest(["K-17", "K-18"], texts, None, taxonomy)] == [NEW[1], NEW[2]]


def test_the_command_line(shop: Path) -> None:
    result = catcli("migrate", "products.csv", "--taxonomy", "new.txt", "--label", "category", "--json", cwd=shop, check=True)
    assert [entry["new"] for entry in json.loads(result.stdout)["suggestions"]] == [NEW[0], NEW[2], NEW[3]]
    shown = catcli("migrate", "products.csv", "--taxonomy", "new.txt", "--label", "category", "-o", "mapping.csv", cwd=shop, check=True)
    assert "Tools > Drills" in shown.stdout
    assert "3 rows of 4 would have another category than before." in shown.stdout
    assert catcli("migrate", "products.csv", cwd=shop).returncode == 2


def test_published_mappings() -> None:
    """Of the names that changed, at least seven in ten are found."""
    folder = DATA.parent / "taxonomy"
    file = folder / "shopify-2022-02_to_shopify-2025-08.csv"
    if not file.is_file():
        pytest.skip(f"there are no published taxonomies: {file} is not there")
    pairs = [pair for pair in pl.read_csv(file).iter_rows() if pair[0] != pair[1]]
    taxonomy = Taxonomy.read(str(folder / "shopify-2025-08.txt"))
    found = list(suggest([old for old, _ in pairs], [()] * len(pairs), " > ", taxonomy))
    assert sum(news[0] == new for (news, _), (_, new) in zip(found, pairs, strict=True)) >= 0.7 * len(pairs)
    assert sum(new in news for (news, _), (_, new) in zip(found, pairs, strict=True)) >= 0.9 * len(pairs)
