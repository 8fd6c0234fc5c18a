"""The command ``catcli``: what its subcommands are registered with."""

from __future__ import annotations

from typing import Annotated

import typer

from catcli import __version__

app = typer.Typer(
    name="catcli",
    help="Label products with LoRA adapters: fit on labeled rows, predict a catalog of any size, report how good it is.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
)
store = typer.Typer(
    name="adapters", help="The adapters of the store: ./adapters, or the folder that CATCLI_ADAPTERS names.", no_args_is_help=True
)
app.add_typer(store)


def examples(*lines: str) -> str:
    """The examples below the help of a command, each on a line of its own."""
    return "\n\n".join(["Examples:" if len(lines) > 1 else "Example:", *(f"  {line}" for line in lines)])


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"catcli {__version__}")
        raise typer.Exit


@app.callback(epilog="More on a topic: the pages in catcli/docs, which 'catcli doctor' gives the path of.")
def root(
    version: Annotated[bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")] = False,
) -> None:
    """Label products with LoRA adapters: fit on labeled rows, predict a catalog of any size, report how good it is."""
