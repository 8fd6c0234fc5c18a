"""The fits of ``catcli compare``: each in a process of its own, so that its memory is its own, and kept once it is finished."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NoReturn

from pydantic import TypeAdapter

from catcli.adapter.folder import Adapter, load_adapter
from catcli.atomic import atomic_write, read_small_file
from catcli.config import Recipe
from catcli.data.dataset.prepare import InputOptions, fit_inputs
from catcli.data.io.output import write_errors
from catcli.errors import AdapterError, CatcliError, OutputError
from catcli.paths import resume_folder
from catcli.talk import Talk

JOURNAL, MAX_JOURNAL = "cells.json", 2**24


@dataclass(frozen=True)
class GridRun:
    """One fit: the name of its folder, what tables call the model, which is the same for every seed, and what is to be trained."""

    name: str
    model: str
    recipe: Recipe


@dataclass(frozen=True)
class RunFailure:
    """Why a cell could not be fitted, and the exit code that says so."""

    why: str
    exit_code: int = 1


@dataclass(frozen=True)
class GridRuns:
    """The fits on ``products`` in ``folder``, whose files together have the SHA-256 ``rows``."""

    folder: Path
    products: Sequence[str]
    reading: InputOptions
    rows: str
    talk: Talk

    def finished(self, cell: GridRun, force: bool) -> Adapter | None:
        """The adapter of a cell that was fitted before; None where it is still to be.

        Raises:
            AdapterError: there is one of other rows or settings, and ``force`` was not given.
        """
        folder = self.folder / cell.name
        done, mark = self._journal().get(cell.name, {}).get("done", {}), self._mark(cell)
        if not folder.exists():
            return None
        changed = [name for name in {*done, *mark} if done.get(name) != mark.get(name)]
        if not changed:
            return load_adapter(folder)
        if not force:
            raise AdapterError(
                f"{folder} was fitted before {', '.join(sorted(changed))} changed; pass --force to fit it anew, or -o for another folder."
            )
        return None

    def fit(self, cell: GridRun) -> Adapter | RunFailure:
        """Fit a cell; returns its adapter, or why there is none.

        A fit that was killed goes on from where it was last kept.
        """
        folder, mark = self.folder / cell.name, self._mark(cell)
        kept = self._journal().get(cell.name, {})
        resume = kept.get("begun") == mark and resume_folder(folder).exists()
        # What stands there now is not of this mark: until the fit is done, nothing says that it is.
        self._note(cell, {"done": kept.get("done", {}), "begun": mark})
        failure = self._run(cell, folder, resume)
        if failure is not None:
            return failure
        self._note(cell, {"done": mark})
        return load_adapter(folder)

    def _run(self, cell: GridRun, folder: Path, resume: bool) -> RunFailure | None:
        # A fresh interpreter: a fork of this one would share its threads' locks.
        context = multiprocessing.get_context("spawn")
        here, there = context.Pipe(duplex=False)
        talk = {name: getattr(self.talk, name) for name in ("quiet", "verbose", "strict", "json_log", "run", "warned")}
        process = context.Process(target=_fit, args=(self.products, self.reading, cell.recipe, folder, resume, talk, there))
        interrupt = signal.signal(signal.SIGINT, signal.SIG_IGN)  # which the new process begins with: Ctrl-C is this one's to hear
        try:
            process.start()
        finally:
            signal.signal(signal.SIGINT, interrupt)
        there.close()
        try:
            process.join()
        finally:
            if process.is_alive():
                process.terminate()
                process.join()
        try:
            said: RunFailure | None = here.recv()
        except EOFError:  # it ended without a word
            said = None
        code = process.exitcode or 0
        if code == 0 or said is not None:
            return said
        if code < 0:
            hint = "; where memory ran out, a smaller --base or a recipe with a smaller batch takes less" if code == -signal.SIGKILL else ""
            return RunFailure(f"its process was ended by signal {-code}{hint}")
        raise RuntimeError(f"the fit {cell.name} ended by a bug; its traceback stands above")

    def _journal(self) -> dict[str, dict[str, dict[str, str]]]:
        file = self.folder / JOURNAL
        if self.folder.exists() and not file.exists() and any(self.folder.iterdir()):
            raise OutputError(f"-o {self.folder} is no folder of catcli compare and is not empty; choose another.")
        try:
            return (
                TypeAdapter(dict[str, dict[str, dict[str, str]]]).validate_json(read_small_file(file, MAX_JOURNAL)) if file.exists() else {}
            )
        except (OSError, ValueError) as error:
            raise OutputError(f"{file} cannot be read; choose another folder with -o.") from error

    def _note(self, cell: GridRun, marks: dict[str, dict[str, str]]) -> None:
        with write_errors(str(self.folder), "-o"):
            self.folder.mkdir(parents=True, exist_ok=True)
            journal = {**self._journal(), cell.name: marks}
            with atomic_write(self.folder / JOURNAL) as place:
                place.write_text(json.dumps(journal, indent=2) + "\n", encoding="utf-8")

    def _mark(self, cell: GridRun) -> dict[str, str]:
        """What the cell is made of, by the names under which a sentence speaks of it."""
        return {"the rows": self.rows, "the settings": cell.recipe.model_dump_json(), **fit_inputs(cell.recipe, self.reading)}


def _fit(
    products: Sequence[str],
    reading: InputOptions,
    recipe: Recipe,
    folder: Path,
    resume: bool,
    told: Mapping[str, Any],
    pipe: Connection,
) -> None:
    """In the process of a cell."""
    from catcli.commands.fit import fit

    signal.signal(signal.SIGTERM, _end)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    talk = Talk(**told, bars_alone=not told["verbose"], out=Talk.silent().out)
    try:
        fit(products, recipe=recipe, output=folder, force=True, reading=reading, resume=resume, talk=talk)
    except CatcliError as error:
        pipe.send(RunFailure(str(error), error.exit_code))
        sys.exit(error.exit_code)
    except OSError as error:
        pipe.send(RunFailure(f"{error.filename or folder}: {error.strerror or error}"))
        sys.exit(1)


def _end(_number: int, _frame: object) -> NoReturn:
    sys.exit(143)


def _end_with_parent() -> None:
    """A fit whose run was killed must not go on beside the next run's."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
