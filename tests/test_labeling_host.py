"""A host that labels and reports, and never trains: what catcli/labeling-requirements.txt lists is enough."""

from __future__ import annotations

import re
import tomllib
from importlib.metadata import distribution, packages_distributions
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from conftest import Shop, catcli
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
LINES = (ROOT / "catcli" / "labeling-requirements.txt").read_text().splitlines()
LISTED = [Requirement(line) for line in LINES if line and not line.startswith("#")]

BLOCK = """
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {blocked!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Blocked())
"""


def everything_that_is_listed() -> set[str]:
    """The listed packages, and what they need."""
    found, waiting = set[str](), [requirement for requirement in LISTED if requirement.marker is None or requirement.marker.evaluate()]
    while waiting:
        name = canonicalize_name(waiting.pop().name)
        if name not in found:
            found.add(name)
            needed = [Requirement(line) for line in distribution(name).requires or ()]
            waiting += [other for other in needed if other.marker is None or other.marker.evaluate({"extra": ""})]
    return found


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment of a process in which no other package can be imported."""
    listed = everything_that_is_listed()
    blocked = {
        module
        for module, owners in packages_distributions().items()
        if module != "catcli" and not listed & {canonicalize_name(owner) for owner in owners}
    }
    assert {"torch", "transformers", "peft", "optimum"} <= blocked
    folder = tmp_path_factory.mktemp("host")
    (folder / "sitecustomize.py").write_text(BLOCK.format(blocked=blocked))
    return {"PYTHONPATH": str(folder)}


def test_the_bounds_are_those_of_the_package() -> None:
    lines = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    package = {(entry.name, str(entry.specifier), str(entry.marker)) for entry in map(Requirement, lines)}
    assert {(entry.name, str(entry.specifier), str(entry.marker)) for entry in LISTED} <= package
    assert re.search(r"pip install -r catcli/labeling-requirements.txt && pip install --no-deps \.", (ROOT / "README.md").read_text())


def test_it_labels_reports_and_compares_as_anywhere(shop: Shop, tmp_path: Path, host: dict[str, str]) -> None:
    line = ("predict", shop.catalog, "--adapter", shop.adapter, "--device", "cpu", "--min-confidence", "0.9")
    environments: dict[str, dict[str, Any]] = {"here": {}, "there": host}
    for name, environment in environments.items():
        catcli(*line, "-o", f"{name}.parquet", "--review", f"{name}.csv", cwd=tmp_path, check=True, **environment)
        catcli("report", shop.adapter, "--html", f"{name}.html", cwd=tmp_path, check=True, **environment)
        catcli("diff", shop.adapter, shop.adapter, shop.catalog, "-o", f"{name}-diff.csv", cwd=tmp_path, check=True, **environment)
        catcli("audit", "--adapter", shop.adapter, "-o", f"{name}-audit.csv", cwd=tmp_path, check=True, **environment)
        catcli("audit", shop.products, "-o", f"{name}-rows.csv", cwd=tmp_path, check=True, **environment)
        catcli("adapters", "verify", shop.adapter, cwd=tmp_path, check=True, **environment)
        catcli("doctor", cwd=tmp_path, check=True, **environment)
    for name in ("{}.parquet", "{}.csv", "{}-diff.csv", "{}-audit.csv", "{}-rows.csv"):
        assert (tmp_path / name.format("here")).read_bytes() == (tmp_path / name.format("there")).read_bytes()
    assert pl.read_parquet(tmp_path / "there.parquet")["predicted_category"].null_count() < len(pl.read_csv(shop.catalog))


@pytest.mark.parametrize("line", [("fit", "products.csv"), ("compare", "products.csv", "--method", "head")])
def test_what_trains_ends_in_a_sentence(shop: Shop, tmp_path: Path, host: dict[str, Any], line: tuple[str, ...]) -> None:
    (tmp_path / "products.csv").write_bytes(shop.products.read_bytes())
    ran = catcli(*line, cwd=tmp_path, **host)
    assert ran.returncode == 1
    assert "Traceback" not in ran.stderr
    last = " ".join(ran.stderr.split("error:")[-1].split())
    assert re.search(r"there is no '\w+' here, which training takes; pip install \. brings it \(see README\.md\)\.$", last)
