"""``catcli audit``: labels that are probably wrong."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from catcli.cli.app import app, examples
from catcli.cli.lifecycle import command
from catcli.cli.options import Flags, Json
from catcli.reporting.audit_options import AuditOptions

if TYPE_CHECKING:
    from catcli.cli.console import Console
    from catcli.evaluation.studies import Audit


@app.command(
    epilog=examples(
        "catcli audit products.csv -o suspects.xlsx",
        "catcli audit products.csv --adapter adapters/shop",
        "catcli fit products.csv --corrections suspects.xlsx",
    )
)
@command
def audit(
    options: Annotated[AuditOptions, Flags(AuditOptions)],
    products: Annotated[
        list[str] | None, typer.Argument(metavar="[PRODUCTS]...", help="Labeled rows; with --adapter those that it kept by default.")
    ] = None,
    as_json: Json = False,
    *,
    console: Console,
) -> None:
    """Labeled rows whose category is probably wrong, the likeliest first, and a file to correct them in."""
    from catcli.reporting.audit import audit as find_suspects

    find_suspects(products or (), options, lambda result: _show(result, as_json, console))


def _show(result: Audit, as_json: bool, console: Console) -> None:
    from catcli.reporting import sentences, tables

    if as_json:
        console.print_json(result.model_dump_json())
        return
    for table in tables.audit_tables(result):
        console.print(table)
    console.print(sentences.audit(result))
    if result.output:
        console.print(f"the rows in doubt: {result.output}")
        console.info("next:    fill in its column category, then fit --corrections with it")
