"""``catcli tune``: the recipe that suits a merchant's rows, searched for by cross-validation."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from catcli.atomic import atomic_write, read_small_file
from catcli.config import MAX_RECIPE_BYTES, Recipe
from catcli.data.dataset.prepare import fit_inputs, load_training_data
from catcli.data.io.input_options import InputOptions
from catcli.data.io.output import check_folder, write_errors
from catcli.errors import CatcliError, OutputError, UsageError
from catcli.evaluation.studies import TuneResult
from catcli.file_lock import file_lock
from catcli.logs import LOGGER, Advance, no_progress
from catcli.paths import hidden_path, resume_folder
from catcli.private_folder import delete_private_folder, persistent_folder
from catcli.training.search_options import SearchOptions


def tune(
    products: Sequence[str],
    *,
    recipe: Recipe,
    search: SearchOptions | None = None,
    output: Path | None = None,
    resume: bool = False,
    force: bool = False,
    options: InputOptions | None = None,
    advance: Advance = no_progress,
) -> TuneResult:
    """Search for the recipe with the best cross-validated score, beginning with ``recipe`` itself, and write it to ``output``.

    Trials are kept in an Optuna study beside it as soon as they end; a search that was killed goes on with ``resume``, by the trials that
    it would have made. The test rows are looked at once, when the search has ended: for the best recipe, and for the one it began with.

    Raises:
        CatcliError: something that the user can fix.
    """
    search, options = search or SearchOptions(), options or InputOptions()
    search.check()
    if resume and force:
        raise UsageError("--resume goes on with the search that --force would start again; leave out one.")
    if output is not None and not output.name:
        raise UsageError("-o: the name is empty; name a .json file.")
    _check_optuna()
    source = options.open(products)
    target = output or Path(f"{source.stem}.tuned.json")
    file, checkpoints = target.with_suffix(".study"), resume_folder(target)
    _check_place(target, file, resume, force)
    if resume and not file.exists():
        LOGGER.info("there is nothing to resume; the search starts from the beginning.")
    if recipe.time_budget is not None:
        LOGGER.warning("the recipe's time budget is left out: a trial that it cuts short would be of another recipe.")
        recipe = recipe.without("time_budget")
    recipe = recipe.but({"folds": 0})  # trials have folds of their own, and the best one is scored on rows that none has seen
    data = load_training_data(source, recipe)
    with write_errors(str(file), "-o"), file_lock(hidden_path(target, "lock")) as alone:
        if not alone:
            raise OutputError(f"-o {target} is being searched for by another run; wait for it, or choose another file.")
        if force:
            file.unlink(missing_ok=True)
            delete_private_folder(checkpoints)
        # Optuna, torch and scikit-learn take seconds to import: only once the rows are known to be good.
        from catcli.models.device import translate_device_errors
        from catcli.training.search import Search, open_study, translate_study_errors

        study = open_study(file, data, search, fit_inputs(recipe, options))
        with translate_study_errors(file), persistent_folder(checkpoints):
            running = Search(study, data, search, checkpoints, advance)
            with translate_device_errors("The trials that are done are kept: the same command with --resume goes on."):
                best = running.run()
                result = running.result(best, target)
        with atomic_write(target) as path:
            path.write_text(best.without("folds").model_dump_json(indent=2) + "\n", encoding="utf-8")
        delete_private_folder(checkpoints)
    return result


def _check_optuna() -> None:
    try:
        import optuna
    except ImportError as error:
        raise CatcliError("catcli tune takes one package more: pip install 'catcli[tune]'.") from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)


def _check_place(target: Path, file: Path, resume: bool, force: bool) -> None:
    if target.suffix != ".json":
        raise UsageError(f"-o {target}: name a .json file; it gets the best recipe.")
    check_folder(target)
    above = target.absolute().parent
    if not os.access(above, os.W_OK | os.X_OK):
        raise OutputError(f"-o {target}: {above} cannot be written; choose another place.")
    if force:
        _check_ours(target, file)
    elif file.exists() and not resume:
        raise OutputError(f"{file} exists; pass --resume to go on with that search, --force to start again, or -o for another file.")
    elif target.exists() and not file.exists():
        raise OutputError(f"{target} exists, and no search that it comes from; pass --force to replace it, or -o for another file.")


def _check_ours(target: Path, file: Path) -> None:
    """What --force would replace has to be of a search: anything else would be lost."""
    if target.exists():
        try:
            Recipe.model_validate_json(read_small_file(target, MAX_RECIPE_BYTES))
        except (OSError, ValueError) as error:
            raise OutputError(f"{target} is not a recipe, so --force does not replace it; choose another file with -o.") from error
    if file.exists() and not (file.is_file() and _begins_as_database(file)):
        raise OutputError(f"{file} is not a study of catcli tune, so --force does not replace it; choose another file with -o.")


def _begins_as_database(file: Path) -> bool:
    with file.open("rb") as opened:
        return opened.read(16).startswith(b"SQLite format 3")
