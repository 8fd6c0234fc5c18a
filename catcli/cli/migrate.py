"""``catcli migrate``: labels of an old taxonomy → categories of a new one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from catcli.cli.app import app, examples
from catcli.cli.lifecycle import command
from catcli.cli.options import Flags, Json
from catcli.inference.migrate_options import MigrateOptions

if TYPE_CHECKING:
    from catcli.cli.console import Console
    from catcli.evaluation.studies import Migration


@app.command(
    epilog=examples(
        "catcli migrate products.csv --taxonomy new.txt -o mapping.csv",
        "catcli migrate products.csv --taxonomy new.txt --apply mapping.csv -o migrated.csv",
    )
)
@command
def migrate(
    labeled: Annotated[list[str], typer.Argument(metavar="LABELED...", help="Rows with their old categories.")],
    options: Annotated[MigrateOptions, Flags(MigrateOptions)],
    as_json: Json = False,
    *,
    console: Console,
) -> None:
    """Old categories → those of a new taxonomy: a mapping to confirm, then the rows with their new ones."""
    from catcli.inference.migration import migrate as suggest_or_apply

    with console.progress() as advance:
        suggest_or_apply(labeled, options, lambda result: _show(result, options, as_json, console), advance)


def _show(result: Migration, options: MigrateOptions, as_json: bool, console: Console) -> None:
    from catcli.reporting import sentences, tables

    if as_json:
        console.print_json(result.model_dump_json())
        return
    if any(entry.old != entry.new for entry in result.suggestions):
        console.print(tables.migration_table(result))
    console.print(sentences.migration(result))
    if options.output:
        console.print(f"{'the rows' if result.applied else 'the mapping'}: {options.output}")
        if not result.applied:
            console.info("next:    confirm or correct its column 'new', then the same command with --apply")
