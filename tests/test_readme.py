"""What README.md shows is what happens; what it says to type works."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import polars as pl
import pytest
from conftest import DEMO, Shop, catcli

from catcli.cli.main import COMMANDS

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
SECURITY = (ROOT / "catcli" / "docs" / "security.md").read_text()
PAGES = (ROOT / "README.md", *sorted((ROOT / "catcli" / "docs").glob("*.md")))
STORE = ("list", "show", "remove", "export", "verify")
VERBS = (*(name for name in COMMANDS if name != "adapters"), *(f"adapters {name}" for name in STORE))


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


def test_every_line_of_the_readme_and_the_pages_has_a_command_with_its_options(tmp_path: Path) -> None:
    """What stands in code blocks as ``catcli …``, a line that goes on behind a backslash with it, and the options named in the text."""
    verbs = {name: catcli(*name.split(), "--help", cwd=tmp_path, COLUMNS="200").stdout for name in VERBS}
    assert all(f"catcli {name} " in text for name, text in verbs.items())
    pages = "\n".join(page.read_text() for page in PAGES).replace("\\\n", " ")
    lines = re.findall(r"^    (?:\w+=\S+ )?(catcli .*)$", pages, re.MULTILINE)
    assert len(lines) > 20
    for line in lines:
        for command in re.split(r" && | \| ", line):
            if command.startswith("catcli "):
                name = next((name for name in VERBS if f"{command} ".startswith(f"catcli {name} ")), "")
                assert name, line
                assert [flag for flag in re.findall(r"(?<= )--[a-z-]+", command) if flag not in verbs[name]] == [], line
    shown = "".join(verbs.values()) + catcli("--help", cwd=tmp_path, COLUMNS="200").stdout
    foreign = {"--check", "--force-reinstall", "--no-deps"}  # ruff's and pip's
    assert [option for option in sorted(set(re.findall(r"`[^`]*?(--[a-z][a-z-]+)", pages)) - foreign) if option not in shown] == []


def test_every_page_is_in_the_table_of_the_readme_and_every_link_leads_somewhere() -> None:
    assert [page.name for page in PAGES if page.name != "README.md" and f"(catcli/docs/{page.name})" not in README] == []
    for page in (*PAGES, ROOT / "adapters" / "README.md"):
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
            assert (page.parent / target).exists(), (page.name, target)


def test_the_readme_is_short() -> None:
    assert len(README.splitlines()) <= 200


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
