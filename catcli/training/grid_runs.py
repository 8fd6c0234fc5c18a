"""The fits of ``catcli compare``: each a ``catcli fit`` process, so that its memory is its own, and kept once it is finished."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from catcli.adapter.folder import Adapter, load_adapter
from catcli.atomic import atomic_write, read_small_file
from catcli.config import Recipe
from catcli.data.dataset.prepare import fit_inputs
from catcli.data.io.input_options import InputOptions
from catcli.data.io.output import write_errors
from catcli.errors import AdapterError, OutputError
from catcli.logs import LOGGER, PARENT_VARIABLE, Advance, no_progress
from catcli.paths import resume_folder
from catcli.training.grid import GridRun

JOURNAL_FILE, MAX_JOURNAL_BYTES = "cells.json", 2**24
"""The file of finished fits, under the name that it has had in older folders, and the bytes that it may have."""

MAX_OUTPUT_LINES = 200
"""Lines that a fit ended with, beside its log, that are shown where it ended by a bug."""

Journal = dict[str, dict[str, dict[str, str]]]
"""By the names of runs: what the finished adapter was made from, ``done``, and what the one that was begun last is, ``begun``."""


@dataclass(frozen=True)
class RunFailure:
    """Why a run could not be fitted, and the exit code that says so."""

    why: str
    exit_code: int = 1


@dataclass(frozen=True)
class GridRuns:
    """The fits on ``products`` in ``folder``; ``rows`` is the SHA-256 of the files."""

    folder: Path
    products: Sequence[str]
    options: InputOptions
    rows: str
    strict: bool = False
    advance: Advance = no_progress

    def fit_all(self, runs: Sequence[GridRun], *, force: bool) -> tuple[dict[GridRun, Adapter], dict[str, RunFailure]]:
        """The adapters of all runs, those that are finished as they are, and by the names of others why there is none.

        Raises:
            AdapterError: there is an adapter of other rows or settings, and ``force`` was not given.
        """
        existing = {run.name: self.finished(run, force=force) for run in runs}  # all are looked at before the first is fitted
        adapters: dict[GridRun, Adapter] = {}
        failed: dict[str, RunFailure] = {}
        for number, run in enumerate(runs, 1):
            adapter = existing[run.name]
            LOGGER.info(f"fit {number} of {len(runs)}: {run.name}" + (" is there already" if adapter else ""))
            fitted = adapter or self.fit(run)
            if isinstance(fitted, RunFailure):
                LOGGER.warning(f"{run.name} failed: {fitted.why}")
                failed[run.name] = fitted
            else:
                adapters[run] = fitted
        return adapters, failed

    def finished(self, run: GridRun, *, force: bool) -> Adapter | None:
        """The adapter of a run that was fitted before; None where it is still to be.

        Raises:
            AdapterError: there is one of other rows or settings, and ``force`` was not given.
        """
        folder = self.folder / run.name
        if not folder.exists():
            return None
        done, inputs = self._journal().get(run.name, {}).get("done", {}), self._inputs(run)
        changed = [name for name in {*done, *inputs} if done.get(name) != inputs.get(name)]
        if not changed:
            return load_adapter(folder)
        if not force:
            raise AdapterError(
                f"{folder} was fitted before {', '.join(sorted(changed))} changed; pass --force to fit it again, or -o for another folder."
            )
        return None

    def fit(self, run: GridRun) -> Adapter | RunFailure:
        """Fit a run; returns its adapter, or why there is none. A fit that was killed continues from its last checkpoint."""
        folder, inputs = self.folder / run.name, self._inputs(run)
        entry = self._journal().get(run.name, {})
        resume = entry.get("begun") == inputs and resume_folder(folder).exists()
        # What is in the folder now was not made from these inputs: until the fit is done, the journal does not say so.
        self._write_entry(run, {"done": entry.get("done", {}), "begun": inputs})
        failure = self._run(run.recipe, folder, resume=resume)
        if failure is not None:
            return failure
        self._write_entry(run, {"done": inputs})
        return load_adapter(folder)

    def _run(self, recipe: Recipe, folder: Path, *, resume: bool) -> RunFailure | None:
        """Run ``catcli fit``; its warnings and progress are passed on."""
        with tempfile.TemporaryDirectory() as scratch:
            file = Path(scratch) / "recipe.json"
            file.write_text(recipe.model_dump_json(), encoding="utf-8")
            options = ["-o", str(folder), "--force", *recipe.flags(str(file)), "--log-format", "json", "--verbose"]
            switches = [flag for flag, wanted in (("--resume", resume), ("--strict", self.strict)) if wanted]
            line = [sys.executable, "-P", "-m", "catcli", *self.options.arguments("fit", ()), *options, *switches, "--", *self.products]
            failure, output = None, deque[str](maxlen=MAX_OUTPUT_LINES)
            with subprocess.Popen(  # noqa: S603  # this interpreter, and names as data
                line,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
                encoding="utf-8",
                errors="replace",
                start_new_session=True,  # Ctrl-C reaches this process, which then ends that one
                env={**os.environ, **_python_path(), PARENT_VARIABLE: str(os.getpid())},
            ) as process:
                try:
                    for text in process.stderr or ():
                        try:
                            failure = self._pass_on(json.loads(text)) or failure
                        except (ValueError, KeyError, TypeError):
                            output.append(text)  # a traceback, or what a library prints
                    process.wait()
                finally:
                    if process.poll() is None:
                        process.terminate()
                        if process.stderr is not None:
                            process.stderr.close()  # a pipe that is full and not read would keep it from ending
                        process.wait()  # after Ctrl-C Popen itself waits no longer than a quarter of a second
        if process.returncode == 0 or failure is not None:
            return failure
        if process.returncode < 0:
            killed = process.returncode == -signal.SIGKILL
            hint = "; where memory ran out, a smaller --base or a recipe with a smaller batch takes less" if killed else ""
            return RunFailure(f"its process was ended by signal {-process.returncode}{hint}")
        raise RuntimeError(f"the fit {folder.name} ended by a bug:\n{''.join(output)}")

    def _pass_on(self, record: Mapping[str, Any]) -> RunFailure | None:
        """Log a line of a fit's JSON log; returns the failure that it reports, if any."""
        level, message = str(record["level"]), str(record["message"])
        if level == "error":
            return RunFailure(message, int(record.get("exit_code", 1)))
        if level == "progress":
            self.advance(message, float(record["done"]), float(record["of"]))
        elif level == "warning":
            LOGGER.warning(message)
        elif level in ("info", "debug") and "seconds" not in record:
            LOGGER.debug(message)
        return None

    def _journal(self) -> Journal:
        file = self.folder / JOURNAL_FILE
        if self.folder.exists() and not file.exists() and any(self.folder.iterdir()):
            raise OutputError(f"-o {self.folder} is not a folder of catcli compare and is not empty; choose another.")
        try:
            return TypeAdapter(Journal).validate_json(read_small_file(file, MAX_JOURNAL_BYTES)) if file.exists() else {}
        except (OSError, ValueError) as error:
            raise OutputError(f"{file} cannot be read; choose another folder with -o.") from error

    def _write_entry(self, run: GridRun, entry: dict[str, dict[str, str]]) -> None:
        with write_errors(str(self.folder), "-o"):
            self.folder.mkdir(parents=True, exist_ok=True)
            journal = {**self._journal(), run.name: entry}
            with atomic_write(self.folder / JOURNAL_FILE) as path:
                path.write_text(json.dumps(journal, indent=2) + "\n", encoding="utf-8")

    def _inputs(self, run: GridRun) -> dict[str, str]:
        """What a run is made from, by the names that sentences use."""
        return {"the rows": self.rows, "the settings": run.recipe.model_dump_json(), **fit_inputs(run.recipe, self.options)}


def _python_path() -> dict[str, str]:
    """The variable with which a new process finds this catcli, where it runs from a clone that is not installed."""
    places = [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")]
    return {"PYTHONPATH": os.pathsep.join(filter(None, places))}
