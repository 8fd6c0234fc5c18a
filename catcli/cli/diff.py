"""``catcli diff``: which rows of a catalog would change category if another adapter took over."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from catcli.cli.app import app, examples
from catcli.cli.lifecycle import command
from catcli.cli.options import Catalog, Flags, Json
from catcli.inference.diff_options import DiffOptions

if TYPE_CHECKING:
    from catcli.cli.console import Console
    from catcli.evaluation.studies import CatalogDiff


@app.command(epilog=examples("catcli diff adapters/old adapters/new catalog.parquet --weight revenue --max-churn 0.02 -o changed.csv"))
@command
def diff(
    before: Annotated[str, typer.Argument(metavar="OLD", help="The adapter in use: a folder, or a name in the store.")],
    after: Annotated[str, typer.Argument(metavar="NEW", help="The adapter to take its place.")],
    catalog: Catalog,
    options: Annotated[DiffOptions, Flags(DiffOptions)],
    as_json: Json = False,
    *,
    console: Console,
) -> None:
    """Which rows would change category between two adapters; exit code 3 past a limit."""
    run_diff(before, after, catalog, options, as_json=as_json, console=console)


def run_diff(
    before: str, after: str, catalog: Sequence[str], options: DiffOptions, *, as_json: bool = False, console: Console
) -> CatalogDiff:
    """Compare two adapters on a catalog and show what changes; see `catcli.inference.diff.diff`."""
    from catcli.inference.diff import diff as diff_adapters

    with console.progress() as advance:
        return diff_adapters(
            before, after, catalog, options, advance=advance, on_result=lambda result: _show(result, options, as_json, console)
        )


def _show(result: CatalogDiff, options: DiffOptions, as_json: bool, console: Console) -> None:
    from catcli.reporting import sentences, tables

    if as_json:
        console.print_json(result.model_dump_json())
        return
    if result.flows:
        console.print(tables.change_table(result), tables.turnover_table(result))
    console.print(sentences.diff_summary(result))
    if options.output:
        console.print(f"these rows: {options.output}")
