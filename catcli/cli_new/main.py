"""The entry point: every command registered, its errors and signals turned into exit codes."""

from __future__ import annotations

import io
import sys

import typer
from catcli.cli.app import app
from catcli.cli.lifecycle import end_for_wrong_usage, plain_tracebacks, wants_json_log

# Importing a command's module registers it, in the order of the help.
from catcli.cli import (  # noqa: F401
    adapters,  # isort: skip
    bench,  # isort: skip
    clean,  # isort: skip
    compare,  # isort: skip
    demo,  # isort: skip
    diff,  # isort: skip
    doctor,  # isort: skip
    fit,  # isort: skip
    predict,  # isort: skip
    recipes,  # isort: skip
    report,  # isort: skip
    tune,  # isort: skip
)


def main() -> None:
    """The command ``catcli``."""
    plain_tracebacks()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal without UTF-8 shows ? for what it cannot draw
    try:
        sys.exit(app(standalone_mode=False, prog_name="catcli"))
    except typer.TyperException as error:
        end_for_wrong_usage(error, json_log=wants_json_log(sys.argv[1:]))
