"""``catcli bench``: rows a second on this machine."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from catcli.cli.app import app, examples
from catcli.cli.lifecycle import command
from catcli.cli.options import DeviceName, Json, VariantName

if TYPE_CHECKING:
    from catcli.cli.console import Console


@app.command(epilog=examples("catcli bench", "catcli bench catalog.parquet --rows 20000 --against transformers"))
@command
def bench(
    catalog: Annotated[
        list[str] | None, typer.Argument(metavar="[CATALOG]...", help="Rows to measure with; the adapter's held-out rows by default.")
    ] = None,
    adapter: Annotated[
        str | None, typer.Option(help="A folder, or a name in the store; the only one there by default.", metavar="FOLDER")
    ] = None,
    rows: Annotated[int, typer.Option(min=1, help="How many rows.")] = 4096,
    repeats: Annotated[int, typer.Option(min=1, help="How often each stage is timed, after once to warm up.")] = 5,
    against: Annotated[
        str | None, typer.Option(help="transformers: its text-classification pipeline over the same base, in the same run.", metavar="PEER")
    ] = None,
    device: DeviceName = "auto",
    variant: VariantName = "auto",
    as_json: Json = False,
    *,
    console: Console,
) -> None:
    """Rows a second on this machine: reading, tokenizing, the two models, writing, and all of it from file to file."""
    from catcli.cli.run.bench import bench as run

    run(
        catalog or (),
        adapter=adapter,
        rows=rows,
        repeats=repeats,
        against=against,
        device=device,
        variant=variant,
        as_json=as_json,
        console=console,
    )
