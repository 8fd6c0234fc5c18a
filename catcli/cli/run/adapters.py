"""``catcli adapters``: what is in the store."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from rich.text import Text

from catcli.adapter.folder import Adapter, load_adapter
from catcli.adapter.manifest import MANIFEST
from catcli.adapter.seal import SEAL_FILE, is_sealed
from catcli.adapter.signing import SIGNATURE_FILE, check_signature
from catcli.adapter.store import adapter_folders, find_adapter
from catcli.atomic import delete_folder
from catcli.cli.console import Console
from catcli.errors import AdapterError, CatcliError, OutputError
from catcli.evaluation.fit_metrics import FitMetrics
from catcli.evaluation.heldout import HeldOutRows
from catcli.inference.adapter_copy import copy_adapter
from catcli.inference.sandbox import check_adapter
from catcli.logs import LOGGER
from catcli.paths import store_folder
from catcli.reporting import tables


def list_adapters(*, as_json: bool = False, console: Console) -> list[Adapter]:
    """Every adapter of the store by name; a damaged one is named as such."""
    listing = tables.table(f"Adapters in {store_folder()}", "name", "categories", "accuracy", "macro F1", "made")
    adapters: list[Adapter] = []
    facts: list[dict[str, str | float]] = []
    for folder in adapter_folders():
        try:
            adapter = load_adapter(folder)
            metrics = FitMetrics.of(adapter)
        except CatcliError as error:
            facts.append({"name": folder.name, "error": str(error)})
            LOGGER.warning(str(error))
            continue
        adapters.append(adapter)
        LOGGER.debug(f"{adapter.name}: {adapter.folder.resolve()}")
        numbers = (metrics.blend.accuracy.value, metrics.blend.macro_f1.value)
        facts.append({"name": adapter.name, "categories": len(adapter.manifest.categories), "accuracy": numbers[0], "macro_f1": numbers[1]})
        cells = (f"{len(adapter.manifest.categories):,}", *map(tables.three_digits, numbers), f"{adapter.manifest.created:%Y-%m-%d %H:%M}")
        listing.add_row(Text(tables.shortened(adapter.name)), *cells)
    if as_json:
        console.print_json(json.dumps(facts))
    elif adapters:
        console.print(listing)
    elif not facts:
        console.info(f"{store_folder()} holds no adapter; 'catcli fit products.csv' makes one.")
    return adapters


def show_adapter(name: str, *, as_json: bool = False, console: Console) -> Adapter:
    """What one adapter is made of, with every file checked against its SHA-256."""
    adapter = find_adapter(name)
    size = adapter.verify()
    manifest = adapter.manifest
    if as_json:
        console.print_json(json.dumps({"folder": str(adapter.folder), "bytes": size, **manifest.model_dump(mode="json")}))
        return adapter
    facts = {
        "folder": str(adapter.folder),
        "made": f"{manifest.created:%Y-%m-%d %H:%M} UTC by catcli {manifest.versions.get('catcli', '')}",
        "base": f"{manifest.base.hub}, {manifest.method}",
        "label": manifest.label,
        "text": ", ".join(manifest.text),
        "categories": f"{len(manifest.categories):,}",
        "serves": ", ".join(manifest.variants),
        "files": f"{len(manifest.files)}, {size / 2**20:.0f} MiB, every SHA-256 as written",
    }
    console.print(tables.fact_table(adapter.name, facts))
    for file, digest in manifest.files.items():
        LOGGER.debug(f"{digest}  {file}")
    return adapter


def verify_adapter(name: str, *, trusted_key: Sequence[str] = (), as_json: bool = False, console: Console) -> Adapter:
    """Look at every file of an adapter: hashes, signature, scores and held-out rows, and its models in a child process.

    Raises:
        AdapterError: something of it is not as catcli would have made it, or none of the keys in ``trusted_key`` signed it.
        UsageError: a key cannot be read.
    """
    adapter = find_adapter(name)
    signer = check_signature(adapter, trusted_key)
    size, manifest = adapter.verify(), adapter.manifest
    for extra in sorted(path.name for path in adapter.folder.iterdir() if path.name not in {*manifest.files, MANIFEST, *OWN}):
        LOGGER.warning(f"{adapter.folder} holds {extra!r}, which is none of its files and is not read.")
    FitMetrics.of(adapter)
    HeldOutRows.load(adapter.file("heldout.parquet"), manifest.categories)
    for variant in manifest.variants:
        check_adapter(adapter, variant)
    facts: dict[str, object] = {
        "folder": str(adapter.folder),
        "sha256": adapter.fingerprint,
        "files": len(manifest.files),
        "bytes": size,
        "variants": list(manifest.variants),
        "fitted_here": is_sealed(adapter),
        "signed": (adapter.folder / SIGNATURE_FILE).exists(),
        "trusted_key": signer,
    }
    if as_json:
        console.print_json(json.dumps(facts))
        return adapter
    signed = f"signed by {signer}" if signer else "signed; --trusted-key KEY says by whom" if facts["signed"] else "not signed"
    origin = (
        "fitted here and not touched since" if facts["fitted_here"] else f"tested in the sandbox process: {', '.join(manifest.variants)}"
    )
    console.print(f"{adapter.folder}: {len(manifest.files)} files, {size / 2**20:.1f} MiB, every SHA-256 as written")
    console.print(f"{origin}; {signed}")
    return adapter


OWN = (SEAL_FILE, SIGNATURE_FILE)
"""Files of an adapter that its manifest does not name."""


def remove_adapter(name: str, *, console: Console) -> None:
    """Delete an adapter of the store.

    Raises:
        AdapterError: there is none of that name.
        OutputError: the folder cannot be deleted.
    """
    folder = store_folder() / name
    if folder.is_symlink():
        raise AdapterError(f"{folder} is a link to {folder.resolve()}; remove the link by hand.")
    if folder.parent.resolve() != store_folder().resolve() or not (folder / MANIFEST).is_file():
        find_adapter(name)  # says what there is, where there is no such adapter
        raise AdapterError(f"{name!r} is not in {store_folder()}; delete a folder elsewhere by hand.")
    LOGGER.debug(f"removing {folder.resolve()}")
    try:
        delete_folder(folder)
    except OSError as error:
        raise OutputError(f"{folder} cannot be deleted: {error.strerror or error}.") from error
    console.info(f"removed {folder}")


def export_adapter(
    name: str, output: Path, *, without_rows: bool = False, key: Path | None = None, force: bool = False, console: Console
) -> Adapter:
    """Copy an adapter; see `catcli.inference.adapter_copy.copy_adapter`."""
    adapter = copy_adapter(name, output, without_rows=without_rows, key=key, force=force)
    console.info(f"written: {output}" + (", without the texts of its rows" if without_rows else "") + (", signed" if key else ""))
    return adapter
