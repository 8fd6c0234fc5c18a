"""The fits of ``catcli compare``: each in a process of its own, so that its memory is its own, and kept once it is finished."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NoReturn

from catcli import adapter as adapters
from catcli import places
from catcli.adapter import Adapter
from catcli.commands.preparing import Reading
from catcli.commands.talk import Talk
from catcli.errors import AdapterError, OutputError
from catcli.products.write import writing
from catcli.recipe import Recipe

JOURNAL = "cells.json"


@dataclass(frozen=True)
class Cell:
    """One fit: the name of its folder, and what is to be trained."""

    name: str
    recipe: Recipe


@dataclass(frozen=True)
class Cells:
    """The fits on ``products`` in ``folder``, whose files together have the SHA-256 ``rows``."""

    folder: Path
    products: Sequence[str]
    reading: Reading
    rows: str
    talk: Talk

    def finished(self, cell: Cell, force: bool) -> Adapter | None:
        """The adapter of a cell that was fitted before; None where it is still to be.

        Raises:
            AdapterError: there is one of other rows or settings, and ``force`` was not given.
        """
        folder, kept = self.folder / cell.name, self._journal().get(cell.name)
        if not folder.exists():
            return None
        if kept == self._mark(cell):
            return adapters.load(folder)
        if not force:
            raise AdapterError(
                f"{folder} was fitted on other rows, with other settings or by other versions of packages; pass --force to fit it anew, or "
                "-o for another folder."
            )
        return None

    def fit(self, cell: Cell) -> str | None:
        """Fit a cell; returns why it could not be, None where it is done.

        A fit that was killed goes on from where it was last kept.
        """
        folder = self.folder / cell.name
        mark = self._mark(cell)
        journal = self._journal()
        resume = journal.get(cell.name) == mark and folder.with_name(f".{folder.name}.catcli-resume").exists()
        with writing(str(self.folder), "-o"):
            self.folder.mkdir(parents=True, exist_ok=True)
            with places.whole(self.folder / JOURNAL) as place:
                place.write_text(json.dumps({**journal, cell.name: mark}, indent=2) + "\n", encoding="utf-8")
        # A fresh interpreter: a fork of this one would share its threads' locks, and its memory would count as the fit's.
        context = multiprocessing.get_context("spawn")
        here, there = context.Pipe(duplex=False)
        settings = (self.talk.quiet, self.talk.verbose)
        process = context.Process(target=_fit, args=(self.products, self.reading, cell.recipe, folder, resume, settings, there))
        process.start()
        there.close()
        try:
            process.join()
        finally:
            if process.is_alive():
                process.terminate()
                process.join()
        try:
            said = here.recv()
        except EOFError:  # it ended without a word
            said = None
        if process.exitcode and said is None:
            ended = f"was ended by signal {-process.exitcode}" if process.exitcode < 0 else f"ended with {process.exitcode}"
            hint = "; where memory ran out, a smaller --base or --batch-size takes less" if process.exitcode == -signal.SIGKILL else ""
            return f"its process {ended}{hint}"
        return None if said is None else str(said)

    def _journal(self) -> dict[str, str]:
        file = self.folder / JOURNAL
        if self.folder.exists() and not file.exists() and any(self.folder.iterdir()):
            raise OutputError(f"-o {self.folder} is no folder of catcli compare and is not empty; choose another.")
        try:
            found = json.loads(file.read_bytes()) if file.exists() else {}
        except (OSError, ValueError) as error:
            raise OutputError(f"{file} cannot be read; choose another folder with -o.") from error
        return found if isinstance(found, dict) else {}

    def _mark(self, cell: Cell) -> str:
        told = json.dumps([self.rows, cell.recipe.model_dump(mode="json"), adapters.versions()])
        return hashlib.sha256(told.encode("utf-8", "surrogatepass")).hexdigest()


def _fit(
    products: Sequence[str], reading: Reading, recipe: Recipe, folder: Path, resume: bool, settings: tuple[bool, bool], pipe: Connection
) -> None:
    """In the process of a cell."""
    from catcli.commands.fit import fit
    from catcli.errors import CatcliError

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group: the process that waits for this one ends it
    signal.signal(signal.SIGTERM, _end)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    quiet, verbose = settings
    try:
        fit(
            products,
            recipe=recipe,
            output=folder,
            force=True,
            reading=reading,
            resume=resume,
            talk=Talk(quiet=quiet, verbose=verbose, bars_alone=not verbose, out=Talk.silent().out),
        )
    except CatcliError as error:
        pipe.send(str(error))
        sys.exit(error.exit_code)


def _end(_number: int, _frame: object) -> NoReturn:
    sys.exit(143)


def _end_with_parent() -> None:
    """A fit whose run was killed must not go on beside the next run's."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
