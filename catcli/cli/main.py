"""The entry point: every command registered, its errors and signals turned into exit codes."""

from __future__ import annotations

import io
import sys
from importlib import import_module

import typer

from catcli.cli.app import app
from catcli.cli.lifecycle import end_for_wrong_usage, plain_tracebacks, wants_json_log

__all__ = ("COMMANDS", "app", "main")

COMMANDS = (
    *("fit", "predict", "report", "tune", "compare", "diff", "audit", "migrate"),
    *("bench", "demo", "clean", "doctor", "recipes", "adapters"),
)
"""The modules with the commands, in the order of the help; to import one registers it."""

for name in COMMANDS:
    import_module(f"catcli.cli.{name}")


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
