"""The folder: whole or not at all, checked, found."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from conftest import Shop

from catcli.adapter.folder import load_adapter
from catcli.adapter.store import find_adapter, newest_adapter, only_adapter
from catcli.adapter.writer import adapter_draft, check_target
from catcli.errors import AdapterError
from catcli.inference.labeler import Labeler


@pytest.fixture
def copy(shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the small adapter in a store of its own."""
    monkeypatch.setenv("CATCLI_ADAPTERS", str(tmp_path))
    return Path(shutil.copytree(shop.adapter, tmp_path / "small"))


def test_the_folder_holds_what_the_readme_says_and_nothing_that_runs(copy: Path) -> None:
    names = {path.name for path in copy.iterdir()} - {".made-here"}
    assert names - {"model.int8.onnx"} == {
        *("README.md", "adapter.json", "adapter_config.json", "adapter_model.safetensors", "head.safetensors", "heldout.parquet"),
        *("linear.safetensors", "metrics.json", "model.onnx", "probe.parquet", "recipe.json", "tokenizer.json"),
    }
    told = (Path(__file__).parents[1] / "adapters" / "README.md").read_text()
    assert [name for name in names if name not in told] == []
    assert {name for name in names if name != "adapter.json"} == set(load_adapter(copy).manifest.files)
    assert all(path.stat().st_mode & 0o044 for path in copy.iterdir() if path.name in names)


def test_no_path_of_this_machine_is_in_it(copy: Path, shop: Shop) -> None:
    for path in copy.iterdir():
        if path.suffix in {".json", ".md"} and path.name != "tokenizer.json":
            assert str(shop.folder) not in path.read_text()
            assert "site-packages" not in path.read_text()


@pytest.mark.parametrize("name", ["model.onnx", "linear.safetensors", "tokenizer.json", "probe.parquet"])
def test_a_changed_file_is_named_before_it_is_used(copy: Path, name: str) -> None:
    with (copy / name).open("r+b") as file:
        file.seek(100)
        file.write(b"\x00tampered")
    with pytest.raises(AdapterError, match=f"{name} has changed since it was written .*; copy it again, or fit a new one"):
        Labeler(load_adapter(copy), "cpu", "fp32")


def test_a_missing_file_a_damaged_manifest_and_a_newer_format_get_sentences(copy: Path) -> None:
    (copy / "linear.safetensors").unlink()
    with pytest.raises(AdapterError, match=r"small has no linear\.safetensors; copy the folder again, or fit a new one"):
        load_adapter(copy).verify()
    manifest = json.loads((copy / "adapter.json").read_text())
    (copy / "adapter.json").write_text(json.dumps({**manifest, "format": 99, "thresholds": {}}))
    with pytest.raises(AdapterError, match="is of adapter format 99 and this catcli reads 2 to 8; upgrade catcli"):
        load_adapter(copy)
    (copy / "adapter.json").write_text(json.dumps({**manifest, "format": 1}))
    with pytest.raises(AdapterError, match="format 1 and .* 'catcli fit products.csv --recipe .* -o .* --force' makes it again"):
        load_adapter(copy)
    (copy / "adapter.json").write_text(json.dumps({**manifest, "categories": "none"}))
    with pytest.raises(AdapterError, match=r"adapter\.json is damaged \(categories: .*\); copy the folder again, or fit a new one"):
        load_adapter(copy)
    (copy / "adapter.json").write_text("{")
    with pytest.raises(AdapterError, match="is damaged"):
        load_adapter(copy)


def test_a_draft_that_fails_leaves_the_old_adapter_and_nothing_else(copy: Path) -> None:
    before = load_adapter(copy).manifest
    with pytest.raises(RuntimeError, match="midway"), adapter_draft(copy) as draft:
        (draft.folder / "model.onnx").write_bytes(b"half")
        raise RuntimeError("midway")
    assert load_adapter(copy).manifest == before
    assert [path.name for path in copy.parent.iterdir()] == ["small"]


def test_a_finished_draft_replaces_the_old_adapter_whole(copy: Path) -> None:
    manifest = load_adapter(copy).manifest
    with adapter_draft(copy) as draft:
        served = [one.file for one in manifest.variants.values()]
        for name in served:
            (draft.folder / name).write_text("new")
        draft.manifest = manifest
    assert {path.name for path in copy.iterdir()} == {"adapter.json", *served}
    assert load_adapter(copy).verify() == 3 * len(served)
    assert [path.name for path in copy.parent.iterdir()] == ["small"]


def test_what_is_there_is_replaced_only_by_force_and_only_if_it_is_an_adapter(copy: Path, tmp_path: Path) -> None:
    with pytest.raises(AdapterError, match="small exists; pass --force to replace it, or -o for another folder"):
        check_target(copy, force=False)
    check_target(copy, force=True)
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").write_bytes(b"meow")
    with pytest.raises(AdapterError, match="photos is not an adapter, so --force does not replace it; choose another folder with -o"):
        check_target(tmp_path / "photos", force=True)


def test_an_adapter_is_found_by_folder_by_name_alone_or_as_the_newest(copy: Path, tmp_path: Path) -> None:
    assert find_adapter(str(copy)).folder == find_adapter("small").folder == only_adapter().folder == newest_adapter().folder
    with pytest.raises(AdapterError, match=r"there is no adapter 'smal'; .* holds 'small' \(did you mean 'small'\?\)\."):
        find_adapter("smal")
    second = shutil.copytree(copy, tmp_path / "second")
    manifest = json.loads((second / "adapter.json").read_text())
    (second / "adapter.json").write_text(json.dumps({**manifest, "created": "2099-01-01T00:00:00Z"}))
    assert newest_adapter().name == "second"
    with pytest.raises(AdapterError, match=r"holds several adapters \('second', 'small'\); choose one with --adapter\."):
        only_adapter()


def test_an_empty_store_says_how_to_fill_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CATCLI_ADAPTERS", str(tmp_path / "none"))
    for look in (only_adapter, newest_adapter):
        with pytest.raises(AdapterError, match="holds no adapter; 'catcli fit products.csv' makes one"):
            look()
