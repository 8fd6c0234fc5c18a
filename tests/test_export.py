"""A copy of an adapter to hand on: the same labels, and with ``--without-rows`` no word of a product."""

from __future__ import annotations

import json
from pathlib import Path

import polars as pl
import pytest
from conftest import FIXTURE, Shop, catcli

from catcli.adapter.folder import load_adapter
from catcli.errors import AdapterError
from catcli.inference.adapter_copy import copy_adapter
from catcli.reporting.report import report

pytestmark = pytest.mark.slow


def test_a_copy_is_the_adapter_to_the_last_byte(tmp_path: Path) -> None:
    made = copy_adapter(str(FIXTURE), tmp_path / "copy")
    assert made.fingerprint == load_adapter(FIXTURE).fingerprint
    assert {path.name: path.read_bytes() for path in made.folder.iterdir()} == {path.name: path.read_bytes() for path in FIXTURE.iterdir()}


def test_without_rows_no_text_of_a_product_is_in_it_and_it_labels_the_same(shop: Shop, tmp_path: Path) -> None:
    catcli("adapters", "export", shop.adapter, "-o", "mailed", "--without-rows", cwd=tmp_path, check=True)
    mailed = tmp_path / "mailed"
    texts = pl.read_parquet(Path(shop.adapter) / "heldout.parquet")["text"].to_list()
    assert len(texts) > 20
    for file in mailed.iterdir():
        content = pl.read_parquet(file).write_json().encode() if file.suffix == ".parquet" else file.read_bytes()
        assert not [text for text in texts if text.encode() in content], file
    for name, folder in (("one.csv", shop.adapter), ("other.csv", "mailed")):
        catcli("predict", shop.catalog, "-o", name, "--adapter", folder, cwd=tmp_path, check=True)
    assert (tmp_path / "one.csv").read_bytes() == (tmp_path / "other.csv").read_bytes()


def test_a_copy_without_rows_still_reports_and_says_what_it_lacks(shop: Shop, tmp_path: Path) -> None:
    copy_adapter(shop.adapter, tmp_path / "mailed", without_rows=True)
    told = [json.loads(catcli("report", folder, "--json", cwd=tmp_path, check=True).stdout) for folder in (shop.adapter, "mailed")]
    assert told[0]["blend"]["accuracy"] == told[1]["blend"]["accuracy"]
    assert not any(pair["examples"] for pair in told[1]["blend"]["confusions"])
    catcli("report", "mailed", "--html", "page.html", cwd=tmp_path, check=True)
    ran = catcli("bench", "--adapter", "mailed", cwd=tmp_path)
    assert (ran.returncode, "was exported without rows; name a catalog" in " ".join(ran.stderr.split())) == (1, True)
    beside = catcli("report", "mailed", shop.adapter, cwd=tmp_path, check=True).stdout
    assert "they share 0, too few to compare" in " ".join(beside.split())


def test_a_damaged_adapter_is_not_handed_on_and_what_is_there_stays(tmp_path: Path) -> None:
    copy_adapter(str(FIXTURE), tmp_path / "copy")
    with pytest.raises(AdapterError, match="copy exists; pass --force to replace it"):
        copy_adapter(str(FIXTURE), tmp_path / "copy")
    with (tmp_path / "copy" / "linear.safetensors").open("ab") as file:
        file.write(b"x")
    with pytest.raises(AdapterError, match="has changed since it was written"):
        copy_adapter(str(tmp_path / "copy"), tmp_path / "again")
    assert not (tmp_path / "again").exists()
    copy_adapter(str(FIXTURE), tmp_path / "copy", without_rows=True, force=True)
    report([str(tmp_path / "copy")])
    assert [path.name for path in tmp_path.iterdir()] == ["copy"]
