"""``catcli clean``: what stopped runs left."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from catcli.cli.app import app, examples
from catcli.cli.lifecycle import command
from catcli.cli.options import Json

if TYPE_CHECKING:
    from catcli.cli.console import Console


@app.command(epilog=examples("catcli clean", "catcli clean exports/ --yes"))
@command
def clean(
    folder: Annotated[
        Path | None, typer.Argument(metavar="[FOLDER]", help="Where runs were stopped; the working folder and the store by default.")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Remove what is listed and not in use.")] = False,
    as_json: Json = False,
    *,
    console: Console,
) -> None:
    """List kept parts and checkpoints of stopped runs; with --yes, remove them."""
    from catcli.cli.run.clean import clean as run

    run(folder, yes=yes, as_json=as_json, console=console)
