"""Disks that are full and places that may not be touched: one sentence, nothing half-written, nothing lost."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from attempts import Tools
from conftest import FIXTURE, catcli, small_shards
from corpus import ROWS, delimited
from typer.testing import CliRunner, Result

from catcli.cli.main import app

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def tools(tmp_path_factory: pytest.TempPathFactory) -> Tools:
    return Tools.make(tmp_path_factory.mktemp("tools"))


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    """Products, and a catalog of some megabytes."""
    (tmp_path / "products.csv").write_text(delimited())
    (tmp_path / "catalog.csv").write_text(delimited([(f"{title} {number}", "x" * 90) for number in range(400) for title, _ in ROWS]))
    return tmp_path


# --- full disks -----------------------------------------------------------------------------------------------------------------------


@contextmanager
def disk(folder: Path, size: int) -> Iterator[Path]:
    """A disk of so many bytes."""
    folder.mkdir(exist_ok=True)
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], capture_output=True, check=False)
    if mounted.returncode:
        pytest.skip(f"a small disk cannot be mounted here: {mounted.stderr.decode().strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


def run(*line: object) -> Result:
    result = CliRunner().invoke(app, [str(word) for word in line])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def sentence(result: Result) -> str:
    """The only error, of exit code 1."""
    errors = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert (result.exit_code, len(errors)) == (1, 1), result.stderr
    assert "Traceback" not in result.stderr
    return errors[0]


@pytest.mark.parametrize("name", ["out.csv", "out.jsonl", "out.parquet", "out.arrow", "out.csv.gz", "out.csv.zst", "sub/"])
@pytest.mark.parametrize("size", [0.06, 0.2])
def test_a_full_disk_ends_predict_in_a_sentence_and_the_old_output_stands(shop: Path, name: str, size: float) -> None:
    before = {path.name: path.read_bytes() for path in shop.iterdir()}
    with disk(shop / "disk", int(size * 2**20)) as small:
        (small / "old.txt").write_text("before")
        out = f"{small}/{name}"
        told = sentence(run("predict", shop / "catalog.csv", "-o", out, "--adapter", FIXTURE, "--device", "cpu"))
        assert f"-o {out}: the disk is full; free some space and run the same command again." in told
        left = {path.name for path in small.iterdir()}
        assert left - {"old.txt"} <= {f".{Path(name).name}.catcli-parts"}
        assert ("labeled rows are kept: the same command continues" in told) == (left != {"old.txt"})
    assert {path.name: path.read_bytes() for path in shop.iterdir() if path.is_file()} == before


def test_what_a_full_disk_kept_is_gone_on_from_once_there_is_room(shop: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from catcli.inference.labeler import Labeler

    monkeypatch.setattr(Labeler, "texts_per_call", 32)
    small_shards(monkeypatch, 256)
    line = ("predict", shop / "catalog.csv", "--adapter", FIXTURE, "--device", "cpu")
    run(*line, "-o", shop / "whole.csv")
    with disk(shop / "disk", 2 * 2**20) as small:
        told = sentence(run(*line, "-o", small / "out.csv"))
        assert "labeled rows are kept: the same command continues." in told
        subprocess.run(["mount", "-o", "remount,size=20m", small], check=True)
        again = run(*line, "-o", small / "out.csv", "--resume")
        assert (again.exit_code, "going on after" in again.stderr) == (0, True)
        assert (small / "out.csv").read_bytes() == (shop / "whole.csv").read_bytes()
        assert [path.name for path in small.iterdir()] == ["out.csv"]


def test_a_full_disk_ends_a_review_in_a_sentence(shop: Path) -> None:
    with disk(shop / "disk", 2**18) as small:
        line = ("predict", shop / "catalog.csv", "-o", shop / "out.csv", "--review", small / "r.csv", "--min-confidence", 1)
        assert f"--review {small}/r.csv: the disk is full" in sentence(run(*line, "--adapter", FIXTURE, "--device", "cpu"))
        assert list(small.iterdir()) == []
    assert not (shop / "out.csv").exists()


@pytest.mark.parametrize("size", [16, 48, 96, 160, 256, 400, 480])
def test_a_full_disk_ends_fit_in_a_sentence_and_the_old_adapter_stands(shop: Path, tools: Tools, size: int) -> None:
    with disk(shop / "disk", (size + 320) * 1024) as small:
        shutil.copytree(FIXTURE, small / "adapter")
        line = ["fit", shop / "products.csv", "-o", small / "adapter", "--force", "--base", tools.base, "--epochs", 1, "--rank", 64]
        result = run(*line, "--device", "cpu")
        if result.exit_code:
            assert "the disk is full" in sentence(result)
        assert run("adapters", "show", small / "adapter").exit_code == 0
        assert {path.name for path in small.iterdir()} <= {"adapter", ".adapter.catcli-resume"}


@pytest.mark.parametrize("size", [0, 64, 1024])
def test_a_full_disk_ends_a_report_in_a_sentence(shop: Path, size: int) -> None:
    with disk(shop / "disk", max(4096, size * 1024)) as small:
        assert f"--html {small}/r.html: the disk is full" in sentence(run("report", FIXTURE, "--html", small / "r.html"))
        assert list(small.iterdir()) == []


def test_a_full_disk_ends_the_gate_tune_and_demo_in_a_sentence(shop: Path, tools: Tools) -> None:
    with disk(shop / "disk", 8192) as small:
        gate = ("diff", tools.adapter, tools.second, shop / "catalog.csv", "-o", small / "x.csv", "--device", "cpu")
        search = ("tune", shop / "products.csv", "-o", small / "x.json", "--base", tools.base, "--trials", 1, "--folds", 2)
        for line in (search, ("demo", small / "demo")):
            assert re.search("disk is full|No space left", sentence(run(*line)))
        assert not list(small.rglob("*.csv"))
        assert run(*gate).exit_code == 0  # no row changes: a header fits


# --- places that may not be read or written -----------------------------------------------------------------------------------------


def as_user(*line: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    """The command without root's right to read and write everything."""
    if os.geteuid():
        return catcli(*map(str, line), cwd=cwd)
    command = ["setpriv", "--bounding-set=-dac_override,-dac_read_search", sys.executable, "-m", "catcli", *map(str, line)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False, env={**os.environ, "NO_COLOR": "1"})


@pytest.fixture
def barred(shop: Path) -> Iterator[Path]:
    """A file that may not be read, a folder that may not be entered, one that may not be written, and an adapter with such a file."""
    (shop / "secret.csv").write_text(delimited())
    (shop / "closed").mkdir()
    (shop / "closed" / "products.csv").write_text(delimited())
    (shop / "fixed").mkdir()
    shutil.copytree(FIXTURE, shop / "fixed" / "adapter")
    shutil.copytree(FIXTURE, shop / "hidden")
    modes = {"secret.csv": 0, "closed": 0, "fixed": 0o555, "hidden/model.onnx": 0}
    for name, mode in modes.items():
        (shop / name).chmod(mode)
    yield shop
    for name in modes:
        (shop / name).chmod(0o755)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("fit secret.csv -o made", "secret.csv cannot be read: Permission denied"),
        (f"predict secret.csv -o out.csv --adapter {FIXTURE}", "secret.csv cannot be read: Permission denied"),
        (f"predict closed/products.csv -o out.csv --adapter {FIXTURE}", "closed/products.csv"),
        (f"predict closed -o out.csv --adapter {FIXTURE}", "closed"),
        (f"predict products.csv -o fixed/out.csv --adapter {FIXTURE}", "-o fixed/out.csv cannot be written: Permission denied"),
        (f"predict products.csv -o closed/out.csv --adapter {FIXTURE}", "closed/out.csv"),
        (
            f"predict products.csv -o out.csv --review fixed/r.csv --min-confidence 1 --adapter {FIXTURE}",
            "--review fixed/r.csv cannot be written",
        ),
        ("predict products.csv -o out.csv --adapter hidden", "hidden/model.onnx: Permission denied"),
        ("fit products.csv -o fixed/new", "-o fixed/new: "),
        ("fit products.csv -o fixed/adapter --force", "fixed/adapter"),
        (f"report {FIXTURE} --html fixed/r.html", "--html fixed/r.html cannot be written: Permission denied"),
        (f"report {FIXTURE} --on secret.csv", "secret.csv cannot be read: Permission denied"),
        ("tune products.csv -o fixed/x.json", "fixed"),
        ("compare products.csv -o fixed/x", "fixed"),
        ("adapters remove adapter", "fixed/adapter"),
        ("demo fixed/demo", "fixed/demo cannot be written: Permission denied"),
    ],
)
def test_a_place_that_is_barred_is_named(barred: Path, line: str, said: str) -> None:
    before = sorted(path.name for path in barred.iterdir())
    ran = as_user(*line.split(), cwd=barred) if "remove" not in line else _remove(barred)
    assert (ran.returncode, "Traceback" in ran.stderr) == (1, False), ran.stderr
    errors = [error for error in ran.stderr.splitlines() if error.startswith("error: ")]
    assert len(errors) == 1
    assert said in errors[0]
    assert sorted(path.name for path in barred.iterdir()) == before
    assert (barred / "fixed" / "adapter" / "adapter.json").exists()


def _remove(barred: Path) -> subprocess.CompletedProcess[str]:
    os.environ["CATCLI_ADAPTERS"] = "fixed"
    try:
        return as_user("adapters", "remove", "adapter", cwd=barred)
    finally:
        del os.environ["CATCLI_ADAPTERS"]


def test_an_adapter_is_used_from_a_store_that_may_only_be_read(barred: Path) -> None:
    for line in ("predict products.csv -o out.csv", "report adapter", "adapters list", "adapters show adapter"):
        os.environ["CATCLI_ADAPTERS"] = "fixed"
        try:
            ran = as_user(*line.split(), cwd=barred)
        finally:
            del os.environ["CATCLI_ADAPTERS"]
        assert ran.returncode == 0, ran.stderr


# --- odd places for outputs -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("out", "code", "said"),
    [
        ("nowhere/out.csv", 1, "there is no folder"),
        ("products.csv", 2, "is one of the inputs"),
        ("out.xyz", 2, "the ending names no format that catcli writes"),
        ("catalog.csv/out.csv", 1, "there is no folder"),
        ("o" * 252 + ".csv", 1, "File name too long"),
        ("out.csv\n", 2, "the ending names no format"),
        ("", 2, "-o: the name is empty; name a file"),
    ],
)
def test_an_output_that_cannot_be_is_named(shop: Path, monkeypatch: pytest.MonkeyPatch, out: str, code: int, said: str) -> None:
    monkeypatch.chdir(shop)
    before = sorted(path.name for path in shop.iterdir())
    result = run("predict", "products.csv", "-o", out, "--adapter", FIXTURE, "--device", "cpu")
    assert (result.exit_code, result.stderr.count("error: ")) == (code, 1), result.stderr
    assert said in result.stderr
    assert sorted(path.name for path in shop.iterdir()) == before


@pytest.mark.parametrize(
    "name", ["with blanks.csv", "new\nline.csv", "商品.csv", os.fsdecode(b"caf\xe9.csv"), "-dash.csv", "o" * 240 + ".csv"]
)
def test_outputs_have_any_name(shop: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(shop)
    result = run(
        "predict",
        "products.csv",
        f"--output={name}",
        "--adapter",
        FIXTURE,
        "--device",
        "cpu",
        "--review",
        f"r{name}",
        "--min-confidence",
        1,
    )
    assert result.exit_code == 0, result.stderr
    assert (shop / name).read_text().count("\n") == len(ROWS) + 1
    assert sorted(path.name for path in shop.iterdir()) == sorted(["catalog.csv", "products.csv", name, f"r{name}"])


def test_an_adapter_s_name_has_to_be_utf_8(shop: Path) -> None:
    told = sentence(run("fit", shop / "products.csv", "-o", os.fsencode(shop).decode() + "/" + os.fsdecode(b"caf\xe9")))
    assert "caf\\xe9: this name is not UTF-8, and safetensors writes no other; choose another." in told


@pytest.mark.parametrize("name", ["with blanks", "new\nline", "商品", "a" * 240])
def test_adapters_have_any_name(shop: Path, monkeypatch: pytest.MonkeyPatch, tools: Tools, name: str) -> None:
    monkeypatch.chdir(shop)
    line = ["fit", "products.csv", "-o", f"store/{name}", "--base", tools.base, "--epochs", 1, "--rank", 2, "--device", "cpu", "--no-refit"]
    assert run(*line).exit_code == 0
    assert run("fit", *line[1:]).exit_code == 1  # it is there
    assert run(*line, "--force").exit_code == 0
    for again in (
        ["report", f"store/{name}", "--html", "x.html"],
        ["report", f"store/{name}", "--json"],
        ["adapters", "show", f"store/{name}"],
    ):
        assert run(*again).exit_code == 0
    assert [path.name for path in (shop / "store").iterdir()] == [name]
