"""Bounded runs of tests/fuzz.py and tests/fuzz_coverage.py: the same cases each time."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from fuzz import fuzz

pytestmark = pytest.mark.slow

CASES = 240


def test_random_damage_ends_in_success_or_a_sentence() -> None:
    counts, faults = fuzz(CASES)
    assert not faults
    assert sum(counts.values()) == CASES
    assert sum(count for (_, succeeded), count in counts.items() if not succeeded) > CASES / 3
    assert any(succeeded for _, succeeded in counts)


@pytest.mark.parametrize("target", ["vetting", "linear", "arrays", "probe", "heldout", "journal"])
def test_a_fuzzer_that_follows_coverage_finds_nothing(tmp_path: Path, target: str) -> None:
    """Few executions, of one seed; tests/bench/README.md has those of a long run."""
    pytest.importorskip("atheris", reason="atheris has no build for this system")
    # Of its memory the system tells what this process, which starts it, has held.
    limits = ["-runs=1500", "-seed=1", "-rss_limit_mb=0"]
    line = [sys.executable, str(Path(__file__).with_name("fuzz_coverage.py")), target, "corpus", *limits]
    ran = subprocess.run(line, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=300)
    assert ran.returncode == 0, ran.stderr[-3000:]
    assert "stat::number_of_executed_units: 1500" in ran.stderr
