"""``catcli compare``: bases, methods, balances and seeds on one split, side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from catcli.cli.app import app, examples
from catcli.cli.lifecycle import command
from catcli.cli.options import Flags, Json, Products, RecipeName
from catcli.cli.tune import next_line
from catcli.config import Recipe
from catcli.data.io.input_options import InputOptions
from catcli.training.grid import Grid

if TYPE_CHECKING:
    from catcli.cli.console import Console
    from catcli.evaluation.studies import GridResult

COMPARE_FLAGS = (
    *("label", "text", "group", "taxonomy", "corrections", "merge_labels", "per_category", "epochs", "split_seed", "teacher"),
    *("unlabeled", "device", "dtype"),
)


@app.command(
    epilog=examples(
        "catcli compare products.csv",
        "catcli compare products.csv --base distilroberta --base gpt2 --method lora --method full --seed 0 --seed 1",
    )
)
@command
def compare(
    products: Products,
    grid: Annotated[Grid, Flags(Grid)],
    given: Annotated[Mapping[str, object], Flags(Recipe, COMPARE_FLAGS, given=True)],
    options: Annotated[InputOptions, Flags(InputOptions)],
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", help="A folder for the adapters and the page; <name of the first file>.compared.", metavar="FOLDER"),
    ] = None,
    recipe: RecipeName = None,
    force: Annotated[bool, typer.Option("--force", help="Fit again what was fitted on other rows or with other settings.")] = False,
    as_json: Json = False,
    *,
    console: Console,
) -> None:
    """Bases and methods side by side on one split, in one table and page."""
    run_compare(
        products,
        recipe=Recipe.start(recipe, given, repeated={"base": grid.bases}),
        grid=grid,
        output=output,
        force=force,
        options=options,
        as_json=as_json,
        console=console,
    )


def run_compare(
    products: Sequence[str],
    *,
    recipe: Recipe,
    grid: Grid,
    output: Path | None = None,
    force: bool = False,
    options: InputOptions | None = None,
    as_json: bool = False,
    console: Console,
) -> GridResult:
    """Fit the grid and show its leaderboard; see `catcli.reporting.compare.compare`."""
    from catcli.reporting.compare import compare as fit_grid

    options = options or InputOptions()
    with console.progress() as advance:
        return fit_grid(
            products,
            recipe=recipe,
            grid=grid,
            output=output,
            force=force,
            options=options,
            strict=console.strict,
            advance=advance,
            on_result=lambda result: _show(result, products, options, as_json, console),
        )


def _show(result: GridResult, products: Sequence[str], options: InputOptions, as_json: bool, console: Console) -> None:
    from catcli.reporting import sentences, tables

    if as_json:
        console.print_json(result.model_dump_json())
        return
    console.print(tables.alone_table(result), tables.blend_table(result), tables.pair_table(result.comparisons))
    console.print(*(sentences.comparison(pair, None) for pair in sentences.lora_against_full(result)))
    console.print(f"lowest log loss on the validation rows: {result.best}", f"page:    {result.page}")
    if result.recipe:
        console.print(f"next:    {next_line(products, options, result.recipe)}")
