"""The rules of the house: who imports whom, what a start costs, what stands at the top."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
HEAVY = ("torch", "transformers", "peft", "optimum", "onnxruntime", "polars", "sklearn")

# A room may import those of its own floor and of the floors below.
FLOORS = [
    {"cli", "__main__"},
    {"reporting"},
    {"training"},
    {"export"},
    {"inference"},
    {"evaluation"},
    {"models"},
    {"data"},
    {"adapter"},
    {"config"},
    {"arrays", "atomic", "child_process", "errors", "file_lock", "logs", "memory", "paths", "private_folder", "wording"},
]


def room(module: str) -> str:
    return module.split(".")[1] if "." in module else "errors"


def imports() -> list[tuple[str, str]]:
    found = []
    for file in sorted((ROOT / "catcli").rglob("*.py")):
        name = ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for node in ast.walk(ast.parse(file.read_text())):
            names = [node.module] if isinstance(node, ast.ImportFrom) and node.module else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            found += [(name, imported) for imported in names if imported.startswith("catcli")]
    return found


def floor_of(name: str) -> int:
    return next(number for number, rooms in enumerate(FLOORS) if room(name) in rooms)


def test_imports_point_down_only() -> None:
    # `from catcli import x` imports the package itself, which is at the bottom; what x is shows in the text of the file.
    pairs = {(name, other) for name, other in imports() if "." in name and "." in other and floor_of(other) < floor_of(name)}
    assert pairs == set()


def test_labeling_and_scoring_never_import_the_rooms_of_torch() -> None:
    torch_free, of_torch = {"inference", "evaluation", "data", "adapter"}, {"models", "training", "export"}
    assert [pair for pair in imports() if room(pair[0]) in torch_free and room(pair[1]) in of_torch] == []


def test_no_two_rooms_of_one_floor_import_each_other() -> None:
    inside = (pair for pair in imports() if all("." in name for name in pair))
    pairs = {(room(name), room(other)) for name, other in inside if room(name) != room(other)}
    assert [pair for pair in pairs if pair[::-1] in pairs] == []


@pytest.mark.parametrize(
    ("code", "unwanted"),
    [
        ("import sys; sys.argv = ['catcli', '--help']; from catcli.cli.main import main\ntry: main()\nexcept SystemExit: pass", HEAVY),
        ("import catcli.inference.predict", ("torch", "transformers", "peft", "optimum", "sklearn")),
        ("import catcli.reporting.report", ("torch", "transformers", "peft", "optimum", "sklearn")),
    ],
    ids=["help", "predict", "report"],
)
def test_a_start_brings_nothing_heavy(code: str, unwanted: tuple[str, ...]) -> None:
    probe = f"{code}\nimport sys, json; sys.stderr.write(json.dumps([name for name in {unwanted!r} if name in sys.modules]))"
    result = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    assert json.loads(result.stderr) == []


def test_the_top_level_is_what_was_agreed() -> None:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("no git checkout: the sdist's own file list is not at issue here")
    visible = {name.split("/")[0] for name in listed.stdout.splitlines() if not name.startswith(".")}
    assert visible == {"pyproject.toml", "catcli", "adapters", "tests", "README.md", "LICENSE"}
