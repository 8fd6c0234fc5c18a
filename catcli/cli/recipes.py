"""``catcli recipes``: the recipes that come with catcli."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from catcli.cli.app import app, examples
from catcli.cli.lifecycle import command
from catcli.cli.options import Json

if TYPE_CHECKING:
    from catcli.cli.console import Console


@app.command(epilog=examples("catcli recipes", "catcli recipes gpt2-lora > mine.json && catcli fit products.csv --recipe mine.json"))
@command
def recipes(
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="Print this one, as a file that --recipe takes.")] = None,
    as_json: Json = False,
    *,
    console: Console,
) -> None:
    """The recipes that come with catcli, for 'fit --recipe NAME': the study's models and settings."""
    from catcli.cli.run.recipes import recipes as run

    run(name, as_json=as_json, console=console)
