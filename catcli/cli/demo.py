"""``catcli demo``: fit, predict and report on a small catalog that ships with catcli."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from catcli.cli.app import app, examples
from catcli.cli.lifecycle import command

if TYPE_CHECKING:
    from catcli.cli.console import Console


@app.command(epilog=examples("catcli demo && catcli report catcli-demo/adapters/products"))
@command
def demo(
    folder: Annotated[Path, typer.Argument(metavar="[FOLDER]", help="A new folder for its files.")] = Path("catcli-demo"),
    *,
    console: Console,
) -> None:
    """Fit, predict and report on a small made-up catalog that ships with catcli. Takes a minute or two."""
    from catcli.cli.run.demo import demo as run

    run(folder, console=console)
