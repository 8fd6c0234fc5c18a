"""tests/bench/gpu.py, which is run where a GPU is at hand for some minutes: it has to be sound before."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import FIXTURE
from test_real_data import DATA

pytestmark = pytest.mark.slow

SCRIPT = Path(__file__).parent / "bench" / "gpu.py"


@pytest.mark.skipif(not DATA.is_dir(), reason=f"there are no real products: {DATA} is not a folder, and CATCLI_DATA names no other")
def test_the_script_for_a_gpu_runs_here(tmp_path: Path) -> None:
    shutil.copytree(FIXTURE, tmp_path / "adapter")
    steps = "environment,doctor,predict,limits,calls"
    line = [sys.executable, str(SCRIPT), str(DATA), "--rehearse", "--out", str(tmp_path), "--steps", steps]
    ran = subprocess.run(line, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    found = json.loads((tmp_path / "gpu.json").read_text())
    assert list(found) == steps.split(",")
    assert found["environment"]["torch"] != "missing"
    assert found["doctor"]["check: one line on standard output"] is True
    assert found["limits"]["check: without a visible GPU the CPU labels"] is True
    assert ran.stdout.splitlines()[-1] == "wrong: nothing"
    assert found["calls"]["tokens of a call, mean"] > 65_536  # what a batch on a GPU holds


def test_a_step_that_fails_is_said_and_the_others_run(tmp_path: Path) -> None:
    line = [sys.executable, str(SCRIPT), str(tmp_path / "none"), "--rehearse", "--out", str(tmp_path), "--steps", "fit,environment"]
    ran = subprocess.run(line, capture_output=True, text=True, check=False)
    found = json.loads((tmp_path / "gpu.json").read_text())
    assert ran.returncode == 1
    assert "flipkart" in found["fit"]["failed"]
    assert found["environment"]["cores"]


def test_the_whole_ends_in_time(tmp_path: Path) -> None:
    line = [sys.executable, str(SCRIPT), str(tmp_path), "--rehearse", "--out", str(tmp_path), "--steps", "environment", "--seconds", "-1"]
    ran = subprocess.run(line, capture_output=True, text=True, check=False)
    assert ran.returncode == 1
    assert ran.stdout.splitlines()[-1] == "wrong: environment, failed"
    assert json.loads((tmp_path / "gpu.json").read_text())["environment"]["failed"] == "it was not run: no time was left"


def test_a_missing_package_is_named_before_anything_is_measured(tmp_path: Path) -> None:
    (tmp_path / "catcli").mkdir()
    (tmp_path / "catcli" / "__init__.py").write_text("import json\nimport plotly\nfrom no_such_package.part import thing\n")
    line = [sys.executable, str(SCRIPT), str(tmp_path), "--rehearse", "--out", str(tmp_path / "out"), "--code", str(tmp_path)]
    ran = subprocess.run(line, capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stdout) == (2, "these packages are missing: no_such_package\n")
    assert not (tmp_path / "out" / "gpu.json").exists()
