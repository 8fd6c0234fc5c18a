"""``catcli report``: how good an adapter is."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from catcli.cli.app import app, examples
from catcli.cli.lifecycle import command
from catcli.cli.options import Flags, Json
from catcli.reporting.report_options import ReportOptions

if TYPE_CHECKING:
    from catcli.cli.console import Console


@app.command(
    epilog=examples(
        "catcli report",
        "catcli report adapters/shop --html report.html --require macro_f1=0.9",
        "catcli report adapters/shop --on checked.csv",
        "catcli report adapters/old adapters/new",
        "catcli report --json | python -m json.tool",
    )
)
@command
def report(
    options: Annotated[ReportOptions, Flags(ReportOptions)],
    adapter: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[ADAPTER]...", help="A folder, or a name in the store; the newest there by default. Several: side by side."
        ),
    ] = None,
    as_json: Json = False,
    json_schema: Annotated[bool, typer.Option("--json-schema", help="Print the JSON schema of --json, and end.")] = False,
    *,
    console: Console,
) -> None:
    """How good an adapter is on rows it was not trained on: scores with intervals, thresholds and confusions."""
    (print_schema if json_schema else run_report)(adapter or (), options, as_json=as_json, console=console)


def run_report(names: Sequence[str] = (), options: ReportOptions | None = None, *, as_json: bool = False, console: Console) -> object:
    """Show the report; see `catcli.reporting.report.report`."""
    from rich.console import Group

    from catcli.reporting.report import Report, report_tables
    from catcli.reporting.report import report as make_report

    def show(result: Report) -> None:
        if as_json:
            console.print_json(result.model_dump_json())
        else:
            console.print(Group(*report_tables(result)))

    return make_report(names, options, on_result=show)


def print_schema(*_: object, console: Console, **__: object) -> None:
    """Print what every name of ``--json`` means, as JSON Schema."""
    from pydantic import TypeAdapter

    from catcli.reporting.report import Report

    console.print_json(json.dumps(TypeAdapter(Report).json_schema(mode="serialization"), indent=2))
