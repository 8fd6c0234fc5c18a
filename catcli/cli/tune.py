"""``catcli tune``: the recipe that suits a merchant's rows, found by cross-validation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from catcli.cli.app import app, examples
from catcli.cli.lifecycle import command
from catcli.cli.options import Flags, Json, Products, RecipeName
from catcli.config import Recipe
from catcli.data.io.input_options import InputOptions
from catcli.training.search_options import SearchOptions

if TYPE_CHECKING:
    from catcli.cli.console import Console
    from catcli.evaluation.studies import TuneResult

TUNE_FLAGS = (
    *("label", "text", "group", "taxonomy", "corrections", "base", "method", "balance", "merge_labels", "per_category"),
    *("split_seed", "seed", "teacher", "unlabeled", "device", "dtype"),
)


@app.command(
    epilog=examples(
        "catcli tune products.csv",
        "catcli tune products.csv --trials 40 --resume",
        "catcli tune products.csv --recipe distilroberta-lora --metric macro_f1 && catcli fit products.csv --recipe products.tuned.json",
    )
)
@command
def tune(
    products: Products,
    search: Annotated[SearchOptions, Flags(SearchOptions)],
    given: Annotated[Mapping[str, object], Flags(Recipe, TUNE_FLAGS, given=True)],
    options: Annotated[InputOptions, Flags(InputOptions)],
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", help="A .json file for the best recipe; <name of the first file>.tuned.json.", metavar="FILE"),
    ] = None,
    recipe: RecipeName = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with a search: one that was killed, or with more --trials.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace the recipe and the search that exist.")] = False,
    as_json: Json = False,
    *,
    console: Console,
) -> None:
    """Search learning rate, batch size, weight decay, rank, alpha, dropout and epochs by cross-validation; writes the best recipe."""
    run_tune(
        products,
        recipe=Recipe.start(recipe, given),
        search=search,
        output=output,
        resume=resume,
        force=force,
        options=options,
        as_json=as_json,
        console=console,
    )


def run_tune(
    products: Sequence[str],
    *,
    recipe: Recipe,
    search: SearchOptions,
    output: Path | None = None,
    resume: bool = False,
    force: bool = False,
    options: InputOptions | None = None,
    as_json: bool = False,
    console: Console,
) -> TuneResult:
    """Search, and show the trials; see `catcli.training.tune.tune`."""
    from catcli.training.tune import tune as search_recipe

    options = options or InputOptions()
    with console.progress() as advance:
        result = search_recipe(
            products, recipe=recipe, search=search, output=output, resume=resume, force=force, options=options, advance=advance
        )
    _show(result, products, options, as_json, console)
    return result


def _show(result: TuneResult, products: Sequence[str], options: InputOptions, as_json: bool, console: Console) -> None:
    from catcli.reporting import sentences, tables

    if as_json:
        console.print_json(result.model_dump_json())
        return
    console.print(tables.trial_table(result))
    if result.importances:
        console.print(tables.importance_table(result.importances))
    if result.test is not None:
        models = {"tuned": result.test} | ({"first": result.first} if result.first else {})
        console.print(tables.adapter_table(models, f"On {result.test_rows:,} test rows, 95 % intervals"))
    if result.against_first:
        console.print(sentences.comparison(result.against_first, None))
    elif result.best == 1:
        console.print("The recipe that the search began with is the best.")
    console.print(f"recipe:  {result.recipe} (the trials: {Path(result.recipe).with_suffix('.study')})")
    console.print(f"next:    {next_line(products, options, result.recipe)}")


def next_line(products: Sequence[str], options: InputOptions, recipe: str) -> str:
    """What to type to fit with a recipe that was written to a file."""
    import shlex

    return f"{options.line('fit', products)} {shlex.join(Recipe.load(recipe).flags(recipe))}"
