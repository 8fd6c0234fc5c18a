"""``catcli compare``: bases, methods, balances and seeds on one split, side by side."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from catcli.adapter.manifest import MANIFEST
from catcli.atomic import atomic_write
from catcli.config import Recipe
from catcli.data.dataset.prepare import load_training_data, source_digest
from catcli.data.io.input_options import InputOptions
from catcli.data.io.output import write_errors
from catcli.errors import CatcliError, GateMissed, UsageError
from catcli.evaluation.studies import GridResult
from catcli.logs import Advance, no_progress
from catcli.training.grid import Grid
from catcli.training.grid_runs import GridRuns, RunFailure

PAGE_FILE, BEST_FILE = "compare.html", "best.json"


def compare(
    products: Sequence[str],
    *,
    recipe: Recipe,
    grid: Grid | None = None,
    output: Path | None = None,
    force: bool = False,
    options: InputOptions | None = None,
    strict: bool = False,
    advance: Advance = no_progress,
    on_result: Callable[[GridResult], None] = lambda _: None,
) -> GridResult:
    """Fit every run of ``grid`` on ``products`` as ``recipe`` says, score all on the same test rows, and write a page to ``output``.

    The folder keeps the adapter of every run: those that are finished are not fitted again, and one that was killed goes on. With
    ``strict`` a warning of a fit makes it fail. ``on_result`` is called with the result, which names the runs that failed, before an error
    says so.

    Raises:
        CatcliError: something that the user can fix, or a run failed.
    """
    grid, options = grid or Grid(), options or InputOptions()
    if all((Path(name) / MANIFEST).is_file() for name in products):
        raise UsageError(
            "these are adapters: 'catcli diff OLD NEW CATALOG' compares them on a catalog, 'catcli report A B' shows their scores."
        )
    runs = grid.runs(recipe)
    source = options.open(products)
    if source.piped:
        raise UsageError("compare reads its rows once for every fit; give them as a file, not through a pipe.")
    load_training_data(source, runs[0].recipe)  # what is wrong with the rows is wrong for every run: said once, before the first
    folder = output or Path(f"{source.stem}.compared")
    grid_runs = GridRuns(folder, products, options, source_digest(source), strict, advance)
    adapters, failed = grid_runs.fit_all(runs, force=force)
    if not adapters:
        name, failure = next(iter(failed.items()))
        raise _error_class(failed)(f"no fit succeeded; {name}: {failure.why}")
    # scikit-learn and plotly take their time to import.
    from catcli.reporting.grid_page import grid_page
    from catcli.reporting.leaderboard import build_leaderboard

    leaderboard = build_leaderboard(adapters, with_linear=grid.with_linear)
    best = leaderboard.best
    recipe_file = str(folder / BEST_FILE) if best.base else None
    result = leaderboard.result({name: failure.why for name, failure in failed.items()}, str(folder / PAGE_FILE), recipe_file)
    with write_errors(str(folder), "-o"):
        with atomic_write(folder / PAGE_FILE) as path:
            path.write_text(grid_page(source.stem, result, leaderboard.names, leaderboard.page_models()), encoding="utf-8")
        if recipe_file:
            best_recipe = Recipe.load(str(Path(best.adapters[0]) / "recipe.json")).but({"refit": recipe.refit})
            with atomic_write(folder / BEST_FILE) as path:
                path.write_text(best_recipe.model_dump_json(indent=2) + "\n", encoding="utf-8")
    on_result(result)
    if failed:
        reasons = "; ".join(f"{name} failed: {failure.why}" for name, failure in failed.items())
        raise _error_class(failed)(f"{reasons}; the others are done, and the same command tries again what failed.")
    return result


def _error_class(failed: Mapping[str, RunFailure]) -> type[CatcliError]:
    """A gate that was missed ends with its own exit code, where nothing else went wrong."""
    return GateMissed if all(failure.exit_code == GateMissed.exit_code for failure in failed.values()) else CatcliError
