"""``catcli clean``: what stopped runs left."""

from __future__ import annotations

import json
import os
from pathlib import Path

import polars as pl
import pytest
from conftest import add_part, catcli, part_inputs

from catcli.atomic import temporary_path
from catcli.cli.console import Console
from catcli.cli.run.clean import clean
from catcli.data.io.batch import Batch
from catcli.data.io.output import FileFormat
from catcli.data.io.parts import Parts
from catcli.errors import UsageError
from catcli.file_lock import file_lock
from catcli.paths import resume_folder
from catcli.private_folder import claim


def stopped(folder: Path) -> None:
    """A predict and a fit that were killed, a page that was not finished, and what is somebody else's."""
    frame = pl.DataFrame({"title": ["mug"]})
    with Parts(str(folder / "out.csv"), FileFormat("csv"), part_inputs("in.csv"), {}, resume=False) as parts:
        add_part(parts, Batch(frame, 1.0))
        parts.commit()
    claim(resume_folder(folder / "made"))
    (resume_folder(folder / "made") / "rows").write_text("{}")
    name = temporary_path(folder / "page.html").name.replace(f"-{os.getpid()}-", f"-{2**22 + 1}-")
    (folder / name).write_text("half a page")
    (folder / ".theirs.catcli-parts").mkdir()
    (folder / ".theirs.catcli-parts" / "000000").write_text("a stranger's")
    (folder / "out.csv").write_text("the last run's")


def test_what_stopped_runs_left_is_listed_and_removed_where_asked(tmp_path: Path) -> None:
    stopped(tmp_path)
    before = sorted(path.name for path in tmp_path.iterdir())
    found = clean(tmp_path, console=Console())
    assert [left.holds for left in found] == [
        "the training of a fit or tune", "labeled rows of a predict", "a file that was not finished",
    ]  # fmt: skip
    assert not any(left.in_use for left in found)
    assert sorted(path.name for path in tmp_path.iterdir()) == before
    ran = catcli("clean", "--yes", "--json", cwd=tmp_path, check=True)
    assert [left["removed"] for left in json.loads(ran.stdout)] == [True] * 3
    assert "warning: .theirs.catcli-parts is left alone: .theirs.catcli-parts is a folder that catcli did not make" in ran.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == [".theirs.catcli-parts", "out.csv"]
    assert (tmp_path / "out.csv").read_text() == "the last run's"


def test_what_a_run_is_at_work_on_stays(tmp_path: Path) -> None:
    stopped(tmp_path)
    with file_lock(tmp_path / ".out.csv.catcli-parts" / "lock"), file_lock(tmp_path / ".made.lock"):
        found = clean(tmp_path, yes=True, console=Console())
        assert [left.in_use for left in found] == [True, True, False]
        assert (tmp_path / ".made.catcli-resume" / "rows").exists()
        assert (tmp_path / ".out.csv.catcli-parts" / "000000000000-000000-000000").exists()


def test_the_store_is_looked_at_too_and_nothing_is_said_of_nothing(tmp_path: Path) -> None:
    ran = catcli("clean", cwd=tmp_path, check=True)
    assert (ran.stdout, ran.stderr) == ("", "there is nothing to clean.\n")
    (tmp_path / "adapters").mkdir()
    claim(tmp_path / "adapters" / ".shop.catcli-resume")
    ran = catcli("clean", cwd=tmp_path, check=True, COLUMNS="120")
    assert "adapters/.shop.catcli-resume" in ran.stdout
    assert ran.stderr == "--yes removes what is not in use; until then the lines that left it go on from it.\n"
    with pytest.raises(UsageError, match="nowhere is not a folder"):
        clean(tmp_path / "nowhere", console=Console())
