"""``catcli compare``: bases, methods, balances and seeds on one split, side by side."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from catcli.adapter.folder import Adapter
from catcli.adapter.manifest import MANIFEST
from catcli.atomic import atomic_write
from catcli.config import LORA_METHODS, LORA_OPTIONS, Method, Recipe
from catcli.data.dataset.prepare import InputOptions, load_training_data, source_digest
from catcli.data.io.output import write_errors
from catcli.errors import CatcliError, GateMissed, UsageError, did_you_mean
from catcli.evaluation.studies import GridResult
from catcli.reporting import sentences, tables
from catcli.talk import Talk
from catcli.training.grid_runs import GridRun, GridRuns, RunFailure

LINEAR = "linear"
PAGE, BEST = "compare.html", "best.json"


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

    def cells(self, recipe: Recipe) -> list[GridRun]:
        """The fits that it takes; the linear model stands beside each of them and takes none of its own.

        Raises:
            UsageError: a name is wrong, or there is nothing to fit.
        """
        known = [*get_args(Method), LINEAR]
        for method in self.chosen:
            if method not in known:
                raise UsageError(f"--method {method}: choose among {', '.join(known)}{did_you_mean(method, known)}.")
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
            model = [_short(base), method, *([balance] if balance != "none" else [])]
            name = "-".join([*model, *([f"seed{seed}"] if seed else [])]).replace("@", "_")
            found.append(GridRun(name, " ".join(model), start.but(settings)))
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
    return foreign if method in LORA_METHODS else foreign | set(LORA_OPTIONS)


def _short(base: str) -> str:
    """The last part of a path or of a hub's name."""
    return Path(base).name or "base"


def compare(
    products: Sequence[str],
    *,
    recipe: Recipe,
    grid: Grid | None = None,
    output: Path | None = None,
    force: bool = False,
    reading: InputOptions | None = None,
    as_json: bool = False,
    talk: Talk | None = None,
) -> GridResult:
    """Fit every cell of ``grid`` on ``products`` as ``recipe`` says, score all on the same test rows, and write a page to ``output``.

    The folder keeps the adapter of every cell: those that are finished are not fitted again, and one that was killed goes on.

    Raises:
        CatcliError: something that the user can mend; a cell that failed is told after the others are done.
    """
    talk, grid, reading = talk or Talk.silent(), grid or Grid(), reading or InputOptions()
    if all((Path(one) / MANIFEST).is_file() for one in products):
        raise UsageError("adapters are compared on a catalog; say which with --on. To set their scores side by side, use catcli report.")
    wanted = grid.cells(recipe)
    source = reading.open(products)
    if source.piped:
        raise UsageError("compare reads its rows once for every fit; give them as a file, not through a pipe.")
    load_training_data(source, recipe, talk)  # what is wrong with the rows is wrong for every cell: said once, before the first
    folder = output or Path(f"{source.stem}.compared")
    cells = GridRuns(folder, products, reading, source_digest(source), talk)
    made, failed = _fitted(wanted, cells, force, talk)
    if not made:
        name, failure = next(iter(failed.items()))
        raise _failed(failed)(f"no fit succeeded; {name}: {failure.why}")
    # scikit-learn and plotly take their time to import.
    from catcli.reporting.grid_page import grid_page
    from catcli.reporting.leaderboard import build_leaderboard

    graded = build_leaderboard(made, with_linear=LINEAR in grid.chosen)
    best = graded.best
    recipe_file = str(folder / BEST) if best.base else None
    told = graded.told({name: failure.why for name, failure in failed.items()}, str(folder / PAGE), recipe_file)
    with write_errors(str(folder), "-o"):
        with atomic_write(folder / PAGE) as place:
            place.write_text(grid_page(source.stem, told, graded.names, graded.shown()), encoding="utf-8")
        if recipe_file:
            chosen = Recipe.load(str(Path(best.adapters[0]) / "recipe.json")).but({"refit": recipe.refit})
            with atomic_write(folder / BEST) as place:
                place.write_text(chosen.model_dump_json(indent=2) + "\n", encoding="utf-8")
    _show(told, products, reading, as_json, talk)
    if failed:
        whys = "; ".join(f"{name} failed: {failure.why}" for name, failure in failed.items())
        raise _failed(failed)(f"{whys}; the others are done, and the same line tries again what failed.")
    return told


def _failed(failed: Mapping[str, RunFailure]) -> type[CatcliError]:
    """A gate that was missed ends with its own exit code, where nothing else went wrong."""
    return GateMissed if all(failure.exit_code == GateMissed.exit_code for failure in failed.values()) else CatcliError


def _fitted(wanted: Sequence[GridRun], cells: GridRuns, force: bool, talk: Talk) -> tuple[dict[GridRun, Adapter], dict[str, RunFailure]]:
    """The adapters by their cells, and why others, by their names, could not be made."""
    before = {cell.name: cells.finished(cell, force) for cell in wanted}  # all are looked at before the first is fitted
    made: dict[GridRun, Adapter] = {}
    failed: dict[str, RunFailure] = {}
    for number, cell in enumerate(wanted, 1):
        adapter = before[cell.name]
        if adapter is not None:
            talk.say(f"fit {number} of {len(wanted)}: {cell.name} is there already")
        else:
            talk.say(f"fit {number} of {len(wanted)}: {cell.name}")
            fitted = cells.fit(cell)
            if isinstance(fitted, RunFailure):
                talk.warn(f"{cell.name} failed: {fitted.why}")
                failed[cell.name] = fitted
                continue
            adapter = fitted
        made[cell] = adapter
    return made, failed


def _show(told: GridResult, products: Sequence[str], reading: InputOptions, as_json: bool, talk: Talk) -> None:
    if as_json:
        talk.result(told.model_dump_json())
        return
    talk.out.print(tables.alone_table(told))
    talk.out.print(tables.blend_table(told))
    talk.out.print(tables.pair_table(told.comparisons))
    for found in sentences.lora_against_full(told):
        talk.out.print(sentences.comparison(found, None), soft_wrap=True)
    talk.out.print(f"lowest log loss on the validation rows: {told.best}", soft_wrap=True)
    talk.out.print(f"page:    {told.page}", soft_wrap=True)
    if told.recipe:
        talk.out.print(f"next:    {reading.line('fit', products)} {Recipe.load(told.recipe).options(told.recipe)}", soft_wrap=True)
