"""``catcli doctor``: what this machine has."""

from __future__ import annotations

from typing import TYPE_CHECKING

from catcli.cli.app import app, examples
from catcli.cli.lifecycle import command
from catcli.cli.options import Json

if TYPE_CHECKING:
    from catcli.cli.console import Console


@app.command(epilog=examples("catcli doctor"))
@command
def doctor(as_json: Json = False, *, console: Console) -> None:
    """What this machine has: processor, GPU, the embedded model, versions."""
    from catcli.cli.run.doctor import doctor as run

    run(as_json=as_json, console=console)
