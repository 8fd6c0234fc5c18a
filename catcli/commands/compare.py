"""``catcli compare``: bases, methods, balances and seeds on one split, side by side."""

from __future__ import annotations

import hashlib
import itertools
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from catcli import places
from catcli.adapter import Adapter
from catcli.commands.cells import Cell, Cells
from catcli.commands.preparing import Reading, prepared
from catcli.commands.talk import Talk
from catcli.errors import CatcliError, UsageError, close_to
from catcli.evaluation.studies import Compared
from catcli.products.read import Source
from catcli.products.write import writing
from catcli.recipe import ADAPTED, ADAPTERS_ONLY, Method, Recipe
from catcli.reporting import sentences, tables

LINEAR = "linear"
PAGE = "compare.html"


@dataclass(frozen=True)
class Grid:
    """What is set side by side: every base with every method, balance and seed. ``linear`` among the methods is the linear model."""

    bases: tuple[str, ...] = ()
    methods: tuple[str, ...] = ()
    balances: tuple[str, ...] = ()
    seeds: tuple[int, ...] = ()

    @property
    def chosen(self) -> tuple[str, ...]:
        """The methods, those of the study where none are named."""
        return self.methods or ("lora", "full", "head", LINEAR)

    def cells(self, recipe: Recipe) -> list[Cell]:
        """The fits that it takes; the linear model stands beside each of them and takes none of its own.

        Raises:
            UsageError: a name is wrong, or there is nothing to fit.
        """
        known = [*get_args(Method), LINEAR]
        for method in self.chosen:
            if method not in known:
                raise UsageError(f"--method {method}: choose among {', '.join(known)}{close_to(method, known)}.")
        learned = [method for method in dict.fromkeys(self.chosen) if method != LINEAR]
        if not learned:
            raise UsageError("--method linear alone leaves nothing to compare it with; add another --method.")
        bases = dict.fromkeys(self.bases or (recipe.base,))
        balances = dict.fromkeys(self.balances or (recipe.balance,))
        seeds = dict.fromkeys(self.seeds or (recipe.seed,))
        found = []
        for base, method, balance, seed in itertools.product(bases, learned, balances, seeds):
            settings = {"base": base, "method": method, "balance": balance, "seed": seed, "refit": False}
            start = recipe.without(*_foreign(recipe, base, method))
            parts = [_short(base), method, *([balance] if balance != "none" else []), *([f"seed{seed}"] if len(seeds) > 1 else [])]
            found.append(Cell("-".join(parts), start.but(settings)))
        names = [cell.name for cell in found]
        if len(set(names)) < len(names):
            raise UsageError("two of --base end in the same name; give one of them another folder.")
        return found


def _foreign(recipe: Recipe, base: str, method: str) -> set[str]:
    """What ``recipe`` says that suits its own base or method alone."""
    foreign = set()
    if base != recipe.base:
        foreign |= {"lr", "pool", "targets", "max_tokens"}
    if method != recipe.method:
        foreign |= {"lr", "method"}
    return foreign if method in ADAPTED else foreign | set(ADAPTERS_ONLY)


def _short(base: str) -> str:
    """A base's name as a folder's: the last part of a path or of a hub's name, without what a file system minds."""
    return Path(base.replace("@", "_")).name or "base"


def compare(
    products: Sequence[str],
    *,
    recipe: Recipe,
    grid: Grid | None = None,
    output: Path | None = None,
    force: bool = False,
    reading: Reading | None = None,
    as_json: bool = False,
    talk: Talk | None = None,
) -> Compared:
    """Fit every cell of ``grid`` on ``products`` as ``recipe`` says, score all on the same test rows, and write a page to ``output``.

    The folder keeps the adapter of every cell: those that are finished are not fitted again, and one that was killed goes on.

    Raises:
        CatcliError: something that the user can mend; a cell that failed is told after the others are done.
    """
    talk, grid, reading = talk or Talk.silent(), grid or Grid(), reading or Reading()
    wanted = grid.cells(recipe)
    source = reading.open(products)
    if source.piped:
        raise UsageError("compare reads its rows once for every fit; give them as a file, not through a pipe.")
    prepared(source, recipe, talk)  # what is wrong with the rows is wrong for every cell: said once, before the first
    folder = output or Path(f"{source.stem}.compared")
    cells = Cells(folder, products, reading, _digest(source), talk)
    made, failed = _fitted(wanted, cells, force, talk)
    if not made:
        name, why = next(iter(failed.items()))
        raise CatcliError(f"no fit succeeded; {name}: {why}")
    # scikit-learn and plotly take their time to import.
    from catcli.commands.grading import grade
    from catcli.reporting.comparison import comparison_page

    graded = grade(made, with_linear=LINEAR in grid.chosen)
    told = graded.told(failed, str(folder / PAGE))
    with writing(str(folder), "-o"), places.whole(folder / PAGE) as place:
        place.write_text(comparison_page(source.stem, told, graded.names, graded.shown()), encoding="utf-8")
    _show(told, products, as_json, talk)
    if failed:
        raise CatcliError(
            "; ".join(f"{name} failed: {why}" for name, why in failed.items())
            + "; the others are done, and the same line tries again what failed."
        )
    return told


def _fitted(wanted: Sequence[Cell], cells: Cells, force: bool, talk: Talk) -> tuple[dict[Cell, Adapter], dict[str, str]]:
    """The adapters by their cells, and why others, by their names, could not be made."""
    before = {cell.name: cells.finished(cell, force) for cell in wanted}  # all are looked at before the first is fitted
    made: dict[Cell, Adapter] = {}
    failed = {}
    for number, cell in enumerate(wanted, 1):
        adapter = before[cell.name]
        if adapter is not None:
            talk.say(f"fit {number} of {len(wanted)}: {cell.name} is there already")
        else:
            talk.say(f"fit {number} of {len(wanted)}: {cell.name}")
            why = cells.fit(cell)
            if why:
                talk.warn(f"{cell.name} failed: {why}")
                failed[cell.name] = why
                continue
            adapter = cells.finished(cell, force)
        if adapter is not None:
            made[cell] = adapter
    return made, failed


def _digest(source: Source) -> str:
    """The SHA-256 of the files' names and bytes."""
    told = hashlib.sha256()
    for path in source.paths:
        told.update(f"{path.name}\n".encode("utf-8", "surrogatepass"))
        with path.open("rb") as file:
            told.update(hashlib.file_digest(file, "sha256").digest())
    return told.hexdigest()


def _show(told: Compared, products: Sequence[str], as_json: bool, talk: Talk) -> None:
    if as_json:
        print(told.model_dump_json())
        return
    talk.out.print(tables.models_alone(told))
    talk.out.print(tables.models_blended(told))
    talk.out.print(tables.pairs(told.comparisons))
    for found in told.comparisons:
        if sentences.is_studied(found):
            talk.out.print(sentences.comparison(found, None), soft_wrap=True)
    best = next(model for model in told.models if model.name == told.best)
    talk.out.print(f"lowest log loss on the validation rows: {told.best}", soft_wrap=True)
    talk.out.print(f"page:    {told.page}", soft_wrap=True)
    if best.base is not None:
        given = " ".join(shlex.quote(one) for one in products)
        flags = f"--base {shlex.quote(best.base)} --method {best.method}" + ("" if best.balance == "none" else f" --balance {best.balance}")
        talk.out.print(f"next:    catcli fit {given} {flags}", soft_wrap=True)
