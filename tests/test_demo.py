"""The demo's catalog is what its script makes, small, and true to what issue and README say of it."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
from conftest import DEMO
from make_demo_catalog import LABELED, SHELVES, UNLABELED, make

from catcli.cli.console import Console
from catcli.cli.run.demo import demo
from catcli.errors import OutputError

pytestmark = pytest.mark.slow


def rows(name: str) -> list[dict[str, str]]:
    with (DEMO / name).open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_the_shipped_files_are_what_the_script_makes() -> None:
    for name, made in make().items():
        assert rows(name) == made


def test_it_is_small_and_has_what_real_exports_have() -> None:
    products, catalog = rows("products.csv"), rows("catalog.csv")
    assert (len(products), len(catalog)) == (LABELED, UNLABELED)
    assert sum((DEMO / name).stat().st_size for name in ("products.csv", "catalog.csv")) <= 200_000
    assert {len(row["category"].split(" > ")) for row in products} == {3}
    assert {row["category"] for row in products} == set(SHELVES)
    assert 0.3 < sum(not row["description"] for row in products) / len(products) < 0.5
    assert any(row["title"].isupper() for row in products)
    assert any(row["sku"].startswith("0") for row in products)


def test_a_folder_that_holds_something_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(OutputError, match="is there and not empty; name a new folder: 'catcli demo another-folder'"):
        demo(tmp_path, console=Console())
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
