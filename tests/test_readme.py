"""What README.md shows is what happens; what it says to type works."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import polars as pl
import pytest
from conftest import DEMO, Shop, catcli

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
SECURITY = (ROOT / "catcli" / "docs" / "security.md").read_text()


def test_the_session_gives_what_it_shows(tmp_path: Path) -> None:
    for name in ("products.csv", "catalog.csv"):
        (tmp_path / name).write_bytes((DEMO / name).read_bytes())
    session = re.search(r"```console\n(.*?)```", README, re.DOTALL)
    assert session
    commands = re.split(r"^\$ ", session[1], flags=re.MULTILINE)[1:]
    assert [command.split()[1] for command in commands] == ["fit", "predict", "report"]
    for command in commands:
        typed, *shown = command.splitlines()
        ran = subprocess.run(f"{typed} 2>&1", shell=True, cwd=tmp_path, capture_output=True, text=True, env=environment(), check=False)
        assert ran.returncode == 0, ran.stdout
        printed = {masked(line) for line in ran.stdout.splitlines()}
        assert [line for line in shown if steady(line) and masked(line) not in printed] == []


def environment() -> dict[str, str]:
    import os
    import sys

    return {**os.environ, "COLUMNS": "80", "NO_COLOR": "1", "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}


def masked(line: str) -> str:
    """Digits differ from machine to machine, words and the places of columns do not."""
    return re.sub(r"\d+(,\d{3})*(\.\d+)?|─+", "#", line).replace(" ", "").replace("int#", "").replace("fp#", "")


def steady(line: str) -> bool:
    """Whether a line shows the same words everywhere: not what hangs on the processor, nor which rows are confused."""
    return line != "…" and not line.startswith("int8") and "→" not in line and not re.search(r"  \S.*  +\d+$", line)


@pytest.mark.parametrize("line", ["pip install . && catcli demo", "pip install '.[test]' && pytest"])
def test_the_two_commands_are_there_as_the_issue_has_them(line: str) -> None:
    assert f"    {line}\n" in README


def test_the_label_by_hand_is_the_label_of_predict(shop: Shop, tmp_path: Path) -> None:
    code = re.search(r"```python\n(.*?)```", (ROOT / "adapters" / "README.md").read_text(), re.DOTALL)
    assert code
    (tmp_path / "by_hand.py").write_text(code[1].replace("adapters/products", shop.adapter))
    import sys

    ran = subprocess.run([sys.executable, "by_hand.py"], cwd=tmp_path, capture_output=True, text=True, check=True)
    (tmp_path / "one.csv").write_text("title,brand,description\nhammer drill 18V,,\n")
    catcli("predict", "one.csv", "-o", "out.csv", "--adapter", shop.adapter, "--variant", "fp32", cwd=tmp_path, check=True)
    category, confidence = ran.stdout.splitlines()
    labeled = (tmp_path / "out.csv").read_text()
    assert f",{category}," in labeled
    assert float(labeled.strip().split(",")[-1]) == pytest.approx(float(confidence), abs=1e-4)


def test_every_option_of_the_contract_in_the_readme_exists(tmp_path: Path) -> None:
    store: tuple[list[str], ...] = (["adapters", "export"], ["adapters", "verify"])
    commands: tuple[list[str], ...] = (["fit"], ["predict"], ["report"], ["tune"], ["compare"], ["bench"], *store, [])
    shown = "".join(catcli(*command, "--help", cwd=tmp_path, COLUMNS="200").stdout for command in commands)
    for option in set(re.findall(r"`[^`]*?(--[a-z][a-z-]+)", README + SECURITY)):
        assert option in shown, option


def test_the_page_on_security_names_tests_that_are_there() -> None:
    named = set(re.findall(r"tests/\w+\.py", SECURITY))
    assert len(named) > 10
    assert [name for name in sorted(named) if not (ROOT / name).is_file()] == []


def test_the_lines_of_the_page_on_security_sign_and_verify(shop: Shop, tmp_path: Path) -> None:
    block = re.search(r"^## Who made it: signatures\n\n((?:    .*\n)+)", SECURITY, re.MULTILINE)
    assert block
    (tmp_path / "adapters").mkdir()
    (tmp_path / "to-mail").mkdir()
    shutil.copytree(shop.adapter, tmp_path / "adapters" / "shop")
    pl.read_csv(shop.catalog, infer_schema=False).write_parquet(tmp_path / "catalog.parquet")
    lines = [line.strip() for line in block[1].splitlines()]
    assert [line.split()[0] for line in lines] == ["openssl", "openssl", "catcli", "catcli", "catcli"]
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    for line in lines:
        ran = subprocess.run(line, shell=True, cwd=tmp_path, capture_output=True, text=True, env=environment(), check=False)
        assert ran.returncode == 0, (line, ran.stderr)
    assert (tmp_path / "labeled.parquet").exists()
