"""``catcli adapters``: the store."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from catcli.cli.app import examples, store
from catcli.cli.lifecycle import command
from catcli.cli.options import AdapterName, Json, TrustedKey

if TYPE_CHECKING:
    from catcli.cli.console import Console


@store.command("list", epilog=examples("catcli adapters list"))
@command
def list_adapters(as_json: Json = False, *, console: Console) -> None:
    """The adapters of the store, by name."""
    from catcli.cli.run.adapters import list_adapters as run

    run(as_json=as_json, console=console)


@store.command("show", epilog=examples("catcli adapters show products"))
@command
def show_adapter(name: AdapterName, as_json: Json = False, *, console: Console) -> None:
    """What an adapter is made of; every file is checked against its SHA-256."""
    from catcli.cli.run.adapters import show_adapter as run

    run(name, as_json=as_json, console=console)


@store.command("export", epilog=examples("catcli adapters export products -o to-mail/products --without-rows"))
@command
def export_adapter(
    name: AdapterName,
    output: Annotated[Path, typer.Option("-o", "--output", help="The copy's folder.", metavar="FOLDER")],
    without_rows: Annotated[
        bool,
        typer.Option("--without-rows", help="Leave no text of a product in the copy: its held-out rows keep only logits and categories."),
    ] = False,
    sign: Annotated[Path | None, typer.Option(help="Sign the copy with this private key (ed25519, PEM or OpenSSH).", metavar="KEY")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the adapter that exists.")] = False,
    *,
    console: Console,
) -> None:
    """Copy an adapter to hand it on, every file checked on the way."""
    from catcli.cli.run.adapters import export_adapter as run

    run(name, output, without_rows=without_rows, key=sign, force=force, console=console)


@store.command("verify", epilog=examples("catcli adapters verify from-mail/products --trusted-key shop.pub"))
@command
def verify_adapter(name: AdapterName, trusted_key: TrustedKey = None, as_json: Json = False, *, console: Console) -> None:
    """Check all of an adapter: every SHA-256, its models in a process with limits, its scores, and who signed it."""
    from catcli.cli.run.adapters import verify_adapter as run

    run(name, trusted_key=tuple(trusted_key or ()), as_json=as_json, console=console)


@store.command("remove", epilog=examples("catcli adapters remove products"))
@command
def remove_adapter(name: Annotated[str, typer.Argument(metavar="ADAPTER", help="A name in the store.")], *, console: Console) -> None:
    """Delete an adapter of the store."""
    from catcli.cli.run.adapters import remove_adapter as run

    run(name, console=console)
