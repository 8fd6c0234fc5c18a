"""What a hard look at catcli found not to hold: each fact as a test that failed before."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import FIXTURE, catcli
from test_places import run
from tiny import tiny_products

from catcli.evaluation.resampling import estimate

PREDICT = ("predict", "catalog.csv", "-o", "out.csv", "--adapter", FIXTURE, "--device", "cpu")


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    tiny_products().write_csv(tmp_path / "products.csv")
    (tmp_path / "catalog.csv").write_text("title\nblue coffee mug 500 ml\n")
    return tmp_path


# --- encodings ---------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["catalog.csv", "catalog.jsonl"])
def test_one_bad_byte_does_not_make_a_file_another_encoding(shop: Path, name: str) -> None:
    rows = (["title"] if name.endswith("csv") else []) + ["größe mug"] * 200
    lines = [row if name.endswith("csv") else json.dumps({"title": row}, ensure_ascii=False) for row in rows]
    last = b"mug \xff" if name.endswith("csv") else b'{"title": "mug \xff"}'
    (shop / name).write_bytes("\n".join(lines).encode() + b"\n" + last + b"\n")
    line = ("predict", name, "-o", "out.csv", "--adapter", FIXTURE, "--device", "cpu")
    refused = run(*line)
    assert refused.exit_code == 1
    assert f"{name} is UTF-8 but for byte 0xff in line {len(lines) + 1}; export it again, pass --encoding utf-8:replace" in refused.stderr
    assert run(*line, "--encoding", "utf-8:replace").exit_code == 0
    assert (shop / "out.csv").read_text().splitlines()[-1].startswith("mug �,")
    assert run(*line, "--encoding", "cp1252").exit_code == 0


def test_a_file_of_windows_1252_is_read_as_one_all_the_same(shop: Path) -> None:
    (shop / "catalog.csv").write_bytes("title\ngröße mug\nänderung\n".encode("cp1252") * 50)
    told = run(*PREDICT)
    assert told.exit_code == 0
    assert "is not UTF-8 and is read as Windows-1252" in told.stderr


def test_the_line_of_a_byte_that_cannot_be_read_is_its_own(shop: Path) -> None:
    (shop / "catalog.csv").write_bytes(b"title\na\nb\nc\nd\xe9\ne\n")
    refused = run(*PREDICT, "--encoding", "utf-8")
    assert refused.exit_code == 1
    assert "catalog.csv is not utf-8: byte 0xe9 in line 5; pass another --encoding" in refused.stderr


def test_what_stands_behind_an_encoding_is_replace_or_nothing(shop: Path) -> None:
    refused = run(*PREDICT, "--encoding", "utf-8:ignore")
    assert (refused.exit_code, refused.stderr.count("error: ")) == (2, 1)
    assert (shop / "catalog.csv").exists()


# --- options -----------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--require", "accuracy=95"], "--require accuracy=95: accuracy is a share from 0 to 1, such as accuracy=0.95."),
        (["--require", "macro_f1=2"], "--require macro_f1=2: macro_f1 is a share from 0 to 1, such as macro_f1=0.02."),
        (["--require", "accuracy=-1"], "--require accuracy=-1: accuracy is a share from 0 to 1."),
        (["--require", "log_loss=-1"], "--require log_loss=-1: log_loss is never below 0."),
        (["--time-budget", "infs"], "--time-budget: write a time above 0, such as 90s, 10m or 2h"),
        (["-q", "-v"], "-q and -v contradict one another; leave one out."),
    ],
)
def test_what_can_be_known_at_once_is_said_at_once(shop: Path, flags: list[str], said: str) -> None:
    refused = run("fit", "products.csv", *flags)
    assert refused.exit_code == 2
    assert said in refused.stderr
    assert sorted(path.name for path in shop.iterdir()) == ["catalog.csv", "products.csv"]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (["fit", ""], "PRODUCTS: the name is empty; write the name of something, or leave it out."),
        (["fit", "products.csv", "--label", ""], "--label: the name is empty"),
        (["fit", "products.csv", "--text", "title", "--text", ""], "--text: the name is empty"),
        (["fit", "products.csv", "--recipe", ""], "--recipe: the name is empty"),
        (["predict", "", "-o", "out/"], "CATALOG: the name is empty"),
        (["predict", "catalog.csv", "-o", "out.csv", "--adapter", ""], "--adapter: the name is empty"),
        (["predict", "catalog.csv", "-o", "out.csv", "--previous", ""], "--previous: the name is empty"),
        (["predict", "catalog.csv", "-o", "out.csv", "--format", ""], "--format: the name is empty"),
        (["report", ""], "ADAPTER: the name is empty"),
        (["report", "--on", ""], "--on: the name is empty"),
        (["adapters", "show", ""], "ADAPTER: the name is empty"),
        (["compare", "products.csv", "--base", ""], "--base: the name is empty"),
        (["tune", ""], "PRODUCTS: the name is empty"),
        (["bench", ""], "CATALOG: the name is empty"),
    ],
)
def test_an_empty_name_is_wrong_usage(shop: Path, line: list[str], said: str) -> None:
    """An empty variable of a script would have all of the folder read."""
    refused = run(*line)
    assert refused.exit_code == 2
    assert f"error: {said}" in refused.stderr
    assert sorted(path.name for path in shop.iterdir()) == ["catalog.csv", "products.csv"]


def test_no_column_kept_is_an_answer(shop: Path) -> None:
    for keep in ("", ","):
        assert run(*PREDICT, "--keep", keep).exit_code == 0
        assert (shop / "out.csv").read_text().startswith("predicted_category,confidence\n")


def test_a_teacher_that_is_not_there_is_noticed_before_the_rows_are_read(shop: Path) -> None:
    (shop / "products.csv").write_text("this is read later")
    refused = run("fit", "products.csv", "--teacher", "nope")
    assert refused.exit_code == 1
    assert "there is no adapter 'nope'" in refused.stderr


def test_a_column_that_is_mapped_twice_is_named(shop: Path) -> None:
    (shop / "catalog.csv").write_text("title,name\nmug,drill\n")
    refused = run(*PREDICT, "--text", "title=title", "--text", "title=name")
    assert refused.exit_code == 2
    assert "--text title=name: 'title' is read from 'title' already; map each column once." in refused.stderr
    assert run(*PREDICT, "--text", "title=name", "--text", "title=name").exit_code == 0


def test_a_gate_that_looked_at_no_row_is_not_passed(shop: Path) -> None:
    (shop / "empty.csv").write_text("title\n")
    line = ("compare", FIXTURE, FIXTURE, "--on", "empty.csv", "--device", "cpu")
    refused = run(*line, "--max-churn", 0)
    assert refused.exit_code == 1
    assert "empty.csv has no rows, and a gate that looked at nothing says nothing" in refused.stderr
    assert run(*line).exit_code == 0


@pytest.mark.parametrize("rank", ["1", ""])
def test_a_rank_without_a_world_is_none(shop: Path, rank: str) -> None:
    ran = catcli("fit", "none.csv", cwd=shop, RANK=rank)
    assert ran.returncode == 1
    assert "there is no file none.csv" in ran.stderr  # a helper of a first process would say nothing


@pytest.mark.parametrize("command", ["show", "verify"])
def test_the_folder_one_stands_in_is_an_adapter_like_another(monkeypatch: pytest.MonkeyPatch, command: str) -> None:
    monkeypatch.chdir(FIXTURE)
    assert run("adapters", command, ".").exit_code == 0
    refused = run("report", ".", "--html", "")
    assert (refused.exit_code, refused.stderr.count("error: ")) == (1, 1)


# --- warnings ----------------------------------------------------------------------------------------------------------------------------


def test_quiet_keeps_warnings_and_strict_makes_errors_of_them(shop: Path) -> None:
    (shop / "catalog.csv").write_text("title\n" + "blue mug " * 30 + "\n")
    said = "1 of 1 different texts have more than the 16 tokens that are read; the rest is cut"
    quiet = run(*PREDICT, "-q")
    assert (quiet.exit_code, quiet.stderr) == (0, f"note: {said}.\n")
    (shop / "out.csv").write_text("what stood there")
    strict = run(*PREDICT, "--strict")
    assert strict.exit_code == 1
    assert f"error: {said} (--strict takes this for an error)." in strict.stderr
    assert (shop / "out.csv").read_text() == "what stood there"


# --- fingerprints and numbers ------------------------------------------------------------------------------------------------------------


def test_the_fingerprint_of_options_is_the_same_in_every_process() -> None:
    code = "from catcli.commands.predict import canonical; print(canonical([{'price', 'msrp', 'rrp', 'preis'}, {'b': 1, 'a': 2}]))"
    told = {
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={**os.environ, "PYTHONHASHSEED": str(seed)}
        ).stdout
        for seed in range(4)
    }
    assert told == {'[["msrp", "preis", "price", "rrp"], {"a": 2, "b": 1}]\n'}


@pytest.mark.parametrize("off", [0.0, 1e-7])
def test_an_interval_of_what_never_failed_has_an_end_to_doubt(off: float) -> None:
    right = estimate(1 - off, np.full(100, 1 - off), 12)
    assert 0.7 < right.low < 0.75
    wrong = estimate(off, np.full(100, off), 12)
    assert 0.25 < wrong.high < 0.3
    loss = estimate(1.5, np.full(100, 1.5), 12)
    assert (loss.low, loss.high) == (1.5, 1.5)


def test_the_package_is_imported_from_a_folder_without_an_installation(tmp_path: Path) -> None:
    source = Path(__file__).parents[1] / "catcli" / "__init__.py"
    (tmp_path / "catcli").mkdir()
    (tmp_path / "catcli" / "__init__.py").write_text(source.read_text())
    code = "import importlib.metadata as m; m.version = lambda name: (_ for _ in ()).throw(m.PackageNotFoundError(name))"
    ran = subprocess.run(
        [sys.executable, "-c", f"{code}; import catcli; print(catcli.__version__)"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
    )
    assert ran.stdout == "0+unknown\n"
